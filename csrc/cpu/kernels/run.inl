// Forward, family "run": windows that are whole rows, or whole planes, of a dense input are runs of adjacent elements
// whose places are their tap numbers (global pooling above all).

namespace {

template <class V, int kDistance, int... kIndex>
inline V rotated_lanes(V v, Sequence<kIndex...>) {
  return __builtin_shufflevector(v, v, ((kIndex + kDistance) % static_cast<int>(sizeof...(kIndex)))...);
}

// Meets each lane with the one kDistance further, down to a distance of 1: all lanes then hold the winner, the first of
// equals or the last NaN, whatever the order of the lanes.
template <class L, int kDistance>
inline void meet_lanes(Champions<L, true>& best) {
  if constexpr (kDistance >= 1) {
    const auto lanes = MakeSequence<L::kLanes>();
    const typename L::V value = rotated_lanes<typename L::V, kDistance>(best.value, lanes);
    const typename L::IV index = rotated_lanes<typename L::IV, kDistance>(best.index, lanes);
    const typename L::Mask wins = L::beats(value, best.value);
    const typename L::Mask loses = L::beats(best.value, value);
    // Both: two NaNs, the later one counts. Neither: two equals, the earlier one does.
    const typename L::Mask later = index > best.index;
    const typename L::Mask earlier = index < best.index;
    const typename L::Mask takes = (wins & (~loses | later)) | (~loses & earlier);
    best.value = takes ? value : best.value;
    best.index = takes ? index : best.index;
    meet_lanes<L, kDistance / 2>(best);
  }
}

template <class L>
inline Winner<typename L::Element> across_lanes(Champions<L, true> best) {
  meet_lanes<L, L::kLanes / 2>(best);
  typename L::Element values[L::kLanes];
  L::store(values, best.value);
  return {values[0], static_cast<int64_t>(best.index[0])};
}

// Units: windows.
template <class T>
void forward_run(const ForwardParams& p, const ForwardPlan&, void*, int64_t begin, int64_t end) {
  typedef MostExact<Lanes<T>> L;
  constexpr int kLanes = L::kLanes;
  const Shape& shape = p.shape;
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  typename L::IV lane_numbers;
  for (int i = 0; i < kLanes; ++i) {
    lane_numbers[i] = static_cast<typename L::Index>(i);
  }
  Row row = row_of(shape, begin);
  for (int64_t unit = begin; unit < end; ++unit, advance(shape, row)) {
    const T* from = static_cast<const T*>(p.input) + row.n * p.input_strides.n + row.c * p.input_strides.c +
        row.d * shape.d.stride * p.input_strides.d + row.h * shape.h.stride * p.input_strides.h;
    Champions<L, true> best = {L::load(from), lane_numbers};
    typename L::Mask strange = {};
    L::note(strange, best.value);
    for (int64_t i = kLanes; i < taps; i += kLanes) {
      const int64_t at = i + kLanes <= taps ? i : taps - kLanes; // the last vector overlaps the one before
      const typename L::V v = L::load(from + at);
      L::note(strange, v);
      best.meet(v, lane_numbers + splat_index<L>(at));
    }
    if (L::is_strange(strange)) {
      forward_row<T>(p, row, 0, 1);
      continue;
    }
    const Winner<T> winner = across_lanes<L>(best);
    const int64_t to = row.n * p.output_strides.n + row.c * p.output_strides.c + row.d * p.output_strides.d +
        row.h * p.output_strides.h;
    static_cast<T*>(p.output)[to] = winner.value;
    if (p.offsets && p.wide_offsets) {
      static_cast<int32_t*>(p.offsets)[to] = static_cast<int32_t>(winner.tap);
    } else if (p.offsets) {
      static_cast<uint8_t*>(p.offsets)[to] = static_cast<uint8_t>(winner.tap);
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
  // Tap numbers must fit the lanes of Index (they are counted even where offsets are not asked for).
  constexpr int kIndexBits = 8 * sizeof(typename L::Index);
  if (taps < L::kLanes || (kIndexBits < 32 && taps > (int64_t{1} << (kIndexBits % 32)))) {
    return false;
  }
  plan = plan_windows<T>(p);
  plan.family = "run";
  plan.run = forward_run<T>;
  return true;
}

} // namespace
