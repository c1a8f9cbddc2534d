// Plane indices from offsets of any width, and the elements that offsets name.

namespace {

template <class T>
inline void copy_element(void* to, int64_t at, const void* from, int64_t index) {
  static_cast<T*>(to)[at] = index < 0 ? T(0) : static_cast<const T*>(from)[index];
}

template <class Offset>
int64_t places_of(const PlacesParams& p, int64_t begin, int64_t end) {
  const Shape& shape = p.shape;
  const Strides& in = p.input_strides;
  const Strides& out = p.output_strides;
  for (int64_t unit = begin; unit < end; ++unit) {
    const Row row = row_of(shape, unit);
    const Taps td = taps_of(shape.d, row.d);
    const Taps th = taps_of(shape.h, row.h);
    for (int64_t o = 0; o < shape.w.output; ++o) {
      const int64_t at = output_place(out, row) + o * out.w;
      const int64_t offset = static_cast<const volatile Offset*>(p.offsets)[at];
      Place place;
      const int64_t found = resolve(shape, td, th, taps_of(shape.w, o), offset, place);
      if (found == kBadOffset) {
        return unit * shape.w.output + o;
      }
      if (p.indices) {
        p.indices[at] = found < 0 ? kNoElement : (place.d * shape.h.input + place.h) * shape.w.input + place.w;
      }
      if (p.gathered) {
        const int64_t index =
            found < 0 ? -1 : row.n * in.n + row.c * in.c + place.d * in.d + place.h * in.h + place.w * in.w;
        switch (p.element_bytes) {
          case 1:
            copy_element<uint8_t>(p.gathered, at, p.input, index);
            break;
          case 2:
            copy_element<uint16_t>(p.gathered, at, p.input, index);
            break;
          case 4:
            copy_element<uint32_t>(p.gathered, at, p.input, index);
            break;
          default:
            copy_element<uint64_t>(p.gathered, at, p.input, index);
        }
      }
    }
  }
  return -1;
}

} // namespace
