// Backward, family "gather_channels": channels_last. As in family "gather" every element of grad_input asks the windows
// that cover it, in the order of the outputs; vectors run along the channels.

namespace {

// Taps along one dimension by phase (see gather.inl), the last one first, so that their windows ascend.
struct TapsByPhase {
  int first[kGatherStride + 1]; // those of a phase begin here
  int32_t tap[256], distance[256];
  int64_t back[256]; // the distance in elements, where places are `pitch` apart

  TapsByPhase(const Axis& axis, int64_t pitch) {
    int count = 0;
    for (int64_t phase = 0; phase < axis.stride; ++phase) {
      first[phase] = count;
      for (int64_t t = axis.kernel - 1; t >= 0; --t) {
        if (t * axis.dilation % axis.stride == phase) {
          tap[count] = static_cast<int32_t>(t);
          distance[count] = static_cast<int32_t>(t * axis.dilation / axis.stride);
          back[count] = distance[count] * pitch;
          ++count;
        }
      }
    }
    first[axis.stride] = count;
  }

  // Those of place j and this phase whose windows exist.
  Span existing(const Axis& axis, int64_t j, int64_t phase) const {
    Span taps = {first[phase], first[phase + 1]};
    while (taps.begin < taps.end && j < distance[taps.begin]) {
      ++taps.begin;
    }
    while (taps.begin < taps.end && j - distance[taps.end - 1] >= axis.output) {
      --taps.end;
    }
    return taps;
  }
};

// True where some of `count` offsets is none of the taps.
inline bool any_outside(
    const uint8_t* offsets,
    int64_t count,
    const Shape& shape,
    const Taps& td,
    const Taps& th,
    const Taps& tw) {
  typedef Vector<uint8_t, kVectorBytes> V;
  uint8_t buffer[kVectorBytes];
  for (int64_t i = 0; i < count; i += kVectorBytes) {
    const uint8_t* from = offsets + (i + kVectorBytes <= count ? i : count - kVectorBytes);
    if (count < kVectorBytes) { // pad with one of them
      __builtin_memset(buffer, offsets[0], sizeof buffer);
      copy_bytes(buffer, offsets, count);
      from = buffer;
    }
    const V v = load_vector<V>(from);
    V named = {};
    for (int64_t a = td.first; a < td.last; ++a) {
      for (int64_t b = th.first; b < th.last; ++b) {
        const int64_t row = (a * shape.h.kernel + b) * shape.w.kernel;
        for (int64_t c = tw.first; c < tw.last; ++c) {
          named |= reinterpret_cast<V>(v == splat<V>(static_cast<uint8_t>(row + c)));
        }
      }
    }
    if (any(~named)) {
      return true;
    }
  }
  return false;
}

// S: Sums<T>, or Moved<T> where no two windows share an element.
template <class T, class S>
struct GatherChannels {
  typedef typename S::V V;

  // A row of windows that holds the row of elements at work.
  struct WindowRow {
    int64_t at; // place of its first window's channel 0 in grad_output and offsets
    int64_t tap; // of the first along the width
  };

  // A window that elements of one phase along the width ask: from their place on, in grad_output and offsets.
  struct Ask {
    int64_t at;
    typename WideTaps<S>::V tap;
  };

  const BackwardParams& p;
  const Shape& shape;
  const bool stream;
  const int64_t channels;
  const TapsByPhase d_taps, h_taps, w_taps;
  const Interior inner; // windows that are whole along the width
  const bool is_apart; // no two windows share an element, and those of one are side by side along the width
  WindowRow rows[256];
  int row_count;
  // In the order of the outputs; those of phase i are [first_ask[i], first_ask[i + 1]).
  Ask asks[256];
  int first_ask[kGatherStride + 1];

  GatherChannels(const BackwardParams& params, const BackwardPlan& plan)
      : p(params),
        shape(params.shape),
        stream(plan.stream),
        channels(params.shape.channels),
        d_taps(params.shape.d, 0),
        h_taps(params.shape.h, 0),
        w_taps(params.shape.w, params.shape.channels),
        inner(interior_of(params.shape.w)),
        is_apart(are_disjoint(params.shape) && params.shape.w.dilation == 1) {}

