// Forward, family "tile": any kernel, stride, padding and dilation without empty windows; any input strides.
//
// A block of one plane is copied into scratch with its padding, as lanes, split by column into `stride` phases so that
// each tap reads adjacent lanes. The block then is one long line: taps along the width are compared over the whole line
// at once (rows keep their pitch, so no lane is lost to short rows), then taps along the height, then the depth. Large
// windows take steps that double the window, which is right because a maximum may meet an element twice; the left of two
// equals stays, so the first winner does. Padding holds the lowest value: where such a lane is named, the whole window
// is lowest, and the first element within the input is the winner; its number is put in afterwards.

namespace {

inline constexpr int64_t kMostGroup = 64;
inline constexpr int64_t kTileBytes = 96 * 1024; // wanted size of a block's values in scratch

// Where things lie in scratch.
template <class L, bool kIndexed>
struct TileScratch {
  int64_t lines_bytes, index_bytes, slice_values_bytes, slice_index_bytes, total;

  TileScratch(const Tile& tile, const Shape& shape, int64_t slice) {
    const bool is_deep = shape.d.kernel > 1;
    const int64_t slices = is_deep ? shape.d.kernel + 1 : 0;
    lines_bytes = aligned(tile.phases * tile.stride * static_cast<int64_t>(sizeof(typename L::Lane)));
    index_bytes = kIndexed ? aligned(tile.stride * static_cast<int64_t>(sizeof(typename L::Index))) : 0;
    slice_values_bytes = aligned((slice + tile.slack) * static_cast<int64_t>(sizeof(typename L::Lane)));
    slice_index_bytes = kIndexed ? aligned((slice + tile.slack) * static_cast<int64_t>(sizeof(typename L::Index))) : 0;
    total = lines_bytes + index_bytes + slices * (slice_values_bytes + slice_index_bytes);
  }
};

// First pass along the width, from phases without tap numbers; the result goes to phase 0 and `line.index`.
template <class L, bool kIndexed>
inline void across_phases(const Shape& shape, const Tile tile, const Line<L> line, int64_t group) {
  constexpr int kLanes = L::kLanes;
  const int64_t taps = shape.w.kernel;
  const int64_t dilation = shape.w.dilation;
  if (taps == 1) {
    if (kIndexed) {
      __builtin_memset(line.index, 0, (tile.line + kUnroll * kLanes) * sizeof(typename L::Index));
    }
    return;
  }
  if (tile.phases == 1) {
    slide_across<L, kIndexed>(line.value, line, tile.line, taps, dilation * group);
    return;
  }
  for (int64_t i = 0; i < tile.line; i += kUnroll * kLanes) {
    Champions<L, kIndexed> best[kUnroll];
    for (int u = 0; u < kUnroll; ++u) {
      best[u] = at<L, false, kIndexed>(line, i + u * kLanes);
    }
    int64_t phase = 0;
    int64_t place = 0;
    for (int64_t t = 1; t < taps; ++t) {
      phase += dilation;
      while (phase >= tile.phases) {
        phase -= tile.phases;
        ++place;
      }
      const typename L::Lane* from = line.value + phase * tile.stride + place * group + i;
      const typename L::IV number = splat_index<L>(t);
      for (int u = 0; u < kUnroll; ++u) {
        best[u].meet(load_vector<typename L::V>(from + u * kLanes), number);
      }
    }
    for (int u = 0; u < kUnroll; ++u) {
      put<L, kIndexed>(line, i + u * kLanes, best[u]);
    }
  }
}

// `count` champions to the output.
template <class L, bool kIndexed, class Offset>
inline void store_row(const Line<L> line, int64_t count, typename L::Element* values, Offset* offsets) {
  constexpr int kLanes = L::kLanes;
  const auto put = [&](int64_t i) {
    const Champions<L, kIndexed> c = at<L, kIndexed>(line, i);
    L::store(values + i, c.value);
    if constexpr (kIndexed) {
      store_offsets<L>(offsets + i, c.index);
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    put(i);
  }
  if (i == count) {
    return;
  }
  if (count >= kLanes) { // the last vector overlaps the one before
    put(count - kLanes);
    return;
  }
  typename L::Element value_tail[kLanes];
  Offset offset_tail[kLanes];
  const Champions<L, kIndexed> c = at<L, kIndexed>(line, i);
  L::store(value_tail, c.value);
  if constexpr (kIndexed) {
    store_offsets<L>(offset_tail, c.index);
  }
  copy_bytes(values, value_tail, count * static_cast<int64_t>(sizeof values[0]));
  if constexpr (kIndexed) {
    copy_bytes(offsets, offset_tail, count * static_cast<int64_t>(sizeof offsets[0]));
  }
}

// A block of the output.
struct Block {
  int64_t n, c; // plane, or the first of a group of planes
  int64_t row, rows;
  int64_t column, columns;
};

inline Block block_of(const Shape& shape, const ForwardPlan& plan, int64_t unit) {
  Block block;
  block.column = unit % plan.column_blocks * plan.block_columns;
  unit /= plan.column_blocks;
  block.row = unit % plan.row_blocks * plan.block_rows;
  unit /= plan.row_blocks;
  const int64_t groups = shape.channels / plan.group;
  block.c = unit % groups * plan.group;
  block.n = unit / groups;
  const int64_t rows = shape.h.output - block.row;
  const int64_t columns = shape.w.output - block.column;
  block.rows = rows < plan.block_rows ? rows : plan.block_rows;
  block.columns = columns < plan.block_columns ? columns : plan.block_columns;
  return block;
}

// Whether rows of the input lie in a tile as one line, so that they are copied together.
inline bool has_whole_rows(const Shape& shape, int64_t group, const Tile& tile) {
  return group == 1 && tile.pitch * tile.phases == shape.w.input;
}

// The champions of one slice (one depth of the input) of a block, row after row with the tile's pitch, in `line`.
template <class L, bool kIndexed>
inline void pool_slice(
    const ForwardParams& p,
    const ForwardPlan& plan,
    const Block& block,
    const Tile& tile,
    const typename L::Element* slice,
    const Line<L>& line,
    typename L::Mask& strange) {
  const Shape& shape = p.shape;
  const int64_t group = plan.group;
  const int64_t width = tile.pitch * group;
  const int64_t first_row = block.row * shape.h.stride - shape.h.pad;
  const int64_t first_place = block.column * shape.w.stride - shape.w.pad;
  const Strides& in = p.input_strides;
  const bool is_whole = has_whole_rows(shape, group, tile) && in.w == 1 && in.h == shape.w.input && first_place == 0 &&
      first_row >= 0 && first_row + tile.rows <= shape.h.input;
  if (is_whole) { // without padding, rows are one
    copy_columns<L>(tile, slice + first_row * in.h, tile.rows * shape.w.input, line.value, strange);
  }
  for (int64_t r = 0; r < tile.rows && !is_whole; ++r) {
    const int64_t y = first_row + r;
    const typename L::Element* row = y < 0 || y >= shape.h.input ? nullptr : slice + y * in.h;
    load_row<L>(shape, tile, group, row, first_place, in.w, line.value + r * width, strange);
  }
  across_phases<L, kIndexed>(shape, tile, line, group);
  if (kIndexed) {
    for (int64_t o = 0; o < block.columns; ++o) {
      const Taps taps = taps_of(shape.w, block.column + o);
      if (taps.first == 0) {
        break;
      }
      const auto first = static_cast<typename L::Index>(taps.first);
      for (int64_t r = 0; r < tile.rows; ++r) {
        for (int64_t g = 0; g < group; ++g) {
          typename L::Index& index = line.index[r * width + o * group + g];
          index = index < first ? first : index;
        }
      }
    }
  }
  const int64_t step = shape.h.dilation * width;
  const int64_t taps = shape.h.kernel;
  const int64_t taps_across = shape.w.kernel;
  const int64_t stride = shape.h.stride * width;
  if (shape.h.stride == 1) {
    slide<L, kIndexed>(line, block.rows * width, taps, step, taps_across);
  } else {
    for (int64_t o = 0; o < block.rows; ++o) {
      const Line<L> from = {line.value + o * stride, line.index + o * stride};
      const Line<L> to = {line.value + o * width, line.index + o * width};
      constexpr int kLanes = L::kLanes;
      for (int64_t i = 0; i < width; i += kLanes) {
        Champions<L, kIndexed> best = at<L, kIndexed>(from, i);
        for (int64_t t = 1; t < taps; ++t) {
          Champions<L, kIndexed> later = at<L, kIndexed>(from, i + t * step);
          if (kIndexed) {
            later.index += splat_index<L>(t * taps_across);
          }
          best.meet(later);
        }
        if (o * width + i + kLanes <= (o + 1) * stride) {
          put<L, kIndexed>(to, i, best);
        } else { // the lanes beyond belong to rows still to be read
          copy_bytes(to.value + i, &best.value, (width - i) * static_cast<int64_t>(sizeof(typename L::Lane)));
          if (kIndexed) {
            copy_bytes(to.index + i, &best.index, (width - i) * static_cast<int64_t>(sizeof(typename L::Index)));
          }
        }
      }
    }
  }
  if (kIndexed) {
    for (int64_t o = 0; o < block.rows; ++o) {
      const Taps taps = taps_of(shape.h, block.row + o);
      if (taps.first == 0) {
        break;
      }
      const auto missing = static_cast<typename L::Index>(taps.first * shape.w.kernel);
      for (int64_t i = o * width; i < (o + 1) * width; ++i) {
        line.index[i] =
            line.index[i] < missing ? static_cast<typename L::Index>(line.index[i] + missing) : line.index[i];
      }
    }
  }
}

template <class L, bool kIndexed, class Offset>
inline void store_block(
    const ForwardParams& p,
    const ForwardPlan& plan,
    const Block& block,
    const Tile& tile,
    int64_t depth,
    const Line<L>& line) {
  const Strides& out = p.output_strides;
  const int64_t width = tile.pitch * plan.group;
  const bool is_dense = block.columns == tile.pitch && out.w == plan.group && out.h == width; // then rows are one
  for (int64_t o = 0; o < (is_dense ? 1 : block.rows); ++o) {
    const int64_t to =
        block.n * out.n + block.c * out.c + depth * out.d + (block.row + o) * out.h + block.column * out.w;
    // Outputs that lie side by side: all rows, a row, or (of some of the channels) those of one place.
    const bool is_row_dense = out.w == plan.group;
    const int64_t count = is_dense ? block.rows * width : plan.group * (is_row_dense ? block.columns : 1);
    for (int64_t column = 0; column < (is_row_dense ? 1 : block.columns); ++column) {
      const int64_t from = o * width + column * plan.group;
      store_row<L, kIndexed>(
          {line.value + from, line.index + from},
          count,
          static_cast<typename L::Element*>(p.output) + to + column * out.w,
          static_cast<Offset*>(p.offsets) + to + column * out.w);
    }
  }
}

// All slices of a block that a window reaches, then its depth taps. False where the block holds strange lanes.
template <class L, bool kIndexed, class Offset>
inline bool pool_block(const ForwardParams& p, const ForwardPlan& plan, const Block& block, char* scratch) {
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const Tile tile = tile_of<L>(shape, plan.group, block.rows, block.columns);
  const int64_t slice = block.rows * tile.pitch * plan.group;
  const TileScratch<L, kIndexed> places(tile, shape, slice);
  const Line<L> line = {
      reinterpret_cast<typename L::Lane*>(scratch), reinterpret_cast<typename L::Index*>(scratch + places.lines_bytes)};
  const auto* plane = static_cast<const typename L::Element*>(p.input) + block.n * in.n + block.c * in.c;
  typename L::Mask strange = {};
  if (shape.d.kernel == 1) {
    for (int64_t d = 0; d < shape.d.output; ++d) {
      pool_slice<L, kIndexed>(p, plan, block, tile, plane + taps_of(shape.d, d).start * in.d, line, strange);
      store_block<L, kIndexed, Offset>(p, plan, block, tile, d, line);
    }
  } else {
    // A ring of pooled slices, and one more place for the result.
    char* const ring = scratch + places.lines_bytes + places.index_bytes;
    const auto kept = [&](int64_t slot) -> Line<L> {
      char* const at = ring + slot * (places.slice_values_bytes + places.slice_index_bytes);
      return {
          reinterpret_cast<typename L::Lane*>(at),
          reinterpret_cast<typename L::Index*>(at + places.slice_values_bytes)};
    };
    const Line<L> result = kept(shape.d.kernel);
    constexpr int kLanes = L::kLanes;
    const auto copy = [&](const Line<L>& to, const Line<L>& from) {
      for (int64_t i = 0; i < slice; i += kLanes) {
        put<L, kIndexed>(to, i, at<L, kIndexed>(from, i));
      }
    };
    // Slot of slice z: z modulo a count of slots that no window's slices exceed. With dilation, slices that one window
    // skips belong to another; those pooled too long ago are pooled again.
    const int64_t slots = shape.d.kernel;
    int64_t held[64];
    for (int64_t i = 0; i < slots; ++i) {
      held[i] = -1;
    }
    for (int64_t d = 0; d < shape.d.output; ++d) {
      const Taps taps = taps_of(shape.d, d);
      for (int64_t t = taps.first; t < taps.last; ++t) {
        const int64_t z = taps.start + t * shape.d.dilation;
        const int64_t slot = z / shape.d.dilation % slots;
        const Line<L> pooled = kept(slot);
        if (held[slot] != z) {
          pool_slice<L, kIndexed>(p, plan, block, tile, plane + z * in.d, line, strange);
          copy(pooled, line);
          held[slot] = z;
        }
        const typename L::IV more = splat_index<L>(t * shape.h.kernel * shape.w.kernel);
        for (int64_t i = 0; i < slice; i += kLanes) {
          Champions<L, kIndexed> later = at<L, kIndexed>(pooled, i);
          if (kIndexed) {
            later.index += more;
          }
          if (t > taps.first) {
            Champions<L, kIndexed> best = at<L, kIndexed>(result, i);
            best.meet(later);
            later = best;
          }
          put<L, kIndexed>(result, i, later);
        }
      }
      store_block<L, kIndexed, Offset>(p, plan, block, tile, d, result);
    }
  }
  return !L::is_strange(strange, p);
}

template <class L, bool kIndexed, class Offset>
void forward_tile(const ForwardParams& p, const ForwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const Block block = block_of(p.shape, plan, unit);
    if (pool_block<L, kIndexed, Offset>(p, plan, block, static_cast<char*>(scratch))) {
      continue;
    }
    if constexpr (kHasExact<L>) {
      if (pool_block<typename L::Exact, kIndexed, Offset>(p, plan, block, static_cast<char*>(scratch))) {
        continue;
      }
    }
    for (int64_t d = 0; d < p.shape.d.output; ++d) {
      for (int64_t h = block.row; h < block.row + block.rows; ++h) {
        for (int64_t g = 0; g < plan.group; ++g) {
          forward_row<typename L::Element>(p, {block.n, block.c + g, d, h}, block.column, block.column + block.columns);
        }
      }
    }
  }
}

// Whether the rows of all tiles are copied together: has_whole_rows, and no tile reaches padding.
inline bool are_rows_copied(const Shape& shape, int64_t group, const Tile& tile) {
  return has_whole_rows(shape, group, tile) && shape.w.pad == 0 && shape.h.pad == 0 && tile.rows <= shape.h.input;
}

// What a tile costs for each depth of the output, but for comparing taps, in cycles (measured on Zen 3).
struct TileCost {
  int64_t once, rows; // of the input
};

template <class T>
inline TileCost cost_of_tile(const ForwardParams& p, const ForwardPlan& plan, const Tile& tile) {
  const Shape& shape = p.shape;
  constexpr int64_t kTileCost = 120;
  const int64_t slices = shape.d.stride < shape.d.kernel ? shape.d.stride : shape.d.kernel; // pooled for each depth
  const int64_t places = tile.pitch * tile.phases * plan.group;
  constexpr int64_t kRowCost = sizeof(T) == 1 ? 100 : 50;
  const bool is_copied = are_rows_copied(shape, plan.group, tile);
  const bool is_by_squares = sizeof(T) < 8 && (is_copied ? tile.rows : 1) * tile.pitch >= 2 * Lanes<T>::kLanes;
  const bool is_by_vectors = p.input_strides.w == plan.group &&
      (tile.phases == 1 ||
       (plan.group == 1 ? tile.phases <= kMostPhases || is_by_squares
                        : tile.phases == 2 && (plan.group == 3 || plan.group == 4)));
  constexpr int64_t kManyPhases = kVectorBytes == 64 ? 2 : 4; // of each place (measured on Granite Rapids)
  const int64_t place_cost = !is_by_vectors ? 5 : tile.phases > 4 ? kManyPhases : 1;
  const int64_t row_cost = (is_copied ? 10 : kRowCost) + places * place_cost;
  return {kTileCost + plan.block_rows * 15, slices * tile.rows * row_cost};
}

// Whether to take the windows of a tile one by one: few of them, or small ones far apart.
template <class T>
inline bool windows_cost_less(const ForwardParams& p, const ForwardPlan& plan, int64_t tile_cost) {
  const Shape& shape = p.shape;
  constexpr int64_t kMostTaps = 1024; // more are never few
  const int64_t windows = plan.block_rows * plan.block_columns * plan.group;
  if (shape.h.kernel > kMostTaps || shape.w.kernel > kMostTaps) {
    return false;
  }
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  const int64_t alone = cost_of_window<T>(taps);
  const int64_t in_columns = p.wide_offsets && p.offsets ? INT64_MAX : cost_in_columns<T>(p);
  return windows * (alone < in_columns ? alone : in_columns) < tile_cost;
}

// Chooses blocks; false where windows are too large or too sparse for tiles to be a good way.
template <class L, bool kIndexed>
inline bool plan_tile(const ForwardParams& p, int64_t group, ForwardPlan& plan) {
  const Shape& shape = p.shape;
  constexpr int64_t kMost = int64_t{1} << 24; // elements of scratch
  const auto reach = [](const Axis& axis) { return (axis.kernel - 1) * axis.dilation + 1; };
  if (shape.w.kernel > kMost || shape.h.kernel > kMost || shape.d.kernel >= 64 || shape.w.stride > 64 ||
      shape.h.dilation > kMost / shape.h.kernel || shape.w.dilation > kMost / shape.w.kernel || group > kMostGroup) {
    return false;
  }
  const int64_t reach_w = reach(shape.w);
  const int64_t reach_h = reach(shape.h);
  const int64_t lane = sizeof(typename L::Lane);
  plan.group = group;
  // Columns: whole rows, unless they are so long that few rows fit.
  const int64_t wanted = kTileBytes / lane / shape.w.stride / group;
  plan.block_columns = shape.w.output;
  plan.block_rows = shape.h.output;
  if (reach_h > 1 || shape.h.stride > 1) {
    const int64_t columns = 512 / shape.w.stride / group + reach_w;
    if (plan.block_columns > 2 * columns) {
      plan.block_columns = rounded_up(shape.w.output, rounded_up(shape.w.output, columns));
    }
    if (shape.h.stride > reach_h) {
      plan.block_rows = 1; // rows between windows are not read
    }
  } else if (plan.block_columns > wanted) {
    plan.block_columns = rounded_up(shape.w.output, rounded_up(shape.w.output, wanted + reach_w));
  }
  const int64_t pitch = plan.block_columns + (reach_w - 1) / shape.w.stride;
  const int64_t rows = (wanted / pitch - reach_h) / shape.h.stride + 1;
  const int64_t least = rounded_up(2 * reach_h, shape.h.stride);
  const int64_t most = rows > least ? rows : least;
  if (plan.block_rows > most) {
    plan.block_rows = rounded_up(plan.block_rows, rounded_up(plan.block_rows, most));
  }
  plan.row_blocks = rounded_up(shape.h.output, plan.block_rows);
  plan.column_blocks = rounded_up(shape.w.output, plan.block_columns);
  const Tile tile = tile_of<L>(shape, group, plan.block_rows, plan.block_columns);
  if (tile.rows > kMost || tile.pitch > kMost || tile.line * tile.phases > kMost ||
      tile.line > 8 * (shape.h.input * shape.w.input * group + 4096)) {
    return false;
  }
  const TileCost cost = cost_of_tile<typename L::Element>(p, plan, tile);
  if (windows_cost_less<typename L::Element>(p, plan, cost.once + cost.rows)) {
    return false;
  }
  const TileScratch<L, kIndexed> scratch(tile, shape, plan.block_rows * tile.pitch * group);
  plan.scratch_bytes = scratch.total;
  plan.family = "tile";
  plan.units = shape.batch * (shape.channels / group) * plan.row_blocks * plan.column_blocks;
  constexpr int64_t kHalves = sizeof(typename L::Element) == 1 ? 3 : 5; // tenths of nanoseconds in two cycles
  const bool is_copied = shape.d.kernel == 1 && are_rows_copied(shape, group, tile);
  plan.cost = plan.units * shape.d.output * (cost.once * kHalves + cost.rows * (is_copied ? 1 : kHalves)) / 2;
  return true;
}

template <class L>
inline bool plan_tile_for(const ForwardParams& p, int64_t group, ForwardPlan& plan) {
  if (p.offsets == nullptr) {
    plan.run = forward_tile<L, false, uint8_t>;
    return plan_tile<L, false>(p, group, plan);
  }
  plan.run = p.wide_offsets ? forward_tile<L, true, int32_t> : forward_tile<L, true, uint8_t>;
  return plan_tile<L, true>(p, group, plan);
}

} // namespace
