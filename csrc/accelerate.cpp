#include "accelerate.h"
#include "functional.h"
#include "narrow_gradient.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

namespace torch_maxpool {
namespace {

using at::IntArrayRef;
using at::Tensor;
using c10::DispatchKey;

// Where a call is caught. Under autograd that is AutogradCPU for all six. Below it, max_pool2d_with_indices and
// max_pool3d_with_indices have CPU kernels to replace. The others are composites: a CPU kernel of theirs would change how
// torch.export decomposes them, so they are caught at the key before, BackendSelect, which every call passes.
enum class Form : uint8_t { kValues, kIndices };

constexpr bool is_composite(int64_t rank, Form form) {
  return form == Form::kValues || rank == 1;
}
constexpr DispatchKey key_below_autograd(int64_t rank, Form form) {
  return is_composite(rank, form) ? DispatchKey::BackendSelect : DispatchKey::CPU;
}

std::string name_of(int64_t rank, Form form) {
  return "max_pool" + std::to_string(rank) + "d" + (form == Form::kIndices ? "_with_indices" : "");
}

c10::OperatorHandle find_operator(int64_t rank, Form form) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(("aten::" + name_of(rank, form)).c_str(), "");
}

// The kernels that calls reach while off; found at the first switch, before anything is registered, and kept.
using Kernel = std::optional<c10::SafeKernelFunction>;
struct PreviousKernels {
  // By form and rank - 1.
  std::array<std::array<Kernel, 3>, 2> autograd;
  std::array<std::array<Kernel, 3>, 2> below; // none for composites
};
std::atomic<const PreviousKernels*> previous_kernels{nullptr};
std::atomic<detail::PythonCheck> python_check{nullptr};

struct Call {
  const Tensor& self;
  IntArrayRef kernel_size;
  IntArrayRef stride;
  IntArrayRef padding;
  IntArrayRef dilation;
  bool ceil_mode;

  FunctionalArgs args() const {
    return {kernel_size, stride, padding, "", dilation, ceil_mode, false};
  }
};

// What the call does while off.
template <int64_t kRank, Form kForm, DispatchKey kKey>
torch::jit::Stack call_previous(c10::DispatchKeySet keys, const Call& call) {
  torch::jit::Stack stack;
  torch::jit::push(stack, call.self, call.kernel_size, call.stride, call.padding, call.dilation, call.ceil_mode);
  if constexpr (kKey == DispatchKey::BackendSelect) {
    static const auto op = find_operator(kRank, kForm);
    op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), &stack);
  } else {
    const auto& kernels = *previous_kernels.load(std::memory_order_acquire);
    const auto& by_form = kKey == DispatchKey::AutogradCPU ? kernels.autograd : kernels.below;
    const auto& kernel = *by_form[static_cast<size_t>(kForm)][kRank - 1];
    kernel.callBoxed(kernel.opHandle(), keys, &stack);
  }
  return stack;
}

// Window elements that int32 offsets can name.
constexpr int64_t kMaxTaps = int64_t{1} << 31;

// dtypes that PyTorch's CPU kernels take; max_pool1d without indices has fewer than the others.
bool dtype_accepted(c10::ScalarType dtype, int64_t rank, Form form) {
  switch (dtype) {
    case c10::ScalarType::Double:
    case c10::ScalarType::Float:
    case c10::ScalarType::Half:
    case c10::ScalarType::BFloat16:
      return true;
    case c10::ScalarType::Byte:
    case c10::ScalarType::Char:
    case c10::ScalarType::Short:
    case c10::ScalarType::Int:
    case c10::ScalarType::Long:
      return !(rank == 1 && form == Form::kValues);
    default:
      return false;
  }
}

// One spatial dimension of a call whose lists have their lengths checked: within PyTorch's bounds, padding of at most half
// a window, and at least one output. Symbolic sizes are left to the operators' own check.
bool dimension_accepted(const Call& call, int64_t rank, int64_t i) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max(); // PyTorch's kernels count in int
  const int64_t kernel = entry(call.kernel_size, i);
  const int64_t stride = call.stride.empty() ? kernel : entry(call.stride, i);
  const int64_t padding = entry(call.padding, i);
  const int64_t dilation = entry(call.dilation, i);
  for (const int64_t value : {kernel, stride, dilation}) {
    if (value < 1 || value > kMax) {
      return false;
    }
  }
  if (padding < 0 || padding > kernel / 2) {
    return false;
  }
  const auto size = call.self.sym_sizes()[call.self.dim() - rank + i].maybe_as_int();
  if (!size) {
    return true;
  }
  const int64_t span = *size + 2 * padding - dilation * (kernel - 1) - 1;
  return span + (call.ceil_mode ? stride - 1 : 0) >= 0;
}

