// lanes.h: vectors of float (double for double) as wide as the instruction set has them, loaded
// from and stored to any element type, side by side or interleaved by two.
//
// A body file: a kernel's <op>_cpu.h includes it first, once for each instruction set. Before that,
// the .cpp includes <algorithm>, <cstring>, <utility> and common/types.h.
namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Vectors stay in registers only where everything between a load and a store is inlined.
#if !defined(SEGFAST_LANES)
#define SEGFAST_LANES inline __attribute__((always_inline))
#endif

#if defined(SEGFAST_ISA_AVX512)
constexpr int kLaneBytes = 64;
#elif defined(SEGFAST_ISA_AVX2)
constexpr int kLaneBytes = 32;
#else
constexpr int kLaneBytes = 16;
#endif

template <typename A>
struct LaneTypes;
template <>
struct LaneTypes<float> {
  typedef float Value __attribute__((vector_size(kLaneBytes)));
  typedef uint32_t Bits __attribute__((vector_size(kLaneBytes)));
  typedef int32_t Signed __attribute__((vector_size(kLaneBytes)));
};
template <>
struct LaneTypes<double> {
  typedef double Value __attribute__((vector_size(kLaneBytes)));
  typedef uint64_t Bits __attribute__((vector_size(kLaneBytes)));
  typedef int64_t Signed __attribute__((vector_size(kLaneBytes)));
};

// What the elements of type T are computed in.
template <typename T>
constexpr int kLanes = kLaneBytes / static_cast<int>(sizeof(accumulate_t<T>));
template <typename T>
using lanes_t = typename LaneTypes<accumulate_t<T>>::Value;
template <typename T>
using bits_t = typename LaneTypes<accumulate_t<T>>::Bits;
template <typename T>
using signed_t = typename LaneTypes<accumulate_t<T>>::Signed;  // and what comparisons give
template <typename T>
using word_t = std::conditional_t<sizeof(accumulate_t<T>) == 4, uint32_t, uint64_t>;

typedef uint16_t Lanes16 __attribute__((vector_size(kLaneBytes / 2)));
typedef uint16_t TwiceLanes16 __attribute__((vector_size(kLaneBytes)));

template <typename V, typename Element>
SEGFAST_LANES V load_vector(const Element* address) {
  V vector;
  std::memcpy(&vector, address, sizeof vector);
  return vector;
}

template <typename V, typename Element>
SEGFAST_LANES void store_vector(Element* address, V vector) {
  std::memcpy(address, &vector, sizeof vector);
}

// ---- permutations

#if defined(__clang__)
#define SEGFAST_SHUFFLE(x, y, Index, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SEGFAST_SHUFFLE(x, y, Index, ...) __builtin_shuffle(x, y, Index{__VA_ARGS__})
#endif

