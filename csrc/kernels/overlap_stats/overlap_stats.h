// overlap_stats: from logits and labels to the sums every overlap loss is a ratio of, in one pass,
// and the gradient in one more. Neither softmax nor one-hot labels are ever stored.
//
// With p the softmax (or sigmoid) of the logits z, t the one-hot (or soft) target, and m = 0 at
// ignored pixels, the sums over the pixels of a sample n are
//   intersection [n, c] = sum m p t          probability [n, c] = sum m p^q        (q = exponent)
//                  or = sum m min(p, t)     (minimum: the same for targets of 0 and 1)
//   target [n, c]       = sum m t            pixels [n, c]      = sum m
//   cross_entropy [n]   = sum m w l(z, t)    weight [n]         = sum of the weights w in it
// The formulas of l and of all derivatives are in overlap_stats_math.h.
//
// Sums run over fixed chunks of pixels, whose partial sums are added in order in double: the same
// bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/labels.h"
#include "common/launch.h"

namespace segfast {

// What forward and backward read alike.
struct OverlapStatsInputs {
  const void* logits;  // [N, C, S], or [N, S, C] if channels_last
  DType dtype;
  int64_t samples;  // N
  int64_t classes;  // C
  int64_t pixels;   // S
  bool channels_last;
  int multiprocessors;  // of the GPU; 0 on the CPU

  bool sigmoid;        // else softmax over the classes
  const void* target;  // label map [N, S]; if dense, in the logits' layout
  TargetType target_type;
  bool dense;  // a target for each class: integers 0 or 1, or floats in [0, 1]
  bool has_ignore_index;
  int64_t ignore_index;

  int exponent;                // q: 1 or 2
  bool minimum;                // intersection of min(p, t), not p t
  double label_smoothing;      // eps, in [0, 1]
  double gamma;                // of the focal factor; 0: none
  const double* class_weight;  // [C] or null
  const double* pos_weight;    // [C] or null; sigmoid only
  const void* pixel_weight;    // [N, S] or null; float, or double if the logits are
};

struct OverlapStatsParams {
  OverlapStatsInputs in;
  double* partials;       // [N, chunks, overlap_stats_partial_size]
  double* intersection;   // [N, C]
  double* probability;    // [N, C]
  double* target;         // [N, C]
  double* pixels;         // [N, C]
  double* cross_entropy;  // [N]
  double* weight;         // [N]
};

struct OverlapStatsBackwardParams {
  OverlapStatsInputs in;
  // The loss's derivatives by the differentiable sums; null stands for zeros.
  const double* grad_intersection;   // [N, C]
  const double* grad_probability;    // [N, C]
  const double* grad_cross_entropy;  // [N]
  void* grad_logits;                 // in the logits' type and layout
  // A number that multiplies these derivatives; null for 1. float, or double if the logits are.
  const void* scale = nullptr;
};

SEGFAST_HOST_DEVICE double gradient_scale(const OverlapStatsBackwardParams& params) {
  if (params.scale == nullptr) return 1.0;
  return params.in.dtype == DType::float64 ? *static_cast<const double*>(params.scale)
                                           : *static_cast<const float*>(params.scale);
}

// The loss's derivative by the sum at `index`.
template <typename R>
SEGFAST_HOST_DEVICE R gradient_at(const double* gradient, int64_t index, double scale) {
  return gradient == nullptr ? R(0) : static_cast<R>(gradient[index] * scale);
}

// Partial sums of one chunk: intersection, probability, target, pixels [C] each, then
// cross_entropy, weight, and the number of bad targets (no class, and not ignored).
SEGFAST_HOST_DEVICE int64_t overlap_stats_partial_size(int64_t classes) { return 4 * classes + 3; }

// On a GPU a bad target stops the grid, and the first chunk's number of them is a 0, all bits,
// where the blocks that add the partial sums up count themselves.
SEGFAST_HOST_DEVICE unsigned* overlap_stats_ticket(const OverlapStatsParams& params) {
  return reinterpret_cast<unsigned*>(params.partials +
                                     overlap_stats_partial_size(params.in.classes) - 1);
}

// A sample is divided into chunks of pixels, small beside the image, so that the partial sums are.
constexpr int64_t kChunkPixels = 4096;
constexpr int64_t kMaxChunks = 256;
// On a GPU a block works on a chunk, and all blocks begin at once: as many as a multiprocessor
// holds. Where that leaves no several chunks of a sample, they would not come out even, and it is
// kRounds times as many.
constexpr int64_t kTargetBlocks = 8, kRounds = 4;
constexpr int64_t kCudaChunkPixels = 512;  // no fewer

// Of the kernels for label maps, by the registers that a thread needs.
SEGFAST_HOST_DEVICE constexpr int label_blocks(bool channels_last, bool is_16_bit,
                                               int64_t classes) {
  const bool wide = is_16_bit && classes > 8 && classes <= 12;  // four pixels of many classes
  return channels_last ? (classes > 20 ? 3 : 4) : classes > 20 ? 2 : wide ? 3 : 4;
}

// By the sample's size alone, and on a GPU by the number of samples and multiprocessors. At least
// one, so that the sums of an image without pixels are written too.
inline int64_t overlap_stats_chunks(const OverlapStatsInputs& in) {
  if (in.multiprocessors == 0) {
    return std::clamp<int64_t>(ceil_div(in.pixels, kChunkPixels), 1, kMaxChunks);
  }
  const bool is_16_bit = in.dtype == DType::float16 || in.dtype == DType::bfloat16;
  const int64_t blocks =
      in.multiprocessors * (in.sigmoid || in.dense
                                ? kTargetBlocks
                                : label_blocks(in.channels_last, is_16_bit, in.classes));
  const int64_t chunks = in.samples * kRounds <= blocks ? blocks / std::max<int64_t>(in.samples, 1)
                                                        : ceil_div(kRounds * blocks, in.samples);
  return std::clamp<int64_t>(chunks, 1,
                             std::max<int64_t>(ceil_div(in.pixels, kCudaChunkPixels), 1));
}

// ---- CPU: item i is chunk i % chunks of sample i / chunks ---------------------------------------

inline int64_t overlap_stats_items(const OverlapStatsParams& params) {
  return params.in.samples * overlap_stats_chunks(params.in);
}
inline int64_t overlap_stats_backward_items(const OverlapStatsBackwardParams& params) {
  return params.in.samples * overlap_stats_chunks(params.in);
}

// The partial sums of some chunks.
void overlap_stats_cpu(const OverlapStatsParams& params, int64_t begin, int64_t end);

// Adds the partial sums up, in order. Returns the number of bad targets.
int64_t overlap_stats_finish_cpu(const OverlapStatsParams& params);

void overlap_stats_backward_cpu(const OverlapStatsBackwardParams& params, int64_t begin,
                                int64_t end);

#if SEGFAST_CUDA_LAUNCHERS
// The partial sums alone: overlap_loss_cuda() adds them up in its own launch.
cudaError_t overlap_stats_partials_cuda(const OverlapStatsParams& params, cudaStream_t stream);
cudaError_t overlap_stats_cuda(const OverlapStatsParams& params, cudaStream_t stream);
cudaError_t overlap_stats_backward_cuda(const OverlapStatsBackwardParams& params,
                                        cudaStream_t stream);
#endif

}  // namespace segfast
