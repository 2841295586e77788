#include "kernels/confusion_matrix/confusion_matrix.h"

#include <ATen/ops/zeros.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings/checks.h"
#include "bindings/labels.h"

namespace segfast {
namespace {

at::Tensor confusion_matrix(const at::Tensor& prediction_any, const at::Tensor& target_any,
                            int64_t num_classes, std::optional<int64_t> ignore_index,
                            double threshold, bool per_image) {
  check_device(prediction_any);
  check_same_device(target_any, "target", prediction_any, "prediction");
  TORCH_CHECK_VALUE(num_classes >= 1, "num_classes must be at least 1, got ", num_classes);
  TORCH_CHECK_TYPE(!target_any.is_floating_point(), "target must hold integer labels, got ",
                   target_any.scalar_type());
  ConfusionMatrixParams p;
  p.target_type = target_type(target_any, "target");
  p.classes = num_classes;
  p.has_ignore_index = ignore_index.has_value();
  p.ignore_index = ignore_index.value_or(0);
  p.threshold = threshold;
  p.by_sample = per_image;

  const bool has_logits = prediction_any.is_floating_point();
  at::Tensor prediction;
  std::vector<int64_t> map_sizes = prediction_any.sizes().vec();
  if (has_logits) {
    check_classes(prediction_any, "logits");
    const int64_t channels = prediction_any.size(1);
    TORCH_CHECK_VALUE(num_classes == (channels == 1 ? 2 : channels),
                      "num_classes must be the number of channels of the logits (2 for one), got ",
                      num_classes, " for ", prediction_any.sizes());
    map_sizes = without_classes(prediction_any.sizes());
    const at::MemoryFormat format = dense_format_of(prediction_any);
    prediction = prediction_any.contiguous(format);
    p.logits = prediction.const_data_ptr();
    p.prediction = nullptr;
    p.dtype = floating_dtype(prediction, "logits");
    p.channels = channels;
    p.channels_last = format != at::MemoryFormat::Contiguous && channels > 1;
  } else {
    TORCH_CHECK_VALUE(prediction_any.dim() >= 1, "predicted labels must have shape [N, ...], got ",
                      prediction_any.sizes());
    prediction = prediction_any.contiguous();
    p.logits = nullptr;
    p.prediction = prediction.const_data_ptr();
    p.prediction_type = target_type(prediction, "prediction");
    p.dtype = DType::float32;
    p.channels = 0;
    p.channels_last = false;
  }
  TORCH_CHECK_VALUE(target_any.sizes() == at::IntArrayRef(map_sizes), "target must have shape ",
                    at::IntArrayRef(map_sizes), ", got ", target_any.sizes());
  const at::Tensor target = target_any.contiguous();
  p.target = target.const_data_ptr();
  p.samples = map_sizes[0];
  p.pixels = c10::multiply_integers(at::IntArrayRef(map_sizes).slice(1));

  const at::TensorOptions options = target.options().dtype(at::kLong);
  const at::Tensor matrix = per_image ? at::zeros({p.samples, num_classes, num_classes}, options)
                                      : at::zeros({num_classes, num_classes}, options);
  int64_t bad[2] = {0, 0};
  p.matrix = matrix.mutable_data_ptr<int64_t>();
  p.bad = bad;
  if (target.numel() == 0) return matrix;
  SEGFAST_RUN(confusion_matrix, p, prediction, prediction.nbytes());
  if (bad[0] > 0) throw_bad_label(target, "target", num_classes, ignore_index);
  if (bad[1] > 0) throw_bad_label(prediction, "prediction", num_classes, std::nullopt);
  return matrix;
}

}  // namespace

void bind_confusion_matrix(pybind11::module_& m) {
  m.def("confusion_matrix", &confusion_matrix,
        pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace segfast
