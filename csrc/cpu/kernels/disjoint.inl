// Backward, family "disjoint": windows that lie side by side along the width (2 to 4 taps, stride as many) and do not
// overlap along height and depth. Each row of grad_input is made of one row of grad_output, straight from memory.

namespace {

inline constexpr int64_t kCheckedBytes = 4096; // offsets checked at a time

// A dimension that windows do not overlap in: the window and the tap that an element belongs to. Steps from element to
// element without a division.
struct Owner {
  int64_t out, tap;

  Owner(const Axis& axis, int64_t at) : out((at + axis.pad) / axis.stride), tap((at + axis.pad) % axis.stride) {}

  void advance(const Axis& axis) {
    if (++tap == axis.stride) {
      tap = 0;
      ++out;
    }
  }
  // False where no window has the element.
  bool exists(const Axis& axis) const {
    return out < axis.output && tap < axis.kernel;
  }
};

// Tap (kStart + i) % kStep in lane i.
template <class V, int kStart, int kStep, int... kIndex>
TORCH_MAXPOOL_INLINE V cycling_taps(Sequence<kIndex...>) {
  return V{(kStart + kIndex) % kStep...};
}

// Rows of grad_input that belong to one row of windows of kStep taps.
template <class T>
struct SpreadRows {
  T* to; // the first of them
  int64_t pitch, count;
  uint8_t tap; // of the first row's first element
  const T* grad;
  const uint8_t* offsets;
  int64_t room; // elements from `to` on that this thread will write, in ascending order
  int64_t readable; // elements of grad and offsets
};

// How rows are written: as they are, with those further on asked for ahead of time, or past the cache.
enum class Way { kStore, kFetch, kStream };

inline constexpr int64_t kSpreadAhead = 2048; // bytes

// kLanes windows from `o` on: kStep vectors in each row.
template <class S, int kStep, Way kWay, class T>
TORCH_MAXPOOL_INLINE void spread(const SpreadRows<T>& rows, int64_t o) {
  typedef typename S::V V;
  typedef MakeSequence<S::kLanes> All;
  constexpr int64_t kAhead = kSpreadAhead / static_cast<int64_t>(sizeof(T));
  [[maybe_unused]] constexpr int kRowBytes = kStep * static_cast<int>(sizeof(V)); // written in each row
  if constexpr (kWay != Way::kStore) {
    fetch(rows.grad + o + kAhead);
  }
  // Offsets are repeated as bytes, or where no instruction puts bytes in any order, as wide as sums.
  constexpr bool kInBytes = kVectorBytes > 16;
  typedef typename WideTaps<S, kInBytes>::V O;
  const V value = held(S::load(rows.grad + o));
  const O offset = WideTaps<S, kInBytes>::load(rows.offsets + o);
  constexpr int kPatterns = kStep % 2 > 0 ? kStep : S::kLanes < kStep ? kStep / S::kLanes : 1; // of taps in the lanes
  V values[kStep];
  O offsets[kStep];
  O taps[kStep];
  const auto repeat = [&](auto number) {
    constexpr int kPart = decltype(number)::kNumber;
    constexpr int kStart = kPart * S::kLanes;
    values[kPart] = repeat_lanes<kStart, kStep>(value, All());
    offsets[kPart] = repeat_lanes<kStart, kStep>(offset, MakeSequence<kLanesOf<O>>());
    taps[kPart] =
        cycling_taps<O, kStart, kStep>(MakeSequence<kLanesOf<O>>()) + WideTaps<S, kInBytes>::splat_of(rows.tap);
  };
  repeat(Number<0>());
  repeat(Number<1>());
  if constexpr (kStep > 2) {
    repeat(Number<2>());
  }
  if constexpr (kStep > 3) {
    repeat(Number<3>());
  }
  T* to = rows.to + o * kStep;
  for (int64_t row = 0; row < rows.count; ++row, to += rows.pitch) {
    if constexpr (kWay == Way::kFetch) {
      fetch<kRowBytes, true>(to + kAhead);
    }
#pragma GCC unroll 4
    for (int part = 0; part < kStep; ++part) {
      const V v = add_equal<S>(V{}, values[part], offsets[part], taps[part % kPatterns]);
      if constexpr (kWay == Way::kStream) {
        S::stream(to + part * S::kLanes, v);
      } else {
        S::store(to + part * S::kLanes, v);
      }
    }
    for (int i = 0; i < kPatterns; ++i) {
      taps[i] += WideTaps<S, kInBytes>::splat_of(kStep);
    }
  }
}

// Windows [o, whole) by vectors of kVector bytes; returns up to which one they are done. The last vector may overlap the
// one before, but for what passes by the cache: lines that are written twice are written and read back.
template <int kVector, int kStep, Way kWay, class T>
TORCH_MAXPOOL_INLINE int64_t spread_windows(const SpreadRows<T>& rows, int64_t o, int64_t whole) {
  typedef Moved<T, kVector> S;
  for (; o + S::kLanes <= whole; o += S::kLanes) {
    spread<S, kStep, kWay>(rows, o);
  }
  if (kWay != Way::kStream && o < whole && whole >= S::kLanes) {
    spread<S, kStep, Way::kStore>(rows, whole - S::kLanes);
    o = whole;
  }
  return o;
}

// Less than a vector of windows, but more than half of one: as a vector that passes the end of the row, where the next
// row is written later. Returns how many windows are done.
template <int kVector, int kStep, class T>
TORCH_MAXPOOL_INLINE int64_t spread_past_end(const SpreadRows<T>& rows, int64_t whole) {
  typedef Moved<T, kVector> S;
  if (whole >= S::kLanes || whole <= S::kLanes / 2 || rows.readable < S::kLanes ||
      rows.room < (rows.count - 1) * rows.pitch + kStep * S::kLanes) {
    return 0;
  }
  spread<S, kStep, Way::kStore>(rows, 0);
  return whole;
}

// `whole`: windows that end within the row.
template <int kStep, Way kWay, class T>
inline void spread_rows(const SpreadRows<T>& rows, const Axis& w, int64_t whole) {
  int64_t o = 0;
  if constexpr (kWay != Way::kStream) {
    o = spread_past_end<kVectorBytes, kStep>(rows, whole);
    if constexpr (kVectorBytes > 32) {
      o = o > 0 ? o : spread_past_end<32, kStep>(rows, whole);
    }
  }
  // Rows that are streamed may be aligned to narrower vectors only.
  if (kWay != Way::kStream || w.input * static_cast<int64_t>(sizeof(T)) % kVectorBytes == 0) {
    o = o > 0 ? o : spread_windows<kVectorBytes, kStep, kWay>(rows, 0, whole);
  }
  if constexpr (kVectorBytes > 32) {
    o = spread_windows<32, kStep, kWay>(rows, o, whole);
  }
  if constexpr (kVectorBytes > 16) {
    o = spread_windows<16, kStep, kWay>(rows, o, whole);
  }
  if (o * kStep == w.input) {
    return;
  }
  T* to = rows.to;
  uint8_t tap = rows.tap;
  for (int64_t row = 0; row < rows.count; ++row, to += rows.pitch, tap += kStep) {
    int64_t at = o * kStep;
    for (int64_t i = o; i < w.output && at < w.input; ++i) {
      for (int t = 0; t < kStep && at < w.input; ++t, ++at) {
        const bool wins = rows.offsets[i] == static_cast<uint8_t>(tap + t);
        narrow(wins ? SumOf<T>(0) + widen(rows.grad[i]) : SumOf<T>(0), to[at]);
      }
    }
    for (; at < w.input; ++at) {
      narrow(SumOf<T>(0), to[at]);
    }
  }
}

// True where every window is whole: then rows of offsets can be checked many at a time.
inline bool all_whole(const Axis& axis) {
  const Interior interior = interior_of(axis);
  return interior.begin == 0 && interior.end == axis.output;
}

// Rows of windows along the height, and beyond the last one the rows that none has.
inline int64_t row_groups(const Axis& h) {
  return (h.input - 1 + h.pad) / h.stride + 1;
}

// Units: groups of rows of grad_input, those from the place of one row of windows to that of the next.
template <class T, int kStep>
int64_t backward_disjoint(
    const BackwardParams& p,
    const BackwardPlan& plan,
    void* scratch,
    int64_t begin,
    int64_t end) {
  const Shape& shape = p.shape;
  const Axis& w = shape.w;
  const Axis& h = shape.h;
  const RowCheck check(shape, static_cast<uint8_t*>(scratch));
  StreamedLines lines(static_cast<char*>(scratch) + plan.lines_at);
  const int64_t fit = w.input / kStep;
  const int64_t whole = fit < w.output ? fit : w.output;
  const int64_t groups = row_groups(h);
  int64_t group = begin % groups;
  int64_t z = begin / groups % shape.d.input;
  int64_t plane = begin / groups / shape.d.input;
  const bool in_blocks = all_whole(w) && all_whole(h) && all_whole(shape.d);
  const int64_t taps = shape.d.kernel * h.kernel * shape.w.kernel;
  const int64_t all_rows = shape.batch * shape.channels * shape.d.output * h.output;
  const int64_t block = kCheckedBytes / w.output + 1;
  int64_t checked = -1; // rows of offsets up to this one are
  Owner d(shape.d, z);
  const int64_t last_group = end % groups;
  const int64_t last_row = last_group > 0 ? last_group * h.stride - h.pad : 0;
  const T* const room_end =
      static_cast<const T*>(p.grad_input) + (end / groups * h.input + (last_row > 0 ? last_row : 0)) * w.input;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t start = group * h.stride - h.pad;
    const int64_t first = start > 0 ? start : 0;
    const int64_t last = start + h.stride < h.input ? start + h.stride : h.input;
    T* to = static_cast<T*>(p.grad_input) + ((plane * shape.d.input + z) * h.input + first) * w.input;
    int64_t room = room_end - to;
    if (plan.in_lines) {
      to = lines.begin(to);
      room = (last - first) * w.input;
    }
    int64_t count = 0; // rows that windows have
    if (group < h.output && d.exists(shape.d)) {
      count = (start + h.kernel < last ? start + h.kernel : last) - first;
      const int64_t row = (plane * shape.d.output + d.out) * h.output + group;
      const T* const grad = static_cast<const T*>(p.grad_output) + row * w.output;
      const uint8_t* const offsets = static_cast<const uint8_t*>(p.offsets) + row * w.output;
      if (in_blocks && row >= checked) {
        const int64_t rows = row + block < all_rows ? block : all_rows - row;
        checked = any_outside(offsets, rows * w.output, 0, taps) ? row : row + rows;
      }
      if (row >= checked) {
        const Taps td = taps_of(shape.d, d.out);
        const int64_t bad = d.tap == td.first ? check(offsets, td, taps_of(h, group), 0, w.output) : -1;
        if (bad >= 0) {
          return row * w.output + bad;
        }
      }
      const int64_t tap = (d.tap * h.kernel + first - start) * kStep;
      const SpreadRows<T> rows = {
          to, w.input, count, static_cast<uint8_t>(tap), grad, offsets, room, (all_rows - row) * w.output};
      if (plan.stream) {
        spread_rows<kStep, Way::kStream>(rows, w, whole);
      } else if (plan.fetch) {
        spread_rows<kStep, Way::kFetch>(rows, w, whole);
      } else {
        spread_rows<kStep, Way::kStore>(rows, w, whole);
      }
    }
    if (count < last - first) {
      __builtin_memset(to + count * w.input, 0, static_cast<size_t>((last - first - count) * w.input) * sizeof(T));
    }
    if (plan.in_lines) {
      lines.end((last - first) * w.input * static_cast<int64_t>(sizeof(T)));
    }
    if (++group == groups) {
      group = 0;
      d.advance(shape.d);
      if (++z == shape.d.input) {
        z = 0;
        d = Owner(shape.d, 0);
        ++plane;
      }
    }
  }
  if (plan.in_lines) {
    lines.finish();
  } else if (plan.stream) {
    stream_fence();
  }
  return -1;
}

