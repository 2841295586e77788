// subpixel_upsample_cuda.cu: a thread reads its cells and what borders on them, and writes its part
// of either tensor once: no shared memory, no atomics, no second pass.
//
// Factor 2: a thread takes some cells side by side (along the width in contiguous tensors, along
// the channels in channels_last ones) in two rows, so that what it has of one row it need not load
// for the next. A fast kernel fills 16 bytes of what it writes, or 8 in each of four places. any:
// other factors, odd sizes, masks that are given to the forward pass; one element a thread, and a
// second kernel for the mask.
//
// On an H200, maps [16, 64, 360, 480] in bfloat16: 83 and 82 % of a copy's speed forward
// (contiguous, channels_last), 85 and 65 % backward; float32 94, 97, 95 and 89 %. What bfloat16
// lacks are instructions: rounding, and unpacking two numbers a word (predicted.md: 128 to 148 of
// 170 us).
#include "common/dispatch.h"
#include "common/divider.h"
#include "common/vec.h"
#include "kernels/pixel_shuffle/pixel_shuffle_math.h"
#include "kernels/subpixel_upsample/subpixel_upsample.h"
#include "kernels/subpixel_upsample/subpixel_upsample_math.h"

namespace segfast {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxItems = 0x7fffffff - kThreads;  // no item number overflows
constexpr int kTallRows = 2;
// Threads that fill the largest GPUs. With fewer, a thread takes one row in place of kTallRows.
#if defined(SEGFAST_HOST_RUN)
constexpr int64_t kEnoughThreads = 1 << 6;  // so that small tests reach both
#else
constexpr int64_t kEnoughThreads = 1 << 18;
#endif

// In 16-byte accesses, or one smaller one.
template <typename T, int N>
__device__ __forceinline__ void load_array(const T* address, T (&values)[N]) {
  constexpr int kStep = N < kVec16<T> ? N : kVec16<T>;
#pragma unroll
  for (int first = 0; first < N; first += kStep) {
    const Vec<T, kStep> part = Vec<T, kStep>::load(address + first);
#pragma unroll
    for (int k = 0; k < kStep; ++k) values[first + k] = part.at[k];
  }
}

template <typename T, int N>
__device__ __forceinline__ void store_array(T* address, const T (&values)[N]) {
  constexpr int kStep = N < kVec16<T> ? N : kVec16<T>;
#pragma unroll
  for (int first = 0; first < N; first += kStep) {
    Vec<T, kStep> part;
#pragma unroll
    for (int k = 0; k < kStep; ++k) part.at[k] = values[first + k];
    part.store(address + first);
  }
}

template <typename T, int N>
__device__ __forceinline__ void store_rounded(T* address, const accumulate_t<T> (&values)[N]) {
  constexpr int kStep = N < kVec16<T> ? N : kVec16<T>;
#pragma unroll
  for (int first = 0; first < N; first += kStep) {
    accumulate_t<T> part[kStep];
#pragma unroll
    for (int k = 0; k < kStep; ++k) part[k] = values[first + k];
    vec_from_floats<T>(part).store(address + first);
  }
}

// Offsets need I; items are counted in 32 bits.
template <typename T, typename I>
struct CellParams {
  const T* source;      // input, or grad_output
  T* destination;       // output, or grad_input
  uint8_t* write_mask;  // forward, or nullptr
  const uint8_t* mask;  // backward, or nullptr
  ShuffleShape<I> shape;
  Divider<int32_t> group;   // groups of kCells in a row (contiguous) or in a pixel (channels_last)
  Divider<int32_t> width;   // channels_last alone
  Divider<int32_t> strips;  // groups of kRows rows in a map
  int32_t items;
  bool relu, blur;
};

// Cells side by side of one thread, and where they lie.
template <typename T>
constexpr int kUpsampleCells = sizeof(T) >= 4 ? 2 : 4;  // whole bytes of the mask: 4 bits a cell

template <int kCells, int kRows>
struct Place {
  int32_t b, h, w, c;

