// max_pool2d_cpu.h: a vector of neighbouring windows (inner = 1) or of channels at a time, whose
// maxima and taps stay in registers while every tap competes; records are written a tile at a time.
//
// What it gained, as PyTorch's time over ours for 2x2 windows of [4, 256, 90, 120] (one thread of a
// Zen 4, AVX-512), against loops that the compiler vectorized:
//   contiguous fp32 6.7 -> 21; bf16 1.8 -> 32; channels_last bf16 1.8 -> 2.2
//   3x3, stride 2: contiguous fp32 6.5 -> 15, bf16 3.8 -> 17; channels_last fp32 1.1 -> 1.8 (with
//   the prefetch to the second-level cache; 1.0 without it)
// Microseconds of 2x2 windows of [1, 64, 64, 64] with codes (one thread of a Zen 3, AVX2), by
// pairs, with NaN looked for once a row:
//   contiguous fp32 101 -> 49, bf16 101 -> 45, fp16 105 -> 60; channels_last 42 -> 34, 49 -> 39, 45
//   -> 36. Then with 16-bit elements compared as they are, and less to do for a row in the map:
//   contiguous 43, 36, 36; channels_last 36, 31, 31. Then without a tile of taps
//   (windows_2x2_cpu.h), codes as masks give them and rows one after the other: contiguous 29, 22,
//   23; channels_last 23, 18, 18; with indices contiguous fp32 62 -> 41, bf16 57 -> 47. Then those
//   of 16-bit elements from offsets of 16 bits: bf16 contiguous 42 -> 35, channels_last 28.5 -> 24
// As PyTorch's time over ours, with indices (one thread of a Zen 3, AVX2; on a machine that had
// other work too):
//   2x2 windows in runs that are less than a vector, read and written as one, contiguous: [8, 256,
//   7, 7] fp32 1.9 -> 7.3, bf16 1.5 -> 6.2; [8, 256, 3, 3] 0.55 -> 2.0, 0.56 -> 1.5; channels_last
//   [2, 3, 16, 16] fp16 0.88 -> 1.7
//   channels' positions told apart as such, not looked up by taps: channels_last [8, 256, 14, 14]
//   3x3, stride 2 fp32 0.75 -> 1.29, bf16 0.82 -> 1.49; 5x5 fp32 0.96 -> 1.21, bf16 1.02 -> 1.25
// Microseconds of contiguous [8, 256, 2, 2], 3x3 with stride 2 (one thread of it), where a row has
// one window, without a vector: fp32 92 -> 50, bf16 82 -> 51, fp16 87 -> 65
// Of contiguous [4, 256, 90, 120] (two threads), rows of 448 bytes read ahead, shorter ones too
// where memory holds the map: fp32 1532 -> 1245, bf16 646 -> 528
#include "common/lanes.h"
#include "common/lanes_math.h"
#include "kernels/pool_codes/pool_lanes.h"

#include "kernels/max_pool2d/windows_2x2_cpu.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// The maxima of kLanes windows, and the taps that won them.
template <typename T>
struct Best {
  lanes_t<T> value;
  bits_t<T> tap;

  // torch's rule (replaces() in pool_codes_math.h).
  SEGFAST_LANES void meet(lanes_t<T> seen, int64_t number) {
    const auto takes = (seen > value) | (seen != seen);
    value = takes ? seen : value;
    tap = takes ? bits_t<T>{} + static_cast<word_t<T>>(number) : tap;
  }
};

template <typename T>
constexpr accumulate_t<T> kLowest = -std::numeric_limits<accumulate_t<T>>::infinity();

// A tap of a window that lies inside the map.
struct SeenTap {
  int64_t offset;  // from the window's origin, in elements
  int64_t next;    // the same of the next window's tap if this window does not see it, else 0
  int64_t number;  // or, for indices of channels, its position's distance from the origin's
};

