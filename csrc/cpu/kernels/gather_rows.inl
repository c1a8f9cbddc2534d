// Backward, family "gather": the shorter way for windows of 3 x 3 at stride 2, straight from the windows in scratch to
// rows of grad_input. See gather.inl.

namespace {

template <class S, bool kStream, class T>
TORCH_MAXPOOL_INLINE void put_sums(T* to, typename S::V v) {
  if constexpr (kStream) {
    S::stream(to, v);
  } else {
    S::store(to, v);
  }
}

// The lanes of both in turns.
template <class S, bool kStream, class T>
TORCH_MAXPOOL_INLINE void put_pairs(T* to, typename S::V first, typename S::V second) {
  if constexpr (kStream) {
    S::stream(to, zip_low(first, second));
    S::stream(to + S::kLanes, zip_high(first, second));
  } else {
    S::store_pairs(to, first, second);
  }
}

// A depth of the output that elements ask: where it lies in scratch, and its first tap.
struct DepthTap {
  int64_t at;
  uint8_t number;
};

// Windows of 3 x 3 at stride 2: both phases of both dimensions at once, two rows of grad_input at a time.
template <class T>
struct PairRows {
  typedef Sums<T> S;
  typedef SumOf<T> Sum;
  typedef typename S::V V;
  typedef typename WideTaps<S>::V Taps;

  const Sum* grads; // in scratch
  const uint8_t* offsets;
  int64_t pitch;
  int64_t width; // of grad_input
  const DepthTap* depths;
  int64_t count; // of depths
  uint8_t first_tap; // 0, see walk.inl

  // One depth, at the begin of scratch, whose taps count from 0: so it is without depth.
  bool is_flat() const {
    return count == 1 && depths[0].at == 0 && depths[0].number == 0;
  }

  // kLanes pairs of elements side by side in two rows.
  struct Pairs {
    V even_row[2], odd_row[2];
  };

  // Windows side by side; their taps count from the first of their depth.
  struct Neighbours {
    V grads[2];
    Taps offsets[2];

    TORCH_MAXPOOL_INLINE Neighbours(const Sum* grad, const uint8_t* offset, Taps first_of_depth) {
      for (int i = 0; i < 2; ++i) {
        grads[i] = load_vector<V>(grad + i);
        offsets[i] = WideTaps<S>::load(offset + i) - first_of_depth;
      }
    }
    TORCH_MAXPOOL_INLINE void ask(V& sum, int i, Taps tap) const {
      sum = add_equal<S>(sum, grads[i], offsets[i], tap);
    }
  };

  // Windows at `at` in scratch (row above, left column) and to their right and below. Along the width, elements of even
  // padded place ask tap 2 of the left and tap 0 of the right window; those of odd place tap 1 of one of them, and come
  // first where the padding is odd.
  template <bool kOddFirst, bool kFlat>
  TORCH_MAXPOOL_INLINE Pairs add_pairs(int64_t at, const Taps (&taps)[9]) const {
    constexpr int kEven = kOddFirst ? 1 : 0;
    constexpr int kOdd = 1 - kEven;
    Pairs sums = {};
    for (int64_t d = 0; d < (kFlat ? 1 : count); ++d) {
      const int64_t above = (kFlat ? 0 : depths[d].at) + at;
      const int64_t below = above + pitch;
      // not covered: a gap in gcov's counts
      const Taps first_of_depth = kFlat ? Taps{} : WideTaps<S>::splat_of(depths[d].number);
      const Neighbours upper(grads + above, offsets + above, first_of_depth);
      const Neighbours lower(grads + below, offsets + below, first_of_depth);
      upper.ask(sums.even_row[kEven], 0, taps[8]);
      upper.ask(sums.even_row[kEven], 1, taps[6]);
      lower.ask(sums.even_row[kEven], 0, taps[2]);
      lower.ask(sums.even_row[kEven], 1, taps[0]);
      upper.ask(sums.even_row[kOdd], kOdd, taps[7]);
      lower.ask(sums.even_row[kOdd], kOdd, taps[1]);
      lower.ask(sums.odd_row[kEven], 0, taps[5]);
      lower.ask(sums.odd_row[kEven], 1, taps[3]);
      lower.ask(sums.odd_row[kOdd], kOdd, taps[4]);
    }
    return sums;
  }

