// The same pooling over fewer and longer rows: what is adjacent in memory is pooled as one row. Kernels then have whole
// vectors of windows where planes are small: global pooling of a few elements, short rows that their windows tile.
#pragma once

#include "kernels.h"

namespace torch_maxpool::cpu {

// Rows that are joined to this many outputs are long enough, and leave others for other threads.
inline constexpr int64_t kJoinedOutputs = 1024;

namespace joining {

inline constexpr int64_t kMost = int64_t{1} << 31; // of factors, so that no product overflows
inline constexpr Axis kNone = {1, 1, 1, 1, 1, 0};

// Whether a window takes all of the axis.
inline bool is_whole(const Axis& axis) {
  return axis.output == 1 && axis.kernel == axis.input && axis.dilation == 1 && axis.pad == 0;
}

// Windows of whole rows are windows of one row, whose taps have the same numbers.
inline bool join_taps(Shape& shape, Strides& input, Strides& output) {
  const Axis& w = shape.w;
  const Axis& h = shape.h;
  const bool is_adjacent = (w.input == 1 || input.w == 1) && (h.input == 1 || input.h == w.input);
  if (!is_whole(w) || !is_adjacent || h.pad != 0 || h.dilation != 1 || h.kernel > kMost || h.stride > kMost ||
      w.input > kMost) {
    return false;
  }
  shape.w = {h.input * w.input, h.output, h.kernel * w.input, h.stride * w.input, 1, 0};
  shape.h = shape.d;
  shape.d = kNone;
  input = {input.n, input.c, 0, input.d, 1};
  output = {output.n, output.c, 0, output.d, output.h};
  return true;
}

// Whether each step along the axis is pooled alone.
inline bool has_rows_alone(const Axis& axis) {
  return axis.kernel == 1 && axis.stride == 1 && axis.pad == 0 && axis.input == axis.output;
}

// `count` rows, `input` and `output` elements apart, of which as many follow each other as joined rows take; what is left
// in `count`, and how far apart.
inline void join_rows_along(Axis& w, int64_t& count, int64_t& input, int64_t& output) {
  if (count > 1 && (input != w.input || output != w.output)) {
    return;
  }
  int64_t joined = count;
  while (joined > 1 && joined % 2 == 0 && joined * w.output > kJoinedOutputs) {
    joined /= 2;
  }
  if (joined * w.output > kJoinedOutputs && w.output >= kJoinedOutputs / 4) {
    joined = 1; // long enough, and others may have threads of their own
  }
  w.input *= joined;
  w.output *= joined;
  count /= joined;
  input *= joined;
  output *= joined;
}

struct Size {
  int64_t w, h, d;
};

// Dimensions of one element have the strides of dense tensors, which kernels may ask for.
inline void fill_strides(const Shape& shape, const Size& size, Strides& strides) {
  strides.h = size.h == 1 ? size.w * strides.w : strides.h;
  strides.d = size.d == 1 ? size.h * strides.h : strides.d;
  strides.c = shape.channels == 1 ? size.d * strides.d : strides.c;
  strides.n = shape.batch == 1 ? shape.channels * strides.c : strides.n;
}

// Where windows are `most_stride` apart at the most.
inline void join_rows_of(Shape& shape, Strides& input, Strides& output, int64_t most_stride) {
  const bool is_dense = (shape.w.input == 1 || input.w == 1) && (shape.w.output == 1 || output.w == 1);
  if (!is_dense || shape.w.pad != 0) {
    return;
  }
  Shape joined = shape;
  Strides from = input;
  Strides to = output;
  for (int i = 0; i < 2 && join_taps(joined, from, to); ++i) {
  }
  Axis& w = joined.w;
  const int64_t stride = w.output == 1 ? w.input : w.stride;
  if (stride > most_stride && shape.w.input > 1) {
    return;
  }
  if (stride <= most_stride && w.output * stride == w.input && w.kernel <= stride &&
      (w.kernel - 1) * w.dilation < stride) {
    w.stride = stride;
    from.w = 1;
    to.w = 1;
    if (has_rows_alone(joined.h)) {
      join_rows_along(w, joined.h.input, from.h, to.h);
      joined.h.output = joined.h.input;
    }
    if (has_rows_alone(joined.d)) {
      join_rows_along(w, joined.d.input, from.d, to.d);
      joined.d.output = joined.d.input;
    }
    join_rows_along(w, joined.channels, from.c, to.c);
    join_rows_along(w, joined.batch, from.n, to.n);
  }
  shape = joined;
  input = from;
  output = to;
  fill_strides(joined, {joined.w.input, joined.h.input, joined.d.input}, input);
  fill_strides(joined, {joined.w.output, joined.h.output, joined.d.output}, output);
}

} // namespace joining

// Change a pooling into another that has the same results in the same places, taps having the same numbers.

// `bytes`: of an element.
inline void join_rows(ForwardParams& p, int64_t bytes) {
  constexpr int64_t kAlone = 64; // as many bytes are pooled well on their own (kernels/run.inl)
  joining::join_rows_of(p.shape, p.input_strides, p.output_strides, kAlone / bytes - 1);
}

inline void join_rows(BackwardParams& p) {
  constexpr int64_t kMostStride = 4; // for family "disjoint"; others take as long as they do for small planes
  const Shape& s = p.shape;
  const bool is_tiny = s.batch * s.channels * s.d.output * s.h.output * s.w.output < kJoinedOutputs;
  if (!p.is_channels_last) {
    joining::join_rows_of(p.shape, p.input_strides, p.output_strides, is_tiny ? 0 : kMostStride);
  }
}

} // namespace torch_maxpool::cpu
