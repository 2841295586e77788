// emulated_avx512.h: the AVX-512 intrinsics that the CPU kernels use, lane by lane as Intel's
// Intrinsics Guide defines them, so that the widest variant of the kernels runs on any machine that
// has AVX2. `cmake --preset emulated` compiles everything with this header before it.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace segfast::emulated {

#define SEGFAST_EMULATED inline __attribute__((always_inline))

template <typename Lane, typename V>
struct Lanes {
  static constexpr int kCount = sizeof(V) / sizeof(Lane);
  Lane at[kCount];
  SEGFAST_EMULATED explicit Lanes(const V& vector) { std::memcpy(at, &vector, sizeof at); }
  SEGFAST_EMULATED Lanes() : at{} {}
  SEGFAST_EMULATED V vector() const {
    V vector;
    std::memcpy(&vector, at, sizeof vector);
    return vector;
  }
};

SEGFAST_EMULATED bool has(uint64_t mask, int lane) { return (mask >> lane & 1) != 0; }

// Widened without a sign, or cut to the low bits; 0 in what is left of a wider result.
template <typename From, typename To, typename Out, typename In>
SEGFAST_EMULATED Out convert(uint64_t mask, In x) {
  const Lanes<From, In> in(x);
  Lanes<To, Out> out;
  for (int i = 0; i < std::min(in.kCount, out.kCount); ++i) {
    if (has(mask, i)) out.at[i] = static_cast<To>(in.at[i]);
  }
  return out.vector();
}

// Each 128 bits: those of a, then those of b, as near as To can come.
template <typename From, typename To>
SEGFAST_EMULATED __m512i pack(uint64_t mask, __m512i a, __m512i b) {
  constexpr int kHalf = 8 / sizeof(To);
  const Lanes<From, __m512i> low(a), high(b);
  Lanes<To, __m512i> out;
  for (int i = 0; i < out.kCount; ++i) {
    const int block = i / (2 * kHalf), place = i % (2 * kHalf);
    const From x = (place < kHalf ? low : high).at[block * kHalf + place % kHalf];
    const From least = std::numeric_limits<To>::min(), most = std::numeric_limits<To>::max();
    if (has(mask, i)) out.at[i] = static_cast<To>(std::clamp(x, least, most));
  }
  return out.vector();
}

template <typename Lane>
SEGFAST_EMULATED __m512i permutexvar(uint64_t mask, __m512i index, __m512i x) {
  const Lanes<Lane, __m512i> from(index), in(x);
  Lanes<Lane, __m512i> out;
  for (int i = 0; i < out.kCount; ++i) {
    if (has(mask, i)) out.at[i] = in.at[from.at[i] & (out.kCount - 1)];
  }
  return out.vector();
}

SEGFAST_EMULATED __m512 permutevar_ps(uint64_t mask, __m512 x, __m512i control) {
  const Lanes<float, __m512> in(x);
  const Lanes<uint32_t, __m512i> from(control);
  Lanes<float, __m512> out;
  for (int i = 0; i < out.kCount; ++i) {
    if (has(mask, i)) out.at[i] = in.at[(i & ~3) + static_cast<int>(from.at[i] & 3)];
  }
  return out.vector();
}

SEGFAST_EMULATED __m512i shuffle_epi8(uint64_t mask, __m512i x, __m512i control) {
  const Lanes<uint8_t, __m512i> in(x), from(control);
  Lanes<uint8_t, __m512i> out;
  for (int i = 0; i < out.kCount; ++i) {
    if (has(mask, i) && from.at[i] < 128) out.at[i] = in.at[(i & ~15) + (from.at[i] & 15)];
  }
  return out.vector();
}

SEGFAST_EMULATED __m512i blend_epi8(uint64_t mask, __m512i x, __m512i y) {
  const Lanes<uint8_t, __m512i> a(x), b(y);
  Lanes<uint8_t, __m512i> out;
  for (int i = 0; i < out.kCount; ++i) out.at[i] = has(mask, i) ? b.at[i] : a.at[i];
  return out.vector();
}

