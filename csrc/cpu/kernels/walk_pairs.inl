// Backward, family "walk_pairs": windows of 2 x 2 or 3 x 3 at stride 2 and without depth, straight from memory. As in
// walk.inl a strip of adjacent columns of grad_input is walked from row to row, here two rows at a time: one row of windows
// is read for both, and what it adds to the next rows stays in registers. So windows are added in their order.

namespace {

template <class T, int kKernel, bool kStream>
struct WalkPairs {
  typedef Sums<T> S;
  typedef typename S::V V;
  typedef typename WideTaps<S>::V Taps;
  static constexpr int64_t kStrip = 2 * S::kLanes; // columns
  static constexpr int kTaps = kKernel * kKernel;

  // Pairs of adjacent elements in one row: those at even and at odd padded places.
  struct Pairs {
    V even = {}, odd = {};
  };

  // Two rows of grad_input, of which either may be null.
  struct Rows {
    T *even, *odd;
  };

  // Windows next to each other, of kLanes pairs.
  struct Windows {
    V grads[2];
    Taps offsets[2];
    TORCH_MAXPOOL_INLINE void ask(V& sum, int i, Taps tap) const {
      sum = add_equal<S>(sum, grads[i], offsets[i], tap);
    }
  };

  // What a row of windows adds to a row of elements that its row `row` of taps falls on. Along the width, even places are
  // covered by tap 0 of the right window and tap 2 of the left one, odd ones by tap 1 of one of them: the left one where
  // odd places come first.
  template <bool kOddFirst>
  static TORCH_MAXPOOL_INLINE void add(Pairs& sums, const Windows& windows, const Taps* taps, int row) {
    if constexpr (kKernel == 3) {
      windows.ask(sums.even, 0, taps[row * kKernel + 2]);
    }
    windows.ask(sums.even, 1, taps[row * kKernel]);
    windows.ask(sums.odd, kOddFirst ? 0 : 1, taps[row * kKernel + 1]);
  }

  template <bool kOddFirst>
  static TORCH_MAXPOOL_INLINE void put(T* to, const Pairs& sums, bool high_only) {
    const V first = kOddFirst ? sums.odd : sums.even;
    const V second = kOddFirst ? sums.even : sums.odd;
    if (kStream && high_only) {
      S::stream(to + S::kLanes, zip_high(first, second));
    } else {
      put_pairs<S, kStream>(to, first, second);
    }
  }

