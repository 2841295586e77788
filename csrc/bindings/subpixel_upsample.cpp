#include "kernels/subpixel_upsample/subpixel_upsample.h"

#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <tuple>

#include "bindings/shuffling.h"

namespace segfast {
namespace {

constexpr const char* kOp = "subpixel_upsample";

template <typename Params>
void set_shape(Params& p, const at::Tensor& coarse, const at::Tensor& fine, int64_t factor,
               bool blur, at::MemoryFormat format) {
  p.dtype = floating_dtype(coarse, "input");
  p.channels_last = format == at::MemoryFormat::ChannelsLast;
  p.batch = leading(fine) * (p.channels_last ? 1 : fine.size(-3));
  p.channels = p.channels_last ? fine.size(-3) : 1;
  p.height = coarse.size(-2);
  p.width = coarse.size(-1);
  p.factor = factor;
  p.blur = blur;
}

// [..., C, H, bytes], or [N, H, bytes] in torch.channels_last; `fine` is [..., C, H * r, W * r].
std::vector<int64_t> mask_sizes(const std::vector<int64_t>& fine, int64_t factor,
                                at::MemoryFormat format) {
  std::vector<int64_t> sizes = fine;
  const size_t n = sizes.size();
  const bool channels_last = format == at::MemoryFormat::ChannelsLast;
  sizes[n - 1] = mask_row_bytes(fine[n - 1] / factor, channels_last ? fine[n - 3] : 1, factor);
  sizes[n - 2] = fine[n - 2] / factor;
  if (channels_last) sizes.erase(sizes.begin() + static_cast<std::ptrdiff_t>(n - 3));
  return sizes;
}

// The memory format that the mask of a tensor was made in, which its rank tells.
at::MemoryFormat format_of_mask(const at::Tensor& mask, const at::Tensor& tensor) {
  return mask.dim() == 3 && tensor.dim() == 4 ? at::MemoryFormat::ChannelsLast
                                              : at::MemoryFormat::Contiguous;
}

at::Tensor checked_mask(const at::Tensor& mask, const at::Tensor& tensor, const char* name,
                        const std::vector<int64_t>& fine, int64_t factor, at::MemoryFormat format) {
  check_same_device(mask, "mask", tensor, name);
  TORCH_CHECK(mask.scalar_type() == at::kByte, "mask must be uint8, got ", mask.scalar_type());
  const auto sizes = mask_sizes(fine, factor, format);
  TORCH_CHECK(mask.sizes() == at::IntArrayRef(sizes), "mask must have shape ",
              at::IntArrayRef(sizes), ", got ", mask.sizes());
  return mask.contiguous();
}

at::Tensor upsample(const at::Tensor& input_any, Activation activation, at::Tensor* mask,
                    int64_t factor, bool blur) {
  const auto sizes = fine_sizes(input_any, factor, kOp);
  SubpixelUpsampleParams p;
  p.activation = activation;
  const at::MemoryFormat format =
      activation == Activation::masked ? format_of_mask(*mask, input_any) : format_of(input_any);
  const at::Tensor input = input_any.contiguous(format);
  at::Tensor output = empty(sizes, input.options(), format);
  set_shape(p, input, output, factor, blur, format);
  if (activation == Activation::masked) {
    *mask = checked_mask(*mask, input, "input", sizes, factor, format);
  } else if (activation == Activation::relu_with_mask) {
    *mask = empty(mask_sizes(sizes, factor, format), input.options().dtype(at::kByte));
  }
  p.input = input.const_data_ptr();
  p.output = output.mutable_data_ptr();
  p.mask = mask == nullptr ? nullptr : static_cast<uint8_t*>(mask->data_ptr());
  if (input.numel() > 0) SEGFAST_RUN(subpixel_upsample, p, input, input.nbytes());
  return output;
}

}  // namespace

at::Tensor subpixel_upsample(const at::Tensor& input, int64_t upscale_factor, bool relu,
                             bool blur) {
  return upsample(input, relu ? Activation::relu : Activation::none, nullptr, upscale_factor, blur);
}

std::tuple<at::Tensor, at::Tensor> subpixel_upsample_with_mask(const at::Tensor& input,
                                                               int64_t upscale_factor, bool blur) {
  at::Tensor mask;
  at::Tensor output = upsample(input, Activation::relu_with_mask, &mask, upscale_factor, blur);
  return {std::move(output), std::move(mask)};
}

at::Tensor subpixel_upsample_masked(const at::Tensor& input, at::Tensor mask,
                                    int64_t upscale_factor, bool blur) {
  return upsample(input, Activation::masked, &mask, upscale_factor, blur);
}

at::Tensor subpixel_upsample_backward(const at::Tensor& grad_any,
                                      const std::optional<at::Tensor>& mask_any,
                                      int64_t upscale_factor, bool blur) {
  const auto sizes = coarse_sizes(grad_any, upscale_factor, "subpixel_upsample_backward");
  const at::MemoryFormat format =
      mask_any.has_value() ? format_of_mask(*mask_any, grad_any) : format_of(grad_any);
  const at::Tensor grad = grad_any.contiguous(format);
  at::Tensor grad_input = empty(sizes, grad.options(), format);
  SubpixelUpsampleBackwardParams p;
  set_shape(p, grad_input, grad, upscale_factor, blur, format);
  at::Tensor mask;
  if (mask_any.has_value()) {
    mask = checked_mask(*mask_any, grad, "grad_output", grad.sizes().vec(), upscale_factor, format);
  }
  p.grad_output = grad.const_data_ptr();
  p.mask = mask.defined() ? static_cast<const uint8_t*>(mask.const_data_ptr()) : nullptr;
  p.grad_input = grad_input.mutable_data_ptr();
  if (grad.numel() > 0) SEGFAST_RUN(subpixel_upsample_backward, p, grad, grad.nbytes());
  return grad_input;
}

void bind_subpixel_upsample(pybind11::module_& m) {
  const auto no_gil = pybind11::call_guard<pybind11::gil_scoped_release>();
  m.def("subpixel_upsample", &subpixel_upsample, no_gil);
  m.def("subpixel_upsample_with_mask", &subpixel_upsample_with_mask, no_gil);
  m.def("subpixel_upsample_masked", &subpixel_upsample_masked, no_gil);
  m.def("subpixel_upsample_backward", &subpixel_upsample_backward, no_gil);
}

}  // namespace segfast
