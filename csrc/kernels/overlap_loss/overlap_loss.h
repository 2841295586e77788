// overlap_loss: from the sums of overlap_stats to a loss, and its derivatives by them, in one go.
//
// The loss is factor * region + factor * pixel, either of which may be missing, with the sums taken
// of each sample or of all together ("group"):
//   region = the sum, or the mean weighted by w, over groups and classes of phi(s)^power
//            s = (a I + top) / max(i I + p P + t T + bottom, least), phi(s) = 1 - s, -s or -log s
//            w = class_weight of classes that are there (see Empty), else 0
//   pixel  = the sum of the cross_entropy E, or the groups' mean of E / count
// 0 / 0 is 0, with derivatives of 0. The formulas are in overlap_loss_math.h; all arithmetic is
// double, and every sum has a fixed order.
#pragma once

#include <cstdint>

#include "common/launch.h"
#include "kernels/overlap_stats/overlap_stats.h"

namespace segfast {

// Classes that no counted pixel of the group is labelled with: skip leaves them out, zero and one
// count them with that loss and no derivative, include counts them like others. In the order of
// segfast/losses/_fused.py.
enum class Empty : uint8_t { skip, zero, one, include };
enum class Link : uint8_t { linear, negative, log };

struct RegionTerm {
  double factor;
  double a, i, p, t;   // of the score
  double top, bottom;  // its smoothing
  double least;        // of the denominator; 0 for none
  Link link;
  double least_score;  // under the logarithm
  double power;
  Empty empty;
  bool every_class;            // w is the class's weight whatever the counts
  const double* class_weight;  // [C] or null
  bool include_background;     // else class 0 takes no part
  bool by_sample;              // a group is a sample
  bool mean;
};

struct PixelTerm {
  double factor;
  bool weighted;  // count = weight; else pixels, of all classes together if `by_class`
  bool by_class;
  bool by_sample;
  bool mean;
};

struct OverlapLossParams {
  int64_t samples;  // N > 0
  int64_t classes;  // C
  bool has_region, has_pixel;
  RegionTerm region;
  PixelTerm pixel;
  const double* intersection;   // [N, C], and the others as in overlap_stats.h
  const double* probability;    // [N, C]
  const double* target;         // [N, C]
  const double* pixels;         // [N, C]
  const double* cross_entropy;  // [N]
  const double* weight;         // [N]
  void* loss;                   // one number: float, or double if `wide`
  bool wide;
  // Derivatives of the loss; null where nobody wants them, or the loss has no such term.
  double* grad_intersection;   // [N, C]
  double* grad_probability;    // [N, C]
  double* grad_cross_entropy;  // [N]
};

void overlap_loss_cpu(const OverlapLossParams& params);

#if SEGFAST_CUDA_LAUNCHERS
// The same from the partial sums that overlap_stats_partials_cuda() has left: they are added up to
// what `loss` reads, in one launch with it.
struct OverlapLossCudaParams {
  OverlapStatsParams stats;
  OverlapLossParams loss;
};
cudaError_t overlap_loss_cuda(const OverlapLossCudaParams& params, cudaStream_t stream);
#endif

}  // namespace segfast
