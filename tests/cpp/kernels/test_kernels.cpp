// Every kernel on every element type, layout and length from 1 to two vectors and one, compared with the reference.
//
//   test_kernels --memory guard      tensors between pages that cannot be touched (default)
//   test_kernels --memory heap       tensors from malloc: for AddressSanitizer and valgrind
//   test_kernels --threads 4         all units on 4 threads at once: for ThreadSanitizer
//   --step N                         every N-th case; --table NAME: one table; --start N: from case N on
//
// Exits with 0 if all is right; a kernel that leaves its memory ends the process by a signal.
#include "kernel_calls.h"

#include <cstdio>

namespace kernel_calls {
namespace {

struct Options {
  std::string memory = "guard";
  std::string table;
  int64_t threads = 0; // 0: this thread, in one and in three ranges
  int64_t step = 1;
  int64_t start = 0;
};

// One window along a dimension; the kernel of 0 stands for the whole input.
struct Window {
  int64_t kernel, stride, before, after, dilation;
  bool ceil_mode = false;
};
constexpr Window kWindows[] = {
    {1, 1, 0, 0, 1},
    {2, 2, 0, 0, 1},
    {2, 1, 0, 1, 1},
    {3, 2, 1, 1, 1},
    {3, 2, 0, 0, 1, true},
    {3, 1, 1, 1, 1},
    {3, 3, 0, 0, 1},
    {4, 4, 0, 0, 1},
    {2, 3, 1, 0, 1},
    {3, 1, 2, 2, 2},
    {2, 2, 2, 1, 3}, // windows without elements
    {5, 1, 2, 2, 1},
    {4, 2, 3, 3, 1},
    {13, 1, 6, 6, 1},
    {31, 1, 15, 15, 1},
    {0, 1, 0, 0, 1},
};

Axis axis_of(const Window& window, int64_t input) {
  const int64_t kernel = window.kernel ? window.kernel : input;
  return make_axis(input, kernel, window.stride, window.dilation, {window.before, window.after}, window.ceil_mode);
}

class Tester {
 public:
  explicit Tester(const Options& options) : options_(options), at_end_(true), at_start_(false) {}

  int64_t cases() const {
    return cases_;
  }
  int64_t runs() const {
    return runs_;
  }

  // Runs the problem on every table, unless it is not this one's turn.
  void run(const Problem& problem) {
    if (!problem.valid()) {
      return;
    }
    const int64_t number = cases_++;
    if (number < options_.start || number % options_.step != 0) {
      return;
    }
    std::mt19937 random(static_cast<uint32_t>(number));
    input_.assign(problem.input().extent() * kElementBytes[problem.element], 0);
    fill_input(problem.element, input_.data(), problem.input().extent(), number % 2, random);
    winners_ = winners_of(problem, input_.data());
    for (const KernelTable* table : tables()) {
      if (!options_.table.empty() && options_.table != table->name) {
        continue;
      }
      table_ = table;
      // Known even to who finds the process ended by a signal.
      std::snprintf(current, sizeof current, "case %lld: %s", (long long)number, problem.name(*table).c_str());
      // Kernels that store past the cache must do so, or must not, whatever the size.
      constexpr int64_t kAlways = 0, kNever = INT64_MAX;
      stream_bytes_ = number / 2 % 2 ? kAlways : kNever;
      if (options_.threads) {
        run_in(heap_, problem, Parallel{options_.threads}, number);
      } else if (options_.memory == "heap") {
        run_in(heap_, problem, Serial{1}, number);
      } else {
        stream_bytes_ = kAlways;
        run_in(at_end_, problem, Serial{1 + number % 2}, number);
        stream_bytes_ = kNever;
        run_in(at_start_, problem, Serial{3}, number);
      }
    }
  }

  static inline char current[512];

 private:
  template <class Runner>
  void run_in(Memory& memory, const Problem& problem, const Runner& runner, int64_t seed) {
    char* input = memory.place(kInput, static_cast<int64_t>(input_.size()), kElementBytes[problem.element]);
    std::memcpy(input, input_.data(), input_.size());
    for (const bool joins : {false, true}) {
      joins_ = joins;
      if (joins && !is_joined(problem)) {
        break;
      }
      forward(memory, problem, runner, input, true);
      forward(memory, problem, runner, input, false);
      if (problem.element < kFloatingCount) {
        backward(memory, problem, runner, static_cast<uint32_t>(seed));
      }
    }
    places(memory, problem, runner, input);
    memory.check_surroundings();
    ++runs_;
  }

