// Backward: where the winners of windows side by side lie. Vectors turn offsets of up to 256 taps into places in
// grad_input and check that they name taps of their windows.

namespace {

// Where in a plane elements end that windows of rows up to `row`, counted through all depths, may reach.
inline int64_t reach_of_rows(const Shape& shape, const Strides& in, int64_t row) {
  const auto reached = [](const Axis& axis, int64_t o) {
    const int64_t last = o * axis.stride - axis.pad + (axis.kernel - 1) * axis.dilation;
    return last < axis.input - 1 ? last + 1 : axis.input;
  };
  const int64_t d = reached(shape.d, row / shape.h.output);
  const int64_t h = shape.d.output == 1 ? reached(shape.h, row) : shape.h.input;
  return (d - 1) * in.d + h * in.h;
}

// Places, which may be negative, and their parts: they wrap around.
typedef Vector<uint32_t, kVectorBytes / 4> PlaceLanes;
inline constexpr int kPlaceLanes = kVectorBytes / 4;

TORCH_MAXPOOL_INLINE PlaceLanes place_lanes(int64_t x) {
  return splat<PlaceLanes>(static_cast<uint32_t>(x));
}

TORCH_MAXPOOL_INLINE PlaceLanes lane_numbers() {
  PlaceLanes lanes;
  for (int i = 0; i < kPlaceLanes; ++i) {
    lanes[i] = static_cast<uint32_t>(i);
  }
  return lanes;
}

// kWidth bytes from memory. A template, so that only the branch of this capability's width is compiled.
template <int kWidth = kPlaceLanes>
TORCH_MAXPOOL_INLINE Vector<int32_t, kWidth> load_bytes(const uint8_t* from) {
  typedef Vector<int32_t, kWidth> Wide;
  const TapLanes bytes = load_offsets<kWidth>(from);
#if defined(TORCH_MAXPOOL_HAS_AVX512)
  if constexpr (kWidth == 16) {
    return reinterpret_cast<Wide>(_mm512_maskz_cvtepu8_epi32(0xffff, reinterpret_cast<__m128i>(bytes)));
  }
#endif
#if defined(TORCH_MAXPOOL_HAS_AVX2)
  if constexpr (kWidth == 8) {
    return reinterpret_cast<Wide>(_mm256_cvtepu8_epi32(reinterpret_cast<__m128i>(bytes)));
  }
#endif
  if constexpr (kWidth == 4) {
    typedef Vector<uint16_t, 8> Words;
    const TapLanes low = zip_low(bytes, TapLanes{});
    return reinterpret_cast<Wide>(zip_low(reinterpret_cast<Words>(low), Words{}));
  }
}

// With the sign bit in lanes where x is not in [0, room].
TORCH_MAXPOOL_INLINE PlaceLanes outside(PlaceLanes x, PlaceLanes room) {
  return x | (room - x);
}

// Numbers along width and height in the halves of an int32, which vectors compare at once.
typedef Vector<uint16_t, 2 * kPlaceLanes> Halves;

TORCH_MAXPOOL_INLINE int32_t both(int64_t w, int64_t h) {
  return static_cast<int32_t>(w + h * 65536);
}
TORCH_MAXPOOL_INLINE PlaceLanes both_outside(PlaceLanes x, PlaceLanes first, PlaceLanes room) {
  const Halves distance = reinterpret_cast<Halves>(x) - reinterpret_cast<Halves>(first);
  return reinterpret_cast<PlaceLanes>(distance | (reinterpret_cast<Halves>(room) - distance));
}

// Products of halves, which take a fraction of the time that those of lanes take: their low 16 bits, and, for vectors of
// kBytes, where there are instructions for it, their high ones and the sum of each lane's two (with signs).
TORCH_MAXPOOL_INLINE PlaceLanes low_half_products(PlaceLanes a, PlaceLanes b) {
  return reinterpret_cast<PlaceLanes>(reinterpret_cast<Halves>(a) * reinterpret_cast<Halves>(b));
}
template <int kBytes>
struct HalfProducts {
  static constexpr bool kExist = false;
};
#if defined(TORCH_MAXPOOL_HAS_AVX512)
template <>
struct HalfProducts<64> {
  static constexpr bool kExist = true;
  static TORCH_MAXPOOL_INLINE PlaceLanes high(PlaceLanes a, PlaceLanes b) {
    return reinterpret_cast<PlaceLanes>(_mm512_mulhi_epu16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  }
  static TORCH_MAXPOOL_INLINE PlaceLanes sums(PlaceLanes a, PlaceLanes b) {
    return reinterpret_cast<PlaceLanes>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  }
};
#elif defined(TORCH_MAXPOOL_HAS_AVX2)
template <>
struct HalfProducts<32> {
  static constexpr bool kExist = true;
  static TORCH_MAXPOOL_INLINE PlaceLanes high(PlaceLanes a, PlaceLanes b) {
    return reinterpret_cast<PlaceLanes>(_mm256_mulhi_epu16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
  }
  static TORCH_MAXPOOL_INLINE PlaceLanes sums(PlaceLanes a, PlaceLanes b) {
    return reinterpret_cast<PlaceLanes>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
  }
};
#elif defined(__x86_64__)
template <>
struct HalfProducts<16> {
  static constexpr bool kExist = true;
  static TORCH_MAXPOOL_INLINE PlaceLanes high(PlaceLanes a, PlaceLanes b) {
    return reinterpret_cast<PlaceLanes>(_mm_mulhi_epu16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
  }
  static TORCH_MAXPOOL_INLINE PlaceLanes sums(PlaceLanes a, PlaceLanes b) {
    return reinterpret_cast<PlaceLanes>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
  }
};
#endif

// The taps that a window has along one dimension: `room` more than the first.
struct TapRoom {
  int64_t first, room;

