// Forward, family "strips": windows of 2 or 3 (or 4, at stride 4) columns and as many rows, or of one row, without
// dilation, straight from the input. A strip is a vector of adjacent columns of the output, walked from row to row: each
// row of the input is pooled across its columns once and stays in registers while windows share it. Columns are compared
// before rows, which keeps the first winner in row-major order. Windows with depth: slices.inl.

namespace {

// The padding that a strip reaches: none, one column before the row or one after.
enum class Edge { kNone, kLeft, kRight };
template <Edge>
struct EdgeOf {};

// The order in which lanes hold the columns of a strip between load_taps and in_columns.
enum class Order { kColumns, kHalves, kTwiceHalves };
template <class L, int kKernel, int kStride, Edge kEdge>
constexpr Order order_of() {
  if (!kInHalves<typename L::V> || kEdge != Edge::kNone || kStride % 2 == 1) {
    return Order::kColumns;
  }
  if (kStride == 4) {
    return sizeof(typename L::Lane) > 4 ? Order::kColumns : Order::kTwiceHalves;
  }
  return kKernel == 2 || L::kIsPlain ? Order::kHalves : Order::kColumns;
}

template <Order kOrder, class V>
TORCH_MAXPOOL_INLINE V in_columns(V v) {
  if constexpr (kOrder == Order::kHalves) {
    return in_order(v);
  } else if constexpr (kOrder == Order::kTwiceHalves) {
    return in_order_after_two(v);
  } else {
    return v;
  }
}

// The taps of kLanes windows within one row of the input, in order_of(); `from` is tap 0 of the first. Reads exactly the
// elements of those windows, and notes those that no strip to the right does (is_last: all).
template <class L, int kKernel, int kStride, Edge kEdge>
TORCH_MAXPOOL_INLINE void load_taps(
    const typename L::Element* from,
    bool is_last,
    typename L::V (&taps)[kKernel],
    typename L::Mask& strange) {
  typedef typename L::V V;
  constexpr int kLanes = L::kLanes;
  constexpr bool kLeft = kEdge == Edge::kLeft;
  constexpr bool kRight = kEdge == Edge::kRight;
  [[maybe_unused]] constexpr Order kOrder = order_of<L, kKernel, kStride, kEdge>();
  const V lowest = splat<V>(L::lowest());
  if constexpr (kStride == 1) {
    constexpr int kFirst = kLeft ? 1 : 0;
    constexpr int kLast = kRight ? kKernel - 2 : kKernel - 1;
    for (int t = kFirst; t <= kLast; ++t) {
      taps[t] = L::load(from + t);
    }
    L::note_at(strange, from + kFirst, from + kLast);
    if constexpr (kLeft) {
      taps[0] = previous(lowest, taps[1]);
    }
    if constexpr (kRight) {
      taps[kKernel - 1] = next(taps[kKernel - 2], lowest);
    }
  } else if constexpr (kStride == 2 && kOrder == Order::kHalves) {
    const V a = L::load(from);
    const V b = L::load(from + kLanes);
    L::note_at(strange, from, from + kLanes);
    taps[0] = alternate_in_halves<0, 0>(a, b);
    taps[1] = alternate_in_halves<1, 1>(a, b);
    if constexpr (kKernel == 3) {
      const V end = L::load(from + kLanes + 1);
      if (is_last) {
        L::note(strange, end, end);
      }
      taps[2] = alternate_in_halves<0, 1>(L::load(from + 2), end);
    }
  } else if constexpr (kStride == 2) {
    // From the left edge on, taps are odd, even, odd.
    constexpr bool kOneLess = (kKernel == 2 && (kLeft || kRight)); // the last element is not the windows'
    const typename L::Element* const first = from + (kLeft ? 1 : 0);
    const V a = L::load(first);
    const typename L::Element* const second = first + (kOneLess ? kLanes - 1 : kLanes);
    const V read = L::load(second);
    const V b = kOneLess ? next(read, lowest) : read;
    L::note_at(strange, first, second);
    if constexpr (kLeft) {
      const V odds = odd(a, b);
      taps[0] = previous(lowest, odds);
      taps[1] = even(a, b);
      if constexpr (kKernel == 3) {
        taps[2] = odds;
      }
    } else {
      taps[0] = even(a, b);
      taps[1] = odd(a, b);
      if constexpr (kKernel == 3 && kRight) {
        taps[2] = next(taps[0], lowest);
      } else if constexpr (kKernel == 3) {
        const V last = splat<V>(L::lane(from[2 * kLanes]));
        if (is_last) {
          L::note(strange, last, last);
        }
        taps[2] = next(taps[0], last);
      }
    }
  } else if constexpr (kStride == 3) {
    const typename L::Element* const first = from + (kLeft ? 1 : 0);
    const typename L::Element* const third = from + 2 * kLanes - (kRight ? 1 : 0);
    const V a = L::load(first);
    const V c = L::load(third);
    L::note_at(strange, first, from + kLanes);
    L::note_at(strange, third);
    taps[0] = kLeft ? previous(lowest, a) : a;
    taps[1] = L::load(from + kLanes);
    taps[2] = kRight ? next(c, lowest) : c;
    split(taps);
  } else {
    const V a = L::load(from);
    const V b = L::load(from + kLanes);
    const V c = L::load(from + 2 * kLanes);
    const V d = L::load(from + 3 * kLanes);
    L::note_at(strange, from, from + kLanes);
    L::note_at(strange, from + 2 * kLanes, from + 3 * kLanes);
    if constexpr (kOrder == Order::kTwiceHalves) {
      const V evens[] = {alternate_in_halves<0, 0>(a, b), alternate_in_halves<0, 0>(c, d)};
      const V odds[] = {alternate_in_halves<1, 1>(a, b), alternate_in_halves<1, 1>(c, d)};
      taps[0] = alternate_in_halves<0, 0>(evens[0], evens[1]);
      taps[1] = alternate_in_halves<0, 0>(odds[0], odds[1]);
      taps[2] = alternate_in_halves<1, 1>(evens[0], evens[1]);
      taps[3] = alternate_in_halves<1, 1>(odds[0], odds[1]);
      return;
    }
    taps[0] = a;
    taps[1] = b;
    taps[2] = c;
    taps[3] = d;
    split(taps);
  }
}

// The champions of kLanes windows within one row of the input, in order_of().
template <class L, bool kIndexed, int kKernel, int kStride, Edge kEdge>
TORCH_MAXPOOL_INLINE Champions<L, kIndexed> across(
    const typename L::Element* from,
    bool is_last,
    typename L::Mask& strange) {
  typename L::V taps[kKernel];
  load_taps<L, kKernel, kStride, kEdge>(from, is_last, taps, strange);
  Champions<L, kIndexed> best = {taps[0], {}};
  for (int t = 1; t < kKernel; ++t) {
    best.meet(taps[t], splat_index<L>(t));
  }
  if constexpr (kIndexed && kEdge == Edge::kLeft) { // a window of lowest elements names its first within the row
    const typename L::IV first = previous(splat_index<L>(1), splat_index<L>(0));
    best.index = best.index > first ? best.index : first;
  }
  return best;
}

// Where the strips of a row of the output lie: columns 0, kLanes, ... and, overlapping the one before, `last`.
struct StripColumns {
  int64_t last;
  bool has_left, has_right; // the first or the last strip has that edge
};

// Results may be streamed in halves of AVX-512's vectors, which rows are more often made of.
typedef Vector<uint8_t, (kVectorBytes > 32 ? kVectorBytes / 2 : kVectorBytes)> HalfVector;

// How strips lie in a plane. By value everywhere: what functions share through memory does not stay in registers.
template <class T>
struct StripPlane {
  const T* input; // tap 0 of column 0 of row 0, which may lie in the padding before the row
  int64_t input_pitch;
  int64_t slice_pitch;
  int64_t first_slice, last_slice; // one, unless windows share no rows
  T* output;
  uint8_t* offsets;
  int64_t output_pitch;
  StripColumns columns;
  bool stream;
  bool in_halves; // rows of the output are aligned to half a vector only
  const T* first_column; // of row 0 of the input
  int64_t touched_columns; // all or none
  bool fetch;
};

// kRows: rows of a window, kKernel or 1.
template <class L, bool kIndexed, int kKernel, int kStride, int kRows>
struct Strips {
  typedef typename L::Element T;
  typedef typename L::Mask Mask;
  typedef Champions<L, kIndexed> Best;
  typedef StripPlane<T> Plane;
  static constexpr int kLanes = L::kLanes;
  static constexpr int kShared = kRows > kStride ? kRows - kStride : 0; // rows that a window shares with the next

