// Plane indices from offsets of a byte, by table: for each tap, how far it lies from tap 0.

namespace {

inline constexpr int64_t kNoTap = INT64_MIN / 2; // far from everything

// How far a tap lies from tap 0 along each dimension.
struct Reach {
  int64_t d, h, w;
};

// What part of a window may lie outside the input.
enum class Cut : uint8_t { kNone, kColumns, kAny };

struct IndexRows {
  const PlacesParams& p;
  const Shape shape;
  const Interior inner; // columns
  const bool has_empty_columns;
  int64_t elements[256]; // by tap: of the plane, or kNoTap: whatever a byte holds, it finds something
  Reach reach[256]; // of taps
  Taps td = {}, th = {}; // of the row at work
  int64_t place = 0; // of tap 0 at its column 0, were there no padding
  bool is_whole = false, is_empty_row = false;

  explicit IndexRows(const PlacesParams& params)
      : p(params),
        shape(params.shape),
        inner(interior_of(params.shape.w)),
        has_empty_columns(has_empty_windows(params.shape.w)) {
    for (int64_t& each : elements) {
      each = kNoTap;
    }
    int64_t tap = 0;
    for (int64_t a = 0; a < shape.d.kernel; ++a) {
      for (int64_t b = 0; b < shape.h.kernel; ++b) {
        for (int64_t c = 0; c < shape.w.kernel; ++c, ++tap) {
          reach[tap] = {a * shape.d.dilation, b * shape.h.dilation, c * shape.w.dilation};
          elements[tap] = (reach[tap].d * shape.h.input + reach[tap].h) * shape.w.input + reach[tap].w;
        }
      }
    }
  }

  void begin_row(const Row& row) {
    td = taps_of(shape.d, row.d);
    th = taps_of(shape.h, row.h);
    place = (td.start * shape.h.input + th.start) * shape.w.input;
    is_whole = td.last - td.first == shape.d.kernel && th.last - th.first == shape.h.kernel;
    is_empty_row = is_empty(td) || is_empty(th);
  }

  bool is_inner(int64_t o) const {
    return o >= inner.begin && o < inner.end;
  }

  // How many columns from `o` on can be one call of put().
  int64_t columns_alike(int64_t o, int64_t repeat) const {
    constexpr int64_t kFew = 8; // outputs that are not worth another call
    const int64_t left = shape.w.output - o;
    if (has_empty_columns) {
      return 1;
    }
    if (left * repeat <= kFew || !is_whole || o >= inner.end) {
      return left;
    }
    const int64_t alike = (o < inner.begin ? inner.begin : inner.end) - o;
    return alike < left ? alike : left;
  }

  // Outputs that lie side by side in memory, from `at` on: windows of `columns` from `o` on, each of `repeat` channels.
  // Returns -1, or which of them has an offset that names no tap.
  int64_t put(int64_t o, int64_t at, int64_t columns, int64_t repeat) const {
    const Taps tw = taps_of(shape.w, o);
    if (is_empty_row || (has_empty_columns && is_empty(tw))) {
      for (int64_t i = 0; i < columns * repeat; ++i) {
        p.indices[at + i] = kNoElement;
      }
      return -1;
    }
    if (!is_whole) {
      return put_cut<Cut::kAny>(tw.start, at, columns, repeat);
    }
    return is_inner(o) && is_inner(o + columns - 1) ? put_cut<Cut::kNone>(tw.start, at, columns, repeat)
                                                    : put_cut<Cut::kColumns>(tw.start, at, columns, repeat);
  }

