// upsample_cells.cuh: the forward kernels for factor 2: of contiguous tensors (rows), and of
// channels_last ones (pixels).
#pragma once

#include "kernels/subpixel_upsample/cells_cuda.cuh"

namespace segfast {
namespace {

// What a thread knows of one coarse row: its cells, and b and d of the cell to the left of each.
template <typename A, int kCells>
struct CoarseRow {
  Cell<A> cell[kCells];
  A left_b[kCells], left_d[kCells];
};

// The blur of a row. above: what the row above contributes; becomes what this one does to the next.
template <int kCells, typename A>
__device__ __forceinline__ void blur_row(const CoarseRow<A, kCells>& row, Above<A> (&above)[kCells],
                                         Cell<A> (&out)[kCells]) {
#pragma unroll
  for (int v = 0; v < kCells; ++v) {
    const Cell<A>& s = row.cell[v];
    const A left_b = row.left_b[v], left_d = row.left_d[v];
    out[v] = {fused::mean(blur_terms<0>(s, above[v], left_b, left_d)),
              fused::mean(blur_terms<1>(s, above[v], left_b, left_d)),
              fused::mean(blur_terms<2>(s, above[v], left_b, left_d)),
              fused::mean(blur_terms<3>(s, above[v], left_b, left_d))};
    above[v] = above_cell(s.c, s.d, left_d);
  }
}

// Without a blur, a zero keeps its sign.
template <int kCells, typename A>
__device__ __forceinline__ void relu_cells(Cell<A> (&cells)[kCells]) {
#pragma unroll
  for (Cell<A>& s : cells) s = {relu(s.a), relu(s.b), relu(s.c), relu(s.d)};
}

// Contiguous: a, b, c and d of cells side by side, each from its plane.
template <typename T, int kCells>
struct Planes {
  Packed<T, kCells> of[4];

  template <typename I>
  __device__ __forceinline__ static Planes load(const T* address, I plane) {
    Planes planes;
#pragma unroll
    for (int i = 0; i < 4; ++i) planes.of[i] = Packed<T, kCells>::load(address + i * plane);
    return planes;
  }
  __device__ __forceinline__ void activate(bool with_relu) {
#pragma unroll
    for (Packed<T, kCells>& plane : of) plane = activated(plane, with_relu);
  }
  __device__ __forceinline__ void cells(Cell<accumulate_t<T>> (&cells)[kCells]) const {
    accumulate_t<T> s[4][kCells];
#pragma unroll
    for (int i = 0; i < 4; ++i) of[i].floats(s[i]);
#pragma unroll
    for (int v = 0; v < kCells; ++v) cells[v] = {s[0][v], s[1][v], s[2][v], s[3][v]};
  }
};

// The k-th of a thread's coarse rows.
template <int kCells, typename T, typename I, typename P>
__device__ __forceinline__ void store_row(const CellParams<T, I>& p, const P& at, int k,
                                          const Planes<T, kCells>& planes,
                                          const Cell<accumulate_t<T>> (&cells)[kCells]) {
  accumulate_t<T> fine[2][2 * kCells];
#pragma unroll
  for (int v = 0; v < kCells; ++v) {
    fine[0][2 * v] = cells[v].a;
    fine[0][2 * v + 1] = cells[v].b;
    fine[1][2 * v] = cells[v].c;
    fine[1][2 * v + 1] = cells[v].d;
  }
  T* const out = p.destination + at.fine(p) + k * 4 * p.width;
  vec_from_floats<T>(fine[0]).store(out);
  vec_from_floats<T>(fine[1]).store(out + 2 * p.width);
  if (p.write_mask != nullptr) {
    PassingBits<T> passing;
#pragma unroll
    for (int i = 0; i < 4; ++i) passing.add(planes.of[i], i, 4);
    passing.store(p.write_mask + (at.number(p) >> 1) + k * (p.width >> 1));
  }
}

template <typename T, typename I, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocks<T, I>)
    upsample_rows_kernel(const CellParams<T, I> p) {
  using A = accumulate_t<T>;
  constexpr int kCells = kUpsampleCells<T>;
  const int32_t item = thread_item<int32_t>();
  if (item >= p.items) return;
  const Place<false, kCells, kRows> at(p, item);
  const I plane = p.height * p.width;
  const T* const address = p.source + at.coarse(p);

  // All loads before the first use. Beyond the map's edges stand the edge's own values: a for b of
  // the cell to the left and for c of the cell above, and so on.
  Planes<T, kCells> own[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    own[k] = Planes<T, kCells>::load(address + at.row_offset(k, p.width), plane);
  }
  if (!p.blur) {
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (!at.has_row(k)) break;
      Cell<A> cells[kCells];
      own[k].cells(cells);
      if (p.relu) relu_cells(cells);
      store_row(p, at, k, own[k], cells);
    }
    return;
  }
  const I to_left = at.w > 0 ? plane - 1 : I{0};  // from a to b of the cell to the left
  Packed<T, 2> left[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const T* const row = address + at.row_offset(k, p.width);
    left[k] = packed_pair(row[to_left], row[to_left + 2 * plane]);
  }
  const T* const upper = address + (at.h > 0 ? 2 * plane - p.width : I{0});
  const auto above_c = Packed<T, kCells>::load(upper);
  const auto above_d = Packed<T, kCells>::load(upper + plane);
  const Packed<T, 2> corner = packed_pair(upper[to_left], T{});

