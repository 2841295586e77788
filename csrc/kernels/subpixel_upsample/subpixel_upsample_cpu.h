// subpixel_upsample_cpu.h: compiled once for each instruction set by subpixel_upsample_cpu.cpp.
//
// Factor 2 works in tiles: runs of cells side by side (along the width in torch.contiguous_format,
// along the channels in torch.channels_last), each subpixel of the run an array, so that the
// formulas vectorize. One of the two tensors lies in memory like that; the other passes through a
// buffer. Other factors, and masks that are given to the forward pass, go element by element.
#include "kernels/pixel_shuffle/interleave_cpu.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

constexpr int64_t kTile = 128;  // with all buffers well within the first-level cache

// What moves bits: the 16-bit types are moved as integers.
template <typename T>
struct RawType {
  using type = T;
};
template <>
struct RawType<Half> {
  using type = uint16_t;
};
template <>
struct RawType<BFloat16> {
  using type = uint16_t;
};
template <typename T>
using raw_t = typename RawType<T>::type;

template <typename T>
raw_t<T>* raw(T* pointer) {
  return reinterpret_cast<raw_t<T>*>(pointer);
}

template <typename T>
inline T select(bool keep, T value) {
  return keep ? value : T(0);
}
template <>
inline uint16_t select(bool keep, uint16_t value) {
  return static_cast<uint16_t>(value & -static_cast<int>(keep));
}

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
  for (int64_t first = 0; first + 8 <= count; first += 8) {
    const uint32_t bits = mask[first / 8];
    for (int k = 0; k < 8; ++k) elements[first + k] = select((bits >> k) & 1, elements[first + k]);
  }
  for (int64_t k = count / 8 * 8; k < count; ++k)
    elements[k] = select(test_bit(mask, k), elements[k]);
}

// The four bits of each cell of a contiguous row with r = 2; n <= kTile + 1 for an odd last cell.
template <typename T>
void write_cell_mask(const T* a, const T* b, const T* c, const T* d, int64_t n, uint8_t* mask) {
  uint8_t cells[kTile];
  for (int64_t k = 0; k < n; ++k) {
    cells[k] = static_cast<uint8_t>(
        passes_gradient(to_float(a[k])) | passes_gradient(to_float(b[k])) << 1 |
        passes_gradient(to_float(c[k])) << 2 | passes_gradient(to_float(d[k])) << 3);
  }
  if (n % 2 != 0) cells[n] = 0;
  for (int64_t k = 0; 2 * k < n; ++k) {
    mask[k] = static_cast<uint8_t>(cells[2 * k] | cells[2 * k + 1] << 4);
  }
}

template <typename T>
void apply_cell_mask(T* const subpixels[4], int64_t n, const uint8_t* mask) {
  uint8_t cells[kTile];
  for (int64_t k = 0; 2 * k < n; ++k) {
    cells[2 * k] = mask[k] & 15;
    cells[2 * k + 1] = mask[k] >> 4;
  }
  for (int s = 0; s < 4; ++s) {
    T* elements = subpixels[s];
    for (int64_t k = 0; k < n; ++k) elements[k] = select((cells[k] >> s) & 1, elements[k]);
  }
}

// ---- forward, factor 2

template <bool kRelu, typename T>
inline accumulate_t<T> activated(T x) {
  return kRelu ? relu(to_float(x)) : to_float(x);
}

// What blur_cell takes, as arrays.
template <typename T>
struct CellArrays {
  const T *a, *b, *c, *d, *upper_c, *upper_d, *left_b, *left_d, *corner_d;

  CellArrays operator+(int64_t k) const {
    return {a + k,       b + k,      c + k,      d + k,       upper_c + k,
            upper_d + k, left_b + k, left_d + k, corner_d + k};
  }
};

template <bool kRelu, bool kBlur, typename T>
void upsample_tile(const CellArrays<T> in, T* __restrict a, T* __restrict b, T* __restrict c,
                   T* __restrict d, int64_t n) {
  using A = accumulate_t<T>;
  for (int64_t k = 0; k < n; ++k) {
    Cell<A> cell{activated<kRelu>(in.a[k]), activated<kRelu>(in.b[k]), activated<kRelu>(in.c[k]),
                 activated<kRelu>(in.d[k])};
    if (kBlur) {
      cell = blur_cell(cell, activated<kRelu>(in.upper_c[k]), activated<kRelu>(in.upper_d[k]),
                       activated<kRelu>(in.left_b[k]), activated<kRelu>(in.left_d[k]),
                       activated<kRelu>(in.corner_d[k]));
    }
    a[k] = from_float<T>(cell.a);
    b[k] = from_float<T>(cell.b);
    c[k] = from_float<T>(cell.c);
    d[k] = from_float<T>(cell.d);
  }
}

