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
#include "common/divider.h"
#include "common/scalar_math.h"
#include "kernels/pixel_shuffle/pixel_shuffle_math.h"
#include "kernels/subpixel_upsample/cells_cuda.cuh"
#include "kernels/subpixel_upsample/subpixel_upsample.h"
#include "kernels/subpixel_upsample/subpixel_upsample_math.h"

#define SEGFAST_FORMULAS fused
#define SEGFAST_FORMULA SEGFAST_HOST_DEVICE
#include "kernels/subpixel_upsample/blur_fused_math.h"

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

template <typename I>
__device__ __forceinline__ I thread_item() {
  return static_cast<I>(blockIdx.x) * kThreads + static_cast<I>(threadIdx.x);
}

// Offsets need I; items are counted in 32 bits.
template <typename T, typename I>
struct CellParams {
  const T* source;      // input, or grad_output
  T* destination;       // output, or grad_input
  uint8_t* write_mask;  // forward, or nullptr
  const uint8_t* mask;  // backward, or nullptr
  I channels, height, width;
  Divider<int32_t> group;   // groups of kCells in a row (contiguous) or in a pixel (channels_last)
  Divider<int32_t> pixels;  // of a row: channels_last alone
  Divider<int32_t> strips;  // groups of kRows rows in a map
  int32_t items;
  bool relu, blur;
};

// Cells side by side of one thread.
template <typename T>
constexpr int kUpsampleCells = sizeof(T) >= 4 ? 2 : 4;  // whole bytes of the mask: 4 bits a cell
// Blocks in a multiprocessor, so that loads and arithmetic of different ones overlap: 64 registers
// a thread suffice for types and offsets of up to 32 bits.
template <typename T, typename I>
constexpr int kBlocks = sizeof(T) < 8 && sizeof(I) == 4 ? 4 : 1;

// The cells of one thread: kCells side by side, in kRows rows.
template <bool kChannelsLast, int kCells, int kRows>
struct Place {
  int32_t b, h, w, c;
  int32_t rows;  // of the map, from h on

  template <typename P>
  __device__ __forceinline__ Place(const P& p, int32_t item) {
    const int32_t rest = p.group.divide(item);
    const int32_t first = p.group.remainder(item, rest) * kCells;
    const int32_t strip = kChannelsLast ? p.pixels.divide(rest) : rest;
    w = kChannelsLast ? p.pixels.remainder(rest, strip) : first;
    c = kChannelsLast ? first : 0;
    b = p.strips.divide(strip);
    h = p.strips.remainder(strip, b) * kRows;
    rows = static_cast<int32_t>(p.height) - h;
  }
  __device__ __forceinline__ bool has_row(int k) const { return k == 0 || k < rows; }
  // Of the k-th row; beyond the map, of the first.
  template <typename I>
  __device__ __forceinline__ I row_offset(int k, I length) const {
    return has_row(k) ? k * length : I{0};
  }

  // Of the first cell: its place in either tensor, and its number, which counts fours of the mask's
  // bits.
  template <typename T, typename I>
  __device__ __forceinline__ I coarse(const CellParams<T, I>& p) const {
    return shape(p).coarse(b, h, w, c, 0, 0);
  }
  template <typename T, typename I>
  __device__ __forceinline__ I fine(const CellParams<T, I>& p) const {
    return shape(p).fine((b * p.height + h) * 2, I{w} * 2, c);
  }
  template <typename T, typename I>
  __device__ __forceinline__ I number(const CellParams<T, I>& p) const {
    return ((b * p.height + h) * p.width + w) * shape(p).channels + c;
  }

 private:
  template <typename T, typename I>
  __device__ __forceinline__ static ShuffleShape<I> shape(const CellParams<T, I>& p) {
    return {kChannelsLast ? p.channels : I{1}, p.height, p.width, 2, kChannelsLast};
  }
};

// ---- forward

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

// ---- backward

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
