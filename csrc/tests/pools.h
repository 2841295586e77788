// pools.h: the shapes that the tests of pooling and unpooling share, and plain accessors to the
// records of where maxima were.
#pragma once

#include <vector>

#include "kernels/pool_codes/pool_codes_math.h"
#include "tensors.h"

namespace segfast::test {

struct PoolCase {
  const char* reason;
  int64_t N, C, H, W;
  Window2d window;
  bool ceil_mode;
};

inline std::vector<PoolCase> pool_cases() {
  const Window2d two{2, 2, 2, 2, 0, 0, 1, 1};
  const Window2d three{3, 3, 2, 2, 1, 1, 1, 1};
  // Without padding; of stride 1; of dilation 2, padded in full and by half.
  const Window2d three_bare{3, 3, 2, 2, 0, 0, 1, 1};
  const Window2d three_1{3, 3, 1, 1, 1, 1, 1, 1};
  const Window2d dilated{3, 3, 1, 1, 2, 2, 2, 2};
  const Window2d dilated_less{3, 3, 1, 1, 1, 1, 2, 2};
  const Window2d five{5, 5, 2, 2, 2, 2, 1, 1}, five_1{5, 5, 1, 1, 2, 2, 1, 1};
  std::vector<PoolCase> cases = {
      {"2x2: one pixel out", 1, 1, 2, 2, two, false},
      {"2x2: odd height and width, in no window", 2, 3, 7, 9, two, false},
      {"2x2: odd sides, last windows cut", 2, 3, 7, 9, two, true},
      {"2x2: the same, whole vectors along channels", 1, 16, 5, 7, two, true},
      {"2x2: a map of one pixel", 1, 2, 1, 1, two, true},
      {"2x2: whole vectors along rows and channels", 2, 32, 4, 64, two, false},
      {"2x2: vectors and a tail along rows", 1, 2, 6, 150, two, false},
      {"2x2: vectors and a tail along channels", 1, 37, 5, 6, two, false},
      {"2x2: an even number of channels, not of vectors", 1, 6, 5, 22, two, false},
      {"2x2: more than one block of threads", 3, 7, 30, 46, two, false},
      {"2x2: rows longer than a tile of the CPU kernels", 1, 1, 4, 603, two, false},
      {"2x2: more channels than such a tile", 1, 301, 2, 4, two, false},
      {"2x2: rows less than a vector, many maps", 3, 17, 5, 6, two, false},
      {"2x2: the same, last windows cut", 3, 17, 5, 7, two, true},
      {"2x2: rows of five windows, channels less than a vector", 2, 5, 10, 11, two, false},
      {"3x3/2 padded: rows longer than such a tile", 1, 1, 3, 602, three, false},
      {"3x3/2 padded: more small maps than are placed together", 3, 61, 4, 5, three, false},
      {"3x3/2 padded: more channels than such a tile", 1, 301, 3, 3, three, false},
      {"3x3/2 padded: odd sides", 2, 3, 11, 13, three, false},
      {"3x3/2 padded: vectors and tails", 1, 20, 9, 70, three, false},
      {"3x3/2 padded: whole vectors along channels", 1, 16, 5, 7, three, false},
      {"3x3/2 padded, ceil_mode: even sides", 1, 3, 8, 10, three, true},
      {"3x3/2 padded: a map smaller than the window", 1, 2, 1, 2, three, false},
      {"3x3/1 padded: nine windows a pixel", 1, 5, 6, 7, three_1, false},
      {"3x3/1 dilated: rows and columns of windows with holes", 2, 19, 9, 41, dilated_less, false},
      {"5x5/2 padded: more taps than vectors make up for", 2, 19, 11, 45, five, false},
      {"9x7/1 padded: the same in 16 bits", 1, 18, 12, 20, {9, 7, 1, 1, 4, 3, 1, 1}, false},
      {"11x9/2 padded: more taps than vectors make up for in all types, more rows than are held",
       1,
       34,
       33,
       16,
       {11, 9, 2, 1, 5, 4, 1, 1},
       false},
      {"the same, rows between windows", 1, 34, 60, 16, {11, 9, 13, 1, 5, 4, 1, 1}, false},
      {"3x3/2 padded: whole vectors along rows", 2, 3, 9, 32, three, false},
      {"3x3/1 padded: whole vectors along rows and channels", 1, 16, 7, 16, three_1, false},
      {"3x3/1 without padding: whole vectors along channels",
       1,
       16,
       5,
       8,
       {3, 3, 1, 1, 0, 0, 1, 1},
       false},
      {"3x3/1 dilated, whole vectors along rows and channels", 1, 16, 7, 16, dilated, false},
      {"3x3/1 dilated, one row: whole vectors, and threads without", 1, 8, 1, 8, dilated, false},
      {"3x3/1 dilated, a map smaller than the window", 2, 3, 3, 2, dilated, false},
      {"5x5/2 padded: whole vectors along rows and channels", 1, 16, 7, 32, five, false},
      {"5x5/2 padded, ceil_mode: even sides", 1, 16, 6, 10, five, true},
      {"5x5/2 padded: a map of one pixel", 1, 3, 1, 1, five, false},
      {"3x3/2 padded: odd sides, more rows than a thread's", 1, 2, 31, 13, three, false},
      {"3x3/2 without padding: odd sides, more rows than a thread's", 2, 3, 21, 13, three_bare,
       false},
      {"3x3/2 without padding: rows of vectors with a window less, a strip with a row less", 2, 1,
       15, 16, three_bare, false},
      {"3x3/2 without padding, ceil_mode: even sides", 1, 3, 22, 10, three_bare, true},
      {"3x3/2 without padding, ceil_mode: whole vectors along rows and channels", 1, 16, 8, 32,
       three_bare, true},
      {"3x3/1 padded: more rows than a thread's", 1, 3, 20, 11, three_1, false},
      {"3x3/1 dilated: more rows than a thread's", 1, 2, 37, 9, dilated, false},
      {"3x3/1 dilated, less padding: whole vectors along channels, more rows than a thread's", 2,
       16, 21, 19, dilated_less, false},
      {"3x3/1 dilated, less padding: one window", 1, 8, 3, 3, dilated_less, false},
      {"5x5/1 padded: more rows than a thread's", 2, 3, 19, 13, five_1, false},
      {"5x5/1 padded: whole vectors along rows and channels", 1, 16, 7, 16, five_1, false},
      {"5x5/1 padded: a map smaller than the window", 1, 8, 2, 3, five_1, false},
      {"5x5/2 padded: odd sides, more rows than a thread's", 2, 2, 37, 11, five, false},
      {"2x2/1: overlapping", 1, 3, 5, 8, {2, 2, 1, 1, 0, 0, 1, 1}, false},
      {"2x2/3: gaps between windows", 1, 3, 8, 11, {2, 2, 3, 3, 0, 0, 1, 1}, false},
      {"all parameters differ by axis", 2, 5, 13, 17, {3, 4, 2, 3, 1, 2, 2, 1}, true},
      {"the same, whole vectors along channels", 1, 8, 9, 10, {3, 4, 2, 3, 1, 2, 2, 1}, true},
      {"dilated: windows that hold no input", 1, 2, 1, 4, {2, 2, 2, 2, 1, 1, 2, 2}, false},
      {"the same, whole vectors along channels", 1, 16, 3, 1, {3, 3, 3, 3, 3, 3, 4, 4}, true},
      {"more taps than codes can tell: indices only",
       1,
       2,
       20,
       19,
       {16, 17, 2, 1, 0, 0, 1, 1},
       false},
      {"an empty batch", 0, 3, 4, 4, two, false},
  };
  const Window2d asides[] = {
      {3, 2, 2, 2, 0, 0, 1, 1}, {2, 3, 2, 2, 0, 0, 1, 1}, {2, 2, 1, 2, 0, 0, 1, 1},
      {2, 2, 2, 1, 0, 0, 1, 1}, {2, 2, 2, 2, 1, 0, 1, 1}, {2, 2, 2, 2, 0, 1, 1, 1},
      {2, 2, 2, 2, 0, 0, 2, 1}, {2, 2, 2, 2, 0, 0, 1, 2}, {4, 3, 1, 1, 1, 1, 1, 1},
      {3, 4, 1, 1, 1, 1, 1, 1}, {3, 3, 2, 1, 1, 1, 1, 1}, {3, 3, 1, 2, 1, 1, 1, 1},
      {3, 3, 1, 1, 0, 1, 1, 1}, {3, 3, 1, 1, 1, 0, 1, 1}, {3, 3, 1, 1, 1, 1, 2, 1},
      {3, 3, 1, 1, 1, 1, 1, 2}};
  for (const Window2d& aside : asides) {
    cases.push_back({"one number aside from a window that kernels know", 1, 1, 4, 5, aside, false});
  }
  return cases;
}

// A case in one memory format.
struct Pooling {
  Pooling(const PoolCase& c, bool channels_last)
      : N(c.N),
        C(c.C),
        window(c.window),
        map{channels_last, c.C, c.H, c.W},
        pooled{channels_last, c.C,
               pooled_extent(c.H, window.kernel_h, window.stride_h, window.pad_h, window.dilation_h,
                             c.ceil_mode),
               pooled_extent(c.W, window.kernel_w, window.stride_w, window.pad_w, window.dilation_w,
                             c.ceil_mode)},
        shape{channels_last ? N : N * C, channels_last ? C : 1, map.H, map.W, pooled.H, pooled.W} {}

