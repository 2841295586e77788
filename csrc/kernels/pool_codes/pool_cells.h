// pool_cells.h: pool backward of windows known at compile time, by vectors. Compiled once an
// instruction set, after pool_lanes.h.
//
// Microseconds of [2, 64, 65, 127] (one thread of a Zen 3, AVX2), before and after, against a pass
// over each row for every tap (ScatterRowsAlong, ScatterPixels):
//   contiguous fp32 3x3, stride 2 334 -> 260, stride 1 1058 -> 772; fp16 434 -> 288, 1152 -> 724;
//   channels_last fp16 315 -> 203, 893 -> 684
// and where values are read as they are given and taps as bytes, rather than both from rows that
// hold them as words (channels_last fp32: rather than ScatterPixels):
//   contiguous fp32 3x3, stride 1 792 -> 710; channels_last fp32 stride 2 251 -> 171, stride 1
//   740 -> 605, fp16 204 -> 177, 703 -> 622; of [1, 64, 64, 64] fp32 with dilation 2, four rows of
//   the map at once, 200 -> 178
// What bounds it is how many of its instructions the machine holds at once: a tap takes three
// (compare, mask, add), and adds to one element wait for each other. Tried without gain: taller
// tiles without dilation, one tile at a time, what taps compare with as operands in memory, 5x5
// (fp32 327 -> 466; there windows are visited) and float64.
#include "kernels/pool_codes/pool_held.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Rows of windows, to be read beyond their ends: the values where they are given, the taps in a
// ring of rows with room on both sides, whose bytes are no window's tap.
template <typename T, typename Window>
struct RowsWithRoom {
  struct Row {
    const T* values;
    const uint8_t* taps;
  };

  const PoolShape& s;
  const Window2d& w;
  Elements<T> given;
  const bool is_coded;
  const uint8_t* codes;
  const int64_t* indices;
  int64_t before, length;  // room before a row's windows, and all of a row
  // A power of two. Row oh stands in place oh % count, one row before it is seen: loads that
  // overlap stores would wait for them. In place `count` stands a row of no windows.
  int64_t count;
  int64_t map = -1, next_row = 0;  // whose rows are held, up to which
  std::vector<uint8_t> taps;
  std::vector<std::vector<T>> copies;  // of the values of rows whose room is not all in the tensor

  RowsWithRoom(const PoolScatterParams& a, int64_t room, int64_t row_length, int64_t rows_held)
      : s(a.shape),
        w(a.window),
        given{static_cast<const T*>(a.values), s.pooled_numel()},
        is_coded(a.record_kind != Record::indices),
        codes(static_cast<const uint8_t*>(a.record)),
        indices(static_cast<const int64_t*>(a.record)),
        before(room),
        length(row_length),
        count(power_of_two(rows_held)),
        taps(static_cast<size_t>((count + 1) * length), kNoTap<uint8_t>),
        copies(static_cast<size_t>(count + 1)) {
    copies.back().resize(static_cast<size_t>(length));
  }

  // Row oh of the map whose rows are held, from window or channel `at` on; one without windows if
  // there is no such row.
  Row row(int64_t oh, int64_t at) const {
    const bool is_row = oh >= 0 && oh < s.pooled_height;
    const int64_t place = is_row ? oh & (count - 1) : count;
    const int64_t first = (map * s.pooled_height + oh) * s.pooled_width * s.inner - before;
    const bool is_given = is_row && given.holds(first, length);
    const T* const values =
        is_given ? given.data + first : copies[static_cast<size_t>(place)].data();
    return {values + before + at, taps.data() + place * length + before + at};
  }

  SEGFAST_LANES lanes_t<T> value(Row row, int64_t i) const { return load_lanes(row.values + i); }
  SEGFAST_LANES bits_t<T> tap(Row row, int64_t i) const { return load_taps<T>(row.taps + i); }

