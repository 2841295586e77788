// subpixel_upsample_cpu.h: compiled once for each instruction set by subpixel_upsample_cpu.cpp.
//
// Factor 2 works on vectors of neighbouring 2x2 cells: along the width in torch.contiguous_format,
// along the channels in torch.channels_last. Runs shorter than a vector, other factors, and masks
// that are given to the forward pass, go element by element.
#include "common/lanes.h"
#include "kernels/subpixel_upsample/cells_cpu.h"

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

template <typename T>
SEGFAST_LANES Cell<lanes_t<T>> activated(const Four<T>& x, bool with_relu) {
  if (!with_relu) return {x.a, x.b, x.c, x.d};
  return {relu_lanes(x.a), relu_lanes(x.b), relu_lanes(x.c), relu_lanes(x.d)};
}

template <bool kRelu, typename T>
SEGFAST_LANES lanes_t<T> load_activated(const T* address) {
  const lanes_t<T> x = load_lanes(address);
  return kRelu ? relu_lanes(x) : x;
}

// coarse: row h of subpixel a, the others `plane` apart. has_upper: row h - 1 lies before it. fine:
// row 2h, followed by row 2h + 1. width >= kLanes.
template <bool kRelu, bool kBlur, typename T>
void upsample_row_contiguous(const T* coarse, bool has_upper, int64_t plane, int64_t width,
                             uint8_t* mask, T* fine) {
  using V = lanes_t<T>;
  const T *a = coarse, *b = a + plane, *c = b + plane, *d = c + plane;
  const T *upper_c = has_upper ? c - width : a, *upper_d = has_upper ? d - width : b;
  V left_b{}, left_d{}, left_upper_d{};  // the vectors before this one
  for (int64_t first = 0; first < width; first += kLanes<T>) {
    const int64_t w = std::min<int64_t>(first, width - kLanes<T>);  // the last vector may overlap
    const Four<T> own{load_lanes(a + w), load_lanes(b + w), load_lanes(c + w), load_lanes(d + w)};
    if (mask != nullptr) store_cell_bits(mask + w / 2, own, w % 2 != 0);
    Cell<V> cell = activated(own, kRelu);
    if (kBlur) {
      const V above_c = load_activated<kRelu>(upper_c + w);
      const V above_d = load_activated<kRelu>(upper_d + w);
      V beside_b, beside_d, corner_d;
      if (w == 0) {
        beside_b = after_first(cell.a, cell.b);
        beside_d = after_first(cell.c, cell.d);
        corner_d = after_first(above_c, above_d);
      } else if (w == first) {
        beside_b = after_last(left_b, cell.b);
        beside_d = after_last(left_d, cell.d);
        corner_d = after_last(left_upper_d, above_d);
      } else {
        beside_b = load_activated<kRelu>(b + w - 1);
        beside_d = load_activated<kRelu>(d + w - 1);
        corner_d = load_activated<kRelu>(upper_d + w - 1);
      }
      left_b = cell.b;
      left_d = cell.d;
      left_upper_d = above_d;
      cell = blur_cell(cell, above_c, above_d, beside_b, beside_d, corner_d);
    }
    store_pairs(fine + 2 * w, cell.a, cell.b);
    store_pairs(fine + 2 * (width + w), cell.c, cell.d);
  }
}

