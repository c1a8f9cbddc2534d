// The operators of torch_maxpool as C++ functions: each calls the dispatcher, so autograd, tracing, modes and every back
// end apply as they do to torch.ops.torch_maxpool.*.
//
// Common to all of them:
//   kernel_size   1, 2 or 3 entries: the spatial rank
//   stride        0 (= kernel_size), 1 or rank entries
//   padding       1, rank, or 2 * rank entries (all begins, then all ends), each less than the effective kernel size
//   dilation      1 or rank entries
//   auto_pad      "explicit" (padding counts), "same" or "same_lower" (padding follows from the input size and must be 0)
//   input         [N, C, spatial...] or [C, spatial...]; float64, float32, float16, bfloat16, uint8, int8, int16, int32,
//                 int64 or bool; any strides
//   offsets       row-major place of each window's winner in its window; uint8 up to 256 window elements, int32 above;
//                 same shape and layout as the output
// Errors (all c10::Error): bad hyper-parameters (ValueError in Python), ranks and shapes (RuntimeError), dtypes and layouts
// (TypeError), empty outputs (RuntimeError), windows that do not tile the input where exact is set (ValueError, "Invalid
// dimensions!"), offsets that name no element of their window (IndexError).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/util/ArrayRef.h>

#include <string_view>
#include <tuple>

namespace torch_maxpool {

// Each window's maximum and its offset. The first of equal elements wins; a NaN beats every number and the last NaN is
// named. A window without any element of the input gives -inf (or the dtype's minimum) and offset 0.
std::tuple<at::Tensor, at::Tensor> maxpool_forward(
    const at::Tensor& input,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride = {},
    at::IntArrayRef padding = {0},
    at::IntArrayRef dilation = {1},
    bool ceil_mode = false,
    bool exact = false,
    std::string_view auto_pad = "explicit");

// Each window's maximum alone. Offsets are computed only where a gradient is recorded.
at::Tensor maxpool_values(
    const at::Tensor& input,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride = {},
    at::IntArrayRef padding = {0},
    at::IntArrayRef dilation = {1},
    bool ceil_mode = false,
    bool exact = false,
    std::string_view auto_pad = "explicit");

// grad_input: each element of grad_output is added to the input element its offset names. grad_output is floating
// point; float16 and bfloat16 sums are kept in float32. Raises on an offset that names no element of its window; a window
// without elements passes nothing on.
at::Tensor maxpool_backward(
    const at::Tensor& grad_output,
    const at::Tensor& offsets,
    c10::SymIntArrayRef input_spatial_size,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad = "explicit");

// The elements of input at the winners' places: the derivative of maxpool_backward, and of maxpool_forward in forward
// mode. 0 for a window without elements. Raises on an offset that names no element of its window.
at::Tensor maxpool_gather(
    const at::Tensor& input,
    const at::Tensor& offsets,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad = "explicit");

// Offsets as PyTorch's int64 indices, flattened over the input's spatial sizes (what F.max_pool*d returns and
// F.max_unpool*d takes); -1 for a window without elements. Raises on an offset that names no element of its window.
at::Tensor maxpool_indices(
    const at::Tensor& offsets,
    c10::SymIntArrayRef input_spatial_size,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad = "explicit");

} // namespace torch_maxpool
