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
#elif defined(__x86_64__)
SEGFAST_LANES Floats larger(Floats x, Floats y) { return _mm_max_ps(x, y); }
SEGFAST_LANES Doubles larger(Doubles x, Doubles y) { return _mm_max_pd(x, y); }
#else
SEGFAST_LANES Floats larger(Floats x, Floats y) { return x > y ? x : y; }
SEGFAST_LANES Doubles larger(Doubles x, Doubles y) { return x > y ? x : y; }
#endif

template <typename V>
SEGFAST_LANES V constant(double x) {
  return V{} + static_cast<std::remove_reference_t<decltype(std::declval<V&>()[0])>>(x);
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

// exp(x) for x <= 0, to 2 ulp. Exactly 0 below -87.7 and for -infinity; NaN stays NaN.
SEGFAST_LANES Floats exp_nonpositive(Floats x) {
  // x = n ln 2 + r, |r| <= ln(2)/2. Adding 1.5 * 2^23 + 127 rounds x / ln 2 to the integer n, which
  // then stands in the sum's low bits with an exponent's bias: 2^n is a shift away, and 0 where n
  // is -127.
  const Floats shifter = Floats{} + 12583039.0f;
  const Floats bounded = larger(Floats{} - 88.0f, x);
  const Floats shifted = madd(bounded, Floats{} + 1.44269504089f, shifter);
  const Floats n = shifted - shifter;
  Floats r = madd(n, Floats{} - 0.693359375f, bounded);  // ln 2 in two parts
  r = madd(n, Floats{} + 2.12194440e-4f, r);
  // exp(r) = 1 + r + r^2 q(r), q minimax of degree 4, error 7.5e-9, in two halves: it is the chain
  // of dependent operations that takes the time.
  const Floats square = r * r;
  const Floats low = madd(r, Floats{} + 0.1666657627f, Floats{} + 0.5f);
  Floats high = madd(r, Floats{} + 0.0013941218f, Floats{} + 0.0083632348f);
  high = madd(high, r, Floats{} + 0.0416663736f);
  const Floats e = madd(madd(high, square, low), square, r + 1.0f);
  return e * (Floats)((bits_t<float>)shifted << 23);
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
