// Backward, family "scatter": for large windows, wide offsets and few channels. Sums are cleared, then each output's
// gradient is added at its winner, in the order of the outputs. A unit is a group of channels and a slab of the input: it
// looks at every window that reaches into its slab and adds what falls there, so no two units write the same element.
//
// Channels of a group go in turns at each place of the output: neighbouring windows of one plane often have the same
// winner, and each addition would have to wait for the one before.

namespace {

inline constexpr int64_t kScatterPlanes = 4; // in a group
inline constexpr int64_t kScatterChannels = 16; // in a group, channels_last
inline constexpr int64_t kMostlyCleared = 12; // elements for each window, from which clearing takes longer than adding
inline constexpr int64_t kTabledTaps = 65536;
inline constexpr int64_t kScatteredBytes = int64_t{16} << 20;
inline constexpr int64_t kSlabBytes = int64_t{1} << 20;

// Where each tap lies from tap 0, in elements, and its numbers along the dimensions.
struct TapTable {
  int64_t* place;
  uint16_t *d, *h, *w;

  static int64_t bytes(int64_t taps) {
    return taps * static_cast<int64_t>(sizeof(int64_t) + 3 * sizeof(uint16_t));
  }

  // Of all `taps` taps, or of none.
  TapTable(const Shape& shape, const Strides& strides, int64_t taps, void* memory)
      : place(static_cast<int64_t*>(memory)), d(reinterpret_cast<uint16_t*>(place + taps)), h(d + taps), w(h + taps) {
    int64_t i = 0;
    int64_t j = 0;
    int64_t k = 0;
    for (int64_t tap = 0; tap < taps; ++tap) {
      place[tap] =
          i * shape.d.dilation * strides.d + j * shape.h.dilation * strides.h + k * shape.w.dilation * strides.w;
      d[tap] = static_cast<uint16_t>(i);
      h[tap] = static_cast<uint16_t>(j);
      w[tap] = static_cast<uint16_t>(k);
      if (++k == shape.w.kernel) {
        k = 0;
        if (++j == shape.h.kernel) {
          j = 0;
          ++i;
        }
      }
    }
  }
};

// Outputs whose windows, tap 0 to the last, reach into `own`.
inline Span outputs_over(const Axis& axis, const Span& own) {
  const int64_t reach = (axis.kernel - 1) * axis.dilation;
  const int64_t low = own.begin + axis.pad - reach;
  Span span = {low <= 0 ? 0 : (low - 1) / axis.stride + 1, (own.end - 1 + axis.pad) / axis.stride + 1};
  span.end = span.end < axis.output ? span.end : axis.output;
  return span;
}

// Outputs whose windows lie within `own`.
inline Span outputs_within(const Axis& axis, const Span& own) {
  const int64_t reach = (axis.kernel - 1) * axis.dilation;
  const int64_t low = own.begin + axis.pad;
  const int64_t high = own.end - 1 + axis.pad - reach;
  Span span = {(low + axis.stride - 1) / axis.stride, high < 0 ? 0 : high / axis.stride + 1};
  span.end = span.end < axis.output ? span.end : axis.output;
  return span;
}

// True where the elements of a window lie in `own`.
inline bool is_within(const Taps& taps, const Axis& axis, const Span& own) {
  return taps.start + taps.first * axis.dilation >= own.begin && taps.start + (taps.last - 1) * axis.dilation < own.end;
}

template <class T>
inline constexpr bool kIsNarrow = sizeof(T) != sizeof(SumOf<T>);

// A unit: a group of channels and a slab. Contiguous planes count as channels of one image.
struct ScatterUnit {
  int64_t n, c, channels;
  Span d, h, w;
};

inline ScatterUnit scatter_unit(const BackwardParams& p, const BackwardPlan& plan, int64_t unit) {
  const Shape& shape = p.shape;
  const int64_t all = !p.is_channels_last ? shape.batch * shape.channels : shape.channels;
  const int64_t groups = (all + plan.group - 1) / plan.group;
  const int64_t slab = unit % plan.slabs;
  ScatterUnit work;
  work.n = unit / plan.slabs / groups;
  work.c = unit / plan.slabs % groups * plan.group;
  work.channels = all - work.c < plan.group ? all - work.c : plan.group;
  work.d = {0, shape.d.input};
  work.h = {0, shape.h.input};
  work.w = {0, shape.w.input};
  Span& own = plan.slab_axis == 0 ? work.d : plan.slab_axis == 1 ? work.h : work.w;
  own.begin = slab * plan.slab;
  own.end = own.end - own.begin < plan.slab ? own.end : own.begin + plan.slab;
  return work;
}

// Strides of a slab of a group of channels that is dense in scratch.
inline Strides dense_slab_strides(const BackwardParams& p, const BackwardPlan& plan) {
  const Shape& shape = p.shape;
  const int64_t h = plan.slab_axis == 1 ? plan.slab : shape.h.input;
  const int64_t w = plan.slab_axis == 2 ? plan.slab : shape.w.input;
  const int64_t d = plan.slab_axis == 0 ? plan.slab : shape.d.input;
  return !p.is_channels_last ? Strides{0, d * h * w, h * w, w, 1}
                             : Strides{0, 1, h * w * plan.group, w * plan.group, plan.group};
}

// Strides of the sums: those of grad_input, or of a slab of float in scratch.
template <class T>
inline Strides sum_strides(const BackwardParams& p, const BackwardPlan& plan) {
  return kIsNarrow<T> ? dense_slab_strides(p, plan) : p.input_strides;
}

template <class T, class Offset, bool kTabled>
struct Scatter {
  typedef SumOf<T> Sum;