// Whether gradients of so many bytes are stored past the cache: from a size on that is larger than for outputs, as who
// computes them reads less.
inline bool is_worth_streaming(const BackwardParams& p, int64_t bytes) {
  return bytes / 3 >= p.stream_bytes / 2;
}
// Whether that can be done by vectors of kVector bytes, to which all rows are aligned.
template <int kVector = kVectorBytes>
inline bool streams_rows(const BackwardParams& p, int64_t row_bytes, int64_t bytes) {
  return is_worth_streaming(p, bytes) && row_bytes % kVector == 0 &&
      reinterpret_cast<uintptr_t>(p.grad_input) % kVectorBytes == 0;
}

// Where rows are not streamed: whether units, which write `unit_bytes`, do so as StreamedLines. Those cost more, so
// `is_worth` asks for more bytes.
inline void plan_lines(bool is_worth, int64_t unit_bytes, BackwardPlan& plan) {
  plan.in_lines = !plan.stream && is_worth && unit_bytes <= StreamedLines::kMostBytes;
  plan.lines_at = plan.scratch_bytes;
  plan.scratch_bytes += plan.in_lines ? StreamedLines::scratch_bytes(unit_bytes) : 0;
}

// Whether strips of grad_input, which are walked from row to row, are whole lines of the cache. To stream parts of lines
// below each other takes two to four times as long as to store them (measured on Zen 3).
inline bool writes_lines(const BackwardParams& p, int64_t strip_bytes, int64_t row_bytes) {
  constexpr int64_t kLine = 64;
  return strip_bytes % kLine == 0 && row_bytes % kLine == 0 && reinterpret_cast<uintptr_t>(p.grad_input) % kLine == 0;
}

