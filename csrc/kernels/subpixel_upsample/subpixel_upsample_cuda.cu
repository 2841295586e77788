// subpixel_upsample_cuda.cu: a thread reads its cells and what borders on them, and writes its part
// of either tensor once: no shared memory, no atomics, no second pass.
//
// Factor 2: a thread takes some cells side by side (along the width in contiguous tensors, along
// the channels in channels_last ones) in two rows, so that what it has of one row it need not load
// for the next. A fast kernel fills 16 bytes of what it writes, or 8 in each of four places. any:
// other factors, odd sizes, masks that are given to the forward pass; one element a thread, and a
// second kernel for the mask.
//
// Measured on an H200, maps [16, 64, 360, 480], before the kernels took 16-bit elements two at a
// time: bfloat16 83 and 82 % of a copy's speed forward (contiguous, channels_last), 85 and 65 %
// backward; float32 94, 97, 95 and 89 %. Since then, not measured there: on its longest way a
// thread in bfloat16 executes 361 and 413 instructions forward (623 and 759 before), 413 and 511
// backward (679 and 791), has all its loads under way at once, and leaves room for a fourth block.
#include "common/dispatch.h"
#include "kernels/subpixel_upsample/gradient_cells.cuh"
#include "kernels/subpixel_upsample/subpixel_upsample.h"
#include "kernels/subpixel_upsample/upsample_cells.cuh"

