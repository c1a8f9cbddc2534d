// Backward, part of family "scatter": contiguous planes, added up in lockstep. Neighbouring windows often have the same
// winner, and each addition to it waits for the one before. So kStreams windows that are independent go in turns: of
// as many planes at the same place, or of as many rows of one plane, each row so far behind the row before it that no
// window overtakes one with which it shares an element. The sums stay those of the outputs' order.
//
// First, by vectors, offsets become places in grad_input, checked; then kSteps additions of each stream follow.

namespace {

inline constexpr int kStreams = 8;
inline constexpr int64_t kSteps = 128;
inline constexpr int64_t kFarApart = 8; // columns: more than this, and fewer rows go in turns, to stay in cache
inline constexpr int64_t kKeptBlocks = 8;
inline constexpr int64_t kClearedAhead = 1024; // elements
inline constexpr int64_t kMostTaps = int64_t{1} << 20; // that fractions of float tell apart
inline constexpr int64_t kMostColumns = 65536; // in a row of windows

// Windows of one row that are this many columns apart share no element.
inline int64_t lag_of(const Axis& w) {
  return (w.kernel - 1) * w.dilation / w.stride + 1;
}

template <class T, class Offset>
struct Lockstep {
  typedef SumOf<T> Sum;
  static constexpr int kLanes = kVectorBytes / 4;
  typedef Vector<int32_t, kLanes> Int;
  typedef Vector<uint32_t, kLanes> Unsigned;
  typedef Vector<float, kLanes> Float;

  // For each step of one stream, or of all of them: where tap 0 of the window lies, and which taps it has along each
  // dimension: `room` more than `first`. Without a window: those of one tap at place 0.
  struct Windows {
    int32_t place[kSteps];
    int32_t slab_place[kSteps]; // of tap 0 along the slab's dimension, from its begin
    int32_t w_first[kSteps], w_room[kSteps];
    int32_t h_first[kSteps], h_room[kSteps];
    int32_t d_first[kSteps], d_room[kSteps];
  };
  // What is added where.
  struct Memory {
    int32_t to[kStreams][kSteps];
    Sum grads[kStreams][kSteps];
    Offset offsets[kSteps];
  };

  // A part of a plane to be added up, of one or kStreams planes.
  struct Work {
    const T* grads; // as offsets: of output 0 of the first plane
    const Offset* offsets;
    Sum* sums; // of the first element of the slab
    int64_t planes;
    int64_t first_row, rows; // of windows, counted through all depths
    int64_t origin; // place of the first element of the slab in the plane
    int64_t slab_begin, slab_length; // along its dimension
    int64_t elements; // of the slab, in one plane
  };

  const Shape& shape;
  const Strides in; // of sums
  const int64_t outputs; // of a plane
  const int slab_axis; // -1: planes are whole
  const int64_t lag; // columns between two rows of one plane
  const float inverse_width, inverse_height;
  Memory* const memory; // null where this is not used
  Windows* const all_windows; // kKeptBlocks, and room for one more
  const Interior inner; // columns whose windows are whole
  int32_t* const columns; // for each column: place, first tap, room
  const int64_t kept; // blocks of windows; 0: they are listed for each block anew
  Windows* windows; // of the block at work
  int64_t cleared = 0; // elements of the slab, in each plane

  // Where planes are small, the blocks of kSteps windows that all planes have in common; else 0.
  static int64_t kept_blocks(const Shape& shape, bool is_whole) {
    const int64_t outputs = shape.d.output * shape.h.output * shape.w.output;
    return is_whole && outputs <= kKeptBlocks * kSteps ? (outputs + kSteps - 1) / kSteps : 0;
  }
  static int64_t bytes(const Shape& shape) {
    return static_cast<int64_t>(sizeof(Memory) + (kKeptBlocks + 1) * sizeof(Windows)) +
        3 * padded(shape.w.output) * static_cast<int64_t>(sizeof(int32_t));
  }
  static int64_t padded(int64_t columns) {
    return columns + kSteps;
  }
  Lockstep(const Shape& the_shape, const Strides& strides, int the_slab_axis, void* scratch)
      : shape(the_shape),
        in(strides),
        outputs(shape.d.output * shape.h.output * shape.w.output),
        slab_axis(the_slab_axis),
        lag(lag_of(shape.w)),
        inverse_width(1.0f / static_cast<float>(shape.w.kernel)),
        inverse_height(1.0f / static_cast<float>(shape.h.kernel)),
        memory(static_cast<Memory*>(scratch)),
        all_windows(reinterpret_cast<Windows*>(memory + 1)),
        inner(interior_of(shape.w)),
        columns(reinterpret_cast<int32_t*>(all_windows + kKeptBlocks + 1)),
        kept(kept_blocks(shape, slab_axis < 0)),
        windows(all_windows) {
    if (!scratch) {
      return;
    }
    __builtin_memset(scratch, 0, static_cast<size_t>(bytes(shape)));
    const int64_t pitch = padded(shape.w.output);
    for (int64_t o = 0; o < shape.w.output; ++o) {
      const Taps taps = taps_of(shape.w, o);
      columns[o] = static_cast<int32_t>(taps.start * in.w);
      columns[pitch + o] = static_cast<int32_t>(taps.first);
      columns[2 * pitch + o] = static_cast<int32_t>(taps.last - taps.first - 1);
    }
    for (int64_t i = 0; i < kept; ++i) {
      windows = all_windows + i;
      const int64_t left = outputs - i * kSteps;
      place_windows({}, i * kSteps, left < kSteps ? left : kSteps);
    }
  }

