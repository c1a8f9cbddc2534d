// Which family computes what, and the table of one instruction set.

namespace {

template <class T>
inline bool plan_tiles(const ForwardParams& p, int64_t group, ForwardPlan& plan) {
  typedef Lanes<T> L;
  const Shape& shape = p.shape;
  // Tap numbers must fit the lanes of Index.
  const int64_t taps =
      p.wide_offsets && p.offsets ? shape.d.kernel * shape.h.kernel * shape.w.kernel : 1; // checked to fit int32
  if constexpr (sizeof(typename L::Lane) == 1) {
    if (taps > 65536) {
      return plan_tile_for<WideLanes<T, int32_t>>(p, group, plan);
    }
    if (taps > 1) {
      return plan_tile_for<WideLanes<T, int16_t>>(p, group, plan);
    }
  }
  if constexpr (sizeof(typename L::Lane) == 2) {
    if (taps > 65536) {
      return false;
    }
  }
  return plan_tile_for<L>(p, group, plan);
}

template <class T>
ForwardPlan plan_forward(const ForwardParams& p) {
  const Shape& shape = p.shape;
  ForwardPlan plan = plan_windows<T>(p);
  if (has_empty_windows(shape.d) || has_empty_windows(shape.h) || has_empty_windows(shape.w)) {
    return plan;
  }
  const bool is_channels_last = shape.channels > 1 && p.input_strides.c == 1 && p.output_strides.c == 1;
  if (is_channels_last) {
    if (plan_channels<T>(p, plan)) {
      return plan;
    }
    const bool is_folded = p.input_strides.w == shape.channels && p.output_strides.w == shape.channels;
    if (is_folded && plan_tiles<T>(p, shape.channels, plan)) {
      return plan;
    }
    return plan_windows<T>(p);
  }
  if (plan_run<T>(p, plan) || plan_strips<T>(p, plan) || plan_sliding<T>(p, plan)) {
    return plan;
  }
  if (p.output_strides.w == 1 && plan_tiles<T>(p, 1, plan)) {
    return plan;
  }
  return plan_windows<T>(p);
}

constexpr KernelTable table(const char* name) {
  return {
      name,
      {plan_forward<double>,
       plan_forward<float>,
       plan_forward<Float16>,
       plan_forward<Float16>,
       plan_forward<uint8_t>,
       plan_forward<int8_t>,
       plan_forward<int16_t>,
       plan_forward<int32_t>,
       plan_forward<int64_t>},
      {plan_backward<double>, plan_backward<float>, plan_backward<Half>, plan_backward<Bfloat>},
      places,
  };
}

} // namespace