  static constexpr int kStripBytesRead = kStride * static_cast<int>(sizeof(typename L::V)); // of one row
  static constexpr bool kIsWide = sizeof(typename L::V) == kVectorBytes; // the rows of large tensors are long

  // Champions of strips, from order_of().
  template <Edge kEdge>
  static TORCH_MAXPOOL_INLINE Best in_columns_of(const Best& best) {
    constexpr Order kOrder = order_of<L, kKernel, kStride, kEdge>();
    return {in_columns<kOrder>(best.value), kIndexed ? in_columns<kOrder>(best.index) : typename L::IV{}};
  }

  static TORCH_MAXPOOL_INLINE void store(const Plane& plane, int64_t row, int64_t column, const Best& best) {
    const int64_t to = row * plane.output_pitch + column;
    store_values(plane, plane.output + to, best.value, column);
    if constexpr (kIndexed) {
      store_offsets<L>(plane.offsets + to, best.index);
    }
  }

  static TORCH_MAXPOOL_INLINE void store_values(const Plane& plane, T* to, typename L::V v, int64_t column) {
    if (!plane.stream) {
      L::store(to, v);
      return;
    }
    if constexpr (sizeof(HalfVector) < sizeof v) {
      if (plane.in_halves) {
        stream_halves(to, v, column % kLanes != 0);
        return;
      }
    }
    L::stream(to, v);
  }

