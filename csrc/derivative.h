// Which kind of derivative a call needs.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cstdint>

namespace torch_maxpool {

// What a call of an operator is to leave behind.
enum class Derivative : uint8_t {
  kNone,
  kRecorded, // a node in autograd's graph
  kComposed, // functorch transforms, forward-mode AD: the result of ATen operators, which know these
};

inline Derivative wanted(const at::Tensor& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !tensor.defined() || !tensor.is_nested(),
      "torch_maxpool: max pooling takes no nested tensors, unbind them first");
  if (c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerBackMode) ||
      tensor._fw_grad(0).defined()) {
    return Derivative::kComposed;
  }
  return at::GradMode::is_enabled() && tensor.requires_grad() ? Derivative::kRecorded : Derivative::kNone;
}

} // namespace torch_maxpool
