// How each element type is held and compared in vectors of kVectorBytes (set by the including file), and windows' champions.

namespace {

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
//   kIsPlain        whether lanes are the elements' bits: loads take nothing more
//   load, store     kLanes elements from and to memory; stream stores past the cache, to aligned addresses
//   beats(x, m)     mask of lanes where x, met after m, takes its place
//   winner(x, m)    beats(x, m) ? x : m
//   lane(x), element(lane)
//                   one element as a lane, and back
//   lowest()        a lane that beats nothing; never noted, since it may be strange
//   capped(x, cap)  x where cap is highest(), cap where it is lowest()
//   note(seen, v), note(seen, v, w)
//                   remembers in `seen` whether v holds strange lanes, whose order `beats` does not know; results that
//                   depend on such lanes must be computed again, by Exact lanes, which know more of them, or (where
//                   Exact is void, or finds strange lanes too) by forward_windows
//   note_at(seen, from), note_at(seen, from, more)
//                   the same of what lies there, which may take less
//   join(seen, more)
//                   what two have seen
//   is_strange(seen, p)
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
  static constexpr bool kIsPlain = __is_same(T, LaneType);
  static TORCH_MAXPOOL_INLINE void note(Mask&, V) {}
  static TORCH_MAXPOOL_INLINE void note(Mask&, V, V) {}
  static TORCH_MAXPOOL_INLINE void note_at(Mask&, const T*) {}
  static TORCH_MAXPOOL_INLINE void note_at(Mask&, const T*, const T*) {}
  static TORCH_MAXPOOL_INLINE void join(Mask& seen, Mask more) {
    seen = more > seen ? more : seen;
  }
  static TORCH_MAXPOOL_INLINE bool is_strange(Mask, const ForwardParams&) {
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
  static TORCH_MAXPOOL_INLINE V winner(V x, V m) {
    return larger(x, m);
  }
  static TORCH_MAXPOOL_INLINE T lane(T x) {
    return x;
  }
  static TORCH_MAXPOOL_INLINE T element(T lane) {
    return lane;
  }
  static TORCH_MAXPOOL_INLINE T lowest() {
    return Type<T>::lowest();
  }
  static TORCH_MAXPOOL_INLINE T highest() {
    return Type<T>::highest();
  }
  static TORCH_MAXPOOL_INLINE V capped(V x, V cap) {
    return smaller(x, cap);
  }
};

// Floating point with NaNs: a NaN beats every number, and a later NaN an earlier one.
template <class T, int kBytes>
struct NanLanes : PlainLanes<T, kBytes> {
  typedef PlainLanes<T, kBytes> Base;
  static TORCH_MAXPOOL_INLINE typename Base::Mask beats(typename Base::V x, typename Base::V m) {
    return (x > m) | (x != x);
  }
  static TORCH_MAXPOOL_INLINE typename Base::V winner(typename Base::V x, typename Base::V m) {
    return beats(x, m) ? x : m;
  }
  static TORCH_MAXPOOL_INLINE typename Base::V capped(typename Base::V x, typename Base::V cap) {
    return cap == splat<typename Base::V>(Base::lowest()) ? cap : x;
  }
};

// Floating point without NaNs: those are strange. `seen` is the largest magnitude, as bits, or a NaN.
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
  static TORCH_MAXPOOL_INLINE void note(Mask& seen, typename Base::V v, typename Base::V w) {
    seen = all_ones_where_unordered(v, w, seen);
  }
  static TORCH_MAXPOOL_INLINE void note_at(Mask& seen, const T* from) {
    note(seen, Base::load(from));
  }
  static TORCH_MAXPOOL_INLINE void note_at(Mask& seen, const T* from, const T* more) {
    note(seen, Base::load(from), Base::load(more));
  }
  static TORCH_MAXPOOL_INLINE bool is_strange(Mask seen, const ForwardParams&) {
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

// 16-bit floats as their own bits, compared as two's complement, so that both zeros are equal. NaNs are strange.
template <int kBytes>
struct ZeroLanes : LaneBase<Float16, int16_t, kBytes> {
  typedef LaneBase<Float16, int16_t, kBytes> Base;
  typedef typename Base::V V;
  typedef typename Base::Mask Mask;
  static TORCH_MAXPOOL_INLINE V key(V v) {
    const V sign = v >> 15;
    return (v ^ (sign & 0x7fff)) - sign;
  }
  static TORCH_MAXPOOL_INLINE V load(const Float16* from) {
    return load_vector<V>(from);
  }
  static TORCH_MAXPOOL_INLINE void store(Float16* to, V v) {
    store_vector(to, v);
  }
  static TORCH_MAXPOOL_INLINE void stream(Float16* to, V v) {
    stream_vector(to, v);
  }
  static TORCH_MAXPOOL_INLINE Mask beats(V x, V m) {
    return key(x) > key(m);
  }
  static TORCH_MAXPOOL_INLINE V winner(V x, V m) {
    return beats(x, m) ? x : m;
  }
  // `seen`: the largest of magnitudes.
  static TORCH_MAXPOOL_INLINE void note(Mask& seen, V v) {
    const Mask magnitude = v & 0x7fff;
    seen = magnitude > seen ? magnitude : seen;
  }
  static TORCH_MAXPOOL_INLINE void note(Mask& seen, V v, V w) {
    note(seen, v);
    note(seen, w);
  }
  static TORCH_MAXPOOL_INLINE void note_at(Mask& seen, const Float16* from) {
    note(seen, load(from));
  }
  static TORCH_MAXPOOL_INLINE void note_at(Mask& seen, const Float16* from, const Float16* more) {
    note(seen, load(from), load(more));
  }
  static TORCH_MAXPOOL_INLINE bool is_strange(Mask seen, const ForwardParams& p) {
    return any(seen > static_cast<int16_t>(p.infinity));
  }
  static TORCH_MAXPOOL_INLINE int16_t lane(Float16 x) {
    return static_cast<int16_t>(x.bits);
  }
  static TORCH_MAXPOOL_INLINE Float16 element(int16_t lane) {
    return Float16{static_cast<uint16_t>(lane)};
  }
  static TORCH_MAXPOOL_INLINE int16_t lowest() {
    return -1; // below both infinities
  }
  static TORCH_MAXPOOL_INLINE int16_t highest() {
    return 0; // any but the lowest
  }
  static TORCH_MAXPOOL_INLINE V capped(V x, V cap) {
    return cap == -1 ? cap : x;
  }
};

// 16-bit floats as integers of the same order: negative numbers have their magnitude bits inverted. That puts -0 below
// +0 and has no place for NaNs: both are strange.
template <int kBytes>
struct Lanes<Float16, kBytes> : LaneBase<Float16, int16_t, kBytes> {
  typedef LaneBase<Float16, int16_t, kBytes> Base;
  typedef ZeroLanes<kBytes> Exact; // but for NaNs
  typedef typename Base::V V;
  typedef typename Base::Mask Mask;
  typedef Vector<uint16_t, Base::kLanes> Sizes;
  static TORCH_MAXPOOL_INLINE V invert(V v) {
    return v ^ ((v >> 15) & 0x7fff);
  }
  static TORCH_MAXPOOL_INLINE V load(const Float16* from) {
    return invert(load_vector<V>(from));
  }
  static TORCH_MAXPOOL_INLINE void store(Float16* to, V v) {
    store_vector(to, invert(v));
  }
  static TORCH_MAXPOOL_INLINE void stream(Float16* to, V v) {
    stream_vector(to, invert(v));
  }
  static TORCH_MAXPOOL_INLINE Mask beats(V x, V m) {
    return x > m;
  }
  static TORCH_MAXPOOL_INLINE V winner(V x, V m) {
    return larger(x, m);
  }
  // `seen`, without signs: the largest of twice the magnitude, less one where numbers are negative. That of -0 is the
  // largest there is, and those of NaNs are larger than infinity's.
  static TORCH_MAXPOOL_INLINE void note_bits(Mask& seen, V bits) {
    const Sizes size = reinterpret_cast<Sizes>(bits);
    join(seen, reinterpret_cast<Mask>(size + size + reinterpret_cast<Sizes>(bits >> 15)));
  }
  static TORCH_MAXPOOL_INLINE void join(Mask& seen, Mask more) {
    const Sizes a = reinterpret_cast<Sizes>(seen);
    const Sizes b = reinterpret_cast<Sizes>(more);
    seen = reinterpret_cast<Mask>(b > a ? b : a);
  }
  static TORCH_MAXPOOL_INLINE void note(Mask& seen, V v) {
    note_bits(seen, invert(v));
  }
  static TORCH_MAXPOOL_INLINE void note(Mask& seen, V v, V w) {
    note(seen, v);
    note(seen, w);
  }
  static TORCH_MAXPOOL_INLINE void note_at(Mask& seen, const Float16* from) {
    note_bits(seen, load_vector<V>(from)); // the lanes' bits, which take the same to load
  }
  static TORCH_MAXPOOL_INLINE void note_at(Mask& seen, const Float16* from, const Float16* more) {
    note_at(seen, from);
    note_at(seen, more);
  }
  static TORCH_MAXPOOL_INLINE bool is_strange(Mask seen, const ForwardParams& p) {
    return any(reinterpret_cast<Mask>(reinterpret_cast<Sizes>(seen) > static_cast<uint16_t>(2 * p.infinity)));
  }
  static TORCH_MAXPOOL_INLINE int16_t lane(Float16 x) {
    const int16_t bits = static_cast<int16_t>(x.bits);
    return static_cast<int16_t>(bits ^ ((bits >> 15) & 0x7fff));
  }
  static TORCH_MAXPOOL_INLINE Float16 element(int16_t lane) {
    return Float16{static_cast<uint16_t>(lane ^ ((lane >> 15) & 0x7fff))};
  }
  static TORCH_MAXPOOL_INLINE int16_t lowest() {
    return INT16_MIN; // below both infinities
  }
  static TORCH_MAXPOOL_INLINE int16_t highest() {
    return INT16_MAX;
  }
  static TORCH_MAXPOOL_INLINE V capped(V x, V cap) {
    return smaller(x, cap);
  }
};

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
  static TORCH_MAXPOOL_INLINE V winner(V x, V m) {
    return larger(x, m);
  }
  static TORCH_MAXPOOL_INLINE Wide lane(T x) {
    return x;
  }
  static TORCH_MAXPOOL_INLINE Wide lowest() {
    return Type<T>::lowest();
  }
};

// Lanes that know more values; the fast ones where there are none.
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
  TORCH_MAXPOOL_INLINE void meet(typename L::V x, [[maybe_unused]] typename L::IV x_index) {
    if constexpr (kIndexed) {
      const typename L::Mask wins = L::beats(x, value);
      value = L::winner(x, value);
      index = wins ? x_index : index;
    } else {
      value = L::winner(x, value);
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
  store_vector(to, convert<Narrow>(index));
}

} // namespace
