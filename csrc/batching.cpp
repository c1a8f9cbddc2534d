// Batching rules of PyTorch's older vmap: key Batched. torch.autograd.grad(is_grads_batched=True), the vectorize=True of
// torch.autograd.functional and gradcheck's check_batched_grad still stand on it. Those of torch.func.vmap are in
// torch_maxpool/transforms.py; here as there, mapped dimensions become part of the batch.
#include "operators.h"

#include <ATen/LegacyVmapTransforms.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/reshape.h>
#include <torch/library.h>

#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace torch_maxpool {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// The results of `op` for each of the mapped tensors, which have one logical rank: `rank` spatial dimensions, channels
// and perhaps a batch. `op` runs once, or raises on other ranks, which could pass for right ones when folded.
Tensors map(at::TensorList tensors, size_t rank, const std::function<Tensors(const Tensors&)>& op) {
  const auto views = at::MultiBatchVmapTransform::logicalToPhysical(tensors);
  const auto mapped = views[0].numBatchDims();
  const auto front = views[0].tensor().sym_sizes().slice(0, mapped);
  const bool batched = tensors[0].dim() == static_cast<int64_t>(rank) + 2;
  Tensors folded;
  bool right = true;
  for (const auto& view : views) {
    const auto sizes = view.tensor().sym_sizes();
    const size_t kept = mapped + (batched ? 1 : 0);
    right = right && sizes.size() == kept + rank + 1;
    c10::SymDimVector target(sizes.slice(std::min(kept, sizes.size())));
    target.insert(
        target.begin(), c10::multiply_integers(sizes.begin(), sizes.begin() + (sizes.size() - target.size())));
    folded.push_back(
        right ? view.tensor().reshape_symint(target)
              : at::empty_symint(sizes.slice(mapped), view.tensor().options().device(c10::kMeta)));
  }
  auto results = op(folded);
  for (auto& result : results) {
    c10::SymDimVector sizes(front.begin(), front.end());
    if (batched) {
      sizes.push_back(views[0].tensor().sym_size(mapped));
    }
    const auto rest = result.sym_sizes().slice(1);
    sizes.append(rest.begin(), rest.end());
    result = views[0].getPhysicalToLogicalMap().apply(result.reshape_symint(sizes));
  }
  return results;
}

// The first list of integers among an operator's arguments is kernel_size, with an entry for each spatial dimension.
template <class... Rest>
size_t rank_of(at::IntArrayRef kernel_size, const Rest&... /*rest*/) {
  return kernel_size.size();
}
template <class... Rest>
size_t rank_of(c10::SymIntArrayRef /*input_spatial_size*/, const Rest&... rest) {
  return rank_of(rest...);
}

Tensors listed(Tensor result) {
  return {std::move(result)};
}
Tensors listed(std::tuple<Tensor, Tensor> results) {
  return {std::move(std::get<0>(results)), std::move(std::get<1>(results))};
}

template <class Result>
Result unlisted(Tensors results) {
  if constexpr (std::is_same_v<Result, Tensor>) {
    return std::move(results[0]);
  } else {
    return {std::move(results[0]), std::move(results[1])};
  }
}

// An operator that takes one tensor, or two, with its tensors mapped.
template <class Signature, Signature* kOp>
struct Batched;
template <class Result, class... Rest, Result (*kOp)(const Tensor&, Rest...)>
struct Batched<Result(const Tensor&, Rest...), kOp> {
  static Result call(const Tensor& tensor, Rest... rest) {
    return unlisted<Result>(
        map({tensor}, rank_of(rest...), [&](const Tensors& folded) { return listed(kOp(folded[0], rest...)); }));
  }
};
template <class Result, class... Rest, Result (*kOp)(const Tensor&, const Tensor&, Rest...)>
struct Batched<Result(const Tensor&, const Tensor&, Rest...), kOp> {
  static Result call(const Tensor& first, const Tensor& second, Rest... rest) {
    return unlisted<Result>(map({first, second}, rank_of(rest...), [&](const Tensors& folded) {
      return listed(kOp(folded[0], folded[1], rest...));
    }));
  }
};

template <class Signature, Signature* kOp>
void add(torch::Library& library, const char* name) {
  library.impl(name, &Batched<Signature, kOp>::call);
}

} // namespace

TORCH_LIBRARY_IMPL(torch_maxpool, Batched, library) {
  add<decltype(maxpool_forward), maxpool_forward>(library, "maxpool_forward");
  add<decltype(maxpool_values), maxpool_values>(library, "maxpool_values");
  add<decltype(maxpool_backward), maxpool_backward>(library, "maxpool_backward");
  add<decltype(maxpool_gather), maxpool_gather>(library, "maxpool_gather");
  add<decltype(maxpool_indices), maxpool_indices>(library, "maxpool_indices");
}

} // namespace torch_maxpool
