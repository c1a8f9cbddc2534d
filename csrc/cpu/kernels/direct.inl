// Forward, family "direct": rows of adjacent elements, small windows without dilation along the width, straight from the
// input to the output. Within each input row the taps are compared first, then the rows in order: that keeps the first
// winner in row-major order.

namespace {

inline constexpr int kDirectRows = 16; // input rows per window at the most
inline constexpr int64_t kRowsAtOnce = 32; // rows of the output between two looks for strange lanes
inline constexpr int64_t kStreamBytes = int64_t{4} << 20; // outputs this large pass by the cache
inline constexpr int64_t kPrefetchBytes = int64_t{4} << 20; // inputs this large do not lie in a core's own cache
inline constexpr int64_t kPrefetchRowBytes = 512;

// The padding that a vector of windows reaches: none, one column before the row or one after.
enum class Edge { kNone, kLeft, kRight };

// kLanes windows within one row of the input. kKernel and kStride: 2 or 3 and 1 or 2, or 4 and 4; `from` is tap 0 of the
// first. Reads exactly the elements of those windows (kRight: stride 1), and notes those that no vector after this one
// will (is_last: all).
template <class L, bool kIndexed, int kKernel, int kStride, Edge kEdge>
TORCH_MAXPOOL_INLINE Champions<L, kIndexed> across(
    const typename L::Element* from,
    int64_t tap,
    [[maybe_unused]] bool is_last,
    typename L::Mask& strange) {
  typedef typename L::V V;
  typedef typename L::IV IV;
  constexpr int kLanes = L::kLanes;
  const IV zero = splat_index<L>(tap);
  const IV one = splat_index<L>(tap + 1);
  const IV two = splat_index<L>(tap + 2);
  const V lowest = splat<V>(L::lowest());
  Champions<L, kIndexed> best;
  if constexpr (kStride == 1) {
    V taps[3];
    for (int t = kEdge == Edge::kLeft ? 1 : 0; t < (kEdge == Edge::kRight ? kKernel - 1 : kKernel); ++t) {
      taps[t] = L::load(from + t);
    }
    // Vectors side by side meet each element as their first tap, but for the last ones.
    L::note(strange, taps[kEdge == Edge::kLeft ? 1 : 0]);
    if (is_last) {
      for (int t = 1; t < (kEdge == Edge::kRight ? kKernel - 1 : kKernel); ++t) {
        L::note(strange, taps[t]);
      }
    }
    if constexpr (kEdge == Edge::kLeft) {
      taps[0] = previous(lowest, taps[1]);
    }
    if constexpr (kEdge == Edge::kRight) {
      taps[kKernel - 1] = next(taps[kKernel - 2], lowest);
    }
    best = {taps[0], zero};
    best.meet(taps[1], one);
    if constexpr (kKernel == 3) {
      best.meet(taps[2], two);
    }
  } else if constexpr (kEdge == Edge::kLeft) { // taps are odd, even, odd from the first element of the row on
    const V a = L::load(from + 1);
    V b = {};
    if constexpr (kKernel == 3) {
      b = L::load(from + 1 + kLanes);
    } else { // the last element is not the windows': read one less
      b = next(L::load(from + kLanes), lowest);
    }
    L::note(strange, a);
    L::note(strange, b);
    const V odds = odd(a, b);
    best = {previous(lowest, odds), zero};
    best.meet(even(a, b), one);
    if constexpr (kKernel == 3) {
      best.meet(odds, two);
    }
  } else {
    const V a = L::load(from);
    const V b = L::load(from + kLanes);
    L::note(strange, a);
    L::note(strange, b);
    const V evens = even(a, b);
    best = {evens, zero};
    best.meet(odd(a, b), one);
    if constexpr (kKernel == 3) {
      const V last = splat<V>(L::lane(from[2 * kLanes]));
      L::note(strange, last);
      best.meet(next(evens, last), two);
    }
    if constexpr (kKernel == 4) {
      const V c = L::load(from + 2 * kLanes);
      const V d = L::load(from + 3 * kLanes);
      L::note(strange, c);
      L::note(strange, d);
      Champions<L, kIndexed> later = {even(c, d), zero};
      later.meet(odd(c, d), one);
      const Champions<L, kIndexed> pairs = best;
      best = {even(pairs.value, later.value), zero};
      V right = odd(pairs.value, later.value);
      IV right_index = two;
      if constexpr (kIndexed) {
        best.index = even(pairs.index, later.index);
        right_index = odd(pairs.index, later.index) + (two - zero);
      }
      best.meet(right, right_index);
    }
  }
  if constexpr (kIndexed && kEdge == Edge::kLeft) { // a window of lowest elements names its first within the row
    best.index = best.index > previous(one, zero) ? best.index : previous(one, zero);
  }
  return best;
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

// Lines of the input that the windows of one row of the output reach, and the numbers of their first taps.
template <class T>
struct Lines {
  int count;
  const T* from[kDirectRows]; // element 0 of the input's row
  int64_t tap[kDirectRows];
};

template <class T>
inline void find_lines(const ForwardParams& p, const Row& row, Lines<T>& lines) {
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const Taps td = taps_of(shape.d, row.d);
  const Taps th = taps_of(shape.h, row.h);
  const T* plane = static_cast<const T*>(p.input) + row.n * in.n + row.c * in.c;
  lines.count = 0;
  for (int64_t a = td.first; a < td.last; ++a) {
    for (int64_t b = th.first; b < th.last; ++b) {
      lines.from[lines.count] =
          plane + (td.start + a * shape.d.dilation) * in.d + (th.start + b * shape.h.dilation) * in.h;
      lines.tap[lines.count] = (a * shape.h.kernel + b) * shape.w.kernel;
      ++lines.count;
    }
  }
}

// Asks the cache for `count` elements of each line.
template <class T>
inline void prefetch(const Lines<T>& lines, int64_t first, int64_t count) {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  for (int i = 0; i < lines.count; ++i) {
    const char* from = reinterpret_cast<const char*>(lines.from[i] + first);
    for (int64_t at = 0; at < bytes; at += 64) {
      __builtin_prefetch(from + at);
    }
  }
}

// kLanes windows, from column `o` on, over all lines.
template <class L, bool kIndexed, int kKernel, int kStride, Edge kEdge>
TORCH_MAXPOOL_INLINE Champions<L, kIndexed> over_lines(
    const Lines<typename L::Element>& lines,
    int64_t first,
    bool is_last,
    typename L::Mask& strange) {
  Champions<L, kIndexed> best =
      across<L, kIndexed, kKernel, kStride, kEdge>(lines.from[0] + first, lines.tap[0], is_last, strange);
  for (int i = 1; i < lines.count; ++i) {
    best.meet(across<L, kIndexed, kKernel, kStride, kEdge>(lines.from[i] + first, lines.tap[i], is_last, strange));
  }
  return best;
}

// Columns that vectors compute: those of the interior, and one beyond on a side whose padding `across` can stand for.
struct Columns {
  int64_t begin, end;
  bool has_left, has_right; // the first or last vector has that edge
};

template <int kLanes>
inline Columns columns_of(const Axis& w) {
  const Interior interior = interior_of(w);
  Columns columns;
  columns.has_left = w.pad == 1 && w.stride <= 2 && interior.begin == 1 && interior.end >= kLanes && w.output > kLanes;
  columns.has_right = w.stride == 1 && interior.end == w.output - 1 && w.output > kLanes;
  columns.begin = columns.has_left ? 0 : interior.begin;
  columns.end = columns.has_right ? w.output : interior.end;
  return columns;
}

// One row of the output.
template <class L, bool kIndexed, int kKernel, int kStride>
inline void direct_row(
    const ForwardParams& p,
    const ForwardPlan& plan,
    const Row& row,
    const Columns& columns,
    const Lines<typename L::Element>& lines,
    const Lines<typename L::Element>& next_lines,
    typename L::Mask& strange) {
  typedef typename L::Element T;
  constexpr int kLanes = L::kLanes;
  const Strides& out = p.output_strides;
  const int64_t out_row = row.n * out.n + row.c * out.c + row.d * out.d + row.h * out.h;
  T* values = static_cast<T*>(p.output) + out_row;
  uint8_t* offsets = kIndexed ? static_cast<uint8_t*>(p.offsets) + out_row : nullptr;
  const bool stream = plan.stream && is_aligned<typename L::V>(values);
  const int64_t last = columns.end - kLanes;
  for (int64_t o = columns.begin;;) {
    const int64_t first = o * kStride - p.shape.w.pad;
    if (plan.prefetch) {
      prefetch(next_lines, first, kLanes * kStride);
    }
    Champions<L, kIndexed> best = {};
    if (columns.has_left && o == 0) {
      if constexpr (kStride <= 2) {
        best = over_lines<L, kIndexed, kKernel, kStride, Edge::kLeft>(lines, first, o == last, strange);
      }
    } else if (columns.has_right && o == last) {
      if constexpr (kStride == 1) {
        best = over_lines<L, kIndexed, kKernel, kStride, Edge::kRight>(lines, first, o == last, strange);
      }
    } else {
      best = over_lines<L, kIndexed, kKernel, kStride, Edge::kNone>(lines, first, o == last, strange);
    }
    if (stream) {
      L::stream(values + o, best.value);
    } else {
      L::store(values + o, best.value);
    }
    if constexpr (kIndexed) {
      store_offsets<L>(offsets + o, best.index);
    }
    if (o == last) {
      break;
    }
    o = o + kLanes < last ? o + kLanes : last; // the last vector overlaps the one before
  }
}

// The columns at the sides that vectors leave out, one window at a time.
template <class T>
inline void direct_sides(const ForwardParams& p, const Row& row, const Columns& columns) {
  forward_row<T>(p, row, 0, columns.begin);
  forward_row<T>(p, row, columns.end, p.shape.w.output);
}

// Rows [begin, end) of the output, the first of them `row`; false where they depend on strange lanes.
template <class L, bool kIndexed, int kKernel, int kStride>
bool direct_rows(
    const ForwardParams& p,
    const ForwardPlan& plan,
    const Columns& columns,
    Row row,
    int64_t begin,
    int64_t end) {
  typedef typename L::Element T;
  Lines<T> both[2];
  find_lines(p, row, both[begin & 1]);
  typename L::Mask strange = {};
  for (int64_t unit = begin; unit < end; ++unit) {
    const Lines<T>& lines = both[unit & 1];
    Lines<T>& next_lines = both[~unit & 1];
    const Row here = row;
    advance(p.shape, row);
    next_lines.count = 0;
    if (unit + 1 < end) {
      find_lines(p, row, next_lines);
    }
    direct_row<L, kIndexed, kKernel, kStride>(p, plan, here, columns, lines, next_lines, strange);
    direct_sides<T>(p, here, columns);
  }
  return !L::is_strange(strange);
}

// Units: rows of the output.
template <class L, bool kIndexed, int kKernel, int kStride>
void forward_direct(const ForwardParams& p, const ForwardPlan& plan, void*, int64_t begin, int64_t end) {
  const Columns columns = columns_of<L::kLanes>(p.shape.w);
  for (int64_t at = begin; at < end; at += kRowsAtOnce) {
    const Row row = row_of(p.shape, at);
    const int64_t stop = at + kRowsAtOnce < end ? at + kRowsAtOnce : end;
    if (direct_rows<L, kIndexed, kKernel, kStride>(p, plan, columns, row, at, stop)) {
      continue;
    }
    if constexpr (kHasExact<L>) {
      direct_rows<typename L::Exact, kIndexed, kKernel, kStride>(p, plan, columns, row, at, stop);
    } else {
      forward_windows<typename L::Element>(p, plan, nullptr, at, stop);
    }
  }
  stream_fence();
}

template <class L, bool kIndexed>
inline ForwardKernel find_direct(int64_t kernel, int64_t stride) {
  if (kernel == 2 && stride == 2) {
    return forward_direct<L, kIndexed, 2, 2>;
  }
  if (kernel == 3 && stride == 2) {
    return forward_direct<L, kIndexed, 3, 2>;
  }
  if (kernel == 3 && stride == 1) {
    return forward_direct<L, kIndexed, 3, 1>;
  }
  if (kernel == 2 && stride == 1) {
    return forward_direct<L, kIndexed, 2, 1>;
  }
  if (kernel == 4 && stride == 4) {
    return forward_direct<L, kIndexed, 4, 4>;
  }
  return nullptr;
}

// Fills `plan` where the family fits, with vectors of L.
template <class L>
inline bool plan_direct(const ForwardParams& p, ForwardPlan& plan) {
  typedef typename L::Element T;
  const Shape& shape = p.shape;
  const Axis& w = shape.w;
  const Columns columns = columns_of<L::kLanes>(w);
  if (w.dilation != 1 || p.input_strides.w != 1 || p.output_strides.w != 1 || p.wide_offsets ||
      shape.d.kernel > kDirectRows || shape.h.kernel > kDirectRows || shape.d.kernel * shape.h.kernel > kDirectRows ||
      columns.end - columns.begin < L::kLanes) {
    return false;
  }
  const ForwardKernel run =
      p.offsets ? find_direct<L, true>(w.kernel, w.stride) : find_direct<L, false>(w.kernel, w.stride);
  if (run == nullptr) {
    return false;
  }
  plan = plan_windows<T>(p);
  plan.family = "direct";
  plan.run = run;
  const int64_t written = plan.units * w.output * static_cast<int64_t>(sizeof(T));
  const int64_t read =
      shape.batch * shape.channels * shape.d.input * shape.h.input * w.input * static_cast<int64_t>(sizeof(T));
  // Only whole rows of whole vectors: a line that is streamed and stored to is written twice.
  plan.stream = written >= kStreamBytes && w.output % L::kLanes == 0 && columns.begin == 0 && columns.end == w.output;
  // Rows that no later window shares, long enough to be streams of their own.
  plan.prefetch = read >= kPrefetchBytes && shape.h.stride >= shape.h.kernel &&
      w.input * static_cast<int64_t>(sizeof(T)) >= kPrefetchRowBytes;
  return true;
}

} // namespace
