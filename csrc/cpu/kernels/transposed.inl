// Forward, family "transposed": small planes. As many as fill vectors are copied into scratch as channels_last, where
// family "channels" pools them, and the result is copied back.

namespace {

inline constexpr int64_t kTransposedBytes = 48 * 1024; // wanted size of planes in scratch

// The planes of a unit in scratch: an element of all planes, then the next. Planes repeat the last one up to `width`.
template <class T>
struct Transposed {
  static constexpr int kSide = Square<T>::kSide;
  int64_t inputs, outputs; // elements of a plane
  int64_t output_at, offsets_at, lists_at, total; // in bytes of scratch

  Transposed(const Shape& shape, int64_t width) {
    inputs = shape.d.input * shape.h.input * shape.w.input;
    outputs = shape.d.output * shape.h.output * shape.w.output;
    constexpr int64_t kBytes = sizeof(T);
    output_at = aligned(inputs * width * kBytes);
    offsets_at = output_at + aligned((outputs + kSide) * width * kBytes);
    lists_at = offsets_at + aligned((outputs + 16) * width + 16);
    total = lists_at + TapList::scratch_bytes(shape);
  }
};

// `count` elements, `step` apart, of kSide planes, from those `at`; in `to`, elements lie `width` apart.
template <class T>
inline void copy_in(
    const T* const (&planes)[Square<T>::kSide],
    int64_t at,
    int64_t count,
    int64_t step,
    T* to,
    int64_t width) {
  constexpr int64_t kSide = Square<T>::kSide;
  if (step != 1 || count < kSide) {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t u = 0; u < kSide; ++u) {
        to[i * width + u] = planes[u][at + i * step];
      }
    }
    return;
  }
  for (int64_t i = 0; i < count; i += kSide) {
    i = i + kSide <= count ? i : count - kSide; // the last square overlaps the one before
    Square<T> square;
    for (int64_t u = 0; u < kSide; ++u) {
      square.row[u] = load_vector<typename Square<T>::V>(planes[u] + at + i);
    }
    square.transpose();
    for (int64_t u = 0; u < kSide; ++u) {
      store_vector(to + (i + u) * width, square.row[u]);
    }
  }
}

// The way back: `count` elements, all there are, of kSide planes or `most`, if those are fewer.
template <class T>
inline void copy_out(const T* from, int64_t width, int64_t count, T* const (&planes)[Square<T>::kSide], int64_t most) {
  constexpr int64_t kSide = Square<T>::kSide;
  const int64_t used = most < kSide ? most : kSide;
  if (count <= kSide / 4) {
    for (int64_t u = 0; u < used; ++u) {
      for (int64_t i = 0; i < count; ++i) {
        planes[u][i] = from[i * width + u];
      }
    }
    return;
  }
  for (int64_t i = 0; i < count; i += kSide) {
    i = i + kSide <= count || count < kSide ? i : count - kSide;
    Square<T> square;
    for (int64_t u = 0; u < kSide; ++u) {
      square.row[u] = load_vector<typename Square<T>::V>(from + (i + u) * width);
    }
    square.transpose();
    for (int64_t u = 0; u < used; ++u) {
      if (count >= kSide) {
        store_vector(planes[u] + i, square.row[u]);
      } else {
        copy_bytes(planes[u], &square.row[u], count * static_cast<int64_t>(sizeof(T)));
      }
    }
  }
}

template <class L, bool kIndexed>
class TransposedPlanes {
 public:
  typedef typename L::Element T;

  TransposedPlanes(const ForwardParams& p, const ForwardPlan& plan, void* scratch)
      : p_(p), plan_(plan), width_(plan.group), at_(static_cast<char*>(scratch)), places_(p.shape, width_), wide_(p) {
    const Shape& shape = p.shape;
    wide_.shape.batch = 1;
    wide_.shape.channels = width_;
    wide_.input = at_;
    wide_.input_strides = {0, 1, shape.h.input * shape.w.input * width_, shape.w.input * width_, width_};
    wide_.output = at_ + places_.output_at;
    wide_.offsets = kIndexed ? at_ + places_.offsets_at : nullptr;
    wide_.output_strides = {0, 1, shape.h.output * shape.w.output * width_, shape.w.output * width_, width_};
  }

  // `count` planes from plane `first` on.
  void pool(int64_t first, int64_t count) const {
    const Shape& shape = p_.shape;
    for (int64_t u = 0; u < width_; u += Square<T>::kSide) {
      collect(first, u, count);
    }
    forward_channels<L, kIndexed, uint8_t>(wide_, plan_, at_ + places_.lists_at, 0, shape.d.output * shape.h.output);
    scatter<T>(wide_.output, p_.output, first, count);
    if constexpr (kIndexed) {
      scatter<uint8_t>(wide_.offsets, p_.offsets, first, count);
    }
  }

 private:
  int64_t place(int64_t plane, const Strides& strides) const {
    const int64_t n = plane / p_.shape.channels;
    return n * strides.n + (plane - n * p_.shape.channels) * strides.c;
  }

