// Forward, family "columns": few windows, or small ones far apart. The windows of one column of the output have their taps
// at the same distances, whatever their row and plane, as long as the same taps lie within the input: such windows are
// lanes, whose elements are collected one by one.

namespace {

inline constexpr int64_t kMostColumnTaps = 128;
inline constexpr int kMostColumnRows = 64;
inline constexpr int64_t kColumnBytes = 64 * 1024; // of the input, whose rows are gone over again for each column

template <class T>
using ColumnLanes = Lanes<T, (sizeof(T) == 8 && kVectorBytes > 16 ? 32 : 16)>;

// Where a row begins, in elements from the tensors' first: of the input, tap 0 of the first of the rows taken together.
struct RowPlace {
  int64_t input, output;
};

// Rows whose windows have the same taps along depth and height.
struct AlikeRows {
  Taps td, th; // of the first
  int count = 0;
  RowPlace place[kMostColumnRows];
};

// The taps of a column's windows, in their order.
struct ColumnTaps {
  int count = 0;
  int64_t step[kMostColumnTaps]; // from RowPlace::input
  int number[kMostColumnTaps];

  void fill(const ForwardParams& p, const AlikeRows& rows, const Taps& tw) {
    const Shape& shape = p.shape;
    const Strides& in = p.input_strides;
    count = 0;
    for (int64_t a = rows.td.first; a < rows.td.last; ++a) {
      for (int64_t b = rows.th.first; b < rows.th.last; ++b) {
        const int64_t row =
            (rows.td.start + a * shape.d.dilation) * in.d + (rows.th.start + b * shape.h.dilation) * in.h;
        for (int64_t c = tw.first; c < tw.last; ++c, ++count) {
          step[count] = row + (tw.start + c * shape.w.dilation) * in.w;
          number[count] = static_cast<int>((a * shape.h.kernel + b) * shape.w.kernel + c);
        }
      }
    }
  }
};

template <class L, int... kLane>
TORCH_MAXPOOL_INLINE typename L::V collect(
    const typename L::Element* const (&from)[L::kLanes],
    int64_t step,
    Sequence<kLane...>) {
  typedef typename UnsignedOf<sizeof(typename L::Element)>::type Bits;
  const auto bits = [&](int lane) __attribute__((always_inline)) {
    Bits result;
    __builtin_memcpy(&result, from[lane] + step, sizeof result);
    return result;
  };
  const Vector<Bits, L::kLanes> all = {bits(kLane)...};
  typename L::Element elements[L::kLanes];
  __builtin_memcpy(elements, &all, sizeof elements);
  return L::load(elements);
}

// kLanes windows; false where they hold strange lanes.
template <class L, bool kIndexed>
TORCH_MAXPOOL_INLINE bool pool_lanes(
    const ForwardParams& p,
    const ColumnTaps& taps,
    const typename L::Element* const (&from)[L::kLanes],
    typename L::Element (&values)[L::kLanes],
    uint8_t (&numbers)[L::kLanes]) {
  typedef MakeSequence<L::kLanes> All;
  typename L::Mask strange = {};
  Champions<L, kIndexed> best = {collect<L>(from, taps.step[0], All()), splat_index<L>(taps.number[0])};
  L::note(strange, best.value);
  for (int t = 1; t < taps.count; ++t) {
    const typename L::V v = collect<L>(from, taps.step[t], All());
    L::note(strange, v);
    best.meet(v, splat_index<L>(taps.number[t]));
  }
  L::store(values, best.value);
  if constexpr (kIndexed) {
    store_offsets<L>(numbers, best.index);
  }
  return !L::is_strange(strange, p);
}

// All windows of rows that are alike.
template <class L, bool kIndexed>
inline void pool_rows(const ForwardParams& p, const AlikeRows& rows) {
  typedef typename L::Element T;
  constexpr int kLanes = L::kLanes;
  const Axis& w = p.shape.w;
  const auto* const input = static_cast<const T*>(p.input);
  const Interior inner = interior_of(w);
  ColumnTaps taps;
  int64_t shift = 0; // of the column from the one that `taps` was made for
  for (int64_t o = 0; o < w.output; ++o) {
    const Taps tw = taps_of(w, o);
    shift += w.stride * p.input_strides.w;
    if (o <= inner.begin || o >= inner.end) {
      taps.fill(p, rows, tw);
      shift = 0;
    }
    for (int first = 0; first < rows.count; first += kLanes) {
      const int count = rows.count - first < kLanes ? rows.count - first : kLanes;
      const RowPlace* const place = rows.place + first;
      const T* from[kLanes];
      for (int u = 0; u < kLanes; ++u) {
        from[u] = input + place[u < count ? u : 0].input + shift;
      }
      T values[kLanes];
      uint8_t numbers[kLanes];
      const bool is_done = pool_lanes<L, kIndexed>(p, taps, from, values, numbers);
      for (int u = 0; u < count; ++u) {
        if (!is_done) {
          const Winner<T> winner = window(p, input + place[u].input, rows.td, rows.th, tw);
          values[u] = winner.value;
          numbers[u] = static_cast<uint8_t>(winner.tap);
        }
        const int64_t to = place[u].output + o * p.output_strides.w;
        static_cast<T*>(p.output)[to] = values[u];
        if constexpr (kIndexed) {
          static_cast<uint8_t*>(p.offsets)[to] = numbers[u];
        }
      }
    }
  }
}

template <class T>
inline int64_t plane_bytes(const Shape& shape) {
  return shape.d.input * shape.h.input * shape.w.input * static_cast<int64_t>(sizeof(T));
}

// Planes that are pooled together, where they are small: their rows fill lanes.
template <class T>
inline int64_t planes_together(const Shape& shape) {
  const int64_t bytes = plane_bytes<T>(shape);
  return bytes < kColumnBytes ? kColumnBytes / bytes : 1;
}

// Rows [begin, end) of the output's planes [first, last).
template <class T, bool kIndexed>
inline void pool_planes(const ForwardParams& p, int64_t first, int64_t last, int64_t begin, int64_t end) {
  typedef ColumnLanes<T> L;
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const Strides& out = p.output_strides;
  const Interior inner = interior_of(shape.h);
  AlikeRows rows;
  for (int64_t d = 0; d < shape.d.output; ++d) {
    rows.td = taps_of(shape.d, d);
    for (int64_t h = begin, next; h < end; h = next) {
      next = h < inner.begin || h >= inner.end ? h + 1 : inner.end < end ? inner.end : end;
      rows.th = taps_of(shape.h, h);
      for (int64_t plane = first; plane < last; ++plane) {
        const int64_t n = plane / shape.channels;
        const int64_t c = plane - n * shape.channels;
        for (int64_t row = h; row < next; ++row) {
          rows.place[rows.count++] = {
              n * in.n + c * in.c + (row - h) * shape.h.stride * in.h, n * out.n + c * out.c + d * out.d + row * out.h};
          if (rows.count == kMostColumnRows) {
            pool_rows<L, kIndexed>(p, rows);
            rows.count = 0;
          }
        }
      }
      pool_rows<L, kIndexed>(p, rows);
      rows.count = 0;
    }
  }
}

// Units: planes, or blocks of rows of one.
template <class T, bool kIndexed>
void forward_columns(const ForwardParams& p, const ForwardPlan& plan, void*, int64_t begin, int64_t end) {
  const int64_t height = p.shape.h.output;
  if (plan.row_blocks > 1) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t plane = unit / plan.row_blocks;
      const int64_t first = unit % plan.row_blocks * plan.block_rows;
      const int64_t last = height - first < plan.block_rows ? height : first + plan.block_rows;
      pool_planes<T, kIndexed>(p, plane, plane + 1, first, last);
    }
    return;
  }
  const int64_t together = planes_together<T>(p.shape);
  for (int64_t plane = begin; plane < end; plane += together) {
    pool_planes<T, kIndexed>(p, plane, end - plane < together ? end : plane + together, 0, height);
  }
}

