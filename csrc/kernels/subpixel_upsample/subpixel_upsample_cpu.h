// subpixel_upsample_cpu.h: compiled once for each instruction set by subpixel_upsample_cpu.cpp.
//
// Factor 2 works on vectors of neighbouring 2x2 cells: along the width in torch.contiguous_format,
// along the channels in torch.channels_last. Runs shorter than a vector, other factors, and masks
// that are given to the forward pass, go element by element.
#include "common/lanes.h"
#include "common/lanes_math.h"

#define SEGFAST_FORMULAS SEGFAST_ISA::fused
#define SEGFAST_FORMULA SEGFAST_LANES
#include "kernels/subpixel_upsample/blur_fused_math.h"

#include "kernels/subpixel_upsample/cells_cpu.h"
#include "kernels/subpixel_upsample/runs_cpu.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// ---- the mask

inline bool test_bit(const uint8_t* bits, int64_t bit) { return (bits[bit / 8] >> (bit % 8)) & 1; }

// Elements in the mask's own order: a row of a channels_last tensor.
template <typename T>
void write_mask(const T* elements, int64_t count, uint8_t* mask) {
  constexpr int64_t kFlags = 512;
  uint8_t flags[kFlags];
  for (int64_t first = 0; first < count; first += kFlags) {
    const int64_t n = std::min(kFlags, count - first);
    for (int64_t k = 0; k < n; ++k) flags[k] = passes_gradient(to_float(elements[first + k]));
    for (int64_t k = n; k % 8 != 0; ++k) flags[k] = 0;
    for (int64_t k = 0; k < n; k += 8) {
      uint64_t eight;
      std::memcpy(&eight, flags + k, 8);
      // Byte i, which is 0 or 1, to bit 56 + i.
      mask[(first + k) / 8] = static_cast<uint8_t>((eight * 0x0102040810204080u) >> 56);
    }
  }
}

template <typename T>
void apply_mask(T* elements, int64_t count, const uint8_t* mask) {
  for (int64_t k = 0; k < count; ++k) {
    if (!test_bit(mask, k)) elements[k] = T{};
  }
}

// ---- forward, factor 2

// Member by member: GCC 12 copies a struct of vectors to memory by quarters, through the stack.
template <typename V>
SEGFAST_LANES void store_above(Above<V>* address, Above<V> x) {
  address->a = x.a;
  address->b = x.b;
}

// The blur of cells. above: what the row above contributes; becomes what this one does to the next.
template <typename T, typename V = lanes_t<T>>
SEGFAST_LANES Cell<V> blur_lanes(Cell<V> s, Above<V>* above, V left_b, V left_d) {
  const Above<V> upper{above->a, above->b};
  store_above(above, above_cell(s.c, s.d, left_d));
  return {mean_lanes<T>(blur_terms<0>(s, upper, left_b, left_d)),
          mean_lanes<T>(blur_terms<1>(s, upper, left_b, left_d)),
          mean_lanes<T>(blur_terms<2>(s, upper, left_b, left_d)),
          mean_lanes<T>(blur_terms<3>(s, upper, left_b, left_d))};
}

// What stands to the left of a row's first cells: in the last lane, b and d of the cell before.
template <typename V>
struct Before {
  V b, d;
};

// The last cell before the w-th of a row. At the row's start, its own a and c stand for b and d.
template <bool kRelu, typename T>
SEGFAST_LANES Before<lanes_t<T>> cell_before(const T* coarse, int64_t plane, int64_t w) {
  using V = lanes_t<T>;
  const T *b = w == 0 ? coarse : coarse + plane + w - 1, *d = b + 2 * plane;
  const V of_b = splat<V>(load_lanes(b)[0]), of_d = splat<V>(load_lanes(d)[0]);
  return {kRelu ? relu_lanes(of_b) : of_b, kRelu ? relu_lanes(of_d) : of_d};
}