  // Returns -1 or plane * outputs + output of a bad offset.
  int64_t add(const Work& work) {
    cleared = 0;
    return work.planes == 1 ? add_rows(work) : add_planes(work);
  }

 private:
  int64_t add_planes(const Work& work) {
    const int64_t begin = work.first_row * shape.w.output;
    const int64_t end = begin + work.rows * shape.w.output;
    for (int64_t at = begin; at < end; at += kSteps) {
      const int64_t steps = end - at < kSteps ? end - at : kSteps;
      if (kept > 0) {
        windows = all_windows + at / kSteps;
      } else {
        place_windows(work, at, steps);
      }
      clear_for(work, (at + steps - 1) / shape.w.output);
      for (int64_t q = 0; q < work.planes; ++q) {
        const int64_t from = q * outputs + at;
        if (!list(work, static_cast<int>(q), {work.grads + from, work.offsets + from, 0, steps}, q * in.c, steps)) {
          return q * outputs + at + bad_one(steps);
        }
      }
      for (int64_t q = work.planes; q < kStreams; ++q) {
        list_nothing(static_cast<int>(q), steps);
      }
      take_steps(work.sums, work.planes, steps);
    }
    clear(work, work.elements);
    return -1;
  }

  int64_t add_rows(const Work& work) {
    windows = all_windows + kept; // room for one more
    const int64_t width = shape.w.output;
    const int64_t streams = lag > kFarApart ? kStreams / 2 : kStreams;
    for (int64_t row = work.first_row; row < work.first_row + work.rows; row += streams) {
      const int64_t left = work.first_row + work.rows - row;
      const int64_t rows = left < streams ? left : streams;
      const int64_t all_steps = width + (rows - 1) * lag;
      clear_for(work, row + rows - 1);
      for (int64_t step = 0; step < all_steps; step += kSteps) {
        const int64_t steps = all_steps - step < kSteps ? all_steps - step : kSteps;
        for (int64_t i = 0; i < streams; ++i) {
          const int64_t column = step - i * lag; // at the first of these steps
          const int64_t begin = column > 0 ? column : 0;
          const int64_t end = column + steps < width ? column + steps : width;
          if (i >= rows || begin >= end) {
            list_nothing(static_cast<int>(i), steps);
            continue;
          }
          const int64_t from = (row + i) * width + begin;
          fetch<kSteps * sizeof(T)>(work.grads + from + kSteps);
          fetch<kSteps * sizeof(Offset)>(work.offsets + from + kSteps);
          const bool is_inner = end - begin == steps && begin >= inner.begin && end <= inner.end;
          if (is_inner && list_inner(work, static_cast<int>(i), row + i, begin, steps)) {
            continue;
          }
          place_row(work, row + i, begin, end - begin, begin - column);
          clear_windows(begin - column, end - column, steps);
          const Run run = {work.grads + from, work.offsets + from, begin - column, end - begin};
          if (!list(work, static_cast<int>(i), run, 0, steps)) {
            return (row + i) * width + column + bad_one(steps);
          }
        }
        take_steps(work.sums, rows, steps);
      }
    }
    clear(work, work.elements);
    return -1;
  }

  // Clears what windows up to those of this row reach, and some more: just before it is used, so that it is in cache.
  void clear_for(const Work& work, int64_t row) {
    const int64_t reach = reach_of_rows(shape, in, row) - work.origin;
    if (reach > cleared) {
      clear(work, reach + kClearedAhead);
    }
  }

