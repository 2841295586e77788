// cells_cpu.h: vectors of 2x2 cells, element by element, loaded and stored as memory holds them,
// and their bits of the mask. Compiled once for each instruction set, after common/lanes.h
// and lanes_math.h.
//
// AVX2 moves lanes across its halves slowly, and GCC 12 does so where it need not: there, vectors
// are joined from halves as they are loaded, and stored by halves; bits are packed, not looked up.
//
// What it gained with that, with rows of any width in vectors, and with the neighbour to the right
// kept (time before over time after, ReLU and blur, a map in cache, one thread of a Zen 3):
//   forward   contiguous fp32 1.6, bf16 1.6, fp16 1.9; of odd width 2.0, 2.4, 3.2
//             channels_last fp32 2.9, bf16 1.8, fp16 1.7
//   backward  contiguous fp32 1.0, bf16 1.1, fp16 1.3; of odd width 1.3, 1.5, 1.8
//             channels_last fp32 1.1, bf16 1.3, fp16 1.5
// Microseconds of a coarse [1, 256, 32, 32] there, since a row keeps what it contributes to the
// next and GCC 12 copies no struct of vectors, quarters are fused, and two bfloat16 vectors are
// rounded at once (forward writes the mask):
//   forward   contiguous fp32 72 -> 52, bf16 95 -> 60, fp16 80 -> 55
//             channels_last fp32 62 -> 51, bf16 90 -> 61, fp16 94 -> 73
//   backward  contiguous fp32 71 -> 70, bf16 97 -> 74, fp16 90 -> 75
//             channels_last fp32 54 -> 53, bf16 78 -> 61, fp16 57 -> 54

#if defined(SEGFAST_ISA_AVX2) && !defined(SEGFAST_ISA_AVX512)
#define SEGFAST_TWO_HALVES 1
#else
#define SEGFAST_TWO_HALVES 0
#endif

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// kLanes cells: all their upper left elements, and so on.
template <typename T>
struct Four {
  lanes_t<T> a, b, c, d;
};

// The same as it is masked and stored.
#if SEGFAST_TWO_HALVES
struct CellWords {
  bits_t<BFloat16> ab, cd;  // rounded; words whose lower halves are a and c
};
template <typename T>
using Stored = std::conditional_t<std::is_same_v<T, BFloat16>, CellWords, Four<T>>;
#else
template <typename T>
using Stored = Four<T>;
#endif

// ---- x0 y0 x1 y1 ...

// Words whose lower halves are x and whose upper halves are y.
template <typename T>
SEGFAST_LANES bits_t<T> word_pairs(lanes_t<T> x, lanes_t<T> y) {
  if constexpr (std::is_same_v<T, BFloat16>) {
#if SEGFAST_TWO_HALVES
    // Both at once: half of the last place is added, and where that leaves nothing below it, which
    // it does of ties alone, the last place made even. A NaN stays one: what is computed from
    // elements has none that are NaN by its lower half alone.
    const __m256i half = _mm256_set1_epi32(0x8000);
    const __m256i lower = _mm256_add_epi32((__m256i)x, half);
    const __m256i upper = _mm256_add_epi32((__m256i)y, half);
    const __m256i rounded = _mm256_blend_epi16(_mm256_srli_epi32(lower, 16), upper, 0xaa);
    const __m256i rest = _mm256_blend_epi16(lower, _mm256_slli_epi32(upper, 16), 0xaa);
    const __m256i even = _mm256_adds_epu16(rest, _mm256_set1_epi16(-2));  // -1 unless rest is 0
    return (bits_t<T>)_mm256_and_si256(rounded, even);
#else
    return round_upper(x) >> 16 | (round_upper(y) & 0xffff0000u);
#endif
  } else {
    return to_words<T>(x) | to_words<T>(y) << 16;
  }
}

template <typename T>
SEGFAST_LANES void store_pairs(T* address, lanes_t<T> x, lanes_t<T> y) {
#if SEGFAST_TWO_HALVES
  if constexpr (std::is_same_v<T, Half>) {
    const __m128i low = (__m128i)narrow_to_halves(x), high = (__m128i)narrow_to_halves(y);
    store_vector(address, _mm_unpacklo_epi16(low, high));
    store_vector(address + kLanes<T>, _mm_unpackhi_epi16(low, high));
    return;
  }
#endif
  if constexpr (kNarrow<T>) {
    store_vector(address, word_pairs<T>(x, y));
  } else {
    store_word_pairs(address, words_of<T>(x), words_of<T>(y));
  }
}

// ---- x0 x1 ... at one address, y0 y1 ... at another