// kParts vectors of cells from the w-th of a row on.
template <bool kRelu, bool kBlur, int kParts, typename T>
SEGFAST_LANES void upsample_cells(const T* coarse, int64_t plane, int64_t width, int64_t w,
                                  Before<lanes_t<T>>& before, Above<lanes_t<T>>* above,
                                  uint8_t* mask, bool in_byte, T* fine) {
  using V = lanes_t<T>;
  Cell<V> cells[kParts];
  load_run<kRelu>(coarse + w, plane, mask == nullptr ? nullptr : mask + (w >> 1), in_byte, cells);
  V a[kParts], b[kParts], c[kParts], d[kParts];
  for (int part = 0; part < kParts; ++part) {
    Cell<V> cell = cells[part];
    if (kBlur) {
      const Cell<V>& last = cells[kParts - 1];
      const V left_b = part > 0 ? cells[0].b : after_last(before.b, last.b);
      const V left_d = part > 0 ? cells[0].d : after_last(before.d, last.d);
      cell = blur_lanes<T>(cell, above + part, left_b, left_d);
    }
    a[part] = cell.a, b[part] = cell.b, c[part] = cell.c, d[part] = cell.d;
  }
  before.b = cells[kParts - 1].b;
  before.d = cells[kParts - 1].d;
  store_run(fine + 2 * w, a, b);
  store_run(fine + 2 * (width + w), c, d);
}

// coarse: row h of subpixel a, the others `plane` apart. above: what row h - 1 contributes; becomes
// what row h does. fine: row 2h, followed by row 2h + 1. width >= kParts * kLanes.
template <bool kRelu, bool kBlur, int kParts, typename T>
SEGFAST_LANES void upsample_row_contiguous(const T* coarse, int64_t plane, int64_t width,
                                           Above<lanes_t<T>>* above, uint8_t* mask, T* fine) {
  constexpr int64_t kStep = kParts * kLanes<T>;
  Before<lanes_t<T>> before = cell_before<kRelu>(coarse, plane, 0);
  int64_t w = 0;
  for (; w + kStep <= width; w += kStep, above += kParts) {
    upsample_cells<kRelu, kBlur, kParts>(coarse, plane, width, w, before, above, mask, false, fine);
  }
  if (w < width) {  // the last cells again
    w = width - kStep;
    before = cell_before<kRelu>(coarse, plane, w);
    upsample_cells<kRelu, kBlur, kParts>(coarse, plane, width, w, before, above, mask, w % 2 != 0,
                                         fine);
  }
}

// What a row of c and d contributes to the next; at the map's edge, a and b of a row to itself.
// above: kParts for each step. width >= kParts * kLanes.
template <bool kRelu, int kParts, typename T>
void start_row_contiguous(const T* coarse, bool upper, int64_t plane, int64_t width,
                          Above<lanes_t<T>>* above) {
  using V = lanes_t<T>;
  constexpr int64_t kStep = kParts * kLanes<T>;
  for (int64_t first = 0; first < width; first += kStep) {
    const int64_t w = std::min<int64_t>(first, width - kStep);  // the last cells may overlap
    const Before<V> before = cell_before<kRelu>(coarse, plane, w);
    Cell<V> cells[kParts];
    load_run<kRelu>(coarse + w, plane, nullptr, false, cells);
    const Cell<V>& last = cells[kParts - 1];
    V left = upper ? after_last(before.b, last.b) : after_last(before.d, last.d);
    for (const Cell<V>& cell : cells) {
      const V own_c = upper ? cell.a : cell.c, own_d = upper ? cell.b : cell.d;
      store_above(above++, above_cell(own_c, own_d, left));
      left = own_d;
    }
  }
}

// Channels go in blocks of kSlots vectors, whose left neighbours are kept.
constexpr int64_t kSlots = 16;

// coarse: row h, [width, channels, 2, 2]; upper: a and b take the place of c and d. The rest as
// above; channels >= kParts * kLanes.
template <bool kRelu, int kParts, typename T>
void start_row_channels_last(const T* coarse, bool upper, int64_t width, int64_t channels,
                             Above<lanes_t<T>>* above) {
  using V = lanes_t<T>;
  constexpr int64_t kStep = kParts * kLanes<T>;
  V left[kSlots];
  for (int64_t block = 0; block < channels; block += kSlots * kLanes<T>) {
    for (int64_t w = 0; w < width; ++w) {
      V* slot = left;
      for (int64_t first = block; first < std::min(channels, block + kSlots * kLanes<T>);
           first += kStep) {
        const int64_t c = std::min<int64_t>(first, channels - kStep);  // the last may overlap
        Cell<V> cells[kParts];
        load_cells<kRelu>(coarse + (w * channels + c) * 4, nullptr, cells);
        for (const Cell<V>& cell : cells) {
          const V own_c = upper ? cell.a : cell.c, own_d = upper ? cell.b : cell.d;
          store_above(above++, above_cell(own_c, own_d, w == 0 ? own_c : *slot));
          *slot++ = own_d;
        }
      }
    }
  }
}

