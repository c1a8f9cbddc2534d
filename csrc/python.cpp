// The Python module torch_maxpool._C: a short way from torch_maxpool.functional to the operators. Importing it also
// registers them.
#include "accelerate.h"
#include "functional.h"
#include "operators.h"

#include <c10/util/SmallVector.h>
#include <torch/csrc/utils/pybind.h>

#include <string>
#include <vector>

namespace {

namespace py = pybind11;

// A list of ints as an argument was given: an int counts as a list of one.
using Ints = c10::SmallVector<int64_t, 6>;

[[noreturn]] void refuse(int64_t rank, const char* name, const char* wanted, py::handle got) {
  throw py::type_error(
      "max_pool" + std::to_string(rank) + "d: " + name + " must be " + wanted + ", got " +
      py::repr(got).cast<std::string>());
}

// Anything with __index__ but bool, as PyTorch's own int arguments; false where it is not, or leaves 64 bits.
bool read_int(PyObject* object, int64_t& value) {
  if (PyBool_Check(object) || !PyIndex_Check(object)) {
    return false;
  }
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object));
  if (!index) {
    throw py::error_already_set();
  }
  int overflow = 0;
  value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  return overflow == 0;
}

bool is_sequence(PyObject* object) {
  return PyTuple_Check(object) || PyList_Check(object);
}

bool read_ints(PyObject* object, Ints& ints) {
  int64_t value = 0;
  if (!is_sequence(object)) {
    if (!read_int(object, value)) {
      return false;
    }
    ints.push_back(value);
    return true;
  }
  const auto count = PySequence_Fast_GET_SIZE(object);
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!read_int(PySequence_Fast_GET_ITEM(object, i), value)) {
      return false;
    }
    ints.push_back(value);
  }
  return true;
}

// A non-empty list or tuple of (before, after) pairs: all begins, then all ends.
bool read_pairs(PyObject* object, Ints& ints) {
  if (!is_sequence(object)) {
    return false;
  }
  const auto count = PySequence_Fast_GET_SIZE(object);
  Ints ends;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* const item = PySequence_Fast_GET_ITEM(object, i);
    Ints pair;
    if (!is_sequence(item) || !read_ints(item, pair) || pair.size() != 2) {
      return false;
    }
    ints.push_back(pair[0]);
    ends.push_back(pair[1]);
  }
  ints.append(ends.begin(), ends.end());
  return count > 0;
}

