// test_types.cpp: Half and BFloat16 against conversions that share nothing with ours: arithmetic
// with ldexp, and rounding by search among all values of the type.
#include "tensors.h"

using namespace segfast;
using namespace segfast::test;

namespace {

// The value of a 16-bit float with the given number of mantissa bits, from the definition.
double value_of(uint32_t bits, int mantissa_bits) {
  const int exponent_bits = 15 - mantissa_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
  const int exponent = static_cast<int>(bits & 0x7fffu) >> mantissa_bits;
  const int mantissa = static_cast<int>(bits) & ((1 << mantissa_bits) - 1);
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

// The nearest value's magnitude bits, ties to the even one; values from halfway between the
// largest one and the next power of two are infinite.
uint32_t nearest(double magnitude, int mantissa_bits) {
  const uint32_t infinity = ((1u << (15 - mantissa_bits)) - 1) << mantissa_bits;
  uint32_t low = 0, high = infinity;  // value(low) <= magnitude < value(high)
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (value_of(middle, mantissa_bits) <= magnitude ? low : high) = middle;
  }
  const double below = value_of(low, mantissa_bits);
  const double above = high == infinity
                           ? 2 * value_of(low & ~((1u << mantissa_bits) - 1), mantissa_bits)
                           : value_of(high, mantissa_bits);
  const double middle = (below + above) / 2;  // exact in double
  if (magnitude == middle) return low % 2 == 0 ? low : high;
  return magnitude < middle ? low : high;
}

template <typename T>
void check_from_float(float value, int mantissa_bits) {
  const uint32_t bits = from_float<T>(value).bits;
  if (std::isnan(value)) {
    CHECK(std::isnan(value_of(bits, mantissa_bits)), "NaN became " + std::to_string(bits));
    return;
  }
  const uint32_t sign = std::signbit(value) ? 0x8000u : 0;
  const double magnitude = std::abs(static_cast<double>(value));
  const uint32_t infinity = ((1u << (15 - mantissa_bits)) - 1) << mantissa_bits;
  const uint32_t expected =
      sign | (std::isinf(value) ? infinity : nearest(magnitude, mantissa_bits));
  CHECK(bits == expected,
        show(value) + " became " + std::to_string(bits) + ", expected " + std::to_string(expected));
}

template <typename T>
void check_type(int mantissa_bits) {
  context = type_name<T>();
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const T stored{static_cast<uint16_t>(bits)};
    const double expected = value_of(bits, mantissa_bits);
    const float value = to_float(stored);
    if (std::isnan(expected)) {
      CHECK(std::isnan(value), "bits " + std::to_string(bits) + " must be a NaN");
      CHECK(std::isnan(to_float(from_float<T>(value))), "a NaN must stay one");
      continue;
    }
    const bool same =
        static_cast<double>(value) == expected && std::signbit(value) == std::signbit(expected);
    CHECK(same, "bits " + std::to_string(bits) + " became " + show(value));
    CHECK(from_float<T>(value).bits == bits, "bits " + std::to_string(bits) + " do not round-trip");
    // The halfway point to the next value, and its neighbours: where rounding goes wrong.
    const double next = value_of(bits + 1, mantissa_bits);
    if (std::isfinite(expected) && std::isfinite(next)) {
      const auto halfway = static_cast<float>((expected + next) / 2);
      check_from_float<T>(halfway, mantissa_bits);
      check_from_float<T>(std::nextafter(halfway, 0.0f), mantissa_bits);
      check_from_float<T>(std::nextafter(halfway, 2 * halfway), mantissa_bits);
    }
  }
  for (int i = 0; i < 200000; ++i) {  // any bits: all exponents, NaNs, infinities, subnormals
    check_from_float<T>(detail::bits_to_float(static_cast<uint32_t>(generator()())), mantissa_bits);
  }
  const float largest =
      to_float(T{static_cast<uint16_t>((((1u << (15 - mantissa_bits)) - 1) << mantissa_bits) - 1)});
  for (float value :
       {largest, std::nextafter(largest, INFINITY), 65519.996f, 65520.0f, INFINITY,
        std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()}) {
    check_from_float<T>(value, mantissa_bits);
    check_from_float<T>(-value, mantissa_bits);
  }
}

}  // namespace

int main() {
  check_type<Half>(10);
  check_type<BFloat16>(7);
  return finish();
}
