// max_pool2d.h: max pooling of [outer, height, width, inner] maps, with an optional record of where
// each maximum was, and its backward. See pool_codes_math.h for the view and the records.
#pragma once

#include "common/launch.h"
#include "common/types.h"
#include "kernels/pool_codes/pool_scatter.h"

namespace segfast {

struct MaxPool2dParams {
  const void* input;  // [outer, height, width, inner]
  void* output;       // [outer, pooled_height, pooled_width, inner]
  void* record;       // codes2, codes8 or indices of the output's windows; or null
  Record record_kind;
  DType dtype;
  PoolShape shape;
  Window2d window;
};

struct MaxPool2dBackwardParams {
  const void* grad_output;  // [outer, pooled_height, pooled_width, inner]
  const void* record;       // from the forward pass with the same shape and window
  void* grad_input;         // [outer, height, width, inner], every element written
  Record record_kind;
  DType dtype;
  PoolShape shape;
  Window2d window;
};

// Work items: rows of windows.
inline int64_t max_pool2d_items(const MaxPool2dParams& p) {
  return p.shape.outer * p.shape.pooled_height;
}
void max_pool2d_cpu(const MaxPool2dParams& p, int64_t begin, int64_t end);

// Work items: rows of the map, or pairs of them.
inline int64_t max_pool2d_backward_items(const MaxPool2dBackwardParams& p) {
  return p.shape.outer * scatter_rows_per_map(p.shape, p.window);
}
void max_pool2d_backward_cpu(const MaxPool2dBackwardParams& p, int64_t begin, int64_t end);

#if SEGFAST_CUDA_LAUNCHERS
cudaError_t max_pool2d_cuda(const MaxPool2dParams& p, cudaStream_t stream);
cudaError_t max_pool2d_backward_cuda(const MaxPool2dBackwardParams& p, cudaStream_t stream);
#endif

}  // namespace segfast
