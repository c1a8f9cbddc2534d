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

// Clears one plane of sums and adds each output's gradient at its winner, in the order of the outputs.
// Returns -1 or the place of a bad offset within the plane of outputs.
template <class T, class Sum, class Offset>
int64_t scatter_plane(const BackwardParams& p, int64_t n, int64_t c, Sum* sums, const Strides& in) {
  const Shape& shape = p.shape;
  const Strides& out = p.output_strides;
  const T* grad = static_cast<const T*>(p.grad_output) + n * out.n + c * out.c;
  const volatile Offset* offsets = static_cast<const Offset*>(p.offsets) + n * out.n + c * out.c;
  for (int64_t d = 0; d < shape.d.input; ++d) {
    for (int64_t h = 0; h < shape.h.input; ++h) {
      for (int64_t w = 0; w < shape.w.input; ++w) {
        sums[d * in.d + h * in.h + w * in.w] = 0;
      }
    }
  }
  for (int64_t d = 0; d < shape.d.output; ++d) {
    const Taps td = taps_of(shape.d, d);
    for (int64_t h = 0; h < shape.h.output; ++h) {
      const Taps th = taps_of(shape.h, h);
      for (int64_t w = 0; w < shape.w.output; ++w) {
        const int64_t at = d * out.d + h * out.h + w * out.w;
        Place place;
        const int64_t found = resolve(shape, td, th, taps_of(shape.w, w), offsets[at], place);
        if (found == kBadOffset) {
          return (d * shape.h.output + h) * shape.w.output + w;
        }
        if (found == 0) {
          sums[place.d * in.d + place.h * in.h + place.w * in.w] += widen(grad[at]);
        }
      }
    }
  }
  return -1;
}

template <class T, class Offset>
int64_t backward_planes(const BackwardParams& p, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.shape.channels;
    const int64_t c = unit % p.shape.channels;
    T* sums = static_cast<T*>(p.grad_input) + n * p.input_strides.n + c * p.input_strides.c;
    const int64_t bad = scatter_plane<T, T, Offset>(p, n, c, sums, p.input_strides);
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
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.shape.channels;
    const int64_t c = unit % p.shape.channels;
    const int64_t bad = scatter_plane<T, float, Offset>(p, n, c, scratch, dense);
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
