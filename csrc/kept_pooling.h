// What autograd keeps of a pooling besides offsets.
#pragma once

#include "pooling.h"

#include <c10/core/SymInt.h>

#include <utility>
#include <vector>

namespace torch_maxpool {

// Checked hyper-parameters in one list of integers (kernel_size, stride, begins, ends, dilation, ceil_mode, auto_pad) and
// the input's spatial sizes: types that autograd's contexts and compiled autograd can carry.
class KeptPooling {
 public:
  KeptPooling() = default;

  KeptPooling(const Pooling& pooling, c10::SymIntArrayRef input_spatial_size)
      : size(input_spatial_size.begin(), input_spatial_size.end()) {
    const int64_t rank = pooling.rank;
    hyper_parameters.reserve(5 * rank + 2);
    for (const auto* list :
         {&pooling.kernel_size, &pooling.stride, &pooling.pad_before, &pooling.pad_after, &pooling.dilation}) {
      hyper_parameters.insert(hyper_parameters.end(), list->begin(), list->begin() + rank);
    }
    hyper_parameters.push_back(pooling.ceil_mode);
    hyper_parameters.push_back(static_cast<int64_t>(pooling.auto_pad));
  }

  KeptPooling(std::vector<int64_t> kept_hyper_parameters, std::vector<c10::SymInt> kept_size)
      : hyper_parameters(std::move(kept_hyper_parameters)), size(std::move(kept_size)) {}

  // Views of this object.
  PoolingArgs args() const {
    const c10::IntArrayRef list(hyper_parameters);
    const size_t rank = size.size();
    PoolingArgs result;
    result.kernel_size = list.slice(0, rank);
    result.stride = list.slice(rank, rank);
    result.padding = list.slice(2 * rank, 2 * rank);
    result.dilation = list.slice(4 * rank, rank);
    result.ceil_mode = list[5 * rank] != 0;
    result.auto_pad = auto_pad_name(static_cast<AutoPad>(list[5 * rank + 1]));
    return result;
  }

  std::vector<int64_t> hyper_parameters;
  std::vector<c10::SymInt> size;
};

} // namespace torch_maxpool
