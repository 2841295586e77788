// overlap_stats_cuda_labels.cuh: softmax of label maps with at most 32 classes.
#pragma once

#include <cstring>
#include <type_traits>

#include "kernels/overlap_stats/overlap_stats_cuda_common.cuh"

namespace segfast {
namespace {

constexpr int kMaxClasses = 32;

// kClasses is the number of classes rounded up to one that a kernel is compiled for; kLeast is the
// smallest number that is.
template <typename Element, int kLeastClasses, int kClassesUp>
struct LabelsTraits {
  using T = Element;
  static constexpr int kThreads = 128;
  static constexpr int kClasses = kClassesUp;
  static constexpr int kLeast = kLeastClasses;
  // Pixels of a thread: enough bytes in flight, and no more registers than it has. Turing's ptxas
  // takes more of them for 16-bit logits, and spills where there are twice as many pixels.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  static constexpr int kFewer = sizeof(T) == 2 && (kClasses == 16 || kClasses == 32) ? 2 : 1;
#else
  static constexpr int kFewer = 1;
#endif
  static constexpr int kPixels = (kClasses <= 16 ? 8 : 4) / kFewer / static_cast<int>(sizeof(T));
  static constexpr int kTile = kThreads * kPixels;
  // Blocks on a multiprocessor at least, by the registers that one needs: 128, 168 or 255 a thread.
  static constexpr int blocks(int values) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    return 2;  // ptxas takes more registers on Turing
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
    return values < 52 ? 4 : values < 80 ? 3 : 2;
#else
    return values < 64 ? 4 : values < 100 ? 3 : 2;
#endif
  }
  static constexpr int kForwardBlocks = blocks(kClasses * (kPixels + 2));
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  static constexpr bool kHeavy = kClasses * kPixels >= 64;
#else
  static constexpr bool kHeavy = kClasses == kMaxClasses && kPixels > 1;
#endif
  static constexpr int kBackwardBlocks = kHeavy ? 2 : blocks(kClasses * kPixels + 20);
  // channels_last: a tile in shared memory, with a word left out after every 32, so that threads
  // that read C elements apart spread over the banks.
  static constexpr int kWord = 4 / static_cast<int>(sizeof(T));  // elements
  static constexpr int kStage = kTile * kClasses / 32 * 33 + kWord;
  static_assert(kChunkStep % kTile == 0 && kPixels >= 1 && kClasses <= kMaxClasses);

  static constexpr int kRun = 32 * kWord;  // elements between two words left out
  __device__ static constexpr int staged(int element) { return element + element / kRun * kWord; }
  // Whether there is a class c: known to the compiler for most.
  __device__ static constexpr bool has(int c, int classes) { return c < kLeast || c < classes; }
};

// A read of shared memory where it stands: a compiler that remembers what a loop over the classes
// read for the next loop runs out of registers.
__device__ __forceinline__ float fresh(const float& shared) {
  return *static_cast<const volatile float*>(&shared);
}

// The same value, which the compiler does not know to be the same: else it keeps what it has
// computed from it, the address of each class or whether each is the label, in more registers than
// there are.
__device__ __forceinline__ int64_t opaque(int64_t value) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(value));
#endif
  return value;
}

__device__ __forceinline__ int opaque(int value) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// sum += value, in one instruction, where a compiler computes the sum and then chooses.
__device__ __forceinline__ void add_where(bool condition, float value, float& sum) {
#if defined(__CUDA_ARCH__)
  asm("{ .reg .pred p; setp.ne.b32 p, %1, 0; @p add.f32 %0, %0, %2; }"
      : "+f"(sum)
      : "r"(static_cast<int>(condition)), "f"(value));
#else
  if (condition) sum += value;
#endif
}

template <typename Op>
struct LabelsParams {
  Op op;
  Geometry geometry;
  // Contiguous: a thread's pixels lie in one aligned access. channels_last: samples, and so tiles,
  // are whole aligned vectors.
  bool vectors;
};

// exp(z - maximum), and the exponent in the unit that it is computed in. 16-bit logits are known to
// three digits; for them the hardware's power of 2, which has six, takes two instructions for
// eight.
template <typename T>
struct Exponential {
  static constexpr bool kFast = sizeof(T) == 2;
  static constexpr float kUnit = kFast ? 1.4426950408889634f : 1.0f;  // 1 / ln 2, or 1

  float maximum;  // in that unit

