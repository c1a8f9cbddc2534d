// Python's answers, read from files that torch.save wrote, and comparison with them.
#pragma once

#include <torch/script.h>

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

inline c10::IValue read_pickle(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    throw std::runtime_error("cannot read " + path);
  }
  return torch::jit::pickle_load({std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()});
}

// The tensors of a tensor, a tuple or a list.
inline std::vector<at::Tensor> tensors(const c10::IValue& value) {
  if (value.isTensor()) {
    return {value.toTensor()};
  }
  std::vector<at::Tensor> result;
  for (const auto& element : value.isTuple() ? value.toTupleRef().elements().vec() : value.toListRef().vec()) {
    result.push_back(element.toTensor());
  }
  return result;
}

inline void check_equal(const at::Tensor& got, const at::Tensor& want, const std::string& what) {
  if (!got.defined() || got.dtype() != want.dtype() || !torch::equal(got, want)) {
    throw std::runtime_error(what + " differs from Python's");
  }
}

inline void check_equal(
    const std::vector<at::Tensor>& got,
    const std::vector<at::Tensor>& want,
    const std::string& what) {
  if (got.size() != want.size()) {
    throw std::runtime_error("number of " + what + "s differs from Python's");
  }
  for (size_t i = 0; i < got.size(); ++i) {
    check_equal(got[i], want[i], what + " " + std::to_string(i));
  }
}
