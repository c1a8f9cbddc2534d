// Backward, families "direct" and "direct_channels": how planes are cut into slabs.

namespace {

inline constexpr int64_t kDirectSlab = 256 * 1024; // bytes of elements in a slab, about
inline constexpr int64_t kFewUnits = 8; // to share among threads

inline const Axis& slab_axis_of(const Shape& shape, const BackwardPlan& plan) {
  return plan.slab_axis == 0 ? shape.d : plan.slab_axis == 1 ? shape.h : shape.w;
}

// Elements of one slab along its dimension.
inline Span slab_span(const Axis& axis, const BackwardPlan& plan, int64_t slab) {
  return {
      slab > 0 ? slab * plan.slab - axis.pad : 0,
      slab + 1 < plan.slabs ? (slab + 1) * plan.slab - axis.pad : axis.input};
}

// Slabs that begin where windows do, long enough that few windows reach into two; of `groups` groups of planes.
inline void plan_direct_slabs(const BackwardParams& p, int64_t bytes, int64_t groups, BackwardPlan& plan) {
  const Shape& shape = p.shape;
  plan.slab_axis = shape.d.input > 1 ? 0 : shape.h.input > 1 ? 1 : 2;
  const Axis& axis = slab_axis_of(shape, plan);
  const int64_t reach = (axis.kernel - 1) * axis.dilation + 1;
  const bool few = 2 * groups <= kFewUnits && bytes > 2 * kDirectSlab;
  const int64_t least = reach <= axis.stride ? axis.stride : (few ? 4 : 8) * reach;
  int64_t length = axis.input * kDirectSlab / bytes;
  if (few) {
    const int64_t share = axis.input * groups / kFewUnits;
    length = length < share ? length : share;
  }
  length = length < least ? least : length;
  plan.slab = (length + axis.pad + axis.stride - 1) / axis.stride * axis.stride;
  plan.slabs = (axis.input + axis.pad + plan.slab - 1) / plan.slab;
}

} // namespace
