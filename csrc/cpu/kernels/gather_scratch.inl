// Backward, family "gather": how the windows that elements ask lie in scratch. See gather.inl.

namespace {

inline constexpr int64_t kGatherStride = 8; // along height and width, at the most
inline constexpr int64_t kGatherHalo = 4096; // in each dimension, at the most
inline constexpr int64_t kGatherBytes = 24 * 1024; // of scratch per block, where its halo lets it

// Places j and distances m along one dimension.
struct Places {
  int64_t first, count; // of places j that hold elements
  int64_t halo; // the largest m
};

inline Places places_of(const Axis& axis) {
  const int64_t first = axis.pad / axis.stride;
  return {
      first, (axis.input - 1 + axis.pad) / axis.stride - first + 1, (axis.kernel - 1) * axis.dilation / axis.stride};
}

// Phase and distance of each tap along one dimension: the divisions, done once.
struct TapDistances {
  int32_t phase[256], distance[256];

  explicit TapDistances(const Axis& axis) {
    for (int64_t tap = 0; tap < axis.kernel; ++tap) {
      phase[tap] = static_cast<int32_t>(tap * axis.dilation % axis.stride);
      distance[tap] = static_cast<int32_t>(tap * axis.dilation / axis.stride);
    }
  }
};

// How a block lies in scratch. Columns and rows count from the first that is loaded.
struct GatherBlock {
  Places d, h, w;
  int64_t rows, columns; // places j of a block, at the most
  int64_t pitch; // columns and the halo before them
  int64_t
      plane; // elements of one depth of the output in scratch: rows and halo of `pitch`, and vectors read past the end
  int64_t depths; // depths of the output kept at a time
  int64_t lines; // elements of one phase
};

template <class S>
inline GatherBlock gather_block(const Shape& shape, int64_t rows, int64_t columns) {
  const int64_t slack = 5 * S::kLanes + places_of(shape.w).halo;
  GatherBlock block = {places_of(shape.d), places_of(shape.h), places_of(shape.w), rows, columns, 0, 0, 0, 0};
  block.pitch = columns + block.w.halo;
  block.plane = (rows + block.h.halo) * block.pitch + slack;
  block.depths = block.d.halo + 1 < shape.d.output ? block.d.halo + 1 : shape.d.output;
  block.lines = rows * block.pitch + slack;
  return block;
}

template <class T>
struct GatherScratch {
  typedef SumOf<T> Sum;
  Sum* grads; // depths x plane
  Sum* lines; // phases along the width x lines
  uint8_t* offsets; // depths x plane
  uint8_t* edges; // for RowCheck

  GatherScratch(const Shape& shape, const GatherBlock& block, void* scratch)
      : grads(static_cast<Sum*>(scratch)),
        lines(grads + block.depths * block.plane),
        offsets(reinterpret_cast<uint8_t*>(lines + shape.w.stride * block.lines)),
        edges(offsets + block.depths * block.plane) {}

  // All but the edges.
  static int64_t block_bytes(const Shape& shape, const GatherBlock& block) {
    return block.depths * block.plane * static_cast<int64_t>(sizeof(Sum) + 1) +
        shape.w.stride * block.lines * static_cast<int64_t>(sizeof(Sum));
  }
};

} // namespace
