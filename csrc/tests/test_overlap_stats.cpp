// test_overlap_stats.cpp: the sums of overlap losses and their gradient, against the definition in
// overlap_stats.h and the chain rule, in double.
#include "kernels/overlap_stats/overlap_stats.h"

#include "kernels/overlap_loss/overlap_loss.h"
#include "labels.h"

using namespace segfast;
using namespace segfast::test;

namespace {

struct StatsCase {
  const char* reason;
  int64_t N, C, S;
};

const StatsCase kCases[] = {
    {"one pixel", 1, 2, 1},
    {"a tail of pixels", 2, 5, 77},
    {"whole vectors", 1, 8, 256},
    {"a tile and a pixel", 1, 12, 129},
    {"an odd number of classes", 2, 17, 130},
    {"9 to 12 classes, a tile and more", 1, 12, 600},
    {"13 to 16 classes", 1, 13, 40},
    {"a tile and more, of a sample that begins between two vectors", 2, 2, 515},
    {"21 to 32 classes, one tile in shared memory and more", 1, 21, 270},
    {"the most classes of a kernel", 1, 4, 3},
    {"the fewest", 1, 9, 3},
    {"the most", 1, 16, 3},
    {"the most", 1, 20, 3},
    {"the most", 1, 32, 3},
    {"more classes than registers hold", 1, 33, 70},
    {"more sums than a block has threads", 1, 64, 9},
    {"more chunks than are added up at once", 1, 2, 16500},
    {"one class", 2, 1, 83},
    {"no pixels", 1, 3, 0},
    {"an empty batch", 0, 3, 5},
};

struct Options {
  const char* reason;
  bool sigmoid;
  bool dense, soft;  // a target for each class; fractions, not only 0 and 1
  int exponent;
  double smoothing, gamma;
  bool ignore, class_weight, pos_weight, pixel_weight;
  bool minimum = false;
};

const Options kOptions[] = {
    {"softmax", false, false, false, 1, 0, 0, false, false, false, false},
    {"softmax, ignored and weighted", false, false, false, 1, 0, 0, true, true, false, true},
    {"softmax, squares, smoothing", false, false, false, 2, 0.1, 0, true, true, false, false},
    {"softmax, focal", false, false, false, 1, 0, 2, true, true, false, true},
    {"softmax, focal and smoothing", false, false, false, 2, 0.2, 1.5, false, true, false, true},
    {"softmax, dense", false, true, false, 1, 0, 0, true, false, false, false},
    {"softmax, soft targets", false, true, true, 2, 0.1, 2, true, true, false, true},
    {"sigmoid", true, false, false, 1, 0, 0, true, false, false, false},
    {"sigmoid, dense", true, true, false, 2, 0, 0, true, true, true, true},
    {"sigmoid, soft targets", true, true, true, 1, 0.1, 2, true, true, true, true},
    {"softmax, minimum", false, true, true, 2, 0, 0, true, false, false, false, true},
    {"sigmoid, minimum", true, true, true, 1, 0, 0, true, false, false, false, true},
};

// Of fours of classes, what is ignored elsewhere counts, and the other way round; of one class more
// so with the weights of pixels.
Options varied(Options o, int64_t classes) {
  if (classes % 4 == 0) o.ignore = !o.ignore;
  if (classes % 4 == 1) o.pixel_weight = !o.pixel_weight;
  return o;
}

// Whether no option before has such a target.
bool first_of_its_kind(const Options& o) {
  const Options* like = std::find_if(std::begin(kOptions), std::end(kOptions), [&](const auto& x) {
    return x.sigmoid == o.sigmoid && x.dense == o.dense && x.soft == o.soft;
  });
  return like == &o;
}

// A launch's data, and the sums and gradient that the definitions give.
template <typename T>
struct Problem {
  using R = accumulate_t<T>;

