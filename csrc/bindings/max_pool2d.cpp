#include <torch/csrc/utils/pybind.h>

#include <tuple>
#include <vector>

#include "bindings/pooling.h"
#include "kernels/max_pool2d/max_pool2d.h"

namespace segfast {

Pooled pool(const at::Tensor& input_any, const WindowArgument& window_argument, bool ceil_mode,
            bool with_record, bool as_codes) {
  check_device(input_any);
  check_maps(input_any, "input");
  MaxPool2dParams p;
  p.dtype = floating_dtype(input_any, "input");
  p.window = make_window(window_argument);
  const Window2d& w = p.window;
  TORCH_CHECK(!as_codes || w.taps() <= kMaxCodedTaps, "kernel_size must have at most ",
              kMaxCodedTaps, " taps to be coded in a byte, got ", w.kernel_h, " x ", w.kernel_w);
  const int64_t height = input_any.size(-2), width = input_any.size(-1);
  const int64_t oh =
      pooled_extent(height, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h, ceil_mode);
  const int64_t ow = pooled_extent(width, w.kernel_w, w.stride_w, w.pad_w, w.dilation_w, ceil_mode);
  TORCH_CHECK(oh >= 1 && ow >= 1, "Given input size: ", input_any.sizes(),
              ". Calculated output size: (", oh, ", ", ow, "). Output size is too small");

  const at::MemoryFormat format = format_of(input_any);
  const at::Tensor input = input_any.contiguous(format);
  Pooled result;
  result.output = empty(with_spatial(input, oh, ow), input.options(), format);
  if (with_record && as_codes && w.is_2x2()) {
    result.record = empty(codes2_sizes(result.output.sizes(), packs_channels(input, format)),
                          input.options().dtype(at::kByte));
  } else if (with_record) {
    result.record = empty(result.output.sizes(),
                          input.options().dtype(as_codes ? at::kByte : at::kLong), format);
  }
  p.input = input.const_data_ptr();
  p.output = result.output.mutable_data_ptr();
  p.record = with_record ? result.record.mutable_data_ptr() : nullptr;
  p.record_kind = !as_codes ? Record::indices : w.is_2x2() ? Record::codes2 : Record::codes8;
  p.shape = make_shape(input, format, height, width, oh, ow);
  if (input.numel() > 0) SEGFAST_RUN(max_pool2d, p, input, input.nbytes());
  return result;
}

namespace {

at::Tensor max_pool2d(const at::Tensor& input, const WindowArgument& window, bool ceil_mode) {
  return pool(input, window, ceil_mode, false, false).output;
}

std::tuple<at::Tensor, at::Tensor> max_pool2d_with_indices(const at::Tensor& input,
                                                           const WindowArgument& window,
                                                           bool ceil_mode) {
  Pooled pooled = pool(input, window, ceil_mode, true, false);
  return {std::move(pooled.output), std::move(pooled.record)};
}

std::tuple<at::Tensor, at::Tensor> max_pool2d_with_codes(const at::Tensor& input,
                                                         const WindowArgument& window,
                                                         bool ceil_mode) {
  Pooled pooled = pool(input, window, ceil_mode, true, true);
  return {std::move(pooled.output), std::move(pooled.record)};
}

}  // namespace

at::Tensor max_pool2d_backward(const at::Tensor& grad_output, const at::Tensor& record,
                               const WindowArgument& window_argument, const Ints<2>& input_size) {
  check_device(grad_output);
  check_maps(grad_output, "grad_output");
  check_same_device(record, "record", grad_output, "grad_output");
  MaxPool2dBackwardParams p;
  p.dtype = floating_dtype(grad_output, "grad_output");
  p.window = make_window(window_argument);
  TORCH_CHECK(input_size[0] >= 1 && input_size[1] >= 1, "input_size must be positive, got ",
              at::IntArrayRef(input_size.data(), 2));
  const at::MemoryFormat format = format_of(grad_output);
  const RecordView view = view_record(record, grad_output.sizes(), p.window, format, "record");
  const at::Tensor grad = grad_output.contiguous(view.format);
  at::Tensor grad_input =
      empty(with_spatial(grad, input_size[0], input_size[1]), grad.options(), view.format);
  p.grad_output = grad.const_data_ptr();
  p.record = view.tensor.const_data_ptr();
  p.record_kind = view.kind;
  p.grad_input = grad_input.mutable_data_ptr();
  p.shape =
      make_shape(grad, view.format, input_size[0], input_size[1], grad.size(-2), grad.size(-1));
  if (grad_input.numel() > 0) SEGFAST_RUN(max_pool2d_backward, p, grad, grad_input.nbytes());
  return in_format(grad_input, view.format, format);
}

void bind_max_pool2d(pybind11::module_& m) {
  m.def("max_pool2d", &max_pool2d, pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("max_pool2d_with_indices", &max_pool2d_with_indices,
        pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("max_pool2d_with_codes", &max_pool2d_with_codes,
        pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("max_pool2d_backward", &max_pool2d_backward,
        pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace segfast
