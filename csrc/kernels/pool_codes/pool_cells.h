// pool_cells.h: pool backward of windows known at compile time, by vectors. Compiled once an
// instruction set, after pool_lanes.h.
//
// Microseconds of [2, 64, 65, 127] (one thread of a Zen 3, AVX2), before and after, against a pass
// over each row for every tap (ScatterRowsAlong, ScatterPixels) or each window (place_windows):
//   contiguous fp32 3x3, stride 2 334 -> 260, stride 1 1058 -> 772; fp16 434 -> 288, 1152 -> 724,
//   5x5, stride 2 543 -> 488; channels_last fp16 315 -> 203, 893 -> 684, 5x5 526 -> 400
// What bounds it is four vector instructions a clock: a tap takes three (compare, mask, add), a
// window that is loaded two. Tried without gain: taller tiles, what taps compare with as operands
// in memory, 5x5 of fp32 (327 -> 466; there windows are visited) and channels_last 3x3 of fp32.
#include "kernels/pool_codes/pool_held.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// The sums of a tile of the map stay in registers while all windows that see it pass by: each is
// loaded once for all elements that it may have won. Added in the order of windows, in the width of
// sums, and rounded once.
template <typename T, bool kCodes, typename Window>
struct SumCells {
  using Word = word_t<T>;

  static constexpr int kStride = Window::kStride, kKernel = Window::kKernel;
  // Of the map: the first and the last see the same windows.
  static constexpr int kTileRows = kStride > 1 ? kStride : 1 + Window::kDilation;
  // Rows of windows that see a tile: before and after the one that starts in its first row.
  static constexpr int kBefore = Window::kBefore;
  static constexpr int kAfter = (kTileRows - 1) / kStride + Window::kAfter;
  static constexpr int kSeen = kBefore + 1 + kAfter;
  static constexpr int kTargets = kTileRows * kStride;  // elements of a tile, a vector each
  static constexpr int kBlock = 2;                      // tiles at once
  static constexpr int kSpan = kStride * kLanes<T>;     // columns of the map in a vector of cells

  // That of all taps reaches no farther than Window's, and by whole windows less.
  static bool knows(const Window2d& w) {
    return w.kernel_h == kKernel && w.kernel_w == kKernel && w.stride_h == kStride &&
           w.stride_w == kStride && w.dilation_h == Window::kDilation &&
           w.dilation_w == Window::kDilation && (Window::kPad - w.pad_h) % kStride == 0 &&
           (Window::kPad - w.pad_w) % kStride == 0;
  }

  const ScatterArguments& a;
  const PoolShape& s = a.shape;
  const T* end;  // of the rows that this thread writes: what it spills beyond a row it mends next
  // By how many windows less the padding reaches than that of Window.
  const int64_t below = (Window::kPad - a.window.pad_h) / kStride;
  const int64_t right = (Window::kPad - a.window.pad_w) / kStride;
  const int64_t cells = ceil_div<int64_t>(s.width, kStride);  // in a row
  const int64_t vectors = ceil_div<int64_t>(cells, kLanes<T>);
  HeldRows<T, kCodes> rows;
  Word won[kKernel * kKernel];  // what a record holds, of each tap
  int64_t seen[kSeen] = {};     // where the rows of windows that see a tile are held
  std::vector<T> nowhere;       // in place of a row that is another thread's or no one's
  T* out[kTileRows] = {};

  SumCells(const ScatterArguments& arguments, int64_t end_item)
      : a(arguments),
        end(static_cast<const T*>(a.map) + end_item * s.width * s.inner),
        rows(a, (kBefore + right) * s.inner,
             (kBefore + right +
              std::max(s.pooled_width,
                       (s.inner == 1 ? vectors * kLanes<T> : cells) + Window::kAfter)) *
                 s.inner,
             kSeen + 1),
        nowhere(static_cast<size_t>(vectors * kSpan * s.inner)) {
    for (int kh = 0; kh < kKernel; ++kh) {
      for (int kw = 0; kw < kKernel; ++kw) {
        won[kh * kKernel + kw] =
            static_cast<Word>(rows.won_along_height(kh) + rows.won_along_width(kw));
      }
    }
  }

