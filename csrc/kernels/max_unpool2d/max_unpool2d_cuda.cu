// max_unpool2d_cuda.cu: unpooling and its backward.
//
// From codes, and from indices of 2x2 windows, the map is written in gather form
// (pool_scatter.cuh): every element once, no zero-fill. Indices may lie outside their window,
// though; the gather then raises a flag, and `ordered` scatters all values again, in order, so that
// of equal indices the last one's value stays. Where windows are not 2x2, `ordered` scatters over
// zeros alone.
//
// The backward pass brings each window the element that its record names; for 2-bit codes by
// reading the whole map in 16-byte accesses, which touches the same memory as picking one element
// in four; for indices, which may name any element, by picking several at once.
//
// On an H200, maps [16, 64, 360, 480], us in bfloat16 / float32, contiguous and channels_last:
//   codes, forward     119 / 373 and 119 / 222 -> 119 / 224 and 116 / 222  whole sectors a store
//   indices, forward   195 / 368 and 245 / 307 -> 194 / 304 and 200 / 300  the same
//   indices, backward  271 / 319 and 257 / 319 -> 188 / 286 and 189 / 299  four gathers at once
// All at 92 % or more of a copy's speed; codes backward too, 111 / 210 in both layouts. Since then,
// not measured: codes, backward, choose words in channels_last, 168 -> 131 instructions a thread in
// bfloat16 (sm_90); codes, forward, see pool_scatter.cuh.
#include "common/dispatch.h"
#include "common/divider.h"
#include "common/packed.h"
#include "common/vec.h"
#include "kernels/max_unpool2d/max_unpool2d.h"
#include "kernels/pool_codes/pool_scatter.cuh"

