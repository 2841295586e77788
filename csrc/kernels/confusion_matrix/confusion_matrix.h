// confusion_matrix: counts of (label, prediction) pairs, with the argmax of logits fused in.
//
// matrix[n, y, k] = number of pixels of sample n (of the whole batch if there is one matrix) with
// label y that are predicted as k. A prediction is the first largest logit (NaN is larger than all,
// as in torch.argmax); with one channel, whether the logit is larger than `threshold`; or a given
// label. Counts are integers, so the order in which they are added does not matter.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/labels.h"
#include "common/launch.h"

namespace segfast {

struct ConfusionMatrixParams {
  const void* logits;  // [N, C, S], or [N, S, C] if channels_last; null with predicted labels
  DType dtype;
  int64_t samples;   // N
  int64_t channels;  // C of the logits
  int64_t pixels;    // S
  bool channels_last;
  double threshold;  // for one channel

  const void* prediction;  // predicted labels [N, S], or null with logits
  TargetType prediction_type;
  const void* target;  // labels [N, S]
  TargetType target_type;
  int64_t classes;  // K: with logits, C, or 2 for one channel
  bool has_ignore_index;
  int64_t ignore_index;

  bool by_sample;   // N matrices, else one
  int64_t* matrix;  // [N or 1, K, K], zeros at the start
  int64_t* bad;     // [2], zeros at the start: labels, predictions that are no class nor ignored
};

// ---- CPU: item i is chunk i % chunks of sample i / chunks ---------------------------------------

inline int64_t confusion_matrix_chunks(int64_t pixels) { return ceil_div<int64_t>(pixels, 16384); }

inline int64_t confusion_matrix_items(const ConfusionMatrixParams& params) {
  return params.samples * confusion_matrix_chunks(params.pixels);
}

// Adds to the matrix and to bad; any number of threads may do so at a time.
void confusion_matrix_cpu(const ConfusionMatrixParams& params, int64_t begin, int64_t end);

#if SEGFAST_CUDA_LAUNCHERS
cudaError_t confusion_matrix_cuda(const ConfusionMatrixParams& params, cudaStream_t stream);
#endif

}  // namespace segfast
