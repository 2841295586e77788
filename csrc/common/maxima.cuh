// maxima.cuh: running maxima of several rows of values, and which values they are. The rule says
// which of two values wins, above all between NaNs.
#pragma once

#include <type_traits>

#include "common/launch.h"
#include "common/types.h"
#include "common/vec.h"

namespace segfast {

#if defined(__CUDA_ARCH__)
template <typename T>
using HalfPair = std::conditional_t<std::is_same_v<T, Half>, __half2, __nv_bfloat162>;
#endif

// A Rule has wins(candidate, best), and for two 16-bit numbers in a word, on a GPU, mask(candidate,
// best): all ones in the half of each that wins.
//
// Rows of values, compared number by number: of windows their taps, of pixels their classes.
template <typename T, int N, typename Rule, bool kPacked = sizeof(T) == 2>
class Maxima {
 public:
  __device__ __forceinline__ void start(const Vec<T, N>& first, int number) {
    best_ = first;
#pragma unroll
    for (int k = 0; k < N; ++k) numbers_[k] = number;
  }
  __device__ __forceinline__ void start(const Vec<T, N>& first, const int (&numbers)[N]) {
    best_ = first;
#pragma unroll
    for (int k = 0; k < N; ++k) numbers_[k] = numbers[k];
  }
  // The next value of each row, where it `exists`.
  __device__ __forceinline__ void compete(const Vec<T, N>& candidate, int number,
                                          const bool (&exists)[N]) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (exists[k] && Rule::wins(to_float(candidate.at[k]), to_float(best_.at[k]))) {
        best_.at[k] = candidate.at[k];
        numbers_[k] = number;
      }
    }
  }
  // The maxima of values that come after all of these.
  __device__ __forceinline__ void compete(const Maxima& later) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (Rule::wins(to_float(later.best_.at[k]), to_float(best_.at[k]))) {
        best_.at[k] = later.best_.at[k];
        numbers_[k] = later.numbers_[k];
      }
    }
  }
  // The same maxima, every number greater by `offset`.
  __device__ __forceinline__ Maxima numbered_from(int offset) const {
    Maxima moved = *this;
#pragma unroll
    for (int k = 0; k < N; ++k) moved.numbers_[k] += offset;
    return moved;
  }
  __device__ __forceinline__ Vec<T, N> values() const { return best_; }
  __device__ __forceinline__ int number(int k) const { return numbers_[k]; }
  // The numbers, less than 4, in two bits each, the first lowest.
  __device__ __forceinline__ uint32_t codes() const {
    uint32_t bits = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) bits |= static_cast<uint32_t>(numbers_[k]) << (2 * k);
    return bits;
  }

 private:
  Vec<T, N> best_;
  int numbers_[N];
};

// 16-bit types: two rows in a word, and their numbers, which must be less than 2^15. A pair costs
// the comparisons of one, no conversions, and each choice is one operation on bits.
template <typename T, int N, typename Rule>
class Maxima<T, N, Rule, true> {
 public:
  __device__ __forceinline__ void start(const Vec<T, N>& first, int number) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      best_[w] = word(first, w);
      numbers_[w] = both(number);
    }
  }
  __device__ __forceinline__ void start(const Vec<T, N>& first, const int (&numbers)[N]) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      best_[w] = word(first, w);
      numbers_[w] = static_cast<uint32_t>(numbers[2 * w] | numbers[2 * w + 1] << 16);
    }
  }
  __device__ __forceinline__ void compete(const Vec<T, N>& candidate, int number,
                                          const bool (&exists)[N]) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t value = word(candidate, w);
      const uint32_t halves = (exists[2 * w] ? 0xffffu : 0) | (exists[2 * w + 1] ? 0xffff0000u : 0);
      const uint32_t mask = wins(value, best_[w]) & halves;
      best_[w] = (value & mask) | (best_[w] & ~mask);
      numbers_[w] = (both(number) & mask) | (numbers_[w] & ~mask);
    }
  }
  __device__ __forceinline__ void compete(const Maxima& later) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t mask = wins(later.best_[w], best_[w]);
      best_[w] = (later.best_[w] & mask) | (best_[w] & ~mask);
      numbers_[w] = (later.numbers_[w] & mask) | (numbers_[w] & ~mask);
    }
  }
  __device__ __forceinline__ Maxima numbered_from(int offset) const {
    Maxima moved = *this;
#pragma unroll
    for (int w = 0; w < kWords; ++w) moved.numbers_[w] += both(offset);
    return moved;
  }
  __device__ __forceinline__ Vec<T, N> values() const {
    Vec<T, N> values;
#pragma unroll
    for (int k = 0; k < N; ++k) values.at[k] = T{half(best_, k)};
    return values;
  }
  __device__ __forceinline__ int number(int k) const {
    return static_cast<int16_t>(half(numbers_, k));
  }
  __device__ __forceinline__ uint32_t codes() const {
    static_assert(N <= 8);
    uint32_t bits = 0;  // of even windows in the lower half, of odd ones in the upper
#pragma unroll
    for (int w = 0; w < kWords; ++w) bits |= numbers_[w] << (4 * w);
    return (bits | bits >> 14) & 0xffffu;
  }

 private:
  static_assert(N % 2 == 0);
  static constexpr int kWords = N / 2;

  __device__ __forceinline__ static uint32_t word(const Vec<T, N>& values, int w) {
    return values.at[2 * w].bits | static_cast<uint32_t>(values.at[2 * w + 1].bits) << 16;
  }
  __device__ __forceinline__ static uint32_t wins(uint32_t candidate, uint32_t best) {
#if defined(__CUDA_ARCH__)
    return Rule::mask(*reinterpret_cast<const HalfPair<T>*>(&candidate),
                      *reinterpret_cast<const HalfPair<T>*>(&best));
#else
    uint32_t mask = 0;
    for (int shift = 0; shift < 32; shift += 16) {
      const T a{static_cast<uint16_t>(candidate >> shift)}, b{static_cast<uint16_t>(best >> shift)};
      if (Rule::wins(to_float(a), to_float(b))) mask |= 0xffffu << shift;
    }
    return mask;
#endif
  }
  __device__ __forceinline__ static uint32_t both(int half) {
    return static_cast<uint32_t>(half & 0xffff) * 0x10001u;
  }
  __device__ __forceinline__ static uint16_t half(const uint32_t (&words)[kWords], int k) {
    return static_cast<uint16_t>(words[k / 2] >> (k % 2 * 16));
  }

  uint32_t best_[kWords];
  uint32_t numbers_[kWords];
};

}  // namespace segfast