template <typename V, int... kIndex>
SEGFAST_LANES V evens(V x, V y, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  return SEGFAST_SHUFFLE(x, y, Index, (2 * kIndex)...);
}
template <typename V, int... kIndex>
SEGFAST_LANES V odds(V x, V y, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  return SEGFAST_SHUFFLE(x, y, Index, (2 * kIndex + 1)...);
}
template <typename V, int... kIndex>
SEGFAST_LANES V lower_pairs(V x, V y, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  constexpr int kCount = sizeof...(kIndex);
  return SEGFAST_SHUFFLE(x, y, Index, (kIndex / 2 + kIndex % 2 * kCount)...);
}
template <typename V, int... kIndex>
SEGFAST_LANES V upper_pairs(V x, V y, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  constexpr int kCount = sizeof...(kIndex);
  return SEGFAST_SHUFFLE(x, y, Index, (kCount / 2 + kIndex / 2 + kIndex % 2 * kCount)...);
}
template <typename V, int... kIndex>
SEGFAST_LANES V after_last(V previous, V x, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  constexpr int kCount = sizeof...(kIndex);
  return SEGFAST_SHUFFLE(previous, x, Index, (kCount - 1 + kIndex)...);
}
template <typename V, int... kIndex>
SEGFAST_LANES V before_last(V x, V last, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  return SEGFAST_SHUFFLE(x, last, Index, (kIndex + 1)...);
}
template <typename V, int... kIndex>
SEGFAST_LANES V halves(V lower, V upper, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(lower == lower);
  constexpr int kCount = sizeof...(kIndex);
  return SEGFAST_SHUFFLE(lower, upper, Index, (kIndex < kCount / 2 ? kIndex : kCount + kIndex)...);
}
template <int kDistance, typename V, int... kIndex>
SEGFAST_LANES V lower_blocks(V x, V y, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  constexpr int kCount = sizeof...(kIndex);
  return SEGFAST_SHUFFLE(x, y, Index,
                         ((kIndex & kDistance) != 0 ? kCount + kIndex - kDistance : kIndex)...);
}
template <int kDistance, typename V, int... kIndex>
SEGFAST_LANES V upper_blocks(V x, V y, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  constexpr int kCount = sizeof...(kIndex);
  return SEGFAST_SHUFFLE(x, y, Index,
                         ((kIndex & kDistance) != 0 ? kCount + kIndex : kIndex + kDistance)...);
}
template <int kRun, typename V, int... kIndex>
SEGFAST_LANES V repeat_lanes(V x, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  constexpr int kBlock = 16 / sizeof x[0];  // no lane need cross
  return SEGFAST_SHUFFLE(x, x, Index, (kIndex / kBlock * kBlock + kIndex / kRun % kBlock)...);
}
// In each 16 bytes of x and y.
template <typename V, int... kIndex>
SEGFAST_LANES V lower_pairs_by_16(V x, V y, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  constexpr int kCount = sizeof...(kIndex), kBlock = 16 / sizeof x[0];
  return SEGFAST_SHUFFLE(x, y, Index,
                         (kIndex / kBlock * kBlock + kIndex % kBlock / 2 + kIndex % 2 * kCount)...);
}
template <typename V, int... kIndex>
SEGFAST_LANES V upper_pairs_by_16(V x, V y, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  constexpr int kCount = sizeof...(kIndex), kBlock = 16 / sizeof x[0];
  return SEGFAST_SHUFFLE(
      x, y, Index,
      (kIndex / kBlock * kBlock + kBlock / 2 + kIndex % kBlock / 2 + kIndex % 2 * kCount)...);
}
template <int kFirst, typename V, int... kIndex>
SEGFAST_LANES V every_second_by_16(V x, V y, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  constexpr int kCount = sizeof...(kIndex), kBlock = 16 / sizeof x[0], kHalf = kBlock / 2;
  return SEGFAST_SHUFFLE(x, y, Index,
                         (kIndex / kBlock * kBlock + kIndex % kHalf * 2 + kFirst +
                          kIndex % kBlock / kHalf * kCount)...);
}
template <typename Order, typename V, int... kIndex>
SEGFAST_LANES V reorder(V x, std::integer_sequence<int, kIndex...>) {
  using Index = decltype(x == x);
  return SEGFAST_SHUFFLE(x, x, Index, Order::from(kIndex)...);
}
#undef SEGFAST_SHUFFLE

#if defined(SEGFAST_ISA_AVX2)
// 16 bytes from either address; 16 after the one and 16 before the other may be read. (A blend runs
// on any port, the insertion of what is at an address on one.)
SEGFAST_LANES __m256i join_halves(const void* low, const void* high) {
  const char* const before = static_cast<const char*>(high) - 16;
  return _mm256_blend_epi32(load_vector<__m256i>(static_cast<const char*>(low)),
                            load_vector<__m256i>(before), 0xf0);
}
#endif

template <typename V>
using lane_numbers = std::make_integer_sequence<int, sizeof(V) / sizeof(std::declval<V>()[0])>;

