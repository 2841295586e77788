// cells_cuda.cuh: elements of cells in a thread's registers, two 16-bit ones a word (packed.h):
// ReLU, the mask's bits, and neighbours picked from cells that were loaded whole.
#pragma once

#include "common/launch.h"
#include "common/packed.h"
#include "kernels/subpixel_upsample/subpixel_upsample_math.h"

namespace segfast {
namespace {

#if defined(__CUDA_ARCH__)
// A word as CUDA's functions of two 16-bit numbers take it.
template <typename T>
__device__ __forceinline__ auto pair_of(uint32_t word) {
  std::conditional_t<std::is_same_v<T, Half>, __half2, __nv_bfloat162> pair;
  memcpy(&pair, &word, sizeof pair);
  return pair;
}
#endif

// All ones in each half of a word whose number passes ReLU's gradient.
template <typename T>
__device__ __forceinline__ uint32_t passing_halves(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return __hgtu2_mask(pair_of<T>(word), pair_of<T>(0));
#else
  float lower, upper;
  floats_of_word<T>(word, lower, upper);
  return (passes_gradient(lower) ? 0xffffu : 0u) | (passes_gradient(upper) ? 0xffff0000u : 0u);
#endif
}

// ReLU; of -0 either zero, which a blur does not show. NaN stays.
template <typename T>
__device__ __forceinline__ uint32_t positive_part(uint32_t word) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const auto positive = __hmax2_nan(pair_of<T>(word), pair_of<T>(0));
  memcpy(&word, &positive, sizeof word);
  return word;
#else
  return word & passing_halves<T>(word);
#endif
}

template <typename T, int N>
__device__ __forceinline__ Packed<T, N> activated(Packed<T, N> x, bool with_relu) {
  if (with_relu) {
#pragma unroll
    for (auto& word : x.word) {
      if constexpr (sizeof(T) == 2) {
        word = positive_part<T>(word);
      } else {
        word = passes_gradient(word) ? word : T{};
      }
    }
  }
  return x;
}

// A thread's bits of the mask, at most 16. Those of 16-bit elements are collected in both halves of
// a word: the lower element's in the lower half.
template <typename T>
struct PassingBits {
  uint32_t bits = 0;

  // Elements whose bits are `step` apart.
  template <int N>
  __device__ __forceinline__ void add(const Packed<T, N>& x, int first, int step) {
#pragma unroll
    for (int i = 0; i < x.kWords; ++i) {
      if constexpr (sizeof(T) == 2) {
        const uint32_t lower = 1u << (first + 2 * i * step), upper = lower << (16 + step);
        bits |= passing_halves<T>(x.word[i]) & (lower | upper);
      } else {
        bits |= passes_gradient(x.word[i]) ? 1u << (first + i * step) : 0u;
      }
    }
  }

  __device__ __forceinline__ void store(uint8_t* address) const {
    if constexpr (sizeof(T) == 2) {
      __stcs(reinterpret_cast<uint16_t*>(address), static_cast<uint16_t>(bits | bits >> 16));
    } else {
      __stcs(address, static_cast<uint8_t>(bits));
    }
  }
};

template <typename T>
__device__ __forceinline__ Packed<T, 2> packed_pair(T x, T y) {
  if constexpr (sizeof(T) == 2) {
    return {{static_cast<uint32_t>(x.bits) | static_cast<uint32_t>(y.bits) << 16}};
  } else {
    return {{x, y}};
  }
}

// Every other element: the odd ones, or the even ones.
template <typename T, int N>
__device__ __forceinline__ Packed<T, N / 2> odds_of(const Packed<T, N>& x, bool evens) {
  Packed<T, N / 2> result;
#pragma unroll
  for (int i = 0; i < result.kWords; ++i) {
    const auto first = x.word[2 * i], second = x.word[2 * i + 1];
    if constexpr (sizeof(T) == 2) {
      result.word[i] = __byte_perm(first, second, evens ? 0x5410 : 0x7632);
    } else {
      result.word[i] = evens ? first : second;
    }
  }
  return result;
}

// c and d of each cell, or a and b.
template <typename T, int N>
__device__ __forceinline__ Packed<T, N / 2> lower_pairs(const Packed<T, N>& cells, bool upper) {
  Packed<T, N / 2> result;
  constexpr int kPair = Packed<T, 2>::kWords;
#pragma unroll
  for (int i = 0; i < result.kWords; ++i) {
    const int ab = i / kPair * 2 * kPair + i % kPair;
    result.word[i] = upper ? cells.word[ab] : cells.word[ab + kPair];
  }
  return result;
}

}  // namespace
}  // namespace segfast
