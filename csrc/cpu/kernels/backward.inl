// Backward: each output's gradient is added at its winner.

namespace {

inline float widen(Bfloat x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  __builtin_memcpy(&result, &bits, sizeof result);
  return result;
}

inline float widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t magnitude = x.bits & 0x7fff;
  uint32_t bits;
  if (magnitude >= 0x7c00) { // infinity, NaN
    bits = sign | 0x7f800000 | (magnitude & 0x3ff) << 13;
  } else if (magnitude >= 0x400) { // normal
    bits = sign | ((magnitude << 13) + ((127 - 15) << 23));
  } else { // subnormal: magnitude * 2^-24
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    __builtin_memcpy(&bits, &value, sizeof bits);
    bits |= sign;
  }
  float result;
  __builtin_memcpy(&result, &bits, sizeof result);
  return result;
}

// Round to nearest, ties to even; NaNs stay NaNs.
inline void narrow(float value, Bfloat& to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  to.bits = value != value ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void narrow(float value, Half& to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  uint32_t result;
  if (bits > 0x7f800000) {
    result = 0x7e00;
  } else if (bits >= 0x477ff000) { // at least 65520 rounds to infinity
    result = 0x7c00;
  } else if (bits >= 0x38800000) { // at least 2^-14: normal
    result = (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13;
  } else { // subnormal: adding 0.5 lets the adder round to multiples of 2^-24
    float magnitude;
    __builtin_memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    __builtin_memcpy(&result, &magnitude, sizeof result);
    result -= 0x3f000000;
  }
  to.bits = static_cast<uint16_t>(sign | result);
}

inline float widen(float x) {
  return x;
}
inline double widen(double x) {
  return x;
}

// Where the taps of a window lie from its tap 0, for windows of up to 256 taps: divisions done once.
struct TapTable {
  int64_t count;
  int64_t place[256]; // in elements
  uint8_t d[256], h[256], w[256]; // tap numbers along each dimension (a dimension of 256 taps has them to itself)

  TapTable(const Shape& shape, const Strides& strides) : count(shape.d.kernel * shape.h.kernel * shape.w.kernel) {
    int64_t tap = 0;
    for (int64_t i = 0; i < shape.d.kernel; ++i) {
      for (int64_t j = 0; j < shape.h.kernel; ++j) {
        for (int64_t k = 0; k < shape.w.kernel; ++k, ++tap) {
          place[tap] =
              i * shape.d.dilation * strides.d + j * shape.h.dilation * strides.h + k * shape.w.dilation * strides.w;
          d[tap] = static_cast<uint8_t>(i);
          h[tap] = static_cast<uint8_t>(j);
          w[tap] = static_cast<uint8_t>(k);
        }
      }
    }
  }
};

// Finds elements of the plane of the input by offsets.
template <class Offset>
struct Finder {
  const Shape& shape;
  const Strides& strides;

  Finder(const Shape& the_shape, const Strides& the_strides) : shape(the_shape), strides(the_strides) {}

  static constexpr bool kIsFast = false;
  // Number of taps and places of taps, where kIsFast.
  inline int64_t taps() const {
    return 0;
  }
  inline int64_t place(int64_t) const {
    return 0;
  }

  // The element's place in the plane, kNoElement or kBadOffset.
  inline int64_t operator()(const Taps& td, const Taps& th, const Taps& tw, int64_t offset) const {
    Place place;
    const int64_t found = resolve(shape, td, th, tw, offset, place);
    return found < 0 ? found : place.d * strides.d + place.h * strides.h + place.w * strides.w;
  }
};
template <>
struct Finder<uint8_t> {
  const Strides& strides;
  const TapTable table;

  Finder(const Shape& shape, const Strides& the_strides) : strides(the_strides), table(shape, the_strides) {}

  static constexpr bool kIsFast = true;
  inline int64_t taps() const {
    return table.count;
  }
  inline int64_t place(int64_t offset) const {
    return table.place[offset];
  }

  inline int64_t operator()(const Taps& td, const Taps& th, const Taps& tw, int64_t offset) const {
    if (is_empty(td) || is_empty(th) || is_empty(tw)) {
      return kNoElement;
    }
    if (offset >= table.count || !tap_is_in(td, table.d[offset]) || !tap_is_in(th, table.h[offset]) ||
        !tap_is_in(tw, table.w[offset])) {
      return kBadOffset;
    }
    return td.start * strides.d + th.start * strides.h + tw.start * strides.w + table.place[offset];
  }
};

inline bool is_whole(const Taps& taps, const Axis& axis) {
  return taps.first == 0 && taps.last == axis.kernel;
}

// Clears one plane of sums and adds each output's gradient at its winner, in the order of the outputs.
// Returns -1 or the place of a bad offset within the plane of outputs.
template <class T, class Sum, class Offset>
int64_t scatter_plane(
    const BackwardParams& p,
    const Finder<Offset>& find,
    int64_t n,
    int64_t c,
    Sum* sums,
    const Strides& in) {
  const Shape& shape = p.shape;
  const Strides& out = p.output_strides;
  const T* grad = static_cast<const T*>(p.grad_output) + n * out.n + c * out.c;
  const volatile Offset* offsets = static_cast<const Offset*>(p.offsets) + n * out.n + c * out.c;
  const Interior interior = interior_of(shape.w);
  for (int64_t d = 0; d < shape.d.input; ++d) {
    for (int64_t h = 0; h < shape.h.input; ++h) {
      Sum* row = sums + d * in.d + h * in.h;
      if (in.w == 1) {
        __builtin_memset(row, 0, static_cast<size_t>(shape.w.input) * sizeof(Sum));
        continue;
      }
      for (int64_t w = 0; w < shape.w.input; ++w) {
        row[w * in.w] = 0;
      }
    }
  }
  for (int64_t d = 0; d < shape.d.output; ++d) {
    const Taps td = taps_of(shape.d, d);
    for (int64_t h = 0; h < shape.h.output; ++h) {
      const Taps th = taps_of(shape.h, h);
      const bool row_is_inside = is_whole(td, shape.d) && is_whole(th, shape.h);
      const int64_t out_row = d * out.d + h * out.h;
      const auto add = [&](int64_t begin, int64_t end) -> int64_t {
        for (int64_t w = begin; w < end; ++w) {
          const int64_t found = find(td, th, taps_of(shape.w, w), offsets[out_row + w * out.w]);
          if (found == kBadOffset) {
            return (d * shape.h.output + h) * shape.w.output + w;
          }
          if (found >= 0) {
            sums[found] += widen(grad[out_row + w * out.w]);
          }
        }
        return -1;
      };
      int64_t bad = -1;
      if (row_is_inside && Finder<Offset>::kIsFast && interior.begin < interior.end) {
        bad = add(0, interior.begin);
        Sum* const row = sums + td.start * in.d + th.start * in.h - shape.w.pad * in.w;
        for (int64_t w = interior.begin; bad < 0 && w < interior.end; ++w) {
          const int64_t offset = offsets[out_row + w * out.w];
          if (offset >= find.taps()) {
            bad = (d * shape.h.output + h) * shape.w.output + w;
            break;
          }
          row[w * shape.w.stride * in.w + find.place(offset)] += widen(grad[out_row + w * out.w]);
        }
        bad = bad < 0 ? add(interior.end, shape.w.output) : bad;
      } else {
        bad = add(0, shape.w.output);
      }
      if (bad >= 0) {
        return bad;
      }
    }
  }
  return -1;
}

template <class T, class Offset>
int64_t backward_planes(const BackwardParams& p, int64_t begin, int64_t end) {
  const Finder<Offset> find(p.shape, p.input_strides);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.shape.channels;
    const int64_t c = unit % p.shape.channels;
    T* sums = static_cast<T*>(p.grad_input) + n * p.input_strides.n + c * p.input_strides.c;
    const int64_t bad = scatter_plane<T, T, Offset>(p, find, n, c, sums, p.input_strides);
    if (bad >= 0) {
      return unit * p.shape.d.output * p.shape.h.output * p.shape.w.output + bad;
    }
  }
  return -1;
}

// Sums in float32, rounded once.
template <class T, class Offset>
int64_t backward_narrow_planes(const BackwardParams& p, float* scratch, int64_t begin, int64_t end) {
  const Axis& d = p.shape.d;
  const Axis& h = p.shape.h;
  const Axis& w = p.shape.w;
  const Strides dense = {0, 0, h.input * w.input, w.input, 1};
  const Finder<Offset> find(p.shape, dense);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.shape.channels;
    const int64_t c = unit % p.shape.channels;
    const int64_t bad = scatter_plane<T, float, Offset>(p, find, n, c, scratch, dense);
    if (bad >= 0) {
      return unit * d.output * h.output * w.output + bad;
    }
    T* grad_input = static_cast<T*>(p.grad_input) + n * p.input_strides.n + c * p.input_strides.c;
    for (int64_t i = 0; i < d.input; ++i) {
      for (int64_t j = 0; j < h.input; ++j) {
        for (int64_t k = 0; k < w.input; ++k) {
          T& to = grad_input[i * p.input_strides.d + j * p.input_strides.h + k * p.input_strides.w];
          narrow(scratch[i * dense.d + j * dense.h + k], to);
        }
      }
    }
  }
  return -1;
}

template <class T>
int64_t backward(const BackwardParams& p, float*, int64_t begin, int64_t end) {
  return p.wide_offsets ? backward_planes<T, int32_t>(p, begin, end) : backward_planes<T, uint8_t>(p, begin, end);
}

template <class T>
int64_t backward_narrow(const BackwardParams& p, float* scratch, int64_t begin, int64_t end) {
  return p.wide_offsets ? backward_narrow_planes<T, int32_t>(p, scratch, begin, end)
                        : backward_narrow_planes<T, uint8_t>(p, scratch, begin, end);
}

} // namespace
