// runs_cpu.h: kParts vectors of cells, loaded and stored together in whatever order of lanes suits.
// Compiled once for each instruction set, after cells_cpu.h.
//
// Two bfloat16 vectors are rounded to one, whose words hold an element of each. So AVX2 takes twice
// as many cells of them: even and odd ones, or such halves of either vector that no lane need
// cross. The ReLU and the mask are then taken of elements, sixteen at a time.
//
// What that gained one thread of a Zen 3, with neighbours kept in registers, edges out of the loops
// and less for the two ports that add to do (us of half an odd [2, 64, 65, 127], with mask):
//   forward   contiguous bf16 112 -> 102, fp64 241 -> 226
//             channels_last bf16 122 -> 102, fp16 143 -> 117, fp64 302 -> 218
//   backward  contiguous fp32 136 -> 126, bf16 130 -> 123, fp16 140 -> 116, fp64 300 -> 272
//             channels_last bf16 131 -> 115, fp16 117 -> 111, fp64 275 -> 203
//
// Channels by pointers that go on, the row's start out of the loop: 175 -> 150 instructions of 16
// channels bfloat16 forward, 162 -> 134 backward (us of a thread's half of [1, 64, 64, 64]; first
// in a quiet spell of the machine, then in one in which its core got less done a cycle):
//   forward   bf16 25 -> 24.5, 37 -> 33; fp16 28.5 -> 27, 42 -> 37; fp32 24.5 -> 24; fp64 53 -> 47
//   backward  bf16 28 -> 26, 35 -> 32; fp16 26 -> 25, 38 -> 33; fp32 25.5 -> 24; fp64 53 -> 50
//
// Runs shorter than a vector, copied to where they are one, against an element at a time (one
// thread's us of [2, 64, 7, 7] contiguous and of [2, 3, 16, 16] channels_last, ReLU, mask and
// blur):
//   forward   fp32 260 -> 43, 36 -> 11; bf16 500 -> 45, 89 -> 21; fp16 802 -> 43, 160 -> 19
//   backward  fp32 765 -> 45, 100 -> 19; bf16 862 -> 50, 174 -> 35; fp16 1080 -> 49, 229 -> 34
//
// What bounds 16 bits there, in a cache, are instructions. Clocks of 8 cells, with a mask; in
// brackets those of the same instructions where none waits for another and all memory is in the
// first cache:
//   forward   contiguous bf16 18 to 22 (12.6), fp16 19 to 22 (13.4)
//             channels_last bf16 19 (12.6), fp16 21 (15)
//   backward  contiguous bf16 26 (17.2), fp16 24 (16.9)
//             channels_last bf16 20 (15.4), fp16 19 (14.2)
// 1.6 times the floor would leave a thread 12 to 16 forward: no room for one to wait. Tried without
// gain: sums by columns, 14 in place of 16; sums on the ports that add, of quarters that several
// share; strips of pixels, so that what a row contributes to the next stays in the first cache; the
// compiler's other orders; two passes over a pixel's channels, the first of which leaves them
// widened in the first cache (24.9 -> 26 us); a vector of channels along the whole row, its left
// neighbours in registers (24.4 -> 26.3).

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// How many vectors are best taken together where there is a blur.
template <typename T>
constexpr int kTogether = 1;
#if SEGFAST_TWO_HALVES
template <>
constexpr int kTogether<BFloat16> = 2;
#endif

// Channels go in blocks of kSlots vectors, whose left neighbours are kept.
constexpr int64_t kSlots = 16;

// `count` runs of `length` elements, so far apart at either end: between rows whose runs are less
// than a vector and rows where they are one, with room behind.
template <typename T>
void copy_runs(const T* from, int64_t from_apart, T* to, int64_t to_apart, int64_t length,
               int64_t count) {
  for (int64_t i = 0; i < count; ++i, from += from_apart, to += to_apart) {
    std::memcpy(to, from, static_cast<size_t>(length) * sizeof(T));
  }
}

