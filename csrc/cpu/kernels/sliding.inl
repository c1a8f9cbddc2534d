// Forward, family "sliding": windows of any size that move by one element in both directions.
//
// A block of the input is copied with its padding as one long line, row after row, and pooled across its columns by the
// passes of tile.inl. Along the height, rows fall into groups as long as the windows (van Herk, 1992; Gil and Werman,
// 1993): a window is the end of one group and the beginning of the next, so it is one comparison of what its end and its
// beginning have gathered, however large it is. Rows of padding do not take part.

namespace {

inline constexpr int64_t kSlidingBytes = 512 * 1024; // wanted size of the rows kept
inline constexpr int64_t kAcrossBytes = 8 * 1024; // of rows that are pooled across at a time
inline constexpr int kMostAbreast = 8; // vectors of columns that are pooled down side by side

// A block of the output and what it reads. Rows are those of the input unless said otherwise.
struct SlidingBlock {
  int64_t n, c, d;
  int64_t row, rows; // of the output
  int64_t column, columns; // of the output
};

// Sizes and places in scratch; a group is shape.h.kernel rows.
template <class L, bool kIndexed>
struct SlidingScratch {
  int64_t reach; // places beyond the last column that windows read
  int64_t pitch; // places of a row
  bool keeps_all; // rows pooled across that are kept: all of a block, or two groups
  int64_t chunk; // windows of one row: rows that are pooled at a time
  int64_t half; // places of all rows, of a group or of a chunk, and room for what vectors touch beyond
  int64_t copy_bytes, value_bytes, index_bytes, ends_bytes, end_index_bytes;

  SlidingScratch(const Shape& shape, const ForwardPlan& plan) {
    reach = (shape.w.kernel - 1) * shape.w.dilation;
    pitch = plan.block_columns + (plan.column_blocks > 1 ? L::kLanes : 0) + reach;
    constexpr int64_t kAligned = kVectorBytes / sizeof(typename L::Lane); // exact lanes: the same, in the same scratch
    if (pitch > 16 * kAligned) { // then what aligned rows cost is little
      pitch = rounded_up(pitch, kAligned) * kAligned;
    }
    const int64_t all = plan.block_rows + shape.h.kernel - 1;
    const int64_t most = all < shape.h.input ? all : shape.h.input;
    keeps_all = most <= 2 * shape.h.kernel || most * pitch * lane_bytes() <= kSlidingBytes / 4;
    const int64_t some = rows_across(pitch);
    chunk = keeps_all || some > most ? most : some;
    const int64_t rows = shape.h.kernel > 1 ? shape.h.kernel : chunk;
    half = (keeps_all ? most : rows) * pitch + reach + 3 * kUnroll * L::kLanes;
    const int64_t places = keeps_all ? half : 2 * half;
    copy_bytes = aligned(half * lane_bytes());
    value_bytes = aligned(places * lane_bytes());
    index_bytes = kIndexed ? aligned(places * index_lane_bytes()) : 0;
    ends_bytes = aligned(shape.h.kernel * kMostAbreast * L::kLanes * lane_bytes());
    end_index_bytes = kIndexed ? aligned(shape.h.kernel * kMostAbreast * L::kLanes * index_lane_bytes()) : 0;
  }
  // How many rows to pool across at a time: so few that they stay in the nearest cache from pass to pass.
  static int64_t rows_across(int64_t pitch) {
    return kAcrossBytes / (pitch * (lane_bytes() + (kIndexed ? index_lane_bytes() : 0))) + 1;
  }
  static int64_t lane_bytes() {
    return sizeof(typename L::Lane);
  }
  static int64_t index_lane_bytes() {
    return sizeof(typename L::Index);
  }
  int64_t total() const {
    return copy_bytes + value_bytes + index_bytes + ends_bytes + end_index_bytes;
  }
};

template <class L, bool kIndexed, class Offset>
class Sliding {
 public:
  typedef typename L::Element T;
  static constexpr int kLanes = L::kLanes;
  typedef Champions<L, kIndexed> Best;
  typedef typename L::Mask Mask;

  Sliding(const ForwardParams& p, const ForwardPlan& plan, char* scratch)
      : p_(p),
        shape_(p.shape),
        size_(p.shape, plan),
        stream_(plan.stream),
        fetch_(plan.fetch),
        copy_(reinterpret_cast<typename L::Lane*>(scratch)),
        kept_(line_at(scratch + size_.copy_bytes, size_.value_bytes)),
        ends_(line_at(scratch + size_.copy_bytes + size_.value_bytes + size_.index_bytes, size_.ends_bytes)) {}