  int64_t N, C;
  Window2d window;
  Layout map, pooled;
  PoolShape shape;

  // The kinds of record that this window allows.
  std::vector<Record> records() const {
    if (window.is_2x2()) return {Record::codes2, Record::indices};
    if (window.taps() <= kMaxCodedTaps) return {Record::codes8, Record::indices};
    return {Record::indices};
  }

  // f(n, c, oh, ow) for every window.
  template <typename F>
  void for_each_window(F&& f) const {
    for (int64_t n = 0; n < N; ++n)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t oh = 0; oh < pooled.H; ++oh)
          for (int64_t ow = 0; ow < pooled.W; ++ow) f(n, c, oh, ow);
  }

  // f(tap, y, x) for every tap of window (oh, ow) that lies on the map, row by row.
  template <typename F>
  void for_each_tap(int64_t oh, int64_t ow, F&& f) const {
    for (int tap = 0; tap < window.taps(); ++tap) {
      const int64_t y =
          oh * window.stride_h - window.pad_h + tap / window.kernel_w * window.dilation_h;
      const int64_t x =
          ow * window.stride_w - window.pad_w + tap % window.kernel_w * window.dilation_w;
      if (y >= 0 && y < map.H && x >= 0 && x < map.W) f(tap, y, x);
    }
  }
};