  void clear(const Work& work, int64_t to) {
    to = to < work.elements ? to : work.elements;
    for (int64_t q = 0; q < work.planes && to > cleared; ++q) {
      __builtin_memset(work.sums + q * in.c + cleared, 0, static_cast<size_t>(to - cleared) * sizeof(Sum));
    }
    cleared = to > cleared ? to : cleared;
  }

  // Fills `windows` for outputs from `at` on, through rows.
  void place_windows(const Work& work, int64_t at, int64_t steps) {
    int64_t row = at / shape.w.output;
    int64_t column = at % shape.w.output;
    for (int64_t step = 0; step < steps; ++row, column = 0) {
      const int64_t left = shape.w.output - column;
      const int64_t count = left < steps - step ? left : steps - step;
      place_row(work, row, column, count, step);
      step += count;
    }
    clear_windows(steps, steps, steps);
  }

  // No windows before step `begin` and from `end` to the end of the last vector.
  void clear_windows(int64_t begin, int64_t end, int64_t steps) {
    const int64_t last = (steps + kLanes - 1) / kLanes * kLanes;
    int32_t* const lists[] = {
        windows->place,
        windows->slab_place,
        windows->w_first,
        windows->w_room,
        windows->h_first,
        windows->h_room,
        windows->d_first,
        windows->d_room};
    for (int32_t* const each : lists) {
      begin = begin < end ? begin : 0;
      __builtin_memset(each, 0, static_cast<size_t>(begin) * sizeof(int32_t));
      __builtin_memset(each + end, 0, static_cast<size_t>(last - end) * sizeof(int32_t));
    }
  }

  // A row of windows: its taps, and the places of tap 0 of a window at column 0 without padding.
  struct RowOfWindows {
    Taps d, h;
    int64_t place, slab_place;
  };

  RowOfWindows row_of_windows(const Work& work, int64_t row) const {
    RowOfWindows windows = {taps_of(shape.d, row / shape.h.output), taps_of(shape.h, row % shape.h.output), 0, 0};
    windows.place = windows.d.start * in.d + windows.h.start * in.h - work.origin;
    windows.slab_place = (slab_axis == 0 ? windows.d.start : windows.h.start) - work.slab_begin;
    return windows;
  }

  // Windows [column, column + count) of one row, from step `step` on. What lies beyond them is overwritten.
  void place_row(const Work& work, int64_t row, int64_t column, int64_t count, int64_t step) {
    const auto [td, th, place, slab_place] = row_of_windows(work, row);
    const int64_t pitch = padded(shape.w.output);
    const Int places = all_lanes(place);
    Windows& tables = *windows;
    for (int64_t i = 0; i < count; i += kLanes) {
      int64_t at = step + i;
      int64_t from = column + i;
      if (at > kSteps - kLanes) { // the last vector overlaps the one before, or what an earlier row left
        const int64_t back = at - (kSteps - kLanes);
        if (back > i) {
          place_ones(tables, {td, th, place, slab_place}, column + i, count - i, at);
          return;
        }
        at -= back;
        from -= back;
      }
      store_vector(tables.place + at, load_vector<Int>(columns + from) + places);
      store_vector(tables.w_first + at, load_vector<Int>(columns + pitch + from));
      store_vector(tables.w_room + at, load_vector<Int>(columns + 2 * pitch + from));
      store_vector(tables.h_first + at, all_lanes(th.first));
      store_vector(tables.h_room + at, all_lanes(th.last - th.first - 1));
      if (slab_axis >= 0) {
        store_vector(tables.slab_place + at, all_lanes(slab_place));
      }
      if (shape.d.kernel > 1) {
        store_vector(tables.d_first + at, all_lanes(td.first));
        store_vector(tables.d_room + at, all_lanes(td.last - td.first - 1));
      }
    }
  }

  // As place_row, window by window.
  void place_ones(Windows& windows, const RowOfWindows& row, int64_t column, int64_t count, int64_t step) const {
    const int64_t pitch = padded(shape.w.output);
    for (int64_t i = 0; i < count; ++i) {
      windows.place[step + i] = static_cast<int32_t>(columns[column + i] + row.place);
      windows.w_first[step + i] = columns[pitch + column + i];
      windows.w_room[step + i] = columns[2 * pitch + column + i];
      windows.slab_place[step + i] = static_cast<int32_t>(row.slab_place);
      windows.h_first[step + i] = static_cast<int32_t>(row.h.first);
      windows.h_room[step + i] = static_cast<int32_t>(row.h.last - row.h.first - 1);
      windows.d_first[step + i] = static_cast<int32_t>(row.d.first);
      windows.d_room[step + i] = static_cast<int32_t>(row.d.last - row.d.first - 1);
    }
  }