#if SEGFAST_TWO_HALVES
// x0 y0 x1 y1 ...
template <typename T>
SEGFAST_LANES void store_word_pairs_apart(T* at_x, T* at_y, bits_t<T> pairs) {
  const __m256i apart = _mm256_broadcastsi128_si256(pairs_apart());
  const __m256i words = _mm256_shuffle_epi8((__m256i)pairs, apart);
  const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
  store_vector(at_x, _mm_unpacklo_epi64(low, high));
  store_vector(at_y, _mm_unpackhi_epi64(low, high));
}
#endif

// ---- a0 b0 c0 d0 a1 b1 c1 d1 ...

#if SEGFAST_TWO_HALVES

// 16 bytes each: the cells of the first half of a vector, and of the second.
template <typename T>
SEGFAST_LANES __m256i load_halves(const T* low, const T* high) {
  return _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(high),
                             reinterpret_cast<const __m128i*>(low));
}
template <typename T>
SEGFAST_LANES void store_halves(T* low, T* high, __m256i x) {
  _mm256_storeu2_m128i(reinterpret_cast<__m128i*>(high), reinterpret_cast<__m128i*>(low), x);
}

SEGFAST_LANES Four<float> load_fours(const float* address) {
  const __m256 x = (__m256)load_halves(address, address + 16);
  const __m256 y = (__m256)load_halves(address + 4, address + 20);
  const __m256 z = (__m256)load_halves(address + 8, address + 24);
  const __m256 w = (__m256)load_halves(address + 12, address + 28);
  const __m256d ab0 = (__m256d)_mm256_unpacklo_ps(x, y), cd0 = (__m256d)_mm256_unpackhi_ps(x, y);
  const __m256d ab2 = (__m256d)_mm256_unpacklo_ps(z, w), cd2 = (__m256d)_mm256_unpackhi_ps(z, w);
  using V = lanes_t<float>;
  return {(V)_mm256_unpacklo_pd(ab0, ab2), (V)_mm256_unpackhi_pd(ab0, ab2),
          (V)_mm256_unpacklo_pd(cd0, cd2), (V)_mm256_unpackhi_pd(cd0, cd2)};
}

SEGFAST_LANES void store_fours(float* address, const Four<float>& cells) {
  const __m256 a = (__m256)cells.a, b = (__m256)cells.b, c = (__m256)cells.c, d = (__m256)cells.d;
  const __m256d ab0 = (__m256d)_mm256_unpacklo_ps(a, b), cd0 = (__m256d)_mm256_unpacklo_ps(c, d);
  const __m256d ab2 = (__m256d)_mm256_unpackhi_ps(a, b), cd2 = (__m256d)_mm256_unpackhi_ps(c, d);
  store_halves(address, address + 16, (__m256i)_mm256_unpacklo_pd(ab0, cd0));
  store_halves(address + 4, address + 20, (__m256i)_mm256_unpackhi_pd(ab0, cd0));
  store_halves(address + 8, address + 24, (__m256i)_mm256_unpacklo_pd(ab2, cd2));
  store_halves(address + 12, address + 28, (__m256i)_mm256_unpackhi_pd(ab2, cd2));
}

SEGFAST_LANES Four<double> load_fours(const double* address) {
  const __m256d ab0 = (__m256d)load_halves(address, address + 8);
  const __m256d ab1 = (__m256d)load_halves(address + 4, address + 12);
  const __m256d cd0 = (__m256d)load_halves(address + 2, address + 10);
  const __m256d cd1 = (__m256d)load_halves(address + 6, address + 14);
  return {_mm256_unpacklo_pd(ab0, ab1), _mm256_unpackhi_pd(ab0, ab1), _mm256_unpacklo_pd(cd0, cd1),
          _mm256_unpackhi_pd(cd0, cd1)};
}

SEGFAST_LANES void store_fours(double* address, const Four<double>& x) {
  store_halves(address, address + 8, (__m256i)_mm256_unpacklo_pd(x.a, x.b));
  store_halves(address + 2, address + 10, (__m256i)_mm256_unpacklo_pd(x.c, x.d));
  store_halves(address + 4, address + 12, (__m256i)_mm256_unpackhi_pd(x.a, x.b));
  store_halves(address + 6, address + 14, (__m256i)_mm256_unpackhi_pd(x.c, x.d));
}