  // Element kTarget of tiles meets the windows kDy below and kDx beyond those of the tiles' first.
  template <int kDy, int kDx, int kTarget, int kVectors>
  SEGFAST_LANES void meet(const lanes_t<T> (&value)[kVectors], const bits_t<T> (&record)[kVectors],
                          lanes_t<T> (&sums)[kTargets][kVectors]) const {
    constexpr int kh = Window::tap(kTarget / kStride, kDy);
    constexpr int kw = Window::tap(kTarget % kStride, kDx);
    if constexpr (kh >= 0 && kw >= 0) {
      const bits_t<T> all_won = bits_t<T>{} + won[kh * kKernel + kw];
      for (int v = 0; v < kVectors; ++v) {
        lanes_t<T>& sum = sums[kTarget][v];
        sum = combine<T, Combine::sum>(sum, value[v], record[v], all_won);
      }
    }
  }

  template <int kDy, int kDx, int kVectors, int... kTarget>
  SEGFAST_LANES void meet_targets(int64_t at, lanes_t<T> (&sums)[kTargets][kVectors],
                                  std::integer_sequence<int, kTarget...>) const {
    if constexpr (Window::sees(kTileRows, kDy) && Window::sees(kStride, kDx)) {
      lanes_t<T> value[kVectors];
      bits_t<T> record[kVectors];
      const int64_t first = seen[kDy + kBefore] + at + kDx * s.inner;
      for (int v = 0; v < kVectors; ++v) {
        value[v] = load_vector<lanes_t<T>>(rows.values + first + v * kLanes<T>);
        record[v] = load_vector<bits_t<T>>(rows.records + first + v * kLanes<T>);
      }
      (meet<kDy, kDx, kTarget>(value, record, sums), ...);
    }
  }

  template <int kDy, int kVectors, int... kDx>
  SEGFAST_LANES void meet_row(int64_t at, lanes_t<T> (&sums)[kTargets][kVectors],
                              std::integer_sequence<int, kDx...>) const {
    (meet_targets<kDy, kDx - kBefore>(at, sums, std::make_integer_sequence<int, kTargets>{}), ...);
  }

  template <int kVectors, int... kDy>
  SEGFAST_LANES void meet_rows(int64_t at, lanes_t<T> (&sums)[kTargets][kVectors],
                               std::integer_sequence<int, kDy...>) const {
    (meet_row<kDy - kBefore>(at, sums,
                             std::make_integer_sequence<int, kBefore + 1 + Window::kAfter>{}),
     ...);
  }

  // inner = 1: kVectors vectors of cells of a row, from the i-th on.
  template <int kVectors>
  SEGFAST_LANES void sum_columns(int64_t i) {
    lanes_t<T> sums[kTargets][kVectors] = {};
    meet_rows(i, sums, std::make_integer_sequence<int, kSeen>{});
    for (int row = 0; row < kTileRows; ++row) {
      T* const to = out[row] + i * kStride;
      const bool spills = to + kVectors * kSpan > end && out[row] != nowhere.data();
      T* const from = spills ? nowhere.data() : to;
      for (int v = 0; v < kVectors; ++v) {
        if constexpr (kStride == 1) {
          store_lanes(from + v * kSpan, sums[row][v]);
        } else {
          store_word_pairs(from + v * kSpan, words_of<T>(sums[2 * row][v]),
                           words_of<T>(sums[2 * row + 1][v]));
        }
      }
      if (spills) {
        const int64_t count = std::min<int64_t>(s.width - i * kStride, kVectors * kSpan);
        std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
      }
    }
  }

