// launch.h: the one way a kernel is started, on a GPU or, for the tests of a machine without one,
// on the CPU thread by thread (SEGFAST_HOST_RUN, see host_run.h).
//
// A kernel takes one params struct by value. launch() returns the launch's error, and every
// launcher passes it on; the binding turns it into an exception.
#pragma once

#include <cstdint>

#include "common/host_device.h"

#if defined(SEGFAST_WITH_CUDA) || defined(__CUDACC__) || defined(SEGFAST_HOST_RUN)
#define SEGFAST_CUDA_LAUNCHERS 1  // this build has GPU launchers, real ones or host-run ones
#else
#define SEGFAST_CUDA_LAUNCHERS 0
#endif

#if defined(SEGFAST_HOST_RUN)
#include "common/host_run.h"
#elif SEGFAST_CUDA_LAUNCHERS

#include <assert.h>
#include <cuda_runtime_api.h>

#include <type_traits>

namespace segfast {

// Blocks are numbered along x alone, up to 2^31 - 1 of them.
template <typename Params>
inline cudaError_t launch(void (*kernel)(Params), int64_t grid, int block, cudaStream_t stream,
                          Params params) {
  if (grid == 0) return cudaSuccess;
  if (grid > 0x7fffffff) return cudaErrorInvalidConfiguration;
  void* arguments[] = {&params};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(grid)),
                          dim3(static_cast<unsigned>(block)), arguments, 0, stream);
}

}  // namespace segfast

#if defined(__CUDACC__)

// Shared memory of a block: SEGFAST_SHARED(float[8], sums) declares a reference named `sums`.
#define SEGFAST_SHARED(Type, name)                                     \
  __shared__ __align__(16) unsigned char name##_storage[sizeof(Type)]; \
  auto& name = *reinterpret_cast<std::add_pointer_t<Type>>(name##_storage)

// Stops the grid; the host sees an error, with this text on stderr, at its next synchronising call.
#define SEGFAST_DEVICE_CHECK(condition, message)                            \
  do {                                                                      \
    if (!(condition)) __assert_fail(message, __FILE__, __LINE__, __func__); \
  } while (0)

#endif  // __CUDACC__

#endif  // SEGFAST_HOST_RUN
