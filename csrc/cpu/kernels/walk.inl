// Backward, family "walk": windows of 2 or 3 columns and as many rows, or of one row, at stride 1 and without depth,
// straight from memory. A vector of adjacent columns of grad_input is walked from row to row: each row of windows is added
// to the rows of grad_input that it covers, which stay in registers until they are complete. So windows are added in
// their order, and the sums are those of a scatter, bit for bit.

namespace {

inline constexpr int64_t kWalkBytes = 16 * 1024; // of windows and elements per unit
inline constexpr int64_t kMostWalked = int64_t{1} << 16; // elements of a row: units have scratch for some rows

// One plane: first windows and element; rows are dense.
template <class T>
struct WalkedPlane {
  const T* grads;
  const uint8_t* offsets;
  T* to;
  Axis h, w;
  bool fetch; // it comes from beyond the nearest caches: see `fetch` in vectors.inl
  uint8_t first_tap; // 0, which the compiler does not know: it would rather make taps anew than keep them
};

// Ones where column `first` + lane is not in [0, columns), else zeros, of all bits of a lane.
template <class Taps>
inline Taps lanes_outside(int64_t first, int64_t columns) {
  Taps lanes;
  for (int i = 0; i < kLanesOf<Taps>; ++i) {
    lanes[i] = static_cast<uint8_t>(i);
  }
  const auto clamp = [](int64_t x) { return static_cast<uint8_t>(x < 0 ? 0 : x < 16 ? x : 16); };
  const Taps begin = splat<Taps>(clamp(-first));
  const Taps end = splat<Taps>(clamp(columns - first));
  return reinterpret_cast<Taps>((lanes < begin) | (lanes >= end));
}

template <class T, int kRows, int kColumns, bool kStream>
struct Walk {
  typedef Sums<T> S;
  typedef typename S::V V;
  typedef typename WideTaps<S>::V Taps;
  static constexpr int64_t kLanes = S::kLanes;

  // Rows [begin, end) of kLanes columns from `x` on. kEdge: some of them ask windows that do not exist, or do not exist
  // themselves; those are written where rows before `end` follow, which are written later.
  template <bool kEdge>
  static TORCH_MAXPOOL_INLINE void columns(const WalkedPlane<T>& plane, int64_t x, int64_t begin, int64_t end) {
    Taps outside[kColumns] = {};
    const int64_t first = x + plane.w.pad - (kColumns - 1); // column of the first window that is asked
    if constexpr (kEdge) {
      for (int i = 0; i < kColumns; ++i) {
        outside[i] = lanes_outside<Taps>(first + i, plane.w.output);
      }
    }
    const int64_t row = begin + plane.h.pad - (kRows - 1);
    const T* grads = plane.grads + row * plane.w.output + first;
    const uint8_t* offsets = plane.offsets + row * plane.w.output + first;
    T* to = plane.to + begin * plane.w.input + x;
    Taps taps[kRows * kColumns];
    for (int i = 0; i < kRows * kColumns; ++i) {
      taps[i] = WideTaps<S>::splat_of(static_cast<uint8_t>(plane.first_tap + i));
    }
    V sums[kRows] = {};
    for (int64_t y = begin - (kRows - 1); y < end; ++y) {
      if (y + plane.h.pad >= 0 && y + plane.h.pad < plane.h.output) {
        for (int i = 0; i < kColumns; ++i) {
          const V value = kRows > 1 ? held(S::load(grads + i)) : S::load(grads + i);
          const Taps offset = WideTaps<S>::load(offsets + i) | outside[i];
          for (int b = 0; b < kRows; ++b) {
            sums[b] = add_equal<S>(sums[b], value, offset, taps[b * kColumns + kColumns - 1 - i]);
          }
        }
      }
      if (y >= begin) {
        if (kStream || !kEdge || x + kLanes <= plane.w.input || (end - y) * plane.w.input >= kLanes) {
          if constexpr (kStream) {
            S::stream(to, sums[0]);
          } else {
            S::store(to, sums[0]);
          }
        } else {
          T row_end[kLanes];
          S::store(row_end, sums[0]);
          copy_bytes(to, row_end, (plane.w.input - x) * static_cast<int64_t>(sizeof(T)));
        }
        to += plane.w.input;
      }
      for (int b = 0; b + 1 < kRows; ++b) {
        sums[b] = sums[b + 1];
      }
      sums[kRows - 1] = V{};
      grads += plane.w.output;
      offsets += plane.w.output;
    }
  }

