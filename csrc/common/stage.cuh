// stage.cuh: a tile of channels_last logits in shared memory, [pixel][class] with a word left out
// after every 32, so that threads that read pixels C elements apart spread over the banks. Global
// memory is read and written in order, by neighbouring threads at neighbouring addresses.
#pragma once

#include <cstring>

#include "common/copy_async.cuh"
#include "common/vec.h"

namespace segfast {

template <typename T>
struct Stage {
  // Elements left out, a word's or one that is larger, and between two of them.
  static constexpr int kWord = sizeof(T) < 4 ? 4 / static_cast<int>(sizeof(T)) : 1;
  static constexpr int kRun = 32 * kWord;

  // Room for `elements`, in elements.
  SEGFAST_HOST_DEVICE static constexpr int room(int elements) {
    return elements + (elements / kRun + 1) * kWord;
  }

  // Where an element of the tile stands.
  __device__ static constexpr int at(int element) { return element + element / kRun * kWord; }

  // Copies `count` elements in, by kThreads threads, asynchronously if `vectors`: if they are whole
  // aligned 16 bytes.
  template <int kThreads>
  __device__ __forceinline__ static void load(const T* from, int count, bool vectors, T* stage) {
    const int thread = static_cast<int>(threadIdx.x);
    if (vectors) {
      constexpr int kElements = sizeof(Bits) / sizeof(T);
#pragma unroll 8
      for (int i = thread * kElements; i < count; i += kThreads * kElements) {
        copy_async<sizeof(Bits)>(stage + at(i), from + i);
      }
    } else {
#pragma unroll 8
      for (int i = thread; i < count; i += kThreads) stage[at(i)] = from[i];
    }
  }

  // Copies them out.
  template <int kThreads>
  __device__ __forceinline__ static void store(const T* stage, int count, bool vectors, T* to) {
    const int thread = static_cast<int>(threadIdx.x);
    if (vectors) {
#pragma unroll 4
      for (int i = thread * kVec16<T>; i < count; i += kThreads * kVec16<T>) {
        const auto* from = reinterpret_cast<const Word*>(stage + at(i));
        Bits words[16 / sizeof(Bits)];
#pragma unroll
        for (size_t k = 0; k < 16 / sizeof(Bits); ++k) words[k] = from[k];
        Vec<T, kVec16<T>> vector;
        memcpy(&vector, words, sizeof(words));
        vector.store(to + i);
      }
    } else {
#pragma unroll 8
      for (int i = thread; i < count; i += kThreads) to[i] = stage[at(i)];
    }
  }

 private:
  // What no gap divides: 4 bytes, or a double's 8.
  using Bits = std::conditional_t<(sizeof(T) > 4), uint64_t, uint32_t>;
  typedef Bits __attribute__((may_alias)) Word;
};

}  // namespace segfast
