// pixel_shuffle_math.h: which element of the coarse tensor is which of the fine one.
//
//   fine[n, c, h*r + i, w*r + j] == coarse[n, (c*r + i)*r + j, h, w]
//
// torch.contiguous_format (batch b = every leading dimension times the fine channels, so C = 1):
//   coarse [B, r, r, H, W], fine [B, H, r, W, r]: r rows of W are interleaved into one of W*r.
// torch.channels_last:
//   coarse [B, H, W, C, r, r], fine [B, H, r, W, r, C]: each pixel's [C, r*r] is transposed.
#pragma once

#include "common/host_device.h"

namespace segfast {

template <typename I>
struct ShuffleShape {
  I channels, height, width, factor;
  bool channels_last;

  // Row (b, h) of the coarse tensor: its subpixel (i, j) of channel c at column w.
  SEGFAST_HOST_DEVICE I coarse(I b, I h, I w, I c, I i, I j) const {
    if (channels_last)
      return (((b * height + h) * width + w) * channels + c) * factor * factor + i * factor + j;
    return (((b * factor + i) * factor + j) * height + h) * width + w;
  }

  // b * height * factor + y, the row of the fine tensor, at column x and channel c.
  SEGFAST_HOST_DEVICE I fine(I row, I x, I c) const {
    return (row * width * factor + x) * channels + c;
  }
};

}  // namespace segfast
