// pool_tiles.cuh: the tiles that the GPU kernels of pooling and unpooling give a thread.
#pragma once

#include "common/divider.h"
#include "common/packed.h"
#include "common/types.h"
#include "common/vec.h"
#include "kernels/pool_codes/pool_codes_math.h"

namespace segfast {

inline constexpr int kPoolThreads = 256;

// Windows of one thread along a row: those that share a byte of 2-bit codes.
inline constexpr int kGroup = kCodesPerByte;

// Channels of one thread: 16 bytes, and at least one byte of 2-bit codes.
template <typename T>
inline constexpr int kChannelLanes = kVec16<T> < kCodesPerByte ? kCodesPerByte : kVec16<T>;

// Windows along a row, or channels, of one thread where indices are its record: 16 bytes of them.
//
// A store of a warp must cover whole sectors of 32 bytes: a thread that owned more than 16
// neighbouring bytes of an output would touch each sector in two stores, at half the speed.
inline constexpr int kIndexLanes = 16 / sizeof(int64_t);

// What a thread does of contiguous maps: a group of the windows or cells of row y of a map, all of
// which are [outer, rows, groups]. `row` counts the rows of all maps.
template <typename I>
struct RowItem {
  I row, group, y, outer;
};
template <typename I>
__device__ __forceinline__ RowItem<I> row_item(I item, const Divider<I>& groups,
                                               const Divider<I>& rows) {
  const I row = groups.divide(item), outer = rows.divide(row);
  return {row, groups.remainder(item, row), rows.remainder(row, outer), outer};
}

// The same of channels_last maps: a group of the channels of one of [outer, rows, columns, groups].
template <typename I>
struct PixelItem {
  I pixel, group, x, y, outer;
};
template <typename I>
__device__ __forceinline__ PixelItem<I> pixel_item(I item, const Divider<I>& groups,
                                                   const Divider<I>& columns,
                                                   const Divider<I>& rows) {
  const I pixel = groups.divide(item);
  const auto [row, x, y, outer] = row_item(pixel, columns, rows);
  return {pixel, groups.remainder(item, pixel), x, y, outer};
}

// How many of a group's windows (or channels) there are, `left` remaining.
template <int kSize = kGroup, typename I>
__device__ __forceinline__ int group_size(I left) {
  return left < kSize ? (left < 0 ? 0 : static_cast<int>(left)) : kSize;
}

// The part of two rows of the map that a thread's 2x2 windows cover.
template <typename T, int kWindows>
struct RowPair {
  static constexpr int kColumns = 2 * kWindows;
  static constexpr int kStep = kColumns < kVec16<T> ? kColumns : kVec16<T>;
  static_assert(kColumns % kStep == 0, "whole vectors");
  T at[2][kColumns];

  // Window k holds `value` at `tap` (none: -1), and zeros.
  __device__ __forceinline__ void put(int k, int tap, T value) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (sizeof(T) == 2) {
        const uint32_t word = static_cast<uint32_t>(value.bits) << (tap % 2 != 0 ? 16 : 0);
        const uint32_t shown = tap >> 1 == r ? word : 0;
        memcpy(&at[r][2 * k], &shown, sizeof shown);
      } else {
#pragma unroll
        for (int c = 0; c < 2; ++c) at[r][2 * k + c] = tap == 2 * r + c ? value : T{};
      }
    }
  }

  // `columns` elements of each row can be read; all of them, 16-byte aligned, if kAligned.
  template <bool kAligned, typename I>
  __device__ __forceinline__ void load(const T* upper, const T* lower, I columns) {
    const T* rows[2] = {upper, lower};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (kAligned) {
#pragma unroll
        for (int i = 0; i < kColumns; i += kStep) {
          const auto part = Vec<T, kStep>::load(rows[r] + i);
#pragma unroll
          for (int k = 0; k < kStep; ++k) at[r][i + k] = part.at[k];
        }
      } else {
#pragma unroll
        for (int i = 0; i < kColumns; ++i) at[r][i] = i < columns ? rows[r][i] : T{};
      }
    }
  }

  template <bool kAligned, typename I>
  __device__ __forceinline__ void store(T* upper, I columns, I width, bool has_lower) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (r == 1 && !has_lower) break;
      T* row = upper + r * width;
      if constexpr (kAligned) {
#pragma unroll
        for (int i = 0; i < kColumns; i += kStep) {
          Vec<T, kStep> part;
#pragma unroll
          for (int k = 0; k < kStep; ++k) part.at[k] = at[r][i + k];
          part.store(row + i);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          if (i < columns) row[i] = at[r][i];
        }
      }
    }
  }
};

