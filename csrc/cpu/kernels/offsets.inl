// Offsets of up to 256 taps, checked a row at a time: each must name an element of its window, unless the window has
// none.

namespace {

// Numbers of a tap along each dimension, for windows of up to 256 taps (a dimension of 256 taps has them to itself).
struct TapNumbers {
  int64_t count;
  uint8_t d[256], h[256], w[256];

  explicit TapNumbers(const Shape& shape) : count(shape.d.kernel * shape.h.kernel * shape.w.kernel) {
    int64_t tap = 0;
    for (int64_t i = 0; i < shape.d.kernel; ++i) {
      for (int64_t j = 0; j < shape.h.kernel; ++j) {
        for (int64_t k = 0; k < shape.w.kernel; ++k, ++tap) {
          d[tap] = static_cast<uint8_t>(i);
          h[tap] = static_cast<uint8_t>(j);
          w[tap] = static_cast<uint8_t>(k);
        }
      }
    }
  }
};

inline bool is_whole(const Taps& taps, const Axis& axis) {
  return taps.first == 0 && taps.last == axis.kernel;
}

// The largest distance of `count` >= kBytes offsets from `low`, and whether it is above `last`.
template <int kBytes>
inline bool any_further(const uint8_t* offsets, int64_t count, uint8_t low, uint8_t last) {
  typedef Vector<uint8_t, kBytes> V;
  const V lows = splat<V>(low);
  V most = {};
  for (int64_t i = 0; i < count; i += kBytes) {
    const int64_t at = i + kBytes <= count ? i : count - kBytes;
    const V distance = load_vector<V>(offsets + at) - lows;
    most = distance > most ? distance : most;
  }
  return any(reinterpret_cast<V>(most > splat<V>(last)));
}

// True where one of `count` offsets is not in [first, first + range), range > 0.
inline bool any_outside(const uint8_t* offsets, int64_t count, int64_t first, int64_t range) {
  if (range > 255) {
    return false;
  }
  const uint8_t low = static_cast<uint8_t>(first);
  const uint8_t last = static_cast<uint8_t>(range - 1);
  if (count >= kVectorBytes) {
    return any_further<kVectorBytes>(offsets, count, low, last);
  }
  if (count >= 16) {
    return any_further<16>(offsets, count, low, last);
  }
  if (count >= 8) {
    return any_further<8>(offsets, count, low, last);
  }
  bool outside = false;
  for (int64_t i = 0; i < count; ++i) {
    outside |= static_cast<uint8_t>(offsets[i] - low) > last;
  }
  return outside;
}

// Positions [begin, end) along one dimension.
struct Span {
  int64_t begin, end;
  bool has(int64_t at) const {
    return at >= begin && at < end;
  }
};

// Checks rows of offsets. The edges of a row are its windows that are not whole along the width.
class RowCheck {
 public:
  // `edges`: 2 * shape.w.output bytes that outlive this.
  RowCheck(const Shape& shape, uint8_t* edges)
      : shape_(shape),
        numbers_(shape),
        inside_(interior_of(shape.w)),
        inner_rows_(interior_of(shape.h)),
        first_(edges),
        range_(edges + shape.w.output) {
    if (inside_.begin >= inside_.end) {
      inside_ = {0, 0};
    }
    note_edges(0, inside_.begin);
    note_edges(inside_.end, shape.w.output);
  }

  // Columns [begin, end) of one row, `offsets` being that of column `begin`. Returns -1 or the column of a bad offset.
  int64_t operator()(const uint8_t* offsets, const Taps& td, const Taps& th, int64_t begin, int64_t end) const {
    if (is_empty(td) || is_empty(th)) {
      return -1;
    }
    // Taps that depth and height allow are adjacent numbers unless both leave some out.
    const bool is_range = td.last - td.first == 1 || is_whole(th, shape_.h);
    if (!is_range) {
      return scalar(offsets, td, th, begin, end, begin);
    }
    const int64_t first = (td.first * shape_.h.kernel + th.first) * shape_.w.kernel;
    const int64_t range = ((td.last - td.first - 1) * shape_.h.kernel + th.last - th.first) * shape_.w.kernel;
    const int64_t inner_begin = begin > inside_.begin ? begin : inside_.begin;
    const int64_t inner_end = end < inside_.end ? end : inside_.end;
    if (inner_begin >= inner_end) {
      return scalar(offsets, td, th, begin, end, begin);
    }
    if (any_outside(offsets + (inner_begin - begin), inner_end - inner_begin, first, range)) {
      return scalar(offsets, td, th, inner_begin, inner_end, begin);
    }
    const int64_t bad = scalar(offsets, td, th, begin, inner_begin, begin);
    return bad >= 0 ? bad : scalar(offsets, td, th, inner_end, end, begin);
  }

