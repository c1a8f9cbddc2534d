// Which family computes what, and the table of one instruction set.

namespace {

// True where some window along this dimension holds no element of the input.
inline bool has_empty_windows(const Axis& axis) {
  if (axis.dilation == 1 || axis.kernel == 1) {
    return false;
  }
  const Interior interior = interior_of(axis);
  const int64_t left = interior.begin < axis.output ? interior.begin : axis.output;
  for (int64_t o = 0; o < left; ++o) {
    if (is_empty(taps_of(axis, o))) {
      return true;
    }
  }
  return false; // a window that starts within the input has its first tap there
}

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
  if (plan_run<T>(p, plan) || plan_rows<Lanes<T>>(p, plan)) {
    return plan;
  }
  // Rows shorter than a vector: half a vector, for the types that small planes come in.
  if constexpr (kVectorBytes > 16 && (sizeof(T) == 1 || Type<T>::kHasNan)) {
    if (plan_rows<Lanes<T, kVectorBytes / 2>>(p, plan)) {
      return plan;
    }
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
       plan_forward<Half>,
       plan_forward<Bfloat>,
       plan_forward<uint8_t>,
       plan_forward<int8_t>,
       plan_forward<int16_t>,
       plan_forward<int32_t>,
       plan_forward<int64_t>},
      {backward<double>, backward<float>, backward_narrow<Half>, backward_narrow<Bfloat>},
      places,
  };
}

} // namespace