  template <typename P>
  __device__ __forceinline__ Place(const P& p, int32_t item) {
    const int32_t rest = p.group.divide(item);
    const int32_t first = p.group.remainder(item, rest) * kCells;
    int32_t strip = rest;
    w = first;
    c = 0;
    if (p.shape.channels_last) {
      strip = p.width.divide(rest);
      w = p.width.remainder(rest, strip);
      c = first;
    }
    b = p.strips.divide(strip);
    h = p.strips.remainder(strip, b) * kRows;
  }
};

// ---- forward

// What a thread knows of one coarse row: its cells, and b and d of the cell to the left.
template <typename T, int kCells>
struct CoarseRow {
  Cell<T> cell[kCells];
  T left_b, left_d;
};

// Contiguous: cells w... of row (b, h). corners: also the cell to the left.
template <int kCells, typename T, typename I>
__device__ __forceinline__ CoarseRow<T, kCells> load_row(const CellParams<T, I>& p,
                                                         const T* address, int32_t w,
                                                         bool corners) {
  const I plane = p.shape.height * p.shape.width;
  CoarseRow<T, kCells> row;
  T s[4][kCells];
#pragma unroll
  for (int k = 0; k < 4; ++k) load_array(address + k * plane, s[k]);
#pragma unroll
  for (int k = 0; k < kCells; ++k) row.cell[k] = {s[0][k], s[1][k], s[2][k], s[3][k]};
  if (corners && w > 0) {
    row.left_b = address[plane - 1];
    row.left_d = address[3 * plane - 1];
  } else {
    row.left_b = s[0][0];
    row.left_d = s[2][0];
  }
  return row;
}

template <int kCells, typename A>
__device__ __forceinline__ void blur_row(Cell<A> (&out)[kCells], const CoarseRow<A, kCells>& row,
                                         const CoarseRow<A, kCells>& above, bool top) {
#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    const Cell<A> s = row.cell[k];
    const A left_b = k > 0 ? row.cell[k > 0 ? k - 1 : 0].b : row.left_b;
    const A left_d = k > 0 ? row.cell[k > 0 ? k - 1 : 0].d : row.left_d;
    const A above_d = k > 0 ? above.cell[k > 0 ? k - 1 : 0].d : above.left_d;
    out[k] = blur_cell(s, top ? s.a : above.cell[k].c, top ? s.b : above.cell[k].d, left_b, left_d,
                       top ? left_b : above_d);
  }
}

template <typename T>
__device__ __forceinline__ accumulate_t<T> activated(T value, bool with_relu) {
  const accumulate_t<T> x = to_float(value);
  return with_relu ? relu(x) : x;
}

template <int kCells, typename T>
__device__ __forceinline__ CoarseRow<accumulate_t<T>, kCells> activated(
    const CoarseRow<T, kCells>& row, bool with_relu) {
  CoarseRow<accumulate_t<T>, kCells> result;
#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    const Cell<T>& s = row.cell[k];
    result.cell[k] = {activated(s.a, with_relu), activated(s.b, with_relu),
                      activated(s.c, with_relu), activated(s.d, with_relu)};
  }
  result.left_b = activated(row.left_b, with_relu);
  result.left_d = activated(row.left_d, with_relu);
  return result;
}

template <int kCells, typename T>
__device__ __forceinline__ uint32_t mask_bits(const CoarseRow<T, kCells>& row) {
  uint32_t bits = 0;
#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    const Cell<T>& s = row.cell[k];
    bits |= (passes_gradient(to_float(s.a)) ? 1u : 0u) << (4 * k);
    bits |= (passes_gradient(to_float(s.b)) ? 2u : 0u) << (4 * k);
    bits |= (passes_gradient(to_float(s.c)) ? 4u : 0u) << (4 * k);
    bits |= (passes_gradient(to_float(s.d)) ? 8u : 0u) << (4 * k);
  }
  return bits;
}

template <int kCells>
__device__ __forceinline__ void store_bits(uint8_t* address, uint32_t bits) {
  if constexpr (kCells == 4) {
    __stcs(reinterpret_cast<uint16_t*>(address), static_cast<uint16_t>(bits));
  } else {
    __stcs(address, static_cast<uint8_t>(bits));
  }
}