  __device__ __forceinline__ float exponent(float z) const {
    return kFast ? fmaf(z, kUnit, -maximum) : z - maximum;
  }
  __device__ __forceinline__ static float power(float exponent) {
    if (!kFast) return exp_nonpositive(exponent);
#if defined(__CUDA_ARCH__)
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(exponent));
    return result;
#else
    return exp2f(exponent);
#endif
  }
};

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

// Where the classes of a pixel, at most kRun, stand in the stage: with one gap among them at most.
template <typename Traits>
struct StagedPixel {
  int first;
  int before_gap;  // classes

  __device__ __forceinline__ StagedPixel(int pixel, int classes)
      : first(Traits::staged(pixel * classes)),
        before_gap(Traits::kRun - pixel * classes % Traits::kRun) {}
  __device__ __forceinline__ int at(int c) const {
    return (c < before_gap ? first : first + Traits::kWord) + c;
  }
};

// A vector of logits between global memory and the stage, where no padding divides it: by words.
template <typename Traits>
struct StageVector {
  using T = typename Traits::T;
  static constexpr int kElements = kVec16<T>;
  static constexpr int kWords = 4;
  typedef uint32_t __attribute__((may_alias)) Word;

  __device__ __forceinline__ static Word* words(T* stage, int element) {
    return reinterpret_cast<Word*>(stage) + Traits::staged(element) / Traits::kWord;
  }
  __device__ __forceinline__ static void load(const T* from, T* stage, int element) {
    const auto vector = Vec<T, kElements>::load_streaming(from);
    uint32_t values[kWords];
    memcpy(values, &vector, sizeof(values));
    Word* to = words(stage, element);
#pragma unroll
    for (int k = 0; k < kWords; ++k) to[k] = values[k];
  }
  __device__ __forceinline__ static void store(T* stage, int element, T* to) {
    const Word* from = words(stage, element);
    uint32_t values[kWords];
#pragma unroll
    for (int k = 0; k < kWords; ++k) values[k] = from[k];
    Vec<T, kElements> vector;
    memcpy(&vector, values, sizeof(values));
    vector.store(to);
  }
};

// z [kPixels][kClasses] = the logits of a thread's pixels; -inf for classes that there are not.
// Pixels beyond the chunk get those of others: they do not count. All loads come before the first
// use, and none depends on a condition, so that all are under way at once.
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
  if (in.channels_last) {
    const int64_t left = chunk.last - pixels.first;
    const int count = (left < Traits::kTile ? static_cast<int>(left) : Traits::kTile) * classes;
    const T* from = logits + pixels.first * in.classes;
    __syncthreads();  // the last tile has been read
    if (vectors) {
      constexpr int kVector = StageVector<Traits>::kElements;
#pragma unroll 4
      for (int i = static_cast<int>(threadIdx.x) * kVector; i < count;
           i += Traits::kThreads * kVector) {
        StageVector<Traits>::load(from + i, stage, i);
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
      const StagedPixel<Traits> pixel(pixels.at(j) < chunk.last ? pixels.in_tile(j) : 0, classes);
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        z[j][c] = to_float(stage[Traits::has(c, classes) ? pixel.at(c) : pixel.first]);
      }
    }
  } else if (vectors) {
    const int64_t step = opaque(in.pixels * static_cast<int64_t>(sizeof(T)));
    const T* first = logits + (pixels.at(0) < chunk.last ? pixels.at(0) : chunk.first);
    const char* from = reinterpret_cast<const char*>(first);
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      float logit[kPixels];
      load_floats(reinterpret_cast<const T*>(from), logit);
#pragma unroll
      for (int j = 0; j < kPixels; ++j) z[j][c] = logit[j];
      if (Traits::has(c + 1, classes)) from += step;
    }
  } else {
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const T* from = logits + (pixels.at(j) < chunk.last ? pixels.at(j) : chunk.first);
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        z[j][c] = to_float(*from);
        if (Traits::has(c + 1, classes)) from += in.pixels;
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kClasses; ++c) {
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      if (!Traits::has(c, classes)) z[j][c] = -INFINITY;
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
      const StagedPixel<Traits> pixel(pixels.in_tile(j), classes);
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        if (Traits::has(c, classes)) stage[pixel.at(c)] = from_float<T>(z[j][c]);
      }
    }
    __syncthreads();
    if (vectors) {
      constexpr int kVector = StageVector<Traits>::kElements;
#pragma unroll 4
      for (int i = static_cast<int>(threadIdx.x) * kVector; i < count;
           i += Traits::kThreads * kVector) {
        StageVector<Traits>::store(stage, i, to + i);
      }
    } else {
#pragma unroll 8
      for (int i = static_cast<int>(threadIdx.x); i < count; i += Traits::kThreads) {
        to[i] = stage[Traits::staged(i)];
      }
    }
  } else if (vectors) {
    if (pixels.at(0) >= chunk.last) return;
    const int64_t step = opaque(in.pixels * static_cast<int64_t>(sizeof(T)));
    char* to = reinterpret_cast<char*>(to_sample + pixels.at(0));
#pragma unroll
    for (int c = 0; c < kClasses; ++c, to += step) {
      if (!Traits::has(c, classes)) continue;
      float gradient[kPixels];
#pragma unroll
      for (int j = 0; j < kPixels; ++j) gradient[j] = z[j][c];
      vec_from_floats<T>(gradient).store(reinterpret_cast<T*>(to));
    }
  } else {
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      if (pixels.at(j) >= chunk.last) continue;
      const int64_t plane = opaque(in.pixels);
      T* to = to_sample + pixels.at(j);
#pragma unroll
      for (int c = 0; c < kClasses; ++c, to += plane) {
        if (Traits::has(c, classes)) *to = from_float<T>(z[j][c]);
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
  float maximum[kPixels];       // max z
  float label_logit[kPixels];   // z_y - max z
  float label_e[kPixels];
  float sum[kPixels];      // of e
  float others[kPixels];   // sum of e but for the label's, if kWithoutLabel
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

  // z becomes e = exp(z - max z); if kWithoutLabel, 0 for the label's class, whose e is label_e:
  // sums over the others then need no comparison.
  template <bool kWithoutLabel>
  __device__ __forceinline__ void run(float (&z)[kPixels][kClasses]) {
    using Exp = Exponential<typename Traits::T>;
    Exp exp[kPixels];
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      maximum[j] = z[j][0];
      label_logit[j] = sum[j] = 0.0f;
    }
#pragma unroll
    for (int c = 1; c < kClasses; ++c) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) maximum[j] = fmaxf(maximum[j], z[j][c]);
    }
