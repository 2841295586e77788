// types.h: the element types of every kernel, without torch and without CUDA's headers on the host.
//
// Half and BFloat16 are storage: 16 bits that convert to and from float, rounding to nearest even.
// The conversions are branch-free so that a compiler can vectorize a loop of them.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace segfast {

enum class DType : uint8_t { float32, float64, float16, bfloat16 };

struct alignas(2) Half {
  uint16_t bits;
};

struct alignas(2) BFloat16 {
  uint16_t bits;
};

namespace detail {

SEGFAST_HOST_DEVICE float bits_to_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

SEGFAST_HOST_DEVICE uint32_t float_to_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

// A half's magnitude, shifted to float's mantissa, has an exponent too small by 112; one
// multiplication by 2^112 puts it right for normal numbers, subnormal ones and zero alike. Infinity
// and NaN (exponent 31) would come out finite, so their exponent is set.
inline float half_bits_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  const float scaled = bits_to_float(magnitude) * bits_to_float(0x77800000u);  // 2^112
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return bits_to_float(float_to_bits(scaled) | special | sign);
}

// Round to nearest even: adding (and so rounding against) a power of two 2^13 above the last bit
// that is kept leaves the rounded half in the sum's low bits.
inline uint16_t float_to_half_bits(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const float absolute = bits_to_float(magnitude);
  // The rounding constant's exponent follows the value's, but never drops below the subnormals'.
  const uint32_t exponent = magnitude & 0x7f800000u;
  const uint32_t floor_exponent = exponent < 0x38800000u ? 0x38800000u : exponent;
  const float rounder = bits_to_float(floor_exponent + 0x06800000u);  // x 2^13
  const uint32_t rounded = float_to_bits(absolute + rounder);
  const uint32_t half = ((floor_exponent - 0x38800000u) >> 13) + (rounded & 0x0fffu);
  const uint32_t finite = magnitude >= 0x47800000u ? 0x7c00u : half;  // 65536 and above: infinity
  const uint32_t result = magnitude > 0x7f800000u ? 0x7e00u : finite;
  return static_cast<uint16_t>(result | sign);
}

}  // namespace detail

SEGFAST_HOST_DEVICE float to_float(float value) { return value; }

SEGFAST_HOST_DEVICE double to_float(double value) { return value; }

SEGFAST_HOST_DEVICE float to_float(BFloat16 value) {
  return detail::bits_to_float(static_cast<uint32_t>(value.bits) << 16);
}

SEGFAST_HOST_DEVICE float to_float(Half value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  return detail::half_bits_to_float(value.bits);
#endif
}

// The type that sums and formulas are evaluated in: float, and double for double.
template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using accumulate_t = typename Accumulate<T>::type;

template <typename T>
SEGFAST_HOST_DEVICE T from_float(accumulate_t<T> value);

template <>
SEGFAST_HOST_DEVICE float from_float<float>(float value) {
  return value;
}

template <>
SEGFAST_HOST_DEVICE double from_float<double>(double value) {
  return value;
}

template <>
SEGFAST_HOST_DEVICE BFloat16 from_float<BFloat16>(float value) {
#if defined(__CUDA_ARCH__)
  return BFloat16{
      __bfloat16_as_ushort(__float2bfloat16_rn(value))};  // one instruction from sm_80 on
#else
  const uint32_t bits = detail::float_to_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return BFloat16{static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded)};
#endif
}

template <>
SEGFAST_HOST_DEVICE Half from_float<Half>(float value) {
#if defined(__CUDA_ARCH__)
  return Half{__half_as_ushort(__float2half_rn(value))};
#else
  return Half{detail::float_to_half_bits(value)};
#endif
}

}  // namespace segfast