template <typename T, typename I, int kRows>
__global__ void __launch_bounds__(kThreads) upsample_rows_kernel(const CellParams<T, I> p) {
  using A = accumulate_t<T>;
  constexpr int kCells = kUpsampleCells<T>;
  const int32_t item =
      static_cast<int32_t>(blockIdx.x) * kThreads + static_cast<int32_t>(threadIdx.x);
  if (item >= p.items) return;
  const Place<kCells, kRows> at(p, item);
  const I height = p.shape.height, width = p.shape.width;
  const T* address = p.source + p.shape.coarse(at.b, at.h, at.w, 0, 0, 0);

  // All loads before the first use. Row k is row at.h - 1 + k of the map; beyond its end, row at.h.
  CoarseRow<T, kCells> loaded[kRows + 1];
  const bool top = at.h == 0;
#pragma unroll
  for (int k = 1; k <= kRows; ++k) {
    const bool within = at.h + k - 1 < height;
    loaded[k] = load_row<kCells>(p, within ? address + (k - 1) * width : address, at.w, p.blur);
  }
  loaded[0] = p.blur && !top ? load_row<kCells>(p, address - width, at.w, true) : loaded[1];

  CoarseRow<A, kCells> above = activated(loaded[0], p.relu);
#pragma unroll
  for (int k = 1; k <= kRows; ++k) {
    if (at.h + k - 1 >= height) break;
    const CoarseRow<A, kCells> row = activated(loaded[k], p.relu);
    Cell<A> cells[kCells];
    if (p.blur) {
      blur_row(cells, row, above, top && k == 1);
    } else {
#pragma unroll
      for (int v = 0; v < kCells; ++v) cells[v] = row.cell[v];
    }
    above = row;
    A fine[2][2 * kCells];
#pragma unroll
    for (int v = 0; v < kCells; ++v) {
      fine[0][2 * v] = cells[v].a;
      fine[0][2 * v + 1] = cells[v].b;
      fine[1][2 * v] = cells[v].c;
      fine[1][2 * v + 1] = cells[v].d;
    }
    const I coarse_row = at.b * height + at.h + (k - 1);
    T* out = p.destination + p.shape.fine(coarse_row * 2, I{at.w} * 2, 0);
    store_rounded(out, fine[0]);
    store_rounded(out + 2 * width, fine[1]);
    if (p.write_mask != nullptr) {
      store_bits<kCells>(p.write_mask + (coarse_row * width + at.w) / 2, mask_bits(loaded[k]));
    }
  }
}

// channels_last: channels c... of pixel (b, h, w).
template <int kCells, typename T>
__device__ __forceinline__ CoarseRow<T, kCells> load_pixel(const T* address) {
  T s[4 * kCells];
  load_array(address, s);
  CoarseRow<T, kCells> row;
#pragma unroll
  for (int k = 0; k < kCells; ++k)
    row.cell[k] = {s[4 * k], s[4 * k + 1], s[4 * k + 2], s[4 * k + 3]};
  return row;
}

template <typename T, typename I, int kRows>
__global__ void __launch_bounds__(kThreads) upsample_pixels_kernel(const CellParams<T, I> p) {
  using A = accumulate_t<T>;
  constexpr int kCells = kUpsampleCells<T>;
  const int32_t item =
      static_cast<int32_t>(blockIdx.x) * kThreads + static_cast<int32_t>(threadIdx.x);
  if (item >= p.items) return;
  const Place<kCells, kRows> at(p, item);
  const I height = p.shape.height, width = p.shape.width, channels = p.shape.channels;
  const T* address = p.source + p.shape.coarse(at.b, at.h, at.w, at.c, 0, 0);
  const I row_stride = width * channels * 4;
  const I to_left = at.w > 0 ? channels * 4 : 0;

  CoarseRow<T, kCells> own[kRows + 1], left[kRows + 1];
  const bool top = at.h == 0;
#pragma unroll
  for (int k = 1; k <= kRows; ++k) {
    const T* row = at.h + k - 1 < height ? address + (k - 1) * row_stride : address;
    own[k] = load_pixel<kCells>(row);
    left[k] = p.blur ? load_pixel<kCells>(row - to_left) : own[k];
  }
  const T* row = top ? address : address - row_stride;
  own[0] = p.blur ? load_pixel<kCells>(row) : own[1];
  left[0] = p.blur ? load_pixel<kCells>(row - to_left) : own[1];

#pragma unroll
  for (int k = 1; k <= kRows; ++k) {
    if (at.h + k - 1 >= height) break;
    A fine[4][kCells];
#pragma unroll
    for (int v = 0; v < kCells; ++v) {
      const Cell<T>& s = own[k].cell[v];
      Cell<A> cell{activated(s.a, p.relu), activated(s.b, p.relu), activated(s.c, p.relu),
                   activated(s.d, p.relu)};
      if (p.blur) {
        const bool first_row = top && k == 1;
        const Cell<T>& l = left[k].cell[v];
        const Cell<T>& u = own[k - 1].cell[v];
        const Cell<T>& ul = left[k - 1].cell[v];
        const A left_b = activated(at.w > 0 ? l.b : s.a, p.relu);
        const A left_d = activated(at.w > 0 ? l.d : s.c, p.relu);
        const A upper_c = first_row ? cell.a : activated(u.c, p.relu);
        const A upper_d = first_row ? cell.b : activated(u.d, p.relu);
        const A corner = first_row ? left_b : activated(at.w > 0 ? ul.d : u.c, p.relu);
        cell = blur_cell(cell, upper_c, upper_d, left_b, left_d, corner);
      }
      fine[0][v] = cell.a;
      fine[1][v] = cell.b;
      fine[2][v] = cell.c;
      fine[3][v] = cell.d;
    }
    const I coarse_row = at.b * height + at.h + (k - 1);
    T* out = p.destination + p.shape.fine(coarse_row * 2, I{at.w} * 2, at.c);
    store_rounded(out, fine[0]);
    store_rounded(out + channels, fine[1]);
    store_rounded(out + 2 * width * channels, fine[2]);
    store_rounded(out + (2 * width + 1) * channels, fine[3]);
    if (p.write_mask != nullptr) {
      const I cell = (coarse_row * width + at.w) * channels + at.c;
      store_bits<kCells>(p.write_mask + cell / 2, mask_bits(own[k]));
    }
  }
}