// Whether channels' taps are told apart by that distance, which is all that an index wants to know.
inline bool takes_distances(const MaxPool2dParams& p) {
  const Window2d& w = p.window;
  const int64_t farthest = int64_t{w.kernel_h - 1} * w.dilation_h * p.shape.width +
                           int64_t{w.kernel_w - 1} * w.dilation_w;
  return p.record_kind == Record::indices && p.shape.inner > 1 && !w.is_2x2() &&
         farthest < kNoTap<uint32_t>;
}

// What all rows of windows share.
template <typename T>
struct PoolPlan {
  const MaxPool2dParams& p;
  Elements<T> map;
  Inside rows, columns;
  TapOffsets offsets;
  const int64_t ahead = rows_ahead<T>(p.shape);
  const bool distances = takes_distances(p);
  std::vector<word_t<T>> first_column;  // of each window, the first kw inside the map, or kNoTap
  std::vector<SeenTap> whole;           // the taps of a window inside the map

  explicit PoolPlan(const MaxPool2dParams& params)
      : p(params),
        map{static_cast<const T*>(p.input), p.shape.map_numel()},
        rows(rows_inside(p.shape, p.window)),
        columns(columns_inside(p.shape, p.window)),
        offsets(p.window, p.shape.width) {
    const Window2d& w = p.window;
    if (p.shape.inner > 1) {
      if (rows.first < rows.last && columns.first < columns.last) {
        list_taps(rows.first, columns.first, true, whole);
      }
      return;
    }
    first_column.assign(static_cast<size_t>(p.shape.pooled_width + kLanes<T>), kNoTap<word_t<T>>);
    for (int64_t ow = 0; ow < p.shape.pooled_width; ++ow) {
      for (int kw = w.kernel_w - 1; kw >= 0; --kw) {
        const int64_t x = ow * w.stride_w - w.pad_w + int64_t{kw} * w.dilation_w;
        if (x >= 0 && x < p.shape.width) {
          first_column[static_cast<size_t>(ow)] = static_cast<word_t<T>>(kw);
        }
      }
    }
  }

  // 2x2 windows inside the map: those of a row from its first-th on, or the channels of the first
  // of a row.
  WindowsOfRow<T> windows_of(int64_t o, int64_t oh, int64_t first) const {
    const int64_t width = p.shape.width;
    const T* const upper = map.data + (o * p.shape.height + 2 * oh) * width + 2 * first;
    return {upper, upper + width, width, ahead};
  }
  ChannelsOfWindow<T> channels_of(int64_t o, int64_t oh) const {
    const PoolShape& s = p.shape;
    const T* const upper = map.data + (o * s.height + 2 * oh) * s.width * s.inner;
    return {upper, upper + s.width * s.inner, s.inner};
  }

  // Those of window (oh, ow) that lie inside the map, which all do if it is `whole`.
  void list_taps(int64_t oh, int64_t ow, bool is_whole, std::vector<SeenTap>& taps) const {
    const PoolShape& s = p.shape;
    const Window2d& w = p.window;
    taps.clear();
    for (int kh = 0; kh < w.kernel_h; ++kh) {
      const int64_t dy = int64_t{kh} * w.dilation_h, y = oh * w.stride_h - w.pad_h + dy;
      if (!is_whole && (y < 0 || y >= s.height)) continue;
      for (int kw = 0; kw < w.kernel_w; ++kw) {
        const int64_t dx = int64_t{kw} * w.dilation_w, x = ow * w.stride_w - w.pad_w + dx;
        if (!is_whole && (x < 0 || x >= s.width)) continue;
        const int64_t distance = dy * s.width + dx, offset = distance * s.inner;
        const bool is_new = kw >= w.kernel_w - w.stride_w || w.dilation_w > 1;
        taps.push_back({offset, is_new ? offset + w.stride_w * s.inner : 0,
                        distances ? distance : int64_t{kh} * w.kernel_w + kw});
      }
    }
  }
};

// k2x2: the window is 2x2 with stride 2, so that the compiler knows its loops.
template <typename T, typename Tap, bool k2x2>
struct PoolRow {
  const PoolPlan<T>& plan;
  const MaxPool2dParams& p = plan.p;
  static constexpr int kBlock = 4;  // vectors at a time: as many as AVX2 has registers for

