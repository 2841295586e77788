// overlap_stats_label_tile.cuh: how a block gets logits of at most 32 classes, and labels: some
// pixels at a time, the next ones on their way.
#pragma once

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

  // Calls use(bytes, place in the stage, bytes from element() on) with each vector that a thread
  // moves of its warp's pixels, or other() where there are none.
  template <typename Use, typename Other>
  __device__ __forceinline__ void for_each_vector(Use use, Other other) const {
    if (vector_bytes == 16) {
      for_each_vector_of<16>(use);
    } else if (vector_bytes != 0) {
      for_each_vector_of<Traits::kOwnBytes>(use);
    } else {
      other();
    }
  }
  // Several classes of them at once where kBytes hold the pixels of many threads. (A class's bytes
  // from the one before are added up as they are needed.)
  template <int kBytes, typename Use>
  __device__ __forceinline__ void for_each_vector_of(Use use) const {
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
        use(std::integral_constant<int, kBytes>{}, place + c * Traits::kTile, bytes);
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
      const auto copy = [&](auto bytes, T* to, uint32_t from) {
        copy_async<decltype(bytes)::value>(to, reinterpret_cast<const char*>(logits) + from);
      };
      for_each_vector(copy, [&] {
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
      });
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
      const auto copy = [&](auto bytes, const T* from, uint32_t to) {
        Vec<T, decltype(bytes)::value / sizeof(T)>::load(from).store(
            reinterpret_cast<T*>(reinterpret_cast<char*>(to_tile) + to));
      };
      for_each_vector(copy, [&] {
        for (int j = 0; j < kPixels; ++j) {
          if (!exists(j)) continue;
          T* to = to_tile + own(j);
          for (int c = 0; c < classes; ++c, to += in.pixels) *to = stage[slots(j, c)];
        }
      });
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

}  // namespace
}  // namespace segfast