// ---- backward

// The bits of kCells cells; all ones without a mask. `cell` counts them from the mask's start.
template <int kCells, typename I>
__device__ __forceinline__ uint32_t load_bits(const uint8_t* mask, I cell) {
  if (mask == nullptr) return ~0u;
  if constexpr (kCells == 4) {
    return __ldcs(reinterpret_cast<const uint16_t*>(mask + cell / 2));
  } else {
    return __ldcs(mask + cell / 2);
  }
}

template <typename T>
__device__ __forceinline__ Cell<T> masked(Cell<T> s, uint32_t bits) {
  return {(bits & 1u) != 0 ? s.a : T{}, (bits & 2u) != 0 ? s.b : T{}, (bits & 4u) != 0 ? s.c : T{},
          (bits & 8u) != 0 ? s.d : T{}};
}

// The input's gradient of one cell; grad: the output's at its four elements, at the column to the
// right and at the row below.
template <typename T>
__device__ __forceinline__ Cell<T> cell_gradient(const T (&grad)[3][3], bool blur, bool top,
                                                 bool left, uint32_t bits) {
  using A = accumulate_t<T>;
  Cell<T> result{grad[0][0], grad[0][1], grad[1][0], grad[1][1]};
  if (blur) {
    A q[3][3];
#pragma unroll
    for (int y = 0; y < 3; ++y) {
#pragma unroll
      for (int x = 0; x < 3; ++x) q[y][x] = to_float(grad[y][x]) * A(0.25);
    }
    Cell<A> s;
    if (top) {
      s = left ? blur_gradient_cell<true, true>(q) : blur_gradient_cell<true, false>(q);
    } else {
      s = left ? blur_gradient_cell<false, true>(q) : blur_gradient_cell<false, false>(q);
    }
    result = {from_float<T>(s.a), from_float<T>(s.b), from_float<T>(s.c), from_float<T>(s.d)};
  }
  return masked(result, bits);
}