  std::vector<SeenTap> clipped = {};
  alignas(64) Tap taps[kTile + kLaneBytes] = {};

  // Windows [ow, ow + kLanes) of row oh of a plane that starts at `origin`. Not all of them
  // kInside: what lies beyond the row's ends competes as -inf, which replaces nothing. kExist: what
  // is read there lies in the tensor.
  template <bool kInside, bool kExist>
  SEGFAST_LANES Best<T> pool_windows(int64_t origin, int64_t oh, int64_t ow) const {
    const PoolShape& s = p.shape;
    const Elements<T> map = plan.map;
    const int kernel_h = k2x2 ? 2 : p.window.kernel_h, kernel_w = k2x2 ? 2 : p.window.kernel_w;
    const int stride = k2x2 ? 2 : p.window.stride_w;
    const int64_t step = k2x2 ? 1 : p.window.dilation_w;
    const int64_t top = k2x2 ? 2 * oh : oh * p.window.stride_h - p.window.pad_h;
    const int64_t left = k2x2 ? 2 * ow : ow * stride - p.window.pad_w;
    Best<T> best{lanes_t<T>{} + kLowest<T>, bits_t<T>{}};
    bool has_row = kInside;
    for (int kh = 0; kh < kernel_h; ++kh) {
      const int64_t y = top + (k2x2 ? kh : int64_t{kh} * p.window.dilation_h);
      if (!kInside && (y < 0 || y >= s.height)) continue;
      if (!has_row) {
        const auto first = load_vector<bits_t<T>>(plan.first_column.data() + ow);
        const bits_t<T> none = bits_t<T>{} + kNoTap<word_t<T>>;
        best.tap = first == none ? none : first + static_cast<word_t<T>>(kh * kernel_w);
        has_row = true;
      }
      const int64_t row = origin + y * s.width;
      int kw = 0;
      if (stride == 2 && step == 1) {
        for (; kw + 1 < kernel_w; kw += 2) {
          const Pair<T> seen = load_pairs_if<kExist>(map, row + left + kw);
          compete<kInside>(best, seen.even, left + kw, kh * kernel_w + kw);
          compete<kInside>(best, seen.odd, left + kw + 1, kh * kernel_w + kw + 1);
        }
      }
      for (; !k2x2 && kw < kernel_w; ++kw) {
        const int64_t x = left + kw * step;
        lanes_t<T> seen;
        if (stride == 1) {
          seen = load_lanes_if<kExist>(map, row + x);
        } else if (stride == 2 && kernel_w > 1) {
          // Nothing beyond the windows' own taps.
          seen = kw == 0 ? load_pairs_if<kExist>(map, row + x).even
                         : load_pairs_if<kExist>(map, row + x - 1).odd;
        } else {
          seen = load_strided(row, x, stride);
        }
        compete<kInside>(best, seen, x, kh * kernel_w + kw);
      }
    }
    if (!has_row) best.tap += kNoTap<word_t<T>>;
    return best;
  }

  // The first of n 2x2 windows of a row, those inside the map: how many. None if they are less than
  // a vector or one holds a NaN.
  int pool_inside_row(int64_t o, int64_t oh, int64_t first, int n, T* output) {
    n = static_cast<int>(std::min<int64_t>(n, plan.columns.last - first));
    if (n < kOwnLanes<T> || !plan.rows.holds(oh)) return 0;
    const WindowsOfRow<T> windows = plan.windows_of(o, oh, first);
    return pool_inside(windows, n, output, TapsOfRun<T>{taps}) ? n : 0;
  }

  template <bool kInside>
  SEGFAST_LANES void compete(Best<T>& best, lanes_t<T> seen, int64_t x, int64_t number) const {
    if (!kInside) {
      const int stride = k2x2 ? 2 : p.window.stride_w;
      const auto in_row = lane_positions<T>(x, stride) < static_cast<word_t<T>>(p.shape.width);
      seen = in_row ? seen : lanes_t<T>{} + kLowest<T>;
    }
    best.meet(seen, number);
  }