// coarse: row h of subpixel a, the others `plane` apart. has_upper: row h - 1 lies before it. fine:
// row 2h, followed by row 2h + 1.
template <bool kRelu, bool kBlur, typename T>
void upsample_row_contiguous(const T* coarse, bool has_upper, int64_t plane, int64_t width,
                             uint8_t* mask, T* fine) {
  const T *a = coarse, *b = a + plane, *c = b + plane, *d = c + plane;
  const CellArrays<T> in{a,
                         b,
                         c,
                         d,
                         has_upper ? c - width : a,
                         has_upper ? d - width : b,
                         b - 1,
                         d - 1,
                         has_upper ? d - width - 1 : b - 1};
  T out[4][kTile];
  for (int64_t first = 0; first < width; first += kTile) {
    const int64_t n = std::min(kTile, width - first);
    int64_t k = 0;
    if (first == 0) {
      CellArrays<T> edge = in;
      edge.left_b = a;
      edge.left_d = c;
      edge.corner_d = in.upper_c;
      upsample_tile<kRelu, kBlur>(edge, out[0], out[1], out[2], out[3], 1);
      k = 1;
    }
    upsample_tile<kRelu, kBlur>(in + (first + k), out[0] + k, out[1] + k, out[2] + k, out[3] + k,
                                n - k);
    for (int i = 0; i < 2; ++i) {
      move_row<true, 2>(raw(out[2 * i]), raw(fine) + 2 * (i * width + first), kTile, n);
    }
    if (mask != nullptr) {
      write_cell_mask(a + first, b + first, c + first, d + first, n, mask + first / 2);
    }
  }
}

// coarse: row h, [width, channels, 2, 2]. The rest as above.
template <bool kRelu, bool kBlur, typename T>
void upsample_row_channels_last(const T* coarse, bool has_upper, int64_t width, int64_t channels,
                                uint8_t* mask, T* fine) {
  const int64_t pixel = channels * 4;
  const T* upper_row = coarse - width * pixel;
  T buffers[4][4][kTile];
  for (int64_t first = 0; first < channels; first += kTile) {
    const int64_t n = std::min(kTile, channels - first);
    T(*own)[kTile] = buffers[0], (*left)[kTile] = buffers[1];
    T(*upper)[kTile] = buffers[2], (*corner)[kTile] = buffers[3];
    for (int64_t w = 0; w < width; ++w) {
      const int64_t at = w * pixel + first * 4;
      raw_t<T>* const own_raw[4] = {raw(own[0]), raw(own[1]), raw(own[2]), raw(own[3])};
      move_pixel2<true>(raw(const_cast<T*>(coarse + at)), own_raw, n);
      if (kBlur && has_upper) {
        raw_t<T>* const upper_raw[4] = {raw(upper[0]), raw(upper[1]), raw(upper[2]), raw(upper[3])};
        move_pixel2<true>(raw(const_cast<T*>(upper_row + at)), upper_raw, n);
      }
      CellArrays<T> in{own[0], own[1], own[2], own[3], own[0], own[1], own[0], own[2], own[0]};
      if (w > 0) {
        in.left_b = left[1];
        in.left_d = left[3];
        in.corner_d = left[1];
      }
      if (has_upper) {
        in.upper_c = upper[2];
        in.upper_d = upper[3];
        in.corner_d = w > 0 ? corner[3] : upper[2];
      }
      T* out = fine + 2 * w * channels + first;
      T* next = out + 2 * width * channels;
      upsample_tile<kRelu, kBlur>(in, out, out + channels, next, next + channels, n);
      std::swap(own, left);
      std::swap(upper, corner);
    }
  }
  if (mask != nullptr) write_mask(coarse, width * pixel, mask);
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
        return select(test_bit(run.bits, run.bit + k * cell), x);
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

  void mask_contiguous_row(int64_t b, int64_t h) const {
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
          upsample(b, h, 0, i, j, 1);  // the only cell whose left neighbour is itself
          upsample(b, h, 1, i, j, p.width - 1);
        }
      }
    }
    if (p.activation != Activation::relu_with_mask) return;
    if (p.channels_last) {
      write_mask(input(b, h, 0, 0, 0), p.width * p.channels * p.factor * p.factor,
                 mask_row(b * p.height + h));
    } else {
      mask_contiguous_row(b, h);
    }
  }

  template <bool kRelu, bool kBlur>
  void row2(int64_t b, int64_t h) const {
    const int64_t row = b * p.height + h;
    uint8_t* mask = p.activation == Activation::relu_with_mask ? mask_row(row) : nullptr;
    T* fine = static_cast<T*>(p.output) + shape.fine(row * 2, 0, 0);
    const T* coarse = input(b, h, 0, 0, 0);
    if (p.channels_last) {
      upsample_row_channels_last<kRelu, kBlur>(coarse, h > 0, p.width, p.channels, mask, fine);
    } else {
      upsample_row_contiguous<kRelu, kBlur>(coarse, h > 0, p.height * p.width, p.width, mask, fine);
    }
  }
};