  // Rows [begin, end).
  static void rows(const WalkedPlane<T> plane, int64_t begin, int64_t end) {
    const int64_t width = plane.w.input;
    const int64_t last = width > kLanes ? width - kLanes : 0; // may overlap the vector before
    int64_t x = 0;
    while (x <= last) {
      const bool is_edge = x + plane.w.pad < kColumns - 1 || x + plane.w.pad + kLanes > plane.w.output;
      if (is_edge) {
        columns<true>(plane, x, begin, end);
      } else {
        columns<false>(plane, x, begin, end);
      }
      x = x < last && x + kLanes > last ? last : x + kLanes;
    }
  }
};

// Windows next to those of a unit that vectors read too.
template <class T>
inline constexpr int64_t kWalkReach = 2 * Sums<T>::kLanes;

// Reads the windows of units: checks their offsets, and copies those that vectors cannot read from where they are.
template <class T>
struct WalkedWindows {
  const BackwardParams& p;
  const bool touches, fetches;
  const RowCheck check;
  const int64_t room; // of the copies
  T* const grads;
  uint8_t* const offsets;

  static int64_t room_of(const BackwardPlan& plan, const Axis& h, const Axis& w) {
    return (plan.block_rows + h.kernel - 1) * w.output + 2 * kWalkReach<T>;
  }
  static int64_t check_bytes(const Axis& w) {
    return (2 * w.output + 63) / 64 * 64;
  }
  static int64_t scratch_bytes(const BackwardPlan& plan, const Shape& shape) {
    return check_bytes(shape.w) + room_of(plan, shape.h, shape.w) * static_cast<int64_t>(sizeof(T) + 1);
  }
  WalkedWindows(const BackwardParams& params, const BackwardPlan& plan, void* scratch)
      : p(params),
        touches(plan.touch),
        fetches(plan.fetch),
        check(params.shape, static_cast<uint8_t*>(scratch)),
        room(room_of(plan, params.shape.h, params.shape.w)),
        grads(reinterpret_cast<T*>(static_cast<char*>(scratch) + check_bytes(params.shape.w))),
        offsets(reinterpret_cast<uint8_t*>(grads + room)) {}

  // Those rows of plane q that exist. Returns -1 or the place of a bad offset.
  int64_t read(int64_t q, Span rows, WalkedPlane<T>& plane) const {
    const Axis& h = p.shape.h;
    const Axis& w = p.shape.w;
    rows = {rows.begin > 0 ? rows.begin : 0, rows.end < h.output ? rows.end : h.output};
    const int64_t plane_windows = h.output * w.output;
    plane = {
        static_cast<const T*>(p.grad_output) + q * plane_windows,
        static_cast<const uint8_t*>(p.offsets) + q * plane_windows,
        static_cast<T*>(p.grad_input) + q * h.input * w.input,
        h,
        w,
        fetches,
        static_cast<uint8_t>(p.shape.d.kernel - 1)};
    if (rows.begin >= rows.end) {
      return -1;
    }
    const int64_t first = rows.begin * w.output;
    const int64_t count = (rows.end - rows.begin) * w.output;
    if (touches) {
      touch(plane.grads + first, count);
    }
    const int64_t bad = check.rows({0, 0, 1}, plane.offsets + first, w.output, rows, {0, w.output});
    if (bad >= 0) {
      return q * plane_windows + bad;
    }
    const int64_t from = q * plane_windows + first;
    const int64_t all = p.shape.batch * p.shape.channels * p.shape.d.output * plane_windows;
    if (from < kWalkReach<T> || from + count + kWalkReach<T> > all) { // vectors would leave the tensors
      copy_bytes(grads + kWalkReach<T>, plane.grads + first, count * static_cast<int64_t>(sizeof(T)));
      copy_bytes(offsets + kWalkReach<T>, plane.offsets + first, count);
      plane.grads = grads + kWalkReach<T> - first;
      plane.offsets = offsets + kWalkReach<T> - first;
    }
    return -1;
  }
};

// Has the plane's rows, from `row` on, written to `lines`.
template <class T>
inline void write_to(StreamedLines& lines, WalkedPlane<T>& plane, int64_t row) {
  const int64_t at = row * plane.w.input;
  plane.to = lines.begin(plane.to + at) - at;
  plane.fetch = false; // of what comes behind it in memory
}

// Units: blocks of rows.
template <class T, int kRows, int kColumns, bool kStream>
int64_t backward_walk(const BackwardParams& p, const BackwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  const Axis& h = p.shape.h;
  WalkedWindows<T> windows(p, plan, scratch);
  StreamedLines lines(static_cast<char*>(scratch) + plan.lines_at);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit % plan.row_blocks * plan.block_rows;
    const int64_t last = first + plan.block_rows < h.input ? first + plan.block_rows : h.input;
    WalkedPlane<T> plane = {};
    const int64_t bad = windows.read(unit / plan.row_blocks, {first + h.pad - (kRows - 1), last + h.pad}, plane);
    if (bad >= 0) {
      return bad;
    }
    if (plan.in_lines) {
      write_to(lines, plane, first);
    }
    Walk<T, kRows, kColumns, kStream>::rows(plane, first, last);
    if (plan.in_lines) {
      lines.end((last - first) * plane.w.input * static_cast<int64_t>(sizeof(T)));
    }
  }
  if (plan.in_lines) {
    lines.finish();
  } else if (kStream) {
    stream_fence();
  }
  return -1;
}