template <bool kRelu, bool kBlur, int kParts, typename T>
void upsample_row_channels_last(const T* coarse, int64_t width, int64_t channels,
                                Above<lanes_t<T>>* above, uint8_t* mask, T* fine) {
  using V = lanes_t<T>;
  constexpr int64_t kStep = kParts * kLanes<T>;
  struct {
    V b, d;
  } left[kSlots];
  const int64_t pixel = channels * 4;
  const bool whole_bytes = channels % 2 == 0;
  for (int64_t block = 0; block < channels; block += kSlots * kLanes<T>) {
    for (int64_t w = 0; w < width; ++w) {
      auto* slot = left;
      for (int64_t first = block; first < std::min(channels, block + kSlots * kLanes<T>);
           first += kStep) {
        const int64_t c = std::min<int64_t>(first, channels - kStep);
        uint8_t* const bits =
            mask == nullptr || !whole_bytes ? nullptr : mask + (w * channels + c) / 2;
        Cell<V> cells[kParts];
        load_cells<kRelu>(coarse + w * pixel + c * 4, bits, cells);
        V a[kParts], b[kParts], c_[kParts], d[kParts];
        for (int part = 0; part < kParts; ++part) {
          Cell<V> cell = cells[part];
          if (kBlur) {
            const V left_b = w == 0 ? cell.a : slot->b, left_d = w == 0 ? cell.c : slot->d;
            slot->b = cell.b;
            slot->d = cell.d;
            ++slot;
            cell = blur_lanes<T>(cell, above++, left_b, left_d);
          }
          a[part] = cell.a, b[part] = cell.b, c_[part] = cell.c, d[part] = cell.d;
        }
        T* out = fine + 2 * w * channels + c;
        T* next = out + 2 * width * channels;
        store_channels(out, a);
        store_channels(out + channels, b);
        store_channels(next, c_);
        store_channels(next + channels, d);
      }
    }
  }
  if (mask != nullptr && !whole_bytes) write_mask(coarse, width * pixel, mask);
}

// ---- forward, any factor

// The elements of one subpixel along a run, `stride` apart in memory and r * r bits in the mask.
template <typename T>
struct Run {
  const T* data;
  const uint8_t* bits;
  int64_t bit;
};

template <typename T>
struct Forward {
  const SubpixelUpsampleParams& p;
  ShuffleShape<int64_t> shape;
  int64_t row_bytes;

  explicit Forward(const SubpixelUpsampleParams& params)
      : p(params),
        shape{p.channels, p.height, p.width, p.factor, p.channels_last},
        row_bytes(mask_row_bytes(p.width, p.channels, p.factor)) {}

  const T* input(int64_t b, int64_t h, int64_t w, int64_t i, int64_t j) const {
    return static_cast<const T*>(p.input) + shape.coarse(b, h, w, 0, i, j);
  }
  uint8_t* mask_row(int64_t row) const { return p.mask + row * row_bytes; }

  Run<T> run(int64_t b, int64_t h, int64_t w, int64_t i, int64_t j) const {
    return {input(b, h, w, i, j), mask_row(b * p.height + h),
            (w * p.channels * p.factor + i) * p.factor + j};
  }
  accumulate_t<T> value(const Run<T>& run, int64_t k) const {
    const int64_t cell = p.factor * p.factor;
    const auto x = to_float(run.data[p.channels_last ? k * cell : k]);
    switch (p.activation) {
      case Activation::none:
        return x;
      case Activation::masked:
        return test_bit(run.bits, run.bit + k * cell) ? x : 0;
      default:
        return relu(x);
    }
  }

