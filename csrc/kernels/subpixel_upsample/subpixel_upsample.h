// subpixel_upsample.h: [ReLU] -> pixel_shuffle -> [ReplicationPad2d((1, 0, 1, 0)) -> 2x2 mean,
// stride 1], in one pass, and its derivative in one pass. The coarse and the fine tensor are laid
// out as pixel_shuffle_math.h says.
//
// The mask holds one bit for each element of the coarse tensor: whether ReLU passes its gradient.
// Each row of the coarse tensor, [width, channels, r, r] in that order in both memory formats (with
// channels = 1 in torch.contiguous_format), is packed eight bits a byte, the first lowest, and
// starts a new byte; bits past a row's end are 0.
#pragma once

#include "common/launch.h"
#include "common/types.h"

namespace segfast {

enum class Activation : uint8_t {
  none,
  relu,
  relu_with_mask,  // ReLU that also writes the mask
  masked,          // zero where the mask's bit is 0: the derivative of ReLU along a direction
};

struct SubpixelUpsampleParams {
  const void* input;  // coarse
  void* output;       // fine
  uint8_t* mask;      // [batch * height, mask_row_bytes]: written or read, as activation says
  int64_t batch;      // torch.contiguous_format: every leading dimension times the fine channels
  int64_t channels;   // of the fine tensor in torch.channels_last; 1 in torch.contiguous_format
  int64_t height;     // of the coarse tensor
  int64_t width;
  int64_t factor;  // r
  DType dtype;
  Activation activation;
  bool blur;
  bool channels_last;
};

struct SubpixelUpsampleBackwardParams {
  const void* grad_output;                         // fine
  const uint8_t* mask;                             // nullptr without ReLU
  void* grad_input;                                // coarse
  int64_t batch, channels, height, width, factor;  // as above
  DType dtype;
  bool blur;
  bool channels_last;
};

SEGFAST_HOST_DEVICE int64_t mask_row_bytes(int64_t width, int64_t channels, int64_t factor) {
  return ceil_div<int64_t>(width * channels * factor * factor, 8);
}

// Work items: the rows of the coarse tensor, r rows of the fine one each.
inline int64_t subpixel_upsample_items(const SubpixelUpsampleParams& p) {
  return p.batch * p.height;
}
inline int64_t subpixel_upsample_backward_items(const SubpixelUpsampleBackwardParams& p) {
  return p.batch * p.height;
}

void subpixel_upsample_cpu(const SubpixelUpsampleParams& p, int64_t begin, int64_t end);
void subpixel_upsample_backward_cpu(const SubpixelUpsampleBackwardParams& p, int64_t begin,
                                    int64_t end);

#if SEGFAST_CUDA_LAUNCHERS
cudaError_t subpixel_upsample_cuda(const SubpixelUpsampleParams& p, cudaStream_t stream);
cudaError_t subpixel_upsample_backward_cuda(const SubpixelUpsampleBackwardParams& p,
                                            cudaStream_t stream);
#endif

}  // namespace segfast
