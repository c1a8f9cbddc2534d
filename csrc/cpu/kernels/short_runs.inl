// Forward, family "short runs": values of float64 windows along a row that share little. A vector holds so few of these
// elements that one by one, four windows at a time, they take less than to be sorted into lanes.

namespace {

// Its first number is the larger of two, the earlier of equals; without the branch that compilers make of a comparison.
#if defined(__x86_64__)
typedef Vector<double, 2> Largest;
TORCH_MAXPOOL_INLINE Largest largest_of(double element, Largest best) {
  return __builtin_ia32_maxsd(Largest{element, 0}, best);
}
#else
struct Largest {
  double number;
  double operator[](int) const {
    return number;
  }
};
TORCH_MAXPOOL_INLINE Largest largest_of(double element, Largest best) {
  return {element > best.number ? element : best.number};
}
#endif

// kWindows windows within the row, from the one at `from` on. No element is NaN.
template <int kWindows>
TORCH_MAXPOOL_INLINE void pool_short_runs(const double* from, const Axis& w, double* to) {
  Largest best[kWindows];
#pragma GCC unroll 4
  for (int u = 0; u < kWindows; ++u) {
    best[u] = Largest{from[u * w.stride]};
  }
  const int64_t end = w.kernel * w.dilation;
  for (int64_t t = w.dilation; t < end; t += w.dilation) {
#pragma GCC unroll 4
    for (int u = 0; u < kWindows; ++u) {
      best[u] = largest_of(from[t + u * w.stride], best[u]);
    }
  }
#pragma GCC unroll 4
  for (int u = 0; u < kWindows; ++u) {
    to[u] = best[u][0];
  }
}

inline bool has_nan(const ForwardParams& p, const double* row, int64_t count) {
  typedef Lanes<double> L;
  typename L::Mask noted = {};
  int64_t i = 0;
  for (; i + L::kLanes <= count; i += L::kLanes) {
    L::note_at(noted, row + i);
  }
  bool found = L::is_strange(noted, p);
  for (; i < count; ++i) {
    found |= row[i] != row[i];
  }
  return found;
}

// Units: rows of the output.
inline void forward_short_runs(const ForwardParams& p, const ForwardPlan&, void*, int64_t begin, int64_t end) {
  const Shape& shape = p.shape;
  const Axis& w = shape.w;
  const Interior inner = interior_of(w);
  Row row = row_of(shape, begin);
  for (int64_t unit = begin; unit < end; ++unit, advance(shape, row)) {
    const double* const from = static_cast<const double*>(p.input) + input_place(p, row);
    double* const to = static_cast<double*>(p.output) + output_place(p.output_strides, row);
    if (inner.begin >= inner.end || has_nan(p, from, w.input)) {
      forward_row<double>(p, row, 0, w.output);
      continue;
    }
    forward_row<double>(p, row, 0, inner.begin);
    int64_t o = inner.begin;
    for (; o + 4 <= inner.end; o += 4) {
      pool_short_runs<4>(from + o * w.stride - w.pad, w, to + o);
    }
    for (; o < inner.end; ++o) {
      pool_short_runs<1>(from + o * w.stride - w.pad, w, to + o);
    }
    forward_row<double>(p, row, inner.end, w.output);
  }
}

// Fills `plan`, and its cost, where the family fits.
template <class T>
inline bool plan_short_runs(const ForwardParams& p, ForwardPlan& plan) {
  if constexpr (__is_same(T, double)) {
    const Shape& shape = p.shape;
    const Axis& w = shape.w;
    constexpr int64_t kLeastStride = 5; // windows that are nearer are sorted into lanes in less time
    constexpr int64_t kMostTaps = 12;
    if (p.offsets || shape.d.kernel > 1 || shape.h.kernel > 1 || shape.d.pad != 0 || shape.h.pad != 0 ||
        p.input_strides.w != 1 || p.output_strides.w != 1 || w.stride < kLeastStride || w.kernel > kMostTaps ||
        w.stride < w.kernel - w.kernel / 4) {
      return false;
    }
    plan = plan_windows<T>(p);
    plan.family = "short runs";
    plan.run = forward_short_runs;
    plan.cost = plan.units * (60 + w.output * (2 + w.kernel * 3)); // in tenths of nanoseconds (Granite Rapids)
    return true;
  }
  return false;
}

} // namespace
