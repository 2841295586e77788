#include "kernels/overlap_stats/overlap_stats.h"

#include <ATen/ops/_assert_async.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <tuple>

#include "bindings/checks.h"
#include "bindings/labels.h"

namespace segfast {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// The options of both passes, in the order of the schema.
struct Options {
  bool sigmoid;
  std::optional<int64_t> ignore_index;
  int64_t exponent;
  double label_smoothing;
  double gamma;
  bool minimum;
};

// A weight in the type that the kernel reads, or an undefined tensor.
at::Tensor checked_weight(const OptionalTensor& weight, const char* name, const at::Tensor& logits,
                          at::IntArrayRef sizes, at::ScalarType type) {
  if (!weight.has_value()) return {};
  check_same_device(*weight, name, logits, "logits");
  TORCH_CHECK_TYPE(weight->is_floating_point(), name, " must be floating point, got ",
                   weight->scalar_type());
  TORCH_CHECK_VALUE(weight->sizes() == sizes, name, " must have shape ", sizes, ", got ",
                    weight->sizes());
  return weight->to(type).contiguous();
}

// [C], or one number for all classes.
at::Tensor class_numbers(const OptionalTensor& weight, const char* name, const at::Tensor& logits) {
  const int64_t classes = logits.size(1);
  if (weight.has_value() && weight->sizes() == at::IntArrayRef{1}) {
    return checked_weight(weight->expand({classes}), name, logits, {classes}, at::kDouble);
  }
  return checked_weight(weight, name, logits, {classes}, at::kDouble);
}

const void* pointer(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

// The inputs as the kernels read them, and the tensors that hold them.
struct Inputs {
  OverlapStatsInputs in;
  at::Tensor logits, target, class_weight, pos_weight, pixel_weight;

  Inputs(const at::Tensor& logits_any, const at::Tensor& target_any,
         const OptionalTensor& class_weight_any, const OptionalTensor& pos_weight_any,
         const OptionalTensor& pixel_weight_any, const Options& options) {
    check_device(logits_any);
    check_same_device(target_any, "target", logits_any, "logits");
    in.dtype = floating_dtype(logits_any, "logits");
    check_classes(logits_any, "logits");
    const at::MemoryFormat format = dense_format_of(logits_any);
    const at::IntArrayRef sizes = logits_any.sizes();
    const std::vector<int64_t> map_sizes = without_classes(sizes);
    in.samples = sizes[0];
    in.classes = sizes[1];
    in.pixels = c10::multiply_integers(sizes.slice(2));
    in.channels_last = format != at::MemoryFormat::Contiguous && in.classes > 1;
    in.sigmoid = options.sigmoid;
    TORCH_CHECK_VALUE(in.sigmoid || in.classes > 1,
                      "logits of one channel have no softmax; use mode=\"binary\"");

    in.dense = target_any.dim() == logits_any.dim();
    TORCH_CHECK_VALUE(target_any.sizes() == (in.dense ? sizes : at::IntArrayRef(map_sizes)),
                      "target must have shape ", at::IntArrayRef(map_sizes), " (labels) or ", sizes,
                      " (a target for each class), got ", target_any.sizes());
    in.target_type = target_type(target_any, "target");
    TORCH_CHECK_TYPE(in.dense || !target_any.is_floating_point(),
                     "target must hold integer labels, got ", target_any.scalar_type(),
                     "; a floating-point target needs the shape of the logits");
    in.has_ignore_index = options.ignore_index.has_value();
    in.ignore_index = options.ignore_index.value_or(0);

    TORCH_CHECK_VALUE(options.exponent == 1 || options.exponent == 2,
                      "exponent must be 1 or 2, got ", options.exponent);
    TORCH_CHECK_VALUE(options.label_smoothing >= 0.0 && options.label_smoothing <= 1.0,
                      "label_smoothing must be between 0 and 1, got ", options.label_smoothing);
    TORCH_CHECK_VALUE(options.gamma >= 0.0, "gamma must not be negative, got ", options.gamma);
    in.exponent = static_cast<int>(options.exponent);
    in.label_smoothing = options.label_smoothing;
    in.gamma = options.gamma;
    in.minimum = options.minimum;
    TORCH_CHECK_VALUE(in.sigmoid || !pos_weight_any.has_value(),
                      "pos_weight is for sigmoid modes; use class_weight with softmax");

    logits = logits_any.contiguous(format);
    target = in.dense ? target_any.contiguous(format) : target_any.contiguous();
    class_weight = class_numbers(class_weight_any, "class_weight", logits);
    pos_weight = class_numbers(pos_weight_any, "pos_weight", logits);
    pixel_weight = checked_weight(pixel_weight_any, "pixel_weight", logits, map_sizes,
                                  in.dtype == DType::float64 ? at::kDouble : at::kFloat);
    in.logits = logits.const_data_ptr();
    in.target = target.const_data_ptr();
    in.class_weight = static_cast<const double*>(pointer(class_weight));
    in.pos_weight = static_cast<const double*>(pointer(pos_weight));
    in.pixel_weight = pointer(pixel_weight);
  }
};

// Raises on the CPU; on CUDA the next call that waits does.
void refuse_negative(const at::Tensor& weight, const char* name) {
  if (!weight.defined() || weight.numel() == 0) return;
  if (weight.is_cuda()) {  // the least weight alone: no second map of them in memory
    return at::_assert_async(weight.min().ge(0), "a weight is negative or NaN");
  }
  const double least = weight.min().item<double>();
  TORCH_CHECK_VALUE(least >= 0.0, name, " must not be negative, got ", least);
}

using Stats = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Stats overlap_stats(const at::Tensor& logits, const at::Tensor& target,
                    const OptionalTensor& class_weight, const OptionalTensor& pos_weight,
                    const OptionalTensor& pixel_weight, bool sigmoid,
                    std::optional<int64_t> ignore_index, int64_t exponent, double label_smoothing,
                    double gamma, bool minimum) {
  const Inputs inputs(logits, target, class_weight, pos_weight, pixel_weight,
                      {sigmoid, ignore_index, exponent, label_smoothing, gamma, minimum});
  refuse_negative(inputs.class_weight, "class_weight");
  refuse_negative(inputs.pos_weight, "pos_weight");
  refuse_negative(inputs.pixel_weight, "pixel_weight");
  OverlapStatsParams p;
  p.in = inputs.in;
  const at::TensorOptions options = logits.options().dtype(at::kDouble);
  const auto by_class = [&] { return empty({p.in.samples, p.in.classes}, options); };
  const auto by_sample = [&] { return empty({p.in.samples}, options); };
  Stats stats{by_class(), by_class(), by_class(), by_sample(), by_class(), by_sample()};
  p.intersection = std::get<0>(stats).mutable_data_ptr<double>();
  p.probability = std::get<1>(stats).mutable_data_ptr<double>();
  p.target = std::get<2>(stats).mutable_data_ptr<double>();
  p.cross_entropy = std::get<3>(stats).mutable_data_ptr<double>();
  p.pixels = std::get<4>(stats).mutable_data_ptr<double>();
  p.weight = std::get<5>(stats).mutable_data_ptr<double>();
  if (p.in.samples == 0) return stats;
  // What the op neither returns nor saves: on CUDA up to (4 C + 3) * 8 bytes for 2048 pixels, and
  // for no more than 1024 chunks of a sample; with 19 classes of 16 bits under 1 % of the logits.
  const at::Tensor partials =
      empty({p.in.samples, overlap_stats_chunks(p.in.pixels, logits.is_cuda()),
             overlap_stats_partial_size(p.in.classes)},
            options);
  p.partials = partials.mutable_data_ptr<double>();
  SEGFAST_RUN(overlap_stats, p, inputs.logits, inputs.logits.nbytes());
  if (logits.is_cpu() && overlap_stats_finish_cpu(p) > 0) {
    if (p.in.dense) throw_bad_soft_target(inputs.target, ignore_index);
    const int64_t classes = sigmoid && p.in.classes == 1 ? 2 : p.in.classes;
    throw_bad_label(inputs.target, "target", classes, ignore_index);
  }
  return stats;
}

at::Tensor overlap_stats_backward(
    const at::Tensor& logits, const at::Tensor& target, const OptionalTensor& class_weight,
    const OptionalTensor& pos_weight, const OptionalTensor& pixel_weight,
    const OptionalTensor& grad_intersection, const OptionalTensor& grad_probability,
    const OptionalTensor& grad_cross_entropy, bool sigmoid, std::optional<int64_t> ignore_index,
    int64_t exponent, double label_smoothing, double gamma, bool minimum) {
  const Inputs inputs(logits, target, class_weight, pos_weight, pixel_weight,
                      {sigmoid, ignore_index, exponent, label_smoothing, gamma, minimum});
  OverlapStatsBackwardParams p;
  p.in = inputs.in;
  const auto gradient = [&](const OptionalTensor& grad, const char* name, bool has_classes) {
    if (!grad.has_value()) return at::Tensor();
    const std::vector<int64_t> sizes = has_classes
                                           ? std::vector<int64_t>{p.in.samples, p.in.classes}
                                           : std::vector<int64_t>{p.in.samples};
    TORCH_CHECK_VALUE(grad->sizes() == at::IntArrayRef(sizes), name, " must have shape ",
                      at::IntArrayRef(sizes), ", got ", grad->sizes());
    check_same_device(*grad, name, logits, "logits");
    return grad->to(at::kDouble).contiguous();
  };
  const at::Tensor intersection = gradient(grad_intersection, "grad_intersection", true);
  const at::Tensor probability = gradient(grad_probability, "grad_probability", true);
  const at::Tensor cross_entropy = gradient(grad_cross_entropy, "grad_cross_entropy", false);
  at::Tensor grad_logits = empty(logits.sizes(), inputs.logits.options(), dense_format_of(logits));
  p.grad_intersection = static_cast<const double*>(pointer(intersection));
  p.grad_probability = static_cast<const double*>(pointer(probability));
  p.grad_cross_entropy = static_cast<const double*>(pointer(cross_entropy));
  p.grad_logits = grad_logits.mutable_data_ptr();
  if (grad_logits.numel() > 0) {
    SEGFAST_RUN(overlap_stats_backward, p, inputs.logits, inputs.logits.nbytes());
  }
  return grad_logits;
}

}  // namespace

void bind_overlap_stats(pybind11::module_& m) {
  using release = pybind11::call_guard<pybind11::gil_scoped_release>;
  m.def("overlap_stats", &overlap_stats, release());
  m.def("overlap_stats_backward", &overlap_stats_backward, release());
}

}  // namespace segfast
