// test_overlap_loss.cpp: losses of sums and their derivatives, against the definition in
// overlap_loss.h in dual numbers, one derivative at a time.
#include "kernels/overlap_loss/overlap_loss.h"

#include "tensors.h"

using namespace segfast;
using namespace segfast::test;

namespace {

// A number and its derivative.
struct Dual {
  double value, slope;
  Dual(double value, double slope = 0.0) : value(value), slope(slope) {}
};

Dual operator+(Dual x, Dual y) { return {x.value + y.value, x.slope + y.slope}; }
Dual operator*(Dual x, Dual y) {
  return {x.value * y.value, x.slope * y.value + x.value * y.slope};
}
Dual operator/(Dual x, Dual y) {
  return {x.value / y.value, (x.slope * y.value - x.value * y.slope) / (y.value * y.value)};
}
Dual at_least(Dual x, double least) { return x.value < least ? Dual(least) : x; }

struct LossCase {
  const char* reason;
  int64_t N, C;
};

const LossCase kCases[] = {
    {"one class", 1, 1},
    {"two classes of three samples", 3, 2},
    {"Cityscapes", 2, 19},
    {"more classes and samples than threads", 9, 40},
    {"more classes than threads", 2, 300},
    {"more samples than threads", 300, 2},
};

struct Problem {
  LossCase c;
  OverlapLossParams p{};
  Array<double> intersection, probability, target, pixels, cross_entropy, weight, class_weight;

  explicit Problem(const LossCase& c)
      : c(c),
        intersection(c.N * c.C),
        probability(c.N * c.C),
        target(c.N * c.C),
        pixels(c.N * c.C),
        cross_entropy(c.N),
        weight(c.N),
        class_weight(c.C) {
    const auto uniform = [] { return static_cast<double>(random_integer(1, 1000)) / 1000; };
    const auto flip = [] { return random_integer(0, 1) == 1; };
    const bool one_absent = flip(), all_ignored = random_integer(0, 7) == 0;
    const int64_t absent = random_integer(0, c.C - 1);
    for (int64_t n = 0; n < c.N; ++n) {
      const bool counts = !all_ignored && random_integer(0, 3) != 0;
      for (int64_t k = 0; k < c.C; ++k) {
        const int64_t i = n * c.C + k;
        const bool there = counts && !(one_absent && k == absent) && random_integer(0, 3) != 0;
        pixels[i] = counts ? 100.0 : 0.0;
        target[i] = there ? 100.0 * uniform() : 0.0;
        probability[i] = counts ? 100.0 * uniform() : 0.0;
        intersection[i] = std::min(target[i], probability[i]) * uniform();
      }
      cross_entropy[n] = counts ? 200.0 * uniform() : 0.0;
      weight[n] = counts ? 150.0 * uniform() : 0.0;
    }
    for (int64_t k = 0; k < c.C; ++k) class_weight[k] = random_integer(0, 4) / 2.0;

    p.samples = c.N;
    p.classes = c.C;
    p.has_region = random_integer(0, 3) != 0;
    p.has_pixel = !p.has_region || flip();
    RegionTerm& region = p.region;
    region.factor = uniform();
    region.a = uniform() + 1.0;
    region.i = uniform() - 0.5;
    region.p = uniform() + 0.5;
    region.t = uniform() + 0.5;
    region.top = flip() ? uniform() : 0.0;
    region.bottom = flip() ? uniform() : 0.0;
    region.least = region.bottom == 0.0 ? 1e-7 : flip() ? 1e-3 : 0.0;
    region.link = static_cast<Link>(random_integer(0, 2));
    region.least_score = flip() ? 1e-7 : 0.1;
    region.power = flip() ? 1.0 : 0.75;
    region.empty = static_cast<Empty>(random_integer(0, 3));
    region.every_class = random_integer(0, 3) == 0;
    region.class_weight = flip() ? class_weight.data() : nullptr;
    region.include_background = c.C == 1 || flip();
    region.by_sample = flip();
    region.mean = random_integer(0, 3) != 0;
    p.pixel = {uniform(), flip(), flip(), flip(), flip()};
    p.intersection = intersection.data();
    p.probability = probability.data();
    p.target = target.data();
    p.pixels = pixels.data();
    p.cross_entropy = cross_entropy.data();
    p.weight = weight.data();
    p.wide = flip();
  }

