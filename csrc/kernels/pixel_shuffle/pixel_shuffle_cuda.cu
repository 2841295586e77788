// pixel_shuffle_cuda.cu: every byte is read once and written once; what differs is who moves it.
//
// rows:   contiguous, r = 2 or 4: 16 bytes of a fine row are r pieces of as many coarse rows, so
//         that neighbouring threads touch neighbouring bytes on both sides.
// pixels: channels_last, r = 2: 16 bytes of a coarse pixel are 4 bytes in each of four fine pixels.
// any:    the rest, an element at a time in the order of what is written.
#include "common/dispatch.h"
#include "common/divider.h"
#include "common/vec.h"
#include "kernels/pixel_shuffle/pixel_shuffle.h"
#include "kernels/pixel_shuffle/pixel_shuffle_math.h"

namespace segfast {
namespace {

constexpr int kThreads = 256;
constexpr int kItems = 2;  // for a thread: enough bytes in flight to hide the memory's latency
constexpr int64_t kMaxVectors = 0x7fffffff - kThreads * kItems;  // no item number overflows

struct alignas(16) Bytes16 {
  uint64_t low, high;
};

// For the kernels that move vectors. Offsets need I; vectors are counted in 32 bits, which leaves
// the 64-bit path without its costly divisions.
template <typename T, typename I>
struct VectorParams {
  T* coarse;
  T* fine;
  ShuffleShape<I> shape;
  Divider<int32_t> group;   // vectors in a fine row (rows) or in a coarse pixel (pixels)
  Divider<int32_t> extent;  // height (rows) or width (pixels)
  int32_t items;
};

template <typename T, typename I>
struct AnyParams {
  T* coarse;
  T* fine;
  ShuffleShape<I> shape;
  Divider<I> height, width, channels, factor;
  int64_t items;
};

template <typename T, int R>
constexpr bool kRowsFit = sizeof(T) * R <= 16;

template <typename T>
constexpr bool kPixelsFit = sizeof(T) <= 4;

// The kItems items of a thread lie kThreads apart.
template <typename I>
__device__ __forceinline__ I first_item() {
  return static_cast<I>(blockIdx.x) * (kThreads * kItems) + static_cast<I>(threadIdx.x);
}

template <typename T, typename I, int R, bool kShuffle>
__global__ void __launch_bounds__(kThreads) rows_kernel(const VectorParams<T, I> p) {
  constexpr int kFine = kVec16<T>;
  constexpr int kCoarse = kFine / R;
  const I plane = p.shape.height * p.shape.width;
  Vec<T, kFine> fine[kItems];
  Vec<T, kCoarse> coarse[kItems][R];
  I coarse_at[kItems];

#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t item = first_item<int32_t>() + k * kThreads;
    if (item >= p.items) break;
    const int32_t row = p.group.divide(item);
    const int32_t vector = p.group.remainder(item, row);
    const int32_t b = p.extent.divide(row / R);
    const int32_t h = p.extent.remainder(row / R, b);
    coarse_at[k] = p.shape.coarse(b, h, I{vector} * kCoarse, 0, row % R, 0);
    if constexpr (kShuffle) {
#pragma unroll
      for (int j = 0; j < R; ++j) {
        coarse[k][j] = Vec<T, kCoarse>::load(p.coarse + coarse_at[k] + j * plane);
      }
    } else {
      fine[k] = Vec<T, kFine>::load(p.fine + I{item} * kFine);
    }
  }

#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t item = first_item<int32_t>() + k * kThreads;
    if (item >= p.items) break;
#pragma unroll
    for (int w = 0; w < kCoarse; ++w) {
#pragma unroll
      for (int j = 0; j < R; ++j) {
        if constexpr (kShuffle) {
          fine[k].at[w * R + j] = coarse[k][j].at[w];
        } else {
          coarse[k][j].at[w] = fine[k].at[w * R + j];
        }
      }
    }
    if constexpr (kShuffle) {
      fine[k].store(p.fine + I{item} * kFine);
    } else {
#pragma unroll
      for (int j = 0; j < R; ++j) coarse[k][j].store(p.coarse + coarse_at[k] + j * plane);
    }
  }
}

