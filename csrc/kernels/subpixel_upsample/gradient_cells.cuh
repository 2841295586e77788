// gradient_cells.cuh: the backward kernels for factor 2: of contiguous tensors (rows), and of
// channels_last ones (pixels).
#pragma once

#include "kernels/subpixel_upsample/cells_cuda.cuh"

namespace segfast {
namespace {

// The mask's bits of a thread's rows; all ones without a mask. row_cells: cells of a row.
template <int kCells, int kRows, typename T, typename I, typename P>
__device__ __forceinline__ void load_bits(const CellParams<T, I>& p, const P& at, I row_cells,
                                          uint32_t (&bits)[kRows]) {
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    bits[k] = ~0u;
    if (p.mask != nullptr) {
      const uint8_t* const address =
          p.mask + (at.number(p) >> 1) + at.row_offset(k, row_cells >> 1);
      if constexpr (kCells == 4) {
        bits[k] = __ldcs(reinterpret_cast<const uint16_t*>(address));
      } else {
        bits[k] = __ldcs(address);
      }
    }
  }
}

template <typename A>
__device__ __forceinline__ Cell<A> masked(Cell<A> s, uint32_t bits) {
  return {(bits & 1u) != 0 ? s.a : A{}, (bits & 2u) != 0 ? s.b : A{}, (bits & 4u) != 0 ? s.c : A{},
          (bits & 8u) != 0 ? s.d : A{}};
}

// As blur_fused_math.h takes them: quarters, but of 16 bits the elements.
template <typename T, int N>
__device__ __forceinline__ void gradients_of(const Packed<T, N>& x, accumulate_t<T> (&g)[N]) {
  x.floats(g);
  if constexpr (sizeof(T) != 2) {
#pragma unroll
    for (T& grad : g) grad *= T(0.25);
  }
}

// The gradients of cells, of which the first kFirst lie in the map's first column if `first`.
template <typename T, int kFirst, int kCells, typename A>
__device__ __forceinline__ void blur_gradients(const A (&g)[kCells][3][3], bool top, bool first,
                                               Cell<A> (&cells)[kCells]) {
  constexpr bool kNarrow = sizeof(T) == 2;
  if (!top && !first) {  // one branch for all: in most threads
#pragma unroll
    for (int v = 0; v < kCells; ++v) cells[v] = fused::inner_gradient<kNarrow>(g[v]);
  } else {
#pragma unroll
    for (int v = 0; v < kCells; ++v) {
      cells[v] = fused::blur_gradient_cell<kNarrow>(g[v], top, v < kFirst && first);
    }
  }
}

// Contiguous: the k-th of a thread's coarse rows.
template <int kCells, typename T, typename I, typename P>
__device__ __forceinline__ void store_gradient_row(const CellParams<T, I>& p, const P& at, int k,
                                                   const Cell<accumulate_t<T>> (&cells)[kCells],
                                                   uint32_t bits) {
  accumulate_t<T> s[4][kCells];
#pragma unroll
  for (int v = 0; v < kCells; ++v) {
    const Cell<accumulate_t<T>> cell = masked(cells[v], bits >> (4 * v));
    s[0][v] = cell.a;
    s[1][v] = cell.b;
    s[2][v] = cell.c;
    s[3][v] = cell.d;
  }
  T* const out = p.destination + at.coarse(p) + k * p.width;
#pragma unroll
  for (int i = 0; i < 4; ++i) vec_from_floats<T>(s[i]).store(out + i * p.height * p.width);
}

template <typename T, typename I, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocks<T, I>)
    gradient_rows_kernel(const CellParams<T, I> p) {
  using A = accumulate_t<T>;
  constexpr int kCells = kUpsampleCells<T>;
  using Row = Packed<T, 2 * kCells>;
  const int32_t item = thread_item<int32_t>();
  if (item >= p.items) return;
  const Place<false, kCells, kRows> at(p, item);
  const I row_length = p.width * 2;
  const T* const address = p.source + at.fine(p);
  uint32_t bits[kRows];
  load_bits<kCells>(p, at, p.width, bits);

  if (!p.blur) {
    Row own[2 * kRows];
#pragma unroll
    for (int k = 0; k < 2 * kRows; ++k) {
      own[k] = Row::load_if(at.has_row(k / 2), address + k * row_length);
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (!at.has_row(k)) break;
      A upper[2 * kCells], lower[2 * kCells];
      own[2 * k].floats(upper);
      own[2 * k + 1].floats(lower);
      Cell<A> cells[kCells];
#pragma unroll
      for (int v = 0; v < kCells; ++v) {
        cells[v] = {upper[2 * v], upper[2 * v + 1], lower[2 * v], lower[2 * v + 1]};
      }
      store_gradient_row(p, at, k, cells, bits[k]);
    }
    return;
  }

  // All loads before the first use; zeros beyond the map.
  Row own[2 * kRows + 1];
  T right[2 * kRows + 1];
  const bool has_right = at.w + kCells < p.width;
#pragma unroll
  for (int k = 0; k <= 2 * kRows; ++k) {
    const T* const row = address + k * row_length;
    own[k] = Row::load_if(at.has_row(k / 2), row);
    right[k] = at.has_row(k / 2) && has_right ? row[2 * kCells] : T{};
  }
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    if (!at.has_row(k)) break;
    A g[kCells][3][3];
#pragma unroll
    for (int y = 0; y < 3; ++y) {
      A row[2 * kCells], beside[2];
      gradients_of(own[2 * k + y], row);
      gradients_of(packed_pair(right[2 * k + y], T{}), beside);
#pragma unroll
      for (int v = 0; v < kCells; ++v) {
        g[v][y][0] = row[2 * v];
        g[v][y][1] = row[2 * v + 1];
        g[v][y][2] = v + 1 < kCells ? row[(2 * v + 2) % (2 * kCells)] : beside[0];
      }
    }
    Cell<A> cells[kCells];
    blur_gradients<T, 1>(g, k == 0 && at.h == 0, at.w == 0, cells);
    store_gradient_row(p, at, k, cells, bits[k]);
  }
}