template <typename T, typename I, int kRows>
__global__ void __launch_bounds__(kThreads) gradient_rows_kernel(const CellParams<T, I> p) {
  constexpr int kCells = kUpsampleCells<T>;
  const int32_t item =
      static_cast<int32_t>(blockIdx.x) * kThreads + static_cast<int32_t>(threadIdx.x);
  if (item >= p.items) return;
  const Place<kCells, kRows> at(p, item);
  const I height = p.shape.height, width = p.shape.width;
  const I first_row = at.b * height + at.h;
  const T* address = p.source + p.shape.fine(first_row * 2, I{at.w} * 2, 0);

  T grad[2 * kRows + 1][2 * kCells + 1];
#pragma unroll
  for (int k = 0; k <= 2 * kRows; ++k) {
    T(&row)[2 * kCells + 1] = grad[k];
    const bool within = at.h * 2 + k < height * 2;
    T values[2 * kCells] = {};
    if (within && (p.blur || k < 2 * kRows)) load_array(address + k * width * 2, values);
#pragma unroll
    for (int x = 0; x < 2 * kCells; ++x) row[x] = values[x];
    const bool beyond = !p.blur || !within || at.w + kCells >= width;
    row[2 * kCells] = beyond ? T{} : address[k * width * 2 + 2 * kCells];
  }

#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    if (at.h + k >= height) break;
    const uint32_t bits = load_bits<kCells>(p.mask, (first_row + k) * width + at.w);
    T s[4][kCells];
#pragma unroll
    for (int v = 0; v < kCells; ++v) {
      T around[3][3];
#pragma unroll
      for (int y = 0; y < 3; ++y) {
#pragma unroll
        for (int x = 0; x < 3; ++x) around[y][x] = grad[2 * k + y][2 * v + x];
      }
      const Cell<T> cell =
          cell_gradient(around, p.blur, at.h + k == 0, at.w + v == 0, bits >> (4 * v));
      s[0][v] = cell.a;
      s[1][v] = cell.b;
      s[2][v] = cell.c;
      s[3][v] = cell.d;
    }
    T* out = p.destination + p.shape.coarse(at.b, at.h + k, at.w, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < 4; ++i) store_array(out + i * height * width, s[i]);
  }
}

template <typename T, typename I, int kRows>
__global__ void __launch_bounds__(kThreads) gradient_pixels_kernel(const CellParams<T, I> p) {
  constexpr int kCells = kUpsampleCells<T>;
  const int32_t item =
      static_cast<int32_t>(blockIdx.x) * kThreads + static_cast<int32_t>(threadIdx.x);
  if (item >= p.items) return;
  const Place<kCells, kRows> at(p, item);
  const I height = p.shape.height, width = p.shape.width, channels = p.shape.channels;
  const I first_row = at.b * height + at.h;
  const T* address = p.source + p.shape.fine(first_row * 2, I{at.w} * 2, at.c);

  T grad[2 * kRows + 1][3][kCells];
#pragma unroll
  for (int k = 0; k <= 2 * kRows; ++k) {
#pragma unroll
    for (int x = 0; x < 3; ++x) {
      const bool needed = p.blur || (k < 2 * kRows && x < 2);
      const bool within = at.h * 2 + k < height * 2 && at.w * 2 + x < width * 2;
      T values[kCells] = {};
      if (needed && within) load_array(address + x * channels, values);
#pragma unroll
      for (int v = 0; v < kCells; ++v) grad[k][x][v] = values[v];
    }
    address += width * 2 * channels;
  }

#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    if (at.h + k >= height) break;
    const uint32_t bits =
        load_bits<kCells>(p.mask, ((first_row + k) * width + at.w) * channels + at.c);
    T s[4 * kCells];
#pragma unroll
    for (int v = 0; v < kCells; ++v) {
      T around[3][3];
#pragma unroll
      for (int y = 0; y < 3; ++y) {
#pragma unroll
        for (int x = 0; x < 3; ++x) around[y][x] = grad[2 * k + y][x][v];
      }
      const Cell<T> cell = cell_gradient(around, p.blur, at.h + k == 0, at.w == 0, bits >> (4 * v));
      s[4 * v] = cell.a;
      s[4 * v + 1] = cell.b;
      s[4 * v + 2] = cell.c;
      s[4 * v + 3] = cell.d;
    }
    store_array(p.destination + p.shape.coarse(at.b, at.h + k, at.w, at.c, 0, 0), s);
  }
}

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

template <typename I>
__device__ __forceinline__ I thread_item() {
  return static_cast<I>(blockIdx.x) * kThreads + static_cast<I>(threadIdx.x);
}

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
  const int64_t groups = run / kCells * (params.channels_last ? params.width : 1);
  const int64_t tall_items = params.batch * groups * ceil_div<int64_t>(params.height, kTallRows);
  const bool tall = tall_items >= kEnoughThreads;
  const int64_t items = tall ? tall_items : params.batch * groups * params.height;
  if (params.factor != 2 || run % kCells != 0 || !is_aligned(p.source, 16) ||
      !is_aligned(p.destination, 16) || !is_aligned(p.mask, kCells / 2) || items > kMaxItems) {
    return false;
  }
  p.group = Divider<int32_t>(run / kCells);
  p.width = Divider<int32_t>(params.width);
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
                             shape_of<I>(params),
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
                               shape_of<I>(params),
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