  const BackwardParams& p;
  const BackwardPlan& plan;
  const Shape& shape;
  const Strides& out;
  const Strides in; // of sums
  const int64_t taps;
  const TapTable table;
  float* const narrow_sums;
  Lockstep<T, Offset> lockstep; // where plan.in_lockstep
  // The unit at work.
  ScatterUnit unit = {};
  Span whole_d, whole_h, whole_w; // outputs whose windows lie within the slab
  Span over_d, over_h, over_w; // outputs whose windows reach into it
  const T* grads;
  const volatile Offset* offsets;
  Sum* sums; // of the first element of the slab
  int64_t origin; // its place in the plane

  Scatter(const BackwardParams& params, const BackwardPlan& the_plan, void* memory)
      : p(params),
        plan(the_plan),
        shape(params.shape),
        out(params.output_strides),
        in(sum_strides<T>(params, the_plan)),
        taps(params.shape.d.kernel * params.shape.h.kernel * params.shape.w.kernel),
        table(params.shape, in, kTabled && !the_plan.in_lockstep ? taps : 0, memory),
        narrow_sums(reinterpret_cast<float*>(static_cast<char*>(memory) + the_plan.table_bytes)),
        lockstep(
            params.shape,
            in,
            the_plan.slabs > 1 ? the_plan.slab_axis : -1,
            the_plan.in_lockstep ? memory : nullptr) {}

