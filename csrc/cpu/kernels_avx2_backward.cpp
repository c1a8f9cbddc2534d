// The backward kernels for processors with AVX2.
#define TORCH_MAXPOOL_BACKWARD // see kernels.inl
#include "kernels_avx2.cpp"