SEGFAST_LANES Four<BFloat16> load_fours(const BFloat16* address) {
  const __m256 x = (__m256)load_halves(address, address + 16);
  const __m256 y = (__m256)load_halves(address + 8, address + 24);
  const auto ab = (bits_t<BFloat16>)_mm256_shuffle_ps(x, y, _MM_SHUFFLE(2, 0, 2, 0));
  const auto cd = (bits_t<BFloat16>)_mm256_shuffle_ps(x, y, _MM_SHUFFLE(3, 1, 3, 1));
  using V = lanes_t<BFloat16>;
  return {(V)(ab << 16), (V)(ab & 0xffff0000u), (V)(cd << 16), (V)(cd & 0xffff0000u)};
}

SEGFAST_LANES void store_fours(BFloat16* address, const CellWords& cells) {
  const __m256i ab = (__m256i)cells.ab, cd = (__m256i)cells.cd;
  store_halves(address, address + 16, _mm256_unpacklo_epi32(ab, cd));
  store_halves(address + 8, address + 24, _mm256_unpackhi_epi32(ab, cd));
}

SEGFAST_LANES void store_fours(Half* address, const Four<Half>& cells) {
  const __m128i a = (__m128i)narrow_to_halves(cells.a), b = (__m128i)narrow_to_halves(cells.b);
  const __m128i c = (__m128i)narrow_to_halves(cells.c), d = (__m128i)narrow_to_halves(cells.d);
  const __m128i ab0 = _mm_unpacklo_epi16(a, b), cd0 = _mm_unpacklo_epi16(c, d);
  const __m128i ab4 = _mm_unpackhi_epi16(a, b), cd4 = _mm_unpackhi_epi16(c, d);
  store_vector(address, _mm_unpacklo_epi32(ab0, cd0));
  store_vector(address + 8, _mm_unpackhi_epi32(ab0, cd0));
  store_vector(address + 16, _mm_unpacklo_epi32(ab4, cd4));
  store_vector(address + 24, _mm_unpackhi_epi32(ab4, cd4));
}

#endif  // SEGFAST_TWO_HALVES

template <typename T>
SEGFAST_LANES Four<T> load_fours(const T* address) {
  if constexpr (kNarrow<T>) {
    const auto x = load_vector<bits_t<T>>(address);
    const auto y = load_vector<bits_t<T>>(address + 2 * kLanes<T>);
    const bits_t<T> ab = evens(x, y), cd = odds(x, y);
    return {from_words<T>(ab & 0xffffu), from_words<T>(ab >> 16), from_words<T>(cd & 0xffffu),
            from_words<T>(cd >> 16)};
  } else {
    const Pair<T> low = load_pairs(address), high = load_pairs(address + 2 * kLanes<T>);
    return {evens(low.even, high.even), evens(low.odd, high.odd), odds(low.even, high.even),
            odds(low.odd, high.odd)};
  }
}

template <typename T>
SEGFAST_LANES void store_fours(T* address, const Four<T>& x) {
  if constexpr (kNarrow<T>) {
    const bits_t<T> ab = word_pairs<T>(x.a, x.b), cd = word_pairs<T>(x.c, x.d);
    store_vector(address, lower_pairs(ab, cd));
    store_vector(address + 2 * kLanes<T>, upper_pairs(ab, cd));
  } else {
    store_pairs(address, lower_pairs(x.a, x.c), lower_pairs(x.b, x.d));
    store_pairs(address + 2 * kLanes<T>, upper_pairs(x.a, x.c), upper_pairs(x.b, x.d));
  }
}

template <typename T>
SEGFAST_LANES Stored<T> stored_cells(const Four<T>& x) {
  if constexpr (std::is_same_v<Stored<T>, Four<T>>) {
    return x;
  } else {
    return {word_pairs<T>(x.a, x.b), word_pairs<T>(x.c, x.d)};
  }
}

// ---- gradients: pairs of a row and the element after each pair, 0 beyond the row. Quarters of
// them, but of 16-bit elements the elements: see fused::sum_quarters().

template <typename T, typename A>
SEGFAST_LANES A quartered_unless_narrow(A grad) {
  return kNarrow<T> ? grad : grad * 0.25f;
}

// The pair in each lane.
template <typename T>
constexpr int pair_in_lane(int lane) {
#if SEGFAST_TWO_HALVES
  if (std::is_same_v<T, Half>) return (lane & 1) | (lane & 2) << 1 | (lane & 4) >> 1;
#endif
  return lane;
}

template <typename T>
SEGFAST_LANES void load_gradients(const T* row, bool has_right, lanes_t<T> (&g)[3]) {
  const Pair<T> pair = load_pairs(row);
  g[0] = quartered_unless_narrow<T>(pair.even);
  g[1] = quartered_unless_narrow<T>(pair.odd);
  if (kNarrow<T> && has_right) {
    g[2] = load_pairs(row + 2).even;
  } else {
    lanes_t<T> right{};
    if (has_right) right[0] = quartered_unless_narrow<T>(to_float(row[2 * kLanes<T>]));
    g[2] = before_last(g[0], right);
  }
}

