// The kernel tables without torch: poolings, memory that notices what leaves it, calls, and a reference written from the
// definition. For test_kernels.cpp, where instruments (guard pages, sanitizers, valgrind) see the kernels alone.
#pragma once

#include "../../../csrc/cpu/joined_rows.h"
#include "../../../csrc/cpu/kernels.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace torch_maxpool::cpu {
// A build may leave tables out (TORCH_MAXPOOL_TABLES in CMakeLists.txt).
extern const KernelTable kernels_default __attribute__((weak));
#if defined(__x86_64__)
extern const KernelTable kernels_avx2 __attribute__((weak));
extern const KernelTable kernels_avx512 __attribute__((weak));
#endif
} // namespace torch_maxpool::cpu

namespace kernel_calls {

using namespace torch_maxpool::cpu;

inline void check(bool holds, const std::string& what) {
  if (!holds) {
    throw std::runtime_error(what);
  }
}

// The tables of this build that this processor can run.
inline std::vector<const KernelTable*> tables() {
  std::vector<const KernelTable*> found;
  const auto add = [&](const KernelTable* table) {
    if (table) {
      found.push_back(table);
    }
  };
  add(&kernels_default);
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    add(&kernels_avx2);
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq")) {
    add(&kernels_avx512);
  }
#endif
  return found;
}

// Elements.

inline constexpr const char* kElementNames[kElementCount] =
    {"float64", "float32", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64"};
inline constexpr int kElementBytes[kElementCount] = {8, 4, 2, 2, 1, 1, 2, 4, 8};

template <class T>
T read(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}
template <class T>
void write(void* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

inline double half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
  if (exponent == 31) {
    magnitude = fraction ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  }
  return bits & 0x8000 ? -magnitude : magnitude;
}

// An element, comparable.
struct Value {
  bool is_float;
  double number; // of floats
  int64_t integer; // of integers
  bool is_nan() const {
    return is_float && std::isnan(number);
  }
  // True where this, met later, takes the other's place.
  bool beats(const Value& other) const {
    if (is_nan() || other.is_nan()) {
      return is_nan();
    }
    return is_float ? number > other.number : integer > other.integer;
  }
};

inline Value value_at(Element element, const void* data, int64_t index) {
  const char* at = static_cast<const char*>(data) + index * kElementBytes[element];
  switch (element) {
    case kFloat64:
      return {true, read<double>(at), 0};
    case kFloat32:
      return {true, read<float>(at), 0};
    case kFloat16:
      return {true, half_value(read<uint16_t>(at)), 0};
    case kBfloat16: {
      const uint32_t bits = static_cast<uint32_t>(read<uint16_t>(at)) << 16;
      return {true, read<float>(&bits), 0};
    }
    case kUint8:
      return {false, 0, read<uint8_t>(at)};
    case kInt8:
      return {false, 0, read<int8_t>(at)};
    case kInt16:
      return {false, 0, read<int16_t>(at)};
    case kInt32:
      return {false, 0, read<int32_t>(at)};
    default:
      return {false, 0, read<int64_t>(at)};
  }
}

// Stores a number that every element type holds exactly (infinities and NaN for floats only).
inline void set_value(Element element, void* data, int64_t index, double number) {
  char* at = static_cast<char*>(data) + index * kElementBytes[element];
  switch (element) {
    case kFloat64:
      return write(at, number);
    case kFloat32:
      return write(at, static_cast<float>(number));
    case kFloat16: {
      uint16_t bits = std::signbit(number) ? 0x8000 : 0;
      const double magnitude = std::fabs(number);
      if (std::isnan(number)) {
        bits |= 0x7e00;
      } else if (std::isinf(number)) {
        bits |= 0x7c00;
      } else if (magnitude != 0) {
        const int exponent = std::max(std::ilogb(magnitude), -15); // that of all subnormal numbers
        bits |= static_cast<uint16_t>((exponent + 15) << 10);
        bits |= static_cast<uint16_t>(std::ldexp(magnitude, 10 - std::max(exponent, -14))) & 1023;
      }
      return write(at, bits);
    }
    case kBfloat16: {
      const float single = static_cast<float>(number);
      return write(at, static_cast<uint16_t>(read<uint32_t>(&single) >> 16));
    }
    case kUint8:
      return write(at, static_cast<uint8_t>(number));
    case kInt8:
      return write(at, static_cast<int8_t>(number));
    case kInt16:
      return write(at, static_cast<int16_t>(number));
    case kInt32:
      return write(at, static_cast<int32_t>(number));
    default:
      return write(at, static_cast<int64_t>(number));
  }
}

// What a window without elements gives.
inline Value lowest(Element element) {
  switch (element) {
    case kUint8:
      return {false, 0, 0};
    case kInt8:
      return {false, 0, INT8_MIN};
    case kInt16:
      return {false, 0, INT16_MIN};
    case kInt32:
      return {false, 0, INT32_MIN};
    case kInt64:
      return {false, 0, INT64_MIN};
    default:
      return {true, -std::numeric_limits<double>::infinity(), 0};
  }
}

// Few distinct values, so that ties abound.
inline void fill_input(Element element, void* data, int64_t count, bool with_nans, std::mt19937& random) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double floats[] = {-infinity, -3, -1.5, -0.0, 0.0, 1, 2.5, 7, infinity};
  const double signed_integers[] = {-128, -127, -3, -1, 0, 1, 2, 127};
  const double unsigned_integers[] = {0, 0, 0, 1, 2, 127, 128, 255};
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t drawn = random();
    if (element < kFloatingCount) {
      // NaNs rarely: a few per row reach the path that is for them, and leave the other one alone elsewhere.
      // Of both signs: as bits, they are the largest values and the lowest ones.
      const double nan = std::copysign(std::nan(""), (drawn >> 8) % 2 ? 1 : -1);
      set_value(element, data, i, with_nans && drawn % 29 == 0 ? nan : floats[(drawn >> 8) % 9]);
    } else {
      set_value(element, data, i, (element == kUint8 ? unsigned_integers : signed_integers)[(drawn >> 8) % 8]);
    }
  }
}