  // Places [begin, end) along the height, two rows each, of kStrip columns from `x` on. kEdge: some of them ask windows that
  // do not exist, or do not exist themselves; those are written where rows before `bottom` follow, which are written later.
  // kFetch: with the same strip of the places below, which are the next block's or the next plane's.
  template <bool kOddFirst, bool kEdge, bool kFetch>
  static TORCH_MAXPOOL_INLINE void strip(
      const WalkedPlane<T>& plane,
      int64_t x,
      int64_t begin,
      int64_t end,
      int64_t bottom) {
    const int64_t left = (x + plane.w.pad) / 2 - (kOddFirst ? 0 : 1); // column of the left window
    Taps outside[2] = {};
    if constexpr (kEdge) {
      for (int i = 0; i < 2; ++i) {
        outside[i] = lanes_outside<Taps>(left + i, plane.w.output);
      }
    }
    Taps taps[kTaps];
    for (int i = 0; i < kTaps; ++i) {
      taps[i] = WideTaps<S>::splat_of(static_cast<uint8_t>(plane.first_tap + i));
    }
    const bool high_only = kStream && x % kStrip != 0; // the low half is written already
    const int64_t width = plane.w.input;
    const int64_t room = width - x; // columns there are
    Pairs next = {}; // of the even row to come
    const int64_t above = kKernel == 3 ? begin - 1 : begin;
    const T* grads = plane.grads + above * plane.w.output + left;
    const uint8_t* offsets = plane.offsets + above * plane.w.output + left;
    for (int64_t r = above; r < end; ++r, grads += plane.w.output, offsets += plane.w.output) {
      Pairs even = next;
      Pairs odd = {};
      next = {};
      if (r >= 0 && r < plane.h.output) {
        if constexpr (kFetch) {
          fetch(grads + (end - begin) * plane.w.output);
        }
        Windows windows;
        for (int i = kKernel == 3 || kOddFirst ? 0 : 1; i < 2; ++i) {
          windows.grads[i] = held(S::load(grads + i));
          windows.offsets[i] = WideTaps<S>::load(offsets + i) | outside[i];
        }
        add<kOddFirst>(even, windows, taps, 0);
        add<kOddFirst>(odd, windows, taps, 1);
        if constexpr (kKernel == 3) {
          add<kOddFirst>(next, windows, taps, 2);
        }
      }
      const int64_t y = 2 * r - plane.h.pad;
      const auto put_row = [&](int64_t row, const Pairs& sums) {
        if (r < begin || row < 0 || row >= plane.h.input) {
          return;
        }
        T* const to = plane.to + row * width + x;
        if constexpr (kFetch && !kStream) {
          fetch<static_cast<int>(kStrip * sizeof(T)), true>(to + (end - begin) * 2 * width);
        }
        if (!kEdge || room >= kStrip || (bottom - row) * width >= kStrip) {
          put<kOddFirst>(to, sums, high_only);
        } else {
          T row_end[kStrip];
          const V first = kOddFirst ? sums.odd : sums.even;
          const V second = kOddFirst ? sums.even : sums.odd;
          S::store_pairs(row_end, first, second);
          copy_bytes(to, row_end, room * static_cast<int64_t>(sizeof(T)));
        }
      };
      put_row(y, even);
      put_row(y + 1, odd);
    }
  }

  template <bool kOddFirst>
  static TORCH_MAXPOOL_INLINE void any_strip(
      const WalkedPlane<T>& plane,
      int64_t x,
      bool is_edge,
      Span places,
      int64_t bottom) {
    if (is_edge) {
      strip<kOddFirst, true, false>(plane, x, places.begin, places.end, bottom);
    } else if (plane.fetch) {
      strip<kOddFirst, false, true>(plane, x, places.begin, places.end, bottom);
    } else {
      strip<kOddFirst, false, false>(plane, x, places.begin, places.end, bottom);
    }
  }

  // Places [begin, end) along the height.
  static void rows(const WalkedPlane<T> plane, int64_t begin, int64_t end) {
    const int64_t width = plane.w.input;
    const int64_t below = 2 * end - plane.h.pad;
    const int64_t bottom = below < plane.h.input ? below : plane.h.input;
    const int64_t last = width > kStrip ? width - kStrip : 0; // may overlap the strip before
    for (int64_t x = 0; x <= last; x = x < last && x + kStrip > last ? last : x + kStrip) {
      const int64_t left = (x + plane.w.pad) / 2 - 1;
      const bool is_edge = left < 0 || left + S::kLanes + 2 > plane.w.output || width < kStrip;
      const bool odd_first = (x + plane.w.pad) % 2 != 0;
      if (odd_first) {
        any_strip<true>(plane, x, is_edge, {begin, end}, bottom);
      } else {
        any_strip<false>(plane, x, is_edge, {begin, end}, bottom);
      }
    }
  }
};

// Units: blocks of places along the height.
template <class T, int kKernel, bool kStream>
int64_t backward_walk_pairs(
    const BackwardParams& p,
    const BackwardPlan& plan,
    void* scratch,
    int64_t begin,
    int64_t end) {
  const Axis& h = p.shape.h;
  WalkedWindows<T> windows(p, plan, scratch);
  const int64_t places = (h.input - 1 + h.pad) / 2 + 1;
  StreamedLines lines(static_cast<char*>(scratch) + plan.lines_at);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit % plan.row_blocks * plan.block_rows;
    const int64_t last = first + plan.block_rows < places ? first + plan.block_rows : places;
    WalkedPlane<T> plane = {};
    const int64_t bad = windows.read(unit / plan.row_blocks, {first - (kKernel - 2), last}, plane);
    if (bad >= 0) {
      return bad;
    }
    const int64_t top = 2 * first - h.pad > 0 ? 2 * first - h.pad : 0;
    const int64_t bottom = 2 * last - h.pad < h.input ? 2 * last - h.pad : h.input;
    if (plan.in_lines) {
      write_to(lines, plane, top);
    }
    WalkPairs<T, kKernel, kStream>::rows(plane, first, last);
    if (plan.in_lines) {
      lines.end((bottom - top) * plane.w.input * static_cast<int64_t>(sizeof(T)));
    }
  }
  if (plan.in_lines) {
    lines.finish();
  } else if (kStream) {
    stream_fence();
  }
  return -1;
}