template <bool kPairs, typename T>
SEGFAST_LANES void store_lanes_of(T* address, lanes_t<T> x) {
#if SEGFAST_TWO_HALVES
  if constexpr (kPairs && std::is_same_v<T, Half>) {
    const __m128i halves = (__m128i)narrow_to_halves(x);
    return store_vector(address, _mm_shuffle_epi32(halves, _MM_SHUFFLE(3, 1, 2, 0)));
  }
#endif
  store_lanes(address, x);
}

#if SEGFAST_TWO_HALVES
// Widened before they are taken apart, within halves.
template <>
SEGFAST_LANES void load_gradients(const Half* row, bool has_right, lanes_t<Half> (&g)[3]) {
  const __m128i upper = load_vector<__m128i>(row + 8);
  const __m128i next = has_right ? load_vector<__m128i>(row + 10) : _mm_srli_si128(upper, 4);
  const __m256 x = _mm256_cvtph_ps(load_vector<__m128i>(row)), y = _mm256_cvtph_ps(upper);
  const __m256 next_x = _mm256_cvtph_ps(load_vector<__m128i>(row + 2));
  const __m256 next_y = _mm256_cvtph_ps(next);
  g[0] = (lanes_t<Half>)_mm256_shuffle_ps(x, y, _MM_SHUFFLE(2, 0, 2, 0));
  g[1] = (lanes_t<Half>)_mm256_shuffle_ps(x, y, _MM_SHUFFLE(3, 1, 3, 1));
  g[2] = (lanes_t<Half>)_mm256_shuffle_ps(next_x, next_y, _MM_SHUFFLE(2, 0, 2, 0));
}
#endif

// In four planes, `plane` apart.
template <bool kPairs, typename T>
SEGFAST_LANES void store_planes(T* address, int64_t plane, const Stored<T>& x) {
  T* const next = address + 2 * plane;
#if SEGFAST_TWO_HALVES
  if constexpr (std::is_same_v<T, BFloat16>) {
    store_word_pairs_apart(address, address + plane, x.ab);
    store_word_pairs_apart(next, next + plane, x.cd);
    return;
  } else
#endif
  {
    store_lanes_of<kPairs>(address, x.a);
    store_lanes_of<kPairs>(address + plane, x.b);
    store_lanes_of<kPairs>(next, x.c);
    store_lanes_of<kPairs>(next + plane, x.d);
  }
}

// ---- the mean of four vectors of elements of T

template <typename T>
SEGFAST_LANES lanes_t<T> mean_lanes(Terms<lanes_t<T>> x) {
#if defined(SEGFAST_ISA_AVX2)
  if constexpr (std::is_same_v<T, Half>) {  // whose sums stay finite: on the ports that multiply
    const lanes_t<T> zero{}, quarter = zero + 0.25f;
    return madd(x.fourth, quarter, madd(x.third, quarter, madd(x.pair, quarter, zero)));
  }
  return fused::mean(x);
#else
  return mean(x);
#endif
}

// ---- ReLU of a vector

template <typename V>
SEGFAST_LANES V relu_lanes(V x) {
#if SEGFAST_TWO_HALVES
  if constexpr (sizeof(x[0]) == 4) {  // of two zeros, or a NaN and a number, max gives the second
    return (V)_mm256_max_ps(_mm256_setzero_ps(), (__m256)x);
  }
#endif
  return relu(x);
}

template <typename T>
SEGFAST_LANES Cell<lanes_t<T>> activated(const Four<T>& x, bool with_relu) {
  if (!with_relu) return {x.a, x.b, x.c, x.d};
  return {relu_lanes(x.a), relu_lanes(x.b), relu_lanes(x.c), relu_lanes(x.d)};
}

// ---- the mask's bits of kLanes cells, four a cell. The first cell's start a byte, or end one if
// `in_byte`: then the byte's other half belongs to another vector, and so does the first cell's.