// coarse: row h, [width, channels, 2, 2]. The rest as above; channels >= kLanes.
template <bool kRelu, bool kBlur, typename T>
void upsample_row_channels_last(const T* coarse, bool has_upper, int64_t width, int64_t channels,
                                uint8_t* mask, T* fine) {
  using V = lanes_t<T>;
  constexpr int64_t kSlots = 16;  // vectors whose left neighbours are kept
  struct {
    V b, d, upper_d;
  } left[kSlots];
  const int64_t pixel = channels * 4;
  const bool whole_bytes = channels % 2 == 0;
  for (int64_t block = 0; block < channels; block += kSlots * kLanes<T>) {
    for (int64_t w = 0; w < width; ++w) {
      auto* slot = left;
      for (int64_t first = block; first < std::min(channels, block + kSlots * kLanes<T>);
           first += kLanes<T>, ++slot) {
        const int64_t c = std::min<int64_t>(first, channels - kLanes<T>);
        const T* address = coarse + w * pixel + c * 4;
        const Four<T> own = load_fours(address);
        if (mask != nullptr && whole_bytes)
          store_cell_bits(mask + (w * channels + c) / 2, own, false);
        Cell<V> cell = activated(own, kRelu);
        if (kBlur) {
          Cell<V> upper{cell.a, cell.b, cell.a, cell.b};
          if (has_upper) upper = activated(load_fours(address - width * pixel), kRelu);
          if (w == 0) *slot = {cell.a, cell.c, upper.c};
          const Cell<V> blurred =
              blur_cell(cell, upper.c, upper.d, slot->b, slot->d, slot->upper_d);
          *slot = {cell.b, cell.d, upper.d};
          cell = blurred;
        }
        T* out = fine + 2 * w * channels + c;
        T* next = out + 2 * width * channels;
        store_two(out, out + channels, cell.a, cell.b);
        store_two(next, next + channels, cell.c, cell.d);
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

  template <bool kRelu, bool kBlur>
  void row2(int64_t b, int64_t h) const {
    const int64_t row_number = b * p.height + h;
    uint8_t* mask = p.activation == Activation::relu_with_mask ? mask_row(row_number) : nullptr;
    T* fine = static_cast<T*>(p.output) + shape.fine(row_number * 2, 0, 0);
    const T* coarse = input(b, h, 0, 0, 0);
    if ((p.channels_last ? p.channels : p.width) < kLanes<T>) {
      row(b, h);
    } else if (p.channels_last) {
      upsample_row_channels_last<kRelu, kBlur>(coarse, h > 0, p.width, p.channels, mask, fine);
    } else {
      upsample_row_contiguous<kRelu, kBlur>(coarse, h > 0, p.height * p.width, p.width, mask, fine);
    }
  }
};

template <typename T>
void upsample_rows(const SubpixelUpsampleParams& p, int64_t begin, int64_t end) {
  const Forward<T> forward(p);
  const bool vectors = p.factor == 2 && p.activation != Activation::masked;
  const bool with_relu = p.activation != Activation::none;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / p.height, h = row % p.height;
    if (!vectors) {
      forward.row(b, h);
    } else if (p.blur) {
      with_relu ? forward.template row2<true, true>(b, h)
                : forward.template row2<false, true>(b, h);
    } else {
      with_relu ? forward.template row2<true, false>(b, h)
                : forward.template row2<false, false>(b, h);
    }
  }
}

// ---- backward, factor 2

// Cells that lie in the map's first row or whose first lane lies in its first column.
template <typename V>
SEGFAST_LANES Cell<V> blur_gradient_vector(const V (&q)[3][3], bool top, bool left) {
  if (top) return left ? blur_gradient_cell<true, true>(q) : blur_gradient_cell<true, false>(q);
  return left ? blur_gradient_cell<false, true>(q) : blur_gradient_cell<false, false>(q);
}

// x with the first lane of y.
template <typename T>
SEGFAST_LANES lanes_t<T> with_first(lanes_t<T> x, lanes_t<T> y) {
  x[0] = y[0];
  return x;
}

// Quarters of kLanes pairs of a row, and the right neighbours of each pair; zeros if not `within`.
template <typename T>
SEGFAST_LANES void load_quarters(const T* row, bool within, bool has_right, lanes_t<T> (&q)[3]) {
  q[0] = q[1] = q[2] = lanes_t<T>{};
  if (!within) return;
  const Pair<T> pair = load_pairs(row);
  q[0] = pair.even * 0.25f;
  q[1] = pair.odd * 0.25f;
  if (kNarrow<T> && has_right) {
    q[2] = load_pairs(row + 2).even * 0.25f;
  } else {
    lanes_t<T> right{};
    if (has_right) right[0] = to_float(row[2 * kLanes<T>]) * 0.25f;
    q[2] = before_last(q[0], right);
  }
}

// grad: row 2h of the fine tensor; last: there is no row 2h + 2. coarse: as in the forward pass.
// width >= kLanes.
template <bool kBlur, typename T>
void gradient_row_contiguous(const T* grad, bool top, bool last, int64_t plane, int64_t width,
                             const uint8_t* mask, T* coarse) {
  for (int64_t first = 0; first < width; first += kLanes<T>) {
    const int64_t w = std::min<int64_t>(first, width - kLanes<T>);
    const T* row = grad + 2 * w;
    Four<T> cells;
    if (kBlur) {
      const bool has_right = w + kLanes<T> < width;
      lanes_t<T> q[3][3];
      load_quarters(row, true, has_right, q[0]);
      load_quarters(row + 2 * width, true, has_right, q[1]);
      load_quarters(row + 4 * width, !last, has_right, q[2]);
      Cell<lanes_t<T>> s = blur_gradient_vector(q, top, false);
      if (w == 0) {
        const Cell<lanes_t<T>> edge = blur_gradient_vector(q, top, true);
        s.a = with_first<T>(s.a, edge.a);
        s.c = with_first<T>(s.c, edge.c);
      }
      cells = {s.a, s.b, s.c, s.d};
    } else {
      const Pair<T> upper = load_pairs(row), lower = load_pairs(row + 2 * width);
      cells = {upper.even, upper.odd, lower.even, lower.odd};
    }
    if (mask != nullptr) cells = keep_cells(mask + w / 2, cells, w % 2 != 0);
    store_two(coarse + w, coarse + plane + w, cells.a, cells.b);
    store_two(coarse + 2 * plane + w, coarse + 3 * plane + w, cells.c, cells.d);
  }
}

// channels >= kLanes.
template <bool kBlur, typename T>
void gradient_row_channels_last(const T* grad, bool top, bool last, int64_t width, int64_t channels,
                                const uint8_t* mask, T* coarse) {
  using V = lanes_t<T>;
  constexpr int64_t kSlots = 16;  // vectors whose right neighbours are kept
  V right[kSlots][3];
  const bool whole_bytes = channels % 2 == 0;
  for (int64_t block = 0; block < channels; block += kSlots * kLanes<T>) {
    for (int64_t w = 0; w < width; ++w) {
      V(*slot)[3] = right;
      for (int64_t first = block; first < std::min(channels, block + kSlots * kLanes<T>);
           first += kLanes<T>, ++slot) {
        const int64_t c = std::min<int64_t>(first, channels - kLanes<T>);
        V q[3][3];
        for (int y = 0; y < (kBlur ? 3 : 2); ++y) {
          const T* row = grad + 2 * (y * width + w) * channels + c;
          if (!kBlur) {
            q[y][0] = load_lanes(row);
            q[y][1] = load_lanes(row + channels);
          } else if (y == 2 && last) {
            q[y][0] = q[y][1] = q[y][2] = V{};
          } else {
            q[y][0] = w == 0 ? load_lanes(row) * 0.25f : (*slot)[y];
            q[y][1] = load_lanes(row + channels) * 0.25f;
            q[y][2] = w == width - 1 ? V{} : load_lanes(row + 2 * channels) * 0.25f;
            (*slot)[y] = q[y][2];
          }
        }
        Four<T> cells{q[0][0], q[0][1], q[1][0], q[1][1]};
        if (kBlur) {
          const Cell<V> s = blur_gradient_vector(q, top, w == 0);
          cells = {s.a, s.b, s.c, s.d};
        }
        const int64_t cell = w * channels + c;
        if (mask != nullptr && whole_bytes) cells = keep_cells(mask + cell / 2, cells, false);
        store_fours(coarse + cell * 4, cells);
      }
    }
  }
  if (mask != nullptr && !whole_bytes) apply_mask(coarse, width * channels * 4, mask);
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

  template <bool kBlur>
  void row2(int64_t b, int64_t h) const {
    const int64_t row = b * p.height + h;
    const T* grad = static_cast<const T*>(p.grad_output) + shape.fine(row * 2, 0, 0);
    T* coarse = static_cast<T*>(p.grad_input) + shape.coarse(b, h, 0, 0, 0, 0);
    const uint8_t* mask =
        p.mask == nullptr ? nullptr : p.mask + row * mask_row_bytes(p.width, p.channels, 2);
    if ((p.channels_last ? p.channels : p.width) < kLanes<T>) {
      this->row(b, h);
    } else if (p.channels_last) {
      gradient_row_channels_last<kBlur>(grad, h == 0, h == p.height - 1, p.width, p.channels, mask,
                                        coarse);
    } else {
      gradient_row_contiguous<kBlur>(grad, h == 0, h == p.height - 1, p.height * p.width, p.width,
                                     mask, coarse);
    }
  }
};

template <typename T>
void gradient_rows(const SubpixelUpsampleBackwardParams& p, int64_t begin, int64_t end) {
  const Backward<T> backward{p, {p.channels, p.height, p.width, p.factor, p.channels_last}};
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / p.height, h = row % p.height;
    if (p.factor != 2) {
      backward.row(b, h);
    } else if (p.blur) {
      backward.template row2<true>(b, h);
    } else {
      backward.template row2<false>(b, h);
    }
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
