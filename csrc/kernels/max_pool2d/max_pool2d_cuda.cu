// max_pool2d_cuda.cu: pooling and its backward, bound by memory.
//
// rows:     2x2 windows of contiguous maps: a thread takes two rows of eight elements, and writes
//           four values in one access and their codes in one byte; two windows where it writes
//           indices.
// channels: 2x2 windows of channels_last maps: a thread takes 16 bytes of channels of one window;
//           two channels where it writes indices.
// known:    windows of known_window.h: a thread takes the windows at 16 bytes of a row, or of rows
//           that are not aligned a column of windows, or 16 bytes of channels of one window; the
//           rows of windows that it takes share most rows of the map.
// window:   any window, and indices: a thread takes 16 bytes of channels of one, or one element.
// The backward pass is pool_scatter.cuh's. Codes are stored and loaded past the caches: between the
// two passes lies the rest of the network.
//
// Forward on an H200, maps [16, 64, 360, 480], us in bfloat16 / float32, contiguous and
// channels_last (2x2 at the speed of a copy from the first version on):
//   3x3/s2   607 / 594 and 144 / 263  ->  191 / 238 and 136 / 231   `known`
//   3x3/s1  2395 / 2340 and 442 / 870 ->  384 / 433 and 298 / 520   `known`
//   5x5/s2  1267 / 1123 and 432 / 494 ->  400 / 312 and 191 / 377   `known`
//   indices  399 / 490 and 519 / 381 ->  195 / 295 and 192 / 291 whole sectors a store
// In bfloat16 the known windows take 55 to 87 % of a copy's speed (5x5: 30 %): they are bound by
// the instructions that form pairs of neighbouring columns.
//
// Since then, not measured: 3x3/s1 of dilation 2 and padding 1 was read element by element (2370 /
// 2310 contiguous, 435 / 866 channels_last: 9 to 49 % of a copy's speed). It is `known` now, by
// columns where maps are contiguous; predicted.md has what the machine code leads to expect.
#include <cmath>

#include "common/dispatch.h"
#include "common/divider.h"
#include "common/maxima.cuh"
#include "common/vec.h"
#include "kernels/max_pool2d/max_pool2d.h"
#include "kernels/pool_codes/pool_scatter.cuh"

namespace segfast {
namespace {

struct Replaces {
  template <typename A>
  __device__ __forceinline__ static bool wins(A value, A best) {
    return replaces(value, best);
  }
#if defined(__CUDA_ARCH__)
  template <typename Pair>
  __device__ __forceinline__ static uint32_t mask(Pair value, Pair best) {
    return __hgt2_mask(value, best) | __hneu2_mask(value, value);
  }
#endif
};

template <typename I>
struct PoolParams {
  MaxPool2dParams op;
  Divider<I> groups;  // of windows in a row (rows) or of channels in a window (channels)
  Divider<I> pooled_width;
  Divider<I> pooled_height;  // in rows of windows of one thread
  int64_t items;
};

// kWindows of a row: kIndexLanes where indices are recorded, else kGroup.
template <typename T, typename I, bool kAligned, int kWindows>
__global__ void __launch_bounds__(kPoolThreads) pool_rows_kernel(const PoolParams<I> p) {
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const auto [row, group, oh, plane] = row_item(item, p.groups, p.pooled_height);
  const I ow = group * kWindows;

  const T* upper = static_cast<const T*>(p.op.input) + (plane * height + 2 * oh) * width + 2 * ow;
  const bool has_lower = 2 * oh + 1 < height;
  RowPair<T, kWindows> pair;
  pair.template load<kAligned>(upper, has_lower ? upper + width : upper, width - 2 * ow);

  Vec<T, kWindows> taps[4];
  bool has_right[kWindows], both[kWindows], lower_exists[kWindows];
#pragma unroll
  for (int k = 0; k < kWindows; ++k) {
    has_right[k] = kAligned || 2 * (ow + k) + 1 < width;
    lower_exists[k] = has_lower;
    both[k] = has_right[k] && has_lower;
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) taps[tap].at[k] = pair.at[tap / 2][2 * k + tap % 2];
  }
  Maxima<T, kWindows, Replaces> maxima;
  maxima.start(taps[0], 0);
  maxima.compete(taps[1], 1, has_right);
  maxima.compete(taps[2], 2, lower_exists);
  maxima.compete(taps[3], 3, both);

