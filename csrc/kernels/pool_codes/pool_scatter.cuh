// pool_scatter.cuh: windows' values sent to the positions that their records name, in gather form:
// each element of the map is written once, by the thread that looks for it. No zero-fill, no
// atomics, one order. Pool backward adds up where windows overlap; unpooling lets the last window
// stay.
//
// rows:     2x2 windows of contiguous maps: 16 bytes of two rows a thread.
// channels: 2x2 windows of channels_last maps: 16 bytes of channels of one window, four pixels; two
//           channels where indices, of 16 bytes then, are the record.
// known:    windows of known_window.h and their codes8, for sums: a thread looks through the
//           windows that see its pixels, each loaded once. Contiguous maps: 16 bytes of two rows,
//           or of rows that are not aligned a column of cells; channels_last: 16 bytes of channels
//           of four pixels.
// any:      any window: a thread looks through the windows that hold its element.
//
// A thread asks for all that it reads before it looks at any of it: the compiler for the GPU keeps
// that order where what is read stays in whole words (packed.h), and waits where elements of 16
// bits are taken apart or zeros filled in one by one.
//
// On an H200, maps [16, 64, 360, 480], us in bfloat16 / float32, contiguous and channels_last:
//   2x2 backward     120 / 373 and 116 / 224 -> 119 / 224 and 121 / 223  whole sectors a store
//   3x3/s2 backward 1312 / 1336 and 288 / 514 -> 149 / 270 and 145 / 230  `known`
//   3x3/s1 backward  5316 / 5168 and 1146 / 1687 -> 476 / 601 and 362 / 483  `known`
// 3x3/s1 in bfloat16 moves at 44 and 58 % of a copy: nine comparisons and sums an element.
//
// Since then, not measured:
// - `any` took 8 ms where PyTorch takes 4 (3x3/s1 of dilation 2 and padding 1, contiguous). That
//   window is `known` now, by columns (predicted.md), and `any` divides once a thread, no longer
//   twice a window.
// - loads under way at once: 2x2 waited for the values before it asked for the codes, 3x3/s2 in
//   channels_last three times over. Instructions of a thread in bfloat16 (sm_90), contiguous and
//   channels_last: 2x2 163 -> 122 and 226 -> 157, 3x3/s2 223 -> 202 and 466 -> 387, 3x3/s1, of 8
//   elements 413 -> of 16 568, and 1442 -> 1247. 3x3/s2, contiguous, has 2048 threads resident
//   (1536 before).
#pragma once

#include <numeric>

#include "common/dispatch.h"
#include "common/divider.h"
#include "common/launch.h"
#include "common/packed.h"
#include "kernels/pool_codes/known_window.h"
#include "kernels/pool_codes/pool_scatter.h"
#include "kernels/pool_codes/pool_tiles.cuh"

namespace segfast {

struct PoolScatter {
  const void* values;  // [outer, pooled_height, pooled_width, inner]
  const void* record;
  void* map;         // [outer, height, width, inner]
  int32_t* foreign;  // set to 1 where a 2x2 window's index lies outside it; null to leave it out
  Record record_kind;
  PoolShape shape;
  Window2d window;
};

namespace scatter_detail {

// Any window along one axis. Of the windows that see a position, every `step`-th does, by a tap
// that is `tap_step` less: no division for each of them.
template <typename I>
struct WindowAxis {
  Divider<I> stride, dilation;
  int kernel, pad;
  int step, tap_step;

  WindowAxis(int kernel, int stride, int pad, int dilation)
      : stride(stride),
        dilation(dilation),
        kernel(kernel),
        pad(pad),
        step(dilation / std::gcd(stride, dilation)),
        tap_step(stride / std::gcd(stride, dilation)) {}

