// pool_scatter.h: windows' values sent to the positions that their records name, in gather form: no
// zero-fill, no two writers, one order. Pool backward adds up where windows overlap; unpooling lets
// the last window stay. Compiled once an instruction set, after pool_lanes.h.
//
// What it gained, as PyTorch's time over ours in pool backward of [4, 256, 90, 120] (one thread of
// a Zen 4, AVX-512), against a pass over each row for every tap:
//   2x2, two rows of the map at once: contiguous bf16 0.5 -> 3.0; channels_last bf16 2.1 -> 3.7
//   3x3, stride 2, sums in registers: contiguous fp32 1.0 -> 2.6, bf16 0.2 -> 1.3; channels_last
//   bf16 0.7 -> 2.8 (of this, bytes widened by an instruction rather than by GCC 12: contiguous
//   bf16 2.2 times, channels_last bf16 3.6 times) 5x5, stride 5, placed over zeros: contiguous bf16
//   0.2 -> 2.9
// 5x5, stride 2, each window visited once rather than each element's taps (other runs before and
// after): contiguous fp32 2.2 -> 3.2, bf16 0.7 -> 1.1; of [1, 64, 64, 64] fp32 0.3 -> 0.7

namespace segfast {
namespace SEGFAST_ISA {
namespace {

enum class Combine { sum, last };

struct ScatterArguments {
  const void* values;  // [outer, pooled_height, pooled_width, inner]
  const void* record;
  void* map;  // [outer, height, width, inner]
  Record record_kind;
  DType dtype;
  const PoolShape& shape;
  const Window2d& window;
};

// The low halves of kLanes int64 indices, of which `indices` may hold fewer. Positions that one
// window can name never differ by as much as 2^32.
template <typename T, bool kExist = false>
SEGFAST_LANES bits_t<T> load_indices_at(const Elements<int64_t>& indices, int64_t first) {
  typedef uint64_t Wide __attribute__((vector_size(kLanes<T> * 8)));
  Wide wide;
  if (kExist || indices.holds(first, kLanes<T>)) {
    std::memcpy(&wide, indices.data + first, sizeof wide);
  } else {
    int64_t existing[kLanes<T>];
    copy_existing(indices, first, kLanes<T>, existing);
    std::memcpy(&wide, existing, sizeof wide);
  }
  return __builtin_convertvector(wide, bits_t<T>);
}

// The taps of up to kTile 2x2 windows of a run, a byte each, from codes or from indices that lie in
// their own windows.
struct TapTile {
  const PoolShape& s;
  Elements<uint8_t> codes;  // none: indices
  Elements<int64_t> indices;
  alignas(64) uint8_t taps[kTile + kLaneBytes] = {};

  TapTile(const PoolShape& shape, const void* record, Record kind)
      : s(shape), codes{nullptr, 0}, indices{nullptr, 0} {
    if (kind == Record::codes2) {
      const int64_t runs = s.outer * s.pooled_height * (s.inner == 1 ? 1 : s.pooled_width);
      codes = {static_cast<const uint8_t*>(record), runs * s.run_bytes()};
    } else {
      indices = {static_cast<const int64_t*>(record), s.pooled_numel()};
    }
  }

  // Windows [first, first + n) of a run.
  void open(const Run& run, int64_t first, int n) {
    if (codes.data != nullptr) {
      return unpack_codes2(codes, run.number * s.run_bytes() + first / kCodesPerByte, n, taps);
    }
    using Bits = bits_t<float>;
    const int64_t step = run.along_row ? 2 : 0, start = run.number * run.length + first;
    const int64_t position = 2 * (run.oh * s.width + run.ow) + first * step;
    const Elements<int64_t> all = indices;
    const uint32_t width = static_cast<uint32_t>(s.width);
    for (int i = 0; i < n; i += kLanes<float>) {
      const Bits offset =
          load_indices_at<float>(all, start + i) - lane_positions<float>(position + i * step, step);
      const Bits below = offset - width;
      const Bits upper = offset == 0 ? Bits{} : Bits{} + 1u;
      // The second row first: in a map one column wide its left is at 1 as well.
      store_taps<float>(taps + i, below == 0 ? Bits{} + 2u : below == 1 ? Bits{} + 3u : upper);
    }
  }
};

// 2x2 windows with stride 2: a row of windows gives two rows of the map, and every value is moved
// to one of four places. T stands for all types of its size.
template <typename T>
struct ScatterRows2x2 {
  const ScatterArguments& a;
  const PoolShape& s = a.shape;
  TapTile tile{a.shape, a.record, a.record_kind};

