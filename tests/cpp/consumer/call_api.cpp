// A program that includes the public header alone and calls each part of it once.
#include <torch_maxpool/maxpool.h>

#include <iostream>

int main() {
  const auto x = torch::arange(2 * 3 * 6 * 7, torch::kDouble).remainder(31).reshape({2, 3, 6, 7}).requires_grad_();
  const auto options = torch::nn::MaxPool2dOptions({3, 2}).stride({2, 1}).padding(1);

  const auto output = torch_maxpool::max_pool2d(x, options);
  const auto [values, indices] = torch_maxpool::max_pool2d_with_indices(x, options);
  const auto [want_values, want_indices] = torch::max_pool2d_with_indices(x, {3, 2}, {2, 1}, {1, 1});
  output.sum().backward();
  const auto grad = x.grad().clone();
  x.mutable_grad().zero_();
  want_values.sum().backward();

  torch_maxpool::MaxPool2d module(options);
  const auto [again, offsets] = torch_maxpool::maxpool_forward(x.detach(), {3, 2}, {2, 1}, {1});
  const bool right = torch::equal(output, want_values) && torch::equal(values, want_values) &&
      torch::equal(indices, want_indices) && torch::equal(grad, x.grad()) &&
      torch::equal(module->forward(x), want_values) && torch::equal(again, want_values) &&
      offsets.scalar_type() == torch::kByte;
  std::cout << module << (right ? ": equal to torch's\n" : ": differs from torch's\n");
  return right ? 0 : 1;
}