// ---- cells along a row of the four planes, `plane` apart; each part to the right of the last, or
// of the same cells' left neighbours

template <bool kRelu, typename T>
SEGFAST_LANES void load_run(const T* address, int64_t plane, uint8_t* mask, bool in_byte,
                            Cell<lanes_t<T>> (&cells)[1]) {
  const T* const next = address + 2 * plane;
  const Four<T> x{load_lanes(address), load_lanes(address + plane), load_lanes(next),
                  load_lanes(next + plane)};
  if (mask != nullptr) store_cell_bits(mask, x, in_byte);
  cells[0] = activated(x, kRelu);
}
template <typename T>
SEGFAST_LANES void store_run(T* address, const lanes_t<T> (&x)[1], const lanes_t<T> (&y)[1]) {
  store_pairs(address, x[0], y[0]);
}

#if SEGFAST_TWO_HALVES

// ReLU of elements, and 0 of -0, which a blur does not show. As integers, negative numbers end with
// -inf, above which are NaN: from `negative_nan` on.
SEGFAST_LANES __m256i positive_words(__m256i x, uint16_t negative_nan) {
  const __m256i first = _mm256_set1_epi16(static_cast<int16_t>(negative_nan));
  return _mm256_andnot_si256(_mm256_cmpgt_epi16(first, x), x);
}

// The bits of cells 0 to 3 and 8 to 11, and of 4 to 7 and 12 to 15: a byte each, 0 where it is set.
SEGFAST_LANES void store_sixteen(uint8_t* mask, __m256i first, __m256i second, bool in_byte) {
  const uint32_t a = ~static_cast<uint32_t>(_mm256_movemask_epi8(first));
  const uint32_t b = ~static_cast<uint32_t>(_mm256_movemask_epi8(second));
  const uint32_t low = (a & 0xffffu) | b << 16, high = a >> 16 | (b & 0xffff0000u);
  if (in_byte) {
    const uint64_t packed = (static_cast<uint64_t>(high) << 32 | low) >> 4;
    std::memcpy(mask + 1, &packed, 8);
  } else {
    std::memcpy(mask, &low, 4);
    std::memcpy(mask + 4, &high, 4);
  }
}

// The even cells and the odd ones.
template <bool kRelu>
SEGFAST_LANES void load_run(const BFloat16* address, int64_t plane, uint8_t* mask, bool in_byte,
                            Cell<lanes_t<BFloat16>> (&cells)[2]) {
  const BFloat16* const next = address + 2 * plane;
  __m256i a = load_vector<__m256i>(address), b = load_vector<__m256i>(address + plane);
  __m256i c = load_vector<__m256i>(next), d = load_vector<__m256i>(next + plane);
  if (kRelu) {
    a = positive_words(a, 0xff81);
    b = positive_words(b, 0xff81);
    c = positive_words(c, 0xff81);
    d = positive_words(d, 0xff81);
  }
  if (kRelu && mask != nullptr) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i ac = _mm256_cmpeq_epi8(_mm256_packs_epi16(a, c), zero);
    const __m256i bd = _mm256_cmpeq_epi8(_mm256_packs_epi16(b, d), zero);
    const __m256i ab = _mm256_unpacklo_epi8(ac, bd), cd = _mm256_unpackhi_epi8(ac, bd);
    store_sixteen(mask, _mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd), in_byte);
  }
  using Bits = bits_t<BFloat16>;
  using V = lanes_t<BFloat16>;
  const Bits odd = Bits{} + 0xffff0000u;
  cells[0] = {(V)((Bits)a << 16), (V)((Bits)b << 16), (V)((Bits)c << 16), (V)((Bits)d << 16)};
  cells[1] = {(V)((Bits)a & odd), (V)((Bits)b & odd), (V)((Bits)c & odd), (V)((Bits)d & odd)};
}
SEGFAST_LANES void store_run(BFloat16* address, const lanes_t<BFloat16> (&x)[2],
                             const lanes_t<BFloat16> (&y)[2]) {
  const __m256i even = (__m256i)word_pairs<BFloat16>(x[0], y[0]);
  const __m256i odd = (__m256i)word_pairs<BFloat16>(x[1], y[1]);
  const __m256i low = _mm256_unpacklo_epi32(even, odd), high = _mm256_unpackhi_epi32(even, odd);
  store_vector(address, _mm256_permute2x128_si256(low, high, 0x20));
  store_vector(address + 16, _mm256_permute2x128_si256(low, high, 0x31));
}

