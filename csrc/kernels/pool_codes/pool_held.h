// pool_held.h: rows of windows as those who send their values to a map read them: as they are
// given, or held in the width of sums. Compiled once an instruction set, after pool_lanes.h.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// The low halves of kLanes int64 indices; all of them where lanes are as wide.
template <typename T>
SEGFAST_LANES bits_t<T> load_indices(const int64_t* indices) {
  if constexpr (sizeof(word_t<T>) == 8) {
    return load_vector<bits_t<T>>(indices);
  } else {
    return load_word_pairs(reinterpret_cast<const float*>(indices)).even;
  }
}

// What an element of the map holds after it met a window's value, if the window's record names it.
template <typename T, Combine kCombine>
SEGFAST_LANES lanes_t<T> combine(lanes_t<T> held, lanes_t<T> value, bits_t<T> record,
                                 bits_t<T> won) {
  if constexpr (kCombine == Combine::sum) {
    return held + (record == won ? value : lanes_t<T>{});
  } else {
    return record == won ? value : held;
  }
}

template <typename T, Combine kCombine>
SEGFAST_LANES bits_t<T> combined_words(lanes_t<T> held) {
  return kCombine == Combine::sum ? words_of<T>(held) : exact_words<T>(held);
}

// Rows of windows [first_row(y), last_row(y)) see row y, unless dilation skips it.
struct SeeingRows {
  const PoolShape& s;
  const Window2d& w;

  int64_t first_row(int64_t y) const {
    return first_window<int64_t>(y, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h);
  }
  int64_t last_row(int64_t y) const {
    return last_window<int64_t>(y, w.stride_h, w.pad_h, s.pooled_height);
  }
};

// inner > 1: those rows as they are given, with codes.
template <typename T>
struct GivenRows : SeeingRows {
  const T* values;
  const uint8_t* codes;
  int64_t map = 0;

  GivenRows(const PoolScatterParams& a, int64_t, int64_t)
      : SeeingRows{a.shape, a.window},
        values(static_cast<const T*>(a.values)),
        codes(static_cast<const uint8_t*>(a.record)) {}

  void hold(int64_t o, int64_t, int64_t) { map = o; }
  int64_t place(int64_t oh) const {
    return (map * s.pooled_height + oh) * s.pooled_width * s.inner;
  }
  int64_t won_along_height(int64_t kh) const { return kh * w.kernel_w; }
  int64_t won_along_width(int64_t kw) const { return kw; }

  template <Combine kCombine, int kVectors>
  SEGFAST_LANES void meet(int64_t at, word_t<T> won, lanes_t<T> (&held)[kVectors]) const {
    const bits_t<T> all_won = bits_t<T>{} + won;
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = at + v * kLanes<T>;
      held[v] =
          combine<T, kCombine>(held[v], load_lanes(values + i), load_taps<T>(codes + i), all_won);
    }
  }
};

inline int64_t power_of_two(int64_t least) {
  int64_t count = 1;
  while (count < least) count *= 2;
  return count;
}

// The same rows held: values in the width of sums, and as records what tells one tap of a window
// from another in a word, the code or an index's distance from the window's origin. So windows are
// converted once, however many elements see them.
template <typename T>
struct HeldRows : SeeingRows {
  using Value = accumulate_t<T>;
  using Word = word_t<T>;
  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  static constexpr int64_t kInLine = sizeof(Line) / sizeof(Word);

  Elements<T> given;
  Elements<uint8_t> codes;
  Elements<int64_t> indices;
  const bool is_coded;
  int64_t margin, width;  // room before a row's windows, and all of a row
  // A power of two. Row oh stands in place oh % count, one row before it is seen: loads that
  // overlap stores would wait for them. In place `count` stands a row of no windows.
  int64_t count;
  int64_t map = -1, next_row = 0;  // whose rows are held, up to which
  // In whole cache lines, as is a row. Where there are no windows the record is no tap's.
  std::vector<Line> value_lines, record_lines;
  Value* values;
  Word* records;

  HeldRows(const PoolScatterParams& a, int64_t margin, int64_t width)
      : HeldRows(a, margin, width, rows_held(a.window)) {}

