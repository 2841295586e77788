// pool_tiles.cuh: the tiles that the GPU kernels of pooling and unpooling give a thread.
#pragma once

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

// How many of a group's windows (or channels) there are, `left` remaining.
template <typename I>
__device__ __forceinline__ int group_size(I left) {
  return left < kGroup ? (left < 0 ? 0 : static_cast<int>(left)) : kGroup;
}

// The part of two rows of the map that a group's 2x2 windows cover.
template <typename T>
struct RowPair {
  static constexpr int kColumns = 2 * kGroup;
  static constexpr int kStep = kVec16<T>;
  static_assert(kColumns % kStep == 0, "whole vectors in a group");
  T at[2][kColumns];

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

// Whether every group of a contiguous map and of its windows is whole and aligned.
template <typename T>
inline bool rows_aligned(const void* map, const void* pooled, const PoolShape& s) {
  return s.width % RowPair<T>::kColumns == 0 && s.pooled_width * 2 == s.width &&
         is_aligned(map, 16) && is_aligned(pooled, kGroup * sizeof(T));
}

// Whether every vector of channels is whole and aligned, in the map, the windows and their record.
template <typename T>
inline bool channels_aligned(const void* map, const void* pooled, const void* record,
                             const PoolShape& s) {
  constexpr int64_t kBytes = kChannelLanes<T> * sizeof(T);
  return s.inner > 1 && s.inner % kChannelLanes<T> == 0 && is_aligned(map, kBytes) &&
         is_aligned(pooled, kBytes) && is_aligned(record, kChannelLanes<T> * sizeof(int64_t));
}

}  // namespace segfast
