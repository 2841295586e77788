#include "bindings/overlap_stats.h"

#include <torch/csrc/utils/pybind.h>

#include <tuple>

namespace segfast {
namespace {

using Stats = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Stats overlap_stats(const at::Tensor& logits, const at::Tensor& target,
                    const OptionalTensor& class_weight, const OptionalTensor& pos_weight,
                    const OptionalTensor& pixel_weight, bool sigmoid,
                    std::optional<int64_t> ignore_index, int64_t exponent, double label_smoothing,
                    double gamma, bool minimum) {
  const OverlapInputs inputs(logits, target, class_weight, pos_weight, pixel_weight,
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
  const at::Tensor partials = empty({overlap_stats_partials(p.in)}, options);
  p.partials = partials.mutable_data_ptr<double>();
  run_overlap_stats(inputs, p);
  return stats;
}

at::Tensor overlap_stats_backward(
    const at::Tensor& logits, const at::Tensor& target, const OptionalTensor& class_weight,
    const OptionalTensor& pos_weight, const OptionalTensor& pixel_weight,
    const OptionalTensor& grad_intersection, const OptionalTensor& grad_probability,
    const OptionalTensor& grad_cross_entropy, bool sigmoid, std::optional<int64_t> ignore_index,
    int64_t exponent, double label_smoothing, double gamma, bool minimum) {
  const OverlapInputs inputs(logits, target, class_weight, pos_weight, pixel_weight,
                             {sigmoid, ignore_index, exponent, label_smoothing, gamma, minimum});
  OverlapStatsBackwardParams p;
  const auto gradient = [&](const OptionalTensor& grad, const char* name, bool has_classes) {
    if (!grad.has_value()) return at::Tensor();
    const std::vector<int64_t> sizes =
        has_classes ? std::vector<int64_t>{inputs.in.samples, inputs.in.classes}
                    : std::vector<int64_t>{inputs.in.samples};
    TORCH_CHECK_VALUE(grad->sizes() == at::IntArrayRef(sizes), name, " must have shape ",
                      at::IntArrayRef(sizes), ", got ", grad->sizes());
    check_same_device(*grad, name, logits, "logits");
    return grad->to(at::kDouble).contiguous();
  };
  const at::Tensor intersection = gradient(grad_intersection, "grad_intersection", true);
  const at::Tensor probability = gradient(grad_probability, "grad_probability", true);
  const at::Tensor cross_entropy = gradient(grad_cross_entropy, "grad_cross_entropy", false);
  p.grad_intersection = static_cast<const double*>(pointer_or_null(intersection));
  p.grad_probability = static_cast<const double*>(pointer_or_null(probability));
  p.grad_cross_entropy = static_cast<const double*>(pointer_or_null(cross_entropy));
  return run_overlap_stats_backward(inputs, p);
}

}  // namespace

void bind_overlap_stats(pybind11::module_& m) {
  using release = pybind11::call_guard<pybind11::gil_scoped_release>;
  m.def("overlap_stats", &overlap_stats, release());
  m.def("overlap_stats_backward", &overlap_stats_backward, release());
}

}  // namespace segfast
