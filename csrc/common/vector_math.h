// vector_math.h: exp and log for inner loops.
//
// On the host, float versions are branch-free polynomials (2 ulp at most over the stated ranges,
// see csrc/tests), which the compiler can vectorize inside a loop where a call to libm it cannot.
// On the device, and for double, they are the standard functions.
#pragma once

#include <cmath>

#include "common/types.h"

namespace segfast {

// exp(x) for x <= 0. Exactly 0 below -87.3 (where the result would be subnormal) and for -infinity.
SEGFAST_HOST_DEVICE float exp_nonpositive(float x) {
#if defined(__CUDA_ARCH__)
  return expf(x);
#else
  // x = n ln 2 + r, |r| <= ln(2)/2. Adding 1.5 * 2^23 rounds x / ln 2 to the integer n, which then
  // stands in the sum's low bits, ready to be shifted into an exponent.
  const float shifter = 12582912.0f;
  const float shifted = x * 1.44269504089f + shifter;
  const float n = shifted - shifter;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  // exp(r) = 1 + r + r^2 q(r), q minimax of degree 4, error 7.5e-9.
  float q = 0.0013941218f;
  q = q * r + 0.0083632348f;
  q = q * r + 0.0416663736f;
  q = q * r + 0.1666657627f;
  q = q * r + 0.5f;
  const float exp_r = (q * r * r + r) + 1.0f;
  const uint32_t scaled = detail::float_to_bits(exp_r) + (detail::float_to_bits(shifted) << 23);
  return x < -87.3f ? 0.0f : detail::bits_to_float(scaled);  // false for NaN, which stays NaN
#endif
}

SEGFAST_HOST_DEVICE double exp_nonpositive(double x) { return exp(x); }

namespace detail {

// 2 atanh(s) = log((1 + s) / (1 - s)) for 0 <= s^2 <= 1/9, relative error 1e-9 before rounding.
inline float twice_atanh(float s) {
  const float t = s * s;
  float q = 0.116271906f;
  q = q * t + 0.108499624f;
  q = q * t + 0.142964095f;
  q = q * t + 0.199998483f;
  q = q * t + 0.333333343f;
  return 2.0f * (q * t * s + s);
}

}  // namespace detail

// log(x) for finite positive x; NaN stays NaN, infinity stays infinity. 0 and subnormal numbers are
// not in its range.
SEGFAST_HOST_DEVICE float log_positive(float x) {
#if defined(__CUDA_ARCH__)
  return logf(x);
#else
  // x = 2^n m with m in [sqrt(1/2), sqrt(2)).
  const uint32_t bits = detail::float_to_bits(x);
  const uint32_t offset = bits - 0x3f3504f3u;  // sqrt(1/2)
  const int32_t n = static_cast<int32_t>(offset) >> 23;
  const float m = detail::bits_to_float(bits - (static_cast<uint32_t>(n) << 23));
  const float log_m = detail::twice_atanh((m - 1.0f) / (m + 1.0f));
  const float scale = static_cast<float>(n);
  const float result = scale * 0.693359375f + (log_m - scale * 2.12194440e-4f);
  return x <= 3.402823466e38f ? result : x;  // infinity and NaN
#endif
}

SEGFAST_HOST_DEVICE double log_positive(double x) { return log(x); }

// log(1 + e) for 0 <= e <= 1, relatively exact for small e.
SEGFAST_HOST_DEVICE float log1p_unit(float e) {
#if defined(__CUDA_ARCH__)
  return log1pf(e);
#else
  return detail::twice_atanh(e / (2.0f + e));
#endif
}

SEGFAST_HOST_DEVICE double log1p_unit(double e) { return log1p(e); }

// u^gamma for 0 <= u <= 1 and gamma > 0.
template <typename R>
SEGFAST_HOST_DEVICE R unit_power(R u, R gamma) {
  const R tiny = R(1.2e-38);
  const R power = exp_nonpositive(gamma * log_positive(u > tiny ? u : tiny));
  return u > tiny ? (u < R(1) ? power : R(1)) : u * R(0);  // u * 0: NaN stays NaN
}

}  // namespace segfast
