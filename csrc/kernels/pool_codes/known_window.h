// known_window.h: the padded windows that kernels know at compile time: those of the networks
// in use, whose taps reach equally far to both sides.
#pragma once

#include "kernels/pool_codes/pool_codes_math.h"

namespace segfast {

template <int kKernel_, int kStride_, int kDilation_>
struct KnownWindow {
  static constexpr int kKernel = kKernel_;
  static constexpr int kStride = kStride_;
  static constexpr int kDilation = kDilation_;
  static constexpr int kPad = kDilation * (kKernel - 1) / 2;
  // Pixel c of cell i, which lies at i * kStride + c, is seen by windows i - kBefore to i + kAfter
  // at most.
  static constexpr int kBefore = kPad / kStride;
  static constexpr int kAfter = (kStride - 1 + kPad) / kStride;

  static bool is(const Window2d& w) {
    return w.kernel_h == kKernel && w.kernel_w == kKernel && w.stride_h == kStride &&
           w.stride_w == kStride && w.pad_h == kPad && w.pad_w == kPad &&
           w.dilation_h == kDilation && w.dilation_w == kDilation;
  }
  // The tap along one axis by which window i + offset sees pixel c of cell i; -1 for none.
  SEGFAST_HOST_DEVICE static constexpr int tap(int c, int offset) {
    const int distance = c + kPad - offset * kStride;
    return distance >= 0 && distance % kDilation == 0 && distance / kDilation < kKernel
               ? distance / kDilation
               : -1;
  }
  // Whether window i + offset sees any of the pixels [0, pixels) of cells i, i + 1, ...
  SEGFAST_HOST_DEVICE static constexpr bool sees(int pixels, int offset) {
    for (int c = 0; c < pixels; ++c) {
      if (tap(c, offset) >= 0) return true;
    }
    return false;
  }
};

// f(KnownWindow<...>{}) if the window is known, else other().
template <typename F, typename Other>
inline auto with_known_window(const Window2d& window, F&& f, Other&& other) {
  if (KnownWindow<3, 2, 1>::is(window)) return f(KnownWindow<3, 2, 1>{});
  if (KnownWindow<3, 1, 1>::is(window)) return f(KnownWindow<3, 1, 1>{});
  if (KnownWindow<3, 1, 2>::is(window)) return f(KnownWindow<3, 1, 2>{});
  if (KnownWindow<5, 2, 1>::is(window)) return f(KnownWindow<5, 2, 1>{});
  return other();
}

}  // namespace segfast
