// overlap_loss_math.h: the loss's formulas, once for CPU and GPU. A thread of `threads` takes every
// so many-th item: first accumulate(), then, of the sums over all threads, loss_of() and
// differentiate(), which reads what the same thread has written. The first threads begin with the
// classes and the last ones with the samples of the pixel term, so that neither waits for the
// other.
#pragma once

#include <cmath>

#include "kernels/overlap_loss/overlap_loss.h"

namespace segfast {

// What the terms come to; in the pixel term's mean over samples pixel is a sum of means.
enum LossSum { kRegion, kRegionWeight, kPixel, kPixelCount, kLossSums };

SEGFAST_HOST_DEVICE double or_one(double count) { return count == 0.0 ? 1.0 : count; }

// A class's weighted loss in one group, and its derivatives.
struct ClassLoss {
  double weight;
  double loss;        // times weight
  double by_i, by_p;  // derivatives of that
};

struct ClassSums {
  double i, p, t, pixels;
};

SEGFAST_HOST_DEVICE ClassLoss class_loss(const RegionTerm& term, const ClassSums& sums, int64_t c) {
  const double top = term.a * sums.i + term.top;
  const double size = term.i * sums.i + term.p * sums.p + term.t * sums.t + term.bottom;
  const bool too_small = term.least > 0.0 && size < term.least;
  const double bottom = too_small ? term.least : size;
  const double score = top / bottom;

  // slope: of the loss by the score.
  double loss, slope = -1.0;
  if (term.link == Link::log) {
    const double bounded = score < term.least_score ? term.least_score : score;
    loss = -log(bounded);
    slope = score >= term.least_score ? -1.0 / bounded : 0.0;
  } else {
    loss = term.link == Link::negative ? -score : 1.0 - score;
  }
  if (term.power != 1.0) {
    constexpr double kLeastLoss = 1e-12;  // the smallest whose power has a finite slope
    const double bounded = loss < kLeastLoss ? kLeastLoss : loss;
    slope = loss >= kLeastLoss ? slope * (term.power * pow(bounded, term.power - 1.0)) : 0.0;
    loss = pow(bounded, term.power);
  }
  if ((term.empty == Empty::zero || term.empty == Empty::one) && !(sums.t > 0.0)) {
    loss = term.empty == Empty::one ? 1.0 : 0.0;
    slope = 0.0;
  }
  const bool counts = term.every_class || (term.empty == Empty::skip ? sums.t : sums.pixels) > 0.0;
  const double weight = counts ? (term.class_weight == nullptr ? 1.0 : term.class_weight[c]) : 0.0;
  slope *= weight;
  const double by_top = slope / bottom;
  const double by_bottom = size >= term.least || term.least == 0.0 ? -by_top * score : 0.0;
  return {weight, weight * loss, term.a * by_top + term.i * by_bottom, term.p * by_bottom};
}

// Adds up the threads' items of both terms. The derivatives are left but for what the whole sum
// multiplies them by.
SEGFAST_HOST_DEVICE void accumulate(const OverlapLossParams& p, int64_t thread, int64_t threads,
                                    double (&sums)[kLossSums]) {
  for (double& sum : sums) sum = 0.0;
  const RegionTerm& region = p.region;
  const int64_t groups = region.by_sample ? p.samples : 1;
  for (int64_t item = thread; p.has_region && item < groups * p.classes; item += threads) {
    const int64_t c = item % p.classes;
    ClassLoss value{};
    if (c > 0 || region.include_background) {
      ClassSums total{};
      for (int64_t n = 0; n < (region.by_sample ? 1 : p.samples); ++n) {
        const int64_t at = item + n * p.classes;
        total.i += p.intersection[at];
        total.p += p.probability[at];
        total.t += p.target[at];
        total.pixels += p.pixels[at];
      }
      value = class_loss(region, total, c);
    }
    sums[kRegion] += value.loss;
    sums[kRegionWeight] += value.weight;
    if (p.grad_intersection == nullptr) continue;
    p.grad_intersection[item] = value.by_i;
    p.grad_probability[item] = value.by_p;
  }
  const PixelTerm& pixel = p.pixel;
  for (int64_t n = threads - 1 - thread; p.has_pixel && n < p.samples; n += threads) {
    double count = pixel.weighted ? p.weight[n] : 0.0;
    for (int64_t c = 0; !pixel.weighted && c < (pixel.by_class ? p.classes : 1); ++c) {
      count += p.pixels[n * p.classes + c];
    }
    const double own = pixel.mean && pixel.by_sample ? or_one(count) : 1.0;
    sums[kPixel] += p.cross_entropy[n] / own;
    sums[kPixelCount] += count;
    if (p.grad_cross_entropy != nullptr) p.grad_cross_entropy[n] = 1.0 / own;
  }
}

SEGFAST_HOST_DEVICE double region_scale(const OverlapLossParams& p,
                                        const double (&sums)[kLossSums]) {
  return p.region.mean ? p.region.factor / or_one(sums[kRegionWeight]) : p.region.factor;
}

SEGFAST_HOST_DEVICE double pixel_scale(const OverlapLossParams& p,
                                       const double (&sums)[kLossSums]) {
  if (!p.pixel.mean) return p.pixel.factor;
  const double groups =
      p.pixel.by_sample ? static_cast<double>(p.samples) : or_one(sums[kPixelCount]);
  return p.pixel.factor / groups;
}

SEGFAST_HOST_DEVICE double loss_of(const OverlapLossParams& p, const double (&sums)[kLossSums]) {
  const double region = p.has_region ? region_scale(p, sums) * sums[kRegion] : 0.0;
  const double pixel = p.has_pixel ? pixel_scale(p, sums) * sums[kPixel] : 0.0;
  return region + pixel;
}

SEGFAST_HOST_DEVICE void store_loss(const OverlapLossParams& p, double loss) {
  if (p.wide) {
    *static_cast<double*>(p.loss) = loss;
  } else {
    *static_cast<float*>(p.loss) = static_cast<float>(loss);
  }
}

// The derivatives as they are, those of a group for each of its samples.
SEGFAST_HOST_DEVICE void differentiate(const OverlapLossParams& p, int64_t thread, int64_t threads,
                                       const double (&sums)[kLossSums]) {
  if (p.grad_intersection != nullptr) {
    const double scale = region_scale(p, sums);
    const int64_t groups = p.region.by_sample ? p.samples : 1;
    for (int64_t item = thread; item < groups * p.classes; item += threads) {
      const double by_i = scale * p.grad_intersection[item];
      const double by_p = scale * p.grad_probability[item];
      for (int64_t n = 0; n < (p.region.by_sample ? 1 : p.samples); ++n) {
        p.grad_intersection[item + n * p.classes] = by_i;
        p.grad_probability[item + n * p.classes] = by_p;
      }
    }
  }
  if (p.grad_cross_entropy != nullptr) {
    const double scale = pixel_scale(p, sums);
    for (int64_t n = threads - 1 - thread; n < p.samples; n += threads) {
      p.grad_cross_entropy[n] *= scale;
    }
  }
}

}  // namespace segfast
