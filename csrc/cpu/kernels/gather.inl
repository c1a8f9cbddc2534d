// Backward, family "gather": every element of grad_input asks the windows that cover it whether it won, and is written
// once. Windows are asked in the order of the outputs, starting from 0: the sums are those of a scatter, bit for bit.
//
// Along one dimension, element y lies at padded place y + pad = j * stride + phase; tap t of window o covers it where
// t * dilation = m * stride + phase and o = j - m. So elements of one phase ask the same taps, each of a window a fixed
// distance before place j. A block of grad_output and offsets is copied into scratch, in rows of one pitch with zeros
// wherever there is no window; then distances in two dimensions are distances in one long line, and all elements of one
// phase in both dimensions are computed along it, however short their rows are. Rows of grad_input are woven from the
// lines of their phases.

namespace {

template <class T>
struct Gather {
  typedef Sums<T> S;
  typedef SumOf<T> Sum;
  typedef typename S::V V;

  // A tap: the element asks the window this far from the line's place for `number`.
  struct Tap {
    int32_t distance;
    uint8_t number;
  };

  const BackwardParams& p;
  const BackwardPlan& plan;
  const Shape& shape;
  const GatherBlock block;
  const GatherScratch<T> scratch;
  const RowCheck check;
  const TapDistances d_taps, h_taps, w_taps;
  const bool is_three_by_two; // rows and columns of 3 taps, stride 2, which have a shorter way
  // Taps by phases along height and width: those of phases (i, k) begin at first_tap[i * w.stride + k].
  Tap taps[256];
  int first_tap[kGatherStride * kGatherStride + 1];
  // The block at work: its plane, first places and their numbers.
  int64_t q, row, rows, column, columns;

  Gather(const BackwardParams& params, const BackwardPlan& the_plan, void* memory)
      : p(params),
        plan(the_plan),
        shape(params.shape),
        block(gather_block<S>(params.shape, the_plan.block_rows, the_plan.block_columns)),
        scratch(params.shape, block, memory),
        check(params.shape, scratch.edges),
        d_taps(params.shape.d),
        h_taps(params.shape.h),
        w_taps(params.shape.w),
        is_three_by_two(
            is_three_by_two_along(params.shape.h) && is_three_by_two_along(params.shape.w) &&
            the_plan.column_blocks == 1) {
    // What vectors read past the rows is not used, but should be numbers.
    __builtin_memset(memory, 0, static_cast<size_t>(GatherScratch<T>::block_bytes(shape, block)));
    if (shape.d.input == 1) {
      list_taps(0);
    }
  }

  static bool is_three_by_two_along(const Axis& axis) {
    return axis.kernel == 3 && axis.stride == 2 && axis.dilation == 1;
  }

  int64_t unit_of_work(int64_t unit) {
    q = unit / (plan.row_blocks * plan.column_blocks);
    const int64_t i = unit / plan.column_blocks % plan.row_blocks;
    const int64_t k = unit % plan.column_blocks;
    const auto left = [](int64_t count, int64_t done, int64_t most) {
      return count - done < most ? count - done : most;
    };
    rows = left(block.h.count, i * block.rows, block.rows);
    columns = left(block.w.count, k * block.columns, block.columns);
    row = block.h.first + i * block.rows;
    column = block.w.first + k * block.columns;
    int64_t loaded = 0; // depths of the output so far
    for (int64_t z = 0; z < shape.d.input; ++z) {
      const int64_t j = (z + shape.d.pad) / shape.d.stride;
      for (; loaded <= j && loaded < shape.d.output; ++loaded) {
        const int64_t bad = load(loaded);
        if (bad >= 0) {
          return bad;
        }
      }
      if (is_three_by_two) {
        gather_pairs(z);
        continue;
      }
      if (shape.d.input > 1) {
        list_taps(z);
      }
      for (int64_t phase = 0; phase < shape.h.stride; ++phase) {
        gather_rows(z, phase);
      }
    }
    return -1;
  }

