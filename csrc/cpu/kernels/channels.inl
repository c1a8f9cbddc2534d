// Forward, family "channels": lanes along the channels of channels_last tensors.

namespace {

template <int>
struct Count {};

// One row of the output, all channels; false where it depends on strange lanes.
template <class L, bool kIndexed, class Offset>
inline bool channels_row(const ForwardParams& p, int64_t n, int64_t d, int64_t h) {
  typedef typename L::Element T;
  constexpr int kLanes = L::kLanes;
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const Strides& out = p.output_strides;
  const Taps td = taps_of(shape.d, d);
  const Taps th = taps_of(shape.h, h);
  const int64_t step_d = shape.d.dilation * in.d;
  const int64_t step_h = shape.h.dilation * in.h;
  const int64_t step_w = shape.w.dilation * in.w;
  typename L::Mask strange = {};
  for (int64_t o = 0; o < shape.w.output; ++o) {
    const Taps tw = taps_of(shape.w, o);
    const T* pixel = static_cast<const T*>(p.input) + n * in.n + td.start * in.d + th.start * in.h + tw.start * in.w;
    const int64_t to = n * out.n + d * out.d + h * out.h + o * out.w;
    T* values = static_cast<T*>(p.output) + to;
    Offset* offsets = static_cast<Offset*>(p.offsets) + to;
    // kVectors vectors of channels from channel c on, over all taps.
    const auto pool = [&]<int kVectors>(int64_t c, Count<kVectors>) {
      // The first tap seeds the champions; meeting it again changes nothing.
      Champions<L, kIndexed> best[kVectors];
      const T* const seed = pixel + td.first * step_d + th.first * step_h + tw.first * step_w + c;
      const int64_t seed_tap = (td.first * shape.h.kernel + th.first) * shape.w.kernel + tw.first;
      for (int u = 0; u < kVectors; ++u) {
        best[u] = {L::load(seed + u * kLanes), splat_index<L>(seed_tap)};
      }
      for (int64_t a = td.first; a < td.last; ++a) {
        for (int64_t b = th.first; b < th.last; ++b) {
          const T* from = pixel + a * step_d + b * step_h + tw.first * step_w + c;
          int64_t tap = (a * shape.h.kernel + b) * shape.w.kernel + tw.first;
          for (int64_t e = tw.first; e < tw.last; ++e, ++tap, from += step_w) {
            const typename L::IV number = splat_index<L>(tap);
            for (int u = 0; u < kVectors; ++u) {
              const typename L::V v = L::load(from + u * kLanes);
              L::note(strange, v);
              best[u].meet(v, number);
            }
          }
        }
      }
      for (int u = 0; u < kVectors; ++u) {
        L::store(values + c + u * kLanes, best[u].value);
        if constexpr (kIndexed) {
          store_offsets<L>(offsets + c + u * kLanes, best[u].index);
        }
      }
    };
    int64_t c = 0;
    for (; c + 4 * kLanes <= shape.channels; c += 4 * kLanes) {
      pool(c, Count<4>());
    }
    while (c < shape.channels) {
      if (c + kLanes > shape.channels) { // the last vector overlaps the one before
        c = shape.channels - kLanes;
      }
      pool(c, Count<1>());
      c += kLanes;
    }
  }
  return !L::is_strange(strange);
}

// Units: rows of the output, all channels (batch x depth x height).
template <class T, bool kIndexed, class Offset>
void forward_channels(const ForwardParams& p, const ForwardPlan&, void*, int64_t begin, int64_t end) {
  typedef MostExact<Lanes<T>> L;
  const Shape& shape = p.shape;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t h = unit % shape.h.output;
    const int64_t d = unit / shape.h.output % shape.d.output;
    const int64_t n = unit / shape.h.output / shape.d.output;
    if (!channels_row<L, kIndexed, Offset>(p, n, d, h)) {
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
  if (p.input_strides.c != 1 || p.output_strides.c != 1 || shape.channels < L::kLanes ||
      (p.wide_offsets && p.offsets && sizeof(typename L::Index) == 1)) {
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
  return true;
}

} // namespace
