// The C++ interface (torch_maxpool/maxpool.h) against torch's own max pooling. Exits with the number of failed tests.
#include <torch_maxpool/maxpool.h>

#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <functional>
#include <iostream>
#include <limits>
#include <malloc.h>
#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace {

const std::thread::id main_thread = std::this_thread::get_id();
std::atomic<int64_t> allocations_to_go{-1}; // the one that finds 0 fails
std::atomic<bool> failed_in_worker{false};

} // namespace

// What PyTorch's libraries call in place of the C library's.
extern "C" int posix_memalign(void** result, size_t alignment, size_t size) noexcept {
  if (allocations_to_go >= 0 && allocations_to_go-- == 0) {
    if (std::this_thread::get_id() != main_thread) {
      failed_in_worker = true;
    }
    return ENOMEM;
  }
  *result = memalign(alignment, size);
  return *result ? 0 : ENOMEM;
}

namespace {

namespace nn = torch::nn;
namespace F = torch::nn::functional;
using torch::Tensor;

void check(bool holds, const std::string& what, std::source_location at = std::source_location::current()) {
  if (!holds) {
    throw std::runtime_error("line " + std::to_string(at.line()) + ": " + what);
  }
}

void check_equal(
    const Tensor& got,
    const Tensor& want,
    const std::string& what,
    std::source_location at = std::source_location::current()) {
  check(got.defined() && got.dtype() == want.dtype() && torch::equal(got, want), what + " differs", at);
}

// `call` raises a c10::Error of type Error whose message contains every one of `texts`.
template <class Error = c10::Error>
void check_raises(
    const std::function<void()>& call,
    const std::vector<std::string>& texts,
    std::source_location at = std::source_location::current()) {
  try {
    call();
  } catch (const Error& error) {
    for (const auto& text : texts) {
      const std::string message = error.what_without_backtrace();
      check(message.find(text) != std::string::npos, "'" + message + "' lacks '" + text + "'", at);
    }
    return;
  }
  check(false, "nothing was raised", at);
}

// One name per function for every rank, so that tests are written once.
Tensor ours(const Tensor& x, const nn::MaxPool1dOptions& o, bool exact = false) {
  return torch_maxpool::max_pool1d(x, o, exact);
}
Tensor ours(const Tensor& x, const nn::MaxPool2dOptions& o, bool exact = false) {
  return torch_maxpool::max_pool2d(x, o, exact);
}
Tensor ours(const Tensor& x, const nn::MaxPool3dOptions& o, bool exact = false) {
  return torch_maxpool::max_pool3d(x, o, exact);
}
std::tuple<Tensor, Tensor> ours_indexed(const Tensor& x, const nn::MaxPool1dOptions& o, bool exact = false) {
  return torch_maxpool::max_pool1d_with_indices(x, o, exact);
}
std::tuple<Tensor, Tensor> ours_indexed(const Tensor& x, const nn::MaxPool2dOptions& o, bool exact = false) {
  return torch_maxpool::max_pool2d_with_indices(x, o, exact);
}
std::tuple<Tensor, Tensor> ours_indexed(const Tensor& x, const nn::MaxPool3dOptions& o, bool exact = false) {
  return torch_maxpool::max_pool3d_with_indices(x, o, exact);
}
std::tuple<Tensor, Tensor> torchs(const Tensor& x, const nn::MaxPool1dOptions& o) {
  return F::max_pool1d_with_indices(x, o);
}
std::tuple<Tensor, Tensor> torchs(const Tensor& x, const nn::MaxPool2dOptions& o) {
  return F::max_pool2d_with_indices(x, o);
}
std::tuple<Tensor, Tensor> torchs(const Tensor& x, const nn::MaxPool3dOptions& o) {
  return F::max_pool3d_with_indices(x, o);
}

// Batched inputs in which every element differs.
template <size_t D>
Tensor sample() {
  std::vector<int64_t> sizes{2, 3};
  for (size_t i = 0; i < D; ++i) {
    sizes.push_back(9 + static_cast<int64_t>(i));
  }
  const auto count = c10::multiply_integers(sizes);
  return torch::randperm(count, torch::kDouble).sub(count / 2).reshape(sizes);
}

template <size_t D>
std::vector<nn::MaxPoolOptions<D>> sample_options() {
  using Options = nn::MaxPoolOptions<D>;
  constexpr std::array<int64_t, 3> kSizes{3, 2, 4};
  std::array<int64_t, D> kernel_size;
  std::copy_n(kSizes.begin(), D, kernel_size.begin());
  return {
      Options(2),
      Options(kernel_size),
      Options(3).stride(1).padding(1),
      Options(3).stride(2).padding(1).ceil_mode(true),
      Options(2).stride(2).dilation(3),
      Options(kernel_size).stride(3).padding(1).dilation(2).ceil_mode(true),
  };
}

template <size_t D>
void values_and_indices() {
  for (const auto& options : sample_options<D>()) {
    for (const auto& x : {sample<D>(), sample<D>()[0], sample<D>().transpose(0, 1), sample<D>().to(torch::kFloat)}) {
      const auto [want, want_indices] = torchs(x, options);
      check_equal(ours(x, options), want, "output");
      const auto [output, indices] = ours_indexed(x, options);
      check_equal(output, want, "output beside indices");
      check_equal(indices, want_indices, "indices");
    }
  }
}

template <size_t D>
void gradients() {
  for (const auto& options : sample_options<D>()) {
    const auto data = sample<D>();
    const auto x = data.clone().requires_grad_();
    const auto reference = data.clone().requires_grad_();
    const auto output = ours(x, options);
    const auto want_output = std::get<0>(torchs(reference, options));
    const auto grad_output = torch::randn_like(want_output).requires_grad_();
    const auto grad = torch::autograd::grad({output}, {x}, {grad_output}, true, true)[0];
    const auto want_grad = torch::autograd::grad({want_output}, {reference}, {grad_output}, true, true)[0];
    check_equal(grad, want_grad, "gradient");

    const auto direction = torch::randn_like(data);
    check_equal(
        torch::autograd::grad({grad}, {grad_output}, {direction})[0],
        torch::autograd::grad({want_grad}, {grad_output}, {direction})[0],
        "second derivative");

    const auto [values, indices] = ours_indexed(x, options);
    check_equal(torch::autograd::grad({values}, {x}, {grad_output.detach()})[0], want_grad, "gradient beside indices");
    check(!indices.requires_grad(), "indices require a gradient");
  }
}

// The tutorial's rule.
template <size_t D>
void exact() {
  const auto x = sample<D>();
  const nn::MaxPoolOptions<D> tiles(1);
  const nn::MaxPoolOptions<D> does_not(2);
  check_equal(ours(x, tiles, true), x, "output");
  check_equal(std::get<0>(ours_indexed(x, tiles, true)), x, "output beside indices");
  check_raises<c10::ValueError>([&] { ours(x, does_not, true); }, {"Invalid dimensions!"});
  check_raises<c10::ValueError>([&] { ours_indexed(x, does_not, true); }, {"Invalid dimensions!"});
  torch_maxpool::MaxPoolImpl<D> module(does_not, true);
  check_raises<c10::ValueError>([&] { module.forward(x); }, {"Invalid dimensions!"});
}

void offsets() {
  // Places of the winners in their windows, row by row; the first of equals.
  const auto line = torch::tensor({1, 5, 2, 7, 7, 7}).reshape({1, 1, 6});
  check_equal(
      std::get<1>(torch_maxpool::maxpool_forward(line, {3})),
      torch::tensor({1, 0}, torch::kByte).reshape({1, 1, 2}),
      "1-d");
  const auto plane = torch::tensor({1, 2, 8, 8, 9, 3, 0, 4}).reshape({1, 1, 2, 4});
  check_equal(
      std::get<1>(torch_maxpool::maxpool_forward(plane, {2, 2})),
      torch::tensor({2, 0}, torch::kByte).reshape({1, 1, 1, 2}),
      "2-d");
  const auto volume = torch::arange(8).reshape({1, 1, 2, 2, 2});
  check_equal(
      std::get<1>(torch_maxpool::maxpool_forward(volume, {2, 2, 2})),
      torch::tensor({7}, torch::kByte).reshape({1, 1, 1, 1, 1}),
      "3-d");
  const auto wide = torch::arange(400).reshape({1, 20, 20});
  check_equal(
      std::get<1>(torch_maxpool::maxpool_forward(wide, {17, 16}, {16, 16})),
      torch::tensor({271}, torch::kInt).reshape({1, 1, 1}),
      "272 elements in a window");

  // The three other operators, on one set of offsets.
  const auto x = sample<2>();
  const auto [output, places] = torch_maxpool::maxpool_forward(x, {3, 2}, {2, 2}, {1, 0}, {1, 1});
  check_equal(torch_maxpool::maxpool_values(x, {3, 2}, {2, 2}, {1, 0}, {1, 1}), output, "maxpool_values");
  check_equal(
      torch_maxpool::maxpool_gather(x, places, {3, 2}, {2, 2}, {1, 0}, {1, 1}, false), output, "maxpool_gather");
  const auto want = torch::max_pool2d_with_indices(x, {3, 2}, {2, 2}, {1, 0});
  const std::array<c10::SymInt, 2> size{9, 10};
  check_equal(
      torch_maxpool::maxpool_indices(places, size, {3, 2}, {2, 2}, {1, 0}, {1, 1}, false),
      std::get<1>(want),
      "maxpool_indices");
  const auto grad_output = torch::randn_like(output);
  check_equal(
      torch_maxpool::maxpool_backward(grad_output, places, size, {3, 2}, {2, 2}, {1, 0}, {1, 1}, false),
      torch::max_pool2d_with_indices_backward(grad_output, x, {3, 2}, {2, 2}, {1, 0}, {1, 1}, false, std::get<1>(want)),
      "maxpool_backward");
}

// Padding that differs before and after is padding with -inf first; begins, then ends.
void unequal_padding() {
  const double infinity = std::numeric_limits<double>::infinity();
  const auto pad = [&](const Tensor& x, std::vector<int64_t> amounts) {
    return torch::constant_pad_nd(x, amounts, -infinity);
  };
  const auto check_pair = [](const Tensor& x, const Tensor& got, const Tensor& want, const std::string& what) {
    check_equal(got, want, what);
    const auto grad_output = torch::randn_like(want);
    check_equal(
        torch::autograd::grad({got}, {x}, {grad_output})[0],
        torch::autograd::grad({want}, {x}, {grad_output})[0],
        what + " gradient");
  };
  const auto line = sample<1>().requires_grad_();
  check_pair(
      line,
      torch_maxpool::maxpool_values(line, {3}, {2}, {0, 2}),
      torch::max_pool1d(pad(line, {0, 2}), {3}, {2}),
      "1-d");
  const auto plane = sample<2>().requires_grad_();
  check_pair(
      plane,
      std::get<0>(torch_maxpool::maxpool_forward(plane, {3, 2}, {2, 1}, {2, 0, 1, 1})),
      torch::max_pool2d(pad(plane, {0, 1, 2, 1}), {3, 2}, {2, 1}),
      "2-d");
  const auto volume = sample<3>().requires_grad_();
  check_pair(
      volume,
      std::get<0>(torch_maxpool::maxpool_forward(volume, {3, 2, 2}, {2, 2, 2}, {0, 1, 0, 2, 0, 1})),
      torch::max_pool3d(pad(volume, {0, 1, 1, 0, 0, 2}), {3, 2, 2}, {2, 2, 2}),
      "3-d");
  check_pair(
      plane,
      torch_maxpool::maxpool_values(plane, {3, 2}, {2, 2}, {0}, {1}, false, false, "same"),
      torch::max_pool2d(pad(plane, {0, 0, 1, 1}), {3, 2}, {2, 2}),
      "auto_pad");
}

void dtypes_and_layouts() {
  const nn::MaxPool2dOptions options(2);
  for (const auto dtype :
       {torch::kDouble,
        torch::kFloat,
        torch::kHalf,
        torch::kBFloat16,
        torch::kByte,
        torch::kChar,
        torch::kShort,
        torch::kInt,
        torch::kLong,
        torch::kBool}) {
    const auto x = torch::randint(0, 50, {1, 2, 6, 6}).to(dtype);
    check_equal(
        ours(x, options),
        torch::max_pool2d(x.to(torch::kDouble), {2, 2}).to(dtype),
        std::string(torch::toString(dtype)));
  }
  const auto last = sample<2>().contiguous(at::MemoryFormat::ChannelsLast);
  check(ours(last, options).is_contiguous(at::MemoryFormat::ChannelsLast), "channels_last is lost");
  check_equal(ours(last, options), ours(last.contiguous(), options), "channels_last");
  const auto last3d = sample<3>().contiguous(at::MemoryFormat::ChannelsLast3d);
  const nn::MaxPool3dOptions options3d(2);
  check(ours(last3d, options3d).is_contiguous(at::MemoryFormat::ChannelsLast3d), "channels_last_3d is lost");
  check_equal(ours(last3d, options3d), ours(last3d.contiguous(), options3d), "channels_last_3d");
  check(ours(torch::empty({0, 3, 4, 4}), options).sizes() == at::IntArrayRef({0, 3, 2, 2}), "empty batch");
}

template <class... Layers>
nn::Sequential network(Layers&&... pools) {
  return nn::Sequential(nn::Conv2d(nn::Conv2dOptions(1, 4, 3)), nn::ReLU(), std::forward<Layers>(pools)...);
}

void modules() {
  torch::manual_seed(0);
  const auto options = nn::MaxPool2dOptions(3).stride(2).padding(1);
  auto model = network(torch_maxpool::MaxPool2d(options), nn::Flatten(), nn::Linear(64, 5));
  auto reference = network(nn::MaxPool2d(options), nn::Flatten(), nn::Linear(64, 5));

  // A file saved from one model loads into the other.
  std::stringstream file;
  torch::save(model, file);
  torch::load(reference, file);
  std::stringstream back;
  torch::save(reference, back);
  torch::load(model, back);

  const auto x = torch::randn({2, 1, 10, 10});
  const auto check_model = [&](nn::Sequential& module, const std::string& what) {
    module->zero_grad();
    reference->zero_grad();
    const auto output = module->forward(x);
    const auto want = reference->forward(x);
    check_equal(output, want, what + " output");
    output.sum().backward();
    want.sum().backward();
    for (size_t i = 0; i < reference->parameters().size(); ++i) {
      check_equal(module->parameters()[i].grad(), reference->parameters()[i].grad(), what + " gradient");
    }
  };
  check_model(model, "Sequential");
  const auto copy = std::dynamic_pointer_cast<nn::SequentialImpl>(model->clone());
  check(copy != nullptr, "clone is no Sequential");
  nn::Sequential cloned(copy);
  check_model(cloned, "clone");
  const auto& kept = cloned->at<torch_maxpool::MaxPool2dImpl>(2);
  check(*kept.options.stride() == std::array<int64_t, 2>{2, 2}, "options of a clone");
  check(&kept != &model->at<torch_maxpool::MaxPool2dImpl>(2), "clone shares its modules");

  const auto printed = [](const auto& module) {
    std::ostringstream stream;
    stream << *module;
    return stream.str();
  };
  const auto expect = [](std::string text) { return text.replace(0, text.find("MaxPool"), "torch_maxpool::"); };
  check(printed(torch_maxpool::MaxPool1d(2)) == expect(printed(nn::MaxPool1d(2))), "print of MaxPool1d");
  check(printed(torch_maxpool::MaxPool2d(options)) == expect(printed(nn::MaxPool2d(options))), "print of MaxPool2d");
  check(printed(torch_maxpool::MaxPool3d(2)) == expect(printed(nn::MaxPool3d(2))), "print of MaxPool3d");
  check(printed(torch_maxpool::MaxPool2d(2, true)).find("exact=true") != std::string::npos, "print of exact");

  const auto plane = sample<2>();
  const auto [values, indices] = torch_maxpool::MaxPool2d(2)->forward_with_indices(plane);
  const auto unpooled = nn::MaxUnpool2d(2)->forward(values, indices, plane.sizes().vec());
  check_equal(unpooled.flatten(2).gather(2, indices.flatten(2)), values.flatten(2), "MaxUnpool2d");
  nn::AnyModule line(torch_maxpool::MaxPool1d(2));
  check_equal(line.forward(torch::tensor({{1, 3, 2, 0}})), torch::tensor({{3, 2}}), "AnyModule of MaxPool1d");
  nn::AnyModule volume(torch_maxpool::MaxPool3d(2));
  check_equal(volume.forward(torch::ones({1, 2, 2, 2})), torch::ones({1, 1, 1, 1}), "AnyModule of MaxPool3d");
}

void bad_arguments() {
  const auto x = sample<2>();
  using Options = nn::MaxPool2dOptions;
  check_raises<c10::ValueError>([&] { ours(x, Options(0)); }, {"maxpool_values", "kernel_size", "0"});
  check_raises<c10::ValueError>([&] { ours(x, Options(2).stride(-1)); }, {"maxpool_values", "stride", "-1"});
  check_raises<c10::ValueError>([&] { ours(x, Options(2).padding(2)); }, {"maxpool_values", "padding", "2"});
  check_raises<c10::ValueError>([&] { ours(x, Options(2).padding(-1)); }, {"maxpool_values", "padding", "-1"});
  check_raises<c10::ValueError>([&] { ours(x, Options(2).dilation(0)); }, {"maxpool_values", "dilation", "0"});
  check_raises([&] { ours(x, Options(20)); }, {"maxpool_values"});
  check_raises([&] { ours(x[0][0], Options(2)); }, {"maxpool_values", "input", "[9, 10]"});
  check_raises([&] { ours_indexed(x[0][0][0], Options(2)); }, {"maxpool_forward", "input", "[10]"});
  check_raises<c10::ValueError>([&] { ours(Tensor(), Options(2)); }, {"maxpool_values", "input", "None"});
  check_raises<c10::ValueError>([&] { ours_indexed(Tensor(), Options(2)); }, {"maxpool_forward", "input", "None"});
  check_raises<c10::TypeError>(
      [&] { ours(x.to(torch::kComplexDouble), Options(2)); }, {"maxpool_values", "input", "complex128"});
  check_raises<c10::ValueError>(
      [&] { torch_maxpool::maxpool_forward(x, {2, 2}, {}, {0, 0, 0}); }, {"maxpool_forward", "padding", "[0, 0, 0]"});
  check_raises<c10::ValueError>(
      [&] { torch_maxpool::maxpool_forward(x, {2, 2}, {}, {0}, {1}, false, false, "valid"); },
      {"maxpool_forward", "auto_pad", "valid"});
  const auto places = std::get<1>(torch_maxpool::maxpool_forward(x, {2, 2}));
  const std::array<c10::SymInt, 2> size{9, 10};
  check_raises(
      [&] { torch_maxpool::maxpool_indices(places + 4, size, {2, 2}, {2, 2}, {0}, {1}, false); }, {"maxpool_indices"});
  check_raises<c10::TypeError>(
      [&] { torch_maxpool::maxpool_indices(places.to(torch::kInt), size, {2, 2}, {2, 2}, {0}, {1}, false); },
      {"maxpool_indices", "offsets"});
}

// Each allocation of a forward and backward fails once, those of worker threads too: an error, nothing else.
void failing_allocations() {
  torch::set_num_threads(4);
  const Tensor x = torch::randn({16, 8, 64, 64});
  const std::array<c10::SymInt, 2> size{64, 64};
  const auto call = [&] {
    const auto [output, offsets] = torch_maxpool::maxpool_forward(x, {5, 5}, {1, 1}, {2, 2});
    return torch_maxpool::maxpool_backward(output, offsets, size, {5, 5}, {1, 1}, {2, 2}, {1, 1}, false);
  };
  const Tensor expected = call();
  int64_t failures = 0;
  for (bool raised = true; raised; failures += raised) {
    allocations_to_go = failures;
    try {
      const Tensor result = call();
      raised = false;
      check_equal(result, expected, "the result where no allocation failed");
    } catch (const c10::Error& error) {
      check(std::string(error.what()).find("alloc") != std::string::npos, error.what_without_backtrace());
    }
    allocations_to_go = -1;
    check_equal(call(), expected, "a result after a failure");
  }
  check(failures >= 4, "only " + std::to_string(failures) + " allocations failed");
  check(failed_in_worker, "no allocation failed in a worker thread");
}

} // namespace

int main() {
  const std::vector<std::pair<const char*, void (*)()>> tests{
      {"values_and_indices<1>", values_and_indices<1>},
      {"values_and_indices<2>", values_and_indices<2>},
      {"values_and_indices<3>", values_and_indices<3>},
      {"gradients<1>", gradients<1>},
      {"gradients<2>", gradients<2>},
      {"gradients<3>", gradients<3>},
      {"exact<1>", exact<1>},
      {"exact<2>", exact<2>},
      {"exact<3>", exact<3>},
      {"offsets", offsets},
      {"unequal_padding", unequal_padding},
      {"dtypes_and_layouts", dtypes_and_layouts},
      {"modules", modules},
      {"bad_arguments", bad_arguments},
      {"failing_allocations", failing_allocations},
  };
  int failed = 0;
  for (const auto& [name, test] : tests) {
    try {
      test();
      std::cout << "passed " << name << "\n";
    } catch (const std::exception& error) {
      ++failed;
      std::cout << "FAILED " << name << ": " << error.what() << "\n";
    }
  }
  return failed;
}
