// Vectors by GCC's and clang's vector extensions: memory, shuffles, comparisons, conversions.

// Small functions on vectors, which must not become calls.
#define TORCH_MAXPOOL_INLINE inline __attribute__((always_inline))

namespace {

// A vector of kCount lanes of T.
template <class T, int kCount>
struct VectorOf {
  typedef T type __attribute__((vector_size(kCount * sizeof(T))));
};
template <class T, int kCount>
using Vector = typename VectorOf<T, kCount>::type;

template <class V, class T>
TORCH_MAXPOOL_INLINE V load_vector(const T* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
template <class V, class T>
TORCH_MAXPOOL_INLINE void store_vector(T* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
}

// `v`, kept in a register: what was loaded and is used more than once, GCC would load again for each use.
template <class V>
TORCH_MAXPOOL_INLINE V held(V v) {
#if defined(__x86_64__)
  if constexpr (sizeof(V) == kVectorBytes || sizeof(V) == 16) {
    __asm__("" : "+v"(v));
  }
#endif
  return v;
}

template <int kBytes>
TORCH_MAXPOOL_INLINE void copy_ends(char* to, const char* from, int64_t bytes) {
  typedef Vector<char, kBytes> V;
  const V last = load_vector<V>(from + bytes - kBytes);
  store_vector(to, load_vector<V>(from));
  store_vector(to + bytes - kBytes, last);
}

// memcpy, without a call for short rows.
inline void copy_bytes(void* to_any, const void* from_any, int64_t bytes) {
  char* to = static_cast<char*>(to_any);
  const char* from = static_cast<const char*>(from_any);
  if (bytes >= kVectorBytes) {
    typedef Vector<char, kVectorBytes> V;
    int64_t i = 0;
    for (; i + kVectorBytes <= bytes; i += kVectorBytes) {
      store_vector(to + i, load_vector<V>(from + i));
    }
    store_vector(to + bytes - kVectorBytes, load_vector<V>(from + bytes - kVectorBytes));
  } else if (bytes >= kVectorBytes / 2) {
    copy_ends<kVectorBytes / 2>(to, from, bytes);
  } else if (bytes >= kVectorBytes / 4) {
    copy_ends<kVectorBytes / 4>(to, from, bytes);
  } else if (bytes >= 8) {
    copy_ends<8>(to, from, bytes);
  } else if (bytes >= 4) {
    copy_ends<4>(to, from, bytes);
  } else {
    for (int64_t i = 0; i < bytes; ++i) {
      to[i] = from[i];
    }
  }
}

// Stores that pass by the cache, to addresses aligned to the vector; elsewhere than on x86-64, plain ones.
template <class V, class T>
TORCH_MAXPOOL_INLINE void stream_vector(T* to, V v) {
#if defined(__x86_64__)
  if constexpr (sizeof(V) == 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(v));
    return;
  }
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  if constexpr (sizeof(V) == 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(v));
    return;
  }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX512)
  if constexpr (sizeof(V) == 64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(v));
    return;
  }
#endif
#endif
  store_vector(to, v); // not covered: other processors
}

// To be called after streaming, before another thread may read.
inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

template <class V>
inline bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % sizeof(V) == 0;
}

template <int... kIndex>
struct Sequence {};
#if defined(__clang__)
template <class, int... kIndex>
using SequenceOf = Sequence<kIndex...>;
template <int kCount>
using MakeSequence = __make_integer_seq<SequenceOf, int, kCount>;
#else
template <int kCount>
using MakeSequence = Sequence<__integer_pack(kCount)...>;
#endif

