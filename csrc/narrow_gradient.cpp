#include "narrow_gradient.h"
#include "operators.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/max_pool2d_with_indices_backward.h>
#include <ATen/ops/max_pool3d_with_indices_backward.h>
#include <ATen/ops/squeeze.h>
#include <ATen/ops/unsqueeze.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <vector>

namespace torch_maxpool {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using List = std::vector<int64_t>;

// The lists of a call with `rank` entries each.
struct Window {
  Window(int64_t rank, const FunctionalArgs& args) : ceil_mode(args.ceil_mode) {
    const bool has_stride = args.stride.has_value() && !args.stride->empty();
    for (int64_t i = 0; i < rank; ++i) {
      kernel_size.push_back(entry(args.kernel_size, i));
      stride.push_back(has_stride ? entry(*args.stride, i) : kernel_size[i]);
      padding.push_back(entry(args.padding, i));
      dilation.push_back(entry(args.dilation, i));
    }
  }
  explicit Window(const List& packed) : ceil_mode(packed.back() != 0) {
    const auto rank = packed.size() / 4;
    auto from = packed.begin();
    for (auto* list : lists()) {
      list->assign(from, from + rank);
      from += rank;
    }
  }
  List packed() {
    List all;
    for (const auto* list : lists()) {
      all.insert(all.end(), list->begin(), list->end());
    }
    all.push_back(ceil_mode);
    return all;
  }
  std::array<List*, 4> lists() {
    return {&kernel_size, &stride, &padding, &dilation};
  }

  List kernel_size, stride, padding, dilation;
  bool ceil_mode;
};

Tensor indices_of(const Tensor& offsets, c10::SymIntArrayRef input_spatial_size, const Window& window) {
  return maxpool_indices(
      offsets,
      input_spatial_size,
      window.kernel_size,
      window.stride,
      window.padding,
      window.dilation,
      window.ceil_mode);
}

// PyTorch's backward, which reads of its input nothing but sizes and layout.
Tensor pytorch_backward(
    const Tensor& grad,
    const Tensor& indices,
    c10::SymIntArrayRef input_sizes,
    c10::MemoryFormat memory_format,
    Window window) {
  if (window.kernel_size.size() == 1) { // as a plane of one row
    window.kernel_size.insert(window.kernel_size.begin(), 1);
    window.stride.insert(window.stride.begin(), 1);
    window.padding.insert(window.padding.begin(), 0);
    window.dilation.insert(window.dilation.begin(), 1);
    std::vector<c10::SymInt> sizes(input_sizes.begin(), input_sizes.end());
    sizes.insert(sizes.end() - 1, c10::SymInt(1));
    return pytorch_backward(grad.unsqueeze(-2), indices.unsqueeze(-2), sizes, memory_format, window).squeeze(-2);
  }
  const auto input = at::empty_symint(input_sizes, grad.options().memory_format(memory_format));
  const auto backward =
      window.kernel_size.size() == 2 ? at::max_pool2d_with_indices_backward : at::max_pool3d_with_indices_backward;
  return backward(
      grad, input, window.kernel_size, window.stride, window.padding, window.dilation, window.ceil_mode, indices);
}

struct NarrowFunction : torch::autograd::Function<NarrowFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& input, int64_t rank, const FunctionalArgs& args) {
    at::AutoDispatchBelowADInplaceOrView guard;
    Window window(rank, args);
    auto [output, offsets] =
        maxpool_forward(input, window.kernel_size, window.stride, window.padding, window.dilation, window.ceil_mode);
    ctx->saved_data["window"] = window.packed();
    ctx->saved_data["input_sizes"] = c10::IValue(input.sym_sizes());
    ctx->save_for_backward({offsets});
    ctx->mark_non_differentiable({offsets});
    ctx->set_materialize_grads(false);
    return {output, offsets};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) {
      return {Tensor(), Tensor(), Tensor()}; // not covered: nobody calls it without a gradient
    }
    const Window window(ctx->saved_data["window"].toIntVector());
    const auto input_sizes = ctx->saved_data["input_sizes"].toSymIntVector();
    const auto offsets = ctx->get_saved_variables()[0];
    const auto rank = window.kernel_size.size();
    const auto spatial = c10::SymIntArrayRef(input_sizes).slice(input_sizes.size() - rank);
    auto indices = indices_of(offsets, spatial, window);
    // Windows without elements, which only dilation makes, have index -1.
    auto grad = grads[0];
    if (std::any_of(window.dilation.begin(), window.dilation.end(), [](int64_t step) { return step > 1; })) {
      grad = grad.masked_fill(indices.lt(0), 0);
      indices = indices.clamp_min(0);
    }
    const auto format =
        rank > 1 && input_sizes.size() == rank + 2 ? offsets.suggest_memory_format() : c10::MemoryFormat::Contiguous;
    return {pytorch_backward(grad, indices, input_sizes, format, window), Tensor(), Tensor()};
  }
};

} // namespace

bool gradient_is_narrow(c10::ScalarType dtype, int64_t rank, const FunctionalArgs& args) {
  if (dtype != c10::ScalarType::Half && dtype != c10::ScalarType::BFloat16) {
    return false;
  }
  const Window window(rank, args);
  for (int64_t i = 0; i < rank; ++i) {
    if (window.stride[i] < window.dilation[i] * (window.kernel_size[i] - 1) + 1) {
      return true;
    }
  }
  return false;
}

Tensor max_pool_narrow(const Tensor& input, int64_t rank, const FunctionalArgs& args) {
  return NarrowFunction::apply(input, rank, args)[0];
}

std::tuple<Tensor, Tensor> max_pool_narrow_with_indices(const Tensor& input, int64_t rank, const FunctionalArgs& args) {
  const auto results = NarrowFunction::apply(input, rank, args);
  const auto spatial = input.sym_sizes().slice(input.dim() - rank);
  return {results[0], indices_of(results[1], spatial, Window(rank, args))};
}

} // namespace torch_maxpool