  struct Windows {
    I first, end;
    int tap = 0;  // by which the first one sees the position
  };
  __device__ __forceinline__ Windows that_see(I x, I count) const {
    const I reach = x + pad, lowest = reach - dilation.divisor * (kernel - 1);
    const I last = stride.divide(reach);
    Windows windows;
    windows.end = last + 1 < count ? last + 1 : count;
    windows.first = lowest <= 0 ? I{0} : stride.divide(lowest + stride.divisor - 1);
    // The position may lie between two taps of a dilated window.
    for (; windows.first < windows.end; ++windows.first) {
      const I distance = reach - windows.first * stride.divisor, tap = dilation.divide(distance);
      windows.tap = static_cast<int>(tap);
      if (dilation.remainder(distance, tap) == 0) break;
    }
    return windows;
  }
};

template <typename I>
struct ScatterParams {
  PoolScatter op;
  WindowAxis<I> axis_h, axis_w;
  Divider<I> groups;            // of columns (rows) or of channels
  Divider<I> cells_w, cells_h;  // 2x2 cells (rows, channels) or elements (any) of a plane
  int64_t items;
};

// Cells along each axis of a thread's patch of channels_last maps; rows of cells of a thread that
// takes 16 bytes of each, and cells of one that takes a single column of them: where windows
// overlap at every pixel, more.
template <typename W>
inline constexpr int kKnownCells = W::kStride == 1 ? 2 : 1;
template <typename W>
inline constexpr int kRowCells = W::kStride == 1 ? 2 : 1;
template <typename W>
inline constexpr int kColumnCells = W::kStride == 1 ? 8 : 4;

// Which of a 2x2 window's positions an index names, by its distance from the first one; -1 for
// none.
template <typename I>
__device__ __forceinline__ int tap_2x2(int64_t distance, I width, bool has_right, bool has_lower) {
  if (distance == 0) return 0;
  if (has_right && distance == 1) return 1;
  if (has_lower && distance == width) return 2;
  if (has_lower && has_right && distance == width + 1) return 3;
  return -1;
}

// Codes of unpooling may come from anywhere; those of a backward pass are the forward pass's. A
// thread's codes at once: `beyond` are the bits that name a column or a row outside the map.
template <Combine kCombine>
__device__ __forceinline__ void check_codes_2x2(uint32_t codes, uint32_t beyond) {
  if constexpr (kCombine == Combine::last) {
    SEGFAST_DEVICE_CHECK((codes & beyond) == 0,
                         "Found an invalid max index: a code names a position outside the map");
  }
}

constexpr uint32_t kRightBits = 0x5555u, kLowerBits = 0xaaaau;  // of eight codes

// Windows of a thread: 16 bytes of each row of the map, or where they are not aligned one, so that
// a warp still stores whole sectors. Two or four threads may share a byte of codes.
template <typename T, bool kAligned>
inline constexpr int kRowWindows = kAligned ? kVec16<T> / 2 : 1;

template <typename T, typename I, Combine kCombine, bool kAligned>
__global__ void __launch_bounds__(kPoolThreads) scatter_rows_kernel(const ScatterParams<I> p) {
  constexpr int kWindows = kRowWindows<T, kAligned>;
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const I pooled_height = static_cast<I>(s.pooled_height);
  const auto [row, group, oh, plane] = row_item(item, p.groups, p.cells_h);
  const I ow = group * kWindows;
  const bool has_lower = 2 * oh + 1 < height;
  const int n = oh < pooled_height ? group_size<kWindows>(pooled_width - ow) : 0;
  const I window_row = plane * pooled_height + oh;
  const T* first = static_cast<const T*>(p.op.values) + window_row * pooled_width + ow;

  // The record is asked for before the values: what is done with these first would hold it up.
  Packed<T, kWindows> values{};
  int taps[kWindows];
#pragma unroll
  for (int k = 0; k < kWindows; ++k) taps[k] = -1;
  if (n > 0 && p.op.record_kind == Record::codes2) {
    const I run_bytes = ceil_div<I>(pooled_width, kCodesPerByte);
    const uint32_t byte = __ldcs(static_cast<const uint8_t*>(p.op.record) + window_row * run_bytes +
                                 ow / kCodesPerByte);
    values = Packed<T, kWindows>::load(first);
    const uint32_t own = byte >> (2 * static_cast<int>(ow % kCodesPerByte));
    uint32_t beyond = has_lower ? 0 : kLowerBits;
#pragma unroll
    for (int k = 0; k < kWindows; ++k) {
      if (!kAligned && 2 * (ow + k) + 1 >= width) beyond |= 1u << (2 * k);
      taps[k] = static_cast<int>(own >> (2 * k)) & 3;
    }
    check_codes_2x2<kCombine>(own & ((1u << (2 * n)) - 1), beyond);
  } else if (n > 0) {
    int64_t indices[kWindows];
#pragma unroll
    for (int k = 0; k < kWindows; ++k) {
      indices[k] = static_cast<const int64_t*>(p.op.record)[window_row * pooled_width + ow + k];
    }
    values = Packed<T, kWindows>::load(first);
    bool foreign = false;
#pragma unroll
    for (int k = 0; k < kWindows; ++k) {
      const int64_t origin = int64_t{2 * oh} * width + 2 * (ow + k);
      taps[k] = tap_2x2(indices[k] - origin, width, 2 * (ow + k) + 1 < width, has_lower);
      foreign |= taps[k] < 0;
    }
    if (foreign && p.op.foreign != nullptr) *p.op.foreign = 1;
  }

  RowPair<T, kWindows> pair;
#pragma unroll
  for (int k = 0; k < kWindows; ++k) pair.put(k, taps[k], values.at(k));
  T* upper = static_cast<T*>(p.op.map) + (plane * height + 2 * oh) * width + 2 * ow;
  pair.template store<kAligned>(upper, width - 2 * ow, width, has_lower);
}

template <typename T, typename I, Combine kCombine, int kLanes>
__global__ void __launch_bounds__(kPoolThreads) scatter_channels_kernel(const ScatterParams<I> p) {
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I inner = static_cast<I>(s.inner);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const I pooled_height = static_cast<I>(s.pooled_height);
  const auto [cell, group, ow, oh, outer] = pixel_item(item, p.groups, p.cells_w, p.cells_h);
  const I channel = group * kLanes;
  const bool has_lower = 2 * oh + 1 < height, has_right = 2 * ow + 1 < width;

  // 2-bit codes; a channel whose record names none of the four pixels has 0 as its value.
  uint32_t own = 0;
  Packed<T, kLanes> held{};
  if (oh < pooled_height && ow < pooled_width) {
    const I window = (outer * pooled_height + oh) * pooled_width + ow;
    const T* values = static_cast<const T*>(p.op.values) + window * inner + channel;
    if (kLanes != kIndexLanes && p.op.record_kind == Record::codes2) {
      const I run_bytes = ceil_div<I>(inner, kCodesPerByte);
      const uint8_t* codes = static_cast<const uint8_t*>(p.op.record) + window * run_bytes;
      const uint8_t* first = codes + channel / kCodesPerByte;
      own = kLanes > kCodesPerByte ? *reinterpret_cast<const uint16_t*>(first) : uint32_t{*first};
      held = Packed<T, kLanes>::load(values);
      if (kLanes == 1) own = own >> (2 * (channel % kCodesPerByte)) & 3u;
      check_codes_2x2<kCombine>(own, (has_right ? 0 : kRightBits) | (has_lower ? 0 : kLowerBits));
    } else if constexpr (kLanes <= kIndexLanes) {
      const auto indices = Vec<int64_t, kLanes>::load(static_cast<const int64_t*>(p.op.record) +
                                                      window * inner + channel);
      held = Packed<T, kLanes>::load(values);
      const int64_t origin = int64_t{2 * oh} * width + 2 * ow;
      bool foreign = false;
#pragma unroll
      for (int c = 0; c < kLanes; ++c) {
        const int tap = tap_2x2(indices.at[c] - origin, width, has_right, has_lower);
        if (tap < 0) {
          foreign = true;
          held.clear(c);
        } else {
          own |= static_cast<uint32_t>(tap) << (2 * c);
        }
      }
      if (foreign && p.op.foreign != nullptr) *p.op.foreign = 1;
    }
  }

  T* first =
      static_cast<T*>(p.op.map) + ((outer * height + 2 * oh) * width + 2 * ow) * inner + channel;
#pragma unroll
  for (int tap = 0; tap < 4; ++tap) {
    if ((tap & 1 && !has_right) || (tap & 2 && !has_lower)) continue;
    values_at_tap(held, own, tap).store(first + ((tap >> 1) * width + (tap & 1)) * inner);
  }
}

// The element being put together: a sum in float (or double), or the value that stays.
template <typename T, Combine kCombine>
struct Held {
  accumulate_t<T> sum = 0;
  __device__ __forceinline__ void take(T value) { sum += to_float(value); }
  __device__ __forceinline__ T result() const { return from_float<T>(sum); }
};
template <typename T>
struct Held<T, Combine::last> {
  T value{};
  __device__ __forceinline__ void take(T next) { value = next; }
  __device__ __forceinline__ T result() const { return value; }
};

// Codes that name no position of the map would never be looked for; unpooling must not overlook
// them.
template <typename I>
__device__ void check_codes(const ScatterParams<I>& p, int64_t item) {
  const PoolShape& s = p.op.shape;
  const Window2d& w = p.op.window;
  for (int64_t i = item; i < s.pooled_numel(); i += p.items) {
    const int code = static_cast<const uint8_t*>(p.op.record)[i];
    const int64_t window = i / s.inner;
    const int64_t ow = window % s.pooled_width;
    const int64_t oh = window / s.pooled_width % s.pooled_height;
    SEGFAST_DEVICE_CHECK(code < w.taps() && tap_position(w, s, oh, ow, code) >= 0,
                         "Found an invalid max index: a code names a position outside the map");
  }
}

template <typename T, typename I, Combine kCombine, int kLanes>
__global__ void __launch_bounds__(kPoolThreads) scatter_any_kernel(const ScatterParams<I> p) {
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const int kernel_w = p.op.window.kernel_w;
  const I width = static_cast<I>(s.width);
  const I inner = static_cast<I>(s.inner);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const I pooled_height = static_cast<I>(s.pooled_height);
  const bool is_codes = p.op.record_kind == Record::codes8;
  if (kCombine == Combine::last && is_codes) check_codes(p, item64);
  const auto [pixel, group, x, y, outer] = pixel_item(item, p.groups, p.cells_w, p.cells_h);
  const I channel = group * kLanes;

  Held<T, kCombine> held[kLanes];
  const auto rows = p.axis_h.that_see(y, pooled_height);
  const auto columns = p.axis_w.that_see(x, pooled_width);
  int kh = rows.tap;
  for (I oh = rows.first; oh < rows.end; oh += p.axis_h.step, kh -= p.axis_h.tap_step) {
    int kw = columns.tap;
#pragma unroll 4
    for (I ow = columns.first; ow < columns.end; ow += p.axis_w.step, kw -= p.axis_w.tap_step) {
      const I place = ((outer * pooled_height + oh) * pooled_width + ow) * inner + channel;
      const auto values = Vec<T, kLanes>::load(static_cast<const T*>(p.op.values) + place);
      if (kLanes != kIndexLanes && is_codes) {
        const auto codes =
            Vec<uint8_t, kLanes>::load(static_cast<const uint8_t*>(p.op.record) + place);
        const int tap = kh * kernel_w + kw;
#pragma unroll
        for (int c = 0; c < kLanes; ++c) {
          if (codes.at[c] == tap) held[c].take(values.at[c]);
        }
      } else if constexpr (kLanes <= kIndexLanes) {
        const auto indices =
            Vec<int64_t, kLanes>::load(static_cast<const int64_t*>(p.op.record) + place);
        const int64_t position = int64_t{y} * width + x;
#pragma unroll
        for (int c = 0; c < kLanes; ++c) {
          if (indices.at[c] == position) held[c].take(values.at[c]);
        }
      }
    }
  }
  Vec<T, kLanes> result;
#pragma unroll
  for (int c = 0; c < kLanes; ++c) result.at[c] = held[c].result();
  result.store(static_cast<T*>(p.op.map) + pixel * inner + channel);
}

// Sums of a known window's codes8, contiguous maps: 16 bytes of each row of one or two rows of
// cells.
template <typename T, typename I, typename W>
__global__ void __launch_bounds__(kPoolThreads)
    scatter_known_rows_kernel(const ScatterParams<I> p) {
  using A = accumulate_t<T>;
  using Dense = typename W::Dense;
  constexpr int kStride = W::kStride, kBefore = W::kBefore, kCells = kRowCells<W>;
  constexpr int kColumns = kVec16<T>, kWindows = kColumns / kStride;
  constexpr int kPixels = kCells * kStride;                       // of a column
  constexpr int kRows = Dense::kBefore + kCells + Dense::kAfter;  // of windows
  constexpr int kSpan = W::kBefore + kWindows + W::kAfter;
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const I pooled_height = static_cast<I>(s.pooled_height);
  const RowItem<I> own = row_item(item, p.groups, p.cells_h);
  const I plane = own.outer, cell_y = W::first_of(own.y, kCells);
  const I first = own.group * kWindows - kBefore;                    // window of the span
  const I top = cell_y + W::kShift - Dense::kBefore * W::kDilation;  // row of windows
  if (cell_y * kStride >= height) return;

  // Windows that do not exist are zeros, which add nothing.
  using CodeWord = std::conditional_t<kWindows % 4 == 0, uint32_t, uint8_t>;
  constexpr int kCodesPerWord = sizeof(CodeWord);
  using Codes = Packed<CodeWord, kWindows / kCodesPerWord>;
  Packed<T, kWindows> values[kRows];
  Codes codes[kRows];
  T beside[kRows][kSpan];
  uint8_t codes_beside[kRows][kSpan];
#pragma unroll
  for (int h = 0; h < kRows; ++h) {
    const I oh = top + h * W::kDilation;
    const bool exists = oh >= 0 && oh < pooled_height;
    const I at = (plane * pooled_height + oh) * pooled_width + first;
    const T* row_values = static_cast<const T*>(p.op.values) + at;
    const uint8_t* row_codes = static_cast<const uint8_t*>(p.op.record) + at;
    values[h] = Packed<T, kWindows>::load_if(exists, row_values + kBefore);
    codes[h] = Codes::load_if(exists, reinterpret_cast<const CodeWord*>(row_codes + kBefore));
#pragma unroll
    for (int k = 0; k < kSpan; ++k) {
      if (k >= kBefore && k < kBefore + kWindows) continue;
      const bool is_there = exists && first + k >= 0 && first + k < pooled_width;
      beside[h][k] = is_there ? row_values[k] : T{};
      codes_beside[h][k] = is_there ? row_codes[k] : 0;
    }
  }

  A sums[kPixels][kColumns];
#pragma unroll
  for (int r = 0; r < kPixels; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) sums[r][c] = 0;
  }
#pragma unroll
  for (int h = 0; h < kRows; ++h) {
    A body[kWindows];
    values[h].floats(body);
#pragma unroll
    for (int k = 0; k < kSpan; ++k) {
      const bool is_beside = k < kBefore || k >= kBefore + kWindows;
      const int i = is_beside ? 0 : k - kBefore;
      const A value = is_beside ? to_float(beside[h][k]) : body[i];
      const uint32_t code =
          is_beside ? codes_beside[h][k]
                    : codes[h].word[i / kCodesPerWord] >> (8 * (i % kCodesPerWord)) & 0xffu;
#pragma unroll
      for (int r = 0; r < kPixels; ++r) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int kh = Dense::tap(r, h - Dense::kBefore), kw = W::tap(c, k - kBefore);
          if (kh >= 0 && kw >= 0 && code == static_cast<uint32_t>(kh * W::kKernel + kw))
            sums[r][c] += value;
        }
      }
    }
  }

  const I x = own.group * kColumns;
