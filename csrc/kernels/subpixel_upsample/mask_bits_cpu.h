// mask_bits_cpu.h: the ReLU's mask where elements do not go by the vector. Compiled once for each
// instruction set, after common/lanes.h.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

inline bool test_bit(const uint8_t* bits, int64_t bit) { return (bits[bit / 8] >> (bit % 8)) & 1; }

// Elements in the mask's own order: a row of a channels_last tensor.
template <typename T>
void write_mask(const T* elements, int64_t count, uint8_t* mask) {
  constexpr int64_t kFlags = 512;
  uint8_t flags[kFlags];
  for (int64_t first = 0; first < count; first += kFlags) {
    const int64_t n = std::min(kFlags, count - first);
    for (int64_t k = 0; k < n; ++k) flags[k] = passes_gradient(to_float(elements[first + k]));
    for (int64_t k = n; k % 8 != 0; ++k) flags[k] = 0;
    for (int64_t k = 0; k < n; k += 8) {
      uint64_t eight;
      std::memcpy(&eight, flags + k, 8);
      // Byte i, which is 0 or 1, to bit 56 + i.
      mask[(first + k) / 8] = static_cast<uint8_t>((eight * 0x0102040810204080u) >> 56);
    }
  }
}

template <typename T>
void apply_mask(T* elements, int64_t count, const uint8_t* mask) {
  for (int64_t k = 0; k < count; ++k) {
    if (!test_bit(mask, k)) elements[k] = T{};
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