// Of the 2 N lanes of x and y: every second one, from the first or the second on.
template <typename V>
SEGFAST_LANES V evens(V x, V y) {
  return evens(x, y, lane_numbers<V>{});
}
template <typename V>
SEGFAST_LANES V odds(V x, V y) {
  return odds(x, y, lane_numbers<V>{});
}
// x0 y0 x1 y1 ..., the first and the second N lanes of it.
template <typename V>
SEGFAST_LANES V lower_pairs(V x, V y) {
  return lower_pairs(x, y, lane_numbers<V>{});
}
template <typename V>
SEGFAST_LANES V upper_pairs(V x, V y) {
  return upper_pairs(x, y, lane_numbers<V>{});
}
// The lower half of one and the upper half of the other.
template <typename V>
SEGFAST_LANES V halves(V lower, V upper) {
  return halves(lower, upper, lane_numbers<V>{});
}
// The left neighbours of x: the last lane of previous, x0 x1 ...
template <typename V>
SEGFAST_LANES V after_last(V previous, V x) {
  return after_last(previous, x, lane_numbers<V>{});
}
// x1 x2 ... last[0]: the right neighbours of x.
template <typename V>
SEGFAST_LANES V before_last(V x, V last) {
  return before_last(x, last, lane_numbers<V>{});
}

// lower_pairs(), upper_pairs(), evens() and odds() of each 16 bytes of x and y, which no lane
// leaves.
template <typename V>
SEGFAST_LANES V lower_pairs_by_16(V x, V y) {
  return lower_pairs_by_16(x, y, lane_numbers<V>{});
}
template <typename V>
SEGFAST_LANES V upper_pairs_by_16(V x, V y) {
  return upper_pairs_by_16(x, y, lane_numbers<V>{});
}
template <typename V>
SEGFAST_LANES V evens_by_16(V x, V y) {
  return every_second_by_16<0>(x, y, lane_numbers<V>{});
}
template <typename V>
SEGFAST_LANES V odds_by_16(V x, V y) {
  return every_second_by_16<1>(x, y, lane_numbers<V>{});
}

// Lane k becomes what lane Order::from(k) was.
template <typename Order, typename V>
SEGFAST_LANES V reorder(V x) {
  return reorder<Order>(x, lane_numbers<V>{});
}

// x0 in the first kRun lanes, x1 in the next, ..., where every 16 bytes of x hold the same.
template <int kRun, typename V>
SEGFAST_LANES V repeat_lanes(V x) {
  return repeat_lanes<kRun>(x, lane_numbers<V>{});
}

// x0 x1 y0 y1 x4 x5 y4 y5 and x2 x3 y2 y3 x6 x7 y6 y7, for a kDistance of 2 and 8 lanes.
template <int kDistance, typename V>
SEGFAST_LANES V lower_blocks(V x, V y) {
  return lower_blocks<kDistance>(x, y, lane_numbers<V>{});
}
template <int kDistance, typename V>
SEGFAST_LANES V upper_blocks(V x, V y) {
  return upper_blocks<kDistance>(x, y, lane_numbers<V>{});
}

// ---- conversions; 16-bit elements stand in the low half of 32-bit lanes, the high half is 0

