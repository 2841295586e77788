// confusion_matrix_cuda.cu: one read of the logits, one of the labels; the argmax stays in
// registers.
//
// planes: contiguous logits: a thread takes 16 bytes of pixels and runs over the classes' planes.
// pixels: channels_last logits (a tile goes through shared memory, so that neighbouring threads
// read
//         neighbouring addresses), and predicted labels.
//
// A block counts in shared memory while the matrix fits there, and adds its counts to the result at
// the end. Counts are integers: their order does not matter.
#include "common/dispatch.h"
#include "common/maxima.cuh"
#include "common/vec.h"
#include "kernels/confusion_matrix/confusion_matrix.h"
#include "kernels/confusion_matrix/confusion_matrix_math.h"

namespace segfast {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 4096;     // pixels of a block
constexpr int kSharedCounts = 4096;  // 64 x 64 classes
constexpr int kStageBytes = 16384;
// Blocks on a multiprocessor at least, which bounds the registers; Turing's compiler needs more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kBlocks = 2;
#else
constexpr int kBlocks = 4;
#endif

struct CountParams {
  ConfusionMatrixParams op;
  uint32_t chunks;  // of a sample; 32 bits, for a GPU divides 64 by calling a function
  int64_t tile;     // pixels: what shared memory holds, or a chunk
  bool staged;      // pixels: logits go through shared memory
  bool vectors;     // planes: a thread's pixels lie in one aligned access
};

// The pixels of a block: [first, last) of a sample.
struct Span {
  int64_t sample, first, last;

  __device__ explicit Span(const CountParams& p)
      : sample(blockIdx.x / p.chunks), first(blockIdx.x % p.chunks * kChunk) {
    last = first + kChunk < p.op.pixels ? first + kChunk : p.op.pixels;
  }
};

// Where a block counts.
struct Counter {
  const ConfusionMatrixParams& op;
  int* shared;  // [K, K], or null where that is too large
  unsigned long long* total;

  __device__ Counter(const ConfusionMatrixParams& params, const Span& span, int* counts)
      : op(params),
        shared(params.classes * params.classes <= kSharedCounts ? counts : nullptr),
        total(reinterpret_cast<unsigned long long*>(params.matrix) +
              (params.by_sample ? span.sample * params.classes * params.classes : 0)) {}

  __device__ int size() const {
    return shared == nullptr ? 0 : static_cast<int>(op.classes * op.classes);
  }
  __device__ void begin() const {
    for (int i = static_cast<int>(threadIdx.x); i < size(); i += kThreads) shared[i] = 0;
    __syncthreads();
  }
  __device__ void end() const {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < size(); i += kThreads) {
      if (shared[i] != 0) atomicAdd(total + i, static_cast<unsigned long long>(shared[i]));
    }
  }
  // Counts a pixel if its label counts.
  __device__ void add(int64_t label, int64_t prediction) const {
    if (op.has_ignore_index && label == op.ignore_index) return;
    const bool is_class = label >= 0 && label < op.classes;
    SEGFAST_DEVICE_CHECK(is_class, "confusion_matrix: a label is neither a class nor ignore_index");
    const bool is_prediction = prediction >= 0 && prediction < op.classes;
    SEGFAST_DEVICE_CHECK(is_prediction, "confusion_matrix: a predicted label is not a class");
    if (!is_class || !is_prediction) return;
    const int64_t at = label * op.classes + prediction;
    if (shared != nullptr) {
      atomicAdd(shared + at, 1);
    } else {
      atomicAdd(total + at, 1ull);
    }
  }
};

struct Beats {
  template <typename R>
  __device__ __forceinline__ static bool wins(R value, R best) {
    return beats(value, best);
  }
#if defined(__CUDA_ARCH__)
  template <typename Pair>
  __device__ __forceinline__ static uint32_t mask(Pair value, Pair best) {
    return __hgtu2_mask(value, best) & __heq2_mask(best, best);
  }
#endif
};

// The prediction from the largest logit and its channel.
template <typename T>
__device__ __forceinline__ int prediction_of(const ConfusionMatrixParams& op, T largest,
                                             int channel) {
  if (op.channels > 1) return channel;
  return to_float(largest) > static_cast<accumulate_t<T>>(op.threshold) ? 1 : 0;
}

