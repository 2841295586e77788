// max_pool2d_cuda.cu: pooling and its backward, bound by memory.
//
// rows:     2x2 windows of contiguous maps: a thread takes two rows of eight elements, four
// windows,
//           and writes their values in one access and their codes in one byte.
// channels: channels_last maps: a thread takes 16 bytes of channels of one window.
// any:      the rest, a window a thread.
// The backward pass is pool_scatter.cuh's.
#include <cmath>

#include "common/dispatch.h"
#include "common/divider.h"
#include "common/vec.h"
#include "kernels/max_pool2d/max_pool2d.h"
#include "kernels/pool_codes/pool_scatter.cuh"

namespace segfast {
namespace {

// The maximum of one window so far, and the tap that holds it.
template <typename T>
struct Best {
  T value;
  int tap;

  __device__ __forceinline__ void start() {
    value = from_float<T>(-INFINITY);
    tap = -1;
  }
  __device__ __forceinline__ void compete(T candidate, int number) {
    if (tap < 0 || replaces(to_float(candidate), to_float(value))) {
      value = candidate;
      tap = number;
    }
  }
};

template <typename I>
struct PoolParams {
  MaxPool2dParams op;
  Divider<I> groups;  // of windows in a row (rows) or of channels in a window (channels)
  Divider<I> pooled_width;
  Divider<I> pooled_height;
  int64_t items;
};

template <typename T, typename I, bool kAligned>
__global__ void __launch_bounds__(kPoolThreads) pool_rows_kernel(const PoolParams<I> p) {
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const I row = p.groups.divide(item);  // of windows, over all planes
  const I group = p.groups.remainder(item, row);
  const I plane = p.pooled_height.divide(row);
  const I oh = p.pooled_height.remainder(row, plane);
  const I ow = group * kGroup;

  const T* upper = static_cast<const T*>(p.op.input) + (plane * height + 2 * oh) * width + 2 * ow;
  const bool has_lower = 2 * oh + 1 < height;
  RowPair<T> pair;
  pair.template load<kAligned>(upper, has_lower ? upper + width : upper, width - 2 * ow);

  Vec<T, kGroup> values;
  int taps[kGroup];
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    Best<T> best{pair.at[0][2 * k], 0};
    const bool has_right = kAligned || 2 * (ow + k) + 1 < width;
    if (has_right) best.compete(pair.at[0][2 * k + 1], 1);
    if (has_lower) best.compete(pair.at[1][2 * k], 2);
    if (has_lower && has_right) best.compete(pair.at[1][2 * k + 1], 3);
    values.at[k] = best.value;
    taps[k] = best.tap;
  }

  const int n = group_size(pooled_width - ow);
  T* output = static_cast<T*>(p.op.output) + row * pooled_width + ow;
  if (kAligned) {
    values.store(output);
  } else {
    for (int k = 0; k < n; ++k) output[k] = values.at[k];
  }
  if (p.op.record == nullptr) return;
  if (p.op.record_kind == Record::codes2) {
    int byte = 0;
#pragma unroll
    for (int k = 0; k < kGroup; ++k) byte |= k < n ? taps[k] << (2 * k) : 0;
    static_cast<uint8_t*>(p.op.record)[item] = static_cast<uint8_t>(byte);
  } else {
    int64_t* indices = static_cast<int64_t*>(p.op.record) + row * pooled_width + ow;
    const int64_t origin = int64_t{2 * oh} * width + 2 * ow;
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      if (k < n) indices[k] = origin + 2 * k + (taps[k] & 1) + (taps[k] & 2 ? width : 0);
    }
  }
}

// One window, kLanes channels of it (1 for contiguous maps). kKernel: 2, 3, or 0 for any window.
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
  const I window = p.groups.divide(item);
  const I channel = p.groups.remainder(item, window) * kLanes;
  const I row = p.pooled_width.divide(window);
  const I ow = p.pooled_width.remainder(window, row);
  const I outer = p.pooled_height.divide(row);
  const I oh = p.pooled_height.remainder(row, outer);
  const I y0 = oh * w.stride_h - w.pad_h;
  const I x0 = ow * w.stride_w - w.pad_w;
  const T* map = static_cast<const T*>(p.op.input) + outer * height * width * inner + channel;

  Best<T> best[kLanes];
#pragma unroll
  for (int c = 0; c < kLanes; ++c) best[c].start();
#pragma unroll kKernel> 0 ? kKernel : 1
  for (int kh = 0; kh < kernel_h; ++kh) {
    const I y = y0 + kh * w.dilation_h;
    if (y < 0 || y >= height) continue;
#pragma unroll kKernel> 0 ? kKernel : 1
    for (int kw = 0; kw < kernel_w; ++kw) {
      const I x = x0 + kw * w.dilation_w;
      if (x < 0 || x >= width) continue;
      const Vec<T, kLanes> values = Vec<T, kLanes>::load(map + (y * width + x) * inner);
#pragma unroll
      for (int c = 0; c < kLanes; ++c) best[c].compete(values.at[c], kh * kernel_w + kw);
    }
  }

  Vec<T, kLanes> values;
