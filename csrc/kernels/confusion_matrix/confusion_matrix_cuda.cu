// confusion_matrix_cuda.cu: one read of the logits, one of the labels; the argmax stays in
// registers.
//
// planes: contiguous logits: a thread takes 16 bytes of pixels and runs over the classes' planes.
// pixels: channels_last logits (a tile goes through shared memory, so that neighbouring threads
//         read neighbouring addresses).
// pairs:  predicted labels.
//
// A block counts in shared memory while the matrix fits there, and adds its counts to the result at
// the end. Counts are integers: their order does not matter.
//
// On an H200, logits [16, 19, 360, 480], us in bfloat16 / float32 (a copy of as many bytes: 35 /
// 59):
//   planes  57 / 84   four planes at a time, the last ones one by one
//           45 / 69   six at a time, labels in 16-byte accesses, blocks of 8192 pixels
//   pixels  77 / 117  two bytes a load, compared as floats
//           90 / 116  four bytes a copy, ordered integers, several tiles a block (82 / 131 with
//           one)
// planes waits for memory with too few loads under way (ncu: long scoreboard, 11 of 16 clocks an
// instruction); pixels was bound by 26 instructions a logit, most of them places in the stage.
// Since then, not measured: a stage without gaps, filled in 16-byte copies; in sm_90's machine code
// the loop over the classes takes 8 instructions a logit (float32: 5) where it took 18 (15), and
// the copies 1 where they took 5 (12).
#include "common/dispatch.h"
#include "common/maxima.cuh"
#include "common/stage.cuh"
#include "common/vec.h"
#include "kernels/confusion_matrix/confusion_matrix.h"
#include "kernels/confusion_matrix/confusion_matrix_math.h"

namespace segfast {
namespace {

constexpr int kThreads = 256;
constexpr int kSharedCounts = 4096;  // 64 x 64 classes
constexpr int kStageBytes = 24576;
// Pixels of a block: the fewer blocks, the less often counts are added to the result.
constexpr int64_t kPlaneChunk = 8192, kPixelChunk = 4096, kPairChunk = 8192;

struct CountParams {
  ConfusionMatrixParams op;
  int64_t chunk;    // pixels of a block
  uint32_t chunks;  // of a sample; 32 bits, for a GPU divides 64 by calling a function
  bool vectors;     // 16 bytes of logits lie in one aligned access, and a thread's labels in few
  int tile;         // pixels: so many go through shared memory at a time; 0 for none
};

// The pixels of a block: [first, last) of a sample.
struct Span {
  int64_t sample, first, last;

