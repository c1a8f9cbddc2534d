// The kernels for processors with AVX2.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

// prfchw: processors with AVX2 that lack it (Haswell) take its instruction for none.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,prfchw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,prfchw")
#endif

#define TORCH_MAXPOOL_HAS_AVX2

namespace torch_maxpool::cpu::avx2 {
inline constexpr int kVectorBytes = 32;
#include "kernels.inl"
} // namespace torch_maxpool::cpu::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace torch_maxpool::cpu {
#if defined(TORCH_MAXPOOL_BACKWARD)
const BackwardTable backward_avx2 = avx2::backward_table();
#else
const KernelTable kernels_avx2 = avx2::table("avx2", backward_avx2);
#endif
} // namespace torch_maxpool::cpu
#endif
