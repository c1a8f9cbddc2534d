// Forward, family "rolling": as "direct", where windows of neighbouring rows of the output share rows of the input: each
// row of the input is pooled across its columns once.

namespace {

// What one row of the input has across its columns, kept until the last window that reaches it.
template <class L>
struct RollingRow {
  typename L::Lane* value; // by column of the output
  typename L::Index* index; // tap within the row
  int64_t plane; // which row of the input it stands for: plane, and row within it
  int64_t row;

  static int64_t bytes(int64_t columns) {
    constexpr int64_t kPlace = sizeof(typename L::Lane) + sizeof(typename L::Index);
    return (columns * kPlace + 127) / 64 * 64;
  }
};

template <class L, bool kIndexed, int kKernel, int kStride>
inline void fill_rolling_row(
    const RollingRow<L>& to,
    const Columns& columns,
    const typename L::Element* from,
    typename L::Mask& strange) {
  constexpr int kLanes = L::kLanes;
  const int64_t last = columns.end - kLanes;
  const auto put = [&](int64_t o, const Champions<L, kIndexed>& best) {
    store_vector(to.value + o, best.value);
    if constexpr (kIndexed) {
      store_vector(to.index + o, best.index);
    }
  };
  int64_t o = columns.begin;
  if (columns.has_left) {
    if constexpr (kStride <= 2) {
      put(o, across<L, kIndexed, kKernel, kStride, Edge::kLeft>(from, 0, o == last, strange));
    }
    if (o == last) {
      return;
    }
    o += kLanes;
  }
  for (; o < last; o += kLanes) {
    put(o, across<L, kIndexed, kKernel, kStride, Edge::kNone>(from + o * kStride, 0, false, strange));
  }
  if constexpr (kStride == 1) {
    if (columns.has_right) {
      put(last, across<L, kIndexed, kKernel, kStride, Edge::kRight>(from + last, 0, true, strange));
      return;
    }
  }
  put(last, across<L, kIndexed, kKernel, kStride, Edge::kNone>(from + last * kStride, 0, true, strange));
}

// One row of the output from `count` kept rows, the first of which is tap number `first`. kCount: count, or 0 for any.
template <class L, bool kIndexed, int kKernel, int kCount>
inline void meet_rolling_rows(
    const RollingRow<L>* const* rows,
    int64_t count,
    int64_t first,
    const Columns& columns,
    bool stream,
    typename L::Element* values,
    uint8_t* offsets) {
  constexpr int kLanes = L::kLanes;
  const int64_t last = columns.end - kLanes;
  if (kCount > 0) {
    count = kCount;
  }
  for (int64_t o = columns.begin;; o = o + kLanes < last ? o + kLanes : last) {
    const auto kept = [&](int64_t t) {
      Champions<L, kIndexed> c = {load_vector<typename L::V>(rows[t]->value + o), {}};
      if constexpr (kIndexed) {
        c.index = load_vector<typename L::IV>(rows[t]->index + o) + splat_index<L>((first + t) * kKernel);
      }
      return c;
    };
    Champions<L, kIndexed> best = kept(0);
    for (int64_t t = 1; t < count; ++t) {
      best.meet(kept(t));
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
  }
}

// One row of the output. `kept`: a power of two of rows, at least as many as the window has.
template <class L, bool kIndexed, int kKernel, int kStride>
inline void rolling_row(
    const ForwardParams& p,
    const ForwardPlan& plan,
    const Row& row,
    const Columns& columns,
    RollingRow<L>* kept,
    typename L::Mask& strange) {
  typedef typename L::Element T;
  const Shape& shape = p.shape;
  const Taps th = taps_of(shape.h, row.h);
  const int64_t plane = (row.n * shape.channels + row.c) * shape.d.output + row.d;
  const T* from = static_cast<const T*>(p.input) + row.n * p.input_strides.n + row.c * p.input_strides.c +
      taps_of(shape.d, row.d).start * p.input_strides.d - shape.w.pad;
  const RollingRow<L>* rows[kDirectRows];
  for (int64_t t = th.first; t < th.last; ++t) {
    const int64_t y = th.start + t;
    RollingRow<L>& line = kept[y & plan.kept_mask];
    rows[t - th.first] = &line;
    if (line.row != y || line.plane != plane) {
      line.plane = plane;
      line.row = y;
      fill_rolling_row<L, kIndexed, kKernel, kStride>(line, columns, from + y * p.input_strides.h, strange);
    }
  }
  const Strides& out = p.output_strides;
  const int64_t out_row = row.n * out.n + row.c * out.c + row.d * out.d + row.h * out.h;
  T* values = static_cast<T*>(p.output) + out_row;
  uint8_t* offsets = kIndexed ? static_cast<uint8_t*>(p.offsets) + out_row : nullptr;
  const bool stream = plan.stream && is_aligned<typename L::V>(values);
  const int64_t count = th.last - th.first;
  if (count == 3) {
    meet_rolling_rows<L, kIndexed, kKernel, 3>(rows, count, th.first, columns, stream, values, offsets);
  } else if (count == 2) {
    meet_rolling_rows<L, kIndexed, kKernel, 2>(rows, count, th.first, columns, stream, values, offsets);
  } else {
    meet_rolling_rows<L, kIndexed, kKernel, 0>(rows, count, th.first, columns, stream, values, offsets);
  }
}

// Rows [begin, end) of the output, the first of them `row`; false where they depend on strange lanes.
template <class L, bool kIndexed, int kKernel, int kStride>
bool rolling_rows(
    const ForwardParams& p,
    const ForwardPlan& plan,
    const Columns& columns,
    Row row,
    int64_t count,
    RollingRow<L>* kept) {
  typename L::Mask strange = {};
  for (int64_t i = 0; i < count; ++i, advance(p.shape, row)) {
    rolling_row<L, kIndexed, kKernel, kStride>(p, plan, row, columns, kept, strange);
    direct_sides<typename L::Element>(p, row, columns);
  }
  return !L::is_strange(strange);
}

template <class L>
inline void forget(const ForwardParams& p, const ForwardPlan& plan, void* scratch, RollingRow<L>* kept) {
  for (int64_t i = 0; i <= plan.kept_mask; ++i) {
    char* const at = static_cast<char*>(scratch) + i * RollingRow<L>::bytes(p.shape.w.output);
    kept[i] = {
        reinterpret_cast<typename L::Lane*>(at),
        reinterpret_cast<typename L::Index*>(at + p.shape.w.output * sizeof(typename L::Lane)),
        -1,
        -1};
  }
}

// Units: rows of the output.
template <class L, bool kIndexed, int kKernel, int kStride>
void forward_rolling(const ForwardParams& p, const ForwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  const Columns columns = columns_of<L::kLanes>(p.shape.w);
  RollingRow<L> kept[kDirectRows];
  forget(p, plan, scratch, kept);
  for (int64_t at = begin; at < end; at += kRowsAtOnce) {
    const Row row = row_of(p.shape, at);
    const int64_t count = at + kRowsAtOnce < end ? kRowsAtOnce : end - at;
    if (rolling_rows<L, kIndexed, kKernel, kStride>(p, plan, columns, row, count, kept)) {
      continue;
    }
    if constexpr (kHasExact<L>) {
      RollingRow<typename L::Exact> exact[kDirectRows];
      forget(p, plan, scratch, exact);
      rolling_rows<typename L::Exact, kIndexed, kKernel, kStride>(p, plan, columns, row, count, exact);
    } else {
      forward_windows<typename L::Element>(p, plan, nullptr, at, at + count);
    }
    forget(p, plan, scratch, kept); // rows to come must note what is strange in these again
  }
  stream_fence();
}

// Null where windows that share rows are too rare to have code of their own.
template <class L, bool kIndexed>
inline ForwardKernel find_rolling(int64_t kernel, int64_t stride) {
  if (kernel == 2 && stride == 1) {
    return forward_rolling<L, kIndexed, 2, 1>;
  }
  if (kernel == 3) {
    return stride == 1 ? forward_rolling<L, kIndexed, 3, 1> : forward_rolling<L, kIndexed, 3, 2>;
  }
  return nullptr;
}

// Changes a plan of family "direct" where this one does better.
template <class L>
inline void plan_rolling(const ForwardParams& p, ForwardPlan& plan) {
  const Shape& shape = p.shape;
  const ForwardKernel run = p.offsets ? find_rolling<L, true>(shape.w.kernel, shape.w.stride)
                                      : find_rolling<L, false>(shape.w.kernel, shape.w.stride);
  if (run == nullptr || shape.d.kernel > 1 || shape.h.dilation > 1 || shape.h.stride >= shape.h.kernel) {
    return;
  }
  plan.family = "rolling";
  plan.run = run;
  plan.kept_mask = 1;
  while (plan.kept_mask + 1 < shape.h.kernel) {
    plan.kept_mask = 2 * plan.kept_mask + 1;
  }
  plan.scratch_bytes = (plan.kept_mask + 1) * RollingRow<L>::bytes(shape.w.output);
}

// "direct" or "rolling".
template <class L>
inline bool plan_rows(const ForwardParams& p, ForwardPlan& plan) {
  if (!plan_direct<L>(p, plan)) {
    return false;
  }
  plan_rolling<L>(p, plan);
  return true;
}

} // namespace
