// overlap_stats_cuda_labels.cuh: softmax of label maps with at most 32 classes.
#pragma once

#include "kernels/overlap_stats/overlap_stats_label_tile.cuh"

namespace segfast {
namespace {

// Four numbers of shared memory, read where it stands: a compiler that remembers what a loop over
// the classes read for the next loop runs out of registers.
__device__ __forceinline__ Vec<float, 4> fresh(const float* shared) {
#if defined(__CUDA_ARCH__)
  Vec<float, 4> four;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(four.at[0]), "=f"(four.at[1]), "=f"(four.at[2]), "=f"(four.at[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))));
  return four;
#else
  return Vec<float, 4>::load(shared);
#endif
}

// exp(z - maximum), the exponent in the unit that it is computed in, and what is made of the sum.
// 16-bit logits are known to three digits; for them the hardware's functions, which have six, take
// one or two instructions for eight to twenty.
template <typename T>
struct Exponential {
  static constexpr bool kFast = sizeof(T) == 2;
  static constexpr float kUnit = kFast ? 1.4426950408889634f : 1.0f;    // 1 / ln 2, or 1
  static constexpr float kOfUnit = kFast ? 0.6931471805599453f : 1.0f;  // ln 2, or 1

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
  // Of a sum of exponentials, which is not less than 1.
  __device__ __forceinline__ static float reciprocal(float sum) {
#if defined(__CUDA_ARCH__)
    if (kFast) {
      float result;
      asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(sum));
      return result;
    }
#endif
    return 1.0f / sum;
  }
  __device__ __forceinline__ static float log(float sum) {
#if defined(__CUDA_ARCH__)
    if (kFast) return __logf(sum);
#endif
    return log_positive(sum);
  }
};

// The labels and weights of a thread's pixels, and their softmax. Every loop goes over the classes
// outside and the pixels inside, so that what belongs to a class is needed at one place only. What
// belongs to a pixel's label is fetched from the stage by its number, once a pixel, where to look
// for it among the registers takes two instructions for each logit.
template <typename Traits>
struct Softmax {
  using T = typename Traits::T;
  static constexpr int kPixels = Traits::kPixels;
  static constexpr int kClasses = Traits::kClasses;

  int label[kPixels];           // -1 where the pixel does not count; its logits are then zeros
  float pixel_weight[kPixels];  // 0 where the pixel does not count
  float maximum[kPixels];       // max z
  float label_logit[kPixels];   // z_y; then z_y - max z
  float label_e[kPixels];
  float sum[kPixels];      // of e
  float others[kPixels];   // sum of e but for the label's, if kWithoutLabel
  float inverse[kPixels];  // 1 / sum of e; 0 where the pixel does not count

