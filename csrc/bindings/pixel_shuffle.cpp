#include "kernels/pixel_shuffle/pixel_shuffle.h"

#include <torch/csrc/utils/pybind.h>

#include "bindings/shuffling.h"

namespace segfast {
namespace {

PixelShuffleParams make_params(const at::Tensor& source, const at::Tensor& destination,
                               const at::Tensor& coarse, const at::Tensor& fine, int64_t factor,
                               at::MemoryFormat format) {
  PixelShuffleParams p;
  p.source = source.const_data_ptr();
  p.destination = destination.mutable_data_ptr();
  p.channels_last = format == at::MemoryFormat::ChannelsLast;
  p.batch = leading(fine) * (p.channels_last ? 1 : fine.size(-3));
  p.channels = p.channels_last ? fine.size(-3) : 1;
  p.height = coarse.size(-2);
  p.width = coarse.size(-1);
  p.factor = factor;
  p.element_size = static_cast<int>(source.element_size());
  return p;
}

}  // namespace

at::Tensor pixel_shuffle(const at::Tensor& input_any, int64_t upscale_factor) {
  const auto sizes = fine_sizes(input_any, upscale_factor, "pixel_shuffle");
  const at::MemoryFormat format = format_of(input_any);
  const at::Tensor input = input_any.contiguous(format);
  at::Tensor output = empty(sizes, input.options(), format);
  const auto p = make_params(input, output, input, output, upscale_factor, format);
  if (input.numel() > 0) SEGFAST_RUN(pixel_shuffle, p, input, input.nbytes());
  return output;
}

at::Tensor pixel_unshuffle(const at::Tensor& input_any, int64_t downscale_factor) {
  const auto sizes = coarse_sizes(input_any, downscale_factor, "pixel_unshuffle");
  const at::MemoryFormat format = format_of(input_any);
  const at::Tensor input = input_any.contiguous(format);
  at::Tensor output = empty(sizes, input.options(), format);
  const auto p = make_params(input, output, output, input, downscale_factor, format);
  if (input.numel() > 0) SEGFAST_RUN(pixel_unshuffle, p, input, input.nbytes());
  return output;
}

void bind_pixel_shuffle(pybind11::module_& m) {
  const auto no_gil = pybind11::call_guard<pybind11::gil_scoped_release>();
  m.def("pixel_shuffle", &pixel_shuffle, no_gil);
  m.def("pixel_unshuffle", &pixel_unshuffle, no_gil);
}

}  // namespace segfast