#pragma unroll
    for (int j = 0; j < kPixels; ++j) exp[j].maximum = maximum[j] * Exp::kUnit;
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        const float exponent = exp[j].exponent(z[j][c]);
        const bool is_label = c == label[j];
        label_logit[j] = is_label ? exponent : label_logit[j];
        z[j][c] = kWithoutLabel && is_label ? 0.0f : Exp::power(exponent);
        sum[j] += z[j][c];
      }
    }
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      label_e[j] = Exp::power(label_logit[j]);
      label_logit[j] /= Exp::kUnit;
      others[j] = sum[j];
      if (kWithoutLabel) sum[j] += label_e[j];
      inverse[j] = label[j] < 0 ? 0.0f : 1.0f / sum[j];
    }
  }

  __device__ __forceinline__ float log_sum(int j) const { return log_positive(sum[j]); }
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
    float smooth[kPixels] = {}, first_logit[kPixels] = {};
    if (smoothing > 0.0f) {
      // sum w (z_0 - z): differences keep their digits where logits are large.
#pragma unroll
      for (int j = 0; j < kPixels; ++j) first_logit[j] = z[j][0];
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        if (!Traits::has(c, classes)) continue;
#pragma unroll
        for (int j = 0; j < kPixels; ++j) smooth[j] += class_weight[c] * (first_logit[j] - z[j][c]);
      }
    }
    softmax.template run<false>(z);
    float p_label[kPixels], focal[kPixels];
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      p_label[j] = softmax.label_e[j] * softmax.inverse[j];
      focal[j] = 1.0f;
    }
    if (gamma > 0.0f) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        const int own = opaque(softmax.label[j]);
        float others = 0.0f;