// The arguments of max_pool*d, read; owns what FunctionalArgs views.
class Call {
 public:
  Call(
      py::handle input,
      int64_t rank,
      py::handle kernel_size,
      py::handle stride,
      py::handle padding,
      py::handle dilation,
      py::handle ceil_mode,
      py::handle exact) {
    py::detail::make_caster<at::Tensor> tensor;
    if (input.is_none() || !tensor.load(input, false)) {
      refuse(rank, "input", "a Tensor", py::type::of(input));
    }
    input_ = py::detail::cast_op<at::Tensor>(tensor);
    read(rank, "kernel_size", kernel_size, kernel_size_);
    args_.kernel_size = kernel_size_;
    if (!stride.is_none()) {
      read(rank, "stride", stride, stride_);
      args_.stride = at::IntArrayRef(stride_);
    }
    if (PyUnicode_Check(padding.ptr())) {
      word_ = padding.cast<std::string>();
      if (word_.empty()) {
        refuse(rank, "padding", "ints, pairs, 'valid', 'same' or 'same_lower'", padding);
      }
      args_.padding_word = word_;
    } else {
      if (!read_ints(padding.ptr(), padding_)) {
        padding_.clear();
        if (!read_pairs(padding.ptr(), padding_)) {
          refuse(rank, "padding", "an int, ints, pairs of ints (of 64 bits), 'valid', 'same' or 'same_lower'", padding);
        }
      }
      args_.padding = padding_;
    }
    read(rank, "dilation", dilation, dilation_);
    args_.dilation = dilation_;
    args_.ceil_mode = read_bool(rank, "ceil_mode", ceil_mode);
    args_.exact = read_bool(rank, "exact", exact);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const at::Tensor& input() const {
    return input_;
  }
  const torch_maxpool::FunctionalArgs& args() const {
    return args_;
  }

 private:
  static void read(int64_t rank, const char* name, py::handle object, Ints& ints) {
    if (!read_ints(object.ptr(), ints)) {
      refuse(rank, name, "an int or ints of 64 bits", object);
    }
  }

  static bool read_bool(int64_t rank, const char* name, py::handle object) {
    if (!PyBool_Check(object.ptr())) {
      refuse(rank, name, "a bool", object);
    }
    return object.ptr() == Py_True;
  }

  at::Tensor input_;
  Ints kernel_size_, stride_, padding_, dilation_;
  std::string word_;
  torch_maxpool::FunctionalArgs args_;
};

// One of torch_maxpool's functions, on arguments from Python.
template <auto kPool>
auto pool(
    py::handle input,
    int64_t rank,
    py::handle kernel_size,
    py::handle stride,
    py::handle padding,
    py::handle dilation,
    py::handle ceil_mode,
    py::handle exact) {
  const Call call(input, rank, kernel_size, stride, padding, dilation, ceil_mode, exact);
  const py::gil_scoped_release release;
  return kPool(call.input(), rank, call.args());
}

// Asks torch_maxpool.acceleration about a tensor of a subclass, or under a dispatch mode.
bool acceleration_accepts(const at::Tensor& tensor) {
  const py::gil_scoped_acquire acquire;
  return py::module_::import("torch_maxpool.acceleration").attr("accepts")(tensor).cast<bool>();
}

// The operators themselves, for compiled code: a call of torch.ops takes about twice as long (torch_maxpool.compiling).
void def_operators(py::module_& module) {
  const std::vector<int64_t> none, zero = {0}, one = {1};
  const auto def_forward = [&](const char* name, auto function) {
    module.def(
        name,
        function,
        py::call_guard<py::gil_scoped_release>(),
        py::arg("input"),
        py::arg("kernel_size"),
        py::arg("stride") = none,
        py::arg("padding") = zero,
        py::arg("dilation") = one,
        py::arg("ceil_mode") = false,
        py::kw_only(),
        py::arg("exact") = false,
        py::arg("auto_pad") = "explicit");
  };
  def_forward("maxpool_forward", torch_maxpool::maxpool_forward);
  def_forward("maxpool_values", torch_maxpool::maxpool_values);
  module.def(
      "maxpool_backward",
      torch_maxpool::maxpool_backward,
      py::call_guard<py::gil_scoped_release>(),
      py::arg("grad_output"),
      py::arg("offsets"),
      py::arg("input_spatial_size"),
      py::arg("kernel_size"),
      py::arg("stride"),
      py::arg("padding"),
      py::arg("dilation"),
      py::arg("ceil_mode"),
      py::kw_only(),
      py::arg("auto_pad") = "explicit");
}

} // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled part of torch_maxpool; use torch_maxpool or torch.ops.torch_maxpool instead.";
  module.def("max_pool", pool<torch_maxpool::max_pool>);
  module.def("max_pool_with_indices", pool<torch_maxpool::max_pool_with_indices>);
  def_operators(module);
  // torch_maxpool.acceleration adds what Python's own caches need.
  module.def("hold_acceleration", torch_maxpool::detail::hold);
  module.def("drop_acceleration", torch_maxpool::detail::drop);
  module.def("replaced_line", torch_maxpool::detail::replaced_line);
  module.def("restore", torch_maxpool::restore);
  module.def("is_accelerated", torch_maxpool::is_accelerated);
  py::class_<torch_maxpool::AccelerationScope>(module, "AccelerationScope").def(py::init<>());
  torch_maxpool::detail::set_python_check(acceleration_accepts);
}
