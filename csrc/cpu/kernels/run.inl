// Forward, family "run": windows that are whole rows, or whole planes, of a dense input are runs of adjacent elements
// whose places are their tap numbers (global pooling above all). So are windows along a row; long ones that share little
// are pooled one by one.

namespace {

template <class V, int kDistance, int... kIndex>
TORCH_MAXPOOL_INLINE V rotated_lanes(V v, Sequence<kIndex...>) {
  return __builtin_shufflevector(v, v, ((kIndex + kDistance) % static_cast<int>(sizeof...(kIndex)))...);
}

// The largest lane, in every lane.
template <class L, int kDistance = L::kLanes / 2>
TORCH_MAXPOOL_INLINE typename L::V largest_lane(typename L::V v) {
  if constexpr (kDistance >= 1) {
    const auto rotated = rotated_lanes<typename L::V, kDistance>(v, MakeSequence<L::kLanes>());
    return largest_lane<L, kDistance / 2>(L::winner(rotated, v));
  } else {
    return v;
  }
}

// The smallest lane, in every lane.
template <class L, int kDistance = L::kLanes / 2>
TORCH_MAXPOOL_INLINE typename L::IV smallest_index(typename L::IV v) {
  if constexpr (kDistance >= 1) {
    const auto rotated = rotated_lanes<typename L::IV, kDistance>(v, MakeSequence<L::kLanes>());
    return smallest_index<L, kDistance / 2>(rotated < v ? rotated : v);
  } else {
    return v;
  }
}

template <class L, int... kIndex>
TORCH_MAXPOOL_INLINE typename L::IV counting_lanes(Sequence<kIndex...>) {
  return typename L::IV{static_cast<typename L::Index>(kIndex)...};
}

// The first of `taps` >= kLanes elements that equals the lanes of `value`, which one of them does.
template <class L>
TORCH_MAXPOOL_INLINE int64_t first_equal(const typename L::Element* from, int64_t taps, typename L::V value) {
  constexpr int64_t kMostIndices = sizeof(typename L::Index) == 1 ? 256 : 65536;
  constexpr int64_t kShort = 16 * L::kLanes < kMostIndices ? 16 * L::kLanes : kMostIndices;
  if (taps <= kShort) { // without branches that depend on the values; backwards, so that lanes end with their first
    typename L::IV first = ~typename L::IV{};
    for (int64_t at = taps - L::kLanes;; at -= L::kLanes) {
      const int64_t begin = at > 0 ? at : 0;
      const typename L::IV places = counting_lanes<L>(MakeSequence<L::kLanes>()) + splat_index<L>(begin);
      first = L::load(from + begin) == value ? places : first;
      if (at <= 0) {
        return smallest_index<L>(first)[0];
      }
    }
  }
  for (int64_t i = 0;; i += L::kLanes) {
    const int64_t at = i + L::kLanes <= taps ? i : taps - L::kLanes; // the last vector overlaps the one before
    const int lane = first_set_lane<typename L::Mask>(L::load(from + at) == value);
    if (lane < L::kLanes) {
      return at + lane;
    }
  }
}

// One window: `taps` adjacent elements. The largest value first, then, where it is asked for, the first element that equals
// it, its number counted from `first_tap`. False where its lanes are strange.
template <class T>
TORCH_MAXPOOL_INLINE bool pool_run(const ForwardParams& p, const T* from, int64_t taps, int64_t first_tap, int64_t to) {
  typedef Lanes<T> L;
  constexpr int kLanes = L::kLanes;
  typename L::V best = L::load(from + taps - kLanes);
  typename L::Mask strange = {};
  L::note_at(strange, from + taps - kLanes);
  int64_t i = 0;
  for (; i + 2 * kLanes <= taps; i += 2 * kLanes) {
    const typename L::V v = held(L::load(from + i));
    const typename L::V w = held(L::load(from + i + kLanes));
    L::note_at(strange, from + i, from + i + kLanes);
    best = L::winner(w, L::winner(v, best));
  }
  if (i + kLanes < taps) {
    const typename L::V v = L::load(from + i);
    L::note_at(strange, from + i);
    best = L::winner(v, best);
  }
  if (L::is_strange(strange, p)) {
    return false;
  }
  best = largest_lane<L>(best);
  // Values alone do not tell which of 0 and -0 came first.
  if (p.offsets == nullptr && !(Type<T>::kHasNan && best[0] == 0)) {
    static_cast<T*>(p.output)[to] = L::element(best[0]);
    return true;
  }
  const int64_t tap = first_equal<L>(from, taps, best);
  static_cast<T*>(p.output)[to] = from[tap];
  if (p.offsets && p.wide_offsets) {
    static_cast<int32_t*>(p.offsets)[to] = static_cast<int32_t>(first_tap + tap);
  } else if (p.offsets) {
    static_cast<uint8_t*>(p.offsets)[to] = static_cast<uint8_t>(first_tap + tap);
  }
  return true;
}

// Units: windows.
template <class T>
void forward_run(const ForwardParams& p, const ForwardPlan&, void*, int64_t begin, int64_t end) {
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const Strides& out = p.output_strides;
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  const T* const input = static_cast<const T*>(p.input);
  // Whole planes, one after the other: places are known without the row.
  const bool is_dense = shape.d.output == 1 && shape.h.output == 1 && shape.w.output == 1 && shape.w.pad == 0 &&
      in.c == taps && in.n == shape.channels * taps && out.c == 1 && out.n == shape.channels;
  if (is_dense) {
    for (int64_t unit = begin; unit < end; ++unit) {
      if (!pool_run(p, input + unit * taps, taps, 0, unit)) {
        forward_row<T>(p, row_of(shape, unit), 0, 1);
      }
    }
    return;
  }
  const int64_t across = taps / shape.w.kernel;
  const int64_t columns = shape.w.output;
  Row row = row_of(shape, begin / columns);
  int64_t o = begin % columns;
  for (int64_t unit = begin; unit < end; advance(shape, row), o = 0) {
    const T* const from = input + input_place(p, row);
    const int64_t to = output_place(out, row);
    for (; o < columns && unit < end; ++o, ++unit) {
      const Taps cut = taps_of(shape.w, o);
      const int64_t count = (cut.last - cut.first) * across;
      if (count < Lanes<T>::kLanes || !pool_run(p, from + cut.start + cut.first, count, cut.first, to + o * out.w)) {
        forward_row<T>(p, row, o, o + 1);
      }
    }
  }
}

// Fills `plan` where the family fits.
template <class T>
inline bool plan_run(const ForwardParams& p, ForwardPlan& plan) {
  typedef Lanes<T> L;
  const Shape& shape = p.shape;
  const auto is_whole = [](const Axis& axis) {
    return axis.kernel == axis.input && axis.output == 1 && axis.pad == 0 && axis.dilation == 1;
  };
  const auto is_plain = [](const Axis& axis) {
    return axis.pad == 0 && axis.dilation == 1 && (axis.output - 1) * axis.stride + axis.kernel <= axis.input;
  };
  if (!is_whole(shape.w) || p.input_strides.w != 1 || !is_plain(shape.h) || !is_plain(shape.d) ||
      (shape.h.kernel > 1 && p.input_strides.h != shape.w.input) ||
      (shape.d.kernel > 1 && (!is_whole(shape.h) || p.input_strides.d != shape.h.input * shape.w.input))) {
    return false;
  }
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel; // at most the elements of the input
  if (taps < L::kLanes) {
    return false;
  }
  plan = plan_windows<T>(p);
  plan.family = "run";
  plan.run = forward_run<T>;
  return true;
}

// The same for windows along rows, with its cost.
template <class T>
inline bool plan_runs(const ForwardParams& p, ForwardPlan& plan) {
  const Axis& w = p.shape.w;
  constexpr int64_t kLanes = Lanes<T>::kLanes;
  constexpr int64_t kLeast = kLanes > 8 ? kLanes : 9; // shorter ones are pooled side by side
  const bool is_row = p.shape.d.kernel == 1 && p.shape.h.kernel == 1 && p.shape.d.pad == 0 && p.shape.h.pad == 0 &&
      p.input_strides.w == 1 && w.dilation == 1;
  if (!is_row || w.kernel < kLeast || w.kernel > w.input || w.stride < w.kernel - w.kernel / 4) {
    return false;
  }
  const Taps last = taps_of(w, w.output - 1);
  if (w.kernel - w.pad < kLanes || last.last - last.first < kLanes) { // what is cut is long enough too
    return false;
  }
  plan = plan_windows<T>(p);
  plan.family = "run";
  plan.run = forward_run<T>;
  plan.units *= w.output;
  // In tenths of nanoseconds (measured on Granite Rapids).
  plan.cost = plan.units * (30 + rounded_up(w.kernel, kLanes) * 6 + (p.offsets ? 25 : 0));
  return true;
}

} // namespace
