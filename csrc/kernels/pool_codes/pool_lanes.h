// pool_lanes.h: vectors of windows or channels at a map's edges, and the tiles of taps that stand
// between them and the records. Compiled once an instruction set (see foreach_isa.h), after
// common/lanes.h.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Windows whose taps are held at once. Fits the first-level cache; a multiple of what a vector of
// packed codes holds.
constexpr int kTile = 256;

// A tap number no window has: nothing seen. As a byte it is kEmptyCode.
template <typename Number>
constexpr Number kNoTap = static_cast<Number>(-1);

// ---- loads that may reach beyond a tensor's ends: a row's neighbours in memory are read along
// with it and masked off later, but what lies outside the tensor must not be touched

template <typename T>
struct Elements {
  const T* data;
  int64_t count;

  SEGFAST_LANES bool holds(int64_t first, int64_t n) const {
    return first >= 0 && first + n <= count;
  }
};

// Whether each of kLanes<double> indices is that of one of `count` elements from `first` on.
SEGFAST_LANES bool are_inside(const int64_t* indices, int64_t first, int64_t count) {
  const auto from = load_vector<bits_t<double>>(indices) - static_cast<uint64_t>(first);
  return !any_lane((bits_t<float>)(from >= static_cast<uint64_t>(count)));
}

// Elements [first, first + n) that exist, the rest 0.
template <typename T>
__attribute__((noinline)) void copy_existing(const Elements<T>& x, int64_t first, int n, T* to) {
  const int64_t low = std::max<int64_t>(first, 0), high = std::min(first + n, x.count);
  std::memset(to, 0, static_cast<size_t>(n) * sizeof(T));
  if (low < high) {
    std::memcpy(to + (low - first), x.data + low, static_cast<size_t>(high - low) * sizeof(T));
  }
}

// kExist: the caller knows that all of them exist. It matters where a loop keeps vectors in
// registers, which the call would cost it.
template <bool kExist, typename T>
SEGFAST_LANES lanes_t<T> load_lanes_if(const Elements<T>& x, int64_t first) {
  if (kExist || x.holds(first, kLanes<T>)) return load_lanes(x.data + first);
  T existing[kLanes<T>];
  copy_existing(x, first, kLanes<T>, existing);
  return load_lanes(existing);
}

template <bool kExist, typename T>
SEGFAST_LANES Pair<T> load_pairs_if(const Elements<T>& x, int64_t first) {
  if (kExist || x.holds(first, 2 * kLanes<T>)) return load_pairs(x.data + first);
  T existing[2 * kLanes<T>];
  copy_existing(x, first, 2 * kLanes<T>, existing);
  return load_pairs(existing);
}

// The first n lanes.
template <typename T>
SEGFAST_LANES void store_some_words(T* address, bits_t<T> words, int n) {
  if (n >= kLanes<T>) return store_words(address, words);
  T all[kLanes<T>];
  store_words(all, words);
  std::memcpy(address, all, static_cast<size_t>(n) * sizeof(T));
}

template <typename T, int... kIndex>
SEGFAST_LANES bits_t<T> count_lanes(std::integer_sequence<int, kIndex...>) {
  return bits_t<T>{static_cast<word_t<T>>(kIndex)...};
}

// first, first + step, first + 2 step, ... modulo the word.
template <typename T>
SEGFAST_LANES bits_t<T> lane_positions(int64_t first, int64_t step) {
  return count_lanes<T>(lane_numbers<bits_t<T>>{}) * static_cast<word_t<T>>(step) +
         static_cast<word_t<T>>(first);
}

// ---- tiles of taps, a byte or a word each

template <typename T>
SEGFAST_LANES void store_taps(uint8_t* taps, bits_t<T> numbers) {
  narrow_to_bytes(taps, numbers);
}
template <typename T>
SEGFAST_LANES void store_taps(uint32_t* taps, bits_t<T> numbers) {
  if constexpr (sizeof(word_t<T>) == sizeof(uint32_t)) {
    store_vector(taps, numbers);
  } else {
    for (int k = 0; k < kLanes<T>; ++k) taps[k] = static_cast<uint32_t>(numbers[k]);
  }
}