  // Subpixel (i, j) of n cells from (b, h, w) on.
  void upsample(int64_t b, int64_t h, int64_t w, int64_t i, int64_t j, int64_t n) const {
    const int64_t r = p.factor;
    const int64_t upper_h = i > 0 || h == 0 ? h : h - 1;
    const int64_t upper_i = i > 0 ? i - 1 : h == 0 ? 0 : r - 1;
    const int64_t left_w = j > 0 || w == 0 ? w : w - 1;
    const int64_t left_j = j > 0 ? j - 1 : w == 0 ? 0 : r - 1;
    const Run<T> corner = run(b, upper_h, left_w, upper_i, left_j);
    const Run<T> upper = run(b, upper_h, w, upper_i, j);
    const Run<T> left = run(b, h, left_w, i, left_j);
    const Run<T> center = run(b, h, w, i, j);
    T* out = static_cast<T*>(p.output) + shape.fine((b * p.height + h) * r + i, w * r + j, 0);
    const int64_t out_stride = p.channels_last ? 1 : r;
    for (int64_t k = 0; k < n; ++k) {
      out[k * out_stride] = from_float<T>(
          p.blur ? mean4(value(corner, k), value(upper, k), value(left, k), value(center, k))
                 : value(center, k));
    }
  }

  // Of a contiguous row.
  void write_cell_bits(int64_t b, int64_t h) const {
    uint8_t* bits = mask_row(b * p.height + h);
    std::memset(bits, 0, static_cast<size_t>(row_bytes));
    int64_t bit = 0;
    for (int64_t w = 0; w < p.width; ++w) {
      for (int64_t i = 0; i < p.factor; ++i) {
        for (int64_t j = 0; j < p.factor; ++j, ++bit) {
          const int keep = passes_gradient(to_float(*input(b, h, w, i, j)));
          bits[bit / 8] = static_cast<uint8_t>(bits[bit / 8] | keep << (bit % 8));
        }
      }
    }
  }

  void row(int64_t b, int64_t h) const {
    for (int64_t i = 0; i < p.factor; ++i) {
      for (int64_t j = 0; j < p.factor; ++j) {
        if (p.channels_last) {
          for (int64_t w = 0; w < p.width; ++w) upsample(b, h, w, i, j, p.channels);
        } else {
          upsample(b, h, 0, i, j, 1);  // its left neighbour is itself
          upsample(b, h, 1, i, j, p.width - 1);
        }
      }
    }
    if (p.activation != Activation::relu_with_mask) return;
    if (p.channels_last) {
      write_mask(input(b, h, 0, 0, 0), p.width * p.channels * p.factor * p.factor,
                 mask_row(b * p.height + h));
    } else {
      write_cell_bits(b, h);
    }
  }

  // Rows of vectors, factor 2; kParts of them together.
  template <bool kRelu, bool kBlur, int kParts>
  void rows2(int64_t begin, int64_t end) const {
    using V = lanes_t<T>;
    const int64_t width = p.width, channels = p.channels, plane = p.height * width;
    const int64_t run = p.channels_last ? channels : width;
    const int64_t vectors =
        (p.channels_last ? width : 1) * ceil_div<int64_t>(run, kParts * kLanes<T>) * kParts;
    const std::unique_ptr<Above<V>[]> above(kBlur ? new Above<V>[vectors] : nullptr);
    const T* const maps = static_cast<const T*>(p.input);
    T* fine = static_cast<T*>(p.output) + begin * width * channels * 4;
    uint8_t* mask =
        p.activation == Activation::relu_with_mask ? p.mask + begin * row_bytes : nullptr;
    int64_t b = begin / p.height, h = begin % p.height;
    for (int64_t row = begin; row < end; ++row) {
      if (p.channels_last) {
        const T* const coarse = maps + row * width * channels * 4;
        if (kBlur && (row == begin || h == 0)) {
          start_row_channels_last<kRelu, kParts>(h == 0 ? coarse : coarse - width * channels * 4,
                                                 h == 0, width, channels, above.get());
        }
        upsample_row_channels_last<kRelu, kBlur, kParts>(coarse, width, channels, above.get(), mask,
                                                         fine);
      } else {
        const T* const coarse = maps + b * 4 * plane + h * width;
        if (kBlur && (row == begin || h == 0)) {
          start_row_contiguous<kRelu, kParts>(h == 0 ? coarse : coarse - width, h == 0, plane,
                                              width, above.get());
        }
        upsample_row_contiguous<kRelu, kBlur, kParts>(coarse, plane, width, above.get(), mask,
                                                      fine);
      }
      fine += width * channels * 4;
      if (mask != nullptr) mask += row_bytes;
      if (++h == p.height) h = 0, ++b;
    }
  }
};

