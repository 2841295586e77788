// overlap_stats_cuda_sigmoid.cuh: sigmoid of contiguous logits, any targets.
#pragma once

#include "kernels/overlap_stats/overlap_stats_cuda_common.cuh"

namespace segfast {
namespace {

constexpr int kSigmoidThreads = 256;

// A thread's pixels of one class, kThreads apart. All loads come before the first use, and none
// depends on a condition, so that all are under way at once; pixels beyond the chunk read the
// chunk's first one, and do not count.
template <typename T>
struct SigmoidPixels {
  using R = accumulate_t<T>;
  static constexpr int kPixels = sizeof(R) == 8 ? 2 : 4;
  static constexpr int kTile = kSigmoidThreads * kPixels;

  int64_t plane;        // where the class's logits begin
  int64_t at[kPixels];  // in the sample
  bool inside[kPixels];
  R logit[kPixels];
  R target[kPixels];  // -1 where the pixel does not count
  R weight[kPixels];

  __device__ __forceinline__ void load(const OverlapStatsInputs& in, const Chunk& chunk, int64_t c,
                                       int64_t first) {
    plane = (chunk.sample * in.classes + c) * in.pixels;
    T raw[kPixels];
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      at[j] = first + j * kSigmoidThreads + static_cast<int>(threadIdx.x);
      inside[j] = at[j] < chunk.last;
      if (!inside[j]) at[j] = chunk.first;
      raw[j] = static_cast<const T*>(in.logits)[plane + at[j]];
    }
    const int64_t map = chunk.sample * in.pixels;
    if (in.dense) {
      load_soft(in);
    } else {
      load_labels(in, map, c);
    }
#pragma unroll
    for (int j = 0; j < kPixels; ++j) weight[j] = pixel_weight_at<R>(in, map + at[j]);
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      logit[j] = to_float(raw[j]);
      if (!inside[j]) target[j] = R(-1);
    }
  }

 private:
  __device__ __forceinline__ void load_labels(const OverlapStatsInputs& in, int64_t map,
                                              int64_t c) {
    int64_t label[kPixels];
    read_labels(in.target, in.target_type, map, at, label);
    const int64_t classes = in.classes == 1 ? 2 : in.classes;
    const int64_t own = in.classes == 1 ? 1 : c;
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const bool ignored = in.has_ignore_index && label[j] == in.ignore_index;
      const bool is_class = label[j] >= 0 && label[j] < classes;
      SEGFAST_DEVICE_CHECK(ignored || is_class,
                           "overlap_stats: a label is neither a class nor ignore_index");
      target[j] = ignored || !is_class ? R(-1) : label[j] == own ? R(1) : R(0);
    }
  }

  __device__ __forceinline__ void load_soft(const OverlapStatsInputs& in) {
    read_soft_targets(in.target, in.target_type, plane, at, target);
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const bool ignored = in.has_ignore_index && target[j] == static_cast<R>(in.ignore_index);
      const bool is_target = target[j] >= R(0) && target[j] <= R(1);
      SEGFAST_DEVICE_CHECK(ignored || is_target,
                           "overlap_stats: a target is not between 0 and 1, nor ignored");
      if (ignored || !is_target) target[j] = R(-1);
    }
  }
};

// A block goes over its chunk once for each class, and keeps the sums in registers meanwhile.
template <typename T>
__global__ void __launch_bounds__(kSigmoidThreads, 2)
    sigmoid_forward_kernel(const LaunchParams<OverlapStatsParams> p) {
  using R = accumulate_t<T>;
  using Pixels = SigmoidPixels<T>;
  // intersection, probability, target, pixels, cross_entropy, weight; rounded up to a power of 2
  constexpr int kCount = 8;
  SEGFAST_SHARED(R[kSigmoidThreads / kWarpSize][kCount], shared);
  const OverlapStatsInputs& in = p.op.in;
  const Chunk chunk(in, p.geometry.chunks, p.geometry.chunk_size);
  double* partial = p.op.partials + blockIdx.x * overlap_stats_partial_size(in.classes);
  const bool square = in.exponent == 2, minimum = in.minimum;
  double losses[2] = {0.0, 0.0};  // cross_entropy, weight: thread 0's
  for (int64_t c = 0; c < in.classes; ++c) {
    const overlap::SigmoidOptions<R> options = sigmoid_options<R>(in, c);
    R values[kCount] = {};
    for (int64_t first = chunk.first; first < chunk.last; first += Pixels::kTile) {
      Pixels pixels;
      pixels.load(in, chunk, c, first);
#pragma unroll
      for (int j = 0; j < Pixels::kPixels; ++j) {
        const R t = pixels.target[j];
        if (t < R(0)) continue;
        const overlap::SigmoidTerm<R> term = overlap::sigmoid_term(pixels.logit[j]);
        values[0] += overlap::intersection_term(term.p, t, minimum);
        values[1] += square ? term.p * term.p : term.p;
        values[2] += t;
        values[3] += R(1);
        values[4] += overlap::sigmoid_loss(term, t, options) * pixels.weight[j];
        values[5] += options.weight * pixels.weight[j];
      }
    }
    double sums[kCount];
    block_sum<kSigmoidThreads, kCount>(values, sums, shared);
    if (threadIdx.x == 0) {
      for (int k = 0; k < 4; ++k) partial[k * in.classes + c] = sums[k];
      for (int k = 0; k < 2; ++k) losses[k] += sums[4 + k];
    }
    __syncthreads();  // `shared` is free again
  }
  if (threadIdx.x == 0) {
    partial[4 * in.classes] = losses[0];
    partial[4 * in.classes + 1] = losses[1];
    partial[4 * in.classes + 2] = 0.0;
  }
}

template <typename T>
__global__ void __launch_bounds__(kSigmoidThreads, 2)
    sigmoid_backward_kernel(const LaunchParams<OverlapStatsBackwardParams> p) {
  using R = accumulate_t<T>;
  using Pixels = SigmoidPixels<T>;
  const OverlapStatsInputs& in = p.op.in;
  const Chunk chunk(in, p.geometry.chunks, p.geometry.chunk_size);
  const double scale = gradient_scale(p.op);
  for (int64_t c = 0; c < in.classes; ++c) {
    const SigmoidSlopes<R> slopes(p.op, chunk.sample, c, scale);
    for (int64_t first = chunk.first; first < chunk.last; first += Pixels::kTile) {
      Pixels pixels;
      pixels.load(in, chunk, c, first);
#pragma unroll
      for (int j = 0; j < Pixels::kPixels; ++j) {
        const R t = pixels.target[j];
        const R gradient = t < R(0) ? R(0) : slopes.gradient(pixels.logit[j], t, pixels.weight[j]);
        if (pixels.inside[j]) {
          static_cast<T*>(p.op.grad_logits)[pixels.plane + pixels.at[j]] = from_float<T>(gradient);
        }
      }
    }
  }
}

inline bool has_sigmoid_kernel(const OverlapStatsInputs& in) {
  return in.sigmoid && (!in.channels_last || in.classes == 1);
}

template <bool kBackward, typename Op>
cudaError_t launch_sigmoid(const Op& op, cudaStream_t stream) {
  return launch_chunks(op, SigmoidPixels<float>::kTile, kSigmoidThreads, stream, [](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (kBackward) {
      return sigmoid_backward_kernel<T>;
    } else {
      return sigmoid_forward_kernel<T>;
    }
  });
}

}  // namespace
}  // namespace segfast
