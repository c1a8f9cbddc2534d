// Forward, family "slices": windows with depth whose rows and columns suit strips.inl. Each slice of the input (one depth)
// is pooled once and kept while windows reach it; then slices meet in order, element by element.

namespace {

inline constexpr int64_t kMostSlices = 16; // per window
inline constexpr int64_t kSliceBytes = 64 * 1024; // wanted size of the slices kept

// Pooled slices that windows at one depth of the output reach.
template <class T>
struct MeetingSlices {
  int count;
  const T* values[kMostSlices];
  const uint8_t* offsets[kMostSlices];
  int64_t first_tap[kMostSlices];
};

// kCount slices (0: any number) of one window, and the first of their taps in every lane: kept in registers.
template <class L, bool kIndexed, int kCount>
struct SliceMeeting {
  typedef typename L::Element T;
  typedef Vector<uint8_t, L::kLanes> Narrow;
  static constexpr int kKept = kCount > 0 ? kCount : static_cast<int>(kMostSlices);

  MeetingSlices<T> slices;
  typename L::IV first_tap[kKept];

  explicit SliceMeeting(const MeetingSlices<T>& from) : slices(from), first_tap() {
    for (int i = 0; kIndexed && i < count(); ++i) {
      first_tap[i] = splat_index<L>(from.first_tap[i]);
    }
  }

  TORCH_MAXPOOL_INLINE int count() const {
    return kCount > 0 ? kCount : slices.count;
  }

  // Elements [at, at + kLanes).
  TORCH_MAXPOOL_INLINE Champions<L, kIndexed> operator()(int64_t at) const {
    const auto slice = [&](int i) __attribute__((always_inline)) {
      Champions<L, kIndexed> champions = {L::load(slices.values[i] + at), {}};
      if constexpr (kIndexed) {
        champions.index = convert<typename L::IV>(load_vector<Narrow>(slices.offsets[i] + at)) + first_tap[i];
      }
      return champions;
    };
    Champions<L, kIndexed> best = slice(0);
    for (int i = 1; i < count(); ++i) {
      best.meet(slice(i));
    }
    return best;
  }
};

// `count` elements; slices have room for a vector beyond.
template <class L, bool kIndexed, int kCount>
inline void meet_slices_of(
    const MeetingSlices<typename L::Element>& slices,
    int64_t count,
    bool stream,
    typename L::Element* values,
    uint8_t* offsets) {
  typedef typename L::Element T;
  constexpr int kLanes = L::kLanes;
  const SliceMeeting<L, kIndexed, kCount> meeting(slices);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t at = i + kLanes <= count || count < kLanes ? i : count - kLanes; // the last overlaps the one before
    const Champions<L, kIndexed> best = meeting(at);
    if (count < kLanes) {
      T few_values[kLanes];
      uint8_t few_offsets[kLanes];
      L::store(few_values, best.value);
      __builtin_memcpy(values, few_values, count * sizeof(T));
      if constexpr (kIndexed) {
        store_offsets<L>(few_offsets, best.index);
        __builtin_memcpy(offsets, few_offsets, count);
      }
      return;
    }
    if (stream && is_aligned<typename L::V>(values + at)) {
      L::stream(values + at, best.value);
    } else {
      L::store(values + at, best.value);
    }
    if constexpr (kIndexed) {
      store_offsets<L>(offsets + at, best.index);
    }
  }
}

template <class L, bool kIndexed>
inline void meet_slices(
    const MeetingSlices<typename L::Element>& slices,
    int64_t count,
    bool stream,
    typename L::Element* values,
    uint8_t* offsets) {
  switch (slices.count) {
    case 2:
      return meet_slices_of<L, kIndexed, 2>(slices, count, stream, values, offsets);
    case 3:
      return meet_slices_of<L, kIndexed, 3>(slices, count, stream, values, offsets);
    default:
      return meet_slices_of<L, kIndexed, 0>(slices, count, stream, values, offsets);
  }
}

// Where pooled slices lie in scratch.
template <class T>
struct SliceScratch {
  int64_t values_bytes, offsets_bytes;

  explicit SliceScratch(int64_t places)
      : values_bytes((places * static_cast<int64_t>(sizeof(T)) + kVectorBytes + 63) / 64 * 64),
        offsets_bytes((places + kVectorBytes + 63) / 64 * 64) {}
  int64_t bytes() const {
    return values_bytes + offsets_bytes;
  }
};

