// Backward, family "direct_channels": as family "direct", of many channels side by side. A unit is a group of channels of
// one image, few enough that the rows of elements which a row of windows falls on stay in cache, or a slab of it. Where
// windows overlap, its cells are in scratch, dense: elements some kilobytes apart would push each other out of the cache.

namespace {

// Of elements that a row of windows falls on, about (measured on Zen 3).
inline constexpr int64_t kGroupBytes = 384 * 1024;

template <class T, bool kDisjoint, bool kAside>
struct DirectChannels {
  typedef Puts<T, kDisjoint, kAside> P;
  typedef typename P::Cell Cell;
  static constexpr bool kInPlace = P::kInPlace;

  const BackwardParams& p;
  const BackwardPlan& plan;
  const Shape& shape;
  const Strides in; // of cells
  const Lister lister;
  const Interior inner; // columns whose windows are whole
  int32_t* const places;
  Cell* const values; // of the listed windows
  Cell* const sums; // unless in place
  // The unit at work.
  ScatterUnit unit = {};
  Cell* cells = nullptr;
  int64_t origin = 0; // place of the slab's first cell in the image
  int64_t grads_at = 0; // place of the unit's channels at output 0

  static constexpr int64_t kPlacesBytes = (kListed + kVectorBytes) * static_cast<int64_t>(sizeof(int32_t));
  static constexpr int64_t kValuesBytes = kListed * static_cast<int64_t>(sizeof(Cell));

  static Strides strides_of(const BackwardParams& p, const BackwardPlan& plan) {
    return kInPlace ? p.input_strides : dense_slab_strides(p, plan);
  }
  static int64_t scratch_bytes(const BackwardParams& p, const BackwardPlan& plan) {
    const int64_t depths = plan.slab_axis == 0 ? plan.slab : p.shape.d.input;
    return kPlacesBytes + kValuesBytes +
        (kInPlace ? 0 : strides_of(p, plan).d * depths * static_cast<int64_t>(sizeof(Cell)));
  }

  DirectChannels(const BackwardParams& params, const BackwardPlan& the_plan, void* scratch)
      : p(params),
        plan(the_plan),
        shape(params.shape),
        in(strides_of(params, the_plan)),
        lister(params.shape, in),
        inner(interior_of(shape.w)),
        places(static_cast<int32_t*>(scratch)),
        values(reinterpret_cast<Cell*>(static_cast<char*>(scratch) + kPlacesBytes)),
        sums(reinterpret_cast<Cell*>(static_cast<char*>(scratch) + kPlacesBytes + kValuesBytes)) {}

  // Returns -1 or the place of a bad offset.
  int64_t work(int64_t number) {
    unit = scatter_unit(p, plan, number);
    (plan.slab_axis == 0       ? unit.d
         : plan.slab_axis == 1 ? unit.h
                               : unit.w) = slab_span(slab_axis_of(shape, plan), plan, number % plan.slabs);
    const Strides& to = p.input_strides;
    T* const grad_input = static_cast<T*>(p.grad_input) + unit.n * to.n + unit.c + unit.d.begin * to.d +
        unit.h.begin * to.h + unit.w.begin * to.w;
    if constexpr (kInPlace) {
      cells = grad_input;
    } else {
      cells = sums;
    }
    origin = unit.d.begin * in.d + unit.h.begin * in.h + unit.w.begin * in.w;
    grads_at = unit.n * p.output_strides.n + unit.c;
    each_run([&](int64_t z, int64_t y, int64_t x, int64_t count) {
      __builtin_memset(cells + z * in.d + y * in.h + x * in.w, 0, static_cast<size_t>(count) * sizeof(Cell));
    });
    const int64_t bad = put_rows();
    if constexpr (!kInPlace) {
      each_run([&](int64_t z, int64_t y, int64_t x, int64_t count) {
        narrow_row(grad_input + z * to.d + y * to.h + x * to.w, cells + z * in.d + y * in.h + x * in.w, count);
      });
    }
    return bad;
  }

 private:
  // Calls run(depth, row, column, count) for all runs of adjacent elements of the unit, counted from its first.
  template <class Run>
  void each_run(const Run& run) const {
    int64_t columns = unit.w.end - unit.w.begin;
    int64_t count = unit.channels;
    if (p.input_strides.w == count && in.w == count) {
      count *= columns;
      columns = 1;
    }
    for (int64_t z = 0; z < unit.d.end - unit.d.begin; ++z) {
      for (int64_t y = 0; y < unit.h.end - unit.h.begin; ++y) {
        for (int64_t x = 0; x < columns; ++x) {
          run(z, y, x, count);
        }
      }
    }
  }

