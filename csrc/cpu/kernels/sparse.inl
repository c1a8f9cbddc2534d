// Backward, family "sparse": contiguous planes, windows that do not overlap and lie within the input as a whole. Elements
// are cleared, then each window's gradient is stored at its winner.

namespace {

inline constexpr int64_t kSparseBytes = 16384; // of planes in a unit
inline constexpr int64_t kSparseOutputs = 4096; // of a plane, at the most

// Calls use(tap, its place in the plane) for each tap of the window at place 0.
template <class Use>
inline void each_tap(const Shape& shape, const Strides& in, const Use& use) {
  int64_t tap = 0;
  for (int64_t i = 0; i < shape.d.kernel; ++i) {
    for (int64_t j = 0; j < shape.h.kernel; ++j) {
      for (int64_t k = 0; k < shape.w.kernel; ++k) {
        use(tap++, i * shape.d.dilation * in.d + j * shape.h.dilation * in.h + k * shape.w.dilation * in.w);
      }
    }
  }
}

// Units: kSparseBytes of planes, or one.
template <class T>
int64_t backward_sparse(const BackwardParams& p, const BackwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const int64_t outputs = shape.d.output * shape.h.output * shape.w.output;
  const int64_t elements = shape.d.input * shape.h.input * shape.w.input;
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  int32_t places[256];
  each_tap(shape, in, [&](int64_t tap, int64_t place) { places[tap] = static_cast<int32_t>(place); });
  int32_t* const windows = static_cast<int32_t*>(scratch); // place of each window
  int32_t* window = windows;
  for (int64_t od = 0; od < shape.d.output; ++od) {
    for (int64_t oh = 0; oh < shape.h.output; ++oh) {
      for (int64_t ow = 0; ow < shape.w.output; ++ow) {
        *window++ =
            static_cast<int32_t>(od * shape.d.stride * in.d + oh * shape.h.stride * in.h + ow * shape.w.stride * in.w);
      }
    }
  }
  uint8_t* const offsets = reinterpret_cast<uint8_t*>(window); // a copy: memory may change under the check
  const int64_t planes = shape.batch * shape.channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * plan.group;
    const int64_t count = planes - first < plan.group ? planes - first : plan.group;
    T* to = static_cast<T*>(p.grad_input) + first * elements;
    const T* grads = static_cast<const T*>(p.grad_output) + first * outputs;
    copy_bytes(offsets, static_cast<const uint8_t*>(p.offsets) + first * outputs, count * outputs);
    if (any_outside(offsets, count * outputs, 0, taps)) {
      for (int64_t i = 0; i < count * outputs; ++i) {
        if (offsets[i] >= taps) {
          return first * outputs + i;
        }
      }
    }
    __builtin_memset(to, 0, static_cast<size_t>(count * elements) * sizeof(T));
    const uint8_t* offset = offsets;
    for (int64_t q = 0; q < count; ++q, to += elements) {
      for (int64_t o = 0; o < outputs; ++o) {
        narrow(SumOf<T>(0) + widen(*grads++), to[windows[o] + places[*offset++]]);
      }
    }
  }
  return -1;
}

// Fills `plan` where the family fits.
template <class T>
inline bool plan_sparse(const BackwardParams& p, BackwardPlan& plan) {
  const Shape& shape = p.shape;
  const auto is_disjoint = [](const Axis& axis) {
    return all_whole(axis) && (axis.kernel - 1) * axis.dilation < axis.stride;
  };
  const int64_t outputs = shape.d.output * shape.h.output * shape.w.output;
  const int64_t elements = shape.d.input * shape.h.input * shape.w.input;
  if (p.wide_offsets || p.is_channels_last || outputs > kSparseOutputs || elements > INT32_MAX / 2 ||
      !is_disjoint(shape.d) || !is_disjoint(shape.h) || !is_disjoint(shape.w)) {
    return false;
  }
  plan.family = "sparse";
  plan.run = backward_sparse<T>;
  const int64_t planes = shape.batch * shape.channels;
  const int64_t fitting = kSparseBytes / static_cast<int64_t>(sizeof(T)) / elements;
  plan.group = fitting < 1 ? 1 : fitting < planes ? fitting : planes;
  plan.units = (planes + plan.group - 1) / plan.group;
  plan.scratch_bytes = outputs * static_cast<int64_t>(sizeof(int32_t)) + plan.group * outputs;
  return true;
}

} // namespace
