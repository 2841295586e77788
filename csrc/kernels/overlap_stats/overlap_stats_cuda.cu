// overlap_stats_cuda.cu: one read of the logits forward; one read and one write backward.
//
// labels:  softmax of label maps, at most 32 classes: a thread keeps all logits of its pixels in
//          registers, and a block its partial sums until its chunk of pixels is done.
// sigmoid: of contiguous logits: a block goes over its pixels once a class.
// targets: all else (more classes, soft targets, float64): a block goes over its pixels once for
//          each quantity that all classes share, and once for the results.
// finish:  adds the chunks' partial sums up, in order, in double. Of a loss, overlap_loss does.
//
// Logits reach the `labels` kernels through shared memory, the next tile while one is worked on, in
// 16-byte copies: those of contiguous logits for the pixels of a warp, those of channels_last for a
// block's, so that neighbouring threads read neighbouring addresses, whatever the number of
// classes.
//
// `labels` on an H200, logits [16, 19, 360, 480], us forward and backward, bfloat16 contiguous,
// bfloat16 channels_last, float32 contiguous (copies of as many bytes: 34 and 59; float32 59 and
// 108):
//   104, 108   138, 141   125, 200   logits in registers, a comparison of each with the label
//    75,  96   111, 127   121, 149   what belongs to the label by its number from shared memory
//    69,  86    84, 105   108, 141   the next tile on its way (cp.async)
//    57,  76    74,  97    87, 137   as many blocks as fit, and labels a tile ahead
// What was left then were instructions, 18 a logit forward and 25 backward, which were issued in
// 58 % of the clocks (ncu: long scoreboard 0.3 of 5); of those, two thirds were the softmax itself,
// the rest work for each pixel. Forward alone also had the launches of finish and of the loss, 10
// us.
//
// Since then, not measured; instructions a logit in sm_90's machine code, from the shortest to the
// longest way that such a loss can take through 17 to 20 classes:
//                         contiguous                       channels_last
//   forward   bfloat16    15.7 to 19.5 -> 11.7 to 15.8     13.9 to 17.8 ->  9.7 to 14.4
//             float32     27.8 to 38.2 -> 23.8 to 34.6     20.9 to 29.7 -> 18.4 to 30.1
//   backward  bfloat16    21.1 to 28.1 -> 17.7 to 24.2     21.9 to 29.3 -> 15.2 to 22.5
//             float32     34.9 to 53.9 -> 31.3 to 42.4     30.1 to 44.5 -> 24.8 to 40.7
// by 16-byte copies in place of those of a thread's own pixels, offsets from the chunk in 32 bits,
// the maxima of two 16-bit logits in one operation, and a stage of channels_last without gaps, read
// in the widest accesses that the number of classes allows; channels_last has a block more a
// multiprocessor.
#include "kernels/overlap_stats/overlap_stats_cuda_labels.cuh"
#include "kernels/overlap_stats/overlap_stats_cuda_sigmoid.cuh"
#include "kernels/overlap_stats/overlap_stats_cuda_targets.cuh"
#include "kernels/overlap_stats/overlap_stats_finish.cuh"

namespace segfast {
namespace {

__global__ void __launch_bounds__(kFinishThreads) finish_kernel(const FinishParams p) {
  SEGFAST_SHARED(double[kFinishSlices][kWarpSize], slices);
  finish_columns(p, slices);
}

}  // namespace

cudaError_t overlap_stats_partials_cuda(const OverlapStatsParams& params, cudaStream_t stream) {
  return has_labels_kernel(params.in)    ? launch_labels<false>(params, params.in, stream)
         : has_sigmoid_kernel(params.in) ? launch_sigmoid<false>(params, stream)
                                         : launch_targets<false>(params, stream);
}

cudaError_t overlap_stats_cuda(const OverlapStatsParams& params, cudaStream_t stream) {
  const cudaError_t error = overlap_stats_partials_cuda(params, stream);
  if (error != cudaSuccess) return error;
  const FinishParams finish(params);
  return launch(finish_kernel, finish.blocks(), kFinishThreads, stream, finish);
}

cudaError_t overlap_stats_backward_cuda(const OverlapStatsBackwardParams& params,
                                        cudaStream_t stream) {
  return has_labels_kernel(params.in)    ? launch_labels<true>(params, params.in, stream)
         : has_sigmoid_kernel(params.in) ? launch_sigmoid<true>(params, stream)
                                         : launch_targets<true>(params, stream);
}

}  // namespace segfast
