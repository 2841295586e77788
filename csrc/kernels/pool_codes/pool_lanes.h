// pool_lanes.h: elements, taps and records of a tile of neighbouring windows, as the CPU kernels of
// pooling and unpooling hold them. Compiled once an instruction set (see foreach_isa.h): the loops are
// written for the compiler to vectorize.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Windows whose taps are held at once; a multiple of kCodesPerWord. Fits the first-level cache.
constexpr int kTile = 256;

// Elements as numbers of their own width: 16-bit types are compared as integers, without conversion.
template <typename T>
struct Element {
  using Raw = T;
  using Lane = std::conditional_t<sizeof(T) == 8, uint64_t,
                                  std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
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

// Sixteen codes are a 32-bit word (of a little-endian machine, as all we run on are): one shift a lane.
constexpr int kCodesPerWord = 16;

// Four codes to a byte, n of them from taps[0]; the unused bits of the last byte are 0.
template <typename Lane>
void pack_codes2(const Lane* __restrict taps, int n, uint8_t* __restrict codes) {
  int first = 0;
  for (; first + kCodesPerWord <= n; first += kCodesPerWord) {
    uint32_t word = 0;
    for (int k = 0; k < kCodesPerWord; ++k) {
      word |= static_cast<uint32_t>(taps[first + k]) << (2 * k);
    }
    std::memcpy(codes + first / kCodesPerByte, &word, sizeof word);
  }
  if (first < n) {
    uint32_t word = 0;
    for (int k = 0; first + k < n; ++k) {
      word |= static_cast<uint32_t>(taps[first + k]) << (2 * k);
    }
    std::memcpy(codes + first / kCodesPerByte, &word,
                static_cast<size_t>(ceil_div(n - first, kCodesPerByte)));
  }
}

// The inverse. Writes whole words: up to 15 taps beyond the n-th.
template <typename Lane>
void unpack_codes2(const uint8_t* __restrict codes, int n, Lane* __restrict taps) {
  for (int first = 0; first < n; first += kCodesPerWord) {
    uint32_t word = 0;
    const uint8_t* bytes = codes + first / kCodesPerByte;
    if (first + kCodesPerWord <= n) {
      std::memcpy(&word, bytes, sizeof word);
    } else {
      std::memcpy(&word, bytes, static_cast<size_t>(ceil_div(n - first, kCodesPerByte)));
    }
    for (int k = 0; k < kCodesPerWord; ++k) {
      taps[first + k] = static_cast<Lane>((word >> (2 * k)) & 3);
    }
  }
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
