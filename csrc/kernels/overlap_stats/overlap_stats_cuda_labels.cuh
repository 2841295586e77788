// overlap_stats_cuda_labels.cuh: softmax of label maps with at most 32 classes.
#pragma once

#include <cstring>
#include <type_traits>

#include "common/copy_async.cuh"
#include "common/stage.cuh"
#include "kernels/overlap_stats/overlap_stats_cuda_common.cuh"

namespace segfast {
namespace {

constexpr int kMaxClasses = 32;

// kClasses is the number of classes rounded up to one that a kernel is compiled for; kLeast is the
// smallest number that is.
template <typename Element, bool kByPixel, int kLeastClasses, int kClassesUp>
struct LabelsTraits {
  using T = Element;
  static constexpr bool kChannelsLast = kByPixel;
  static constexpr int kThreads = 128;
  static constexpr int kClasses = kClassesUp;
  static constexpr int kLeast = kLeastClasses;
  // Pixels of a thread, no more than it has registers for: 8 bytes of a class's logits, or 4.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  static constexpr int kMostWide = sizeof(T) == 4 ? 16 : 8;
#else
  static constexpr int kMostWide = sizeof(T) == 4  ? (kChannelsLast ? 12 : 16)
                                   : kChannelsLast ? 8
                                                   : 12;
#endif
  static constexpr int kPixels =
      kChannelsLast && kClasses == kMaxClasses
          ? 1
          : (kClasses <= kMostWide ? 8 : 4) / static_cast<int>(sizeof(T));
  static constexpr int kOwnBytes = kPixels * static_cast<int>(sizeof(T));  // of a class
  static constexpr int kTile = kThreads * kPixels;
  // Blocks on a multiprocessor at least, which bounds the registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  static constexpr int kBlocks = 2;  // ptxas takes more registers on Turing
#else
  static constexpr int kBlocks = label_blocks(kChannelsLast, sizeof(T) == 2, kClasses);
#endif
  // A tile in shared memory, and a second one that is on its way while there is room for it in the
  // 48 KB that a block may declare (beside a column of sums for each thread).
  static constexpr int kStage = kTile * kClasses;
  static constexpr int kBytes = 2 * kStage * static_cast<int>(sizeof(T)) + 4 * kClasses * kThreads;
  static constexpr int kBuffers = kBytes <= 47 * 1024 ? 2 : 1;
  static_assert(kPixels >= 1 && kClasses <= kMaxClasses);
  // Whether there is a class c: known to the compiler for most.
  __device__ static constexpr bool has(int c, int classes) { return c < kLeast || c < classes; }
};

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

// The same value, which the compiler does not know to be the same: else it keeps the address of
// each class in more registers than there are.
__device__ __forceinline__ uint32_t opaque(uint32_t value) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

template <typename Op>
struct LabelsParams {
  Op op;
  Geometry geometry;
  // Of what bytes the logits of a class, or for channels_last those of a tile, are whole aligned
  // vectors, in a sample of less than 4 GB: of 16 or of a thread's pixels; 0 for neither. And
  // whether a thread's labels are vectors, which for channels_last are not neighbours.
  int vector_bytes;
  bool label_vectors;
};

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

// Where the stage holds the logits of a thread's pixels, which no other thread touches between two
// barriers, of contiguous logits those of its warp: [class][thread][pixel].
template <typename Traits, bool kByPixel = Traits::kChannelsLast>
struct Slots {
  __device__ __forceinline__ explicit Slots(int) {}
  __device__ __forceinline__ int operator()(int j, int c) const {
    return c * Traits::kTile + static_cast<int>(threadIdx.x) * Traits::kPixels + j;
  }
};

// channels_last: as Stage has them, [pixel][class].
template <typename Traits>
struct Slots<Traits, true> {
  int first[Traits::kPixels];

  __device__ __forceinline__ explicit Slots(int classes) {
#pragma unroll
    for (int j = 0; j < Traits::kPixels; ++j) {
      first[j] = (j * Traits::kThreads + static_cast<int>(threadIdx.x)) * classes;
    }
  }
  __device__ __forceinline__ int operator()(int j, int c) const { return first[j] + c; }
};

// A tile of a block in the stage. Pixels beyond the chunk get the logits of others, or none: they
// do not count.
template <typename Traits>
struct Tile {
  using T = typename Traits::T;
  static constexpr int kPixels = Traits::kPixels;
  static constexpr int kClasses = Traits::kClasses;

  const OverlapStatsInputs& in;
  const int vector_bytes;
  const bool label_vectors;
  const Chunk& chunk;
  const int first;  // pixel of the chunk
  const int count;  // of its pixels that the chunk has
  const int classes;
  T* const stage;  // [kStage]
  const Slots<Traits> slots;

  template <typename Op>
  __device__ __forceinline__ Tile(const LabelsParams<Op>& p, const Chunk& of, int first_pixel,
                                  T* shared)
      : in(p.op.in),
        vector_bytes(p.vector_bytes),
        label_vectors(p.label_vectors),
        chunk(of),
        first(first_pixel),
        count(of.count - first < Traits::kTile ? of.count - first : Traits::kTile),
        classes(static_cast<int>(p.op.in.classes)),
        stage(shared),
        slots(classes) {}

