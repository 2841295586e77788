// subpixel_upsample_cpu.h: compiled once for each instruction set by subpixel_upsample_cpu.cpp.
//
// Factor 2 works on vectors of neighbouring 2x2 cells: along the width in torch.contiguous_format,
// along the channels in torch.channels_last. Runs shorter than a vector, other factors, and masks
// that are given to the forward pass, go element by element.
#include "common/lanes.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// ---- the mask

inline bool test_bit(const uint8_t* bits, int64_t bit) { return (bits[bit / 8] >> (bit % 8)) & 1; }

// The bits of kLanes cells, four a cell; the first cell's start a byte.
template <typename T>
SEGFAST_LANES void store_cell_bits(uint8_t* mask, const Four<T>& x) {
  using Bits = bits_t<T>;
  typedef uint8_t Bytes __attribute__((vector_size(kLanes<T>)));
  const lanes_t<T> zero{};
  const Bits none{};
  const Bits cells = (x.a <= zero ? none : none + 1u) | (x.b <= zero ? none : none + 2u) |
                     (x.c <= zero ? none : none + 4u) | (x.d <= zero ? none : none + 8u);
  const Bits two_cells = evens(cells, cells) | odds(cells, cells) << 4;
  const Bytes bytes = __builtin_convertvector(two_cells, Bytes);
  std::memcpy(mask, &bytes, kLanes<T> / 2);
}

// The first bit of each of kLanes cells, where a lane holds as many of them as fit.
template <typename T, int... kLane>
SEGFAST_LANES bits_t<T> first_bits(std::integer_sequence<int, kLane...>) {
  constexpr int kCells = sizeof(accumulate_t<T>) * 2;
  return bits_t<T>{(word_t<T>{1} << (4 * (kLane % kCells)))...};
}

template <typename T>
SEGFAST_LANES Four<T> keep_cells(const uint8_t* mask, const Four<T>& x) {
  using Bits = bits_t<T>;
  uint64_t packed = 0;
  std::memcpy(&packed, mask, kLanes<T> / 2);
  const Bits none{};
  const lanes_t<T> zero{};
  Bits words = none + static_cast<word_t<T>>(packed);
  if constexpr (kLanes<T> > sizeof(word_t<T>) * 2) {  // eight cells more
    words = halves(words, none + static_cast<word_t<T>>(packed >> 32));
  }
  const Bits bit = first_bits<T>(lane_numbers<Bits>{});
  return {(words & bit) != none ? x.a : zero, (words & bit << 1) != none ? x.b : zero,
          (words & bit << 2) != none ? x.c : zero, (words & bit << 3) != none ? x.d : zero};
}

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
  return {relu(x.a), relu(x.b), relu(x.c), relu(x.d)};
}

template <bool kRelu, typename T>
SEGFAST_LANES lanes_t<T> load_activated(const T* address) {
  const lanes_t<T> x = load_lanes(address);
  return kRelu ? relu(x) : x;
}