  explicit TapRoom(const Taps& taps) : first(taps.first), room(taps.last - taps.first - 1) {}
};

// For windows in the order of their outputs: where tap 0 of each lies, and which taps it has.
struct WindowTables {
  int32_t* start;
  int32_t *first, *room; // both(w, h)
  int32_t *d_first, *d_room;

  static int64_t padded(int64_t windows) { // vectors read past the end
    return (windows + kPlaceLanes + 15) / 16 * 16;
  }
  static int64_t bytes(int64_t windows) {
    return padded(windows) * 5 * static_cast<int64_t>(sizeof(int32_t));
  }
  WindowTables(void* scratch, int64_t windows)
      : start(static_cast<int32_t*>(scratch)),
        first(start + padded(windows)),
        room(first + padded(windows)),
        d_first(room + padded(windows)),
        d_room(d_first + padded(windows)) {}
};

// Outputs side by side in memory.
struct WindowLine {
  const uint8_t* offsets;
  int64_t count;
  int64_t at; // of the first in the tables
  int64_t start; // of tap 0: added to what the tables say
  TapRoom d, h, w; // what the tables do not say
  // kWindowLine: as many windows, of `count` channels each; how far apart their starts and their offsets are.
  int64_t windows = 1;
  int64_t step = 0;
  int64_t offsets_step = 0;
};

// What a line's windows are.
enum LineForm {
  kPlaneLine, // of whole planes: tables say all
  kRowLine, // of one row: tables say where they start and which taps they have along the width
  kWindowLine, // of adjacent channels: one window after the other, alike in their taps
};

// Turns offsets into places.
struct Lister {
  int32_t taps, width, height;
  int32_t w_divisor, h_divisor; // x * w_divisor >> 16 is x / width for x in [0, 256), rounded down
  int32_t w_pitch, h_pitch, d_pitch; // a tap lies at tap * w_pitch + row * h_pitch + depth * d_pitch
  bool in_halves; // w_pitch and h_pitch fit halves with a sign, divisors without

  Lister(const Shape& shape, const Strides& in)
      : taps(static_cast<int32_t>(shape.d.kernel * shape.h.kernel * shape.w.kernel)),
        width(static_cast<int32_t>(shape.w.kernel)),
        height(static_cast<int32_t>(shape.h.kernel)),
        w_divisor(65536 / width + 1),
        h_divisor(65536 / height + 1) {
    const int64_t column = shape.w.dilation * in.w;
    const int64_t row = shape.h.dilation * in.h;
    const int64_t depth = shape.d.dilation * in.d;
    w_pitch = static_cast<int32_t>(column);
    h_pitch = static_cast<int32_t>(row - shape.w.kernel * column);
    d_pitch = static_cast<int32_t>(depth - shape.h.kernel * row);
    const auto fits = [](int32_t x) { return x == static_cast<int16_t>(x); };
    in_halves = HalfProducts<kVectorBytes>::kExist && fits(w_pitch) && fits(h_pitch) && width > 1 &&
        (height > 1 || shape.d.kernel == 1);
  }

  static constexpr int64_t kSign = 0x80000000;

  // Writes line.count places of each window, and after the last one up to a vector. False where an offset is bad. kCut:
  // some windows may lack taps.
  template <LineForm kForm, bool kCut, bool kDepth>
  static __attribute__((noinline)) bool list(
      const Lister rule,
      const WindowTables tables,
      const WindowLine& line,
      int32_t* to) {
    return rule.in_halves ? rule.list_vectors<kForm, kCut, kDepth, HalfProducts<kVectorBytes>>(tables, line, to)
                          : rule.list_vectors<kForm, kCut, kDepth, HalfProducts<0>>(tables, line, to);
  }

