// pool_scatter_2x2.h: the values of 2x2 windows with stride 2. Compiled once an instruction set,
// after pool_place.h and short_rows.h.
//
// What it gained in pool backward of [4, 256, 90, 120], two rows of the map at once against a pass
// over each row for every tap, as PyTorch's time over ours (one thread of a Zen 4, AVX-512):
//   contiguous bf16 0.5 -> 3.0; channels_last bf16 2.1 -> 3.7
// Microseconds of [2, 64, 65, 127] (one thread of a Zen 3, AVX2), packed codes compared in two
// lanes a window, without a tile of taps:
//   contiguous, of [1, 64, 64, 64] (autograd's 33 in both): fp32 84 -> 65, bf16 73 -> 54
//   channels_last: fp32 274 -> 137, bf16 118 -> 94; contiguous, two vectors of a row stored before
//   those of the next (rows that begin at an odd element): bf16 138 -> 112; unpooling, with less to
//   do for a row: channels_last bf16 75 -> 44, contiguous 92 -> 72
//   contiguous unpooling (two threads), two vectors' windows to one row and then to the other, the
//   last element of an odd row without a call of memset: from codes bf16 34 -> 31, fp32 62 -> 49,
//   float64 123 -> 111; from indices, told apart in 16-bit lanes where elements have them, bf16 76
//   -> 47, fp32 101 -> 64, float64 153 -> 126

namespace segfast {
namespace SEGFAST_ISA {
namespace {

template <typename T>
struct Taken {
  mask_t<T> of_left, of_right, is_lower;  // the values of windows that the left, the right one won

  SEGFAST_LANES Taken(own_t<T> value, const Won<T>& won)
      : of_left((mask_t<T>)value & ~won.is_right),
        of_right((mask_t<T>)value & won.is_right),
        is_lower(won.is_lower) {}

  template <int kRow>
  SEGFAST_LANES mask_t<T> left() const {
    return of_left & (kRow == 0 ? ~is_lower : is_lower);
  }
  template <int kRow>
  SEGFAST_LANES mask_t<T> right() const {
    return of_right & (kRow == 0 ? ~is_lower : is_lower);
  }
};

// A row of windows to the two rows of the map that they see.
template <typename T>
struct ScatterRow {
  using Element = T;
  using Windows = FoldedWindows<T>;
  static constexpr bool kByColumns = true, kTwoRows = true;
  const T* values;
  T *upper, *lower;
  int64_t windows, width;

  struct ByColumns {
    own_t<T> low, high;  // the value of each window in both of its lanes
    CodedPair<T> coded;
  };
  SEGFAST_LANES ByColumns take(int64_t at, const CodedPair<T>& coded) const {
    const auto value = fold(load_vector<own_t<T>>(values + at));
    return {lower_pairs_by_16(value, value), upper_pairs_by_16(value, value), coded};
  }
  template <int kRow>
  SEGFAST_LANES void put(int64_t at, const ByColumns& taken) const {
    T* const to = (kRow == 0 ? upper : lower) + 2 * at;
    store_vector(to, taken.low & taken.coded.low.template won<kRow>());
    store_vector(to + kOwnLanes<T>, taken.high & taken.coded.high.template won<kRow>());
  }

  SEGFAST_LANES Taken<T> take(int64_t at, const Won<T>& won) const {
    return {fold(load_vector<own_t<T>>(values + at)), won};
  }
  template <int kRow>
  SEGFAST_LANES void put(int64_t at, const Taken<T>& taken) const {
    store_folded_pairs((kRow == 0 ? upper : lower) + 2 * at, taken.template left<kRow>(),
                       taken.template right<kRow>());
  }

  SEGFAST_LANES void next() {
    for (T* const row : {upper, lower}) {
      // One element as a rule: GCC makes a call of a loop.
      if (2 * windows < width) row[width - 1] = T{};
      if (2 * windows + 1 < width) std::fill(row + 2 * windows, row + width - 1, T{});
    }
    values += windows;
    upper += 2 * width, lower += 2 * width;
  }
  SEGFAST_LANES void skip(int64_t elements) {  // below a map's last windows
    for (int64_t i = 0; i < elements; ++i) upper[i] = T{};
    upper += elements, lower += elements;
  }
};

// The same of 16-bit elements, both columns of a window in a word.
template <typename T>
struct ScatterWords : ScatterRow<T> {
  using Windows = WordWindows;
  using Mask = mask_t<float>;

