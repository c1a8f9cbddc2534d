// Plane indices from offsets of a byte, by table: for each tap, how far it lies from tap 0.

namespace {

inline constexpr int64_t kNoTap = INT64_MIN;

struct ReachTable {
  int64_t reach[256]; // elements of the plane, or kNoTap: whatever a byte holds, it finds something

  ReachTable() {
    for (int64_t& each : reach) {
      each = kNoTap;
    }
  }

  // For windows that have these taps.
  void fill(const Shape& shape, const Taps& td, const Taps& th, const Taps& tw) {
    int64_t tap = 0;
    for (int64_t a = 0; a < shape.d.kernel; ++a) {
      for (int64_t b = 0; b < shape.h.kernel; ++b) {
        const bool is_in = tap_is_in(td, a) && tap_is_in(th, b);
        const int64_t row = (a * shape.d.dilation * shape.h.input + b * shape.h.dilation) * shape.w.input;
        for (int64_t c = 0; c < shape.w.kernel; ++c, ++tap) {
          reach[tap] = is_in && tap_is_in(tw, c) ? row + c * shape.w.dilation : kNoTap;
        }
      }
    }
  }
};

struct IndexRows {
  const PlacesParams& p;
  const Shape shape;
  const Interior inner; // columns
  ReachTable whole; // of windows that lie within the input
  ReachTable cut; // of others: those of one row, or one window
  Taps td = {}, th = {}; // of the row at work
  int64_t place = 0; // of tap 0 at its column 0, were there no padding
  bool is_whole = false, is_empty_row = false;

  explicit IndexRows(const PlacesParams& params) : p(params), shape(params.shape), inner(interior_of(params.shape.w)) {
    whole.fill(shape, {0, 0, shape.d.kernel}, {0, 0, shape.h.kernel}, {0, 0, shape.w.kernel});
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

  // Outputs that lie side by side in memory, from `at` on: windows from column `o` on, or, where `step` is 0, the same
  // window of as many channels. All of them have their columns within the input, or they are one window. Returns -1, or which
  // of them has an offset that names no tap.
  int64_t put(int64_t o, int64_t at, int64_t count, int64_t step) {
    int64_t* const to = p.indices + at;
    const Taps tw = taps_of(shape.w, o);
    if (is_empty_row || is_empty(tw)) {
      for (int64_t i = 0; i < count; ++i) {
        to[i] = kNoElement;
      }
      return -1;
    }
    const bool needs_cut = !is_whole || !is_inner(o);
    if (needs_cut) {
      cut.fill(shape, td, th, tw);
    }
    const ReachTable& table = needs_cut ? cut : whole;
    const volatile uint8_t* const offsets = static_cast<const uint8_t*>(p.offsets) + at;
    int64_t from = place + tw.start;
    int64_t all = 0; // negative as soon as one is
    for (int64_t i = 0; i < count; ++i, from += step) {
      const int64_t reach = table.reach[offsets[i]];
      all |= reach;
      to[i] = static_cast<int64_t>(static_cast<uint64_t>(from) + static_cast<uint64_t>(reach));
    }
    if (all >= 0) {
      return -1;
    }
    for (int64_t i = 0; i < count; ++i) {
      if (table.reach[offsets[i]] == kNoTap) {
        return i;
      }
    }
    return 0; // not covered: another thread has written a good one over it
  }
};

// Units: rows of the output, as memory has them.
inline int64_t contiguous_indices(const PlacesParams& p, int64_t begin, int64_t end) {
  IndexRows rows(p);
  const int64_t width = p.shape.w.output;
  Row row = row_of(p.shape, begin);
  for (int64_t unit = begin; unit < end; ++unit, advance(p.shape, row)) {
    rows.begin_row(row);
    for (int64_t o = 0, next; o < width; o = next) {
      next = rows.is_inner(o) ? rows.inner.end : o + 1;
      const int64_t bad = rows.put(o, unit * width + o, next - o, p.shape.w.stride);
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
  int64_t pixel = begin * width / channels;
  int64_t channel = begin * width % channels;
  Row row = row_of(shape, pixel / width);
  int64_t o = pixel % width;
  rows.begin_row(row);
  for (int64_t at = begin * width; at < end * width;) {
    const int64_t left = end * width - at;
    const int64_t count = channels - channel < left ? channels - channel : left;
    const int64_t bad = rows.put(o, at, count, 0);
    if (bad >= 0) {
      const int64_t plane = row.n * channels + channel + bad;
      return ((plane * shape.d.output + row.d) * shape.h.output + row.h) * width + o;
    }
    at += count;
    channel = 0;
    if (++o == width) {
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
