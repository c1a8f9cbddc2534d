// PyTorch's own max pooling on CPU, run on this package's operators: one call for programs and models nobody edits.
//
//   std::cout << torch_maxpool::accelerate() << '\n';  // from here on torch::max_pool2d, nn::MaxPool2d, saved models, ...
//   torch_maxpool::restore();                          // as before
//
// What is replaced: aten::max_pool1d, max_pool2d, max_pool3d, max_pool1d_with_indices, max_pool2d_with_indices and
// max_pool3d_with_indices, for CPU tensors, with their derivatives; in the whole process, for every thread. While on, a
// call that PyTorch would refuse, or that only PyTorch serves (quantized, mkldnn, sparse or nested tensors,
// functorch transforms, forward-mode AD, tensor subclasses) goes to PyTorch's own kernels, and so do its errors.
// While off, nothing of this is registered.
//
// All functions may be called from any thread and any number of times. A pooling that runs in another thread during a
// switch runs on one or the other.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>

namespace torch_maxpool {

// Switches on until restore(); returns one line that says what was replaced.
std::string accelerate();

// Switches off, whoever switched on. Returns false if it was off.
bool restore();

bool is_accelerated();

// On during its life. Scopes may overlap in any order and in any threads: PyTorch's own kernels come back with the end of
// the last one, unless accelerate() was called besides. A restore() within the life of a scope ends it.
class AccelerationScope {
 public:
  AccelerationScope();
  ~AccelerationScope();
  AccelerationScope(const AccelerationScope&) = delete;
  AccelerationScope& operator=(const AccelerationScope&) = delete;

 private:
  uint64_t generation_;
};

namespace detail {

// accelerate() for the Python package, whose context manager turns a call into a scope. hold() gives a token if nobody
// had called accelerate() yet; drop() takes that call back, unless there was a restore() since.
std::optional<uint64_t> hold();
void drop(uint64_t token);
const char* replaced_line();

// Whether a call on a tensor of a Python subclass, or under a dispatch mode of Python's, may be replaced. Without a
// check, as in programs without Python, none is.
using PythonCheck = bool (*)(const at::Tensor&);
void set_python_check(PythonCheck check);

} // namespace detail
} // namespace torch_maxpool