  // Returns -1 or the place of a bad offset.
  int64_t work(const ScatterUnit& the_unit) {
    const bool is_new = plan.slabs > 1 || unit.d.end == 0;
    unit = the_unit;
    if (is_new) {
      whole_d = outputs_within(shape.d, unit.d);
      whole_h = outputs_within(shape.h, unit.h);
      whole_w = outputs_within(shape.w, unit.w);
      over_d = outputs_over(shape.d, unit.d);
      over_h = outputs_over(shape.h, unit.h);
      over_w = outputs_over(shape.w, unit.w);
    }
    const int64_t first = unit.n * out.n + unit.c * out.c;
    grads = static_cast<const T*>(p.grad_output) + first;
    offsets = static_cast<const Offset*>(p.offsets) + first;
    origin = unit.d.begin * in.d + unit.h.begin * in.h + unit.w.begin * in.w;
    if constexpr (kIsNarrow<T>) {
      sums = narrow_sums;
    } else {
      sums = static_cast<T*>(p.grad_input) + unit.n * in.n + unit.c * in.c + origin;
    }
    if (!plan.in_lockstep) {
      each_run([&](int64_t c, int64_t z, int64_t y, int64_t x, int64_t count) {
        __builtin_memset(sums + c * in.c + z * in.d + y * in.h + x * in.w, 0, static_cast<size_t>(count) * sizeof(Sum));
      });
    }
    const int64_t bad = plan.in_lockstep  ? scatter_in_lockstep()
        : unit.channels == kScatterPlanes ? scatter<kScatterPlanes>()
                                          : scatter<0>();
    if constexpr (kIsNarrow<T>) {
      const Strides& to = p.input_strides;
      T* const grad_input = static_cast<T*>(p.grad_input) + unit.n * to.n + unit.c * to.c + unit.d.begin * to.d +
          unit.h.begin * to.h + unit.w.begin * to.w;
      each_run([&](int64_t c, int64_t z, int64_t y, int64_t x, int64_t count) {
        narrow_row(
            grad_input + c * to.c + z * to.d + y * to.h + x * to.w,
            sums + c * in.c + z * in.d + y * in.h + x * in.w,
            count);
      });
    }
    return bad;
  }

 private:
  // Calls run(channel, depth, row, column, count) for all runs of adjacent elements of the unit, counted from its first.
  template <class Run>
  void each_run(const Run& run) const {
    int64_t depth = unit.d.end - unit.d.begin;
    const int64_t width = unit.w.end - unit.w.begin;
    const bool planes = !p.is_channels_last;
    int64_t channels = planes ? unit.channels : 1;
    int64_t columns = planes ? 1 : width;
    int64_t count = planes ? width : unit.channels;
    int64_t rows = unit.h.end - unit.h.begin;
    if (!kIsNarrow<T>) { // else sums and elements may differ in what is adjacent
      if (columns > 1 && in.w == count) {
        count *= columns;
        columns = 1;
      }
      if (columns == 1 && in.h == count) {
        count *= rows;
        rows = 1;
      }
      if (columns == 1 && rows == 1 && in.d == count) {
        count *= depth;
        depth = 1;
      }
      if (columns == 1 && rows == 1 && depth == 1 && in.c == count) {
        count *= channels;
        channels = 1;
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t z = 0; z < depth; ++z) {
        for (int64_t y = 0; y < rows; ++y) {
          for (int64_t x = 0; x < columns; ++x) {
            run(c, z, y, x, count);
          }
        }
      }
    }
  }

  // The unit's rows of windows are side by side (see plan_scatter).
  int64_t scatter_in_lockstep() {
    const Span rows = plan.slab_axis == 0 ? Span{over_d.begin * shape.h.output, over_d.end * shape.h.output} : over_h;
    const Span& own = plan.slab_axis == 0 ? unit.d : unit.h;
    const bool is_whole = plan.slabs == 1;
    const int64_t all_rows = shape.d.output * shape.h.output;
    // not covered: a gap in gcov's counts
    const int64_t bad = lockstep.add(
        {grads,
         const_cast<const Offset*>(offsets),
         sums,
         unit.channels,
         is_whole ? 0 : rows.begin,
         is_whole ? all_rows : rows.end - rows.begin,
         origin,
         own.begin,
         own.end - own.begin,
         (unit.d.end - unit.d.begin) * (unit.h.end - unit.h.begin) * (unit.w.end - unit.w.begin)});
    return bad < 0 ? -1 : unit.c * all_rows * shape.w.output + bad;
  }