template <typename T>
void upsample_rows(const SubpixelUpsampleParams& p, int64_t begin, int64_t end) {
  const Forward<T> forward(p);
  const int64_t run = p.channels_last ? p.channels : p.width;
  const bool vectors = p.factor == 2 && p.activation != Activation::masked && run >= kLanes<T>;
  const bool with_relu = p.activation != Activation::none;
  if (!vectors) {
    for (int64_t row = begin; row < end; ++row) forward.row(row / p.height, row % p.height);
  } else if (!p.blur) {
    with_relu ? forward.template rows2<true, false, 1>(begin, end)
              : forward.template rows2<false, false, 1>(begin, end);
  } else if (run >= kTogether<T> * kLanes<T>) {
    with_relu ? forward.template rows2<true, true, kTogether<T>>(begin, end)
              : forward.template rows2<false, true, kTogether<T>>(begin, end);
  } else {
    with_relu ? forward.template rows2<true, true, 1>(begin, end)
              : forward.template rows2<false, true, 1>(begin, end);
  }
}

// ---- backward, factor 2

// x with the first lane of y.
template <typename T>
SEGFAST_LANES lanes_t<T> with_first(lanes_t<T> x, lanes_t<T> y) {
  x[0] = y[0];
  return x;
}

// The kLanes cells from the w-th of a row on. grad: row 2h of the fine tensor; below: row 2h + 2.
// Flags that are known where this is inlined cost nothing.
template <bool kBlur, typename T>
SEGFAST_LANES void gradient_cells(const T* grad, const T* below, bool top, int64_t w, bool left,
                                  bool has_right, int64_t plane, int64_t width, const uint8_t* mask,
                                  bool in_byte, T* coarse) {
  const T *row = grad + 2 * w, *next = row + 2 * width;
  Four<T> cells;
  if (kBlur) {
    lanes_t<T> g[3][3];
    load_gradients(row, has_right, g[0]);
    load_gradients(next, has_right, g[1]);
    load_gradients(below + 2 * w, has_right, g[2]);
    Cell<lanes_t<T>> s = fused::blur_gradient_cell<kNarrow<T>>(g, top, false);
    if (left) {
      const Cell<lanes_t<T>> edge = fused::blur_gradient_cell<kNarrow<T>>(g, top, true);
      s.a = with_first<T>(s.a, edge.a);
      s.c = with_first<T>(s.c, edge.c);
    }
    cells = {s.a, s.b, s.c, s.d};
  } else {
    const Pair<T> upper = load_pairs(row), lower = load_pairs(next);
    cells = {upper.even, upper.odd, lower.even, lower.odd};
  }
  const Stored<T> stored = keep_cells<T, kBlur>(mask + (w >> 1), stored_cells(cells), in_byte);
  store_planes<kBlur>(coarse + w, plane, stored);
}

// A row of cells; coarse: as in the forward pass. width >= kLanes.
template <bool kBlur, bool kTop, typename T>
void gradient_row_contiguous(const T* grad, const T* below, int64_t plane, int64_t width,
                             const uint8_t* mask, T* coarse) {
  const int64_t last = width - kLanes<T>;  // the last vector may overlap
  gradient_cells<kBlur>(grad, below, kTop, 0, true, last > 0, plane, width, mask, false, coarse);
  int64_t w = kLanes<T>;
  for (; w < last; w += kLanes<T>) {
    gradient_cells<kBlur>(grad, below, kTop, w, false, true, plane, width, mask, false, coarse);
  }
  if (w < width) {
    gradient_cells<kBlur>(grad, below, kTop, last, false, false, plane, width, mask, last % 2 != 0,
                          coarse);
  }
}

// kParts vectors of cells and what their blur is made of: in three fine rows, the own column and
// the one to the right, and what is kept of the one to the left.
template <int kParts, typename T>
SEGFAST_LANES void gradient_channels(const T* const (&own)[3], const T* const (&right)[3],
                                     lanes_t<T> (*kept)[3], int64_t c, bool top, bool left,
                                     const uint8_t* mask, T* coarse) {
  Cell<lanes_t<T>> cells[kParts];
  for (int part = 0; part < kParts; ++part, ++kept) {
    lanes_t<T> g[3][3];
    for (int y = 0; y < 3; ++y) {
      g[y][0] = (*kept)[y];
      g[y][1] = quartered_unless_narrow<T>(load_channels<kParts>(own[y] + c, part));
      g[y][2] = quartered_unless_narrow<T>(load_channels<kParts>(right[y] + c, part));
      (*kept)[y] = g[y][2];
    }
    cells[part] = fused::blur_gradient_cell<kNarrow<T>>(g, top, left);
  }
  store_cells(coarse, cells, mask);
}