template <typename T>
SEGFAST_LANES void store_cell_bits(uint8_t* mask, const Four<T>& x, bool in_byte) {
  const lanes_t<T> zero{};
  uint64_t packed = 0;
#if SEGFAST_TWO_HALVES
  const __m256i a = (__m256i)(x.a <= zero), b = (__m256i)(x.b <= zero);
  const __m256i c = (__m256i)(x.c <= zero), d = (__m256i)(x.d <= zero);
  if constexpr (sizeof(accumulate_t<T>) == 4) {
    const __m256i ab = _mm256_packs_epi32(a, b), cd = _mm256_packs_epi32(c, d);
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m256i stopped = _mm256_shuffle_epi8(_mm256_packs_epi16(ab, cd), order);
    packed = ~static_cast<uint32_t>(_mm256_movemask_epi8(stopped));
  } else {
    const __m256i ab = (__m256i)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88);
    const __m256i cd = (__m256i)_mm256_shuffle_ps((__m256)c, (__m256)d, 0x88);
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, 0, 4, 8, 12, 2, 6, 10, 14));
    const __m256i stopped = _mm256_shuffle_epi8(_mm256_packs_epi32(ab, cd), order);
    const uint32_t passed = ~static_cast<uint32_t>(_mm256_movemask_epi8(stopped));
    packed = (passed & 0xffu) | (passed >> 16 & 0xff00u);
  }
#else
  using Bits = bits_t<T>;
  const Bits none{};
  const Bits cells = (x.a <= zero ? none : none + 1u) | (x.b <= zero ? none : none + 2u) |
                     (x.c <= zero ? none : none + 4u) | (x.d <= zero ? none : none + 8u);
  if constexpr (sizeof(accumulate_t<T>) == 4) {
    const auto two_cells = (LaneTypes<double>::Bits)cells;
    narrow_to_bytes(reinterpret_cast<uint8_t*>(&packed), two_cells | two_cells >> 28);
  } else {
    for (int k = 0; k < kLanes<T>; ++k) packed |= static_cast<uint64_t>(cells[k]) << (4 * k);
  }
#endif
  if (in_byte) {
    packed >>= 4;
    ++mask;
  }
  std::memcpy(mask, &packed, kLanes<T> / 2);
}

// The first bit of each of kLanes cells, where a lane holds as many of them as fit. kPairs: the
// lanes are in the order of pair_in_lane().
template <typename T, bool kPairs, int... kLane>
SEGFAST_LANES bits_t<T> first_bits(std::integer_sequence<int, kLane...>) {
  constexpr int kCells = sizeof(accumulate_t<T>) * 2;
  return bits_t<T>{(word_t<T>{1} << (4 * ((kPairs ? pair_in_lane<T>(kLane) : kLane) % kCells)))...};
}

// kLanes * 4 bits.
template <int kCells>
SEGFAST_LANES uint64_t load_cell_bits(const uint8_t* mask, bool in_byte) {
  uint64_t packed = 0;
  std::memcpy(&packed, mask, kCells / 2);
  if (in_byte) packed = packed >> 4 | static_cast<uint64_t>(mask[kCells / 2]) << (kCells * 4 - 4);
  return packed;
}

template <typename T, bool kPairs>
SEGFAST_LANES Stored<T> keep_cells(const uint8_t* mask, const Stored<T>& x, bool in_byte) {
  using Bits = bits_t<T>;
  const uint64_t packed = load_cell_bits<kLanes<T>>(mask, in_byte);
  const Bits none{};
#if SEGFAST_TWO_HALVES
  if constexpr (std::is_same_v<T, BFloat16>) {  // a cell's byte in both halves of its lane
    const __m256i bytes = _mm256_setr_epi32(0x80008000, 0x80008000, 0x80018001, 0x80018001,  //
                                            0x80028002, 0x80028002, 0x80038003, 0x80038003);
    const __m256i bits = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(packed)), bytes);
    const __m256i ab = _mm256_set1_epi64x(0x0020001000020001), cd = _mm256_slli_epi16(ab, 2);
    // vpsign keeps a word beside a positive one, and makes it 0 beside 0.
    return {(Bits)_mm256_sign_epi16((__m256i)x.ab, _mm256_and_si256(bits, ab)),
            (Bits)_mm256_sign_epi16((__m256i)x.cd, _mm256_and_si256(bits, cd))};
  } else
#endif
  {
    const lanes_t<T> zero{};
    Bits words = none + static_cast<word_t<T>>(packed);
    if constexpr (kLanes<T> > sizeof(word_t<T>) * 2) {  // eight cells more
      words = halves(words, none + static_cast<word_t<T>>(packed >> 32));
    }
    const Bits bit = first_bits<T, kPairs>(lane_numbers<Bits>{});
    return {(words & bit) != none ? x.a : zero, (words & bit << 1) != none ? x.b : zero,
            (words & bit << 2) != none ? x.c : zero, (words & bit << 3) != none ? x.d : zero};
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