#endif

// ---- channels of one pixel

template <bool kRelu, typename T>
SEGFAST_LANES void load_cells(const T* address, uint8_t* mask, Cell<lanes_t<T>> (&cells)[1]) {
  const Four<T> x = load_fours(address);
  if (mask != nullptr) store_cell_bits(mask, x, false);
  cells[0] = activated(x, kRelu);
}
template <typename T>
SEGFAST_LANES void store_channels(T* address, const lanes_t<T> (&x)[1]) {
  store_lanes(address, x[0]);
}

template <int kParts, typename T>
SEGFAST_LANES lanes_t<T> load_channels(const T* address, [[maybe_unused]] int part) {
#if SEGFAST_TWO_HALVES
  if constexpr (kParts == 2) {  // the even channels, the odd ones
    const auto words = load_vector<bits_t<T>>(address);
    return (lanes_t<T>)(part == 0 ? words << 16 : words & 0xffff0000u);
  }
#endif
  return load_lanes(address);
}
template <typename T>
SEGFAST_LANES void store_cells(T* address, const Cell<lanes_t<T>> (&cells)[1],
                               const uint8_t* mask) {
  Stored<T> stored = stored_cells(Four<T>{cells[0].a, cells[0].b, cells[0].c, cells[0].d});
  if (mask != nullptr) stored = keep_cells<T, false>(mask, stored, false);
  store_fours(address, stored);
}

#if SEGFAST_TWO_HALVES

// Widened as they are loaded: channels 0, 2, 4, 6, 1, 3, 5, 7. (What is already in a register takes
// two operations more.)
template <bool kRelu>
SEGFAST_LANES void load_cells(const Half* address, uint8_t* mask, Cell<lanes_t<Half>> (&cells)[1]) {
  if (kRelu && mask != nullptr) {
    const __m256i x = positive_words(join_halves(address, address + 16), 0xfc01);
    const __m256i y = positive_words(join_halves(address + 8, address + 24), 0xfc01);
    const __m256i stopped = _mm256_cmpeq_epi8(_mm256_packs_epi16(x, y), _mm256_setzero_si256());
    const uint32_t passed = ~static_cast<uint32_t>(_mm256_movemask_epi8(stopped));
    std::memcpy(mask, &passed, sizeof passed);
  }
  __m256 x[4];
  for (int k = 0; k < 4; ++k) {
    const lanes_t<Half> two_channels = load_lanes(address + 8 * k);
    x[k] = (__m256)(kRelu ? relu_lanes(two_channels) : two_channels);
  }
  const __m256d ab0 = (__m256d)_mm256_unpacklo_ps(x[0], x[1]);
  const __m256d cd0 = (__m256d)_mm256_unpackhi_ps(x[0], x[1]);
  const __m256d ab4 = (__m256d)_mm256_unpacklo_ps(x[2], x[3]);
  const __m256d cd4 = (__m256d)_mm256_unpackhi_ps(x[2], x[3]);
  using V = lanes_t<Half>;
  cells[0] = {(V)_mm256_unpacklo_pd(ab0, ab4), (V)_mm256_unpackhi_pd(ab0, ab4),
              (V)_mm256_unpacklo_pd(cd0, cd4), (V)_mm256_unpackhi_pd(cd0, cd4)};
}
SEGFAST_LANES void store_channels(Half* address, const lanes_t<Half> (&x)[1]) {
  const __m128i order = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
  store_vector(address, _mm_shuffle_epi8((__m128i)narrow_to_halves(x[0]), order));
}