// zeros: as many as there are channels. channels >= kParts * kLanes.
template <int kParts, typename T>
void blurred_gradient_row_channels_last(const T* grad, const T* below, const T* zeros, bool top,
                                        int64_t width, int64_t channels, const uint8_t* mask,
                                        T* coarse) {
  constexpr int64_t kStep = kParts * kLanes<T>;
  lanes_t<T> kept[kSlots][3];
  const T* const rows[3] = {grad, grad + 2 * width * channels, below};
  for (int64_t block = 0; block < channels; block += kSlots * kLanes<T>) {
    const int64_t end = std::min(channels, block + kSlots * kLanes<T>);
    lanes_t<T>(*slot)[3] = kept;
    for (int64_t first = block; first < end; first += kStep) {
      const int64_t c = std::min<int64_t>(first, channels - kStep);  // the last may overlap
      for (int part = 0; part < kParts; ++part, ++slot) {
        for (int y = 0; y < 3; ++y) {
          (*slot)[y] = quartered_unless_narrow<T>(load_channels<kParts>(rows[y] + c, part));
        }
      }
    }
    for (int64_t w = 0; w < width; ++w) {
      const T *own[3], *right[3];
      for (int y = 0; y < 3; ++y) {
        own[y] = rows[y] + (2 * w + 1) * channels;
        right[y] = w == width - 1 ? zeros : own[y] + channels;
      }
      slot = kept;
      for (int64_t first = block; first < end; first += kStep, slot += kParts) {
        const int64_t c = std::min<int64_t>(first, channels - kStep), cell = w * channels + c;
        const uint8_t* const bits = mask == nullptr ? nullptr : mask + cell / 2;
        if (top || w == 0) {
          gradient_channels<kParts>(own, right, slot, c, top, w == 0, bits, coarse + cell * 4);
        } else {
          gradient_channels<kParts>(own, right, slot, c, false, false, bits, coarse + cell * 4);
        }
      }
    }
  }
}

// The same without a blur: a copy. channels >= kLanes.
template <typename T>
void gradient_row_channels_last(const T* grad, int64_t width, int64_t channels, const uint8_t* mask,
                                T* coarse) {
  for (int64_t w = 0; w < width; ++w) {
    const T *upper = grad + 2 * w * channels, *lower = upper + 2 * width * channels;
    for (int64_t first = 0; first < channels; first += kLanes<T>) {
      const int64_t c = std::min<int64_t>(first, channels - kLanes<T>), cell = w * channels + c;
      const Cell<lanes_t<T>> cells[1] = {{load_lanes(upper + c), load_lanes(upper + channels + c),
                                          load_lanes(lower + c), load_lanes(lower + channels + c)}};
      store_cells(coarse + cell * 4, cells, mask == nullptr ? nullptr : mask + cell / 2);
    }
  }
}

// ---- backward, any factor

template <typename T>
struct Backward {
  const SubpixelUpsampleBackwardParams& p;
  ShuffleShape<int64_t> shape;

  // A quarter of the output's gradient, seen from one plane.
  struct Quarter {
    const T* plane;
    int64_t row, column;  // strides
    accumulate_t<T> operator()(int64_t y, int64_t x) const {
      return to_float(plane[y * row + x * column]) * accumulate_t<T>(0.25);
    }
  };

  void row(int64_t b, int64_t h) const {
    const int64_t r = p.factor, height = p.height * r, width = p.width * r;
    const T* grad = static_cast<const T*>(p.grad_output);
    const uint8_t* bits =
        p.mask == nullptr ? nullptr
                          : p.mask + (b * p.height + h) * mask_row_bytes(p.width, p.channels, r);
    for (int64_t i = 0; i < r; ++i) {
      for (int64_t w = 0; w < p.width; ++w) {
        for (int64_t j = 0; j < r; ++j) {
          for (int64_t c = 0; c < p.channels; ++c) {
            const int64_t y = h * r + i, x = w * r + j;
            const int64_t bit = ((w * p.channels + c) * r + i) * r + j;
            accumulate_t<T> value = to_float(grad[shape.fine(b * height + y, x, c)]);
            if (p.blur) {
              const Quarter quarter{grad + shape.fine(b * height, 0, c), width * p.channels,
                                    p.channels};
              value = blur_gradient<accumulate_t<T>>(y, x, height, width, quarter);
            }
            static_cast<T*>(p.grad_input)[shape.coarse(b, h, w, c, i, j)] =
                from_float<T>(bits == nullptr || test_bit(bits, bit) ? value : 0);
          }
        }
      }
    }
  }