  const int n = group_size<kWindows>(pooled_width - ow);
  T* output = static_cast<T*>(p.op.output) + row * pooled_width + ow;
  const Vec<T, kWindows> values = maxima.values();
  if (kAligned) {
    values.store(output);
  } else {
    for (int k = 0; k < n; ++k) output[k] = values.at[k];
  }
  if (p.op.record == nullptr) return;
  if constexpr (kWindows == kGroup) {
    const uint32_t existing = kAligned ? 0xffu : 0xffu >> (2 * (kWindows - n));
    __stcs(static_cast<uint8_t*>(p.op.record) + item,
           static_cast<uint8_t>(maxima.codes() & existing));
  } else {
    int64_t* indices = static_cast<int64_t*>(p.op.record) + row * pooled_width + ow;
    const int64_t origin = int64_t{2 * oh} * width + 2 * ow;
    Vec<int64_t, kWindows> own;
#pragma unroll
    for (int k = 0; k < kWindows; ++k) {
      const int tap = maxima.number(k);
      own.at[k] = origin + 2 * k + (tap & 1) + (tap & 2 ? width : 0);
    }
    if (kAligned) {
      own.store(indices);
    } else {
      for (int k = 0; k < n; ++k) indices[k] = own.at[k];
    }
  }
}

// Channels of one 2x2 window: kIndexLanes where indices are recorded, else 16 bytes.
template <typename T, typename I, int kLanes>
__global__ void __launch_bounds__(kPoolThreads) pool_channels_kernel(const PoolParams<I> p) {
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I inner = static_cast<I>(s.inner);
  const auto [window, group, ow, oh, outer] =
      pixel_item(item, p.groups, p.pooled_width, p.pooled_height);
  const I channel = group * kLanes;
  const bool has_right = 2 * ow + 1 < width, has_lower = 2 * oh + 1 < height;
  const T* first = static_cast<const T*>(p.op.input) +
                   ((outer * height + 2 * oh) * width + 2 * ow) * inner + channel;

  Vec<T, kLanes> pixels[4];  // of a tap outside the map any that can be read
  bool exists[4][kLanes];
#pragma unroll
  for (int tap = 0; tap < 4; ++tap) {
    const bool right = (tap & 1) != 0, lower = (tap & 2) != 0;
    pixels[tap] = Vec<T, kLanes>::load(first + (right && has_right ? inner : 0) +
                                       (lower && has_lower ? width * inner : 0));
#pragma unroll
    for (int c = 0; c < kLanes; ++c)
      exists[tap][c] = (!right || has_right) && (!lower || has_lower);
  }
  Maxima<T, kLanes, Replaces> maxima;
  maxima.start(pixels[0], 0);
#pragma unroll
  for (int tap = 1; tap < 4; ++tap) maxima.compete(pixels[tap], tap, exists[tap]);

  maxima.values().store(static_cast<T*>(p.op.output) + window * inner + channel);
  if (p.op.record == nullptr) return;
  if constexpr (kLanes != kIndexLanes) {
    using Codes = std::conditional_t<kLanes == 8, uint16_t, uint8_t>;
    uint8_t* codes = static_cast<uint8_t*>(p.op.record) + window * static_cast<I>(s.run_bytes());
    __stcs(reinterpret_cast<Codes*>(codes + channel / kCodesPerByte),
           static_cast<Codes>(maxima.codes()));
  } else {
    const int64_t origin = int64_t{2 * oh} * width + 2 * ow;
    Vec<int64_t, kLanes> indices;
#pragma unroll
    for (int c = 0; c < kLanes; ++c) {
      const int tap = maxima.number(c);
      indices.at[c] = origin + (tap & 1) + (tap & 2 ? width : 0);
    }
    indices.store(static_cast<int64_t*>(p.op.record) + window * inner + channel);
  }
}

// How many taps of a window along one axis lie before the map.
template <typename I>
__device__ __forceinline__ int taps_before(I origin, int dilation) {
  int taps = 0;
  for (; origin < 0; origin += dilation) ++taps;
  return taps;
}

// One window, kLanes channels of it: kIndexLanes or 1 where indices are recorded, 1 for contiguous
// maps. kKernel: 3, or 0 for any window.
template <typename T, typename I, int kLanes, int kKernel>
__global__ void __launch_bounds__(kPoolThreads) pool_window_kernel(const PoolParams<I> p) {
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const Window2d& w = p.op.window;
  const int kernel_h = kKernel > 0 ? kKernel : w.kernel_h;
  const int kernel_w = kKernel > 0 ? kKernel : w.kernel_w;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I inner = static_cast<I>(s.inner);
  const auto [window, group, ow, oh, outer] =
      pixel_item(item, p.groups, p.pooled_width, p.pooled_height);
  const I channel = group * kLanes;
  const I y0 = oh * w.stride_h - w.pad_h;
  const I x0 = ow * w.stride_w - w.pad_w;
  const T* map = static_cast<const T*>(p.op.input) + outer * height * width * inner + channel;

  // The first tap on the map wins where all are -infinity; -1 where there is none.
  const int kh0 = taps_before(y0, w.dilation_h), kw0 = taps_before(x0, w.dilation_w);
  const bool is_empty = kh0 >= kernel_h || y0 + kh0 * w.dilation_h >= height || kw0 >= kernel_w ||
                        x0 + kw0 * w.dilation_w >= width;
  Vec<T, kLanes> lowest;
  bool exists[kLanes];
#pragma unroll
  for (int c = 0; c < kLanes; ++c) {
    lowest.at[c] = from_float<T>(-INFINITY);
    exists[c] = true;
  }
  Maxima<T, kLanes, Replaces, (sizeof(T) == 2 && kLanes > 1 && kKernel > 0)> maxima;
  maxima.start(lowest, is_empty ? -1 : kh0 * kernel_w + kw0);
#pragma unroll kKernel> 0 ? kKernel : 1
  for (int kh = 0; kh < kernel_h; ++kh) {
    const I y = y0 + kh * w.dilation_h;
    if (y < 0 || y >= height) continue;
#pragma unroll kKernel> 0 ? kKernel : 1
    for (int kw = 0; kw < kernel_w; ++kw) {
      const I x = x0 + kw * w.dilation_w;
      if (x < 0 || x >= width) continue;
      maxima.compete(Vec<T, kLanes>::load(map + (y * width + x) * inner), kh * kernel_w + kw,
                     exists);
    }
  }

  const I place = window * inner + channel;
  maxima.values().store(static_cast<T*>(p.op.output) + place);
  if (p.op.record == nullptr) return;
  if (kLanes != kIndexLanes && p.op.record_kind == Record::codes8) {
    Vec<uint8_t, kLanes> codes;
#pragma unroll
    for (int c = 0; c < kLanes; ++c) codes.at[c] = static_cast<uint8_t>(maxima.number(c));
    codes.store(static_cast<uint8_t*>(p.op.record) + place);
  } else if constexpr (kLanes <= kIndexLanes) {
    Vec<int64_t, kLanes> indices;
#pragma unroll
    for (int c = 0; c < kLanes; ++c) {
      const int tap = maxima.number(c);
      const I y = y0 + tap / kernel_w * w.dilation_h;
      const I x = x0 + tap % kernel_w * w.dilation_w;
      indices.at[c] = tap < 0 ? kEmptyIndex : int64_t{y} * width + x;
    }
    indices.store(static_cast<int64_t*>(p.op.record) + place);
  }
}

// Rows of windows of one thread, where the window is known: more than one where they share most
// rows of the map.
template <typename W>
inline constexpr int kKnownRows = W::kStride == 1 || W::kKernel > 3 ? 2 : 1;

// Which rows (or columns) of the map a thread's windows see along an axis, the first at `origin`:
// of those outside the map, the nearest inside that is a tap. It then competes twice, which changes
// nothing, under one number.
template <typename W, int kTaps, typename I>
struct TapsAlong {
  I origin;
  int first, last;