  // A pixel of this thread, by its place in the tile.
  __device__ __forceinline__ int own(int j) const {
    const int thread = static_cast<int>(threadIdx.x);
    return Traits::kChannelsLast ? j * Traits::kThreads + thread : thread * kPixels + j;
  }
  __device__ __forceinline__ bool exists(int j) const { return own(j) < count; }
  // The same, or the first one of the tile where it does not exist: what can be read.
  __device__ __forceinline__ int readable(int j) const { return exists(j) ? own(j) : 0; }
  // The first pixel of the tile, in all samples.
  __device__ __forceinline__ int64_t pixel() const {
    return chunk.sample * in.pixels + chunk.first + first;
  }
  // Its first logit, or that of class 0, in a tensor like the logits.
  __device__ __forceinline__ int64_t element() const {
    return Traits::kChannelsLast ? pixel() * in.classes
                                 : chunk.sample * in.classes * in.pixels + chunk.first + first;
  }

  // Calls use(place in the stage, bytes from element() on) with the kBytes that a thread moves of
  // its warp's pixels, several classes of them at once where kBytes hold the pixels of many
  // threads. (A class's bytes from the one before are added up as they are needed.)
  template <int kBytes, typename Use>
  __device__ __forceinline__ void for_each_vector(Use use) const {
    constexpr int kElements = kBytes / static_cast<int>(sizeof(T));
    constexpr int kWarpPixels = kWarpSize * kPixels;
    constexpr int kLanes = kWarpPixels / kElements, kTogether = kWarpSize / kLanes;
    static_assert(kClasses % kTogether == 0);
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int pixel =
        static_cast<int>(threadIdx.x) / kWarpSize * kWarpPixels + lane % kLanes * kElements;
    if (pixel >= count) return;
    const int own = lane / kLanes;  // class
    const uint32_t plane = static_cast<uint32_t>(in.pixels) * static_cast<uint32_t>(sizeof(T));
    uint32_t bytes = own * plane + pixel * static_cast<uint32_t>(sizeof(T));
    T* place = stage + own * Traits::kTile + pixel;
#pragma unroll
    for (int c = 0; c < kClasses; c += kTogether) {
      if (Traits::has(c + kTogether - 1, classes) || c + own < classes) {
        use(place + c * Traits::kTile, bytes);
      }
      bytes += opaque(kTogether * plane);
    }
  }

  // Begins to bring the logits in; of the pixels of a thread's warp, or for channels_last any of
  // the tile.
  __device__ __forceinline__ void load() const {
    const T* logits = static_cast<const T*>(in.logits) + element();
    if constexpr (Traits::kChannelsLast) {
      Stage<T>::template load<Traits::kThreads>(logits, count * classes, vector_bytes != 0, stage);
    } else {
      const auto copy = [&](auto bytes) {
        constexpr int kBytes = decltype(bytes)::value;
        for_each_vector<kBytes>([&](T* to, uint32_t from) {
          copy_async<kBytes>(to, reinterpret_cast<const char*>(logits) + from);
        });
      };
      if (vector_bytes == 16) {
        copy(std::integral_constant<int, 16>{});
      } else if (vector_bytes != 0) {
        copy(std::integral_constant<int, Traits::kOwnBytes>{});
      } else {
        for (int j = 0; j < kPixels; ++j) {
          const T* from = logits + readable(j);
          T of_class[kClasses];
#pragma unroll
          for (int c = 0; c < kClasses; ++c) {
            of_class[c] = *from;
            if (Traits::has(c + 1, classes)) from += in.pixels;
          }
#pragma unroll
          for (int c = 0; c < kClasses; ++c) stage[slots(j, c)] = of_class[c];
        }
      }
    }
  }

  // Until all threads that share a place in the stage, of the block or of a warp, are here.
  __device__ __forceinline__ static void meet() {
    if constexpr (Traits::kChannelsLast) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  }

  // Until the logits are there, and every thread is done with the tile before.
  __device__ __forceinline__ void wait() const {
    wait_for_copies();
    meet();
  }

  // The labels of a thread's pixels, whatever they are; of those that do not exist any.
  __device__ __forceinline__ void read_labels(int64_t (&any)[kPixels]) const {
    if (label_vectors && count == Traits::kTile) {
      return read_label_run(in.target, in.target_type, pixel() + own(0), any);
    }
    int64_t at[kPixels];
#pragma unroll
    for (int j = 0; j < kPixels; ++j) at[j] = readable(j);
    segfast::read_labels(in.target, in.target_type, pixel(), at, any);
  }