  // The taps that n windows' indices name. Of the first, and every `step` from there, the origin.
  void hold_taps(const int64_t* from, int64_t n, uint8_t* to, int64_t origin, int64_t step) {
    for (int64_t i = 0; n < kLanes<T> && i < n; ++i) {
      const int64_t distance = from[i] - origin - i * step,
                    kh = distance / (w.dilation_h * s.width);
      to[i] = from[i] < 0
                  ? kEmptyCode
                  : static_cast<uint8_t>(kh * w.kernel_w +
                                         distance % (w.dilation_h * s.width) / w.dilation_w);
    }
    for (int64_t start = 0; n >= kLanes<T> && start < n; start += kLanes<T>) {
      const int64_t i = std::min(start, n - kLanes<T>);  // the last may overlap
      const bits_t<T> distance =
          load_indices<T>(from + i) - lane_positions<T>(origin + i * step, step);
      bits_t<T> tap = bits_t<T>{} + kEmptyCode;
      for (int kh = 0; kh < Window::kKernel; ++kh) {
        const word_t<T> row = static_cast<word_t<T>>(kh * Window::kDilation * s.width);
        const bits_t<T> along = distance - row;
        tap = along <= static_cast<word_t<T>>(Window::kReach)
                  ? along / Window::kDilation + static_cast<word_t<T>>(kh * Window::kKernel)
                  : tap;
      }
      store_taps<T>(to + i, tap);
    }
  }

  // Holds rows [first, last) of map o, and a row more.
  void hold(int64_t o, int64_t first, int64_t last) {
    if (o != map) map = o, next_row = 0;
    const int64_t end = std::min(last + 1, s.pooled_height);
    const int64_t windows = s.pooled_width * s.inner;
    for (next_row = std::max(next_row, first); next_row < end; ++next_row) {
      const int64_t place = next_row & (count - 1);
      const int64_t row = (o * s.pooled_height + next_row) * windows;
      uint8_t* const to = taps.data() + place * length + before;
      if (is_coded) {
        std::memcpy(to, codes + row, static_cast<size_t>(windows));
      } else {
        const int64_t origin = (next_row * w.stride_h - w.pad_h) * s.width - w.pad_w;
        const int64_t run = s.inner == 1 ? windows : s.inner, step = s.inner == 1 ? w.stride_w : 0;
        for (int64_t i = 0; i < windows; i += run) {
          hold_taps(indices + row + i, run, to + i, origin + i / s.inner * w.stride_w, step);
        }
      }
      if (!given.holds(row - before, length)) {
        std::vector<T>& copy = copies[static_cast<size_t>(place)];
        copy.resize(static_cast<size_t>(length));
        std::memcpy(copy.data() + before, given.data + row,
                    static_cast<size_t>(windows) * sizeof(T));
      }
    }
  }
};

// The sums of a tile of the map stay in registers while all windows that see it pass by: each is
// loaded once for all elements that it may have won. Added in the order of windows, in the width of
// sums, and rounded once.
template <typename T, typename Rows, typename Window>
struct SumCells {
  using Word = word_t<T>;
  static constexpr bool kHeld = std::is_same_v<Rows, HeldRows<T>>;

  static constexpr int kStride = Window::kStride, kKernel = Window::kKernel;
  // Of the map: windows see two of them, or all but the middle one.
  static constexpr int kTileRows = kStride > 1 ? kStride
                                   : kHeld     ? 1 + Window::kDilation
                                               : 2 * Window::kDilation;
  // Rows of windows that see a tile: before and after the one that starts in its first row.
  static constexpr int kBefore = Window::kBefore;
  static constexpr int kAfter = (kTileRows - 1) / kStride + Window::kAfter;
  static constexpr int kSeen = kBefore + 1 + kAfter;
  static constexpr int kTargets = kTileRows * kStride;  // elements of a tile, a vector each
  static constexpr int kBlock = 2;                      // tiles at once
  static constexpr int kSpan = kStride * kLanes<T>;     // columns of the map in a vector of cells

  // That of all taps reaches no farther than Window's, and by whole windows less.
  static bool knows(const PoolScatterParams& a) {
    const PoolShape& s = a.shape;
    const Window2d& w = a.window;
    return (a.record_kind != Record::indices || s.width > Window::kReach) &&
           w.pad_h <= Window::kPad && w.pad_w <= Window::kPad && w.kernel_h == kKernel &&
           w.kernel_w == kKernel && w.stride_h == kStride && w.stride_w == kStride &&
           w.dilation_h == Window::kDilation && w.dilation_w == Window::kDilation &&
           (Window::kPad - w.pad_h) % kStride == 0 && (Window::kPad - w.pad_w) % kStride == 0;
  }

