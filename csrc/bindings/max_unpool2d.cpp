#include <torch/csrc/utils/pybind.h>

#include <vector>

#include "bindings/pooling.h"
#include "kernels/max_unpool2d/max_unpool2d.h"

namespace segfast {
namespace {

at::Tensor unpool(const at::Tensor& input_any, const at::Tensor& record, const char* record_name,
                  const WindowArgument& window_argument, const Ints<2>& output_size) {
  check_device(input_any);
  check_maps(input_any, "input");
  check_same_device(record, record_name, input_any, "input");
  MaxUnpool2dParams p;
  p.dtype = floating_dtype(input_any, "input");
  p.window = make_window(window_argument);
  TORCH_CHECK(output_size[0] >= 1 && output_size[1] >= 1, "output_size must be positive, got ",
              at::IntArrayRef(output_size.data(), 2));
  const at::MemoryFormat format = format_of(input_any);
  const RecordView view = view_record(record, input_any.sizes(), p.window, format, record_name);
  const at::Tensor input = input_any.contiguous(view.format);
  const std::vector<int64_t> sizes = with_spatial(input, output_size[0], output_size[1]);
  p.record_kind = view.kind;
  p.shape = make_shape(input, view.format, output_size[0], output_size[1], input.size(-2),
                       input.size(-1));

  at::Tensor output = empty(sizes, input.options(), view.format), foreign;
#if defined(SEGFAST_WITH_CUDA)
  // Indices of windows that overlap are scattered over zeros; those of 2x2 windows are gathered,
  // and scattered only where some index turns out not to lie in its own window.
  if (input.is_cuda() && view.kind == Record::indices) {
    if (p.window.is_2x2()) foreign = empty({1}, input.options().dtype(at::kInt));
    zero_cuda(foreign.defined() ? foreign : output);
  }
#endif
  p.input = input.const_data_ptr();
  p.record = view.tensor.const_data_ptr();
  p.output = output.mutable_data_ptr();
  p.foreign = foreign.defined() ? foreign.mutable_data_ptr<int32_t>() : nullptr;
  int32_t foreign_on_cpu = 0;
  if (input.is_cpu() && view.kind == Record::indices && p.window.is_2x2()) {
    p.foreign = &foreign_on_cpu;
  }
  if (output.numel() > 0) SEGFAST_RUN(max_unpool2d, p, input, output.nbytes());
  if (foreign_on_cpu != 0) {
    p.foreign = nullptr;
    SEGFAST_RUN(max_unpool2d, p, input, output.nbytes());
  }
  return in_format(output, view.format, format);
}

}  // namespace

at::Tensor max_unpool2d(const at::Tensor& input, const at::Tensor& indices,
                        const WindowArgument& window, const Ints<2>& output_size) {
  TORCH_CHECK(indices.scalar_type() == at::kLong, "indices must be int64, got ",
              indices.scalar_type());
  return unpool(input, indices, "indices", window, output_size);
}

at::Tensor max_unpool2d_with_codes(const at::Tensor& input, const at::Tensor& codes,
                                   const WindowArgument& window, const Ints<2>& output_size) {
  TORCH_CHECK(codes.scalar_type() == at::kByte, "codes must be uint8, got ", codes.scalar_type());
  return unpool(input, codes, "codes", window, output_size);
}

at::Tensor max_unpool2d_backward(const at::Tensor& grad_output_any, const at::Tensor& record,
                                 const WindowArgument& window_argument,
                                 const Ints<2>& pooled_size) {
  check_device(grad_output_any);
  check_maps(grad_output_any, "grad_output");
  check_same_device(record, "record", grad_output_any, "grad_output");
  MaxUnpool2dBackwardParams p;
  p.dtype = floating_dtype(grad_output_any, "grad_output");
  p.window = make_window(window_argument);
  TORCH_CHECK(pooled_size[0] >= 1 && pooled_size[1] >= 1, "pooled_size must be positive, got ",
              at::IntArrayRef(pooled_size.data(), 2));
  const at::MemoryFormat format = format_of(grad_output_any);
  const std::vector<int64_t> pooled = with_spatial(grad_output_any, pooled_size[0], pooled_size[1]);
  const RecordView view = view_record(record, pooled, p.window, format, "record");
  const at::Tensor grad_output = grad_output_any.contiguous(view.format);
  at::Tensor grad_input = empty(pooled, grad_output.options(), view.format);
  p.grad_output = grad_output.const_data_ptr();
  p.record = view.tensor.const_data_ptr();
  p.record_kind = view.kind;
  p.grad_input = grad_input.mutable_data_ptr();
  p.shape = make_shape(grad_output, view.format, grad_output.size(-2), grad_output.size(-1),
                       pooled_size[0], pooled_size[1]);
  if (grad_input.numel() > 0) {
    SEGFAST_RUN(max_unpool2d_backward, p, grad_output, grad_output.nbytes());
  }
  return in_format(grad_input, view.format, format);
}

void bind_max_unpool2d(pybind11::module_& m) {
  m.def("max_unpool2d", &max_unpool2d, pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("max_unpool2d_with_codes", &max_unpool2d_with_codes,
        pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("max_unpool2d_backward", &max_unpool2d_backward,
        pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace segfast
