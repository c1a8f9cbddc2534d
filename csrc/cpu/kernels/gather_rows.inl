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

  // Two rows of grad_input, either of which may be null, from the windows at `at` on. kFlat: see is_flat.
  template <bool kOddFirst, bool kStream, bool kFlat>
  __attribute__((noinline)) void add(T* even, T* odd, int64_t at) const {
    constexpr int64_t kStep = 2 * S::kLanes;
    Taps taps[9];
    for (int i = 0; i < 9; ++i) {
      taps[i] = WideTaps<S>::splat_of(static_cast<uint8_t>(first_tap + i));
    }
    int64_t x = 0;
    for (; x + kStep <= width; x += kStep) {
      const Pairs pairs = add_pairs<kOddFirst, kFlat>(at + x / 2, taps);
      if (even) {
        put_sums<S, kStream>(even + x, zip_low(pairs.even_row[0], pairs.even_row[1]));
        put_sums<S, kStream>(even + x + S::kLanes, zip_high(pairs.even_row[0], pairs.even_row[1]));
      }
      if (odd) {
        put_sums<S, kStream>(odd + x, zip_low(pairs.odd_row[0], pairs.odd_row[1]));
        put_sums<S, kStream>(odd + x + S::kLanes, zip_high(pairs.odd_row[0], pairs.odd_row[1]));
      }
    }
    if (x == width) {
      return;
    }
    if (width - x <= S::kLanes && width >= kStep && width % 2 == 0) { // the last vector overlaps the one before
      const int64_t last = width - S::kLanes;
      const Pairs pairs = add_pairs<kOddFirst, kFlat>(at + (width - kStep) / 2, taps);
      if (even) {
        put_sums<S, kStream>(even + last, zip_high(pairs.even_row[0], pairs.even_row[1]));
      }
      if (odd) {
        put_sums<S, kStream>(odd + last, zip_high(pairs.odd_row[0], pairs.odd_row[1]));
      }
      return;
    }
    const Pairs pairs = add_pairs<kOddFirst, kFlat>(at + x / 2, taps);
    const auto put_end = [&](T* to, const V* pair) {
      T row_end[2 * kVectorBytes];
      S::store(row_end, zip_low(pair[0], pair[1]));
      S::store(row_end + S::kLanes, zip_high(pair[0], pair[1]));
      if (to) {
        copy_bytes(to + x, row_end, (width - x) * static_cast<int64_t>(sizeof(T)));
      }
    };
    put_end(even, pairs.even_row);
    put_end(odd, pairs.odd_row);
  }
};

} // namespace
