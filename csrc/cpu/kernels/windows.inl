// Windows and rows, and the forward that takes any shape and any strides, one window at a time.

namespace {

// The taps of one window that lie within the input along one dimension: numbers [first, last), and where tap 0 lies.
struct Taps {
  int64_t start;
  int64_t first;
  int64_t last;
};

inline Taps taps_of(const Axis& axis, int64_t out) {
  Taps taps;
  taps.start = out * axis.stride - axis.pad;
  const int64_t room = axis.input - 1 - taps.start; // distance from tap 0 to the last element
  if (axis.dilation == 1) { // spares two divisions
    taps.first = taps.start < 0 ? -taps.start : 0;
    taps.last = room + 1;
  } else {
    taps.first = taps.start < 0 ? (-taps.start - 1) / axis.dilation + 1 : 0;
    taps.last = room < 0 ? 0 : room / axis.dilation + 1;
  }
  taps.last = taps.last < axis.kernel ? taps.last : axis.kernel;
  return taps;
}

inline bool is_empty(const Taps& taps) {
  return taps.first >= taps.last;
}

// Columns whose windows lie within the row: [begin, end).
struct Interior {
  int64_t begin, end;
};

inline Interior interior_of(const Axis& axis) {
  const int64_t reach = (axis.kernel - 1) * axis.dilation + 1;
  Interior interior;
  interior.begin = (axis.pad + axis.stride - 1) / axis.stride;
  const int64_t room = axis.input + axis.pad - reach;
  interior.end = room < 0 ? 0 : room / axis.stride + 1;
  interior.end = interior.end < axis.output ? interior.end : axis.output;
  return interior;
}

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

// A row of the output.
struct Row {
  int64_t n, c, d, h;
};

inline Row row_of(const Shape& shape, int64_t unit) {
  Row row;
  row.h = unit % shape.h.output;
  unit /= shape.h.output;
  row.d = unit % shape.d.output;
  unit /= shape.d.output;
  row.c = unit % shape.channels;
  row.n = unit / shape.channels;
  return row;
}

// The row after, in the order of units.
inline void advance(const Shape& shape, Row& row) {
  if (++row.h < shape.h.output) {
    return;
  }
  row.h = 0;
  if (++row.d < shape.d.output) {
    return;
  }
  row.d = 0;
  if (++row.c < shape.channels) {
    return;
  }
  row.c = 0;
  ++row.n;
}

// Where a row of the output lies; and, of rows whose windows begin within the input, tap 0 of them but for the width.
inline int64_t output_place(const Strides& out, const Row& row) {
  return row.n * out.n + row.c * out.c + row.d * out.d + row.h * out.h;
}
inline int64_t input_place(const ForwardParams& p, const Row& row) {
  const Strides& in = p.input_strides;
  return row.n * in.n + row.c * in.c + row.d * p.shape.d.stride * in.d + row.h * p.shape.h.stride * in.h;
}

// One window: its maximum and the number of the tap that has it; the lowest value and 0 where it has no element.
template <class T>
struct Winner {
  T value;
  int64_t tap;
};

template <class T>
inline Winner<T> window(const ForwardParams& p, const T* plane, const Taps& td, const Taps& th, const Taps& tw) {
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const Type<T> order(p);
  Winner<T> winner = {order.lowest(), 0};
  if (is_empty(td) || is_empty(th) || is_empty(tw)) {
    return winner;
  }
  winner.value = plane
      [(td.start + td.first * shape.d.dilation) * in.d + (th.start + th.first * shape.h.dilation) * in.h +
       (tw.start + tw.first * shape.w.dilation) * in.w];
  winner.tap = (td.first * shape.h.kernel + th.first) * shape.w.kernel + tw.first;
  auto champion = order.key(winner.value);
  const int64_t step = shape.w.dilation * in.w;
  for (int64_t a = td.first; a < td.last; ++a) {
    for (int64_t b = th.first; b < th.last; ++b) {
      const T* from = plane + (td.start + a * shape.d.dilation) * in.d + (th.start + b * shape.h.dilation) * in.h +
          (tw.start + tw.first * shape.w.dilation) * in.w;
      int64_t tap = (a * shape.h.kernel + b) * shape.w.kernel + tw.first;
      for (int64_t left = tw.last - tw.first; left > 0; --left, ++tap, from += step) {
        const auto challenger = order.key(*from);
        const bool wins = order.beats(challenger, champion);
        if constexpr (Type<T>::kHasNan && sizeof(T) > 2) {
          if (wins) {
            champion = challenger;
            winner = {*from, tap};
            __asm__ volatile(""); // it stays a branch: a chain of selected floats takes longer
          }
        } else {
          champion = wins ? challenger : champion;
          winner.value = wins ? *from : winner.value;
          winner.tap = wins ? tap : winner.tap;
        }
      }
    }
  }
  return winner;
}

// Windows [begin, end) of one row of the output.
template <class T>
void forward_row(const ForwardParams& p, const Row& row, int64_t begin, int64_t end) {
  if (begin >= end) {
    return; // not covered: no caller has an empty range so far
  }
  const Strides& out = p.output_strides;
  const T* plane = static_cast<const T*>(p.input) + row.n * p.input_strides.n + row.c * p.input_strides.c;
  const int64_t out_row = output_place(out, row);
  const Taps td = taps_of(p.shape.d, row.d);
  const Taps th = taps_of(p.shape.h, row.h);
  for (int64_t o = begin; o < end; ++o) {
    const Winner<T> winner = window(p, plane, td, th, taps_of(p.shape.w, o));
    const int64_t at = out_row + o * out.w;
    static_cast<T*>(p.output)[at] = winner.value;
    if (p.offsets && p.wide_offsets) {
      static_cast<int32_t*>(p.offsets)[at] = static_cast<int32_t>(winner.tap);
    } else if (p.offsets) {
      static_cast<uint8_t*>(p.offsets)[at] = static_cast<uint8_t>(winner.tap);
    }
  }
}

// Units: rows of the output.
template <class T>
void forward_windows(const ForwardParams& p, const ForwardPlan&, void*, int64_t begin, int64_t end) {
  Row row = row_of(p.shape, begin);
  for (int64_t unit = begin; unit < end; ++unit) {
    forward_row<T>(p, row, 0, p.shape.w.output);
    advance(p.shape, row);
  }
}

// Whether the elements of a plane follow each other.
inline bool is_dense_plane(const Strides& strides, int64_t width, int64_t height, int64_t depth) {
  return (width == 1 || strides.w == 1) && (height == 1 || strides.h == width) &&
      (depth == 1 || strides.d == width * height);
}

// Whether rows follow each other in the order of units; `width`, `height`, `depth`: of a plane.
inline bool is_dense(const Shape& shape, const Strides& strides, int64_t width, int64_t height, int64_t depth) {
  const int64_t plane = width * height * depth;
  return strides.w == 1 && is_dense_plane(strides, width, height, depth) &&
      (shape.channels == 1 || strides.c == plane) && (shape.batch == 1 || strides.n == plane * shape.channels);
}
inline bool is_dense_input(const ForwardParams& p) {
  return is_dense(p.shape, p.input_strides, p.shape.w.input, p.shape.h.input, p.shape.d.input);
}
inline bool is_dense_output(const ForwardParams& p) {
  return is_dense(p.shape, p.output_strides, p.shape.w.output, p.shape.h.output, p.shape.d.output);
}

template <class T>
inline ForwardPlan plan_windows(const ForwardParams& p) {
  ForwardPlan plan = {};
  plan.family = "windows";
  plan.run = forward_windows<T>;
  plan.units = p.shape.batch * p.shape.channels * p.shape.d.output * p.shape.h.output;
  return plan;
}

enum : int64_t { kNoElement = -1, kBadOffset = -2 };

// Where the element lies that an offset names, in each dimension.
struct Place {
  int64_t d, h, w;
};

inline bool tap_is_in(const Taps& taps, int64_t tap) {
  return tap >= taps.first && tap < taps.last;
}

// Fills `place`; returns 0, kNoElement (an empty window, whatever the offset) or kBadOffset.
inline int64_t resolve(
    const Shape& shape,
    const Taps& td,
    const Taps& th,
    const Taps& tw,
    int64_t offset,
    Place& place) {
  if (is_empty(td) || is_empty(th) || is_empty(tw)) {
    return kNoElement;
  }
  if (offset < 0) {
    return kBadOffset;
  }
  const int64_t rest = offset / shape.w.kernel;
  const int64_t c = offset - rest * shape.w.kernel;
  const int64_t a = rest / shape.h.kernel;
  const int64_t b = rest - a * shape.h.kernel;
  if (!tap_is_in(td, a) || !tap_is_in(th, b) || !tap_is_in(tw, c)) {
    return kBadOffset;
  }
  place.d = td.start + a * shape.d.dilation;
  place.h = th.start + b * shape.h.dilation;
  place.w = tw.start + c * shape.w.dilation;
  return 0;
}

// True where no two windows share an element.
inline bool is_disjoint(const Axis& axis) {
  return axis.output == 1 || (axis.kernel - 1) * axis.dilation < axis.stride;
}
inline bool are_disjoint(const Shape& shape) {
  return is_disjoint(shape.d) && is_disjoint(shape.h) && is_disjoint(shape.w);
}

} // namespace