template <typename T>
SEGFAST_LANES bits_t<T> load_taps(const uint8_t* taps) {
  return widen_bytes<bits_t<T>>(taps);
}

// Four codes are the bytes of one 32-bit lane (of a little-endian machine, as all we run on are).
constexpr int kCodeVector = kLaneBytes;  // codes in a vector of such lanes
constexpr int kCodeBytes = kCodeVector / kCodesPerByte;
using CodeWords = LaneTypes<float>::Bits;

// n <= 16 bytes, without a call.
inline void copy_few(uint8_t* __restrict to, const uint8_t* __restrict from, int n) {
  if (n >= 8) {
    const auto low = load_vector<uint64_t>(from), high = load_vector<uint64_t>(from + n - 8);
    store_vector(to, low);
    store_vector(to + n - 8, high);
  } else if (n >= 4) {
    const auto low = load_vector<uint32_t>(from), high = load_vector<uint32_t>(from + n - 4);
    store_vector(to, low);
    store_vector(to + n - 4, high);
  } else if (n >= 2) {  // a loop of so few bytes GCC makes a call
    const auto low = load_vector<uint16_t>(from), high = load_vector<uint16_t>(from + n - 2);
    store_vector(to, low);
    store_vector(to + n - 2, high);
  } else if (n == 1) {
    *to = *from;
  }
}

// Four codes to a byte, n of them from taps[0]; the unused bits of the last byte are 0. Spoils the
// taps beyond the n-th.
inline void pack_codes2(uint8_t* taps, int n, uint8_t* codes) {
  for (int i = n; i % kCodesPerByte != 0; ++i) taps[i] = 0;
  for (int first = 0; first < n; first += kCodeVector) {
    const auto x = load_vector<CodeWords>(taps + first);
    const CodeWords packed = x | x >> 6 | x >> 12 | x >> 18;  // in the low byte
    const int count = ceil_div(std::min(n - first, kCodeVector), kCodesPerByte);
    if (count == kCodeBytes) {
      narrow_to_bytes(codes + first / kCodesPerByte, packed);
    } else {
      uint8_t all[kCodeBytes];
      narrow_to_bytes(all, packed);
      copy_few(codes + first / kCodesPerByte, all, count);
    }
  }
}

// The inverse, of codes from `byte` on. Writes whole vectors: up to kCodeVector - 1 taps beyond the
// n-th.
inline void unpack_codes2(const Elements<uint8_t>& codes, int64_t byte, int n, uint8_t* taps) {
  for (int first = 0; first < n; first += kCodeVector) {
    const int64_t at = byte + first / kCodesPerByte;
    CodeWords x;
    if (codes.holds(at, kCodeBytes)) {
      x = widen_bytes<CodeWords>(codes.data + at);
    } else {
      uint8_t existing[kCodeBytes];
      copy_existing(codes, at, kCodeBytes, existing);
      x = widen_bytes<CodeWords>(existing);
    }
    store_vector(taps + first, (x | x << 6 | x << 12 | x << 18) & 0x03030303u);
  }
}

// ---- lanes as wide as their elements, for what is moved without pairing neighbours

template <typename T>
constexpr int kOwnLanes = kLaneBytes / static_cast<int>(sizeof(T));

template <size_t kSize>
struct OwnLanes;
template <>
struct OwnLanes<2> {
  using Bits = TwiceLanes16;
};
template <>
struct OwnLanes<4> : LaneTypes<float> {};
template <>
struct OwnLanes<8> : LaneTypes<double> {};
template <typename T>
using own_t = typename OwnLanes<sizeof(T)>::Bits;

// ---- 2x2 windows' taps as masks, all bits or none a lane, and their 2-bit codes

template <typename T>
using mask_t = decltype(own_t<T>{} > own_t<T>{});

// Where the maxima of kOwnLanes windows were.
template <typename T>
struct Won {
  mask_t<T> is_right, is_lower;

  SEGFAST_LANES own_t<T> tap() const { return (own_t<T>)((is_lower & 2) | (is_right & 1)); }
};

