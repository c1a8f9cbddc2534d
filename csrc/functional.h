// PyTorch's calling conventions: max_pool1d/2d/3d with an optional stride, lists of one entry, padding as a word.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/OptionalArrayRef.h>

#include <cstdint>
#include <string_view>
#include <tuple>

namespace torch_maxpool {

struct FunctionalArgs {
  at::IntArrayRef kernel_size; // 1 or rank entries
  at::OptionalIntArrayRef stride; // none or empty: kernel_size
  at::IntArrayRef padding; // 1, rank or 2 * rank entries; ignored where padding_word is given
  std::string_view padding_word; // "valid", "same", "same_lower", or empty
  at::IntArrayRef dilation; // 1 or rank entries
  bool ceil_mode = false;
  bool exact = false;
};

// Entry i of a list with one entry for every dimension, or one for each.
inline int64_t entry(at::IntArrayRef list, int64_t i) {
  return list[list.size() == 1 ? 0 : i];
}

// Each window's maximum over the last `rank` dimensions of input.
at::Tensor max_pool(const at::Tensor& input, int64_t rank, const FunctionalArgs& args);

// The same, and the maxima's int64 indices, flattened over the spatial sizes of input.
std::tuple<at::Tensor, at::Tensor> max_pool_with_indices(
    const at::Tensor& input,
    int64_t rank,
    const FunctionalArgs& args);

} // namespace torch_maxpool