template <typename T>
void upsample_rows(const SubpixelUpsampleParams& p, int64_t begin, int64_t end) {
  const Forward<T> forward(p);
  const bool tiles = p.factor == 2 && p.activation != Activation::masked;
  const bool with_relu = p.activation != Activation::none;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / p.height, h = row % p.height;
    if (!tiles) {
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

template <typename T>
const T* zeros() {
  static const T memory[2 * kTile + 1] = {};
  return memory;
}

template <bool kTop, bool kLeft, typename T>
void gradient_tile(const T* const (&grad)[3][3], T* __restrict a, T* __restrict b, T* __restrict c,
                   T* __restrict d, int64_t n) {
  using A = accumulate_t<T>;
  for (int64_t k = 0; k < n; ++k) {
    A q[3][3];
    for (int y = 0; y < 3; ++y) {
      for (int x = 0; x < 3; ++x) q[y][x] = to_float(grad[y][x][k]) * A(0.25);
    }
    const Cell<A> cell = blur_gradient_cell<kTop, kLeft>(q);
    a[k] = from_float<T>(cell.a);
    b[k] = from_float<T>(cell.b);
    c[k] = from_float<T>(cell.c);
    d[k] = from_float<T>(cell.d);
  }
}

template <typename T>
void gradient_tile(const T* const (&grad)[3][3], bool top, bool left, T* a, T* b, T* c, T* d,
                   int64_t n) {
  if (top) {
    left ? gradient_tile<true, true>(grad, a, b, c, d, n)
         : gradient_tile<true, false>(grad, a, b, c, d, n);
  } else {
    left ? gradient_tile<false, true>(grad, a, b, c, d, n)
         : gradient_tile<false, false>(grad, a, b, c, d, n);
  }
}

// grad: row 2h of the fine tensor; last: there is no row 2h + 2. coarse: as in the forward pass.
template <bool kBlur, typename T>
void gradient_row_contiguous(const T* grad, bool top, bool last, int64_t plane, int64_t width,
                             const uint8_t* mask, T* coarse) {
  T even[3][kTile + 1], odd[3][kTile + 1];
  for (int64_t first = 0; first < width; first += kTile) {
    const int64_t n = std::min(kTile, width - first);
    T* const s[4] = {coarse + first, coarse + plane + first, coarse + 2 * plane + first,
                     coarse + 3 * plane + first};
    const T* q[3][3];
    for (int y = 0; y < (kBlur ? 3 : 2); ++y) {
      if (!kBlur) {
        move_row<false, 2>(raw(s[2 * y]), raw(const_cast<T*>(grad)) + 2 * (y * width + first),
                           plane, n);
        continue;
      }
      const T* row = y == 2 && last ? zeros<T>() : grad + 2 * (y * width + first);
      for (int64_t k = 0; k < n; ++k) {
        even[y][k] = row[2 * k];
        odd[y][k] = row[2 * k + 1];
      }
      even[y][n] = first + n < width ? row[2 * n] : T{};
      q[y][0] = even[y];
      q[y][1] = odd[y];
      q[y][2] = even[y] + 1;
    }
    if (kBlur && first > 0) {
      gradient_tile(q, top, false, s[0], s[1], s[2], s[3], n);
    } else if (kBlur) {
      gradient_tile(q, top, true, s[0], s[1], s[2], s[3], 1);
      for (auto& row : q) {
        for (const T*& pointer : row) ++pointer;
      }
      gradient_tile(q, top, false, s[0] + 1, s[1] + 1, s[2] + 1, s[3] + 1, n - 1);
    }
    if (mask != nullptr) {
      raw_t<T>* const s_raw[4] = {raw(s[0]), raw(s[1]), raw(s[2]), raw(s[3])};
      apply_cell_mask(s_raw, n, mask + first / 2);
    }
  }
}

template <bool kBlur, typename T>
void gradient_row_channels_last(const T* grad, bool top, bool last, int64_t width, int64_t channels,
                                const uint8_t* mask, T* coarse) {
  T out[4][kTile];
  raw_t<T>* const out_raw[4] = {raw(out[0]), raw(out[1]), raw(out[2]), raw(out[3])};
  for (int64_t first = 0; first < channels; first += kTile) {
    const int64_t n = std::min(kTile, channels - first);
    for (int64_t w = 0; w < width; ++w) {
      raw_t<T>* pixel = raw(coarse) + (w * channels + first) * 4;
      const T* q[3][3];
      for (int y = 0; y < 3; ++y) {
        for (int x = 0; x < 3; ++x) {
          const bool beyond = (y == 2 && last) || (x == 2 && w == width - 1);
          q[y][x] = beyond ? zeros<T>() : grad + (2 * (y * width + w) + x) * channels + first;
        }
      }
      if (kBlur) {
        gradient_tile(q, top, w == 0, out[0], out[1], out[2], out[3], n);
        move_pixel2<false>(pixel, out_raw, n);
      } else {
        raw_t<T>* const grad_raw[4] = {raw(const_cast<T*>(q[0][0])), raw(const_cast<T*>(q[0][1])),
                                       raw(const_cast<T*>(q[1][0])), raw(const_cast<T*>(q[1][1]))};
        move_pixel2<false>(pixel, grad_raw, n);
      }
    }
  }
  if (mask != nullptr) apply_mask(raw(coarse), width * channels * 4, mask);
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
                from_float<T>(select(bits == nullptr || test_bit(bits, bit), value));
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
    if (p.channels_last) {
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
