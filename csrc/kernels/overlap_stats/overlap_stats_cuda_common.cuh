// overlap_stats_cuda_common.cuh: what the kernels of both kinds share.
#pragma once

#include "common/dispatch.h"
#include "common/reduce.h"
#include "common/scalar_math.h"
#include "common/vec.h"
#include "kernels/overlap_stats/overlap_stats.h"

#define SEGFAST_FORMULAS overlap
#define SEGFAST_FORMULA SEGFAST_HOST_DEVICE
#include "kernels/overlap_stats/overlap_stats_math.h"

namespace segfast {
namespace {

// A block works on one chunk of one sample.
struct Chunk {
  int64_t sample;
  int64_t first, last;  // pixels
  int count;            // of them

  // 32 bits: a GPU divides 64 by calling a function, around which it saves registers.
  __device__ explicit Chunk(const OverlapStatsInputs& in, uint32_t chunks, int64_t size)
      : sample(blockIdx.x / chunks), first(blockIdx.x % chunks * size) {
    last = first + size < in.pixels ? first + size : in.pixels;
    count = first < last ? static_cast<int>(last - first) : 0;
  }
};

struct Geometry {
  uint32_t chunks;     // of a sample
  int64_t chunk_size;  // pixels
};

// Chunks are whole multiples of `tile` pixels, so that vectors never straddle two of them. The last
// ones may be empty.
inline Geometry geometry_of(const OverlapStatsInputs& in, int64_t tile) {
  const int64_t chunks = overlap_stats_chunks(in);
  return {static_cast<uint32_t>(chunks), ceil_div(ceil_div(in.pixels, chunks), tile) * tile};
}

template <typename Op>
struct LaunchParams {
  Op op;
  Geometry geometry;
};

// Launches kernel_of(tag), for a tag of the logits' type, with a block for each chunk.
template <typename Op, typename KernelOf>
cudaError_t launch_chunks(const Op& op, int64_t tile, int threads, cudaStream_t stream,
                          KernelOf kernel_of) {
  const LaunchParams<Op> p{op, geometry_of(op.in, tile)};
  const int64_t grid = op.in.samples * p.geometry.chunks;
  return dispatch_floating(
      op.in.dtype, [&](auto tag) { return launch(kernel_of(tag), grid, threads, stream, p); });
}

template <typename R>
__device__ __forceinline__ R weight_at(const double* weight, int64_t index) {
  return weight == nullptr ? R(1) : static_cast<R>(weight[index]);
}

template <typename R>
__device__ __forceinline__ R pixel_weight_at(const OverlapStatsInputs& in, int64_t index) {
  return in.pixel_weight == nullptr ? R(1) : static_cast<const R*>(in.pixel_weight)[index];
}

// The label at a pixel [N, S], -1 where it does not count. Refuses a label that is no class.
__device__ __forceinline__ int label_at(const OverlapStatsInputs& in, int64_t pixel) {
  const int64_t label = read_label(in.target, in.target_type, pixel);
  if (in.has_ignore_index && label == in.ignore_index) return -1;
  const int64_t classes = in.sigmoid && in.classes == 1 ? 2 : in.classes;
  const bool is_class = label >= 0 && label < classes;
  SEGFAST_DEVICE_CHECK(is_class, "overlap_stats: a label is neither a class nor ignore_index");
  return is_class ? static_cast<int>(label) : -1;
}

template <typename R>
__device__ __forceinline__ overlap::SigmoidOptions<R> sigmoid_options(const OverlapStatsInputs& in,
                                                                      int64_t c) {
  return {weight_at<R>(in.class_weight, c), weight_at<R>(in.pos_weight, c),
          static_cast<R>(in.label_smoothing), static_cast<R>(in.gamma)};
}

// What the gradient of a sigmoid's logits is made of, for one class of one sample.
template <typename R>
struct SigmoidSlopes {
  overlap::SigmoidOptions<R> options;
  R a;      // A
  R b;      // q B
  R slope;  // e
  bool square, minimum;

  __device__ __forceinline__ SigmoidSlopes(const OverlapStatsBackwardParams& op, int64_t sample,
                                           int64_t c, double scale)
      : options(sigmoid_options<R>(op.in, c)),
        a(gradient_at<R>(op.grad_intersection, sample * op.in.classes + c, scale)),
        b(static_cast<R>(op.in.exponent) *
          gradient_at<R>(op.grad_probability, sample * op.in.classes + c, scale)),
        slope(gradient_at<R>(op.grad_cross_entropy, sample, scale)),
        square(op.in.exponent == 2),
        minimum(op.in.minimum) {}

  __device__ __forceinline__ R gradient(R logit, R t, R weight) const {
    const overlap::SigmoidTerm<R> term = overlap::sigmoid_term(logit);
    const R meets = overlap::intersection_slope(term.p, t, minimum);
    const R region = term.p * term.q * (a * meets + (square ? b * term.p : b));
    return region + slope * weight * overlap::sigmoid_slope(term, t, options);
  }
};

}  // namespace
}  // namespace segfast
