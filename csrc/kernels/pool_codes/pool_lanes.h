// pool_lanes.h: elements, taps and records of a tile of neighbouring windows, as the CPU kernels of
// pooling and unpooling hold them. Compiled once an instruction set (see foreach_isa.h): the loops are
// written for the compiler to vectorize.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Windows whose taps are held at once; a multiple of kCodesPerByte. Fits the first-level cache.
constexpr int kTile = 256;

// Elements as numbers of their own width: 16-bit types are compared as integers, without conversion.
template <typename T>
struct Element {
  using Raw = T;
  using Lane = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static bool takes(Raw value, Raw best) { return (value > best) | (value != value); }
};

template <uint16_t kInfinity>
struct Element16 {
  using Raw = uint16_t;
  using Lane = uint16_t;
  // Orders as the numbers do, -0 and +0 equal.
  static int16_t key(Raw bits) {
    const int16_t magnitude = static_cast<int16_t>(bits & 0x7fff);
    return static_cast<int16_t>(bits & 0x8000 ? -magnitude : magnitude);
  }
  static bool is_nan(Raw bits) { return (bits & 0x7fff) > kInfinity; }
  static bool takes(Raw value, Raw best) {
    return is_nan(value) | ((key(value) > key(best)) & !is_nan(best));
  }
};
template <>
struct Element<Half> : Element16<0x7c00> {};
template <>
struct Element<BFloat16> : Element16<0x7f80> {};

template <typename T>
using raw_t = typename Element<T>::Raw;

// Offsets of each tap from its window's origin, for windows small enough for a table.
struct TapOffsets {
  int64_t at[kMaxCodedTaps + 1];

  TapOffsets(const Window2d& window, int64_t width) {
    const int taps = window.taps() <= kMaxCodedTaps ? window.taps() : 0;
    for (int tap = 0; tap < taps; ++tap) {
      at[tap] = int64_t{tap / window.kernel_w} * window.dilation_h * width +
                int64_t{tap % window.kernel_w} * window.dilation_w;
    }
  }
};

// Four codes to a byte, n of them from taps[0]; the unused bits of the last byte are 0.
template <typename Lane>
void pack_codes2(const Lane* taps, int n, uint8_t* codes) {
  int i = 0;
  for (; i + 3 < n; i += 4) {
    codes[i / 4] = static_cast<uint8_t>(taps[i] | taps[i + 1] << 2 | taps[i + 2] << 4 |
                                        taps[i + 3] << 6);
  }
  if (i < n) {
    uint8_t byte = 0;
    for (int k = 0; i + k < n; ++k) byte |= static_cast<uint8_t>(taps[i + k] << (2 * k));
    codes[i / 4] = byte;
  }
}

template <typename Lane>
void unpack_codes2(const uint8_t* codes, int n, Lane* taps) {
  int i = 0;
  for (; i + 3 < n; i += 4) {
    const Lane byte = codes[i / 4];
    taps[i] = byte & 3;
    taps[i + 1] = (byte >> 2) & 3;
    taps[i + 2] = (byte >> 4) & 3;
    taps[i + 3] = byte >> 6;
  }
  for (; i < n; ++i) taps[i] = (codes[i / 4] >> (2 * (i % 4))) & 3;
}

// A run: a row of windows (inner = 1) or the channels of one window.
struct Run {
  int64_t number;  // in memory order
  int64_t length;
  int64_t oh, ow;   // of its first window
  bool along_row;
};

inline Run row_run(const PoolShape& s, int64_t o, int64_t oh) {
  return {o * s.pooled_height + oh, s.pooled_width, oh, 0, true};
}

inline Run channel_run(const PoolShape& s, int64_t o, int64_t oh, int64_t ow) {
  return {(o * s.pooled_height + oh) * s.pooled_width + ow, s.inner, oh, ow, false};
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