#pragma unroll
  for (int r = 0; r < kPixels; ++r) {
    const I y = cell_y * kStride + r * W::kDilation;
    if (y >= height) break;
    vec_from_floats<T, kColumns>(sums[r]).store(static_cast<T*>(p.op.map) +
                                                (plane * height + y) * width + x);
  }
}

// The same whatever the width: neighbouring threads take neighbouring cells, each a column of them,
// whose windows' values and codes it reads once.
// (Four blocks on a multiprocessor: without a number ptxas takes fewer registers on sm_120, and
// spills.)
template <typename T, typename I, typename W>
__global__ void __launch_bounds__(kPoolThreads, 4)
    scatter_known_columns_kernel(const ScatterParams<I> p) {
  using A = accumulate_t<T>;
  using Dense = typename W::Dense;
  constexpr int kStride = W::kStride, kBefore = W::kBefore;
  constexpr int kCells = kColumnCells<W>, kPixels = kCells * kStride;  // of a column
  constexpr int kRows = Dense::kBefore + kCells + Dense::kAfter;       // of windows
  constexpr int kSpan = W::kBefore + 1 + W::kAfter;
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const I pooled_height = static_cast<I>(s.pooled_height);
  const RowItem<I> own = row_item(item, p.groups, p.cells_h);
  const I plane = own.outer, cell_x = own.group, cell_y = W::first_of(own.y, kCells);
  const I first = cell_x - kBefore;                                  // window of the span
  const I top = cell_y + W::kShift - Dense::kBefore * W::kDilation;  // row of windows
  if (cell_y * kStride >= height) return;

  bool exists[kSpan];
#pragma unroll
  for (int k = 0; k < kSpan; ++k) exists[k] = first + k >= 0 && first + k < pooled_width;
  A sums[kPixels][kStride];
#pragma unroll
  for (int r = 0; r < kPixels; ++r) {
#pragma unroll
    for (int c = 0; c < kStride; ++c) sums[r][c] = 0;
  }
  // inside: all rows of windows are there. Of those that are not others are read, to no effect.
  const auto look = [&](auto inside) {
#pragma unroll
    for (int h = 0; h < kRows; ++h) {
      I oh = top + h * W::kDilation;
      bool row_exists = true;
      if (!decltype(inside)::value) {
        row_exists = oh >= 0 && oh < pooled_height;
        oh = oh < 0 ? 0 : oh < pooled_height ? oh : pooled_height - 1;
      }
      const I at = (plane * pooled_height + oh) * pooled_width + first;
#pragma unroll
      for (int k = 0; k < kSpan; ++k) {
        if (!W::sees(kStride, k - kBefore)) continue;
        A value = 0;
        int code = kEmptyCode;
        if (exists[k] && row_exists) {
          value = to_float(static_cast<const T*>(p.op.values)[at + k]);
          code = static_cast<const uint8_t*>(p.op.record)[at + k];
        }
#pragma unroll
        for (int r = 0; r < kPixels; ++r) {
#pragma unroll
          for (int c = 0; c < kStride; ++c) {
            const int kh = Dense::tap(r, h - Dense::kBefore), kw = W::tap(c, k - kBefore);
            if (kh >= 0 && kw >= 0 && code == kh * W::kKernel + kw) sums[r][c] += value;
          }
        }
      }
    }
  };
  const bool all_inside = top >= 0 && top + (kRows - 1) * W::kDilation < pooled_height;
  all_inside ? look(std::true_type{}) : look(std::false_type{});

#pragma unroll
  for (int r = 0; r < kPixels; ++r) {
    const I y = cell_y * kStride + r * W::kDilation;
    if (y >= height) break;
#pragma unroll
    for (int c = 0; c < kStride; ++c) {
      const I x = cell_x * kStride + c;
      if (x < width) {
        static_cast<T*>(p.op.map)[(plane * height + y) * width + x] = from_float<T>(sums[r][c]);
      }
    }
  }
}