  // Copies one depth of the output into scratch. Returns -1 or the place of a bad offset.
  __attribute__((noinline)) int64_t load(int64_t od) {
    const Taps td = taps_of(shape.d, od);
    const int64_t first_row = row - block.h.halo; // of the output, as the next ones
    const int64_t first_column = column - block.w.halo;
    const int64_t begin = first_column > 0 ? first_column : 0;
    const int64_t end = column + columns < shape.w.output ? column + columns : shape.w.output;
    const int64_t top = first_row > 0 ? first_row : 0;
    const int64_t bottom = row + rows < shape.h.output ? row + rows : shape.h.output;
    const int64_t base = od % block.depths * block.plane;
    if (begin >= end || top >= bottom) {
      clear(base, (rows + block.h.halo) * block.pitch);
      return -1;
    }
    const int64_t before = begin - first_column;
    const int64_t start = base + (top - first_row) * block.pitch + before;
    const int64_t at = ((q * shape.d.output + od) * shape.h.output + top) * shape.w.output + begin;
    const uint8_t fill = is_empty(td) ? 0 : static_cast<uint8_t>(td.first * shape.h.kernel * shape.w.kernel);
    clear(base, start - base);
    copy_rows(start, at, bottom - top, end - begin, fill);
    const int64_t filled = start + (bottom - top - 1) * block.pitch + end - begin;
    clear(filled, base + (rows + block.h.halo) * block.pitch - filled);
    const int64_t bad =
        is_empty(td) ? -1 : check.rows(td, scratch.offsets + start, block.pitch, {top, bottom}, {begin, end});
    return bad < 0 ? -1 : (q * shape.d.output + od) * shape.h.output * shape.w.output + bad;
  }

  void clear(int64_t at, int64_t count) {
    __builtin_memset(scratch.grads + at, 0, static_cast<size_t>(count) * sizeof(Sum));
  }

  // Copies rows of `count` windows, from place `from` of the outputs on, to `to` in scratch, and clears what lies between
  // them, with `fill` as offsets. Vectors may pass the end of a row on both sides: in scratch the next row is written
  // after it, in the tensors the next row follows, but for the last ones.
  void copy_rows(int64_t to, int64_t from, int64_t count_of_rows, int64_t count, uint8_t fill) {
    typedef Vector<uint8_t, S::kLanes> Bytes;
    // Copies of members, which offsets (bytes may be anything) would have to be read again after.
    const int64_t width = shape.w.output;
    const int64_t pitch = block.pitch;
    const int64_t outputs = shape.batch * shape.channels * shape.d.output * shape.h.output * width - (S::kLanes - 1);
    const T* grads = static_cast<const T*>(p.grad_output) + from;
    const uint8_t* offsets = static_cast<const uint8_t*>(p.offsets) + from;
    Sum* grads_to = scratch.grads + to;
    uint8_t* offsets_to = scratch.offsets + to;
    for (int64_t i = 0; i < count_of_rows; ++i, from += width) {
      int64_t o = 0;
      for (; o < count && from + o < outputs; o += S::kLanes) {
        store_vector(grads_to + o, S::load(grads + o));
        store_vector(offsets_to + o, load_vector<Bytes>(offsets + o));
      }
      for (; o < count; ++o) {
        grads_to[o] = widen(grads[o]);
        offsets_to[o] = offsets[o];
      }
      for (int64_t c = count; c < pitch; c += S::kLanes) {
        store_vector(grads_to + c, V{});
        store_vector(offsets_to + c, splat<Bytes>(fill));
      }
      grads += width;
      offsets += width;
      grads_to += pitch;
      offsets_to += pitch;
    }
  }

  // Taps that elements at depth z ask, in the order of the outputs: the furthest window first.
  void list_taps(int64_t z) {
    int count = 0;
    int* first = first_tap;
    for (int h_phase = 0; h_phase < shape.h.stride; ++h_phase) {
      for (int w_phase = 0; w_phase < shape.w.stride; ++w_phase) {
        *first++ = count;
        count = list_taps(z, h_phase, w_phase, count);
      }
    }
    *first = count;
  }

