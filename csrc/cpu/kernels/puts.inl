// Backward, families "direct" and "direct_channels": gradients added one by one at listed places.

namespace {

inline constexpr int64_t kListed = 2048; // windows at a time
inline constexpr int64_t kTurns = 8; // planes that go in turns, where they stay in cache
inline constexpr int64_t kFewTurns = 4; // else
inline constexpr int64_t kLongChannels = 32; // side by side: from here on family "direct_channels"

template <bool kFirst, class A, class B>
struct Either {
  typedef A type;
};
template <class A, class B>
struct Either<false, A, B> {
  typedef B type;
};

// kDisjoint: no two windows share an element, so that gradients are stored, not added. Cells are those of grad_input or in
// scratch: there where kAside says so, or they are wider.
template <class T, bool kDisjoint, bool kAside = false>
struct Puts {
  typedef SumOf<T> Sum;
  static constexpr bool kNarrow = sizeof(T) != sizeof(Sum);
  static constexpr bool kInPlace = !kAside && (!kNarrow || kDisjoint);
  typedef typename Either<kInPlace, T, Sum>::type Cell;

  static TORCH_MAXPOOL_INLINE void put(Cell& cell, Cell value) {
    if constexpr (!kDisjoint) {
      cell += value;
    } else if constexpr (kNarrow) {
      cell = value;
    } else {
      cell = Cell(0) + value;
    }
  }

  // What is to be put for `count` gradients: where they are, or converted to `values`.
  static const Cell* converted(const T* grads, int64_t count, Cell* values) {
    if constexpr (!kNarrow) {
      return grads;
    } else if constexpr (!kInPlace) {
      widen_row(values, grads, count);
    } else {
      typedef Sums<T> S; // +0 added: so -0 and NaNs come out as sums do
      int64_t i = 0;
      for (; i + S::kLanes <= count; i += S::kLanes) {
        S::store(values + i, S::load(grads + i) + typename S::V{});
      }
      for (; i < count; ++i) {
        narrow(Sum(0) + widen(grads[i]), values[i]);
      }
    }
    return values;
  }

  static __attribute__((noinline)) void put_all(Cell* cells, const Cell* from, const int32_t* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      put(cells[static_cast<uint32_t>(to[i])], from[i]);
    }
  }

  // Only those at places in [0, size). Which they are no branch could foresee: the others go to waste.
  static __attribute__((noinline)) void put_inside(
      Cell* cells,
      const Cell* from,
      const int32_t* to,
      int64_t count,
      int64_t size) {
    constexpr int64_t kWaste = 16; // cells, so that they need not wait for each other
    Cell waste[kWaste] = {};
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = to[i];
      const uintptr_t inside = ~static_cast<uintptr_t>((place | (size - 1 - place)) >> 63); // all bits, or none
      const uintptr_t cell = reinterpret_cast<uintptr_t>(cells) + static_cast<uintptr_t>(place) * sizeof(Cell);
      const uintptr_t unused = reinterpret_cast<uintptr_t>(waste + i % kWaste);
      put(*reinterpret_cast<Cell*>((cell & inside) | (unused & ~inside)), from[i]);
    }
  }

  // Of kCount planes, `count` of each, whose places are as far apart as there is room for. That the distance is known at
  // compile time spares the loop half of its registers.
  template <int64_t kCount>
  static __attribute__((noinline)) void put_in_turns(
      Cell* cells,
      const Cell* const* from,
      const int32_t* to,
      int64_t count) {
    constexpr int64_t kApart = kListed / kCount;
    const Cell* planes[kCount];
#pragma GCC unroll 8
    for (int64_t turn = 0; turn < kCount; ++turn) {
      planes[turn] = from[turn];
    }
    for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 8
      for (int64_t turn = 0; turn < kCount; ++turn) {
        put(cells[static_cast<uint32_t>(to[turn * kApart + i])], planes[turn][i]);
      }
    }
  }

  // Of four quarters of a line, `count` in each.
  static __attribute__((noinline)) void put_quarters(Cell* cells, const Cell* from, const int32_t* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 4
      for (int64_t quarter = 0; quarter < 4; ++quarter) {
        put(cells[static_cast<uint32_t>(to[quarter * count + i])], from[quarter * count + i]);
      }
    }
  }
};

// Whether an offset names an element of the window that output `output` of a plane is the maximum of.
inline bool is_in_window(const Shape& shape, int64_t output, uint8_t offset) {
  const int64_t row = output / shape.w.output;
  Place place;
  return resolve(
             shape,
             taps_of(shape.d, row / shape.h.output),
             taps_of(shape.h, row % shape.h.output),
             taps_of(shape.w, output % shape.w.output),
             offset,
             place) >= 0;
}

} // namespace
