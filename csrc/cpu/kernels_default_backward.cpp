// The backward kernels for any processor.
#define TORCH_MAXPOOL_BACKWARD // see kernels.inl
#include "kernels_default.cpp"