  // A bad target stops a GPU's grid, so only the CPU's problems have some.
  Problem(const StatsCase& c, const Options& o, bool channels_last, TargetType label_type,
          int64_t offset, int64_t target_offset, bool with_bad)
      : with_bad(with_bad),
        c(c),
        o(varied(o, c.C)),
        layout{channels_last, c.C, 1, c.S},
        logits(c.N * c.C * c.S, offset),
        target(make_target(label_type, target_offset)),
        class_weight(c.C),
        pos_weight(c.C),
        pixel_weight(c.N * c.S, offset) {
    fill_random(logits);
    // One softmax in eight is surer of a class than float's exponents can tell.
    for (int64_t i = 0; i < c.N * c.S && !o.sigmoid; ++i) {
      if (random_integer(0, 7) != 0) continue;
      logits[layout(i / c.S, random_integer(0, c.C - 1), 0, i % c.S)] = from_float<T>(200);
    }
    // What does not count may be anything.
    for (int64_t i = 0; i < c.N * c.S; ++i) {
      const auto target = [&](int64_t k) { return target_at(i / c.S, k, i % c.S); };
      bool counts = true;  // as a whole
      for (int64_t k = 0; k < c.C && !o.sigmoid; ++k) counts &= target(k) >= 0;
      for (int64_t k = 0; k < c.C; ++k) {
        if (counts && target(k) >= 0) continue;
        logits[layout(i / c.S, k, 0, i % c.S)] = from_float<T>(i % 2 == 0 ? NAN : INFINITY);
      }
    }
    for (int64_t k = 0; k < c.C; ++k) {
      class_weight[k] = 0.5 + 0.1 * static_cast<double>(k % 7);
      pos_weight[k] = 0.75 + 0.25 * static_cast<double>(k % 4);
    }
    for (int64_t i = 0; i < pixel_weight.size(); ++i) {
      pixel_weight[i] = static_cast<R>(random_integer(0, 4)) / 2;
    }
  }

  OverlapStatsInputs inputs(Backend backend) const {
    OverlapStatsInputs in{};
    in.multiprocessors = backend == Backend::cuda ? 2 : 0;
    in.logits = logits.data();
    in.dtype = dtype_of<T>();
    in.samples = c.N;
    in.classes = c.C;
    in.pixels = c.S;
    in.channels_last = layout.channels_last;
    in.sigmoid = o.sigmoid;
    in.target = target.data();
    in.target_type = target_type;
    in.dense = o.dense;
    in.has_ignore_index = o.ignore;
    in.ignore_index = o.ignore ? ignored : 0;  // without a flag the number means nothing
    in.exponent = o.exponent;
    in.label_smoothing = o.smoothing;
    in.gamma = o.gamma;
    in.minimum = o.minimum;
    in.class_weight = o.class_weight ? class_weight.data() : nullptr;
    in.pos_weight = o.pos_weight ? pos_weight.data() : nullptr;
    in.pixel_weight = o.pixel_weight ? pixel_weight.data() : nullptr;
    return in;
  }

  // The definitions of overlap_stats.h, and the gradient of
  // sum a * intersection + sum b * probability + sum e * cross_entropy.
  void reference(const Array<double>& a, const Array<double>& b, const Array<double>& e) {
    for (int64_t n = 0; n < c.N; ++n) {
      for (int64_t s = 0; s < c.S; ++s) {
        o.sigmoid ? sigmoid_pixel(n, s, a, b, e) : softmax_pixel(n, s, a, b, e);
      }
    }
  }

  bool with_bad;
  StatsCase c;
  Options o;
  Layout layout;
  int64_t ignored = 255;
  TargetType target_type = TargetType::uint8;
  std::vector<double> targets;  // [N, C, S]: in [0, 1]; -1 where ignored or bad
  std::vector<int64_t> labels;  // [N, S], without dense
  int64_t bad_targets = 0;
  Array<T> logits;
  Array<uint8_t> target;
  Array<double> class_weight, pos_weight;
  Array<R> pixel_weight;
  Array<double> intersection{c.N * c.C}, probability{c.N * c.C}, target_sum{c.N * c.C},
      pixels{c.N * c.C}, cross_entropy{c.N}, weight{c.N}, gradient{c.N * c.C * c.S};