  // Of a vector that overlaps the one before, the second half: lines streamed twice are written twice.
  static TORCH_MAXPOOL_INLINE void stream_halves(T* to, typename L::V v, bool overlaps) {
    typedef Vector<uint64_t, sizeof(v) / 16> Half;
    T elements[kLanes];
    L::store(elements, v);
    if (!overlaps) {
      stream_vector(to, load_vector<Half>(elements));
    }
    stream_vector(to + kLanes / 2, load_vector<Half>(elements + kLanes / 2));
  }

  static TORCH_MAXPOOL_INLINE void meet_row(Best& best, Best later, int64_t row) {
    if constexpr (kIndexed) {
      later.index += splat_index<L>(row * kKernel);
    }
    best.meet(later);
  }

  static TORCH_MAXPOOL_INLINE void join(Mask& noted, Mask more) {
    L::join(noted, more);
  }

  // Columns of a row that is worth touching with its neighbours only: shorter rows are read in order anyway.
  static constexpr int64_t kTouchedAlone = 512 / sizeof(T);

  // Rows [start, start + count) of the input.
  static TORCH_MAXPOOL_INLINE void touch_rows(const Plane& plane, int64_t start, int64_t count) {
    if (plane.touched_columns == 0) {
      return;
    }
    const bool is_dense = plane.input_pitch == plane.touched_columns; // then rows are touched as one
    const int64_t rows = is_dense ? 1 : count;
    const int64_t columns = is_dense ? count * plane.touched_columns : plane.touched_columns;
    for (int64_t slice = plane.first_slice; slice < plane.last_slice; ++slice) {
      for (int64_t row = start; row < start + rows; ++row) {
        touch(plane.first_column + slice * plane.slice_pitch + row * plane.input_pitch, columns);
      }
    }
  }

