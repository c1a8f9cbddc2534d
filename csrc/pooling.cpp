#include "pooling.h"

#include <c10/core/SymBool.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>

namespace torch_maxpool {
namespace {

constexpr int64_t kMaxStride = int64_t{1} << 62;

// Checked arithmetic: raises on overflow; sizes that are truly symbolic are left to their backend.
int64_t add(const Pooling& pooling, int64_t a, int64_t b) {
  int64_t result = 0;
  TORCH_CHECK_VALUE(
      !__builtin_add_overflow(a, b, &result), pooling.op, ": sizes overflow 64-bit integers (", a, " + ", b, ")");
  return result;
}
int64_t mul(const Pooling& pooling, int64_t a, int64_t b) {
  int64_t result = 0;
  TORCH_CHECK_VALUE(
      !__builtin_mul_overflow(a, b, &result), pooling.op, ": sizes overflow 64-bit integers (", a, " * ", b, ")");
  return result;
}
c10::SymInt add(const Pooling& pooling, const c10::SymInt& a, const c10::SymInt& b) {
  const auto left = a.maybe_as_int();
  const auto right = b.maybe_as_int();
  return left && right ? c10::SymInt(add(pooling, *left, *right)) : a + b;
}
c10::SymInt mul(const Pooling& pooling, const c10::SymInt& a, const c10::SymInt& b) {
  const auto left = a.maybe_as_int();
  const auto right = b.maybe_as_int();
  return left && right ? c10::SymInt(mul(pooling, *left, *right)) : a * b;
}

// Conditions that are decided now (bool) or recorded for run time (SymBool).
bool holds(bool condition) {
  return condition;
}
bool holds(const c10::SymBool& condition) {
  return condition.expect_true(__FILE__, __LINE__);
}
bool at_least(int64_t a, int64_t b) {
  return a >= b;
}
c10::SymBool at_least(const c10::SymInt& a, const c10::SymInt& b) {
  return a.sym_ge(b);
}
bool equal(int64_t a, int64_t b) {
  return a == b;
}
c10::SymBool equal(const c10::SymInt& a, const c10::SymInt& b) {
  return a.sym_eq(b);
}
int64_t smaller(int64_t a, int64_t b) {
  return std::min(a, b);
}
c10::SymInt smaller(const c10::SymInt& a, const c10::SymInt& b) {
  return a.min(b);
}
int64_t larger(int64_t a, int64_t b) {
  return std::max(a, b);
}
c10::SymInt larger(const c10::SymInt& a, const c10::SymInt& b) {
  return a.max(b);
}

AutoPad parse_auto_pad(const char* op, std::string_view text) {
  if (text == "explicit") {
    return AutoPad::kExplicit;
  }
  if (text == "same") {
    return AutoPad::kSame;
  }
  TORCH_CHECK_VALUE(
      text == "same_lower", op, ": auto_pad must be 'explicit', 'same' or 'same_lower', got '", text, "'");
  return AutoPad::kSameLower;
}

// Copies a list of 1 or `rank` positive entries.
void read_positive(
    const char* op,
    const char* name,
    c10::IntArrayRef list,
    int64_t rank,
    std::array<int64_t, kMaxRank>& into) {
  const auto length = static_cast<int64_t>(list.size());
  TORCH_CHECK_VALUE(
      length == 1 || length == rank,
      op,
      ": ",
      name,
      " must have ",
      rank == 1       ? "1 entry"
          : rank == 2 ? "1 or 2 entries"
                      : "1 or 3 entries",
      ", one per dimension of kernel_size, got ",
      list);
  for (int64_t i = 0; i < rank; ++i) {
    into[i] = list[length == 1 ? 0 : i];
    TORCH_CHECK_VALUE(into[i] > 0, op, ": ", name, " must be greater than zero, got ", list);
  }
}

// PyTorch's Python name, such as "uint8".
std::string_view name_of(c10::ScalarType dtype) {
  return c10::getDtypeNames(dtype).first;
}

bool is_supported(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Double:
    case c10::ScalarType::Float:
    case c10::ScalarType::Half:
    case c10::ScalarType::BFloat16:
    case c10::ScalarType::Byte:
    case c10::ScalarType::Char:
    case c10::ScalarType::Short:
    case c10::ScalarType::Int:
    case c10::ScalarType::Long:
    case c10::ScalarType::Bool:
      return true;
    default:
      return false;
  }
}

// Rank, strided layout, and no empty dimension but the batch.
void check_tensor(const Pooling& pooling, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_VALUE(tensor.defined(), pooling.op, ": ", name, " must be a tensor, got None");
  TORCH_CHECK_TYPE(
      tensor.layout() == c10::kStrided, pooling.op, ": ", name, " must have a strided layout, got ", tensor.layout());
  const int64_t rank = pooling.rank;
  TORCH_CHECK(
      tensor.dim() == rank + 1 || tensor.dim() == rank + 2,
      pooling.op,
      ": ",
      name,
      " must have ",
      rank + 1,
      " (unbatched) or ",
      rank + 2,
      " dimensions for a kernel_size of ",
      rank,
      rank == 1 ? " entry" : " entries",
      ", got sizes ",
      tensor.sym_sizes());
  const auto sizes = tensor.sym_sizes();
  for (int64_t i = tensor.dim() - rank - 1; i < tensor.dim(); ++i) {
    TORCH_CHECK(
        holds(at_least(sizes[i], c10::SymInt(1))),
        pooling.op,
        ": ",
        name,
        " may be empty in its batch dimension only, got sizes ",
        sizes);
  }
}

} // namespace