SEGFAST_EMULATED uint64_t movepi8_mask(__m512i x) {
  const Lanes<uint8_t, __m512i> in(x);
  uint64_t mask = 0;
  for (int i = 0; i < in.kCount; ++i) mask |= static_cast<uint64_t>(in.at[i] >> 7) << i;
  return mask;
}

SEGFAST_EMULATED uint16_t test_epi32_mask(__m512i x, __m512i y) {
  const Lanes<uint32_t, __m512i> a(x), b(y);
  unsigned mask = 0;
  for (int i = 0; i < a.kCount; ++i) mask |= ((a.at[i] & b.at[i]) != 0 ? 1u : 0u) << i;
  return static_cast<uint16_t>(mask);
}

SEGFAST_EMULATED __m512i broadcast_i32x4(uint64_t mask, __m128i x) {
  const Lanes<uint32_t, __m128i> in(x);
  Lanes<uint32_t, __m512i> out;
  for (int i = 0; i < out.kCount; ++i) out.at[i] = has(mask, i) ? in.at[i % 4] : 0;
  return out.vector();
}

SEGFAST_EMULATED __m256i extracti64x4(uint64_t mask, __m512i x, int half) {
  const Lanes<uint64_t, __m512i> in(x);
  Lanes<uint64_t, __m256i> out;
  for (int i = 0; i < out.kCount; ++i) out.at[i] = has(mask, i) ? in.at[4 * half + i] : 0;
  return out.vector();
}

template <typename Lane, typename... Values>
SEGFAST_EMULATED __m512i setr(Values... values) {
  const Lane all[] = {static_cast<Lane>(values)...};
  __m512i vector;
  static_assert(sizeof all == sizeof vector);
  std::memcpy(&vector, all, sizeof vector);
  return vector;
}

// Of a NaN and a number, or two zeros, the second.
template <typename Lane, typename V>
SEGFAST_EMULATED V max(uint64_t mask, V x, V y) {
  const Lanes<Lane, V> a(x), b(y);
  Lanes<Lane, V> out;
  for (int i = 0; i < out.kCount; ++i) {
    if (has(mask, i)) out.at[i] = a.at[i] > b.at[i] ? a.at[i] : b.at[i];
  }
  return out.vector();
}

template <typename Lane, typename V>
SEGFAST_EMULATED V fmadd(V x, V y, V z) {
  const Lanes<Lane, V> a(x), b(y), c(z);
  Lanes<Lane, V> out;
  for (int i = 0; i < out.kCount; ++i) out.at[i] = std::fma(a.at[i], b.at[i], c.at[i]);
  return out.vector();
}

SEGFAST_EMULATED __m512 cvtph_ps(uint64_t mask, __m256i x) {
  const Lanes<__m128i, __m256i> in(x);
  Lanes<__m256, __m512> halves;
  for (int half = 0; half < 2; ++half) halves.at[half] = _mm256_cvtph_ps(in.at[half]);
  Lanes<float, __m512> out(halves.vector());
  for (int i = 0; i < out.kCount; ++i) out.at[i] = has(mask, i) ? out.at[i] : 0;
  return out.vector();
}