  __device__ __forceinline__ TapsAlong(I origin, I size)
      : origin(origin),
        first(origin < 0 ? static_cast<int>((W::kDilation - 1 - origin) / W::kDilation) : 0),
        last(origin + (kTaps - 1) * W::kDilation < size
                 ? kTaps - 1
                 : static_cast<int>((size - 1 - origin) / W::kDilation)) {}
  __device__ __forceinline__ bool all_inside() const { return first == 0 && last == kTaps - 1; }
  __device__ __forceinline__ int tap(int number) const {
    return number < first ? first : number > last ? last : number;
  }
  __device__ __forceinline__ I position(int tap) const { return origin + tap * W::kDilation; }
};

// Known windows and codes8, or no record: of a row of the map the maxima of each window's taps,
// then of those the maximum, which keeps the order of taps and serves all rows of windows.
template <typename T, int kWidth, int kRows, typename W>
class KnownMaxima {
 public:
  static constexpr int kMapRows = (kRows - 1) * W::kStride + W::kKernel;
  using Row = Maxima<T, kWidth, Replaces, (sizeof(T) == 2 && kWidth > 1)>;

  // Row j of the map, which is tap `tap` of the first row of windows.
  __device__ __forceinline__ void compete(const Row& row, int j, int tap) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int kh = j - r * W::kStride;
      if (kh < 0 || kh >= W::kKernel) continue;
      const Row numbered = row.numbered_from((tap - r * W::kStride) * W::kKernel);
      if (kh == 0) {
        best_[r] = numbered;
      } else {
        best_[r].compete(numbered);
      }
    }
  }
  __device__ __forceinline__ Vec<T, kWidth> values(int r) const { return best_[r].values(); }
  __device__ __forceinline__ Vec<uint8_t, kWidth> codes(int r) const {
    Vec<uint8_t, kWidth> codes;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) codes.at[k] = static_cast<uint8_t>(best_[r].number(k));
    return codes;
  }

 private:
  Row best_[kRows];
};

