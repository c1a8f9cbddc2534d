// Forward, family "channels": lanes along the channels of channels_last tensors.

namespace {

inline constexpr int64_t kListedTaps = int64_t{1} << 20; // taps of a window at the most

// The taps of a window that lie within the input.
struct TapList {
  int64_t* reach; // elements from tap 0
  int64_t* tap;
  void* place; // room for their addresses
  int64_t count;

  static int64_t most(const Shape& shape) {
    const auto within = [](const Axis& axis) { return axis.kernel < axis.input ? axis.kernel : axis.input; };
    const int64_t area = within(shape.h) < kListedTaps && within(shape.w) < kListedTaps
        ? within(shape.h) * within(shape.w)
        : kListedTaps;
    return area < kListedTaps && within(shape.d) < kListedTaps ? area * within(shape.d) : kListedTaps;
  }

  // Of scratch, for the lists of forward_channels.
  static int64_t scratch_bytes(const Shape& shape) {
    return most(shape) * 6 * static_cast<int64_t>(sizeof(int64_t));
  }

  void fill(const ForwardParams& p, const Taps& td, const Taps& th, const Taps& tw) {
    const Shape& shape = p.shape;
    const Strides& in = p.input_strides;
    count = 0;
    for (int64_t a = td.first; a < td.last; ++a) {
      for (int64_t b = th.first; b < th.last; ++b) {
        for (int64_t e = tw.first; e < tw.last; ++e) {
          reach[count] = a * shape.d.dilation * in.d + b * shape.h.dilation * in.h + e * shape.w.dilation * in.w;
          tap[count] = (a * shape.h.kernel + b) * shape.w.kernel + e;
          ++count;
        }
      }
    }
  }
};

// Neighbouring pixels of the output whose windows lie alike. `from`: place in the input of the first one's tap 0, the
// others' are `step` elements apart.
template <class T, class Offset>
struct Pixels {
  const T* input;
  int64_t from, step;
  T* values;
  Offset* offsets;
  int64_t output_step;
  int64_t count, channels;
};

// How windows are pooled. kTaps: 4 or 9, of a whole window, or 0, any number. kNoted: columns of a square window whose lanes
// are noted (all: of any window); those of the others the next pixel's window notes.
template <int kTaps, int kNoted>
struct WindowOf {
  static constexpr int kWidth = kTaps == 9 ? 3 : 2;
  static constexpr bool notes(int64_t tap) {
    return kTaps == 0 || tap % kWidth < kNoted;
  }
};

// kVectors vectors of channels of one pixel. taps[t] + from: tap t of the list.
template <class L, bool kIndexed, int kVectors, int kTaps, int kNoted, class Offset>
TORCH_MAXPOOL_INLINE void pool_channels(
    const TapList& list,
    const typename L::Element* const* taps,
    const Pixels<typename L::Element, Offset>& pixels,
    int64_t from,
    int64_t to,
    typename L::Mask& strange) {
  constexpr int kLanes = L::kLanes;
  Champions<L, kIndexed> best[kVectors];
  typename L::V v[kVectors];
  const auto load = [&](int64_t t) __attribute__((always_inline)) {
    const auto* const at = taps[t] + from;
    for (int u = 0; u < kVectors; ++u) {
      v[u] = held(L::load(at + u * kLanes));
    }
    for (int u = 0; u < kVectors && WindowOf<kTaps, kNoted>::notes(t); u += 2) {
      if constexpr (L::kIsPlain) {
        L::note(strange, v[u], v[u + 1 < kVectors ? u + 1 : u]);
      } else if (u + 1 < kVectors) {
        L::note_at(strange, at + u * kLanes, at + (u + 1) * kLanes);
      } else {
        L::note_at(strange, at + u * kLanes);
      }
    }
  };
  const auto meet = [&](int64_t t, int64_t tap) __attribute__((always_inline)) {
    load(t);
    for (int u = 0; u < kVectors; ++u) {
      best[u].meet(v[u], splat_index<L>(tap));
    }
  };
  load(0);
  for (int u = 0; u < kVectors; ++u) {
    best[u] = {v[u], splat_index<L>(kTaps > 0 ? 0 : list.tap[0])};
  }
  if constexpr (kTaps > 0) {
#pragma GCC unroll 16
    for (int t = 1; t < kTaps; ++t) {
      meet(t, t);
    }
  } else {
    for (int64_t t = 1; t < list.count; ++t) {
      meet(t, list.tap[t]);
    }
  }
  for (int u = 0; u < kVectors; ++u) {
    L::store(pixels.values + to + u * kLanes, best[u].value);
    if constexpr (kIndexed) {
      store_offsets<L>(pixels.offsets + to + u * kLanes, best[u].index);
    }
  }
}

// Returns what was noted.
template <class L, bool kIndexed, int kTaps, int kNoted, class Offset>
inline typename L::Mask pool_pixels(const TapList list, const Pixels<typename L::Element, Offset> pixels) {
  constexpr int kLanes = L::kLanes;
  constexpr int kVectors = kTaps > 0 ? 2 : 4;
  typedef typename L::Element T;
  const T* whole[kTaps > 0 ? kTaps : 1];
  const T** const taps = kTaps > 0 ? whole : static_cast<const T**>(list.place);
  for (int64_t t = 0; t < (kTaps > 0 ? kTaps : list.count); ++t) {
    taps[t] = pixels.input + (pixels.from + list.reach[t]);
  }
  typename L::Mask strange = {};
  int64_t from = 0;
  int64_t to = 0;
  for (int64_t i = 0; i < pixels.count; ++i) {
    int64_t c = 0;
    for (; c + kVectors * kLanes <= pixels.channels; c += kVectors * kLanes) {
      pool_channels<L, kIndexed, kVectors, kTaps, kNoted>(list, taps, pixels, from + c, to + c, strange);
    }
    while (c < pixels.channels) {
      c = c + kLanes <= pixels.channels ? c : pixels.channels - kLanes; // the last vector overlaps the one before
      pool_channels<L, kIndexed, 1, kTaps, kNoted>(list, taps, pixels, from + c, to + c, strange);
      c += kLanes;
    }
    from += pixels.step;
    to += pixels.output_step;
  }
  for (int64_t t = 0; t < kTaps; ++t) { // of the last pixel's window what no other notes
    const T* const at = taps[t] + from - pixels.step;
    for (int64_t c = 0; c < pixels.channels && !WindowOf<kTaps, kNoted>::notes(t); c += kLanes) {
      L::note_at(strange, at + (c + kLanes <= pixels.channels ? c : pixels.channels - kLanes));
    }
  }
  return strange;
}

template <class L, bool kIndexed, class Offset>
struct ChannelRows {
  typedef typename L::Element T;
  const ForwardParams& p;
  const TapList whole; // of windows that lie within the input; without taps where there are none
  TapList cut; // of the windows at work, where they do not
  const Interior inner; // columns

