// gradient_rows_cpu.h: the backward pass, a row of the map at a time. Compiled once for each
// instruction set, after runs_cpu.h.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

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

// The channels from `begin` to `end` of a pixel, whose mask and coarse cells begin there.
template <int kParts, typename T>
SEGFAST_LANES void gradient_pixel(const T* const (&own)[3], const T* const (&right)[3],
                                  lanes_t<T> (*kept)[3], int64_t begin, int64_t end, bool top,
                                  bool left, const uint8_t* mask, T* coarse) {
  constexpr int64_t kStep = kParts * kLanes<T>;
  const int64_t bytes = mask == nullptr ? 0 : kStep / 2;
  int64_t c = begin;
  for (; c + kStep <= end; c += kStep) {
    gradient_channels<kParts>(own, right, kept, c, top, left, mask, coarse);
    kept += kParts;
    mask += bytes;
    coarse += 4 * kStep;
  }
  if (c < end) {  // the last channels again
    const int64_t back = c + kStep - end;
    gradient_channels<kParts>(own, right, kept, c - back, top, left,
                              mask == nullptr ? nullptr : mask - back / 2, coarse - 4 * back);
  }
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
      const int64_t cell = w * channels + block;
      const uint8_t* const bits = mask == nullptr ? nullptr : mask + cell / 2;
      if (top || w == 0) {
        gradient_pixel<kParts>(own, right, kept, block, end, top, w == 0, bits, coarse + cell * 4);
      } else {
        gradient_pixel<kParts>(own, right, kept, block, end, false, false, bits, coarse + cell * 4);
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

  // Rows whose runs are less than a vector, factor 2: through copies in which they are one, 0
  // behind.
  template <bool kBlur>
  void short_rows2(int64_t begin, int64_t end) const {
    const int64_t width = p.channels_last ? p.width : kLanes<T>;  // of a copy
    const int64_t channels = p.channels_last ? kLanes<T> : 1, half = width * channels * 2;
    const int64_t length = p.width * p.channels * 4,
                  row_bytes = mask_row_bytes(p.width, p.channels, 2);
    // Three rows of the gradient, the last of which may be none; what lies beyond the map.
    const std::unique_ptr<T[]> grad(new T[3 * half]()), coarse(new T[2 * half]);
    const T zeros[kLanes<T>] = {};
    uint8_t bits[kLanes<T>];
    std::fill_n(bits, kLanes<T>, uint8_t{0xff});
    for (int64_t row = begin; row < end; ++row) {
      const int64_t h = row % p.height;
      const bool top = h == 0, is_last = h == p.height - 1;
      const T* const from = static_cast<const T*>(p.grad_output) + row * length;
      T* const out = static_cast<T*>(p.grad_input);
      const uint8_t* const mask = p.mask == nullptr ? nullptr : p.mask + row * row_bytes;
      T* const below = grad.get() + 2 * half;
      if (is_last) std::fill_n(below, half, T{});
      const int64_t rows = kBlur && !is_last ? 3 : 2;
      if (p.channels_last) {
        copy_runs(from, p.channels, grad.get(), channels, p.channels, 2 * rows * width);
        if constexpr (kBlur) {
          blurred_gradient_row_channels_last<1>(grad.get(), below, zeros, top, width, channels,
                                                nullptr, coarse.get());
        } else {
          gradient_row_channels_last(grad.get(), width, channels, nullptr, coarse.get());
        }
        copy_runs(coarse.get(), 4 * channels, out + row * length, 4 * p.channels, 4 * p.channels,
                  width);
        if (mask != nullptr) apply_mask(out + row * length, length, mask);
      } else {
        copy_runs(from, 2 * p.width, grad.get(), 2 * width, 2 * p.width, rows);
        if (mask != nullptr) std::memcpy(bits, mask, static_cast<size_t>(row_bytes));
        const auto gradient_row = kBlur && top ? gradient_row_contiguous<kBlur, true, T>
                                               : gradient_row_contiguous<kBlur, false, T>;
        gradient_row(grad.get(), below, width, width, bits, coarse.get());
        const int64_t plane = p.height * p.width;
        copy_runs(coarse.get(), width, out + row / p.height * 4 * plane + h * p.width, plane,
                  p.width, 4);
      }
    }
  }
};

template <typename T>
void gradient_rows(const SubpixelUpsampleBackwardParams& p, int64_t begin, int64_t end) {
  const Backward<T> backward{p, {p.channels, p.height, p.width, p.factor, p.channels_last}};
  if (p.factor != 2) {
    for (int64_t row = begin; row < end; ++row) backward.row(row / p.height, row % p.height);
  } else if ((p.channels_last ? p.channels : p.width) < kLanes<T>) {
    p.blur ? backward.template short_rows2<true>(begin, end)
           : backward.template short_rows2<false>(begin, end);
  } else if (!p.blur) {
    backward.template rows2<false, 1>(begin, end);
  } else if (p.channels_last && p.channels >= kTogether<T> * kLanes<T>) {
    backward.template rows2<true, kTogether<T>>(begin, end);
  } else {
    backward.template rows2<true, 1>(begin, end);
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