template <typename T>
SEGFAST_LANES lanes_t<T> from_words(bits_t<T> words);
template <>
SEGFAST_LANES lanes_t<BFloat16> from_words<BFloat16>(bits_t<BFloat16> words) {
  return (lanes_t<BFloat16>)(words << 16);
}
#if defined(SEGFAST_ISA_AVX512)
// With a mask of all lanes: GCC 12 warns of its own header in the form without one.
SEGFAST_LANES lanes_t<Half> widen_halves(Lanes16 halves) {
  return (lanes_t<Half>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)halves);
}
SEGFAST_LANES Lanes16 narrow_to_halves(lanes_t<Half> values) {
  return (Lanes16)_mm512_maskz_cvtps_ph(0xffff, (__m512)values,
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(SEGFAST_ISA_AVX2)
SEGFAST_LANES lanes_t<Half> widen_halves(Lanes16 halves) {
  return (lanes_t<Half>)_mm256_cvtph_ps((__m128i)halves);
}
SEGFAST_LANES Lanes16 narrow_to_halves(lanes_t<Half> values) {
  __m128i halves = _mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  asm("" : "+x"(halves));  // as one instruction with a store it takes twice as long
  return (Lanes16)halves;
}
#endif

template <>
SEGFAST_LANES lanes_t<Half> from_words<Half>(bits_t<Half> words) {
#if defined(SEGFAST_ISA_AVX2)
  return widen_halves(__builtin_convertvector(words, Lanes16));
#else
  // half_bits_to_float of types.h, whose comments explain it, on a vector. (Signed comparisons: the
  // baseline has no others.)
  typedef int32_t Signed __attribute__((vector_size(kLaneBytes)));
  const bits_t<Half> sign = (words & 0x8000u) << 16, magnitude = (words & 0x7fffu) << 13;
  const lanes_t<Half> scaled = (lanes_t<Half>)magnitude * detail::bits_to_float(0x77800000u);
  const bits_t<Half> special = (bits_t<Half>)((Signed)magnitude >= 0x0f800000) & 0x7f800000u;
  return (lanes_t<Half>)((bits_t<Half>)scaled | special | sign);
#endif
}

template <typename T>
SEGFAST_LANES bits_t<T> to_words(lanes_t<T> values);
// Rounded to the upper half of each word; the lower one holds what was rounded away.
SEGFAST_LANES bits_t<BFloat16> round_upper(lanes_t<BFloat16> values) {
  const bits_t<BFloat16> bits = (bits_t<BFloat16>)values;
  const bits_t<BFloat16> rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return values != values ? bits_t<BFloat16>{} + 0x7fc00000u : rounded;
}
template <>
SEGFAST_LANES bits_t<BFloat16> to_words<BFloat16>(lanes_t<BFloat16> values) {
  return round_upper(values) >> 16;
}
template <>
SEGFAST_LANES bits_t<Half> to_words<Half>(lanes_t<Half> values) {
#if defined(SEGFAST_ISA_AVX2)
  return __builtin_convertvector(narrow_to_halves(values), bits_t<Half>);
#else
  // float_to_half_bits of types.h on a vector.
  using Bits = bits_t<Half>;
  typedef int32_t Signed __attribute__((vector_size(kLaneBytes)));
  const Bits bits = (Bits)values;
  const Bits sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const Bits exponent = magnitude & 0x7f800000u;
  const Bits floor_exponent = (Signed)exponent < 0x38800000 ? Bits{} + 0x38800000u : exponent;
  const Bits rounded =
      (Bits)((lanes_t<Half>)magnitude + (lanes_t<Half>)(floor_exponent + 0x06800000u));
  Bits half = ((floor_exponent - 0x38800000u) >> 13) + (rounded & 0x0fffu);
  half = (Signed)magnitude >= 0x47800000 ? Bits{} + 0x7c00u : half;
  half = (Signed)magnitude > 0x7f800000 ? Bits{} + 0x7e00u : half;
  return half | sign;
#endif
}

// to_words of values that T holds exactly: what was loaded from T and only moved or compared.
template <typename T>
SEGFAST_LANES bits_t<T> exact_words(lanes_t<T> values) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return (bits_t<T>)values >> 16;
  } else if constexpr (std::is_same_v<T, Half>) {
    return to_words<T>(values);
  } else {
    return (bits_t<T>)values;
  }
}

template <typename T>
constexpr bool kNarrow = sizeof(T) == 2;

// ---- 16-bit elements of N 32-bit lanes (GCC 12 converts vectors in halves)

#if defined(SEGFAST_ISA_AVX512)
SEGFAST_LANES LaneTypes<float>::Bits widen16(Lanes16 x) {
  return (LaneTypes<float>::Bits)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)x);
}
SEGFAST_LANES Lanes16 narrow16(LaneTypes<float>::Bits x) {
  return (Lanes16)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)x);
}
#elif defined(SEGFAST_ISA_AVX2)
SEGFAST_LANES LaneTypes<float>::Bits widen16(Lanes16 x) {
  return (LaneTypes<float>::Bits)_mm256_cvtepu16_epi32((__m128i)x);
}
SEGFAST_LANES Lanes16 narrow16(LaneTypes<float>::Bits x) {
  const __m256i packed = _mm256_packus_epi32((__m256i)x, (__m256i)x);
  return (Lanes16)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, _MM_SHUFFLE(2, 0, 2, 0)));
}
#else
SEGFAST_LANES LaneTypes<float>::Bits widen16(Lanes16 x) {
  return __builtin_convertvector(x, LaneTypes<float>::Bits);
}
SEGFAST_LANES Lanes16 narrow16(LaneTypes<float>::Bits x) {
  return __builtin_convertvector(x, Lanes16);
}
#endif