  static bool is_joined(const Problem& problem) {
    ForwardParams params{};
    params.shape = problem.shape;
    params.input_strides = problem.input().strides;
    params.output_strides = problem.output().strides;
    join_rows(params, kElementBytes[problem.element]);
    return std::memcmp(&params.shape, &problem.shape, sizeof params.shape) != 0;
  }

  auto scratch_in(Memory& memory) {
    return [this, &memory](int64_t bytes) -> Scratch {
      if (options_.threads) {
        auto block = allocate(bytes, 64);
        char* at = block.get();
        return {at, std::move(block)};
      }
      return {memory.place(kScratch, bytes, 64), nullptr};
    };
  }

  static void set_offset(const Problem& problem, char* offsets, int64_t at, int64_t value) {
    if (problem.wide()) {
      write(offsets + 4 * at, static_cast<int32_t>(value));
    } else {
      write(offsets + at, static_cast<uint8_t>(value));
    }
  }
  static int64_t offset_at(const Problem& problem, const char* offsets, int64_t at) {
    return problem.wide() ? read<int32_t>(offsets + 4 * at) : read<uint8_t>(offsets + at);
  }

  template <class Runner>
  void forward(Memory& memory, const Problem& problem, const Runner& runner, const char* input, bool with_offsets) {
    const int bytes = kElementBytes[problem.element];
    const View out = problem.output();
    const int offset_bytes = problem.wide() ? 4 : 1;
    ForwardParams params{};
    params.shape = problem.shape;
    params.input = input;
    params.input_strides = problem.input().strides;
    char* output = memory.place(kOutput, out.elements() * bytes, bytes);
    char* offsets = with_offsets ? memory.place(kOffsets, out.elements() * offset_bytes, offset_bytes) : nullptr;
    params.output = output;
    params.offsets = offsets;
    params.output_strides = out.strides;
    params.wide_offsets = with_offsets && problem.wide();
    params.stream_bytes = stream_bytes_;
    params.infinity = problem.element == kFloat16 ? 0x7c00 : 0x7f80;
    std::memset(output, 0x5a, out.elements() * bytes); // nothing of the call before
    if (joins_) {
      join_rows(params, bytes);
    }
    run_forward(*table_, problem.element, params, runner, scratch_in(memory));
    for (const Winner& winner : winners_) {
      const char* got = output + winner.output * bytes;
      if (winner.input < 0) {
        const Value want = lowest(problem.element);
        const Value value = value_at(problem.element, output, winner.output);
        check(value.number == want.number && value.integer == want.integer, "value of a window without elements");
        continue;
      }
      const bool nan = value_at(problem.element, input, winner.input).is_nan();
      const bool same = nan ? value_at(problem.element, output, winner.output).is_nan()
                            : std::memcmp(got, input + winner.input * bytes, bytes) == 0;
      check(same, "forward: a value differs");
      check(!with_offsets || offset_at(problem, offsets, winner.output) == winner.offset, "forward: an offset differs");
    }
  }

  // Offsets of the winners, dense.
  char* place_offsets(Memory& memory, const Problem& problem) {
    const int bytes = problem.wide() ? 4 : 1;
    char* offsets = memory.place(kOffsets, problem.output().elements() * bytes, bytes);
    for (const Winner& winner : winners_) {
      set_offset(problem, offsets, winner.output, winner.input < 0 ? 77 : winner.offset);
    }
    return offsets;
  }

  // Spoils one offset after another: `call` must return its place each time.
  template <class Call>
  void refuse_bad_offsets(const Problem& problem, char* offsets, const Call& call) {
    const int64_t taps = problem.shape.d.kernel * problem.shape.h.kernel * problem.shape.w.kernel;
    const int64_t count = static_cast<int64_t>(winners_.size());
    for (const int64_t place : {int64_t{0}, count / 2, count - 1}) {
      const Winner& winner = winners_[place];
      if (winner.input < 0) {
        continue;
      }
      for (const int64_t bad :
           problem.wide() ? std::vector<int64_t>{taps, -1, INT32_MAX, INT32_MIN} : std::vector<int64_t>{taps, 255}) {
        if (bad >= 0 && bad < taps) {
          continue;
        }
        if (!problem.wide() && bad > 255) {
          continue;
        }
        set_offset(problem, offsets, winner.output, bad);
        check(call() == place, "a bad offset was not found");
      }
      set_offset(problem, offsets, winner.output, winner.offset);
    }
  }