namespace segfast {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kOrderedThreads = 128;

__device__ __forceinline__ void check_index(int64_t index, int64_t plane) {
  SEGFAST_DEVICE_CHECK(index >= 0 && index < plane, "Found an invalid max index");
}

// Contiguous maps: a warp a plane, 32 windows at a time. Of the lanes with one index the highest,
// which is the last in order, writes.
template <typename T>
__global__ void __launch_bounds__(kOrderedThreads) ordered_rows_kernel(const MaxUnpool2dParams p) {
  if (p.foreign != nullptr && *p.foreign == 0) return;
  const PoolShape& s = p.shape;
  const int64_t number =
      int64_t{blockIdx.x} * (kOrderedThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
  if (number >= s.outer) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t plane = s.height * s.width;
  const int64_t windows = s.pooled_height * s.pooled_width;
  const T* input = static_cast<const T*>(p.input) + number * windows;
  const int64_t* indices = static_cast<const int64_t*>(p.record) + number * windows;
  T* output = static_cast<T*>(p.output) + number * plane;
  for (int64_t first = 0; first < windows; first += kWarp) {
    const bool active = first + lane < windows;
    const int64_t index = active ? indices[first + lane] : -1 - lane;
    if (active) check_index(index, plane);
    const unsigned same = __match_any_sync(kAllLanes, static_cast<unsigned long long>(index));
    if (active && same >> lane == 1u) output[index] = input[first + lane];
    __syncwarp();  // orders this group's writes before the next group's
  }
}

// channels_last maps: a thread a plane, its windows one after the other.
template <typename T>
__global__ void __launch_bounds__(kOrderedThreads)
    ordered_channels_kernel(const MaxUnpool2dParams p) {
  if (p.foreign != nullptr && *p.foreign == 0) return;
  const PoolShape& s = p.shape;
  const int64_t number = int64_t{blockIdx.x} * kOrderedThreads + threadIdx.x;
  if (number >= s.outer * s.inner) return;
  const int64_t outer = number / s.inner, channel = number % s.inner;
  const int64_t plane = s.height * s.width;
  const int64_t windows = s.pooled_height * s.pooled_width;
  const T* input = static_cast<const T*>(p.input) + outer * windows * s.inner + channel;
  const int64_t* indices =
      static_cast<const int64_t*>(p.record) + outer * windows * s.inner + channel;
  T* output = static_cast<T*>(p.output) + outer * plane * s.inner + channel;
  for (int64_t i = 0; i < windows; ++i) {
    const int64_t index = indices[i * s.inner];
    check_index(index, plane);
    output[index * s.inner] = input[i * s.inner];
  }
}

template <typename T>
cudaError_t unpool(const MaxUnpool2dParams& p, cudaStream_t stream) {
  if (p.record_kind != Record::indices || p.window.is_2x2()) {
    const PoolScatter op{p.input, p.record, p.output, p.foreign, p.record_kind, p.shape, p.window};
    const cudaError_t error = scatter<T, Combine::last>(op, stream);
    if (error != cudaSuccess || p.record_kind != Record::indices) return error;
  }
  if (p.shape.inner == 1) {
    constexpr int kPlanes = kOrderedThreads / kWarp;
    return launch(ordered_rows_kernel<T>, ceil_div<int64_t>(p.shape.outer, kPlanes),
                  kOrderedThreads, stream, p);
  }
  return launch(ordered_channels_kernel<T>,
                ceil_div<int64_t>(p.shape.outer * p.shape.inner, kOrderedThreads), kOrderedThreads,
                stream, p);
}

template <typename I>
struct GatherParams {
  MaxUnpool2dBackwardParams op;
  Divider<I> groups;  // of windows in a row (rows) or of channels in a window
  Divider<I> pooled_width;
  Divider<I> pooled_height;
  Divider<I> pooled_plane;  // windows of a plane
  int64_t items;
};

// Elements of a thread that gathers by indices.
template <typename T>
constexpr int kGatherLanes = kVec16<T> < kGroup ? kVec16<T> : kGroup;

// 2-bit codes, contiguous: four windows of a row.
template <typename T, typename I, bool kAligned>
__global__ void __launch_bounds__(kPoolThreads) gather_rows_kernel(const GatherParams<I> p) {
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I pooled_width = static_cast<I>(s.pooled_width);
  const auto [row, group, oh, plane] = row_item(item, p.groups, p.pooled_height);
  const I ow = group * kGroup;
  const T* upper =
      static_cast<const T*>(p.op.grad_output) + (plane * height + 2 * oh) * width + 2 * ow;
  // A clipped window's code names no second row, so any row that can be read will do.
  const T* lower = 2 * oh + 1 < height ? upper + width : upper;
  RowPair<T, kGroup> pair;
  pair.template load<kAligned>(upper, lower, width - 2 * ow);
  const int byte = static_cast<const uint8_t*>(p.op.record)[item];
  Vec<T, kGroup> picked;
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    const int tap = (byte >> (2 * k)) & 3;
    const T left = tap & 2 ? pair.at[1][2 * k] : pair.at[0][2 * k];
    const T right = tap & 2 ? pair.at[1][2 * k + 1] : pair.at[0][2 * k + 1];
    picked.at[k] = tap & 1 ? right : left;
  }
  T* output = static_cast<T*>(p.op.grad_input) + row * pooled_width + ow;
  if (kAligned) {
    picked.store(output);
  } else {
    const int n = group_size(pooled_width - ow);
    for (int k = 0; k < n; ++k) output[k] = picked.at[k];
  }
}

// 2-bit codes, channels_last: 16 bytes of channels of one window, from its four pixels.
template <typename T, typename I>
__global__ void __launch_bounds__(kPoolThreads) gather_channels_kernel(const GatherParams<I> p) {
  constexpr int kLanes = kChannelLanes<T>;
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I width = static_cast<I>(s.width), height = static_cast<I>(s.height);
  const I inner = static_cast<I>(s.inner);
  const auto [window, group, ow, oh, outer] =
      pixel_item(item, p.groups, p.pooled_width, p.pooled_height);
  const I channel = group * kLanes;
  const T* first = static_cast<const T*>(p.op.grad_output) +
                   ((outer * height + 2 * oh) * width + 2 * ow) * inner + channel;
  const I right = 2 * ow + 1 < width ? inner : 0;
  const I lower = 2 * oh + 1 < height ? width * inner : 0;
  Packed<T, kLanes> pixels[4];
#pragma unroll
  for (int tap = 0; tap < 4; ++tap) {
    pixels[tap] = Packed<T, kLanes>::load(first + (tap & 1 ? right : 0) + (tap & 2 ? lower : 0));
  }
  const I run_bytes = ceil_div<I>(inner, kCodesPerByte);
  using Codes = std::conditional_t<(kLanes > kCodesPerByte), uint16_t, uint8_t>;
  static_assert(sizeof(Codes) * kCodesPerByte == kLanes);
  const uint32_t codes = *reinterpret_cast<const Codes*>(
      static_cast<const uint8_t*>(p.op.record) + window * run_bytes + channel / kCodesPerByte);
  values_of_codes(pixels, codes).store(static_cast<T*>(p.op.grad_input) + window * inner + channel);
}

// Codes of other windows and layouts: an element a thread.
template <typename T, typename I>
__global__ void __launch_bounds__(kPoolThreads) gather_any_kernel(const GatherParams<I> p) {
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I item = static_cast<I>(item64);
  const PoolShape& s = p.op.shape;
  const I inner = static_cast<I>(s.inner);
  const auto [window, channel, ow, oh, outer] =
      pixel_item(item, p.groups, p.pooled_width, p.pooled_height);
  const int64_t plane = s.height * s.width;
  const uint8_t* codes = static_cast<const uint8_t*>(p.op.record);
  int code;
  bool empty = false;
  if (p.op.record_kind == Record::codes2) {
    const I byte = window * static_cast<I>(s.run_bytes()) + channel / kCodesPerByte;
    code = (codes[byte] >> (2 * static_cast<int>(channel % kCodesPerByte))) & 3;
  } else {
    code = codes[item];
    empty = code == kEmptyCode;
  }
  T picked{};
  if (!empty) {
    const int64_t position =
        code < p.op.window.taps() ? tap_position(p.op.window, s, oh, ow, code) : -1;
    check_index(position, plane);
    picked = static_cast<const T*>(p.op.grad_output)[(outer * plane + position) * inner + channel];
  }
  static_cast<T*>(p.op.grad_input)[item] = picked;
}

// Indices, in any layout: elements that lie side by side in memory, so that their indices come in
// 16-byte accesses and all that they name is fetched at once.
template <typename T, typename I, bool kAligned>
__global__ void __launch_bounds__(kPoolThreads) gather_indices_kernel(const GatherParams<I> p) {
  constexpr int kLanes = kGatherLanes<T>;
  const int64_t item64 = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x;
  if (item64 >= p.items) return;
  const I first = static_cast<I>(item64) * kLanes;
  const PoolShape& s = p.op.shape;
  const I inner = static_cast<I>(s.inner);
  const int n = group_size<kLanes>(static_cast<I>(s.pooled_numel()) - first);
  const int64_t plane = s.height * s.width;
  const int64_t* indices = static_cast<const int64_t*>(p.op.record) + first;
  int64_t positions[kLanes];
  if (kAligned && n == kLanes) {
#pragma unroll
    for (int k = 0; k < kLanes; k += kIndexLanes) {
      const auto part = Vec<int64_t, kIndexLanes>::load_streaming(indices + k);
#pragma unroll
      for (int i = 0; i < kIndexLanes; ++i) positions[k + i] = part.at[i];
    }
  } else {
#pragma unroll
    for (int k = 0; k < kLanes; ++k) positions[k] = k < n ? indices[k] : kEmptyIndex;
  }
  bool sound = true;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
    static_assert(kEmptyIndex == -1);
    sound &= static_cast<uint64_t>(positions[k]) + 1 <= static_cast<uint64_t>(plane);
  }
  SEGFAST_DEVICE_CHECK(sound, "Found an invalid max index");
  Vec<T, kLanes> picked;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
    const bool empty = positions[k] == kEmptyIndex;
    const I window = p.groups.divide(first + k);
    const I channel = p.groups.remainder(first + k, window);
    const I outer = p.pooled_plane.divide(window);
    const I position = outer * static_cast<I>(plane) + static_cast<I>(positions[k]);
    // Of an empty window any element that can be read: no branch holds up the others.
    const T value = static_cast<const T*>(p.op.grad_output)[empty ? 0 : position * inner + channel];
    picked.at[k] = empty ? T{} : value;
  }
  T* output = static_cast<T*>(p.op.grad_input) + first;
  if (kAligned && n == kLanes) {
    picked.store(output);
  } else {
    for (int k = 0; k < n; ++k) output[k] = picked.at[k];
  }
}

