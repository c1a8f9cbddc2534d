// The Python module torch_maxpool._C: a short way from torch_maxpool.functional to the operators. Importing it also
// registers them.
#include "functional.h"

#include <c10/util/SmallVector.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <string>

namespace {

// An int, or a list or tuple of ints, or of (before, after) pairs, as a flat list; pairs become all begins, then all
// ends.
struct Ints {
  c10::SmallVector<int64_t, 6> values;
  bool is_scalar = false;
};

// Padding: ints, pairs, or a word.
struct Padding {
  Ints ints;
  std::string word;
};

bool read_int(PyObject* object, int64_t& value) {
  if (PyBool_Check(object)) {
    return false;
  }
  const auto index = pybind11::reinterpret_steal<pybind11::object>(PyNumber_Index(object));
  if (!index) {
    PyErr_Clear();
    return false;
  }
  value = PyLong_AsLongLong(index.ptr());
  if (value == -1 && PyErr_Occurred()) {
    throw pybind11::error_already_set();
  }
  return true;
}

bool read_ints(PyObject* object, Ints& ints) {
  if (PyTuple_Check(object) || PyList_Check(object)) {
    const auto count = PySequence_Fast_GET_SIZE(object);
    for (Py_ssize_t i = 0; i < count; ++i) {
      int64_t value = 0;
      if (!read_int(PySequence_Fast_GET_ITEM(object, i), value)) {
        return false;
      }
      ints.values.push_back(value);
    }
    return true;
  }
  int64_t value = 0;
  if (!read_int(object, value)) {
    return false;
  }
  ints.values.push_back(value);
  ints.is_scalar = true;
  return true;
}

// A non-empty list or tuple of pairs.
bool read_pairs(PyObject* object, Ints& ints) {
  if (!PyTuple_Check(object) && !PyList_Check(object)) {
    return false;
  }
  const auto count = PySequence_Fast_GET_SIZE(object);
  c10::SmallVector<int64_t, 3> ends;
  for (Py_ssize_t i = 0; i < count; ++i) {
    Ints pair;
    if (!read_ints(PySequence_Fast_GET_ITEM(object, i), pair) || pair.is_scalar || pair.values.size() != 2) {
      return false;
    }
    ints.values.push_back(pair.values[0]);
    ends.push_back(pair.values[1]);
  }
  ints.values.append(ends.begin(), ends.end());
  return count > 0;
}

} // namespace

namespace pybind11::detail {

template <>
struct type_caster<Ints> {
  PYBIND11_TYPE_CASTER(Ints, const_name("int | Sequence[int]"));
  bool load(handle source, bool) {
    value = Ints();
    return read_ints(source.ptr(), value);
  }
};

template <>
struct type_caster<Padding> {
  PYBIND11_TYPE_CASTER(Padding, const_name("int | Sequence[int] | Sequence[tuple[int, int]] | str"));
  bool load(handle source, bool) {
    value = Padding();
    if (PyUnicode_Check(source.ptr())) {
      value.word = source.cast<std::string>();
      return true;
    }
    if (read_ints(source.ptr(), value.ints)) {
      return true;
    }
    value.ints = Ints();
    return read_pairs(source.ptr(), value.ints);
  }
};

} // namespace pybind11::detail

namespace {

torch_maxpool::FunctionalArgs functional_args(
    const Ints& kernel_size,
    const std::optional<Ints>& stride,
    const Padding& padding,
    const Ints& dilation,
    bool ceil_mode,
    bool exact) {
  torch_maxpool::FunctionalArgs args;
  args.kernel_size = kernel_size.values;
  if (stride) {
    args.stride = at::IntArrayRef(stride->values);
  }
  args.padding = padding.ints.values;
  args.padding_word = padding.word;
  args.dilation = dilation.values;
  args.ceil_mode = ceil_mode;
  args.exact = exact;
  return args;
}

at::Tensor max_pool(
    const at::Tensor& input,
    int64_t rank,
    const Ints& kernel_size,
    const std::optional<Ints>& stride,
    const Padding& padding,
    const Ints& dilation,
    bool ceil_mode,
    bool exact) {
  return torch_maxpool::max_pool(
      input, rank, functional_args(kernel_size, stride, padding, dilation, ceil_mode, exact));
}

std::tuple<at::Tensor, at::Tensor> max_pool_with_indices(
    const at::Tensor& input,
    int64_t rank,
    const Ints& kernel_size,
    const std::optional<Ints>& stride,
    const Padding& padding,
    const Ints& dilation,
    bool ceil_mode,
    bool exact) {
  return torch_maxpool::max_pool_with_indices(
      input, rank, functional_args(kernel_size, stride, padding, dilation, ceil_mode, exact));
}

} // namespace

PYBIND11_MODULE(_C, module) {
  namespace py = pybind11;
  module.doc() = "Compiled part of torch_maxpool; use torch_maxpool or torch.ops.torch_maxpool instead.";
  module.def("max_pool", max_pool, py::call_guard<py::gil_scoped_release>());
  module.def("max_pool_with_indices", max_pool_with_indices, py::call_guard<py::gil_scoped_release>());
}