  // Gradients of the outputs; returns their sums in grad_input, exact in every type: small integers where windows share
  // a winner, as long as they stay below 256, and anything at all elsewhere.
  std::vector<double> fill_gradient(const Problem& problem, char* grad_output, uint32_t seed) const {
    const double infinity = std::numeric_limits<double>::infinity();
    const double any[] = {-infinity, infinity, std::nan(""), 0x1p-24, -0x3p-24, 0x1p-14, -0.0, -49152, 1.5};
    std::mt19937 random(seed);
    std::vector<int64_t> wins(problem.grad_input().elements(), 0);
    for (const Winner& winner : winners_) {
      wins[std::max<int64_t>(winner.grad_input, 0)] += winner.grad_input >= 0;
    }
    std::vector<double> sums(wins.size(), 0);
    for (const Winner& winner : winners_) {
      double value = static_cast<double>(random() % 7) - 3;
      if (winner.grad_input >= 0) {
        double& sum = sums[winner.grad_input];
        if (wins[winner.grad_input] == 1 && random() % 4 == 0) {
          value = any[random() % 9];
        } else if (wins[winner.grad_input] == 2 && winner.grad_input % 8 == 0) {
          value = 49152; // twice that is too much for float16
        } else if (std::fabs(sum + value) > 200) {
          value = 0;
        }
        sum += value;
        sum = problem.element == kFloat16 && sum == 98304 ? infinity : sum;
      }
      set_value(problem.element, grad_output, winner.output, value);
    }
    return sums;
  }

  template <class Runner>
  void backward(Memory& memory, const Problem& problem, const Runner& runner, uint32_t seed) {
    const int bytes = kElementBytes[problem.element];
    const View out = problem.output();
    const View grad = problem.grad_input();
    BackwardParams params{};
    params.shape = problem.shape;
    char* grad_output = memory.place(kGradOutput, out.elements() * bytes, bytes);
    char* offsets = place_offsets(memory, problem);
    char* grad_input = memory.place(kGradInput, grad.elements() * bytes, bytes);
    params.grad_output = grad_output;
    params.offsets = offsets;
    params.output_strides = out.strides;
    params.grad_input = grad_input;
    params.is_channels_last = problem.dense() == Layout::kChannelsLast;
    params.input_strides = grad.strides;
    params.wide_offsets = problem.wide();
    params.stream_bytes = stream_bytes_;
    const std::vector<double> sums = fill_gradient(problem, grad_output, seed);
    std::memset(grad_input, 0x5a, grad.elements() * bytes);
    if (joins_) {
      join_rows(params);
    }
    const auto call = [&] { return run_backward(*table_, problem.element, params, runner, scratch_in(memory)); };
    check(call() == -1, "backward: a right offset was refused");
    for (int64_t i = 0; i < grad.elements(); ++i) {
      const Value got = value_at(problem.element, grad_input, i);
      check(std::isnan(sums[i]) ? got.is_nan() : got.number == sums[i], "backward: a gradient differs");
    }
    refuse_bad_offsets(problem, offsets, call);
  }

  template <class Runner>
  void places(Memory& memory, const Problem& problem, const Runner& runner, const char* input) {
    const int bytes = kElementBytes[problem.element];
    const View out = problem.output();
    PlacesParams params{};
    params.shape = problem.shape;
    char* offsets = place_offsets(memory, problem);
    params.offsets = offsets;
    params.output_strides = out.strides;
    params.wide_offsets = problem.wide();
    params.element_bytes = bytes;
    char* indices = memory.place(kIndices, out.elements() * 8, 8);
    params.indices = reinterpret_cast<int64_t*>(indices);
    check(run_places(*table_, params, runner) == -1, "indices: a right offset was refused");
    for (const Winner& winner : winners_) {
      check(read<int64_t>(indices + 8 * winner.output) == winner.plane, "indices: one differs");
    }
    char* gathered = memory.place(kGathered, out.elements() * bytes, bytes);
    params.indices = nullptr;
    params.input = input;
    params.input_strides = problem.input().strides;
    params.gathered = gathered;
    const auto call = [&] { return run_places(*table_, params, runner); };
    check(call() == -1, "gather: a right offset was refused");
    const char zero[8] = {};
    for (const Winner& winner : winners_) {
      const char* want = winner.input < 0 ? zero : input + winner.input * bytes;
      check(std::memcmp(gathered + winner.output * bytes, want, bytes) == 0, "gather: an element differs");
    }
    refuse_bad_offsets(problem, offsets, call);
  }