  struct Pairs {
    Mask both, is_lower;
  };
  SEGFAST_LANES Pairs take(int64_t at, const Won<float>& won) const {
    const auto value = (Mask)load_words(this->values + at);
    return {(value | value << 16) & (won.is_right ^ 0xffff), won.is_lower};
  }
  template <int kRow>
  SEGFAST_LANES void put(int64_t at, const Pairs& pairs) const {
    store_vector((kRow == 0 ? this->upper : this->lower) + 2 * at,
                 pairs.both & (kRow == 0 ? ~pairs.is_lower : pairs.is_lower));
  }
};

// The channels of a window to the four pixels that they see.
template <typename T>
struct ScatterChannels {
  using Element = T;
  using Windows = ChannelWindows<T>;
  static constexpr bool kByColumns = false, kTwoRows = true;
  const T* values;
  T *upper, *lower;
  int64_t right;

  SEGFAST_LANES Taken<T> take(int64_t at, const Won<T>& won) const {
    return {load_vector<own_t<T>>(values + at), won};
  }
  template <int kRow>
  SEGFAST_LANES void put(int64_t at, const Taken<T>& taken) const {
    T* const to = (kRow == 0 ? upper : lower) + at;
    store_vector(to, taken.template left<kRow>());
    store_vector(to + right, taken.template right<kRow>());
  }
  SEGFAST_LANES void next() {
    values += right;
    upper += 2 * right, lower += 2 * right;
  }
};

// 2x2 windows with stride 2: a row of windows gives two rows of the map, and every value is moved
// to one of four places. T stands for all types of its size.
template <typename T>
struct ScatterRows2x2 {
  const PoolScatterParams& a;
  const PoolShape& s = a.shape;
  TapTile tile{a.shape, a.record, a.record_kind};
  const bool is_coded = tile.is_coded<T>(), is_indexed = tile.is_indexed<T>();

  template <int kTap, typename Bits>
  SEGFAST_LANES static Bits where(Bits taps, Bits value) {
    return taps == kTap ? value : Bits{};
  }

  void scatter_row(int64_t o, int64_t oh, T* upper, T* lower) {
    const Run run = row_run(s, o, oh);
    const T* const values = static_cast<const T*>(a.values) + run.number * run.length;
    for (int64_t first = 0; first < run.length; first += kTile) {
      const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
      const int whole = static_cast<int>(std::min<int64_t>(n, s.width / 2 - first));
      tile.open(run, first, n);
      const uint8_t* const taps = tile.taps;
      T* const upper_at = upper + 2 * first;
      T* const lower_at = lower + 2 * first;
      for (int start = 0; whole >= kLanes<T> && start < whole; start += kLanes<T>) {
        const int at = std::min(start, whole - kLanes<T>);  // the last may overlap
        const bits_t<T> tap = load_taps<T>(taps + at);
        const bits_t<T> value = load_words(values + first + at);
        store_word_pairs(upper_at + 2 * at, where<0>(tap, value), where<1>(tap, value));
        if (lower == nullptr) continue;
        store_word_pairs(lower_at + 2 * at, where<2>(tap, value), where<3>(tap, value));
      }
      // Fewer than a vector, and a last window with one column.
      for (int i = whole >= kLanes<T> ? whole : 0; i < n; ++i) {
        for (int tap = 0; tap < 4; ++tap) {
          T* const row = tap < 2 ? upper_at : lower_at;
          if ((tap >= 2 && lower == nullptr) || (tap % 2 == 1 && i >= whole)) continue;
          row[2 * i + tap % 2] = taps[i] == tap ? values[first + i] : T{};
        }
      }
    }
  }

