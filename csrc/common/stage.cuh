// stage.cuh: a tile of channels_last logits in shared memory, [pixel][class] with a word left out
// after every 32, so that threads that read pixels C elements apart spread over the banks. Global
// memory is read and written in order, by neighbouring threads at neighbouring addresses.
#pragma once

#include <cstring>

#include "common/launch.h"
#include "common/vec.h"

namespace segfast {

template <typename T>
struct Stage {
  // Elements left out, a word's or one that is larger, and between two of them.
  static constexpr int kWord = sizeof(T) < 4 ? 4 / static_cast<int>(sizeof(T)) : 1;
  static constexpr int kRun = 32 * kWord;

  // Room for `elements`, in elements.
  SEGFAST_HOST_DEVICE static constexpr int room(int elements) { return elements + (elements / kRun + 1) * kWord; }

  // Where an element of the tile stands.
  __device__ static constexpr int at(int element) { return element + element / kRun * kWord; }

  // Brings `count` elements in by kThreads threads; `vectors`: they are whole aligned 16 bytes.
  template <int kThreads>
  __device__ __forceinline__ static void load(const T* from, int count, bool vectors, T* stage) {
    if (vectors) {
#pragma unroll 4
      for (int i = static_cast<int>(threadIdx.x) * kVec16<T>; i < count; i += kThreads * kVec16<T>) {
        const auto vector = Vec<T, kVec16<T>>::load_streaming(from + i);
        Words words;
        memcpy(&words, &vector, sizeof(words));
        Word* to = word(stage, i);
#pragma unroll
        for (int k = 0; k < kWords; ++k) to[k] = words.at[k];
      }
    } else {
#pragma unroll 8
      for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) stage[at(i)] = from[i];
    }
  }

  // The mirror of load().
  template <int kThreads>
  __device__ __forceinline__ static void store(const T* stage, int count, bool vectors, T* to) {
    if (vectors) {
#pragma unroll 4
      for (int i = static_cast<int>(threadIdx.x) * kVec16<T>; i < count; i += kThreads * kVec16<T>) {
        const Word* from = word(stage, i);
        Words words;
#pragma unroll
        for (int k = 0; k < kWords; ++k) words.at[k] = from[k];
        Vec<T, kVec16<T>> vector;
        memcpy(&vector, &words, sizeof(words));
        vector.store(to + i);
      }
    } else {
#pragma unroll 8
      for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) to[i] = stage[at(i)];
    }
  }

 private:
  // No gap divides one of these: 4 bytes, or a double's 8.
  using Bits = std::conditional_t<(sizeof(T) > 4), uint64_t, uint32_t>;
  typedef Bits __attribute__((may_alias)) Word;
  static constexpr int kWords = 16 / static_cast<int>(sizeof(Bits));
  struct Words {
    Bits at[kWords];
  };

  template <typename Pointer>
  __device__ __forceinline__ static auto word(Pointer* stage, int element) {
    using To = std::conditional_t<std::is_const_v<Pointer>, const Word, Word>;
    return reinterpret_cast<To*>(stage + at(element));
  }
};

}  // namespace segfast
