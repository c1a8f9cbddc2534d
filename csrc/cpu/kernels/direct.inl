// Backward, family "direct": elements are cleared, then the gradient of each window is added at its winner, in the order
// of the outputs. Vectors list the places of some hundred winners (listing.inl), then these are added to one by one. The
// quickest where windows are few beside the elements, or few at all.
//
// A unit is a group of planes, or a slab of some along their outermost dimension, which is dense in memory. Windows that
// overlap along the width often have the winner of the one before, and its addition to wait for: then some planes go in
// turns. Sums of 16-bit floats are in scratch; where few are touched, only those are rounded and cleared again.

namespace {

inline constexpr int64_t kDirectBytes = 16 * 1024; // of elements in a unit of small planes
inline constexpr int64_t kSparse = 12; // elements for each window, at the least
inline constexpr int64_t kMostSparse = 32 * 1024; // elements: sums stay in cache
inline constexpr int64_t kClearedAtOnce = 64 * 1024; // bytes
inline constexpr int64_t kTabledWindows = 16384; // of a plane, at the most; channels_last: times channels
inline constexpr int64_t kTurnedBytes = 512 * 1024; // of planes in turns
inline constexpr int64_t kListedTogether = 512; // windows of some planes
inline constexpr int64_t kTabledRow = 65536; // of a row
inline constexpr int64_t kShortRow = 64; // windows, channels_last times channels: below, planes have tables

template <class T, bool kDisjoint>
struct Direct {
  typedef Puts<T, kDisjoint> P;
  typedef typename P::Cell Cell;
  static constexpr bool kInPlace = P::kInPlace;

  const BackwardParams& p;
  const BackwardPlan& plan;
  const Shape& shape;
  const int64_t channels; // side by side at each place: 1 where planes are contiguous
  const Strides in; // of cells
  const int64_t outputs, elements; // of a plane, times `channels`
  const Lister lister;
  const Interior inner; // columns whose windows are whole
  const bool are_whole; // all windows
  const WindowTables tables; // of a plane or a row
  int32_t* const places;
  Cell* const values; // of a line, where grad_output holds them in another form
  Cell* const sums; // of a slab or a plane, unless in place
  int32_t* const touched; // plan.sparse: places in sums
  int64_t touched_count = 0;
  T* rounded_to = nullptr; // and where in grad_input they belong
  // The slab at work: cells from `origin` on.
  Span own = {};
  int64_t origin = 0;
  int64_t size = 0;
  // Of planes that go in turns: how many, and how far apart their cells are.
  int64_t turns = 1;
  int64_t pitch = 0;
  int64_t cleared = 0; // cells of each

  // Of the tables.
  static int64_t windows_of(const BackwardPlan& plan, const Shape& shape, int64_t channels) {
    const int64_t row = shape.w.output * channels;
    return plan.form == kPlaneLine ? plan.tabled * shape.d.output * shape.h.output * row : row;
  }
  static constexpr int64_t kPlacesBytes = (kListed + kVectorBytes) * static_cast<int64_t>(sizeof(int32_t));
  static constexpr int64_t kValuesBytes = P::kNarrow ? kListed * static_cast<int64_t>(sizeof(Cell)) : 0;
  static int64_t sums_at(const BackwardPlan& plan, const Shape& shape, int64_t channels) {
    return kPlacesBytes + kValuesBytes + WindowTables::bytes(windows_of(plan, shape, channels));
  }
  static int64_t together(const BackwardPlan& plan) {
    return plan.tabled > plan.turns ? plan.tabled : plan.turns;
  }
  // `slab`: cells that one plane has in scratch at a time.
  static int64_t scratch_bytes(const BackwardPlan& plan, const Shape& shape, int64_t channels, int64_t slab) {
    const int64_t outputs = shape.d.output * shape.h.output * shape.w.output * channels;
    return sums_at(plan, shape, channels) +
        together(plan) *
        ((kInPlace ? 0 : slab * static_cast<int64_t>(sizeof(Cell))) +
         (plan.sparse ? outputs * static_cast<int64_t>(sizeof(int32_t)) : 0));
  }
  template <class U>
  static U* at_byte(void* memory, int64_t bytes) {
    return reinterpret_cast<U*>(static_cast<char*>(memory) + bytes);
  }

