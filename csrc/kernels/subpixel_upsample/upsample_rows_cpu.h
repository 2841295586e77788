// upsample_rows_cpu.h: the forward pass, a row of the map at a time. Compiled once for each
// instruction set, after runs_cpu.h.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

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

// One step along the channels of a pixel. left: b and d of the cells to the left; become those of
// these. out: of the upper left element; the one to its right is `channels` on, that below `row`.
template <bool kRelu, bool kBlur, int kParts, typename T>
SEGFAST_LANES void upsample_channels(const T* coarse, uint8_t* mask, Before<lanes_t<T>>* left,
                                     Above<lanes_t<T>>* above, T* out, int64_t channels,
                                     int64_t row) {
  using V = lanes_t<T>;
  Cell<V> cells[kParts];
  load_cells<kRelu>(coarse, mask, cells);
  V a[kParts], b[kParts], c[kParts], d[kParts];
  for (int part = 0; part < kParts; ++part) {
    Cell<V> cell = cells[part];
    if (kBlur) {
      const V left_b = left[part].b, left_d = left[part].d;
      left[part].b = cell.b;
      left[part].d = cell.d;
      cell = blur_lanes<T>(cell, above + part, left_b, left_d);
    }
    a[part] = cell.a, b[part] = cell.b, c[part] = cell.c, d[part] = cell.d;
  }
  store_channels(out, a);
  store_channels(out + channels, b);
  store_channels(out + row, c);
  store_channels(out + row + channels, d);
}

// A row; what stands for what as in start_row_channels_last(). Pointers go on by steps: of the
// instructions that a step took, a sixth found its places.
template <bool kRelu, bool kBlur, int kParts, typename T>
void upsample_row_channels_last(const T* coarse, int64_t width, int64_t channels,
                                Above<lanes_t<T>>* above, uint8_t* mask, T* fine) {
  using V = lanes_t<T>;
  constexpr int64_t kStep = kParts * kLanes<T>;
  Before<V> left[kSlots];
  const int64_t pixel = channels * 4, row = 2 * width * channels;
  const bool whole_bytes = channels % 2 == 0;
  uint8_t* const bits = whole_bytes ? mask : nullptr;
  for (int64_t block = 0; block < channels; block += kSlots * kLanes<T>) {
    const int64_t end = std::min(channels, block + kSlots * kLanes<T>);
    if (kBlur) {  // at the row's start, its own a and c stand for b and d
      Before<V>* slot = left;
      for (int64_t first = block; first < end; first += kStep) {
        const int64_t c = std::min<int64_t>(first, channels - kStep);  // the last may overlap
        Cell<V> cells[kParts];
        load_cells<kRelu>(coarse + c * 4, nullptr, cells);
        for (const Cell<V>& cell : cells) *slot++ = {cell.a, cell.c};
      }
    }
    const int64_t whole = (end - block) / kStep * kStep;
    for (int64_t w = 0; w < width; ++w) {
      const T* in = coarse + w * pixel + block * 4;
      T* out = fine + 2 * w * channels + block;
      uint8_t* to = bits == nullptr ? nullptr : bits + (w * channels + block) / 2;
      const int64_t bytes = bits == nullptr ? 0 : kStep / 2;
      Before<V>* slot = left;
      for (T* const stop = out + whole; out != stop;) {
        upsample_channels<kRelu, kBlur, kParts>(in, to, slot, above, out, channels, row);
        in += 4 * kStep;
        out += kStep;
        to += bytes;
        slot += kParts;
        above += kParts;
      }
      if (block + whole < end) {  // the last channels again
        const int64_t back = block + whole + kStep - channels;
        upsample_channels<kRelu, kBlur, kParts>(in - 4 * back,
                                                bits == nullptr ? nullptr : to - back / 2, slot,
                                                above, out - back, channels, row);
        above += kParts;
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

  // Rows whose runs are less than a vector, factor 2: through copies in which they are one.
  template <bool kRelu, bool kBlur>
  void short_rows2(int64_t begin, int64_t end) const {
    const int64_t width = p.channels_last ? p.width : kLanes<T>;  // of a copy
    const int64_t channels = p.channels_last ? kLanes<T> : 1, length = width * channels * 4;
    const std::unique_ptr<T[]> coarse(new T[length]()), fine(new T[length]);
    const std::unique_ptr<Above<lanes_t<T>>[]> above(new Above<lanes_t<T>>[width]);
    uint8_t bits[kLanes<T>];
    const bool with_mask = p.activation == Activation::relu_with_mask;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / p.height, h = row % p.height;
      if (kBlur && (row == begin || h == 0)) {
        copy_coarse(b, h == 0 ? h : h - 1, coarse.get());
        if (p.channels_last) {
          start_row_channels_last<kRelu, 1>(coarse.get(), h == 0, width, channels, above.get());
        } else {
          start_row_contiguous<kRelu, 1>(coarse.get(), h == 0, width, width, above.get());
        }
      }
      copy_coarse(b, h, coarse.get());
      T* const out = static_cast<T*>(p.output) + row * p.width * p.channels * 4;
      if (p.channels_last) {
        upsample_row_channels_last<kRelu, kBlur, 1>(coarse.get(), width, channels, above.get(),
                                                    nullptr, fine.get());
        copy_runs(fine.get(), channels, out, p.channels, p.channels, 4 * width);
        if (with_mask) {
          write_mask(input(b, h, 0, 0, 0), p.width * p.channels * 4, mask_row(row));
        }
      } else {
        upsample_row_contiguous<kRelu, kBlur, 1>(coarse.get(), width, width, above.get(),
                                                 with_mask ? bits : nullptr, fine.get());
        copy_runs(fine.get(), 2 * width, out, 2 * p.width, 2 * p.width, 2);
        if (with_mask) std::memcpy(mask_row(row), bits, static_cast<size_t>(row_bytes));
      }
    }
  }

  void copy_coarse(int64_t b, int64_t h, T* to) const {
    const T* const from = input(b, h, 0, 0, 0);
    if (p.channels_last) {
      copy_runs(from, 4 * p.channels, to, 4 * kLanes<T>, 4 * p.channels, p.width);
    } else {
      copy_runs(from, p.height * p.width, to, kLanes<T>, p.width, 4);
    }
  }
};

template <typename T>
void upsample_rows(const SubpixelUpsampleParams& p, int64_t begin, int64_t end) {
  const Forward<T> forward(p);
  const int64_t run = p.channels_last ? p.channels : p.width;
  const bool vectors = p.factor == 2 && p.activation != Activation::masked;
  const bool with_relu = p.activation != Activation::none;
  if (!vectors) {
    for (int64_t row = begin; row < end; ++row) forward.row(row / p.height, row % p.height);
  } else if (run < kLanes<T>) {
    if (p.blur) {
      with_relu ? forward.template short_rows2<true, true>(begin, end)
                : forward.template short_rows2<false, true>(begin, end);
    } else {
      with_relu ? forward.template short_rows2<true, false>(begin, end)
                : forward.template short_rows2<false, false>(begin, end);
    }
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

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