// The same of channels_last maps: 16 bytes of channels of neighbouring cells, so that a window's
// values and codes are loaded once for all pixels of the thread that it sees.
template <typename T, typename I, typename W>
__global__ void __launch_bounds__(kPoolThreads)
    scatter_known_channels_kernel(const ScatterParams<I> p) {
  using Dense = typename W::Dense;
  constexpr int kLanes = kChannelLanes<T>, kCells = kKnownCells<W>;
  constexpr int kPixels = kCells * W::kStride;  // along each axis
  constexpr int kSpan = Dense::kBefore + kCells + Dense::kAfter;
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I inner = static_cast<I>(s.inner);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const I pooled_height = static_cast<I>(s.pooled_height);
  const auto [patch, group, column, line, outer] = pixel_item(item, p.groups, p.cells_w, p.cells_h);
  const I channel = group * kLanes;
  const I cell_x = W::first_of(column, kCells), cell_y = W::first_of(line, kCells);
  const I top = cell_y + W::kShift - Dense::kBefore * W::kDilation;  // row of windows
  const I left = cell_x + W::kShift - Dense::kBefore * W::kDilation;
  if (cell_y * W::kStride >= height || cell_x * W::kStride >= width) return;

  accumulate_t<T> sums[kPixels][kPixels][kLanes];
#pragma unroll
  for (int r = 0; r < kPixels; ++r) {
#pragma unroll
    for (int c = 0; c < kPixels; ++c) {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) sums[r][c][lane] = 0;
    }
  }
  using Codes = Packed<uint32_t, kLanes / 4>;  // four a word
  const I corner = ((outer * pooled_height + top) * pooled_width + left) * inner + channel;