  Direct(const BackwardParams& params, const BackwardPlan& the_plan, void* scratch)
      : p(params),
        plan(the_plan),
        shape(params.shape),
        channels(params.is_channels_last ? params.shape.channels : 1),
        in(params.input_strides),
        outputs(shape.d.output * shape.h.output * shape.w.output * channels),
        elements(shape.d.input * shape.h.input * shape.w.input * channels),
        lister(params.shape, params.input_strides),
        inner(interior_of(shape.w)),
        are_whole(all_whole(shape.d) && all_whole(shape.h) && all_whole(shape.w)),
        tables(at_byte<char>(scratch, kPlacesBytes + kValuesBytes), windows_of(plan, shape, channels)),
        places(static_cast<int32_t*>(scratch)),
        values(at_byte<Cell>(scratch, kPlacesBytes)),
        sums(at_byte<Cell>(scratch, sums_at(plan, shape, channels))),
        touched(at_byte<int32_t>(sums, kInPlace ? 0 : together(plan) * elements * static_cast<int64_t>(sizeof(Cell)))) {
    if (plan.sparse) {
      __builtin_memset(sums, 0, static_cast<size_t>(together(plan) * elements) * sizeof(Cell));
    }
    note_columns();
    if (plan.form == kPlaneLine) {
      note_planes();
    }
  }

  // Returns -1 or the place of a bad offset.
  int64_t work(int64_t unit) {
    const int64_t all = p.is_channels_last ? shape.batch : shape.batch * shape.channels;
    const int64_t first = unit / plan.slabs * plan.group;
    const int64_t count = all - first < plan.group ? all - first : plan.group;
    begin_slab(unit % plan.slabs);
    T* to = static_cast<T*>(p.grad_input) + first * elements + origin;
    int64_t planes = 0; // at a time
    for (int64_t q = first; q < first + count; q += planes, to += planes * elements) {
      const int64_t left = first + count - q;
      planes = plan.tabled > 1 ? plan.tabled : plan.turns;
      if (left < planes) {
        planes = plan.tabled > 1 ? left : left >= kFewTurns ? kFewTurns : 1;
      }
      turns = plan.tabled > 1 ? 1 : planes;
      Cell* cells;
      if constexpr (kInPlace) {
        cells = to;
        pitch = elements;
      } else {
        cells = sums;
        pitch = size;
      }
      cleared = 0;
      if (plan.sparse) {
        __builtin_memset(to, 0, static_cast<size_t>(planes * elements) * sizeof(T));
        rounded_to = to;
        cleared = size;
      } else if (plan.tabled > 1 || planes * size * static_cast<int64_t>(sizeof(Cell)) <= kClearedAtOnce) {
        clear(cells, planes, size);
      }
      const int64_t bad =
          plan.form == kPlaneLine ? put_planes(cells, q * outputs, planes) : put_rows(cells, q * outputs);
      if (bad >= 0) { // in contiguous order, where channels come before places
        const int64_t plane = q + bad / outputs;
        const int64_t output = bad % outputs;
        return (plane * channels + output % channels) * (outputs / channels) + output / channels;
      }
      clear(cells, planes, size);
      if constexpr (!kInPlace) {
        if (plan.sparse) {
          clear_touched();
          continue;
        }
        const bool are_adjacent = size == elements;
        for (int64_t i = 0; i < (are_adjacent ? 1 : planes); ++i) {
          narrow_row(to + i * elements, cells + i * size, are_adjacent ? planes * size : size);
        }
      }
    }
    return -1;
  }

