// overlap_stats_cuda_labels.cuh: softmax of label maps with at most 32 classes.
#pragma once

#include "kernels/overlap_stats/overlap_stats_cuda_common.cuh"

namespace segfast {
namespace {

constexpr int kMaxClasses = 32;

// kClasses is the number of classes rounded up to one that a kernel is compiled for.
template <typename Element, int kClassesUp>
struct LabelsTraits {
  using T = Element;
  static constexpr int kThreads = 128;
  static constexpr int kClasses = kClassesUp;
  // Pixels of a thread: enough bytes in flight, and no more registers than it has.
  static constexpr int kPixels = (kClasses <= 16 ? 8 : 4) / static_cast<int>(sizeof(T));
  static constexpr int kTile = kThreads * kPixels;
  // Blocks on a multiprocessor at least, by the registers that one needs: 128, 168 or 255 a thread.
  static constexpr int blocks(int values) { return values < 64 ? 4 : values < 100 ? 3 : 2; }
  static constexpr int kForwardBlocks = blocks(kClasses * (kPixels + 2));
  static constexpr int kBackwardBlocks =
      kClasses * kPixels >= 64 && kClasses == kMaxClasses ? 2 : blocks(kClasses * (kPixels + 1));
  // channels_last: a tile in shared memory, with a word left out after every 32, so that threads
  // that read C elements apart spread over the banks.
  static constexpr int kWord = 4 / static_cast<int>(sizeof(T));  // elements
  static constexpr int kStage = kTile * kClasses / 32 * 33 + kWord;
  static_assert(kChunkStep % kTile == 0 && kPixels >= 1 && kClasses <= kMaxClasses);

  __device__ static constexpr int staged(int element) {
    return element + element / (32 * kWord) * kWord;
  }
};

// A read of shared memory where it stands: a compiler that remembers what a loop over the classes read
// for the next loop runs out of registers.
__device__ __forceinline__ float fresh(const float& shared) {
  return *static_cast<const volatile float*>(&shared);
}

// The same value, which the compiler does not know to be the same: else it keeps the address of each
// class, two registers each, from the loads to the stores.
__device__ __forceinline__ int64_t opaque(int64_t value) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(value));
#endif
  return value;
}

template <typename Op>
struct LabelsParams {
  Op op;
  Geometry geometry;
  bool vectors;  // contiguous: a thread's pixels lie in one aligned access
};

// 16-bit logits are known to three digits; the hardware's exp has six.
template <typename T>
__device__ __forceinline__ float exp_of(float x) {
#if defined(__CUDA_ARCH__)
  if (sizeof(T) == 2) return __expf(x);
#endif
  return exp_nonpositive(x);
}

// The pixels of a tile that a thread owns.
template <typename Traits>
struct Pixels {
  int64_t first;  // of the tile
  bool blocked;   // neighbours, rather than kThreads apart

  __device__ __forceinline__ int in_tile(int j) const {
    const int thread = static_cast<int>(threadIdx.x);
    return blocked ? thread * Traits::kPixels + j : j * Traits::kThreads + thread;
  }
  __device__ __forceinline__ int64_t at(int j) const { return first + in_tile(j); }
};

