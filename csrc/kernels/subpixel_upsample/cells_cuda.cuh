// cells_cuda.cuh: the cells of one thread of the kernels for factor 2: where they lie in the map,
// and how its registers hold them, 16-bit elements two a word (packed.h): ReLU, the mask's bits,
// and neighbours picked from cells that were loaded whole.
#pragma once

#include "common/divider.h"
#include "common/launch.h"
#include "common/packed.h"
#include "common/scalar_math.h"
#include "kernels/pixel_shuffle/pixel_shuffle_math.h"
#include "kernels/subpixel_upsample/subpixel_upsample_math.h"

#define SEGFAST_FORMULAS fused
#define SEGFAST_FORMULA SEGFAST_HOST_DEVICE
#include "kernels/subpixel_upsample/blur_fused_math.h"

namespace segfast {
namespace {

constexpr int kThreads = 256;

template <typename I>
__device__ __forceinline__ I thread_item() {
  return static_cast<I>(blockIdx.x) * kThreads + static_cast<I>(threadIdx.x);
}

// ---- where they lie

// Offsets need I; items are counted in 32 bits.
template <typename T, typename I>
struct CellParams {
  const T* source;      // input, or grad_output
  T* destination;       // output, or grad_input
  uint8_t* write_mask;  // forward, or nullptr
  const uint8_t* mask;  // backward, or nullptr
  I channels, height, width;
  Divider<int32_t> group;   // groups of kCells in a row (contiguous) or in a pixel (channels_last)
  Divider<int32_t> pixels;  // of a row: channels_last alone
  Divider<int32_t> strips;  // groups of kRows rows in a map
  int32_t items;
  bool relu, blur;
};

// Cells side by side of one thread.
template <typename T>
constexpr int kUpsampleCells = sizeof(T) >= 4 ? 2 : 4;  // whole bytes of the mask: 4 bits a cell
// Blocks in a multiprocessor, so that loads and arithmetic of different ones overlap: 64 registers
// a thread suffice for types and offsets of up to 32 bits.
template <typename T, typename I>
constexpr int kBlocks = sizeof(T) < 8 && sizeof(I) == 4 ? 4 : 1;

// The cells of one thread: kCells side by side, in kRows rows.
template <bool kChannelsLast, int kCells, int kRows>
struct Place {
  int32_t b, h, w, c;
  int32_t rows;  // of the map, from h on

  template <typename P>
  __device__ __forceinline__ Place(const P& p, int32_t item) {
    const int32_t rest = p.group.divide(item);
    const int32_t first = p.group.remainder(item, rest) * kCells;
    const int32_t strip = kChannelsLast ? p.pixels.divide(rest) : rest;
    w = kChannelsLast ? p.pixels.remainder(rest, strip) : first;
    c = kChannelsLast ? first : 0;
    b = p.strips.divide(strip);
    h = p.strips.remainder(strip, b) * kRows;
    rows = static_cast<int32_t>(p.height) - h;
  }
  __device__ __forceinline__ bool has_row(int k) const { return k == 0 || k < rows; }
  // Of the k-th row; beyond the map, of the first.
  template <typename I>
  __device__ __forceinline__ I row_offset(int k, I length) const {
    return has_row(k) ? k * length : I{0};
  }

  // Of the first cell: its place in either tensor, and its number, which counts fours of the mask's
  // bits.
  template <typename T, typename I>
  __device__ __forceinline__ I coarse(const CellParams<T, I>& p) const {
    return shape(p).coarse(b, h, w, c, 0, 0);
  }
  template <typename T, typename I>
  __device__ __forceinline__ I fine(const CellParams<T, I>& p) const {
    return shape(p).fine((b * p.height + h) * 2, I{w} * 2, c);
  }
  template <typename T, typename I>
  __device__ __forceinline__ I number(const CellParams<T, I>& p) const {
    return ((b * p.height + h) * p.width + w) * shape(p).channels + c;
  }

 private:
  template <typename T, typename I>
  __device__ __forceinline__ static ShuffleShape<I> shape(const CellParams<T, I>& p) {
    return {kChannelsLast ? p.channels : I{1}, p.height, p.width, 2, kChannelsLast};
  }
};

// ---- in registers

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