template <class V, int... kIndex>
TORCH_MAXPOOL_INLINE V even_lanes(V a, V b, Sequence<kIndex...>) {
  return __builtin_shufflevector(a, b, (2 * kIndex)...);
}
template <class V, int... kIndex>
TORCH_MAXPOOL_INLINE V odd_lanes(V a, V b, Sequence<kIndex...>) {
  return __builtin_shufflevector(a, b, (2 * kIndex + 1)...);
}
template <class V, int... kIndex>
TORCH_MAXPOOL_INLINE V next_lanes(V a, V b, Sequence<kIndex...>) {
  return __builtin_shufflevector(a, b, (kIndex + 1)...);
}
template <class V, int... kIndex>
TORCH_MAXPOOL_INLINE V previous_lanes(V a, V b, Sequence<kIndex...>) {
  return __builtin_shufflevector(a, b, (kIndex + static_cast<int>(sizeof...(kIndex)) - 1)...);
}
template <class V, int... kIndex>
TORCH_MAXPOOL_INLINE V first_lane(V a, Sequence<kIndex...>) {
  return __builtin_shufflevector(a, a, (0 * kIndex)...);
}
// Lane i of the result is lane (kStart + i) / kTimes of v.
template <int kStart, int kTimes, class V, int... kIndex>
TORCH_MAXPOOL_INLINE V repeat_lanes(V v, Sequence<kIndex...>) {
  constexpr int kLast = static_cast<int>(sizeof...(kIndex)) - 1;
  return __builtin_shufflevector(v, v, ((kStart + kIndex) / kTimes < kLast ? (kStart + kIndex) / kTimes : kLast)...);
}
template <class V>
inline constexpr int kLanesOf = static_cast<int>(sizeof(V) / sizeof(V{}[0]));

// x in every lane, bit for bit (V{} + x would lose the sign of -0).
template <class V, class T>
TORCH_MAXPOOL_INLINE V splat(T x) {
  const V v = {x};
  return first_lane(v, MakeSequence<kLanesOf<V>>());
}
template <int kValue>
struct Number {
  static constexpr int kNumber = kValue;
};

// Whether the even- or odd-numbered lanes of two such vectors are had more cheaply half by half: those of the first halves
// of a and b, then those of the second halves. in_order() turns that order into the usual one.
template <class V>
inline constexpr bool kInHalves = kVectorBytes == 32 && sizeof(V) == 32;

// Which of the lanes of (a, b) is lane i of such a result; of a it has those from `a_first` on, of b those from `b_first`.
constexpr int place_in_halves(int lanes, int i, int a_first, int b_first) {
  const int half = lanes / 2;
  const int quarter = half / 2;
  const int from = i / half * half + 2 * (i % quarter);
  return i % half < quarter ? from + a_first : lanes + from + b_first;
}
template <int kFirstOfA, int kFirstOfB, class V, int... kIndex>
TORCH_MAXPOOL_INLINE V alternate_in_halves(V a, V b, Sequence<kIndex...>) {
  constexpr int kLanes = static_cast<int>(sizeof...(kIndex));
  return __builtin_shufflevector(a, b, place_in_halves(kLanes, kIndex, kFirstOfA, kFirstOfB)...);
}
// Every other lane of a and of b, from lane kFirstOfA and kFirstOfB on.
template <int kFirstOfA, int kFirstOfB, class V>
TORCH_MAXPOOL_INLINE V alternate_in_halves(V a, V b) {
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  // Fewer shuffles than compilers make of it.
  if constexpr (sizeof(a[0]) == 2) {
    typedef Vector<uint32_t, 8> Pairs;
    const Pairs low = kFirstOfA ? reinterpret_cast<Pairs>(a) >> 16 : reinterpret_cast<Pairs>(a) & 0xffff;
    const Pairs high = kFirstOfB ? reinterpret_cast<Pairs>(b) >> 16 : reinterpret_cast<Pairs>(b) & 0xffff;
    return reinterpret_cast<V>(_mm256_packus_epi32(reinterpret_cast<__m256i>(low), reinterpret_cast<__m256i>(high)));
  }
  if constexpr (sizeof(a[0]) == 1) {
    typedef Vector<uint16_t, 16> Pairs;
    const Pairs low = kFirstOfA ? reinterpret_cast<Pairs>(a) >> 8 : reinterpret_cast<Pairs>(a) & 0xff;
    const Pairs high = kFirstOfB ? reinterpret_cast<Pairs>(b) >> 8 : reinterpret_cast<Pairs>(b) & 0xff;
    return reinterpret_cast<V>(_mm256_packus_epi16(reinterpret_cast<__m256i>(low), reinterpret_cast<__m256i>(high)));
  }
#endif
  return alternate_in_halves<kFirstOfA, kFirstOfB>(a, b, MakeSequence<kLanesOf<V>>());
}
template <class V>
TORCH_MAXPOOL_INLINE V in_order(V v) {
  typedef Vector<uint64_t, 4> Quarters;
  const Quarters quarters = reinterpret_cast<Quarters>(v);
  return reinterpret_cast<V>(__builtin_shufflevector(quarters, quarters, 0, 2, 1, 3));
}
// The order after the same was done to two results of it.
template <class V>
TORCH_MAXPOOL_INLINE V in_order_after_two(V v) {
  typedef Vector<uint32_t, 8> Eighths;
  const Eighths eighths = reinterpret_cast<Eighths>(v);
  return reinterpret_cast<V>(__builtin_shufflevector(eighths, eighths, 0, 4, 1, 5, 2, 6, 3, 7));
}

