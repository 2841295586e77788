// divider.h: division by a number that a whole launch shares. A 32-bit GPU division takes some
// twenty instructions; the multiplication that replaces it (Granlund and Montgomery, 1994) takes
// three.
#pragma once

#include "common/host_device.h"

namespace segfast {

// n / divisor for 0 <= n < 2^31. 64-bit offsets divide as they are: that path is for huge tensors.
template <typename I>
struct Divider {
  I divisor;

  explicit Divider(int64_t d) : divisor(static_cast<I>(d)) {}
  SEGFAST_HOST_DEVICE I divide(I n) const { return n / divisor; }
  SEGFAST_HOST_DEVICE I remainder(I n, I quotient) const { return n - quotient * divisor; }
};

template <>
struct Divider<int32_t> {
  int32_t divisor;
  uint32_t magic;
  uint32_t shift = 0;  // ceil(log2(divisor))

  explicit Divider(int64_t d) : divisor(static_cast<int32_t>(d)) {
    while ((int64_t{1} << shift) < d) ++shift;
    magic = static_cast<uint32_t>((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d) / d + 1);
  }
  SEGFAST_HOST_DEVICE int32_t divide(int32_t n) const {
    const uint32_t high = static_cast<uint32_t>((static_cast<uint64_t>(magic) * n) >> 32);
    return static_cast<int32_t>((high + static_cast<uint32_t>(n)) >> shift);
  }
  SEGFAST_HOST_DEVICE int32_t remainder(int32_t n, int32_t quotient) const {
    return n - quotient * divisor;
  }
};

// Takes the last factor off the mixed-radix number n.
template <typename I>
SEGFAST_HOST_DEVICE I take_digit(I& n, const Divider<I>& divider) {
  const I quotient = divider.divide(n);
  const I digit = divider.remainder(n, quotient);
  n = quotient;
  return digit;
}

}  // namespace segfast