  template <int kTap, typename Bits>
  SEGFAST_LANES static Bits where(Bits taps, Bits value) {
    return taps == kTap ? value : Bits{};
  }

  // Map columns, as many of 2 kLanes as there are windows.
  SEGFAST_LANES static void store_columns(T* row, bits_t<T> even, bits_t<T> odd, int windows) {
    if (windows >= kLanes<T>) return store_word_pairs(row, even, odd);
    T all[2 * kLanes<T>];
    store_word_pairs(all, even, odd);
    std::memcpy(row, all, static_cast<size_t>(2 * windows) * sizeof(T));
  }

  void scatter_row(int64_t o, int64_t oh, T* upper, T* lower) {
    const Run run = row_run(s, o, oh);
    const Elements<T> values{static_cast<const T*>(a.values), s.pooled_numel()};
    for (int64_t first = 0; first < run.length; first += kTile) {
      const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
      const int whole = static_cast<int>(std::min<int64_t>(n, s.width / 2 - first));
      tile.open(run, first, n);
      const uint8_t* const taps = tile.taps;
      const int64_t values_at = run.number * run.length + first;
      T* const upper_at = upper + 2 * first;
      T* const lower_at = lower + 2 * first;
      for (int start = 0; start < whole; start += kLanes<T>) {
        // The last vector may overlap the one before it.
        const int at = whole < kLanes<T> ? 0 : std::min(start, whole - kLanes<T>);
        const bits_t<T> tap = load_taps<T>(taps + at);
        const bits_t<T> value = load_words_at(values, values_at + at);
        store_columns(upper_at + 2 * at, where<0>(tap, value), where<1>(tap, value), whole - at);
        if (lower == nullptr) continue;
        store_columns(lower_at + 2 * at, where<2>(tap, value), where<3>(tap, value), whole - at);
      }
      if (whole == n) continue;
      // A last window with one column.
      const bits_t<T> tap = load_taps<T>(taps + whole);
      const bits_t<T> value = load_words_at(values, values_at + whole);
      store_some_words<T>(upper_at + 2 * whole, where<0>(tap, value), 1);
      if (lower != nullptr) store_some_words<T>(lower_at + 2 * whole, where<2>(tap, value), 1);
    }
  }

  void scatter_pixel(int64_t o, int64_t oh, int64_t ow, T* upper, T* lower) {
    const Run run = channel_run(s, o, oh, ow);
    const Elements<T> values{static_cast<const T*>(a.values), s.pooled_numel()};
    const int64_t inner = s.inner;
    const bool has_right = 2 * ow + 1 < s.width;
    const uint8_t* const taps = tile.taps;
    for (int64_t first = 0; first < run.length; first += kTile) {
      const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
      tile.open(run, first, n);
      const int64_t values_at = run.number * run.length + first;
      for (int start = 0; start < n; start += kOwnLanes<T>) {
        const int at = n < kOwnLanes<T> ? 0 : std::min(start, n - kOwnLanes<T>);
        const own_t<T> tap = load_own_taps<T>(taps + at);
        const own_t<T> value = load_own_at(values, values_at + at);
        T* const left = upper + 2 * ow * inner + first + at;
        store_some_own(left, where<0>(tap, value), n - at);
        if (has_right) store_some_own(left + inner, where<1>(tap, value), n - at);
        if (lower == nullptr) continue;
        T* const below = lower + 2 * ow * inner + first + at;
        store_some_own(below, where<2>(tap, value), n - at);
        if (has_right) store_some_own(below + inner, where<3>(tap, value), n - at);
      }
    }
  }

