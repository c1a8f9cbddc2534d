// The node that a recorded maxpool_forward leaves in autograd's graph.
//
// torch::autograd::Function would do, and does for the rarer derivatives in autograd.cpp; its general bookkeeping takes
// longer than pooling a small tensor and back (measured: 2 to 5 us of it).
#pragma once

#include "kept_pooling.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <string>

namespace torch_maxpool {

// Keeps offsets and sizes, never the input. Its only gradient is the input's; offsets have none.
class ForwardNode final : public torch::autograd::Node {
 public:
  // Makes `output` the result of pooling `input`.
  static void record(const at::Tensor& input, const at::Tensor& output, const at::Tensor& offsets, KeptPooling kept);

  std::string name() const override;
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override;
  void release_variables() override;

  // For compiled autograd, which traces what apply does.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override;
  torch::autograd::variable_list apply_with_saved(
      const torch::autograd::variable_list& grads,
      torch::dynamo::autograd::SwapSavedVariables& saved) override;

 private:
  torch::autograd::SavedVariable offsets_;
  KeptPooling kept_;
};

} // namespace torch_maxpool