// Contiguous maps: the windows at 16 bytes of a row.
template <typename T, typename I, typename W>
__global__ void __launch_bounds__(kPoolThreads) pool_known_rows_kernel(const PoolParams<I> p) {
  constexpr int kColumns = kVec16<T>, kWindows = kColumns / W::kStride, kRows = kKnownRows<W>;
  constexpr int kSpan = (kWindows - 1) * W::kStride + W::kReach + 1;
  using Windows = KnownMaxima<T, kWindows, kRows, W>;
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const I pooled_height = static_cast<I>(s.pooled_height);
  const auto [row, group, line, plane] = row_item(item, p.groups, p.pooled_height);
  const I oh = W::first_of(line, kRows);
  const I ow = group * kWindows;
  const I x0 = ow * W::kStride - W::kPad;  // column of the span
  if (oh >= pooled_height) return;

  const TapsAlong<W, Windows::kMapRows, I> taps_h(oh * W::kStride - W::kPad, height);
  T span[Windows::kMapRows][kSpan];
#pragma unroll
  for (int j = 0; j < Windows::kMapRows; ++j) {
    const T* map = static_cast<const T*>(p.op.input) +
                   (plane * height + taps_h.position(taps_h.tap(j))) * width + x0;
    const auto body = Vec<T, kColumns>::load(map + W::kPad);
#pragma unroll
    for (int k = 0; k < kSpan; ++k) {
      if (k >= W::kPad && k < W::kPad + kColumns) {
        span[j][k] = body.at[k - W::kPad];
      } else {
        const bool exists = x0 + k >= 0 && x0 + k < width;
        span[j][k] = exists ? map[k] : from_float<T>(-INFINITY);  // loses to all that exist
      }
    }
  }

  Windows windows;
#pragma unroll
  for (int j = 0; j < Windows::kMapRows; ++j) {
    typename Windows::Row maxima;
#pragma unroll
    for (int kw = 0; kw < W::kKernel; ++kw) {
      Vec<T, kWindows> candidates;
      int first[kWindows];  // tap on the map, which wins where all are -infinity
      bool exists[kWindows];
#pragma unroll
      for (int k = 0; k < kWindows; ++k) {
        candidates.at[k] = span[j][k * W::kStride + kw * W::kDilation];
        const int before = W::kPad - k * W::kStride;
        first[k] = before > 0 && group == 0 ? ceil_div<int>(before, W::kDilation) : 0;
        exists[k] = true;
      }
      if (kw == 0) {
        maxima.start(candidates, first);
      } else {
        maxima.compete(candidates, kw, exists);
      }
    }
    windows.compete(maxima, j, taps_h.tap(j));
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (oh + r * W::kDilation >= pooled_height) break;
    const I place = (plane * pooled_height + oh + r * W::kDilation) * pooled_width + ow;
    windows.values(r).store(static_cast<T*>(p.op.output) + place);
    if (p.op.record != nullptr) {
      windows.codes(r).store(static_cast<uint8_t*>(p.op.record) + place);
    }
  }
}

