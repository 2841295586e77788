// The losses of plain eager calls: statistics, loss and derivatives in one call, and an autograd
// node whose backward pass is one launch.
#include "kernels/overlap_loss/overlap_loss.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/csrc/utils/pybind.h>

#include <array>
#include <memory>
#include <mutex>
#include <tuple>

#include "bindings/node.h"
#include "bindings/overlap_stats.h"
#include "bindings/plain.h"

namespace segfast {
namespace {

using torch::autograd::SavedVariable;

// Of segfast/losses/_fused.py: StatsOptions, RegionTerm and PixelTerm.
using StatsTuple = std::tuple<bool, std::optional<int64_t>, int64_t, double, double, bool>;
using RegionTuple = std::tuple<double, std::tuple<double, double, double, double>, double, double,
                               double, int, double, double, int, bool, bool, bool, bool>;
using PixelTuple = std::tuple<double, bool, bool, bool, bool>;

OverlapOptions stats_options(const StatsTuple& tuple) {
  OverlapOptions options;
  std::tie(options.sigmoid, options.ignore_index, options.exponent, options.label_smoothing,
           options.gamma, options.minimum) = tuple;
  return options;
}

RegionTerm region_term(const RegionTuple& tuple, const at::Tensor& class_weight) {
  RegionTerm term;
  std::tuple<double, double, double, double> score;
  int link, empty;
  std::tie(term.factor, score, term.top, term.bottom, term.least, link, term.least_score,
           term.power, empty, term.every_class, term.include_background, term.by_sample,
           term.mean) = tuple;
  std::tie(term.a, term.i, term.p, term.t) = score;
  term.link = static_cast<Link>(link);
  term.empty = static_cast<Empty>(empty);
  term.class_weight = static_cast<const double*>(pointer_or_null(class_weight));
  return term;
}

PixelTerm pixel_term(const PixelTuple& tuple) {
  PixelTerm term;
  std::tie(term.factor, term.weighted, term.by_class, term.by_sample, term.mean) = tuple;
  return term;
}

// A Python object that is let go of in whichever thread it is last held.
std::shared_ptr<PyObject> hold(const pybind11::object& object) {
  return {object.inc_ref().ptr(), [](PyObject* held) {
            if (Py_IsInitialized() == 0) return;
            const pybind11::gil_scoped_acquire gil;
            Py_DECREF(held);
          }};
}

OptionalTensor optional(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

// The loss's derivatives by intersection [N, C], probability [N, C] and cross_entropy [N], in one
// piece of memory. A loss that is no function of one has none by it.
struct Slopes {
  at::Tensor memory;
  int64_t samples = 0, classes = 0;
  bool region = false, pixel = false;

  Slopes() = default;
  Slopes(const OverlapStatsInputs& in, bool region, bool pixel, const at::TensorOptions& options)
      : memory(empty({in.samples * (2 * in.classes + 1)}, options.dtype(at::kDouble))),
        samples(in.samples),
        classes(in.classes),
        region(region),
        pixel(pixel) {}

  double* by_intersection() const { return region ? at(0) : nullptr; }
  double* by_probability() const { return region ? at(samples * classes) : nullptr; }
  double* by_cross_entropy() const { return pixel ? at(2 * samples * classes) : nullptr; }

  // Times `scale`, for differentiable or traced steps.
  std::tuple<OptionalTensor, OptionalTensor, OptionalTensor> scaled(const at::Tensor& scale) const {
    const int64_t size = samples * classes;
    const auto part = [&](bool there, int64_t first, at::IntArrayRef sizes) {
      const int64_t count = c10::multiply_integers(sizes);
      if (!there) return OptionalTensor();
      return OptionalTensor(memory.narrow(0, first, count).view(sizes).mul(scale));
    };
    return {part(region, 0, {samples, classes}), part(region, size, {samples, classes}),
            part(pixel, 2 * size, {samples})};
  }

 private:
  double* at(int64_t first) const { return memory.mutable_data_ptr<double>() + first; }
};

struct OverlapLossBackward : torch::autograd::Node {
  OverlapOptions options{};
  SavedVariable logits, target, class_weight, pos_weight, pixel_weight;
  Slopes slopes;
  // composite(logits, target, pixel_weight) is the same loss in steps that autograd records.
  std::shared_ptr<PyObject> composite;

  std::string name() const override { return "OverlapLossBackward"; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable* variable : saved()) variable->reset_data();
    slopes = Slopes();
  }

  // For compiled autograd: what the graph that it traces depends on, and apply() on its stand-ins.
  void compiled_args(torch::autograd::CompiledNodeArgs& args) const override {
    for (const SavedVariable* variable :
         {&logits, &target, &class_weight, &pos_weight, &pixel_weight}) {
      args.collect(*variable, /*is_output=*/false);
    }
    args.collect(slopes.memory);
    args.collect(slopes.samples);
    args.collect(slopes.classes);
    args.collect(slopes.region);
    args.collect(slopes.pixel);
    args.collect(options.sigmoid);
    args.collect(options.ignore_index);
    args.collect(options.exponent);
    args.collect(options.label_smoothing);
    args.collect(options.gamma);
    args.collect(options.minimum);
  }
  torch::autograd::variable_list apply_with_saved(
      const torch::autograd::variable_list& grads,
      torch::autograd::SwapSavedVariables& swap) override {
    for (SavedVariable* variable : saved()) swap.before(*variable);
    swap.before(slopes.memory);
    torch::autograd::variable_list result = apply(torch::autograd::variable_list(grads));
    swap.after(slopes.memory);
    for (SavedVariable* variable : saved()) swap.after(*variable);
    return result;
  }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    const at::Tensor grad = grads[0].resolve_neg();
    std::unique_lock<std::mutex> lock(mutex_);
    const at::Tensor z = logits.unpack(), t = target.unpack(), weight = class_weight.unpack(),
                     positive = pos_weight.unpack(), pixel = pixel_weight.unpack();
    const Slopes by = slopes;
    lock.unlock();

    if (at::GradMode::is_enabled()) return {differentiable(grad, z, t, pixel)};
    bool plain = is_plain_context();
    for (const at::Tensor* tensor : {&grad, &z, &t, &weight, &positive, &pixel}) {
      plain = plain && (!tensor->defined() || is_plain(*tensor));
    }
    const OptionalTensor class_numbers = optional(weight), positives = optional(positive),
                         pixels = optional(pixel);
    if (!plain) {
      const auto [by_intersection, by_probability, by_cross_entropy] =
          by.scaled(grad.to(at::kDouble));
      const pybind11::gil_scoped_acquire gil;
      const pybind11::object backward =
          pybind11::module_::import("segfast.functional.overlap_stats")
              .attr("_overlap_stats_backward");
      return {backward(z, t, class_numbers, positives, pixels, by_intersection, by_probability,
                       by_cross_entropy, options.sigmoid, options.ignore_index, options.exponent,
                       options.label_smoothing, options.gamma, options.minimum)
                  .cast<at::Tensor>()};
    }
    const OverlapInputs inputs(z, t, class_numbers, positives, pixels, options);
    const at::Tensor scale = grad.contiguous();  // of the loss's type, as autograd sees to
    OverlapStatsBackwardParams p{};
    p.grad_intersection = by.by_intersection();
    p.grad_probability = by.by_probability();
    p.grad_cross_entropy = by.by_cross_entropy();
    p.scale = scale.const_data_ptr();
    return {run_overlap_stats_backward(inputs, p)};
  }