// Even- and odd-numbered lanes of the 2 * lanes elements in (a, b).
template <class V>
TORCH_MAXPOOL_INLINE V even(V a, V b) {
  if constexpr (kInHalves<V>) {
    return in_order(alternate_in_halves<0, 0>(a, b));
  } else {
    return even_lanes(a, b, MakeSequence<kLanesOf<V>>());
  }
}
template <class V>
TORCH_MAXPOOL_INLINE V odd(V a, V b) {
  if constexpr (kInHalves<V>) {
    return in_order(alternate_in_halves<1, 1>(a, b));
  } else {
    return odd_lanes(a, b, MakeSequence<kLanesOf<V>>());
  }
}
template <class V, int... kIndex>
TORCH_MAXPOOL_INLINE V zip_low_lanes(V a, V b, Sequence<kIndex...>) {
  return __builtin_shufflevector(a, b, (kIndex / 2 + kIndex % 2 * static_cast<int>(sizeof...(kIndex)))...);
}
template <class V, int... kIndex>
TORCH_MAXPOOL_INLINE V zip_high_lanes(V a, V b, Sequence<kIndex...>) {
  constexpr int kLanes = static_cast<int>(sizeof...(kIndex));
  return __builtin_shufflevector(a, b, (kLanes / 2 + kIndex / 2 + kIndex % 2 * kLanes)...);
}
// Lanes of a and b in turns: the first half of the result and the second.
template <class V>
TORCH_MAXPOOL_INLINE V zip_low(V a, V b) {
  return zip_low_lanes(a, b, MakeSequence<kLanesOf<V>>());
}
template <class V>
TORCH_MAXPOOL_INLINE V zip_high(V a, V b) {
  return zip_high_lanes(a, b, MakeSequence<kLanesOf<V>>());
}

// Where lane `lane` of phase kFirst is among two vectors: lanes found so far, as far as they come from the first kStep of
// kPhases vectors, and then the next of these.
template <int kPhases, int kFirst, int kStep, int kLanes>
constexpr int place_of_phase(int lane) {
  const int at = kPhases * lane + kFirst;
  const int found = kStep == 1 ? at % kLanes : lane;
  return at / kLanes < kStep ? found : at / kLanes == kStep ? kLanes + at % kLanes : lane;
}

// Every kPhases-th lane of kPhases vectors, from lane kFirst on. `found`: as far as they come from the first kStep.
template <int kFirst, int kStep, class V, int kPhases, int... kLane>
TORCH_MAXPOOL_INLINE V lanes_of_phase(V found, const V (&v)[kPhases], Sequence<kLane...> all) {
  if constexpr (kStep == kPhases) {
    return found;
  } else {
    const V more = __builtin_shufflevector(
        found, v[kStep], place_of_phase<kPhases, kFirst, kStep, static_cast<int>(sizeof...(kLane))>(kLane)...);
    return lanes_of_phase<kFirst, kStep + 1>(more, v, all);
  }
}

// Lane i of vector `phase`: lane kPhases * i + phase of them all.
template <class V>
TORCH_MAXPOOL_INLINE void split(V (&v)[2]) {
  const V a = v[0];
  v[0] = even(a, v[1]);
  v[1] = odd(a, v[1]);
}
template <class V, int kPhases, int... kPhase>
TORCH_MAXPOOL_INLINE void split_by(V (&v)[kPhases], Sequence<kPhase...>) {
  const V phases[] = {lanes_of_phase<kPhase, 1>(v[0], v, MakeSequence<kLanesOf<V>>())...};
  for (int u = 0; u < kPhases; ++u) {
    v[u] = phases[u];
  }
}
template <class V, int kPhases>
TORCH_MAXPOOL_INLINE void split(V (&v)[kPhases]) {
  split_by(v, MakeSequence<kPhases>());
}
template <class V>
TORCH_MAXPOOL_INLINE void split(V (&v)[4]) {
  V low[2] = {v[0], v[1]};
  V high[2] = {v[2], v[3]};
  split(low);
  split(high);
  v[0] = even(low[0], high[0]);
  v[1] = even(low[1], high[1]);
  v[2] = odd(low[0], high[0]);
  v[3] = odd(low[1], high[1]);
}