 private:
  // Clears cells of each plane up to `to`.
  void clear(Cell* cells, int64_t planes, int64_t to) {
    if (to <= cleared) {
      return;
    }
    if (to - cleared == pitch) { // whole planes, side by side
      __builtin_memset(cells, 0, static_cast<size_t>(planes * pitch) * sizeof(Cell));
    } else {
      for (int64_t i = 0; i < planes; ++i) {
        __builtin_memset(cells + i * pitch + cleared, 0, static_cast<size_t>(to - cleared) * sizeof(Cell));
      }
    }
    cleared = to;
  }

  // Rounds `count` sums to where they belong in grad_input, as far as they are complete: who adds to one later, rounds it
  // anew.
  void round_some(const int32_t* at, int64_t count) {
    T rounded[kListed];
    for (int64_t i = 0; i < count; ++i) {
      values[i] = sums[at[i]];
    }
    narrow_row(rounded, values, count);
    for (int64_t i = 0; i < count; ++i) {
      rounded_to[at[i]] = rounded[i];
    }
    copy_bytes(touched + touched_count, at, count * static_cast<int64_t>(sizeof(int32_t)));
    touched_count += count;
  }

  void clear_touched() {
    for (int64_t i = 0; i < touched_count; ++i) {
      sums[touched[i]] = Cell();
    }
    touched_count = 0;
  }

  // Clears what windows up to those of this row reach, and some more: just before it is used, so that it is in cache.
  void clear_for(Cell* cells, int64_t row) {
    if (cleared == size) {
      return;
    }
    const int64_t reach = reach_of_rows(shape, in, row) - origin;
    if (reach > cleared) {
      const int64_t ahead = reach + kClearedAhead;
      clear(cells, turns, ahead < size ? ahead : size);
    }
  }

  // Tables of the windows at row 0 of a plane without padding above, from its column 0 on.
  void note_columns() {
    int64_t at = 0;
    for (int64_t o = 0; o < shape.w.output; ++o) {
      const Taps taps = taps_of(shape.w, o);
      const TapRoom room(taps);
      for (int64_t c = 0; c < channels; ++c, ++at) {
        tables.start[at] = static_cast<int32_t>(taps.start * in.w + c);
        tables.first[at] = both(room.first, 0);
        tables.room[at] = both(room.room, 0);
      }
    }
  }

  // Tables of all windows of plan.tabled planes, from these. Rows are written in whole vectors, so each but the first after
  // the one before it.
  void note_planes() {
    const int64_t width = shape.w.output * channels;
    int64_t row = 0;
    for (int64_t od = 0; od < shape.d.output; ++od) {
      const Taps d = taps_of(shape.d, od);
      for (int64_t oh = 0; oh < shape.h.output; ++oh, ++row) {
        const Taps h = taps_of(shape.h, oh);
        if (row > 0) {
          note_row(row * width, static_cast<int32_t>(d.start * in.d + h.start * in.h), TapRoom(d), TapRoom(h));
        }
      }
    }
    note_first_row();
    const int32_t pitch = static_cast<int32_t>(elements);
    for (int64_t done = outputs; done < plan.tabled * outputs; done += outputs) {
      add_to_row(tables.start + done, tables.start + done - outputs, pitch, outputs);
      if (!are_whole) {
        int32_t* const all[] = {tables.first, tables.room, tables.d_first, tables.d_room};
        for (int32_t* const table : all) {
          copy_bytes(table + done, table, outputs * static_cast<int64_t>(sizeof(int32_t)));
        }
      }
    }
  }
  // And after the last ones up to a vector.
  static void add_to_row(int32_t* to, const int32_t* from, int32_t more, int64_t count) {
    for (int64_t i = 0; i < count; i += kPlaceLanes) {
      store_vector(to + i, load_vector<PlaceLanes>(from + i) + place_lanes(more));
    }
  }
  static void fill_row(int32_t* to, int64_t value, int64_t count) {
    for (int64_t i = 0; i < count; i += kPlaceLanes) {
      store_vector(to + i, place_lanes(value));
    }
  }
  void note_row(int64_t at, int32_t start, const TapRoom& d, const TapRoom& h) {
    const int64_t width = shape.w.output * channels;
    add_to_row(tables.start + at, tables.start, start, width);
    if (!are_whole) {
      add_to_row(tables.first + at, tables.first, both(0, h.first), width);
      add_to_row(tables.room + at, tables.room, both(0, h.room), width);
      if (shape.d.kernel > 1) {
        fill_row(tables.d_first + at, d.first, width);
        fill_row(tables.d_room + at, d.room, width);
      }
    }
  }
  void note_first_row() {
    const Taps first_d = taps_of(shape.d, 0);
    const Taps first_h = taps_of(shape.h, 0);
    const TapRoom d(first_d);
    const TapRoom h(first_h);
    for (int64_t i = 0; i < shape.w.output * channels; ++i) {
      tables.start[i] += static_cast<int32_t>(first_d.start * in.d + first_h.start * in.h);
      tables.first[i] += both(0, h.first);
      tables.room[i] += both(0, h.room);
      tables.d_first[i] = static_cast<int32_t>(d.first);
      tables.d_room[i] = static_cast<int32_t>(d.room);
    }
  }