  // One strip of one row of the output, from rows [first, last) of the windows; `from` is tap 0 of the first window.
  template <Edge kEdge, bool kDeep>
  static TORCH_MAXPOOL_INLINE Best
  window(const Plane& plane, const T* from, int64_t first, int64_t last, bool is_last, Mask& noted) {
    const int64_t first_slice = kDeep ? plane.first_slice : 0;
    const int64_t last_slice = kDeep ? plane.last_slice : 1;
    Best best = {};
    for (int64_t slice = first_slice; slice < last_slice; ++slice) {
      for (int64_t t = first; t < last; ++t) {
        const T* const row = from + slice * plane.slice_pitch + t * plane.input_pitch;
        Best later = across<L, kIndexed, kKernel, kStride, kEdge>(row, is_last, noted);
        if (slice == first_slice && t == first) {
          if constexpr (kIndexed) {
            later.index += splat_index<L>((slice * kRows + t) * kKernel);
          }
          best = later;
        } else {
          meet_row(best, later, slice * kRows + t);
        }
      }
    }
    return best;
  }

  // One strip of rows [begin, end), whose windows lie within the plane's rows; `from` is tap 0 of the first. kFetch: with
  // the same strip of the rows below, which are the next block's or the next plane's.
  template <Edge kEdge, bool kFetch>
  static Mask walk(Plane plane, const T* from, int64_t column, int64_t begin, int64_t end) {
    const bool is_last = column == plane.columns.last;
    [[maybe_unused]] const int64_t ahead = (end - begin) * kStride * plane.input_pitch;
    [[maybe_unused]] const int64_t ahead_to = (end - begin) * plane.output_pitch;
    Mask noted = {};
    const auto row = [&](int64_t t) {
      if constexpr (kFetch) {
        fetch(from + t * plane.input_pitch + ahead);
      }
      return across<L, kIndexed, kKernel, kStride, kEdge>(from + t * plane.input_pitch, is_last, noted);
    };
    Best a = row(0);
    Best b = {};
    if constexpr (kShared == 2) {
      b = row(1);
    }
    for (int64_t r = begin; r < end; ++r, from += kStride * plane.input_pitch) {
      if constexpr (kShared != 2) {
        b = row(1);
      }
      Best best = a;
      meet_row(best, b, 1);
      if constexpr (kRows == 3) {
        const Best c = row(2);
        meet_row(best, c, 2);
        a = kShared == 2 ? b : c;
        b = c;
      } else {
        a = b;
      }
      if constexpr (kFetch && kStride == 1) { // as much is written as is read
        fetch<1, true>(plane.output + r * plane.output_pitch + column + ahead_to);
      }
      store(plane, r, column, in_columns_of<kEdge>(best));
    }
    return noted;
  }

  // One row of the output, from rows [first, last) of its windows, the first of which is row `start` of the input. kFetch:
  // with as much of the input as the row reads, further on.
  template <bool kDeep, bool kFetch>
  static TORCH_MAXPOOL_INLINE void one_row(
      const Plane& plane,
      int64_t r,
      int64_t start,
      int64_t first,
      int64_t last,
      Mask& noted) {
    const T* const from = plane.input + start * plane.input_pitch;
    // not covered: a gap in gcov's counts
    for_strips(plane.columns, [&]<Edge kEdge>(int64_t column, EdgeOf<kEdge>) __attribute__((always_inline)) {
      const bool is_last = column == plane.columns.last;
      if constexpr (kFetch) {
        const T* const read = plane.first_column + start * plane.input_pitch + column * kStride * kRows;
        fetch<kRows * kStripBytesRead>(read + kFetchedAhead / sizeof(T));
      }
      const Best best = window<kEdge, kDeep>(plane, from + column * kStride, first, last, is_last, noted);
      store(plane, r, column, in_columns_of<kEdge>(best));
    });
  }

