// What the tensor side (maxpool_cpu.cpp) and the kernels (kernels.inl, compiled once per instruction set) agree on:
// plain structs and function pointers, no torch types.
#pragma once

#include <cstdint>

namespace torch_maxpool::cpu {

// Element types as the kernels see them; bool is kUint8.
enum Element : int {
  kFloat64,
  kFloat32,
  kFloat16,
  kBfloat16,
  kUint8,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kElementCount,
};
inline constexpr int kFloatingCount = 4; // the first four can carry gradients

// One spatial dimension. Dimensions that a pooling lacks have size 1, kernel 1, stride 1, no padding.
struct Axis {
  int64_t input; // size of the input
  int64_t output; // size of the output
  int64_t kernel;
  int64_t stride; // at most dilation * (kernel - 1) + 1 where output is 1
  int64_t dilation; // 1 where kernel is 1
  int64_t pad; // leading padding
};

// A pooling over depth, height and width.
struct Shape {
  Axis d, h, w;
  int64_t batch;
  int64_t channels;
};

// Strides in elements.
struct Strides {
  int64_t n, c, d, h, w;
};

struct ForwardParams {
  Shape shape;
  const void* input; // any strides
  Strides input_strides;
  void* output;
  void* offsets; // null: values only
  Strides output_strides; // of output and of offsets
  bool wide_offsets; // int32 rather than uint8
  int64_t stream_bytes; // outputs this large pass by the cache
  int infinity; // the bits of infinity, for 16-bit floats: 0x7c00 or 0x7f80
};

struct BackwardParams {
  Shape shape;
  const void* grad_output;
  const void* offsets;
  Strides output_strides; // of grad_output and of offsets
  void* grad_input;
  Strides input_strides;
  bool is_channels_last; // all of them; else all are contiguous
  int64_t stream_bytes; // grad_input this large passes by the cache
  bool wide_offsets;
};

struct PlacesParams {
  Shape shape;
  const void* offsets;
  Strides output_strides; // of offsets and of the results: contiguous or channels_last
  int64_t* indices; // PyTorch's plane indices, or null
  const void* input; // any strides; for gathering, or null
  Strides input_strides;
  void* gathered; // elements of `input`, or null
  int element_bytes; // of input and gathered: 1, 2, 4 or 8
  bool wide_offsets;
};

// Kernels work on a range of units; units are independent of each other, so any split gives the same result.

// One plane of the output and the slice of the input (more than one: see plan_strips) that it is pooled from: where their
// rows begin, and the distance between rows in elements.
struct PlaneView {
  const void* input; // of tap 0 along the depth
  int64_t input_pitch;
  int64_t slice_pitch;
  int64_t first_slice, last_slice; // taps [first, last) along the depth
  void* output;
  uint8_t* offsets; // null: values only
  int64_t output_pitch;
  void* ring; // scratch for rows that windows share, or null
  bool touch; // the input comes from beyond the nearest caches: see `touch` in vectors.inl
  bool fetch; // it comes from beyond the nearest caches, or from the last: see `fetch` there
};

struct ForwardPlan;
// Rows [begin, end) of one plane of the output; false where its result must be computed again, exactly.
using PoolPlane = bool (*)(const ForwardParams&, const PlaneView&, bool stream, int64_t begin, int64_t end);
// `scratch`: ForwardPlan::scratch_bytes, aligned to 64 bytes, one per thread.
using ForwardKernel = void (*)(const ForwardParams&, const ForwardPlan&, void* scratch, int64_t begin, int64_t end);

// How a forward is to be computed.
struct ForwardPlan {
  // "windows", "columns", "picked", "run", "short runs", "flat", "strips", "narrow", "slices", "sliding", "tile",
  // "channels", "transposed": for tests and reports
  const char* family;
  ForwardKernel run;
  int64_t units;
  int64_t scratch_bytes;
  int64_t cost; // in tenths of nanoseconds, of one thread; 0 where family "transposed" is not to be compared with
  // Families "strips" and "slices": a unit is a block of rows of one plane (through all depths: "slices").
  bool stream; // the output passes by the cache
  bool in_lines; // through scratch: see streamed.inl
  int64_t ring_bytes; // of scratch, for rows that windows share; then come those lines
  int64_t lines_at; // family "flat": where they come
  bool touch, fetch; // see PlaneView
  PoolPlane pool;
  PoolPlane pool_exact; // null, or false: windows one by one
  // Families "tile" and "sliding": a unit is a block of rows x columns of the output, through all depths of one group of planes.
  int64_t group; // adjacent elements that share a place: channels where they are pooled as part of the row, else 1
  // (families "narrow" and "transposed": planes that are a unit)
  int64_t row_blocks, column_blocks; // units per plane
  int64_t block_rows, block_columns; // in elements of the output (columns: places)
};
using PlanForward = ForwardPlan (*)(const ForwardParams&);

struct BackwardPlan;
// Returns -1, or the place (counted in contiguous order) of an offset that names no element of its window; what was
// written until then is within bounds and meaningless. `scratch`: as for ForwardKernel.
using BackwardKernel =
    int64_t (*)(const BackwardParams&, const BackwardPlan&, void* scratch, int64_t begin, int64_t end);

// How a backward is to be computed.
struct BackwardPlan {
  // "disjoint", "direct", "direct_channels", "walk", "walk_pairs", "gather", "gather_channels", "scatter": for tests and
  // reports
  const char* family;
  BackwardKernel run;
  int64_t units;
  int64_t scratch_bytes;
  bool stream; // grad_input passes by the cache
  bool in_lines; // through scratch, from `lines_at` bytes on: see streamed.inl
  int64_t lines_at;
  bool touch; // grad_output comes from beyond the nearest caches: see `touch` in vectors.inl
  bool fetch; // so do both, or from the last: see `fetch` there
  // Family "gather": a unit is a block of rows x columns of places (gather.inl) of one plane, through all depths.
  int64_t row_blocks, column_blocks; // units per plane
  int64_t block_rows, block_columns;
  // Families "direct", "direct_channels" and "scatter": a unit is a group of channels and a slab of the input.
  int64_t group; // channels in a group
  int slab_axis; // 0: depth, 1: height, 2: width
  int64_t slab, slabs; // length, and how many
  int64_t table_bytes; // of scratch, before the sums
  bool in_lockstep; // lockstep.inl adds up
  // Family "direct".
  int form; // of its lines: LineForm (listing.inl)
  int64_t tabled; // planes that are listed together
  int64_t turns; // planes that go in turns
  bool sparse; // few sums are touched
};
using PlanBackward = BackwardPlan (*)(const BackwardParams&);

// Units: rows of the output (batch x channels x depth x height). Returns as BackwardKernel does.
using PlacesKernel = int64_t (*)(const PlacesParams&, int64_t begin, int64_t end);

struct BackwardTable {
  PlanBackward plan[kFloatingCount];
};

struct KernelTable {
  const char* name; // "default", "avx2", "avx512"
  PlanForward plan_forward[kElementCount];
  const PlanBackward* plan_backward; // [kFloatingCount]
  PlacesKernel places;
};

// The table for this processor, by PyTorch's own choice (at::get_cpu_capability, so ATEN_CPU_CAPABILITY applies).
const KernelTable& kernels();

// Each in two files, which take a compiler minutes: kernels_*.cpp and kernels_*_backward.cpp.
extern const KernelTable kernels_default;
extern const BackwardTable backward_default;
#if defined(__x86_64__)
extern const KernelTable kernels_avx2;
extern const BackwardTable backward_avx2;
extern const KernelTable kernels_avx512;
extern const BackwardTable backward_avx512;
#endif

} // namespace torch_maxpool::cpu