// ---- the lanes of either half of x, as ones of twice the width

#if defined(SEGFAST_ISA_AVX512)
SEGFAST_LANES LaneTypes<double>::Bits lower_wide(LaneTypes<float>::Bits x) {
  return (LaneTypes<double>::Bits)_mm512_maskz_cvtepu32_epi64(
      0xff, _mm512_maskz_extracti64x4_epi64(0xff, (__m512i)x, 0));
}
SEGFAST_LANES LaneTypes<double>::Bits upper_wide(LaneTypes<float>::Bits x) {
  return (LaneTypes<double>::Bits)_mm512_maskz_cvtepu32_epi64(
      0xff, _mm512_maskz_extracti64x4_epi64(0xff, (__m512i)x, 1));
}
SEGFAST_LANES LaneTypes<float>::Bits lower_wide(TwiceLanes16 x) {
  return widen16((Lanes16)_mm512_maskz_extracti64x4_epi64(0xff, (__m512i)x, 0));
}
SEGFAST_LANES LaneTypes<float>::Bits upper_wide(TwiceLanes16 x) {
  return widen16((Lanes16)_mm512_maskz_extracti64x4_epi64(0xff, (__m512i)x, 1));
}
#elif defined(SEGFAST_ISA_AVX2)
SEGFAST_LANES LaneTypes<double>::Bits lower_wide(LaneTypes<float>::Bits x) {
  return (LaneTypes<double>::Bits)_mm256_cvtepu32_epi64(_mm256_castsi256_si128((__m256i)x));
}
SEGFAST_LANES LaneTypes<double>::Bits upper_wide(LaneTypes<float>::Bits x) {
  return (LaneTypes<double>::Bits)_mm256_cvtepu32_epi64(_mm256_extracti128_si256((__m256i)x, 1));
}
SEGFAST_LANES LaneTypes<float>::Bits lower_wide(TwiceLanes16 x) {
  return widen16((Lanes16)_mm256_castsi256_si128((__m256i)x));
}
SEGFAST_LANES LaneTypes<float>::Bits upper_wide(TwiceLanes16 x) {
  return widen16((Lanes16)_mm256_extracti128_si256((__m256i)x, 1));
}
#else
SEGFAST_LANES LaneTypes<double>::Bits lower_wide(LaneTypes<float>::Bits x) {
  return (LaneTypes<double>::Bits)lower_pairs(x, LaneTypes<float>::Bits{});
}
SEGFAST_LANES LaneTypes<double>::Bits upper_wide(LaneTypes<float>::Bits x) {
  return (LaneTypes<double>::Bits)upper_pairs(x, LaneTypes<float>::Bits{});
}
SEGFAST_LANES LaneTypes<float>::Bits lower_wide(TwiceLanes16 x) {
  return (LaneTypes<float>::Bits)lower_pairs(x, TwiceLanes16{});
}
SEGFAST_LANES LaneTypes<float>::Bits upper_wide(TwiceLanes16 x) {
  return (LaneTypes<float>::Bits)upper_pairs(x, TwiceLanes16{});
}
#endif

// ---- N elements as words: 16-bit ones as above, others as their own bits

template <typename T>
SEGFAST_LANES bits_t<T> load_words(const T* address) {
  if constexpr (kNarrow<T>) {
    return widen16(load_vector<Lanes16>(address));
  } else {
    return load_vector<bits_t<T>>(address);
  }
}

template <typename T>
SEGFAST_LANES void store_words(T* address, bits_t<T> words) {
  if constexpr (kNarrow<T>) {
    store_vector(address, narrow16(words));
  } else {
    store_vector(address, words);
  }
}

template <typename T>
struct WordPair {
  bits_t<T> even, odd;
};

