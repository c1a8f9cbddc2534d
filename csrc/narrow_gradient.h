// Max pooling of 16-bit floats with the gradient that PyTorch computes: rounded to 16 bits at every addition, where this
// package's own backward keeps sums in float32. The two differ where windows overlap.
#pragma once

#include "functional.h"

namespace torch_maxpool {

// Whether the gradients of a call on such input may differ. Lists have one or `rank` entries each.
bool gradient_is_narrow(c10::ScalarType dtype, int64_t rank, const FunctionalArgs& args);

// As max_pool and max_pool_with_indices. Keeps offsets, and leaves their sum to PyTorch's backward.
at::Tensor max_pool_narrow(const at::Tensor& input, int64_t rank, const FunctionalArgs& args);
std::tuple<at::Tensor, at::Tensor> max_pool_narrow_with_indices(
    const at::Tensor& input,
    int64_t rank,
    const FunctionalArgs& args);

} // namespace torch_maxpool