  // False where the block holds strange lanes.
  bool pool(const SlidingBlock& block) {
    const Strides& in = p_.input_strides;
    const Strides& out = p_.output_strides;
    const int64_t slice = taps_of(shape_.d, block.d).start;
    input_ = static_cast<const T*>(p_.input) + block.n * in.n + block.c * in.c + slice * in.d;
    const int64_t to = block.n * out.n + block.c * out.c + block.d * out.d + block.row * out.h + block.column;
    output_ = Results{static_cast<T*>(p_.output), static_cast<Offset*>(p_.offsets)}.from(to);
    strange_ = Mask{};
    const int64_t group = shape_.h.kernel;
    const int64_t start = block.row - shape_.h.pad; // first row of the first window
    const int64_t stop = clamp(start + block.rows + group - 1); // one past the last window's last row
    const int64_t pitch = size_.pitch;
    if constexpr (sizeof(Offset) == 1) {
      if (group == 5 && shape_.w.kernel == 5 && shape_.w.dilation == 1 && size_.keeps_all) {
        copy(block, clamp(start), stop);
        for_strips(block, 0, [&](int64_t column) { walk_five(block, clamp(start), column); });
        return !L::is_strange(strange_, p_);
      }
    }
    if (group == 1) {
      pool_rows_alone(block);
      return !L::is_strange(strange_, p_);
    }
    if (size_.keeps_all) {
      across(block, clamp(start), stop, 0);
    } else {
      across(block, clamp(start), clamp(start + group), 0);
    }
    for (int64_t at = 0; at < block.rows; at += group) {
      const int64_t begin = start + at;
      // Where row `begin` would lie, for the rows of this group and for those of the next.
      int64_t here = (begin - clamp(start)) * pitch;
      int64_t next = here;
      if (!size_.keeps_all) {
        const int64_t half = at / group % 2 * size_.half;
        const int64_t last = clamp(begin + 2 * group);
        across(block, clamp(begin + group), last < stop ? last : stop, size_.half - half);
        here = half + (begin - clamp(begin)) * pitch;
        next = size_.half - half + (begin - clamp(begin + group)) * pitch;
      }
      const Line<L> ending = {kept_.value + here, kept_.index + here};
      const Line<L> beginning = {kept_.value + next, kept_.index + next};
      int64_t column = 0;
      for (; column + kWide * kLanes <= block.columns; column += kWide * kLanes) {
        down<kWide>(block, at, column, ending, beginning);
      }
      for (; kSide < kWide && column + kSide * kLanes <= block.columns; column += kSide * kLanes) {
        down<kSide>(block, at, column, ending, beginning);
      }
      for_strips(block, column, [&](int64_t one) { down<1>(block, at, one, ending, beginning); });
    }
    return !L::is_strange(strange_, p_);
  }

  // Another has used the scratch.
  void forget() {
    is_copy_whole_ = false;
  }

 private:
  struct Results {
    T* values;
    Offset* offsets; // meaningless unless indexed

    TORCH_MAXPOOL_INLINE Results from(int64_t i) const {
      return {values + i, kIndexed ? offsets + i : nullptr};
    }
  };

  static Line<L> line_at(char* at, int64_t value_bytes) {
    return {reinterpret_cast<typename L::Lane*>(at), reinterpret_cast<typename L::Index*>(at + value_bytes)};
  }
  int64_t clamp(int64_t y) const {
    return y < 0 ? 0 : y < shape_.h.input ? y : shape_.h.input;
  }

  // Calls `pool(column)` for vectors of columns from `column` on; the last may overlap the one before.
  template <class Pool>
  TORCH_MAXPOOL_INLINE void for_strips(const SlidingBlock& block, int64_t column, const Pool& pool) {
    const int64_t last = block.columns - kLanes;
    for (; column < last; column += kLanes) {
      pool(column);
    }
    if (column < block.columns) {
      pool(last);
    }
  }

