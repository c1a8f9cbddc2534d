// Rows of the input as the lines of a tile (tile.inl): padded, as lanes, split by column into phases.

namespace {

// Sizes of a block in scratch, in places (a place is `group` adjacent elements).
struct Tile {
  int64_t phases; // = stride along the width
  int64_t pitch; // places per row and phase
  int64_t rows; // rows of the input, padding included
  int64_t line; // elements per phase
  int64_t slack; // elements that may be read past a line's end
  int64_t stride; // from one phase's line to the next, in elements
};

template <class L>
inline Tile tile_of(const Shape& shape, int64_t group, int64_t rows, int64_t columns) {
  Tile tile;
  const int64_t reach_w = (shape.w.kernel - 1) * shape.w.dilation;
  const int64_t reach_h = (shape.h.kernel - 1) * shape.h.dilation;
  tile.phases = shape.w.stride;
  tile.pitch = columns + reach_w / shape.w.stride;
  tile.rows = (rows - 1) * shape.h.stride + reach_h + 1;
  tile.line = tile.rows * tile.pitch * group;
  tile.slack = (reach_w / shape.w.stride + 1) * group + 2 * kUnroll * L::kLanes;
  tile.stride = tile.line + tile.slack;
  return tile;
}

// `count` < kLanes elements, and zeros, which are not strange.
template <class L>
TORCH_MAXPOOL_INLINE typename L::V load_some(const typename L::Element* from, int64_t count) {
  typename L::Element elements[L::kLanes] = {};
  copy_bytes(elements, from, count * static_cast<int64_t>(sizeof elements[0]));
  return L::load(elements);
}

// Copies `count` adjacent elements as lanes, and writes up to a vector beyond.
template <class L>
inline void copy_lanes(
    typename L::Lane* to,
    const typename L::Element* from,
    int64_t count,
    typename L::Mask& strange) {
  typename L::Mask noted = strange; // not in memory that stores could be thought to change
  int64_t i = 0;
  const auto copy = [&]() __attribute__((always_inline)) {
    L::note_at(noted, from + i);
    store_vector(to + i, L::load(from + i));
  };
  for (; i + L::kLanes <= count; i += L::kLanes) {
    copy();
  }
  if (i < count && count >= L::kLanes) { // the last vector overlaps the one before
    i = count - L::kLanes;
    copy();
  } else if (i < count) {
    const typename L::V some = load_some<L>(from + i, count - i);
    L::note(noted, some);
    store_vector(to + i, some);
  }
  strange = noted;
}

// Copies `count` adjacent elements, the first of each kPhases to `to`, the second `stride` lanes later, and so on. Writes
// up to a vector beyond the last, in each phase.
template <class L, int kPhases>
inline void copy_phases(
    typename L::Lane* to,
    int64_t stride,
    const typename L::Element* from,
    int64_t count,
    typename L::Mask& strange) {
  constexpr int kLanes = L::kLanes;
  typename L::Mask noted = strange;
  typename L::V v[kPhases];
  const auto put = [&]() __attribute__((always_inline)) {
    for (int u = 0; u < kPhases; ++u) {
      L::note(noted, v[u]);
    }
    split(v);
    for (int u = 0; u < kPhases; ++u) {
      store_vector(to + u * stride, v[u]);
    }
    to += kLanes;
  };
  for (; count >= kPhases * kLanes; count -= kPhases * kLanes, from += kPhases * kLanes) {
    // Where windows are apart, reading takes most of the time (measured: 3/3 beyond the cache in 0.8 of it).
    fetch<kPhases * sizeof(typename L::V)>(from + kFetchedAhead / sizeof(typename L::Element));
    for (int u = 0; u < kPhases; ++u) {
      v[u] = L::load(from + u * kLanes);
    }
    put();
  }
  for (int u = 0; u < kPhases && count > 0; ++u) {
    const int64_t left = count - u * kLanes;
    v[u] = left >= kLanes ? L::load(from + u * kLanes)
        : left > 0        ? load_some<L>(from + u * kLanes, left)
                          : typename L::V{};
  }
  if (count > 0) {
    put();
  }
  strange = noted;
}

// Lane `lane` of the even-numbered groups of kGroup elements, counted in elements of all groups from lane `first` on.
template <int kGroup>
constexpr int place_in_groups(int first, int lane) {
  const int i = first + lane;
  return i / kGroup * 2 * kGroup + i % kGroup - first;
}

// kLanes lanes of the even-numbered groups, from two vectors; `from` is lane kFirst of a group.
template <class L, int kGroup, int kFirst, int... kLane>
TORCH_MAXPOOL_INLINE typename L::V even_groups(
    const typename L::Element* from,
    typename L::Mask& strange,
    Sequence<kLane...>) {
  constexpr int kLanes = L::kLanes;
  // The second vector begins one later where the last lane is out of reach; then nobody asks for the one between.
  constexpr int kGap = place_in_groups<kGroup>(kFirst, kLanes - 1) >= 2 * kLanes ? 1 : 0;
  const typename L::V a = L::load(from);
  const typename L::V b = L::load(from + kLanes + kGap);
  L::note_at(strange, from, from + kLanes + kGap);
  return __builtin_shufflevector(
      a, b, (place_in_groups<kGroup>(kFirst, kLane) - (place_in_groups<kGroup>(kFirst, kLane) > kLanes ? kGap : 0))...);
}

// Copies pairs of adjacent groups of kGroup elements, the first of each pair to `evens`, the second to `odds`. Returns how
// many pairs are done: what is left is less than a vector's.
template <class L, int kGroup>
inline int64_t copy_group_pairs(
    typename L::Lane* evens,
    typename L::Lane* odds,
    const typename L::Element* from,
    int64_t pairs,
    typename L::Mask& strange) {
  constexpr int kLanes = L::kLanes;
  const typename L::Element* const end = from + 2 * kGroup * pairs;
  int64_t i = 0; // lanes done
  const auto copy = [&](auto number) __attribute__((always_inline)) {
    constexpr int kFirst = decltype(number)::kNumber * kLanes % kGroup;
    const typename L::Element* const at = from + i / kGroup * 2 * kGroup + kFirst;
    if (at + kGroup + 2 * kLanes + 1 > end) {
      return false;
    }
    typedef MakeSequence<kLanes> All;
    store_vector(evens + i, even_groups<L, kGroup, kFirst>(at, strange, All()));
    store_vector(odds + i, even_groups<L, kGroup, kFirst>(at + kGroup, strange, All()));
    i += kLanes;
    return true;
  };
  while (copy(Number<0>()) && (kGroup % 3 != 0 || (copy(Number<1>()) && copy(Number<2>())))) {
  }
  return i / kGroup;
}

// A row of the input and where it goes.
template <class L>
struct TileRow {
  const Tile tile; // by value, as lanes may be bytes, which could be anything
  int64_t group;
  const typename L::Element* from; // of place 0, which may lie in the padding
  int64_t stride; // from place to place
  typename L::Lane* to;