  // All channels of one row of the output; false where it depends on strange lanes.
  bool pool(const Row& row) {
    const Shape& shape = p.shape;
    const Strides& in = p.input_strides;
    const Strides& out = p.output_strides;
    const Taps td = taps_of(shape.d, row.d);
    const Taps th = taps_of(shape.h, row.h);
    const bool is_inner_row = td.last - td.first == shape.d.kernel && th.last - th.first == shape.h.kernel;
    const int64_t from = row.n * in.n + td.start * in.d + th.start * in.h - shape.w.pad * in.w;
    const int64_t to = row.n * out.n + row.d * out.d + row.h * out.h;
    typename L::Mask strange = {};
    for (int64_t o = 0, next; o < shape.w.output; o = next) {
      const bool is_inner = o >= inner.begin && o < inner.end;
      next = is_inner ? inner.end : o + 1;
      const Pixels<T, Offset> pixels = {
          static_cast<const T*>(p.input),
          from + o * shape.w.stride * in.w,
          shape.w.stride * in.w,
          static_cast<T*>(p.output) + to + o * out.w,
          static_cast<Offset*>(p.offsets) + to + o * out.w,
          out.w,
          next - o,
          shape.channels};
      const typename L::Mask noted =
          is_inner && is_inner_row ? pool_whole(pixels) : pool_cut(td, th, taps_of(shape.w, o), pixels);
      L::join(strange, noted);
    }
    return !L::is_strange(strange, p);
  }