  // Rows of vectors, factor 2; kParts of them together in torch.channels_last.
  template <bool kBlur, int kParts>
  void rows2(int64_t begin, int64_t end) const {
    const int64_t width = p.width, plane = p.height * width, length = width * p.channels * 4;
    const int64_t row_bytes = mask_row_bytes(width, p.channels, 2);
    const T* grad = static_cast<const T*>(p.grad_output) + begin * length;
    const uint8_t* mask = p.mask == nullptr ? nullptr : p.mask + begin * row_bytes;
    T* const maps = static_cast<T*>(p.grad_input);
    // What lies beyond the map, and the mask of a contiguous map that has none.
    const std::unique_ptr<T[]> zeros(new T[length / 2]());
    const int64_t bytes = p.channels_last ? 0 : row_bytes;
    const std::unique_ptr<uint8_t[]> ones(new uint8_t[bytes]);
    std::fill_n(ones.get(), bytes, uint8_t{0xff});
    int64_t b = begin / p.height, h = begin % p.height;
    for (int64_t row = begin; row < end; ++row) {
      const bool top = h == 0;
      const T* const below = h == p.height - 1 ? zeros.get() : grad + length;
      if (p.channels_last) {
        T* const coarse = maps + row * length;
        const uint8_t* const bits = p.channels % 2 == 0 ? mask : nullptr;
        if constexpr (kBlur) {
          blurred_gradient_row_channels_last<kParts>(grad, below, zeros.get(), top, width,
                                                     p.channels, bits, coarse);
        } else {
          gradient_row_channels_last(grad, width, p.channels, bits, coarse);
        }
        if (bits != mask) apply_mask(coarse, length, mask);
      } else {
        const auto gradient_row = kBlur && top ? gradient_row_contiguous<kBlur, true, T>
                                               : gradient_row_contiguous<kBlur, false, T>;
        gradient_row(grad, below, plane, width, mask == nullptr ? ones.get() : mask,
                     maps + b * 4 * plane + h * width);
      }
      grad += length;
      if (mask != nullptr) mask += row_bytes;
      if (++h == p.height) h = 0, ++b;
    }
  }
};

template <typename T>
void gradient_rows(const SubpixelUpsampleBackwardParams& p, int64_t begin, int64_t end) {
  const Backward<T> backward{p, {p.channels, p.height, p.width, p.factor, p.channels_last}};
  if (p.factor != 2 || (p.channels_last ? p.channels : p.width) < kLanes<T>) {
    for (int64_t row = begin; row < end; ++row) backward.row(row / p.height, row % p.height);
  } else if (!p.blur) {
    backward.template rows2<false, 1>(begin, end);
  } else if (p.channels_last && p.channels >= kTogether<T> * kLanes<T>) {
    backward.template rows2<true, kTogether<T>>(begin, end);
  } else {
    backward.template rows2<true, 1>(begin, end);
  }
}

}  // namespace

void subpixel_upsample(const SubpixelUpsampleParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::float64:
      return upsample_rows<double>(p, begin, end);
    case DType::float16:
      return upsample_rows<Half>(p, begin, end);
    case DType::bfloat16:
      return upsample_rows<BFloat16>(p, begin, end);
    case DType::float32:
      return upsample_rows<float>(p, begin, end);
  }
}

void subpixel_upsample_backward(const SubpixelUpsampleBackwardParams& p, int64_t begin,
                                int64_t end) {
  switch (p.dtype) {
    case DType::float64:
      return gradient_rows<double>(p, begin, end);
    case DType::float16:
      return gradient_rows<Half>(p, begin, end);
    case DType::bfloat16:
      return gradient_rows<BFloat16>(p, begin, end);
    case DType::float32:
      return gradient_rows<float>(p, begin, end);
  }
}

}  // namespace SEGFAST_ISA
}  // namespace segfast
