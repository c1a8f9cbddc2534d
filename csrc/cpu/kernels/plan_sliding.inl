// Which windows family "sliding" takes, and how it splits the work.

namespace {

template <class L, bool kIndexed>
inline bool plan_sliding_for(const ForwardParams& p, ForwardKernel run, ForwardPlan& plan) {
  const Shape& shape = p.shape;
  const int64_t group = shape.h.kernel;
  const int64_t reach = (shape.w.kernel - 1) * shape.w.dilation;
  constexpr int64_t kPlace = sizeof(typename L::Lane) + (kIndexed ? sizeof(typename L::Index) : 0);
  const auto fitting = [&](int64_t bytes) { return bytes / (2 * group * kPlace) - reach; }; // columns of two groups
  int64_t columns = fitting(kSlidingBytes);
  if (columns < 12 * reach) { // neighbours read much of the same; processors with AVX-512 have larger caches
    const int64_t most = fitting(kVectorBytes == 64 ? 2 * kSlidingBytes : kSlidingBytes);
    columns = most < 12 * reach ? most : 12 * reach;
  }
  const int64_t least = 8 * reach > 128 ? 8 * reach : 128;
  columns = columns > least ? columns : least;
  const int64_t rows = 8 * group > 64 ? 8 * group : 64;
  const auto blocks = [](int64_t size, int64_t block) {
    return size <= block + block / 4 ? 1 : rounded_up(size, block);
  };
  plan.column_blocks = blocks(shape.w.output, columns);
  plan.block_columns = rounded_up(shape.w.output, plan.column_blocks);
  plan.row_blocks = shape.h.output > rows ? (shape.h.output + rows / 2) / rows : 1;
  const int64_t others = shape.batch * shape.channels * shape.d.output * plan.column_blocks;
  if (others % 2 != 0 && plan.row_blocks % 2 != 0) { // for an even number of threads
    constexpr int64_t kWorthwhile = 64 * 1024 / sizeof(typename L::Element); // elements, for two threads
    const bool is_alone = others * plan.row_blocks == 1 && shape.h.output >= group && shape.h.output >= 64 &&
        shape.h.output * shape.w.output >= kWorthwhile;
    plan.row_blocks += plan.row_blocks > 1 ? -1 : is_alone;
  }
  plan.block_rows = rounded_up(shape.h.output, plan.row_blocks);
  plan.row_blocks = rounded_up(shape.h.output, plan.block_rows);
  // A rest narrower than a vector is added to the last block.
  plan.column_blocks = rounded_up(shape.w.output - L::kLanes + 1, plan.block_columns);
  plan.family = "sliding";
  plan.run = run;
  plan.units = shape.batch * shape.channels * shape.d.output * plan.row_blocks * plan.column_blocks;
  const SlidingScratch<L, kIndexed> scratch(shape, plan);
  plan.scratch_bytes = scratch.total();
  // Rows alone, which are written in their order, in whole vectors.
  const auto is_whole = [](int64_t elements) {
    return elements * static_cast<int64_t>(sizeof(typename L::Element)) % kVectorBytes == 0;
  };
  const int64_t written =
      plan.units * plan.block_rows * plan.block_columns * static_cast<int64_t>(sizeof(typename L::Element));
  plan.stream = group == 1 && written >= p.stream_bytes && is_whole(shape.w.output) && is_whole(plan.block_columns) &&
      is_aligned<typename L::V>(p.output);
  plan.fetch = !scratch.keeps_all && is_worth_fetching(written);
  const int64_t steps = group < 64 && shape.w.kernel < 64 ? group + shape.w.kernel : 128;
  plan.cost = cost_of_rows<typename L::Element>(shape, steps, 180, 0);
  return true;
}

// kOnlyWide: lanes that are there for int32 offsets.
template <class L, bool kOnlyWide = false>
inline bool plan_sliding_with(const ForwardParams& p, ForwardPlan& plan) {
  if (p.shape.w.output < L::kLanes) {
    return false;
  }
  if constexpr (!kOnlyWide) {
    if (p.offsets == nullptr) {
      return plan_sliding_for<L, false>(p, forward_sliding<L, false, uint8_t>, plan);
    }
    if (!p.wide_offsets) {
      return plan_sliding_for<L, true>(p, forward_sliding<L, true, uint8_t>, plan);
    }
  }
  if constexpr (sizeof(typename L::V) == kVectorBytes) { // such windows are for wider rows than narrow vectors are
    return plan_sliding_for<L, true>(p, forward_sliding<L, true, int32_t>, plan);
  }
  return false;
}

// With vectors of kBytes, or narrower ones where rows are shorter than those.
template <class T, int kBytes>
inline bool plan_sliding_in(const ForwardParams& p, ForwardPlan& plan) {
  if (plan_sliding_with<Lanes<T, kBytes>>(p, plan)) {
    return true;
  }
  if constexpr (kBytes > 16 && (sizeof(T) <= 2 || (Type<T>::kHasNan && kBytes == kVectorBytes))) {
    return plan_sliding_in<T, kBytes / 2>(p, plan);
  }
  return false;
}

// Fills `plan` where the family fits.
template <class T>
inline bool plan_sliding(const ForwardParams& p, ForwardPlan& plan) {
  typedef Lanes<T> L;
  const Shape& shape = p.shape;
  constexpr int64_t kMost = int64_t{1} << 16; // taps along a dimension
  const auto is_near = [](const Axis& axis) { // windows not much larger than the input
    return axis.kernel <= kMost && axis.dilation <= kMost &&
        (axis.kernel - 1) * axis.dilation <= 4 * (axis.input < kMost ? axis.input : kMost) + 256;
  };
  if (shape.d.kernel > 1 || shape.h.stride > 1 || shape.w.stride > 1 || shape.w.kernel == 1 ||
      (shape.h.kernel > 1 && shape.h.dilation > 1) || p.input_strides.w != 1 || p.output_strides.w != 1 ||
      !is_near(shape.w) || !is_near(shape.h)) {
    return false;
  }
  // Tap numbers must fit the lanes of Index; those of rows beyond a window are only ever subtracted.
  const int64_t taps = p.wide_offsets && p.offsets ? shape.h.kernel * shape.w.kernel : 1;
  if constexpr (sizeof(typename L::Lane) == 1) {
    if (taps > 65536) {
      return plan_sliding_with<WideLanes<T, int32_t>, true>(p, plan);
    }
    if (taps > 1) {
      return plan_sliding_with<WideLanes<T, int16_t>, true>(p, plan);
    }
  }
  if constexpr (sizeof(typename L::Lane) == 2) {
    if (taps > 65536) {
      return false;
    }
  }
  return plan_sliding_in<T, kVectorBytes>(p, plan);
}

} // namespace
