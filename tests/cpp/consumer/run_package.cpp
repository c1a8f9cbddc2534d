// run_package DIRECTORY: loads the AOTInductor package that make_package.py wrote there, runs it on inputs of several
// sizes, and compares with the answers stored beside it. Names nothing of torch_maxpool: linking the target is enough.
#include "answers.h"

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: run_package DIRECTORY\n";
    return 2;
  }
  const std::string directory = argv[1];
  try {
    torch::inductor::AOTIModelPackageLoader package(directory + "/pools.pt2");
    const auto answers = read_pickle(directory + "/answers.pt").toList();
    for (const c10::IValue& answer : answers.vec()) {
      const auto& elements = answer.toTupleRef().elements();
      check_equal(package.run(tensors(elements[0])), tensors(elements[1]), "output");
    }
    std::cout << answers.size() << " inputs\n";
    return answers.empty() ? 1 : 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