  // Places [begin, end), which lie in the padding.
  void pad(int64_t begin, int64_t end) const {
    for_places(begin, end, [&](int64_t, typename L::Lane* lanes) {
      for (int64_t g = 0; g < group; ++g) {
        lanes[g] = L::lowest();
      }
    });
  }

  // Places [begin, end), which lie within the input, for any phases, group and stride.
  void copy(int64_t begin, int64_t end, typename L::Mask& strange) const {
    if (group == 1 && end - begin >= tile.phases * (L::kLanes / 2)) {
      copy_groups<1>(begin, end, strange);
      return;
    }
    if (group % L::kLanes == 0) {
      for_places(begin, end, [&](int64_t place, typename L::Lane* lanes) {
        copy_lanes<L>(lanes, from + place * stride, group, strange);
      });
      return;
    }
    if constexpr (sizeof(typename L::Element) <= 2) { // of others a vector holds too few
      if (L::kLanes >= 8 && (end - begin) * group >= tile.phases * (L::kLanes / 2)) {
        switch (group) {
          case 2:
            return copy_groups<2>(begin, end, strange);
          case 3:
            return copy_groups<3>(begin, end, strange);
          case 4:
            return copy_groups<4>(begin, end, strange);
          case 5:
            return copy_groups<5>(begin, end, strange);
          case 6:
            return copy_groups<6>(begin, end, strange);
          case 7:
            return copy_groups<7>(begin, end, strange);
          case 8:
            return copy_groups<8>(begin, end, strange);
        }
      }
    }
    const auto copy_one = [&strange, row = *this](int64_t place, typename L::Lane* lanes) {
      for (int64_t g = 0; g < row.group; ++g) {
        lanes[g] = L::lane(row.from[place * row.stride + g]);
        L::note(strange, splat<typename L::V>(lanes[g]));
      }
    };
    for_places(begin, end, copy_one);
  }

