// Every kernel, once. Included by kernels_*.cpp inside a namespace of its own and, where the instruction set needs it, a
// target region: so this file includes nothing, uses no std:: templates, and gives everything internal linkage.

namespace {

// ---- Element types and their order ---------------------------------------------------------------------------------

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

template <class T>
struct Type;

template <class T, bool kIsFloat>
struct PlainType {
  // True where `challenger`, met after `champion`, takes its place: strictly greater, or a NaN.
  static inline bool beats(T challenger, T champion) {
    return challenger > champion || (kIsFloat && challenger != challenger);
  }
};
template <>
struct Type<double> : PlainType<double, true> {
  static inline double lowest() {
    return -__builtin_inf();
  }
};
template <>
struct Type<float> : PlainType<float, true> {
  static inline float lowest() {
    return -__builtin_inff();
  }
};
template <>
struct Type<uint8_t> : PlainType<uint8_t, false> {
  static inline uint8_t lowest() {
    return 0;
  }
};
template <>
struct Type<int8_t> : PlainType<int8_t, false> {
  static inline int8_t lowest() {
    return INT8_MIN;
  }
};
template <>
struct Type<int16_t> : PlainType<int16_t, false> {
  static inline int16_t lowest() {
    return INT16_MIN;
  }
};
template <>
struct Type<int32_t> : PlainType<int32_t, false> {
  static inline int32_t lowest() {
    return INT32_MIN;
  }
};
template <>
struct Type<int64_t> : PlainType<int64_t, false> {
  static inline int64_t lowest() {
    return INT64_MIN;
  }
};

// 16-bit floats compare through integer keys: sign and magnitude become two's complement, so -0 equals +0.
template <class T, int kInfinity>
struct KeyedType {
  static inline int key(T x) {
    const int magnitude = x.bits & 0x7fff;
    return x.bits & 0x8000 ? -magnitude : magnitude;
  }
  static inline bool beats(T challenger, T champion) {
    const bool challenger_is_nan = (challenger.bits & 0x7fff) > kInfinity;
    const bool champion_is_nan = (champion.bits & 0x7fff) > kInfinity;
    return challenger_is_nan || (!champion_is_nan && key(challenger) > key(champion));
  }
  static inline T lowest() {
    return T{static_cast<uint16_t>(0x8000 | kInfinity)};
  }
};
template <>
struct Type<Half> : KeyedType<Half, 0x7c00> {};
template <>
struct Type<Bfloat> : KeyedType<Bfloat, 0x7f80> {};

// ---- Windows -------------------------------------------------------------------------------------------------------

// The taps of one window that lie within the input along one dimension: numbers [first, last), and where tap 0 lies.
struct Taps {
  int64_t start;
  int64_t first;
  int64_t last;
};

inline Taps taps_of(const Axis& axis, int64_t out) {
  Taps taps;
  taps.start = out * axis.stride - axis.pad;
  taps.first = taps.start < 0 ? (-taps.start - 1) / axis.dilation + 1 : 0;
  const int64_t room = axis.input - 1 - taps.start; // distance from tap 0 to the last element
  taps.last = room < 0 ? 0 : room / axis.dilation + 1;
  taps.last = taps.last < axis.kernel ? taps.last : axis.kernel;
  return taps;
}

inline bool is_empty(const Taps& taps) {
  return taps.first >= taps.last;
}

// A row of the output.
struct Row {
  int64_t n, c, d, h;
};

inline Row row_of(const Shape& shape, int64_t unit) {
  Row row;
  row.h = unit % shape.h.output;
  unit /= shape.h.output;
  row.d = unit % shape.d.output;
  unit /= shape.d.output;
  row.c = unit % shape.channels;
  row.n = unit / shape.channels;
  return row;
}

// ---- Forward -------------------------------------------------------------------------------------------------------

// Any shape, any strides: one window at a time, over the elements it has.
template <class T, class Offset>
void forward_windows(const ForwardParams& p, int64_t begin, int64_t end) {
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const Strides& out = p.output_strides;
  for (int64_t unit = begin; unit < end; ++unit) {
    const Row row = row_of(shape, unit);
    const T* plane = static_cast<const T*>(p.input) + row.n * in.n + row.c * in.c;
    const int64_t out_row = row.n * out.n + row.c * out.c + row.d * out.d + row.h * out.h;
    T* values = static_cast<T*>(p.output) + out_row;
    Offset* offsets = p.offsets ? static_cast<Offset*>(p.offsets) + out_row : nullptr;
    const Taps td = taps_of(shape.d, row.d);
    const Taps th = taps_of(shape.h, row.h);
    for (int64_t o = 0; o < shape.w.output; ++o) {
      const Taps tw = taps_of(shape.w, o);
      T best = Type<T>::lowest();
      int64_t winner = 0;
      if (!is_empty(td) && !is_empty(th) && !is_empty(tw)) {
        const T* seed = plane + (td.start + td.first * shape.d.dilation) * in.d +
            (th.start + th.first * shape.h.dilation) * in.h + (tw.start + tw.first * shape.w.dilation) * in.w;
        best = *seed;
        winner = (td.first * shape.h.kernel + th.first) * shape.w.kernel + tw.first;
        for (int64_t a = td.first; a < td.last; ++a) {
          for (int64_t b = th.first; b < th.last; ++b) {
            const T* line = plane + (td.start + a * shape.d.dilation) * in.d + (th.start + b * shape.h.dilation) * in.h;
            for (int64_t c = tw.first; c < tw.last; ++c) {
              const T value = line[(tw.start + c * shape.w.dilation) * in.w];
              if (Type<T>::beats(value, best)) {
                best = value;
                winner = (a * shape.h.kernel + b) * shape.w.kernel + c;
              }
            }
          }
        }
      }
      values[o * out.w] = best;
      if (offsets) {
        offsets[o * out.w] = static_cast<Offset>(winner);
      }
    }
  }
}

template <class T>
void forward(const ForwardParams& p, int64_t begin, int64_t end) {
  if (p.wide_offsets) {
    forward_windows<T, int32_t>(p, begin, end);
  } else {
    forward_windows<T, uint8_t>(p, begin, end);
  }
}

// ---- Winners' places -----------------------------------------------------------------------------------------------

enum : int64_t { kNoElement = -1, kBadOffset = -2 };

// Where the element lies that an offset names, in each dimension.
struct Place {
  int64_t d, h, w;
};

inline bool tap_is_in(const Taps& taps, int64_t tap) {
  return tap >= taps.first && tap < taps.last;
}

// Fills `place`; returns 0, kNoElement (an empty window, whatever the offset) or kBadOffset.
inline int64_t resolve(
    const Shape& shape,
    const Taps& td,
    const Taps& th,
    const Taps& tw,
    int64_t offset,
    Place& place) {
  if (is_empty(td) || is_empty(th) || is_empty(tw)) {
    return kNoElement;
  }
  if (offset < 0) {
    return kBadOffset;
  }
  const int64_t rest = offset / shape.w.kernel;
  const int64_t c = offset - rest * shape.w.kernel;
  const int64_t a = rest / shape.h.kernel;
  const int64_t b = rest - a * shape.h.kernel;
  if (!tap_is_in(td, a) || !tap_is_in(th, b) || !tap_is_in(tw, c)) {
    return kBadOffset;
  }
  place.d = td.start + a * shape.d.dilation;
  place.h = th.start + b * shape.h.dilation;
  place.w = tw.start + c * shape.w.dilation;
  return 0;
}

template <class T>
inline void copy_element(void* to, int64_t at, const void* from, int64_t index) {
  static_cast<T*>(to)[at] = index < 0 ? T(0) : static_cast<const T*>(from)[index];
}

template <class Offset>
int64_t places_of(const PlacesParams& p, int64_t begin, int64_t end) {
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  for (int64_t unit = begin; unit < end; ++unit) {
    const Row row = row_of(shape, unit);
    const Taps td = taps_of(shape.d, row.d);
    const Taps th = taps_of(shape.h, row.h);
    for (int64_t o = 0; o < shape.w.output; ++o) {
      const int64_t at = unit * shape.w.output + o;
      const int64_t offset = static_cast<const volatile Offset*>(p.offsets)[at];
      Place place;
      const int64_t found = resolve(shape, td, th, taps_of(shape.w, o), offset, place);
      if (found == kBadOffset) {
        return at;
      }
      if (p.indices) {
        p.indices[at] =
            found < 0 ? kNoElement : (place.d * shape.h.input + place.h) * shape.w.input + place.w;
      }
      if (p.gathered) {
        const int64_t index =
            found < 0 ? -1 : row.n * in.n + row.c * in.c + place.d * in.d + place.h * in.h + place.w * in.w;
        switch (p.element_bytes) {
          case 1:
            copy_element<uint8_t>(p.gathered, at, p.input, index);
            break;
          case 2:
            copy_element<uint16_t>(p.gathered, at, p.input, index);
            break;
          case 4:
            copy_element<uint32_t>(p.gathered, at, p.input, index);
            break;
          default:
            copy_element<uint64_t>(p.gathered, at, p.input, index);
        }
      }
    }
  }
  return -1;
}

int64_t places(const PlacesParams& p, int64_t begin, int64_t end) {
  return p.wide_offsets ? places_of<int32_t>(p, begin, end) : places_of<uint8_t>(p, begin, end);
}

// ---- Backward ------------------------------------------------------------------------------------------------------

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

constexpr KernelTable table(const char* name) {
  return {
      name,
      {forward<double>,
       forward<float>,
       forward<Half>,
       forward<Bfloat>,
       forward<uint8_t>,
       forward<int8_t>,
       forward<int16_t>,
       forward<int32_t>,
       forward<int64_t>},
      {backward<double>, backward<float>, backward_narrow<Half>, backward_narrow<Bfloat>},
      places,
  };
}

} // namespace