// Poolings.

// One dimension; `output` follows from the rest.
inline Axis make_axis(
    int64_t input,
    int64_t kernel,
    int64_t stride,
    int64_t dilation,
    std::pair<int64_t, int64_t> pads,
    bool ceil_mode) {
  const int64_t span = input + pads.first + pads.second - dilation * (kernel - 1) - 1;
  int64_t output = span < 0 ? 0 : span / stride + 1;
  if (ceil_mode && span + stride - 1 >= 0) {
    output = (span + stride - 1) / stride + 1;
    while ((output - 1) * stride >= input + pads.first) {
      --output;
    }
  }
  return {input, output, kernel, stride, dilation, pads.first};
}

enum class Layout {
  kContiguous,
  kChannelsLast,
  kGapped, // a part of rows and planes that are longer: input only
  kSwapped, // height and width exchanged: input only
};
inline constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kChannelsLast, Layout::kGapped, Layout::kSwapped};

// Sizes and strides of one tensor, and the elements from its first to its last.
struct View {
  int64_t n, c, d, h, w;
  Strides strides;

  View(int64_t n, int64_t c, int64_t d, int64_t h, int64_t w, Layout layout) : n(n), c(c), d(d), h(h), w(w) {
    if (layout == Layout::kChannelsLast) {
      strides = {d * h * w * c, 1, h * w * c, w * c, c};
      return;
    }
    const int64_t gap = layout == Layout::kGapped ? 3 : 0;
    const int64_t row = layout == Layout::kSwapped ? h : w + gap;
    const int64_t plane = layout == Layout::kSwapped ? row * w : row * (h + gap);
    strides = {c * d * plane, d * plane, plane, row, 1};
    if (layout == Layout::kSwapped) {
      std::swap(strides.h, strides.w);
    }
  }
  int64_t elements() const {
    return n * c * d * h * w;
  }
  int64_t extent() const {
    return 1 + (n - 1) * strides.n + (c - 1) * strides.c + (d - 1) * strides.d + (h - 1) * strides.h +
        (w - 1) * strides.w;
  }
  int64_t at(int64_t in, int64_t ic, int64_t id, int64_t ih, int64_t iw) const {
    return in * strides.n + ic * strides.c + id * strides.d + ih * strides.h + iw * strides.w;
  }
};

struct Problem {
  Element element;
  Shape shape;
  Layout layout;

  bool wide() const {
    return shape.d.kernel * shape.h.kernel * shape.w.kernel > 256;
  }
  bool valid() const {
    for (const Axis* axis : {&shape.d, &shape.h, &shape.w}) {
      if (axis->output < 1) {
        return false;
      }
    }
    return true;
  }
  Layout dense() const {
    return layout == Layout::kChannelsLast && shape.channels > 1 ? layout : Layout::kContiguous;
  }
  View input() const {
    return {shape.batch, shape.channels, shape.d.input, shape.h.input, shape.w.input, layout};
  }
  View grad_input() const {
    return {shape.batch, shape.channels, shape.d.input, shape.h.input, shape.w.input, dense()};
  }
  View output() const {
    return {shape.batch, shape.channels, shape.d.output, shape.h.output, shape.w.output, dense()};
  }
  std::string name(const KernelTable& table) const {
    std::string text = std::string(table.name) + " " + kElementNames[element] + " layout " +
        std::to_string(static_cast<int>(layout)) + " batch " + std::to_string(shape.batch) + " channels " +
        std::to_string(shape.channels);
    for (const Axis* axis : {&shape.d, &shape.h, &shape.w}) {
      text += " (" + std::to_string(axis->input) + " to " + std::to_string(axis->output) + ": kernel " +
          std::to_string(axis->kernel) + " stride " + std::to_string(axis->stride) + " dilation " +
          std::to_string(axis->dilation) + " pad " + std::to_string(axis->pad) + ")";
    }
    return text;
  }
};