// Rows of windows of one thread that takes a single column of them.
template <typename W>
inline constexpr int kColumnRows = W::kStride == 1 ? 8 : 4;

// Contiguous maps, whatever the width: neighbouring threads take neighbouring windows, each a
// column of them, whose rows of the map it reads once.
template <typename T, typename I, typename W>
__global__ void __launch_bounds__(kPoolThreads) pool_known_columns_kernel(const PoolParams<I> p) {
  using A = accumulate_t<T>;
  constexpr int kRows = kColumnRows<W>;
  using Windows = KnownMaxima<A, 1, kRows, W>;
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const I pooled_height = static_cast<I>(s.pooled_height);
  const RowItem<I> own = row_item(item, p.groups, p.pooled_height);
  const I plane = own.outer, ow = own.group, oh = W::first_of(own.y, kRows);
  const I x0 = ow * W::kStride - W::kPad;
  if (oh >= pooled_height) return;

  const TapsAlong<W, Windows::kMapRows, I> taps_h(oh * W::kStride - W::kPad, height);
  bool exists[W::kKernel];
#pragma unroll
  for (int kw = 0; kw < W::kKernel; ++kw) {
    exists[kw] = x0 + kw * W::kDilation >= 0 && x0 + kw * W::kDilation < width;
  }
  // The first tap on the map, which wins where all are -infinity.
  const int first = x0 < 0 ? static_cast<int>((W::kDilation - 1 - x0) / W::kDilation) : 0;
  Windows windows;
  // inside: all rows are on the map, and their numbers are known to the compiler.
  const auto look = [&](auto inside) {
#pragma unroll
    for (int j = 0; j < Windows::kMapRows; ++j) {
      const int tap = decltype(inside)::value ? j : taps_h.tap(j);
      const T* map =
          static_cast<const T*>(p.op.input) + (plane * height + taps_h.position(tap)) * width + x0;
      typename Windows::Row maxima;
#pragma unroll
      for (int kw = 0; kw < W::kKernel; ++kw) {
        // -infinity loses to all that exist.
        const A value = exists[kw] ? to_float(map[kw * W::kDilation]) : A(-INFINITY);
        if (kw == 0) {
          maxima.start({value}, first);
        } else {
          maxima.compete({value}, kw, {true});
        }
      }
      windows.compete(maxima, j, tap);
    }
  };
  taps_h.all_inside() ? look(std::true_type{}) : look(std::false_type{});

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (oh + r * W::kDilation >= pooled_height) break;
    const I place = (plane * pooled_height + oh + r * W::kDilation) * pooled_width + ow;
    static_cast<T*>(p.op.output)[place] = from_float<T>(windows.values(r).at[0]);
    if (p.op.record != nullptr) {
      static_cast<uint8_t*>(p.op.record)[place] = windows.codes(r).at[0];
    }
  }
}