 private:
  // As many groups at a time as fill a vector.
  template <int kGroup>
  void copy_groups(int64_t begin, int64_t end, typename L::Mask& strange) const {
    typedef typename L::Element T;
    constexpr int kLanes = L::kLanes;
    constexpr int64_t kPlaces = kLanes / kGroup;
    T elements[kLanes] = {};
    typename L::Mask noted = strange;
    for (int64_t phase = 0; phase < tile.phases; ++phase) {
      int64_t column = (begin - phase + tile.phases - 1) / tile.phases;
      const int64_t last = (end - phase + tile.phases - 1) / tile.phases;
      const T* read = from + (column * tile.phases + phase) * stride;
      for (; column < last; column += kPlaces) {
        const int64_t count = last - column < kPlaces ? last - column : kPlaces;
        for (int64_t i = 0; i < count; ++i, read += tile.phases * stride) {
          __builtin_memcpy(elements + i * kGroup, read, kGroup * sizeof(T));
        }
        L::note_at(noted, elements);
        store_vector(to + phase * tile.stride + column * kGroup, L::load(elements));
      }
    }
    strange = noted;
  }

  template <class Put>
  TORCH_MAXPOOL_INLINE void for_places(int64_t begin, int64_t end, const Put& put) const {
    if (begin >= end) {
      return;
    }
    const int64_t phases = tile.phases;
    const int64_t phase_stride = tile.stride;
    const int64_t members = group;
    const int64_t column = static_cast<uint32_t>(begin) / static_cast<uint32_t>(phases); // below 2^24, see plan_tile
    typename L::Lane* lanes = to + column * members;
    int64_t phase = begin - column * phases;
    for (int64_t place = begin; place < end; ++place) {
      put(place, lanes + phase * phase_stride);
      if (++phase == phases) {
        phase = 0;
        lanes += members;
      }
    }
  }
};

// The same for any number of phases, by squares of kSide columns and phases, of whole columns only. Returns how many places
// those are.
template <class L>
inline int64_t copy_phases_by_squares(
    const Tile& tile,
    const typename L::Element* from,
    int64_t places,
    typename L::Lane* to,
    typename L::Mask& strange) {
  typedef typename L::Element T;
  typedef Square<T> Squares;
  constexpr int kSide = Squares::kSide;
  constexpr int kLanes = L::kLanes;
  constexpr int kColumns = kLanes > kSide ? kLanes : kSide;
  const int64_t phases = tile.phases;
  const int64_t stride = tile.stride;
  const int64_t columns = places / phases;
  const int64_t last = phases > kSide ? phases - kSide : 0; // the last squares overlap those before
  const int used = static_cast<int>(phases < kSide ? phases : kSide);
  alignas(64) T elements[kSide][kColumns] = {};
  typename L::Mask noted = strange;
  int64_t begin = 0;
  const auto take = [&](int64_t c, int64_t first, const auto& row) __attribute__((always_inline)) {
    Squares square;
    for (int u = 0; u < kSide; ++u) {
      square.row[u] = row((begin + c + u) * phases + first);
    }
    square.transpose();
    for (int u = 0; u < kSide; ++u) {
      store_vector(&elements[u][c], square.row[u]);
    }
  };
  const auto put = [&](int64_t first) __attribute__((always_inline)) {
    for (int u = 0; u < used; ++u) {
      for (int c = 0; c < kColumns; c += kLanes) {
        L::note_at(noted, &elements[u][c]);
        store_vector(to + (first + u) * stride + begin + c, L::load(&elements[u][c]));
      }
    }
  };
  for (; (begin + kColumns - 1) * phases + last + kSide <= places; begin += kColumns) {
    for (int64_t phase = 0; phase < phases; phase += kSide) {
      const int64_t first = phase < last ? phase : last;
      for (int c = 0; c < kColumns; c += kSide) {
        take(c, first, [&](int64_t at) __attribute__((always_inline)) {
          return load_vector<typename Squares::V>(from + at);
        });
      }
      put(first);
    }
  }
  // Fewer columns than that, and nothing beyond the places.
  for (int64_t phase = 0; phase < phases && begin < columns; phase += kSide) {
    const int64_t first = phase < last ? phase : last;
    for (int64_t c = 0; begin + c < columns && c < kColumns; c += kSide) {
      take(c, first, [&](int64_t at) __attribute__((always_inline)) {
        typename Squares::V v = {};
        if (at + kSide <= places) {
          v = load_vector<typename Squares::V>(from + at);
        } else if (at < places) {
          copy_bytes(&v, from + at, (places - at) * static_cast<int64_t>(sizeof(T)));
        }
        return v;
      });
    }
    put(first);
  }
  strange = noted;
  return columns * phases;
}

// Places of `from`, which are adjacent elements, by columns of all phases; for those numbers of phases by shuffles alone.
inline constexpr int64_t kMostPhases = 8;
template <class L>
inline void copy_columns(
    const Tile& tile,
    const typename L::Element* from,
    int64_t places,
    typename L::Lane* to,
    typename L::Mask& strange) {
  switch (tile.phases) {
    case 1:
      return copy_lanes<L>(to, from, places, strange);
    case 2:
      return copy_phases<L, 2>(to, tile.stride, from, places, strange);
    case 3:
      return copy_phases<L, 3>(to, tile.stride, from, places, strange);
    case 4:
      return copy_phases<L, 4>(to, tile.stride, from, places, strange);
    case 5:
      return copy_phases<L, 5>(to, tile.stride, from, places, strange);
    case 6:
      return copy_phases<L, 6>(to, tile.stride, from, places, strange);
    case 7:
      return copy_phases<L, 7>(to, tile.stride, from, places, strange);
    case 8:
      return copy_phases<L, 8>(to, tile.stride, from, places, strange);
    default:
      const int64_t done = copy_phases_by_squares<L>(tile, from, places, to, strange);
      TileRow<L>{tile, 1, from, 1, to}.copy(done, places, strange);
  }
}

// One row of the input, from place `first` (which may lie in the padding) on, split into phases at `to`; beyond each
// phase's part up to a vector is overwritten. Null: padding.
template <class L>
inline void load_row(
    const Shape& shape,
    const Tile& tile,
    int64_t group,
    const typename L::Element* row,
    int64_t first,
    int64_t stride,
    typename L::Lane* to,
    typename L::Mask& strange) {
  const int64_t places = tile.pitch * tile.phases;
  int64_t left = first < 0 ? -first : 0;
  left = left < places ? left : places;
  int64_t end = shape.w.input - first; // one past the last place within the input
  end = end < places ? end : places;
  if (row == nullptr || end <= left) {
    for (int64_t phase = 0; phase < tile.phases; ++phase) {
      fill_lowest<L>(to + phase * tile.stride, tile.pitch * group);
    }
    return;
  }
  const TileRow<L> places_of = {tile, group, row + first * stride, stride, to};
  const typename L::Element* const from = places_of.from;
  const bool is_dense = stride == group;
  if (tile.phases == 1 && is_dense) {
    fill_lowest<L>(to, left * group);
    copy_lanes<L>(to + left * group, from + left * stride, (end - left) * group, strange);
    fill_lowest<L>(to + end * group, (places - end) * group);
    return;
  }
  // Whole columns, all phases, from here on; the one before may be cut by the padding.
  const int64_t column = left == 0 ? 0 : (left + tile.phases - 1) / tile.phases;
  const int64_t begin = column * tile.phases < end ? column * tile.phases : end;
  places_of.pad(0, left);
  places_of.copy(left, begin, strange);
  int64_t done = begin;
  typename L::Lane* const lanes = to + column * group;
  if (is_dense && group == 1) {
    copy_columns<L>(tile, from + begin, end - begin, lanes, strange);
    done = end;
  } else if (is_dense && tile.phases == 2 && (group == 3 || group == 4)) {
    const auto copy = group == 3 ? copy_group_pairs<L, 3> : copy_group_pairs<L, 4>;
    done += 2 * copy(lanes, lanes + tile.stride, from + begin * stride, (end - begin) / 2, strange);
  }
  places_of.copy(done, end, strange);
  places_of.pad(end, places);
}

} // namespace