  // The next ones return -1 or the place of a bad offset.
  int64_t put_rows() {
    const Span d = plan.slabs > 1 ? outputs_over(shape.d, unit.d) : Span{0, shape.d.output};
    const Span h = plan.slabs > 1 ? outputs_over(shape.h, unit.h) : Span{0, shape.h.output};
    for (int64_t od = d.begin; od < d.end; ++od) {
      const Taps td = taps_of(shape.d, od);
      for (int64_t oh = h.begin; oh < h.end; ++oh) {
        const Taps th = taps_of(shape.h, oh);
        const int64_t start = td.start * in.d + th.start * in.h - origin;
        const WindowLine line = {nullptr, unit.channels, 0, start, TapRoom(td), TapRoom(th), TapRoom({})};
        const Row row = {
            (od * shape.h.output + oh) * shape.w.output,
            is_whole(td, shape.d) && is_whole(th, shape.h),
            plan.slabs == 1 || kDisjoint ||
                (is_within(td, shape.d, unit.d) && is_within(th, shape.h, unit.h) && plan.slab_axis != 2)};
        const int64_t bad = put_row(line, row);
        if (bad >= 0) {
          return bad;
        }
      }
    }
    return -1;
  }

  // Windows of one row.
  struct Row {
    int64_t first; // output
    bool are_whole; // but for the width
    bool are_inside; // the slab
  };

  int64_t put_row(WindowLine line, const Row& row) {
    const Span w = plan.slabs > 1 ? outputs_over(shape.w, unit.w) : Span{0, shape.w.output};
    const int64_t most = kListed / unit.channels > 1 ? kListed / unit.channels : 1;
    const int64_t start = line.start;
    line.step = shape.w.stride * in.w;
    line.offsets_step = shape.channels;
    for (int64_t o = w.begin; o < w.end; o += line.windows) {
      const Taps tw = taps_of(shape.w, o);
      const bool is_inner = o >= inner.begin && o < inner.end;
      const int64_t left = (inner.end < w.end ? inner.end : w.end) - o;
      line.windows = !is_inner ? 1 : left < most ? left : most;
      line.w = TapRoom(tw);
      for (int64_t c = 0; c < unit.channels; c += kListed) { // more only if there is one window
        line.count = unit.channels - c < kListed ? unit.channels - c : kListed;
        line.start = start + tw.start * in.w + c;
        const int64_t bad = put_windows(line, row, o, c);
        if (bad >= 0) {
          return bad;
        }
      }
    }
    return -1;
  }

  // line.windows windows from column `o` on, line.count channels from `c` on.
  int64_t put_windows(WindowLine& line, const Row& row, int64_t o, int64_t c) {
    const int64_t first = grads_at + (row.first + o) * shape.channels + c;
    line.offsets = static_cast<const uint8_t*>(p.offsets) + first;
    const bool whole = row.are_whole && o >= inner.begin && o < inner.end;
    const bool depth = shape.d.kernel > 1;
    const auto list = whole ? (depth ? Lister::list<kWindowLine, false, true> : Lister::list<kWindowLine, false, false>)
                            : (depth ? Lister::list<kWindowLine, true, true> : Lister::list<kWindowLine, true, false>);
    if (!list(lister, WindowTables(nullptr, 0), line, places)) {
      return place_of_bad_one(line, row.first + o, c);
    }
    const T* grads = static_cast<const T*>(p.grad_output) + first;
    for (int64_t i = 0; i < line.windows; ++i, grads += shape.channels) {
      Cell* const to = values + i * line.count;
      if (P::converted(grads, line.count, to) != to) {
        copy_bytes(to, grads, line.count * static_cast<int64_t>(sizeof(T)));
      }
    }
    if (row.are_inside) {
      P::put_all(cells, values, places, line.windows * line.count);
    } else {
      const int64_t places_in = (unit.d.end - unit.d.begin) * (unit.h.end - unit.h.begin) * (unit.w.end - unit.w.begin);
      P::put_inside(cells, values, places, line.windows * line.count, places_in * in.w);
    }
    return -1;
  }