  template <int kChannels>
  int64_t scatter() const {
    const Span& d = over_d;
    const Span& h = over_h;
    const Span& w = over_w;
    const bool has_whole = kTabled && whole_w.begin < whole_w.end;
    for (int64_t od = d.begin; od < d.end; ++od) {
      const Taps td = taps_of(shape.d, od);
      for (int64_t oh = h.begin; oh < h.end; ++oh) {
        const Taps th = taps_of(shape.h, oh);
        const int64_t row = od * out.d + oh * out.h;
        Span checked = w;
        int64_t bad = -1;
        const bool in_slab = is_within(td, shape.d, unit.d) && is_within(th, shape.h, unit.h) &&
            (plan.slabs == 1 || plan.slab_axis != 2);
        if (has_whole && whole_d.has(od) && whole_h.has(oh)) {
          const int64_t place = td.start * in.d + th.start * in.h - origin;
          bad = add_edge<kChannels>(row, td, th, {w.begin, whole_w.begin}, in_slab);
          bad = bad < 0 ? add_whole<kChannels>(row, place, whole_w) : bad;
          checked.begin = whole_w.end;
        }
        bad = bad < 0 ? add_edge<kChannels>(row, td, th, checked, in_slab) : bad;
        if (bad >= 0) {
          const int64_t c = bad % unit.channels;
          const int64_t plane = unit.n * shape.channels + unit.c + c;
          return ((plane * shape.d.output + od) * shape.h.output + oh) * shape.w.output + bad / unit.channels;
        }
      }
    }
    return -1;
  }

  // Windows of one row whose taps all lie within the slab. Returns -1 or column * channels + channel of a bad offset.
  template <int kChannels>
  int64_t add_whole(int64_t row, int64_t place, const Span& columns) const {
    const int64_t channels = kChannels ? kChannels : unit.channels;
    for (int64_t o = columns.begin; o < columns.end; ++o) {
      const int64_t at = row + o * out.w;
      Sum* const to = sums + place + (o * shape.w.stride - shape.w.pad) * in.w;
#pragma GCC unroll 4
      for (int64_t c = 0; c < channels; ++c) {
        const Offset offset = offsets[at + c * out.c];
        if (static_cast<uint64_t>(int64_t{offset}) >= static_cast<uint64_t>(taps)) {
          return o * channels + c;
        }
        to[c * in.c + table.place[offset]] += widen(grads[at + c * out.c]);
      }
    }
    return -1;
  }

  // Windows of one row that may stick out of the input or the slab. Returns as add_whole does.
  template <int kChannels>
  int64_t add_edge(int64_t row, const Taps& td, const Taps& th, const Span& columns, bool in_slab) const {
    if (is_empty(td) || is_empty(th)) {
      return -1;
    }
    // Taps that depth and height allow are adjacent numbers unless both leave some out.
    const bool is_range = td.last - td.first == 1 || is_whole(th, shape.h);
    return kTabled && in_slab && is_range ? add_ranged<kChannels>(row, td, th, columns)
                                          : add_checked<kChannels>(row, td, th, columns);
  }

  // Windows of one row whose elements all lie within the slab, and whose taps along depth and height are a range.
  template <int kChannels>
  int64_t add_ranged(int64_t row, const Taps& td, const Taps& th, const Span& columns) const {
    const int64_t channels = kChannels ? kChannels : unit.channels;
    const int64_t first = (td.first * shape.h.kernel + th.first) * shape.w.kernel;
    const int64_t range = ((td.last - td.first - 1) * shape.h.kernel + th.last - th.first) * shape.w.kernel;
    const int64_t place = td.start * in.d + th.start * in.h - origin;
    for (int64_t o = columns.begin; o < columns.end; ++o) {
      const Taps tw = taps_of(shape.w, o);
      if (is_empty(tw)) {
        continue;
      }
      const int64_t at = row + o * out.w;
      const int64_t to = place + tw.start * in.w;
      const int64_t columns_of = tw.last - tw.first;
#pragma GCC unroll 4
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t offset = offsets[at + c * out.c];
        if (static_cast<uint64_t>(offset - first) >= static_cast<uint64_t>(range) ||
            static_cast<uint64_t>(table.w[offset] - tw.first) >= static_cast<uint64_t>(columns_of)) {
          return o * channels + c;
        }
        sums[c * in.c + to + table.place[offset]] += widen(grads[at + c * out.c]);
      }
    }
    return -1;
  }

