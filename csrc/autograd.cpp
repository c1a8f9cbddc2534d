// Derivatives: key Autograd.
//
// maxpool_forward and maxpool_values keep the offsets and the input's spatial sizes, never the input. Three operators
// are each other's derivatives: forward's is backward, backward's is gather, gather's is backward.
//
// torch::autograd::Function knows neither functorch transforms nor forward-mode AD. Under those the same results are
// built from ATen operators on PyTorch's indices, whose derivatives ATen supplies.
#include "operators.h"
#include "pooling.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/new_zeros.h>
#include <ATen/ops/reshape.h>
#include <ATen/ops/scatter_add.h>
#include <ATen/ops/where.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <limits>
#include <optional>

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

// What a node keeps besides offsets: checked hyper-parameters in one list of integers
// (kernel_size, stride, begins, ends, dilation, ceil_mode, auto_pad), and the input's spatial sizes.
class KeptPooling {
 public:
  static void save(AutogradContext* ctx, const Pooling& pooling, c10::SymIntArrayRef input_spatial_size) {
    const int64_t rank = pooling.rank;
    std::vector<int64_t> packed;
    packed.reserve(5 * rank + 2);
    for (const auto* list :
         {&pooling.kernel_size, &pooling.stride, &pooling.pad_before, &pooling.pad_after, &pooling.dilation}) {
      packed.insert(packed.end(), list->begin(), list->begin() + rank);
    }
    packed.push_back(pooling.ceil_mode);
    packed.push_back(static_cast<int64_t>(pooling.auto_pad));
    ctx->saved_data[kPoolingKey] = std::move(packed);
    ctx->saved_data[kSizeKey] = c10::IValue(input_spatial_size);
  }

  explicit KeptPooling(AutogradContext* ctx)
      : packed_(ctx->saved_data[kPoolingKey].toIntVector()), size_(ctx->saved_data[kSizeKey].toSymIntVector()) {}

  PoolingArgs args() const {
    const at::IntArrayRef list(packed_);
    const size_t rank = size_.size();
    PoolingArgs result;
    result.kernel_size = list.slice(0, rank);
    result.stride = list.slice(rank, rank);
    result.padding = list.slice(2 * rank, 2 * rank);
    result.dilation = list.slice(4 * rank, rank);
    result.ceil_mode = list[5 * rank] != 0;
    result.auto_pad = auto_pad_name(static_cast<AutoPad>(list[5 * rank + 1]));
    return result;
  }
  c10::SymIntArrayRef input_spatial_size() const {
    return size_;
  }

 private:
  std::vector<int64_t> packed_;
  std::vector<c10::SymInt> size_;
};

enum class Derivative : uint8_t { kNone, kFunction, kComposed };

// Which kind of derivative recording a call on `tensor` needs.
Derivative wanted(const Tensor& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !tensor.defined() || !tensor.is_nested(),
      "torch_maxpool: max pooling takes no nested tensors, unbind them first");
  if (c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerBackMode) ||
      tensor._fw_grad(0).defined()) {
    return Derivative::kComposed;
  }
  return at::GradMode::is_enabled() && tensor.requires_grad() ? Derivative::kFunction : Derivative::kNone;
}

// is_traceable (all three): what backward uses comes from its arguments and from what ctx saved, as compiled autograd
// wants it. For the same reason offsets are not marked as non-differentiable: integers are not in any case.
struct ForwardFunction : torch::autograd::Function<ForwardFunction> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& input, const PoolingArgs& args) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [output, offsets] = torch_maxpool::forward(input, args);
    const auto pooling = check_arguments("maxpool_forward", args);
    KeptPooling::save(ctx, pooling, spatial_size(input, pooling.rank));
    ctx->save_for_backward({offsets});
    ctx->set_materialize_grads(false);
    return {output, offsets};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) {
      return {Tensor(), Tensor()};
    }
    const KeptPooling kept(ctx);
    const auto offsets = ctx->get_saved_variables()[0];
    std::optional<at::AutoDispatchBelowADInplaceOrView> guard;
    if (wanted(grads[0]) == Derivative::kNone) {
      guard.emplace(); // spares a call
    }
    return {torch_maxpool::backward(grads[0], offsets, kept.input_spatial_size(), kept.args()), Tensor()};
  }
};

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
    KeptPooling::save(ctx, check_arguments("maxpool_backward", args), input_spatial_size);
    ctx->save_for_backward({offsets});
    ctx->set_materialize_grads(false);
    return grad_input;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    Tensor grad_grad_output;
    if (grads[0].defined()) {
      const KeptPooling kept(ctx);
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
    KeptPooling::save(ctx, pooling, spatial_size(input, pooling.rank));
    ctx->save_for_backward({offsets});
    ctx->set_materialize_grads(false);
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    Tensor grad_input;
    if (grads[0].defined()) {
      const KeptPooling kept(ctx);
      grad_input =
          torch_maxpool::backward(grads[0], ctx->get_saved_variables()[0], kept.input_spatial_size(), kept.args());
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
    case Derivative::kFunction: {
      auto results = ForwardFunction::apply(input, args);
      return {std::move(results[0]), std::move(results[1])};
    }
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
    case Derivative::kFunction:
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
    case Derivative::kFunction:
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

// maxpool_indices has no entry: its input is integer, and PyTorch's default for the key passes it on.
TORCH_LIBRARY_IMPL(torch_maxpool, Autograd, library) {
  library.impl("maxpool_forward", TORCH_FN(maxpool_forward_autograd));
  library.impl("maxpool_values", TORCH_FN(maxpool_values_autograd));
  library.impl("maxpool_backward", TORCH_FN(maxpool_backward_autograd));
  library.impl("maxpool_gather", TORCH_FN(maxpool_gather_autograd));
}

} // namespace torch_maxpool
