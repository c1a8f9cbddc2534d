// Forward: lines of values and tap numbers in scratch, pooled over the whole line at once. Used by tile.inl and sliding.inl.

namespace {

inline constexpr int kUnroll = 4; // vectors per step; lines have room for reading and writing that much past the end
inline constexpr int kTapsInRegisters = 5; // more taps than that take doubling steps

inline int64_t aligned(int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

inline int64_t rounded_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Lines of values and of tap numbers.
template <class L>
struct Line {
  typename L::Lane* value;
  typename L::Index* index; // meaningless unless indexed
};

// kNumbered: with the numbers in line.index, else with number 0.
template <class L, bool kNumbered, bool kIndexed = kNumbered>
TORCH_MAXPOOL_INLINE Champions<L, kIndexed> at(const Line<L>& line, int64_t i) {
  Champions<L, kIndexed> c = {load_vector<typename L::V>(line.value + i), {}};
  if (kNumbered) {
    c.index = load_vector<typename L::IV>(line.index + i);
  }
  return c;
}

template <class L, bool kIndexed>
TORCH_MAXPOOL_INLINE void put(const Line<L>& line, int64_t i, const Champions<L, kIndexed>& c) {
  store_vector(line.value + i, c.value);
  if (kIndexed) {
    store_vector(line.index + i, c.index);
  }
}

// line[i] meets line[i + step], line[i + 2 * step] ... (kTaps in all), for i < count; later ones' numbers grow by `weight`
// each. In place: ascending, each element is read before it is written. kFresh: values come from `fresh`, which may be
// line.value, and no numbers stand in line.index yet.
template <class L, bool kIndexed, bool kFresh, int kTaps>
inline void meet_taps_of(const Line<L>& line, typename L::Lane* fresh, int64_t count, int64_t step, int64_t weight) {
  const Line<L> from = {kFresh ? fresh : line.value, line.index};
  constexpr int kLanes = L::kLanes;
  typename L::IV more[kTaps] = {};
  for (int t = 1; kIndexed && t < kTaps; ++t) {
    more[t] = splat_index<L>(t * weight);
  }
  for (int64_t i = 0; i < count; i += kUnroll * kLanes) {
    Champions<L, kIndexed> best[kUnroll];
    for (int u = 0; u < kUnroll; ++u) {
      best[u] = at < L, kIndexed && !kFresh, kIndexed > (from, i + u * kLanes);
    }
    for (int t = 1; t < kTaps; ++t) {
      for (int u = 0; u < kUnroll; ++u) {
        Champions<L, kIndexed> later = at < L, kIndexed && !kFresh, kIndexed > (from, i + u * kLanes + t * step);
        if (kIndexed) {
          later.index += more[t];
        }
        best[u].meet(later);
      }
    }
    for (int u = 0; u < kUnroll; ++u) {
      put<L, kIndexed>(line, i + u * kLanes, best[u]);
    }
  }
}

// The same for 2 to kTapsInRegisters taps.
template <class L, bool kIndexed, bool kFresh>
inline void meet_taps(
    const Line<L>& line,
    typename L::Lane* fresh,
    int64_t count,
    int64_t taps,
    int64_t step,
    int64_t weight) {
  switch (taps) {
    case 2:
      return meet_taps_of<L, kIndexed, kFresh, 2>(line, fresh, count, step, weight);
    case 3:
      return meet_taps_of<L, kIndexed, kFresh, 3>(line, fresh, count, step, weight);
    case 4:
      return meet_taps_of<L, kIndexed, kFresh, 4>(line, fresh, count, step, weight);
    default:
      return meet_taps_of<L, kIndexed, kFresh, 5>(line, fresh, count, step, weight);
  }
}

// The same by growing windows: where `line` already holds windows of `width` taps, two, three or four of them make a
// larger one; at last two that overlap cover `taps`.
template <class L, bool kIndexed>
inline void slide(const Line<L>& line, int64_t count, int64_t taps, int64_t step, int64_t weight, int64_t width = 1) {
  while (taps > kTapsInRegisters * width) {
    const int64_t factor = taps >= 4 * width ? 4 : 2;
    meet_taps<L, kIndexed, false>(
        line, nullptr, count + (taps - factor * width) * step, factor, width * step, width * weight);
    width *= factor;
  }
  const int64_t whole = taps / width;
  const int64_t rest = taps - whole * width;
  if (whole > 1) {
    meet_taps<L, kIndexed, false>(line, nullptr, count + rest * step, whole, width * step, width * weight);
  }
  if (rest > 0) {
    meet_taps<L, kIndexed, false>(line, nullptr, count, 2, rest * step, rest * weight);
  }
}

// The same for windows along a row, of two taps and more, from values without tap numbers.
template <class L, bool kIndexed>
inline void slide_across(typename L::Lane* fresh, const Line<L>& line, int64_t count, int64_t taps, int64_t step) {
  const int64_t width = taps <= kTapsInRegisters ? taps : 4;
  meet_taps<L, kIndexed, true>(line, fresh, count + (taps - width) * step, width, step, 1);
  slide<L, kIndexed>(line, count, taps, step, 1, width);
}

// Fills `count` lanes, and up to a vector beyond, which the caller writes later or never reads.
template <class L>
inline void fill_lowest(typename L::Lane* to, int64_t count) {
  const typename L::V lowest = splat<typename L::V>(L::lowest());
  for (int64_t i = 0; i < count; i += L::kLanes) {
    store_vector(to + i, lowest);
  }
}

// Copies `count` adjacent elements as lanes, and writes up to a vector beyond.
template <class L>
inline void copy_lanes(
    typename L::Lane* to,
    const typename L::Element* from,
    int64_t count,
    typename L::Mask& strange) {
  int64_t i = 0;
  for (; i + L::kLanes <= count; i += L::kLanes) {
    const typename L::V v = L::load(from + i);
    L::note(strange, v);
    store_vector(to + i, v);
  }
  if (i < count && count >= L::kLanes) { // the last vector overlaps the one before
    i = count - L::kLanes;
    const typename L::V v = L::load(from + i);
    L::note(strange, v);
    store_vector(to + i, v);
    return;
  }
  if (i < count) {
    typename L::V v = {}; // zeros beyond are not strange
    for (int64_t j = 0; j < count; ++j) {
      v[j] = L::lane(from[j]);
    }
    L::note(strange, v);
    store_vector(to, v);
  }
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
  L::note(strange, a, b);
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

} // namespace