 private:
  std::array<SavedVariable*, 5> saved() {
    return {&logits, &target, &class_weight, &pos_weight, &pixel_weight};
  }

  at::Tensor differentiable(const at::Tensor& grad, const at::Tensor& z, const at::Tensor& t,
                            const at::Tensor& pixel) const {
    at::Tensor loss;
    {
      const pybind11::gil_scoped_acquire gil;
      const auto function = pybind11::reinterpret_borrow<pybind11::object>(composite.get());
      loss = function(z, t, optional(pixel)).cast<at::Tensor>();
    }
    return torch::autograd::grad({loss}, {z}, {grad}, /*retain_graph=*/true,
                                 /*create_graph=*/true)[0];
  }
};

// The arguments, None or tensors; false if something stands between one of them and the kernels, or
// is to be differentiated and is not the first.
template <size_t kCount>
bool unpack_plain(const pybind11::handle (&objects)[kCount], at::Tensor (&tensors)[kCount]) {
  if (!is_plain_context()) return false;
  for (size_t i = 0; i < kCount; ++i) {
    if (objects[i].is_none()) continue;
    if (!THPVariable_CheckExact(objects[i].ptr())) return false;
    tensors[i] = THPVariable_Unpack(objects[i].ptr());
    if (tensors[i].is_neg()) tensors[i] = tensors[i].resolve_neg();
    if (!is_plain(tensors[i])) return false;
    if (is_dual(tensors[i]) || (i > 0 && needs_grad(tensors[i]))) return false;
  }
  return true;
}

// The loss, or None where the composite of differentiable steps has to be taken. Only pixel_weight
// is still to be checked for negative numbers: the other weights are a loss's own.
OptionalTensor overlap_loss(pybind11::handle logits_any, pybind11::handle target_any,
                            pybind11::handle pixel_weight_any, pybind11::handle class_weight_any,
                            pybind11::handle pos_weight_any, pybind11::handle region_weight_any,
                            const StatsTuple& stats, const std::optional<RegionTuple>& region,
                            const std::optional<PixelTuple>& pixel,
                            const pybind11::object& composite) {
  at::Tensor tensors[6];
  if (!unpack_plain({logits_any, target_any, pixel_weight_any, class_weight_any, pos_weight_any,
                     region_weight_any},
                    tensors)) {
    return std::nullopt;
  }
  const auto& [logits, target, pixel_weight, class_weight, pos_weight, region_weight] = tensors;
  if (logits.dim() < 3 || logits.size(0) == 0) return std::nullopt;
  if (region_weight.defined() && region_weight.numel() != logits.size(1)) return std::nullopt;
  const bool recorded = needs_grad(logits);
  const std::shared_ptr<PyObject> held = recorded ? hold(composite) : nullptr;
  const pybind11::gil_scoped_release no_gil;

  const OverlapOptions options = stats_options(stats);
  const OverlapInputs inputs(logits, target, optional(class_weight), optional(pos_weight),
                             optional(pixel_weight), options);
  refuse_negative(inputs.pixel_weight, "pixel_weight");
  const at::Tensor weight = class_numbers(optional(region_weight), "class_weight", logits);

  // One piece of memory for the sums and what they are made of.
  const int64_t by_class = inputs.in.samples * inputs.in.classes;
  const int64_t sums = 4 * by_class + 2 * inputs.in.samples;
  const at::Tensor scratch =
      empty({sums + overlap_stats_partials(inputs.in)}, logits.options().dtype(at::kDouble));
  OverlapStatsParams s;
  s.in = inputs.in;
  s.intersection = scratch.mutable_data_ptr<double>();
  s.probability = s.intersection + by_class;
  s.target = s.probability + by_class;
  s.pixels = s.target + by_class;
  s.cross_entropy = s.pixels + by_class;
  s.weight = s.cross_entropy + inputs.in.samples;
  s.partials = s.intersection + sums;

  Slopes slopes;
  if (recorded) slopes = Slopes(inputs.in, region.has_value(), pixel.has_value(), logits.options());
  OverlapLossParams p{};
  p.samples = inputs.in.samples;
  p.classes = inputs.in.classes;
  p.has_region = region.has_value();
  p.has_pixel = pixel.has_value();
  if (region) p.region = region_term(*region, weight);
  if (pixel) p.pixel = pixel_term(*pixel);
  p.intersection = s.intersection;
  p.probability = s.probability;
  p.target = s.target;
  p.pixels = s.pixels;
  p.cross_entropy = s.cross_entropy;
  p.weight = s.weight;
  p.wide = inputs.in.dtype == DType::float64;
  at::Tensor loss = empty({}, logits.options().dtype(p.wide ? at::kDouble : at::kFloat));
  p.loss = loss.mutable_data_ptr();
  p.grad_intersection = slopes.by_intersection();
  p.grad_probability = slopes.by_probability();
  p.grad_cross_entropy = slopes.by_cross_entropy();
#if defined(SEGFAST_WITH_CUDA)
  if (logits.is_cuda()) {
    run_cuda(overlap_stats_partials_cuda, s, logits);
    run_cuda(overlap_loss_cuda, OverlapLossCudaParams{s, p}, logits);
  } else
#endif
  {
    run_overlap_stats(inputs, s);
    overlap_loss_cpu(p);
  }
  if (!recorded) return loss;

  const auto node = make_node<OverlapLossBackward>();
  node->set_next_edges(torch::autograd::collect_next_edges(logits));
  node->options = options;
  node->logits = SavedVariable(logits, false);
  node->target = SavedVariable(target, false);
  node->class_weight = SavedVariable(class_weight, false);
  node->pos_weight = SavedVariable(pos_weight, false);
  node->pixel_weight = SavedVariable(pixel_weight, false);
  node->slopes = slopes;
  node->composite = held;
  torch::autograd::set_history(loss, node);
  announce(node);
  return loss;
}

}  // namespace

void bind_overlap_loss(pybind11::module_& m) {
  m.def("overlap_loss", torch::wrap_pybind_function(overlap_loss));
}

}  // namespace segfast