// Cycles that windows cost on the average, one by one and as lanes (measured on Zen 3).
template <class T>
inline int64_t cost_of_window(int64_t taps) {
  constexpr int64_t kTapCost = !Type<T>::kHasNan ? 3 : sizeof(T) == 2 ? 17 : 5;
  constexpr int64_t kWindowCost = Type<T>::kHasNan ? 45 : 30;
  return kWindowCost + taps * kTapCost;
}

// INT64_MAX where the family does not apply.
template <class T>
inline int64_t cost_in_columns(const ForwardParams& p) {
  constexpr int64_t kLanes = ColumnLanes<T>::kLanes;
  const Shape& shape = p.shape;
  if (shape.d.kernel > kMostColumnTaps || shape.h.kernel > kMostColumnTaps || shape.w.kernel > kMostColumnTaps) {
    return INT64_MAX;
  }
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  if (taps > kMostColumnTaps) {
    return INT64_MAX;
  }
  const int64_t all_planes = shape.batch * shape.channels;
  const int64_t together = planes_together<T>(shape);
  const int64_t planes = together < all_planes ? together : all_planes;
  const Interior inner = interior_of(shape.h);
  const int64_t inner_rows = inner.end > inner.begin ? inner.end - inner.begin : 0;
  const auto vectors_of = [&](int64_t rows) { return (rows + kLanes - 1) / kLanes; };
  const int64_t vectors =
      vectors_of(planes * inner_rows) + (shape.h.output - inner_rows) * vectors_of(planes); // of a column
  constexpr int64_t kVectorCost = 20 + 4 * kLanes;
  constexpr int64_t kVectorTapCost = 2 + (9 * kLanes + 7) / 8;
  return vectors * (kVectorCost + taps * kVectorTapCost) / (planes * shape.h.output) + taps;
}

// Small windows, each for itself.
template <class T>
inline ForwardPlan plan_single(const ForwardParams& p) {
  ForwardPlan plan = plan_windows<T>(p);
  const int64_t taps = p.shape.d.kernel * p.shape.h.kernel * p.shape.w.kernel;
  const int64_t cost = p.wide_offsets && p.offsets ? INT64_MAX : cost_in_columns<T>(p);
  if (cost == INT64_MAX) {
    return plan;
  }
  const int64_t alone = cost_of_window<T>(taps);
  plan.cost = plan.units * p.shape.w.output * (cost < alone ? cost : alone) * (sizeof(T) == 8 ? 3 : 4) / 2;
  if (cost < alone) {
    plan.family = "columns";
    plan.run = p.offsets ? forward_columns<T, true> : forward_columns<T, false>;
    const int64_t blocks = plane_bytes<T>(p.shape) / kColumnBytes;
    const int64_t height = p.shape.h.output;
    plan.block_rows = blocks < 2 ? height : blocks < height ? (height + blocks - 1) / blocks : 1;
    plan.row_blocks = (height + plan.block_rows - 1) / plan.block_rows;
    plan.units = p.shape.batch * p.shape.channels * plan.row_blocks;
  }
  return plan;
}

} // namespace