// The 2 N elements x0 y0 x1 y1 ...
template <typename T>
SEGFAST_LANES WordPair<T> load_word_pairs(const T* address) {
  const auto x = load_vector<bits_t<T>>(address);
  if constexpr (kNarrow<T>) {
    return {x & 0xffffu, x >> 16};
  } else {
#if defined(SEGFAST_ISA_AVX2) && !defined(SEGFAST_ISA_AVX512)
    if constexpr (sizeof(T) == 4) {
      // Joined from halves as they are loaded, so that no lane need cross (GCC 12 moves each of the
      // two vectors across, for either result).
      const __m256 low = (__m256)join_halves(address, address + 8);
      const __m256 high = (__m256)join_halves(address + 4, address + 12);
      return {(bits_t<T>)_mm256_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)),
              (bits_t<T>)_mm256_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1))};
    }
#endif
    const auto y = load_vector<bits_t<T>>(address + kLanes<T>);
    return {evens(x, y), odds(x, y)};
  }
}

template <typename T>
SEGFAST_LANES void store_word_pairs(T* address, bits_t<T> even, bits_t<T> odd) {
  if constexpr (kNarrow<T>) {
    store_vector(address, even | odd << 16);
  } else {
    store_vector(address, lower_pairs(even, odd));
    store_vector(address + kLanes<T>, upper_pairs(even, odd));
  }
}

// ---- the same as values

template <typename T>
SEGFAST_LANES lanes_t<T> values_of(bits_t<T> words) {
  if constexpr (kNarrow<T>) {
    return from_words<T>(words);
  } else {
    return (lanes_t<T>)words;
  }
}

template <typename T>
SEGFAST_LANES bits_t<T> words_of(lanes_t<T> values) {
  if constexpr (kNarrow<T>) {
    return to_words<T>(values);
  } else {
    return (bits_t<T>)values;
  }
}

template <typename T>
SEGFAST_LANES lanes_t<T> load_lanes(const T* address) {
#if defined(SEGFAST_ISA_AVX2)
  if constexpr (std::is_same_v<T, Half>) return widen_halves(load_vector<Lanes16>(address));
#endif
  return values_of<T>(load_words(address));
}

template <typename T>
SEGFAST_LANES void store_lanes(T* address, lanes_t<T> values) {
#if defined(SEGFAST_ISA_AVX2)
  if constexpr (std::is_same_v<T, Half>) return store_vector(address, narrow_to_halves(values));
#endif
  store_words(address, words_of<T>(values));
}

// The same of values that T holds exactly.
template <typename T>
SEGFAST_LANES void store_exact(T* address, lanes_t<T> values) {
  if constexpr (std::is_same_v<T, Half>) {
    store_lanes(address, values);
  } else {
    store_words(address, exact_words<T>(values));
  }
}

// ---- bytes, one for each lane of V (GCC 12 converts vectors of them one by one)

#if SEGFAST_X86_VARIANTS
template <typename V>
SEGFAST_LANES V widen_bytes(const uint8_t* address) {
  constexpr int kBytes = sizeof(V) / sizeof(std::declval<V>()[0]), kSize = sizeof(V) / kBytes;
#if defined(SEGFAST_ISA_AVX512)
  if constexpr (kSize == 2) {
    __m256i all;
    std::memcpy(&all, address, kBytes);
    return (V)_mm512_maskz_cvtepu8_epi16(0xffffffff, all);
  }
#endif
  __m128i x = _mm_setzero_si128();
  std::memcpy(&x, address, std::min<size_t>(kBytes, sizeof x));
#if defined(SEGFAST_ISA_AVX512)
  if constexpr (kSize == 8) return (V)_mm512_maskz_cvtepu8_epi64(0xff, x);
  return (V)_mm512_maskz_cvtepu8_epi32(0xffff, x);
#elif defined(SEGFAST_ISA_AVX2)
  if constexpr (kSize == 8) return (V)_mm256_cvtepu8_epi64(x);
  if constexpr (kSize == 4) return (V)_mm256_cvtepu8_epi32(x);
  return (V)_mm256_cvtepu8_epi16(x);
#else
  const __m128i zero = _mm_setzero_si128();
  x = _mm_unpacklo_epi8(x, zero);
  if constexpr (kSize >= 4) x = _mm_unpacklo_epi16(x, zero);
  if constexpr (kSize == 8) x = _mm_unpacklo_epi32(x, zero);
  return (V)x;
#endif
}