template <typename T, typename I, bool kShuffle>
__global__ void __launch_bounds__(kThreads) pixels_kernel(const VectorParams<T, I> p) {
  constexpr int kCoarse = kVec16<T>;
  constexpr int kFine = kCoarse / 4;
  Vec<T, kCoarse> coarse[kItems];
  Vec<T, kFine> fine[kItems][4];
  I fine_at[kItems][2];

#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t item = first_item<int32_t>() + k * kThreads;
    if (item >= p.items) break;
    const int32_t pixel = p.group.divide(item);
    const I c = I{p.group.remainder(item, pixel)} * kFine;
    const int32_t row = p.extent.divide(pixel);
    const int32_t w = p.extent.remainder(pixel, row);
    fine_at[k][0] = p.shape.fine(I{row} * 2, I{w} * 2, c);
    fine_at[k][1] = p.shape.fine(I{row} * 2 + 1, I{w} * 2, c);
    if constexpr (kShuffle) {
      coarse[k] = Vec<T, kCoarse>::load(p.coarse + I{item} * kCoarse);
    } else {
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        fine[k][s] = Vec<T, kFine>::load(p.fine + fine_at[k][s / 2] + (s % 2) * p.shape.channels);
      }
    }
  }

#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t item = first_item<int32_t>() + k * kThreads;
    if (item >= p.items) break;
#pragma unroll
    for (int c = 0; c < kFine; ++c) {
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        if constexpr (kShuffle) {
          fine[k][s].at[c] = coarse[k].at[c * 4 + s];
        } else {
          coarse[k].at[c * 4 + s] = fine[k][s].at[c];
        }
      }
    }
    if constexpr (kShuffle) {
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        fine[k][s].store(p.fine + fine_at[k][s / 2] + (s % 2) * p.shape.channels);
      }
    } else {
      coarse[k].store(p.coarse + I{item} * kCoarse);
    }
  }
}

template <typename T, typename I, bool kShuffle>
__global__ void __launch_bounds__(kThreads) any_kernel(const AnyParams<T, I> p) {
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    I rest = first_item<I>() + k * kThreads;
    if (rest >= p.items) break;
    I i, j, c = 0, h, w;
    if (kShuffle) {  // [B, H, r, W, r, C]
      if (p.shape.channels_last) c = take_digit(rest, p.channels);
      j = take_digit(rest, p.factor);
      w = take_digit(rest, p.width);
      i = take_digit(rest, p.factor);
      h = take_digit(rest, p.height);
    } else if (p.shape.channels_last) {  // [B, H, W, C, r, r]
      j = take_digit(rest, p.factor);
      i = take_digit(rest, p.factor);
      c = take_digit(rest, p.channels);
      w = take_digit(rest, p.width);
      h = take_digit(rest, p.height);
    } else {  // [B, r, r, H, W]
      w = take_digit(rest, p.width);
      h = take_digit(rest, p.height);
      j = take_digit(rest, p.factor);
      i = take_digit(rest, p.factor);
    }
    const I row = (rest * p.shape.height + h) * p.shape.factor + i;
    T& coarse = p.coarse[p.shape.coarse(rest, h, w, c, i, j)];
    T& fine = p.fine[p.shape.fine(row, w * p.shape.factor + j, c)];
    if (kShuffle) {
      fine = coarse;
    } else {
      coarse = fine;
    }
  }
}