  // Rows 2 oh and 2 oh + 1 of the map, as far as they exist.
  void scatter(int64_t o, int64_t oh) {
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

// Any windows, a row of the map at a time: each of its elements meets the windows that see it, in
// their order. 16-bit elements are added up in float, rounded once.
template <typename T, Combine kCombine, bool kCodes>
struct ScatterRowAny {
  // A row of windows that sees the row of the map, and the tap along the height by which it does.
  struct SeenRow {
    int64_t first;  // of its windows
    int kh;
  };
  // The same for a column of windows.
  struct SeenColumn {
    int64_t ow;
    int kw;
  };
  struct SeenWindow {
    int64_t first;   // its first channel, or its place within its plane
    int64_t column;  // within its row
    word_t<T> won;   // the code it holds where it won
  };

  const ScatterArguments& a;
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  Elements<T> values{static_cast<const T*>(a.values), s.pooled_numel()};
  Elements<uint8_t> codes{static_cast<const uint8_t*>(a.record), s.pooled_numel()};
  Elements<int64_t> indices{static_cast<const int64_t*>(a.record), s.pooled_numel()};
  std::vector<SeenRow> rows;
  std::vector<SeenColumn> columns;  // of all columns of the map, one after another; inner > 1
  std::vector<size_t> columns_end;  // of each column
  // Of a pixel (inner > 1); or for strides 1 and 2, of each row of the map, what its first columns
  // of either parity see: those that follow see what follows. Then where each such list ends, and
  // how far windows lie before and behind column 0's.
  std::vector<SeenWindow> windows;
  std::vector<size_t> windows_end;
  int64_t low = 0, high = 0;
  std::vector<accumulate_t<T>> sums;  // of a row; inner = 1 and a stride above 2

  explicit ScatterRowAny(const ScatterArguments& arguments) : a(arguments) {
    if (s.inner == 1) {
      if (w.stride_w > 2) {
        sums.resize(static_cast<size_t>(s.width + 1));
      } else {
        for (int64_t y = 0; y < s.height; ++y) list_row(y);
      }
      return;
    }
    for (int64_t x = 0; x < s.width; ++x) {
      const int64_t last = last_window<int64_t>(x, w.stride_w, w.pad_w, s.pooled_width);
      for (int64_t ow = first_window<int64_t>(x, w.kernel_w, w.stride_w, w.pad_w, w.dilation_w);
           ow < last; ++ow) {
        const int kw = tap_along<int64_t>(x, ow, w.stride_w, w.pad_w, w.dilation_w);
        if (kw >= 0) columns.push_back({ow, kw});
      }
      columns_end.push_back(columns.size());
    }
  }

  void find_rows(int64_t o, int64_t y) {
    rows.clear();
    const int64_t last = last_window<int64_t>(y, w.stride_h, w.pad_h, s.pooled_height);
    for (int64_t oh = first_window<int64_t>(y, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h);
         oh < last; ++oh) {
      const int kh = tap_along<int64_t>(y, oh, w.stride_h, w.pad_h, w.dilation_h);
      if (kh >= 0) rows.push_back({(o * s.pooled_height + oh) * s.pooled_width, kh});
    }
  }

  SEGFAST_LANES static void combine(lanes_t<T>& held, lanes_t<T> value, bits_t<T> record,
                                    bits_t<T> won) {
    if constexpr (kCombine == Combine::sum) {
      held += record == won ? value : lanes_t<T>{};
    } else {
      held = record == won ? value : held;
    }
  }

  SEGFAST_LANES static bits_t<T> result(lanes_t<T> held) {
    if constexpr (kCombine == Combine::sum) {
      return words_of<T>(held);
    } else {
      return exact_words<T>(held);
    }
  }

  template <bool kExist>
  SEGFAST_LANES static bits_t<T> records_at(const Elements<uint8_t>& codes, int64_t first) {
    if (kExist || codes.holds(first, kLanes<T>)) return load_taps<T>(codes.data + first);
    uint8_t existing[kLanes<T>];
    copy_existing(codes, first, kLanes<T>, existing);
    return load_taps<T>(existing);
  }
  template <bool kExist>
  SEGFAST_LANES static bits_t<T> records_at(const Elements<int64_t>& indices, int64_t first) {
    return load_indices_at<T, kExist>(indices, first);
  }
  SEGFAST_LANES const auto& records() const {
    if constexpr (kCodes) {
      return codes;
    } else {
      return indices;
    }
  }

  // kVectors * kLanes elements: each lane meets the windows `at` behind those listed, in the plane
  // that starts at `base`; several vectors, so that their sums do not wait for each other.
  // `position`: what indices hold where they won the first element, and every `step` from there.
  // kExist: all of those windows lie in the tensor. kInRow: and in their rows.
  template <int kVectors, bool kExist, bool kInRow>
  SEGFAST_LANES void gather(const SeenWindow* first, const SeenWindow* last, int64_t base,
                            int64_t at, int64_t position, int64_t step,
                            bits_t<T> (&out)[kVectors]) const {
    const auto record = records();  // copies: see ScatterRows2x2
    const Elements<T> given = values;
    const int64_t pooled_width = s.pooled_width;
    lanes_t<T> held[kVectors] = {};
    for (const SeenWindow* window = first; window < last; ++window) {
      for (int v = 0; v < kVectors; ++v) {
        const int64_t behind = at + v * kLanes<T>;
        const bits_t<T> won = kCodes ? bits_t<T>{} + window->won
                                     : lane_positions<T>(position + v * kLanes<T> * step, step);
        bits_t<T> seen = records_at<kExist>(record, base + window->first + behind);
        if (!kInRow) {
          const auto exists =
              lane_positions<T>(window->column + behind, 1) < static_cast<word_t<T>>(pooled_width);
          seen = exists ? seen : ~won;
        }
        combine(held[v], load_lanes_if<kExist>(given, base + window->first + behind), seen, won);
      }
    }
    for (int v = 0; v < kVectors; ++v) out[v] = result(held[v]);
  }

  void list_row(int64_t y) {
    find_rows(0, y);
    for (int parity = 0; parity < w.stride_w; ++parity) {
      for (const SeenRow& row : rows) {
        for (int kw = w.kernel_w - 1; kw >= 0; --kw) {
          const int64_t start = parity + w.pad_w - int64_t{kw} * w.dilation_w;
          if (w.stride_w == 2 && (start & 1) != 0) continue;
          const int64_t column = w.stride_w == 2 ? start >> 1 : start;
          const int code = row.kh * w.kernel_w + kw;
          windows.push_back({row.first + column, column, static_cast<word_t<T>>(code)});
          low = std::min(low, column);
          high = std::max(high, column);
        }
      }
      windows_end.push_back(windows.size());
    }
  }

  // The windows that columns of a row see, and the plane they lie in.
  struct RowWindows {
    const SeenWindow* of[3];  // begin, end of parity 0, end of parity 1
    int64_t base;
  };

  // Row y, strides 1 and 2.
  template <int kStride>
  void gather_row(int64_t o, int64_t y, T* out) const {
    const size_t* ends = windows_end.data() + y * kStride;
    RowWindows seen{{windows.data() + (y == 0 ? 0 : ends[-1]), windows.data() + ends[0],
                     windows.data() + ends[kStride - 1]},
                    o * s.pooled_height * s.pooled_width};
    bool exist = true;
    if (seen.of[0] < seen.of[2]) {
      const SeenWindow &first = *seen.of[0], &last = seen.of[2][-1];
      exist = seen.base + first.first - first.column + low >= 0 &&
              seen.base + last.first - last.column + s.width / kStride + high + 2 * kLanes<T> <=
                  values.count;
    }
    constexpr int kSpan = kStride * kLanes<T>;
    for (int64_t start = 0; start < s.width;) {
      // The last vector may overlap the one before it. `at`: of lane 0, or of column x + 1 one
      // more.
      const int64_t x = s.width < kSpan ? 0 : std::min(start, s.width - kSpan), at = x / kStride;
      if (x == start && x + 2 * kSpan <= s.width && exist && at + low >= 0 &&
          at + 1 + high + 2 * kLanes<T> <= s.pooled_width) {
        gather_span<kStride, 2, true, true>(seen, y, x, out + x);
        start += 2 * kSpan;
        continue;
      }
      T row[kSpan];
      T* const to = s.width < kSpan ? row : out + x;
      exist ? gather_span<kStride, 1, true, false>(seen, y, x, to)
            : gather_span<kStride, 1, false, false>(seen, y, x, to);
      if (to == row) std::memcpy(out, row, static_cast<size_t>(s.width) * sizeof(T));
      start += kSpan;
    }
  }

  // Columns x to x + kVectors * kStride * kLanes.
  template <int kStride, int kVectors, bool kExist, bool kInRow>
  SEGFAST_LANES void gather_span(const RowWindows& seen, int64_t y, int64_t x, T* to) const {
    bits_t<T> phase[kStride][kVectors];
    for (int i = 0; i < kStride; ++i) {
      const int64_t parity = (x + i) % kStride;
      gather<kVectors, kExist, kInRow>(seen.of[parity], seen.of[parity + 1], seen.base,
                                       (x + i) / kStride, y * s.width + x + i, kStride, phase[i]);
    }
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (kStride == 1) {
        store_words(to + v * kLanes<T>, phase[0][v]);
      } else {
        store_word_pairs(to + 2 * v * kLanes<T>, phase[0][v], phase[1][v]);
      }
    }
  }

  // Larger strides: each window sends its value to its column, or, where it won in another row,
  // beyond the row's end.
  void send_row(int64_t y, T* out) {
    std::fill(sums.begin(), sums.end(), accumulate_t<T>{0});
    for (const SeenRow& row : rows) {
      for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
        uint64_t x;
        if constexpr (kCodes) {
          const uint64_t kw =
              static_cast<uint64_t>(codes.data[row.first + ow] - row.kh * w.kernel_w);
          x = static_cast<uint64_t>(ow * w.stride_w - w.pad_w) + kw * w.dilation_w;
          x = kw < static_cast<uint64_t>(w.kernel_w) ? x : ~uint64_t{0};
        } else {
          x = static_cast<uint64_t>(indices.data[row.first + ow] - y * s.width);
        }
        auto& held = sums[std::min(x, static_cast<uint64_t>(s.width))];
        const auto value = to_float(values.data[row.first + ow]);
        held = kCombine == Combine::sum ? held + value : value;
      }
    }
    for (int64_t x = 0; x < s.width; ++x) out[x] = from_float<T>(sums[static_cast<size_t>(x)]);
  }