// Blocks of some of `all` rows, of which each has `row_bytes`.
template <class T>
inline void plan_walked_rows(const Shape& shape, int64_t all, int64_t row_bytes, BackwardPlan& plan) {
  const int64_t rows = kWalkBytes / row_bytes;
  plan.row_blocks = all / (rows > 8 ? rows : 8) + 1;
  plan.block_rows = (all + plan.row_blocks - 1) / plan.row_blocks;
  plan.row_blocks = (all + plan.block_rows - 1) / plan.block_rows;
  plan.scratch_bytes = WalkedWindows<T>::scratch_bytes(plan, shape);
}

template <class T, bool kStream>
inline BackwardKernel find_walk(const Shape& shape) {
  const auto is_dense = [](const Axis& axis) { return axis.stride == 1 && (axis.dilation == 1 || axis.kernel == 1); };
  if (!is_dense(shape.h) || !is_dense(shape.w) || shape.d.kernel > 1 || shape.d.stride > 1) {
    return nullptr;
  }
  if (shape.h.kernel == 1 && shape.w.kernel == 2) {
    return backward_walk<T, 1, 2, kStream>;
  }
  if (shape.h.kernel == 1 && shape.w.kernel == 3) {
    return backward_walk<T, 1, 3, kStream>;
  }
  if (shape.h.kernel == 2 && shape.w.kernel == 2) {
    return backward_walk<T, 2, 2, kStream>;
  }
  if (shape.h.kernel == 3 && shape.w.kernel == 3) {
    return backward_walk<T, 3, 3, kStream>;
  }
  return nullptr;
}

// Fills `plan` where the family fits; returns its cost, in tenths of nanoseconds.
template <class T>
inline int64_t plan_walk(const BackwardParams& p, BackwardPlan& plan) {
  const Shape& shape = p.shape;
  const int64_t size = static_cast<int64_t>(sizeof(T));
  const int64_t planes = shape.batch * shape.channels * shape.d.output;
  const int64_t row_bytes = shape.w.input * size;
  const int64_t bytes = planes * shape.h.input * row_bytes;
  const bool stream =
      streams_rows(p, row_bytes, bytes) && (shape.h.input == 1 || writes_lines(p, Sums<T>::kBytes, row_bytes));
  const BackwardKernel found = stream ? find_walk<T, true>(shape) : find_walk<T, false>(shape);
  if (found == nullptr || p.wide_offsets || shape.w.input > kMostWalked) {
    return -1;
  }
  plan.family = "walk";
  plan.run = found;
  plan.stream = stream;
  plan.touch = shape.h.kernel > 1 && is_worth_touching(bytes, p.stream_bytes);
  plan_walked_rows<T>(shape, shape.h.input, 2 * row_bytes + shape.w.output, plan);
  plan.units = planes * plan.row_blocks;
  plan_lines(is_worth_streaming(p, bytes / 2), plan.block_rows * row_bytes, plan);
  constexpr int64_t kTapCost = kVectorBytes > 16 ? 6 : 8;
  constexpr int64_t kUnitCost = 480;
  const int64_t vectors = (shape.w.input + Sums<T>::kLanes - 1) / Sums<T>::kLanes;
  const int64_t steps = shape.h.input + (shape.h.kernel - 1) * plan.row_blocks;
  return planes * (kUnitCost + steps * vectors * (4 + kTapCost * shape.h.kernel * shape.w.kernel));
}

} // namespace