 private:
  // Fills targets, labels and bad_targets. One target in 64 is bad, if any.
  Array<uint8_t> make_target(TargetType label_type, int64_t offset) {
    targets.resize(static_cast<size_t>(c.N * c.C * c.S));
    if (!o.dense) {
      target_type = label_type;
      const int64_t values = o.sigmoid && c.C == 1 ? 2 : c.C;
      // Of an odd number of classes the last one is ignored, else what is none.
      const bool is_class = values > 1 && values % 2 == 1;
      ignored = is_class ? values - 1 : largest_label(label_type);
      labels = random_labels(c.N * c.S, values, o.ignore ? ignored : 0);
      for (int64_t i = 0; i < c.N * c.S; ++i) {
        int64_t& label = labels[static_cast<size_t>(i)];
        if (with_bad && random_integer(0, 63) == 0) label = values;
        bad_targets += label == values;
        for (int64_t k = 0; k < c.C; ++k) {
          const bool hit = label == (values == c.C ? k : 1);
          const bool counts = label < values && !(o.ignore && label == ignored);
          target_at(i / c.S, k, i % c.S) = !counts ? -1.0 : hit ? 1.0 : 0.0;
        }
      }
      return store_labels(labels, label_type, offset);
    }
    target_type = o.soft ? kSoftTypes[static_cast<int>(label_type) % 4] : label_type;
    // Of an odd number of sigmoids the number is a target too.
    ignored = o.sigmoid && c.C % 2 == 1 ? 1
              : o.soft                  ? 100
                                        : std::min<int64_t>(largest_label(label_type), 255);
    std::vector<double> values(targets.size());
    for (int64_t n = 0; n < c.N; ++n) {
      for (int64_t k = 0; k < c.C; ++k) {
        for (int64_t s = 0; s < c.S; ++s) {
          double value = static_cast<double>(random_integer(0, o.soft ? 4 : 1)) / (o.soft ? 4 : 1);
          if (o.ignore && random_integer(0, 15) == 0) value = static_cast<double>(ignored);
          if (with_bad && random_integer(0, 63) == 0) value = 2.0;
          bad_targets += value == 2.0;
          const bool counts = value <= 1.0 && !(o.ignore && value == static_cast<double>(ignored));
          target_at(n, k, s) = counts ? value : -1.0;
          values[static_cast<size_t>(layout(n, k, 0, s))] = value;
        }
      }
    }
    if (o.soft) return store_soft_targets(values, target_type, offset);
    return store_labels({values.begin(), values.end()}, label_type, offset);
  }

  double& target_at(int64_t n, int64_t k, int64_t s) {
    return targets[static_cast<size_t>((n * c.C + k) * c.S + s)];
  }
  double logit(int64_t n, int64_t k, int64_t s) const {
    return static_cast<double>(to_float(logits[layout(n, k, 0, s)]));
  }
  double class_weight_at(int64_t k) const { return o.class_weight ? class_weight[k] : 1.0; }
  double pixel_weight_at(int64_t n, int64_t s) const {
    return o.pixel_weight ? static_cast<double>(pixel_weight[n * c.S + s]) : 1.0;
  }
  double meets(double p, double t) const {
    return o.minimum ? (p < t ? 1.0 : p > t ? 0.0 : 0.5) : t;
  }
  void add(int64_t n, int64_t k, double p, double t) {
    intersection[n * c.C + k] += o.minimum ? std::min(p, t) : p * t;
    probability[n * c.C + k] += std::pow(p, o.exponent);
    target_sum[n * c.C + k] += t;
    pixels[n * c.C + k] += 1.0;
  }

  void softmax_pixel(int64_t n, int64_t s, const Array<double>& a, const Array<double>& b,
                     const Array<double>& e) {
    double largest = -INFINITY, sum = 0.0;
    for (int64_t k = 0; k < c.C; ++k) {
      if (target_at(n, k, s) < 0) return;
      largest = std::max(largest, logit(n, k, s));
    }
    for (int64_t k = 0; k < c.C; ++k) sum += std::exp(logit(n, k, s) - largest);
    std::vector<double> p(static_cast<size_t>(c.C)), slope(p.size());  // slope: by p[k]
    const double w = pixel_weight_at(n, s);
    for (int64_t k = 0; k < c.C; ++k) {
      const double t = target_at(n, k, s), log_p = logit(n, k, s) - largest - std::log(sum);
      const double q = std::exp(log_p);
      p[static_cast<size_t>(k)] = q;
      add(n, k, q, t);
      const double tau =
          class_weight_at(k) * ((1 - o.smoothing) * t + o.smoothing / static_cast<double>(c.C));
      const double factor = o.gamma == 0 ? 1.0 : std::pow(1 - q, o.gamma);
      cross_entropy[n] -= w * tau * factor * log_p;
      double loss_slope = -factor / q;
      if (o.gamma != 0 && q < 1) loss_slope += o.gamma * std::pow(1 - q, o.gamma - 1) * log_p;
      slope[static_cast<size_t>(k)] = a[n * c.C + k] * meets(q, t) +
                                      o.exponent * b[n * c.C + k] * std::pow(q, o.exponent - 1) +
                                      e[n] * w * tau * loss_slope;
    }
    weight[n] += w * (o.dense ? 1.0 : class_weight_at(labels[static_cast<size_t>(n * c.S + s)]));
    double common = 0.0;
    for (size_t k = 0; k < p.size(); ++k) common += slope[k] * p[k];
    for (int64_t k = 0; k < c.C; ++k) {
      const size_t i = static_cast<size_t>(k);
      gradient[layout(n, k, 0, s)] = p[i] * (slope[i] - common);
    }
  }

