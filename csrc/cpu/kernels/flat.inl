// Forward, family "flat": windows of 3 x 3 or 5 x 5 that move by one element and give planes as large as those they pool,
// small ones. A plane is one line, row after row without room between them, so that no lane is lost where rows do not fill
// vectors: taps that lie beyond the ends of a row are capped by the lowest value. The windows within rows are kept in
// scratch, where the rows of windows meet: again along the whole line.

namespace {

constexpr int64_t greatest_divisor(int64_t a, int64_t b) {
  return b == 0 ? a : greatest_divisor(b, a % b);
}

// How a plane lies in scratch.
template <class L, bool kIndexed>
struct FlatScratch {
  static constexpr int64_t kLanes = L::kLanes;
  int64_t plane; // elements
  int64_t above; // elements, aligned, before the plane's first row: that of its padding end there
  int64_t phases; // vectors after which rows begin in the same lanes again
  int64_t copy_bytes, caps_bytes, firsts_bytes, value_bytes, index_bytes;

  explicit FlatScratch(const Shape& shape) {
    constexpr int64_t kLane = sizeof(typename L::Lane);
    constexpr int64_t kIndex = kIndexed ? sizeof(typename L::Index) : 0;
    const int64_t width = shape.w.input;
    plane = shape.h.input * width;
    phases = width / greatest_divisor(width, kLanes);
    phases += phases == 1 ? 1 : 0; // two are taken at a time
    above = rounded_up(shape.h.pad * width, kLanes) * kLanes;
    const int64_t line = above + plane + shape.h.pad * width + kLanes; // with what vectors touch beyond
    copy_bytes = aligned((plane + 4 * kLanes) * kLane);
    caps_bytes = shape.w.kernel * (phases + 1) * kLanes * kLane;
    firsts_bytes = aligned((phases + 1) * kLanes * kIndex);
    value_bytes = aligned(line * kLane);
    index_bytes = aligned(line * kIndex);
  }
  int64_t total() const {
    return copy_bytes + caps_bytes + firsts_bytes + value_bytes + index_bytes;
  }
};

// That of the lanes that stand in where there are strange ones comes after it.
template <class L>
using FlatExact = typename Lanes<typename L::Element, 16>::Exact;
template <class L, bool kIndexed>
inline int64_t flat_scratch_bytes(const Shape& shape) {
  int64_t bytes = FlatScratch<L, kIndexed>(shape).total();
  if constexpr (kHasExact<L>) {
    bytes += FlatScratch<FlatExact<L>, kIndexed>(shape).total();
  }
  return bytes;
}

template <class L, bool kIndexed, int kTaps>
class Flat {
 public:
  typedef typename L::Element T;
  typedef typename L::V V;
  typedef typename L::IV IV;
  typedef Champions<L, kIndexed> Best;
  static constexpr int kLanes = L::kLanes;
  static constexpr int kPad = kTaps / 2;

  Flat(const ForwardParams& p, char* scratch)
      : p_(p),
        width_(p.shape.w.input),
        size_(p.shape),
        copy_(reinterpret_cast<typename L::Lane*>(scratch) + kLanes),
        caps_(reinterpret_cast<typename L::Lane*>(scratch + size_.copy_bytes)),
        firsts_(reinterpret_cast<typename L::Index*>(scratch + size_.copy_bytes + size_.caps_bytes)) {
    char* const at = scratch + size_.copy_bytes + size_.caps_bytes + size_.firsts_bytes;
    rows_ = {
        reinterpret_cast<typename L::Lane*>(at) + size_.above,
        reinterpret_cast<typename L::Index*>(at + size_.value_bytes) + size_.above};
    for (int64_t i = 0; i < (size_.phases + 1) * kLanes; ++i) {
      const Taps taps = taps_of(p.shape.w, i % width_);
      for (int t = 0; t < kTaps; ++t) {
        caps_[(i / kLanes * kTaps + t) * kLanes + i % kLanes] = tap_is_in(taps, t) ? L::highest() : L::lowest();
      }
      if constexpr (kIndexed) {
        firsts_[i] = static_cast<typename L::Index>(taps.first);
      }
    }
    pad();
  }

  // One plane; false where it holds strange lanes. is_amid: a vector before it and four after it may be read.
  bool pool(const T* input, bool is_amid, T* output, uint8_t* offsets) {
    typename L::Mask strange = {};
    if constexpr (L::kIsPlain) {
      if (is_amid) {
        across<true>(input, strange);
      }
    }
    if (!L::kIsPlain || !is_amid) {
      copy_lanes<L>(copy_, input, size_.plane, strange);
      across<false>(copy_, strange);
    }
    if (L::is_strange(strange, p_)) {
      return false;
    }
    down(output, offsets);
    return true;
  }

