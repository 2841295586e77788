// vec.h: a group of neighbouring elements that moves in one access (16 bytes is the widest).
#pragma once

#include "common/host_device.h"

namespace segfast {

template <typename T, int N>
struct alignas(sizeof(T) * N) Vec {
  T at[N];

  SEGFAST_HOST_DEVICE static Vec load(const T* address) {
    return *reinterpret_cast<const Vec*>(address);
  }
  SEGFAST_HOST_DEVICE void store(T* address) const { *reinterpret_cast<Vec*>(address) = *this; }
};

// Elements of T in one 16-byte access.
template <typename T>
inline constexpr int kVec16 = 16 / static_cast<int>(sizeof(T));

SEGFAST_HOST_DEVICE bool is_aligned(const void* address, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) == 0;
}

}  // namespace segfast