// Of the logits of one pixel, `step` apart.
template <typename T>
__device__ __forceinline__ int argmax_of(const T* logits, int64_t step,
                                         const ConfusionMatrixParams& op) {
  Maxima<T, 1, Beats, false> best;
  best.start({logits[0]}, 0);
  for (int c = 1; c < op.channels; ++c) best.compete({logits[c * step]}, c, {true});
  return prediction_of(op, best.values().at[0], best.number(0));
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks) count_planes_kernel(const CountParams p) {
  constexpr int kPixels = kVec16<T>;
  SEGFAST_SHARED(int[kSharedCounts], counts);
  const Span span(p);
  const Counter counter(p.op, span, counts);
  counter.begin();
  const T* sample = static_cast<const T*>(p.op.logits) + span.sample * p.op.channels * p.op.pixels;
  constexpr int64_t kTile = int64_t{kThreads} * kPixels;
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t tile = span.first; tile < span.last; tile += kTile) {
    const auto pixel = [&](int j) {
      return tile + (p.vectors ? thread * kPixels + j : j * kThreads + thread);
    };
    int prediction[kPixels];
    if (p.vectors) {
      if (pixel(0) >= span.last) break;
      const T* from = sample + pixel(0);
      Maxima<T, kPixels, Beats> best;
      best.start(Vec<T, kPixels>::load(from), 0);
      bool exists[kPixels];
#pragma unroll
      for (int j = 0; j < kPixels; ++j) exists[j] = true;
#pragma unroll 4
      for (int c = 1; c < p.op.channels; ++c) {
        best.compete(Vec<T, kPixels>::load(from + c * p.op.pixels), c, exists);
      }
      const Vec<T, kPixels> largest = best.values();
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        prediction[j] = prediction_of(p.op, largest.at[j], best.number(j));
      }
    } else {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        if (pixel(j) >= span.last) continue;
        prediction[j] = argmax_of(sample + pixel(j), p.op.pixels, p.op);
      }
    }
    int64_t at[kPixels], label[kPixels];  // beyond the span its first pixel's, which is left out
#pragma unroll
    for (int j = 0; j < kPixels; ++j) at[j] = pixel(j) < span.last ? pixel(j) : span.first;
    read_labels(p.op.target, p.op.target_type, span.sample * p.op.pixels, at, label);
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      if (pixel(j) < span.last) counter.add(label[j], prediction[j]);
    }
  }
  counter.end();
}

template <typename T>
__global__ void __launch_bounds__(kThreads) count_pixels_kernel(const CountParams p) {
  SEGFAST_SHARED(int[kSharedCounts], counts);
  SEGFAST_SHARED(T[kStageBytes / sizeof(T)], stage);
  const Span span(p);
  const Counter counter(p.op, span, counts);
  counter.begin();
  const int channels = static_cast<int>(p.op.channels);
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t first = span.first; first < span.last; first += p.tile) {
    const int64_t left = span.last - first;
    const int pixels = static_cast<int>(left < p.tile ? left : p.tile);
    const int64_t base = span.sample * p.op.pixels + first;
    const T* logits = static_cast<const T*>(p.op.logits) + base * channels;
    if (p.staged) {
      __syncthreads();  // the last tile has been read
#pragma unroll 8
      for (int i = thread; i < pixels * channels; i += kThreads) stage[i] = logits[i];
      __syncthreads();
      logits = stage;
    }
    for (int i = thread; i < pixels; i += kThreads) {
      counter.add(read_label(p.op.target, p.op.target_type, base + i),
                  p.op.logits != nullptr
                      ? argmax_of(logits + int64_t{i} * channels, 1, p.op)
                      : read_label(p.op.prediction, p.op.prediction_type, base + i));
    }
  }
  counter.end();
}

}  // namespace

cudaError_t confusion_matrix_cuda(const ConfusionMatrixParams& params, cudaStream_t stream) {
  CountParams p;
  p.op = params;
  p.chunks = static_cast<uint32_t>(ceil_div(params.pixels, kChunk));
  const int64_t grid = params.samples * p.chunks;
  const bool planes = params.logits != nullptr && !params.channels_last;
  return dispatch_floating(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t stage = kStageBytes / static_cast<int64_t>(sizeof(T));
    p.staged = params.logits != nullptr && params.channels <= stage;
    p.tile = p.staged ? stage / params.channels : kChunk;
    p.vectors = params.pixels % kVec16<T> == 0 && is_aligned(params.logits, 16) &&
                params.channels < 1 << 15;  // what Maxima counts to
    return launch(planes ? count_planes_kernel<T> : count_pixels_kernel<T>, grid, kThreads, stream,
                  p);
  });
}

}  // namespace segfast
