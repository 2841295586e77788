// overlap_stats.h: what the bindings of overlap_stats and overlap_loss share.
#pragma once

#include "kernels/overlap_stats/overlap_stats.h"

#include <ATen/ops/_assert_async.h>

#include <optional>

#include "bindings/checks.h"
#include "bindings/labels.h"

namespace segfast {

using OptionalTensor = std::optional<at::Tensor>;

// The options of both passes, in the order of the schema.
struct OverlapOptions {
  bool sigmoid;
  std::optional<int64_t> ignore_index;
  int64_t exponent;
  double label_smoothing;
  double gamma;
  bool minimum;
};

// A weight in the type that the kernel reads, or an undefined tensor.
inline at::Tensor checked_weight(const OptionalTensor& weight, const char* name,
                                 const at::Tensor& logits, at::IntArrayRef sizes,
                                 at::ScalarType type) {
  if (!weight.has_value()) return {};
  check_same_device(*weight, name, logits, "logits");
  TORCH_CHECK_TYPE(weight->is_floating_point(), name, " must be floating point, got ",
                   weight->scalar_type());
  TORCH_CHECK_VALUE(weight->sizes() == sizes, name, " must have shape ", sizes, ", got ",
                    weight->sizes());
  return weight->to(type).contiguous();
}

// [C], or one number for all classes.
inline at::Tensor class_numbers(const OptionalTensor& weight, const char* name,
                                const at::Tensor& logits) {
  const int64_t classes = logits.size(1);
  if (weight.has_value() && weight->sizes() == at::IntArrayRef{1}) {
    return checked_weight(weight->expand({classes}), name, logits, {classes}, at::kDouble);
  }
  return checked_weight(weight, name, logits, {classes}, at::kDouble);
}

inline const void* pointer_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

// The inputs as the kernels read them, and the tensors that hold them.
struct OverlapInputs {
  OverlapStatsInputs in{};
  at::Tensor logits, target, class_weight, pos_weight, pixel_weight;

  OverlapInputs(const at::Tensor& logits_any, const at::Tensor& target_any,
                const OptionalTensor& class_weight_any, const OptionalTensor& pos_weight_any,
                const OptionalTensor& pixel_weight_any, const OverlapOptions& options) {
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
    in.multiprocessors = multiprocessors(logits_any);
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
    target = target_any.contiguous(in.dense ? format : at::MemoryFormat::Contiguous);
    class_weight = class_numbers(class_weight_any, "class_weight", logits);
    pos_weight = class_numbers(pos_weight_any, "pos_weight", logits);
    pixel_weight = checked_weight(pixel_weight_any, "pixel_weight", logits, map_sizes,
                                  in.dtype == DType::float64 ? at::kDouble : at::kFloat);
    in.logits = logits.const_data_ptr();
    in.target = target.const_data_ptr();
    in.class_weight = static_cast<const double*>(pointer_or_null(class_weight));
    in.pos_weight = static_cast<const double*>(pointer_or_null(pos_weight));
    in.pixel_weight = pointer_or_null(pixel_weight);
  }
};

// Raises on the CPU; on CUDA the next call that waits does.
inline void refuse_negative(const at::Tensor& weight, const char* name) {
  if (!weight.defined() || weight.numel() == 0) return;
  if (weight.is_cuda()) {  // the least weight alone: no second map of them in memory
    return at::_assert_async(weight.min().ge(0), "a weight is negative or NaN");
  }
  const double least = weight.min().item<double>();
  TORCH_CHECK_VALUE(least >= 0.0, name, " must not be negative, got ", least);
}

// Adds up p.in's sums. `p.partials` is memory for overlap_stats_partials(p.in) numbers.
inline int64_t overlap_stats_partials(const OverlapStatsInputs& in) {
  return in.samples * overlap_stats_chunks(in) * overlap_stats_partial_size(in.classes);
}
inline void run_overlap_stats(const OverlapInputs& inputs, const OverlapStatsParams& p) {
  SEGFAST_RUN(overlap_stats, p, inputs.logits, inputs.logits.nbytes());
  if (!inputs.logits.is_cpu() || overlap_stats_finish_cpu(p) == 0) return;
  const std::optional<int64_t> ignore_index =
      p.in.has_ignore_index ? std::optional(p.in.ignore_index) : std::nullopt;
  if (p.in.dense) throw_bad_soft_target(inputs.target, ignore_index);
  const int64_t classes = p.in.sigmoid && p.in.classes == 1 ? 2 : p.in.classes;
  throw_bad_label(inputs.target, "target", classes, ignore_index);
}

// Returns the gradient by the logits, as `p` says.
inline at::Tensor run_overlap_stats_backward(const OverlapInputs& inputs,
                                             OverlapStatsBackwardParams p) {
  at::Tensor grad_logits =
      empty(inputs.logits.sizes(), inputs.logits.options(), dense_format_of(inputs.logits));
  p.in = inputs.in;
  p.grad_logits = grad_logits.mutable_data_ptr();
  if (grad_logits.numel() > 0) {
    SEGFAST_RUN(overlap_stats_backward, p, inputs.logits, inputs.logits.nbytes());
  }
  return grad_logits;
}

}  // namespace segfast