 private:
  template <LineForm kForm, bool kCut, bool kDepth, class Products>
  TORCH_MAXPOOL_INLINE bool list_vectors(const WindowTables& tables, const WindowLine& line, int32_t* to) const {
    WindowLine part = line;
    PlaceLanes bad = {};
    for (int64_t window = 0; window < (kForm == kWindowLine ? line.windows : 1); ++window) {
      const uint8_t* const offsets = part.offsets;
      const int64_t count = line.count;
      int64_t i = 0;
      for (; i + kPlaceLanes <= count; i += kPlaceLanes) {
        bad |= vector<kForm, kCut, kDepth, Products>(tables, part, offsets + i, i, to);
      }
      if (i < count) {
        uint8_t last[16] = {};
        copy_bytes(last, offsets + i, count - i);
        bad |= vector<kForm, kCut, kDepth, Products>(tables, part, last, i, to) &
            reinterpret_cast<PlaceLanes>(lane_numbers() < place_lanes(count - i));
      }
      part.offsets += line.offsets_step;
      part.start += line.step;
      to += count;
    }
    return !any((bad & place_lanes(kCut ? kSign | kSign >> 16 : kSign)) != 0);
  }

  // x / n for x in [0, 256), by the divisor of n.
  template <class Products>
  static TORCH_MAXPOOL_INLINE PlaceLanes quotients(PlaceLanes x, int32_t divisor) {
    if constexpr (Products::kExist) {
      return Products::high(x, place_lanes(divisor));
    } else {
      return x * place_lanes(divisor) >> 16;
    }
  }

  // From tap 0 of their window.
  template <class Products>
  TORCH_MAXPOOL_INLINE PlaceLanes places(PlaceLanes tap, PlaceLanes row) const {
    if constexpr (Products::kExist) {
      const PlaceLanes pitches = place_lanes(both(w_pitch & 0xffff, h_pitch));
      return Products::sums(tap | row << 16, pitches);
    } else {
      return tap * place_lanes(w_pitch) + row * place_lanes(h_pitch);
    }
  }

  // both(column, row): the numbers of a tap.
  TORCH_MAXPOOL_INLINE PlaceLanes numbers(PlaceLanes tap, PlaceLanes row) const {
    return (tap | row << 16) - low_half_products(row, place_lanes(width));
  }

  // Returns what has bad offsets: sign bits of lanes, and kCut also of their low halves.
  template <LineForm kForm, bool kCut, bool kDepth, class Products>
  TORCH_MAXPOOL_INLINE PlaceLanes
  vector(const WindowTables& tables, const WindowLine& line, const uint8_t* offsets, int64_t i, int32_t* to) const {
    const PlaceLanes tap = reinterpret_cast<PlaceLanes>(load_bytes(offsets));
    const PlaceLanes row = quotients<Products>(tap, w_divisor);
    PlaceLanes place = places<Products>(tap, row);
    PlaceLanes bad = {};
    PlaceLanes in_depth = {}; // rows of the window's depths before
    if constexpr (kDepth) {
      const PlaceLanes d = quotients<Products>(row, h_divisor);
      place += d * place_lanes(d_pitch);
      if constexpr (kCut) {
        in_depth = low_half_products(d, place_lanes(height));
        bad = kForm == kPlaneLine ? outside(
                                        d - load_vector<PlaceLanes>(tables.d_first + line.at + i),
                                        load_vector<PlaceLanes>(tables.d_room + line.at + i))
                                  : outside(d - place_lanes(line.d.first), place_lanes(line.d.room));
        bad &= place_lanes(kSign);
      }
    }
    if constexpr (!kCut) {
      bad = place_lanes(taps - 1) - tap;
    } else {
      const PlaceLanes x = numbers(tap, row) - (in_depth << 16);
      PlaceLanes first =
          place_lanes(kForm == kPlaneLine ? 0 : both(kForm == kWindowLine ? line.w.first : 0, line.h.first));
      PlaceLanes room =
          place_lanes(kForm == kPlaneLine ? 0 : both(kForm == kWindowLine ? line.w.room : 0, line.h.room));
      if constexpr (kForm != kWindowLine) {
        first += load_vector<PlaceLanes>(tables.first + line.at + i);
        room += load_vector<PlaceLanes>(tables.room + line.at + i);
      }
      bad |= both_outside(x, first, room);
    }
    place +=
        kForm == kWindowLine ? lane_numbers() + place_lanes(i) : load_vector<PlaceLanes>(tables.start + line.at + i);
    store_vector(to + i, place + place_lanes(line.start));
    return bad;
  }
};

} // namespace