  int list_taps(int64_t z, int h_phase, int w_phase, int count) {
    const int64_t j = (z + shape.d.pad) / shape.d.stride;
    const int64_t d_phase = (z + shape.d.pad) % shape.d.stride;
    for (int64_t a = shape.d.kernel - 1; a >= 0; --a) {
      const int64_t od = j - d_taps.distance[a];
      if (d_taps.phase[a] != d_phase || od < 0 || od >= shape.d.output) {
        continue;
      }
      for (int64_t b = shape.h.kernel - 1; b >= 0; --b) {
        if (h_taps.phase[b] != h_phase) {
          continue;
        }
        for (int64_t c = shape.w.kernel - 1; c >= 0; --c) {
          if (w_taps.phase[c] != w_phase) {
            continue;
          }
          const int64_t at = od % block.depths * block.plane + (block.h.halo - h_taps.distance[b]) * block.pitch +
              block.w.halo - w_taps.distance[c];
          const int64_t number = (a * shape.h.kernel + b) * shape.w.kernel + c;
          taps[count++] = {static_cast<int32_t>(at), static_cast<uint8_t>(number)};
        }
      }
    }
    return count;
  }

  // All rows of grad_input at depth z, two at a time: three taps, stride 2, in both phases at once.
  void gather_pairs(int64_t z) {
    const int64_t padded = z + shape.d.pad;
    DepthTap depths[256];
    int64_t count = 0;
    for (int64_t a = shape.d.kernel - 1; a >= 0; --a) {
      const int64_t od = padded / shape.d.stride - d_taps.distance[a];
      if (d_taps.phase[a] == padded % shape.d.stride && od >= 0 && od < shape.d.output) {
        depths[count++] = {od % block.depths * block.plane, static_cast<uint8_t>(9 * a)};
      }
    }
    T* const plane = static_cast<T*>(p.grad_input) + (q * shape.d.input + z) * shape.h.input * shape.w.input;
    const PairRows<T> pair_rows = {
        scratch.grads,
        scratch.offsets,
        block.pitch,
        shape.w.input,
        depths,
        count,
        static_cast<uint8_t>(shape.h.kernel - 3)};
    const typename PairRows<T>::Rows to = {plane, row * 2 - shape.h.pad, rows, shape.h.input};
    const auto add = [&]<int kFlat>(Number<kFlat>) {
      if (shape.w.pad % 2 == 0) {
        plan.stream ? PairRows<T>::template add<false, true, kFlat>(pair_rows, to, 0)
                    : PairRows<T>::template add<false, false, kFlat>(pair_rows, to, 0);
      } else {
        plan.stream ? PairRows<T>::template add<true, true, kFlat>(pair_rows, to, 1)
                    : PairRows<T>::template add<true, false, kFlat>(pair_rows, to, 1);
      }
    };
    pair_rows.is_flat() ? add(Number<1>()) : add(Number<0>());
  }

  // Rows of grad_input at depth z that have this phase along the height.
  void gather_rows(int64_t z, int64_t phase) {
    for (int64_t w_phase = 0; w_phase < shape.w.stride; ++w_phase) {
      const int* first = first_tap + phase * shape.w.stride + w_phase;
      const Asked asked = {taps + first[0], first[1] - first[0]};
      const int64_t length = (rows - 1) * block.pitch + columns;
      add_up(scratch.lines + w_phase * block.lines, asked, scratch.grads, scratch.offsets, length);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t y = (row + i) * shape.h.stride + phase - shape.h.pad;
      if (y >= 0 && y < shape.h.input) {
        weave((q * shape.d.input + z) * shape.h.input + y, i);
      }
    }
  }

  struct Asked {
    const Tap* taps;
    int64_t count;
  };

  template <int kVectors>
  static TORCH_MAXPOOL_INLINE void add_vectors(
      Sum* line,
      const Asked& asked,
      const Sum* grads,
      const uint8_t* offsets) {
    V sums[kVectors] = {};
    for (int64_t t = 0; t < asked.count; ++t) {
      const int64_t distance = asked.taps[t].distance;
      const auto number = WideTaps<S>::splat_of(asked.taps[t].number);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = distance + v * S::kLanes;
        sums[v] = add_equal<S>(sums[v], load_vector<V>(grads + at), WideTaps<S>::load(offsets + at), number);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      store_vector(line + v * S::kLanes, sums[v]);
    }
  }

  // The line of one phase: places of all rows of the block, at the block's pitch. Not inlined: the loops need all
  // registers.
  static __attribute__((noinline)) void add_up(
      Sum* line,
      const Asked asked,
      const Sum* grads,
      const uint8_t* offsets,
      int64_t length) {
    int64_t at = 0;
    for (; at + 3 * S::kLanes < length; at += 4 * S::kLanes) {
      add_vectors<4>(line + at, asked, grads + at, offsets + at);
    }
    for (; at < length; at += S::kLanes) {
      add_vectors<1>(line + at, asked, grads + at, offsets + at);
    }
  }

