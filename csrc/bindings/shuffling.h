// shuffling.h: the tensors of the shuffling ops, checked.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "bindings/checks.h"

namespace segfast {

inline void check_shuffled(const at::Tensor& input, int64_t factor, const char* op,
                           const char* factor_name) {
  check_device(input);
  TORCH_CHECK(input.layout() == at::kStrided, op, " expects a dense tensor, got layout ",
              input.layout());
  TORCH_CHECK(!input.is_quantized(), op, " expects a tensor that is not quantized, got dtype ",
              input.scalar_type(), "; call its dequantize()");
  TORCH_CHECK(input.dim() >= 3, op,
              " expects input to have at least 3 dimensions, but got input with ", input.dim(),
              " dimension(s)");
  TORCH_CHECK(factor > 0, op, " expects a positive ", factor_name, ", but got ", factor);
}

// [..., C * r * r, H, W] to [..., C, H * r, W * r].
inline std::vector<int64_t> fine_sizes(const at::Tensor& input, int64_t factor, const char* op) {
  check_shuffled(input, factor, op, "upscale_factor");
  TORCH_CHECK_VALUE(
      factor <= (int64_t{1} << 31) - 1,
      "upscale factor is too large, (upscale_factor)^2 overflowed: upscale_factor=", factor);
  const int64_t channels = input.size(-3);
  TORCH_CHECK(channels % (factor * factor) == 0, op,
              " expects its input's 'channel' dimension to be divisible by the square of "
              "upscale_factor, but input.size(-3)=",
              channels, " is not divisible by ", factor * factor);
  std::vector<int64_t> sizes = input.sizes().vec();
  const size_t n = sizes.size();
  sizes[n - 3] /= factor * factor;
  sizes[n - 2] *= factor;
  sizes[n - 1] *= factor;
  return sizes;
}

// [..., C, H * r, W * r] to [..., C * r * r, H, W].
inline std::vector<int64_t> coarse_sizes(const at::Tensor& input, int64_t factor, const char* op) {
  check_shuffled(input, factor, op, "downscale_factor");
  std::vector<int64_t> sizes = input.sizes().vec();
  const size_t n = sizes.size();
  TORCH_CHECK(sizes[n - 2] % factor == 0, op,
              " expects height to be divisible by downscale_factor, but input.size(-2)=",
              sizes[n - 2], " is not divisible by ", factor);
  TORCH_CHECK(sizes[n - 1] % factor == 0, op,
              " expects width to be divisible by downscale_factor, but input.size(-1)=",
              sizes[n - 1], " is not divisible by ", factor);
  sizes[n - 3] *= factor * factor;
  sizes[n - 2] /= factor;
  sizes[n - 1] /= factor;
  return sizes;
}

// The product of all dimensions but the last three.
inline int64_t leading(const at::Tensor& maps) {
  int64_t product = 1;
  for (int64_t d = 0; d < maps.dim() - 3; ++d) product *= maps.size(d);
  return product;
}

// ---- the kernels, bound for Python by pixel_shuffle.cpp and subpixel_upsample.cpp: between
// [..., C * r * r, H, W] and [..., C, H * r, W * r]

at::Tensor pixel_shuffle(const at::Tensor& input, int64_t upscale_factor);

at::Tensor pixel_unshuffle(const at::Tensor& input, int64_t downscale_factor);

at::Tensor subpixel_upsample(const at::Tensor& input, int64_t upscale_factor, bool relu, bool blur);

std::tuple<at::Tensor, at::Tensor> subpixel_upsample_with_mask(const at::Tensor& input,
                                                               int64_t upscale_factor, bool blur);

at::Tensor subpixel_upsample_masked(const at::Tensor& input, at::Tensor mask,
                                    int64_t upscale_factor, bool blur);

at::Tensor subpixel_upsample_backward(const at::Tensor& grad_output,
                                      const std::optional<at::Tensor>& mask, int64_t upscale_factor,
                                      bool blur);

}  // namespace segfast