  void sigmoid_pixel(int64_t n, int64_t s, const Array<double>& a, const Array<double>& b,
                     const Array<double>& e) {
    for (int64_t k = 0; k < c.C; ++k) {
      const double t = target_at(n, k, s), z = logit(n, k, s);
      if (t < 0) continue;
      const double p = 1 / (1 + std::exp(-z)), dp = p * (1 - p);
      add(n, k, p, t);
      const double smooth = t * (1 - o.smoothing) + (1 - t) * o.smoothing;
      const double positive = o.pos_weight ? pos_weight[k] : 1.0;
      const double entropy = -positive * smooth * std::log(p) - (1 - smooth) * std::log1p(-p);
      const double entropy_slope = -positive * smooth / p + (1 - smooth) / (1 - p);  // by p
      const double u = p + smooth - 2 * p * smooth;
      const double factor = o.gamma == 0 ? 1.0 : std::pow(u, o.gamma);
      const double factor_slope =
          o.gamma == 0 ? 0.0 : o.gamma * std::pow(u, o.gamma - 1) * (1 - 2 * smooth);
      const double w = class_weight_at(k) * pixel_weight_at(n, s);
      cross_entropy[n] += w * factor * entropy;
      weight[n] += w;
      gradient[layout(n, k, 0, s)] =
          dp * (a[n * c.C + k] * meets(p, t) +
                o.exponent * b[n * c.C + k] * std::pow(p, o.exponent - 1) +
                e[n] * w * (factor * entropy_slope + factor_slope * entropy));
    }
  }
};

template <typename T>
void test_case(Backend backend, const StatsCase& c, const Options& o, bool channels_last,
               TargetType label_type, int64_t offset, int64_t target_offset, int64_t grad_offset,
               bool scaled) {
  if (!o.dense && std::max<int64_t>(c.C, 2) >= largest_label(label_type)) return;
  const bool cuda = backend == Backend::cuda;
  Problem<T> problem(c, o, channels_last, label_type, offset, target_offset, !cuda);
  Array<double> a(c.N * c.C), b(c.N * c.C), e(c.N);
  fill_random(a);
  fill_random(b);
  fill_random(e);
  problem.reference(a, b, e);

  const OverlapStatsInputs inputs = problem.inputs(backend);
  Array<double> partials(c.N * overlap_stats_chunks(inputs) * overlap_stats_partial_size(c.C));
  Array<double> intersection(c.N * c.C), probability(c.N * c.C), target(c.N * c.C),
      pixels(c.N * c.C), cross_entropy(c.N), weight(c.N);
  Array<T> grad_logits(c.N * c.C * c.S, grad_offset);
  Array<int64_t> bad(1);
  OverlapStatsParams p{};
  p.in = inputs;
  p.partials = partials.data();
  p.intersection = intersection.data();
  p.probability = probability.data();
  p.target = target.data();
  p.pixels = pixels.data();
  p.cross_entropy = cross_entropy.data();
  p.weight = weight.data();
  std::string missing = unwritten(
      [&] {
        run_op(backend, p, overlap_stats_items(p), overlap_stats_cpu, overlap_stats_cuda);
        bad[0] = cuda ? 0 : overlap_stats_finish_cpu(p);
      },
      partials, intersection, probability, target, pixels, cross_entropy, weight, bad);
  CHECK(missing.empty(), missing);
  CHECK(bad[0] == problem.bad_targets,
        show(bad[0]) + " bad targets, expected " + show(problem.bad_targets));

  // Float sums of up to S terms of about 1, with exp and log to some units in the last place; in
  // double the same, but for the weights and thresholds that are floats.
  const double step = std::is_same_v<T, double> ? 1e-12 : 1e-6;
  const double absolute = 4 * step * std::sqrt(static_cast<double>(c.S + 1));
  check_close(intersection, problem.intersection, 4 * step, absolute, "intersection");
  check_close(probability, problem.probability, 4 * step, absolute, "probability");
  check_close(target, problem.target_sum, 4 * step, absolute, "target");
  check_close(pixels, problem.pixels, 0, 0, "pixels");
  check_close(cross_entropy, problem.cross_entropy, 4 * step, absolute, "cross_entropy");
  check_close(weight, problem.weight, 4 * step, absolute, "weight");

  OverlapStatsBackwardParams g{inputs, a.data(), b.data(), e.data(), grad_logits.data()};
  Array<accumulate_t<T>> scale(1);  // of derivatives four times as large
  scale[0] = accumulate_t<T>(0.25);
  if (scaled) {
    g.scale = scale.data();
    for (Array<double>* gradient : {&a, &b, &e}) {
      for (int64_t i = 0; i < gradient->size(); ++i) (*gradient)[i] *= 4.0;
    }
  }
  missing = unwritten(
      [&] {
        run_op(backend, g, overlap_stats_backward_items(g), overlap_stats_backward_cpu,
               overlap_stats_backward_cuda);
      },
      grad_logits);
  CHECK(missing.empty(), "backward: " + missing);
  const double rounding = std::is_same_v<T, Half> ? 1e-3 : std::is_same_v<T, BFloat16> ? 8e-3 : 0;
  check_close(grad_logits, problem.gradient, rounding + 10 * step, 10 * step, "grad_logits");
}

// The partial sums that each kind of kernel leaves, and the loss that adds them up itself: the sums
// of the pixel term, whatever block comes last, again and again.
void test_loss_on_a_gpu() {
  for (const Options& o : kOptions) {
    if (!begin_case(std::string("the loss of ") + o.reason)) continue;
    Problem<float> problem({"", 3, 40, 1100}, o, false, TargetType::uint8, 0, 0, false);
    Array<double> sums(4 * 120 + 6), expected(sums.size());
    OverlapStatsParams p{};
    p.in = problem.inputs(Backend::cuda);
    Array<double> partials(3 * overlap_stats_chunks(p.in) * overlap_stats_partial_size(40));
    p.partials = partials.data();
    const auto write_to = [&](Array<double>& to) {
      double* const at = to.data();
      p.intersection = at;
      p.probability = at + 120;
      p.target = at + 240;
      p.pixels = at + 360;
      p.cross_entropy = at + 480;
      p.weight = at + 483;
    };
    write_to(expected);
    check_launch(overlap_stats_cuda(p, nullptr));
    write_to(sums);
    Array<double> loss(1);
    OverlapLossParams l{};
    l.samples = 3;
    l.classes = 40;
    l.has_pixel = true;
    l.pixel.factor = 1.0;
    l.cross_entropy = p.cross_entropy;
    l.pixels = p.pixels;
    l.wide = true;
    l.loss = loss.data();
    const std::string missing = unwritten(
        [&] {
          check_launch(overlap_stats_partials_cuda(p, nullptr));
          check_launch(overlap_loss_cuda({p, l}, nullptr));
        },
        sums, loss);
    CHECK(missing.empty(), missing);
    check_same(sums, expected, "sums");
    Array<double> total(1);
    for (int64_t n = 0; n < 3; ++n) total[0] += expected[480 + n];
    check_close(loss, total, 1e-12, 0, "loss");
  }
}

// Classes of logit -infinity, the first ones too, are as classes of no probability.
void test_infinite_logits(Backend backend, const Options& o) {
  constexpr int64_t kPixels = 70;
  for (int64_t classes : {5, 33}) {
    const std::string number = std::to_string(classes) + " classes, ";
    if (!begin_case("infinite logits, " + number + o.reason)) continue;
    Problem<float> problem({"", 1, classes, kPixels}, o, false, TargetType::uint8, 0, 0, false);
    for (int64_t i = 0; i < kPixels; ++i)
      problem.target[i] = std::max<uint8_t>(problem.target[i], 2);
    const OverlapStatsInputs inputs = problem.inputs(backend);
    Array<double> partials(overlap_stats_chunks(inputs) * overlap_stats_partial_size(classes));
    const auto run = [&](float logit, Array<double>& sums, Array<float>& gradient) {
      for (int64_t i = 0; i < 2 * kPixels; ++i) problem.logits[i] = logit;
      double* at = sums.data();
      const OverlapStatsParams p{inputs,           partials.data(),     at,
                                 at + classes,     at + 2 * classes,    at + 3 * classes,
                                 at + 4 * classes, at + 4 * classes + 1};
      run_op(backend, p, overlap_stats_items(p), overlap_stats_cpu, overlap_stats_cuda);
      if (backend == Backend::cpu) overlap_stats_finish_cpu(p);
      const OverlapStatsBackwardParams g{inputs, at, at + classes, at + 4 * classes,
                                         gradient.data()};
      run_op(backend, g, overlap_stats_backward_items(g), overlap_stats_backward_cpu,
             overlap_stats_backward_cuda);
    };
    Array<double> sums(4 * classes + 2), expected(sums.size());
    Array<float> gradient(classes * kPixels), expected_gradient(gradient.size());
    run(-1e4f, expected, expected_gradient);
    run(-INFINITY, sums, gradient);
    check_same(sums, expected, "sums");
    check_same(gradient, expected_gradient, "gradient");
  }
}

// A bad target stops the grid with an error, whichever kernel meets it: one beyond the classes or
// above 1, or one below 0.
void test_bad_targets_on_a_gpu() {
  const struct {
    Options o;
    int64_t classes;
    bool below;
  } cases[] = {{kOptions[0], 3, false},  {kOptions[0], 3, true},  {kOptions[0], 33, false},
               {kOptions[4], 1, false},  {kOptions[6], 3, false}, {kOptions[6], 3, true},
               {kOptions[6], 33, false}, {kOptions[7], 3, false}, {kOptions[7], 3, true},
               {kOptions[7], 33, false}, {kOptions[9], 3, false}, {kOptions[9], 3, true}};
  for (const auto& [o, classes, below] : cases) {
    const std::string number = std::to_string(classes) + (below ? " classes, below 0" : " classes");
    if (!begin_case(std::string("a bad target, ") + o.reason + ", " + number)) continue;
    Problem<float> problem({"", 1, classes, 300}, o, false, TargetType::int16, 0, 0, !below);
    if (below && o.soft) {  // whose third type is float16, as int16 is the labels'
      reinterpret_cast<Half*>(problem.target.data())[5] = from_float<Half>(-1.0f);
    } else if (below) {
      reinterpret_cast<int16_t*>(problem.target.data())[5] = -1;
    }
    Array<double> sums(6 * classes), partials(overlap_stats_partial_size(classes));
    OverlapStatsParams p{};
    p.in = problem.inputs(Backend::cuda);
    p.partials = partials.data();
    p.intersection = p.probability = p.target = p.pixels = sums.data();
    p.cross_entropy = p.weight = sums.data();
    const cudaError_t error = overlap_stats_cuda(p, nullptr);
    const std::string failure = host_run::take_failure();
    CHECK(error == cudaErrorAssert && failure.find("overlap_stats: a ") != std::string::npos,
          "the launch ended with " + std::to_string(error) + ": " + failure);
  }
}

void test_overlap_stats(Backend backend) {
  if (backend == Backend::cuda) {
    test_bad_targets_on_a_gpu();
    test_loss_on_a_gpu();
  }
  test_infinite_logits(backend, kOptions[0]);
  // Focal: where there is no probability its logarithm, infinite, meets zeros.
  test_infinite_logits(backend, kOptions[3]);
  int turn = 0;  // label types and alignments in turn
  for (const StatsCase& c : kCases) {
    for (const Options& o : kOptions) {
      // How many chunks are added up does not depend on what was computed of a pixel. (On a GPU,
      // the sums of 16-bit logits are added up as float's are.)
      const bool is_long = c.S > 10000;
      if (is_long && !first_of_its_kind(o)) continue;
      for (bool channels_last : {false, true}) {
        for_each_type([&](auto tag) {
          using T = typename decltype(tag)::type;
          if (is_long && backend == Backend::cuda && sizeof(T) == 2) return;
          const TargetType label_type = kLabelTypes[turn % 6];
          const char* const unaligned[] = {"nothing", "logits", "target", "gradient"};
          const int which = turn / 6 % 4, number = ++turn;
          const std::string name =
              std::string(c.reason) + ", " + std::to_string(c.C) + " classes, " + o.reason +
              (channels_last ? ", channels_last, " : ", contiguous, ") + type_name<T>() +
              ", label type " + std::to_string(static_cast<int>(label_type)) +
              ", unaligned: " + unaligned[which];
          if (!begin_case(name)) return;
          test_case<T>(backend, c, o, channels_last, label_type, which == 1, which == 2, which == 3,
                       number % 5 < 2);
        });
      }
    }
    turn += 3;  // else all cases would have the same ones with the same options
  }
}

}  // namespace

int main(int argc, char** argv) { return op_main(argc, argv, test_overlap_stats); }
