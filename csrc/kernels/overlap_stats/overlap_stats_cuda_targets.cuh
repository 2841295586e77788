// overlap_stats_cuda_targets.cuh: any number of classes, soft targets, channels_last sigmoid,
// float64.
#pragma once

#include "kernels/overlap_stats/overlap_stats_cuda_common.cuh"

namespace segfast {
namespace {

constexpr int kTargetsThreads = 256;
constexpr int kOwn = 2;  // pixels of a thread at a time
constexpr int kTargetsTile = kTargetsThreads * kOwn;

// Logits and targets of one sample by pixel and class.
template <typename T>
struct Reader {
  using R = accumulate_t<T>;
  const OverlapStatsInputs& in;
  int64_t sample;

  __device__ __forceinline__ int64_t offset(int64_t pixel, int64_t c) const {
    return in.channels_last ? (sample * in.pixels + pixel) * in.classes + c
                            : (sample * in.classes + c) * in.pixels + pixel;
  }
  __device__ __forceinline__ R logit(int64_t pixel, int64_t c) const {
    return to_float(static_cast<const T*>(in.logits)[offset(pixel, c)]);
  }
  // -1 where it does not count. `label` is the pixel's, where labels are a map.
  __device__ __forceinline__ R target(int64_t pixel, int64_t c, int label) const {
    if (!in.dense) {
      if (label < 0) return R(-1);
      return label == (in.sigmoid && in.classes == 1 ? 1 : c) ? R(1) : R(0);
    }
    const R t = read_soft_target<R>(in.target, in.target_type, offset(pixel, c));
    if (in.has_ignore_index && t == static_cast<R>(in.ignore_index)) return R(-1);
    const bool is_target = t >= R(0) && t <= R(1);
    SEGFAST_DEVICE_CHECK(is_target, "overlap_stats: a target is not between 0 and 1, nor ignored");
    return is_target ? t : R(-1);
  }
};

// What a softmax's classes share at one pixel.
template <typename R>
struct PixelTerms {
  int label;  // of a label map; 0 with soft targets; -1 where the pixel does not count
  R weight;   // the pixel's
  R maximum, inverse, log_sum;
  R mean, tau_sum;  // backward: sum p g, and e sum tau K
};

template <typename T, typename R = accumulate_t<T>>
__device__ __forceinline__ PixelTerms<R> begin_pixel(const Reader<T>& reader, const Chunk& chunk,
                                                     int64_t pixel) {
  const OverlapStatsInputs& in = reader.in;
  PixelTerms<R> terms{-1, R(0), R(0), R(0), R(0), R(0), R(0)};
  if (pixel >= chunk.last) return terms;
  const int64_t at = chunk.sample * in.pixels + pixel;
  terms.label = in.dense ? 0 : label_at(in, at);
  terms.weight = pixel_weight_at<R>(in, at);
  if (in.sigmoid) return terms;
  for (int64_t c = 0; in.dense && c < in.classes; ++c) {
    if (reader.target(pixel, c, 0) < R(0)) terms.label = -1;
  }
  if (terms.label < 0) return terms;
  R maximum = reader.logit(pixel, 0);
  R sum = R(1);
  for (int64_t c = 1; c < in.classes; ++c) {
    const R z = reader.logit(pixel, c);
    if (z > maximum) {
      sum = sum * exp_nonpositive(maximum - z) + R(1);
      maximum = z;
    } else {
      // Two logits of -infinity: no NaN from their difference.
      sum += z == maximum ? R(1) : exp_nonpositive(z - maximum);
    }
  }
  terms.maximum = maximum;
  terms.inverse = R(1) / sum;
  terms.log_sum = log_positive(sum);
  return terms;
}

// Class c of a softmax at one pixel.
template <typename R>
struct ClassTerm {
  R p;
  R others;  // 1 - p
  R nll;     // -log p
  R tau;     // the weight of its phi, but for the pixel's
};

template <typename T, typename R = accumulate_t<T>>
__device__ __forceinline__ ClassTerm<R> class_term(const Reader<T>& reader,
                                                   const PixelTerms<R>& terms, int64_t pixel,
                                                   int64_t c, R target) {
  const OverlapStatsInputs& in = reader.in;
  const R logit = reader.logit(pixel, c) - terms.maximum;
  const R p = exp_nonpositive(logit) * terms.inverse;
  const R smoothing = static_cast<R>(in.label_smoothing);
  const R tau = weight_at<R>(in.class_weight, c) *
                ((R(1) - smoothing) * target + smoothing / static_cast<R>(in.classes));
  return {p, R(1) - p, terms.log_sum - logit, tau};
}

// A block keeps its tiles' pixels in registers only while it goes over the classes, so it adds the
// partial sums of each tile to its own row of partials, which no other block touches.
template <typename T>
__global__ void __launch_bounds__(kTargetsThreads, 2)
    targets_forward_kernel(const LaunchParams<OverlapStatsParams> p) {
  using R = accumulate_t<T>;
  // intersection, probability, target, pixels, cross_entropy, weight; rounded up to a power of 2
  constexpr int kCount = 8;
  SEGFAST_SHARED(R[kTargetsThreads / kWarpSize][kCount], shared);
  const OverlapStatsInputs& in = p.op.in;
  const Chunk chunk(in, p.geometry.chunks, p.geometry.chunk_size);
  const Reader<T> reader{in, chunk.sample};
  const int64_t size = overlap_stats_partial_size(in.classes);
  double* partial = p.op.partials + blockIdx.x * size;
  for (int64_t i = threadIdx.x; i < size; i += kTargetsThreads) partial[i] = 0.0;
  __syncthreads();

  const R gamma = static_cast<R>(in.gamma);
  const bool square = in.exponent == 2, minimum = in.minimum;
  for (int64_t first = chunk.first; first < chunk.last; first += kTargetsTile) {
    PixelTerms<R> terms[kOwn];
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      terms[j] = begin_pixel(reader, chunk, first + j * kTargetsThreads + threadIdx.x);
    }
    for (int64_t c = 0; c < in.classes; ++c) {
      R values[kCount] = {};
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        if (terms[j].label < 0) continue;
        const int64_t pixel = first + j * kTargetsThreads + threadIdx.x;
        const R t = reader.target(pixel, c, terms[j].label);
        if (t < R(0)) continue;
        R prob, loss, weight;
        if (in.sigmoid) {
          const overlap::SigmoidOptions<R> options = sigmoid_options<R>(in, c);
          const overlap::SigmoidTerm<R> term = overlap::sigmoid_term(reader.logit(pixel, c));
          prob = term.p;
          loss = overlap::sigmoid_loss(term, t, options);
          weight = options.weight;
        } else {
          const ClassTerm<R> term = class_term(reader, terms[j], pixel, c, t);
          prob = term.p;
          const R phi = overlap::focal_factor(term.others, gamma) * term.nll;
          loss = term.tau > R(0) ? term.tau * phi : R(0);
          // A pixel's own weight is counted once.
          weight = in.dense ? (c == 0 ? R(1) : R(0)) : t * weight_at<R>(in.class_weight, c);
        }
        values[0] += overlap::intersection_term(prob, t, minimum);
        values[1] += square ? prob * prob : prob;
        values[2] += t;
        values[3] += R(1);
        values[4] += loss * terms[j].weight;
        values[5] += weight * terms[j].weight;
      }
      double sums[kCount];
      block_sum<kTargetsThreads, kCount>(values, sums, shared);
      if (threadIdx.x == 0) {
        for (int k = 0; k < 4; ++k) partial[k * in.classes + c] += sums[k];
        for (int k = 4; k < 6; ++k) partial[4 * in.classes + k - 4] += sums[k];
      }
      __syncthreads();  // `shared` is free again
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kTargetsThreads, 2)
    targets_backward_kernel(const LaunchParams<OverlapStatsBackwardParams> p) {
  using R = accumulate_t<T>;
  const OverlapStatsInputs& in = p.op.in;
  const Chunk chunk(in, p.geometry.chunks, p.geometry.chunk_size);
  const Reader<T> reader{in, chunk.sample};
  T* gradients = static_cast<T*>(p.op.grad_logits);
  const double scale = gradient_scale(p.op);
  const R slope = gradient_at<R>(p.op.grad_cross_entropy, chunk.sample, scale);
  const R gamma = static_cast<R>(in.gamma);
  const bool square = in.exponent == 2, minimum = in.minimum;

  for (int64_t first = chunk.first; first < chunk.last; first += kTargetsTile) {
    PixelTerms<R> terms[kOwn];
    R rest[kOwn];
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      terms[j] = begin_pixel(reader, chunk, first + j * kTargetsThreads + threadIdx.x);
      rest[j] = R(0);
    }
    // With softmax, first the sums that the classes share, then the gradients.
    for (int pass = in.sigmoid ? 1 : 0; pass < 2; ++pass) {
      for (int64_t c = 0; c < in.classes; ++c) {
        const SigmoidSlopes<R> slopes(p.op, chunk.sample, c, scale);
        const R a = slopes.a, b = slopes.b;
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          const int64_t pixel = first + j * kTargetsThreads + threadIdx.x;
          if (pixel >= chunk.last) continue;
          const R t = terms[j].label < 0 ? R(-1) : reader.target(pixel, c, terms[j].label);
          R gradient = R(0);
          if (t >= R(0) && in.sigmoid) {
            gradient = slopes.gradient(reader.logit(pixel, c), t, terms[j].weight);
          } else if (t >= R(0)) {
            const ClassTerm<R> term = class_term(reader, terms[j], pixel, c, t);
            const R meets = overlap::intersection_slope(term.p, t, minimum);
            const R g = (square ? b * term.p : b) + a * meets;
            const R tau = term.tau * slope * terms[j].weight;
            const R pull = tau == R(0)
                               ? R(0)
                               : tau * overlap::focal_slope(term.p, term.others, term.nll, gamma);
            if (pass == 0) {
              terms[j].mean += term.p * g;
              terms[j].tau_sum += pull;
              continue;
            }
            gradient = term.p * (g - terms[j].mean + terms[j].tau_sum) - pull;
            // The label's gradient is minus the sum of the others, written last.
            rest[j] -= c == terms[j].label ? R(0) : gradient;
          }
          if (pass == 1) gradients[reader.offset(pixel, c)] = from_float<T>(gradient);
        }
      }
    }
    if (in.sigmoid || in.dense) continue;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int64_t pixel = first + j * kTargetsThreads + threadIdx.x;
      if (pixel < chunk.last && terms[j].label >= 0) {
        gradients[reader.offset(pixel, terms[j].label)] = from_float<T>(rest[j]);
      }
    }
  }
}

template <bool kBackward, typename Op>
cudaError_t launch_targets(const Op& op, cudaStream_t stream) {
  return launch_chunks(op, kTargetsTile, kTargetsThreads, stream, [](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (kBackward) {
      return targets_backward_kernel<T>;
    } else {
      return targets_forward_kernel<T>;
    }
  });
}

}  // namespace
}  // namespace segfast