// z [kPixels][kClasses] = the logits of a thread's pixels; -inf for classes that there are not.
template <typename Traits>
__device__ __forceinline__ void load_logits(const OverlapStatsInputs& in, bool vectors,
                                            const Chunk& chunk, const Pixels<Traits>& pixels,
                                            typename Traits::T (&stage)[Traits::kStage],
                                            float (&z)[Traits::kPixels][Traits::kClasses]) {
  using T = typename Traits::T;
  constexpr int kPixels = Traits::kPixels;
  constexpr int kClasses = Traits::kClasses;
  const int classes = static_cast<int>(in.classes);
  const T* logits = static_cast<const T*>(in.logits) + chunk.sample * in.classes * in.pixels;
#pragma unroll
  for (int j = 0; j < kPixels; ++j) {
#pragma unroll
    for (int c = 0; c < kClasses; ++c) z[j][c] = -INFINITY;
  }
  if (in.channels_last) {
    const int64_t left = chunk.last - pixels.first;
    const int count = (left < Traits::kTile ? static_cast<int>(left) : Traits::kTile) * classes;
    const T* from = logits + pixels.first * in.classes;
    __syncthreads();  // the last tile has been read
    if (vectors) {
      constexpr int kVector = kVec16<T>;
#pragma unroll 4
      for (int i = static_cast<int>(threadIdx.x) * kVector; i < count;
           i += Traits::kThreads * kVector) {
        if (i + kVector <= count) {
          const Vec<T, kVector> vector = Vec<T, kVector>::load(from + i);
#pragma unroll
          for (int k = 0; k < kVector; ++k) stage[Traits::staged(i + k)] = vector.at[k];
        } else {
          for (int k = i; k < count; ++k) stage[Traits::staged(k)] = from[k];
        }
      }
    } else {
#pragma unroll 8
      for (int i = static_cast<int>(threadIdx.x); i < count; i += Traits::kThreads) {
        stage[Traits::staged(i)] = from[i];
      }
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      if (pixels.at(j) >= chunk.last) continue;
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        if (c < classes) z[j][c] = to_float(stage[Traits::staged(pixels.in_tile(j) * classes + c)]);
      }
    }
  } else if (vectors) {
    if (pixels.at(0) >= chunk.last) return;
    const T* from = logits + pixels.at(0);
#pragma unroll
    for (int c = 0; c < kClasses; ++c, from += in.pixels) {
      if (c >= classes) continue;
      const auto vector = Vec<T, kPixels>::load(from);
#pragma unroll
      for (int j = 0; j < kPixels; ++j) z[j][c] = to_float(vector.at[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      if (pixels.at(j) >= chunk.last) continue;
      const T* from = logits + pixels.at(j);
#pragma unroll
      for (int c = 0; c < kClasses; ++c, from += in.pixels) {
        if (c < classes) z[j][c] = to_float(*from);
      }
    }
  }
}

// The mirror of load_logits.
template <typename Traits>
__device__ __forceinline__ void store_gradients(const OverlapStatsInputs& in, bool vectors,
                                                const Chunk& chunk, const Pixels<Traits>& pixels,
                                                typename Traits::T (&stage)[Traits::kStage],
                                                const float (&z)[Traits::kPixels][Traits::kClasses],
                                                void* gradients) {
  using T = typename Traits::T;
  constexpr int kPixels = Traits::kPixels;
  constexpr int kClasses = Traits::kClasses;
  const int classes = static_cast<int>(in.classes);
  T* to_sample = static_cast<T*>(gradients) + chunk.sample * in.classes * in.pixels;
  if (in.channels_last) {
    const int64_t left = chunk.last - pixels.first;
    const int count = (left < Traits::kTile ? static_cast<int>(left) : Traits::kTile) * classes;
    T* to = to_sample + pixels.first * in.classes;
    __syncthreads();  // the logits have been read
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        if (c < classes) {
          stage[Traits::staged(pixels.in_tile(j) * classes + c)] = from_float<T>(z[j][c]);
        }
      }
    }
    __syncthreads();
    if (vectors) {
      constexpr int kVector = kVec16<T>;
#pragma unroll 4
      for (int i = static_cast<int>(threadIdx.x) * kVector; i < count;
           i += Traits::kThreads * kVector) {
        if (i + kVector <= count) {
          Vec<T, kVector> vector;
#pragma unroll
          for (int k = 0; k < kVector; ++k) vector.at[k] = stage[Traits::staged(i + k)];
          vector.store(to + i);
        } else {
          for (int k = i; k < count; ++k) to[k] = stage[Traits::staged(k)];
        }
      }
    } else {
#pragma unroll 8
      for (int i = static_cast<int>(threadIdx.x); i < count; i += Traits::kThreads) {
        to[i] = stage[Traits::staged(i)];
      }
    }
  } else if (vectors) {
    if (pixels.at(0) >= chunk.last) return;
    const int64_t plane = opaque(in.pixels);
    T* to = to_sample + pixels.at(0);
#pragma unroll
    for (int c = 0; c < kClasses; ++c, to += plane) {
      if (c >= classes) continue;
      Vec<T, kPixels> vector;
#pragma unroll
      for (int j = 0; j < kPixels; ++j) vector.at[j] = from_float<T>(z[j][c]);
      vector.store(to);
    }
  } else {
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      if (pixels.at(j) >= chunk.last) continue;
      const int64_t plane = opaque(in.pixels);
      T* to = to_sample + pixels.at(j);
#pragma unroll
      for (int c = 0; c < kClasses; ++c, to += plane) {
        if (c < classes) *to = from_float<T>(z[j][c]);
      }
    }
  }
}