 private:
  template <Cut kCut>
  int64_t put_cut(int64_t column, int64_t at, int64_t columns, int64_t repeat) const {
    const int64_t step = shape.w.stride;
    const volatile uint8_t* const offsets = static_cast<const uint8_t*>(p.offsets) + at;
    int64_t* const to = p.indices + at;
    int64_t all = 0; // negative as soon as one is
    const auto put_one = [&](int64_t i, int64_t start) __attribute__((always_inline)) {
      const uint8_t offset = offsets[i];
      to[i] = place + start + elements[offset];
      all |= error_of<kCut>(offset, start);
    };
    if (repeat == 1) {
      for (int64_t i = 0; i < columns; ++i) {
        put_one(i, column + i * step);
      }
    } else {
      for (int64_t i = 0, begin = 0; i < columns; ++i, begin += repeat) {
        const int64_t start = column + i * step;
        for (int64_t k = begin; k < begin + repeat; ++k) {
          put_one(k, start);
        }
      }
    }
    if (all >= 0) {
      return -1;
    }
    for (int64_t i = 0; i < columns * repeat; ++i) {
      if (error_of<kCut>(offsets[i], column + i / repeat * step) < 0) {
        return i;
      }
    }
    return 0; // not covered: another thread has written a good one over it
  }

  // Negative where the window at this column has no such element.
  template <Cut kCut>
  TORCH_MAXPOOL_INLINE int64_t error_of(uint8_t offset, int64_t column) const {
    const auto outside = [](int64_t at, int64_t size) { return at | (size - 1 - at); };
    int64_t error = elements[offset];
    const Reach& tap = reach[error < 0 ? 0 : offset];
    if (kCut != Cut::kNone) {
      error |= outside(column + tap.w, shape.w.input);
    }
    if (kCut == Cut::kAny) {
      error |= outside(th.start + tap.h, shape.h.input) | outside(td.start + tap.d, shape.d.input);
    }
    return error;
  }
};

// Units: rows of the output, as memory has them.
inline int64_t contiguous_indices(const PlacesParams& p, int64_t begin, int64_t end) {
  IndexRows rows(p);
  const int64_t width = p.shape.w.output;
  Row row = row_of(p.shape, begin);
  for (int64_t unit = begin; unit < end; ++unit, advance(p.shape, row)) {
    rows.begin_row(row);
    for (int64_t o = 0, columns; o < width; o += columns) {
      columns = rows.columns_alike(o, 1);
      const int64_t bad = rows.put(o, unit * width + o, columns, 1);
      if (bad >= 0) {
        return unit * width + o + bad;
      }
    }
  }
  return -1;
}

// Units: as many outputs as a row has, as memory has them, channels innermost.
inline int64_t channels_last_indices(const PlacesParams& p, int64_t begin, int64_t end) {
  IndexRows rows(p);
  const int64_t width = p.shape.w.output;
  const int64_t channels = p.shape.channels;
  Shape shape = p.shape;
  shape.channels = 1;
  const int64_t pixel = begin * width / channels;
  int64_t channel = begin * width % channels;
  Row row = row_of(shape, pixel / width);
  int64_t o = pixel % width;
  rows.begin_row(row);
  for (int64_t at = begin * width; at < end * width;) {
    const int64_t left = end * width - at;
    const bool is_part = channel > 0 || left < channels; // of a pixel
    const int64_t rest = channels - channel < left ? channels - channel : left;
    const int64_t alike = is_part ? 1 : rows.columns_alike(o, channels);
    const int64_t columns = is_part || alike < left / channels ? alike : left / channels;
    const int64_t count = is_part ? rest : columns * channels;
    const int64_t bad = rows.put(o, at, columns, count / columns);
    if (bad >= 0) {
      const int64_t plane = row.n * channels + (channel + bad) % channels;
      return ((plane * shape.d.output + row.d) * shape.h.output + row.h) * width + o + (channel + bad) / channels;
    }
    at += count;
    o += (channel + count) / channels;
    channel = (channel + count) % channels;
    if (o == width) {
      o = 0;
      advance(shape, row);
      rows.begin_row(row);
    }
  }
  return -1;
}

int64_t places(const PlacesParams& p, int64_t begin, int64_t end) {
  if (p.wide_offsets) {
    return places_of<int32_t>(p, begin, end);
  }
  if (p.gathered || !p.indices) {
    return places_of<uint8_t>(p, begin, end);
  }
  const bool is_channels_last = p.shape.channels > 1 && p.output_strides.c == 1;
  return is_channels_last ? channels_last_indices(p, begin, end) : contiguous_indices(p, begin, end);
}

} // namespace
