// The backward kernels for processors with AVX-512.
#define TORCH_MAXPOOL_BACKWARD // see kernels.inl
#include "kernels_avx512.cpp"