// The labels and weights of a thread's pixels, and their softmax. Every loop goes over the classes
// outside and the pixels inside, so that what belongs to a class is needed at one place only.
template <typename Traits>
struct Softmax {
  static constexpr int kPixels = Traits::kPixels;
  static constexpr int kClasses = Traits::kClasses;

  int label[kPixels];           // -1 where the pixel does not count; its logits are then zeros
  float pixel_weight[kPixels];  // 0 where the pixel does not count
  float maximum[kPixels];
  float label_logit[kPixels];  // z_y - max z
  float label_e[kPixels];
  float others[kPixels];   // sum of e but for the label's
  float inverse[kPixels];  // 1 / sum of e; 0 where the pixel does not count

  __device__ __forceinline__ void read_labels(const OverlapStatsInputs& in, const Chunk& chunk,
                                              const Pixels<Traits>& pixels,
                                              float (&z)[kPixels][kClasses]) {
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const int64_t pixel = chunk.sample * in.pixels + pixels.at(j);
      label[j] = pixels.at(j) < chunk.last ? label_at(in, pixel) : -1;
      pixel_weight[j] = label[j] < 0 ? 0.0f : pixel_weight_at<float>(in, pixel);
      if (label[j] >= 0) continue;
#pragma unroll
      for (int c = 0; c < kClasses; ++c) z[j][c] = 0.0f;
    }
  }

  // z becomes e = exp(z - max z).
  __device__ __forceinline__ void run(float (&z)[kPixels][kClasses]) {
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      maximum[j] = z[j][0];
      label_logit[j] = others[j] = 0.0f;
    }