  // Row `unit` of grad_input from row `i` of the lines.
  void weave(int64_t unit, int64_t i) const {
    const Axis& w = shape.w;
    T* const to = static_cast<T*>(p.grad_input) + unit * w.input;
    const int64_t left = column * w.stride - w.pad;
    const int64_t right = left + columns * w.stride;
    const int64_t begin = left > 0 ? left : 0;
    const int64_t end = right < w.input ? right : w.input;
    const int64_t skipped = begin - left; // elements of the lines before the first
    const Sum* const line = scratch.lines + i * block.pitch + skipped / w.stride;
    const int64_t phase = skipped % w.stride;
    if (w.stride == 1) {
      plan.stream ? weave_one<true>(to + begin, line, end - begin) : weave_one<false>(to + begin, line, end - begin);
    } else if (w.stride == 2) {
      const Sum* const even = line + phase * block.lines;
      const Sum* const odd = line + (phase == 0 ? block.lines : 1);
      plan.stream ? weave_two<true>(to + begin, even, odd, end - begin)
                  : weave_two<false>(to + begin, even, odd, end - begin);
    } else {
      int64_t at = phase;
      for (int64_t x = begin; x < end; ++x) {
        narrow(line[(at % w.stride) * block.lines + at / w.stride], to[x]);
        ++at;
      }
    }
  }

  template <bool kStream>
  static void weave_one(T* to, const Sum* line, int64_t count) {
    int64_t x = 0;
    for (; x + S::kLanes <= count; x += S::kLanes) {
      put_sums<S, kStream>(to + x, load_vector<V>(line + x));
    }
    if (x == count) {
      return;
    }
    if (count >= S::kLanes) { // the last vector overlaps the one before
      S::store(to + count - S::kLanes, load_vector<V>(line + count - S::kLanes));
      return;
    }
    T row_end[kVectorBytes];
    S::store(row_end, load_vector<V>(line));
    copy_bytes(to, row_end, count * static_cast<int64_t>(sizeof(T)));
  }

  template <bool kStream>
  static TORCH_MAXPOOL_INLINE void weave_vectors(T* to, const Sum* even, const Sum* odd) {
    put_pairs<S, kStream>(to, load_vector<V>(even), load_vector<V>(odd));
  }

  // even[0], odd[0], even[1], ...
  template <bool kStream>
  static __attribute__((noinline)) void weave_two(T* to, const Sum* even, const Sum* odd, int64_t count) {
    constexpr int64_t kStep = 2 * S::kLanes;
    int64_t x = 0;
    for (; x + kStep <= count; x += kStep) {
      weave_vectors<kStream>(to + x, even + x / 2, odd + x / 2);
    }
    if (x == count) {
      return;
    }
    if (count >= kStep) { // the last vectors overlap those before
      x = count - kStep;
      if constexpr (kStream) { // of rows of whole vectors; lines that are streamed and stored to are written twice
        S::stream(to + x + S::kLanes, zip_high(load_vector<V>(even + x / 2), load_vector<V>(odd + x / 2)));
      } else if (x % 2 == 0) {
        weave_vectors<false>(to + x, even + x / 2, odd + x / 2);
      } else {
        weave_vectors<false>(to + x, odd + x / 2, even + x / 2 + 1);
      }
      return;
    }
    T row_end[2 * kVectorBytes];
    weave_vectors<false>(row_end, even, odd);
    copy_bytes(to, row_end, count * static_cast<int64_t>(sizeof(T)));
  }
};

// Units: blocks of planes.
template <class T>
int64_t backward_gather(const BackwardParams& p, const BackwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  Gather<T> gather(p, plan, scratch);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t bad = gather.unit_of_work(unit);
    if (bad >= 0) {
      return bad;
    }
  }
  if (plan.stream) {
    stream_fence();
  }
  return -1;
}