// The reference: what each window's winner is, in the order of contiguous outputs.
struct Winner {
  int64_t output; // element of output() in memory
  int64_t input; // of input() in memory; -1 for a window without elements
  int64_t grad_input; // of grad_input() in memory
  int64_t plane; // PyTorch's index
  int64_t offset;
};

// Positions of a window's taps that lie in the input: (tap, position).
inline std::vector<std::pair<int64_t, int64_t>> taps_of(const Axis& axis, int64_t output) {
  std::vector<std::pair<int64_t, int64_t>> taps;
  for (int64_t tap = 0; tap < axis.kernel; ++tap) {
    const int64_t position = output * axis.stride - axis.pad + tap * axis.dilation;
    if (position >= 0 && position < axis.input) {
      taps.emplace_back(tap, position);
    }
  }
  return taps;
}

inline std::vector<Winner> winners_of(const Problem& problem, const void* data) {
  const Shape& shape = problem.shape;
  const View in = problem.input();
  const View grad = problem.grad_input();
  const View out = problem.output();
  std::vector<std::vector<std::pair<int64_t, int64_t>>> columns;
  for (int64_t w = 0; w < out.w; ++w) {
    columns.push_back(taps_of(shape.w, w));
  }
  std::vector<Winner> winners;
  winners.reserve(out.elements());
  for (int64_t i = 0; i < out.elements(); ++i) {
    const int64_t w = i % out.w, h = i / out.w % out.h, d = i / (out.w * out.h) % out.d;
    const int64_t plane = i / (out.w * out.h * out.d), n = plane / out.c, c = plane % out.c;
    Winner winner{out.at(n, c, d, h, w), -1, -1, -1, -1};
    Value best{};
    for (const auto& [a, id] : taps_of(shape.d, d)) {
      for (const auto& [b, ih] : taps_of(shape.h, h)) {
        for (const auto& [e, iw] : columns[w]) {
          const int64_t at = in.at(n, c, id, ih, iw);
          const Value value = value_at(problem.element, data, at);
          if (winner.input < 0 || value.beats(best)) {
            best = value;
            winner.input = at;
            winner.grad_input = grad.at(n, c, id, ih, iw);
            winner.plane = (id * shape.h.input + ih) * shape.w.input + iw;
            winner.offset = (a * shape.h.kernel + b) * shape.w.kernel + e;
          }
        }
      }
    }
    winners.push_back(winner);
  }
  return winners;
}

// Memory.

enum Slot { kInput, kOutput, kOffsets, kGradOutput, kGradInput, kIndices, kGathered, kScratch, kSlotCount };

// Blocks of exactly the size asked for. A slot holds one block: the next one asked for replaces it.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual char* place(Slot slot, int64_t bytes, int64_t alignment) = 0;
  // Raises where something beside a block was written, as far as that is noticed late.
  virtual void check_surroundings() {}
};

struct Free {
  void operator()(char* block) const {
    std::free(block);
  }
};
using HeapBlock = std::unique_ptr<char, Free>;

inline HeapBlock allocate(int64_t bytes, int64_t alignment) {
  void* block = nullptr;
  check(
      posix_memalign(&block, std::max<size_t>(alignment, sizeof(void*)), std::max<int64_t>(bytes, 1)) == 0,
      "no memory");
  return HeapBlock(static_cast<char*>(block));
}

// From the heap, uninitialised: for address and memory checkers.
class HeapMemory : public Memory {
 public:
  char* place(Slot slot, int64_t bytes, int64_t alignment) override {
    blocks_[slot] = allocate(bytes, alignment);
    return blocks_[slot].get();
  }

 private:
  HeapBlock blocks_[kSlotCount];
};

// Between two pages that cannot be touched, next to the one behind or next to the one in front; whatever else lies
// between the two must keep its pattern.
class GuardedMemory : public Memory {
 public:
  explicit GuardedMemory(bool at_end) : at_end_(at_end), page_(sysconf(_SC_PAGESIZE)) {}
  ~GuardedMemory() override {
    for (const Region& region : regions_) {
      unmap(region);
    }
  }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  char* place(Slot slot, int64_t bytes, int64_t alignment) override {
    Region& region = regions_[slot];
    check_region(region);
    if (bytes > region.room) {
      unmap(region);
      region = map((bytes + page_ - 1) / page_ * page_);
    }
    const int64_t shift = at_end_ ? (region.room - bytes) / alignment * alignment : 0;
    region.block = region.room == 0 ? nullptr : region.memory + shift;
    region.bytes = bytes;
    for (const auto& [begin, end] : region.surroundings(page_)) {
      std::memset(begin, kPattern, end - begin);
    }
    return region.block;
  }