#pragma unroll
    for (int c = 1; c < kClasses; ++c) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) maximum[j] = z[j][c] > maximum[j] ? z[j][c] : maximum[j];
    }
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        const float logit = z[j][c] - maximum[j];
        z[j][c] = exp_of<typename Traits::T>(logit);
        label_logit[j] = c == label[j] ? logit : label_logit[j];
        others[j] += c == label[j] ? 0.0f : z[j][c];
      }
    }
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      label_e[j] = exp_of<typename Traits::T>(label_logit[j]);
      inverse[j] = label[j] < 0 ? 0.0f : 1.0f / (others[j] + label_e[j]);
    }
  }

  __device__ __forceinline__ float log_sum(int j) const {
    return log_positive(others[j] + label_e[j]);
  }
};

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kForwardBlocks)
    labels_forward_kernel(const LabelsParams<OverlapStatsParams> p) {
  using T = typename Traits::T;
  constexpr int kClasses = Traits::kClasses;
  constexpr int kPixels = Traits::kPixels;
  constexpr int kWarps = Traits::kThreads / kWarpSize;
  const OverlapStatsInputs& in = p.op.in;
  const int classes = static_cast<int>(in.classes);
  const Chunk chunk(in, p.geometry.chunks, p.geometry.chunk_size);
  const int thread = static_cast<int>(threadIdx.x);

  SEGFAST_SHARED(T[Traits::kStage], stage);
  SEGFAST_SHARED(float[kMaxClasses], class_weight);
  SEGFAST_SHARED(int[kMaxClasses], count);
  SEGFAST_SHARED(float[2][kWarps][kWarpSize], class_sums);
  SEGFAST_SHARED(float[kWarps][2], pixel_sums);
  if (thread < kMaxClasses) {
    class_weight[thread] = thread < classes ? weight_at<float>(in.class_weight, thread) : 0.0f;
    count[thread] = 0;
  }
  __syncthreads();

  const float gamma = static_cast<float>(in.gamma);
  const float smoothing = static_cast<float>(in.label_smoothing);
  const bool square = in.exponent == 2;
  float weight_sum = 0.0f;
  for (int c = 0; c < classes; ++c) weight_sum += class_weight[c];

  float probability[kWarpSize], intersection[kWarpSize];
#pragma unroll
  for (int c = 0; c < kWarpSize; ++c) probability[c] = intersection[c] = 0.0f;
  float sums[2] = {0.0f, 0.0f};  // cross_entropy, weight

  for (int64_t first = chunk.first; first < chunk.last; first += Traits::kTile) {
    const Pixels<Traits> pixels{first, p.vectors && !in.channels_last};
    float z[kPixels][kClasses];
    load_logits<Traits>(in, p.vectors, chunk, pixels, stage, z);
    Softmax<Traits> softmax;
    softmax.read_labels(in, chunk, pixels, z);
    float smooth[kPixels] = {}, first_logit[kPixels];
    if (smoothing > 0.0f) {
      // sum w (z_0 - z): differences keep their digits where logits are large.
#pragma unroll
      for (int j = 0; j < kPixels; ++j) first_logit[j] = z[j][0];
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        if (c >= classes) continue;
#pragma unroll
        for (int j = 0; j < kPixels; ++j) smooth[j] += class_weight[c] * (first_logit[j] - z[j][c]);
      }
    }
    softmax.run(z);
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        const float prob = z[j][c] * softmax.inverse[j];
        probability[c] += square ? prob * prob : prob;
        intersection[c] += c == softmax.label[j] ? prob : 0.0f;
      }
    }
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const int label = softmax.label[j];
      if (label < 0) continue;
      const float weight = softmax.pixel_weight[j] * class_weight[label];
      const float log_sum = softmax.log_sum(j);
      float loss = weight * (log_sum - softmax.label_logit[j]);
      loss *= overlap::focal_factor(softmax.others[j] * softmax.inverse[j], gamma);
      if (smoothing > 0.0f) {
        const float all = weight_sum * (log_sum + softmax.maximum[j] - first_logit[j]) + smooth[j];
        loss = (1.0f - smoothing) * loss + smoothing / classes * softmax.pixel_weight[j] * all;
      }
      sums[0] += loss;
      sums[1] += weight;
      atomicAdd(&count[label], 1);
    }
  }

  // Lane c of a warp gets class c's sums.
  const int warp = thread / kWarpSize;
  const int lane = thread % kWarpSize;
  class_sums[0][warp][lane] = warp_sum_each<kWarpSize>(intersection);
  class_sums[1][warp][lane] = warp_sum_each<kWarpSize>(probability);
  double totals[2];
  block_sum<Traits::kThreads, 2>(sums, totals, pixel_sums);
  const int64_t size = overlap_stats_partial_size(in.classes);
  double* partial = p.op.partials + blockIdx.x * size;
  if (thread < classes) {
    double sum[2] = {0.0, 0.0};
    double counted = 0.0;
    for (int w = 0; w < kWarps; ++w) {
      sum[0] += static_cast<double>(class_sums[0][w][thread]);
      sum[1] += static_cast<double>(class_sums[1][w][thread]);
    }
    for (int c = 0; c < classes; ++c) counted += count[c];
    partial[thread] = sum[0];
    partial[classes + thread] = sum[1];
    partial[2 * classes + thread] = count[thread];
    partial[3 * classes + thread] = counted;
  }
  if (thread == 0) {
    partial[4 * classes] = totals[0];
    partial[4 * classes + 1] = totals[1];
    partial[4 * classes + 2] = 0.0;
  }
}

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBackwardBlocks)
    labels_backward_kernel(const LabelsParams<OverlapStatsBackwardParams> p) {
  using T = typename Traits::T;
  constexpr int kClasses = Traits::kClasses;
  constexpr int kPixels = Traits::kPixels;
  const OverlapStatsInputs& in = p.op.in;
  const int classes = static_cast<int>(in.classes);
  const Chunk chunk(in, p.geometry.chunks, p.geometry.chunk_size);
  const int thread = static_cast<int>(threadIdx.x);

  SEGFAST_SHARED(T[Traits::kStage], stage);
  SEGFAST_SHARED(float[kMaxClasses], class_weight);
  SEGFAST_SHARED(float[kMaxClasses], a);       // A
  SEGFAST_SHARED(float[kMaxClasses], b);       // q B
  SEGFAST_SHARED(float[kMaxClasses], smooth);  // e (eps / C) w
  const float slope = gradient_at<float>(p.op.grad_cross_entropy, chunk.sample);
  const float smoothing = static_cast<float>(in.label_smoothing);
  if (thread < kMaxClasses) {
    const bool is_class = thread < classes;
    const int64_t at = chunk.sample * classes + thread;
    class_weight[thread] = is_class ? weight_at<float>(in.class_weight, thread) : 0.0f;
    a[thread] = is_class ? gradient_at<float>(p.op.grad_intersection, at) : 0.0f;
    b[thread] = is_class ? in.exponent * gradient_at<float>(p.op.grad_probability, at) : 0.0f;
    smooth[thread] = slope * smoothing / classes * class_weight[thread];
  }
  __syncthreads();
  const float gamma = static_cast<float>(in.gamma);
  const bool square = in.exponent == 2;
  float smooth_sum = 0.0f;
  for (int c = 0; c < classes; ++c) smooth_sum += smooth[c];

  for (int64_t first = chunk.first; first < chunk.last; first += Traits::kTile) {
    const Pixels<Traits> pixels{first, p.vectors && !in.channels_last};
    float z[kPixels][kClasses];
    load_logits<Traits>(in, p.vectors, chunk, pixels, stage, z);
    Softmax<Traits> softmax;
    softmax.read_labels(in, chunk, pixels, z);
    softmax.run(z);

    float common[kPixels] = {};  // -sum p g, then what p is multiplied with in all classes
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      const float own = fresh(b[c]);
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        z[j][c] *= softmax.inverse[j];
        common[j] -= z[j][c] * own * (square ? z[j][c] : 1.0f);
      }
    }
    float rest[kPixels] = {};  // the true class gets minus the sum of the others
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const int label = softmax.label[j] < 0 ? 0 : softmax.label[j];
      const float p_label = softmax.label_e[j] * softmax.inverse[j];
      const float others = softmax.others[j] * softmax.inverse[j];
      const float nll = softmax.log_sum(j) - softmax.label_logit[j];
      float pull = slope * (1.0f - smoothing) * class_weight[label];
      pull *= overlap::focal_slope(p_label, others, nll, gamma);
      common[j] += (pull + smooth_sum) * softmax.pixel_weight[j] - p_label * a[label];
    }
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      const float own = fresh(b[c]);
      const float class_smooth = fresh(smooth[c]);
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        const float g = square ? own * z[j][c] : own;
        z[j][c] = z[j][c] * (g + common[j]) - class_smooth * softmax.pixel_weight[j];
        rest[j] -= c == softmax.label[j] ? 0.0f : z[j][c];
      }
    }
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) z[j][c] = c == softmax.label[j] ? rest[j] : z[j][c];
    }
    store_gradients<Traits>(in, p.vectors, chunk, pixels, stage, z, p.op.grad_logits);
  }
}