  // Pairs of rows of one plane of grad_input, from row `first` on, which may lie in padding; the plane has `count` rows.
  struct Rows {
    T* plane;
    int64_t first, pairs, count;
  };

  // All pairs of `rows`, from the windows at `at` on. By value: what lies in memory would be read again after each store.
  // kFlat: see is_flat.
  template <bool kOddFirst, bool kStream, bool kFlat>
  static __attribute__((noinline)) void add(const PairRows windows, const Rows rows, int64_t at) {
    Taps taps[9];
    for (int i = 0; i < 9; ++i) {
      taps[i] = WideTaps<S>::splat_of(static_cast<uint8_t>(windows.first_tap + i));
    }
    int64_t y = rows.first;
    for (int64_t i = 0; i < rows.pairs; ++i, y += 2, at += windows.pitch) {
      T* const even = y >= 0 && y < rows.count ? rows.plane + y * windows.width : nullptr;
      T* const odd = y + 1 >= 0 && y + 1 < rows.count ? rows.plane + (y + 1) * windows.width : nullptr;
      windows.template add_two<kOddFirst, kStream, kFlat>(even, odd, at, taps);
    }
  }

  template <bool kStream>
  static TORCH_MAXPOOL_INLINE void put_low(T* to, const V (&pair)[2]) {
    if (to) {
      put_sums<S, kStream>(to, zip_low(pair[0], pair[1]));
    }
  }
  template <bool kStream>
  static TORCH_MAXPOOL_INLINE void put_high(T* to, const V (&pair)[2]) {
    if (to) {
      put_sums<S, kStream>(to + S::kLanes, zip_high(pair[0], pair[1]));
    }
  }
  template <bool kStream>
  static TORCH_MAXPOOL_INLINE void put_both(T* to, const V (&pair)[2]) {
    if (to) {
      put_pairs<S, kStream>(to, pair[0], pair[1]);
    }
  }

  // Two rows of grad_input, either of which may be null.
  template <bool kOddFirst, bool kStream, bool kFlat>
  TORCH_MAXPOOL_INLINE void add_two(T* even, T* odd, int64_t at, const Taps (&taps)[9]) const {
    constexpr int64_t kStep = 2 * S::kLanes;
    int64_t x = 0;
    for (; x + kStep <= width; x += kStep) {
      const Pairs pairs = add_pairs<kOddFirst, kFlat>(at + x / 2, taps);
      put_both<kStream>(even ? even + x : nullptr, pairs.even_row);
      put_both<kStream>(odd ? odd + x : nullptr, pairs.odd_row);
    }
    if (x == width) {
      return;
    }
    if (width >= kStep) { // the last vectors overlap those before
      const bool is_one = width - x <= S::kLanes; // and where rows are streamed, all of it
      x = width - kStep;
      // From an odd x on, the other element of each pair comes first.
      const Pairs pairs = x % 2 == 0 ? add_pairs<kOddFirst, kFlat>(at + x / 2, taps)
                                     : add_pairs<!kOddFirst, kFlat>(at + x / 2 + (kOddFirst ? 0 : 1), taps);
      if (!is_one) {
        put_low<false>(even ? even + x : nullptr, pairs.even_row);
        put_low<false>(odd ? odd + x : nullptr, pairs.odd_row);
      }
      put_high<kStream>(even ? even + x : nullptr, pairs.even_row);
      put_high<kStream>(odd ? odd + x : nullptr, pairs.odd_row);
      return;
    }
    const Pairs pairs = add_pairs<kOddFirst, kFlat>(at, taps);
    const auto put_row = [&](T* to, const V(&pair)[2]) {
      T row[2 * kVectorBytes];
      put_both<false>(row, pair);
      if (to) {
        copy_bytes(to, row, width * static_cast<int64_t>(sizeof(T)));
      }
    };
    put_row(even, pairs.even_row);
    put_row(odd, pairs.odd_row);
  }
};

} // namespace