  void begin_slab(int64_t slab) {
    const int64_t along = plan.slab_axis == 0 ? in.d : plan.slab_axis == 1 ? in.h : in.w;
    own = slab_span(slab_axis_of(shape, plan), plan, slab);
    origin = own.begin * along;
    size = plan.slabs > 1 ? (own.end - own.begin) * along : elements;
  }

  // The next ones return -1 or a bad offset's output, counted as in memory from the plane's first.
  int64_t put_planes(Cell* cells, int64_t output, int64_t planes) {
    const int64_t count = plan.tabled > 1 ? planes * outputs : outputs;
    const WindowLine line = {nullptr, count, 0, 0, TapRoom({}), TapRoom({}), TapRoom({})};
    return put_line<kPlaneLine>(cells, line, output, 0, {are_whole, true});
  }

  int64_t put_rows(Cell* cells, int64_t plane) {
    Span d = {0, shape.d.output};
    Span h = {0, shape.h.output};
    Span w = {0, shape.w.output};
    if (plan.slabs > 1) {
      (plan.slab_axis == 0 ? d : plan.slab_axis == 1 ? h : w) = outputs_over(slab_axis_of(shape, plan), own);
    }
    for (int64_t od = d.begin; od < d.end; ++od) {
      const Taps td = taps_of(shape.d, od);
      for (int64_t oh = h.begin; oh < h.end; ++oh) {
        const Taps th = taps_of(shape.h, oh);
        const int64_t row = (od * shape.h.output + oh) * shape.w.output * channels;
        const bool is_inside = plan.slabs == 1 || kDisjoint ||
            (plan.slab_axis == 0       ? is_within(td, shape.d, own)
                 : plan.slab_axis == 1 ? is_within(th, shape.h, own)
                                       : false);
        const bool are_rows_whole = is_whole(td, shape.d) && is_whole(th, shape.h);
        const int64_t start = td.start * in.d + th.start * in.h - origin;
        const int64_t begin = w.begin * channels;
        const WindowLine line = {
            nullptr, w.end * channels - begin, begin, start, TapRoom(td), TapRoom(th), TapRoom({})};
        const int64_t bad =
            put_line<kRowLine>(cells, line, plane, row + begin, {are_rows_whole && all_whole(shape.w), is_inside});
        if (bad >= 0) {
          return bad;
        }
      }
    }
    return -1;
  }

  struct Known {
    bool whole; // windows have all their taps
    bool inside; // and all their elements are in the slab
  };