  // kWithoutLabel: the label's logit becomes -inf, so that its e is 0 and sums over the others need
  // no comparison.
  template <bool kWithoutLabel>
  __device__ __forceinline__ void take_labels(const Tile<Traits>& tile,
                                              const int64_t (&any)[kPixels]) {
    const OverlapStatsInputs& in = tile.in;
    bool all_count = true, all_classes = true;
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const bool ignored = in.has_ignore_index && any[j] == in.ignore_index;
      const bool is_class = static_cast<uint64_t>(any[j]) < static_cast<uint64_t>(in.classes);
      all_classes &= is_class || ignored;
      label[j] = is_class && !ignored && tile.exists(j) ? static_cast<int>(any[j]) : -1;
      all_count &= label[j] >= 0;
      pixel_weight[j] = label[j] < 0 ? 0.0f : 1.0f;
    }
    SEGFAST_DEVICE_CHECK(all_classes, "overlap_stats: a label is neither a class nor ignore_index");
    if (!all_count) {
      for (int j = 0; j < kPixels; ++j) {
        for (int c = 0; label[j] < 0 && c < tile.classes; ++c) {
          tile.stage[tile.slots(j, c)] = T{};
        }
      }
    }
    if (in.pixel_weight != nullptr) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        const float weight = pixel_weight_at<float>(in, tile.pixel() + tile.readable(j));
        pixel_weight[j] = label[j] < 0 ? 0.0f : weight;
      }
    }
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      // Of a pixel that does not count any class will do: its logits are zeros.
      T& own = tile.stage[tile.slots(j, label[j] < 0 ? 0 : label[j])];
      label_logit[j] = to_float(own);
      if (kWithoutLabel && label[j] >= 0) own = from_float<T>(-INFINITY);
    }
  }

  // z becomes e = exp(z - max z), where `maximum` is that of z.
  template <bool kWithoutLabel>
  __device__ __forceinline__ void run(float (&z)[kPixels][kClasses]) {
    using Exp = Exponential<T>;
    Exp exp[kPixels];
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      if (kWithoutLabel) maximum[j] = fmaxf(label_logit[j], maximum[j]);
      exp[j].maximum = maximum[j] * Exp::kUnit;
      sum[j] = 0.0f;
    }
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        z[j][c] = Exp::power(exp[j].exponent(z[j][c]));
        sum[j] += z[j][c];
      }
    }
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const float exponent = exp[j].exponent(label_logit[j]);
      label_e[j] = Exp::power(exponent);
      label_logit[j] = exponent * Exp::kOfUnit;
      others[j] = sum[j];
      if (kWithoutLabel) sum[j] += label[j] < 0 ? 0.0f : label_e[j];
      inverse[j] = label[j] < 0 ? 0.0f : Exp::reciprocal(sum[j]);
    }
  }

  __device__ __forceinline__ float log_sum(int j) const { return Exponential<T>::log(sum[j]); }
};

// A column of a thread's own for each of its warp: lane c gets the sum of row c, one order for
// whatever thread adds it up, in which no two lanes read one bank.
template <int kRows, int kThreads>
__device__ __forceinline__ float sum_of_row(const float (&columns)[kRows][kThreads]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) - lane;
  float sum = 0.0f;
  __syncwarp();
  if (lane < kRows) {
    int at = lane;
#pragma unroll 4
    for (int i = 0; i < kWarpSize; ++i, at = (at + 1) % kWarpSize) sum += columns[lane][warp + at];
  }
  __syncwarp();
  return sum;
}

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocks)
    labels_forward_kernel(const LabelsParams<OverlapStatsParams> p) {
  using T = typename Traits::T;
  constexpr int kClasses = Traits::kClasses;
  constexpr int kPixels = Traits::kPixels;
  constexpr int kWarps = Traits::kThreads / kWarpSize;
  const OverlapStatsInputs& in = p.op.in;
  const int classes = static_cast<int>(in.classes);
  const Chunk chunk(in, p.geometry.chunks, p.geometry.chunk_size);
  const int thread = static_cast<int>(threadIdx.x);

  SEGFAST_SHARED(T[Traits::kBuffers][Traits::kStage], stages);
  SEGFAST_SHARED(float[kClasses][Traits::kThreads], columns);  // a thread's sums by label
  SEGFAST_SHARED(float[kMaxClasses], class_weight);
  SEGFAST_SHARED(int[kMaxClasses], count);
  SEGFAST_SHARED(float[2][kWarps][kWarpSize], class_sums);
  SEGFAST_SHARED(float[kWarps][2], pixel_sums);
  if (thread < kMaxClasses) {
    class_weight[thread] = thread < classes ? weight_at<float>(in.class_weight, thread) : 0.0f;
    count[thread] = 0;
  }
#pragma unroll
  for (int c = 0; c < kClasses; ++c) columns[c][thread] = 0.0f;
  __syncthreads();

  const float gamma = static_cast<float>(in.gamma);
  const float smoothing = static_cast<float>(in.label_smoothing);
  const bool square = in.exponent == 2;
  float weight_sum = 0.0f;
  if (smoothing > 0.0f) {
    for (int c = 0; c < classes; ++c) weight_sum += class_weight[c];
  }

  float probability[kClasses] = {};
  float sums[2] = {0.0f, 0.0f};  // cross_entropy, weight

  for_each_tile<Traits>(p, chunk, stages, [&](const Tile<Traits>& tile, const auto& labels) {
    Softmax<Traits> softmax;
    softmax.template take_labels<false>(tile, labels);
    float z[kPixels][kClasses];
    tile.read(z, softmax.maximum);
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
    // Two loops rather than a choice in one: a choice costs an instruction for each logit.
    const auto add = [&](auto squared) {
      constexpr bool kSquare = decltype(squared)::value;
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          const float prob = z[j][c] * softmax.inverse[j];
          probability[c] += kSquare ? prob * prob : prob;
        }
      }
    };
    square ? add(std::true_type{}) : add(std::false_type{});
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const int label = softmax.label[j];
      if (label < 0) continue;
      columns[label][thread] += softmax.label_e[j] * softmax.inverse[j];
      float focal = 1.0f;
      if (gamma > 0.0f) {
        float others = 0.0f;
#pragma unroll
        for (int c = 0; c < kClasses; ++c) others += c == label ? 0.0f : z[j][c];
        focal = overlap::focal_factor(others * softmax.inverse[j], gamma);
      }
      const float weight = softmax.pixel_weight[j] * class_weight[label];
      const float log_sum = softmax.log_sum(j);
      float loss = weight * (log_sum - softmax.label_logit[j]) * focal;
      if (smoothing > 0.0f) {
        const float all = weight_sum * (log_sum + softmax.maximum[j] - first_logit[j]) + smooth[j];
        loss = (1.0f - smoothing) * loss + smoothing / classes * softmax.pixel_weight[j] * all;
      }
      sums[0] += loss;
      sums[1] += weight;
      atomicAdd(&count[label], 1);
    }
  });

  // Lane c of a warp gets class c's sums.
  const int warp = thread / kWarpSize;
  const int lane = thread % kWarpSize;
  class_sums[0][warp][lane] = sum_of_row(columns);