// Channels 0 to 3 and 8 to 11, and 4 to 7 and 12 to 15.
template <bool kRelu>
SEGFAST_LANES void load_cells(const BFloat16* address, uint8_t* mask,
                              Cell<lanes_t<BFloat16>> (&cells)[2]) {
  __m256i stopped[2];
  for (int part = 0; part < 2; ++part) {
    const BFloat16* const at = address + 16 * part;
    __m256i x = join_halves(at, at + 32), y = join_halves(at + 8, at + 40);
    if (kRelu) {
      x = positive_words(x, 0xff81);
      y = positive_words(y, 0xff81);
      stopped[part] = _mm256_cmpeq_epi8(_mm256_packs_epi16(x, y), _mm256_setzero_si256());
    }
    const auto ab = (bits_t<BFloat16>)_mm256_shuffle_ps((__m256)x, (__m256)y, 0x88);
    const auto cd = (bits_t<BFloat16>)_mm256_shuffle_ps((__m256)x, (__m256)y, 0xdd);
    using V = lanes_t<BFloat16>;
    cells[part] = {(V)(ab << 16), (V)(ab & 0xffff0000u), (V)(cd << 16), (V)(cd & 0xffff0000u)};
  }
  if (kRelu && mask != nullptr) {
    store_sixteen(mask, stopped[0], stopped[1], false);
  }
}
SEGFAST_LANES void store_channels(BFloat16* address, const lanes_t<BFloat16> (&x)[2]) {
  const __m256i apart = _mm256_broadcastsi128_si256(pairs_apart());
  store_vector(address, _mm256_shuffle_epi8((__m256i)word_pairs<BFloat16>(x[0], x[1]), apart));
}

SEGFAST_LANES void store_cells(BFloat16* address, const Cell<lanes_t<BFloat16>> (&cells)[2],
                               const uint8_t* mask) {
  __m256i a = (__m256i)word_pairs<BFloat16>(cells[0].a, cells[1].a);
  __m256i b = (__m256i)word_pairs<BFloat16>(cells[0].b, cells[1].b);
  __m256i c = (__m256i)word_pairs<BFloat16>(cells[0].c, cells[1].c);
  __m256i d = (__m256i)word_pairs<BFloat16>(cells[0].d, cells[1].d);
  if (mask != nullptr) {  // vpsign keeps a word beside a positive one, and makes it 0 beside 0
    const __m256i bytes = _mm256_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3,  //
                                           4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
    const __m256i bits = _mm256_shuffle_epi8(_mm256_set1_epi64x(load_vector<int64_t>(mask)), bytes);
    a = _mm256_sign_epi16(a, _mm256_and_si256(bits, _mm256_set1_epi32(0x00100001)));
    b = _mm256_sign_epi16(b, _mm256_and_si256(bits, _mm256_set1_epi32(0x00200002)));
    c = _mm256_sign_epi16(c, _mm256_and_si256(bits, _mm256_set1_epi32(0x00400004)));
    d = _mm256_sign_epi16(d, _mm256_and_si256(bits, _mm256_set1_epi32(0x00800008)));
  }
  const __m256i ab0 = _mm256_unpacklo_epi16(a, b), cd0 = _mm256_unpacklo_epi16(c, d);
  const __m256i ab4 = _mm256_unpackhi_epi16(a, b), cd4 = _mm256_unpackhi_epi16(c, d);
  store_halves(address, address + 32, _mm256_unpacklo_epi32(ab0, cd0));
  store_halves(address + 8, address + 40, _mm256_unpackhi_epi32(ab0, cd0));
  store_halves(address + 16, address + 48, _mm256_unpacklo_epi32(ab4, cd4));
  store_halves(address + 24, address + 56, _mm256_unpackhi_epi32(ab4, cd4));
}

#endif  // SEGFAST_TWO_HALVES

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast

#undef SEGFAST_TWO_HALVES