// True where PyTorch takes the call and the operators give its results.
bool arguments_accepted(const Call& call, int64_t rank, Form form) {
  const auto& self = call.self;
  if (!self.defined() || self.layout() != c10::kStrided || !self.device().is_cpu() ||
      !dtype_accepted(self.scalar_type(), rank, form)) {
    return false;
  }
  const auto length_accepted = [rank](IntArrayRef list) {
    return list.size() == 1 || list.size() == static_cast<size_t>(rank);
  };
  if (!length_accepted(call.kernel_size) || !(call.stride.empty() || length_accepted(call.stride)) ||
      !length_accepted(call.padding) || !length_accepted(call.dilation) ||
      (self.dim() != rank + 1 && self.dim() != rank + 2)) {
    return false;
  }
  for (const auto& size : self.sym_sizes()) {
    if (size.maybe_as_int() == 0) {
      return false;
    }
  }
  int64_t taps = 1;
  for (int64_t i = 0; i < rank; ++i) {
    if (!dimension_accepted(call, rank, i) || __builtin_mul_overflow(taps, entry(call.kernel_size, i), &taps)) {
      return false;
    }
  }
  return taps <= kMaxTaps;
}

// Derivatives that only PyTorch's formulas give.
bool needs_pytorch_derivative(const Tensor& self) {
  return c10::impl::tls_is_dispatch_key_included(DispatchKey::FuncTorchDynamicLayerBackMode) ||
      self._fw_grad(0).defined();
}

// A gradient that is to be summed as PyTorch sums it.
template <DispatchKey kKey>
bool narrow(const Call& call, int64_t rank) {
  return kKey == DispatchKey::AutogradCPU && at::GradMode::is_enabled() && call.self.requires_grad() &&
      gradient_is_narrow(call.self.scalar_type(), rank, call.args());
}

bool python_accepts(const Tensor& self) {
  if (!self.key_set().has(DispatchKey::Python) && !c10::impl::TorchDispatchModeTLS::any_modes_set()) {
    return true;
  }
  const auto check = python_check.load(std::memory_order_acquire);
  return check != nullptr && check(self);
}

template <DispatchKey kKey>
bool replaced(const Call& call, int64_t rank, Form form) {
  return arguments_accepted(call, rank, form) &&
      !(kKey == DispatchKey::AutogradCPU && needs_pytorch_derivative(call.self)) && python_accepts(call.self);
}

template <Form kForm>
using Result = std::conditional_t<kForm == Form::kValues, Tensor, std::tuple<Tensor, Tensor>>;

// What is registered in place of PyTorch's kernel.
template <int64_t kRank, Form kForm, DispatchKey kKey>
Result<kForm> pool(
    c10::DispatchKeySet keys,
    const Tensor& self,
    IntArrayRef kernel_size,
    IntArrayRef stride,
    IntArrayRef padding,
    IntArrayRef dilation,
    bool ceil_mode) {
  const Call call{self, kernel_size, stride, padding, dilation, ceil_mode};
  const bool is_replaced = replaced<kKey>(call, kRank, kForm);
  const bool is_narrow = is_replaced && narrow<kKey>(call, kRank);
  if constexpr (kForm == Form::kValues) {
    return is_narrow  ? max_pool_narrow(self, kRank, call.args())
        : is_replaced ? max_pool(self, kRank, call.args())
                      : call_previous<kRank, kForm, kKey>(keys, call)[0].toTensor();
  } else {
    if (is_replaced) {
      return is_narrow ? max_pool_narrow_with_indices(self, kRank, call.args())
                       : max_pool_with_indices(self, kRank, call.args());
    }
    const auto results = call_previous<kRank, kForm, kKey>(keys, call);
    return {results[0].toTensor(), results[1].toTensor()};
  }
}