  // Rows [begin, end) with their padding, to `copy_`.
  void copy(const SlidingBlock& block, int64_t begin, int64_t end) {
    const int64_t pitch = size_.pitch;
    const int64_t first = block.column - shape_.w.pad; // place 0 of a row
    const int64_t left = first < 0 ? -first : 0;
    const int64_t last = shape_.w.input - first < pitch ? shape_.w.input - first : pitch;
    const bool is_whole = size_.keeps_all && begin == 0 && end == shape_.h.input && block.columns == shape_.w.output;
    const bool has_padding = is_whole && is_copy_whole_; // from the plane before
    is_copy_whole_ = is_whole;
    copy_rows(copy_ + left, input_ + begin * p_.input_strides.h + first + left, end - begin, last - left);
    if (has_padding) {
      return;
    }
    for (int64_t y = begin; y < end; ++y) {
      typename L::Lane* const row = copy_ + (y - begin) * pitch;
      fill_lowest_exactly(row, left);
      fill_lowest_exactly(row + last, pitch - last);
    }
    fill_lowest<L>(copy_ + (end - begin) * pitch, size_.reach);
  }

  // Rows [begin, end) pooled across, to place `to` of the kept ones and on; long rows by few.
  void across(const SlidingBlock& block, int64_t begin, int64_t end, int64_t to) {
    const int64_t step = size_.keeps_all ? shape_.h.input : size_.rows_across(size_.pitch);
    for (; begin < end; begin += step, to += step * size_.pitch) {
      const int64_t rows = end - begin < step ? end - begin : step;
      copy(block, begin, begin + rows);
      const Line<L> line = {kept_.value + to, kept_.index + to};
      slide_across<L, kIndexed>(copy_, line, rows * size_.pitch, shape_.w.kernel, shape_.w.dilation);
      if constexpr (kIndexed) {
        name_first_columns(block, line, rows);
      }
    }
  }

  // Windows of one row: none meets another row.
  void pool_rows_alone(const SlidingBlock& block) {
    for (int64_t first = 0; first < block.rows; first += size_.chunk) {
      const int64_t rows = block.rows - first < size_.chunk ? block.rows - first : size_.chunk;
      across(block, block.row + first, block.row + first + rows, 0);
      for (int64_t r = 0; r < rows; ++r) {
        for_strips(block, 0, [&](int64_t column) __attribute__((always_inline)) {
          const Results to = output_.from((first + r) * p_.output_strides.h + column);
          store<true>(to, taken(kept_, r * size_.pitch + column), 0);
        });
      }
    }
  }

  // Windows of nothing but the lowest value name their first element within the row.
  void name_first_columns(const SlidingBlock& block, const Line<L>& line, int64_t rows) const {
    for (int64_t column = 0; column < block.columns; column += kLanes) {
      if (taps_of(shape_.w, block.column + column).first == 0) {
        return;
      }
      typename L::IV first = {};
      for (int i = 0; i < kLanes && column + i < block.columns; ++i) {
        first[i] = static_cast<typename L::Index>(taps_of(shape_.w, block.column + column + i).first);
      }
      for (int64_t r = 0; r < rows; ++r) {
        typename L::Index* const at = line.index + r * size_.pitch + column;
        const typename L::IV index = load_vector<typename L::IV>(at);
        store_vector(at, index > first ? index : first);
      }
    }
  }

  static void fill_lowest_exactly(typename L::Lane* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      to[i] = L::lowest();
    }
  }

  // `rows` rows of `count` elements as lanes, nothing beyond.
  void copy_rows(typename L::Lane* to, const T* from, int64_t rows, int64_t count) {
    const int64_t pitch = size_.pitch;
    const int64_t input_pitch = p_.input_strides.h;
    const bool fetches = fetch_;
    const int64_t ahead = rows * input_pitch; // the rows to be copied next
    Mask noted = {};
    for (int64_t r = 0; r < rows; ++r, to += pitch, from += input_pitch) {
      if (count < kLanes) {
        for (int64_t i = 0; i < count; ++i) {
          to[i] = L::lane(from[i]);
          L::note(noted, splat<typename L::V>(to[i]));
        }
        continue;
      }
      const typename L::V last = L::load(from + count - kLanes); // may overlap the vector before
      int64_t i = 0;
      for (; i + kLanes < count; i += kLanes) {
        if (fetches) {
          fetch(from + ahead + i);
        }
        const typename L::V v = L::load(from + i);
        if constexpr (L::kIsPlain) {
          L::note(noted, v, last); // by one comparison
        } else {
          L::note_at(noted, from + i);
        }
        store_vector(to + i, v);
      }
      L::note_at(noted, from + count - kLanes);
      store_vector(to + count - kLanes, last);
    }
    L::join(strange_, noted);
  }

