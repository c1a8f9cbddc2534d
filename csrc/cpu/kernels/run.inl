// Forward, family "run": windows that are whole rows, or whole planes, of a dense input are runs of adjacent elements
// whose places are their tap numbers (global pooling above all).

namespace {

// The winner among the lanes of `best`: the first of equals, or the last NaN.
template <class L>
inline Winner<typename L::Element> across_lanes(const Champions<L, true>& best) {
  typedef typename L::Element T;
  T values[L::kLanes];
  L::store(values, best.value);
  Winner<T> winner = {values[0], static_cast<int64_t>(best.index[0])};
  for (int i = 1; i < L::kLanes; ++i) {
    const auto tap = static_cast<int64_t>(best.index[i]);
    const bool wins = Type<T>::beats(values[i], winner.value);
    const bool loses = Type<T>::beats(winner.value, values[i]);
    // Both: two NaNs, the later one counts. Neither: two equals, the earlier one does.
    if (wins == loses ? (wins ? tap > winner.tap : tap < winner.tap) : wins) {
      winner = {values[i], tap};
    }
  }
  return winner;
}

// Units: windows.
template <class T>
void forward_run(const ForwardParams& p, const ForwardPlan&, void*, int64_t begin, int64_t end) {
  typedef Lanes<T> L;
  constexpr int kLanes = L::kLanes;
  const Shape& shape = p.shape;
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  typename L::IV lane_numbers;
  for (int i = 0; i < kLanes; ++i) {
    lane_numbers[i] = static_cast<typename L::Index>(i);
  }
  for (int64_t unit = begin; unit < end; ++unit) {
    const Row row = row_of(shape, unit);
    const T* from = static_cast<const T*>(p.input) + row.n * p.input_strides.n + row.c * p.input_strides.c +
        row.d * shape.d.stride * p.input_strides.d + row.h * shape.h.stride * p.input_strides.h;
    Champions<L, true> best = {L::load(from), lane_numbers};
    typename L::Mask strange = L::strange(best.value);
    for (int64_t i = kLanes; i < taps; i += kLanes) {
      const int64_t at = i + kLanes <= taps ? i : taps - kLanes; // the last vector overlaps the one before
      const typename L::V v = L::load(from + at);
      if constexpr (L::kHasStrange) {
        strange |= L::strange(v);
      }
      best.meet(v, lane_numbers + splat_index<L>(at));
    }
    if (L::kHasStrange && any(strange)) {
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
