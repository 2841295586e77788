// pool_codes_cuda.cu: one thread a group of up to four windows, so that a byte of codes2 has one
// writer. Off every hot path: a training step uses codes or indices, and converts neither.
#include "kernels/pool_codes/pool_codes_group.h"

namespace segfast {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) codes_to_indices_kernel(const PoolCodesParams p) {
  const int64_t item = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (item >= codes_to_indices_items(p)) return;
  const bool sound = codes_to_indices_group(p, item);
  SEGFAST_DEVICE_CHECK(sound, "codes_to_indices: a code names a position outside the map");
}

__global__ void __launch_bounds__(kThreads) indices_to_codes_kernel(const PoolCodesParams p) {
  const int64_t item = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (item >= indices_to_codes_items(p)) return;
  const bool sound = indices_to_codes_group(p, item);
  SEGFAST_DEVICE_CHECK(sound, "indices_to_codes: an index lies outside its own window");
}

}  // namespace

cudaError_t codes_to_indices_cuda(const PoolCodesParams& p, cudaStream_t stream) {
  return launch(codes_to_indices_kernel, ceil_div<int64_t>(codes_to_indices_items(p), kThreads),
                kThreads, stream, p);
}

cudaError_t indices_to_codes_cuda(const PoolCodesParams& p, cudaStream_t stream) {
  return launch(indices_to_codes_kernel, ceil_div<int64_t>(indices_to_codes_items(p), kThreads),
                kThreads, stream, p);
}

}  // namespace segfast
