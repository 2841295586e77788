// pool_scatter.h: windows' values sent to the positions that their records name, in gather form: no
// zero-fill, no two writers, one order. Pool backward adds up where windows overlap; unpooling lets
// the last window stay. Compiled once an instruction set, after pool_lanes.h.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

enum class Combine { sum, last };

struct ScatterArguments {
  const void* values;  // [outer, pooled_height, pooled_width, inner]
  const void* record;
  void* map;           // [outer, height, width, inner]
  Record record_kind;
  DType dtype;
  const PoolShape& shape;
  const Window2d& window;
};

// The low halves of kLanes int64 indices, of which `indices` may hold fewer. Positions that one
// window can name never differ by as much as 2^32.
template <typename T>
SEGFAST_LANES bits_t<T> load_indices_at(const Elements<int64_t>& indices, int64_t first) {
  typedef uint64_t Wide __attribute__((vector_size(kLanes<T> * 8)));
  Wide wide;
  if (indices.holds(first, kLanes<T>)) {
    std::memcpy(&wide, indices.data + first, sizeof wide);
  } else {
    int64_t existing[kLanes<T>];
    copy_existing(indices, first, kLanes<T>, existing);
    std::memcpy(&wide, existing, sizeof wide);
  }
  return __builtin_convertvector(wide, bits_t<T>);
}

// 2x2 windows with stride 2: a row of windows gives two rows of the map, and every value is moved to
// one of four places. T stands for all types of its size.
template <typename T>
struct ScatterRows2x2 {
  const ScatterArguments& a;
  const PoolShape& s = a.shape;
  Elements<uint8_t> codes = all_codes2(a.record, s);
  alignas(64) uint8_t tile[kTile + kLaneBytes] = {};

  // The taps of windows or channels [at, at + kLanes) of a tile. As its own copies, because a store
  // might change what is read through a pointer.
  struct Taps {
    const uint8_t* tile;  // unpacked codes; null for indices
    Elements<int64_t> indices;
    int64_t first, position, step, width;  // the tile's first window, where it lies, and the next

    SEGFAST_LANES bits_t<T> at(int64_t i) const {
      if (tile != nullptr) return load_taps<T>(tile + i);
      using Bits = bits_t<T>;
      const Bits offset = load_indices_at<T>(indices, first + i) -
                          lane_positions<T>(position + i * step, step);
      const Bits below = offset - static_cast<word_t<T>>(width), none = Bits{} + 4u;
      const Bits upper = offset == 0 ? Bits{} : offset == 1 ? Bits{} + 1u : none;
      // The second row first: in a map one column wide its left is at 1 as well.
      return below == 0 ? Bits{} + 2u : below == 1 ? Bits{} + 3u : upper;
    }
  };

  // Of windows [first, first + n) of a run.
  Taps open(const Run& run, int64_t first, int n) {
    const int64_t start = run.number * run.length + first, step = run.along_row ? 2 : 0;
    if (a.record_kind == Record::codes2) {
      unpack_codes2(codes, run.number * s.run_bytes() + first / kCodesPerByte, n, tile);
      return {tile, {}, 0, 0, 0, 0};
    }
    return {nullptr, {static_cast<const int64_t*>(a.record), s.pooled_numel()}, start,
            2 * (run.oh * s.width + run.ow) + first * step, step, s.width};
  }

