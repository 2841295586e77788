// overlap_loss_cuda.cu: one block. There are some hundred numbers to read, and a launch to pay for.
#include "common/reduce.h"
#include "kernels/overlap_loss/overlap_loss_math.h"

namespace segfast {
namespace {

constexpr int kLossThreads = 256;

__global__ void __launch_bounds__(kLossThreads) overlap_loss_kernel(const OverlapLossParams p) {
  SEGFAST_SHARED(double[kLossThreads / kWarpSize][kLossSums], shared);
  SEGFAST_SHARED(double[kLossSums], totals);
  const int64_t thread = threadIdx.x;
  double sums[kLossSums];
  accumulate(p, thread, kLossThreads, sums);
  double block_sums[kLossSums];
  block_sum<kLossThreads, kLossSums>(sums, block_sums, shared);
  if (thread == 0) {
    for (int k = 0; k < kLossSums; ++k) totals[k] = block_sums[k];
    store_loss(p, loss_of(p, block_sums));
  }
  __syncthreads();
  differentiate(p, thread, kLossThreads, totals);
}

}  // namespace

cudaError_t overlap_loss_cuda(const OverlapLossParams& params, cudaStream_t stream) {
  return launch(overlap_loss_kernel, 1, kLossThreads, stream, params);
}

}  // namespace segfast