void find_previous_kernels() {
  if (previous_kernels.load(std::memory_order_acquire) != nullptr) {
    return;
  }
  auto kernels = std::make_unique<PreviousKernels>();
  for (const auto form : {Form::kValues, Form::kIndices}) {
    for (int64_t rank = 1; rank <= 3; ++rank) {
      const auto op = find_operator(rank, form);
      const auto index = static_cast<size_t>(form);
      kernels->autograd[index][rank - 1].emplace(op.getComputedKernelForDispatchKey(DispatchKey::AutogradCPU));
      if (!is_composite(rank, form)) {
        kernels->below[index][rank - 1].emplace(op.getComputedKernelForDispatchKey(DispatchKey::CPU));
      }
    }
  }
  previous_kernels.store(kernels.release(), std::memory_order_release);
}

// PyTorch warns, once per process, of a kernel that covers another; here that is the purpose.
class NoWarnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning& /*warning*/) override {}
};

// The registrations; they end with the object.
class Registrations {
 public:
  Registrations() {
    find_previous_kernels();
    NoWarnings handler;
    const c10::WarningUtils::WarningHandlerGuard guard(&handler);
    register_both<1>();
    register_both<2>();
    register_both<3>();
  }

 private:
  template <int64_t kRank>
  void register_both() {
    register_form<kRank, Form::kValues>();
    register_form<kRank, Form::kIndices>();
  }

  template <int64_t kRank, Form kForm>
  void register_form() {
    constexpr auto kBelow = key_below_autograd(kRank, kForm);
    const auto name = name_of(kRank, kForm);
    add(kBelow).impl(name.c_str(), TORCH_FN((pool<kRank, kForm, kBelow>)));
    add(DispatchKey::AutogradCPU).impl(name.c_str(), TORCH_FN((pool<kRank, kForm, DispatchKey::AutogradCPU>)));
  }

  torch::Library& add(DispatchKey key) {
    return libraries_.emplace_back(torch::Library::IMPL, "aten", key, __FILE__, __LINE__);
  }

  std::vector<torch::Library> libraries_;
};

// Who wants acceleration, and the registrations, which exist while someone does.
class Switch {
 public:
  // Lives to the end of the process: at its exit other threads may still pool.
  static Switch& instance() {
    static auto& the_switch = *new Switch;
    return the_switch;
  }

  std::optional<uint64_t> hold() {
    const std::lock_guard lock(mutex_);
    if (held_) {
      return std::nullopt;
    }
    held_ = true;
    update();
    return generation_;
  }
  void drop(uint64_t generation) {
    const std::lock_guard lock(mutex_);
    if (generation == generation_) {
      held_ = false;
      update();
    }
  }
  bool release() {
    const std::lock_guard lock(mutex_);
    const bool was_on = on();
    held_ = false;
    scopes_ = 0;
    ++generation_;
    update();
    return was_on;
  }
  uint64_t enter() {
    const std::lock_guard lock(mutex_);
    ++scopes_;
    update();
    return generation_;
  }
  void leave(uint64_t generation) {
    const std::lock_guard lock(mutex_);
    if (generation == generation_) {
      --scopes_;
      update();
    }
  }
  bool is_on() {
    const std::lock_guard lock(mutex_);
    return on();
  }

 private:
  bool on() const {
    return registrations_.has_value();
  }
  void update() {
    const bool wanted = held_ || scopes_ > 0;
    if (wanted && !registrations_) {
      registrations_.emplace();
    } else if (!wanted) {
      registrations_.reset();
    }
  }

  std::mutex mutex_;
  bool held_ = false;
  int64_t scopes_ = 0;
  uint64_t generation_ = 0;
  std::optional<Registrations> registrations_;
};

} // namespace

std::string accelerate() { // not covered: for C++ programs, see tests/cpp/test_maxpool.cpp
  detail::hold(); // not covered: as above
  return detail::replaced_line(); // not covered: as above
}

bool restore() {
  return Switch::instance().release();
}

bool is_accelerated() {
  return Switch::instance().is_on();
}

AccelerationScope::AccelerationScope() : generation_(Switch::instance().enter()) {}

AccelerationScope::~AccelerationScope() {
  Switch::instance().leave(generation_);
}

std::optional<uint64_t> detail::hold() {
  return Switch::instance().hold();
}

void detail::drop(uint64_t token) {
  Switch::instance().drop(token);
}

const char* detail::replaced_line() {
  return "torch_maxpool: PyTorch's max_pool1d, max_pool2d and max_pool3d on CPU, with and without indices, now run on "
         "torch_maxpool's operators";
}

void detail::set_python_check(PythonCheck check) {
  python_check.store(check, std::memory_order_release);
}

} // namespace torch_maxpool