// Fills `plan` where the family fits; returns its cost, in tenths of nanoseconds, or -1.
template <class T>
inline int64_t plan_disjoint(const BackwardParams& p, BackwardPlan& plan) {
  const Shape& shape = p.shape;
  const auto is_apart = [](const Axis& axis) { return axis.kernel <= axis.stride && axis.dilation == 1; };
  const Axis& w = shape.w;
  const bool has_step = w.kernel == w.stride && w.stride >= 2 && w.stride <= 4 && w.pad == 0 && w.dilation == 1;
  if (p.wide_offsets || !has_step || !is_apart(shape.d) || !is_apart(shape.h)) {
    return -1;
  }
  plan.family = "disjoint";
  plan.run = w.stride == 2 ? backward_disjoint<T, 2>
      : w.stride == 3      ? backward_disjoint<T, 3>
                           : backward_disjoint<T, 4>;
  plan.units = shape.batch * shape.channels * shape.d.input * row_groups(shape.h);
  plan.scratch_bytes = 2 * w.output;
  const int64_t row_bytes = w.input * static_cast<int64_t>(sizeof(T));
  const int64_t bytes = shape.batch * shape.channels * shape.d.input * shape.h.input * row_bytes;
  // Only what vectors write: a line that is streamed and stored to is written twice.
  const bool is_by_vectors = w.output % Moved<T, 16>::kLanes == 0 && w.output * w.stride == w.input;
  plan.stream = is_by_vectors && streams_rows<(kVectorBytes > 32 ? 32 : kVectorBytes)>(p, row_bytes, bytes);
  plan.fetch = is_worth_fetching(bytes / 2);
  const int64_t unit_rows = shape.h.stride < shape.h.input ? shape.h.stride : shape.h.input;
  plan_lines(is_worth_streaming(p, bytes / 3), unit_rows * row_bytes, plan);
  const int64_t lanes = Moved<T>::kLanes;
  const int64_t vectors = (w.output + lanes - 1) / lanes * w.stride;
  const int64_t by_element = w.output * 2 > lanes ? w.input % w.stride > 0 ? 7 : 0 : w.input;
  const bool in_blocks = all_whole(w) && all_whole(shape.h) && all_whole(shape.d);
  const int64_t cost =
      400 + plan.units * (90 + shape.h.kernel * (vectors * 7 + by_element * 13) + (in_blocks ? 0 : 250));
  return w.stride == 3 ? cost * 17 / 10 : cost; // a vector's parts have patterns of their own (measured with AVX-512)
}

} // namespace