  // Of planes `u` and on of those from `first` on; the last of `count` stands for those beyond.
  void collect(int64_t first, int64_t u, int64_t count) const {
    constexpr int64_t kSide = Square<T>::kSide;
    const Shape& shape = p_.shape;
    const Strides& in = p_.input_strides;
    const T* planes[kSide];
    for (int64_t s = 0; s < kSide; ++s) {
      planes[s] = static_cast<const T*>(p_.input) + place(first + (u + s < count ? u + s : count - 1), in);
    }
    T* to = reinterpret_cast<T*>(at_) + u;
    if (is_dense_plane(in, shape.w.input, shape.h.input, shape.d.input)) {
      copy_in<T>(planes, 0, places_.inputs, 1, to, width_);
      return;
    }
    for (int64_t d = 0; d < shape.d.input; ++d) {
      for (int64_t h = 0; h < shape.h.input; ++h, to += shape.w.input * width_) {
        copy_in<T>(planes, d * in.d + h * in.h, shape.w.input, in.w, to, width_);
      }
    }
  }

  template <class E>
  void scatter(const void* from, void* output, int64_t first, int64_t count) const {
    constexpr int64_t kSide = Square<E>::kSide;
    for (int64_t u = 0; u < count; u += kSide) {
      E* planes[kSide];
      for (int64_t s = 0; s < kSide && u + s < count; ++s) {
        planes[s] = static_cast<E*>(output) + place(first + u + s, p_.output_strides);
      }
      copy_out<E>(static_cast<const E*>(from) + u, width_, places_.outputs, planes, count - u);
    }
  }

  const ForwardParams& p_;
  const ForwardPlan& plan_;
  const int64_t width_;
  char* const at_; // scratch
  const Transposed<T> places_;
  ForwardParams wide_; // of the planes in scratch
};

// Units: planes that are pooled together.
template <class L, bool kIndexed>
void forward_transposed(const ForwardParams& p, const ForwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  const TransposedPlanes<L, kIndexed> planes(p, plan, scratch);
  const int64_t all = p.shape.batch * p.shape.channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * plan.group;
    planes.pool(first, all - first < plan.group ? all - first : plan.group);
  }
}

// Fills `plan`, and its cost, in tenths of nanoseconds (measured on Granite Rapids).
template <class L>
inline void plan_transposed_for(const ForwardParams& p, int64_t group, ForwardPlan& plan) {
  typedef typename L::Element T;
  const Shape& shape = p.shape;
  const Transposed<T> places(shape, group);
  plan = {};
  plan.family = "transposed";
  plan.run = p.offsets ? forward_transposed<L, true> : forward_transposed<L, false>;
  plan.group = group;
  plan.units = rounded_up(shape.batch * shape.channels, group);
  plan.scratch_bytes = places.total;
  constexpr int64_t kUnitCost = 2500;
  constexpr int64_t kListCost = 6; // of a tap
  constexpr int64_t kTapCost = sizeof(T) == 2 ? 8 : 3; // of a vector
  const int64_t taps = shape.d.kernel * shape.h.kernel * shape.w.kernel;
  const int64_t bytes = (places.inputs + places.outputs) * group * static_cast<int64_t>(sizeof(T));
  plan.cost = plan.units *
      (kUnitCost + bytes * 2 / 5 + (p.offsets ? places.outputs * group * 5 / 2 : 0) +
       places.outputs * taps * (kListCost + rounded_up(group, L::kLanes) * kTapCost));
}

// Fills `plan` where the family fits.
template <class T>
inline bool plan_transposed(const ForwardParams& p, ForwardPlan& plan) {
  const Shape& shape = p.shape;
  constexpr int64_t kMostTaps = 256;
  constexpr int64_t kSide = Square<T>::kSide;
  constexpr int64_t kLanes = Lanes<T>::kLanes;
  constexpr int64_t kSize = sizeof(T);
  const int64_t elements = shape.d.input * shape.h.input * shape.w.input;
  if (elements > 8 * kTransposedBytes / (kLanes * kSize) || shape.d.kernel > kMostTaps || shape.h.kernel > kMostTaps ||
      shape.w.kernel > kMostTaps || shape.d.kernel * shape.h.kernel * shape.w.kernel > kMostTaps ||
      !is_dense_plane(p.output_strides, shape.w.output, shape.h.output, shape.d.output)) {
    return false;
  }
  const int64_t planes = shape.batch * shape.channels;
  const int64_t fit = kTransposedBytes / (elements * kSize) / kLanes * kLanes;
  const int64_t most = fit < kLanes ? kLanes : fit < 4 * kLanes ? fit : 4 * kLanes;
  const int64_t units = rounded_up(planes, most);
  const int64_t group = rounded_up(rounded_up(planes, units), kSide) * kSide;
  if (group >= kLanes) {
    plan_transposed_for<Lanes<T>>(p, group, plan);
  } else {
    plan_transposed_for<Lanes<T, 16>>(p, group, plan);
  }
  return true;
}

} // namespace
