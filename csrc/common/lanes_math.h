// lanes_math.h: arithmetic of lanes.h's vectors: fused multiply-add, selections, sums, exp and log.
//
// Results may differ by rounding from one instruction set to another, since the baseline has no
// fused multiply-add; never from run to run, nor with the number of threads.
//
// A body file: include it after lanes.h. Before that, the .cpp includes <cmath>. scalar_math.h has
// the same names for one number.
namespace segfast {
namespace SEGFAST_ISA {
namespace {

using Floats = lanes_t<float>;
using Doubles = lanes_t<double>;

// a * b + c, rounded once where the instruction set can.
#if defined(SEGFAST_ISA_AVX512)
SEGFAST_LANES Floats madd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
SEGFAST_LANES Doubles madd(Doubles a, Doubles b, Doubles c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(SEGFAST_ISA_AVX2)
SEGFAST_LANES Floats madd(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
SEGFAST_LANES Doubles madd(Doubles a, Doubles b, Doubles c) { return _mm256_fmadd_pd(a, b, c); }
#else
SEGFAST_LANES Floats madd(Floats a, Floats b, Floats c) { return a * b + c; }
SEGFAST_LANES Doubles madd(Doubles a, Doubles b, Doubles c) { return a * b + c; }
#endif

// x > y ? x : y, and so y where either is NaN. (GCC makes a comparison and a selection of that.)
#if defined(SEGFAST_ISA_AVX512)
SEGFAST_LANES Floats larger(Floats x, Floats y) { return _mm512_maskz_max_ps(0xffff, x, y); }
SEGFAST_LANES Doubles larger(Doubles x, Doubles y) { return _mm512_maskz_max_pd(0xff, x, y); }
#elif defined(SEGFAST_ISA_AVX2)
SEGFAST_LANES Floats larger(Floats x, Floats y) { return _mm256_max_ps(x, y); }
SEGFAST_LANES Doubles larger(Doubles x, Doubles y) { return _mm256_max_pd(x, y); }
#elif SEGFAST_X86_VARIANTS
SEGFAST_LANES Floats larger(Floats x, Floats y) { return _mm_max_ps(x, y); }
SEGFAST_LANES Doubles larger(Doubles x, Doubles y) { return _mm_max_pd(x, y); }
#else
SEGFAST_LANES Floats larger(Floats x, Floats y) { return x > y ? x : y; }
SEGFAST_LANES Doubles larger(Doubles x, Doubles y) { return x > y ? x : y; }
#endif
// The same of integers.
template <typename V>
SEGFAST_LANES V larger(V x, V y) {
  return x > y ? x : y;
}

// Whether x or y is NaN.
#if defined(SEGFAST_ISA_AVX2) && !defined(SEGFAST_ISA_AVX512)
SEGFAST_LANES signed_t<float> either_nan(Floats x, Floats y) {
  return (signed_t<float>)_mm256_cmp_ps(x, y, _CMP_UNORD_Q);
}
SEGFAST_LANES signed_t<double> either_nan(Doubles x, Doubles y) {
  return (signed_t<double>)_mm256_cmp_pd(x, y, _CMP_UNORD_Q);
}
#elif SEGFAST_X86_VARIANTS && !defined(SEGFAST_ISA_AVX512)
SEGFAST_LANES signed_t<float> either_nan(Floats x, Floats y) {
  return (signed_t<float>)_mm_cmpunord_ps(x, y);
}
SEGFAST_LANES signed_t<double> either_nan(Doubles x, Doubles y) {
  return (signed_t<double>)_mm_cmpunord_pd(x, y);
}
#else
template <typename V>
SEGFAST_LANES auto either_nan(V x, V y) {
  return (x != x) | (y != y);
}
#endif

// Whether any bit is set.
template <typename Mask>
SEGFAST_LANES bool any_lane(Mask mask) {
#if defined(SEGFAST_ISA_AVX512)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(SEGFAST_ISA_AVX2)
  return _mm256_testz_si256((__m256i)mask, (__m256i)mask) == 0;
#elif SEGFAST_X86_VARIANTS
  return _mm_movemask_epi8(_mm_cmpeq_epi32((__m128i)mask, _mm_setzero_si128())) != 0xffff;
#else
  int64_t any = 0;
  for (unsigned k = 0; k < sizeof mask / sizeof mask[0]; ++k) any |= mask[k];
  return any != 0;
#endif
}

// x in every lane. (0 + x would cost an addition, since it turns -0 into 0.)
template <typename V, typename S>
SEGFAST_LANES V splat(S x) {
  return x - V{};
}

template <typename V>
SEGFAST_LANES V constant(double x) {
  return splat<V>(static_cast<std::remove_reference_t<decltype(std::declval<V&>()[0])>>(x));
}

template <typename Mask, typename V>
SEGFAST_LANES V select(Mask mask, V x, V y) {
  return mask ? x : y;
}

// x where the mask is set, else 0.
template <typename V, typename Mask>
SEGFAST_LANES V keep(Mask mask, V x) {
  return (V)((Mask)x & mask);
}

// The lanes' sum, in halves.
template <typename V>
SEGFAST_LANES double sum_lanes(V x) {
  constexpr int kCount = sizeof x / sizeof x[0];
  std::remove_reference_t<decltype(x[0])> lane[kCount];
  std::memcpy(lane, &x, sizeof x);
  for (int width = kCount / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return static_cast<double>(lane[0]);
}

// table[k], k being the low two bits of each lane; the table repeats every four lanes.
SEGFAST_LANES bits_t<float> lookup_four(bits_t<float> table, bits_t<float> lanes) {
#if defined(SEGFAST_ISA_AVX512)
  return (bits_t<float>)_mm512_maskz_permutevar_ps(0xffff, (__m512)table, (__m512i)lanes);
#elif defined(SEGFAST_ISA_AVX2)
  return (bits_t<float>)_mm256_permutevar_ps((__m256)table, (__m256i)lanes);
#else
  const bits_t<float> none{};
  const auto is_odd = (lanes & 1) != none;
  const bits_t<float> low = is_odd ? none + table[1] : none + table[0];
  const bits_t<float> high = is_odd ? none + table[3] : none + table[2];
  return (lanes & 2) != none ? high : low;
#endif
}

// The bits of 2^(k / 4), less k / 4 of an exponent's step.
alignas(64) constexpr uint32_t kQuarterPowers[16] = {
    0x3f800000u, 0x3f7837f0u, 0x3f7504f3u, 0x3f7744fdu,  //
    0x3f800000u, 0x3f7837f0u, 0x3f7504f3u, 0x3f7744fdu,  //
    0x3f800000u, 0x3f7837f0u, 0x3f7504f3u, 0x3f7744fdu,  //
    0x3f800000u, 0x3f7837f0u, 0x3f7504f3u, 0x3f7744fdu};

// exp(x) for x <= 0, to 2 ulp down to -87.3, below which it is less than the smallest normal number
// and from -88.1 on exactly 0. NaN stays NaN.
SEGFAST_LANES Floats exp_nonpositive(Floats x) {
  // x = n ln(2)/4 + r, |r| <= ln(2)/8. Adding 1.5 * 2^23 rounds 4 x / ln 2 to the integer n, which
  // then stands in the sum's low bits: two choose a power of 2 from a table, to whose exponent the
  // rest is added. A table makes the polynomial shorter, and time goes with the longest chain of
  // dependent operations. The lower bound has n = -508, which is 0.
  const Floats shifter = Floats{} + 12582912.0f;
  const Floats bounded = larger(Floats{} - 88.029692f, x);
  const Floats shifted = madd(bounded, Floats{} + 5.77078016f, shifter);
  const Floats n = shifted - shifter;
  Floats r = madd(n, Floats{} - 0.17333984375f, bounded);  // ln(2)/4 in two parts
  r = madd(n, Floats{} + 5.3048611e-5f, r);
  const auto table = load_vector<bits_t<float>>(kQuarterPowers);
  const auto bits = (bits_t<float>)shifted;
  const Floats power = (Floats)((bits << 21) + lookup_four(table, bits));
  // exp(r) - 1 = r + r^2 (1/2 + r/6 + r^2/24), the last two made minimax: error 5e-9.
  const Floats square = r * r;
  const Floats low = madd(r, Floats{} + 0.1667211f, Floats{} + 0.5f);
  const Floats minus_one = madd(madd(square, Floats{} + 0.0416761f, low), square, r);
  return madd(power, minus_one, power);
}

// 2 atanh(s) = log((1 + s) / (1 - s)) for 0 <= s^2 <= 1/9, relative error 1e-9 before rounding.
SEGFAST_LANES Floats twice_atanh(Floats s) {
  const Floats t = s * s;
  Floats q = Floats{} + 0.116271906f;
  q = madd(q, t, Floats{} + 0.108499624f);
  q = madd(q, t, Floats{} + 0.142964095f);
  q = madd(q, t, Floats{} + 0.199998483f);
  q = madd(q, t, Floats{} + 0.333333343f);
  return 2.0f * madd(q * t, s, s);
}

// log(x) for finite positive x, to 2 ulp; NaN stays NaN, infinity stays infinity. 0 and subnormal
// numbers are not in its range.
SEGFAST_LANES Floats log_positive(Floats x) {
  // x = 2^n m with m in [sqrt(1/2), sqrt(2)).
  const signed_t<float> offset = (signed_t<float>)x - 0x3f3504f3;  // sqrt(1/2)
  const signed_t<float> n = offset >> 23;
  const Floats m = (Floats)((signed_t<float>)x - (n << 23));
  const Floats log_m = twice_atanh((m - 1.0f) / (m + 1.0f));
  const Floats scale = __builtin_convertvector(n, Floats);
  const Floats low = madd(scale, Floats{} - 2.12194440e-4f, log_m);
  const Floats result = madd(scale, Floats{} + 0.693359375f, low);
  return x <= 3.402823466e38f ? result : x;  // infinity and NaN
}

// log(1 + e) for 0 <= e <= 1, to 2 ulp, relatively exact for small e.
SEGFAST_LANES Floats log1p_unit(Floats e) { return twice_atanh(e / (2.0f + e)); }

SEGFAST_LANES Doubles exp_nonpositive(Doubles x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}
SEGFAST_LANES Doubles log_positive(Doubles x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::log(x[i]);
  return x;
}
SEGFAST_LANES Doubles log1p_unit(Doubles e) {
  for (int i = 0; i < kLanes<double>; ++i) e[i] = std::log1p(e[i]);
  return e;
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