  // z [kPixels][kClasses] = what the stage holds; -inf for classes that there are not. And the
  // largest of each pixel, NaN left out.
  __device__ __forceinline__ void read(float (&z)[kPixels][kClasses],
                                       float (&largest)[kPixels]) const {
    if constexpr (Traits::kChannelsLast) {
      Stage<T>::template with_together<Traits::kLeast, kClasses>(classes, [&](auto together) {
        constexpr int kTogether = decltype(together)::value;
#pragma unroll
        for (int c = 0; c < kClasses; c += kTogether) {
#pragma unroll
          for (int j = 0; j < kPixels; ++j) {
            float some[kTogether];
#pragma unroll
            for (int k = 0; k < kTogether; ++k) some[k] = -INFINITY;
            if (Traits::has(c, classes)) {
              floats_of(Vec<T, kTogether>::load(&stage[slots(j, c)]), some);
            }
#pragma unroll
            for (int k = 0; k < kTogether; ++k) z[j][c + k] = some[k];
          }
        }
      });
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        largest[j] = z[j][0];
#pragma unroll
        for (int c = 1; c < kClasses; ++c) largest[j] = fmaxf(largest[j], z[j][c]);
      }
    } else {
      Vec<T, kPixels> maxima;
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        auto of_class = Vec<T, kPixels>::load(&stage[slots(0, c)]);
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          if (!Traits::has(c, classes)) of_class.at[j] = from_float<T>(-INFINITY);
        }
        maxima = c == 0 ? of_class : max_of(maxima, of_class);
        float floats[kPixels];
        floats_of(of_class, floats);
#pragma unroll
        for (int j = 0; j < kPixels; ++j) z[j][c] = floats[j];
      }
      floats_of(maxima, largest);
    }
  }

  // The mirror of read().
  __device__ __forceinline__ void write(const float (&z)[kPixels][kClasses]) const {
    if constexpr (Traits::kChannelsLast) {
      Stage<T>::template with_together<Traits::kLeast, kClasses>(classes, [&](auto together) {
        constexpr int kTogether = decltype(together)::value;
#pragma unroll
        for (int c = 0; c < kClasses; c += kTogether) {
          if (!Traits::has(c, classes)) continue;
#pragma unroll
          for (int j = 0; j < kPixels; ++j) {
            float some[kTogether];
#pragma unroll
            for (int k = 0; k < kTogether; ++k) some[k] = z[j][c + k];
            vec_from_floats<T>(some).store(&stage[slots(j, c)]);
          }
        }
      });
    } else {
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        if (!Traits::has(c, classes)) continue;
        float of_class[kPixels];
#pragma unroll
        for (int j = 0; j < kPixels; ++j) of_class[j] = z[j][c];
        vec_from_floats<T>(of_class).store(&stage[slots(0, c)]);
      }
    }
  }

  // The mirror of load(), when all gradients are in the stage.
  __device__ __forceinline__ void store(void* gradients) const {
    T* const to_tile = static_cast<T*>(gradients) + element();
    meet();
    if constexpr (Traits::kChannelsLast) {
      Stage<T>::template store<Traits::kThreads>(stage, count * classes, vector_bytes != 0,
                                                 to_tile);
    } else {
      const auto copy = [&](auto bytes) {
        constexpr int kBytes = decltype(bytes)::value;
        for_each_vector<kBytes>([&](const T* from, uint32_t to) {
          Vec<T, kBytes / sizeof(T)>::load(from).store(
              reinterpret_cast<T*>(reinterpret_cast<char*>(to_tile) + to));
        });
      };
      if (vector_bytes == 16) {
        copy(std::integral_constant<int, 16>{});
      } else if (vector_bytes != 0) {
        copy(std::integral_constant<int, Traits::kOwnBytes>{});
      } else {
        for (int j = 0; j < kPixels; ++j) {
          if (!exists(j)) continue;
          T* to = to_tile + own(j);
          for (int c = 0; c < classes; ++c, to += in.pixels) *to = stage[slots(j, c)];
        }
      }
    }
  }
};

// Calls use(tile, labels) with each tile of the chunk, while the next one is on its way.
template <typename Traits, typename Op, typename Use>
__device__ __forceinline__ void for_each_tile(
    const LabelsParams<Op>& p, const Chunk& chunk,
    typename Traits::T (&stages)[Traits::kBuffers][Traits::kStage], Use use) {
  using Labels = int64_t[Traits::kPixels];
  Labels labels, next_labels;
  const auto load = [&](int first, int buffer) {
    if (first >= chunk.count) return;
    const Tile<Traits> tile(p, chunk, first, stages[buffer]);
    tile.load();
    tile.read_labels(next_labels);
  };
  load(0, 0);
  int buffer = 0;
  for (int first = 0; first < chunk.count; first += Traits::kTile) {
    const Tile<Traits> tile(p, chunk, first, stages[buffer]);
    tile.wait();
#pragma unroll
    for (int j = 0; j < Traits::kPixels; ++j) labels[j] = next_labels[j];
    if constexpr (Traits::kBuffers == 2) {
      buffer ^= 1;
      load(first + Traits::kTile, buffer);
      use(tile, labels);
    } else {
      use(tile, labels);
      tile.meet();  // the tile has been read
      load(first + Traits::kTile, 0);
    }
  }
}

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
