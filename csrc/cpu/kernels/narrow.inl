// Forward, family "narrow": windows for strips.inl whose rows of the output are shorter than its narrowest vectors. Planes
// are copied into scratch, one below the other, with rows long enough for one vector of windows. What they lack are
// elements that never win before one of the plane's, and so are the rows of their padding. That is pooled as one tall
// plane, and what belongs to the planes is copied out.

namespace {

inline constexpr int64_t kNarrowBytes = 16 * 1024; // of planes that are pooled together

// Elements of the input that one vector of windows reads of a row.
template <class L>
inline int64_t wide_row(const Axis& w) {
  return (L::kLanes - 1) * w.stride - w.pad + w.kernel;
}

// How planes lie in scratch.
template <class L>
struct NarrowBlock {
  typedef typename L::Element T;
  static constexpr int kLanes = L::kLanes;

  int64_t pitch; // of a row
  int64_t copied; // rows of a plane that windows reach
  int64_t slots; // rows of the output from a plane to the next: no window of one reaches rows of another
  int64_t planes;

  explicit NarrowBlock(const ForwardParams& p) {
    const Axis& h = p.shape.h;
    const Axis& w = p.shape.w;
    pitch = rounded_up(wide_row<L>(w), kLanes) * kLanes;
    const int64_t reached = (h.output - 1) * h.stride + h.kernel - h.pad;
    copied = reached < h.input ? reached : h.input;
    const int64_t room = reached > h.pad + copied ? reached : h.pad + copied;
    slots = rounded_up(room, h.stride);
    const int64_t bytes = slots * h.stride * pitch * static_cast<int64_t>(sizeof(T));
    const int64_t all = p.shape.batch * p.shape.channels * p.shape.d.output;
    planes = bytes < kNarrowBytes ? kNarrowBytes / bytes : 1;
    planes = planes < all ? planes : all;
  }
  // Rows of the input and of the output.
  int64_t input_rows(const Axis& h) const {
    return (planes * slots - 1) * h.stride + h.kernel;
  }
  int64_t output_rows() const {
    return planes * slots;
  }
  int64_t input_bytes(const Axis& h) const {
    return aligned(input_rows(h) * pitch * static_cast<int64_t>(sizeof(T)));
  }
  int64_t output_bytes() const {
    return aligned(output_rows() * kLanes * static_cast<int64_t>(sizeof(T)));
  }
  int64_t scratch_bytes(const Axis& h) const {
    return input_bytes(h) + output_bytes() + aligned(output_rows() * kLanes);
  }
};

// The windows of the tall plane.
template <class L>
inline ForwardParams widened(const ForwardParams& p, const NarrowBlock<L>& block) {
  ForwardParams wide = p;
  Axis& w = wide.shape.w;
  w.output = L::kLanes;
  w.input = wide_row<L>(w);
  Axis& h = wide.shape.h;
  h.pad = 0;
  h.input = block.input_rows(h);
  h.output = block.output_rows();
  return wide;
}

template <class L>
class NarrowPlanes {
 public:
  typedef typename L::Element T;
  static constexpr int kLanes = L::kLanes;

  NarrowPlanes(const ForwardParams& params, const ForwardPlan& plan, void* scratch)
      : p_(params),
        plan_(plan),
        is_dense_(is_dense_input(params) && params.shape.d.input == params.shape.d.output),
        is_dense_output_(is_dense_output(params)),
        block_(params),
        wide_(widened<L>(params, block_)),
        input_(static_cast<T*>(scratch)),
        output_(reinterpret_cast<T*>(static_cast<char*>(scratch) + block_.input_bytes(params.shape.h))),
        offsets_(reinterpret_cast<uint8_t*>(output_) + block_.output_bytes()),
        last_((params.shape.w.input - 1) / kLanes * kLanes) {
    const T element = Type<T>(params).lowest();
    BitsOf<T> bits;
    __builtin_memcpy(&bits, &element, sizeof bits);
    lowest_ = splat<Bits>(bits);
    for (int i = 0; i < kLanes; ++i) {
      is_beyond_[i] = static_cast<BitsOf<T>>(last_ + i < params.shape.w.input ? 0 : ~0);
    }
    for (int64_t i = 0; i < block_.input_rows(params.shape.h) * block_.pitch; i += kLanes) {
      store_vector(input_ + i, lowest_);
    }
  }

