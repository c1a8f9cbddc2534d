// Shapes, dtypes and strides without data: key Meta. Sizes may be symbolic. The same functions check
// the arguments of tensors that have no kernels.
#include "pooling.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace torch_maxpool {
namespace {

at::Tensor empty_like_pooled(
    const at::Tensor& like,
    c10::SymIntArrayRef sizes,
    c10::ScalarType dtype,
    c10::MemoryFormat memory_format) {
  return at::empty_symint(sizes, like.options().dtype(dtype).memory_format(memory_format));
}

c10::SmallVector<c10::SymInt, 5> pooled_sizes(const Pooling& pooling, const at::Tensor& input) {
  check_input(pooling, input);
  const auto sizes = input.sym_sizes();
  const auto geometry = pooled_geometry<c10::SymInt>(pooling, sizes.slice(input.dim() - pooling.rank));
  return with_spatial_size<c10::SymInt>(pooling, sizes, geometry.output);
}

std::tuple<at::Tensor, at::Tensor> maxpool_forward_meta(
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
  const auto sizes = pooled_sizes(pooling, input);
  const auto format = pooled_memory_format(pooling, input);
  return {
      empty_like_pooled(input, sizes, input.scalar_type(), format),
      empty_like_pooled(input, sizes, offsets_dtype(pooling), format)};
}

at::Tensor maxpool_values_meta(
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
  const auto sizes = pooled_sizes(pooling, input);
  return empty_like_pooled(input, sizes, input.scalar_type(), pooled_memory_format(pooling, input));
}

at::Tensor maxpool_backward_meta(
    const at::Tensor& grad_output,
    const at::Tensor& offsets,
    c10::SymIntArrayRef input_spatial_size,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad) {
  const auto pooling =
      check_arguments("maxpool_backward", {kernel_size, stride, padding, dilation, ceil_mode, false, auto_pad});
  check_backward_pair(pooling, grad_output, offsets);
  check_spatial_size(pooling, input_spatial_size);
  const auto geometry = pooled_geometry<c10::SymInt>(pooling, input_spatial_size);
  check_sizes<c10::SymInt>(
      pooling,
      "grad_output",
      grad_output.sym_sizes(),
      with_spatial_size<c10::SymInt>(pooling, grad_output.sym_sizes(), geometry.output));
  std::array<c10::SymInt, kMaxRank> spatial;
  std::copy(input_spatial_size.begin(), input_spatial_size.end(), spatial.begin());
  const auto sizes = with_spatial_size<c10::SymInt>(pooling, grad_output.sym_sizes(), spatial);
  return empty_like_pooled(grad_output, sizes, grad_output.scalar_type(), pooled_memory_format(pooling, offsets));
}

at::Tensor maxpool_gather_meta(
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
  const auto sizes = pooled_sizes(pooling, input);
  check_offsets(pooling, offsets);
  check_same_device(pooling, "input", input, offsets);
  check_sizes<c10::SymInt>(pooling, "offsets", offsets.sym_sizes(), sizes);
  return empty_like_pooled(input, sizes, input.scalar_type(), pooled_memory_format(pooling, offsets));
}

at::Tensor maxpool_indices_meta(
    const at::Tensor& offsets,
    c10::SymIntArrayRef input_spatial_size,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad) {
  const auto pooling =
      check_arguments("maxpool_indices", {kernel_size, stride, padding, dilation, ceil_mode, false, auto_pad});
  check_offsets(pooling, offsets);
  check_spatial_size(pooling, input_spatial_size);
  const auto geometry = pooled_geometry<c10::SymInt>(pooling, input_spatial_size);
  check_sizes<c10::SymInt>(
      pooling,
      "offsets",
      offsets.sym_sizes(),
      with_spatial_size<c10::SymInt>(pooling, offsets.sym_sizes(), geometry.output));
  return empty_like_pooled(offsets, offsets.sym_sizes(), c10::ScalarType::Long, pooled_memory_format(pooling, offsets));
}

constexpr char kForward[] = "maxpool_forward";
constexpr char kValues[] = "maxpool_values";
constexpr char kBackward[] = "maxpool_backward";
constexpr char kGather[] = "maxpool_gather";
constexpr char kIndices[] = "maxpool_indices";

// Stands in where a device or layout has no kernel, and for None: the meta function's errors first, then this one.
template <const auto& kName, auto kMeta>
struct NoKernel;
template <const auto& kName, class Result, class... Args, Result (*kMeta)(const at::Tensor&, Args...)>
struct NoKernel<kName, kMeta> {
  static Result call(const at::Tensor& tensor, Args... args) {
    kMeta(tensor, args...);
    // not covered: PyTorch for CPUs has no other device whose tensors hold data
    TORCH_CHECK_NOT_IMPLEMENTED(false, kName, ": no kernel for ", tensor.device());
  }
};

template <const auto& kName, auto kMeta>
void register_no_kernel(torch::Library& library) {
  library.impl(kName, &NoKernel<kName, kMeta>::call);
}

} // namespace

TORCH_LIBRARY_IMPL(torch_maxpool, Meta, library) {
  library.impl(kForward, TORCH_FN(maxpool_forward_meta));
  library.impl(kValues, TORCH_FN(maxpool_values_meta));
  library.impl(kBackward, TORCH_FN(maxpool_backward_meta));
  library.impl(kGather, TORCH_FN(maxpool_gather_meta));
  library.impl(kIndices, TORCH_FN(maxpool_indices_meta));
}
// Every key without a kernel of its own: sparse, quantized and mkldnn tensors, other devices, undefined tensors.
TORCH_LIBRARY_IMPL(torch_maxpool, CompositeExplicitAutograd, library) {
  register_no_kernel<kForward, maxpool_forward_meta>(library);
  register_no_kernel<kValues, maxpool_values_meta>(library);
  register_no_kernel<kBackward, maxpool_backward_meta>(library);
  register_no_kernel<kGather, maxpool_gather_meta>(library);
  register_no_kernel<kIndices, maxpool_indices_meta>(library);
}

} // namespace torch_maxpool
