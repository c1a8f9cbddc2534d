// Forward, family "channels": lanes along the channels of channels_last tensors.

namespace {

template <int>
struct Count {};

inline constexpr int64_t kListedTaps = int64_t{1} << 20; // taps of a window at the most

// The taps of a window that lie within the input.
template <class T>
struct TapList {
  const T** from; // pixel
  int64_t* tap;

  static int64_t most(const Shape& shape) {
    const auto within = [](const Axis& axis) { return axis.kernel < axis.input ? axis.kernel : axis.input; };
    const int64_t area = within(shape.h) < kListedTaps && within(shape.w) < kListedTaps
        ? within(shape.h) * within(shape.w)
        : kListedTaps;
    return area < kListedTaps && within(shape.d) < kListedTaps ? area * within(shape.d) : kListedTaps;
  }
};

// kVectors vectors of channels of one pixel of the output, from `count` taps. Channels of tap t begin at from[t] + shift.
template <class L, bool kIndexed, class Offset, int kVectors>
TORCH_MAXPOOL_INLINE void pool_channels(
    const TapList<typename L::Element>& list,
    int64_t count,
    int64_t shift,
    typename L::Element* values,
    Offset* offsets,
    typename L::Mask& strange) {
  constexpr int kLanes = L::kLanes;
  Champions<L, kIndexed> best[kVectors];
  const auto note = [&](const typename L::V(&v)[kVectors]) __attribute__((always_inline)) {
    for (int u = 0; u < kVectors; u += 2) {
      L::note(strange, v[u], v[u + 1 < kVectors ? u + 1 : u]);
    }
  };
  const auto load = [&](int64_t t, typename L::V(&v)[kVectors]) __attribute__((always_inline)) {
    for (int u = 0; u < kVectors; ++u) {
      v[u] = L::load(list.from[t] + shift + u * kLanes);
    }
    note(v);
  };
  typename L::V v[kVectors];
  load(0, v);
  for (int u = 0; u < kVectors; ++u) {
    best[u] = {v[u], splat_index<L>(list.tap[0])};
  }
  for (int64_t t = 1; t < count; ++t) {
    const typename L::IV number = splat_index<L>(list.tap[t]);
    load(t, v);
    for (int u = 0; u < kVectors; ++u) {
      best[u].meet(v[u], number);
    }
  }
  for (int u = 0; u < kVectors; ++u) {
    L::store(values + u * kLanes, best[u].value);
    if constexpr (kIndexed) {
      store_offsets<L>(offsets + u * kLanes, best[u].index);
    }
  }
}

// One row of the output, all channels; false where it depends on strange lanes.
template <class L, bool kIndexed, class Offset>
inline bool channels_row(
    const ForwardParams& p,
    const TapList<typename L::Element>& list,
    int64_t n,
    int64_t d,
    int64_t h) {
  typedef typename L::Element T;
  constexpr int kLanes = L::kLanes;
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const Strides& out = p.output_strides;
  const Taps td = taps_of(shape.d, d);
  const Taps th = taps_of(shape.h, h);
  const Interior inner = interior_of(shape.w);
  const T* const image = static_cast<const T*>(p.input) + n * in.n;
  const int64_t out_row = n * out.n + d * out.d + h * out.h;
  const int64_t channels = shape.channels;
  typename L::Mask strange = {};
  int64_t count = 0;
  int64_t listed = 0; // the pixel of the output whose taps are listed
  for (int64_t o = 0; o < shape.w.output; ++o) {
    if (o <= inner.begin || o >= inner.end) { // taps of pixels between lie as the first one's
      const Taps tw = taps_of(shape.w, o);
      listed = o;
      count = 0;
      for (int64_t a = td.first; a < td.last; ++a) {
        for (int64_t b = th.first; b < th.last; ++b) {
          for (int64_t e = tw.first; e < tw.last; ++e) {
            list.from[count] = image + (td.start + a * shape.d.dilation) * in.d +
                (th.start + b * shape.h.dilation) * in.h + (tw.start + e * shape.w.dilation) * in.w;
            list.tap[count] = (a * shape.h.kernel + b) * shape.w.kernel + e;
            ++count;
          }
        }
      }
    }
    const int64_t shift = (o - listed) * shape.w.stride * in.w;
    T* const values = static_cast<T*>(p.output) + out_row + o * out.w;
    Offset* const offsets = static_cast<Offset*>(p.offsets) + out_row + o * out.w;
    typename L::Mask noted = {};
    int64_t c = 0;
    for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
      pool_channels<L, kIndexed, Offset, 4>(list, count, shift + c, values + c, offsets + c, noted);
    }
    while (c < channels) {
      c = c + kLanes <= channels ? c : channels - kLanes; // the last vector overlaps the one before
      pool_channels<L, kIndexed, Offset, 1>(list, count, shift + c, values + c, offsets + c, noted);
      c += kLanes;
    }
    strange = noted > strange ? noted : strange;
  }
  return !L::is_strange(strange, p);
}

// Units: rows of the output, all channels (batch x depth x height).
template <class T, bool kIndexed, class Offset>
void forward_channels(const ForwardParams& p, const ForwardPlan&, void* scratch, int64_t begin, int64_t end) {
  typedef Lanes<T> L;
  const Shape& shape = p.shape;
  const int64_t most = TapList<T>::most(shape);
  const TapList<T> list = {static_cast<const T**>(scratch), static_cast<int64_t*>(scratch) + most};
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t h = unit % shape.h.output;
    const int64_t d = unit / shape.h.output % shape.d.output;
    const int64_t n = unit / shape.h.output / shape.d.output;
    if (channels_row<L, kIndexed, Offset>(p, list, n, d, h)) {
      continue;
    }
    if constexpr (kHasExact<L>) {
      channels_row<typename L::Exact, kIndexed, Offset>(p, list, n, d, h);
    } else {
      for (int64_t c = 0; c < shape.channels; ++c) {
        forward_row<T>(p, {n, c, d, h}, 0, shape.w.output);
      }
    }
  }
}

// Fills `plan` where the family fits.
template <class T>
inline bool plan_channels(const ForwardParams& p, ForwardPlan& plan) {
  const Shape& shape = p.shape;
  typedef Lanes<T> L;
  if (TapList<T>::most(shape) >= kListedTaps || p.input_strides.c != 1 || p.output_strides.c != 1 ||
      shape.channels < L::kLanes || (p.wide_offsets && p.offsets && sizeof(typename L::Index) == 1)) {
    return false;
  }
  plan = {};
  plan.family = "channels";
  if (p.offsets == nullptr) {
    plan.run = forward_channels<T, false, uint8_t>;
  } else {
    plan.run = p.wide_offsets ? forward_channels<T, true, int32_t> : forward_channels<T, true, uint8_t>;
  }
  plan.units = shape.batch * shape.d.output * shape.h.output;
  plan.scratch_bytes = TapList<T>::most(shape) * 2 * static_cast<int64_t>(sizeof(int64_t));
  return true;
}

} // namespace
