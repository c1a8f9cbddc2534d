// Vectors of kVectorBytes (set by the including file) by GCC's and clang's vector extensions, and how each element type
// is held and compared in them.

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
  store_vector(to, v);
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
template <class V>
inline constexpr int kLanesOf = static_cast<int>(sizeof(V) / sizeof(V{}[0]));

// x in every lane, bit for bit (V{} + x would lose the sign of -0).
template <class V, class T>
TORCH_MAXPOOL_INLINE V splat(T x) {
  const V v = {x};
  return first_lane(v, MakeSequence<kLanesOf<V>>());
}
// Even- and odd-numbered lanes of the 2 * lanes elements in (a, b).
template <class V>
TORCH_MAXPOOL_INLINE V even(V a, V b) {
  return even_lanes(a, b, MakeSequence<kLanesOf<V>>());
}
template <class V>
TORCH_MAXPOOL_INLINE V odd(V a, V b) {
  return odd_lanes(a, b, MakeSequence<kLanesOf<V>>());
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

template <int kBytes>
struct UnsignedOf;
template <>
struct UnsignedOf<1> {
  typedef uint8_t type;
  typedef int8_t mask;
};
template <>
struct UnsignedOf<2> {
  typedef uint16_t type;
  typedef int16_t mask;
};
template <>
struct UnsignedOf<4> {
  typedef uint32_t type;
  typedef int32_t mask;
};
template <>
struct UnsignedOf<8> {
  typedef uint64_t type;
  typedef int64_t mask;
};

// How elements T are held in vectors of kBytes: as lanes of type Lane, beside lanes of Index that count taps.
//   load, store     kLanes elements from and to memory; stream stores past the cache, to aligned addresses
//   beats(x, m)     mask of lanes where x, met after m, takes its place
//   lowest()        the lane that beats nothing
//   note(seen, v)   remembers in `seen` whether v holds strange lanes, whose order `beats` does not know; results that
//                   depend on such lanes must be computed again, by Exact lanes or (where Exact is void) forward_windows
//   is_strange(seen)
template <class T, class LaneType, int kBytes>
struct LaneBase {
  static constexpr int kLanes = kBytes / static_cast<int>(sizeof(LaneType));
  typedef T Element;
  typedef LaneType Lane;
  typedef Vector<Lane, kLanes> V;
  typedef typename UnsignedOf<sizeof(Lane)>::type Index;
  typedef Vector<Index, kLanes> IV;
  typedef Vector<typename UnsignedOf<sizeof(Lane)>::mask, kLanes> Mask;
  typedef void Exact;
  static TORCH_MAXPOOL_INLINE void note(Mask&, V) {}
  static TORCH_MAXPOOL_INLINE bool is_strange(Mask) {
    return false;
  }
};

// Lanes that are the elements themselves.
template <class T, int kBytes>
struct PlainLanes : LaneBase<T, T, kBytes> {
  typedef LaneBase<T, T, kBytes> Base;
  typedef typename Base::V V;
  static TORCH_MAXPOOL_INLINE V load(const T* from) {
    return load_vector<V>(from);
  }
  static TORCH_MAXPOOL_INLINE void store(T* to, V v) {
    store_vector(to, v);
  }
  static TORCH_MAXPOOL_INLINE void stream(T* to, V v) {
    stream_vector(to, v);
  }
  static TORCH_MAXPOOL_INLINE typename Base::Mask beats(V x, V m) {
    return x > m;
  }
  static TORCH_MAXPOOL_INLINE T lane(T x) {
    return x;
  }
  static TORCH_MAXPOOL_INLINE T lowest() {
    return Type<T>::lowest();
  }
};

// Floating point with NaNs: a NaN beats every number, and a later NaN an earlier one.
template <class T, int kBytes>
struct NanLanes : PlainLanes<T, kBytes> {
  typedef PlainLanes<T, kBytes> Base;
  static TORCH_MAXPOOL_INLINE typename Base::Mask beats(typename Base::V x, typename Base::V m) {
    return (x > m) | (x != x);
  }
};

// Floating point without NaNs: those are strange. `seen` is the largest magnitude, as bits.
template <class T, int kBytes>
struct NumberLanes : PlainLanes<T, kBytes> {
  typedef PlainLanes<T, kBytes> Base;
  typedef NanLanes<T, kBytes> Exact;
  typedef typename Base::Mask Mask;
  static TORCH_MAXPOOL_INLINE void note(Mask& seen, typename Base::V v) {
    constexpr int kSign = 8 * static_cast<int>(sizeof(T)) - 1;
    Mask bits;
    __builtin_memcpy(&bits, &v, sizeof v);
    bits &= ~((Mask{} + 1) << kSign);
    seen = bits > seen ? bits : seen;
  }
  static TORCH_MAXPOOL_INLINE bool is_strange(Mask seen) {
    const T infinity = -Type<T>::lowest();
    typename UnsignedOf<sizeof(T)>::mask bits;
    __builtin_memcpy(&bits, &infinity, sizeof bits);
    return any(seen > bits);
  }
};

// Integers.
template <class T, int kBytes = kVectorBytes>
struct Lanes : PlainLanes<T, kBytes> {};
template <int kBytes>
struct Lanes<float, kBytes> : NumberLanes<float, kBytes> {};
template <int kBytes>
struct Lanes<double, kBytes> : NumberLanes<double, kBytes> {};

// 16-bit floats as integers of the same order: negative numbers have their magnitude bits inverted. That puts -0 below
// +0 and has no place for NaNs: both are strange.
template <class T, int kInfinity, int kBytes>
struct KeyLanes : LaneBase<T, int16_t, kBytes> {
  typedef LaneBase<T, int16_t, kBytes> Base;
  typedef typename Base::V V;
  typedef typename Base::Mask Mask;
  static TORCH_MAXPOOL_INLINE V invert(V v) {
    return v ^ ((v >> 15) & 0x7fff);
  }
  static TORCH_MAXPOOL_INLINE V load(const T* from) {
    return invert(load_vector<V>(from));
  }
  static TORCH_MAXPOOL_INLINE void store(T* to, V v) {
    store_vector(to, invert(v));
  }
  static TORCH_MAXPOOL_INLINE void stream(T* to, V v) {
    stream_vector(to, invert(v));
  }
  static TORCH_MAXPOOL_INLINE Mask beats(V x, V m) {
    return x > m;
  }
  // `seen`: the largest of magnitudes and, as the largest number there is, of -0 (whose key is -1).
  static TORCH_MAXPOOL_INLINE void note(Mask& seen, V v) {
    const Mask magnitude = v ^ (v >> 15);
    const Mask zero = v == -1;
    const Mask either = magnitude | (zero & 0x7fff);
    seen = either > seen ? either : seen;
  }
  static TORCH_MAXPOOL_INLINE bool is_strange(Mask seen) {
    return any(seen > kInfinity);
  }
  static TORCH_MAXPOOL_INLINE int16_t lane(T x) {
    const int16_t bits = static_cast<int16_t>(x.bits);
    return static_cast<int16_t>(bits ^ ((bits >> 15) & 0x7fff));
  }
  static TORCH_MAXPOOL_INLINE int16_t lowest() {
    return lane(Type<T>::lowest());
  }
};
template <int kBytes>
struct Lanes<Half, kBytes> : KeyLanes<Half, 0x7c00, kBytes> {};
template <int kBytes>
struct Lanes<Bfloat, kBytes> : KeyLanes<Bfloat, 0x7f80, kBytes> {};

// Narrow integers in wider lanes, for windows with more taps than a narrow Index can count.
template <class T, class Wide>
struct WideLanes : LaneBase<T, Wide, kVectorBytes> {
  typedef LaneBase<T, Wide, kVectorBytes> Base;
  typedef typename Base::V V;
  typedef Vector<T, Base::kLanes> Narrow;
  static TORCH_MAXPOOL_INLINE V load(const T* from) {
    return __builtin_convertvector(load_vector<Narrow>(from), V);
  }
  static TORCH_MAXPOOL_INLINE void store(T* to, V v) {
    store_vector(to, __builtin_convertvector(v, Narrow));
  }
  static TORCH_MAXPOOL_INLINE typename Base::Mask beats(V x, V m) {
    return x > m;
  }
  static TORCH_MAXPOOL_INLINE Wide lane(T x) {
    return x;
  }
  static TORCH_MAXPOOL_INLINE Wide lowest() {
    return Type<T>::lowest();
  }
};

// Lanes that know every value; the fast ones where those do.
template <class Exact, class Fast>
struct ExactOrFast {
  typedef Exact type;
};
template <class Fast>
struct ExactOrFast<void, Fast> {
  typedef Fast type;
};
template <class L>
using MostExact = typename ExactOrFast<typename L::Exact, L>::type;
// Whether L has Exact lanes beside it.
template <class L>
inline constexpr bool kHasExact = !__is_same(typename L::Exact, void);

// Champions of windows so far: values and, where kIndexed, tap numbers.
template <class L, bool kIndexed>
struct Champions {
  typename L::V value;
  typename L::IV index;

  // `value` and `index` of later taps than all before.
  TORCH_MAXPOOL_INLINE void meet(typename L::V x, typename L::IV x_index) {
    const typename L::Mask wins = L::beats(x, value);
    value = wins ? x : value;
    if (kIndexed) {
      index = wins ? x_index : index;
    }
  }
  TORCH_MAXPOOL_INLINE void meet(const Champions& later) {
    meet(later.value, later.index);
  }
};

template <class L>
TORCH_MAXPOOL_INLINE typename L::IV splat_index(int64_t index) {
  return splat<typename L::IV>(static_cast<typename L::Index>(index));
}

// Tap numbers of kLanes windows as offsets in memory.
template <class L, class Offset>
TORCH_MAXPOOL_INLINE void store_offsets(Offset* to, typename L::IV index) {
  typedef Vector<Offset, L::kLanes> Narrow;
  store_vector(to, __builtin_convertvector(index, Narrow));
}

} // namespace