// Of two vectors of masks, one of lanes half as wide; on AVX2 half by half, for in_order().
template <typename Narrow, typename Wide>
SEGFAST_LANES Narrow narrow_masks(Wide a, Wide b) {
#if defined(SEGFAST_ISA_AVX2) && !defined(SEGFAST_ISA_AVX512)
  if constexpr (sizeof a[0] == 8) {
    return (Narrow)_mm256_shuffle_ps((__m256)a, (__m256)b, _MM_SHUFFLE(2, 0, 2, 0));
  } else {
    return (Narrow)_mm256_packs_epi32((__m256i)a, (__m256i)b);
  }
#else
#if SEGFAST_X86_VARIANTS && !defined(SEGFAST_ISA_AVX512)
  if constexpr (sizeof a[0] == 4) return (Narrow)_mm_packs_epi32((__m128i)a, (__m128i)b);
#endif
  return evens((Narrow)a, (Narrow)b);
#endif
}

// Lanes narrowed from kVectors vectors.
template <int kVectors, typename V>
SEGFAST_LANES V in_order(V lanes) {
#if defined(SEGFAST_ISA_AVX2) && !defined(SEGFAST_ISA_AVX512)
  if constexpr (kVectors == 2) {
    return (V)_mm256_permute4x64_epi64((__m256i)lanes, _MM_SHUFFLE(3, 1, 2, 0));
  } else if constexpr (kVectors == 4) {
    return (V)_mm256_permutevar8x32_epi32((__m256i)lanes,
                                          _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
#endif
  return lanes;
}

// Two bits for each 16-bit lane narrowed from kVectors vectors; the lower is that of `even`.
template <int kVectors, typename V>
SEGFAST_LANES auto pair_masks(V even, V odd) {
#if defined(SEGFAST_ISA_AVX512)
  constexpr __mmask64 kOdd = 0xaaaaaaaaaaaaaaaa;
  return uint64_t{_mm512_movepi8_mask(_mm512_mask_blend_epi8(kOdd, (__m512i)even, (__m512i)odd))};
#elif defined(SEGFAST_ISA_AVX2)
  const __m256i pairs = _mm256_blendv_epi8((__m256i)even, (__m256i)odd, _mm256_set1_epi16(-0x100));
  return static_cast<uint32_t>(_mm256_movemask_epi8(in_order<kVectors>(pairs)));
#elif SEGFAST_X86_VARIANTS
  return static_cast<uint16_t>(_mm_movemask_epi8((__m128i)((even & 0xff) | (odd & ~0xff))));
#else
  // Of the four lanes of 64 bits, in the lowest byte of these.
  const auto pairs = (bits_t<double>)((even & 1) | (odd & 2));
  const auto joined = pairs | pairs >> 14, bytes = joined | joined >> 28;
  constexpr int kBytes = kLaneBytes / 8;
  std::conditional_t<kBytes == 2, uint16_t, uint64_t> all = 0;
  for (int k = 0; k < kBytes; ++k) {
    all = static_cast<decltype(all)>(all | (bytes[k] & 0xff) << (8 * k));
  }
  return all;
#endif
}

// The even and the odd ones of twice as many.
template <typename T>
struct OwnPair {
  own_t<T> even, odd;
};
template <typename T>
SEGFAST_LANES OwnPair<T> load_own_pairs(const T* address) {
#if defined(SEGFAST_ISA_AVX2) && !defined(SEGFAST_ISA_AVX512)
  if constexpr (sizeof(T) == 2) {
    // Joined from halves as they are loaded, so that no lane need cross.
    const auto* const at = reinterpret_cast<const __m128i*>(address);
    const __m256i apart = _mm256_broadcastsi128_si256(pairs_apart());
    const __m256i low = _mm256_shuffle_epi8(_mm256_loadu2_m128i(at + 2, at), apart);
    const __m256i high = _mm256_shuffle_epi8(_mm256_loadu2_m128i(at + 3, at + 1), apart);
    return {(own_t<T>)_mm256_unpacklo_epi64(low, high), (own_t<T>)_mm256_unpackhi_epi64(low, high)};
  }
#endif
  const auto x = load_vector<own_t<T>>(address);
  const auto y = load_vector<own_t<T>>(address + kOwnLanes<T>);
  return {evens(x, y), odds(x, y)};
}

// ---- windows of a row in the order in which the left and right elements of two vectors give, 16
// bytes by 16 bytes, the first and the second half of all

template <typename V>
struct Folded {
  static constexpr int kCount = sizeof(V) / sizeof(std::declval<V>()[0]);
  static constexpr int kBlock = 16 * kCount / static_cast<int>(sizeof(V)), kHalf = kBlock / 2;

  // The window of a lane.
  static constexpr int from(int lane) {
    return lane / kBlock * kHalf + lane % kHalf + lane % kBlock / kHalf * (kCount / 2);
  }
};
template <typename V>
struct Unfolded : Folded<V> {
  // The lane of a window.
  static constexpr int from(int window) {
    using Order = Folded<V>;
    const int other = window % (Order::kCount / 2);
    return other / Order::kHalf * Order::kBlock + other % Order::kHalf +
           window / (Order::kCount / 2) * Order::kHalf;
  }
};

template <typename V>
SEGFAST_LANES V fold(V lanes) {
  using Wide = bits_t<double>;
  return (V)reorder<Folded<Wide>>((Wide)lanes);
}
template <typename V>
SEGFAST_LANES V unfold(V lanes) {
  using Wide = bits_t<double>;
  return (V)reorder<Unfolded<Wide>>((Wide)lanes);
}

template <typename T>
SEGFAST_LANES OwnPair<T> load_folded_pairs(const T* address) {
  const auto x = load_vector<own_t<T>>(address);
  const auto y = load_vector<own_t<T>>(address + kOwnLanes<T>);
#if defined(SEGFAST_ISA_AVX2)
  if constexpr (sizeof(T) == 2) {
    using Wide = bits_t<double>;
    const auto low = (Wide)apart_by_16(x), high = (Wide)apart_by_16(y);
    return {(own_t<T>)lower_pairs_by_16(low, high), (own_t<T>)upper_pairs_by_16(low, high)};
  } else if constexpr (sizeof(T) == 4) {
    using Values = lanes_t<float>;
    return {(own_t<T>)evens_by_16((Values)x, (Values)y),
            (own_t<T>)odds_by_16((Values)x, (Values)y)};
  }
#endif
  return {evens_by_16(x, y), odds_by_16(x, y)};
}

template <typename T, typename V>
SEGFAST_LANES void store_folded_pairs(T* address, V even, V odd) {
  store_vector(address, lower_pairs_by_16(even, odd));
  store_vector(address + kOwnLanes<T>, upper_pairs_by_16(even, odd));
}

template <typename T>
SEGFAST_LANES own_t<T> load_own_taps(const uint8_t* taps) {
  return widen_bytes<own_t<T>>(taps);
}

// ---- two lanes to a window, one for each of its columns

// Lanes, as wide as elements, of the first or the second half of kOwnLanes windows.
template <typename T>
struct CodedColumns {
  using Lanes = own_t<T>;
  using Lane = std::remove_reference_t<decltype(std::declval<Lanes&>()[0])>;
  static constexpr int kWindows = kOwnLanes<T> / 2, kLaneBits = 8 * sizeof(T);

  Lanes codes;  // each window's, where a lane finds it

  // 2-bit codes from an address on, of which 8 bytes more can be read than these windows have.
  template <int kHalf>
  SEGFAST_LANES static CodedColumns load(const uint8_t* codes) {
    return {spread<2 * kWindows * kHalf>(codes) & taps<3, 0>(lane_numbers<Lanes>{})};
  }

  // All bits or none: whether it is the element of the upper or the lower row that won.
  template <int kRow>
  SEGFAST_LANES Lanes won() const {
    return (Lanes)(codes == taps<2 * kRow, 1>(lane_numbers<Lanes>{}));
  }

 private:
  // A window's code `tap`, and `right` more in its second lane.
  template <int kTap, int kRight, int... kLane>
  SEGFAST_LANES static Lanes taps(std::integer_sequence<int, kLane...>) {
    return Lanes{
        static_cast<Lane>(Lane(kTap + kLane % 2 * kRight) << (kLane / 2 * 2 % kLaneBits))...};
  }

  // The codes from a bit on, in every lane. 64 bytes of 16-bit lanes do not hold all: the upper
  // half of lanes has its own.
  template <int kBit>
  SEGFAST_LANES static Lanes spread(const uint8_t* codes) {
    const auto first = static_cast<Lane>(load_vector<Lane>(codes + kBit / 8) >> kBit % 8);
    if constexpr (2 * kWindows <= kLaneBits) {
      return Lanes{} + first;
    } else {
      return halves(Lanes{} + first, Lanes{} + load_vector<Lane>(codes + (kBit + kLaneBits) / 8));
    }
  }
};

// Of kOwnLanes windows.
template <typename T>
struct CodedPair {
  CodedColumns<T> low, high;

  SEGFAST_LANES static CodedPair load(const uint8_t* codes) {
    return {CodedColumns<T>::template load<0>(codes), CodedColumns<T>::template load<1>(codes)};
  }
};

// Of the lanes l0 r0 l1 r1 ... of two vectors, one of each two is 0: the other.
template <typename V>
SEGFAST_LANES V join_columns(V low, V high) {
#if defined(SEGFAST_ISA_AVX2) && !defined(SEGFAST_ISA_AVX512)
  __m256i joined;  // half by half
  if constexpr (sizeof low[0] == 2) {
    joined = _mm256_hadd_epi16((__m256i)low, (__m256i)high);
  } else if constexpr (sizeof low[0] == 4) {
    joined = _mm256_hadd_epi32((__m256i)low, (__m256i)high);
  } else {
    joined = _mm256_or_si256(_mm256_unpacklo_epi64((__m256i)low, (__m256i)high),
                             _mm256_unpackhi_epi64((__m256i)low, (__m256i)high));
  }
  return in_order<2>((V)joined);
#else
  return evens(low, high) | odds(low, high);
#endif
}

// ---- one lane to a window

// Where kOwnLanes windows won by 2-bit codes from an address on, of which 8 bytes can be read.
template <typename T, int... kLane>
SEGFAST_LANES Won<T> load_coded(const uint8_t* codes, std::integer_sequence<int, kLane...>) {
  using Lanes = own_t<T>;
  using Lane = std::remove_reference_t<decltype(std::declval<Lanes&>()[0])>;
  constexpr int kPerLane = 4 * sizeof(Lane);  // codes that a lane holds
  Lanes own;
  if constexpr (kOwnLanes<T> <= kPerLane) {
    own = Lanes{} + load_vector<Lane>(codes);
  } else {
    own = repeat_lanes<kPerLane>((Lanes)(bits_t<double>{} + load_vector<uint64_t>(codes)));
  }
  const Lanes right{static_cast<Lane>(Lane{1} << 2 * (kLane % kPerLane))...}, lower = right << 1;
  return {(own & right) == right, (own & lower) == lower};
}
template <typename T>
SEGFAST_LANES Won<T> load_coded(const uint8_t* codes) {
  return load_coded<T>(codes, lane_numbers<own_t<T>>{});
}

// What is read of codes at once may reach so far behind them.
constexpr int kCodesRead = 16;

// The first n lanes.
template <typename T>
SEGFAST_LANES void store_some_own(T* address, own_t<T> lanes, int n) {
  if (n >= kOwnLanes<T>) {
    store_vector(address, lanes);
  } else {
    std::memcpy(address, &lanes, static_cast<size_t>(n) * sizeof(T));
  }
}

// ---- into the second-level cache, ahead of 2x2 windows. (In the first, rows a multiple of 4 KB
// apart drive each other out.)

// Pairs of two rows of the map, a vector or two: the machine foresees a row's end, not the jump
// over the row that is read beside it.
template <int kPairs, typename T>
SEGFAST_LANES void prefetch_pairs(const T* upper, const T* lower) {
  for (int byte = 0; byte < 2 * kPairs * static_cast<int>(sizeof(T)); byte += 64) {
    __builtin_prefetch(reinterpret_cast<const char*>(upper) + byte, 0, 2);
    __builtin_prefetch(reinterpret_cast<const char*>(lower) + byte, 0, 2);
  }
}

// From a row of contiguous 2x2 windows to the next but one, or to the last within 2 KB, for memory
// may take longer to answer than two short rows; in elements of the map. 0 where the machine
// foresees the next rows: it loses only long ones in its caches.
template <typename T>
int64_t rows_ahead(const PoolShape& s) {
  constexpr int64_t kAhead = 2048, kLongRow = 448, kShortRow = 128, kInCaches = 1 << 24;
  const int64_t row = s.width * static_cast<int64_t>(sizeof(T)), map = s.outer * s.height * row;
  if (row < (map < kInCaches ? kLongRow : kShortRow)) return 0;
  return 2 * s.width * std::max<int64_t>(2, kAhead / (2 * row));
}

// The four pixels of a window, the second `right` elements after the first.
template <typename T>
SEGFAST_LANES void prefetch_quad(const T* upper, const T* lower, int64_t right) {
  for (const T* pixel : {upper, upper + right, lower, lower + right}) {
    __builtin_prefetch(pixel, 0, 2);
  }
}

// Row `row` of map `o`: that of an item, and of the next ones without a division each.
struct MapRow {
  int64_t rows;  // of a map
  int64_t o, row;

  MapRow(int64_t item, int64_t rows_of_a_map)
      : rows(rows_of_a_map), o(item / rows), row(item % rows) {}
  void next() {
    if (++row == rows) row = 0, ++o;
  }
};

// Items [begin, end), the rows of one map at a time.
struct MapRows {
  int64_t end, rows;  // of a map
  int64_t item, o, row, count;

  MapRows(int64_t begin, int64_t end_, int64_t rows_of_a_map)
      : end(end_),
        rows(rows_of_a_map),
        item(begin),
        o(item / rows),
        row(item % rows),
        count(std::min(end - item, rows - row)) {}
  void next() {
    item += count, ++o, row = 0;
    count = std::min(end - item, rows);
  }
  // Past whole maps.
  void next(int64_t maps) {
    item += (maps - 1) * rows, o += maps - 1;
    next();
  }
};

// A run: a row of windows (inner = 1) or the channels of one window.
struct Run {
  int64_t number;  // in memory order
  int64_t length;
  int64_t oh, ow;  // of its first window
  bool along_row;
};

inline Run row_run(const PoolShape& s, int64_t o, int64_t oh) {
  return {o * s.pooled_height + oh, s.pooled_width, oh, 0, true};
}

inline Run channel_run(const PoolShape& s, int64_t o, int64_t oh, int64_t ow) {
  return {(o * s.pooled_height + oh) * s.pooled_width + ow, s.inner, oh, ow, false};
}

// Windows [first, last) of an axis lie wholly inside a map of `size`.
struct Inside {
  int64_t first, last;
  Inside(int64_t size, int64_t windows, int kernel, int stride, int pad, int dilation) {
    const int64_t end = size + pad - int64_t{dilation} * (kernel - 1);  // of a whole window's start
    first = ceil_div<int64_t>(pad, stride);
    last = std::clamp<int64_t>(end <= 0 ? 0 : ceil_div<int64_t>(end, stride), first,
                               std::max(first, windows));
  }
  bool holds(int64_t window) const { return window >= first && window < last; }
  bool holds(int64_t window, int64_t n) const { return window >= first && window + n <= last; }
};

inline Inside rows_inside(const PoolShape& s, const Window2d& w) {
  return {s.height, s.pooled_height, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h};
}
inline Inside columns_inside(const PoolShape& s, const Window2d& w) {
  return {s.width, s.pooled_width, w.kernel_w, w.stride_w, w.pad_w, w.dilation_w};
}

// Offsets of each tap from its window's origin, in elements, for windows small enough for a table;
// of what is no tap of theirs, beyond any map.
struct TapOffsets {
  int64_t at[kMaxCodedTaps + 1];

  TapOffsets(const Window2d& window, int64_t width, int64_t inner = 1) {
    const int taps = window.taps() <= kMaxCodedTaps ? window.taps() : 0;
    std::fill(at, at + kMaxCodedTaps + 1, std::numeric_limits<int64_t>::min() / 2);
    for (int tap = 0; tap < taps; ++tap) {
      at[tap] = (int64_t{tap / window.kernel_w} * window.dilation_h * width +
                 int64_t{tap % window.kernel_w} * window.dilation_w) *
                inner;
    }
  }
};

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