// Of the 2-bit codes of neighbouring elements, pair i: one bit of each (0: right, 1: lower), spread
// over the element's half of a word.
__device__ __forceinline__ uint32_t pair_mask(uint32_t codes, int i, int bit) {
  const uint32_t apart = codes | codes << 14;  // a pair's bits, 16 from each other
  return (apart >> (4 * i + bit) & 0x10001u) * 0xffffu;
}

// Of neighbouring values those whose 2-bit codes are `tap`, and zeros.
template <typename T, int N>
__device__ __forceinline__ Packed<T, N> values_at_tap(const Packed<T, N>& values, uint32_t codes,
                                                      int tap) {
  Packed<T, N> result;
  if constexpr (Packed<T, N>::kPairs) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      const uint32_t right = pair_mask(codes, i, 0), lower = pair_mask(codes, i, 1);
      result.word[i] = values.word[i] & (tap & 1 ? right : ~right) & (tap & 2 ? lower : ~lower);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      result.word[i] = static_cast<int>(codes >> (2 * i) & 3) == tap ? values.word[i] : T{};
    }
  }
  return result;
}

// Of four neighbours, each of neighbouring values, those that the values' 2-bit codes name.
template <typename T, int N>
__device__ __forceinline__ Packed<T, N> values_of_codes(const Packed<T, N> (&pixels)[4],
                                                        uint32_t codes) {
  Packed<T, N> result;
#pragma unroll
  for (int i = 0; i < Packed<T, N>::kWords; ++i) {
    if constexpr (Packed<T, N>::kPairs) {
      const uint32_t right = pair_mask(codes, i, 0), lower = pair_mask(codes, i, 1);
      const uint32_t a = (pixels[0].word[i] & ~right) | (pixels[1].word[i] & right);
      const uint32_t b = (pixels[2].word[i] & ~right) | (pixels[3].word[i] & right);
      result.word[i] = (a & ~lower) | (b & lower);
    } else {
      const uint32_t code = codes >> (2 * i);
      const T a = code & 1 ? pixels[1].word[i] : pixels[0].word[i];
      const T b = code & 1 ? pixels[3].word[i] : pixels[2].word[i];
      result.word[i] = code & 2 ? b : a;
    }
  }
  return result;
}

// Whether every thread's 2x2 windows of a contiguous map are whole and aligned.
template <typename T, int kWindows>
inline bool rows_aligned(const void* map, const void* pooled, const PoolShape& s) {
  return s.width % (2 * kWindows) == 0 && s.pooled_width * 2 == s.width &&
         is_aligned(map, RowPair<T, kWindows>::kStep * sizeof(T)) &&
         is_aligned(pooled, kWindows * sizeof(T));
}

// Whether all 16 bytes of columns of a contiguous map, and the windows that lie at them, one each
// `stride` columns, are whole and aligned.
template <typename T>
inline bool columns_aligned(const void* map, const void* pooled, const void* record,
                            const PoolShape& s, int stride) {
  return s.width % kVec16<T> == 0 && s.pooled_width * stride == s.width && is_aligned(map, 16) &&
         is_aligned(pooled, 16 / stride) && is_aligned(record, kVec16<T> / stride);
}

// Whether every vector of channels is whole and aligned, in the map, the windows and their record.
template <typename T, int kLanes>
inline bool channels_aligned(const void* map, const void* pooled, const void* record,
                             const PoolShape& s) {
  constexpr int64_t kBytes = kLanes * sizeof(T);
  return s.inner > 1 && s.inner % kLanes == 0 && is_aligned(map, kBytes) &&
         is_aligned(pooled, kBytes) && is_aligned(record, 16);
}

}  // namespace segfast