// Rounded to the nearest, whatever is asked for.
SEGFAST_EMULATED __m256i cvtps_ph(uint64_t mask, __m512 x) {
  const Lanes<__m256, __m512> in(x);
  Lanes<__m128i, __m256i> halves;
  for (int half = 0; half < 2; ++half) {
    halves.at[half] = _mm256_cvtps_ph(in.at[half], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  Lanes<uint16_t, __m256i> out(halves.vector());
  for (int i = 0; i < out.kCount; ++i) out.at[i] = has(mask, i) ? out.at[i] : uint16_t{0};
  return out.vector();
}

#undef SEGFAST_EMULATED

}  // namespace segfast::emulated

#pragma GCC pop_options

#define _mm512_fmadd_pd(x, y, z) ::segfast::emulated::fmadd<double>(x, y, z)
#define _mm512_fmadd_ps(x, y, z) ::segfast::emulated::fmadd<float>(x, y, z)
#define _mm512_mask_blend_epi8(mask, x, y) ::segfast::emulated::blend_epi8(mask, x, y)
#define _mm512_maskz_broadcast_i32x4(mask, x) ::segfast::emulated::broadcast_i32x4(mask, x)
#define _mm512_maskz_cvtepi16_epi8(mask, x) \
  ::segfast::emulated::convert<uint16_t, uint8_t, __m256i>(mask, x)
#define _mm512_maskz_cvtepi32_epi16(mask, x) \
  ::segfast::emulated::convert<uint32_t, uint16_t, __m256i>(mask, x)
#define _mm512_maskz_cvtepi32_epi8(mask, x) \
  ::segfast::emulated::convert<uint32_t, uint8_t, __m128i>(mask, x)
#define _mm512_maskz_cvtepi64_epi8(mask, x) \
  ::segfast::emulated::convert<uint64_t, uint8_t, __m128i>(mask, x)
#define _mm512_maskz_cvtepu16_epi32(mask, x) \
  ::segfast::emulated::convert<uint16_t, uint32_t, __m512i>(mask, x)
#define _mm512_maskz_cvtepu32_epi64(mask, x) \
  ::segfast::emulated::convert<uint32_t, uint64_t, __m512i>(mask, x)
#define _mm512_maskz_cvtepu8_epi16(mask, x) \
  ::segfast::emulated::convert<uint8_t, uint16_t, __m512i>(mask, x)
#define _mm512_maskz_cvtepu8_epi32(mask, x) \
  ::segfast::emulated::convert<uint8_t, uint32_t, __m512i>(mask, x)
#define _mm512_maskz_cvtepu8_epi64(mask, x) \
  ::segfast::emulated::convert<uint8_t, uint64_t, __m512i>(mask, x)
#define _mm512_maskz_cvtph_ps(mask, x) ::segfast::emulated::cvtph_ps(mask, x)
#define _mm512_maskz_cvtps_ph(mask, x, rounding) ::segfast::emulated::cvtps_ph(mask, x)
#define _mm512_maskz_extracti64x4_epi64(mask, x, half) \
  ::segfast::emulated::extracti64x4(mask, x, half)
#define _mm512_maskz_max_pd(mask, x, y) ::segfast::emulated::max<double>(mask, x, y)
#define _mm512_maskz_max_ps(mask, x, y) ::segfast::emulated::max<float>(mask, x, y)
#define _mm512_maskz_packs_epi16(mask, x, y) ::segfast::emulated::pack<int16_t, int8_t>(mask, x, y)
#define _mm512_maskz_packs_epi32(mask, x, y) ::segfast::emulated::pack<int32_t, int16_t>(mask, x, y)
#define _mm512_maskz_packus_epi16(mask, x, y) \
  ::segfast::emulated::pack<int16_t, uint8_t>(mask, x, y)
#define _mm512_maskz_permutevar_ps(mask, x, y) ::segfast::emulated::permutevar_ps(mask, x, y)
#define _mm512_maskz_permutexvar_epi32(mask, index, x) \
  ::segfast::emulated::permutexvar<uint32_t>(mask, index, x)
#define _mm512_maskz_permutexvar_epi64(mask, index, x) \
  ::segfast::emulated::permutexvar<uint64_t>(mask, index, x)
#define _mm512_maskz_shuffle_epi8(mask, x, y) ::segfast::emulated::shuffle_epi8(mask, x, y)
#define _mm512_movepi8_mask(x) ::segfast::emulated::movepi8_mask(x)
#define _mm512_setr_epi32(...) ::segfast::emulated::setr<uint32_t>(__VA_ARGS__)
#define _mm512_setr_epi64(...) ::segfast::emulated::setr<uint64_t>(__VA_ARGS__)
#define _mm512_test_epi32_mask(x, y) ::segfast::emulated::test_epi32_mask(x, y)
