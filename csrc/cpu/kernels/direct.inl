// Forward, family "direct": rows of adjacent elements, small windows without dilation along the width, straight from the
// input to the output. Within each input row the taps are compared first, then the rows in order: that keeps the first
// winner in row-major order.

namespace {

inline constexpr int kDirectRows = 16; // input rows per window at the most

// kLanes windows within one input row. kKernel and kStride: 2 or 3 and 1 or 2, or 4 and 4; `from` is tap 0 of the first.
// Reads exactly the elements of those windows. Every element is in `strange` at least once.
template <class L, bool kIndexed, int kKernel, int kStride>
inline Champions<L, kIndexed> across(const typename L::Element* from, int64_t tap, typename L::Mask& strange) {
  typedef typename L::V V;
  typedef typename L::IV IV;
  constexpr int kLanes = L::kLanes;
  const IV zero = splat_index<L>(tap);
  const IV one = splat_index<L>(tap + 1);
  const IV two = splat_index<L>(tap + 2);
  Champions<L, kIndexed> best;
  if constexpr (kStride == 1) {
    const V first = L::load(from);
    const V second = L::load(from + 1);
    if constexpr (L::kHasStrange) {
      strange |= L::strange(first) | L::strange(second);
    }
    best = {first, zero};
    best.meet(second, one);
    if constexpr (kKernel == 3) {
      const V third = L::load(from + 2);
      best.meet(third, two);
      if constexpr (L::kHasStrange) {
        strange |= L::strange(third);
      }
    }
  } else {
    const V a = L::load(from);
    const V b = L::load(from + kLanes);
    if constexpr (L::kHasStrange) {
      strange |= L::strange(a) | L::strange(b);
    }
    const V evens = even(a, b);
    best = {evens, zero};
    best.meet(odd(a, b), one);
    if constexpr (kKernel == 3) {
      const V last = V{} + L::lane(from[2 * kLanes]);
      if constexpr (L::kHasStrange) {
        strange |= L::strange(last);
      }
      best.meet(next(evens, last), two);
    }
    if constexpr (kKernel == 4) {
      const V c = L::load(from + 2 * kLanes);
      const V d = L::load(from + 3 * kLanes);
      if constexpr (L::kHasStrange) {
        strange |= L::strange(c) | L::strange(d);
      }
      Champions<L, kIndexed> later = {even(c, d), zero};
      later.meet(odd(c, d), one);
      const Champions<L, kIndexed> pairs = best;
      best = {even(pairs.value, later.value), zero};
      V right = odd(pairs.value, later.value);
      IV right_index = two;
      if constexpr (kIndexed) {
        best.index = even(pairs.index, later.index);
        right_index = odd(pairs.index, later.index) + (two - zero);
      }
      best.meet(right, right_index);
    }
  }
  return best;
}

// Columns whose windows lie within the row: [begin, end).
struct Interior {
  int64_t begin, end;
};

inline Interior interior_of(const Axis& axis) {
  const int64_t reach = (axis.kernel - 1) * axis.dilation + 1;
  Interior interior;
  interior.begin = (axis.pad + axis.stride - 1) / axis.stride;
  const int64_t room = axis.input + axis.pad - reach;
  interior.end = room < 0 ? 0 : room / axis.stride + 1;
  interior.end = interior.end < axis.output ? interior.end : axis.output;
  return interior;
}

// Units: rows of the output.
template <class L, bool kIndexed, int kKernel, int kStride>
void forward_direct(const ForwardParams& p, const ForwardPlan&, void*, int64_t begin, int64_t end) {
  typedef typename L::Element T;
  constexpr int kLanes = L::kLanes;
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const Strides& out = p.output_strides;
  const Interior interior = interior_of(shape.w);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Row row = row_of(shape, unit);
    const Taps td = taps_of(shape.d, row.d);
    const Taps th = taps_of(shape.h, row.h);
    const T* plane = static_cast<const T*>(p.input) + row.n * in.n + row.c * in.c - shape.w.pad;
    const T* lines[kDirectRows];
    int64_t taps[kDirectRows];
    int count = 0;
    for (int64_t a = td.first; a < td.last; ++a) {
      for (int64_t b = th.first; b < th.last; ++b) {
        lines[count] = plane + (td.start + a * shape.d.dilation) * in.d + (th.start + b * shape.h.dilation) * in.h;
        taps[count] = (a * shape.h.kernel + b) * kKernel;
        ++count;
      }
    }
    const int64_t out_row = row.n * out.n + row.c * out.c + row.d * out.d + row.h * out.h;
    T* values = static_cast<T*>(p.output) + out_row;
    uint8_t* offsets = kIndexed ? static_cast<uint8_t*>(p.offsets) + out_row : nullptr;
    typename L::Mask strange = {};
    int64_t o = interior.begin;
    for (;;) {
      const int64_t at = o * kStride;
      Champions<L, kIndexed> best = across<L, kIndexed, kKernel, kStride>(lines[0] + at, taps[0], strange);
      for (int i = 1; i < count; ++i) {
        best.meet(across<L, kIndexed, kKernel, kStride>(lines[i] + at, taps[i], strange));
      }
      L::store(values + o, best.value);
      if constexpr (kIndexed) {
        store_offsets<L>(offsets + o, best.index);
      }
      o += kLanes;
      if (o + kLanes > interior.end) {
        if (o >= interior.end) {
          break;
        }
        o = interior.end - kLanes; // the last vector overlaps the one before
      }
    }
    if (L::kHasStrange && any(strange)) {
      forward_row<T>(p, row, 0, shape.w.output);
    } else {
      forward_row<T>(p, row, 0, interior.begin);
      forward_row<T>(p, row, interior.end, shape.w.output);
    }
  }
}

template <class L, bool kIndexed>
inline ForwardKernel find_direct(int64_t kernel, int64_t stride) {
  if (kernel == 2 && stride == 2) {
    return forward_direct<L, kIndexed, 2, 2>;
  }
  if (kernel == 3 && stride == 2) {
    return forward_direct<L, kIndexed, 3, 2>;
  }
  if (kernel == 3 && stride == 1) {
    return forward_direct<L, kIndexed, 3, 1>;
  }
  if (kernel == 2 && stride == 1) {
    return forward_direct<L, kIndexed, 2, 1>;
  }
  if (kernel == 4 && stride == 4) {
    return forward_direct<L, kIndexed, 4, 4>;
  }
  return nullptr;
}

// Fills `plan` where the family fits, with vectors of L.
template <class L>
inline bool plan_direct(const ForwardParams& p, ForwardPlan& plan) {
  typedef typename L::Element T;
  const Shape& shape = p.shape;
  const Axis& w = shape.w;
  const Interior interior = interior_of(w);
  if (w.dilation != 1 || p.input_strides.w != 1 || p.output_strides.w != 1 || p.wide_offsets ||
      shape.d.kernel > kDirectRows || shape.h.kernel > kDirectRows || shape.d.kernel * shape.h.kernel > kDirectRows ||
      interior.end - interior.begin < L::kLanes) {
    return false;
  }
  const ForwardKernel run =
      p.offsets ? find_direct<L, true>(w.kernel, w.stride) : find_direct<L, false>(w.kernel, w.stride);
  if (run == nullptr) {
    return false;
  }
  plan = plan_windows<T>(p);
  plan.family = "direct";
  plan.run = run;
  return true;
}

} // namespace