  // kLanes columns of windows of 5 x 5, with what rows share in registers; `first`: row of the input at copy_. Tap numbers
  // are counted from row 0 of the input until they are stored.
  void walk_five(const SlidingBlock& block, int64_t first, int64_t column) {
    const int64_t start = block.row - shape_.h.pad;
    typename L::IV first_taps = {};
    for (int i = 0; kIndexed && i < kLanes; ++i) {
      first_taps[i] = static_cast<typename L::Index>(taps_of(shape_.w, block.column + column + i).first);
    }
    const typename L::Lane* const lanes = copy_ + column;
    const int64_t pitch = size_.pitch;
    const int64_t input_rows = shape_.h.input;
    const auto row = [&](int64_t y) __attribute__((always_inline)) {
      const typename L::Lane* const from = lanes + (y - first) * pitch;
      Best best = {load_vector<typename L::V>(from), {}};
      for (int t = 1; t < 5; ++t) {
        best.meet(load_vector<typename L::V>(from + t), splat_index<L>(t));
      }
      if constexpr (kIndexed) {
        best.index = (best.index > first_taps ? best.index : first_taps) + splat_index<L>(5 * y);
      }
      return best;
    };
    const auto later = [](Best best, const Best& after) __attribute__((always_inline)) {
      best.meet(after);
      return best;
    };
    Best here = {splat<typename L::V>(L::lowest()), {}};
    Best pair0 = here; // of rows one and two before, and so on
    Best pair1 = here;
    Best pair2 = here;
    for (int64_t r = -4; r < block.rows; ++r) {
      const int64_t y = start + r + 4;
      Best next = here;
      if (y < input_rows) {
        next = row(y < first ? first : y); // above the input, its first row, which names itself
      } else {
        next.value = splat<typename L::V>(L::lowest()); // below it: never a winner
      }
      if (r >= 0) {
        const Results to = output_.from(r * p_.output_strides.h + column);
        store(to, later(later(pair0, pair2), next), 5 * (start + r));
      }
      const Best pair3 = later(here, next);
      pair0 = pair1;
      pair1 = pair2;
      pair2 = pair3;
      here = next;
    }
  }

  // Vectors of the output that are pooled down and written side by side: whole lines of the cache, as rows far apart may
  // share its sets, and as many of them as registers hold.
  static constexpr int kSide = sizeof(typename L::V) < 64 ? 2 : 1;
  static constexpr int kWide = kMostAbreast / (kIndexed ? 2 : 1);

  template <int kVectors>
  struct Abreast {
    Best best[kVectors];

