// reduce.h: sums over the threads of a block, each in one fixed order, for kernels whose result
// must not depend on how they are scheduled. Device code only.
#pragma once

#include "common/launch.h"

namespace segfast {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// Sums kCount values (a power of 2, at most 32) over the warp at once: lane l gets the sum of
// values[l / (32 / kCount)], in kCount + log2(32 / kCount) - 1 shuffles. In each step a lane gives
// away the half of its values that its partner keeps. All lanes take part. (A recursion, because a
// loop that the compiler does not unroll would move the values from registers to memory.)
template <int kCount, int kWidth = kWarpSize / 2, typename R, int kSize>
__device__ __forceinline__ R warp_sum_each(R (&values)[kSize]) {
  static_assert(kCount >= 1 && kCount <= kSize && kCount <= 2 * kWidth);
  if constexpr (kCount == 1) {
    values[0] += __shfl_xor_sync(kFullWarp, values[0], kWidth);
  } else {
    const bool upper = (threadIdx.x & kWidth) != 0;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const R give = upper ? values[i] : values[i + kCount / 2];
      const R keep = upper ? values[i + kCount / 2] : values[i];
      values[i] = keep + __shfl_xor_sync(kFullWarp, give, kWidth);
    }
  }
  if constexpr (kWidth > 1) return warp_sum_each<(kCount + 1) / 2, kWidth / 2>(values);
  return values[0];
}

// Sums kCount values over a block of kThreads: thread 0 gets the sums, in double. `shared` is used
// until the next barrier; `values` are spent.
template <int kThreads, int kCount, typename R>
__device__ __forceinline__ void block_sum(R (&values)[kCount], double (&sums)[kCount],
                                          R (&shared)[kThreads / kWarpSize][kCount]) {
  constexpr int kLanes = kWarpSize / kCount;  // that hold the same sum
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const R sum = warp_sum_each<kCount>(values);
  if (lane % kLanes == 0) shared[warp][lane / kLanes] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int k = 0; k < kCount; ++k) {
      sums[k] = 0.0;
      for (int w = 0; w < kThreads / kWarpSize; ++w) sums[k] += static_cast<double>(shared[w][k]);
    }
  }
}

}  // namespace segfast
