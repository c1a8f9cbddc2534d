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
inline void meet_taps_of(Line<L> line, typename L::Lane* fresh, int64_t count, int64_t step, int64_t weight) {
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

} // namespace