 private:
  typename L::Mask pool_whole(const Pixels<T, Offset>& pixels) {
    if constexpr (sizeof(Offset) == 1 && __is_same(L, Lanes<T>)) {
      constexpr bool kNotes = Type<T>::kHasNan; // else there is nothing to note
      const Axis& w = p.shape.w;
      if (whole.count == 4) {
        return kNotes && w.kernel == 2 && w.stride == 1 ? pool_pixels<L, kIndexed, 4, kNotes ? 1 : 2>(whole, pixels)
                                                        : pool_pixels<L, kIndexed, 4, 2>(whole, pixels);
      }
      if (whole.count == 9) {
        if (kNotes && w.kernel == 3 && w.stride <= 2) {
          return w.stride == 1 ? pool_pixels<L, kIndexed, 9, kNotes ? 1 : 3>(whole, pixels)
                               : pool_pixels<L, kIndexed, 9, kNotes ? 2 : 3>(whole, pixels);
        }
        return pool_pixels<L, kIndexed, 9, 3>(whole, pixels);
      }
    }
    return pool_pixels<L, kIndexed, 0, 0>(whole, pixels);
  }

  typename L::Mask pool_cut(const Taps& td, const Taps& th, const Taps& tw, const Pixels<T, Offset>& pixels) {
    cut.fill(p, td, th, tw);
    return pool_pixels<L, kIndexed, 0, 0>(cut, pixels);
  }
};

// Units: rows of the output, all channels (batch x depth x height).
template <class L, bool kIndexed, class Offset>
void forward_channels(const ForwardParams& p, const ForwardPlan&, void* scratch, int64_t begin, int64_t end) {
  Shape shape = p.shape;
  shape.channels = 1; // as units count rows
  const int64_t most = TapList::most(shape);
  int64_t* const lists = static_cast<int64_t*>(scratch);
  TapList whole = {lists, lists + most, lists + 2 * most, 0};
  const TapList cut = {lists + 3 * most, lists + 4 * most, lists + 5 * most, 0};
  if (shape.d.kernel <= shape.d.input && shape.h.kernel <= shape.h.input && shape.w.kernel <= shape.w.input) {
    whole.fill(p, {0, 0, shape.d.kernel}, {0, 0, shape.h.kernel}, {0, 0, shape.w.kernel});
  }
  const Interior inner = interior_of(shape.w);
  ChannelRows<L, kIndexed, Offset> rows = {p, whole, cut, inner};
  Row row = row_of(shape, begin);
  for (int64_t unit = begin; unit < end; ++unit, advance(shape, row)) {
    if (rows.pool(row)) {
      continue;
    }
    if constexpr (kHasExact<L>) {
      if (ChannelRows<typename L::Exact, kIndexed, Offset>{p, whole, cut, inner}.pool(row)) {
        continue;
      }
    }
    for (int64_t c = 0; c < p.shape.channels; ++c) {
      forward_row<typename L::Element>(p, {row.n, c, row.d, row.h}, 0, shape.w.output);
    }
  }
}

// Fills `plan` where the family fits. `L`: of as many channels or fewer.
template <class L>
inline bool plan_channels_for(const ForwardParams& p, ForwardPlan& plan) {
  const Shape& shape = p.shape;
  if (TapList::most(shape) >= kListedTaps || p.input_strides.c != 1 || p.output_strides.c != 1 ||
      shape.channels < L::kLanes || (p.wide_offsets && p.offsets && sizeof(typename L::Index) == 1)) {
    return false;
  }
  plan = {};
  plan.family = "channels";
  if (p.offsets == nullptr) {
    plan.run = forward_channels<L, false, uint8_t>;
  } else {
    plan.run = p.wide_offsets ? forward_channels<L, true, int32_t> : forward_channels<L, true, uint8_t>;
  }
  plan.units = shape.batch * shape.d.output * shape.h.output;
  plan.scratch_bytes = TapList::scratch_bytes(shape);
  return true;
}

template <class T>
inline bool plan_channels(const ForwardParams& p, ForwardPlan& plan) {
  if (plan_channels_for<Lanes<T>>(p, plan)) {
    return true;
  }
  if constexpr (kVectorBytes > 32 && (sizeof(T) == 2 || sizeof(T) == 4)) {
    if (plan_channels_for<Lanes<T, 32>>(p, plan)) {
      return true;
    }
  }
  if constexpr (kVectorBytes > 16) {
    return plan_channels_for<Lanes<T, 16>>(p, plan);
  }
  return false;
}

} // namespace
