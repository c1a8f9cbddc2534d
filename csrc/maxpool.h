// Max pooling for C++ programs, with PyTorch's own option types. The public header: #include <torch_maxpool/maxpool.h>.
//
//   namespace nn = torch::nn;
//   auto y = torch_maxpool::max_pool2d(x, nn::MaxPool2dOptions(3).stride(2).padding(1));
//   auto [values, indices] = torch_maxpool::max_pool2d_with_indices(x, nn::MaxPool2dOptions({3, 2}));
//   nn::Sequential model(nn::Conv2d(nn::Conv2dOptions(1, 8, 3)), nn::ReLU(), torch_maxpool::MaxPool2d(2));
//
// These functions and modules compute what torch::nn::functional::max_pool*d and torch::nn::MaxPool*d do. torch's
// options hold one padding per dimension; for padding that differs before and after, "same" padding and the saved
// offsets see the operators, operators.h.
//
// accelerate() makes torch's own functions and modules, and models already saved, run on these operators: accelerate.h.
//
// Shapes, for D spatial dimensions:
//   input    [N, C, spatial...] or [C, spatial...]; N may be 0
//   output   the same batch and channels, and per spatial dimension
//            floor((size + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1 elements
//            (ceil with ceil_mode, less a window that would start beyond the input and its leading padding)
//   indices  as output, int64: each maximum's place in the row-major input plane (volume), as torch::max_unpool*d wants
//            it; -1 for a window without any element of the input (possible with dilation)
// Dtypes: float64, float32, float16, bfloat16, uint8, int8, int16, int32, int64, bool; gradients for the floating ones.
// Layouts: any strides; channels_last and channels_last_3d input gives output of that layout.
// Ties: the first of equal maxima is named; a NaN wins, and the last NaN is named.
// Padding: less than the effective kernel size, dilation * (kernel_size - 1) + 1. PyTorch stops at half of it.
// exact: refuses sizes that the windows do not tile exactly.
//
// Errors are c10::Error, raised before anything is allocated; the message names operator, argument and value.
//   c10::ValueError           kernel_size, stride, padding or dilation out of range; "Invalid dimensions!" under exact
//   c10::TypeError            dtype or layout of input
//   c10::Error                rank or sizes of input; an output that would be empty
#pragma once

#include "accelerate.h"
#include "operators.h"

#include <torch/nn/cloneable.h>
#include <torch/nn/options/pooling.h>
#include <torch/nn/pimpl.h>

#include <cstddef>
#include <ostream>
#include <tuple>
#include <utility>

namespace torch_maxpool {
namespace detail {

template <size_t D>
at::Tensor max_pool(const at::Tensor& input, const torch::nn::MaxPoolOptions<D>& options, bool exact) {
  return maxpool_values(
      input,
      *options.kernel_size(),
      *options.stride(),
      *options.padding(),
      *options.dilation(),
      options.ceil_mode(),
      exact);
}

template <size_t D>
std::tuple<at::Tensor, at::Tensor> max_pool_with_indices(
    const at::Tensor& input,
    const torch::nn::MaxPoolOptions<D>& options,
    bool exact) {
  auto [output, offsets] = maxpool_forward(
      input,
      *options.kernel_size(),
      *options.stride(),
      *options.padding(),
      *options.dilation(),
      options.ceil_mode(),
      exact);
  auto indices = maxpool_indices(
      offsets,
      input.sym_sizes().slice(input.dim() - D),
      *options.kernel_size(),
      *options.stride(),
      *options.padding(),
      *options.dilation(),
      options.ceil_mode());
  return {std::move(output), std::move(indices)};
}

} // namespace detail

// Each window's maximum. Where no gradient is recorded nothing else is computed.
inline at::Tensor max_pool1d(const at::Tensor& input, const torch::nn::MaxPool1dOptions& options, bool exact = false) {
  return detail::max_pool<1>(input, options, exact);
}
inline at::Tensor max_pool2d(const at::Tensor& input, const torch::nn::MaxPool2dOptions& options, bool exact = false) {
  return detail::max_pool<2>(input, options, exact);
}
inline at::Tensor max_pool3d(const at::Tensor& input, const torch::nn::MaxPool3dOptions& options, bool exact = false) {
  return detail::max_pool<3>(input, options, exact);
}

// (output, indices).
inline std::tuple<at::Tensor, at::Tensor> max_pool1d_with_indices(
    const at::Tensor& input,
    const torch::nn::MaxPool1dOptions& options,
    bool exact = false) {
  return detail::max_pool_with_indices<1>(input, options, exact);
}
inline std::tuple<at::Tensor, at::Tensor> max_pool2d_with_indices(
    const at::Tensor& input,
    const torch::nn::MaxPool2dOptions& options,
    bool exact = false) {
  return detail::max_pool_with_indices<2>(input, options, exact);
}
inline std::tuple<at::Tensor, at::Tensor> max_pool3d_with_indices(
    const at::Tensor& input,
    const torch::nn::MaxPool3dOptions& options,
    bool exact = false) {
  return detail::max_pool_with_indices<3>(input, options, exact);
}

// torch::nn::MaxPool{D}dImpl on these operators. No parameters, no buffers: a model's saved file does not depend on
// which of the two it holds.
template <size_t D>
class MaxPoolImpl : public torch::nn::Cloneable<MaxPoolImpl<D>> {
 public:
  MaxPoolImpl(torch::ExpandingArray<D> kernel_size, bool exact = false)
      : MaxPoolImpl(torch::nn::MaxPoolOptions<D>(kernel_size), exact) {}
  explicit MaxPoolImpl(const torch::nn::MaxPoolOptions<D>& options, bool exact = false)
      : options(options), exact(exact) {}

  void reset() override {}

  void pretty_print(std::ostream& stream) const override {
    stream << "torch_maxpool::MaxPool" << D << "d(kernel_size=" << options.kernel_size()
           << ", stride=" << options.stride() << ", padding=" << options.padding()
           << ", dilation=" << options.dilation() << ", ceil_mode=" << (options.ceil_mode() ? "true" : "false")
           << (exact ? ", exact=true)" : ")");
  }

  at::Tensor forward(const at::Tensor& input) {
    return detail::max_pool<D>(input, options, exact);
  }

  // (output, indices).
  std::tuple<at::Tensor, at::Tensor> forward_with_indices(const at::Tensor& input) {
    return detail::max_pool_with_indices<D>(input, options, exact);
  }

  torch::nn::MaxPoolOptions<D> options;
  bool exact;
};

using MaxPool1dImpl = MaxPoolImpl<1>;
using MaxPool2dImpl = MaxPoolImpl<2>;
using MaxPool3dImpl = MaxPoolImpl<3>;
TORCH_MODULE(MaxPool1d);
TORCH_MODULE(MaxPool2d);
TORCH_MODULE(MaxPool3d);

} // namespace torch_maxpool
