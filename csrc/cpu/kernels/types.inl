// Element types and the order that max pooling puts them in.

namespace {

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
  static constexpr bool kHasNan = kIsFloat;
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
  static constexpr bool kHasNan = true;
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

} // namespace