// channels_last: the k-th of a thread's pixels.
template <int kCells, typename T, typename I, typename P>
__device__ __forceinline__ void store_gradient_pixel(const CellParams<T, I>& p, const P& at, int k,
                                                     const Cell<accumulate_t<T>> (&cells)[kCells],
                                                     uint32_t bits) {
  accumulate_t<T> s[4 * kCells];
#pragma unroll
  for (int v = 0; v < kCells; ++v) {
    const Cell<accumulate_t<T>> cell = masked(cells[v], bits >> (4 * v));
    s[4 * v] = cell.a;
    s[4 * v + 1] = cell.b;
    s[4 * v + 2] = cell.c;
    s[4 * v + 3] = cell.d;
  }
  vec_from_floats<T>(s).store(p.destination + at.coarse(p) + k * 4 * p.width * p.channels);
}

template <typename T, typename I, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocks<T, I>)
    gradient_pixels_kernel(const CellParams<T, I> p) {
  using A = accumulate_t<T>;
  constexpr int kCells = kUpsampleCells<T>;
  using Channels = Packed<T, kCells>;
  const int32_t item = thread_item<int32_t>();
  if (item >= p.items) return;
  const Place<true, kCells, kRows> at(p, item);
  const I row_length = p.width * 2 * p.channels;
  const T* const address = p.source + at.fine(p);
  uint32_t bits[kRows];
  load_bits<kCells>(p, at, p.width * p.channels, bits);

  if (!p.blur) {
    Channels own[2 * kRows][2];
#pragma unroll
    for (int k = 0; k < 2 * kRows; ++k) {
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        own[k][x] = Channels::load_if(at.has_row(k / 2), address + k * row_length + x * p.channels);
      }
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (!at.has_row(k)) break;
      A s[4][kCells];
#pragma unroll
      for (int i = 0; i < 4; ++i) own[2 * k + i / 2][i % 2].floats(s[i]);
      Cell<A> cells[kCells];
#pragma unroll
      for (int v = 0; v < kCells; ++v) cells[v] = {s[0][v], s[1][v], s[2][v], s[3][v]};
      store_gradient_pixel(p, at, k, cells, bits[k]);
    }
    return;
  }

  // All loads before the first use; zeros beyond the map.
  Channels own[2 * kRows + 1][3];
  const bool has_right = at.w + 1 < p.width;
#pragma unroll
  for (int k = 0; k <= 2 * kRows; ++k) {
#pragma unroll
    for (int x = 0; x < 3; ++x) {
      own[k][x] = Channels::load_if(at.has_row(k / 2) && (x < 2 || has_right),
                                    address + k * row_length + x * p.channels);
    }
  }
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    if (!at.has_row(k)) break;
    A g[kCells][3][3];
#pragma unroll
    for (int y = 0; y < 3; ++y) {
#pragma unroll
      for (int x = 0; x < 3; ++x) {
        A channels[kCells];
        gradients_of(own[2 * k + y][x], channels);
#pragma unroll
        for (int v = 0; v < kCells; ++v) g[v][y][x] = channels[v];
      }
    }
    Cell<A> cells[kCells];
    blur_gradients<T, kCells>(g, k == 0 && at.h == 0, at.w == 0, cells);
    store_gradient_pixel(p, at, k, cells, bits[k]);
  }
}

}  // namespace
}  // namespace segfast
