// Schemas of the operators, and their C++ functions.
#include "operators.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <vector>

namespace torch_maxpool {
namespace {

template <class Signature>
const c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").template typed<Signature>();
}

// flexible_layout: torch.compile need not copy a tensor to the strides that it had when traced. Without it Inductor, whose
// convolutions are channels_last, would copy every pooling's input and results, in forward and backward.
const std::vector<at::Tag>& tags() {
  static const std::vector<at::Tag> the_tags{at::Tag::pt2_compliant_tag, at::Tag::flexible_layout};
  return the_tags;
}

} // namespace

TORCH_LIBRARY(torch_maxpool, library) {
  library.def(
      "maxpool_forward(Tensor input, int[] kernel_size, int[] stride=[], int[] padding=[0], int[] dilation=[1], "
      "bool ceil_mode=False, *, bool exact=False, str auto_pad=\"explicit\") -> (Tensor output, Tensor offsets)",
      tags());
  library.def(
      "maxpool_values(Tensor input, int[] kernel_size, int[] stride=[], int[] padding=[0], int[] dilation=[1], "
      "bool ceil_mode=False, *, bool exact=False, str auto_pad=\"explicit\") -> Tensor",
      tags());
  library.def(
      "maxpool_backward(Tensor grad_output, Tensor offsets, SymInt[] input_spatial_size, int[] kernel_size, "
      "int[] stride, int[] padding, int[] dilation, bool ceil_mode, *, str auto_pad=\"explicit\") -> Tensor grad_input",
      tags());
  library.def(
      "maxpool_gather(Tensor input, Tensor offsets, int[] kernel_size, int[] stride, int[] padding, int[] dilation, "
      "bool ceil_mode, *, str auto_pad=\"explicit\") -> Tensor",
      tags());
  library.def(
      "maxpool_indices(Tensor offsets, SymInt[] input_spatial_size, int[] kernel_size, int[] stride, int[] padding, "
      "int[] dilation, bool ceil_mode, *, str auto_pad=\"explicit\") -> Tensor",
      tags());
}

std::tuple<at::Tensor, at::Tensor> maxpool_forward(
    const at::Tensor& input,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    bool exact,
    std::string_view auto_pad) {
  static const auto op = find<decltype(maxpool_forward)>("torch_maxpool::maxpool_forward");
  return op.call(input, kernel_size, stride, padding, dilation, ceil_mode, exact, auto_pad);
}

at::Tensor maxpool_values(
    const at::Tensor& input,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    bool exact,
    std::string_view auto_pad) {
  static const auto op = find<decltype(maxpool_values)>("torch_maxpool::maxpool_values");
  return op.call(input, kernel_size, stride, padding, dilation, ceil_mode, exact, auto_pad);
}

at::Tensor maxpool_backward(
    const at::Tensor& grad_output,
    const at::Tensor& offsets,
    c10::SymIntArrayRef input_spatial_size,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad) {
  static const auto op = find<decltype(maxpool_backward)>("torch_maxpool::maxpool_backward");
  return op.call(grad_output, offsets, input_spatial_size, kernel_size, stride, padding, dilation, ceil_mode, auto_pad);
}

at::Tensor maxpool_gather(
    const at::Tensor& input,
    const at::Tensor& offsets,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad) {
  static const auto op = find<decltype(maxpool_gather)>("torch_maxpool::maxpool_gather");
  return op.call(input, offsets, kernel_size, stride, padding, dilation, ceil_mode, auto_pad);
}

at::Tensor maxpool_indices(
    const at::Tensor& offsets,
    c10::SymIntArrayRef input_spatial_size,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad) {
  static const auto op = find<decltype(maxpool_indices)>("torch_maxpool::maxpool_indices");
  return op.call(offsets, input_spatial_size, kernel_size, stride, padding, dilation, ceil_mode, auto_pad);
}

} // namespace torch_maxpool