  // Rows [begin, end), whose windows lie within the plane's rows, one after the other; `stride`: of the windows' rows.
  template <bool kDeep, bool kFetch>
  static Mask whole_rows(Plane plane, int64_t start, int64_t stride, int64_t begin, int64_t end) {
    Mask noted = {};
    for (int64_t r = begin; r < end; ++r, start += stride) {
      touch_rows(plane, start, plane.touched_columns >= kTouchedAlone ? kRows : 0);
      one_row<kDeep, kFetch>(plane, r, start, 0, kRows, noted);
    }
    return noted;
  }

  // A row whose windows reach padding.
  static Mask edge_row(Plane plane, int64_t r, const Taps& taps) {
    Mask noted = {};
    one_row<true, false>(plane, r, taps.start, taps.first, taps.last, noted);
    return noted;
  }

  // Calls `put(column, EdgeOf<edge>())` for each strip.
  template <class Put>
  static TORCH_MAXPOOL_INLINE void for_strips(const StripColumns& columns, const Put& put) {
    int64_t column = 0;
    if constexpr (kStride <= 3) {
      if (columns.has_left) {
        put(column, EdgeOf<Edge::kLeft>());
        if (columns.last == 0) {
          return;
        }
        column = kLanes;
      }
    }
    for (; column < columns.last; column += kLanes) {
      put(column, EdgeOf<Edge::kNone>());
    }
    if constexpr (kStride <= 3) {
      if (columns.has_right) {
        put(columns.last, EdgeOf<Edge::kRight>());
        return;
      }
    }
    put(columns.last, EdgeOf<Edge::kNone>());
  }

  // Rows [begin, end) of the output.
  static Mask rows(const Shape& shape, const Plane& plane, void* ring, int64_t begin, int64_t end) {
    const Interior whole = interior_of(shape.h);
    const int64_t first = begin > whole.begin ? begin : whole.begin;
    const int64_t stop = end < whole.end ? end : whole.end;
    Mask noted = {};
    const auto edge_rows = [&](int64_t from, int64_t to) {
      for (int64_t r = from; r < to; ++r) {
        join(noted, edge_row(plane, r, taps_of(shape.h, r)));
      }
    };
    if (first >= stop) {
      edge_rows(begin, end);
      return noted;
    }
    edge_rows(begin, first);
    const int64_t start = taps_of(shape.h, first).start;
    if constexpr (kShared > 0) {
      const T* const from = plane.input + start * plane.input_pitch;
      if constexpr (kIsWide) {
        if (ring) {
          join(noted, roll(plane, from, ring, first, stop));
          edge_rows(stop, end);
          return noted;
        }
      }
      touch_rows(plane, start, (stop - first - 1) * kStride + kRows);
      Plane walked = plane;
      walked.stream = false; // as planned, which the compiler does not know
      for_strips(walked.columns, [&]<Edge kEdge>(int64_t column, EdgeOf<kEdge>) {
        constexpr bool kFetch = kIsWide && kEdge == Edge::kNone;
        const T* const strip = from + column * kStride;
        join(
            noted,
            kFetch && walked.fetch ? walk<kEdge, kFetch>(walked, strip, column, first, stop)
                                   : walk<kEdge, false>(walked, strip, column, first, stop));
      });
    } else if (plane.last_slice - plane.first_slice > 1 || plane.first_slice > 0) {
      join(noted, whole_rows<true, false>(plane, start, shape.h.stride, first, stop));
    } else if (plane.fetch) {
      join(noted, whole_rows<false, kIsWide>(plane, start, shape.h.stride, first, stop));
    } else {
      join(noted, whole_rows<false, false>(plane, start, shape.h.stride, first, stop));
    }
    edge_rows(stop, end);
    return noted;
  }

  // What one row of the input has across its columns.
  struct Kept {
    typename L::Lane* value;
    typename L::Index* index; // tap within the row
  };
  static constexpr int kKeptRows = kRows > 2 ? 4 : 2; // a power of two