  // The loss, and its derivative by number `at` of the sums named (0: none, 1: intersection, 2:
  // probability, 3: cross_entropy).
  Dual loss(int by, int64_t at) const {
    const auto dual = [&](const Array<double>& sums, int64_t i, int name) {
      return Dual(sums[i], by == name && i == at ? 1.0 : 0.0);
    };
    const RegionTerm& r = p.region;
    Dual total = 0.0;
    double weights = 0.0;
    for (int64_t g = 0; p.has_region && g < (r.by_sample ? c.N : 1); ++g) {
      for (int64_t k = r.include_background ? 0 : 1; k < c.C; ++k) {
        Dual i = 0.0, q = 0.0;
        double t = 0.0, count = 0.0;
        for (int64_t n = 0; n < c.N; ++n) {
          if (r.by_sample && n != g) continue;
          i = i + dual(intersection, n * c.C + k, 1);
          q = q + dual(probability, n * c.C + k, 2);
          t += target[n * c.C + k];
          count += pixels[n * c.C + k];
        }
        const Dual score = (Dual(r.a) * i + r.top) /
                           at_least(Dual(r.i) * i + Dual(r.p) * q + r.t * t + r.bottom, r.least);
        Dual value = Dual(-1.0) * score;
        if (r.link == Link::linear) value = value + 1.0;
        if (r.link == Link::log) {
          const Dual bounded = at_least(score, r.least_score);
          value = {-std::log(bounded.value), -bounded.slope / bounded.value};
        }
        if (r.power != 1.0) {
          const Dual base = at_least(value, 1e-12);
          value = {std::pow(base.value, r.power),
                   r.power * std::pow(base.value, r.power - 1.0) * base.slope};
        }
        if (t == 0.0 && r.empty == Empty::zero) value = 0.0;
        if (t == 0.0 && r.empty == Empty::one) value = 1.0;
        double w = r.every_class || (r.empty == Empty::skip ? t : count) > 0.0 ? 1.0 : 0.0;
        if (r.class_weight != nullptr) w *= class_weight[k];
        total = total + Dual(w) * value;
        weights += w;
      }
    }
    if (r.mean && weights != 0.0) total = total / weights;
    Dual result = Dual(r.factor) * (p.has_region ? total : Dual(0.0));
    if (!p.has_pixel) return result;

    const PixelTerm& x = p.pixel;
    Dual sum = 0.0, means = 0.0;
    double count_sum = 0.0;
    for (int64_t n = 0; n < c.N; ++n) {
      double count = x.weighted ? weight[n] : pixels[n * c.C];
      for (int64_t k = 1; !x.weighted && x.by_class && k < c.C; ++k) count += pixels[n * c.C + k];
      const Dual own = dual(cross_entropy, n, 3);
      sum = sum + own;
      count_sum += count;
      means = means + own / (count == 0.0 ? 1.0 : count);
    }
    const Dual mean =
        x.by_sample ? means / static_cast<double>(c.N) : sum / (count_sum == 0.0 ? 1.0 : count_sum);
    return result + Dual(x.factor) * (x.mean ? mean : sum);
  }
};

// The sums of a problem in parts, as the blocks of overlap_stats leave them to a GPU's loss.
class Partials {
 public:
  explicit Partials(const Problem& problem)
      : c_(problem.c),
        intersection_(problem.intersection.size()),
        probability_(intersection_.size()),
        target_(intersection_.size()),
        pixels_(intersection_.size()),
        cross_entropy_(c_.N),
        weight_(c_.N) {
    stats_.in.samples = c_.N;
    stats_.in.classes = c_.C;
    stats_.in.pixels = kCudaChunkPixels * random_integer(1, 19);
    stats_.in.multiprocessors = static_cast<int>(8 * c_.N);
    stats_.intersection = intersection_.data();
    stats_.probability = probability_.data();
    stats_.target = target_.data();
    stats_.pixels = pixels_.data();
    stats_.cross_entropy = cross_entropy_.data();
    stats_.weight = weight_.data();
    const int64_t size = overlap_stats_partial_size(c_.C), chunks = overlap_stats_chunks(stats_.in);
    parts_.resize(static_cast<size_t>(c_.N * chunks * size));
    const auto share = [&](int64_t n, int64_t column, double sum) {
      double left = sum;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const double part = chunk == chunks - 1 ? left : left / 2;
        parts_[static_cast<size_t>((n * chunks + chunk) * size + column)] = part;
        left -= part;
      }
    };
    for (int64_t n = 0; n < c_.N; ++n) {
      for (int64_t k = 0; k < c_.C; ++k) {
        share(n, k, problem.intersection[n * c_.C + k]);
        share(n, c_.C + k, problem.probability[n * c_.C + k]);
        share(n, 2 * c_.C + k, problem.target[n * c_.C + k]);
        share(n, 3 * c_.C + k, problem.pixels[n * c_.C + k]);
      }
      share(n, 4 * c_.C, problem.cross_entropy[n]);
      share(n, 4 * c_.C + 1, problem.weight[n]);
    }
  }

