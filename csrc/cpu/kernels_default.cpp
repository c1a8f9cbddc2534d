// The kernels for any processor: whatever the compiler's default target has.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace torch_maxpool::cpu {
namespace baseline {
inline constexpr int kVectorBytes = 16;
#include "kernels.inl"
} // namespace baseline

#if defined(TORCH_MAXPOOL_BACKWARD)
const BackwardTable backward_default = baseline::backward_table();
#else
const KernelTable kernels_default = baseline::table("default", backward_default);
#endif

} // namespace torch_maxpool::cpu