  SEGFAST_LANES static bits_t<T> where(bits_t<T> taps, unsigned tap, bits_t<T> value) {
    return taps == tap ? value : bits_t<T>{};
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
      const Taps taps = open(run, first, n);
      const int64_t values_at = run.number * run.length + first;
      T* const upper_at = upper + 2 * first;
      T* const lower_at = lower + 2 * first;
      for (int start = 0; start < whole; start += kLanes<T>) {
        // The last vector may overlap the one before it.
        const int at = whole < kLanes<T> ? 0 : std::min(start, whole - kLanes<T>);
        const bits_t<T> tap = taps.at(at), value = load_words_at(values, values_at + at);
        store_columns(upper_at + 2 * at, where(tap, 0, value), where(tap, 1, value), whole - at);
        if (lower == nullptr) continue;
        store_columns(lower_at + 2 * at, where(tap, 2, value), where(tap, 3, value), whole - at);
      }
      if (whole == n) continue;
      // A last window with one column.
      const bits_t<T> tap = taps.at(whole), value = load_words_at(values, values_at + whole);
      store_some_words<T>(upper_at + 2 * whole, where(tap, 0, value), 1);
      if (lower != nullptr) store_some_words<T>(lower_at + 2 * whole, where(tap, 2, value), 1);
    }
  }

  void scatter_pixel(int64_t o, int64_t oh, int64_t ow, T* upper, T* lower) {
    const Run run = channel_run(s, o, oh, ow);
    const Elements<T> values{static_cast<const T*>(a.values), s.pooled_numel()};
    const int64_t inner = s.inner;
    const bool has_right = 2 * ow + 1 < s.width;
    for (int64_t first = 0; first < run.length; first += kTile) {
      const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
      const Taps taps = open(run, first, n);
      const int64_t values_at = run.number * run.length + first;
      for (int start = 0; start < n; start += kLanes<T>) {
        const int at = n < kLanes<T> ? 0 : std::min(start, n - kLanes<T>);
        const bits_t<T> tap = taps.at(at), value = load_words_at(values, values_at + at);
        T* const left = upper + 2 * ow * inner + first + at;
        store_some_words<T>(left, where(tap, 0, value), n - at);
        if (has_right) store_some_words<T>(left + inner, where(tap, 1, value), n - at);
        if (lower == nullptr) continue;
        T* const below = lower + 2 * ow * inner + first + at;
        store_some_words<T>(below, where(tap, 2, value), n - at);
        if (has_right) store_some_words<T>(below + inner, where(tap, 3, value), n - at);
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

// Any windows, a row of the map at a time. 16-bit elements are added up in float, rounded once.
template <typename T, Combine kCombine, bool kCodes>
struct ScatterRowAny {
  using Sum = accumulate_t<T>;

  // A window that sees a column, and the tap along the width by which it does.
  struct Seen {
    int64_t ow;
    int kw;
  };

  const ScatterArguments& a;
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  Elements<T> values{static_cast<const T*>(a.values), s.pooled_numel()};
  Elements<uint8_t> codes{static_cast<const uint8_t*>(a.record), s.pooled_numel()};
  Elements<int64_t> indices{static_cast<const int64_t*>(a.record), s.pooled_numel()};
  std::vector<Seen> seen;         // of all columns, one after another; inner > 1
  std::vector<int64_t> seen_end;  // of each column
  std::vector<Sum> sums;          // of a row; inner = 1 and a stride above 2

  explicit ScatterRowAny(const ScatterArguments& arguments) : a(arguments) {
    if (s.inner == 1) {
      if (w.stride_w > 2) sums.resize(static_cast<size_t>(s.width + 1));
      return;
    }
    for (int64_t x = 0; x < s.width; ++x) {
      const int64_t last = last_window<int64_t>(x, w.stride_w, w.pad_w, s.pooled_width);
      for (int64_t ow = first_window<int64_t>(x, w.kernel_w, w.stride_w, w.pad_w, w.dilation_w);
           ow < last; ++ow) {
        const int kw = tap_along<int64_t>(x, ow, w.stride_w, w.pad_w, w.dilation_w);
        if (kw >= 0) seen.push_back({ow, kw});
      }
      seen_end.push_back(static_cast<int64_t>(seen.size()));
    }
  }

  SEGFAST_LANES static void combine(lanes_t<T>& held, lanes_t<T> value, bits_t<T> record,
                                    bits_t<T> wanted) {
    if constexpr (kCombine == Combine::sum) {
      held += record == wanted ? value : lanes_t<T>{};
    } else {
      held = record == wanted ? value : held;
    }
  }

  SEGFAST_LANES static bits_t<T> result(lanes_t<T> held) {
    if constexpr (kCombine == Combine::sum) {
      return words_of<T>(held);
    } else {
      return exact_words<T>(held);
    }
  }

  SEGFAST_LANES bits_t<T> records_at(int64_t first) const {
    if constexpr (!kCodes) {
      return load_indices_at<T>(indices, first);
    } else {
      if (codes.holds(first, kLanes<T>)) return load_taps<T>(codes.data + first);
      uint8_t existing[kLanes<T>];
      copy_existing(codes, first, kLanes<T>, existing);
      return load_taps<T>(existing);
    }
  }

  // What the records of windows hold whose tap (kh, kw) is at (y, x), and then every `step` columns.
  SEGFAST_LANES bits_t<T> wanted(int kh, int kw, int64_t y, int64_t x, int64_t step) const {
    if constexpr (kCodes) {
      return bits_t<T>{} + static_cast<word_t<T>>(kh * w.kernel_w + kw);
    } else {
      return lane_positions<T>(y * s.width + x, step);
    }
  }

  // Columns x, x + kStride, ... of row y, kLanes of them: each meets its windows in their order.
  template <int kStride>
  SEGFAST_LANES lanes_t<T> gather_columns(int64_t o, int64_t y, int64_t x) const {
    lanes_t<T> held{};
    const int64_t last = last_window<int64_t>(y, w.stride_h, w.pad_h, s.pooled_height);
    for (int64_t oh = first_window<int64_t>(y, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h);
         oh < last; ++oh) {
      const int kh = tap_along<int64_t>(y, oh, w.stride_h, w.pad_h, w.dilation_h);
      if (kh < 0) continue;
      const int64_t row = (o * s.pooled_height + oh) * s.pooled_width;
      for (int kw = w.kernel_w - 1; kw >= 0; --kw) {
        const int64_t start = x + w.pad_w - int64_t{kw} * w.dilation_w;
        if (kStride == 2 && (start & 1) != 0) continue;
        const int64_t ow = kStride == 2 ? start >> 1 : start;  // of lane 0
        if (ow + kLanes<T> <= 0 || ow >= s.pooled_width) continue;
        bits_t<T> record = records_at(row + ow);
        const bits_t<T> won = wanted(kh, kw, y, x, kStride);
        if (ow < 0 || ow + kLanes<T> > s.pooled_width) {
          const auto exists = lane_positions<T>(ow, 1) < static_cast<word_t<T>>(s.pooled_width);
          record = exists ? record : ~won;
        }
        combine(held, load_lanes_at(values, row + ow), record, won);
      }
    }
    return held;
  }

  template <int kStride>
  void gather_row(int64_t o, int64_t y, T* out) const {
    constexpr int kSpan = kStride * kLanes<T>;
    for (int64_t start = 0; start < s.width; start += kSpan) {
      // The last vector may overlap the one before it.
      const int64_t x = s.width < kSpan ? 0 : std::min(start, s.width - kSpan);
      T row[kSpan];
      T* const to = s.width < kSpan ? row : out + x;
      const bits_t<T> even = result(gather_columns<kStride>(o, y, x));
      if constexpr (kStride == 1) {
        store_words(to, even);
      } else {
        store_word_pairs(to, even, result(gather_columns<kStride>(o, y, x + 1)));
      }
      if (to == row) std::memcpy(out, row, static_cast<size_t>(s.width) * sizeof(T));
    }
  }

  // Strides that leave few windows to a row: each sends its value to its column, or, where another row
  // won, beyond the row's end.
  void send_row(int64_t o, int64_t y, T* out) {
    std::fill(sums.begin(), sums.end(), Sum{0});
    const int64_t last = last_window<int64_t>(y, w.stride_h, w.pad_h, s.pooled_height);
    for (int64_t oh = first_window<int64_t>(y, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h);
         oh < last; ++oh) {
      const int kh = tap_along<int64_t>(y, oh, w.stride_h, w.pad_h, w.dilation_h);
      if (kh < 0) continue;
      const int64_t row = (o * s.pooled_height + oh) * s.pooled_width;
      for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
        uint64_t x;
        if constexpr (kCodes) {
          const uint64_t kw = static_cast<uint64_t>(codes.data[row + ow] - kh * w.kernel_w);
          x = static_cast<uint64_t>(ow * w.stride_w - w.pad_w) + kw * w.dilation_w;
          x = kw < static_cast<uint64_t>(w.kernel_w) ? x : ~uint64_t{0};
        } else {
          x = static_cast<uint64_t>(indices.data[row + ow] - y * s.width);
        }
        Sum& held = sums[std::min(x, static_cast<uint64_t>(s.width))];
        const Sum value = to_float(values.data[row + ow]);
        held = kCombine == Combine::sum ? held + value : value;
      }
    }
    for (int64_t x = 0; x < s.width; ++x) out[x] = from_float<T>(sums[static_cast<size_t>(x)]);
  }

  void gather_pixels(int64_t o, int64_t y, T* out) const {
    const int64_t last = last_window<int64_t>(y, w.stride_h, w.pad_h, s.pooled_height);
    const int64_t first = first_window<int64_t>(y, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h);
    for (int64_t x = 0; x < s.width; ++x, out += s.inner) {
      const int64_t seen_begin = x == 0 ? 0 : seen_end[static_cast<size_t>(x - 1)];
      for (int64_t start = 0; start < s.inner; start += kLanes<T>) {
        const int64_t c = s.inner < kLanes<T> ? 0 : std::min(start, s.inner - kLanes<T>);
        lanes_t<T> held{};
        for (int64_t oh = first; oh < last; ++oh) {
          const int kh = tap_along<int64_t>(y, oh, w.stride_h, w.pad_h, w.dilation_h);
          if (kh < 0) continue;
          const int64_t row = (o * s.pooled_height + oh) * s.pooled_width;
          for (int64_t k = seen_begin; k < seen_end[static_cast<size_t>(x)]; ++k) {
            const Seen& window = seen[static_cast<size_t>(k)];
            const int64_t at = (row + window.ow) * s.inner + c;
            combine(held, load_lanes_at(values, at), records_at(at),
                    wanted(kh, window.kw, y, x, 0));
          }
        }
        store_some_words(out + c, result(held), static_cast<int>(std::min<int64_t>(
                                                    s.inner - c, kLanes<T>)));
      }
    }
  }

  void scatter(int64_t o, int64_t y) {
    T* out = static_cast<T*>(a.map) + (o * s.height + y) * s.width * s.inner;
    if (s.inner > 1) return gather_pixels(o, y, out);
    if (w.stride_w == 1) return gather_row<1>(o, y, out);
    if (w.stride_w == 2) return gather_row<2>(o, y, out);
    send_row(o, y, out);
  }
};

template <typename Row>
void scatter_rows_with(const ScatterArguments& a, int64_t begin, int64_t end) {
  Row row{a};
  const int64_t rows = scatter_rows_per_map(a.shape, a.window);
  for (int64_t item = begin; item < end; ++item) row.scatter(item / rows, item % rows);
}

template <typename T, typename Moved, Combine kCombine>
void scatter_rows_of(const ScatterArguments& a, int64_t begin, int64_t end) {
  if (a.window.is_2x2()) {
    scatter_rows_with<ScatterRows2x2<Moved>>(a, begin, end);
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
