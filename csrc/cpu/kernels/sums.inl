// Sums of gradients: 16-bit floats are summed in float32 and rounded once, the others in their own type.

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
inline void narrow(float value, float& to) {
  to = value;
}
inline void narrow(double value, double& to) {
  to = value;
}

template <class T>
struct SumType {
  typedef float type;
};
template <>
struct SumType<double> {
  typedef double type;
};
template <class T>
using SumOf = typename SumType<T>::type;

// Vectors of kLanes sums, and the elements T in memory that they come from and go to. `store` goes to any address,
// `store_pairs` with the lanes of two vectors in turns, `stream` past the cache to an address aligned to kBytes.
template <class T, int kVector = kVectorBytes>
struct Sums {
  typedef SumOf<T> Sum;
  static constexpr int kLanes = kVector / static_cast<int>(sizeof(Sum));
  static constexpr int kBytes = kLanes * static_cast<int>(sizeof(T));
  typedef Vector<Sum, kLanes> V;
  static TORCH_MAXPOOL_INLINE V load(const T* from) {
    return load_vector<V>(from);
  }
  static TORCH_MAXPOOL_INLINE void store(T* to, V v) {
    store_vector(to, v);
  }
  static TORCH_MAXPOOL_INLINE void store_pairs(T* to, V first, V second) {
    store(to, zip_low(first, second));
    store(to + kLanes, zip_high(first, second));
  }
  static TORCH_MAXPOOL_INLINE void stream(T* to, V v) {
    stream_vector(to, v);
  }
};

template <class T, int kVector>
struct NarrowSums {
  typedef float Sum;
  static constexpr int kLanes = kVector / 4;
  static constexpr int kBytes = kLanes * 2;
  typedef Vector<float, kLanes> V;
  typedef Vector<uint16_t, kLanes> Bits;
  typedef Vector<uint32_t, kLanes> Wide;

  static TORCH_MAXPOOL_INLINE V load(const T* from) {
    const Bits bits = load_vector<Bits>(from);
    V v;
    if constexpr (__is_same(T, Bfloat)) {
      const Wide wide = convert<Wide>(bits) << 16;
      __builtin_memcpy(&v, &wide, sizeof v);
      return v;
    }
#if defined(TORCH_MAXPOOL_HAS_AVX512)
    if constexpr (kLanes == 16) {
      return reinterpret_cast<V>(_mm512_cvtph_ps(reinterpret_cast<__m256i>(bits)));
    }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX2)
    if constexpr (kLanes == 8) {
      return reinterpret_cast<V>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(bits)));
    }
