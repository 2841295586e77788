// stage.cuh: a tile of channels_last logits in shared memory, [pixel][class] as in global memory,
// which is read and written in order, by neighbouring threads at neighbouring addresses.
//
// A thread takes its pixel's logits in the widest aligned accesses that the number of classes
// allows. Odd numbers of words spread the threads of a warp over the banks, even ones those that an
// access of so many words serves at a time; of 16-bit logits in odd number two threads meet in some
// banks, and several where pixels are 16 words apart. What that costs is less than the instructions
// that find a place between gaps.
#pragma once

#include <type_traits>

#include "common/copy_async.cuh"
#include "common/vec.h"

namespace segfast {

template <typename T>
struct Stage {
  // Copies `count` elements in, by kThreads threads, asynchronously if `vectors`: if they are whole
  // aligned 16 bytes.
  template <int kThreads>
  __device__ __forceinline__ static void load(const T* from, int count, bool vectors, T* stage) {
    const int thread = static_cast<int>(threadIdx.x);
    if (vectors) {
#pragma unroll 4
      for (int i = thread * kVec16<T>; i < count; i += kThreads * kVec16<T>) {
        copy_async<16>(stage + i, from + i);
      }
    } else {
#pragma unroll 8
      for (int i = thread; i < count; i += kThreads) stage[i] = from[i];
    }
  }

  // Copies them out.
  template <int kThreads>
  __device__ __forceinline__ static void store(const T* stage, int count, bool vectors, T* to) {
    const int thread = static_cast<int>(threadIdx.x);
    if (vectors) {
#pragma unroll 4
      for (int i = thread * kVec16<T>; i < count; i += kThreads * kVec16<T>) {
        Vec<T, kVec16<T>>::load(stage + i).store(to + i);
      }
    } else {
#pragma unroll 8
      for (int i = thread; i < count; i += kThreads) to[i] = stage[i];
    }
  }

  // Calls use(k), k a constant: how many logits a thread takes at a time. `classes` is one of
  // kLeast to kMost.
  template <int kLeast, int kMost, int kTogether = kVec16<T>, typename Use>
  __device__ __forceinline__ static void with_together(int classes, Use use) {
    if constexpr (kTogether == 1) {
      use(std::integral_constant<int, 1>{});
    } else {
      if constexpr (kMost / kTogether * kTogether >= kLeast) {
        if (classes % kTogether == 0) return use(std::integral_constant<int, kTogether>{});
      }
      with_together<kLeast, kMost, kTogether / 2>(classes, use);
    }
  }
};

}  // namespace segfast