Pooling check_arguments(const char* op, const PoolingArgs& args) {
  Pooling pooling{};
  pooling.op = op;
  const auto rank = static_cast<int64_t>(args.kernel_size.size());
  TORCH_CHECK_VALUE(
      rank >= 1 && rank <= kMaxRank,
      op,
      ": kernel_size must have 1, 2 or 3 entries, one per spatial dimension, got ",
      args.kernel_size);
  pooling.rank = rank;
  read_positive(op, "kernel_size", args.kernel_size, rank, pooling.kernel_size);
  read_positive(op, "stride", args.stride.empty() ? args.kernel_size : args.stride, rank, pooling.stride);
  for (int64_t i = 0; i < rank; ++i) {
    // Leaves kernels room to round up to it.
    TORCH_CHECK_VALUE(
        pooling.stride[i] <= kMaxStride, op, ": stride must be at most ", kMaxStride, ", got ", args.stride);
  }
  read_positive(op, "dilation", args.dilation, rank, pooling.dilation);
  pooling.ceil_mode = args.ceil_mode;
  pooling.exact = args.exact;
  pooling.auto_pad = parse_auto_pad(op, args.auto_pad);

  const auto pads = static_cast<int64_t>(args.padding.size());
  TORCH_CHECK_VALUE(
      pads == 1 || pads == rank || pads == 2 * rank,
      op,
      ": padding must have ",
      rank == 1       ? "1 or 2"
          : rank == 2 ? "1, 2 or 4"
                      : "1, 3 or 6",
      " entries (begins, then ends), got ",
      args.padding);
  for (int64_t i = 0; i < rank; ++i) {
    int64_t reach = 0;
    TORCH_CHECK_VALUE(
        !__builtin_mul_overflow(pooling.dilation[i], pooling.kernel_size[i] - 1, &reach) &&
            !__builtin_add_overflow(reach, int64_t{1}, &pooling.effective[i]),
        op,
        ": dilation * (kernel_size - 1) + 1 overflows 64-bit integers, got kernel_size ",
        args.kernel_size,
        ", dilation ",
        args.dilation);
    pooling.pad_before[i] = args.padding[pads == 1 ? 0 : i];
    pooling.pad_after[i] = args.padding[pads == 1 ? 0 : (pads == rank ? i : rank + i)];
    for (const int64_t pad : {pooling.pad_before[i], pooling.pad_after[i]}) {
      TORCH_CHECK_VALUE(pad >= 0, op, ": padding must not be negative, got ", args.padding);
      TORCH_CHECK_VALUE(
          pad < pooling.effective[i],
          op,
          ": padding must be smaller than the effective kernel size ",
          pooling.effective[i],
          " on each side, got padding ",
          args.padding,
          " with kernel_size ",
          args.kernel_size,
          ", dilation ",
          args.dilation);
      TORCH_CHECK_VALUE(
          pad == 0 || pooling.auto_pad == AutoPad::kExplicit,
          op,
          ": padding must be 0 where auto_pad is '",
          args.auto_pad,
          "', got ",
          args.padding);
    }
  }
  return pooling;
}

