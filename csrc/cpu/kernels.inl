// Every kernel, once. Included by kernels_*.cpp inside a namespace of its own and, where the instruction set needs it, a
// target region, after kVectorBytes: so these files include nothing else, use no std:: templates, and give everything
// internal linkage.
#include "kernels/types.inl"
#include "kernels/vectors.inl"
#include "kernels/windows.inl"
#include "kernels/run.inl"
#include "kernels/direct.inl"
#include "kernels/rolling.inl"
#include "kernels/tile.inl"
#include "kernels/channels.inl"
#include "kernels/places.inl"
#include "kernels/backward.inl"
#include "kernels/table.inl"