  lanes_t<T> load_strided(int64_t row, int64_t x, int64_t stride) const {
    T seen[kLanes<T>] = {};
    for (int k = 0; k < kLanes<T>; ++k, x += stride) {
      if (x >= 0 && x < p.shape.width) seen[k] = plan.map.data[row + x];
    }
    return load_lanes(seen);
  }

  // kVectors * kLanes channels of a window, from element `at` on, which its taps see at `seen`:
  // several vectors of one tap before the next, so that memory is read in longer pieces. kExist:
  // all of them lie inside the map.
  template <int kVectors, bool kExist>
  SEGFAST_LANES static void pool_channels(const Elements<T>& map, int64_t at, const SeenTap* seen,
                                          int count, T* output, Tap* numbers, int n) {
    Best<T> best[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      best[v] = {lanes_t<T>{} + kLowest<T>, bits_t<T>{} + kNoTap<word_t<T>>};
      if (count > 0) {
        best[v] = {load_lanes_if<kExist>(map, at + seen[0].offset + v * kLanes<T>),
                   bits_t<T>{} + static_cast<word_t<T>>(seen[0].number)};
      }
    }
    for (int k = 0; kExist && k < count; ++k) {
      if (seen[k].next == 0) continue;
      // To the second-level cache: in the first, rows a multiple of 4 KB apart drive each other
      // out.
      for (int v = 0; v < kVectors; ++v) {
        __builtin_prefetch(map.data + at + seen[k].next + v * kLanes<T>, 0, 2);
      }
    }
    for (int k = 1; k < count; ++k) {
      for (int v = 0; v < kVectors; ++v) {
        best[v].meet(load_lanes_if<kExist>(map, at + seen[k].offset + v * kLanes<T>),
                     seen[k].number);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      if (kExist) {
        store_exact(output + v * kLanes<T>, best[v].value);
      } else {
        store_some_words(output, exact_words<T>(best[v].value), n);
      }
      store_taps<T>(numbers + v * kLanes<T>, best[v].tap);
    }
  }

  void record_tile(const Run& run, int64_t first, int n) {
    const PoolShape& s = p.shape;
    const Window2d& w = p.window;
    if (p.record == nullptr) return;
    if (p.record_kind == Record::codes2) {
      if constexpr (k2x2) {
        uint8_t* codes = static_cast<uint8_t*>(p.record) + run.number * s.run_bytes();
        pack_codes2(taps, n, codes + first / kCodesPerByte);
      }
    } else if (p.record_kind == Record::codes8) {
      uint8_t* codes = static_cast<uint8_t*>(p.record) + run.number * run.length + first;
      for (int i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(taps[i]);
    } else {
      int64_t* __restrict indices =
          static_cast<int64_t*>(p.record) + run.number * run.length + first;
      const Tap* __restrict numbers = taps;
      const int64_t ow = run.ow + (run.along_row ? first : 0);
      const int64_t step = run.along_row ? w.stride_w : 0;
      const int64_t origin = (run.oh * w.stride_h - w.pad_h) * s.width + ow * w.stride_w - w.pad_w;
      if constexpr (k2x2) {
        // The tap's distance in 32-bit lanes, of which two vectors of 64-bit ones are made.
        using Bits = bits_t<float>;
        using Wide = bits_t<double>;
        constexpr int kWide = kLanes<double>;
        const Bits below = Bits{} + static_cast<uint32_t>(s.width), none{};
        for (int i = 0; i < n; i += 2 * kWide) {
          const Bits tap = widen_bytes<Bits>(numbers + i);
          const Bits offset = (tap & 1) + ((tap & 2) != none ? below : none);
          const int64_t start = origin + i * step;
          const Wide low = lower_wide(offset) + lane_positions<double>(start, step);
          const Wide high = upper_wide(offset) + lane_positions<double>(start + kWide * step, step);
          if (n - i >= 2 * kWide) {
            store_vector(indices + i, low);
            store_vector(indices + i + kWide, high);
          } else {
            store_some_own(indices + i, low, n - i);
            if (n - i > kWide) store_some_own(indices + i + kWide, high, n - i - kWide);
          }
        }
      } else if (plan.distances) {
        for (int i = 0; i < n; ++i) {
          indices[i] = numbers[i] == kNoTap<Tap> ? kEmptyIndex : origin + int64_t{numbers[i]};
        }
      } else if (w.taps() <= kMaxCodedTaps) {
        for (int i = 0; i < n; ++i) {
          indices[i] = numbers[i] == kNoTap<Tap> ? kEmptyIndex
                                                 : origin + i * step + plan.offsets.at[numbers[i]];
        }
      } else {
        for (int i = 0; i < n; ++i) {
          indices[i] = numbers[i] == kNoTap<Tap>
                           ? kEmptyIndex
                           : tap_position(w, s, run.oh, ow + (run.along_row ? i : 0),
                                          static_cast<int>(numbers[i]));
        }
      }
    }
  }

  // The first row of the map that a row of windows sees and the one above it does not.
  int64_t new_row(int64_t oh) const {
    const Window2d& w = p.window;
    return (oh - 1) * w.stride_h - w.pad_h + int64_t{w.kernel_h - 1} * w.dilation_h + 1;
  }

  // What kLanes windows see of the rows from `row` on that are new to them, into the second-level
  // cache. The machine foresees a row's end, not the jump over the rows that were read beside it.
  SEGFAST_LANES void prefetch_windows(const T* row) const {
    const int stride_h = k2x2 ? 2 : p.window.stride_h, stride_w = k2x2 ? 2 : p.window.stride_w;
    const int bytes = kLanes<T> * stride_w * static_cast<int>(sizeof(T));
    for (int y = 0; y < stride_h; ++y, row += p.shape.width) {
      for (int at = 0; at < bytes; at += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(row) + at, 0, 2);
      }
    }
  }

  void pool_row(int64_t o, int64_t oh, T* output) {
    const Run run = row_run(p.shape, o, oh);
    output += run.number * run.length;
    if (!k2x2 && run.length == 1) {
      pool_one(o, oh, output);
      return record_tile(run, 0, 1);
    }
    for (int64_t first = 0; first < run.length; first += kTile) {
      const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
      int done = 0;
      if constexpr (k2x2) done = pool_inside_row(o, oh, first, n, output + first);
      if (done < n) pool_any_row(o, oh, first, done, n, output + first);
      record_tile(run, first, n);
    }
  }

  // The first and the last tap of a window from `start` on that lie inside an axis.
  struct TapsInside {
    int first, last;
    TapsInside(int64_t start, int kernel, int dilation, int64_t size) : first(0), last(kernel) {
      while (first < last && start + int64_t{first} * dilation < 0) ++first;
      while (last > first && start + int64_t{last - 1} * dilation >= size) --last;
    }
  };

  // The only window of a row, of which a vector would be all but empty.
  __attribute__((noinline)) void pool_one(int64_t o, int64_t oh, T* output) {
    const PoolShape& s = p.shape;
    const Window2d w = p.window;
    const int64_t top = oh * w.stride_h - w.pad_h, left = -w.pad_w;
    const TapsInside rows(top, w.kernel_h, w.dilation_h, s.height);
    const TapsInside columns(left, w.kernel_w, w.dilation_w, s.width);
    const T* const seen = plan.map.data + (o * s.height + top) * s.width + left;
    accumulate_t<T> best = kLowest<T>;
    Tap tap = kNoTap<Tap>;
    if (rows.first < rows.last && columns.first < columns.last) {
      tap = static_cast<Tap>(rows.first * w.kernel_w + columns.first);
    }
    for (int kh = rows.first; kh < rows.last; ++kh) {
      const T* const row = seen + int64_t{kh} * w.dilation_h * s.width;
      for (int kw = columns.first; kw < columns.last; ++kw) {
        const accumulate_t<T> value = to_float(row[int64_t{kw} * w.dilation_w]);
        if (!replaces(value, best)) continue;
        best = value;
        tap = static_cast<Tap>(kh * w.kernel_w + kw);
      }
    }
    *output = from_float<T>(best);
    taps[0] = tap;
  }

  // Windows [start, n) of a tile. Not inlined: the rows of pool_inside_row() are short, and what
  // these need to know of a row costs them a third of their time.
  __attribute__((noinline)) void pool_any_row(int64_t o, int64_t oh, int64_t first, int start,
                                              int n, T* output) {
    const PoolShape& s = p.shape;
    const Window2d& w = p.window;
    const int64_t origin = o * s.height * s.width;
    const bool row_inside = plan.rows.holds(oh);
    // Whether all that vectors of windows may read, beyond the row's ends too, lies in the tensor.
    const int64_t last_row =
        std::min(oh * w.stride_h - w.pad_h + int64_t{w.kernel_h - 1} * w.dilation_h, s.height - 1);
    const int64_t reach = (s.pooled_width + kLanes<T>)*w.stride_w +
                          int64_t{w.kernel_w} * w.dilation_w + 2 * kLanes<T>;
    const bool exist = origin >= w.pad_w && origin + last_row * s.width + reach <= plan.map.count;
    const int64_t ahead = origin - w.pad_w + new_row(oh + 2) * s.width;
    for (; start < n; start += kLanes<T>) {
      const int at = n < kLanes<T> ? 0 : std::min(start, n - kLanes<T>);  // the last may overlap
      const int64_t ow = first + at;
      const bool inside = row_inside && plan.columns.holds(ow, kLanes<T>);
      if (inside) prefetch_windows(plan.map.data + ahead + ow * w.stride_w);
      const Best<T> best = inside  ? pool_windows<true, true>(origin, oh, ow)
                           : exist ? pool_windows<false, true>(origin, oh, ow)
                                   : pool_windows<false, false>(origin, oh, ow);
      if (n >= kLanes<T>) {
        store_exact(output + at, best.value);
      } else {
        store_some_words(output + at, exact_words<T>(best.value), n);
      }
      store_taps<T>(taps + at, best.tap);
    }
  }

  void pool_pixel(int64_t o, int64_t oh, int64_t ow, T* output) {
    const PoolShape& s = p.shape;
    const Window2d& w = p.window;
    const Run run = channel_run(s, o, oh, ow);
    const int64_t origin =
        ((o * s.height + oh * w.stride_h - w.pad_h) * s.width + ow * w.stride_w - w.pad_w) *
        s.inner;
    const bool inside = plan.rows.holds(oh) && plan.columns.holds(ow);
    if (!inside) plan.list_taps(oh, ow, false, clipped);
    output += run.number * run.length;
    for (int64_t first = 0; first < run.length; first += kTile) {
      const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
      const std::vector<SeenTap>& seen = inside ? plan.whole : clipped;
      pool_channel_tile(origin + first, n, seen.data(), static_cast<int>(seen.size()),
                        output + first);
      record_tile(run, first, n);
    }
  }

  SEGFAST_LANES void pool_channel_tile(int64_t origin, int n, const SeenTap* seen, int count,
                                       T* output) {
    // Copies, because a store of bytes might change what is read through a pointer.
    const Elements<T> map = plan.map;
    Tap* const numbers = taps;
    if (n < kLanes<T>) {
      return pool_channels<1, false>(map, origin, seen, count, output, numbers, n);
    }
    int at = 0;
    for (; at + kBlock * kLanes<T> <= n; at += kBlock * kLanes<T>) {
      pool_channels<kBlock, true>(map, origin + at, seen, count, output + at, numbers + at, n);
    }
    for (; at < n; at += kLanes<T>) {
      at = std::min(at, n - kLanes<T>);  // the last may overlap
      pool_channels<1, true>(map, origin + at, seen, count, output + at, numbers + at, n);
    }
  }

  void pool(int64_t o, int64_t oh) {
    T* output = static_cast<T*>(p.output);
    if (p.shape.inner == 1) return pool_row(o, oh, output);
    for (int64_t ow = 0; ow < p.shape.pooled_width; ++ow) pool_pixel(o, oh, ow, output);
  }

  // The i-th run from `first` on.
  __attribute__((noinline)) void pool_run(int64_t o, const Run& first, int64_t i) {
    T* output = static_cast<T*>(p.output);
    if (first.along_row) return pool_row(o, first.oh + i, output);
    pool_pixel(o, first.oh, first.ow + i, output);
  }
};

template <typename T, typename Tap>
void pool_rows(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  const PoolPlan<T> plan(p);
  PoolRow<T, Tap, false> row{plan};
  MapRow at(begin, p.shape.pooled_height);
  for (int64_t item = begin; item < end; ++item, at.next()) row.pool(at.o, at.row);
}

// `count` runs of 2x2 windows, of which the first `inside` lie in the map. Those that do not, or
// that hold a NaN, are pooled as any window. end: of the outputs that are this thread's.
template <typename T, typename Windows, typename Kept>
SEGFAST_LANES void pool_runs(PoolRow<T, uint8_t, true>& any, Windows windows, Kept kept, int64_t o,
                             const Run& run, int64_t inside, int64_t count, const T* end) {
  const int64_t n = run.length;
  T* output = static_cast<T*>(any.p.output) + run.number * n;
  for (int64_t i = 0; i < count; ++i) {
    const bool is_inside = i < inside;
    bool is_pooled = false;
    if (is_inside && n >= kOwnLanes<T>) {
      is_pooled = pool_inside(windows, n, output, kept);
    } else if (is_inside && output + kOwnLanes<T> <= end) {  // the map holds twice as many
      is_pooled = pool_short(windows, n, output, kept);
    }
    if (!is_pooled) any.pool_run(o, run, i);
    windows.next();
    kept.next();
    output += n;
  }
}

// Rows of 2x2 windows.
template <typename T, typename Kept>
void pool_rows_2x2(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  const PoolPlan<T> plan(p);
  PoolRow<T, uint8_t, true> any{plan};
  const PoolShape& s = p.shape;
  const T* const output_end = static_cast<const T*>(p.output) + end * s.pooled_width * s.inner;
  if (s.inner > 1) {
    MapRow at(begin, s.pooled_height);
    for (int64_t item = begin; item < end; ++item, at.next()) {
      const Run run = channel_run(s, at.o, at.row, 0);
      pool_runs(any, plan.channels_of(at.o, at.row), Kept::of(p, run), at.o, run,
                plan.rows.holds(at.row) ? plan.columns.last : 0, s.pooled_width, output_end);
    }
    return;
  }
  const int64_t inside = plan.columns.holds(0, s.pooled_width) ? plan.rows.last : 0;
  for (MapRows at(begin, end, s.pooled_height); at.count > 0; at.next()) {
    const Run run = row_run(s, at.o, at.row);
    pool_runs(any, plan.windows_of(at.o, at.row, 0), Kept::of(p, run), at.o, run, inside - at.row,
              at.count, output_end);
  }
}

template <typename T>
void pool_rows_of(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  if (p.window.is_2x2()) {
    if (p.record == nullptr) return pool_rows_2x2<T, NothingOfRun<T>>(p, begin, end);
    if (p.record_kind == Record::codes2) return pool_rows_2x2<T, CodesOfRun<T>>(p, begin, end);
    if (IndicesOfRun<T>::are_told(p.shape)) {
      return pool_rows_2x2<T, IndicesOfRun<T>>(p, begin, end);
    }
  }
  if (p.window.taps() <= kMaxCodedTaps && !takes_distances(p)) {
    pool_rows<T, uint8_t>(p, begin, end);
  } else {
    pool_rows<T, uint32_t>(p, begin, end);
  }
}

}  // namespace

void max_pool2d(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::float32:
      return pool_rows_of<float>(p, begin, end);
    case DType::float64:
      return pool_rows_of<double>(p, begin, end);
    case DType::float16:
      return pool_rows_of<Half>(p, begin, end);
    case DType::bfloat16:
      return pool_rows_of<BFloat16>(p, begin, end);
  }
}

}  // namespace SEGFAST_ISA
}  // namespace segfast