  // Outputs side by side, and the step of the first.
  struct Run {
    const T* grads;
    const Offset* offsets;
    int64_t step, count;
  };

  void list_nothing(int stream, int64_t steps) {
    __builtin_memset(memory->to[stream], 0, static_cast<size_t>(steps) * sizeof(int32_t));
    __builtin_memset(memory->grads[stream], 0, static_cast<size_t>(steps) * sizeof(Sum));
  }

  // Lists one stream's additions, to places from `start` on, each offset read once. False, where one is bad.
  bool list(const Work& work, int stream, const Run& run, int64_t start, int64_t steps) {
    Sum* const grads = memory->grads[stream];
    const int64_t end = run.step + run.count;
    if (run.count < steps) {
      __builtin_memset(memory->offsets, 0, sizeof memory->offsets);
      __builtin_memset(grads, 0, static_cast<size_t>(run.step) * sizeof(Sum));
      __builtin_memset(grads + end, 0, static_cast<size_t>(steps - end) * sizeof(Sum));
    } else if (steps < kSteps) {
      const int64_t slack = kSteps - steps < kLanes ? kSteps - steps : kLanes;
      __builtin_memset(memory->offsets + steps, 0, static_cast<size_t>(slack) * sizeof(Offset));
    }
    copy_bytes(memory->offsets + run.step, run.offsets, run.count * static_cast<int64_t>(sizeof(Offset)));
    widen_row(grads + run.step, run.grads, run.count);
    return list_places<false>(work, {}, {memory->offsets, static_cast<int32_t>(start), stream, steps});
  }

  // As list, of `steps` windows of one row from `column` on, which are whole along the width.
  bool list_inner(const Work& work, int stream, int64_t row, int64_t column, int64_t steps) {
    const int64_t from = row * shape.w.output + column;
    if (steps % kLanes != 0) {
      return false;
    }
    widen_row(memory->grads[stream], work.grads + from, steps);
    RowOfWindows windows = row_of_windows(work, row);
    windows.place += taps_of(shape.w, column).start * in.w;
    return list_places<true>(work, windows, {work.offsets + from, 0, stream, steps});
  }

  // Additions to be listed, to places from `start` on.
  struct Listed {
    const Offset* offsets;
    int32_t start;
    int stream;
    int64_t steps;
  };

  template <bool kInner>
  bool list_places(const Work& work, const RowOfWindows& row, const Listed& listed) {
    if (slab_axis >= 0) {
      return shape.d.kernel > 1 ? list_vectors<kInner, true, true>(work, row, listed)
                                : list_vectors<kInner, false, true>(work, row, listed);
    }
    return shape.d.kernel > 1 ? list_vectors<kInner, true, false>(work, row, listed)
                              : list_vectors<kInner, false, false>(work, row, listed);
  }

  static TORCH_MAXPOOL_INLINE Int load_taps(const int32_t* from) {
    return load_vector<Int>(from);
  }
  static TORCH_MAXPOOL_INLINE Int load_taps(const uint8_t* from) {
    return load_bytes(from);
  }

  static TORCH_MAXPOOL_INLINE Int all_lanes(int64_t x) {
    return splat<Int>(static_cast<int32_t>(x));
  }

  // The row's value, or those of a table.
  template <bool kInner>
  static TORCH_MAXPOOL_INLINE Int get(const int32_t* table, int64_t value) {
    return kInner ? all_lanes(value) : load_vector<Int>(table);
  }

  // x / n, rounded down, for x in [0, kMostTaps).
  static TORCH_MAXPOOL_INLINE Int quotient(Int x, float inverse) {
    return __builtin_convertvector((__builtin_convertvector(x, Float) + 0.5f) * inverse, Int);
  }

  // Negative in lanes where x is not in [0, room].
  static TORCH_MAXPOOL_INLINE Int outside(Int x, Int room) {
    return x | reinterpret_cast<Int>(reinterpret_cast<Unsigned>(room) - reinterpret_cast<Unsigned>(x));
  }

