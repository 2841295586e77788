// pool_scatter_rows.h: the values of any windows: each element of a row of the map, or each channel
// of a pixel, meets the windows that see it. Compiled once an instruction set, after pool_held.h.
//
// What it gained in pool backward of [4, 256, 90, 120], against a pass over each row for every tap,
// as PyTorch's time over ours (one thread of a Zen 4, AVX-512):
//   3x3, stride 2, sums in registers: contiguous fp32 1.0 -> 2.6, bf16 0.2 -> 1.3; channels_last
//   bf16 0.7 -> 2.8 (of this, bytes widened by an instruction rather than by GCC 12: contiguous
//   bf16 2.2 times, channels_last bf16 3.6 times)
// Milliseconds of it in bf16 (two threads of a Zen 3, AVX2), before and after windows are held in
// the width of sums, so that each is converted once:
//   contiguous 3x3, stride 2 4.0 -> 2.5, stride 1 7.9 -> 6.1; 5x5, stride 2 3.9 -> 3.0;
//   channels_last 5x5, stride 2 4.1 -> 3.2

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// inner = 1, strides 1 and 2 along the width: a row of the map at a time, each of its elements
// meets the windows that see it, in their order. Held rows have room on both sides, so that vectors
// need not know where a row ends. 16-bit elements are added up in float, rounded once.
template <typename T, Combine kCombine, int kStride>
struct ScatterRowsAlong {
  using Word = word_t<T>;
  // The windows that a row's elements of one parity see by one tap.
  struct SeenWindows {
    int64_t at;  // where the first of them is held
    Word won;    // what its record holds where it won
  };
  static constexpr int kSpan = kStride * kLanes<T>;  // columns of the map in a vector of windows
  static constexpr int kBlock = 8 / kStride;  // vectors at once: sums that do not wait for others

  const PoolScatterParams& a;
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  const T* end;  // of the rows that this thread writes: what it spills beyond a row it mends next
  HeldRows<T> rows;
  std::vector<SeenWindows> windows;  // of each row of a map, of either parity
  std::vector<size_t> windows_end;

  // How far windows lie before column 0's, and beyond those of the last column's vector.
  static int64_t margin_of(const Window2d& w) {
    return ceil_div<int64_t>(std::max<int64_t>(0, int64_t{w.kernel_w - 1} * w.dilation_w - w.pad_w),
                             kStride);
  }
  static int64_t width_of(const PoolShape& s, const Window2d& w) {
    const int64_t seen =
        ceil_div<int64_t>(s.width, kSpan) * kLanes<T> + (kStride - 1 + w.pad_w) / kStride;
    return margin_of(w) + std::max(s.pooled_width, seen);
  }

  ScatterRowsAlong(const PoolScatterParams& arguments, int64_t end_item)
      : a(arguments),
        end(static_cast<const T*>(a.map) + end_item * a.shape.width),
        rows(a, margin_of(w), width_of(s, w)) {
    for (int64_t y = 0; y < s.height; ++y) {
      for (int64_t x = 0; x < kStride; ++x) list_windows(y, x);
    }
  }

  void list_windows(int64_t y, int64_t x) {
    for (int64_t oh = rows.first_row(y); oh < rows.last_row(y); ++oh) {
      const int64_t kh = tap_along<int64_t>(y, oh, w.stride_h, w.pad_h, w.dilation_h);
      for (int64_t kw = w.kernel_w - 1; kh >= 0 && kw >= 0; --kw) {
        const int64_t start = x + w.pad_w - kw * w.dilation_w;
        if (start % kStride != 0) continue;
        const int64_t won = rows.won_along_height(kh) + rows.won_along_width(kw);
        windows.push_back({rows.place(oh) + start / kStride, static_cast<Word>(won)});
      }
    }
    windows_end.push_back(windows.size());
  }

  // kVectors vectors of elements of one parity, which see the windows `column` behind those listed.
  template <int kVectors>
  SEGFAST_LANES void gather(const SeenWindows* seen, const SeenWindows* last, int64_t column,
                            bits_t<T> (&out)[kVectors]) const {
    lanes_t<T> held[kVectors] = {};
    for (; seen < last; ++seen) {
      rows.template meet<kCombine>(column + seen->at, seen->won, held);
    }
    for (int v = 0; v < kVectors; ++v) out[v] = combined_words<T, kCombine>(held[v]);
  }

  // kVectors spans of row y from column x on.
  template <int kVectors>
  SEGFAST_LANES void gather_spans(int64_t y, int64_t x, T* out) const {
    const SeenWindows* const all = windows.data();
    const size_t* const ends = windows_end.data() + y * kStride;
    bits_t<T> even[kVectors];
    gather(all + (y == 0 ? 0 : ends[-1]), all + ends[0], x / kStride, even);
    if constexpr (kStride == 1) {
      for (int v = 0; v < kVectors; ++v) store_words(out + v * kSpan, even[v]);
    } else {
      bits_t<T> odd[kVectors];
      gather(all + ends[0], all + ends[1], x / kStride, odd);
      for (int v = 0; v < kVectors; ++v) store_word_pairs(out + v * kSpan, even[v], odd[v]);
    }
  }