  // Row y, inner > 1.
  void gather_pixels(int64_t y, T* out) {
    const int64_t inner = s.inner;
    size_t column = 0;
    for (int64_t x = 0; x < s.width; ++x, out += inner) {
      const size_t end = columns_end[static_cast<size_t>(x)];
      windows.clear();
      for (const SeenRow& row : rows) {
        for (size_t k = column; k < end; ++k) {
          const int code = row.kh * w.kernel_w + columns[k].kw;
          windows.push_back({(row.first + columns[k].ow) * inner, 0, static_cast<word_t<T>>(code)});
        }
      }
      column = end;
      const SeenWindow *const first = windows.data(), *const last = first + windows.size();
      const int64_t position = y * s.width + x;
      bits_t<T> one[1];
      if (inner < kLanes<T>) {
        gather<1, false, true>(first, last, 0, 0, position, 0, one);
        store_some_words(out, one[0], static_cast<int>(inner));
        continue;
      }
      constexpr int kBlock = 4;
      int64_t c = 0;
      for (; c + kBlock * kLanes<T> <= inner; c += kBlock * kLanes<T>) {
        bits_t<T> several[kBlock];
        gather<kBlock, true, true>(first, last, 0, c, position, 0, several);
        for (int v = 0; v < kBlock; ++v) store_words(out + c + v * kLanes<T>, several[v]);
      }
      for (; c < inner; c += kLanes<T>) {
        c = std::min(c, inner - kLanes<T>);  // the last may overlap
        gather<1, true, true>(first, last, 0, c, position, 0, one);
        store_words(out + c, one[0]);
      }
    }
  }

