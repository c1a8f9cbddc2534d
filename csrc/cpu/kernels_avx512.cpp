// The kernels for processors with AVX-512 (F, VL, BW, DQ).
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c,bmi,bmi2,prfchw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // GCC 12 finds it in its own header
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c,bmi,bmi2,prfchw")
#endif

#define TORCH_MAXPOOL_HAS_AVX2
#define TORCH_MAXPOOL_HAS_AVX512

namespace torch_maxpool::cpu::avx512 {
inline constexpr int kVectorBytes = 64;
#include "kernels.inl"
} // namespace torch_maxpool::cpu::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace torch_maxpool::cpu {
#if defined(TORCH_MAXPOOL_BACKWARD)
const BackwardTable backward_avx512 = avx512::backward_table();
#else
const KernelTable kernels_avx512 = avx512::table("avx512", backward_avx512);
#endif
} // namespace torch_maxpool::cpu
#endif