namespace segfast {
namespace {

// Of the kernels for factor 2: what they count in 32 bits, items, rows and cells, stays below 2^31.
constexpr int64_t kMaxItems = 0x7fffffff / 4;
constexpr int kTallRows = 2;
// Threads that fill the largest GPUs. With fewer, a thread takes one row in place of kTallRows.
#if defined(SEGFAST_HOST_RUN)
constexpr int64_t kEnoughThreads = 1 << 6;  // so that small tests reach both
#else
constexpr int64_t kEnoughThreads = 1 << 18;
#endif

// ---- any factor

template <typename T, typename I>
struct AnyParams {
  const T* source;
  T* destination;
  uint8_t* write_mask;
  const uint8_t* mask;
  ShuffleShape<I> shape;
  Divider<I> height, width, channels, factor;
  Divider<I> row_bytes;
  int64_t items;
  Activation activation;
  bool blur;
};

// Whether the mask passes subpixel (i, j) of a cell.
template <typename T, typename I>
__device__ __forceinline__ bool test_bit(const AnyParams<T, I>& p, I row, I w, I c, I i, I j) {
  const I r = p.shape.factor;
  const I bit = ((w * p.shape.channels + c) * r + i) * r + j;
  return ((p.mask[row * p.row_bytes.divisor + bit / 8] >> (bit % 8)) & 1) != 0;
}

template <typename T, typename I>
__device__ __forceinline__ accumulate_t<T> any_value(const AnyParams<T, I>& p, I b, I h, I w, I c,
                                                     I i, I j) {
  const accumulate_t<T> x = to_float(p.source[p.shape.coarse(b, h, w, c, i, j)]);
  switch (p.activation) {
    case Activation::none:
      return x;
    case Activation::masked:
      return test_bit(p, b * p.shape.height + h, w, c, i, j) ? x : accumulate_t<T>(0);
    default:
      return relu(x);
  }
}

// One element of the output.
template <typename T, typename I>
__global__ void __launch_bounds__(kThreads) upsample_any_kernel(const AnyParams<T, I> p) {
  I b = thread_item<I>();
  if (b >= p.items) return;
  T& out = p.destination[b];
  const I r = p.shape.factor;
  const I c = p.shape.channels_last ? take_digit(b, p.channels) : I{0};
  const I j = take_digit(b, p.factor);
  const I w = take_digit(b, p.width);
  const I i = take_digit(b, p.factor);
  const I h = take_digit(b, p.height);
  const accumulate_t<T> center = any_value(p, b, h, w, c, i, j);
  if (!p.blur) {
    out = from_float<T>(center);
    return;
  }
  const I upper_h = i > 0 || h == 0 ? h : h - 1;
  const I upper_i = i > 0 ? i - 1 : h == 0 ? I{0} : r - 1;
  const I left_w = j > 0 || w == 0 ? w : w - 1;
  const I left_j = j > 0 ? j - 1 : w == 0 ? I{0} : r - 1;
  out = from_float<T>(mean4(any_value(p, b, upper_h, left_w, c, upper_i, left_j),
                            any_value(p, b, upper_h, w, c, upper_i, j),
                            any_value(p, b, h, left_w, c, i, left_j), center));
}

// One byte of the mask.
template <typename T, typename I>
__global__ void __launch_bounds__(kThreads) mask_any_kernel(const AnyParams<T, I> p) {
  const I item = thread_item<I>();
  if (item >= p.items) return;
  I b = item;
  const I first = take_digit(b, p.row_bytes) * 8;
  const I h = take_digit(b, p.height);
  const I row_bits = p.shape.width * p.shape.channels * p.shape.factor * p.shape.factor;
  uint32_t bits = 0;
  for (int k = 0; k < 8 && first + k < row_bits; ++k) {
    I w = first + k;
    const I j = take_digit(w, p.factor);
    const I i = take_digit(w, p.factor);
    const I c = p.shape.channels_last ? take_digit(w, p.channels) : I{0};
    const T x = p.source[p.shape.coarse(b, h, w, c, i, j)];
    bits |= (passes_gradient(to_float(x)) ? 1u : 0u) << k;
  }
  p.write_mask[item] = static_cast<uint8_t>(bits);
}

// A quarter of the output's gradient, seen from one plane.
template <typename T, typename I>
struct Quarter {
  const T* plane;
  I row, column;  // strides
  __device__ __forceinline__ accumulate_t<T> operator()(I y, I x) const {
    return to_float(plane[y * row + x * column]) * accumulate_t<T>(0.25);
  }
};

// One element of the input's gradient.
template <typename T, typename I>
__global__ void __launch_bounds__(kThreads) gradient_any_kernel(const AnyParams<T, I> p) {
  I b = thread_item<I>();
  if (b >= p.items) return;
  T& out = p.destination[b];
  const I r = p.shape.factor;
  I i, j, h, w, c = 0;
  if (p.shape.channels_last) {
    j = take_digit(b, p.factor);
    i = take_digit(b, p.factor);
    c = take_digit(b, p.channels);
    w = take_digit(b, p.width);
    h = take_digit(b, p.height);
  } else {
    w = take_digit(b, p.width);
    h = take_digit(b, p.height);
    j = take_digit(b, p.factor);
    i = take_digit(b, p.factor);
  }
  const I row = b * p.shape.height + h;
  if (p.mask != nullptr && !test_bit(p, row, w, c, i, j)) {
    out = T{};
  } else if (p.blur) {
    const I height = p.shape.height * r, width = p.shape.width * r;
    const Quarter<T, I> quarter{p.source + p.shape.fine(b * height, 0, c), width * p.shape.channels,
                                p.shape.channels};
    out =
        from_float<T>(blur_gradient<accumulate_t<T>>(h * r + i, w * r + j, height, width, quarter));
  } else {
    out = p.source[p.shape.fine(row * r + i, w * r + j, c)];
  }
}

// ---- launchers

template <typename P>
int64_t numel(const P& p) {
  return p.batch * p.height * p.width * p.channels * p.factor * p.factor;
}

template <typename I, typename P>
ShuffleShape<I> shape_of(const P& p) {
  return {static_cast<I>(p.channels), static_cast<I>(p.height), static_cast<I>(p.width),
          static_cast<I>(p.factor), p.channels_last};
}

template <typename T, typename I>
struct CellKernel {
  void (*tall)(CellParams<T, I>);    // kTallRows rows a thread
  void (*single)(CellParams<T, I>);  // one
};

// Launches a kernel for factor 2. False where the sizes do not allow it.
template <typename T, typename I, typename P>
bool launch_cells(const P& params, CellParams<T, I> p, const CellKernel<T, I>& kernel,
                  cudaStream_t stream, cudaError_t& error) {
  const int64_t run = params.channels_last ? params.channels : params.width;
  constexpr int kCells = kUpsampleCells<T>;
  static_assert(kMaxItems * kCells <= 0x7fffffff && kMaxItems * kTallRows <= 0x7fffffff);
  const int64_t groups = run / kCells * (params.channels_last ? params.width : 1);
  const int64_t tall_items = params.batch * groups * ceil_div<int64_t>(params.height, kTallRows);
  const bool tall = tall_items >= kEnoughThreads;
  const int64_t items = tall ? tall_items : params.batch * groups * params.height;
  if (params.factor != 2 || run % kCells != 0 || !is_aligned(p.source, 16) ||
      !is_aligned(p.destination, 16) || !is_aligned(p.mask, kCells / 2) || items > kMaxItems) {
    return false;
  }
  p.group = Divider<int32_t>(run / kCells);
  p.pixels = Divider<int32_t>(params.width);
  p.strips = Divider<int32_t>(tall ? ceil_div<int64_t>(params.height, kTallRows) : params.height);
  p.items = static_cast<int32_t>(items);
  error = launch(tall ? kernel.tall : kernel.single, ceil_div<int64_t>(items, kThreads), kThreads,
                 stream, p);
  return true;
}

template <typename T, typename I, typename P>
AnyParams<T, I> any_params(const P& p, const void* source, void* destination) {
  return {static_cast<const T*>(source),
          static_cast<T*>(destination),
          nullptr,
          nullptr,
          shape_of<I>(p),
          Divider<I>(p.height),
          Divider<I>(p.width),
          Divider<I>(p.channels),
          Divider<I>(p.factor),
          Divider<I>(mask_row_bytes(p.width, p.channels, p.factor)),
          numel(p),
          Activation::none,
          p.blur};
}

template <typename T, typename I>
cudaError_t upsample_with(const SubpixelUpsampleParams& params, cudaStream_t stream) {
  const bool writes_mask = params.activation == Activation::relu_with_mask;
  if (params.activation != Activation::masked) {
    const CellParams<T, I> p{static_cast<const T*>(params.input),
                             static_cast<T*>(params.output),
                             writes_mask ? params.mask : nullptr,
                             nullptr,
                             static_cast<I>(params.channels),
                             static_cast<I>(params.height),
                             static_cast<I>(params.width),
                             Divider<int32_t>(1),
                             Divider<int32_t>(1),
                             Divider<int32_t>(1),
                             0,
                             params.activation != Activation::none,
                             params.blur};
    const CellKernel<T, I> kernel = params.channels_last
                                        ? CellKernel<T, I>{upsample_pixels_kernel<T, I, kTallRows>,
                                                           upsample_pixels_kernel<T, I, 1>}
                                        : CellKernel<T, I>{upsample_rows_kernel<T, I, kTallRows>,
                                                           upsample_rows_kernel<T, I, 1>};
    cudaError_t error = cudaSuccess;
    if (launch_cells(params, p, kernel, stream, error)) return error;
  }
  AnyParams<T, I> p = any_params<T, I>(params, params.input, params.output);
  p.activation = params.activation;
  p.mask = params.mask;
  const cudaError_t error =
      launch(upsample_any_kernel<T, I>, ceil_div<int64_t>(p.items, kThreads), kThreads, stream, p);
  if (error != cudaSuccess || !writes_mask) return error;
  p.write_mask = params.mask;
  p.items =
      params.batch * params.height * mask_row_bytes(params.width, params.channels, params.factor);
  return launch(mask_any_kernel<T, I>, ceil_div<int64_t>(p.items, kThreads), kThreads, stream, p);
}

template <typename T, typename I>
cudaError_t gradient_with(const SubpixelUpsampleBackwardParams& params, cudaStream_t stream) {
  const CellParams<T, I> cells{static_cast<const T*>(params.grad_output),
                               static_cast<T*>(params.grad_input),
                               nullptr,
                               params.mask,
                               static_cast<I>(params.channels),
                               static_cast<I>(params.height),
                               static_cast<I>(params.width),
                               Divider<int32_t>(1),
                               Divider<int32_t>(1),
                               Divider<int32_t>(1),
                               0,
                               false,
                               params.blur};
  const CellKernel<T, I> kernel =
      params.channels_last
          ? CellKernel<T, I>{gradient_pixels_kernel<T, I, kTallRows>,
                             gradient_pixels_kernel<T, I, 1>}
          : CellKernel<T, I>{gradient_rows_kernel<T, I, kTallRows>, gradient_rows_kernel<T, I, 1>};
  cudaError_t error = cudaSuccess;
  if (launch_cells(params, cells, kernel, stream, error)) return error;
  AnyParams<T, I> p = any_params<T, I>(params, params.grad_output, params.grad_input);
  p.mask = params.mask;
  return launch(gradient_any_kernel<T, I>, ceil_div<int64_t>(p.items, kThreads), kThreads, stream,
                p);
}

}  // namespace

cudaError_t subpixel_upsample_cuda(const SubpixelUpsampleParams& params, cudaStream_t stream) {
  if (numel(params) == 0) return cudaSuccess;
  return dispatch_floating(params.dtype, [&](auto type) {
    return dispatch_offset(numel(params), [&](auto offset) {
      return upsample_with<typename decltype(type)::type, typename decltype(offset)::type>(params,
                                                                                           stream);
    });
  });
}

cudaError_t subpixel_upsample_backward_cuda(const SubpixelUpsampleBackwardParams& params,
                                            cudaStream_t stream) {
  if (numel(params) == 0) return cudaSuccess;
  return dispatch_floating(params.dtype, [&](auto type) {
    return dispatch_offset(numel(params), [&](auto offset) {
      return gradient_with<typename decltype(type)::type, typename decltype(offset)::type>(params,
                                                                                           stream);
    });
  });
}

}  // namespace segfast
