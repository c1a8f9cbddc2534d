// Forward, family "picked": windows of one element (max_pool2d(x, 1, 2) on top of feature pyramids). Every stride-th
// element of a row is copied, whatever it holds.

namespace {

// Every kStride-th of `from`; `readable`: elements that may be read. Returns how many are done.
template <class V, int kStride, class U>
TORCH_MAXPOOL_INLINE int64_t pick_vectors(const U* from, int64_t readable, U* to, int64_t count) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(U);
  const int64_t most = readable / kStride; // groups of kStride elements
  const int64_t whole = count < most ? count : most;
  if (whole < kLanes) {
    return 0;
  }
  for (int64_t i = 0; i < whole; i += kLanes) {
    i = i + kLanes <= whole ? i : whole - kLanes; // the last vector overlaps the one before
    V v[kStride];
    for (int u = 0; u < kStride; ++u) {
      v[u] = load_vector<V>(from + i * kStride + u * kLanes);
    }
    split(v);
    store_vector(to + i, v[0]);
  }
  return whole;
}

template <int kStride, class U>
inline void pick_by(const U* from, int64_t readable, U* to, int64_t count) {
  int64_t done = 0;
  if (count * static_cast<int64_t>(sizeof(U)) >= kVectorBytes) {
    done = pick_vectors<Vector<U, kVectorBytes / sizeof(U)>, kStride>(from, readable, to, count);
  } else {
    done = pick_vectors<Vector<U, 16 / sizeof(U)>, kStride>(from, readable, to, count);
  }
  for (int64_t i = done; i < count; ++i) {
    to[i] = from[i * kStride];
  }
}

template <class U>
inline void pick(const U* from, int64_t readable, int64_t stride, U* to, int64_t count) {
  switch (stride) {
    case 1:
      return copy_bytes(to, from, count * static_cast<int64_t>(sizeof(U)));
    case 2:
      return pick_by<2>(from, readable, to, count);
    case 3:
      return pick_by<3>(from, readable, to, count);
    case 4:
      return pick_by<4>(from, readable, to, count);
    default:
      for (int64_t i = 0; i < count; ++i) {
        to[i] = from[i * stride];
      }
  }
}

// Units: rows of the output.
template <class T>
void forward_picked(const ForwardParams& p, const ForwardPlan&, void*, int64_t begin, int64_t end) {
  typedef typename UnsignedOf<sizeof(T)>::type U;
  const Shape& shape = p.shape;
  const int64_t count = shape.w.output;
  const int64_t stride = shape.w.stride;
  const bool is_dense = is_dense_input(p);
  const int64_t all = shape.batch * shape.channels * shape.d.input * shape.h.input * shape.w.input;
  Row row = row_of(shape, begin);
  for (int64_t unit = begin; unit < end; ++unit, advance(shape, row)) {
    const int64_t at = input_place(p, row);
    const int64_t to = output_place(p.output_strides, row);
    const int64_t readable = is_dense ? all - at : shape.w.input;
    pick<U>(static_cast<const U*>(p.input) + at, readable, stride, static_cast<U*>(p.output) + to, count);
  }
  if (p.offsets) {
    const int64_t bytes = count * (p.wide_offsets ? 4 : 1);
    __builtin_memset(static_cast<char*>(p.offsets) + begin * bytes, 0, (end - begin) * bytes);
  }
}

// Fills `plan` where the family fits.
template <class T>
inline bool plan_picked(const ForwardParams& p, ForwardPlan& plan) {
  const Shape& shape = p.shape;
  if (shape.d.kernel > 1 || shape.h.kernel > 1 || shape.w.kernel > 1 || p.input_strides.w != 1 || !is_dense_output(p)) {
    return false;
  }
  plan = plan_windows<T>(p);
  plan.family = "picked";
  plan.run = forward_picked<T>;
  constexpr int64_t kRowCost = 45; // in tenths of nanoseconds (measured on Granite Rapids)
  constexpr int64_t kLanes = 16 / sizeof(T);
  const bool is_by_vectors = shape.w.output >= kLanes && shape.w.stride <= 4;
  plan.cost = plan.units * (kRowCost + (is_by_vectors ? rounded_up(shape.w.output, kLanes) * 8 : shape.w.output * 3));
  return true;
}

} // namespace