  __device__ explicit Span(const CountParams& p)
      : sample(blockIdx.x / p.chunks), first(blockIdx.x % p.chunks * p.chunk) {
    last = first + p.chunk < p.op.pixels ? first + p.chunk : p.op.pixels;
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
  // Counts those pixels that exist and whose label counts. Whether all labels are classes or
  // ignored is for check(), after the loop: the call that stops a grid costs registers.
  template <int N>
  __device__ __forceinline__ bool add(const int64_t (&label)[N], const int (&prediction)[N],
                                      const bool (&exists)[N]) const {
    bool all_classes = true;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const bool ignored = op.has_ignore_index && label[j] == op.ignore_index;
      const bool is_class = static_cast<uint64_t>(label[j]) < static_cast<uint64_t>(op.classes);
      all_classes &= is_class || ignored || !exists[j];
      if (!exists[j] || ignored || !is_class) continue;
      if (shared != nullptr) {
        const int row = static_cast<int>(label[j]) * static_cast<int>(op.classes);
        atomicAdd(shared + row + prediction[j], 1);
      } else {
        atomicAdd(total + label[j] * op.classes + prediction[j], 1ull);
      }
    }
    return all_classes;
  }
  __device__ static void check(bool all_classes) {
    SEGFAST_DEVICE_CHECK(all_classes,
                         "confusion_matrix: a label is neither a class nor ignore_index");
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

// A logit as an integer, so that a larger one has a larger integer, all NaNs have the largest, and
// both zeros one: torch.argmax's order.
__device__ __forceinline__ int32_t ordered(float logit) {
#if defined(__CUDA_ARCH__)
  const int32_t bits = __float_as_int(logit + 0.0f);  // 0 for -0; a GPU's NaN is 0x7fffffff
#else
  const float sum = logit + 0.0f;
  int32_t bits = 0x7fffffff;
  if (sum == sum) memcpy(&bits, &sum, sizeof(bits));
#endif
  return bits ^ (bits >> 31 & 0x7fffffff);
}

// A 16-bit number leaves 13 bits of a float free, for the channel: of equal logits the first.
constexpr int kFree = (1 << 13) - 1;

// The argmax of a pixel's logits in a stage, kTogether of them in one aligned access.
template <int kTogether, typename T>
__device__ __forceinline__ int staged_argmax(const T* logits, int channels) {
  using R = accumulate_t<T>;
  int32_t best_key = INT32_MIN;
  R best = -INFINITY;
  int number = 0;
  const auto take = [&](int first, auto count) {
    constexpr int kCount = decltype(count)::value;
    R some[kCount];
#pragma unroll
    for (int k = 0; k < kCount; k += kTogether) {
      R together[kTogether];
      floats_of(Vec<T, kTogether>::load(logits + first + k), together);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) some[k + i] = together[i];
    }
    if constexpr (sizeof(T) == 2) {
      int32_t largest = INT32_MIN;
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        const int32_t key = (ordered(some[k]) & ~kFree) | (kFree - k);
        largest = key > largest ? key : largest;
      }
      largest -= first;
      best_key = largest > best_key ? largest : best_key;
    } else {
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        const bool wins = beats(some[k], best);
        best = wins ? some[k] : best;
        number = wins ? first + k : number;
      }
    }
  };
  constexpr int kMany = 8;  // whose loads are under way at once
  int c = 0;
  for (; c + kMany <= channels; c += kMany) take(c, std::integral_constant<int, kMany>{});
  for (; c < channels; c += kTogether) take(c, std::integral_constant<int, kTogether>{});
  return sizeof(T) == 2 ? kFree - (best_key & kFree) : number;
}

template <typename T>
constexpr int kPlanePixels = kVec16<T>;  // of a thread at a time

// Three blocks on a multiprocessor: ptxas allows itself 64 registers without a number, and spills.
template <typename T>
__global__ void __launch_bounds__(kThreads, 3) count_planes_kernel(const CountParams p) {
  constexpr int kPixels = kPlanePixels<T>;
  SEGFAST_SHARED(int[kSharedCounts], counts);
  const Span span(p);
  const Counter counter(p.op, span, counts);
  counter.begin();
  const T* sample = static_cast<const T*>(p.op.logits) + span.sample * p.op.channels * p.op.pixels;
  const int64_t labels = span.sample * p.op.pixels;
  const int channels = static_cast<int>(p.op.channels);
  constexpr int64_t kTile = int64_t{kThreads} * kPixels;
  bool all_classes = true;
  for (int64_t tile = span.first; tile < span.last; tile += kTile) {
    const int64_t first = tile + static_cast<int>(threadIdx.x) * kPixels;
    int64_t label[kPixels];
    int prediction[kPixels];
    bool exists[kPixels];
    if (p.vectors) {
      if (first >= span.last) break;
#pragma unroll
      for (int j = 0; j < kPixels; ++j) exists[j] = true;
      const T* from = sample + first;
      Maxima<T, kPixels, Beats> best;
      best.start(Vec<T, kPixels>::load_streaming(from), 0);
      read_label_run(p.op.target, p.op.target_type, labels + first, label);
      // Several planes at a time: their loads are under way at once. Beyond the last plane it is
      // that one again, which does not win over itself.
      constexpr int kTogether = 6;
      for (int c = 1; c < channels; c += kTogether) {
        Vec<T, kPixels> some[kTogether];
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          if (c + k < channels) from += p.op.pixels;
          some[k] = Vec<T, kPixels>::load_streaming(from);
        }
#pragma unroll
        for (int k = 0; k < kTogether; ++k) best.compete(some[k], c + k, exists);
      }
      const Vec<T, kPixels> largest = best.values();
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        prediction[j] = prediction_of(p.op, largest.at[j], best.number(j));
      }
    } else {
      int64_t at[kPixels];  // beyond the span its first pixel, which is left out
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        exists[j] = first + j < span.last;
        at[j] = exists[j] ? first + j : span.first;
        prediction[j] = argmax_of(sample + at[j], p.op.pixels, p.op);
      }
      read_labels(p.op.target, p.op.target_type, labels, at, label);
    }
    all_classes &= counter.add(label, prediction, exists);
  }
  Counter::check(all_classes);
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
  const T* sample = static_cast<const T*>(p.op.logits) + span.sample * p.op.pixels * p.op.channels;
  const int64_t labels = span.sample * p.op.pixels;
  bool all_classes = true;
  const int64_t step = p.tile > 0 ? p.tile : span.last - span.first;
  for (int64_t first = span.first; first < span.last; first += step) {
    const int64_t left = span.last - first;
    const int pixels = static_cast<int>(left < step ? left : step);
    if (p.tile > 0) {
      __syncthreads();  // the tile before has been read
      Stage<T>::template load<kThreads>(sample + first * channels, pixels * channels, p.vectors,
                                        stage);
      wait_for_copies();
      __syncthreads();
    }
    for (int i = static_cast<int>(threadIdx.x); i < pixels; i += kThreads) {
      const int64_t label = read_label(p.op.target, p.op.target_type, labels + first + i);
      int prediction;
      if (p.tile == 0) {
        prediction = argmax_of(sample + (first + i) * channels, 1, p.op);
      } else {
        Stage<T>::template with_together<2, kFree>(channels, [&](auto together) {
          prediction = staged_argmax<decltype(together)::value>(stage + i * channels, channels);
        });
      }
      all_classes &= counter.add<1>({label}, {prediction}, {true});
    }
  }
  Counter::check(all_classes);
  counter.end();
}