inline bool has_labels_kernel(const OverlapStatsInputs& in) {
  return !in.sigmoid && !in.dense && in.classes <= kMaxClasses && in.dtype != DType::float64 &&
         (in.gamma == 0.0 || in.label_smoothing == 0.0);
}

template <bool kBackward, typename Traits, typename Op>
cudaError_t launch_labels_as(const Op& op, const OverlapStatsInputs& in, cudaStream_t stream) {
  using T = typename Traits::T;
  LabelsParams<Op> p;
  p.op = op;
  p.geometry = geometry_of(in);
  const int64_t bytes = in.channels_last ? 16 : Traits::kPixels * static_cast<int64_t>(sizeof(T));
  const int64_t row = (in.channels_last ? in.classes * in.pixels : in.pixels) *
                      static_cast<int64_t>(sizeof(T));
  p.vectors = row % bytes == 0 && is_aligned(in.logits, bytes);
  const int64_t grid = in.samples * p.geometry.chunks;
  if constexpr (kBackward) {
    p.vectors = p.vectors && is_aligned(op.grad_logits, bytes);
    return launch(labels_backward_kernel<Traits>, grid, Traits::kThreads, stream, p);
  } else {
    return launch(labels_forward_kernel<Traits>, grid, Traits::kThreads, stream, p);
  }
}

template <bool kBackward, typename T, typename Op>
cudaError_t launch_labels_of(const Op& op, const OverlapStatsInputs& in, cudaStream_t stream) {
  if (in.classes <= 4) return launch_labels_as<kBackward, LabelsTraits<T, 4>>(op, in, stream);
  if (in.classes <= 8) return launch_labels_as<kBackward, LabelsTraits<T, 8>>(op, in, stream);
  if (in.classes <= 12) return launch_labels_as<kBackward, LabelsTraits<T, 12>>(op, in, stream);
  if (in.classes <= 16) return launch_labels_as<kBackward, LabelsTraits<T, 16>>(op, in, stream);
  if (in.classes <= 20) return launch_labels_as<kBackward, LabelsTraits<T, 20>>(op, in, stream);
  return launch_labels_as<kBackward, LabelsTraits<T, 32>>(op, in, stream);
}

template <bool kBackward, typename Op>
cudaError_t launch_labels(const Op& op, const OverlapStatsInputs& in, cudaStream_t stream) {
  switch (in.dtype) {
    case DType::float16:
      return launch_labels_of<kBackward, Half>(op, in, stream);
    case DType::bfloat16:
      return launch_labels_of<kBackward, BFloat16>(op, in, stream);
    default:
      return launch_labels_of<kBackward, float>(op, in, stream);
  }
}

}  // namespace
}  // namespace segfast