#pragma unroll
        for (int c = 0; c < kClasses; ++c) others += c == own ? 0.0f : z[j][c];
        focal[j] = overlap::focal_factor(others * softmax.inverse[j], gamma);
      }
    }
    // Two loops rather than a choice in one: a choice costs an instruction for each logit.
    const auto add = [&](auto squared) {
      constexpr bool kSquare = decltype(squared)::value;
      int own[kPixels];
#pragma unroll
      for (int j = 0; j < kPixels; ++j) own[j] = opaque(softmax.label[j]);
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          const float prob = z[j][c] * softmax.inverse[j];
          probability[c] += kSquare ? prob * prob : prob;
          add_where(c == own[j], p_label[j], intersection[c]);
        }
      }
    };
    square ? add(std::true_type{}) : add(std::false_type{});
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const int label = softmax.label[j];
      if (label < 0) continue;
      const float weight = softmax.pixel_weight[j] * class_weight[label];
      const float log_sum = softmax.log_sum(j);
      float loss = weight * (log_sum - softmax.label_logit[j]) * focal[j];
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
  const double scale = gradient_scale(p.op);
  const float slope = gradient_at<float>(p.op.grad_cross_entropy, chunk.sample, scale);
  const float smoothing = static_cast<float>(in.label_smoothing);
  if (thread < kMaxClasses) {
    const bool is_class = thread < classes;
    const int64_t at = chunk.sample * classes + thread;
    class_weight[thread] = is_class ? weight_at<float>(in.class_weight, thread) : 0.0f;
    a[thread] = is_class ? gradient_at<float>(p.op.grad_intersection, at, scale) : 0.0f;
    b[thread] =
        is_class ? in.exponent * gradient_at<float>(p.op.grad_probability, at, scale) : 0.0f;
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
    softmax.template run<true>(z);

    // Compiled for each option: a choice in the loops costs an instruction for each logit.
    const auto differentiate = [&](auto squared, auto smoothed) {
      constexpr bool kSquare = decltype(squared)::value;
      constexpr bool kSmooth = decltype(smoothed)::value;
      float shift[kPixels] = {};  // sum e g over the other classes
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        const float own = fresh(b[c]);
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          shift[j] += kSquare ? z[j][c] * z[j][c] * own : z[j][c] * own;
        }
      }
      float scale[kPixels];  // what e is divided by in g
      float rest[kPixels];   // the true class's gradient: minus the sum of the others
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        const int label = softmax.label[j] < 0 ? 0 : softmax.label[j];
        const float inverse = softmax.inverse[j], weight = softmax.pixel_weight[j];
        const float p_label = softmax.label_e[j] * inverse;
        const float others = softmax.others[j] * inverse;
        const float nll = softmax.log_sum(j) - softmax.label_logit[j];
        scale[j] = kSquare ? inverse * inverse : inverse;
        const float mean = shift[j] * scale[j];  // sum p g over the others
        float pull = slope * (1.0f - smoothing) * class_weight[label];
        pull *= overlap::focal_slope(p_label, others, nll, gamma);
        const float own = a[label] + (kSquare ? b[label] * p_label : b[label]);
        const float common = (pull + smooth_sum) * weight - p_label * own - mean;
        rest[j] = (smooth_sum - smooth[label]) * weight - (mean + common * others);
        shift[j] = common * inverse;
      }
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        const float own = fresh(b[c]);
        const float class_smooth = kSmooth ? fresh(smooth[c]) : 0.0f;
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          const float e = z[j][c];
          z[j][c] = e * ((kSquare ? own * scale[j] * e : own * scale[j]) + shift[j]);
          if (kSmooth) z[j][c] -= class_smooth * softmax.pixel_weight[j];
        }
      }
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        const int label = opaque(softmax.label[j]);
#pragma unroll
        for (int c = 0; c < kClasses; ++c) z[j][c] = c == label ? rest[j] : z[j][c];
      }
    };
    const auto with_smoothing = [&](auto squared) {
      smoothing > 0.0f ? differentiate(squared, std::true_type{})
                       : differentiate(squared, std::false_type{});
    };
    square ? with_smoothing(std::true_type{}) : with_smoothing(std::false_type{});
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
  // Of the most pixels that a thread has on any GPU.
  const int64_t bytes = in.channels_last ? 16 : Traits::kPixels * static_cast<int64_t>(sizeof(T));
  const int64_t row =
      (in.channels_last ? in.classes * in.pixels : in.pixels) * static_cast<int64_t>(sizeof(T));
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
  if (in.classes <= 4) return launch_labels_as<kBackward, LabelsTraits<T, 1, 4>>(op, in, stream);
  if (in.classes <= 8) return launch_labels_as<kBackward, LabelsTraits<T, 5, 8>>(op, in, stream);
  if (in.classes <= 12) return launch_labels_as<kBackward, LabelsTraits<T, 9, 12>>(op, in, stream);
  if (in.classes <= 16) return launch_labels_as<kBackward, LabelsTraits<T, 13, 16>>(op, in, stream);
  if (in.classes <= 20) return launch_labels_as<kBackward, LabelsTraits<T, 17, 20>>(op, in, stream);
  return launch_labels_as<kBackward, LabelsTraits<T, 21, 32>>(op, in, stream);
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
