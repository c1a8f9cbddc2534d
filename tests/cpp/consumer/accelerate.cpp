// accelerate MODEL...: TorchScript files that know PyTorch's own max pooling only, and torch's functions and modules, on
// and off this library's operators, with the same results.
#include <torch_maxpool/maxpool.h>

#include <ATen/record_function.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <atomic>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;

void check(bool holds, const std::string& what) {
  if (!holds) {
    throw std::runtime_error(what);
  }
}

// Names of the operators that are run meanwhile.
class Recorder {
 public:
  Recorder() {
    names().clear();
    handle_ = at::addGlobalCallback(at::RecordFunctionCallback(&note).scopes({at::RecordScope::FUNCTION}));
  }
  ~Recorder() {
    at::removeCallback(handle_);
  }
  bool saw(const std::string& name) const {
    return names().count(name) > 0;
  }

 private:
  static std::set<std::string>& names() {
    static std::set<std::string> found;
    return found;
  }
  static std::unique_ptr<at::ObserverContext> note(const at::RecordFunction& function) {
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    names().insert(function.name());
    return nullptr;
  }
  at::CallbackHandle handle_;
};

// `call` runs PyTorch's kernels while off, the operators while on, with equal results.
void check_call(const std::string& what, const std::function<Tensors()>& call, const std::string& op) {
  Tensors expected;
  {
    const Recorder recorder;
    expected = call();
    check(!recorder.saw(op), what + ": " + op + " ran while off");
  }
  const torch_maxpool::AccelerationScope scope;
  const Recorder recorder;
  const auto actual = call();
  check(recorder.saw(op), what + ": " + op + " did not run");
  check(actual.size() == expected.size(), what + ": number of results");
  for (size_t i = 0; i < actual.size(); ++i) {
    check(torch::equal(actual[i], expected[i]), what + ": result " + std::to_string(i) + " differs");
  }
}

Tensors with_gradient(const Tensor& input, const std::function<Tensor(const Tensor&)>& pool) {
  const auto leaf = input.detach().clone().requires_grad_();
  const auto output = pool(leaf);
  output.pow(2).sum().backward();
  return {output.detach(), leaf.grad()};
}

void check_torch() {
  const auto x = torch::randn({2, 3, 8, 9});
  const std::string values = "torch_maxpool::maxpool_values";
  const std::string forward = "torch_maxpool::maxpool_forward";
  namespace F = torch::nn::functional;
  check_call("max_pool1d", [&] { return Tensors{torch::max_pool1d(x.flatten(2), 3)}; }, values);
  check_call("max_pool2d", [&] { return Tensors{torch::max_pool2d(x, 3, 2, 1)}; }, values);
  check_call("max_pool3d", [&] { return Tensors{torch::max_pool3d(x, 2)}; }, values);
  check_call(
      "max_pool2d_with_indices",
      [&] {
        const auto [output, indices] = torch::max_pool2d_with_indices(x, {3, 2}, {2, 1}, {1, 1});
        return Tensors{output, indices};
      },
      forward);
  check_call("functional", [&] { return Tensors{F::max_pool2d(x, F::MaxPool2dFuncOptions(2))}; }, values);
  check_call("module", [&] { return Tensors{torch::nn::MaxPool2d(2)->forward(x)}; }, values);
  check_call(
      "gradient",
      [&] { return with_gradient(x, [](const Tensor& leaf) { return torch::max_pool2d(leaf, 3, 2, 1); }); },
      "torch_maxpool::maxpool_backward");
  check_call(
      "inference mode",
      [&] {
        const c10::InferenceMode guard;
        return Tensors{torch::max_pool2d(torch::ones({1, 1, 4, 4}), 2), torch::max_pool1d(torch::ones({1, 4}), 2)};
      },
      values);
}

void check_model(const std::string& path) {
  auto model = torch::jit::load(path);
  const auto x = torch::randn({2, 2, 8, 9}, torch::kDouble);
  const auto run = [&](const Tensor& input) { return model.forward({input}).toTensor(); };
  for (int i = 0; i < 3; ++i) { // TorchScript profiles the first runs and rewrites the graph for the later ones
    check_call(
        path + " in inference",
        [&] {
          const torch::NoGradGuard guard;
          return Tensors{run(x)};
        },
        "torch_maxpool::maxpool_values");
    check_call(path, [&] { return with_gradient(x, run); }, "torch_maxpool::maxpool_forward");
  }
}

void check_errors() {
  const auto refusals = [] {
    std::string found;
    for (const auto& input : {torch::ones({1, 1, 8, 8}), Tensor()}) {
      try {
        torch::max_pool2d(input, 3, 1, 2);
      } catch (const c10::Error& error) {
        found += error.what_without_backtrace();
      }
    }
    return found;
  };
  const auto expected = refusals();
  const torch_maxpool::AccelerationScope scope;
  check(refusals() == expected && expected.find("half") != std::string::npos, "errors differ: " + refusals());
}

void check_switch() {
  check(!torch_maxpool::is_accelerated(), "on at the start");
  const auto line = torch_maxpool::accelerate();
  check(line.find("max_pool2d") != std::string::npos && line.find('\n') == std::string::npos, "line: " + line);
  check(torch_maxpool::accelerate() == line && torch_maxpool::is_accelerated(), "not on after two calls");
  {
    const torch_maxpool::AccelerationScope scope;
  }
  check(torch_maxpool::is_accelerated(), "a scope ended what it did not begin");
  check(torch_maxpool::restore() && !torch_maxpool::is_accelerated(), "one restore() is not enough");
  check(!torch_maxpool::restore(), "restore() of nothing");
  {
    const torch_maxpool::AccelerationScope scope;
    torch_maxpool::restore();
    torch_maxpool::accelerate();
  }
  check(torch_maxpool::is_accelerated(), "a scope that restore() ended ended a later accelerate()");
  torch_maxpool::restore();
}

void check_threads() {
  const auto x = torch::randn({2, 8, 16, 16});
  const auto expected = torch::max_pool2d(x, 3, 2, 1);
  std::atomic<bool> wrong{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < 300; ++j) {
        if (i < 2) {
          const torch_maxpool::AccelerationScope scope;
          wrong = wrong || !torch_maxpool::is_accelerated();
        }
        wrong = wrong || !torch::equal(torch::max_pool2d(x, 3, 2, 1), expected);
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  check(!wrong && !torch_maxpool::is_accelerated(), "threads");
}

} // namespace

int main(int argc, char** argv) {
  try {
    check_switch();
    check_torch();
    check_errors();
    check_threads();
    for (int i = 1; i < argc; ++i) {
      check_model(argv[i]);
    }
    std::cout << torch_maxpool::accelerate() << "\n"; // left on: the process must end well all the same
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
