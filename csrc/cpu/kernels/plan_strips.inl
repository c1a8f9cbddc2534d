// Which windows families "strips" and "slices" take, and how they split the work.

namespace {

// Lanes that stand in for others where NaNs are found.
template <class L>
inline constexpr bool kIsExact = __is_same(L, typename Lanes<typename L::Element, 16>::Exact);

template <class L, bool kIndexed, int kKernel, int kStride>
inline PoolPlane find_pool_of(const Shape& shape) {
  if (!strips_fit<L::kLanes>(shape.w)) {
    return nullptr;
  }
  if (shape.h.kernel == 1) {
    // Vectors at every element cross lines of the cache, which long ones pay more for.
    constexpr bool kIsFloat = Type<typename L::Element>::kHasNan && sizeof(typename L::Lane) > 2;
    constexpr int kBytes = kStride == 1 && kVectorBytes > 32 && kIsFloat ? 32 : kVectorBytes;
    if constexpr (sizeof(typename L::V) == kBytes || kIsExact<L>) {
      return pool_plane<L, kIndexed, kKernel, kStride, 1>;
    }
    return nullptr;
  }
  return pool_plane<L, kIndexed, kKernel, kStride, kKernel>;
}

// The code for windows like these, or null.
template <class L, bool kIndexed>
inline PoolPlane find_pool(const Shape& shape) {
  const Axis& w = shape.w;
  if (w.kernel == 2 && w.stride == 2) {
    return find_pool_of<L, kIndexed, 2, 2>(shape);
  }
  if (w.kernel == 3 && w.stride == 2) {
    return find_pool_of<L, kIndexed, 3, 2>(shape);
  }
  // Of 16-bit elements, rows of few columns that are far apart take less as tiles (measured on Granite Rapids).
  constexpr bool kIsNarrow =
      sizeof(typename L::Lane) == 2 && sizeof(typename L::V) == 16 && kVectorBytes > 16 && !kIsExact<L>;
  if (w.kernel == 3 && w.stride == 3 && !kIsNarrow) {
    return find_pool_of<L, kIndexed, 3, 3>(shape);
  }
  if (w.kernel == 3 && w.stride == 1) {
    return find_pool_of<L, kIndexed, 3, 1>(shape);
  }
  if (w.kernel == 2 && w.stride == 1) {
    return find_pool_of<L, kIndexed, 2, 1>(shape);
  }
  if (w.kernel == 4 && w.stride == 4 && (shape.h.kernel == 1 || !kIsNarrow)) {
    return find_pool_of<L, kIndexed, 4, 4>(shape);
  }
  return nullptr;
}

template <class L>
inline PoolPlane find_pool(const ForwardParams& p) {
  return p.offsets ? find_pool<L, true>(p.shape) : find_pool<L, false>(p.shape);
}

// Rows shorter than a vector: half of one or a quarter (of bytes: a quarter), for the types that small planes come in.
// 0: no narrower ones.
template <class T, int kBytes>
constexpr int narrower_pool() {
  constexpr int kNarrow = sizeof(T) == 1 && kBytes > 32 ? kBytes / 4 : kBytes / 2;
  constexpr bool exists =
      kNarrow >= 16 && kNarrow >= 4 * static_cast<int>(sizeof(T)) && (sizeof(T) == 1 || Type<T>::kHasNan);
  return exists ? kNarrow : 0;
}
template <class T, int kBytes = kVectorBytes>
constexpr int narrowest_pool() {
  constexpr int kNarrow = narrower_pool<T, kBytes>();
  if constexpr (kNarrow > 0) {
    return narrowest_pool<T, kNarrow>();
  }
  return kBytes;
}
template <class T, int kBytes = kVectorBytes>
inline PoolPlane find_widest_pool(const ForwardParams& p) {
  const PoolPlane found = find_pool<Lanes<T, kBytes>>(p);
  constexpr int kNarrow = narrower_pool<T, kBytes>();
  if constexpr (kNarrow > 0) {
    return found ? found : find_widest_pool<T, kNarrow>(p);
  }
  return found;
}

// Whether strips are for windows like these, if rows are long enough.
inline bool suit_strips(const ForwardParams& p) {
  const Shape& shape = p.shape;
  const auto is_square = shape.h.kernel == shape.w.kernel && shape.h.stride == shape.w.stride;
  const auto is_dense = [](const Axis& axis) { return axis.dilation == 1 || axis.kernel == 1; };
  return p.input_strides.w == 1 && p.output_strides.w == 1 && !(p.wide_offsets && p.offsets) && is_dense(shape.w) &&
      is_dense(shape.h) && (shape.h.kernel == 1 || is_square);
}

// What rows of the output cost where vectors compare `taps` elements of each window, in tenths of nanoseconds: of all
// planes, with so much more for each plane and row (measured on Granite Rapids).
template <class T>
inline int64_t cost_of_rows(const Shape& shape, int64_t taps, int64_t plane_cost, int64_t row_cost) {
  constexpr int64_t kTapCost = sizeof(T) == 1 ? 2 : sizeof(T) == 2 ? 4 : sizeof(T) == 4 ? 3 : 7;
  int64_t lanes = Lanes<T>::kLanes;
  while (lanes > shape.w.output && lanes > Lanes<T, 16>::kLanes) {
    lanes /= 2;
  }
  const int64_t vectors = rounded_up(shape.w.output, lanes);
  return shape.batch * shape.channels * shape.d.output *
      (plane_cost + shape.h.output * (row_cost + vectors * taps * kTapCost));
}

// Of the input that a unit reads: walked strip by strip within a cache.
inline constexpr int64_t kStripBytes = 16 * 1024;

// Of the input per plane, from which on planes that come from beyond the cache are pooled row by row.
inline constexpr int64_t kLeastRolled = kStripBytes / 4;

// Fills `plan` where the family fits.
template <class T>
inline bool plan_strips(const ForwardParams& p, ForwardPlan& plan) {
  const Shape& shape = p.shape;
  if (!suit_strips(p)) {
    return false;
  }
  // Windows that share no rows take all their slices at once.
  const bool is_deep = shape.d.kernel > 1 && (shape.d.kernel > shape.d.stride || shape.h.kernel > shape.h.stride);
  if (is_deep && (shape.d.kernel > kMostSlices || p.output_strides.h != shape.w.output)) {
    return false;
  }
  const PoolPlane pool = find_widest_pool<T>(p);
  if (pool == nullptr) {
    return false;
  }
  plan = plan_windows<T>(p);
  plan.family = "strips";
  plan.run = forward_strips<T>;
  plan.pool = pool;
  if constexpr (kHasExact<Lanes<T>>) {
    plan.pool_exact = find_pool<typename Lanes<T, 16>::Exact>(p);
  }
  const int64_t planes = shape.batch * shape.channels * shape.d.output;
  const int64_t size = static_cast<int64_t>(sizeof(T));
  const int64_t step = shape.h.stride < 4096 ? shape.h.stride : 4096; // larger ones read no more of a page
  const int64_t row_bytes = step * shape.w.input * size; // of the input, per row of the output
  const int64_t written = planes * shape.h.output * shape.w.output * size;
  const int64_t plane_bytes = shape.h.output * row_bytes;
  const bool is_beyond = written >= p.stream_bytes;
  const bool is_far_beyond = written / 3 >= p.stream_bytes && is_dense_output(p); // what pays for StreamedLines
  const bool shares_rows = shape.h.kernel > shape.h.stride;
  // Rows are streamed as they are where they are whole vectors or halves: lines that are stored to too are written twice.
  const bool has_whole_halves = shape.w.output * size % static_cast<int64_t>(sizeof(HalfVector)) == 0;
  // Strips of large planes do not read memory in its order: beyond the cache, rows do better, and they can be stored past it.
  const bool is_large = (plane_bytes > kStripBytes && planes * plane_bytes + written >= p.stream_bytes) ||
      (plane_bytes >= kLeastRolled && (has_whole_halves ? is_beyond : is_far_beyond && shape.h.stride == 1));
  constexpr int64_t kPlace = sizeof(typename Lanes<T>::Lane) + sizeof(typename Lanes<T>::Index);
  const int64_t ring_bytes = 4 * (shape.w.output + kVectorBytes) * kPlace;
  // So they do where a strip has few rows and the ring stays in the nearest cache; for wide elements only at larger strides
  // (measured: 3/1, float32, 512 columns took 1.3 times as long).
  const bool is_wide = row_bytes >= kStripBytes / 16 && ring_bytes <= kStripBytes + kStripBytes / 4 &&
      (p.offsets == nullptr || shape.h.stride > 1 || sizeof(T) < 4);
  if ((is_large || is_wide) && shares_rows && pool == find_pool<Lanes<T>>(p)) {
    plan.ring_bytes = ring_bytes;
  }
  const int64_t rows = (plan.ring_bytes ? 8 * kStripBytes : kStripBytes) / row_bytes;
  plan.block_rows = rows > 8 ? rows : 8;
  plan.row_blocks = (shape.h.output + plan.block_rows - 1) / plan.block_rows;
  plan.block_rows = (shape.h.output + plan.row_blocks - 1) / plan.row_blocks;
  plan.units = planes * plan.row_blocks;
  // Not strips that are walked down, as parts of a line would not follow each other.
  plan.stream = is_beyond && has_whole_halves && (!shares_rows || plan.ring_bytes > 0 || is_deep);
  // Small planes gain less than they lose (measured for vectors of 32 bytes).
  const int64_t unit_bytes = plan.block_rows * shape.w.output * size;
  plan.in_lines = is_far_beyond && !plan.stream && (kVectorBytes > 32 || plane_bytes >= kLeastRolled) &&
      unit_bytes <= StreamedLines::kMostBytes;
  plan.scratch_bytes = plan.ring_bytes + (plan.in_lines ? StreamedLines::scratch_bytes(unit_bytes) : 0);
  plan.fetch = is_worth_fetching(planes * shape.h.output * row_bytes + written);
  // Windows of one row are read in the order of memory anyway.
  plan.touch = (shape.h.kernel > 1 || shape.d.kernel > 1) &&
      is_worth_touching(shape.batch * shape.channels * shape.d.input * shape.h.output * row_bytes, p.stream_bytes);
  const int64_t deep = shape.d.kernel < kMostSlices ? shape.d.kernel : kMostSlices;
  const int64_t taps = deep * shape.h.kernel * shape.w.kernel;
  plan.cost = is_beyond ? 0 : cost_of_rows<T>(shape, taps, 180, 0);
  if (is_deep) {
    plan_slices<T>(p, plan);
    plan.cost = cost_of_rows<T>(shape, taps / 3, 350, 0);
  }
  return true;
}

} // namespace