  const PoolScatterParams& a;
  const PoolShape& s = a.shape;
  const T* end;  // of the rows that this thread writes: what it spills beyond a row it mends next
  // By how many windows less the padding reaches than that of Window.
  const int64_t below = (Window::kPad - a.window.pad_h) / kStride;
  const int64_t right = (Window::kPad - a.window.pad_w) / kStride;
  const int64_t cells = ceil_div<int64_t>(s.width, kStride);  // in a row
  const int64_t vectors = ceil_div<int64_t>(cells, kLanes<T>);
  Rows rows;
  typename Rows::Row seen[kSeen] = {};  // those that see a tile
  Word won[kKernel * kKernel];          // what a window's record is, of each tap
  std::vector<T> nowhere;               // in place of a row that is another thread's or no one's
  T* out[kTileRows] = {};

  SumCells(const PoolScatterParams& arguments, int64_t end_item)
      : a(arguments),
        end(static_cast<const T*>(a.map) + end_item * s.width * s.inner),
        rows(a, (kBefore + right) * s.inner,
             (kBefore + right +
              std::max(s.pooled_width,
                       (s.inner == 1 ? vectors * kLanes<T> : cells) + Window::kAfter)) *
                 s.inner,
             kSeen + 1),
        nowhere(static_cast<size_t>(vectors * kSpan * s.inner)) {
    for (int tap = 0; tap < kKernel * kKernel; ++tap) won[tap] = static_cast<Word>(tap);
  }

  // Element kTarget of tiles meets the windows kDy below and kDx beyond those of the tiles' first.
  template <int kDy, int kDx, int kTarget, int kVectors>
  SEGFAST_LANES void meet(const lanes_t<T> (&value)[kVectors], const bits_t<T> (&record)[kVectors],
                          lanes_t<T> (&sums)[kTargets][kVectors]) const {
    constexpr int kh = Window::tap(kTarget / kStride, kDy);
    constexpr int kw = Window::tap(kTarget % kStride, kDx);
    if constexpr (kh >= 0 && kw >= 0) {
      // GCC 12 makes constants anew for each use; where it can keep most of them they are faster.
      constexpr int kTap = kh * kKernel + kw;
      const Word won_by = kStride == 1 && !kHeld ? static_cast<Word>(kTap) : won[kTap];
      const bits_t<T> all_won = bits_t<T>{} + won_by;
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
      const int64_t first = at + kDx * s.inner;
      for (int v = 0; v < kVectors; ++v) {
        value[v] = rows.value(seen[kDy + kBefore], first + v * kLanes<T>);
        record[v] = rows.tap(seen[kDy + kBefore], first + v * kLanes<T>);
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
    const int64_t top = y / kTileRows * kTileRows;
    const int64_t last = std::min({top + kTileRows, s.height, y + count});
    for (int row = 0; row < kTileRows; ++row) {
      const bool is_own = top + row >= y && top + row < last;
      const int64_t at = (o * s.height + top + row) * s.width * s.inner;
      out[row] = is_own ? static_cast<T*>(a.map) + at : nowhere.data();
    }
    const int64_t first = top / kStride - below - kBefore;
    rows.hold(o, first, first + kSeen);
    for (int k = 0; k < kSeen; ++k) seen[k] = rows.row(first + k, -right * s.inner);
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

template <typename T, typename Rows, typename Window>
bool sum_cells_with(const PoolScatterParams& a, int64_t begin, int64_t end) {
  using Cells = SumCells<T, Rows, Window>;
  if (!Cells::knows(a)) return false;
  Cells(a, end).sum(begin, end);
  return true;
}

template <typename T, typename Window>
bool sum_cells_of(const PoolScatterParams& a, int64_t begin, int64_t end) {
  // Values that take two instructions to widen are widened once a window, not once an element.
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (a.record_kind != Record::indices) {
      return sum_cells_with<T, HeldRows<T>, Window>(a, begin, end);
    }
  }
  return sum_cells_with<T, RowsWithRoom<T, Window>, Window>(a, begin, end);
}

// Whether that was a window known, of a type for which vectors of windows pay.
template <typename T>
bool sum_cells(const PoolScatterParams& a, int64_t begin, int64_t end) {
  if constexpr (sizeof(T) == 8) {
    return false;
  } else {
    if (a.shape.inner > 1 && a.shape.inner < kLanes<T>) return false;
    return sum_cells_of<T, KnownWindow<3, 2, 1, 1>>(a, begin, end) ||
           sum_cells_of<T, KnownWindow<3, 1, 1, 1>>(a, begin, end) ||
           sum_cells_of<T, KnownWindow<3, 1, 2, 2>>(a, begin, end);
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
