// known_window.h: the windows that kernels know at compile time: those of the networks in use.
#pragma once

#include "kernels/pool_codes/pool_codes_math.h"

namespace segfast {

template <int kKernel_, int kStride_, int kDilation_, int kPad_>
struct KnownWindow {
  static constexpr int kKernel = kKernel_;
  static constexpr int kStride = kStride_;
  static constexpr int kDilation = kDilation_;
  static constexpr int kPad = kPad_;
  static constexpr int kReach = kDilation * (kKernel - 1);  // from the first tap to the last
  static_assert(kKernel % 2 == 1 && kPad <= kReach / 2, "no window lies beside the map");
  static_assert(kStride == 1 || kDilation == 1);
  // Pixel c of cell i, which lies at i * kStride + c, is seen by windows i - kBefore to i + kAfter
  // at most.
  static constexpr int kBefore = (kReach - kPad) / kStride;
  static constexpr int kAfter = (kStride - 1 + kPad) / kStride;
  // Whether a map can have as many windows as cells along an axis: one that shrinks by a few pixels
  // has no rows of both kinds that are aligned.
  static constexpr bool kWindowPerCell = kStride > 1 || 2 * kPad == kReach;
  // Among positions that are kDilation apart it is a window without dilation, this one, whose
  // windows begin kShift later: what a thread looks at together lies so far apart.
  using Dense = KnownWindow<kKernel, kStride, 1, kPad / kDilation>;
  static constexpr int kShift = kPad % kDilation;

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

  // How many threads share `count` positions, each `together` of them, kDilation apart (the last
  // ones may have none), and which is a thread's first.
  static int64_t tiles(int64_t count, int together) {
    return ceil_div<int64_t>(count, together * kDilation) * kDilation;
  }
  template <typename I>
  SEGFAST_HOST_DEVICE static I first_of(I tile, int together) {
    return tile / kDilation * (together * kDilation) + tile % kDilation;
  }
};

// f(KnownWindow<...>{}) if the window is known, else other().
template <typename F, typename Other>
inline auto with_known_window(const Window2d& window, F&& f, Other&& other) {
  if (KnownWindow<3, 2, 1, 1>::is(window)) return f(KnownWindow<3, 2, 1, 1>{});  // ResNet
  if (KnownWindow<3, 2, 1, 0>::is(window)) return f(KnownWindow<3, 2, 1, 0>{});  // SqueezeNet
  if (KnownWindow<3, 1, 1, 1>::is(window)) return f(KnownWindow<3, 1, 1, 1>{});  // Inception
  if (KnownWindow<3, 1, 2, 2>::is(window)) return f(KnownWindow<3, 1, 2, 2>{});
  if (KnownWindow<3, 1, 2, 1>::is(window)) return f(KnownWindow<3, 1, 2, 1>{});
  if (KnownWindow<5, 1, 1, 2>::is(window)) return f(KnownWindow<5, 1, 1, 2>{});  // YOLO's SPPF
  if (KnownWindow<5, 2, 1, 2>::is(window)) return f(KnownWindow<5, 2, 1, 2>{});
  return other();
}

}  // namespace segfast