// The low byte of each lane; of 16-bit ones, where the other is 0.
template <typename V>
SEGFAST_LANES void narrow_to_bytes(uint8_t* address, V lanes) {
  constexpr int kBytes = sizeof(V) / sizeof(lanes[0]), kSize = sizeof(V) / kBytes;
  if constexpr (kSize == 2) {
#if defined(SEGFAST_ISA_AVX512)
    const __m256i all = _mm512_maskz_cvtepi16_epi8(~__mmask32{}, (__m512i)lanes);
#elif defined(SEGFAST_ISA_AVX2)
    const __m128i all = _mm_packus_epi16(_mm256_castsi256_si128((__m256i)lanes),
                                         _mm256_extracti128_si256((__m256i)lanes, 1));
#else
    const __m128i all = _mm_packus_epi16((__m128i)lanes, (__m128i)lanes);
#endif
    std::memcpy(address, &all, kBytes);
    return;
  }
  __m128i x;
#if defined(SEGFAST_ISA_AVX512)
  if constexpr (kSize == 8) {
    x = _mm512_maskz_cvtepi64_epi8(0xff, (__m512i)lanes);
  } else {
    x = _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)lanes);
  }
#else
  const V low = lanes & 0xff;
#if defined(SEGFAST_ISA_AVX2)
  if constexpr (kSize == 8) {
    x = _mm256_castsi256_si128(
        _mm256_permutevar8x32_epi32((__m256i)low, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6)));
    x = _mm_packs_epi32(x, x);
  } else {
    x = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)low),
                        _mm256_extracti128_si256((__m256i)low, 1));
  }
#else
  x = (__m128i)low;
  if constexpr (kSize == 8) x = _mm_shuffle_epi32(x, _MM_SHUFFLE(2, 0, 2, 0));
  x = _mm_packs_epi32(x, x);
#endif
  x = _mm_packus_epi16(x, x);
#endif
  std::memcpy(address, &x, kBytes);
}
#else
template <typename V>
SEGFAST_LANES V widen_bytes(const uint8_t* address) {
  V lanes;
  for (unsigned k = 0; k < sizeof(V) / sizeof(lanes[0]); ++k) lanes[k] = address[k];
  return lanes;
}
template <typename V>
SEGFAST_LANES void narrow_to_bytes(uint8_t* address, V lanes) {
  for (unsigned k = 0; k < sizeof(V) / sizeof(lanes[0]); ++k) {
    address[k] = static_cast<uint8_t>(lanes[k]);
  }
}
#endif

// The low byte of each 32-bit lane of four vectors, where no lane is more than 127, as one vector.
// (A store of all of them can be read back at once, four that are narrower cannot.)
template <typename V>
SEGFAST_LANES V join_bytes(V a, V b, V c, V d) {
#if defined(SEGFAST_ISA_AVX512)
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i ab = _mm512_maskz_packs_epi32(~__mmask32{}, (__m512i)a, (__m512i)b);
  const __m512i cd = _mm512_maskz_packs_epi32(~__mmask32{}, (__m512i)c, (__m512i)d);
  const __m512i bytes = _mm512_maskz_packs_epi16(~__mmask64{}, ab, cd);
  return (V)_mm512_maskz_permutexvar_epi32(0xffff, order, bytes);
#elif defined(SEGFAST_ISA_AVX2)
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32((__m256i)a, (__m256i)b),
                                           _mm256_packs_epi32((__m256i)c, (__m256i)d));
  return (V)_mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
#elif SEGFAST_X86_VARIANTS
  return (V)_mm_packs_epi16(_mm_packs_epi32((__m128i)a, (__m128i)b),
                            _mm_packs_epi32((__m128i)c, (__m128i)d));
#else
  uint8_t bytes[sizeof(V)];
  narrow_to_bytes(bytes, a);
  narrow_to_bytes(bytes + sizeof(V) / 4, b);
  narrow_to_bytes(bytes + sizeof(V) / 2, c);
  narrow_to_bytes(bytes + sizeof(V) / 4 * 3, d);
  return load_vector<V>(bytes);
#endif
}