// The kernel for vectors, or nullptr where the sizes do not allow one.
template <bool kShuffle, typename T, typename I>
auto vector_kernel(const PixelShuffleParams& params) -> void (*)(VectorParams<T, I>) {
  if (params.channels_last) {
    if constexpr (kPixelsFit<T>) {
      if (params.factor == 2 && params.channels * 4 % kVec16<T> == 0) {
        return pixels_kernel<T, I, kShuffle>;
      }
    }
    return nullptr;
  }
  if (params.width * params.factor % kVec16<T> != 0) return nullptr;
  if constexpr (kRowsFit<T, 2>) {
    if (params.factor == 2) return rows_kernel<T, I, 2, kShuffle>;
  }
  if constexpr (kRowsFit<T, 4>) {
    if (params.factor == 4) return rows_kernel<T, I, 4, kShuffle>;
  }
  return nullptr;
}

template <bool kShuffle, typename T, typename I>
cudaError_t move_with(const PixelShuffleParams& params, void* coarse, void* fine, int64_t numel,
                      cudaStream_t stream) {
  const ShuffleShape<I> shape{static_cast<I>(params.channels), static_cast<I>(params.height),
                              static_cast<I>(params.width), static_cast<I>(params.factor),
                              params.channels_last};
  const int64_t vectors = numel / kVec16<T>;
  const auto kernel = vector_kernel<kShuffle, T, I>(params);
  if (kernel != nullptr && vectors <= kMaxVectors && is_aligned(coarse, 16) &&
      is_aligned(fine, 16)) {
    const int64_t group = params.channels_last ? params.channels * 4 : params.width * params.factor;
    const VectorParams<T, I> p{
        static_cast<T*>(coarse),
        static_cast<T*>(fine),
        shape,
        Divider<int32_t>(group / kVec16<T>),
        Divider<int32_t>(params.channels_last ? params.width : params.height),
        static_cast<int32_t>(vectors)};
    return launch(kernel, ceil_div<int64_t>(vectors, kThreads * kItems), kThreads, stream, p);
  }
  const AnyParams<T, I> p{static_cast<T*>(coarse),
                          static_cast<T*>(fine),
                          shape,
                          Divider<I>(params.height),
                          Divider<I>(params.width),
                          Divider<I>(params.channels),
                          Divider<I>(params.factor),
                          numel};
  return launch(any_kernel<T, I, kShuffle>, ceil_div<int64_t>(numel, kThreads * kItems), kThreads,
                stream, p);
}

template <bool kShuffle, typename T>
cudaError_t move_as(const PixelShuffleParams& params, void* coarse, void* fine,
                    cudaStream_t stream) {
  const int64_t numel =
      params.batch * params.height * params.width * params.channels * params.factor * params.factor;
  if (numel == 0) return cudaSuccess;
  return dispatch_offset(numel, [&](auto tag) {
    using I = typename decltype(tag)::type;
    return move_with<kShuffle, T, I>(params, coarse, fine, numel, stream);
  });
}

template <bool kShuffle>
cudaError_t move(const PixelShuffleParams& params, void* coarse, void* fine, cudaStream_t stream) {
  switch (params.element_size) {
    case 1:
      return move_as<kShuffle, uint8_t>(params, coarse, fine, stream);
    case 2:
      return move_as<kShuffle, uint16_t>(params, coarse, fine, stream);
    case 4:
      return move_as<kShuffle, uint32_t>(params, coarse, fine, stream);
    case 8:
      return move_as<kShuffle, uint64_t>(params, coarse, fine, stream);
    default:
      return move_as<kShuffle, Bytes16>(params, coarse, fine, stream);
  }
}

}  // namespace

cudaError_t pixel_shuffle_cuda(const PixelShuffleParams& params, cudaStream_t stream) {
  return move<true>(params, const_cast<void*>(params.source), params.destination, stream);
}

cudaError_t pixel_unshuffle_cuda(const PixelShuffleParams& params, cudaStream_t stream) {
  return move<false>(params, params.destination, const_cast<void*>(params.source), stream);
}

}  // namespace segfast
