// vec.h: a group of neighbouring elements that moves in one access, or, beyond 16 bytes, in
// several.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "common/types.h"

namespace segfast {

template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vec {
  T at[N];

  SEGFAST_HOST_DEVICE static Vec load(const T* address) {
    return *reinterpret_cast<const Vec*>(address);
  }
  // Of what will not be read again before other data have pushed it out of the caches: 2, 4, 8
  // or 16 bytes.
  SEGFAST_HOST_DEVICE static Vec load_streaming(const T* address) {
#if defined(__CUDA_ARCH__)
    constexpr int kBytes = sizeof(T) * N;
    static_assert(kBytes == 2 || kBytes == 4 || kBytes == 8 || kBytes == 16);
    using Wide = std::conditional_t<
        kBytes == 2, unsigned short,
        std::conditional_t<kBytes == 4, unsigned, std::conditional_t<kBytes == 8, uint2, uint4>>>;
    const Wide wide = __ldcs(reinterpret_cast<const Wide*>(address));
    Vec vec;
    memcpy(&vec, &wide, sizeof vec);
    return vec;
#else
    return load(address);
#endif
  }
  SEGFAST_HOST_DEVICE void store(T* address) const { *reinterpret_cast<Vec*>(address) = *this; }
};

// The two 16-bit numbers of a word, each in one operation of a GPU.
template <typename T>
SEGFAST_HOST_DEVICE void floats_of_word(uint32_t word, float& lower, float& upper) {
  if constexpr (std::is_same_v<T, Half>) {
#if defined(__CUDA_ARCH__)
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
    lower = pair.x;
    upper = pair.y;
#else
    lower = to_float(Half{static_cast<uint16_t>(word)});
    upper = to_float(Half{static_cast<uint16_t>(word >> 16)});
#endif
  } else {
    lower = detail::bits_to_float(word << 16);
    upper = detail::bits_to_float(word & 0xffff0000u);
  }
}

// values[i] = vec.at[i].
template <typename T, int N, typename A>
SEGFAST_HOST_DEVICE void floats_of(const Vec<T, N>& vec, A (&values)[N]) {
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    for (int i = 0; i < N; i += 2) {
      uint32_t word;
      memcpy(&word, &vec.at[i], sizeof word);
      floats_of_word<T>(word, values[i], values[i + 1]);
    }
  } else {
    for (int i = 0; i < N; ++i) values[i] = to_float(vec.at[i]);
  }
}

// The larger of each two numbers; of a number and NaN the number. A GPU takes two 16-bit ones in
// one operation.
template <typename T, int N>
SEGFAST_HOST_DEVICE Vec<T, N> max_of(const Vec<T, N>& a, const Vec<T, N>& b) {
  Vec<T, N> larger;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    using Pair = std::conditional_t<std::is_same_v<T, Half>, __half2, __nv_bfloat162>;
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      Pair pairs[2];
      memcpy(&pairs[0], &a.at[i], sizeof(Pair));
      memcpy(&pairs[1], &b.at[i], sizeof(Pair));
      pairs[0] = __hmax2(pairs[0], pairs[1]);
      memcpy(&larger.at[i], &pairs[0], sizeof(Pair));
    }
  } else
#endif
  {
    for (int i = 0; i < N; ++i) {
      if constexpr (std::is_same_v<T, float>) {
        larger.at[i] = fmaxf(a.at[i], b.at[i]);
      } else {
        const auto x = to_float(a.at[i]), y = to_float(b.at[i]);
        larger.at[i] = x >= y || y != y ? a.at[i] : b.at[i];
      }
    }
  }
  return larger;
}

// Rounded to T: of two floats a GPU makes a word of 16-bit numbers in one operation.
template <typename T, int N, typename A>
SEGFAST_HOST_DEVICE Vec<T, N> vec_from_floats(const A (&values)[N]) {
  Vec<T, N> vec;
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      if constexpr (std::is_same_v<T, Half>) {
        const __half2 pair = __floats2half2_rn(values[i], values[i + 1]);
        memcpy(&vec.at[i], &pair, sizeof pair);
      } else {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(values[i], values[i + 1]);
        memcpy(&vec.at[i], &pair, sizeof pair);
      }
    }
  } else
#endif
  {
    for (int i = 0; i < N; ++i) vec.at[i] = from_float<T>(values[i]);
  }
  return vec;
}

// Elements of T in one 16-byte access.
template <typename T>
inline constexpr int kVec16 = 16 / static_cast<int>(sizeof(T));

SEGFAST_HOST_DEVICE bool is_aligned(const void* address, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) == 0;
}

}  // namespace segfast