// Lanes 1 and up of a, then lane 0 of b.
template <class V>
TORCH_MAXPOOL_INLINE V next(V a, V b) {
  return next_lanes(a, b, MakeSequence<kLanesOf<V>>());
}
// The last lane of a, then all but the last of b.
template <class V>
TORCH_MAXPOOL_INLINE V previous(V a, V b) {
  return previous_lanes(a, b, MakeSequence<kLanesOf<V>>());
}

// True where any bit of any lane is set.
template <class V>
inline bool any(V v) {
#if defined(TORCH_MAXPOOL_HAS_AVX512)
  if constexpr (sizeof(V) == 64) {
    return _mm512_test_epi64_mask(reinterpret_cast<__m512i>(v), reinterpret_cast<__m512i>(v)) != 0;
  }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  if constexpr (sizeof(V) == 32) {
    return _mm256_testz_si256(reinterpret_cast<__m256i>(v), reinterpret_cast<__m256i>(v)) == 0;
  }
#endif
  uint64_t words[sizeof(V) / 8];
  __builtin_memcpy(words, &v, sizeof v);
  uint64_t all = 0;
  for (const uint64_t word : words) {
    all |= word;
  }
  return all != 0;
}

// x > m ? x : m
template <class V>
TORCH_MAXPOOL_INLINE V larger(V x, V m) {
#if defined(__x86_64__)
  if constexpr (__is_same(V, Vector<float, 4>)) {
    return (V)_mm_max_ps((__m128)x, (__m128)m);
  }
  if constexpr (__is_same(V, Vector<double, 2>)) {
    return (V)_mm_max_pd((__m128d)x, (__m128d)m);
  }
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  if constexpr (__is_same(V, Vector<float, 8>)) {
    return (V)_mm256_max_ps((__m256)x, (__m256)m);
  }
  if constexpr (__is_same(V, Vector<double, 4>)) {
    return (V)_mm256_max_pd((__m256d)x, (__m256d)m);
  }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX512)
  if constexpr (__is_same(V, Vector<float, 16>)) {
    return (V)_mm512_max_ps((__m512)x, (__m512)m);
  }
  if constexpr (__is_same(V, Vector<double, 8>)) {
    return (V)_mm512_max_pd((__m512d)x, (__m512d)m);
  }
#endif
#endif
  return x > m ? x : m;
}

// x < m ? x : m
template <class V>
TORCH_MAXPOOL_INLINE V smaller(V x, V m) {
#if defined(__x86_64__)
  if constexpr (__is_same(V, Vector<float, 4>)) {
    return (V)_mm_min_ps((__m128)x, (__m128)m);
  }
  if constexpr (__is_same(V, Vector<double, 2>)) {
    return (V)_mm_min_pd((__m128d)x, (__m128d)m);
  }
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  if constexpr (__is_same(V, Vector<float, 8>)) {
    return (V)_mm256_min_ps((__m256)x, (__m256)m);
  }
  if constexpr (__is_same(V, Vector<double, 4>)) {
    return (V)_mm256_min_pd((__m256d)x, (__m256d)m);
  }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX512)
  if constexpr (__is_same(V, Vector<float, 16>)) {
    return (V)_mm512_min_ps((__m512)x, (__m512)m);
  }
  if constexpr (__is_same(V, Vector<double, 8>)) {
    return (V)_mm512_min_pd((__m512d)x, (__m512d)m);
  }
#endif
#endif
  return x < m ? x : m;
}

// `mask`, with lanes of ones (but for the sign) where a or b is a NaN.
template <class V, class Mask>
TORCH_MAXPOOL_INLINE Mask all_ones_where_unordered(V a, V b, Mask mask) {
  const Mask ones = ~Mask{} ^ (Mask{} + 1) << (8 * static_cast<int>(sizeof(mask[0])) - 1);
#if defined(TORCH_MAXPOOL_HAS_AVX512)
  if constexpr (__is_same(V, Vector<float, 16>)) {
    const __mmask16 unordered = _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q);
    return (Mask)_mm512_mask_mov_epi32((__m512i)mask, unordered, (__m512i)ones);
  }
  if constexpr (__is_same(V, Vector<double, 8>)) {
    const __mmask8 unordered = _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_UNORD_Q);
    return (Mask)_mm512_mask_mov_epi64((__m512i)mask, unordered, (__m512i)ones);
  }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  if constexpr (__is_same(V, Vector<float, 8>)) {
    return mask | ((Mask)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_UNORD_Q) & ones);
  }
  if constexpr (__is_same(V, Vector<double, 4>)) {
    return mask | ((Mask)_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_UNORD_Q) & ones);
  }