// Fills `plan` where the family fits; returns its cost, in tenths of nanoseconds.
template <class T>
inline int64_t plan_gather(const BackwardParams& p, BackwardPlan& plan) {
  typedef Sums<T> S;
  const Shape& shape = p.shape;
  const int64_t sum_bytes = sizeof(typename S::Sum);
  constexpr int64_t kMost = int64_t{1} << 20;
  const auto fits = [](const Axis& axis) {
    return axis.dilation < kMost && (axis.kernel - 1) * axis.dilation / axis.stride <= kGatherHalo;
  };
  if (p.wide_offsets || shape.h.stride > kGatherStride || shape.w.stride > kGatherStride || !fits(shape.d) ||
      !fits(shape.h) || !fits(shape.w)) {
    return -1;
  }
  const GatherBlock one = gather_block<S>(shape, 1, 1);
  // Long rows in columns of blocks, as long as their halo is short.
  const int64_t column_bytes = one.depths * (one.h.halo + 1) * (sum_bytes + 1) + shape.w.stride * sum_bytes;
  const auto blocks_of = [](int64_t count, int64_t most) { return (count + most - 1) / most; };
  const int64_t widest = kGatherBytes / column_bytes > 4 * one.w.halo ? kGatherBytes / column_bytes : 4 * one.w.halo;
  plan.column_blocks = blocks_of(one.w.count, widest > 64 ? widest : 64);
  plan.block_columns = blocks_of(one.w.count, plan.column_blocks);
  const int64_t pitch = plan.block_columns + one.w.halo;
  const int64_t row_bytes = pitch * (one.depths * (sum_bytes + 1) + shape.w.stride * sum_bytes);
  const int64_t halo_bytes = pitch * one.depths * (sum_bytes + 1) * one.h.halo;
  const int64_t fitting = (kGatherBytes - halo_bytes) / row_bytes;
  const int64_t least = 2 * one.h.halo + 1;
  plan.row_blocks = blocks_of(one.h.count, fitting > least ? fitting : least);
  plan.block_rows = blocks_of(one.h.count, plan.row_blocks);
  const GatherBlock block = gather_block<S>(shape, plan.block_rows, plan.block_columns);
  plan.scratch_bytes = GatherScratch<T>::block_bytes(shape, block) + 2 * shape.w.output;
  if (plan.scratch_bytes > kMost) {
    return -1;
  }
  plan.family = "gather";
  plan.run = backward_gather<T>;
  const int64_t planes = shape.batch * shape.channels;
  const int64_t blocks = plan.row_blocks * plan.column_blocks;
  plan.units = planes * blocks;
  const int64_t width = shape.w.input * static_cast<int64_t>(sizeof(T));
  plan.stream = plan.column_blocks == 1 && shape.w.stride <= 2 &&
      streams_rows(p, width, width * planes * shape.d.input * shape.h.input);
  // Each tap is asked once per vector of places, in one phase of each dimension. Rows of 3/2 have vectors of their own.
  // Measured on Granite Rapids (AVX-512) and Zen 3.
  constexpr int64_t kTapCost = kVectorBytes == 64 ? 12 : kVectorBytes == 32 ? 9 : 14;
  constexpr int64_t kBlockCost = kVectorBytes == 64 ? 400 : 800;
  constexpr int64_t kPlaneCost = kVectorBytes == 64 ? 400 : 1450;
  const bool in_pairs =
      Gather<T>::is_three_by_two_along(shape.h) && Gather<T>::is_three_by_two_along(shape.w) && plan.column_blocks == 1;
  const int64_t flat_vectors = (plan.block_rows * pitch + S::kLanes - 1) / S::kLanes;
  const int64_t pair_vectors = plan.block_rows * ((shape.w.input + 2 * S::kLanes - 1) / (2 * S::kLanes));
  const int64_t vectors = in_pairs && pair_vectors > flat_vectors ? pair_vectors : flat_vectors;
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  const int64_t weaving = in_pairs ? 0 : shape.d.input * shape.h.stride * shape.w.stride * vectors * 12;
  const int64_t cost =
      planes * blocks * (kBlockCost + one.d.count * vectors * taps * kTapCost + weaving + one.depths * vectors * 12);
  const int64_t elements = shape.d.input * shape.h.input * shape.w.input;
  const int64_t by_element = shape.w.stride > 2 ? 24 : 1; // woven one by one
  return 2300 + cost * 7 / 10 + planes * (shape.d.input * kPlaneCost + elements * by_element);
}

} // namespace
