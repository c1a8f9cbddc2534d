// run_models DIRECTORY: loads the TorchScript files that make_models.py wrote there, runs and differentiates them, and
// compares with the answers stored beside them. Names nothing of torch_maxpool: linking the target must be enough.
#include "answers.h"

#include <iostream>
#include <map>

namespace {

using torch::Tensor;

// Three times: TorchScript profiles the first runs and rewrites the graph for the later ones.
void check_model(const std::string& path, const c10::impl::GenericDict& answers) {
  auto model = torch::jit::load(path);
  const auto outputs = tensors(answers.at("outputs"));
  for (int run = 0; run < 3; ++run) {
    for (auto parameter : model.parameters()) {
      parameter.mutable_grad().reset();
    }
    auto input = answers.at("input").toTensor().clone().requires_grad_();
    const auto got = tensors(model.forward({input}));
    check_equal(got, outputs, "output");
    got[0].backward(answers.at("grad_output").toTensor());
    std::map<std::string, Tensor> leaves{{"input", input}};
    for (const auto& parameter : model.named_parameters()) {
      leaves[parameter.name] = parameter.value;
    }
    const auto grads = answers.at("grads").toGenericDict();
    if (grads.size() != leaves.size()) {
      throw std::runtime_error("number of gradients differs from Python's");
    }
    for (const auto& [name, leaf] : leaves) {
      check_equal(leaf.grad(), grads.at(name).toTensor(), "gradient of " + name);
    }
  }
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: run_models DIRECTORY\n";
    return 2;
  }
  const std::string directory = argv[1];
  int failed = 0;
  size_t models = 0;
  try {
    const auto answers = read_pickle(directory + "/answers.pt").toGenericDict();
    models = answers.size();
    for (const auto& entry : answers) {
      const auto& name = entry.key().toStringRef();
      try {
        check_model(directory + "/" + name + ".pt", entry.value().toGenericDict());
      } catch (const std::exception& error) {
        ++failed;
        std::cerr << name << ": " << error.what() << "\n";
      }
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  std::cout << models << " models, " << failed << " failed\n";
  return failed == 0 && models > 0 ? 0 : 1;
}