  const T* grads() const {
    return static_cast<const T*>(p.grad_output);
  }
  const uint8_t* offsets() const {
    return static_cast<const uint8_t*>(p.offsets);
  }

  // One row of grad_input. Returns -1 or the place of a bad offset.
  int64_t row(int64_t unit) {
    const int64_t y = unit % shape.h.input + shape.h.pad;
    const int64_t z = unit / shape.h.input % shape.d.input + shape.d.pad;
    const int64_t bad = list_rows(unit / shape.h.input / shape.d.input, z, y);
    if (bad >= 0) {
      return bad;
    }
    list_asks();
    const Axis& w = shape.w;
    T* to = static_cast<T*>(p.grad_input) + unit * w.input * channels;
    const int64_t reach = (w.kernel - 1) * w.dilation / w.stride; // of the furthest window
    int64_t phase = w.pad % w.stride;
    int64_t j = w.pad / w.stride;
    for (int64_t x = 0; x < w.input; ++x, to += channels) {
      if (is_apart && row_count == 1 && phase == 0 && j < w.output && x + w.kernel <= w.input) {
        stream ? spread<true>(to, j * channels) : spread<false>(to, j * channels);
        x += w.kernel - 1;
        to += (w.kernel - 1) * channels;
        phase = w.kernel - 1;
      } else {
        const bool all_exist = j >= reach && j < w.output;
        const Span taps = all_exist ? Span{first_ask[phase], first_ask[phase + 1]} : w_taps.existing(w, j, phase);
        if (stream) {
          all_exist ? add_up<true, true>(to, taps, j * channels) : add_up<true, false>(to, taps, j * channels);
        } else {
          all_exist ? add_up<false, true>(to, taps, j * channels) : add_up<false, false>(to, taps, j * channels);
        }
      }
      if (++phase == w.stride) {
        phase = 0;
        ++j;
      }
    }
    return -1;
  }

  void list_asks() {
    int count = 0;
    for (int64_t phase = 0; phase < shape.w.stride; ++phase) {
      first_ask[phase] = count;
      for (int i = 0; i < row_count; ++i) {
        for (int t = w_taps.first[phase]; t < w_taps.first[phase + 1]; ++t) {
          asks[count++] = {
              rows[i].at - w_taps.back[t], WideTaps<S>::splat_of(static_cast<uint8_t>(rows[i].tap + w_taps.tap[t]))};
        }
      }
    }
    first_ask[shape.w.stride] = count;
  }

  // `z`, `y`: padded places. Returns -1 or the place of a bad offset: rows of windows are checked from the elements at
  // their first taps, once.
  int64_t list_rows(int64_t n, int64_t z, int64_t y) {
    const Axis& d = shape.d;
    const Axis& h = shape.h;
    const int64_t d_place = z / d.stride;
    const int64_t h_place = y / h.stride;
    const Span d_range = d_taps.existing(d, d_place, z % d.stride);
    const Span h_range = h_taps.existing(h, h_place, y % h.stride);
    row_count = 0;
    for (int64_t i = d_range.begin; i < d_range.end; ++i) {
      const int64_t od = d_place - d_taps.distance[i];
      for (int64_t k = h_range.begin; k < h_range.end; ++k) {
        const int64_t oh = h_place - h_taps.distance[k];
        WindowRow& row = rows[row_count++];
        row.at = ((n * d.output + od) * h.output + oh) * shape.w.output * channels;
        row.tap = (int64_t{d_taps.tap[i]} * h.kernel + h_taps.tap[k]) * shape.w.kernel;
        const Taps td = taps_of(d, od);
        const Taps th = taps_of(h, oh);
        const bool is_first = td.first == d_taps.tap[i] && th.first == h_taps.tap[k];
        const int64_t bad = is_first ? check(row.at, td, th) : -1;
        if (bad >= 0) {
          return bad;
        }
      }
    }
    return -1;
  }

