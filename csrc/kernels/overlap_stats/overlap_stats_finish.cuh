// overlap_stats_finish.cuh: adds the chunks' partial sums up, in order, in double. For kernels of
// FinishParams::blocks() blocks of kFinishThreads.
#pragma once

#include "common/reduce.h"
#include "kernels/overlap_stats/overlap_stats.h"

namespace segfast {

constexpr int kFinishSlices = 8;
constexpr int kFinishThreads = kWarpSize * kFinishSlices;

struct FinishParams {
  OverlapStatsParams op;
  int64_t chunks;
  int64_t size;      // columns of partials
  uint32_t columns;  // blocks that a sample's columns take

  explicit FinishParams(const OverlapStatsParams& stats)
      : op(stats),
        chunks(overlap_stats_chunks(stats.in)),
        size(overlap_stats_partial_size(stats.in.classes)),
        columns(static_cast<uint32_t>(ceil_div<int64_t>(size - 1, kWarpSize))) {}

  int64_t blocks() const { return op.in.samples * columns; }
};

// Sums a column of a sample's partials: each of 8 threads takes every eighth chunk. The last column
// is not a sum (see overlap_stats_ticket).
__device__ __forceinline__ void finish_columns(const FinishParams& p,
                                               double (&slices)[kFinishSlices][kWarpSize]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int slice = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t sample = blockIdx.x / p.columns;
  const int64_t column = blockIdx.x % p.columns * kWarpSize + lane;
  const bool is_sum = column < p.size - 1;
  double sum = 0.0;
  if (is_sum) {
    const double* partial = p.op.partials + sample * p.chunks * p.size + column;
    for (int64_t chunk = slice; chunk < p.chunks; chunk += kFinishSlices) {
      sum += partial[chunk * p.size];
    }
  }
  slices[slice][lane] = sum;
  __syncthreads();
  if (slice != 0 || !is_sum) return;
  for (int s = 1; s < kFinishSlices; ++s) sum += slices[s][lane];

  const int64_t classes = p.op.in.classes;
  if (column >= 4 * classes) {
    (column == 4 * classes ? p.op.cross_entropy : p.op.weight)[sample] = sum;
    return;
  }
  const int64_t row = column / classes;
  double* to = row == 0   ? p.op.intersection
               : row == 1 ? p.op.probability
               : row == 2 ? p.op.target
                          : p.op.pixels;
  to[sample * classes + column % classes] = sum;
}

}  // namespace segfast
