// Which family computes a forward, and the table of one instruction set.

namespace {

template <class T>
inline bool plan_tiles(const ForwardParams& p, int64_t group, ForwardPlan& plan) {
  typedef Lanes<T> L;
  const Shape& shape = p.shape;
  // Of windows that reach much further than the input, tiles would hold little but padding.
  const auto is_near = [](const Axis& axis) { return (axis.kernel - 1) / 4 <= (axis.input + 64) / axis.dilation; };
  if (!is_near(shape.d) || !is_near(shape.h) || !is_near(shape.w)) {
    return false;
  }
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

// Of channels_last tensors: how many channels to pool as part of a row of a tile, or 0.
template <class T>
inline int64_t channels_of_tiles(const ForwardParams& p) {
  const int64_t channels = p.shape.channels;
  if (channels <= kMostGroup) {
    return p.input_strides.w == channels && p.output_strides.w == channels ? channels : 0;
  }
  int64_t group = kMostGroup;
  while (group >= Lanes<T>::kLanes && channels % group != 0) {
    group /= 2;
  }
  return group >= Lanes<T>::kLanes ? group : 0;
}

// Whether tiles, which large windows cost few steps, do better than family "channels" (measured on Zen 3).
template <class T>
inline bool tiles_cost_less(const ForwardParams& p) {
  const Shape& shape = p.shape;
  if (shape.w.stride > 1 || shape.h.stride > 1) {
    return false;
  }
  const int64_t many = sizeof(T) > 2 || (sizeof(T) == 1 && p.offsets) ? 32 : 16; // taps
  constexpr int64_t kSome = 9; // where a pixel has too few vectors to keep the processor busy
  const int64_t least = shape.channels < 2 * Lanes<T>::kLanes ? kSome : many;
  return shape.h.kernel >= least || shape.w.kernel >= least || shape.h.kernel * shape.w.kernel >= least;
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
    const int64_t group = channels_of_tiles<T>(p);
    if (tiles_cost_less<T>(p) && group > 0 && plan_tiles<T>(p, group, plan)) {
      return plan;
    }
    if (plan_channels<T>(p, plan) || (group == shape.channels && plan_tiles<T>(p, group, plan))) {
      return plan;
    }
    return plan_single<T>(p);
  }
  if (plan_run<T>(p, plan) || plan_flat<T>(p, plan)) {
    return plan;
  }
  if (!plan_picked<T>(p, plan) && !plan_short_runs<T>(p, plan) && !plan_runs<T>(p, plan) && !plan_strips<T>(p, plan) &&
      !plan_narrow<T>(p, plan) && !plan_sliding<T>(p, plan) &&
      !(p.output_strides.w == 1 && plan_tiles<T>(p, 1, plan))) {
    plan = plan_single<T>(p);
  }
  ForwardPlan transposed;
  return plan_transposed<T>(p, transposed) && transposed.cost * 9 / 8 < plan.cost ? transposed : plan;
}

constexpr KernelTable table(const char* name, const BackwardTable& backward) {
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
      backward.plan,
      places,
  };
}

} // namespace