  // The offsets of a row of windows. Returns -1 or the place of a bad one.
  int64_t check(int64_t at, const Taps& td, const Taps& th) const {
    int64_t begin = 0;
    // Taps that depth and height allow are adjacent numbers unless both leave some out.
    if (inner.begin < inner.end && (td.last - td.first == 1 || is_whole(th, shape.h))) {
      const int64_t first = (td.first * shape.h.kernel + th.first) * shape.w.kernel;
      const int64_t range = ((td.last - td.first - 1) * shape.h.kernel + th.last - th.first) * shape.w.kernel;
      const int64_t count = (inner.end - inner.begin) * channels;
      if (!any_outside(offsets() + at + inner.begin * channels, count, first, range)) {
        const int64_t bad = check_windows(at, td, th, 0, inner.begin);
        if (bad >= 0) {
          return bad;
        }
        begin = inner.end;
      }
    }
    return check_windows(at, td, th, begin, shape.w.output);
  }

  // Windows [begin, end) of a row.
  int64_t check_windows(int64_t at, const Taps& td, const Taps& th, int64_t begin, int64_t end) const {
    for (int64_t ow = begin; ow < end; ++ow) {
      const Taps tw = taps_of(shape.w, ow);
      const uint8_t* const from = offsets() + at + ow * channels;
      if (is_empty(tw) || !any_outside(from, channels, shape, td, th, tw)) {
        continue;
      }
      // Places count in contiguous order, where channels come before places.
      const int64_t plane = shape.d.output * shape.h.output * shape.w.output;
      const int64_t place = at / channels + ow;
      for (int64_t c = 0; c < channels; ++c) {
        if (any_outside(from + c, 1, shape, td, th, tw)) {
          return (place / plane * channels + c) * plane + place % plane;
        }
      }
    }
    return -1;
  }

  template <int kVectors>
  struct Vectors {
    V sums[kVectors] = {};

    TORCH_MAXPOOL_INLINE void ask(const T* grads, const uint8_t* offsets, typename WideTaps<S>::V tap) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[v] =
            add_equal<S>(sums[v], S::load(grads + v * S::kLanes), WideTaps<S>::load(offsets + v * S::kLanes), tap);
      }
    }
  };

  // `at`: place of the element's window at distance 0 in a row of windows, and its channel. kAll: `taps` are asks, else
  // those along the width whose windows exist.
  template <int kVectors, bool kStream, bool kAll>
  TORCH_MAXPOOL_INLINE void add_vectors(T* to, const Span& taps, int64_t at) const {
    Vectors<kVectors> vectors;
    if constexpr (kAll) {
      const T* const grads_at = grads() + at;
      const uint8_t* const offsets_at = offsets() + at;
      for (int64_t i = taps.begin; i < taps.end; ++i) {
        vectors.ask(grads_at + asks[i].at, offsets_at + asks[i].at, asks[i].tap);
      }
    } else {
      for (int i = 0; i < row_count; ++i) {
        for (int64_t t = taps.begin; t < taps.end; ++t) {
          const int64_t place = rows[i].at + at - w_taps.back[t];
          vectors.ask(
              grads() + place,
              offsets() + place,
              WideTaps<S>::splat_of(static_cast<uint8_t>(rows[i].tap + w_taps.tap[t])));
        }
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      put_sums<S, kStream>(to + v * S::kLanes, vectors.sums[v]);
    }
  }

  // The elements of one window in this row, which no other has. `at`: of the window's channel 0 in the row of windows.
  template <bool kStream>
  void spread(T* to, int64_t at) const {
    const T* const from = grads() + rows[0].at + at;
    const uint8_t* const names = offsets() + rows[0].at + at;
    int64_t c = 0;
    for (; c + 4 * S::kLanes <= channels; c += 4 * S::kLanes) {
      spread_vectors<4, kStream>(to + c, from + c, names + c);
    }
    for (; c + S::kLanes <= channels; c += S::kLanes) {
      spread_vectors<1, kStream>(to + c, from + c, names + c);
    }
    if (c < channels) { // the last vector overlaps the one before
      c = channels - S::kLanes;
      spread_vectors<1, false>(to + c, from + c, names + c);
    }
  }

  template <int kVectors, bool kStream>
  TORCH_MAXPOOL_INLINE void spread_vectors(T* to, const T* from, const uint8_t* names) const {
    V values[kVectors];
    typename WideTaps<S>::V offset[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      values[v] = S::load(from + v * S::kLanes);
      offset[v] = WideTaps<S>::load(names + v * S::kLanes);
    }
    auto tap = WideTaps<S>::splat_of(static_cast<uint8_t>(rows[0].tap));
    for (int64_t t = shape.w.kernel; t > 0; --t, to += channels) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        put_sums<S, kStream>(to + v * S::kLanes, add_equal<S>(V{}, values[v], offset[v], tap));
      }
      tap += WideTaps<S>::splat_of(1);
    }
  }

  template <bool kStream, bool kAll>
  inline void add_up(T* to, const Span& taps, int64_t at) const {
    int64_t c = 0;
    for (; c + 4 * S::kLanes <= channels; c += 4 * S::kLanes) {
      add_vectors<4, kStream, kAll>(to + c, taps, at + c);
    }
    if (c + 2 * S::kLanes <= channels) {
      add_vectors<2, kStream, kAll>(to + c, taps, at + c);
      c += 2 * S::kLanes;
    }
    if (c + S::kLanes <= channels) {
      add_vectors<1, kStream, kAll>(to + c, taps, at + c);
      c += S::kLanes;
    }
    if (c < channels) { // the last vector overlaps the one before
      c = channels - S::kLanes;
      add_vectors<1, false, kAll>(to + c, taps, at + c);
    }
  }
};