  // `line`, but for its offsets: those of output `first` of a plane that begins at `plane`, and so of those that go in
  // turns with it.
  template <LineForm kForm>
  TORCH_MAXPOOL_INLINE int64_t
  put_line(Cell* cells, const WindowLine& line, int64_t plane, int64_t first, Known known) {
    const bool depth = shape.d.kernel > 1;
    const auto list = known.whole ? (depth ? Lister::list<kForm, false, true> : Lister::list<kForm, false, false>)
                                  : (depth ? Lister::list<kForm, true, true> : Lister::list<kForm, true, false>);
    const int64_t most = kListed / turns;
    WindowLine part = line;
    for (int64_t done = 0; done < line.count; done += most) {
      const int64_t left = line.count - done;
      part.count = left < most ? left : most;
      part.at = line.at + done;
      clear_for(cells, (first + done + part.count - 1) / channels / shape.w.output);
      const Cell* from[kTurns] = {};
      for (int64_t turn = 0; turn < turns; ++turn) {
        const int64_t output = turn * outputs + first + done;
        part.offsets = static_cast<const uint8_t*>(p.offsets) + plane + output;
        part.start = line.start + (known.inside ? turn * pitch : 0);
        int32_t* const to = places + turn * most;
        if (!list(lister, tables, part, to)) {
          return output + bad_one(part.offsets, output, part.count);
        }
        const T* const grads = static_cast<const T*>(p.grad_output) + plane + output;
        from[turn] = P::converted(grads, part.count, values + turn * most);
        if (!known.inside) {
          P::put_inside(cells + turn * pitch, from[turn], to, part.count, size);
        }
      }
      if (!known.inside) {
        continue;
      }
      if (turns == kTurns) {
        P::template put_in_turns<kTurns>(cells, from, places, part.count);
      } else if (turns == kFewTurns) {
        P::template put_in_turns<kFewTurns>(cells, from, places, part.count);
      } else if (kForm == kPlaneLine && plan.turns > 1 && part.count % (4 * outputs) == 0) { // of whole planes
        P::put_quarters(cells, from[0], places, part.count / 4);
      } else {
        P::put_all(cells, from[0], places, part.count);
      }
      if constexpr (!kInPlace) {
        if (plan.sparse) {
          round_some(places, part.count);
        }
      }
    }
    return -1;
  }

  // Which of `count` offsets is bad: those of output `first` on, counted as in memory.
  int64_t bad_one(const uint8_t* offsets, int64_t first, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) {
      if (!is_in_window(shape, (first + i) % outputs / channels, offsets[i])) {
        return i;
      }
    }
    return 0; // not covered: one of them is bad
  }
};

// Units: groups of planes x slabs.
template <class T, bool kDisjoint>
int64_t backward_direct(const BackwardParams& p, const BackwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  Direct<T, kDisjoint> direct(p, plan, scratch);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t bad = direct.work(unit);
    if (bad >= 0) {
      return bad;
    }
  }
  return -1;
}

// In tenths of nanoseconds, as all costs of families (measured on Zen 3).
template <class T>
inline int64_t cost_of_direct(const BackwardParams& p, const BackwardPlan& plan, bool disjoint) {
  const Shape& shape = p.shape;
  const int64_t channels = p.is_channels_last ? shape.channels : 1;
  const int64_t planes = shape.batch * shape.channels / channels;
  const int64_t rows = shape.d.output * shape.h.output;
  const int64_t outputs = rows * shape.w.output * channels;
  const int64_t elements = shape.d.input * shape.h.input * shape.w.input * channels;
  // Windows next to each other that have the same winner wait for each other: as often as they share elements.
  const int64_t overlap = shape.w.kernel - shape.w.stride;
  const bool waits = channels < kFewTurns && plan.turns == 1 && overlap > 0 && shape.w.dilation == 1;
  const int64_t wait = waits ? 6 * overlap / (shape.w.kernel + shape.w.stride) : 0;
  constexpr int64_t kInCache = int64_t{384} << 10;
  const int64_t bytes = planes * elements * static_cast<int64_t>(sizeof(T));
  const bool is_large = bytes > kInCache;
  const int64_t memory = is_worth_streaming(p, bytes) ? 225 : is_large ? 75 : 55; // it reads what it writes
  const int64_t listing = plan.form == kPlaneLine ? plan.tabled * outputs * 7 / 2 : planes * rows * 150;
  const int64_t cost = 1400 + planes * (outputs * ((disjoint ? 8 : 10) + wait) + elements * memory / 100) + listing;
  return plan.units < 4 && is_large ? 2 * cost : cost;
}

