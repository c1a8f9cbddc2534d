// Element types and the order that max pooling puts them in.

namespace {

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};
// Either of them, where only the order counts: ForwardParams::infinity tells which.
struct Float16 {
  uint16_t bits;
};

// The order of the elements of one pooling:
//   key(x)                        what is compared: the element, or what is quicker to compare
//   beats(challenger, champion)   of keys: true where `challenger`, met later, takes the place: strictly greater, or a NaN
//   lowest()                      what empty windows give
template <class T>
struct Type;

template <class T, bool kIsFloat>
struct PlainType {
  static constexpr bool kHasNan = kIsFloat;
  explicit inline PlainType(const ForwardParams&) {}
  static inline T key(T x) {
    return x;
  }
  static inline bool beats(T challenger, T champion) {
    return challenger > champion || (kIsFloat && challenger != challenger);
  }
};
template <>
struct Type<double> : PlainType<double, true> {
  using PlainType::PlainType;
  static inline double lowest() {
    return -__builtin_inf();
  }
  static inline double highest() {
    return __builtin_inf();
  }
};
template <>
struct Type<float> : PlainType<float, true> {
  using PlainType::PlainType;
  static inline float lowest() {
    return -__builtin_inff();
  }
  static inline float highest() {
    return __builtin_inff();
  }
};
template <>
struct Type<uint8_t> : PlainType<uint8_t, false> {
  using PlainType::PlainType;
  static inline uint8_t lowest() {
    return 0;
  }
  static inline uint8_t highest() {
    return UINT8_MAX;
  }
};
template <>
struct Type<int8_t> : PlainType<int8_t, false> {
  using PlainType::PlainType;
  static inline int8_t lowest() {
    return INT8_MIN;
  }
  static inline int8_t highest() {
    return INT8_MAX;
  }
};
template <>
struct Type<int16_t> : PlainType<int16_t, false> {
  using PlainType::PlainType;
  static inline int16_t lowest() {
    return INT16_MIN;
  }
  static inline int16_t highest() {
    return INT16_MAX;
  }
};
template <>
struct Type<int32_t> : PlainType<int32_t, false> {
  using PlainType::PlainType;
  static inline int32_t lowest() {
    return INT32_MIN;
  }
  static inline int32_t highest() {
    return INT32_MAX;
  }
};
template <>
struct Type<int64_t> : PlainType<int64_t, false> {
  using PlainType::PlainType;
  static inline int64_t lowest() {
    return INT64_MIN;
  }
  static inline int64_t highest() {
    return INT64_MAX;
  }
};

// 16-bit floats compare through integer keys: sign and magnitude become two's complement, so -0 equals +0; NaNs are above.
template <>
struct Type<Float16> {
  static constexpr bool kHasNan = true;
  static constexpr int kNan = 0x8000;
  int infinity;
  explicit inline Type(const ForwardParams& p) : infinity(p.infinity) {}
  inline int key(Float16 x) const {
    const int magnitude = x.bits & 0x7fff;
    return magnitude > infinity ? kNan : x.bits & 0x8000 ? -magnitude : magnitude;
  }
  static inline bool beats(int challenger, int champion) {
    return challenger > champion || challenger == kNan;
  }
  inline Float16 lowest() const {
    return Float16{static_cast<uint16_t>(0x8000 | infinity)};
  }
};

} // namespace