  static TORCH_MAXPOOL_INLINE Kept kept(const Plane& plane, void* ring, int64_t line) {
    const int64_t places = (plane.columns.last + 2 * kLanes - 1) / kLanes * kLanes;
    typename L::Lane* const values = static_cast<typename L::Lane*>(ring) + (line & (kKeptRows - 1)) * places;
    return {
        values,
        reinterpret_cast<typename L::Index*>(static_cast<typename L::Lane*>(ring) + kKeptRows * places) +
            (line & (kKeptRows - 1)) * places};
  }

  static Mask keep(Plane plane, const T* from, Kept to) {
    Mask noted = {};
    for_strips(plane.columns, [&]<Edge kEdge>(int64_t column, EdgeOf<kEdge>) __attribute__((always_inline)) {
      const bool is_last = column == plane.columns.last;
      fetch<kStripBytesRead>(from + column * kStride + kFetchedAhead / sizeof(T));
      const Best best =
          in_columns_of<kEdge>(across<L, kIndexed, kKernel, kStride, kEdge>(from + column * kStride, is_last, noted));
      store_vector(to.value + column, best.value);
      if constexpr (kIndexed) {
        store_vector(to.index + column, best.index);
      }
    });
    return noted;
  }

  static TORCH_MAXPOOL_INLINE Best load(const Kept& from, int64_t column) {
    Best best = {load_vector<typename L::V>(from.value + column), {}};
    if constexpr (kIndexed) {
      best.index = load_vector<typename L::IV>(from.index + column);
    }
    return best;
  }

  static void meet_kept(Plane plane, int64_t r, Kept a, Kept b, Kept c) {
    for (int64_t column = 0;;) {
      Best best = load(a, column);
      meet_row(best, load(b, column), 1);
      if constexpr (kRows == 3) {
        meet_row(best, load(c, column), 2);
      }
      store(plane, r, column, best);
      if (column == plane.columns.last) {
        return;
      }
      column = column + kLanes < plane.columns.last ? column + kLanes : plane.columns.last;
    }
  }