  A c[kCells], d[kCells], before[2];
  activated(above_c, p.relu).floats(c);
  activated(above_d, p.relu).floats(d);
  activated(corner, p.relu).floats(before);
  Above<A> above[kCells];
#pragma unroll
  for (int v = 0; v < kCells; ++v) above[v] = above_cell(c[v], d[v], v > 0 ? d[v - 1] : before[0]);
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    if (!at.has_row(k)) break;
    CoarseRow<A, kCells> row;
    own[k].activate(p.relu);
    own[k].cells(row.cell);
    activated(left[k], p.relu).floats(before);
    row.left_b[0] = before[0];
    row.left_d[0] = before[1];
#pragma unroll
    for (int v = 1; v < kCells; ++v) {
      row.left_b[v] = row.cell[v - 1].b;
      row.left_d[v] = row.cell[v - 1].d;
    }
    Cell<A> cells[kCells];
    blur_row(row, above, cells);
    store_row(p, at, k, own[k], cells);
  }
}

// channels_last: some cells of one pixel.
template <int kCells, typename A>
__device__ __forceinline__ void cells_of(const A (&s)[4 * kCells], Cell<A> (&cells)[kCells]) {
#pragma unroll
  for (int v = 0; v < kCells; ++v) cells[v] = {s[4 * v], s[4 * v + 1], s[4 * v + 2], s[4 * v + 3]};
}

// The k-th of a thread's pixels.
template <int kCells, typename T, typename I, typename P>
__device__ __forceinline__ void store_pixel(const CellParams<T, I>& p, const P& at, int k,
                                            const Packed<T, 4 * kCells>& pixel,
                                            const Cell<accumulate_t<T>> (&cells)[kCells]) {
  accumulate_t<T> fine[4][kCells];
#pragma unroll
  for (int v = 0; v < kCells; ++v) {
    fine[0][v] = cells[v].a;
    fine[1][v] = cells[v].b;
    fine[2][v] = cells[v].c;
    fine[3][v] = cells[v].d;
  }
  const I row_cells = p.width * p.channels;
  T* const out = p.destination + at.fine(p) + k * 4 * row_cells;
  T* const next = out + 2 * row_cells;
  vec_from_floats<T>(fine[0]).store(out);
  vec_from_floats<T>(fine[1]).store(out + p.channels);
  vec_from_floats<T>(fine[2]).store(next);
  vec_from_floats<T>(fine[3]).store(next + p.channels);
  if (p.write_mask != nullptr) {
    PassingBits<T> passing;
    passing.add(pixel, 0, 1);
    passing.store(p.write_mask + (at.number(p) >> 1) + k * (row_cells >> 1));
  }
}

template <typename T, typename I, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocks<T, I>)
    upsample_pixels_kernel(const CellParams<T, I> p) {
  using A = accumulate_t<T>;
  constexpr int kCells = kUpsampleCells<T>;
  using Pixel = Packed<T, 4 * kCells>;
  const int32_t item = thread_item<int32_t>();
  if (item >= p.items) return;
  const Place<true, kCells, kRows> at(p, item);
  const I pixel = p.channels * 4, row_length = p.width * pixel;
  const T* const address = p.source + at.coarse(p);

  // Loads and edges as above.
  Pixel own[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    own[k] = Pixel::load(address + at.row_offset(k, row_length));
  }
  if (!p.blur) {
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (!at.has_row(k)) break;
      A s[4 * kCells];
      own[k].floats(s);
      Cell<A> cells[kCells];
      cells_of(s, cells);
      if (p.relu) relu_cells(cells);
      store_pixel(p, at, k, own[k], cells);
    }
    return;
  }
  const bool top = at.h == 0, first = at.w == 0;
  const I to_left = first ? I{0} : pixel;
  Pixel left[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    left[k] = Pixel::load(address + at.row_offset(k, row_length) - to_left);
  }
  const T* const upper = address - (top ? I{0} : row_length);
  const Pixel upper_own = Pixel::load(upper), upper_left = Pixel::load(upper - to_left);

  A cd[2 * kCells], corner[kCells];
  activated(lower_pairs(upper_own, top), p.relu).floats(cd);
  activated(odds_of(lower_pairs(upper_left, top), first), p.relu).floats(corner);
  Above<A> above[kCells];
#pragma unroll
  for (int v = 0; v < kCells; ++v) above[v] = above_cell(cd[2 * v], cd[2 * v + 1], corner[v]);
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    if (!at.has_row(k)) break;
    A s[4 * kCells], bd[2 * kCells];
    own[k] = activated(own[k], p.relu);
    own[k].floats(s);
    activated(odds_of(left[k], first), p.relu).floats(bd);
    CoarseRow<A, kCells> row;
    cells_of(s, row.cell);
#pragma unroll
    for (int v = 0; v < kCells; ++v) {
      row.left_b[v] = bd[2 * v];
      row.left_d[v] = bd[2 * v + 1];
    }
    Cell<A> cells[kCells];
    blur_row(row, above, cells);
    store_pixel(p, at, k, own[k], cells);
  }
}

}  // namespace
}  // namespace segfast
