// pool_codes_math.h: the geometry of 2-D pooling and the three ways to record where a maximum was.
//
// Every tensor of the pooling ops is seen as [outer, height, width, inner]: a contiguous [N, C, H,
// W] has outer = N * C and inner = 1; channels_last has outer = N and inner = C.
//
// A window's taps are numbered row by row, tap = kh * kernel_w + kw. A record is one of
//   indices  int64, y * width + x within the plane: torch's. -1 where the window held no input.
//   codes8   uint8, the tap; 255 where the window held no input. For windows of up to 255 taps.
//   codes2   2 bits a window, for 2x2 windows with stride 2, no padding and no dilation. Four taps
//   to
//            a byte, the first in the lowest bits, along the innermost run: a row of windows where
//            inner = 1, the channels of a window otherwise. Each run starts a new byte, so that two
//            rows never share one, and the unused bits of its last byte are 0.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace segfast {

enum class Record : uint8_t { codes2, codes8, indices };

inline constexpr int kCodesPerByte = 4;
inline constexpr int kMaxCodedTaps = 255;
inline constexpr uint8_t kEmptyCode = 255;
inline constexpr int64_t kEmptyIndex = -1;

struct Window2d {
  int kernel_h, kernel_w;
  int stride_h, stride_w;
  int pad_h, pad_w;
  int dilation_h, dilation_w;

  SEGFAST_HOST_DEVICE int taps() const { return kernel_h * kernel_w; }
  // The windows that codes2 serves, and the fast paths with it.
  SEGFAST_HOST_DEVICE bool is_2x2() const {
    return kernel_h == 2 && kernel_w == 2 && stride_h == 2 && stride_w == 2 && pad_h == 0 &&
           pad_w == 0 && dilation_h == 1 && dilation_w == 1;
  }
};

struct PoolShape {
  int64_t outer, inner;
  int64_t height, width;  // of the map that is pooled, or unpooled to
  int64_t pooled_height, pooled_width;

  SEGFAST_HOST_DEVICE int64_t map_numel() const { return outer * height * width * inner; }
  SEGFAST_HOST_DEVICE int64_t pooled_numel() const {
    return outer * pooled_height * pooled_width * inner;
  }
  // Of the larger of the two.
  SEGFAST_HOST_DEVICE int64_t numel() const {
    return map_numel() > pooled_numel() ? map_numel() : pooled_numel();
  }
  // Bytes of codes2 in one run of windows.
  SEGFAST_HOST_DEVICE int64_t run_bytes() const {
    return ceil_div<int64_t>(inner == 1 ? pooled_width : inner, kCodesPerByte);
  }
};

// Windows along one axis, as torch counts them: a last window that would start at or beyond the end
// of the input (its right padding included) is dropped.
inline int64_t pooled_extent(int64_t size, int kernel, int stride, int pad, int dilation,
                             bool ceil_mode) {
  const int64_t span = size + 2 * int64_t{pad} - int64_t{dilation} * (kernel - 1) - 1;
  const int64_t numerator = span + (ceil_mode ? stride - 1 : 0);
  // Floor division, for a window larger than the padded input gives a negative span.
  int64_t steps = numerator / stride;
  if (numerator % stride != 0 && numerator < 0) --steps;
  int64_t count = steps + 1;
  if (ceil_mode && (count - 1) * stride >= size + pad) --count;
  return count;
}

// The windows [first, last) of an axis that hold position x, whichever the tap.
template <typename I>
SEGFAST_HOST_DEVICE I first_window(I x, int kernel, int stride, int pad, int dilation) {
  const I reach = x + pad - I{dilation} * (kernel - 1);
  return reach <= 0 ? I{0} : ceil_div<I>(reach, stride);
}

template <typename I>
SEGFAST_HOST_DEVICE I last_window(I x, int stride, int pad, I count) {
  const I end = (x + pad) / stride + 1;
  return end < count ? end : count;
}

// The tap along one axis by which window `o` sees position x, or -1 if a dilated window skips it.
template <typename I>
SEGFAST_HOST_DEVICE int tap_along(I x, I o, int stride, int pad, int dilation) {
  const int offset = static_cast<int>(x + pad - o * stride);
  return offset % dilation == 0 ? offset / dilation : -1;
}

// Position y * width + x of a tap of window (oh, ow), or -1 if it lies outside the map.
SEGFAST_HOST_DEVICE int64_t tap_position(const Window2d& window, const PoolShape& shape, int64_t oh,
                                         int64_t ow, int tap) {
  const int64_t y =
      oh * window.stride_h - window.pad_h + int64_t{tap / window.kernel_w} * window.dilation_h;
  const int64_t x =
      ow * window.stride_w - window.pad_w + int64_t{tap % window.kernel_w} * window.dilation_w;
  const bool inside = y >= 0 && y < shape.height && x >= 0 && x < shape.width;
  return inside ? y * shape.width + x : -1;
}

// The tap by which window (oh, ow) sees position y * width + x, or -1 if it does not.
SEGFAST_HOST_DEVICE int position_tap(const Window2d& window, const PoolShape& shape, int64_t oh,
                                     int64_t ow, int64_t position) {
  if (position < 0 || position >= shape.height * shape.width) return -1;
  const int64_t dy = position / shape.width + window.pad_h - oh * window.stride_h;
  const int64_t dx = position % shape.width + window.pad_w - ow * window.stride_w;
  if (dy < 0 || dx < 0 || dy % window.dilation_h != 0 || dx % window.dilation_w != 0) return -1;
  const int64_t kh = dy / window.dilation_h;
  const int64_t kw = dx / window.dilation_w;
  if (kh >= window.kernel_h || kw >= window.kernel_w) return -1;
  return static_cast<int>(kh * window.kernel_w + kw);
}

// The i-th code of a run of codes2.
SEGFAST_HOST_DEVICE int code2(const uint8_t* codes, int64_t i) {
  const auto place = static_cast<uint64_t>(i);
  return codes[place / kCodesPerByte] >> (2 * (place % kCodesPerByte)) & 3;
}

// torch's rule: NaN wins, the later one over the earlier; otherwise strictly larger, so that the
// first of equal maxima stays.
template <typename A>
SEGFAST_HOST_DEVICE bool replaces(A value, A best) {
  return value > best || value != value;
}

}  // namespace segfast
