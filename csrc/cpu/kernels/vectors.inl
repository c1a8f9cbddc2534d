// Vectors of kVectorBytes (set by the including file) by GCC's and clang's vector extensions, and how each element type
// is held and compared in them.

namespace {

// A vector of kCount lanes of T.
template <class T, int kCount>
struct VectorOf {
  typedef T type __attribute__((vector_size(kCount * sizeof(T))));
};
template <class T, int kCount>
using Vector = typename VectorOf<T, kCount>::type;

template <class V, class T>
inline V load_vector(const T* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
template <class V, class T>
inline void store_vector(T* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
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
inline V even_lanes(V a, V b, Sequence<kIndex...>) {
  return __builtin_shufflevector(a, b, (2 * kIndex)...);
}
template <class V, int... kIndex>
inline V odd_lanes(V a, V b, Sequence<kIndex...>) {
  return __builtin_shufflevector(a, b, (2 * kIndex + 1)...);
}
template <class V, int... kIndex>
inline V next_lanes(V a, V b, Sequence<kIndex...>) {
  return __builtin_shufflevector(a, b, (kIndex + 1)...);
}
template <class V>
inline constexpr int kLanesOf = static_cast<int>(sizeof(V) / sizeof(V{}[0]));

// Even- and odd-numbered lanes of the 2 * lanes elements in (a, b).
template <class V>
inline V even(V a, V b) {
  return even_lanes(a, b, MakeSequence<kLanesOf<V>>());
}
template <class V>
inline V odd(V a, V b) {
  return odd_lanes(a, b, MakeSequence<kLanesOf<V>>());
}
// Lanes 1 and up of a, then lane 0 of b.
template <class V>
inline V next(V a, V b) {
  return next_lanes(a, b, MakeSequence<kLanesOf<V>>());
}

// True where any bit of any lane is set.
template <class V>
inline bool any(V v) {
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
//   load, store     kLanes elements from and to memory
//   beats(x, m)     mask of lanes where x, met after m, takes its place
//   strange(v)      mask of lanes whose order `beats` does not know; an output that depends on one must come from
//                   forward_windows instead. kHasStrange: whether there are such lanes
//   lowest()        the lane that beats nothing
template <class T, class LaneType, int kBytes>
struct LaneBase {
  static constexpr int kLanes = kBytes / static_cast<int>(sizeof(LaneType));
  typedef T Element;
  typedef LaneType Lane;
  typedef Vector<Lane, kLanes> V;
  typedef typename UnsignedOf<sizeof(Lane)>::type Index;
  typedef Vector<Index, kLanes> IV;
  typedef Vector<typename UnsignedOf<sizeof(Lane)>::mask, kLanes> Mask;
  static constexpr bool kHasStrange = false;
  static inline Mask strange(V) {
    return Mask{};
  }
};

// Integers.
template <class T, int kBytes = kVectorBytes>
struct Lanes : LaneBase<T, T, kBytes> {
  typedef LaneBase<T, T, kBytes> Base;
  typedef typename Base::V V;
  static inline V load(const T* from) {
    return load_vector<V>(from);
  }
  static inline void store(T* to, V v) {
    store_vector(to, v);
  }
  static inline typename Base::Mask beats(V x, V m) {
    return x > m;
  }
  static inline T lane(T x) {
    return x;
  }
  static inline T lowest() {
    return Type<T>::lowest();
  }
};

// A NaN beats every number, and a later NaN an earlier one.
template <class T, int kBytes>
struct FloatLanes : LaneBase<T, T, kBytes> {
  typedef LaneBase<T, T, kBytes> Base;
  typedef typename Base::V V;
  static inline V load(const T* from) {
    return load_vector<V>(from);
  }
  static inline void store(T* to, V v) {
    store_vector(to, v);
  }
  static inline typename Base::Mask beats(V x, V m) {
    return (x > m) | (x != x);
  }
  static inline T lane(T x) {
    return x;
  }
  static inline T lowest() {
    return Type<T>::lowest();
  }
};
template <int kBytes>
struct Lanes<float, kBytes> : FloatLanes<float, kBytes> {};
template <int kBytes>
struct Lanes<double, kBytes> : FloatLanes<double, kBytes> {};

// 16-bit floats as integers of the same order: negative numbers have their magnitude bits inverted. That puts -0 below
// +0 and has no place for NaNs: both are strange.
template <class T, int kInfinity, int kBytes>
struct KeyLanes : LaneBase<T, int16_t, kBytes> {
  typedef LaneBase<T, int16_t, kBytes> Base;
  typedef typename Base::V V;
  static constexpr bool kHasStrange = true;
  static inline V invert(V v) {
    return v ^ ((v >> 15) & 0x7fff);
  }
  static inline V load(const T* from) {
    return invert(load_vector<V>(from));
  }
  static inline void store(T* to, V v) {
    store_vector(to, invert(v));
  }
  static inline typename Base::Mask beats(V x, V m) {
    return x > m;
  }
  static inline typename Base::Mask strange(V v) {
    return ((v ^ (v >> 15)) > kInfinity) | (v == -1);
  }
  static inline int16_t lane(T x) {
    const int16_t bits = static_cast<int16_t>(x.bits);
    return static_cast<int16_t>(bits ^ ((bits >> 15) & 0x7fff));
  }
  static inline int16_t lowest() {
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
  static inline V load(const T* from) {
    return __builtin_convertvector(load_vector<Narrow>(from), V);
  }
  static inline void store(T* to, V v) {
    store_vector(to, __builtin_convertvector(v, Narrow));
  }
  static inline typename Base::Mask beats(V x, V m) {
    return x > m;
  }
  static inline Wide lane(T x) {
    return x;
  }
  static inline Wide lowest() {
    return Type<T>::lowest();
  }
};

// Champions of windows so far: values and, where kIndexed, tap numbers.
template <class L, bool kIndexed>
struct Champions {
  typename L::V value;
  typename L::IV index;

  // `value` and `index` of later taps than all before.
  inline void meet(typename L::V x, typename L::IV x_index) {
    const typename L::Mask wins = L::beats(x, value);
    value = wins ? x : value;
    if (kIndexed) {
      index = wins ? x_index : index;
    }
  }
  inline void meet(const Champions& later) {
    meet(later.value, later.index);
  }
};

template <class L>
inline typename L::IV splat_index(int64_t index) {
  return typename L::IV{} + static_cast<typename L::Index>(index);
}

// Tap numbers of kLanes windows as offsets in memory.
template <class L, class Offset>
inline void store_offsets(Offset* to, typename L::IV index) {
  typedef Vector<Offset, L::kLanes> Narrow;
  store_vector(to, __builtin_convertvector(index, Narrow));
}

} // namespace