__global__ void __launch_bounds__(kThreads) count_pairs_kernel(const CountParams p) {
  SEGFAST_SHARED(int[kSharedCounts], counts);
  const Span span(p);
  const Counter counter(p.op, span, counts);
  counter.begin();
  const int64_t labels = span.sample * p.op.pixels;
  bool all_classes = true, all_predictions = true;
  for (int64_t i = span.first + threadIdx.x; i < span.last; i += kThreads) {
    const int64_t label = read_label(p.op.target, p.op.target_type, labels + i);
    const int64_t prediction = read_label(p.op.prediction, p.op.prediction_type, labels + i);
    const bool ignored = p.op.has_ignore_index && label == p.op.ignore_index;
    const bool is_class = prediction >= 0 && prediction < p.op.classes;
    all_predictions &= ignored || is_class;
    all_classes &= counter.add<1>({label}, {static_cast<int>(prediction)}, {is_class});
  }
  SEGFAST_DEVICE_CHECK(all_predictions, "confusion_matrix: a predicted label is not a class");
  Counter::check(all_classes);
  counter.end();
}

}  // namespace

cudaError_t confusion_matrix_cuda(const ConfusionMatrixParams& params, cudaStream_t stream) {
  CountParams p;
  p.op = params;
  p.vectors = false;
  p.tile = 0;
  const auto start = [&](auto kernel, int64_t chunk) {
    p.chunk = chunk;
    p.chunks = static_cast<uint32_t>(ceil_div(params.pixels, chunk));
    return launch(kernel, params.samples * p.chunks, kThreads, stream, p);
  };
  if (params.logits == nullptr) return start(count_pairs_kernel, kPairChunk);
  return dispatch_floating(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const bool aligned = is_aligned(params.logits, 16);
    if (!params.channels_last) {
      p.vectors = aligned && params.pixels % kPlanePixels<T> == 0 &&
                  label_run_aligned(params.target) && params.channels < 1 << 15;  // Maxima's limit
      return start(count_planes_kernel<T>, kPlaneChunk);
    }
    const int64_t fits = kStageBytes / static_cast<int64_t>(sizeof(T)) / params.channels;
    if (params.channels > 1 &&
        params.channels <= kFree) {  // whole rounds of threads, or whole vectors
      const int64_t round = fits >= kThreads ? kThreads : fits >= kVec16<T> ? kVec16<T> : 1;
      p.tile = static_cast<int>(fits / round * round);
      p.vectors =
          aligned && p.tile % kVec16<T> == 0 && params.pixels * params.channels % kVec16<T> == 0;
    }
    // Chunks of whole tiles.
    const int64_t chunk =
        p.tile > 0 ? ceil_div<int64_t>(kPixelChunk, p.tile) * p.tile : kPixelChunk;
    return start(count_pixels_kernel<T>, chunk);
  });
}

}  // namespace segfast
