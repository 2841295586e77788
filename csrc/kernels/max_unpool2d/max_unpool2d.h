// max_unpool2d.h: max unpooling to [outer, height, width, inner] maps, from codes or from any int64
// indices, and its backward.
#pragma once

#include "common/launch.h"
#include "common/types.h"
#include "kernels/pool_codes/pool_scatter.h"

namespace segfast {

struct MaxUnpool2dParams {
  const void* input;   // [outer, pooled_height, pooled_width, inner]
  const void* record;  // codes, or indices that may come from anywhere
  void* output;        // [outer, height, width, inner], every element written, except by CUDA from
                       // indices of windows other than 2x2: that scatters over zeros
  int32_t* foreign;    // from indices of 2x2 windows: one zero, set where an index lies outside its
                       // own window. CUDA then scatters; the CPU must be called again with null,
                       // which scatters any indices. Else null
  Record record_kind;
  DType dtype;
  PoolShape shape;
  Window2d window;
};

struct MaxUnpool2dBackwardParams {
  const void* grad_output;  // [outer, height, width, inner]
  const void* record;       // codes, or indices that may come from anywhere
  void* grad_input;         // [outer, pooled_height, pooled_width, inner]
  Record record_kind;
  DType dtype;
  PoolShape shape;
  Window2d window;
};

// Work items on the CPU: rows of the map, or pairs of them; where indices are scattered, groups of
// kUnpoolChannels planes. So are those of short rows.
inline constexpr int64_t kUnpoolChannels = 16;
inline bool gathers(const MaxUnpool2dParams& p) {
  if (p.record_kind != Record::indices) return true;
  const bool are_short = p.shape.inner == 1 && p.shape.pooled_width < kShortRow;
  return p.window.is_2x2() && p.foreign != nullptr && !are_short;
}
inline int64_t max_unpool2d_items(const MaxUnpool2dParams& p) {
  if (gathers(p)) return p.shape.outer * scatter_rows_per_map(p.shape, p.window);
  return p.shape.outer * ceil_div<int64_t>(p.shape.inner, kUnpoolChannels);
}
// Throws std::runtime_error at a position outside the map.
void max_unpool2d_cpu(const MaxUnpool2dParams& p, int64_t begin, int64_t end);

// Work items: rows of windows.
inline int64_t max_unpool2d_backward_items(const MaxUnpool2dBackwardParams& p) {
  return p.shape.outer * p.shape.pooled_height;
}
void max_unpool2d_backward_cpu(const MaxUnpool2dBackwardParams& p, int64_t begin, int64_t end);

#if SEGFAST_CUDA_LAUNCHERS
// A position outside the map stops the grid (SEGFAST_DEVICE_CHECK) and is not written.
cudaError_t max_unpool2d_cuda(const MaxUnpool2dParams& p, cudaStream_t stream);
cudaError_t max_unpool2d_backward_cuda(const MaxUnpool2dBackwardParams& p, cudaStream_t stream);
#endif

}  // namespace segfast