// A record's memory as its kernels see it, and access to it by window.
class RecordArray {
 public:
  RecordArray(const Pooling& pooling, Record kind, int64_t offset = 0)
      : kind_(kind),
        pooled_(pooling.pooled),
        along_rows_(pooling.shape.inner == 1),
        run_bytes_(((along_rows_ ? pooled_.W : pooled_.C) + 3) / 4),
        bytes_(bytes_of(pooling), offset * (kind == Record::indices ? 8 : 1)) {}

  Array<uint8_t>& bytes() { return bytes_; }
  void* data() { return bytes_.data(); }

  // `index` is what kind `indices` stores, `tap` what codes store; -1 where there is none.
  void set(int64_t n, int64_t c, int64_t oh, int64_t ow, int tap, int64_t index) {
    const int64_t window = pooled_(n, c, oh, ow);
    if (kind_ == Record::indices) {
      reinterpret_cast<int64_t*>(bytes_.data())[window] = index;
    } else if (kind_ == Record::codes8) {
      bytes_[window] = static_cast<uint8_t>(tap < 0 ? 255 : tap);
    } else {
      const int64_t run = along_rows_ ? (n * pooled_.C + c) * pooled_.H + oh
                                      : (n * pooled_.H + oh) * pooled_.W + ow;
      const int64_t place = along_rows_ ? ow : c;
      const int shift = static_cast<int>(2 * (place % 4));
      uint8_t& byte = bytes_[run * run_bytes_ + place / 4];
      byte = static_cast<uint8_t>((byte & ~(3 << shift)) | (tap << shift));
    }
  }

 private:
  int64_t bytes_of(const Pooling& pooling) const {
    const int64_t windows = pooling.N * pooled_.C * pooled_.H * pooled_.W;
    if (kind_ == Record::indices) return windows * 8;
    if (kind_ == Record::codes8) return windows;
    return pooling.N * pooled_.H * (along_rows_ ? pooled_.C : pooled_.W) * run_bytes_;
  }

  Record kind_;
  Layout pooled_;
  bool along_rows_;
  int64_t run_bytes_;
  Array<uint8_t> bytes_;
};

inline const char* record_name(Record kind) {
  return kind == Record::codes2 ? "codes2" : kind == Record::codes8 ? "codes8" : "indices";
}

// f(pooling, description) for each case and memory format.
template <typename F>
void for_each_pooling(F&& f) {
  for (const PoolCase& c : pool_cases()) {
    for (bool channels_last : {false, true}) {
      f(Pooling(c, channels_last),
        std::string(c.reason) + (channels_last ? ", channels_last" : ", contiguous"));
    }
  }
}

}  // namespace segfast::test