// channels_last maps: 16 bytes of channels of one window or of two, one below the other.
template <typename T, typename I, typename W>
__global__ void __launch_bounds__(kPoolThreads) pool_known_channels_kernel(const PoolParams<I> p) {
  constexpr int kLanes = kChannelLanes<T>, kRows = kKnownRows<W>;
  using Windows = KnownMaxima<T, kLanes, kRows, W>;
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I inner = static_cast<I>(s.inner);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const I pooled_height = static_cast<I>(s.pooled_height);
  const auto [window, group, ow, line, outer] =
      pixel_item(item, p.groups, p.pooled_width, p.pooled_height);
  const I channel = group * kLanes;
  const I oh = W::first_of(line, kRows);
  if (oh >= pooled_height) return;

  const TapsAlong<W, Windows::kMapRows, I> taps_h(oh * W::kStride - W::kPad, height);
  const TapsAlong<W, W::kKernel, I> taps_w(ow * W::kStride - W::kPad, width);
  const T* map = static_cast<const T*>(p.op.input) + outer * height * width * inner + channel;
  bool exists[kLanes];
#pragma unroll
  for (int c = 0; c < kLanes; ++c) exists[c] = true;
  Windows windows;
#pragma unroll
  for (int j = 0; j < Windows::kMapRows; ++j) {
    typename Windows::Row maxima;
#pragma unroll
    for (int k = 0; k < W::kKernel; ++k) {
      const int kw = taps_w.tap(k);
      const I pixel = taps_h.position(taps_h.tap(j)) * width + taps_w.position(kw);
      const auto candidates = Vec<T, kLanes>::load(map + pixel * inner);
      if (k == 0) {
        maxima.start(candidates, kw);
      } else {
        maxima.compete(candidates, kw, exists);
      }
    }
    windows.compete(maxima, j, taps_h.tap(j));
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (oh + r * W::kDilation >= pooled_height) break;
    const I place =
        ((outer * pooled_height + oh + r * W::kDilation) * pooled_width + ow) * inner + channel;
    windows.values(r).store(static_cast<T*>(p.op.output) + place);
    if (p.op.record != nullptr) {
      windows.codes(r).store(static_cast<uint8_t*>(p.op.record) + place);
    }
  }
}

// 2-bit codes of channels_last maps that 16 bytes do not divide: four channels a thread, one byte.
template <typename T, typename I>
__global__ void __launch_bounds__(kPoolThreads) pool_channels_2x2_kernel(const PoolParams<I> p) {
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I inner = static_cast<I>(s.inner);
  const auto [window, group, ow, oh, outer] =
      pixel_item(item, p.groups, p.pooled_width, p.pooled_height);
  const I channel = group * kCodesPerByte;
  const T* upper =
      static_cast<const T*>(p.op.input) + ((outer * height + 2 * oh) * width + 2 * ow) * inner;
  const bool has_lower = 2 * oh + 1 < height, has_right = 2 * ow + 1 < width;
  const int n = group_size(inner - channel);
  int byte = 0;
  for (int k = 0; k < n; ++k) {
    const T* at = upper + channel + k;
    Maxima<T, 1, Replaces, false> maximum;
    maximum.start({at[0]}, 0);
    if (has_right) maximum.compete({at[inner]}, 1, {true});
    if (has_lower) maximum.compete({at[width * inner]}, 2, {true});
    if (has_lower && has_right) maximum.compete({at[(width + 1) * inner]}, 3, {true});
    maximum.values().store(static_cast<T*>(p.op.output) + window * inner + channel + k);
    byte |= maximum.number(0) << (2 * k);
  }
  static_cast<uint8_t*>(p.op.record)[item] = static_cast<uint8_t>(byte);
}