// Rows [begin, end) of all depths of one plane; false where they depend on strange lanes.
template <class L, bool kIndexed>
inline bool pool_slices(
    const ForwardParams& p,
    const ForwardPlan& plan,
    PoolPlane pool,
    char* scratch,
    Row row,
    int64_t begin,
    int64_t end) {
  typedef typename L::Element T;
  const Axis& depth = p.shape.d;
  const int64_t width = p.shape.w.output;
  const SliceScratch<T> size(plan.block_rows * width);
  int64_t held[kMostSlices];
  for (int64_t& slice : held) {
    slice = -1;
  }
  bool is_exact = true;
  for (row.d = 0; row.d < depth.output; ++row.d) {
    const Taps taps = taps_of(depth, row.d);
    PlaneView view = plane_view<T>(p, row);
    view.first_slice = 0;
    view.last_slice = 1;
    view.touch = plan.touch;
    view.fetch = plan.fetch;
    T* const output = static_cast<T*>(view.output) + begin * width;
    uint8_t* const offsets = kIndexed ? view.offsets + begin * width : nullptr;
    view.output_pitch = width; // in scratch as in the output
    MeetingSlices<T> slices;
    slices.count = 0;
    for (int64_t t = taps.first; t < taps.last; ++t, ++slices.count) {
      const int64_t z = taps.start + t * depth.dilation;
      const int64_t slot = z / depth.dilation % depth.kernel; // slices of one window have slots of their own
      char* const at = scratch + slot * size.bytes();
      if (held[slot] != z) {
        held[slot] = z;
        view.input = static_cast<const T*>(p.input) + row.n * p.input_strides.n + row.c * p.input_strides.c +
            z * p.input_strides.d;
        view.output = reinterpret_cast<T*>(at) - begin * width;
        view.offsets = kIndexed ? reinterpret_cast<uint8_t*>(at + size.values_bytes) - begin * width : nullptr;
        is_exact &= pool(p, view, false, begin, end);
      }
      slices.values[slices.count] = reinterpret_cast<const T*>(at);
      slices.offsets[slices.count] = reinterpret_cast<const uint8_t*>(at + size.values_bytes);
      slices.first_tap[slices.count] = t * p.shape.h.kernel * p.shape.w.kernel;
    }
    meet_slices<L, kIndexed>(slices, (end - begin) * width, plan.stream, output, offsets);
  }
  return is_exact;
}

// Units: blocks of rows, through all depths.
template <class T, bool kIndexed>
void forward_slices(const ForwardParams& p, const ForwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  typedef Lanes<T> L;
  Shape blocks = p.shape;
  blocks.d.output = 1;
  blocks.h.output = plan.row_blocks;
  Row row = row_of(blocks, begin);
  for (int64_t unit = begin; unit < end; ++unit, advance(blocks, row)) {
    const int64_t first = row.h * plan.block_rows;
    const int64_t last = first + plan.block_rows < p.shape.h.output ? first + plan.block_rows : p.shape.h.output;
    if (pool_slices<L, kIndexed>(p, plan, plan.pool, static_cast<char*>(scratch), row, first, last)) {
      continue;
    }
    if constexpr (kHasExact<L>) {
      const auto pool = pool_slices<typename L::Exact, kIndexed>;
      if (pool(p, plan, plan.pool_exact, static_cast<char*>(scratch), row, first, last)) {
        continue;
      }
    }
    for (int64_t d = 0; d < p.shape.d.output; ++d) {
      for (int64_t h = first; h < last; ++h) {
        forward_row<T>(p, {row.n, row.c, d, h}, 0, p.shape.w.output);
      }
    }
  }
  stream_fence();
}

// Changes a plan of family "strips", made for windows without depth, into one for these.
template <class T>
inline void plan_slices(const ForwardParams& p, ForwardPlan& plan) {
  const Shape& shape = p.shape;
  plan.family = "slices";
  plan.in_lines = false;
  plan.run = p.offsets ? forward_slices<T, true> : forward_slices<T, false>;
  const int64_t row_bytes = shape.d.kernel * shape.w.output * static_cast<int64_t>(sizeof(T) + 1);
  const int64_t rows = kSliceBytes / row_bytes > 8 ? kSliceBytes / row_bytes : 8;
  plan.row_blocks = (shape.h.output + rows - 1) / rows;
  plan.block_rows = (shape.h.output + plan.row_blocks - 1) / plan.row_blocks;
  plan.units = shape.batch * shape.channels * plan.row_blocks;
  plan.scratch_bytes = shape.d.kernel * SliceScratch<T>(plan.block_rows * shape.w.output).bytes();
}

} // namespace