    TORCH_MAXPOOL_INLINE void meet(const Abreast& later) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        best[v].meet(later.best[v]);
      }
    }
  };

  // kVectors x kLanes columns of the output's rows from `at` (within the block) on, a group of them at the most. `here`:
  // row 0 of the group in which their windows begin, at column 0; `next`: the same for rows of the group after it.
  template <int kVectors>
  void down(const SlidingBlock& block, int64_t at, int64_t column, Line<L> here, Line<L> next) {
    typedef Abreast<kVectors> Bests;
    // Copies, as lanes may be bytes, which could be anything when they are stored.
    const int64_t pitch = size_.pitch;
    const int64_t output_pitch = p_.output_strides.h;
    const Line<L> ends = ends_;
    const Results output = output_.from(at * output_pitch + column);
    const int64_t input_rows = shape_.h.input;
    const int64_t taps = shape_.w.kernel;
    const int64_t group = shape_.h.kernel;
    const int64_t begin = block.row - shape_.h.pad + at; // row 0 of the group, in the input
    const int64_t count = block.rows - at < group ? block.rows - at : group;
    const auto row = [&](const Line<L>& from, int64_t j) __attribute__((always_inline)) {
      Bests bests;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        bests.best[v] = taken(from, j * pitch + column + v * kLanes);
        if constexpr (kIndexed) {
          bests.best[v].index += splat_index<L>(j * taps);
        }
      }
      return bests;
    };
    // Many rows do not stay in the nearest cache, and columns are not read in the order of memory (measured on Zen 3; with
    // tap numbers there is work enough meanwhile).
    constexpr int64_t kRowsAhead = 4;
    const bool fetches = !kIndexed && fetch_ && group >= 10;
    const auto fetch_row = [&](const Line<L>& from, int64_t j) __attribute__((always_inline)) {
      if (fetches) {
        fetch<kVectors * sizeof(typename L::V)>(from.value + j * pitch + column);
      }
    };
    const auto keep_ending = [&](int64_t j, const Bests& bests) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        put<L, kIndexed>(ends, (j * kVectors + v) * kLanes, bests.best[v]);
      }
    };
    // Ends of this group, from its last row within the input up.
    const int64_t first = begin < 0 ? -begin : 0;
    const int64_t end = input_rows - begin < group ? input_rows - begin : group;
    if (first < end) {
      Bests bests = row(here, end - 1);
      keep_ending(end - 1, bests);
      for (int64_t j = end - 2; j >= first; --j) {
        fetch_row(here, j - kRowsAhead);
        Bests earlier = row(here, j);
        earlier.meet(bests);
        bests = earlier;
        keep_ending(j, bests);
      }
    }
    // Each window from row j of the group on: an end of it, and the beginning of the next.
    const auto ending = [&](int64_t j) __attribute__((always_inline)) {
      Bests bests;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        bests.best[v] = taken(ends, ((j > first ? j : first) * kVectors + v) * kLanes);
      }
      return bests;
    };
    const auto store_all = [&](int64_t j, const Bests& bests) __attribute__((always_inline)) {
      if (fetches) {
        fetch<kVectors * sizeof(typename L::V), true>(output.values + (j + 2 * kRowsAhead) * output_pitch);
      }
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        store(output.from(j * output_pitch + v * kLanes), bests.best[v], j * taps);
      }
    };
    store_all(0, ending(0));
    const int64_t more = input_rows - begin - group; // rows of the next group and on
    if (more <= 0) {
      for (int64_t j = 1; j < count; ++j) {
        store_all(j, ending(j));
      }
      return;
    }
    Bests beginning = row(next, group);
    for (int64_t j = 1; j < count; ++j) {
      if (j > 1 && j <= more) {
        fetch_row(next, group + j - 1 + kRowsAhead);
        beginning.meet(row(next, group + j - 1));
      }
      Bests bests = ending(j);
      bests.meet(beginning);
      store_all(j, bests);
    }
  }

  // `before`: tap numbers before the window's first.
  template <bool kMayStream = false>
  TORCH_MAXPOOL_INLINE void store(const Results& to, const Best& best, int64_t before) const {
    if constexpr (kMayStream && sizeof(T) == sizeof(typename L::Lane)) {
      stream_ ? L::stream(to.values, best.value) : L::store(to.values, best.value);
    } else {
      L::store(to.values, best.value);
    }
    if constexpr (kIndexed) {
      store_offsets<L>(to.offsets, best.index - splat_index<L>(before));
    }
  }

  static TORCH_MAXPOOL_INLINE Best taken(const Line<L>& line, int64_t i) {
    return at<L, kIndexed>(line, i);
  }

  const ForwardParams& p_;
  const Shape& shape_;
  const SlidingScratch<L, kIndexed> size_;
  const bool stream_;
  const bool fetch_;
  typename L::Lane* const copy_;
  const Line<L> kept_;
  const Line<L> ends_;
  const T* input_ = nullptr;
  Results output_ = {}; // of the block
  bool is_copy_whole_ = false; // what `copy_` holds is a whole plane with its padding
  Mask strange_ = {};
};

// Units: blocks of one plane.
template <class L, bool kIndexed, class Offset>
void forward_sliding(const ForwardParams& p, const ForwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  const Shape& shape = p.shape;
  Sliding<L, kIndexed, Offset> sliding(p, plan, static_cast<char*>(scratch));
  for (int64_t unit = begin; unit < end; ++unit) {
    int64_t rest = unit / plan.column_blocks;
    SlidingBlock block;
    block.column = unit % plan.column_blocks * plan.block_columns;
    block.row = rest % plan.row_blocks * plan.block_rows;
    rest /= plan.row_blocks;
    block.d = rest % shape.d.output;
    rest /= shape.d.output;
    block.c = rest % shape.channels;
    block.n = rest / shape.channels;
    const int64_t rows = shape.h.output - block.row;
    block.rows = rows < plan.block_rows ? rows : plan.block_rows;
    const bool is_last = unit % plan.column_blocks == plan.column_blocks - 1;
    block.columns = is_last ? shape.w.output - block.column : plan.block_columns;
    if (sliding.pool(block)) {
      continue;
    }
    if constexpr (kHasExact<L>) {
      typedef typename Lanes<typename L::Element, 16>::Exact Exact;
      sliding.forget();
      if (Sliding<Exact, kIndexed, Offset>(p, plan, static_cast<char*>(scratch)).pool(block)) {
        continue;
      }
    }
    for (int64_t h = block.row; h < block.row + block.rows; ++h) {
      forward_row<typename L::Element>(p, {block.n, block.c, block.d, h}, block.column, block.column + block.columns);
    }
  }
  if (plan.stream) {
    stream_fence();
  }
}

} // namespace