#pragma unroll
  for (int h = 0; h < kSpan; ++h) {
    const I oh = top + h * W::kDilation;
    Packed<T, kLanes> values[kSpan];  // of windows that do not exist zeros, which add nothing
    Codes codes[kSpan];
#pragma unroll
    for (int k = 0; k < kSpan; ++k) {
      const I ow = left + k * W::kDilation;
      const bool exists = oh >= 0 && oh < pooled_height && ow >= 0 && ow < pooled_width;
      const I at = corner + (h * pooled_width + k) * (W::kDilation * inner);
      const uint8_t* record = static_cast<const uint8_t*>(p.op.record) + at;
      values[k] = Packed<T, kLanes>::load_if(exists, static_cast<const T*>(p.op.values) + at);
      codes[k] = Codes::load_if(exists, reinterpret_cast<const uint32_t*>(record));
    }
#pragma unroll
    for (int k = 0; k < kSpan; ++k) {
      accumulate_t<T> numbers[kLanes];
      values[k].floats(numbers);
#pragma unroll
      for (int r = 0; r < kPixels; ++r) {
#pragma unroll
        for (int c = 0; c < kPixels; ++c) {
          const int kh = Dense::tap(r, h - Dense::kBefore), kw = Dense::tap(c, k - Dense::kBefore);
          if (kh < 0 || kw < 0) continue;
          const uint32_t tap = kh * W::kKernel + kw;
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) {
            const uint32_t code = codes[k].word[lane / 4] >> (8 * (lane % 4)) & 0xffu;
            if (code == tap) sums[r][c][lane] += numbers[lane];
          }
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kPixels; ++r) {
#pragma unroll
    for (int c = 0; c < kPixels; ++c) {
      const I y = cell_y * W::kStride + r * W::kDilation;
      const I x = cell_x * W::kStride + c * W::kDilation;
      if (y >= height || x >= width) continue;
      vec_from_floats<T, kLanes>(sums[r][c])
          .store(static_cast<T*>(p.op.map) + ((outer * height + y) * width + x) * inner + channel);
    }
  }
}

// kLanes channels are a thread's.
template <typename T, typename I, Combine kCombine, int kLanes>
cudaError_t scatter(const PoolScatter& op, cudaStream_t stream) {
  const PoolShape& s = op.shape;
  const auto start = [&](auto kernel, int64_t cells_h, int64_t cells_w, int64_t groups,
                         int64_t rows) {
    const Window2d& w = op.window;
    const ScatterParams<I> p{op,
                             WindowAxis<I>(w.kernel_h, w.stride_h, w.pad_h, w.dilation_h),
                             WindowAxis<I>(w.kernel_w, w.stride_w, w.pad_w, w.dilation_w),
                             Divider<I>(groups),
                             Divider<I>(cells_w),
                             Divider<I>(cells_h),
                             rows * groups};
    return launch(kernel, ceil_div<int64_t>(p.items, kPoolThreads), kPoolThreads, stream, p);
  };
  const int64_t pairs_h = ceil_div<int64_t>(s.height, 2), pairs_w = ceil_div<int64_t>(s.width, 2);
  const bool aligned = channels_aligned<T, kLanes>(op.map, op.values, op.record, s);
  if (op.window.is_2x2() && s.inner == 1) {
    const auto start_rows = [&](auto is_aligned) {
      constexpr bool kAligned = decltype(is_aligned)::value;
      return start(scatter_rows_kernel<T, I, kCombine, kAligned>, pairs_h, 1,
                   ceil_div<int64_t>(s.width, 2 * kRowWindows<T, kAligned>), s.outer * pairs_h);
    };
    return rows_aligned<T, kRowWindows<T, true>>(op.map, op.values, s)
               ? start_rows(std::true_type{})
               : start_rows(std::false_type{});
  }
  if (op.window.is_2x2()) {
    const auto kernel = aligned ? scatter_channels_kernel<T, I, kCombine, kLanes>
                                : scatter_channels_kernel<T, I, kCombine, 1>;
    return start(kernel, pairs_h, pairs_w, s.inner / (aligned ? kLanes : 1),
                 s.outer * pairs_h * pairs_w);
  }
  const auto any = [&] {
    return start(aligned ? scatter_any_kernel<T, I, kCombine, kLanes>
                         : scatter_any_kernel<T, I, kCombine, 1>,
                 s.height, s.width, s.inner / (aligned ? kLanes : 1), s.outer * s.height * s.width);
  };
  if constexpr (kLanes != kIndexLanes) {
    if constexpr (kCombine == Combine::last) {
      return any();
    } else {
      if (s.inner > 1 && !aligned) return any();
      return with_known_window(
          op.window,
          [&](auto known) {
            using W = decltype(known);
            const int64_t cells_h = ceil_div<int64_t>(s.height, W::kStride);
            const int64_t cells_w = ceil_div<int64_t>(s.width, W::kStride);
            if (s.inner > 1) {
              const int64_t patches_h = W::tiles(cells_h, kKnownCells<W>);
              const int64_t patches_w = W::tiles(cells_w, kKnownCells<W>);
              return start(scatter_known_channels_kernel<T, I, W>, patches_h, patches_w,
                           s.inner / kLanes, s.outer * patches_h * patches_w);
            }
            if constexpr (W::kWindowPerCell) {
              if (columns_aligned<T>(op.map, op.values, op.record, s, W::kStride)) {
                const int64_t tiles = W::tiles(cells_h, kRowCells<W>);
                return start(scatter_known_rows_kernel<T, I, W>, tiles, 1, s.width / kVec16<T>,
                             s.outer * tiles);
              }
            }
            const int64_t tiles = W::tiles(cells_h, kColumnCells<W>);
            return start(scatter_known_columns_kernel<T, I, W>, tiles, 1, cells_w, s.outer * tiles);
          },
          any);
    }
  } else if constexpr (kCombine == Combine::sum) {
    return any();
  } else {
    return cudaErrorInvalidConfiguration;  // unpooling by indices asks for 2x2 windows alone
  }
}

}  // namespace scatter_detail

template <typename T, Combine kCombine>
cudaError_t scatter(const PoolScatter& op, cudaStream_t stream) {
  return dispatch_offset(op.shape.numel(), [&](auto offset) {
    using I = typename decltype(offset)::type;
    return op.record_kind == Record::indices
               ? scatter_detail::scatter<T, I, kCombine, kIndexLanes>(op, stream)
               : scatter_detail::scatter<T, I, kCombine, kChannelLanes<T>>(op, stream);
  });
}

}  // namespace segfast
