// max_pool1d/2d/3d as composites of the operators. TorchScript and torch.compile see them as operators with PyTorch's own
// argument lists (ints serve every dimension, padding may be a word); eager Python comes here through python.cpp.
#include "functional.h"
#include "operators.h"

#include <c10/util/SmallVector.h>
#include <torch/library.h>

#include <string>

namespace torch_maxpool {
namespace {

struct OperatorArgs {
  c10::SmallVector<int64_t, 3> kernel_size;
  at::IntArrayRef stride;
  at::IntArrayRef padding;
  std::string_view auto_pad;
};

OperatorArgs operator_args(int64_t rank, const FunctionalArgs& args) {
  OperatorArgs result;
  const auto entries = static_cast<int64_t>(args.kernel_size.size());
  TORCH_CHECK_VALUE(
      entries == 1 || entries == rank,
      "max_pool",
      rank,
      "d: kernel_size must be an int or have ",
      rank,
      rank == 1 ? " entry" : " entries",
      ", got ",
      args.kernel_size);
  result.kernel_size.assign(args.kernel_size.begin(), args.kernel_size.end());
  result.kernel_size.resize(rank, args.kernel_size[0]);
  // Never left empty: AOTInductor's packages (PyTorch 2.13) lose empty lists on their way to an operator.
  result.stride = args.stride && !args.stride->empty() ? *args.stride : args.kernel_size;
  result.padding = args.padding;
  result.auto_pad = "explicit";
  if (!args.padding_word.empty()) {
    static constexpr int64_t kNone = 0;
    result.padding = at::IntArrayRef(kNone);
    if (args.padding_word != "valid") {
      TORCH_CHECK_VALUE(
          args.padding_word == "same" || args.padding_word == "same_lower",
          "max_pool",
          rank,
          "d: padding must be ints, pairs, 'valid', 'same' or 'same_lower', got '",
          args.padding_word,
          "'");
      result.auto_pad = args.padding_word;
    }
  }
  return result;
}

template <int64_t kRank>
at::Tensor max_pool_ints(
    const at::Tensor& input,
    at::IntArrayRef kernel_size,
    at::OptionalIntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    bool return_indices,
    bool exact) {
  TORCH_CHECK_VALUE(
      !return_indices, "max_pool", kRank, "d: return_indices=True needs max_pool", kRank, "d_with_indices");
  return max_pool(input, kRank, {kernel_size, stride, padding, "", dilation, ceil_mode, exact});
}

template <int64_t kRank>
at::Tensor max_pool_word(
    const at::Tensor& input,
    at::IntArrayRef kernel_size,
    at::OptionalIntArrayRef stride,
    std::string_view padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    bool return_indices,
    bool exact) {
  TORCH_CHECK_VALUE(
      !return_indices, "max_pool", kRank, "d: return_indices=True needs max_pool", kRank, "d_with_indices");
  return max_pool(input, kRank, {kernel_size, stride, {}, padding, dilation, ceil_mode, exact});
}

template <int64_t kRank>
std::tuple<at::Tensor, at::Tensor> max_pool_with_indices_ints(
    const at::Tensor& input,
    at::IntArrayRef kernel_size,
    at::OptionalIntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    bool /*return_indices*/,
    bool exact) {
  return max_pool_with_indices(input, kRank, {kernel_size, stride, padding, "", dilation, ceil_mode, exact});
}

template <int64_t kRank>
std::tuple<at::Tensor, at::Tensor> max_pool_with_indices_word(
    const at::Tensor& input,
    at::IntArrayRef kernel_size,
    at::OptionalIntArrayRef stride,
    std::string_view padding,
    at::IntArrayRef dilation,
    bool ceil_mode,
    bool /*return_indices*/,
    bool exact) {
  return max_pool_with_indices(input, kRank, {kernel_size, stride, {}, padding, dilation, ceil_mode, exact});
}

// return_indices is in both lists so that one Python call fits either; its value picks the operator.
template <int64_t kRank>
void define(torch::Library& library) {
  const std::string n = std::to_string(kRank);
  const std::string name = "max_pool" + n + "d";
  const std::string before = "(Tensor input, int[" + n + "] kernel_size, int[" + n + "]? stride=None, ";
  const std::string after = ", int[" + n + "] dilation=1, bool ceil_mode=False, bool return_indices=";
  const std::string ints = "int[" + n + "] padding=0" + after;
  const std::string word = "str padding=\"valid\"" + after;
  const std::string values = "False, *, bool exact=False) -> Tensor";
  const std::string indexed = "True, *, bool exact=False) -> (Tensor output, Tensor indices)";
  const auto tags = std::vector<at::Tag>{at::Tag::pt2_compliant_tag};
  library.def(torch::schema((name + before + ints + values).c_str()), tags);
  library.def(torch::schema((name + ".word" + before + word + values).c_str()), tags);
  library.def(torch::schema((name + "_with_indices" + before + ints + indexed).c_str()), tags);
  library.def(torch::schema((name + "_with_indices.word" + before + word + indexed).c_str()), tags);
  // Composites, under vmap too: its two implementations would rather loop than take a composite apart unasked.
  for (const auto key :
       {c10::DispatchKey::CompositeImplicitAutograd,
        c10::DispatchKey::FuncTorchBatchedDecomposition,
        c10::DispatchKey::Batched}) {
    library.impl(name.c_str(), torch::dispatch(key, TORCH_FN(max_pool_ints<kRank>)));
    library.impl((name + ".word").c_str(), torch::dispatch(key, TORCH_FN(max_pool_word<kRank>)));
    library.impl((name + "_with_indices").c_str(), torch::dispatch(key, TORCH_FN(max_pool_with_indices_ints<kRank>)));
    library.impl(
        (name + "_with_indices.word").c_str(), torch::dispatch(key, TORCH_FN(max_pool_with_indices_word<kRank>)));
  }
}

} // namespace

at::Tensor max_pool(const at::Tensor& input, int64_t rank, const FunctionalArgs& args) {
  const auto a = operator_args(rank, args);
  return maxpool_values(
      input, a.kernel_size, a.stride, a.padding, args.dilation, args.ceil_mode, args.exact, a.auto_pad);
}

std::tuple<at::Tensor, at::Tensor> max_pool_with_indices(
    const at::Tensor& input,
    int64_t rank,
    const FunctionalArgs& args) {
  const auto a = operator_args(rank, args);
  auto [output, offsets] =
      maxpool_forward(input, a.kernel_size, a.stride, a.padding, args.dilation, args.ceil_mode, args.exact, a.auto_pad);
  auto indices = maxpool_indices(
      offsets,
      input.sym_sizes().slice(input.dim() - rank),
      a.kernel_size,
      a.stride,
      a.padding,
      args.dilation,
      args.ceil_mode,
      a.auto_pad);
  return {std::move(output), std::move(indices)};
}

TORCH_LIBRARY_FRAGMENT(torch_maxpool, library) {
  define<1>(library);
  define<2>(library);
  define<3>(library);
}

} // namespace torch_maxpool