  void check_surroundings() override {
    for (const Region& region : regions_) {
      check_region(region);
    }
  }

 private:
  static constexpr unsigned char kPattern = 0xA5;
  struct Region {
    char* memory = nullptr; // between the two guards
    int64_t room = 0;
    char* block = nullptr;
    int64_t bytes = 0;

    // Up to a page in front of the block and up to one behind.
    std::array<std::pair<char*, char*>, 2> surroundings(int64_t page) const {
      if (room == 0) {
        return {};
      }
      char* const end = block + bytes;
      return {
          std::pair{block - std::min<int64_t>(page, block - memory), block},
          std::pair{end, end + std::min<int64_t>(page, memory + room - end)}};
    }
  };

  Region map(int64_t room) const {
    void* base = mmap(nullptr, room + 2 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(base != MAP_FAILED, "mmap failed");
    Region region;
    region.memory = static_cast<char*>(base) + page_;
    region.room = room;
    check(mprotect(region.memory, room, PROT_READ | PROT_WRITE) == 0, "mprotect failed");
    return region;
  }
  void unmap(const Region& region) const {
    if (region.memory) {
      munmap(region.memory - page_, region.room + 2 * page_);
    }
  }
  void check_region(const Region& region) const {
    for (const auto& [begin, end] : region.surroundings(page_)) {
      const int64_t bytes = end - begin; // all equal if the first is right and each equals the next
      const bool kept = bytes == 0 ||
          (static_cast<unsigned char>(*begin) == kPattern && std::memcmp(begin, begin + 1, bytes - 1) == 0);
      check(kept, "something beside a block was written");
    }
  }

  const bool at_end_;
  const int64_t page_;
  Region regions_[kSlotCount];
};

// Scratch of one range of units: from a Memory, or its own.
struct Scratch {
  char* memory;
  HeapBlock owned;
};

// Who works on the units.

// This thread, in `pieces` ranges.
struct Serial {
  int64_t pieces = 1;
  template <class Body>
  int64_t operator()(int64_t units, const Body& body) const {
    int64_t found = -1;
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t begin = units * i / pieces;
      const int64_t end = units * (i + 1) / pieces;
      if (begin < end) {
        found = std::max(found, body(begin, end));
      }
    }
    return found;
  }
};

// Threads, a range each.
struct Parallel {
  int64_t threads;
  template <class Body>
  int64_t operator()(int64_t units, const Body& body) const {
    std::vector<int64_t> found(threads, -1);
    std::vector<std::thread> workers;
    for (int64_t i = 0; i < threads; ++i) {
      workers.emplace_back([&, i] {
        const int64_t begin = units * i / threads;
        const int64_t end = units * (i + 1) / threads;
        if (begin < end) {
          found[i] = body(begin, end);
        }
      });
    }
    for (auto& worker : workers) {
      worker.join();
    }
    return *std::max_element(found.begin(), found.end());
  }
};

// Calls of the kernels; `scratch_of(bytes)` gives each range of units its scratch.

template <class Runner, class ScratchOf>
void run_forward(
    const KernelTable& table,
    Element element,
    const ForwardParams& params,
    const Runner& run,
    const ScratchOf& scratch_of) {
  const ForwardPlan plan = table.plan_forward[element](params);
  run(plan.units, [&](int64_t begin, int64_t end) -> int64_t {
    const Scratch scratch = scratch_of(plan.scratch_bytes);
    plan.run(params, plan, scratch.memory, begin, end);
    return -1;
  });
}

template <class Runner, class ScratchOf>
int64_t run_backward(
    const KernelTable& table,
    Element element,
    const BackwardParams& params,
    const Runner& run,
    const ScratchOf& scratch_of) {
  const BackwardPlan plan = table.plan_backward[element](params);
  return run(plan.units, [&](int64_t begin, int64_t end) {
    const Scratch scratch = scratch_of(plan.scratch_bytes);
    return plan.run(params, plan, scratch.memory, begin, end);
  });
}

template <class Runner>
int64_t run_places(const KernelTable& table, const PlacesParams& params, const Runner& run) {
  const Shape& shape = params.shape;
  return run(shape.batch * shape.channels * shape.d.output * shape.h.output, [&](int64_t begin, int64_t end) {
    return table.places(params, begin, end);
  });
}

} // namespace kernel_calls
