// host_run.h: the words of CUDA that our kernels use, for the host compiler. A <op>_cuda.cu
// compiled with SEGFAST_HOST_RUN runs on the CPU, on its real launch geometry, one GPU thread at a
// time, so that the tests and the sanitizers see every line of it on a machine without a GPU.
//
// A GPU thread is a fiber (host_run.cpp); barriers and warp intrinsics are the points where it is
// suspended. What this makes visible, and what it cannot, is told in CONTRIBUTING.md, section
// "CUDA kernels on a CPU". A kernel that needs another word of CUDA adds it here.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <type_traits>

// Names of cuda_runtime_api.h. An error is kept until host_run::take_failure(), as on a GPU, where
// a failed check spoils the context.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorAssert = 710,
  cudaErrorMisalignedAddress = 716,
  cudaErrorLaunchFailure = 719,
};
using cudaStream_t = struct CUstream_st*;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct HostRunIndex {
  unsigned x = 0, y = 0, z = 0;
};
inline HostRunIndex threadIdx, blockIdx, blockDim{1, 1, 1}, gridDim{1, 1, 1};

namespace segfast::host_run {

constexpr int kWarp = 32;

// Order of blocks and threads, and the pattern that fills shared memory, in the launches to come.
void set_seed(uint64_t seed);

// The first failure since the last call ("" if none): text for a person. Clears the error.
std::string take_failure();

// Where a thread waits: as a default argument, Site site = {"word"} names the caller's line.
struct Site {
  Site(const char* word, const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : word(word), file(file), line(line) {}
  const char* word;
  const char* file;
  int line;
};

// Suspends the calling GPU thread until its whole block waits at this same place.
void wait_for_block(Site site);

// Suspends it until all lanes of `mask` wait at this same place with this same mask. Returns the
// values they brought, by lane.
const uint64_t* exchange(unsigned mask, uint64_t value, Site site);

// Stops the launch. The message is `word` and `message`; the running thread's stack is abandoned.
[[noreturn]] void fail(cudaError_t error, const char* word, const char* message);

// Shared memory of the running block, one allocation a key, so that a sanitizer knows its end.
void* shared_memory(const void* key, size_t size);

// A copy of the running thread's that happens in wait_for_copies(), and not before: who reads too
// early reads what was there. Refuses what a GPU refuses: addresses that are no multiples of
// `size`.
void copy_async(void* to, const void* from, size_t size);
void wait_for_copies();

// Runs a grid of a kernel: at once, or, where something keeps streams (host_gpu_enqueue), when its
// stream comes to it.
cudaError_t run(const void* kernel, int64_t grid, int block, cudaStream_t stream,
                std::function<void()> thread);

// Where the kernels begin that have run so far, for tests that want to have run them all.
std::set<const void*>& kernels_run();

template <typename T>
T shuffle(unsigned mask, T value, unsigned source, Site site) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const uint64_t* brought = exchange(mask, bits, site);
  if (((mask >> source) & 1u) == 0) {
    fail(cudaErrorLaunchFailure, site.word, " reads a lane outside its mask");
  }
  std::memcpy(&value, &brought[source], sizeof value);
  return value;
}

}  // namespace segfast::host_run

namespace segfast {

template <typename Params>
inline cudaError_t launch(void (*kernel)(Params), int64_t grid, int block, cudaStream_t stream,
                          Params params) {
  return host_run::run(reinterpret_cast<const void*>(kernel), grid, block, stream,
                       [=] { kernel(params); });
}

}  // namespace segfast

// Shared memory of a block: SEGFAST_SHARED(float[8], sums) declares a reference named `sums`.
// The key is one object for each instantiation of the enclosing template, as __shared__ is.
#define SEGFAST_SHARED(Type, name)                     \
  static const char name##_key = 0;                    \
  auto& name = *static_cast<std::add_pointer_t<Type>>( \
      ::segfast::host_run::shared_memory(&name##_key, sizeof(Type)))

#define SEGFAST_DEVICE_CHECK(condition, message)                               \
  do {                                                                         \
    if (!(condition)) ::segfast::host_run::fail(cudaErrorAssert, "", message); \
  } while (0)

// Barriers and warp intrinsics.
using HostRunSite = segfast::host_run::Site;

inline void __syncthreads(HostRunSite site = {"__syncthreads"}) {
  segfast::host_run::wait_for_block(site);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, HostRunSite site = {"__syncwarp"}) {
  segfast::host_run::exchange(mask, 0, site);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, HostRunSite site = {"__shfl_sync"}) {
  return segfast::host_run::shuffle(mask, value, static_cast<unsigned>(source) % 32, site);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, HostRunSite site = {"__shfl_xor_sync"}) {
  const unsigned lane = threadIdx.x % 32;
  return segfast::host_run::shuffle(mask, value, lane ^ static_cast<unsigned>(lane_mask), site);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta,
                   HostRunSite site = {"__shfl_down_sync"}) {
  const unsigned lane = threadIdx.x % 32;
  return segfast::host_run::shuffle(mask, value, lane + delta < 32 ? lane + delta : lane, site);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, HostRunSite site = {"__shfl_up_sync"}) {
  const unsigned lane = threadIdx.x % 32;
  return segfast::host_run::shuffle(mask, value, lane >= delta ? lane - delta : lane, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, HostRunSite site = {"__ballot_sync"}) {
  const uint64_t* brought = segfast::host_run::exchange(mask, predicate != 0, site);
  unsigned lanes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (((mask >> lane) & 1u) != 0 && brought[lane] != 0) lanes |= 1u << lane;
  }
  return lanes;
}

inline int __any_sync(unsigned mask, int predicate, HostRunSite site = {"__any_sync"}) {
  return __ballot_sync(mask, predicate, site) != 0;
}

inline int __all_sync(unsigned mask, int predicate, HostRunSite site = {"__all_sync"}) {
  return __ballot_sync(mask, predicate, site) == mask;
}

template <typename T>
unsigned __match_any_sync(unsigned mask, T value, HostRunSite site = {"__match_any_sync"}) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const uint64_t* brought = segfast::host_run::exchange(mask, bits, site);
  unsigned lanes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (((mask >> lane) & 1u) != 0 && brought[lane] == bits) lanes |= 1u << lane;
  }
  return lanes;
}

// Loads and stores with a cache hint, of any type.
template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}

// Atomics: threads are suspended only at barriers and warp intrinsics, so plain code is atomic.
template <typename T>
T atomicAdd(T* address, std::common_type_t<T> value) {
  const T old = *address;
  *address = static_cast<T>(old + value);
  return old;
}
template <typename T>
T atomicOr(T* address, std::common_type_t<T> value) {
  const T old = *address;
  *address = static_cast<T>(old | value);
  return old;
}
template <typename T>
T atomicMax(T* address, std::common_type_t<T> value) {
  const T old = *address;
  if (value > old) *address = value;
  return old;
}
inline void __threadfence() {}

// Bytes of y and x, numbered from x's lowest: four hexadecimal digits of s, 0 to 7, say which.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>(bytes >> (8 * (s >> (4 * i) & 7u)) & 0xffu) << (8 * i);
  }
  return result;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
