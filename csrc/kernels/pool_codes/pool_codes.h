// pool_codes.h: conversions between codes and torch's indices.
#pragma once

#include "common/launch.h"
#include "kernels/pool_codes/pool_codes_math.h"

namespace segfast {

struct PoolCodesParams {
  uint8_t* codes;    // codes2 or codes8, as window.is_2x2() says
  int64_t* indices;  // [outer, pooled_height, pooled_width, inner]
  PoolShape shape;
  Window2d window;
  int32_t* bad;  // CPU: set to 1 where a record cannot be converted; zero before the call
};

// Work items: groups of up to four windows of one run, which share a byte of codes2.
SEGFAST_HOST_DEVICE int64_t codes_to_indices_items(const PoolCodesParams& p) {
  const PoolShape& s = p.shape;
  return s.outer * s.pooled_height * (s.inner == 1 ? 1 : s.pooled_width) * s.run_bytes();
}
SEGFAST_HOST_DEVICE int64_t indices_to_codes_items(const PoolCodesParams& p) {
  return codes_to_indices_items(p);
}

void codes_to_indices_cpu(const PoolCodesParams& p, int64_t begin, int64_t end);
void indices_to_codes_cpu(const PoolCodesParams& p, int64_t begin, int64_t end);

#if SEGFAST_CUDA_LAUNCHERS
cudaError_t codes_to_indices_cuda(const PoolCodesParams& p, cudaStream_t stream);
cudaError_t indices_to_codes_cuda(const PoolCodesParams& p, cudaStream_t stream);
#endif

}  // namespace segfast
