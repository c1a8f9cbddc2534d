// Squares of elements that are transposed in registers: rows to lanes.

namespace {

// kSide x kSide elements: lane c of row r becomes lane r of row c.
template <class T>
struct Square {
  static constexpr int kSide = 16 / static_cast<int>(sizeof(T));
  typedef Vector<typename UnsignedOf<sizeof(T)>::type, kSide> V;
  V row[kSide];

  TORCH_MAXPOOL_INLINE void transpose() {
    for (int distance = 1; distance < kSide; distance *= 2) {
      V next[kSide];
      for (int i = 0; i < kSide / 2; ++i) {
        next[2 * i] = zip_low(row[i], row[i + kSide / 2]);
        next[2 * i + 1] = zip_high(row[i], row[i + kSide / 2]);
      }
      for (int i = 0; i < kSide; ++i) {
        row[i] = next[i];
      }
    }
  }
};

} // namespace
