// host_device.h: the words that let one formula serve the CPU and the GPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SEGFAST_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
// Into the caller's instruction set (foreach_isa.h), whatever the compiler thinks of the size.
#define SEGFAST_HOST_DEVICE inline __attribute__((always_inline))
#else
#define SEGFAST_HOST_DEVICE inline
#endif

namespace segfast {

template <typename I>
SEGFAST_HOST_DEVICE constexpr I ceil_div(I a, I b) {
  return (a + b - 1) / b;
}

}  // namespace segfast
