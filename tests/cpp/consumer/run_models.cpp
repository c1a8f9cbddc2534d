// run_models DIRECTORY: loads the TorchScript files that make_models.py wrote there, runs and differentiates them, and
// compares with the answers stored beside them. Names nothing of torch_maxpool: linking the target must be enough.
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using torch::Tensor;
using torch::jit::IValue;

IValue read_pickle(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    throw std::runtime_error("cannot read " + path);
  }
  return torch::jit::pickle_load({std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()});
}

std::vector<Tensor> tensors(const IValue& value) {
  if (value.isTensor()) {
    return {value.toTensor()};
  }
  std::vector<Tensor> result;
  for (const auto& element : value.isTuple() ? value.toTupleRef().elements().vec() : value.toListRef().vec()) {
    result.push_back(element.toTensor());
  }
  return result;
}

void check_equal(const Tensor& got, const Tensor& want, const std::string& what) {
  if (!got.defined() || got.dtype() != want.dtype() || !torch::equal(got, want)) {
    throw std::runtime_error(what + " differs from Python's");
  }
}

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
    if (got.size() != outputs.size()) {
      throw std::runtime_error("number of outputs differs from Python's");
    }
    for (size_t i = 0; i < got.size(); ++i) {
      check_equal(got[i], outputs[i], "output " + std::to_string(i));
    }
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