  void scatter_pixel(int64_t o, int64_t oh, int64_t ow, T* upper, T* lower) {
    const Run run = channel_run(s, o, oh, ow);
    const T* const values = static_cast<const T*>(a.values) + run.number * run.length;
    const int64_t inner = s.inner;
    const bool has_right = 2 * ow + 1 < s.width;
    const uint8_t* const taps = tile.taps;
    for (int64_t first = 0; first < run.length; first += kTile) {
      const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
      tile.open(run, first, n);
      T* const left = upper + 2 * ow * inner + first;
      T* const below = lower + 2 * ow * inner + first;
      for (int start = 0; n >= kOwnLanes<T> && start < n; start += kOwnLanes<T>) {
        const int at = std::min(start, n - kOwnLanes<T>);
        const own_t<T> tap = load_own_taps<T>(taps + at);
        const own_t<T> value = load_vector<own_t<T>>(values + first + at);
        store_vector(left + at, where<0>(tap, value));
        if (has_right) store_vector(left + inner + at, where<1>(tap, value));
        if (lower == nullptr) continue;
        store_vector(below + at, where<2>(tap, value));
        if (has_right) store_vector(below + inner + at, where<3>(tap, value));
      }
      for (int i = 0; n < kOwnLanes<T> && i < n; ++i) {
        for (int tap = 0; tap < 4; ++tap) {
          T* const row = tap < 2 ? left : below;
          if ((tap >= 2 && lower == nullptr) || (tap % 2 == 1 && !has_right)) continue;
          row[tap % 2 * inner + i] = taps[i] == tap ? values[first + i] : T{};
        }
      }
    }
  }

  // Rows [row, row + count) of windows of a map: of the map, from row 2 row on, two each, as far as
  // they exist.
  void scatter(int64_t o, int64_t row, int64_t count) {
    int64_t done = 0;
    if (is_coded || is_indexed) {
      const int64_t inside = std::min(s.pooled_height, s.height / 2);
      done = scatter_inside(o, row, std::clamp<int64_t>(inside - row, 0, count));
    }
    for (; done < count; ++done) scatter_any(o, row + done);
  }

  // Rows of windows that lie in the map, without a tile: how many.
  int64_t scatter_inside(int64_t o, int64_t row, int64_t count) {
    const T* const values = static_cast<const T*>(a.values);
    const int64_t map_row = s.width * s.inner;
    T* upper = static_cast<T*>(a.map) + (o * s.height + 2 * row) * map_row;
    if (s.inner == 1) {
      const Run run = row_run(s, o, row);
      const ScatterRow<T> rows{values + run.number * run.length, upper, upper + map_row, run.length,
                               s.width};
      return move_rows<ScatterWords>(rows, tile, run, count);
    }
    for (int64_t i = 0; i < count; ++i, upper += 2 * map_row) {
      const Run run = channel_run(s, o, row + i, 0);
      T* const lower = upper + map_row;
      const ScatterChannels<T> pixels{values + run.number * run.length, upper, lower, s.inner};
      int64_t ow = move_runs(pixels, tile, run, s.pooled_width);
      for (; ow < s.pooled_width; ++ow) scatter_pixel(o, row + i, ow, upper, lower);
      const int64_t covered = 2 * s.pooled_width * s.inner;
      std::fill(upper + covered, upper + map_row, T{});
      std::fill(lower + covered, lower + map_row, T{});
    }
    return count;
  }