  const Options options_;
  std::vector<char> input_; // of the problem at hand
  std::vector<Winner> winners_;
  HeapMemory heap_;
  GuardedMemory at_end_;
  GuardedMemory at_start_;
  const KernelTable* table_ = nullptr;
  int64_t stream_bytes_ = 0;
  bool joins_ = false; // rows, before kernels see them
  int64_t cases_ = 0;
  int64_t runs_ = 0;
};

// A dimension drawn at random, of at most `most` elements; some have no output. `draw(n)`: one of 0 to n - 1.
template <class Draw>
Axis draw_axis(const Draw& draw, int64_t most) {
  constexpr int64_t kKernels[] = {1, 2, 2, 3, 3, 4, 5, 7, 9, 16, 33};
  const int64_t kernel = kKernels[draw(11)];
  const int64_t dilation = draw(4) ? 1 : 1 + draw(4);
  const int64_t reach = dilation * (kernel - 1) + 1;
  const int64_t strides[] = {1, 2, kernel, 1 + draw(5), 1 + draw(kernel + 2)};
  const int64_t pads[] = {0, reach / 2, draw(reach)};
  const int64_t before = pads[draw(3)];
  const int64_t after = draw(2) ? before : pads[draw(3)];
  const int64_t input = 1 + draw(most);
  return make_axis(input, kernel, strides[draw(5)], dilation, {before, after}, draw(4) == 0);
}

// Problems of larger and less regular sizes, which a kernel cuts into several blocks; as many draws as asked for.
void run_random(Tester& tester, Element element, int64_t draws) {
  const Axis none = make_axis(1, 1, 1, 1, {0, 0}, false);
  std::mt19937 random(element);
  const auto draw = [&](int64_t count) { return static_cast<int64_t>(random() % count); };
  for (int64_t i = 0; i < draws; ++i) {
    const int64_t rank = 1 + draw(3);
    const Axis d = rank == 3 ? draw_axis(draw, 12) : none;
    const Axis h = rank >= 2 ? draw_axis(draw, draw(4) ? 24 : 300) : none;
    const Axis w = draw_axis(draw, draw(4) ? 100 : rank == 1 ? 40000 : 3000);
    const Layout layout = kLayouts[draw(4)];
    const int64_t batch = 1 + draw(3);
    const int64_t channels = layout == Layout::kChannelsLast && draw(2) ? 1 + draw(150) : 1 + draw(5);
    const int64_t planes = batch * channels;
    const int64_t outputs = planes * d.output * h.output * w.output;
    if (outputs * d.kernel * h.kernel * w.kernel < 500000 && planes * d.input * h.input * w.input < 200000) {
      tester.run({element, {d, h, w, batch, channels}, layout});
    }
  }
}

// Rows and planes of few elements, many of which are joined, and windows that move by more than vectors are split for.
void run_tiled(Tester& tester, Element element) {
  const Axis none = make_axis(1, 1, 1, 1, {0, 0}, false);
  for (int64_t side = 1; side <= 20; ++side) {
    const Window tiles{side, side, 0, 0, 1};
    const Window tiles_in_part{side / 2 + 1, side, 0, 0, 1};
    const Window reaches_beyond{2, side, 0, 0, side, true}; // the last one, as it does into the next row
    const Axis whole = axis_of(tiles, side);
    for (const Layout layout : kLayouts) {
      tester.run({element, {none, none, whole, 3, 67}, layout});
      tester.run({element, {none, whole, whole, 2, 33}, layout});
      tester.run({element, {none, none, axis_of(reaches_beyond, 3 * side), 2, 3}, layout});
      tester.run({element, {axis_of(tiles, 2 * side), whole, axis_of(tiles, 1), 2, 5}, layout});
      tester.run({element, {none, axis_of(tiles, 2), axis_of(tiles_in_part, 3 * side), 5, 40}, layout});
      tester.run({element, {none, axis_of(tiles, 3 * side), axis_of(tiles, 3 * side), 1, 2}, layout});
    }
    tester.run({element, {none, none, whole, 64, 48}, Layout::kContiguous}); // more than are joined to one row
    tester.run({element, {none, whole, whole, 3, 400}, Layout::kChannelsLast});
    for (const Window& window : {tiles, tiles_in_part, Window{2 * side, side, 1, 1, 1}}) {
      tester.run({element, {none, none, axis_of(window, 150 * side + 1), 1, 1}, Layout::kContiguous});
    }
  }
}

// All problems, by length of the dimension that vectors run along.
void run_all(Tester& tester) {
  const Axis none = make_axis(1, 1, 1, 1, {0, 0}, false);
  for (int number = 0; number < kElementCount; ++number) {
    const auto element = static_cast<Element>(number);
    const int64_t most = 2 * (64 / kElementBytes[element]) + 1;
    for (int64_t length = 1; length <= most; ++length) {
      for (const Window& window : kWindows) {
        for (const Layout layout : kLayouts) {
          // Along rows: 1-d, 2-d and 3-d.
          const Axis w = axis_of(window, length);
          tester.run({element, {none, none, w, 1, 3}, layout});
          tester.run({element, {none, axis_of(window, 5), w, 2, 1}, layout});
          tester.run({element, {axis_of(window, 3), axis_of(window, 2), w, 1, 2}, layout});
        }
        // Planes enough to be added up in lockstep, and one plane whose rows are.
        tester.run({element, {none, axis_of(window, 5), axis_of(window, length), 3, 3}, Layout::kContiguous});
        tester.run({element, {none, axis_of(window, 17), axis_of(window, length), 1, 1}, Layout::kContiguous});
        // Along channels; and with few channels, which share vectors with columns.
        tester.run({element, {none, axis_of(window, 4), axis_of(window, 3), 1, length}, Layout::kChannelsLast});
        tester.run({element, {none, none, axis_of(window, length), 2, 4}, Layout::kChannelsLast});
      }
    }
    // More taps than uint8 counts, and more than 16 bits count.
    for (const int64_t size : {20, 40, 67, 300}) {
      const Window whole{0, 1, 0, 0, 1};
      tester.run({element, {none, axis_of(whole, size), axis_of(whole, size), 1, 2}, Layout::kContiguous});
      tester.run({element, {none, axis_of(whole, size), axis_of(whole, size), 1, 3}, Layout::kChannelsLast});
      const Window wide{17, 1, 8, 8, 1};
      if (size < 100) {
        for (const Layout layout : kLayouts) {
          tester.run({element, {none, axis_of(wide, 19), axis_of(wide, size), 1, 2}, layout});
        }
      }
    }
    const Window beyond_16_bits{70000, 1, 20, 20, 1};
    tester.run({element, {none, none, axis_of(beyond_16_bits, 70000), 1, 1}, Layout::kContiguous});
    run_tiled(tester, element);
    run_random(tester, element, 1000);
    // Inputs of 5 MiB, more than a core's own cache.
    for (const int64_t width : {2048, 1029}) {
      const Axis w = axis_of(kWindows[1], width);
      const Axis h = axis_of(kWindows[1], 5 * 1024 * 1024 / width / kElementBytes[element]);
      tester.run({element, {none, h, w, 1, 1}, Layout::kContiguous});
    }
  }
}

int64_t number_of(const char* text) {
  char* end = nullptr;
  const int64_t number = std::strtoll(text, &end, 10);
  check(*text && !*end && number >= 0, std::string("no number: ") + text);
  return number;
}

Options parse(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i];
    check(i + 1 < count, "no value for " + name);
    const char* value = arguments[++i];
    if (name == "--memory") {
      options.memory = value;
      check(options.memory == "guard" || options.memory == "heap", "--memory is guard or heap");
    } else if (name == "--table") {
      options.table = value;
    } else if (name == "--threads") {
      options.threads = number_of(value);
    } else if (name == "--step") {
      options.step = std::max<int64_t>(1, number_of(value));
    } else if (name == "--start") {
      options.start = number_of(value);
    } else {
      throw std::runtime_error("unknown option " + name);
    }
  }
  return options;
}

} // namespace
} // namespace kernel_calls

int main(int count, char** arguments) {
  using namespace kernel_calls;
  try {
    const Options options = parse(count, arguments);
    std::printf("tables:");
    for (const KernelTable* table : tables()) {
      std::printf(" %s", table->name);
    }
    std::printf("\n");
    Tester tester(options);
    run_all(tester);
    std::printf("%lld cases, %lld runs\n", (long long)tester.cases(), (long long)tester.runs());
  } catch (const std::exception& error) {
    std::printf("FAILED: %s\n%s\n", error.what(), Tester::current);
    return 1;
  }
  return 0;
}