#endif
#if defined(__x86_64__)
  if constexpr (__is_same(V, Vector<float, 4>)) {
    return mask | ((Mask)_mm_cmpunord_ps((__m128)a, (__m128)b) & ones);
  }
  if constexpr (__is_same(V, Vector<double, 2>)) {
    return mask | ((Mask)_mm_cmpunord_pd((__m128d)a, (__m128d)b) & ones);
  }
#endif
  return mask | (((a != a) | (b != b)) & ones);
}

// The number of the first lane of ones in a mask; the number of lanes where there is none.
template <class Mask>
TORCH_MAXPOOL_INLINE int first_set_lane(Mask mask) {
  constexpr int kLaneBytes = static_cast<int>(sizeof(mask[0]));
#if defined(TORCH_MAXPOOL_HAS_AVX512)
  if constexpr (sizeof(Mask) == 64) {
    const uint64_t bytes = _mm512_movepi8_mask((__m512i)mask);
    return bytes == 0 ? kLanesOf<Mask> : __builtin_ctzll(bytes) / kLaneBytes;
  }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  if constexpr (sizeof(Mask) == 32) {
    const auto bytes = static_cast<uint32_t>(_mm256_movemask_epi8((__m256i)mask));
    return bytes == 0 ? kLanesOf<Mask> : __builtin_ctz(bytes) / kLaneBytes;
  }
#endif
#if defined(__x86_64__)
  if constexpr (sizeof(Mask) == 16) {
    const auto bytes = static_cast<uint32_t>(_mm_movemask_epi8((__m128i)mask));
    return bytes == 0 ? kLanesOf<Mask> : __builtin_ctz(bytes) / kLaneBytes;
  }
#endif
  int lane = 0;
  while (lane < kLanesOf<Mask> && !mask[lane]) {
    ++lane;
  }
  return lane;
}