// Fills `plan` where the family fits; returns its cost, in tenths of nanoseconds.
template <class T>
inline int64_t plan_direct(const BackwardParams& p, BackwardPlan& plan) {
  const Shape& shape = p.shape;
  const int64_t channels = p.is_channels_last ? shape.channels : 1;
  const int64_t planes = shape.batch * shape.channels / channels;
  const int64_t row = shape.w.output * channels;
  const int64_t outputs = shape.d.output * shape.h.output * row;
  const int64_t elements = shape.d.input * shape.h.input * shape.w.input * channels;
  const int64_t reach = (shape.d.kernel - 1) * shape.d.dilation * p.input_strides.d +
      (shape.h.kernel - 1) * shape.h.dilation * p.input_strides.h +
      (shape.w.kernel - 1) * shape.w.dilation * p.input_strides.w;
  plan.form = row < kShortRow && outputs <= kTabledWindows ? kPlaneLine : kRowLine;
  if (p.wide_offsets || channels >= kLongChannels || (plan.form == kRowLine && row > kTabledRow) ||
      kTurns * elements + 2 * reach > INT32_MAX || has_empty_windows(shape.d) || has_empty_windows(shape.h) ||
      has_empty_windows(shape.w)) {
    return -1;
  }
  const bool disjoint = are_disjoint(shape);
  plan.family = "direct";
  plan.run = disjoint ? backward_direct<T, true> : backward_direct<T, false>;
  const int64_t bytes = static_cast<int64_t>(sizeof(T));
  plan.slab_axis = 0;
  plan.slabs = 1;
  plan.group = 1;
  const bool waits = !disjoint && channels == 1 && shape.w.kernel * shape.w.dilation > shape.w.stride;
  const bool sparse = kIsNarrow<T> && !disjoint && elements >= kSparse * outputs && elements <= kMostSparse;
  // Of planes that lie whole pages apart, or are large, fewer stay in the nearest cache.
  const int64_t plane_bytes = elements * static_cast<int64_t>(sizeof(typename Puts<T, false>::Cell));
  const bool many = planes >= kTurns && plane_bytes % 4096 != 0 && kTurns * plane_bytes <= kTurnedBytes;
  plan.turns = !waits || sparse ? 1 : many ? kTurns : planes >= kFewTurns ? kFewTurns : 1;
  int64_t slab = elements;
  if (elements * bytes <= kDirectBytes) {
    plan.group = kDirectBytes / (bytes * elements);
    plan.group = plan.group < planes ? plan.group : planes;
  } else if (plan.form != kPlaneLine) {
    plan_direct_slabs(p, plan.turns * elements * bytes, (planes + plan.turns - 1) / plan.turns, plan);
    slab = plan.slabs == 1 ? elements : elements / slab_axis_of(shape, plan).input * plan.slab;
  }
  if (plan.turns > 1) {
    plan.group = plan.group < plan.turns ? plan.turns : plan.group / plan.turns * plan.turns;
  }
  // Small planes are listed together: more than one, or as many as make quarters.
  const int64_t few = kListedTogether / (plan.turns > 1 ? 4 : 2);
  plan.tabled = plan.form != kPlaneLine || outputs > few ? 1 : kListedTogether / outputs;
  plan.tabled = plan.tabled < plan.group ? plan.tabled : plan.group;
  plan.tabled = plan.tabled > 4 ? plan.tabled / 4 * 4 : plan.tabled;
  plan.sparse = sparse && plan.slabs == 1;
  plan.units = (planes + plan.group - 1) / plan.group * plan.slabs;
  plan.scratch_bytes = disjoint ? Direct<T, true>::scratch_bytes(plan, shape, channels, slab)
                                : Direct<T, false>::scratch_bytes(plan, shape, channels, slab);
  return cost_of_direct<T>(p, plan, disjoint);
}

} // namespace