  // As `walk`, for all strips row by row: in the order of memory, which large planes need.
  static Mask roll(const Plane& plane, const T* from, void* ring, int64_t begin, int64_t end) {
    Mask noted = {};
    int64_t line = 0; // of the input, counted from the first window's
    for (int64_t r = begin; r < end; ++r) {
      const int64_t first = (r - begin) * kStride;
      for (; line < first + kRows; ++line) {
        join(noted, keep(plane, from + line * plane.input_pitch, kept(plane, ring, line)));
      }
      meet_kept(plane, r, kept(plane, ring, first), kept(plane, ring, first + 1), kept(plane, ring, first + 2));
    }
    return noted;
  }
};

template <int kLanes>
inline StripColumns strip_columns(const Axis& w) {
  const int64_t end = (w.output - 1) * w.stride - w.pad + w.kernel; // of the last window
  return {w.output - kLanes, w.pad > 0, end > w.input};
}

// Whether strips can pool rows like these.
template <int kLanes>
inline bool strips_fit(const Axis& w) {
  const StripColumns columns = strip_columns<kLanes>(w);
  const int64_t end = (w.output - 1) * w.stride - w.pad + w.kernel;
  const bool has_edges = columns.has_left || columns.has_right;
  const bool has_both = columns.has_left && columns.has_right;
  return columns.last >= (has_both ? 1 : 0) && w.pad <= 1 && end <= w.input + 1 && !(w.stride > 3 && has_edges);
}

// Whether all rows of the output are aligned to V.
template <class V>
inline bool is_aligned_plane(const PlaneView& view, int64_t element_bytes) {
  return is_aligned<V>(view.output) && view.output_pitch * element_bytes % static_cast<int64_t>(sizeof(V)) == 0;
}

// Rows [begin, end) of the output of one plane; false where they depend on strange lanes.
template <class L, bool kIndexed, int kKernel, int kStride, int kRows>
bool pool_plane(const ForwardParams& p, const PlaneView& view, bool stream, int64_t begin, int64_t end) {
  typedef typename L::Element T;
  const StripPlane<T> plane = {
      static_cast<const T*>(view.input) - p.shape.w.pad,
      view.input_pitch,
      view.slice_pitch,
      view.first_slice,
      view.last_slice,
      static_cast<T*>(view.output),
      view.offsets,
      view.output_pitch,
      strip_columns<L::kLanes>(p.shape.w),
      stream,
      !is_aligned_plane<typename L::V>(view, sizeof(T)),
      static_cast<const T*>(view.input),
      view.touch ? p.shape.w.input : 0,
      view.fetch};
  const auto noted = Strips<L, kIndexed, kKernel, kStride, kRows>::rows(p.shape, plane, view.ring, begin, end);
  return !L::is_strange(noted, p);
}

template <class T>
inline PlaneView plane_view(const ForwardParams& p, const Row& row) {
  const Taps slices = taps_of(p.shape.d, row.d);
  const Strides& in = p.input_strides;
  const Strides& out = p.output_strides;
  const int64_t to = row.n * out.n + row.c * out.c + row.d * out.d;
  return {
      static_cast<const T*>(p.input) + row.n * in.n + row.c * in.c + slices.start * in.d,
      in.h,
      p.shape.d.kernel > 1 ? in.d * p.shape.d.dilation : 0,
      slices.first,
      slices.last,
      static_cast<T*>(p.output) + to,
      p.offsets ? static_cast<uint8_t*>(p.offsets) + to : nullptr,
      out.h,
      nullptr,
      false,
      false};
}

// Rows [begin, end) of a plane, whatever lanes they hold.
template <class T>
inline void pool_rows(
    const ForwardParams& p,
    const ForwardPlan& plan,
    const Row& row,
    const PlaneView& view,
    int64_t begin,
    int64_t end) {
  if (plan.pool(p, view, plan.stream && is_aligned_plane<HalfVector>(view, sizeof(T)), begin, end)) {
    return;
  }
  if (plan.pool_exact && plan.pool_exact(p, view, false, begin, end)) {
    return;
  }
  for (int64_t h = begin; h < end; ++h) {
    forward_row<T>(p, {row.n, row.c, row.d, h}, 0, p.shape.w.output);
  }
}

// Units: blocks of rows of the output.
template <class T>
void forward_strips(const ForwardParams& p, const ForwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  Shape blocks = p.shape;
  blocks.h.output = plan.row_blocks;
  Row row = row_of(blocks, begin);
  StreamedLines lines(static_cast<char*>(scratch) + plan.ring_bytes);
  ForwardParams pooled = p;
  for (int64_t unit = begin; unit < end; ++unit, advance(blocks, row)) {
    const int64_t first = row.h * plan.block_rows;
    const int64_t last = first + plan.block_rows < p.shape.h.output ? first + plan.block_rows : p.shape.h.output;
    PlaneView view = plane_view<T>(p, row);
    if (plan.in_lines) {
      T* const to = static_cast<T*>(view.output) + first * view.output_pitch;
      const int64_t shift = reinterpret_cast<char*>(lines.begin(to)) - reinterpret_cast<char*>(to);
      pooled.output = static_cast<char*>(p.output) + shift;
      view.output = static_cast<char*>(view.output) + shift;
    }
    view.ring = plan.ring_bytes > 0 ? scratch : nullptr;
    view.touch = plan.touch;
    view.fetch = plan.fetch;
    pool_rows<T>(pooled, plan, row, view, first, last);
    if (plan.in_lines) {
      lines.end((last - first) * view.output_pitch * static_cast<int64_t>(sizeof(T)));
    }
  }
  if (plan.in_lines) {
    lines.finish();
  }
  stream_fence();
}

} // namespace