#pragma unroll
  for (int c = 0; c < kLanes; ++c) values.at[c] = best[c].value;
  const I place = window * inner + channel;
  values.store(static_cast<T*>(p.op.output) + place);
  if (p.op.record == nullptr) return;
  if (p.op.record_kind == Record::codes2) {
    if constexpr (kLanes % kCodesPerByte == 0) {
      Vec<uint8_t, kLanes / kCodesPerByte> bytes;
#pragma unroll
      for (int b = 0; b < kLanes / kCodesPerByte; ++b) {
        int byte = 0;
#pragma unroll
        for (int k = 0; k < kCodesPerByte; ++k) byte |= best[4 * b + k].tap << (2 * k);
        bytes.at[b] = static_cast<uint8_t>(byte);
      }
      const I run_bytes = static_cast<I>(s.run_bytes());
      bytes.store(static_cast<uint8_t*>(p.op.record) + window * run_bytes +
                  channel / kCodesPerByte);
    }
  } else if (p.op.record_kind == Record::codes8) {
    Vec<uint8_t, kLanes> codes;
#pragma unroll
    for (int c = 0; c < kLanes; ++c) codes.at[c] = static_cast<uint8_t>(best[c].tap);
    codes.store(static_cast<uint8_t*>(p.op.record) + place);
  } else {
    int64_t* indices = static_cast<int64_t*>(p.op.record) + place;
#pragma unroll
    for (int c = 0; c < kLanes; ++c) {
      const int tap = best[c].tap;
      const I y = y0 + tap / kernel_w * w.dilation_h;
      const I x = x0 + tap % kernel_w * w.dilation_w;
      indices[c] = tap < 0 ? kEmptyIndex : int64_t{y} * width + x;
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
  const I window = p.groups.divide(item);
  const I channel = p.groups.remainder(item, window) * kCodesPerByte;
  const I row = p.pooled_width.divide(window);
  const I ow = p.pooled_width.remainder(window, row);
  const I outer = p.pooled_height.divide(row);
  const I oh = p.pooled_height.remainder(row, outer);
  const T* upper =
      static_cast<const T*>(p.op.input) + ((outer * height + 2 * oh) * width + 2 * ow) * inner;
  const bool has_lower = 2 * oh + 1 < height, has_right = 2 * ow + 1 < width;
  const int n = group_size(inner - channel);
  int byte = 0;
  for (int k = 0; k < n; ++k) {
    const T* at = upper + channel + k;
    Best<T> best{at[0], 0};
    if (has_right) best.compete(at[inner], 1);
    if (has_lower) best.compete(at[width * inner], 2);
    if (has_lower && has_right) best.compete(at[(width + 1) * inner], 3);
    static_cast<T*>(p.op.output)[window * inner + channel + k] = best.value;
    byte |= best.tap << (2 * k);
  }
  static_cast<uint8_t*>(p.op.record)[item] = static_cast<uint8_t>(byte);
}

template <typename T, typename I>
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
    const int64_t rows = s.outer * s.pooled_height;
    const int64_t groups = ceil_div<int64_t>(s.pooled_width, kGroup);
    if (rows_aligned<T>(op.input, op.output, s)) {
      return start(pool_rows_kernel<T, I, true>, rows, groups);
    }
    return start(pool_rows_kernel<T, I, false>, rows, groups);
  }
  constexpr int kLanes = kChannelLanes<T>;
  if (channels_aligned<T>(op.input, op.output, op.record, s)) {
    const int64_t groups = s.inner / kLanes;
    if (op.window.kernel_h == 2 && op.window.kernel_w == 2) {
      return start(pool_window_kernel<T, I, kLanes, 2>, windows, groups);
    }
    if (op.window.kernel_h == 3 && op.window.kernel_w == 3) {
      return start(pool_window_kernel<T, I, kLanes, 3>, windows, groups);
    }
    return start(pool_window_kernel<T, I, kLanes, 0>, windows, groups);
  }
  if (op.record != nullptr && op.record_kind == Record::codes2) {
    return start(pool_channels_2x2_kernel<T, I>, windows, s.run_bytes());
  }
  if (op.window.kernel_h == 3 && op.window.kernel_w == 3) {
    return start(pool_window_kernel<T, I, 1, 3>, windows, s.inner);
  }
  return start(pool_window_kernel<T, I, 1, 0>, windows, s.inner);
}

}  // namespace

cudaError_t max_pool2d_cuda(const MaxPool2dParams& p, cudaStream_t stream) {
  return dispatch_floating(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    return dispatch_offset(p.shape.numel(), [&](auto offset) {
      return pool<T, typename decltype(offset)::type>(p, stream);
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
