#include "forward_node.h"
#include "derivative.h"
#include "operators.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <mutex>
#include <optional>
#include <utility>

namespace torch_maxpool {
namespace {

using at::Tensor;
using torch::autograd::variable_list;

constexpr const char* kName = "MaxPoolBackward";

Tensor input_gradient(const Tensor& grad_output, const Tensor& offsets, const KeptPooling& kept) {
  if (!grad_output.defined()) {
    return {};
  }
  std::optional<at::AutoDispatchBelowADInplaceOrView> guard;
  if (wanted(grad_output) == Derivative::kNone) {
    guard.emplace(); // spares a call
  }
  const auto a = kept.args();
  return maxpool_backward(
      grad_output, offsets, kept.size, a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode, a.auto_pad);
}

// apply as a function of what compiled autograd carries: offsets, then KeptPooling's two lists.
variable_list apply_functional(const variable_list& grads, const std::vector<c10::IValue>& kept) {
  return {input_gradient(grads[0], kept[0].toTensor(), {kept[1].toIntVector(), kept[2].toSymIntVector()})};
}

} // namespace

void ForwardNode::record(const Tensor& input, const Tensor& output, const Tensor& offsets, KeptPooling kept) {
  auto node = c10::make_intrusive<ForwardNode>();
  node->set_next_edges(torch::autograd::collect_next_edges(input));
  node->offsets_ = torch::autograd::SavedVariable(offsets, /*is_output=*/false);
  node->kept_ = std::move(kept);
  torch::autograd::set_history(output, node);
}

std::string ForwardNode::name() const {
  return kName;
}

variable_list ForwardNode::apply(variable_list&& grads) {
  const std::lock_guard lock(mutex_); // of Node: threads may run backward through the same graph
  return {input_gradient(grads[0], offsets_.unpack(), kept_)};
}

void ForwardNode::release_variables() {
  const std::lock_guard lock(mutex_);
  offsets_.reset_data();
}

void ForwardNode::compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const {
  args.collect(offsets_, /*is_output=*/false);
  args.collect(kept_.hyper_parameters);
  args.collect(kept_.size);
}

variable_list ForwardNode::apply_with_saved(
    const variable_list& grads,
    torch::dynamo::autograd::SwapSavedVariables& saved) {
  using torch::dynamo::autograd::IValuePacker;
  saved.before(offsets_);
  saved.before(kept_.size);
  torch::dynamo::autograd::PackedArgs kept;
  kept.pack(offsets_.unpack());
  kept.pack(kept_.hyper_parameters);
  kept.pack(kept_.size);
  const auto gradients = IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
      torch::dynamo::autograd::get_input_metadata(next_edges()));
  const auto& compiler = torch::dynamo::autograd::getPyCompilerInterface();
  const auto bound = compiler->bind_function(
      saved.get_py_compiler(),
      kName,
      apply_functional,
      {at::TensorType::get(), kept.vec()[1].type(), kept.vec()[2].type()},
      /*is_custom_function=*/true,
      /*is_traceable=*/true);
  auto results =
      compiler->call_function(saved.get_py_compiler(), "apply_functional", bound, grads, kept.vec(), gradients);
  saved.after(offsets_);
  saved.after(kept_.size);
  return results;
}

} // namespace torch_maxpool