  void scatter(int64_t o, int64_t y) {
    rows.hold(o, rows.first_row(y), rows.last_row(y));
    T* const out = static_cast<T*>(a.map) + (o * s.height + y) * s.width;
    int64_t x = 0;
    for (; x + kBlock * kSpan <= s.width; x += kBlock * kSpan) gather_spans<kBlock>(y, x, out + x);
    for (; x < s.width; x += kSpan) {
      if (out + x + kSpan <= end) {
        gather_spans<1>(y, x, out + x);
      } else {
        T last[kSpan];
        gather_spans<1>(y, x, last);
        std::memcpy(out + x, last, static_cast<size_t>(s.width - x) * sizeof(T));
      }
    }
  }
};

// inner > 1: a pixel of the map at a time, each channel meets the windows that see it, in their
// order.
template <typename T, Combine kCombine, typename Rows>
struct ScatterPixels {
  using Word = word_t<T>;
  // Windows that see a row or a column of the map: where the first of them is held, in its row for
  // a column, and what its record holds where it won.
  struct Seen {
    int64_t at;
    Word won;
  };

  const PoolScatterParams& a;
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  Rows rows;
  std::vector<Seen> seen_rows;
  std::vector<Seen> columns;        // of all columns of the map, one after another
  std::vector<size_t> columns_end;  // of each column

  explicit ScatterPixels(const PoolScatterParams& arguments)
      : a(arguments), rows(a, 0, s.pooled_width * s.inner + kLanes<T>) {
    for (int64_t x = 0; x < s.width; ++x) {
      const int64_t last = last_window<int64_t>(x, w.stride_w, w.pad_w, s.pooled_width);
      for (int64_t ow = first_window<int64_t>(x, w.kernel_w, w.stride_w, w.pad_w, w.dilation_w);
           ow < last; ++ow) {
        const int64_t kw = tap_along<int64_t>(x, ow, w.stride_w, w.pad_w, w.dilation_w);
        const Word won = static_cast<Word>(rows.won_along_width(kw));
        if (kw >= 0) columns.push_back({ow * s.inner, won});
      }
      columns_end.push_back(columns.size());
    }
  }

  // kVectors vectors of channels from c on, of the column of the map that sees those from `first`
  // on.
  template <int kVectors>
  SEGFAST_LANES void gather(const Seen* first, const Seen* last, int64_t c,
                            bits_t<T> (&out)[kVectors]) const {
    lanes_t<T> held[kVectors] = {};
    for (const Seen& row : seen_rows) {
      for (const Seen* column = first; column < last; ++column) {
        rows.template meet<kCombine>(row.at + column->at + c, row.won + column->won, held);
      }
    }
    for (int v = 0; v < kVectors; ++v) out[v] = combined_words<T, kCombine>(held[v]);
  }

  void scatter(int64_t o, int64_t y) {
    constexpr int kBlock = 8;  // vectors at once: sums that do not wait for others
    const int64_t inner = s.inner;
    T* out = static_cast<T*>(a.map) + (o * s.height + y) * s.width * inner;
    rows.hold(o, rows.first_row(y), rows.last_row(y));
    seen_rows.clear();
    for (int64_t oh = rows.first_row(y); oh < rows.last_row(y); ++oh) {
      const int64_t kh = tap_along<int64_t>(y, oh, w.stride_h, w.pad_h, w.dilation_h);
      const Word won = static_cast<Word>(rows.won_along_height(kh));
      if (kh >= 0) seen_rows.push_back({rows.place(oh), won});
    }
    const Seen* first = columns.data();
    for (int64_t x = 0; x < s.width; ++x, out += inner) {
      const Seen* const last = columns.data() + columns_end[static_cast<size_t>(x)];
      bits_t<T> one[1];
      int64_t c = 0;
      for (; c + kBlock * kLanes<T> <= inner; c += kBlock * kLanes<T>) {
        bits_t<T> several[kBlock];
        gather(first, last, c, several);
        for (int v = 0; v < kBlock; ++v) store_words(out + c + v * kLanes<T>, several[v]);
      }
      for (; inner >= kLanes<T> && c < inner; c += kLanes<T>) {
        c = std::min(c, inner - kLanes<T>);  // the last may overlap
        gather(first, last, c, one);
        store_words(out + c, one[0]);
      }
      if (inner < kLanes<T>) {
        gather(first, last, 0, one);
        store_some_words(out, one[0], static_cast<int>(inner));
      }
      first = last;
    }
  }
};

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