  // Rows `rows_of` of columns `columns_of`, `pitch` apart, as above. Returns -1 or the place of a bad offset in its depth.
  // Between the rows lie taps that the depth allows, if anything.
  int64_t rows(const Taps& td, const uint8_t* offsets, int64_t pitch, const Span& rows_of, const Span& columns_of)
      const {
    const Span whole = {
        inner_rows_.begin > rows_of.begin ? inner_rows_.begin : rows_of.begin,
        inner_rows_.end < rows_of.end ? inner_rows_.end : rows_of.end};
    const auto one_by_one = [&](int64_t begin, int64_t end) -> int64_t {
      for (int64_t oh = begin; oh < end; ++oh) {
        const uint8_t* const from = offsets + (oh - rows_of.begin) * pitch;
        const int64_t bad = (*this)(from, td, taps_of(shape_.h, oh), columns_of.begin, columns_of.end);
        if (bad >= 0) {
          return oh * shape_.w.output + bad;
        }
      }
      return -1;
    };
    if (whole.begin >= whole.end) {
      return one_by_one(rows_of.begin, rows_of.end);
    }
    const uint8_t* const from = offsets + (whole.begin - rows_of.begin) * pitch;
    const int64_t per_depth = shape_.h.kernel * shape_.w.kernel;
    const int64_t range = (td.last - td.first) * per_depth;
    if (!fit(from, pitch, whole.end - whole.begin, columns_of, td.first * per_depth, range)) {
      return one_by_one(rows_of.begin, rows_of.end);
    }
    const int64_t bad = one_by_one(rows_of.begin, whole.begin);
    return bad >= 0 ? bad : one_by_one(whole.end, rows_of.end);
  }

  // True if all of these rows, `pitch` apart, pass, where depth and height allow taps [first, first + range). Between the
  // rows lie such taps.
  bool fit(const uint8_t* offsets, int64_t pitch, int64_t rows, const Span& columns, int64_t first, int64_t range)
      const {
    return !any_outside(offsets, (rows - 1) * pitch + columns.end - columns.begin, first, range) &&
        edges_fit(offsets, pitch, rows, columns);
  }

  // The same, of offsets that are known to be taps which depth and height allow.
  bool edges_fit(const uint8_t* offsets, int64_t pitch, int64_t rows, const Span& columns) const {
    const int64_t left = columns.end < inside_.begin ? columns.end : inside_.begin;
    const int64_t right = columns.begin > inside_.end ? columns.begin : inside_.end;
    bool fits = true;
    const auto check_column = [&](int64_t o) {
      const uint8_t* const at = offsets + (o - columns.begin);
      const uint8_t low = first_[o];
      const uint8_t last = range_[o];
      for (int64_t i = 0; i < rows; ++i) {
        fits &= static_cast<uint8_t>(numbers_.w[at[i * pitch]] - low) <= last;
      }
    };
    for (int64_t o = columns.begin; o < left; ++o) {
      check_column(o);
    }
    for (int64_t o = right; o < columns.end; ++o) {
      check_column(o);
    }
    return fits;
  }

 private:
  void note_edges(int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const Taps taps = taps_of(shape_.w, o);
      first_[o] = static_cast<uint8_t>(taps.first);
      range_[o] = is_empty(taps) ? 0 : static_cast<uint8_t>(taps.last - taps.first - 1);
    }
  }

  int64_t scalar(const uint8_t* offsets, const Taps& td, const Taps& th, int64_t begin, int64_t end, int64_t base)
      const {
    for (int64_t o = begin; o < end; ++o) {
      const bool is_inner = o >= inside_.begin && o < inside_.end;
      const uint8_t first = is_inner ? 0 : first_[o];
      const uint8_t range = is_inner ? static_cast<uint8_t>(shape_.w.kernel - 1) : range_[o];
      const uint8_t offset = offsets[o - base];
      if (offset < numbers_.count && tap_is_in(td, numbers_.d[offset]) && tap_is_in(th, numbers_.h[offset]) &&
          static_cast<uint8_t>(numbers_.w[offset] - first) <= range) {
        continue;
      }
      if (!is_inner && is_empty(taps_of(shape_.w, o))) {
        continue;
      }
      return o;
    }
    return -1;
  }

  const Shape& shape_;
  const TapNumbers numbers_;
  Interior inside_;
  const Interior inner_rows_; // whose windows are whole along the height
  uint8_t* const first_;
  uint8_t* const range_;
};

} // namespace
