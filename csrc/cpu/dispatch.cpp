// Picks the kernels for this processor, once.
#include "kernels.h"

#include <ATen/Version.h>

#include <string>

namespace torch_maxpool::cpu {

const KernelTable& kernels() {
  static const KernelTable& chosen = []() -> const KernelTable& {
#if defined(__x86_64__)
    const std::string capability = at::get_cpu_capability();
    if (capability == "AVX512") {
      return kernels_avx512; // not covered: where the processor has it, it is
    }
    if (capability == "AVX2") {
      return kernels_avx2;
    }
#endif
    return kernels_default;
  }();
  return chosen;
}

} // namespace torch_maxpool::cpu
