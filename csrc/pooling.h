// Arguments of a max pooling, checked once, and the sizes that follow from them.
//
// Every way in (eager, autograd, meta, C++, Python) goes through these functions, so a rule or an error text exists
// in one place. Sizes are a template parameter: int64_t for real tensors, c10::SymInt for meta and traced ones.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>
#include <c10/core/SymInt.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/SmallVector.h>

#include <array>
#include <cstdint>
#include <string_view>

namespace torch_maxpool {

inline constexpr int64_t kMaxRank = 3;
// Largest number of window elements (taps) whose numbers fit uint8 offsets.
inline constexpr int64_t kMaxUint8Taps = 256;

// How padding is chosen. Names follow ONNX MaxPool's auto_pad.
enum class AutoPad : uint8_t {
  kExplicit, // "explicit": the padding argument
  kSame, // "same": output = ceil(input / stride), the odd padding element after (ONNX SAME_UPPER)
  kSameLower, // "same_lower": likewise, the odd one before (ONNX SAME_LOWER)
};

// Hyper-parameters as the caller wrote them: views, nothing checked.
struct PoolingArgs {
  c10::IntArrayRef kernel_size; // 1 to 3 entries: the spatial rank
  c10::IntArrayRef stride; // 0 (= kernel_size), 1 or rank entries
  c10::IntArrayRef padding; // 1, rank, or 2 * rank entries (all begins, then all ends: ONNX order)
  c10::IntArrayRef dilation; // 1 or rank entries
  bool ceil_mode = false;
  bool exact = false;
  std::string_view auto_pad = "explicit";
};

// Checked hyper-parameters; arrays have `rank` meaningful entries.
struct Pooling {
  const char* op; // operator's name, for messages
  int64_t rank;
  std::array<int64_t, kMaxRank> kernel_size;
  std::array<int64_t, kMaxRank> stride;
  std::array<int64_t, kMaxRank> dilation;
  std::array<int64_t, kMaxRank> pad_before; // meaningful for AutoPad::kExplicit only
  std::array<int64_t, kMaxRank> pad_after;
  std::array<int64_t, kMaxRank> effective; // dilation * (kernel_size - 1) + 1
  bool ceil_mode;
  bool exact;
  AutoPad auto_pad;
};

std::string_view auto_pad_name(AutoPad auto_pad);

// Spatial sizes of a pooling; `rank` meaningful entries.
template <class Int>
struct Geometry {
  std::array<Int, kMaxRank> output;
  std::array<Int, kMaxRank> pad_before;
};

// Checks everything about the hyper-parameters that does not need a tensor.
// Raises: list lengths, non-positive kernel_size/stride/dilation, padding < 0 or >= the effective kernel size,
// arithmetic that leaves int64, unknown auto_pad.
Pooling check_arguments(const char* op, const PoolingArgs& args);

// dtype of the offsets of this window: uint8 up to 256 taps, int32 above. Raises where int32 cannot count the taps.
c10::ScalarType offsets_dtype(const Pooling& pooling);

// Rank, dtype and layout of an input tensor. Zero-sized non-batch dimensions are refused, an empty batch is not.
void check_input(const Pooling& pooling, const at::Tensor& input);

// grad_output and offsets of a backward: rank, dtype, layout, device, equal shapes.
void check_backward_pair(const Pooling& pooling, const at::Tensor& grad_output, const at::Tensor& offsets);
// Rank, dtype and layout of offsets alone.
void check_offsets(const Pooling& pooling, const at::Tensor& offsets);
// `tensor`, called `name`, lies where the offsets do.
void check_same_device(const Pooling& pooling, const char* name, const at::Tensor& tensor, const at::Tensor& offsets);
// Length and sign of input_spatial_size.
void check_spatial_size(const Pooling& pooling, c10::ArrayRef<c10::SymInt> input_spatial_size);

// Layout of the outputs of `like`: channels_last (or channels_last_3d) where PyTorch suggests it for a batched 2-d (3-d)
// input, contiguous otherwise.
c10::MemoryFormat pooled_memory_format(const Pooling& pooling, const at::Tensor& like);

// Output sizes and leading padding (PyTorch's and ONNX's rule, see README "Sizes").
// Raises where an output would be empty, where exact tiling is asked for and not met ("Invalid dimensions!"), and where
// the arithmetic leaves int64. Instantiated for int64_t and c10::SymInt.
template <class Int>
Geometry<Int> pooled_geometry(const Pooling& pooling, c10::ArrayRef<Int> input_spatial_size);

// Sizes of the output of `pooling` on an input of these (full) sizes: batch and channels kept, spatial sizes pooled.
// Also checks that the number of elements stays within int64.
template <class Int>
c10::SmallVector<Int, 5> with_spatial_size(
    const Pooling& pooling,
    c10::ArrayRef<Int> sizes,
    const std::array<Int, kMaxRank>& spatial_size);

// Raises unless `sizes`, those of the tensor called `name`, are `expected`.
template <class Int>
void check_sizes(const Pooling& pooling, const char* name, c10::ArrayRef<Int> sizes, c10::ArrayRef<Int> expected);

// True where a window may contain no element of the input at all (only dilation makes that possible).
bool may_have_empty_windows(const Pooling& pooling);

} // namespace torch_maxpool