 private:
  // The window of each element within its row.
  template <bool kNotes>
  void across(const typename L::Lane* from, typename L::Mask& strange) const {
    constexpr bool kShifts = sizeof(typename L::Lane) >= 4; // one instruction
    const int64_t plane = size_.plane;
    const Line<L> rows = rows_;
    const int64_t phases = size_.phases;
    const typename L::Lane* const caps = caps_;
    const typename L::Index* const firsts = firsts_;
    typename L::Mask noted = strange;
    V before = load_vector<V>(from);
    V here = before;
    V after = load_vector<V>(from + kLanes);
    const auto window = [&](int64_t i, int64_t phase) __attribute__((always_inline)) {
      const auto tap = [&](int t) __attribute__((always_inline)) {
        if (t == kPad) {
          return here;
        }
        V v;
        if (kShifts && t == kPad - 1) {
          v = previous(before, here);
        } else if (kShifts && t == kPad + 1) {
          v = next(here, after);
        } else {
          v = load_vector<V>(from + i + t - kPad);
        }
        return L::capped(v, load_vector<V>(caps + (phase * kTaps + t) * kLanes));
      };
      Best best = {tap(0), {}};
#pragma GCC unroll 8
      for (int t = 1; t < kTaps; ++t) {
        best.meet(tap(t), splat_index<L>(t));
      }
      if constexpr (kIndexed) { // windows of nothing but the lowest value name their first element
        const IV least = load_vector<IV>(firsts + phase * kLanes);
        best.index = best.index > least ? best.index : least;
      }
      put<L, kIndexed>(rows, i, best);
    };
    int64_t phase = 0;
    int64_t i = 0;
    for (; i + 2 * kLanes <= plane; i += 2 * kLanes) {
      if constexpr (kNotes) {
        fetch<2 * sizeof(V)>(from + i + plane);
        L::note(noted, here, after);
      }
      window(i, phase);
      before = here;
      here = after;
      after = load_vector<V>(from + i + 2 * kLanes);
      window(i + kLanes, phase + 1);
      before = here;
      here = after;
      after = load_vector<V>(from + i + 3 * kLanes);
      phase += 2;
      phase -= phase >= phases ? phases : 0;
    }
    for (; i < plane; i += kLanes) {
      if constexpr (kNotes) {
        L::note(noted, plane - i < kLanes ? load_some<L>(from + i, plane - i) : here);
      }
      window(i, phase);
      before = here;
      here = after;
      after = load_vector<V>(from + i + 2 * kLanes);
      ++phase;
      phase -= phase >= phases ? phases : 0;
    }
    // What the last vector has written beyond the plane.
    store_vector(rows.value + plane, splat<V>(L::lowest()));
    strange = noted;
  }

  // What never wins, above and below the plane; above, it names the first element of the windows that hold nothing higher.
  void pad() const {
    fill_lowest<L>(rows_.value - kPad * width_, kPad * width_);
    fill_lowest<L>(rows_.value + size_.plane, kPad * width_);
    for (int64_t r = 1; kIndexed && r <= kPad; ++r) {
      for (int64_t i = 0; i < width_; ++i) {
        rows_.index[i - r * width_] = static_cast<typename L::Index>(taps_of(p_.shape.w, i).first + r * kTaps);
      }
    }
  }

  // Rows meet.
  void down(T* output, uint8_t* offsets) const {
    const Line<L> first = {rows_.value - kPad * width_, rows_.index - kPad * width_};
    const int64_t last = size_.plane - kLanes;
    for (int64_t i = 0;; i = i + kLanes < last ? i + kLanes : last) { // the last vector overlaps the one before
      Best best = at<L, kIndexed>(first, i);
#pragma GCC unroll 8
      for (int t = 1; t < kTaps; ++t) {
        Best later = at<L, kIndexed>(first, i + t * width_);
        if constexpr (kIndexed) {
          later.index += splat_index<L>(t * kTaps);
        }
        best.meet(later);
      }
      L::store(output + i, best.value);
      if constexpr (kIndexed) {
        store_offsets<L>(offsets + i, best.index);
      }
      if (i == last) {
        return;
      }
    }
  }