c10::ScalarType offsets_dtype(const Pooling& pooling) {
  int64_t taps = 1;
  bool counted = true;
  for (int64_t i = 0; i < pooling.rank; ++i) {
    counted = counted && !__builtin_mul_overflow(taps, pooling.kernel_size[i], &taps);
  }
  TORCH_CHECK_VALUE(
      counted && taps - 1 <= std::numeric_limits<int32_t>::max(),
      pooling.op,
      ": a window of kernel_size ",
      c10::IntArrayRef(pooling.kernel_size.data(), pooling.rank),
      " has more elements than int32 offsets can name (2147483648)");
  return taps <= kMaxUint8Taps ? c10::ScalarType::Byte : c10::ScalarType::Int;
}

void check_input(const Pooling& pooling, const at::Tensor& input) {
  check_tensor(pooling, "input", input);
  TORCH_CHECK_TYPE(
      is_supported(input.scalar_type()),
      pooling.op,
      ": input must be float64, float32, float16, bfloat16, uint8, int8, int16, int32, int64 or bool, got ",
      name_of(input.scalar_type()));
}

void check_offsets(const Pooling& pooling, const at::Tensor& offsets) {
  check_tensor(pooling, "offsets", offsets);
  const auto dtype = offsets_dtype(pooling);
  TORCH_CHECK_TYPE(
      offsets.scalar_type() == dtype,
      pooling.op,
      ": offsets must be ",
      name_of(dtype),
      " for kernel_size ",
      c10::IntArrayRef(pooling.kernel_size.data(), pooling.rank),
      ", got ",
      name_of(offsets.scalar_type()));
}

void check_same_device(const Pooling& pooling, const char* name, const at::Tensor& tensor, const at::Tensor& offsets) {
  TORCH_CHECK(
      tensor.device() == offsets.device(),
      pooling.op,
      ": ",
      name,
      " and offsets must be on one device, got ",
      tensor.device(),
      " and ",
      offsets.device());
}

void check_backward_pair(const Pooling& pooling, const at::Tensor& grad_output, const at::Tensor& offsets) {
  check_tensor(pooling, "grad_output", grad_output);
  TORCH_CHECK_TYPE(
      c10::isFloatingType(grad_output.scalar_type()) && is_supported(grad_output.scalar_type()),
      pooling.op,
      ": grad_output must be float64, float32, float16 or bfloat16, got ",
      name_of(grad_output.scalar_type()));
  check_offsets(pooling, offsets);
  check_same_device(pooling, "grad_output", grad_output, offsets);
  check_sizes<c10::SymInt>(pooling, "offsets", offsets.sym_sizes(), grad_output.sym_sizes());
}

void check_spatial_size(const Pooling& pooling, c10::ArrayRef<c10::SymInt> input_spatial_size) {
  TORCH_CHECK_VALUE(
      static_cast<int64_t>(input_spatial_size.size()) == pooling.rank,
      pooling.op,
      ": input_spatial_size must have ",
      pooling.rank,
      " entries, one per dimension of kernel_size, got ",
      input_spatial_size);
  for (const auto& size : input_spatial_size) {
    TORCH_CHECK_VALUE(
        holds(at_least(size, c10::SymInt(1))),
        pooling.op,
        ": input_spatial_size must be greater than zero, got ",
        input_spatial_size);
  }
}

c10::MemoryFormat pooled_memory_format(const Pooling& pooling, const at::Tensor& like) {
  if (pooling.rank == 1 || like.dim() != pooling.rank + 2) {
    return c10::MemoryFormat::Contiguous;
  }
  return like.suggest_memory_format();
}