#pragma unroll
  for (int c = 0; c < kClasses; ++c) columns[c][thread] = probability[c];
  class_sums[1][warp][lane] = sum_of_row(columns);
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
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocks)
    labels_backward_kernel(const LabelsParams<OverlapStatsBackwardParams> p) {
  using T = typename Traits::T;
  constexpr int kClasses = Traits::kClasses;
  constexpr int kPixels = Traits::kPixels;
  const OverlapStatsInputs& in = p.op.in;
  const int classes = static_cast<int>(in.classes);
  const Chunk chunk(in, p.geometry.chunks, p.geometry.chunk_size);
  const int thread = static_cast<int>(threadIdx.x);

  SEGFAST_SHARED(T[Traits::kBuffers][Traits::kStage], stages);
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
  if (smoothing > 0.0f) {
    for (int c = 0; c < classes; ++c) smooth_sum += smooth[c];
  }

  for_each_tile<Traits>(p, chunk, stages, [&](const Tile<Traits>& tile, const auto& labels) {
    Softmax<Traits> softmax;
    softmax.template take_labels<true>(tile, labels);
    float z[kPixels][kClasses];
    tile.read(z, softmax.maximum);
    softmax.template run<true>(z);

    // Compiled for each option: a choice in the loops costs an instruction for each logit.
    const auto differentiate = [&](auto squared, auto smoothed) {
      constexpr bool kSquare = decltype(squared)::value;
      constexpr bool kSmooth = decltype(smoothed)::value;
      float shift[kPixels] = {};  // sum e g over the other classes
#pragma unroll
      for (int first = 0; first < kClasses; first += 4) {
        const Vec<float, 4> own = fresh(b + first);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int j = 0; j < kPixels; ++j) {
            const float e = z[j][first + k];
            shift[j] += kSquare ? e * e * own.at[k] : e * own.at[k];
          }
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
      for (int first = 0; first < kClasses; first += 4) {
        const Vec<float, 4> own = fresh(b + first);
        const Vec<float, 4> of_smoothing = kSmooth ? fresh(smooth + first) : own;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int j = 0; j < kPixels; ++j) {
            const float e = z[j][first + k];
            const float share = own.at[k] * scale[j];
            float gradient = e * ((kSquare ? share * e : share) + shift[j]);
            if (kSmooth) gradient -= of_smoothing.at[k] * softmax.pixel_weight[j];
            z[j][first + k] = gradient;
          }
        }
      }
      tile.write(z);
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        const int label = softmax.label[j];
        if (label >= 0) tile.stage[tile.slots(j, label)] = from_float<T>(rest[j]);
      }
    };
    const auto with_smoothing = [&](auto squared) {
      smoothing > 0.0f ? differentiate(squared, std::true_type{})
                       : differentiate(squared, std::false_type{});
    };
    square ? with_smoothing(std::true_type{}) : with_smoothing(std::false_type{});
    tile.store(p.op.grad_logits);
  });
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
  p.geometry = geometry_of(in, Traits::kTile);
  // Of the most pixels that a thread has on any GPU.
  constexpr int64_t kSize = sizeof(T);
  const int64_t row = (Traits::kChannelsLast ? in.classes * in.pixels : in.pixels) * kSize;
  const auto fits = [&](int64_t bytes) {
    bool aligned = row % bytes == 0 && is_aligned(in.logits, bytes);
    if constexpr (kBackward) aligned = aligned && is_aligned(op.grad_logits, bytes);
    return aligned && in.classes * in.pixels * kSize <= UINT32_MAX;  // offsets in a sample
  };
  p.vector_bytes = fits(16)                                            ? 16
                   : !Traits::kChannelsLast && fits(Traits::kOwnBytes) ? Traits::kOwnBytes
                                                                       : 0;
  p.label_vectors =
      !Traits::kChannelsLast && in.pixels % Traits::kPixels == 0 && label_run_aligned(in.target);
  const int64_t grid = in.samples * p.geometry.chunks;
  if constexpr (kBackward) {
    return launch(labels_backward_kernel<Traits>, grid, Traits::kThreads, stream, p);
  } else {
    return launch(labels_forward_kernel<Traits>, grid, Traits::kThreads, stream, p);
  }
}