  __attribute__((noinline)) void scatter_any(int64_t o, int64_t oh) {
    const int64_t row = s.width * s.inner;
    T* upper = static_cast<T*>(a.map) + (o * s.height + 2 * oh) * row;
    T* lower = 2 * oh + 1 < s.height ? upper + row : nullptr;
    int64_t covered = 0;
    if (oh < s.pooled_height) {
      covered = std::min(2 * s.pooled_width, s.width);
      if (s.inner == 1) {
        scatter_row(o, oh, upper, lower);
      } else {
        for (int64_t ow = 0; ow < s.pooled_width; ++ow) scatter_pixel(o, oh, ow, upper, lower);
      }
    }
    if (covered < s.width) {
      std::fill(upper + covered * s.inner, upper + row, T{});
      if (lower != nullptr) std::fill(lower + covered * s.inner, lower + row, T{});
    }
  }
};

// Rows of all maps that the pairs before the item-th hold.
inline int64_t rows_of_pairs(const PoolShape& s, int64_t pairs, int64_t item) {
  return item / pairs * s.height + 2 * (item % pairs);
}

// Pairs [begin, end) of rows of all maps: the windows' values over zeros, by codes.
template <typename T>
void scatter_short_coded(const PoolScatterParams& a, int64_t begin, int64_t end) {
  const PoolShape& s = a.shape;
  const TapTile tile(s, a.record, a.record_kind);
  const int64_t width = s.width, windows = s.pooled_width;
  const int64_t pairs = scatter_rows_per_map(s, a.window);
  const int64_t map_end = rows_of_pairs(s, pairs, end) * width;
  const int64_t moved = vector_maps<T>(tile, map_end, s.pooled_numel());
  for (MapRows at(begin, end, pairs); at.count > 0;) {
    const int64_t run = at.o * s.pooled_height + at.row;
    T* upper = static_cast<T*>(a.map) + (at.o * s.height + 2 * at.row) * width;
    const T* values = static_cast<const T*>(a.values) + run * windows;
    const int64_t maps = whole_maps(at, moved);
    if (maps > 0) {
      move_maps(ScatterRow<T>{values, upper, upper + width, windows, width},
                tile.codes.data + run * s.run_bytes(), s, maps);
      at.next(maps);
      continue;
    }
    std::fill(upper, upper + std::min(2 * at.count, s.height - 2 * at.row) * width, T{});
    CodedRows coded(s, a.record, at.o, at.row);
    const int64_t last = std::min(at.row + at.count, s.pooled_height);
    for (int64_t oh = at.row; oh < last; ++oh, values += windows, upper += 2 * width) {
      coded.open(oh);
      for (int64_t i = 0; i < windows; ++i) upper[coded.next(i)] = values[i];
    }
    at.next();
  }
}

template <typename T>
void scatter_short_rows(const PoolScatterParams& a, int64_t begin, int64_t end) {
  if (a.record_kind != Record::indices) return scatter_short_coded<T>(a, begin, end);
  const int64_t pairs = scatter_rows_per_map(a.shape, a.window);
  PlaceRows<T, T, false, false>{a}.scatter(rows_of_pairs(a.shape, pairs, begin),
                                           rows_of_pairs(a.shape, pairs, end));
}

// Whether the indices of those rows of windows lie in their own windows, and those inside the map:
// what no tile or vector saw is looked at now.
template <typename T>
bool are_own(const ScatterRows2x2<T>& rows, const MapRows& at) {
  const PoolScatterParams& a = rows.a;
  if (rows.tile.has_foreign()) return false;
  const WindowRows windows(a.shape, a.window, at.row, at.count);
  for (int64_t oh = windows.begin; oh < windows.end; ++oh) {
    if (has_clipped(a.shape, oh) &&
        !own_clipped_indices(static_cast<const int64_t*>(a.record), a.shape, a.window, at.o, oh)) {
      return false;
    }
  }
  return true;
}

template <typename T>
void scatter_rows_2x2(const PoolScatterParams& a, int64_t begin, int64_t end) {
  const bool is_checked = a.record_kind == Record::indices && a.foreign != nullptr;
  if (!is_checked && has_short_rows<T>(a.shape, a.record_kind)) {
    return scatter_short_rows<T>(a, begin, end);
  }
  ScatterRows2x2<T> rows{a};
  for (MapRows at(begin, end, scatter_rows_per_map(a.shape, a.window)); at.count > 0; at.next()) {
    rows.scatter(at.o, at.row, at.count);
    if (!is_checked) continue;
    if (!are_own(rows, at)) __atomic_store_n(a.foreign, 1, __ATOMIC_RELAXED);
    if (__atomic_load_n(a.foreign, __ATOMIC_RELAXED) != 0) return;
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
