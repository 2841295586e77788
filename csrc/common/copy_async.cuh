// copy_async.cuh: copies from global to shared memory that are under way while their thread goes
// on: no register holds what has yet to come. Device code only.
#pragma once

#include "common/launch.h"
#include "common/vec.h"

namespace segfast {

// Copies 4, 8 or 16 aligned bytes; of 16, nothing stays in the cache of the multiprocessor. The
// calling thread may read them after wait_for_copies(), others after a barrier that follows it.
// (Before compute capability 8.0 the copy is done at once.)
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#if defined(SEGFAST_HOST_RUN)
  host_run::copy_async(shared, global, kBytes);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(to), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
                 :
                 : "r"(to), "l"(global), "n"(kBytes)
                 : "memory");
  }
#else
  using Bytes = Vec<uint16_t, kBytes / 2>;
  Bytes::load(static_cast<const uint16_t*>(global)).store(static_cast<uint16_t*>(shared));
#endif
}

// Until all copies of the calling thread have arrived.
__device__ __forceinline__ void wait_for_copies() {
#if defined(SEGFAST_HOST_RUN)
  host_run::wait_for_copies();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

}  // namespace segfast
