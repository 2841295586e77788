// overlap_loss_cuda.cu: the partial sums of overlap_stats added up, and the loss of the sums, in
// one launch. The last block to be done with its sums works out the loss: which one that is changes
// nothing, for it reads all sums in one order.
//
// Two launches for the two, with some hundred numbers between them, took about 10 us of a forward
// pass of 63 on an H200; one has not been measured.
#include "kernels/overlap_loss/overlap_loss_math.h"
#include "kernels/overlap_stats/overlap_stats_finish.cuh"

namespace segfast {
namespace {

struct LossParams {
  FinishParams sums;
  OverlapLossParams loss;
};

// Whether the calling block is the last one to come here. What the others have written before, it
// can read afterwards.
__device__ __forceinline__ bool is_last_block(unsigned* ticket, bool& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    shared = atomicAdd(ticket, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  return shared;
}

__global__ void __launch_bounds__(kFinishThreads) overlap_loss_kernel(const LossParams p) {
  SEGFAST_SHARED(double[kFinishSlices][kWarpSize], slices);
  SEGFAST_SHARED(bool, is_last);
  SEGFAST_SHARED(double[kFinishThreads / kWarpSize][kLossSums], shared);
  SEGFAST_SHARED(double[kLossSums], totals);
  finish_columns(p.sums, slices);
  if (!is_last_block(overlap_stats_ticket(p.sums.op), is_last)) return;

  const int64_t thread = threadIdx.x;
  double sums[kLossSums];
  accumulate(p.loss, thread, kFinishThreads, sums);
  double block_sums[kLossSums];
  block_sum<kFinishThreads, kLossSums>(sums, block_sums, shared);
  if (thread == 0) {
    for (int k = 0; k < kLossSums; ++k) totals[k] = block_sums[k];
    store_loss(p.loss, loss_of(p.loss, block_sums));
  }
  __syncthreads();
  differentiate(p.loss, thread, kFinishThreads, totals);
}

}  // namespace

cudaError_t overlap_loss_cuda(const OverlapLossCudaParams& params, cudaStream_t stream) {
  const LossParams p{FinishParams(params.stats), params.loss};
  return launch(overlap_loss_kernel, p.sums.blocks(), kFinishThreads, stream, p);
}

}  // namespace segfast