  // `count` planes from `first` on, each given by its row 0.
  void pool(const Row& first, int64_t count) {
    Shape planes = p_.shape;
    planes.h.output = 1;
    const int64_t slots = block_.slots;
    const int64_t in_plane = p_.shape.h.input * p_.shape.w.input;
    const int64_t out_plane = p_.shape.h.output * p_.shape.w.output;
    Row row = first;
    for (int64_t i = 0; i < count; ++i, advance(planes, row)) {
      const PlaneView plane = plane_view<T>(p_, row);
      const int64_t to = (i * slots * p_.shape.h.stride + p_.shape.h.pad) * block_.pitch;
      const int64_t readable = (is_dense_ ? count - i : 1) * in_plane;
      copy_in(static_cast<const T*>(plane.input), plane.input_pitch, readable, input_ + to);
    }
    const bool is_pooled = pool_with(plan_.pool) || pool_with(plan_.pool_exact);
    row = first;
    for (int64_t i = 0; i < count; ++i, advance(planes, row)) {
      if (!is_pooled) {
        for (int64_t h = 0; h < p_.shape.h.output; ++h) {
          forward_row<T>(p_, {row.n, row.c, row.d, h}, 0, p_.shape.w.output);
        }
        continue;
      }
      const PlaneView plane = plane_view<T>(p_, row);
      const int64_t writable = (is_dense_output_ ? count - i : 1) * out_plane;
      copy_out(output_ + i * slots * kLanes, writable, static_cast<T*>(plane.output));
      if (plane.offsets) {
        name_first_rows(offsets_ + i * slots * kLanes);
        copy_out(offsets_ + i * slots * kLanes, writable, plane.offsets);
      }
    }
  }

 private:
  template <class E>
  using BitsOf = typename UnsignedOf<sizeof(E)>::type;
  typedef Vector<BitsOf<T>, kLanes> Bits;
  static constexpr int kMostVectors = 4; // of a row: strides are 1 or 2, kernels 2 or 3

  // False where it must be done again, exactly, or there is no such way.
  bool pool_with(PoolPlane pool) const {
    PlaneView view = {};
    view.input = input_;
    view.input_pitch = block_.pitch;
    view.last_slice = 1;
    view.output = output_;
    view.offsets = p_.offsets ? offsets_ : nullptr;
    view.output_pitch = kLanes;
    return pool && pool(wide_, view, false, 0, wide_.shape.h.output);
  }

  // Vectors may pass the end of a row: `left` elements may be read from `from` on, if rows are dense.
  void copy_in(const T* from, int64_t from_pitch, int64_t left, T* to) const {
    const int64_t width = p_.shape.w.input;
    const int64_t pitch = block_.pitch;
    const int64_t last = last_;
    const Bits lowest = lowest_;
    const Bits is_beyond = is_beyond_;
    const auto copy = [&](const T* row) __attribute__((always_inline)) {
      fetch(row + kFetchedAhead / sizeof(T));
      for (int64_t x = 0; x < last; x += kLanes) {
        store_vector(to + x, load_vector<Bits>(row + x));
      }
      const Bits bits = load_vector<Bits>(row + last);
      store_vector(to + last, (bits & ~is_beyond) | (lowest & is_beyond));
    };
    for (int64_t r = 0; r < block_.copied; ++r, to += pitch, from += from_pitch, left -= width) {
      if (from_pitch == width && left >= last + kLanes) {
        copy(from);
      } else {
        T row[kMostVectors * kLanes] = {};
        copy_bytes(row, from, width * static_cast<int64_t>(sizeof(T)));
        copy(row);
      }
    }
  }