// kWindows of a row, or kLanes channels, are a thread's.
template <typename T, typename I, int kWindows, int kLanes>
cudaError_t pool(const MaxPool2dParams& op, cudaStream_t stream) {
  const PoolShape& s = op.shape;
  const int64_t windows = s.outer * s.pooled_height * s.pooled_width;
  PoolParams<I> p{op, Divider<I>(1), Divider<I>(s.pooled_width), Divider<I>(s.pooled_height), 0};
  const auto start = [&](auto kernel, int64_t rows, int64_t groups) {
    p.groups = Divider<I>(groups);
    p.items = rows * groups;
    return launch(kernel, ceil_div<int64_t>(p.items, kPoolThreads), kPoolThreads, stream, p);
  };
  if (op.window.is_2x2() && s.inner == 1) {
    const bool aligned = rows_aligned<T, kWindows>(op.input, op.output, s) &&
                         (kWindows != kIndexLanes || is_aligned(op.record, 16));
    return start(
        aligned ? pool_rows_kernel<T, I, true, kWindows> : pool_rows_kernel<T, I, false, kWindows>,
        s.outer * s.pooled_height, ceil_div<int64_t>(s.pooled_width, kWindows));
  }
  const bool channels = channels_aligned<T, kLanes>(op.input, op.output, op.record, s);
  if (channels && op.window.is_2x2()) {
    return start(pool_channels_kernel<T, I, kLanes>, windows, s.inner / kLanes);
  }
  if (op.record != nullptr && op.record_kind == Record::codes2) {
    return start(pool_channels_2x2_kernel<T, I>, windows, s.run_bytes());
  }
  const auto any = [&] {
    const bool is_3x3 = op.window.kernel_h == 3 && op.window.kernel_w == 3;
    const int64_t groups = s.inner / (channels ? kLanes : 1);
    if (is_3x3) {
      return start(channels ? pool_window_kernel<T, I, kLanes, 3> : pool_window_kernel<T, I, 1, 3>,
                   windows, groups);
    }
    return start(channels ? pool_window_kernel<T, I, kLanes, 0> : pool_window_kernel<T, I, 1, 0>,
                 windows, groups);
  };
  if constexpr (kLanes == kIndexLanes) {
    return any();
  } else {
    if (s.inner > 1 && !channels) return any();
    return with_known_window(
        op.window,
        [&](auto known) {
          using W = decltype(known);
          // A thread's rows, threads along a row of windows, and along the channels.
          const auto start_rows = [&](auto kernel, int rows, int64_t along, int64_t groups) {
            const int64_t tiles = W::tiles(s.pooled_height, rows);
            p.pooled_height = Divider<I>(tiles);
            return start(kernel, s.outer * tiles * along, groups);
          };
          if (s.inner > 1) {
            return start_rows(pool_known_channels_kernel<T, I, W>, kKnownRows<W>, s.pooled_width,
                              s.inner / kLanes);
          }
          if constexpr (W::kWindowPerCell) {
            if (columns_aligned<T>(op.input, op.output, op.record, s, W::kStride)) {
              return start_rows(pool_known_rows_kernel<T, I, W>, kKnownRows<W>, 1,
                                s.width / kVec16<T>);
            }
          }
          return start_rows(pool_known_columns_kernel<T, I, W>, kColumnRows<W>, 1, s.pooled_width);
        },
        any);
  }
}

}  // namespace

cudaError_t max_pool2d_cuda(const MaxPool2dParams& p, cudaStream_t stream) {
  return dispatch_floating(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    return dispatch_offset(p.shape.numel(), [&](auto offset) {
      using I = typename decltype(offset)::type;
      return p.record != nullptr && p.record_kind == Record::indices
                 ? pool<T, I, kIndexLanes, kIndexLanes>(p, stream)
                 : pool<T, I, kGroup, kChannelLanes<T>>(p, stream);
    });
  });
}

cudaError_t max_pool2d_backward_cuda(const MaxPool2dBackwardParams& p, cudaStream_t stream) {
  const PoolScatter op{p.grad_output, p.record, p.grad_input, nullptr,
                       p.record_kind, p.shape,  p.window};
  return dispatch_floating(p.dtype, [&](auto type) {
    return scatter<typename decltype(type)::type, Combine::sum>(op, stream);
  });
}

}  // namespace segfast