// Units: rows of grad_input, all channels.
template <class T, class S>
int64_t backward_gather_channels(const BackwardParams& p, const BackwardPlan& plan, void*, int64_t begin, int64_t end) {
  GatherChannels<T, S> gather(p, plan);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t bad = gather.row(unit);
    if (bad >= 0) {
      return bad;
    }
  }
  if (plan.stream) {
    stream_fence();
  }
  return -1;
}

// Fills `plan` where the family fits; returns its cost as plan_gather does.
template <class T>
inline int64_t plan_gather_channels(const BackwardParams& p, BackwardPlan& plan) {
  const Shape& shape = p.shape;
  const bool moved = are_disjoint(shape) && shape.channels >= Moved<T>::kLanes;
  const int64_t lanes = moved ? Moved<T>::kLanes : Sums<T>::kLanes;
  const auto fits = [](const Axis& axis) { return axis.stride <= kGatherStride && axis.dilation <= INT32_MAX / 256; };
  if (p.wide_offsets || shape.channels < lanes || !fits(shape.d) || !fits(shape.h) || !fits(shape.w)) {
    return -1;
  }
  plan.family = "gather_channels";
  plan.run = moved ? backward_gather_channels<T, Moved<T>> : backward_gather_channels<T, Sums<T>>;
  plan.units = shape.batch * shape.d.input * shape.h.input;
  const int64_t row_bytes = shape.channels * static_cast<int64_t>(sizeof(T));
  plan.stream = streams_rows(p, row_bytes, plan.units * shape.w.input * row_bytes);
  const int64_t vectors = (shape.channels + lanes - 1) / lanes;
  const int64_t windows = shape.batch * shape.d.output * shape.h.output * shape.w.output;
  // Measured on Granite Rapids (AVX-512, baseline) and Zen 3.
  constexpr int64_t kTapCost = kVectorBytes == 64 ? 44
      : kVectorBytes == 32                        ? 43
      : sizeof(T) < sizeof(SumOf<T>)              ? 70
                                                  : 42;
  constexpr int64_t kWindowCost = kVectorBytes == 64 ? 40 : 83;
  constexpr int64_t kRowCost = kVectorBytes == 64 ? 300 : 440;
  constexpr int64_t kPlaceCost = kVectorBytes == 64 ? 45 : 28;
  constexpr int64_t kVectorCost = kVectorBytes > 16 ? 5 : 2;
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  return 1800 + windows * taps * (vectors * kTapCost + kWindowCost) / 10 +
      plan.units * (kRowCost + shape.w.input * (kPlaceCost + vectors * kVectorCost));
}

} // namespace