  // Windows of nothing but the lowest value name their first element: not one in the padding above.
  void name_first_rows(uint8_t* offsets) const {
    typedef Vector<uint8_t, kLanes> V;
    const Axis& h = p_.shape.h;
    for (int64_t r = 0; r * h.stride < h.pad; ++r) {
      const V before = splat<V>(static_cast<uint8_t>((h.pad - r * h.stride) * p_.shape.w.kernel));
      const V taps = load_vector<V>(offsets + r * kLanes);
      const auto is_above = taps < before;
      store_vector(offsets + r * kLanes, is_above ? taps + before : taps);
    }
  }

  // Rows of kLanes elements to those of a plane, one after the other: a vector may pass the end of its row, and of the
  // plane, where what it writes is written later. `left`: elements that are.
  template <class E>
  void copy_out(const E* from, int64_t left, E* to) const {
    typedef Vector<BitsOf<E>, kLanes> V;
    const int64_t width = p_.shape.w.output;
    for (int64_t r = 0; r < p_.shape.h.output; ++r, left -= width, from += kLanes, to += width) {
      if (left >= kLanes) {
        store_vector(to, load_vector<V>(from));
      } else {
        copy_bytes(to, from, width * static_cast<int64_t>(sizeof(E)));
      }
    }
  }

  const ForwardParams& p_;
  const ForwardPlan& plan_;
  const bool is_dense_, is_dense_output_; // planes follow each other
  const NarrowBlock<L> block_;
  const ForwardParams wide_;
  T* const input_;
  T* const output_;
  uint8_t* const offsets_;
  const int64_t last_; // place of the last vector of a plane's rows
  Bits lowest_;
  Bits is_beyond_; // in that vector
};

// Units: planes that are pooled together.
template <class L>
void forward_narrow(const ForwardParams& p, const ForwardPlan& plan, void* scratch, int64_t begin, int64_t end) {
  NarrowPlanes<L> narrow(p, plan, scratch);
  Shape planes = p.shape;
  planes.h.output = 1;
  const int64_t all = p.shape.batch * p.shape.channels * p.shape.d.output;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * plan.group;
    narrow.pool(row_of(planes, first), first + plan.group < all ? plan.group : all - first);
  }
}

// Fills `plan` where the family fits.
template <class L>
inline bool plan_narrow_for(const ForwardParams& p, ForwardPlan& plan) {
  typedef typename L::Element T;
  const Shape& shape = p.shape;
  constexpr int64_t kMostRows = 256;
  if (!suit_strips(p) || shape.h.kernel <= shape.h.stride || shape.d.kernel > 1 || shape.w.output > L::kLanes ||
      shape.w.output * 4 <= L::kLanes || shape.h.pad >= shape.h.kernel || shape.h.output > kMostRows ||
      p.output_strides.h != shape.w.output) {
    return false;
  }
  const NarrowBlock<L> block(p);
  const ForwardParams wide = widened<L>(p, block);
  const PoolPlane pool = find_pool<L>(wide);
  if (pool == nullptr) {
    return false;
  }
  plan = plan_windows<T>(p);
  plan.family = "narrow";
  plan.run = forward_narrow<L>;
  plan.pool = pool;
  if constexpr (kHasExact<L>) {
    plan.pool_exact = find_pool<typename Lanes<T, 16>::Exact>(wide);
  }
  plan.group = block.planes;
  plan.units = rounded_up(shape.batch * shape.channels * shape.d.output, block.planes);
  plan.scratch_bytes = block.scratch_bytes(shape.h);
  plan.cost = 2300 + cost_of_rows<T>(shape, shape.h.kernel * shape.w.kernel * 3 / 2, 60, 17);
  return true;
}
template <class T>
inline bool plan_narrow(const ForwardParams& p, ForwardPlan& plan) {
  typedef Lanes<T, narrowest_pool<T>()> L;
  return p.shape.w.output < L::kLanes && plan_narrow_for<L>(p, plan);
}

} // namespace