template <bool kBackward, typename T, bool kChannelsLast, typename Op>
cudaError_t launch_labels_of(const Op& op, const OverlapStatsInputs& in, cudaStream_t stream) {
  const auto start = [&](auto traits) {
    return launch_labels_as<kBackward, decltype(traits)>(op, in, stream);
  };
  if (in.classes <= 4) return start(LabelsTraits<T, kChannelsLast, 1, 4>{});
  if (in.classes <= 8) return start(LabelsTraits<T, kChannelsLast, 5, 8>{});
  if (in.classes <= 12) return start(LabelsTraits<T, kChannelsLast, 9, 12>{});
  if (in.classes <= 16) return start(LabelsTraits<T, kChannelsLast, 13, 16>{});
  if (in.classes <= 20) return start(LabelsTraits<T, kChannelsLast, 17, 20>{});
  return start(LabelsTraits<T, kChannelsLast, 21, 32>{});
}

template <bool kBackward, typename Op>
cudaError_t launch_labels(const Op& op, const OverlapStatsInputs& in, cudaStream_t stream) {
  const auto start = [&](auto tag) {
    using T = decltype(tag);
    return in.channels_last ? launch_labels_of<kBackward, T, true>(op, in, stream)
                            : launch_labels_of<kBackward, T, false>(op, in, stream);
  };
  switch (in.dtype) {
    case DType::float16:
      return start(Half{});
    case DType::bfloat16:
      return start(BFloat16{});
    default:
      return start(float{});
  }
}

}  // namespace
}  // namespace segfast
