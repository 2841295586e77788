#include "kernels/overlap_stats/overlap_stats.h"

namespace segfast {

cudaError_t overlap_stats_cuda(const OverlapStatsParams&, cudaStream_t) {
  return cudaErrorInvalidConfiguration;  // not written yet
}

cudaError_t overlap_stats_backward_cuda(const OverlapStatsBackwardParams&, cudaStream_t) {
  return cudaErrorInvalidConfiguration;  // not written yet
}

}  // namespace segfast