template <typename T, typename I>
cudaError_t gather(const MaxUnpool2dBackwardParams& op, cudaStream_t stream) {
  const PoolShape& s = op.shape;
  const auto start = [&](auto kernel, int64_t items, int64_t groups) {
    const GatherParams<I> p{op,
                            Divider<I>(groups),
                            Divider<I>(s.pooled_width),
                            Divider<I>(s.pooled_height),
                            Divider<I>(s.pooled_height * s.pooled_width),
                            items};
    return launch(kernel, ceil_div<int64_t>(items, kPoolThreads), kPoolThreads, stream, p);
  };
  if (op.record_kind == Record::indices) {
    constexpr int kLanes = kGatherLanes<T>;
    const bool aligned = is_aligned(op.record, 16) && is_aligned(op.grad_input, kLanes * sizeof(T));
    return start(aligned ? gather_indices_kernel<T, I, true> : gather_indices_kernel<T, I, false>,
                 ceil_div<int64_t>(s.pooled_numel(), kLanes), s.inner);
  }
  const int64_t windows = s.outer * s.pooled_height * s.pooled_width;
  if (op.record_kind == Record::codes2 && s.inner == 1) {
    const auto kernel = rows_aligned<T, kGroup>(op.grad_output, op.grad_input, s)
                            ? gather_rows_kernel<T, I, true>
                            : gather_rows_kernel<T, I, false>;
    return start(kernel, s.outer * s.pooled_height * s.run_bytes(), s.run_bytes());
  }
  if (op.record_kind == Record::codes2 &&
      channels_aligned<T, kChannelLanes<T>>(op.grad_output, op.grad_input, op.record, s)) {
    const int64_t groups = s.inner / kChannelLanes<T>;
    return start(gather_channels_kernel<T, I>, windows * groups, groups);
  }
  return start(gather_any_kernel<T, I>, windows * s.inner, s.inner);
}

}  // namespace

cudaError_t max_unpool2d_cuda(const MaxUnpool2dParams& p, cudaStream_t stream) {
  return dispatch_floating(
      p.dtype, [&](auto type) { return unpool<typename decltype(type)::type>(p, stream); });
}

cudaError_t max_unpool2d_backward_cuda(const MaxUnpool2dBackwardParams& p, cudaStream_t stream) {
  return dispatch_floating(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    return dispatch_offset(p.shape.numel(), [&](auto offset) {
      return gather<T, typename decltype(offset)::type>(p, stream);
    });
  });
}

}  // namespace segfast
