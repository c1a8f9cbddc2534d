// Derivatives: key Autograd.
//
// maxpool_forward and maxpool_values keep the offsets and the input's spatial sizes, never the input. Three operators
// are each other's derivatives: forward's is backward, backward's is gather, gather's is backward.
//
// Neither a node of forward_node.h nor torch::autograd::Function knows functorch transforms and forward-mode AD. Under
// those the same results are built from ATen operators on PyTorch's indices, whose derivatives ATen supplies.
#include "derivative.h"
#include "forward_node.h"
#include "kept_pooling.h"
#include "operators.h"
#include "pooling.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/new_zeros.h>
#include <ATen/ops/reshape.h>
#include <ATen/ops/scatter_add.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <limits>

namespace torch_maxpool {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kSizeKey = "input_size"; // short: looked up as std::string
constexpr const char* kPoolingKey = "pooling";

c10::SymIntArrayRef spatial_size(const Tensor& input, int64_t rank) {
  return input.sym_sizes().slice(input.dim() - rank);
}

// The five operators on one PoolingArgs, through the dispatcher.
std::tuple<Tensor, Tensor> forward(const Tensor& input, const PoolingArgs& a) {
  return maxpool_forward(input, a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode, a.exact, a.auto_pad);
}
Tensor values(const Tensor& input, const PoolingArgs& a) {
  return maxpool_values(input, a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode, a.exact, a.auto_pad);
}
Tensor backward(const Tensor& grad, const Tensor& offsets, c10::SymIntArrayRef size, const PoolingArgs& a) {
  return maxpool_backward(grad, offsets, size, a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode, a.auto_pad);
}
Tensor gather(const Tensor& input, const Tensor& offsets, const PoolingArgs& a) {
  return maxpool_gather(input, offsets, a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode, a.auto_pad);
}
Tensor indices(const Tensor& offsets, c10::SymIntArrayRef size, const PoolingArgs& a) {
  return maxpool_indices(offsets, size, a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode, a.auto_pad);
}

void save(AutogradContext* ctx, const Tensor& offsets, const Pooling& pooling, c10::SymIntArrayRef input_spatial_size) {
  KeptPooling kept(pooling, input_spatial_size);
  ctx->saved_data[kPoolingKey] = std::move(kept.hyper_parameters);
  ctx->saved_data[kSizeKey] = std::move(kept.size);
  ctx->save_for_backward({offsets});
  ctx->set_materialize_grads(false);
}

KeptPooling kept_pooling(AutogradContext* ctx) {
  return {ctx->saved_data[kPoolingKey].toIntVector(), ctx->saved_data[kSizeKey].toSymIntVector()};
}

// Records maxpool_forward.
std::tuple<Tensor, Tensor> forward_recorded(const Tensor& input, const PoolingArgs& args) {
  at::AutoDispatchBelowADInplaceOrView guard;
  auto results = forward(input, args);
  const auto pooling = check_arguments("maxpool_forward", args);
  const auto& [output, offsets] = results;
  ForwardNode::record(input, output, offsets, {pooling, spatial_size(input, pooling.rank)});
  return results;
}

// is_traceable (of both): what backward uses comes from its arguments and from what ctx saved, as compiled autograd wants
// it. For the same reason offsets are not marked as non-differentiable: integers are not in any case.
struct BackwardFunction : torch::autograd::Function<BackwardFunction> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx,
      const Tensor& grad_output,
      const Tensor& offsets,
      c10::SymIntArrayRef input_spatial_size,
      const PoolingArgs& args) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto grad_input = torch_maxpool::backward(grad_output, offsets, input_spatial_size, args);
    save(ctx, offsets, check_arguments("maxpool_backward", args), input_spatial_size);
    return grad_input;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    Tensor grad_grad_output;
    if (grads[0].defined()) {
      const auto kept = kept_pooling(ctx);
      grad_grad_output = gather(grads[0], ctx->get_saved_variables()[0], kept.args());
    }
    return {grad_grad_output, Tensor(), Tensor(), Tensor()};
  }
};

struct GatherFunction : torch::autograd::Function<GatherFunction> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& offsets, const PoolingArgs& args) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto output = gather(input, offsets, args);
    const auto pooling = check_arguments("maxpool_gather", args);
    save(ctx, offsets, pooling, spatial_size(input, pooling.rank));
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    Tensor grad_input;
    if (grads[0].defined()) {
      const auto kept = kept_pooling(ctx);
      grad_input = torch_maxpool::backward(grads[0], ctx->get_saved_variables()[0], kept.size, kept.args());
    }
    return {grad_input, Tensor(), Tensor()};
  }
};

// Sizes with the last `rank` dimensions folded into one.
c10::SymDimVector folded_sizes(const Tensor& tensor, int64_t rank) {
  const auto sizes = tensor.sym_sizes();
  c10::SymDimVector folded(sizes.begin(), sizes.end() - rank);
  folded.emplace_back(c10::multiply_integers(sizes.end() - rank, sizes.end()));
  return folded;
}