template <class T, bool kStream>
inline BackwardKernel find_walk_pairs(const Shape& shape) {
  const auto is_kernel = [](const Axis& axis, int64_t kernel) {
    return axis.kernel == kernel && axis.stride == 2 && axis.dilation == 1;
  };
  if (shape.d.kernel > 1 || shape.d.stride > 1) {
    return nullptr;
  }
  if (is_kernel(shape.h, 2) && is_kernel(shape.w, 2)) {
    return backward_walk_pairs<T, 2, kStream>;
  }
  if (is_kernel(shape.h, 3) && is_kernel(shape.w, 3)) {
    return backward_walk_pairs<T, 3, kStream>;
  }
  return nullptr;
}

// Fills `plan` where the family fits; returns its cost, in tenths of nanoseconds.
template <class T>
inline int64_t plan_walk_pairs(const BackwardParams& p, BackwardPlan& plan) {
  const Shape& shape = p.shape;
  const int64_t size = static_cast<int64_t>(sizeof(T));
  const int64_t planes = shape.batch * shape.channels * shape.d.output;
  const int64_t row_bytes = shape.w.input * size;
  constexpr int64_t kStrip = WalkPairs<T, 2, false>::kStrip;
  const bool stream = shape.w.input >= kStrip && streams_rows(p, row_bytes, planes * shape.h.input * row_bytes) &&
      writes_lines(p, kStrip * size, row_bytes);
  const BackwardKernel found = stream ? find_walk_pairs<T, true>(shape) : find_walk_pairs<T, false>(shape);
  if (found == nullptr || p.wide_offsets || shape.w.input > kMostWalked) {
    return -1;
  }
  plan.family = "walk_pairs";
  plan.run = found;
  plan.stream = stream;
  plan.touch = is_worth_touching(planes * shape.h.input * row_bytes, p.stream_bytes);
  plan.fetch = is_worth_fetching(planes * shape.h.input * row_bytes / 2);
  const int64_t places = (shape.h.input - 1 + shape.h.pad) / 2 + 1;
  plan_walked_rows<T>(shape, places, 5 * row_bytes / 2 + shape.w.output, plan);
  plan.units = planes * plan.row_blocks;
  // The strips of narrower vectors gain nothing.
  const bool is_worth = kVectorBytes > 32 && is_worth_streaming(p, planes * shape.h.input * row_bytes / 2);
  plan_lines(is_worth, 2 * plan.block_rows * row_bytes, plan);
  const int64_t strips = (shape.w.input + kStrip - 1) / kStrip;
  const int64_t steps = places + (shape.h.kernel - 2) * plan.row_blocks;
  const int64_t cost = 500 + planes * (plan.row_blocks * 800 + strips * (80 + steps * (shape.h.kernel == 2 ? 36 : 46)));
  // Beyond the caches rows as a whole are written more quickly than strips.
  constexpr int64_t kInCache = int64_t{1} << 20;
  const int64_t elements = planes * shape.h.input * shape.w.input;
  return shape.h.kernel == 2 && elements * size > kInCache ? cost + elements : cost;
}

} // namespace