  // kInner: of the row's windows side by side from row.place on, whole along the width; else of `windows`.
  template <bool kInner, bool kDepth, bool kSlab>
  __attribute__((noinline)) bool list_vectors(const Work& work, const RowOfWindows& row, const Listed& listed) {
    const Windows& tables = *windows;
    const Int width = all_lanes(shape.w.kernel);
    const Int height = all_lanes(shape.h.kernel);
    const Int last_tap = all_lanes(shape.d.kernel * shape.h.kernel * shape.w.kernel - 1);
    const Int w_pitch = all_lanes(shape.w.dilation * in.w);
    const Int h_pitch = all_lanes(shape.h.dilation * in.h);
    const Int d_pitch = all_lanes(shape.d.dilation * in.d);
    const Int start = all_lanes(listed.start);
    const Int slab_pitch = all_lanes(slab_axis == 0 ? shape.d.dilation : shape.h.dilation);
    const Int slab_last = all_lanes(work.slab_length - 1);
    Int places = all_lanes(row.place);
    for (int i = 1; i < kLanes; ++i) {
      places[i] += static_cast<int32_t>(i * shape.w.stride * in.w);
    }
    const Int next_places = all_lanes(kLanes * shape.w.stride * in.w);
    Int bad = {};
    for (int64_t step = 0; step < listed.steps; step += kLanes) {
      Int tap = load_taps(listed.offsets + step);
      const Int no_tap = outside(tap, last_tap);
      bad |= no_tap;
      if constexpr (sizeof(Offset) > 1) {
        tap &= ~(no_tap >> 31);
      }
      const Int tap_row = quotient(tap, inverse_width);
      const Int column = tap - tap_row * width;
      Int line = tap_row;
      Int depth = {};
      Int to = (kInner ? places : load_vector<Int>(tables.place + step)) + column * w_pitch + start;
      places += next_places;
      if constexpr (!kInner) {
        bad |= outside(column - load_vector<Int>(tables.w_first + step), load_vector<Int>(tables.w_room + step));
      }
      if constexpr (kDepth) {
        depth = quotient(tap_row, inverse_height);
        line = tap_row - depth * height;
        to += depth * d_pitch;
        bad |= outside(
            depth - get<kInner>(tables.d_first + step, row.d.first),
            get<kInner>(tables.d_room + step, row.d.last - row.d.first - 1));
      }
      to += line * h_pitch;
      bad |= outside(
          line - get<kInner>(tables.h_first + step, row.h.first),
          get<kInner>(tables.h_room + step, row.h.last - row.h.first - 1));
      if constexpr (kSlab) {
        const Int along = (slab_axis == 0 ? depth : line) * slab_pitch;
        const Int out = outside(get<kInner>(tables.slab_place + step, row.slab_place) + along, slab_last) >> 31;
        to = (to & ~out) | (start & out); // adds +0 to the first element, which leaves it as it is
        typedef Vector<typename UnsignedOf<sizeof(Sum)>::mask, kLanes> Mask;
        Sum* const grads = memory->grads[listed.stream] + step;
        store_vector(grads, load_vector<Mask>(grads) & ~__builtin_convertvector(out, Mask));
      }
      store_vector(memory->to[listed.stream] + step, to);
    }
    return !any(bad >> 31);
  }

  // The step of a bad offset among those last listed.
  int64_t bad_one(int64_t steps) const {
    const Windows& tables = *windows;
    const auto is_in = [](int64_t x, int64_t first, int64_t room) { return x >= first && x <= first + room; };
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t tap = memory->offsets[step];
      const int64_t row = tap / shape.w.kernel;
      const bool is_good = tap >= 0 && tap < shape.d.kernel * shape.h.kernel * shape.w.kernel &&
          is_in(tap % shape.w.kernel, tables.w_first[step], tables.w_room[step]) &&
          is_in(row % shape.h.kernel, tables.h_first[step], tables.h_room[step]) &&
          is_in(row / shape.h.kernel, tables.d_first[step], tables.d_room[step]);
      if (!is_good) {
        return step;
      }
    }
    return 0; // not covered: one of them is bad
  }

  // The first `streams` streams.
  void take_steps(Sum* sums, int64_t streams, int64_t steps) const {
    if (streams > 4) {
      take<8>(sums, steps);
    } else if (streams > 2) {
      take<4>(sums, steps);
    } else if (streams > 1) {
      take<2>(sums, steps);
    } else {
      take<1>(sums, steps);
    }
  }

  template <int kCount>
  __attribute__((noinline)) void take(Sum* sums, int64_t steps) const {
    const Memory& lists = *memory;
    for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 8
      for (int stream = 0; stream < kCount; ++stream) {
        sums[lists.to[stream][step]] += lists.grads[stream][step];
      }
    }
  }
};

} // namespace