  const ForwardParams& p_;
  const int64_t width_;
  const FlatScratch<L, kIndexed> size_;
  typename L::Lane* const copy_; // of the plane
  typename L::Lane* const
      caps_; // for each tap of a vector: the highest value where it lies in the row, else the lowest
  typename L::Index* const firsts_; // the first tap that does
  Line<L> rows_; // pooled across, with rows of padding above and below
};

// Units: planes.
template <class L, bool kIndexed, int kTaps>
void forward_flat(const ForwardParams& p, const ForwardPlan& plan, void* scratch_any, int64_t begin, int64_t end) {
  typedef typename L::Element T;
  char* const scratch = static_cast<char*>(scratch_any);
  Flat<L, kIndexed, kTaps> flat(p, scratch);
  StreamedLines lines(scratch + plan.lines_at);
  const int64_t plane = p.shape.h.input * p.shape.w.input;
  const bool is_dense = is_dense_input(p) && p.shape.d.input == p.shape.d.output;
  const int64_t elements = p.shape.batch * p.shape.channels * p.shape.d.input * plane;
  Shape planes = p.shape;
  planes.h.output = 1;
  Row row = row_of(planes, begin);
  for (int64_t unit = begin; unit < end; ++unit, advance(planes, row)) {
    const PlaneView view = plane_view<T>(p, row);
    const T* const input = static_cast<const T*>(view.input);
    const bool is_amid = is_dense && unit * plane >= L::kLanes && elements - (unit + 1) * plane >= 4 * L::kLanes;
    T* const output = plan.in_lines ? lines.begin(static_cast<T*>(view.output)) : static_cast<T*>(view.output);
    const auto is_pooled_exactly = [&] {
      if constexpr (kHasExact<L>) {
        Flat<FlatExact<L>, kIndexed, kTaps> exact(p, scratch + FlatScratch<L, kIndexed>(p.shape).total());
        return exact.pool(input, false, output, view.offsets);
      }
      return false;
    };
    if (!flat.pool(input, is_amid, output, view.offsets) && !is_pooled_exactly()) {
      ForwardParams pooled = p;
      pooled.output =
          static_cast<char*>(p.output) + (reinterpret_cast<char*>(output) - static_cast<char*>(view.output));
      for (int64_t h = 0; h < p.shape.h.output; ++h) {
        forward_row<T>(pooled, {row.n, row.c, row.d, h}, 0, p.shape.w.output);
      }
    }
    if (plan.in_lines) {
      lines.end(plane * static_cast<int64_t>(sizeof(T)));
    }
  }
  if (plan.in_lines) {
    lines.finish();
  }
}

// Whether results like these come from beyond the caches.
template <class T>
inline bool is_flat_beyond(const ForwardParams& p) {
  const Shape& shape = p.shape;
  const int64_t planes = shape.batch * shape.channels * shape.d.output;
  return planes * shape.h.output * shape.w.output * static_cast<int64_t>(sizeof(T)) / 3 >= p.stream_bytes;
}

// Columns up to which that is quicker than strips are, which waste less of vectors in longer rows (measured on AVX-512).
template <class T, int kTaps>
inline int64_t most_flat_columns(const ForwardParams& p) {
  constexpr bool kIsLong = kVectorBytes > 32;
  if (kTaps > 3 || (sizeof(T) == 1 && kIsLong)) {
    return 64;
  }
  if (sizeof(T) == 1) {
    return 40;
  }
  if (sizeof(T) == 2 || p.offsets == nullptr) {
    return 48;
  }
  return kIsLong && !is_flat_beyond<T>(p) ? 24 : 32;
}

template <class T, int kTaps>
inline bool plan_flat_for(const ForwardParams& p, ForwardPlan& plan) {
  typedef Lanes<T> L;
  const Shape& shape = p.shape;
  constexpr int64_t kMostElements = 4096;
  const auto fits = [](const Axis& axis) {
    return axis.kernel == kTaps && axis.pad == kTaps / 2 && axis.output == axis.input && axis.stride == 1 &&
        axis.dilation == 1;
  };
  const int64_t width = shape.w.input;
  const Strides& in = p.input_strides;
  const Strides& out = p.output_strides;
  if (shape.d.kernel > 1 || !fits(shape.h) || !fits(shape.w) || in.w != 1 || out.w != 1 || in.h != width ||
      out.h != width || (p.wide_offsets && p.offsets) || width > most_flat_columns<T, kTaps>(p) ||
      shape.h.input > kMostElements / width || shape.h.input * width < L::kLanes) {
    return false;
  }
  plan = plan_windows<T>(p);
  plan.family = "flat";
  plan.run = p.offsets ? forward_flat<L, true, kTaps> : forward_flat<L, false, kTaps>;
  plan.units = shape.batch * shape.channels * shape.d.output;
  plan.lines_at = p.offsets ? flat_scratch_bytes<L, true>(shape) : flat_scratch_bytes<L, false>(shape);
  plan.in_lines = is_flat_beyond<T>(p) && is_dense_output(p);
  const int64_t plane_bytes = shape.h.input * width * static_cast<int64_t>(sizeof(T));
  plan.scratch_bytes = plan.lines_at + (plan.in_lines ? StreamedLines::scratch_bytes(plane_bytes) : 0);
  return true;
}

// Fills `plan` where the family fits.
template <class T>
inline bool plan_flat(const ForwardParams& p, ForwardPlan& plan) {
  return plan_flat_for<T, 3>(p, plan) || plan_flat_for<T, 5>(p, plan);
}

} // namespace
