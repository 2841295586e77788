// pixel_shuffle.h: pixel_shuffle and its inverse, pixel_unshuffle, which move elements and read
// none.
//
// Both run between a coarse tensor of r*r times the channels and a fine one of r times the height
// and width (pixel_shuffle_math.h has the order of either), and by element size, so that every
// dtype of torch is served.
#pragma once

#include "common/launch.h"

namespace segfast {

struct PixelShuffleParams {
  const void* source;  // pixel_shuffle: coarse, pixel_unshuffle: fine
  void* destination;   // the other one
  int64_t batch;       // torch.contiguous_format: every leading dimension times the fine channels
  int64_t channels;    // of the fine tensor in torch.channels_last; 1 in torch.contiguous_format
  int64_t height;      // of the coarse tensor
  int64_t width;
  int64_t factor;    // r
  int element_size;  // bytes: 1, 2, 4, 8 or 16
  bool channels_last;
};

// Work items: the rows of the coarse tensor, r rows of the fine one each.
inline int64_t pixel_shuffle_items(const PixelShuffleParams& p) { return p.batch * p.height; }
inline int64_t pixel_unshuffle_items(const PixelShuffleParams& p) { return p.batch * p.height; }

void pixel_shuffle_cpu(const PixelShuffleParams& params, int64_t begin, int64_t end);
void pixel_unshuffle_cpu(const PixelShuffleParams& params, int64_t begin, int64_t end);

#if SEGFAST_CUDA_LAUNCHERS
cudaError_t pixel_shuffle_cuda(const PixelShuffleParams& params, cudaStream_t stream);
cudaError_t pixel_unshuffle_cuda(const PixelShuffleParams& params, cudaStream_t stream);
#endif

}  // namespace segfast