  // Any windows of one row. Returns as add_whole does.
  template <int kChannels>
  int64_t add_checked(int64_t row, const Taps& td, const Taps& th, const Span& columns) const {
    const int64_t channels = kChannels ? kChannels : unit.channels;
    for (int64_t o = columns.begin; o < columns.end; ++o) {
      const Taps tw = taps_of(shape.w, o);
      const int64_t at = row + o * out.w;
      if (is_empty(td) || is_empty(th) || is_empty(tw)) {
        continue;
      }
#pragma GCC unroll 4
      for (int64_t c = 0; c < channels; ++c) {
        Place place;
        if (!find(td, th, tw, offsets[at + c * out.c], place)) {
          return o * channels + c;
        }
        if (unit.d.has(place.d) && unit.h.has(place.h) && unit.w.has(place.w)) {
          sums[c * in.c + place.d * in.d + place.h * in.h + place.w * in.w - origin] += widen(grads[at + c * out.c]);
        }
      }
    }
    return -1;
  }

  // False where the offset names no element of the window, which is not empty.
  inline bool find(const Taps& td, const Taps& th, const Taps& tw, int64_t offset, Place& place) const {
    if constexpr (!kTabled) {
      return resolve(shape, td, th, tw, offset, place) >= 0;
    }
    if (static_cast<uint64_t>(offset) >= static_cast<uint64_t>(taps)) {
      return false;
    }
    const int64_t a = table.d[offset];
    const int64_t b = table.h[offset];
    const int64_t c = table.w[offset];
    place.d = td.start + a * shape.d.dilation;
    place.h = th.start + b * shape.h.dilation;
    place.w = tw.start + c * shape.w.dilation;
    return tap_is_in(td, a) && tap_is_in(th, b) && tap_is_in(tw, c);
  }
};

// Units: groups of channels x slabs.
template <class T, class Offset, bool kTabled>
int64_t backward_scatter(const BackwardParams& p, const BackwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  Scatter<T, Offset, kTabled> scatter(p, plan, scratch);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t bad = scatter.work(scatter_unit(p, plan, unit));
    if (bad >= 0) {
      return bad;
    }
  }
  return -1;
}

// Slabs of the outermost dimension that there is, long enough that few windows reach into two.
template <class T>
inline void plan_slabs(const BackwardParams& p, bool few_units, BackwardPlan& plan) {
  const Shape& shape = p.shape;
  plan.slab_axis = shape.d.input > 1 ? 0 : shape.h.input > 1 ? 1 : 2;
  const Axis& axis = plan.slab_axis == 0 ? shape.d : plan.slab_axis == 1 ? shape.h : shape.w;
  const int64_t plane =
      shape.d.input * shape.h.input * shape.w.input * plan.group * static_cast<int64_t>(sizeof(SumOf<T>));
  const int64_t reach = (axis.kernel - 1) * axis.dilation + 1;
  const int64_t least_bytes = few_units ? kSlabBytes / 16 : kSlabBytes;
  const int64_t by_bytes = plane / least_bytes;
  const int64_t by_reach = axis.input / 8 / reach;
  int64_t slabs = by_bytes < by_reach ? by_bytes : by_reach;
  slabs = slabs < 2 ? 1 : slabs / 2 * 2;
  plan.slab = (axis.input + slabs - 1) / slabs;
  plan.slabs = (axis.input + plan.slab - 1) / plan.slab;
}

// True where planes can be added up in lockstep: a slab's rows of windows must lie side by side, all windows must hold
// elements, places and taps must fit int32.
inline bool in_lockstep(const BackwardParams& p) {
  const Shape& shape = p.shape;
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  const int64_t rows = shape.d.output * shape.h.output;
  const int64_t planes = shape.batch * shape.channels;
  const int64_t reach = (shape.d.kernel - 1) * shape.d.dilation * shape.h.input * shape.w.input +
      (shape.h.kernel - 1) * shape.h.dilation * shape.w.input + (shape.w.kernel - 1) * shape.w.dilation;
  const int64_t plane = shape.d.input * shape.h.input * shape.w.input;
  return !p.is_channels_last && taps <= kMostTaps && shape.w.output <= kMostColumns &&
      (shape.d.input > 1 || shape.d.output == 1) && (shape.h.input > 1 || shape.d.input > 1) &&
      kStreams * plane + 2 * reach < INT32_MAX &&
      (planes >= kStreams || (rows >= kStreams && shape.w.output >= 2 * lag_of(shape.w))) &&
      !has_empty_windows(shape.d) && !has_empty_windows(shape.h) && !has_empty_windows(shape.w);
}

