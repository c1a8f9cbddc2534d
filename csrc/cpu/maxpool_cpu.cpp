// From tensors to plain parameters, and threads: key CPU.
#include "../pooling.h"
#include "joined_rows.h"
#include "kernels.h"
#include "memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/accumulate.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>

#if defined(__linux__)
#include <unistd.h>
#endif

namespace torch_maxpool::cpu {
namespace {

using Sizes = c10::SmallVector<int64_t, 5>;

// Work below this many bytes per thread is not worth a second thread.
constexpr int64_t kBytesPerTask = 64 * 1024;

Element element_of(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Double:
      return kFloat64;
    case c10::ScalarType::Float:
      return kFloat32;
    case c10::ScalarType::Half:
      return kFloat16;
    case c10::ScalarType::BFloat16:
      return kBfloat16;
    case c10::ScalarType::Byte:
    case c10::ScalarType::Bool:
      return kUint8;
    case c10::ScalarType::Char:
      return kInt8;
    case c10::ScalarType::Short:
      return kInt16;
    case c10::ScalarType::Int:
      return kInt32;
    default: // check_input and check_backward_pair let nothing else pass
      return kInt64;
  }
}

at::Tensor empty_pooled(at::IntArrayRef sizes, c10::ScalarType dtype, c10::MemoryFormat memory_format) {
  const auto bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * c10::elementSize(dtype);
  if (bytes >= kLargeResult) {
    return at::detail::empty_generic(
        sizes, large_results(), c10::DispatchKeySet(c10::DispatchKey::CPU), dtype, memory_format);
  }
  return at::Tensor(at::detail::empty_cpu(sizes, dtype, /*pin_memory=*/false, memory_format));
}

// The same elements, aligned to their size as kernels read them: memory that belongs to others (NumPy, a mapped file) may
// begin anywhere.
at::Tensor aligned(const at::Tensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return address % tensor.element_size() == 0 ? tensor : tensor.clone();
}

// Results this large are stored past the cache: a part of it that others leave to one call. Where a processor has several
// such caches, the system may report their sum.
int64_t stream_bytes() {
  static const int64_t bytes = [] {
    int64_t cache = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    constexpr int64_t kMega = int64_t{1} << 20;
    return cache > 0 ? std::clamp(cache / 3, 4 * kMega, 12 * kMega) : 12 * kMega;
  }();
  return bytes;
}

Strides strides_of(const at::Tensor& tensor, int64_t rank) {
  const auto strides = tensor.strides();
  const auto last = [&](int64_t back) { return strides[tensor.dim() - 1 - back]; };
  Strides result{};
  result.w = last(0);
  result.h = rank >= 2 ? last(1) : 0;
  result.d = rank >= 3 ? last(2) : 0;
  result.c = last(rank);
  result.n = tensor.dim() == rank + 2 ? last(rank + 1) : 0;
  return result;
}

// Of a dense tensor that is contiguous or channels_last: unlike strides_of, also where a size of 1 lets a tensor have
// any stride. `spatial`: sizes of depth, height and width.
Strides dense_strides(const Shape& shape, const std::array<int64_t, 3>& spatial, bool is_channels_last) {
  const auto [d, h, w] = spatial;
  const int64_t c = shape.channels;
  return is_channels_last ? Strides{d * h * w * c, 1, h * w * c, w * c, c}
                          : Strides{c * d * h * w, d * h * w, h * w, w, 1};
}

// `sizes`: of any of the pooling's tensors, for batch and channels.
Shape shape_of(
    const Pooling& pooling,
    at::IntArrayRef sizes,
    at::IntArrayRef input_spatial_size,
    const Geometry<int64_t>& geometry) {
  const int64_t rank = pooling.rank;
  const auto dims = static_cast<int64_t>(sizes.size());
  const auto axis = [&](int64_t back) -> Axis {
    const int64_t i = rank - 1 - back;
    if (i < 0) {
      return {1, 1, 1, 1, 1, 0};
    }
    // A stride that nothing takes and a dilation between no two taps can be anything; kernels multiply by them.
    const int64_t kernel = pooling.kernel_size[i];
    const int64_t output = geometry.output[i];
    return {
        input_spatial_size[i],
        output,
        kernel,
        output > 1 ? pooling.stride[i] : std::min(pooling.stride[i], pooling.effective[i]),
        kernel > 1 ? pooling.dilation[i] : 1,
        geometry.pad_before[i]};
  };
  return {axis(2), axis(1), axis(0), dims == rank + 2 ? sizes[0] : 1, sizes[dims - rank - 1]};
}

int64_t rows_of(const Shape& shape) {
  return shape.batch * shape.channels * shape.d.output * shape.h.output;
}

// Units per task so that a task moves at least kBytesPerTask.
int64_t grain(int64_t bytes_per_unit) {
  return std::max<int64_t>(1, kBytesPerTask / std::max<int64_t>(1, bytes_per_unit));
}

// Runs `body(begin, end)` over all units on all threads; returns -1 or one of the non-negative results.
template <class Body>
int64_t run(int64_t units, int64_t units_per_task, const Body& body) {
  std::atomic<int64_t> result{-1};
  at::parallel_for(0, units, units_per_task, [&](int64_t begin, int64_t end) {
    const int64_t found = body(begin, end);
    if (found >= 0) {
      result.store(found, std::memory_order_relaxed);
    }
  });
  return result.load();
}

void check_found(const Pooling& pooling, int64_t bad) {
  TORCH_CHECK_INDEX(
      bad < 0,
      pooling.op,
      ": offsets hold a value that names no element of its window (element ",
      bad,
      " of the outputs, counted in contiguous order)");
}

// Memory for one task, aligned for vectors: on the stack where it is little, as small poolings take no longer than malloc.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : memory_(bytes <= kOnStack ? nullptr : c10::alloc_cpu(bytes)) {}
  ~Scratch() {
    if (memory_ != nullptr) {
      c10::free_cpu(memory_);
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* get() {
    return memory_ == nullptr ? static_cast<void*>(small_) : memory_;
  }

 private:
  static constexpr int64_t kOnStack = 32 * 1024;
  void* memory_;
  alignas(64) char small_[kOnStack];
};

struct Pooled {
  at::Tensor output;
  at::Tensor offsets; // undefined: values only
};

Pooled forward(const at::Tensor& input, const Pooling& pooling, bool with_offsets) {
  check_input(pooling, input);
  const auto spatial_size = input.sizes().slice(input.dim() - pooling.rank);
  const auto geometry = pooled_geometry<int64_t>(pooling, spatial_size);
  const auto sizes = with_spatial_size<int64_t>(pooling, input.sizes(), geometry.output);
  const auto format = pooled_memory_format(pooling, input);
  const auto dtype = with_offsets ? offsets_dtype(pooling) : c10::ScalarType::Undefined;

  Pooled pooled;
  pooled.output = empty_pooled(sizes, input.scalar_type(), format);
  if (with_offsets) {
    pooled.offsets = empty_pooled(sizes, dtype, format);
  }
  const auto elements = aligned(input);
  ForwardParams params{};
  params.shape = shape_of(pooling, sizes, spatial_size, geometry);
  params.input = elements.const_data_ptr();
  params.input_strides = strides_of(elements, pooling.rank);
  params.output = pooled.output.mutable_data_ptr();
  params.offsets = with_offsets ? pooled.offsets.mutable_data_ptr() : nullptr;
  params.output_strides = strides_of(pooled.output, pooling.rank);
  params.wide_offsets = dtype == c10::ScalarType::Int;
  params.stream_bytes = stream_bytes();
  params.infinity = input.scalar_type() == c10::ScalarType::Half ? 0x7c00 : 0x7f80;

  if (pooled.output.numel() == 0) {
    return pooled;
  }
  join_rows(params, input.element_size());
  const auto plan = kernels().plan_forward[element_of(input.scalar_type())](params);
  const int64_t bytes = (input.numel() + pooled.output.numel()) * input.element_size();
  run(plan.units, grain(bytes / plan.units), [&](int64_t begin, int64_t end) -> int64_t {
    Scratch scratch(plan.scratch_bytes);
    plan.run(params, plan, scratch.get(), begin, end);
    return -1;
  });
  return pooled;
}

std::tuple<at::Tensor, at::Tensor> maxpool_forward_cpu(
    const at::Tensor& input,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    bool exact,
    std::string_view auto_pad) {
  const auto pooling =
      check_arguments("maxpool_forward", {kernel_size, stride, padding, dilation, ceil_mode, exact, auto_pad});
  auto pooled = forward(input, pooling, true);
  return {std::move(pooled.output), std::move(pooled.offsets)};
}

at::Tensor maxpool_values_cpu(
    const at::Tensor& input,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    bool exact,
    std::string_view auto_pad) {
  const auto pooling =
      check_arguments("maxpool_values", {kernel_size, stride, padding, dilation, ceil_mode, exact, auto_pad});
  return forward(input, pooling, false).output;
}

at::Tensor maxpool_backward_cpu(
    const at::Tensor& grad_output,
    const at::Tensor& offsets,
    c10::SymIntArrayRef symbolic_spatial_size,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad) {
  const auto pooling =
      check_arguments("maxpool_backward", {kernel_size, stride, padding, dilation, ceil_mode, false, auto_pad});
  check_backward_pair(pooling, grad_output, offsets);
  check_spatial_size(pooling, symbolic_spatial_size);
  const auto spatial_size = C10_AS_INTARRAYREF_SLOW(symbolic_spatial_size);
  const auto geometry = pooled_geometry<int64_t>(pooling, spatial_size);
  check_sizes<int64_t>(
      pooling,
      "grad_output",
      grad_output.sizes(),
      with_spatial_size<int64_t>(pooling, grad_output.sizes(), geometry.output));
  std::array<int64_t, kMaxRank> spatial{};
  std::copy(spatial_size.begin(), spatial_size.end(), spatial.begin());
  const auto sizes = with_spatial_size<int64_t>(pooling, grad_output.sizes(), spatial);

  const auto format = pooled_memory_format(pooling, offsets);
  auto grad_input = empty_pooled(sizes, grad_output.scalar_type(), format);
  if (grad_input.numel() == 0) {
    return grad_input;
  }
  const auto dense_grad = aligned(grad_output.contiguous(format));
  const auto dense_offsets = aligned(offsets.contiguous(format));
  BackwardParams params{};
  params.shape = shape_of(pooling, sizes, spatial_size, geometry);
  params.grad_output = dense_grad.const_data_ptr();
  params.offsets = dense_offsets.const_data_ptr();
  params.grad_input = grad_input.mutable_data_ptr();
  const auto& [d, h, w, batch, channels] = params.shape;
  params.is_channels_last = format != c10::MemoryFormat::Contiguous && channels > 1;
  params.output_strides = dense_strides(params.shape, {d.output, h.output, w.output}, params.is_channels_last);
  params.input_strides = dense_strides(params.shape, {d.input, h.input, w.input}, params.is_channels_last);
  params.wide_offsets = offsets.scalar_type() == c10::ScalarType::Int;
  params.stream_bytes = stream_bytes();

  join_rows(params);
  const auto plan = kernels().plan_backward[element_of(grad_output.scalar_type())](params);
  const int64_t bytes = (grad_input.numel() + grad_output.numel()) * grad_output.element_size();
  const int64_t bad = run(plan.units, grain(bytes / plan.units), [&](int64_t begin, int64_t end) {
    Scratch scratch(plan.scratch_bytes);
    return plan.run(params, plan, scratch.get(), begin, end);
  });
  check_found(pooling, bad);
  return grad_input;
}

at::Tensor maxpool_gather_cpu(
    const at::Tensor& input,
    const at::Tensor& offsets,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad) {
  const auto pooling =
      check_arguments("maxpool_gather", {kernel_size, stride, padding, dilation, ceil_mode, false, auto_pad});
  check_input(pooling, input);
  check_offsets(pooling, offsets);
  check_same_device(pooling, "input", input, offsets);
  const auto spatial_size = input.sizes().slice(input.dim() - pooling.rank);
  const auto geometry = pooled_geometry<int64_t>(pooling, spatial_size);
  const auto sizes = with_spatial_size<int64_t>(pooling, input.sizes(), geometry.output);
  check_sizes<int64_t>(pooling, "offsets", offsets.sizes(), sizes);

  const auto format = pooled_memory_format(pooling, offsets);
  const auto dense_offsets = aligned(offsets.contiguous(format));
  auto gathered = empty_pooled(sizes, input.scalar_type(), format);
  const auto elements = aligned(input);
  PlacesParams params{};
  params.shape = shape_of(pooling, sizes, spatial_size, geometry);
  params.offsets = dense_offsets.const_data_ptr();
  params.input = elements.const_data_ptr();
  params.input_strides = strides_of(elements, pooling.rank);
  params.gathered = gathered.mutable_data_ptr();
  params.output_strides = strides_of(gathered, pooling.rank);
  params.element_bytes = static_cast<int>(input.element_size());
  params.wide_offsets = offsets.scalar_type() == c10::ScalarType::Int;
  const auto kernel = kernels().places;
  const int64_t bad = run(rows_of(params.shape), grain(params.shape.w.output * 16), [&](int64_t begin, int64_t end) {
    return kernel(params, begin, end);
  });
  check_found(pooling, bad);
  return gathered;
}

at::Tensor maxpool_indices_cpu(
    const at::Tensor& offsets,
    c10::SymIntArrayRef symbolic_spatial_size,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad) {
  const auto pooling =
      check_arguments("maxpool_indices", {kernel_size, stride, padding, dilation, ceil_mode, false, auto_pad});
  check_offsets(pooling, offsets);
  check_spatial_size(pooling, symbolic_spatial_size);
  const auto spatial_size = C10_AS_INTARRAYREF_SLOW(symbolic_spatial_size);
  const auto geometry = pooled_geometry<int64_t>(pooling, spatial_size);
  check_sizes<int64_t>(
      pooling, "offsets", offsets.sizes(), with_spatial_size<int64_t>(pooling, offsets.sizes(), geometry.output));
  std::array<int64_t, kMaxRank> spatial{};
  std::copy(spatial_size.begin(), spatial_size.end(), spatial.begin());
  with_spatial_size<int64_t>(pooling, offsets.sizes(), spatial); // plane indices must fit int64

  const auto format = pooled_memory_format(pooling, offsets);
  const auto dense_offsets = aligned(offsets.contiguous(format));
  auto indices = empty_pooled(offsets.sizes(), c10::ScalarType::Long, format);
  PlacesParams params{};
  params.shape = shape_of(pooling, offsets.sizes(), spatial_size, geometry);
  params.offsets = dense_offsets.const_data_ptr();
  params.indices = indices.mutable_data_ptr<int64_t>();
  params.output_strides = strides_of(indices, pooling.rank);
  params.wide_offsets = offsets.scalar_type() == c10::ScalarType::Int;
  const auto kernel = kernels().places;
  const int64_t bad = run(rows_of(params.shape), grain(params.shape.w.output * 16), [&](int64_t begin, int64_t end) {
    return kernel(params, begin, end);
  });
  check_found(pooling, bad);
  return indices;
}

TORCH_LIBRARY_IMPL(torch_maxpool, CPU, library) {
  library.impl("maxpool_forward", TORCH_FN(maxpool_forward_cpu));
  library.impl("maxpool_values", TORCH_FN(maxpool_values_cpu));
  library.impl("maxpool_backward", TORCH_FN(maxpool_backward_cpu));
  library.impl("maxpool_gather", TORCH_FN(maxpool_gather_cpu));
  library.impl("maxpool_indices", TORCH_FN(maxpool_indices_cpu));
}

} // namespace
} // namespace torch_maxpool::cpu