// The same of two vectors of 16-bit lanes.
template <typename V>
SEGFAST_LANES V join_bytes(V a, V b) {
#if defined(SEGFAST_ISA_AVX512)
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  const __m512i bytes = _mm512_maskz_packus_epi16(~__mmask64{}, (__m512i)a, (__m512i)b);
  return (V)_mm512_maskz_permutexvar_epi64(0xff, order, bytes);
#elif defined(SEGFAST_ISA_AVX2)
  return (V)_mm256_permute4x64_epi64(_mm256_packus_epi16((__m256i)a, (__m256i)b),
                                     _MM_SHUFFLE(3, 1, 2, 0));
#elif SEGFAST_X86_VARIANTS
  return (V)_mm_packus_epi16((__m128i)a, (__m128i)b);
#else
  uint8_t bytes[sizeof(V)];
  narrow_to_bytes(bytes, a);
  narrow_to_bytes(bytes + sizeof(V) / 2, b);
  return load_vector<V>(bytes);
#endif
}

// 32-bit lanes as 16-bit ones, or the nearest there is: in each 16 bytes those of a, then those of
// b.
SEGFAST_LANES TwiceLanes16 saturate_by_16(LaneTypes<float>::Bits a, LaneTypes<float>::Bits b) {
#if defined(SEGFAST_ISA_AVX512)
  return (TwiceLanes16)_mm512_maskz_packs_epi32(~__mmask32{}, (__m512i)a, (__m512i)b);
#elif defined(SEGFAST_ISA_AVX2)
  return (TwiceLanes16)_mm256_packs_epi32((__m256i)a, (__m256i)b);
#elif SEGFAST_X86_VARIANTS
  return (TwiceLanes16)_mm_packs_epi32((__m128i)a, (__m128i)b);
#else
  using Signed = LaneTypes<float>::Signed;
  TwiceLanes16 near[2];
  for (int v = 0; v < 2; ++v) {
    const Signed x = (Signed)(v == 0 ? a : b), above = x < -0x8000 ? Signed{} - 0x8000 : x;
    near[v] = (TwiceLanes16)(above > 0x7fff ? Signed{} + 0x7fff : above);
  }
  return evens_by_16(near[0], near[1]);
#endif
}

template <typename T>
struct Pair {
  lanes_t<T> even, odd;
};

#if defined(SEGFAST_ISA_AVX2)
// For a shuffle of bytes: the even ones of eight 16-bit elements before the odd ones.
SEGFAST_LANES __m128i pairs_apart() {
  return _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
}
#endif

#if defined(SEGFAST_ISA_AVX512)
SEGFAST_LANES TwiceLanes16 apart_by_16(TwiceLanes16 x) {
  const __m512i apart = _mm512_maskz_broadcast_i32x4(0xffff, pairs_apart());
  return (TwiceLanes16)_mm512_maskz_shuffle_epi8(~__mmask64{}, (__m512i)x, apart);
}
#elif defined(SEGFAST_ISA_AVX2)
SEGFAST_LANES TwiceLanes16 apart_by_16(TwiceLanes16 x) {
  return (TwiceLanes16)_mm256_shuffle_epi8((__m256i)x, _mm256_broadcastsi128_si256(pairs_apart()));
}
#endif

template <typename T>
SEGFAST_LANES Pair<T> load_pairs(const T* address) {
#if defined(SEGFAST_ISA_AVX2) && !defined(SEGFAST_ISA_AVX512)
  if constexpr (std::is_same_v<T, Half>) {  // apart before they are widened: no lane need cross
    const __m128i x = _mm_shuffle_epi8(load_vector<__m128i>(address), pairs_apart());
    const __m128i y = _mm_shuffle_epi8(load_vector<__m128i>(address + 8), pairs_apart());
    return {widen_halves((Lanes16)_mm_unpacklo_epi64(x, y)),
            widen_halves((Lanes16)_mm_unpackhi_epi64(x, y))};
  }
#endif
  if constexpr (std::is_same_v<T, BFloat16>) {  // GCC 12 would clear the bits that a shift drops
    const auto words = load_vector<bits_t<T>>(address);
    return {(lanes_t<T>)(words << 16), (lanes_t<T>)(words & 0xffff0000u)};
  }
  const WordPair<T> words = load_word_pairs(address);
  return {values_of<T>(words.even), values_of<T>(words.odd)};
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