#endif
    for (int i = 0; i < kLanes; ++i) {
      v[i] = widen(Half{bits[i]});
    }
    return v;
  }
  // In the high halves, what they are rounded to as bfloat16; the low halves mean nothing.
  static TORCH_MAXPOOL_INLINE Wide rounded_high(V v) {
    Wide wide;
    __builtin_memcpy(&wide, &v, sizeof v);
    return v != v ? Wide{} + 0x7fc00000 : wide + 0x7fff + (wide >> 16 & 1);
  }
  static TORCH_MAXPOOL_INLINE Bits rounded(V v) {
    if constexpr (__is_same(T, Bfloat)) {
      return convert<Bits>(rounded_high(v) >> 16);
    }
    Wide wide;
    __builtin_memcpy(&wide, &v, sizeof v);
#if defined(TORCH_MAXPOOL_HAS_AVX2)
    wide = v != v ? Wide{} + 0x7fc00000 : wide; // the conversion would keep what NaNs carry
    __builtin_memcpy(&v, &wide, sizeof v);
    if constexpr (kLanes == 8) {
      return reinterpret_cast<Bits>(_mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX512)
    if constexpr (kLanes == 16) {
      return reinterpret_cast<Bits>(_mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#endif
    Bits bits;
    for (int i = 0; i < kLanes; ++i) {
      Half half;
      narrow(v[i], half);
      bits[i] = half.bits;
    }
    return bits;
  }
  static TORCH_MAXPOOL_INLINE void store(T* to, V v) {
    store_vector(to, rounded(v));
  }
  static TORCH_MAXPOOL_INLINE void store_pairs(T* to, V first, V second) {
    if constexpr (__is_same(T, Bfloat)) { // of a pair, the first lies in the low half of 32 bits
      store_vector(to, rounded_high(first) >> 16 | (rounded_high(second) & 0xffff0000));
    } else {
      const Bits firsts = rounded(first);
      const Bits seconds = rounded(second);
      store_vector(to, zip_low(firsts, seconds));
      store_vector(to + kLanes, zip_high(firsts, seconds));
    }
  }
  static TORCH_MAXPOOL_INLINE void stream(T* to, V v) {
    if constexpr (kBytes >= 16) {
      stream_vector(to, rounded(v));
    } else {
      store(to, v);
    }
  }
};
template <int kVector>
struct Sums<Half, kVector> : NarrowSums<Half, kVector> {};
template <int kVector>
struct Sums<Bfloat, kVector> : NarrowSums<Bfloat, kVector> {};

// As Sums, for 16-bit floats of which at most one goes to each element: their bits, as adding to +0 would leave them.
template <class T, int kVector>
struct MovedBits {
  typedef uint16_t Sum;
  static constexpr int kBytes = kVector < 32 ? kVector : 32; // as many lanes as TapLanes has, at the most
  static constexpr int kLanes = kBytes / 2;
  typedef Vector<uint16_t, kLanes> V;

  static TORCH_MAXPOOL_INLINE V load(const T* from) {
    constexpr uint16_t kInfinity = __is_same(T, Bfloat) ? 0x7f80 : 0x7c00;
    constexpr uint16_t kNan = __is_same(T, Bfloat) ? 0x7fc0 : 0x7e00;
    const V bits = load_vector<V>(from);
    const V magnitude = bits & splat<V>(uint16_t{0x7fff});
    const V number = magnitude == V{} ? V{} : bits;
    return magnitude > splat<V>(kInfinity) ? splat<V>(kNan) : number;
  }
  static TORCH_MAXPOOL_INLINE void store(T* to, V v) {
    store_vector(to, v);
  }
  static TORCH_MAXPOOL_INLINE void stream(T* to, V v) {
    stream_vector(to, v);
  }
};
template <class T, int kVector>
struct MovedType {
  typedef Sums<T, kVector> type;
};
template <int kVector>
struct MovedType<Half, kVector> {
  typedef MovedBits<Half, kVector> type;
};
template <int kVector>
struct MovedType<Bfloat, kVector> {
  typedef MovedBits<Bfloat, kVector> type;
};
// How elements move where windows do not overlap.
template <class T, int kVector = kVectorBytes>
using Moved = typename MovedType<T, kVector>::type;

// Offsets or taps of up to 16 lanes, in the low bytes.
typedef Vector<uint8_t, 16> TapLanes;

// kLanes offsets from memory.
template <int kLanes>
TORCH_MAXPOOL_INLINE TapLanes load_offsets(const uint8_t* from) {
  if constexpr (kLanes == 16) {
    return load_vector<TapLanes>(from);
  }
  uint64_t bits = 0;
  __builtin_memcpy(&bits, from, kLanes);
  const Vector<uint64_t, 2> words = {bits, 0};
  return reinterpret_cast<TapLanes>(words);
}

// The first bytes as wider lanes: numbers, or masks of 0 and 255. Vectors of 16 bytes step by step, as what GCC 12 makes of
// __builtin_convertvector goes lane by lane there.
template <bool kMasks, class To>
TORCH_MAXPOOL_INLINE To widened(TapLanes bytes) {
  constexpr int kBytes = sizeof(To{}[0]);
  if constexpr (sizeof(To) == 16) {
    constexpr bool kIsFirst = kMasks || __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__; // a number's low byte
    const auto twice = [](auto v) __attribute__((always_inline)) {
      const auto high = kMasks ? v : decltype(v){};
      return zip_low(kIsFirst ? v : high, kIsFirst ? high : v);
    };
    const auto words = reinterpret_cast<Vector<uint16_t, 8>>(twice(bytes));
    if constexpr (kBytes == 2) {
      return reinterpret_cast<To>(words);
    } else if constexpr (kBytes == 4) {
      return reinterpret_cast<To>(twice(words));
    } else {
      return reinterpret_cast<To>(twice(reinterpret_cast<Vector<uint32_t, 4>>(twice(words))));
    }
  } else if constexpr (kMasks) {
    return __builtin_convertvector(resize<Vector<int8_t, kLanesOf<To>>>(bytes), To);
  } else {
    return convert<To>(resize<Vector<uint8_t, kLanesOf<To>>>(bytes));
  }
}

// sum + (offset == tap ? value : +0) in each lane, which leaves a sum that is not -0 bit for bit where offsets differ.
template <class S>
TORCH_MAXPOOL_INLINE typename S::V add_where(typename S::V sum, typename S::V value, TapLanes offsets, TapLanes taps) {
  typedef typename S::V V;
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  const __m128i a = reinterpret_cast<__m128i>(offsets);
  const __m128i b = reinterpret_cast<__m128i>(taps);
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX512)
  const __mmask16 wins = _mm_cmpeq_epi8_mask(a, b);
  if constexpr (sizeof(V) == 64 && S::kLanes == 16) {
    const __m512 before = reinterpret_cast<__m512>(sum);
    return reinterpret_cast<V>(_mm512_mask_add_ps(before, wins, before, reinterpret_cast<__m512>(value)));
  }
  const __mmask8 low = static_cast<__mmask8>(wins);
  if constexpr (sizeof(V) == 64 && S::kLanes == 8) {
    const __m512d before = reinterpret_cast<__m512d>(sum);
    return reinterpret_cast<V>(_mm512_mask_add_pd(before, low, before, reinterpret_cast<__m512d>(value)));
  }
  if constexpr (sizeof(V) == 32 && S::kLanes == 8) {
    const __m256 before = reinterpret_cast<__m256>(sum);
    return reinterpret_cast<V>(_mm256_mask_add_ps(before, low, before, reinterpret_cast<__m256>(value)));
  }
  if constexpr (sizeof(V) == 32 && S::kLanes == 4) {
    const __m256d before = reinterpret_cast<__m256d>(sum);
    return reinterpret_cast<V>(_mm256_mask_add_pd(before, low, before, reinterpret_cast<__m256d>(value)));
  }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  const __m128i equal = _mm_cmpeq_epi8(a, b);
  if constexpr (sizeof(V) == 32 && S::kLanes == 8) {
    const __m256i wins = _mm256_cvtepi8_epi32(equal);
    return sum + reinterpret_cast<V>(_mm256_and_si256(reinterpret_cast<__m256i>(value), wins));
  }
  if constexpr (sizeof(V) == 32 && S::kLanes == 4) {
    const __m256i wins = _mm256_cvtepi8_epi64(equal);
    return sum + reinterpret_cast<V>(_mm256_and_si256(reinterpret_cast<__m256i>(value), wins));
  }
  if constexpr (sizeof(V) == 16 && S::kLanes == 4) {
    const __m128i wins = _mm_cvtepi8_epi32(equal);
    return sum + reinterpret_cast<V>(_mm_and_si128(reinterpret_cast<__m128i>(value), wins));
  }
#endif
  typedef Vector<typename UnsignedOf<sizeof(typename S::Sum)>::mask, S::kLanes> Mask;
  const Mask mask = widened<true, Mask>(reinterpret_cast<TapLanes>(offsets == taps));
  return sum + reinterpret_cast<V>(reinterpret_cast<Mask>(value) & mask);
}

// Offsets, or taps, one beside each sum: as wide as sums, so that those which are compared more than once are widened
// once; bytes where comparing them gives a mask for sums of any width.
#if defined(TORCH_MAXPOOL_HAS_AVX512)
inline constexpr bool kTapsInBytes = true;
#else
inline constexpr bool kTapsInBytes = false;
#endif
template <class S, bool kInBytes>
struct TapsType {
  typedef Vector<typename UnsignedOf<sizeof(typename S::Sum)>::type, S::kLanes> type;
};
template <class S>
struct TapsType<S, true> {
  typedef TapLanes type;
};
template <class S, bool kInBytes = kTapsInBytes>
struct WideTaps {
  typedef typename TapsType<S, kInBytes>::type V;

  static TORCH_MAXPOOL_INLINE V load(const uint8_t* from) {
    if constexpr (kInBytes) {
      return load_offsets<S::kLanes>(from);
    } else {
      return widened<false, V>(load_offsets<S::kLanes>(from));
    }
  }
  // Of a number in uint8.
  static TORCH_MAXPOOL_INLINE V splat_of(uint8_t number) {
    return splat<V>(number);
  }
};

// sum + (offset == tap ? value : +0) in each lane, as above.
template <class S, class Taps>
TORCH_MAXPOOL_INLINE typename S::V add_equal(typename S::V sum, typename S::V value, Taps offsets, Taps taps) {
  if constexpr (__is_same(Taps, TapLanes)) {
    return add_where<S>(sum, value, offsets, taps);
  } else {
    const auto wins = offsets == taps;
    return sum + reinterpret_cast<typename S::V>(reinterpret_cast<decltype(wins)>(value) & wins);
  }
}

// `count` elements as sums.
template <class T>
inline void widen_row(SumOf<T>* to, const T* from, int64_t count) {
  typedef Sums<T> S;
  if constexpr (sizeof(T) == sizeof(SumOf<T>)) {
    copy_bytes(to, from, count * static_cast<int64_t>(sizeof(T)));
  } else {
    int64_t i = 0;
    for (; i + S::kLanes <= count; i += S::kLanes) {
      store_vector(to + i, S::load(from + i));
    }
    for (; i < count; ++i) {
      to[i] = widen(from[i]);
    }
  }
}

// `count` sums, rounded to elements.
template <class T>
inline void narrow_row(T* to, const SumOf<T>* from, int64_t count) {
  typedef Sums<T> S;
  if constexpr (sizeof(T) == sizeof(SumOf<T>)) {
    copy_bytes(to, from, count * static_cast<int64_t>(sizeof(T)));
  } else {
    int64_t i = 0;
    for (; i + S::kLanes <= count; i += S::kLanes) {
      S::store(to + i, load_vector<typename S::V>(from + i));
    }
    for (; i < count; ++i) {
      narrow(from[i], to[i]);
    }
  }
}

} // namespace