  // The loss of the sums of what the parts add up to. A launch spends them.
  void run(OverlapLossParams p) {
    std::vector<double> parts = parts_;
    stats_.partials = parts.data();
    p.intersection = stats_.intersection;
    p.probability = stats_.probability;
    p.target = stats_.target;
    p.pixels = stats_.pixels;
    p.cross_entropy = stats_.cross_entropy;
    p.weight = stats_.weight;
    check_launch(overlap_loss_cuda({stats_, p}, nullptr));
  }

 private:
  LossCase c_;
  OverlapStatsParams stats_{};
  std::vector<double> parts_;
  Array<double> intersection_, probability_, target_, pixels_, cross_entropy_, weight_;
};

void test_case(Backend backend, const LossCase& c, bool differentiated) {
  Problem problem(c);
  Array<double> wide(1), by_i(c.N * c.C), by_p(c.N * c.C), by_e(c.N);
  Array<float> narrow(1);
  OverlapLossParams& p = problem.p;
  p.loss = p.wide ? static_cast<void*>(wide.data()) : narrow.data();
  if (differentiated && p.has_region) {
    p.grad_intersection = by_i.data();
    p.grad_probability = by_p.data();
  }
  if (differentiated && p.has_pixel) p.grad_cross_entropy = by_e.data();
  Partials partials(problem);
  const auto run = [&] {
    if (backend == Backend::cuda) return partials.run(p);
    overlap_loss_cpu(p);
  };
  Array<double> none_d(0);
  Array<float> none_f(0);
  const bool region = p.grad_intersection != nullptr, pixel = p.grad_cross_entropy != nullptr;
  const std::string missing =
      unwritten(run, p.wide ? wide : none_d, p.wide ? none_f : narrow, region ? by_i : none_d,
                region ? by_p : none_d, pixel ? by_e : none_d);
  CHECK(missing.empty(), missing);

  Array<double> expected(1);
  expected[0] = problem.loss(0, 0).value;
  if (p.wide) {
    check_close(wide, expected, 1e-12, 1e-14, "loss");
  } else {
    check_close(narrow, expected, 1e-7, 1e-14, "loss");
  }
  const auto check_derivative = [&](const Array<double>& actual, int by, const char* name) {
    for (int turn = 0; turn < 24; ++turn) {  // as many as there are would take long
      const int64_t at = random_integer(0, actual.size() - 1);
      const double slope = problem.loss(by, at).slope;
      const double error = std::abs(actual[at] - slope);
      CHECK(error <= 1e-11 * std::abs(slope) + 1e-13, std::string(name) + "[" + std::to_string(at) +
                                                          "] is " + show(actual[at]) +
                                                          ", expected " + show(slope));
    }
  };
  if (region) check_derivative(by_i, 1, "grad_intersection");
  if (region) check_derivative(by_p, 2, "grad_probability");
  if (pixel) check_derivative(by_e, 3, "grad_cross_entropy");
}

void test_overlap_loss(Backend backend) {
  for (const LossCase& c : kCases) {
    for (int turn = 0; turn < 60; ++turn) {
      if (!begin_case(std::string(c.reason) + ", turn " + std::to_string(turn))) continue;
      test_case(backend, c, turn % 4 != 0);
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return op_main(argc, argv, test_overlap_loss); }