  // inner > 1: kVectors vectors of channels of a cell from c on, whose elements lie at `to`.
  template <int kVectors>
  SEGFAST_LANES void sum_channels(int64_t at, int64_t c, T* const (&to)[kTargets]) const {
    lanes_t<T> sums[kTargets][kVectors] = {};
    meet_rows(at + c, sums, std::make_integer_sequence<int, kSeen>{});
    for (int target = 0; target < kTargets; ++target) {
      for (int v = 0; v < kVectors; ++v) {
        store_lanes(to[target] + c + v * kLanes<T>, sums[target][v]);
      }
    }
  }

  void sum_cell(int64_t i) {
    T* to[kTargets];
    for (int target = 0; target < kTargets; ++target) {
      const int64_t x = i * kStride + target % kStride;
      to[target] = x < s.width ? out[target / kStride] + x * s.inner : nowhere.data();
    }
    int64_t c = 0;
    for (; c + kBlock * kLanes<T> <= s.inner; c += kBlock * kLanes<T>) {
      sum_channels<kBlock>(i * s.inner, c, to);
    }
    for (; c < s.inner; c += kLanes<T>) {
      c = std::min(c, s.inner - kLanes<T>);  // the last may overlap
      sum_channels<1>(i * s.inner, c, to);
    }
  }

  // Up to `count` rows of map o from y on; returns how many.
  int64_t sum_rows(int64_t o, int64_t y, int64_t count) {
    const int64_t top = y / kStride * kStride;
    const int64_t last = std::min({top + kTileRows, s.height, y + count});
    for (int row = 0; row < kTileRows; ++row) {
      const bool is_own = top + row >= y && top + row < last;
      const int64_t at = (o * s.height + top + row) * s.width * s.inner;
      out[row] = is_own ? static_cast<T*>(a.map) + at : nowhere.data();
    }
    const int64_t first = top / kStride - below - kBefore;
    rows.hold(o, first, first + kSeen);
    for (int k = 0; k < kSeen; ++k) seen[k] = rows.place(first + k) - right * s.inner;
    if (s.inner > 1) {
      for (int64_t i = 0; i < cells; ++i) sum_cell(i);
    } else {
      // From the right to the left, and down: so what a row spills is mended by the next.
      int64_t i = vectors * kLanes<T>;
      if (vectors % kBlock != 0) sum_columns<1>(i -= kLanes<T>);
      while (i > 0) sum_columns<kBlock>(i -= kBlock * kLanes<T>);
    }
    return last - y;
  }

  void sum(int64_t begin, int64_t end_item) {
    int64_t o = begin / s.height, y = begin % s.height;
    for (int64_t item = begin; item < end_item;) {
      const int64_t count = sum_rows(o, y, end_item - item);
      item += count, y += count;
      if (y == s.height) y = 0, ++o;
    }
  }
};

template <typename T, bool kCodes, typename Window>
bool sum_cells_of(const ScatterArguments& a, int64_t begin, int64_t end) {
  if (!SumCells<T, kCodes, Window>::knows(a.window)) return false;
  SumCells<T, kCodes, Window>(a, end).sum(begin, end);
  return true;
}

// Whether that was a window known, of a type for which vectors of windows held pay.
template <typename T, bool kCodes>
bool sum_cells(const ScatterArguments& a, int64_t begin, int64_t end) {
  if constexpr (sizeof(T) == 8) {
    return false;
  } else {
    if (a.shape.inner > 1 && (!kNarrow<T> || a.shape.inner < kLanes<T>)) return false;
    if (kNarrow<T> && sum_cells_of<T, kCodes, KnownWindow<5, 2, 1, 2>>(a, begin, end)) return true;
    return sum_cells_of<T, kCodes, KnownWindow<3, 2, 1, 1>>(a, begin, end) ||
           sum_cells_of<T, kCodes, KnownWindow<3, 1, 1, 1>>(a, begin, end) ||
           sum_cells_of<T, kCodes, KnownWindow<3, 1, 2, 2>>(a, begin, end);
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