// input's elements at plane indices (int64, -1 = none), as differentiable ATen operators; `fill` where there is none.
Tensor gather_composed(const Tensor& input, const Tensor& plane_indices, const Pooling& pooling, double fill) {
  const auto flat = input.reshape_symint(folded_sizes(input, pooling.rank));
  const auto flat_indices = plane_indices.reshape_symint(folded_sizes(plane_indices, pooling.rank));
  if (!may_have_empty_windows(pooling)) {
    return flat.gather(-1, flat_indices).reshape_symint(plane_indices.sym_sizes());
  }
  const auto taken = flat.gather(-1, flat_indices.clamp_min(0)).reshape_symint(plane_indices.sym_sizes());
  return at::where(plane_indices.lt(0), at::full_like(taken, fill), taken);
}

std::tuple<Tensor, Tensor> forward_composed(const Tensor& input, const PoolingArgs& args) {
  const auto pooling = check_arguments("maxpool_forward", args);
  Tensor offsets;
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    offsets = std::get<1>(forward(input, args));
  }
  const auto plane_indices = indices(offsets, spatial_size(input, pooling.rank), args);
  const double lowest = -std::numeric_limits<double>::infinity();
  return {gather_composed(input, plane_indices, pooling, lowest), offsets};
}

std::tuple<Tensor, Tensor> maxpool_forward_autograd(
    const Tensor& input,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    bool exact,
    std::string_view auto_pad) {
  const PoolingArgs args{kernel_size, stride, padding, dilation, ceil_mode, exact, auto_pad};
  switch (wanted(input)) {
    case Derivative::kRecorded:
      return forward_recorded(input, args);
    case Derivative::kComposed:
      if (input.is_floating_point()) {
        return forward_composed(input, args);
      }
      [[fallthrough]];
    default: {
      at::AutoDispatchBelowADInplaceOrView guard;
      return forward(input, args);
    }
  }
}

Tensor maxpool_values_autograd(
    const Tensor& input,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    bool exact,
    std::string_view auto_pad) {
  const PoolingArgs args{kernel_size, stride, padding, dilation, ceil_mode, exact, auto_pad};
  if (wanted(input) != Derivative::kNone && input.is_floating_point()) {
    return std::get<0>(
        maxpool_forward_autograd(input, kernel_size, stride, padding, dilation, ceil_mode, exact, auto_pad));
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  return values(input, args);
}

Tensor maxpool_backward_autograd(
    const Tensor& grad_output,
    const Tensor& offsets,
    c10::SymIntArrayRef input_spatial_size,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad) {
  const PoolingArgs args{kernel_size, stride, padding, dilation, ceil_mode, false, auto_pad};
  switch (wanted(grad_output)) {
    case Derivative::kRecorded:
      return BackwardFunction::apply(grad_output, offsets, input_spatial_size, args);
    case Derivative::kComposed: {
      const auto pooling = check_arguments("maxpool_backward", args);
      check_backward_pair(pooling, grad_output, offsets);
      const auto plane_indices = indices(offsets, input_spatial_size, args);
      auto grad = grad_output;
      auto places = plane_indices;
      if (may_have_empty_windows(pooling)) {
        grad = at::where(plane_indices.lt(0), at::full_like(grad, 0.0), grad);
        places = plane_indices.clamp_min(0);
      }
      std::array<c10::SymInt, kMaxRank> spatial;
      std::copy(input_spatial_size.begin(), input_spatial_size.end(), spatial.begin());
      const auto sizes = with_spatial_size<c10::SymInt>(pooling, grad.sym_sizes(), spatial);
      c10::SymDimVector folded(sizes.begin(), sizes.end() - pooling.rank);
      folded.emplace_back(c10::multiply_integers(input_spatial_size.begin(), input_spatial_size.end()));
      return grad.new_zeros_symint(folded)
          .scatter_add(
              -1,
              places.reshape_symint(folded_sizes(places, pooling.rank)),
              grad.reshape_symint(folded_sizes(grad, pooling.rank)))
          .reshape_symint(sizes);
    }
    default: {
      at::AutoDispatchBelowADInplaceOrView guard;
      return backward(grad_output, offsets, input_spatial_size, args);
    }
  }
}

Tensor maxpool_gather_autograd(
    const Tensor& input,
    const Tensor& offsets,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    std::string_view auto_pad) {
  const PoolingArgs args{kernel_size, stride, padding, dilation, ceil_mode, false, auto_pad};
  switch (wanted(input)) {
    case Derivative::kRecorded:
      return GatherFunction::apply(input, offsets, args);
    case Derivative::kComposed: {
      const auto pooling = check_arguments("maxpool_gather", args);
      check_input(pooling, input);
      return gather_composed(input, indices(offsets, spatial_size(input, pooling.rank), args), pooling, 0.0);
    }
    default: {
      at::AutoDispatchBelowADInplaceOrView guard;
      return gather(input, offsets, args);
    }
  }
}

} // namespace

TORCH_LIBRARY_IMPL(torch_maxpool, Autograd, library) {
  library.impl("maxpool_forward", TORCH_FN(maxpool_forward_autograd));
  library.impl("maxpool_values", TORCH_FN(maxpool_values_autograd));
  library.impl("maxpool_backward", TORCH_FN(maxpool_backward_autograd));
  library.impl("maxpool_gather", TORCH_FN(maxpool_gather_autograd));
  // Integers have no derivative. PyTorch's default for the key would box every argument to find that out.
  library.impl("maxpool_indices", torch::CppFunction::makeFallthrough());
}

} // namespace torch_maxpool