  HeldRows(const PoolScatterParams& a, int64_t margin, int64_t width, int64_t count)
      : SeeingRows{a.shape, a.window},
        given{static_cast<const T*>(a.values), s.pooled_numel()},
        codes{static_cast<const uint8_t*>(a.record), s.pooled_numel()},
        indices{static_cast<const int64_t*>(a.record), s.pooled_numel()},
        is_coded(a.record_kind != Record::indices),
        margin(whole_lines(margin)),
        width(this->margin + whole_lines(width - margin)),
        count(power_of_two(count)),
        value_lines(static_cast<size_t>((this->count + 1) * this->width / kInLine)),
        record_lines(value_lines.size()),
        values(reinterpret_cast<Value*>(value_lines.data())),
        records(reinterpret_cast<Word*>(record_lines.data())) {
    std::fill_n(records, (this->count + 1) * this->width, kNoTap<Word>);
  }

  static int64_t whole_lines(int64_t words) { return ceil_div<int64_t>(words, kInLine) * kInLine; }
  static int64_t rows_held(const Window2d& w) {
    return power_of_two(int64_t{w.kernel_h - 1} * w.dilation_h / w.stride_h + 2);
  }

  // Where row oh's windows are held, if there are any.
  int64_t place(int64_t oh) const {
    return (oh < 0 || oh >= s.pooled_height ? count : oh & (count - 1)) * width + margin;
  }
  // The same, from window or channel `at` on, and what is there.
  using Row = int64_t;
  Row row(int64_t oh, int64_t at) const { return place(oh) + at; }
  SEGFAST_LANES lanes_t<T> value(Row row, int64_t i) const {
    return load_vector<lanes_t<T>>(values + row + i);
  }
  SEGFAST_LANES bits_t<T> tap(Row row, int64_t i) const {
    return load_vector<bits_t<T>>(records + row + i);
  }
  // What a record holds where its window won row y, in addition to what tells the column.
  int64_t won_along_height(int64_t kh) const {
    return is_coded ? kh * w.kernel_w : kh * w.dilation_h * s.width;
  }
  int64_t won_along_width(int64_t kw) const { return is_coded ? kw : kw * w.dilation_w; }

  // n windows from `from` on. Of the first, and every `step` from there, the origin.
  template <bool kCodes>
  void hold_run(int64_t from, int64_t n, int64_t to, int64_t origin, int64_t step) {
    const Elements<T> all = given;  // copies: see ScatterRows2x2
    Value* const value = values + to;
    Word* const record = records + to;
    for (int64_t i = 0; n < kLanes<T> && i < n; ++i) {
      value[i] = to_float(all.data[from + i]);
      record[i] = kCodes ? static_cast<Word>(codes.data[from + i])
                         : static_cast<Word>(indices.data[from + i] - origin - i * step);
    }
    for (int64_t start = 0; n >= kLanes<T> && start < n; start += kLanes<T>) {
      const int64_t i = std::min(start, n - kLanes<T>);  // the last may overlap
      store_vector(value + i, load_lanes(all.data + from + i));
      if constexpr (kCodes) {
        store_vector(record + i, load_taps<T>(codes.data + from + i));
      } else {
        store_vector(record + i, load_indices<T>(indices.data + from + i) -
                                     lane_positions<T>(origin + i * step, step));
      }
    }
  }

  // Holds rows [first, last) of map o, and a row more.
  void hold(int64_t o, int64_t first, int64_t last) {
    if (o != map) map = o, next_row = 0;
    const int64_t end = std::min(last + 1, s.pooled_height);
    for (next_row = std::max(next_row, first); next_row < end; ++next_row) {
      const int64_t row = (o * s.pooled_height + next_row) * s.pooled_width;
      const int64_t origin = (next_row * w.stride_h - w.pad_h) * s.width - w.pad_w;
      if (is_coded) {
        hold_run<true>(row * s.inner, s.pooled_width * s.inner, place(next_row), 0, 0);
      } else if (s.inner == 1) {
        hold_run<false>(row, s.pooled_width, place(next_row), origin, w.stride_w);
      } else {
        for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
          hold_run<false>((row + ow) * s.inner, s.inner, place(next_row) + ow * s.inner,
                          origin + ow * w.stride_w, 0);
        }
      }
    }
  }

  // kVectors vectors of elements, each of which meets a window of those at `at` that it won.
  template <Combine kCombine, int kVectors>
  SEGFAST_LANES void meet(int64_t at, Word won, lanes_t<T> (&held)[kVectors]) const {
    const Value* const value = values + at;
    const Word* const record = records + at;
    const bits_t<T> all_won = bits_t<T>{} + won;
    for (int v = 0; v < kVectors; ++v) {
      held[v] = combine<T, kCombine>(held[v], load_vector<lanes_t<T>>(value + v * kLanes<T>),
                                     load_vector<bits_t<T>>(record + v * kLanes<T>), all_won);
    }
  }
};

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