// coarse: row h of subpixel a, the others `plane` apart. has_upper: row h - 1 lies before it. fine:
// row 2h, followed by row 2h + 1. Returns how many cells of the row it did, an even number.
template <bool kRelu, bool kBlur, typename T>
int64_t upsample_row_contiguous(const T* coarse, bool has_upper, int64_t plane, int64_t width,
                                uint8_t* mask, T* fine) {
  using V = lanes_t<T>;
  const int64_t count = width / 2 * 2;
  if (count < kLanes<T>) return 0;
  const T *a = coarse, *b = a + plane, *c = b + plane, *d = c + plane;
  const T *upper_c = has_upper ? c - width : a, *upper_d = has_upper ? d - width : b;
  V left_b{}, left_d{}, left_upper_d{};  // the vectors before this one
  for (int64_t first = 0; first < count; first += kLanes<T>) {
    const int64_t w = std::min<int64_t>(first, count - kLanes<T>);  // the last vector may overlap
    const Four<T> own{load_lanes(a + w), load_lanes(b + w), load_lanes(c + w), load_lanes(d + w)};
    if (mask != nullptr) store_cell_bits(mask + w / 2, own);
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
  return count;
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
        if (mask != nullptr && whole_bytes) store_cell_bits(mask + (w * channels + c) / 2, own);
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
        store_lanes(out, cell.a);
        store_lanes(out + channels, cell.b);
        store_lanes(next, cell.c);
        store_lanes(next + channels, cell.d);
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

  // Of a contiguous row, from a cell on whose bits start a byte.
  void write_cell_bits(int64_t b, int64_t h, int64_t first) const {
    uint8_t* bits = mask_row(b * p.height + h);
    int64_t bit = first * p.factor * p.factor;
    std::memset(bits + bit / 8, 0, static_cast<size_t>(row_bytes - bit / 8));
    for (int64_t w = first; w < p.width; ++w) {
      for (int64_t i = 0; i < p.factor; ++i) {
        for (int64_t j = 0; j < p.factor; ++j, ++bit) {
          const int keep = passes_gradient(to_float(*input(b, h, w, i, j)));
          bits[bit / 8] = static_cast<uint8_t>(bits[bit / 8] | keep << (bit % 8));
        }
      }
    }
  }

  // Row h, from a cell on; the first one in channels_last.
  void row(int64_t b, int64_t h, int64_t first) const {
    for (int64_t i = 0; i < p.factor; ++i) {
      for (int64_t j = 0; j < p.factor; ++j) {
        if (p.channels_last) {
          for (int64_t w = 0; w < p.width; ++w) upsample(b, h, w, i, j, p.channels);
        } else {
          if (first == 0) upsample(b, h, 0, i, j, 1);  // its left neighbour is itself
          const int64_t rest = std::max<int64_t>(first, 1);
          upsample(b, h, rest, i, j, p.width - rest);
        }
      }
    }
    if (p.activation != Activation::relu_with_mask) return;
    if (p.channels_last) {
      write_mask(input(b, h, 0, 0, 0), p.width * p.channels * p.factor * p.factor,
                 mask_row(b * p.height + h));
    } else {
      write_cell_bits(b, h, first);
    }
  }

  template <bool kRelu, bool kBlur>
  void row2(int64_t b, int64_t h) const {
    const int64_t row_number = b * p.height + h;
    uint8_t* mask = p.activation == Activation::relu_with_mask ? mask_row(row_number) : nullptr;
    T* fine = static_cast<T*>(p.output) + shape.fine(row_number * 2, 0, 0);
    const T* coarse = input(b, h, 0, 0, 0);
    if (!p.channels_last) {
      const int64_t done = upsample_row_contiguous<kRelu, kBlur>(coarse, h > 0, p.height * p.width,
                                                                 p.width, mask, fine);
      if (done < p.width) row(b, h, done);
    } else if (p.channels >= kLanes<T>) {
      upsample_row_channels_last<kRelu, kBlur>(coarse, h > 0, p.width, p.channels, mask, fine);
    } else {
      row(b, h, 0);
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
      forward.row(b, h, 0);
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
  lanes_t<T> right{};
  if (has_right) right[0] = to_float(row[2 * kLanes<T>]);
  q[0] = pair.even * 0.25f;
  q[1] = pair.odd * 0.25f;
  q[2] = before_last(pair.even, right) * 0.25f;
}

// grad: row 2h of the fine tensor; last: there is no row 2h + 2. coarse: as in the forward pass.
// Returns how many cells of the row it did, an even number.
template <bool kBlur, typename T>
int64_t gradient_row_contiguous(const T* grad, bool top, bool last, int64_t plane, int64_t width,
                                const uint8_t* mask, T* coarse) {
  const int64_t count = width / 2 * 2;
  if (count < kLanes<T>) return 0;
  for (int64_t first = 0; first < count; first += kLanes<T>) {
    const int64_t w = std::min<int64_t>(first, count - kLanes<T>);
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
    if (mask != nullptr) cells = keep_cells(mask + w / 2, cells);
    store_lanes(coarse + w, cells.a);
    store_lanes(coarse + plane + w, cells.b);
    store_lanes(coarse + 2 * plane + w, cells.c);
    store_lanes(coarse + 3 * plane + w, cells.d);
  }
  return count;
}

// channels >= kLanes.
template <bool kBlur, typename T>
void gradient_row_channels_last(const T* grad, bool top, bool last, int64_t width, int64_t channels,
                                const uint8_t* mask, T* coarse) {
  using V = lanes_t<T>;
  const bool whole_bytes = channels % 2 == 0;
  for (int64_t w = 0; w < width; ++w) {
    for (int64_t first = 0; first < channels; first += kLanes<T>) {
      const int64_t c = std::min<int64_t>(first, channels - kLanes<T>);
      V q[3][3];
      for (int y = 0; y < (kBlur ? 3 : 2); ++y) {
        for (int x = 0; x < (kBlur ? 3 : 2); ++x) {
          const bool beyond = (y == 2 && last) || (x == 2 && w == width - 1);
          const T* address = grad + (2 * (y * width + w) + x) * channels + c;
          q[y][x] = beyond ? V{} : load_lanes(address);
          if (kBlur) q[y][x] *= 0.25f;
        }
      }
      Four<T> cells{q[0][0], q[0][1], q[1][0], q[1][1]};
      if (kBlur) {
        const Cell<V> s = blur_gradient_vector(q, top, w == 0);
        cells = {s.a, s.b, s.c, s.d};
      }
      const int64_t cell = w * channels + c;
      if (mask != nullptr && whole_bytes) cells = keep_cells(mask + cell / 2, cells);
      store_fours(coarse + cell * 4, cells);
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

  // Row h, from cell `first` on.
  void row(int64_t b, int64_t h, int64_t first) const {
    const int64_t r = p.factor, height = p.height * r, width = p.width * r;
    const T* grad = static_cast<const T*>(p.grad_output);
    const uint8_t* bits =
        p.mask == nullptr ? nullptr
                          : p.mask + (b * p.height + h) * mask_row_bytes(p.width, p.channels, r);
    for (int64_t i = 0; i < r; ++i) {
      for (int64_t w = first; w < p.width; ++w) {
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
    if (!p.channels_last) {
      const int64_t done = gradient_row_contiguous<kBlur>(
          grad, h == 0, h == p.height - 1, p.height * p.width, p.width, mask, coarse);
      if (done < p.width) this->row(b, h, done);
    } else if (p.channels >= kLanes<T>) {
      gradient_row_channels_last<kBlur>(grad, h == 0, h == p.height - 1, p.width, p.channels, mask,
                                        coarse);
    } else {
      this->row(b, h, 0);
    }
  }
};

template <typename T>
void gradient_rows(const SubpixelUpsampleBackwardParams& p, int64_t begin, int64_t end) {
  const Backward<T> backward{p, {p.channels, p.height, p.width, p.factor, p.channels_last}};
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / p.height, h = row % p.height;
    if (p.factor != 2) {
      backward.row(b, h, 0);
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