template <class Int>
Geometry<Int> pooled_geometry(const Pooling& pooling, c10::ArrayRef<Int> input_spatial_size) {
  Geometry<Int> geometry{};
  for (int64_t i = 0; i < pooling.rank; ++i) {
    const Int size = input_spatial_size[i];
    const Int kernel_reach = pooling.effective[i];
    const Int stride = pooling.stride[i];
    Int before = pooling.pad_before[i];
    Int after = pooling.pad_after[i];
    Int output = 0;
    if (pooling.auto_pad != AutoPad::kExplicit) {
      output = (size - Int(1)) / stride + Int(1);
      const Int covered = add(pooling, mul(pooling, output - Int(1), stride), kernel_reach);
      const Int total = larger(covered - size, Int(0));
      const Int less = total / Int(2);
      before = pooling.auto_pad == AutoPad::kSame ? less : total - less;
      after = total - before;
    }
    // span: where the last window may start, counted from the first window's start.
    const Int padded = add(pooling, add(pooling, size, before), after);
    add(pooling, padded, stride); // kernels round parts of it up to the stride
    const Int span = padded - kernel_reach;
    const Int rounded = pooling.ceil_mode ? add(pooling, span, stride - Int(1)) : span;
    // "same" always fits, and says so without a condition on symbolic sizes.
    TORCH_CHECK(
        pooling.auto_pad != AutoPad::kExplicit || holds(at_least(rounded, Int(0))),
        pooling.op,
        ": output size is too small in spatial dimension ",
        i,
        ": input size ",
        size,
        ", kernel_size ",
        pooling.kernel_size[i],
        ", stride ",
        stride,
        ", padding ",
        before,
        " and ",
        after,
        ", dilation ",
        pooling.dilation[i]);
    if (pooling.exact) {
      TORCH_CHECK_VALUE(
          holds(at_least(span, Int(0))) && holds(equal(span % stride, Int(0))),
          pooling.op,
          ": Invalid dimensions! exact=True, but windows of kernel_size ",
          pooling.kernel_size[i],
          ", stride ",
          stride,
          ", dilation ",
          pooling.dilation[i],
          " do not tile input size ",
          size,
          " with padding ",
          before,
          " and ",
          after,
          " in spatial dimension ",
          i);
    }
    if (pooling.auto_pad == AutoPad::kExplicit) {
      output = rounded / stride + Int(1);
      if (pooling.ceil_mode) {
        // A window that starts at or beyond the end of input and leading padding is dropped.
        output = smaller(output, (size + before - Int(1)) / stride + Int(1));
      }
    }
    geometry.output[i] = output;
    geometry.pad_before[i] = before;
  }
  return geometry;
}

// Distances in memory from a window's first tap to its last must fit, wherever in the input's strides they are taken.
template <class Int>
void check_reach(const Pooling& pooling, c10::ArrayRef<Int> sizes, const std::array<Int, kMaxRank>& spatial_size) {
  const auto first = static_cast<int64_t>(sizes.size()) - pooling.rank;
  Int reach = mul(pooling, Int(8), sizes[first - 1]);
  for (int64_t i = 0; i < pooling.rank; ++i) {
    reach = mul(pooling, reach, larger(Int(pooling.effective[i]), larger(sizes[first + i], spatial_size[i])));
  }
}

template <class Int>
c10::SmallVector<Int, 5> with_spatial_size(
    const Pooling& pooling,
    c10::ArrayRef<Int> sizes,
    const std::array<Int, kMaxRank>& spatial_size) {
  check_reach(pooling, sizes, spatial_size);
  c10::SmallVector<Int, 5> result(sizes.begin(), sizes.end() - pooling.rank);
  result.append(spatial_size.begin(), spatial_size.begin() + pooling.rank);
  Int count(8); // bytes of the widest element
  for (const auto& size : result) {
    count = mul(pooling, count, size);
  }
  return result;
}

template <class Int>
void check_sizes(const Pooling& pooling, const char* name, c10::ArrayRef<Int> sizes, c10::ArrayRef<Int> expected) {
  bool same = sizes.size() == expected.size();
  for (size_t i = 0; same && i < sizes.size(); ++i) {
    same = holds(equal(sizes[i], expected[i]));
  }
  TORCH_CHECK(same, pooling.op, ": ", name, " must have sizes ", expected, " for these arguments, got ", sizes);
}

bool may_have_empty_windows(const Pooling& pooling) {
  for (int64_t i = 0; i < pooling.rank; ++i) {
    if (pooling.effective[i] > pooling.kernel_size[i]) {
      return true;
    }
  }
  return false;
}

std::string_view auto_pad_name(AutoPad auto_pad) {
  switch (auto_pad) {
    case AutoPad::kSame:
      return "same";
    case AutoPad::kSameLower:
      return "same_lower";
    default:
      return "explicit";
  }
}

template Geometry<int64_t> pooled_geometry(const Pooling&, c10::ArrayRef<int64_t>);
template Geometry<c10::SymInt> pooled_geometry(const Pooling&, c10::ArrayRef<c10::SymInt>);
template c10::SmallVector<int64_t, 5> with_spatial_size(
    const Pooling&,
    c10::ArrayRef<int64_t>,
    const std::array<int64_t, kMaxRank>&);
template c10::SmallVector<c10::SymInt, 5> with_spatial_size(
    const Pooling&,
    c10::ArrayRef<c10::SymInt>,
    const std::array<c10::SymInt, kMaxRank>&);
template void check_sizes(const Pooling&, const char*, c10::ArrayRef<int64_t>, c10::ArrayRef<int64_t>);
template void check_sizes(const Pooling&, const char*, c10::ArrayRef<c10::SymInt>, c10::ArrayRef<c10::SymInt>);

} // namespace torch_maxpool