  // In contiguous order, where channels come before places.
  int64_t place_of_bad_one(const WindowLine& line, int64_t output, int64_t c) const {
    const int64_t outputs = shape.d.output * shape.h.output * shape.w.output;
    const int64_t plane = unit.n * shape.channels + unit.c + c;
    for (int64_t i = 0; i < line.windows; ++i) {
      for (int64_t k = 0; k < line.count; ++k) {
        if (!is_in_window(shape, output + i, line.offsets[i * shape.channels + k])) {
          return (plane + k) * outputs + output + i;
        }
      }
    }
    return plane * outputs + output; // not covered: one of them is bad
  }
};

// Units: images x groups of channels x slabs.
template <class T, bool kDisjoint, bool kAside>
int64_t backward_direct_channels(
    const BackwardParams& p,
    const BackwardPlan& plan,
    void* scratch,
    int64_t begin,
    int64_t end) {
  DirectChannels<T, kDisjoint, kAside> direct(p, plan, scratch);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t bad = direct.work(unit);
    if (bad >= 0) {
      return bad;
    }
  }
  return -1;
}

// Fills `plan` where the family fits; returns its cost, in tenths of nanoseconds.
template <class T>
inline int64_t plan_direct_channels(const BackwardParams& p, BackwardPlan& plan) {
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const int64_t reach = (shape.d.kernel - 1) * shape.d.dilation * in.d +
      (shape.h.kernel - 1) * shape.h.dilation * in.h + (shape.w.kernel - 1) * shape.w.dilation * in.w;
  if (p.wide_offsets || shape.channels < kLongChannels || in.n + 2 * reach > INT32_MAX || has_empty_windows(shape.d) ||
      has_empty_windows(shape.h) || has_empty_windows(shape.w)) {
    return -1;
  }
  const bool disjoint = are_disjoint(shape);
  plan.family = "direct_channels";
  const int64_t bytes = static_cast<int64_t>(sizeof(T));
  const int64_t places = shape.batch * shape.d.input * shape.h.input * shape.w.input;
  const int64_t windows = shape.batch * shape.d.output * shape.h.output * shape.w.output;
  plan.group = shape.channels;
  if (!disjoint && places <= 2 * windows) { // else cells aside cost more than they spare
    const int64_t rows = shape.d.kernel * shape.h.kernel;
    const int64_t fitting = kGroupBytes / (rows * shape.w.input * static_cast<int64_t>(sizeof(SumOf<T>)));
    const int64_t share = shape.batch * shape.channels / kFewUnits;
    int64_t most = fitting < share ? fitting : share;
    most = most < kLongChannels ? kLongChannels : most;
    const int64_t groups = (shape.channels + most - 1) / most;
    const int64_t even = ((shape.channels + groups - 1) / groups + 15) / 16 * 16;
    plan.group = even < shape.channels ? even : shape.channels;
  }
  const int64_t units = shape.batch * ((shape.channels + plan.group - 1) / plan.group);
  plan_direct_slabs(p, in.n / shape.channels * plan.group * bytes, units, plan);
  plan.units = units * plan.slabs;
  if (disjoint) {
    plan.run = backward_direct_channels<T, true, false>;
    plan.scratch_bytes = DirectChannels<T, true, false>::scratch_bytes(p, plan);
  } else if (plan.group < shape.channels) {
    plan.run = backward_direct_channels<T, false, true>;
    plan.scratch_bytes = DirectChannels<T, false, true>::scratch_bytes(p, plan);
  } else {
    plan.run = backward_direct_channels<T, false, kIsNarrow<T>>;
    plan.scratch_bytes = DirectChannels<T, false, kIsNarrow<T>>::scratch_bytes(p, plan);
  }
  // Beyond the caches cells are cleared, read and written there, where others would write them once (measured on Granite
  // Rapids: 2 to 3.5 times the time of gather_channels).
  const bool is_beyond = is_worth_streaming(p, places * shape.channels * bytes);
  const bool is_large = places * shape.channels * bytes > (int64_t{384} << 10);
  const int64_t cost = 1400 + windows * (shape.channels * (disjoint ? 8 : 10) + units / shape.batch * 100) +
      places * shape.channels *
          (is_beyond      ? 225
               : is_large ? 75
                          : 55) /
          100;
  constexpr int64_t kHalves = kVectorBytes == 64 ? 3 : 2; // what it takes longer on Granite Rapids than on Zen 3
  return (plan.units < 4 && is_large ? 2 * cost : cost) * kHalves / 2;
}

} // namespace