// The first lanes of v, or v and unspecified lanes.
template <class To, class From>
TORCH_MAXPOOL_INLINE To resize(From v) {
  To result = {};
  __builtin_memcpy(&result, &v, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
  return result;
}

// Non-negative integers in lanes of another width that holds them too: what GCC 12 makes of __builtin_convertvector goes
// lane by lane where widths differ by more than a factor of two.
template <class To, class From>
TORCH_MAXPOOL_INLINE To convert(From v) {
  constexpr int kFrom = sizeof(v[0]);
  constexpr int kTo = sizeof(To{}[0]);
#if defined(TORCH_MAXPOOL_HAS_AVX512)
  if constexpr (sizeof(From) == 64 && kFrom > kTo) {
    const __m512i wide = reinterpret_cast<__m512i>(v);
    if constexpr (kFrom == 2) {
      return reinterpret_cast<To>(_mm512_cvtepi16_epi8(wide));
    } else if constexpr (kFrom == 4 && kTo == 1) {
      return reinterpret_cast<To>(_mm512_cvtepi32_epi8(wide));
    } else if constexpr (kFrom == 4) {
      return reinterpret_cast<To>(_mm512_cvtepi32_epi16(wide));
    } else if constexpr (kTo == 1) {
      return resize<To>(_mm512_cvtepi64_epi8(wide));
    } else if constexpr (kTo == 4) {
      return reinterpret_cast<To>(_mm512_cvtepi64_epi32(wide));
    }
  }
  if constexpr (sizeof(To) == 64 && kFrom < kTo) {
    if constexpr (kTo == 2) {
      return reinterpret_cast<To>(_mm512_cvtepu8_epi16(resize<__m256i>(v)));
    } else if constexpr (kFrom == 1 && kTo == 4) {
      return reinterpret_cast<To>(_mm512_cvtepu8_epi32(resize<__m128i>(v)));
    } else if constexpr (kTo == 4) {
      return reinterpret_cast<To>(_mm512_cvtepu16_epi32(resize<__m256i>(v)));
    } else if constexpr (kFrom == 1) {
      return reinterpret_cast<To>(_mm512_cvtepu8_epi64(resize<__m128i>(v)));
    }
  }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  if constexpr (sizeof(From) == 32 && kFrom > kTo) {
    const __m128i low = _mm256_castsi256_si128(reinterpret_cast<__m256i>(v));
    const __m128i high = _mm256_extracti128_si256(reinterpret_cast<__m256i>(v), 1);
    if constexpr (kFrom == 2) {
      return reinterpret_cast<To>(_mm_packus_epi16(low, high));
    } else if constexpr (kFrom == 4 && kTo == 2) {
      return reinterpret_cast<To>(_mm_packus_epi32(low, high));
    } else if constexpr (kFrom == 4) {
      const __m128i half = _mm_packus_epi32(low, high);
      return resize<To>(_mm_packus_epi16(half, half));
    } else if constexpr (kTo == 1) {
      const __m128i words = _mm_packus_epi32(low, high); // every other one is 0
      const __m128i bytes = _mm_packus_epi16(words, words);
      return resize<To>(_mm_packus_epi16(bytes, bytes));
    }
  }
  if constexpr (sizeof(To) == 32 && kFrom < kTo) {
    const __m128i narrow = resize<__m128i>(v);
    if constexpr (kTo == 2) {
      return reinterpret_cast<To>(_mm256_cvtepu8_epi16(narrow));
    } else if constexpr (kFrom == 1 && kTo == 4) {
      return reinterpret_cast<To>(_mm256_cvtepu8_epi32(narrow));
    } else if constexpr (kTo == 4) {
      return reinterpret_cast<To>(_mm256_cvtepu16_epi32(narrow));
    } else if constexpr (kFrom == 1) {
      return reinterpret_cast<To>(_mm256_cvtepu8_epi64(narrow));
    }
  }
#endif
#if defined(__x86_64__)
  if constexpr (sizeof(From) == 16 && kTo == 1 && kFrom > kTo && kFrom < 8) {
    __m128i narrow = reinterpret_cast<__m128i>(v);
    if constexpr (kFrom == 4) {
      narrow = _mm_packs_epi32(narrow, narrow);
    }
    return resize<To>(_mm_packus_epi16(narrow, narrow));
  }
  if constexpr (sizeof(To) == 16 && kFrom == 1 && kFrom < kTo && kTo < 8) {
    __m128i wide = _mm_unpacklo_epi8(resize<__m128i>(v), _mm_setzero_si128());
    if constexpr (kTo == 4) {
      wide = _mm_unpacklo_epi16(wide, _mm_setzero_si128());
    }
    return reinterpret_cast<To>(wide);
  }
#endif
  return __builtin_convertvector(v, To);
}

// Whether tensors this large come from beyond all caches, by the size from which results are stored past them. Touching
// what lies in the last cache costs more than it brings (measured on Zen 3: 1.0 to 1.3 times the time).
inline bool is_worth_touching(int64_t bytes, int64_t stream_bytes) {
  return bytes / 2 >= stream_bytes;
}

// Brings memory into the cache in its order: rows that are then read side by side arrive faster so. One load instruction
// does it for everybody: the processor foresees what it does next.
__attribute__((noinline)) inline void touch_bytes(const char* at, const char* end) {
  constexpr int kLine = 64;
  for (; at < end; at += kLine) {
    static_cast<void>(*static_cast<const volatile char*>(at));
  }
}

template <class T>
TORCH_MAXPOOL_INLINE void touch(const T* from, int64_t count) {
  touch_bytes(reinterpret_cast<const char*>(from), reinterpret_cast<const char*>(from + count));
}

// Whether tensors of so many bytes in all do not stay in the nearest caches from one call to the next, so that asking for
// them ahead of time saves more than it costs (measured on Zen 3: 1.05 to 1.8 times as fast; smaller ones 0.95).
inline bool is_worth_fetching(int64_t bytes) {
  return bytes >= int64_t{2} << 20;
}

inline constexpr int64_t kFetchedAhead = 8192; // bytes, of what is read in its order

// Asks for the lines of kBytes, which may lie beyond the tensor, and waits for nothing.
template <int kBytes = 1, bool kToWrite = false>
TORCH_MAXPOOL_INLINE void fetch(const void* at) {
  constexpr int kLine = 64;
  for (int i = 0; i < kBytes; i += kLine) {
    __builtin_prefetch(static_cast<const char*>(at) + i, kToWrite);
  }
}

} // namespace