// Fills `plan`, which fits always; returns its cost as plan_gather does.
template <class T>
inline int64_t plan_scatter(const BackwardParams& p, BackwardPlan& plan) {
  const Shape& shape = p.shape;
  const int64_t planes = shape.batch * shape.channels;
  const int64_t outputs = planes * shape.d.output * shape.h.output * shape.w.output;
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  plan.family = "scatter";
  plan.in_lockstep = in_lockstep(p);
  const int64_t elements = planes * shape.d.input * shape.h.input * shape.w.input;
  if (p.is_channels_last) {
    // Where there is more to clear than to add, whole pixels are cleared.
    const bool is_small = shape.channels < kScatterChannels || (!kIsNarrow<T> && outputs * kMostlyCleared <= elements);
    plan.group = is_small ? shape.channels : kScatterChannels;
  } else if (plan.in_lockstep) {
    plan.group = planes >= kStreams ? kStreams : 1;
  } else {
    plan.group = planes >= 4 * kScatterPlanes ? kScatterPlanes : 1;
  }
  const int64_t groups = !p.is_channels_last ? (planes + plan.group - 1) / plan.group
                                             : shape.batch * ((shape.channels + plan.group - 1) / plan.group);
  plan_slabs<T>(p, groups < 8, plan);
  plan.units = groups * plan.slabs;
  const bool tabled = taps <= kTabledTaps && taps <= outputs + 256;
  if (!p.wide_offsets) {
    plan.run = backward_scatter<T, uint8_t, true>;
  } else {
    plan.run = tabled ? backward_scatter<T, int32_t, true> : backward_scatter<T, int32_t, false>;
  }
  if (plan.in_lockstep) {
    plan.table_bytes = p.wide_offsets ? Lockstep<T, int32_t>::bytes(shape) : Lockstep<T, uint8_t>::bytes(shape);
  } else {
    plan.table_bytes = tabled ? TapTable::bytes(taps) : 0;
  }
  plan.table_bytes = (plan.table_bytes + 63) / 64 * 64;
  plan.scratch_bytes = plan.table_bytes;
  if (kIsNarrow<T>) {
    const Strides in = sum_strides<T>(p, plan);
    const int64_t depths = plan.slab_axis == 0 ? plan.slab : shape.d.input;
    plan.scratch_bytes +=
        (!p.is_channels_last ? in.c * plan.group : in.d * depths) * static_cast<int64_t>(sizeof(float));
  }
  const bool is_beyond = is_worth_streaming(p, elements * static_cast<int64_t>(sizeof(T)));
  const int64_t visits = elements * (kIsNarrow<T> ? 2 : 1) + (is_beyond ? elements * 3 / 2 : 0); // see cost_of_direct
  if (!plan.in_lockstep) {
    return outputs * 40 + visits;
  }
  // Planes that lie whole pages apart push each other out of the cache.
  const int64_t plane_bytes = elements / planes * static_cast<int64_t>(sizeof(SumOf<T>));
  const bool collide = plan.group > 1 && plane_bytes % 2048 == 0;
  const int64_t rows = shape.d.output * shape.h.output;
  constexpr int64_t kFewCost = kVectorBytes == 64 ? 3 : 12; // measured on Granite Rapids (AVX-512) and Zen 3
  const int64_t few = rows * shape.w.output < 1024 ? rows * shape.w.output * kFewCost : 0;
  const int64_t cost = plan.group > 1 ? 8500 + outputs * (collide ? 25 : 13) + visits + few
                                      : 9700 + outputs * 15 + visits + planes * rows * (1000 + lag_of(shape.w) * 240);
  return plan.units < 8 && groups > 1 ? 2 * cost : cost;
}

} // namespace
