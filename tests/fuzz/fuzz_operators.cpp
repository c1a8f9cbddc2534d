// Coverage-guided fuzzing of the operators' C++ functions: bytes become hyper-parameters (sane, extreme and wrong),
// tensors of every dtype and layout, their elements, and offsets. Every call must give what the definition says, or raise
// an error that names the operator; the meta kernels must agree. libFuzzer's entry point; fuzz_main.cpp calls it where
// there is no libFuzzer.
#include <torch_maxpool/operators.h>

#include <torch/torch.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace {

using torch::Tensor;
using Ints = std::vector<int64_t>;

constexpr int64_t kMostElements = 1 << 14; // of tensors that are really computed

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "fuzz_operators: %s\n", what.c_str());
  std::abort();
}
void check(bool holds, const char* what) {
  if (!holds) {
    fail(what);
  }
}

// Bytes, then zeros.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t byte() {
    return at_ < size_ ? data_[at_++] : 0;
  }
  int64_t below(int64_t bound) {
    return byte() % bound;
  }
  int64_t wide() {
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i) {
      value = value << 8 | byte();
    }
    return static_cast<int64_t>(value);
  }
  // Mostly `low` to `low` + 7; now and then something extreme.
  int64_t number(int64_t low) {
    static constexpr int64_t kExtremes[] = {
        -1,
        0,
        255,
        256,
        257,
        65536,
        int64_t{1} << 20,
        std::numeric_limits<int32_t>::max(),
        int64_t{1} << 31,
        (int64_t{1} << 31) + 1,
        int64_t{1} << 32,
        int64_t{1} << 61,
        int64_t{1} << 62,
        std::numeric_limits<int64_t>::max() - 1,
        std::numeric_limits<int64_t>::max(),
        std::numeric_limits<int64_t>::min()};
    const uint8_t drawn = byte();
    if (drawn < 224) {
      return low + drawn % 8;
    }
    return drawn < 250 ? kExtremes[drawn % 16] : wide();
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

struct Call {
  Ints kernel_size, stride, padding, dilation;
  bool ceil_mode, exact;
  std::string auto_pad;
  Ints sizes; // of the input
  torch::ScalarType dtype;
  int layout;
  bool requires_grad;

  int64_t rank() const {
    return static_cast<int64_t>(kernel_size.size());
  }
  Ints spatial() const {
    return Ints(sizes.end() - rank(), sizes.end());
  }
};

// A list of `length` entries, rarely of another length, often of one.
Ints read_list(Reader& reader, int64_t length, int64_t low) {
  const int64_t drawn = reader.below(32);
  const int64_t count = drawn == 0 ? reader.below(8) : drawn < 12 ? 1 : length;
  Ints list;
  for (int64_t i = 0; i < count; ++i) {
    list.push_back(reader.number(low));
  }
  return list;
}

Call read_call(Reader& reader) {
  static constexpr torch::ScalarType kDtypes[] = {
      torch::kDouble,
      torch::kFloat,
      torch::kHalf,
      torch::kBFloat16,
      torch::kByte,
      torch::kChar,
      torch::kShort,
      torch::kInt,
      torch::kLong,
      torch::kBool,
      torch::kComplexFloat,
      torch::kUInt16};
  static const char* const kWords[] = {"explicit", "same", "same_lower", "SAME"};
  Call call;
  const int64_t drawn = reader.below(64);
  const int64_t rank = drawn == 63 ? 0 : drawn == 62 ? 4 : 1 + drawn % 3;
  call.kernel_size.resize(rank);
  for (auto& entry : call.kernel_size) {
    entry = reader.number(1);
  }
  call.stride = reader.below(4) == 0 ? Ints{} : read_list(reader, rank, 1);
  call.padding = read_list(reader, reader.below(4) == 0 ? 2 * rank : rank, 0);
  for (auto& entry : call.padding) {
    entry = entry > 0 && entry < 8 ? entry / 2 : entry;
  }
  call.dilation = read_list(reader, rank, 1);
  for (auto& entry : call.dilation) {
    entry = entry > 0 && entry < 8 ? (entry + 2) / 3 : entry;
  }
  const uint8_t flags = reader.byte();
  call.ceil_mode = flags & 1;
  call.exact = (flags & 14) == 14;
  call.requires_grad = flags & 16;
  call.auto_pad = kWords[(flags & 96) == 96 ? reader.below(4) : 0];
  const int64_t dims = reader.below(16) == 0 ? reader.below(7) : rank + 1 + (flags >> 7);
  for (int64_t i = 0; i < dims; ++i) {
    const int64_t length = i < dims - rank ? reader.below(4) : 1 + reader.byte() % (i + 1 == dims ? 80 : 12);
    call.sizes.push_back(reader.below(64) == 0 ? std::abs(reader.number(0) / 2) : length);
  }
  call.dtype = kDtypes[reader.below(12)];
  call.layout = static_cast<int>(reader.below(8));
  return call;
}

// What a call gave: a result or an error.
template <class Result>
struct Outcome {
  std::optional<Result> result;
  std::string error;
};

template <class Result>
Outcome<Result> attempt(const char* op, const std::function<Result()>& call) {
  try {
    return {call(), ""};
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (text.compare(0, 8, "maxpool_") != 0 || text.find("INTERNAL ASSERT") != std::string::npos) {
      fail(std::string(op) + " raised: " + text);
    }
    return {std::nullopt, text};
  }
}

// Elements from the bytes, in the call's layout. Null where PyTorch itself refuses the sizes.
std::optional<Tensor> make_input(const Call& call, Reader& reader) {
  int64_t elements = 1;
  for (const int64_t size : call.sizes) {
    if (size < 0 || __builtin_mul_overflow(elements, size, &elements)) {
      return std::nullopt;
    }
  }
  if (elements > (int64_t{1} << 60)) {
    return std::nullopt;
  }
  const auto options = torch::dtype(call.dtype);
  if (elements > kMostElements) {
    return torch::zeros(1, options).expand(call.sizes);
  }
  auto bytes = torch::empty({elements * static_cast<int64_t>(c10::elementSize(call.dtype))}, torch::kByte);
  auto* at = bytes.data_ptr<uint8_t>();
  const uint8_t style = reader.byte();
  uint32_t state = style | 0x9e3779b9u;
  std::array<uint8_t, 16> palette{};
  for (auto& entry : palette) {
    entry = reader.byte();
  }
  for (int64_t i = 0; i < bytes.numel(); ++i) {
    state = state * 1664525u + 1013904223u;
    at[i] = style % 4 == 0 ? static_cast<uint8_t>(state >> 24) : palette[(state >> 20) % 16];
  }
  if (call.dtype == torch::kBool) {
    bytes.bitwise_and_(1);
  }
  auto tensor = bytes.view(call.dtype).view(call.sizes);
  const auto dim = tensor.dim();
  switch (call.layout) {
    case 1:
      if (dim == 4) {
        return tensor.contiguous(at::MemoryFormat::ChannelsLast);
      }
      return dim == 5 ? tensor.contiguous(at::MemoryFormat::ChannelsLast3d) : tensor;
    case 2:
      return dim >= 2 ? tensor.transpose(-1, -2).contiguous().transpose(-1, -2) : tensor;
    case 3: // every second column of something wider
      return dim >= 1 ? torch::stack({tensor, tensor}, -1).select(-1, 1) : tensor;
    case 4: // a part of longer rows
      return dim >= 1 && elements > 0 ? torch::cat({tensor, tensor}, -1).narrow(-1, 0, tensor.size(-1)) : tensor;
    case 5:
      return dim >= 2 ? tensor.transpose(0, 1).contiguous().transpose(0, 1) : tensor;
    case 6: // one row for all
      return dim >= 2 && tensor.size(-2) > 0 ? tensor.narrow(-2, 0, 1).expand(call.sizes) : tensor;
    default:
      return tensor;
  }
}

// The reference.

struct Axis {
  int64_t input, output, kernel, stride, dilation, before;
  // Taps of a window that lie in the input: [first, last).
  void taps(int64_t window, int64_t& start, int64_t& first, int64_t& last) const {
    start = window * stride - before;
    first = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
    last = start >= input ? 0 : (input - 1 - start) / dilation + 1;
    last = last > kernel ? kernel : last;
  }
};

struct Reference {
  std::vector<Axis> axes; // three
  int64_t planes;
  std::vector<int64_t> plane_index; // per output, contiguous; -1
  std::vector<int64_t> offset;
};

// `output`: sizes that the operators gave (a check of them is that all windows fit what is compared below).
Reference reference_of(const Call& call, const Tensor& input, at::IntArrayRef output) {
  Reference reference;
  const int64_t rank = call.rank();
  const auto entry = [](const Ints& list, int64_t i) { return list[list.size() == 1 ? 0 : i]; };
  for (int64_t i = 0; i < 3 - rank; ++i) {
    reference.axes.push_back({1, 1, 1, 1, 1, 0});
  }
  for (int64_t i = 0; i < rank; ++i) {
    Axis axis;
    axis.input = call.spatial()[i];
    axis.output = output[output.size() - rank + i];
    axis.kernel = call.kernel_size[i];
    axis.stride = entry(call.stride.empty() ? call.kernel_size : call.stride, i);
    axis.dilation = entry(call.dilation, i);
    axis.before = entry(call.padding, i);
    if (call.auto_pad != "explicit") {
      const int64_t windows = (axis.input + axis.stride - 1) / axis.stride;
      check(windows == axis.output, "size under auto_pad");
      const int64_t covered = (windows - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1;
      const int64_t total = covered > axis.input ? covered - axis.input : 0;
      axis.before = call.auto_pad == "same" ? total / 2 : total - total / 2;
    }
    reference.axes.push_back(axis);
  }
  const auto& [d, h, w] = std::tie(reference.axes[0], reference.axes[1], reference.axes[2]);
  const bool floating = input.is_floating_point();
  const auto numbers = floating ? input.to(torch::kDouble).contiguous() : Tensor();
  const auto integers = floating ? Tensor() : input.to(torch::kLong).contiguous();
  const double* number = floating ? numbers.const_data_ptr<double>() : nullptr;
  const int64_t* integer = floating ? nullptr : integers.const_data_ptr<int64_t>();
  const int64_t plane_size = d.input * h.input * w.input;
  reference.planes = input.numel() / plane_size;
  for (int64_t i = 0; i < reference.planes * d.output * h.output * w.output; ++i) {
    const int64_t base = i / (d.output * h.output * w.output) * plane_size;
    int64_t start[3], first[3], last[3];
    d.taps(i / (w.output * h.output) % d.output, start[0], first[0], last[0]);
    h.taps(i / w.output % h.output, start[1], first[1], last[1]);
    w.taps(i % w.output, start[2], first[2], last[2]);
    int64_t best = -1, offset = -1;
    for (int64_t a = first[0]; a < last[0]; ++a) {
      for (int64_t b = first[1]; b < last[1]; ++b) {
        for (int64_t c = first[2]; c < last[2]; ++c) {
          const int64_t at =
              ((start[0] + a * d.dilation) * h.input + start[1] + b * h.dilation) * w.input + start[2] + c * w.dilation;
          const bool wins = best < 0 ||
              (floating ? std::isnan(number[base + at]) || number[base + at] > number[base + best]
                        : integer[base + at] > integer[base + best]);
          if (wins) {
            best = at;
            offset = (a * h.kernel + b) * w.kernel + c;
          }
        }
      }
    }
    reference.plane_index.push_back(best);
    reference.offset.push_back(offset);
  }
  return reference;
}

bool same_number(double a, double b) {
  return a == b || (std::isnan(a) && std::isnan(b));
}

void check_forward(const Call& call, const Tensor& input, const Tensor& output, const Reference& reference) {
  const int64_t plane = reference.axes[0].input * reference.axes[1].input * reference.axes[2].input;
  const int64_t windows = reference.axes[0].output * reference.axes[1].output * reference.axes[2].output;
  // The winners' bytes must be the input's.
  const auto values = output.detach().contiguous().view({-1});
  const auto elements = input.detach().contiguous().view({-1});
  const auto width = static_cast<int64_t>(input.element_size());
  const auto* got = static_cast<const uint8_t*>(values.const_data_ptr());
  const auto* from = static_cast<const uint8_t*>(elements.const_data_ptr());
  for (int64_t i = 0; i < values.numel(); ++i) {
    const int64_t at = reference.plane_index[i];
    if (at < 0) {
      const double value = values[i].item<double>();
      check(
          input.is_floating_point() ? value == -std::numeric_limits<double>::infinity() : value <= 0,
          "value of a window without elements");
      continue;
    }
    const int64_t source = i / windows * plane + at;
    if (std::memcmp(got + i * width, from + source * width, width) != 0) {
      check(
          input.is_floating_point() && same_number(values[i].item<double>(), elements[source].item<double>()) &&
              std::isnan(values[i].item<double>()),
          "a value differs");
    }
  }
}

// True where every offset names an element of its window (or its window has none).
bool offsets_are_right(const Tensor& offsets, const Reference& reference) {
  const auto flat = offsets.to(torch::kLong).contiguous().view({-1});
  const auto* values = flat.const_data_ptr<int64_t>();
  const auto& axes = reference.axes;
  for (int64_t i = 0; i < flat.numel(); ++i) {
    if (reference.plane_index[i] < 0) {
      continue;
    }
    int64_t rest = values[i];
    if (rest < 0) {
      return false;
    }
    const int64_t places[3] = {
        i / (axes[2].output * axes[1].output) % axes[0].output,
        i / axes[2].output % axes[1].output,
        i % axes[2].output};
    for (int k = 2; k >= 0; --k) {
      int64_t start, first, last;
      axes[k].taps(places[k], start, first, last);
      const int64_t tap = k ? rest % axes[k].kernel : rest;
      rest /= axes[k].kernel;
      if (tap < first || tap >= last) {
        return false;
      }
    }
  }
  return true;
}

// Where an offset that is right points, in its plane; -1 for a window without elements.
int64_t place_of(int64_t i, int64_t offset, const Reference& reference) {
  if (reference.plane_index[i] < 0) {
    return -1;
  }
  const auto& [d, h, w] = std::tie(reference.axes[0], reference.axes[1], reference.axes[2]);
  const int64_t a = offset / (w.kernel * h.kernel), b = offset / w.kernel % h.kernel, c = offset % w.kernel;
  const int64_t id = i / (w.output * h.output) % d.output * d.stride - d.before + a * d.dilation;
  const int64_t ih = i / w.output % h.output * h.stride - h.before + b * h.dilation;
  const int64_t iw = i % w.output * w.stride - w.before + c * w.dilation;
  return (id * h.input + ih) * w.input + iw;
}

// backward, gather and indices on these offsets, right or wrong.
void check_consumers(
    const Call& call,
    const Tensor& input,
    const Tensor& offsets,
    const Reference& reference,
    Reader& reader) {
  const bool right = offsets_are_right(offsets, reference);
  std::vector<c10::SymInt> size;
  for (const int64_t entry : call.spatial()) {
    size.emplace_back(entry);
  }
  const auto& stride = call.stride;
  const auto indices = attempt<Tensor>("maxpool_indices", [&] {
    return torch_maxpool::maxpool_indices(
        offsets, size, call.kernel_size, stride, call.padding, call.dilation, call.ceil_mode, call.auto_pad);
  });
  const auto gathered = attempt<Tensor>("maxpool_gather", [&] {
    return torch_maxpool::maxpool_gather(
        input, offsets, call.kernel_size, stride, call.padding, call.dilation, call.ceil_mode, call.auto_pad);
  });
  const auto dtype = input.is_floating_point() ? input.scalar_type() : torch::kFloat;
  auto grad = torch::randint(-3, 4, offsets.sizes(), torch::dtype(torch::kInt)).to(dtype);
  if (reader.byte() % 2) {
    grad = grad.contiguous(offsets.suggest_memory_format());
  }
  const auto backward = attempt<Tensor>("maxpool_backward", [&] {
    return torch_maxpool::maxpool_backward(
        grad, offsets, size, call.kernel_size, stride, call.padding, call.dilation, call.ceil_mode, call.auto_pad);
  });
  check(indices.result.has_value() == right, "maxpool_indices judges offsets wrongly");
  check(gathered.result.has_value() == right, "maxpool_gather judges offsets wrongly");
  check(backward.result.has_value() == right, "maxpool_backward judges offsets wrongly");
  if (!right) {
    return;
  }
  const auto& axes = reference.axes;
  const int64_t plane = axes[0].input * axes[1].input * axes[2].input;
  const int64_t windows = axes[0].output * axes[1].output * axes[2].output;
  const auto flat_offsets = offsets.to(torch::kLong).contiguous();
  const auto flat_indices = indices.result->contiguous();
  const auto flat_grad = grad.to(torch::kDouble).contiguous();
  const auto* offset = flat_offsets.const_data_ptr<int64_t>();
  const auto* index = flat_indices.const_data_ptr<int64_t>();
  const auto* gradient = flat_grad.const_data_ptr<double>();
  std::vector<double> sums(reference.planes * plane, 0);
  for (int64_t i = 0; i < offsets.numel(); ++i) {
    const int64_t place = place_of(i, offset[i], reference);
    check(index[i] == place, "an index differs");
    if (place >= 0) {
      sums[i / windows * plane + place] += gradient[i];
    }
  }
  const auto found = backward.result->to(torch::kDouble).contiguous();
  const auto* got = found.const_data_ptr<double>();
  for (size_t i = 0; i < sums.size(); ++i) {
    check(got[i] == sums[i] || std::fabs(sums[i]) >= 256, "a gradient differs");
  }
  const auto folded = input.detach().reshape({reference.planes, plane});
  const auto picked = folded.gather(1, flat_indices.clamp_min(0).view({reference.planes, windows}));
  const auto kept = flat_indices.view({reference.planes, windows}).ge(0);
  const auto want = torch::where(kept, picked, torch::zeros({}, picked.options()));
  const auto taken = gathered.result->detach().contiguous().view({reference.planes, windows});
  check(
      torch::equal(want.isnan(), taken.isnan()) && torch::equal(want.nan_to_num(0), taken.nan_to_num(0)),
      "a gathered element differs");
}

void run(Reader& reader) {
  const auto call = read_call(reader);
  std::optional<Tensor> made;
  try {
    made = make_input(call, reader);
  } catch (const c10::Error&) { // strides that overflow, for an empty batch
  }
  if (!made) {
    return;
  }
  const auto forward = [&](const Tensor& x) {
    return [&call, x]() -> std::tuple<Tensor, Tensor> {
      return torch_maxpool::maxpool_forward(
          x, call.kernel_size, call.stride, call.padding, call.dilation, call.ceil_mode, call.exact, call.auto_pad);
    };
  };
  using Pair = std::tuple<Tensor, Tensor>;
  auto input = *made;
  // The meta kernel first: it tells how large the results are.
  const auto meta = attempt<Pair>("maxpool_forward on meta", forward(input.to(torch::kMeta)));
  const int64_t elements = meta.result ? std::get<0>(*meta.result).numel() : 0;
  if (input.numel() > kMostElements || elements > kMostElements) {
    // Too large to be computed; what is refused is refused before anything is allocated.
    check(meta.result || !attempt<Pair>("maxpool_forward", forward(input)).result, "meta and CPU disagree");
    return;
  }
  if (call.requires_grad && input.is_floating_point()) {
    input = input.detach().requires_grad_();
  }
  const auto found = attempt<Pair>("maxpool_forward", forward(input));
  check(found.error == meta.error, "meta and CPU raise different errors");
  if (!found.result) {
    return;
  }
  const auto& [output, offsets] = *found.result;
  check(output.sizes() == std::get<0>(*meta.result).sizes(), "meta and CPU give different sizes");
  check(
      output.numel() == 0 || output.suggest_memory_format() == std::get<0>(*meta.result).suggest_memory_format(),
      "meta and CPU give different layouts");
  const auto values = torch_maxpool::maxpool_values(
      input, call.kernel_size, call.stride, call.padding, call.dilation, call.ceil_mode, call.exact, call.auto_pad);
  if (output.numel() == 0) {
    check(values.numel() == 0, "values of an empty batch");
    return;
  }
  const auto reference = reference_of(call, input, output.sizes());
  check_forward(call, input, output, reference);
  check_forward(call, input, values, reference);
  const auto flat = offsets.to(torch::kLong).contiguous();
  for (int64_t i = 0; i < flat.numel(); ++i) {
    check(
        reference.plane_index[i] < 0 || flat.const_data_ptr<int64_t>()[i] == reference.offset[i], "an offset differs");
  }
  const auto plain = input.detach();
  check_consumers(call, plain, offsets, reference, reader);
  // Other offsets, right and wrong ones.
  auto changed = offsets.clone();
  auto view = changed.as_strided({changed.numel()}, {1});
  for (int64_t count = 1 + reader.below(3); count > 0; --count) {
    view[(reader.byte() << 8 | reader.byte()) % view.numel()] = offsets.scalar_type() == torch::kByte
        ? static_cast<int64_t>(reader.byte())
        : static_cast<int32_t>(reader.number(0));
  }
  check_consumers(call, plain, changed, reference, reader);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Reader reader(data, size);
  torch::manual_seed(0);
  run(reader);
  return 0;
}