  void scatter(int64_t o, int64_t y) {
    T* out = static_cast<T*>(a.map) + (o * s.height + y) * s.width * s.inner;
    if (s.inner == 1 && w.stride_w == 1) return gather_row<1>(o, y, out);
    if (s.inner == 1 && w.stride_w == 2) return gather_row<2>(o, y, out);
    find_rows(o, y);
    s.inner > 1 ? gather_pixels(y, out) : send_row(y, out);
  }
};

// inner = 1: each window's value placed over zeros, or, with kAdd, added where windows overlap, in
// Held, rounded once.
template <typename T, typename Held, bool kAdd, bool kCodes>
void place_rows(const ScatterArguments& a, int64_t begin, int64_t end) {
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  const TapOffsets offsets(w, s.width);
  constexpr bool kInPlace = std::is_same_v<T, Held>;
  const Elements<T> given{static_cast<const T*>(a.values), s.pooled_numel()};
  std::vector<Held> sums, converted;  // unless in place: of the map, and a row of windows
  if (!kInPlace) converted.resize(static_cast<size_t>(s.pooled_width + kLanes<T>));
  for (int64_t item = begin; item < end;) {
    const int64_t o = item / s.height, y = item % s.height;
    const int64_t rows = std::min(s.height - y, end - item);
    T* const map = static_cast<T*>(a.map) + item * s.width;
    Held* out;
    if constexpr (kInPlace) {
      out = map;
    } else {
      sums.resize(static_cast<size_t>(rows * s.width + kLanes<T>));
      out = sums.data();
    }
    const int64_t first = first_window<int64_t>(y, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h);
    const int64_t last = last_window<int64_t>(y + rows - 1, w.stride_h, w.pad_h, s.pooled_height);
    int64_t cleared = 0;
    for (int64_t oh = first; oh < last; ++oh) {
      const int64_t top = oh * w.stride_h - w.pad_h - y;  // in rows of `out`
      const int64_t bottom =
          std::clamp<int64_t>(top + int64_t{w.kernel_h - 1} * w.dilation_h + 1, cleared, rows);
      std::fill(out + cleared * s.width, out + bottom * s.width, Held{});
      cleared = bottom;
      const int64_t row = (o * s.pooled_height + oh) * s.pooled_width;
      const Held* __restrict values;
      if constexpr (kInPlace) {
        values = given.data + row;
      } else {
        for (int64_t ow = 0; ow < s.pooled_width; ow += kLanes<T>) {
          const lanes_t<T> some = load_lanes_if<false>(given, row + ow);
          std::memcpy(&converted[static_cast<size_t>(ow)], &some, sizeof some);
        }
        values = converted.data();
      }
      for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
        int64_t position;
        if constexpr (kCodes) {
          const uint8_t code = static_cast<const uint8_t*>(a.record)[row + ow];
          if (code == kEmptyCode) continue;
          position = top * s.width + ow * w.stride_w - w.pad_w + offsets.at[code];
        } else {
          position = static_cast<const int64_t*>(a.record)[row + ow] - y * s.width;
        }
        // Rows of the same windows may be another thread's.
        if (position < 0 || position >= rows * s.width) continue;
        if constexpr (kAdd) {
          out[position] += values[ow];
        } else {
          out[position] = values[ow];
        }
      }
    }
    std::fill(out + cleared * s.width, out + rows * s.width, Held{});
    if constexpr (!kInPlace) {
      const int64_t n = rows * s.width;
      for (int64_t i = 0; i < n; i += kLanes<T>) {
        lanes_t<T> some;
        std::memcpy(&some, out + i, sizeof some);
        const int here = static_cast<int>(std::min<int64_t>(n - i, kLanes<T>));
        store_some_words<T>(map + i, words_of<T>(some), here);
      }
    }
    item += rows;
  }
}

inline bool overlaps(const Window2d& w) {
  return w.stride_h <= (w.kernel_h - 1) * w.dilation_h ||
         w.stride_w <= (w.kernel_w - 1) * w.dilation_w;
}

// Whether to visit each window once, a scalar at a time, rather than each element's taps by
// vectors: pays with many taps, wide sums, and strides, which leave fewer windows than elements.
// Measured for 3x3 and 5x5 windows with strides 1 and 2 in all types; the bound lies between.
template <typename T>
bool visits_windows(const Window2d& w) {
  const int taps = w.kernel_h * w.kernel_w;
  return taps * static_cast<int>(sizeof(accumulate_t<T>)) * w.stride_w >= 64;
}

template <typename Row>
void scatter_rows_with(const ScatterArguments& a, int64_t begin, int64_t end) {
  Row row{a};
  const int64_t rows = scatter_rows_per_map(a.shape, a.window);
  int64_t o = begin / rows, y = begin % rows;
  for (int64_t item = begin; item < end; ++item) {
    row.scatter(o, y);
    if (++y == rows) y = 0, ++o;
  }
}

template <typename T, typename Moved, Combine kCombine>
void scatter_rows_of(const ScatterArguments& a, int64_t begin, int64_t end) {
  if (a.window.is_2x2()) {
    scatter_rows_with<ScatterRows2x2<Moved>>(a, begin, end);
  } else if (a.shape.inner == 1 && !overlaps(a.window)) {
    a.record_kind == Record::codes8 ? place_rows<Moved, Moved, false, true>(a, begin, end)
                                    : place_rows<Moved, Moved, false, false>(a, begin, end);
  } else if (a.shape.inner == 1 && kCombine == Combine::sum && visits_windows<T>(a.window)) {
    using Held = accumulate_t<T>;
    a.record_kind == Record::codes8 ? place_rows<T, Held, true, true>(a, begin, end)
                                    : place_rows<T, Held, true, false>(a, begin, end);
  } else if (a.record_kind == Record::codes8) {
    scatter_rows_with<ScatterRowAny<T, kCombine, true>>(a, begin, end);
  } else {
    scatter_rows_with<ScatterRowAny<T, kCombine, false>>(a, begin, end);
  }
}

// Items [begin, end): rows of each map, two together as scatter_rows_per_map() says.
template <Combine kCombine>
void scatter_rows(const ScatterArguments& a, int64_t begin, int64_t end) {
  switch (a.dtype) {
    case DType::float32:
      return scatter_rows_of<float, float, kCombine>(a, begin, end);
    case DType::float64:
      return scatter_rows_of<double, double, kCombine>(a, begin, end);
    case DType::float16:
      return scatter_rows_of<Half, BFloat16, kCombine>(a, begin, end);
    case DType::bfloat16:
      return scatter_rows_of<BFloat16, BFloat16, kCombine>(a, begin, end);
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
