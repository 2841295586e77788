// pool_place.h: the values of windows that are visited once each, rather than by each element that
// they see. Compiled once an instruction set, after pool_held.h.
//
// What it gained in pool backward of [4, 256, 90, 120], against a pass over each row for every tap,
// as PyTorch's time over ours (one thread of a Zen 4, AVX-512):
//   5x5, stride 5, placed over zeros: contiguous bf16 0.2 -> 2.9
//   5x5, stride 2 (other runs before and after): contiguous fp32 2.2 -> 3.2, bf16 0.7 -> 1.1; of
//   [1, 64, 64, 64] fp32 0.3 -> 0.7
// Microseconds of [2, 64, 65, 127] (one thread of a Zen 3, AVX2):
//   channels_last 5x5, stride 2, several windows loaded before one is stored: fp32 610 -> 320, bf16
//   600 -> 506
//   codes read eight at a time, sums rounded by vectors: contiguous 5x5, stride 2 fp32 333 -> 307,
//   fp16 489 (pool_cells.h) -> 396; channels_last float64 3x3, stride 1 1369 (ScatterPixels) ->
//   1110 channels_last 5x5, stride 2, windows over the padding placed as all others are, sums taken
//   from the ring rather than read and cleared: bf16 515 -> 462, fp16 461 -> 445 (two threads: 287
//   -> 262, 256 -> 247); rows cleared or written a part at a time, before the windows that see
//   them: fp16 424 -> 394 (237 -> 220), fp32 206 -> 200 on two threads, others as before
// As PyTorch's time over ours of [8, 256, 7, 7] and [2, 512, 11, 15], contiguous (one thread of a
// Zen 3, AVX2; on a machine that had other work too), rows of few windows placed rather than summed
// by vectors, small maps several at a time:
//   from indices: 3x3, stride 2 fp32 0.28 -> 1.12, 0.53 -> 1.05, bf16 0.38 -> 1.3, 0.64 -> 1.3;
//   stride 1 fp32 0.33 -> 1.11, 0.55 -> 1.04; 5x5, stride 2 fp32 0.82 -> 1.13, 0.90 -> 1.06
// Of channels_last 5x5, stride 2, from indices (one thread of it, loaded), their places by vectors:
// [8, 256, 16, 16] fp16 374 -> 334 us, bf16 387 -> 345; [2, 64, 65, 127] 911 -> 816, 899 -> 812
// Microseconds of channels_last [8, 256, 9, 9] and [8, 256, 14, 14], 3x3 with dilation 2, from
// indices (one thread of it), rather than summed by vectors: fp32 157 -> 106, 407 -> 311; bf16 201
// -> 149 and, not so, 455; from codes fp32 115 -> 104, bf16 137 -> 102
// Of contiguous maps from codes (one thread of it), their places by vectors, windows of a small map
// in one loop: [2, 512, 11, 15] and [8, 256, 7, 7] fp32 3x3, stride 2 83 -> 54, 55 -> 37; stride 1
// 212 -> 150, 133 -> 100; dilation 2 217 -> 149, 140 -> 92; fp16 3x3, stride 2 96 -> 67, 63 -> 43
// From indices, of which a vector is looked at before they are placed, where they are added up: [2,
// 512, 11, 15] 3x3, stride 2 fp32 94 -> 74, bf16 131 -> 111, float64 109 -> 89
//   sums of 16-bit elements of several rows of windows at once, [2, 64, 65, 127], 5x5, stride 2:
//   from codes fp16 520 -> 450, bf16 558 -> 474; from indices 509 -> 441, 549 -> 457
//
// Tried without gain for contiguous maps: four maps side by side (fp32 375 -> 490 us), rows of the
// map in a ring that is copied out, what eight windows hold added up by vectors (gathered, and
// compared with their neighbours' places), several rows of fp32 windows at once (466 -> 495).
// For channels_last ones: tiles of some columns and channels that stay in a first-level cache (fp32
// 370 -> 540), codes read as bytes (370 -> 390), prefetches. A channel takes 0.8 ns there, of which
// 0.74 are the loads of what it is added to.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// The codes of eight windows, a word that is read at once: of loads that follow one another, each
// from where the one before it says, a machine has fewer under way.
struct CodeBlock {
  static constexpr int kCount = sizeof(uint64_t);
  static constexpr int kMostTaps = 128;  // that has_taps() can compare: a byte's highest bit tells
  static constexpr uint64_t kOfAll = 0x0101010101010101;

  uint64_t codes;

  explicit CodeBlock(const uint8_t* from) : codes(load_vector<uint64_t>(from)) {}

  // Whether each is the number of one of `taps` taps, at most kMostTaps.
  bool has_taps(int taps) const {
    const uint64_t beyond = codes + static_cast<uint64_t>(kMostTaps - taps) * kOfAll;
    return ((codes | beyond) & kMostTaps * kOfAll) == 0;
  }

  // Channels of a window, whose places differ: all are loaded before any is stored.
  template <bool kAdd, typename Held>
  SEGFAST_LANES void place_apart(const Held* __restrict values, const int64_t* offsets,
                                 Held* to) const {
    Held held[kCount];
    int64_t places[kCount];
    uint64_t rest = codes;
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k, rest >>= 8) {
      places[k] = offsets[rest & 0xff];
      held[k] = values[k];
      if constexpr (kAdd) held[k] += to[places[k] + k];
    }
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k) to[places[k] + k] = held[k];
  }
};

// n elements in the width of sums, and sums rounded to n elements; kTake leaves zeros for the next.
template <typename T>
void widen(const T* from, int64_t n, accumulate_t<T>* to) {
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) store_vector(to + i, load_lanes(from + i));
  for (; i < n; ++i) to[i] = to_float(from[i]);
}
template <bool kTake, typename T>
void round_sums(accumulate_t<T>* from, int64_t n, T* to) {
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) {
    store_lanes(to + i, load_vector<lanes_t<T>>(from + i));
    if (kTake) store_vector(from + i, lanes_t<T>{});
  }
  for (; i < n; ++i) {
    to[i] = from_float<T>(from[i]);
    if (kTake) from[i] = {};
  }
}

// inner = 1: windows whose values go to `seen` elements of a map. next(): those of the next map.
template <typename Held>
struct WindowRun {
  const Held* values;
  Held* out;
  int64_t origin;  // among those elements: of the first window, for indices of the map
  int64_t seen;

  void next(int64_t windows) { values += windows, out += seen; }

  template <bool kAdd>
  SEGFAST_LANES void place_inside(int64_t i, int64_t place) const {
    if constexpr (kAdd) {
      out[place] += values[i];
    } else {
      out[place] = values[i];
    }
  }
  // The i-th to a place that may be another thread's, or none: that of an empty window.
  template <bool kAdd>
  SEGFAST_LANES void place(int64_t i, int64_t place) const {
    if (static_cast<uint64_t>(place) < static_cast<uint64_t>(seen)) place_inside<kAdd>(i, place);
  }
};

// n windows of each of `maps` maps.
template <bool kAdd, typename Held>
__attribute__((noinline)) void place_indexed(WindowRun<Held> run, const int64_t* indices, int64_t n,
                                             int64_t maps) {
  constexpr int kCount = kLanes<double>;
  for (int64_t map = 0; map < maps; ++map, indices += n, run.next(n)) {
    int64_t i = 0;
    for (; kAdd && i + kCount <= n; i += kCount) {
      if (are_inside(indices + i, run.origin, run.seen)) {
#pragma GCC unroll 16
        for (int k = 0; k < kCount; ++k) {
          run.template place_inside<kAdd>(i + k, indices[i + k] - run.origin);
        }
      } else {
        for (int k = 0; k < kCount; ++k)
          run.template place<kAdd>(i + k, indices[i + k] - run.origin);
      }
    }
    for (; i < n; ++i) run.template place<kAdd>(i, indices[i] - run.origin);
  }
}

// The places that codes name, of a vector of windows at a time, in 32 bits.
struct CodedPlaces {
  using Bits = bits_t<float>;

  const PoolShape& s;
  const Window2d& w;
  const TapOffsets offsets{w, s.width};
  const bool fits;  // windows that are placed at once lie so near to each other, with all they see
  const uint32_t taps = static_cast<uint32_t>(w.taps()),
                 right = static_cast<uint32_t>(w.dilation_w);
  // From one past a row's last tap to the next row's first.
  const uint32_t below =
      static_cast<uint32_t>(w.dilation_h * s.width - int64_t{w.kernel_w} * w.dilation_w);
  // A code times this, less the lower half, is its tap's row.
  const uint32_t row_of = (1 << 16) / static_cast<uint32_t>(w.kernel_w) + 1;
  std::vector<uint32_t> origins;  // from the first window's

  // Of rows of windows that see `span` rows of the map.
  CodedPlaces(const PoolScatterParams& a, int64_t rows, int64_t span)
      : s(a.shape), w(a.window), fits((span + 1) * (s.width + w.pad_w) < max_numel_32) {
    if (!fits) return;
    origins.resize(static_cast<size_t>(rows * s.pooled_width));
    uint32_t* next = origins.data();
    for (int64_t oh = 0; oh < rows; ++oh) {
      const int64_t first = oh * w.stride_h * s.width;
      for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
        *next++ = static_cast<uint32_t>(first + ow * w.stride_w);
      }
    }
  }

  int64_t origin(int64_t i) const {
    return i / s.pooled_width * w.stride_h * s.width + i % s.pooled_width * w.stride_w;
  }

  // That of the i-th window, and of kLanes<float> from it on, where the first begins at `first`:
  // all bits, or beyond any map, of what is no code.
  SEGFAST_LANES int64_t place(int64_t i, uint8_t code, int64_t first) const {
    return (fits ? int64_t{origins[static_cast<size_t>(i)]} : origin(i)) + first + offsets.at[code];
  }
  SEGFAST_LANES Bits places(int64_t i, const uint8_t* codes, int64_t first) const {
    const Bits code = load_taps<float>(codes), row = code * row_of >> 16;
    const Bits place = load_vector<Bits>(origins.data() + i) + static_cast<uint32_t>(first) +
                       code * right + row * below;
    return code < taps ? place : ~Bits{};
  }
};

// The same by their codes.
template <bool kAdd, typename Held>
__attribute__((noinline)) void place_coded(WindowRun<Held> run, const uint8_t* codes,
                                           const CodedPlaces& coded, int64_t n, int64_t maps) {
  constexpr int kCount = kLanes<float>;
  const int64_t in_vectors = coded.fits ? n / kCount * kCount : 0;
  for (int64_t k = 0; k < maps; ++k, codes += n, run.next(n)) {
    int64_t i = 0;
    for (; i < in_vectors; i += kCount) {
      const bits_t<float> places = coded.places(i, codes + i, run.origin);
      uint32_t at[kCount];
      store_vector(at, places);
      if (any_lane((bits_t<float>)(places >= static_cast<uint32_t>(run.seen)))) {
        for (int v = 0; v < kCount; ++v) run.template place<kAdd>(i + v, int64_t{at[v]});
        continue;
      }
      for (int v = 0; v < kCount; v += 2) {
        const auto two = load_vector<uint64_t>(at + v);
        run.template place_inside<kAdd>(i + v, static_cast<uint32_t>(two));
        run.template place_inside<kAdd>(i + v + 1, two >> 32);
      }
    }
    for (; i < n; ++i) run.template place<kAdd>(i, coded.place(i, codes[i], run.origin));
  }
}

// inner = 1: each window's value placed over zeros, or, with kAdd, added where windows overlap, in
// Held, rounded once. Small maps several at a time.
template <typename T, typename Held, bool kAdd, bool kCodes>
struct PlaceRows {
  static constexpr bool kInPlace = std::is_same_v<T, Held>;
  static constexpr int64_t kTogether = 1 << 11;              // elements of maps
  static constexpr int64_t kAtOnce = kInPlace ? 0 : 1 << 9;  // windows that are converted at once

  const PoolScatterParams& a;
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  const int64_t width = s.width, plane = s.height * width;
  const int64_t windows = s.pooled_width, of_map = s.pooled_height * windows;
  // Rows of windows.
  const int64_t at_once = plane <= kTogether
                              ? s.pooled_height
                              : std::clamp<int64_t>(kAtOnce / windows, 1, s.pooled_height);
  const CodedPlaces coded{a, kCodes ? at_once : 0, rows_seen(at_once)};
  std::vector<Held> sums = {}, converted = {};  // unless in place

  // How many rows of the map some rows of windows see.
  int64_t rows_seen(int64_t rows) const {
    return (rows - 1) * w.stride_h + int64_t{w.kernel_h - 1} * w.dilation_h + 1;
  }

  // Where n elements of the map from `map` on are made, and n values as they are added.
  Held* sums_of(T* map, int64_t n) {
    if constexpr (kInPlace) {
      return map;
    } else {
      sums.resize(static_cast<size_t>(n + kLanes<T>));
      return sums.data();
    }
  }
  const Held* values_of(int64_t first, int64_t n) {
    const T* const given = static_cast<const T*>(a.values) + first;
    if constexpr (kInPlace) {
      return given;
    } else {
      converted.resize(static_cast<size_t>(n + kLanes<T>));
      widen(given, n, converted.data());
      return converted.data();
    }
  }

  // `rows` rows of windows from the first-th window on of each of `maps` maps, to `seen` elements
  // of it from row y on, of which the windows' first row is the top-th.
  void place(int64_t first, int64_t rows, int64_t maps, Held* out, int64_t seen, int64_t y,
             int64_t top) {
    const Held* const values = values_of(first, maps * rows * windows);
    if constexpr (kCodes) {
      place_coded<kAdd>(WindowRun<Held>{values, out, top * width - w.pad_w, seen},
                        static_cast<const uint8_t*>(a.record) + first, coded, rows * windows, maps);
    } else {
      place_indexed<kAdd>(WindowRun<Held>{values, out, y * width, seen},
                          static_cast<const int64_t*>(a.record) + first, rows * windows, maps);
    }
  }

  void place_maps(int64_t o, int64_t count) {
    T* const map = static_cast<T*>(a.map) + o * plane;
    Held* const out = sums_of(map, count * plane);
    std::fill(out, out + count * plane, Held{});
    place(o * of_map, s.pooled_height, count, out, plane, 0, -w.pad_h);
    if constexpr (!kInPlace) round_sums<false>(out, count * plane, map);
  }

  // Rows [y, y + rows) of map o.
  void place_rows(int64_t o, int64_t y, int64_t rows) {
    T* const map = static_cast<T*>(a.map) + o * plane + y * width;
    Held* const out = sums_of(map, rows * width);
    const int64_t last = last_window<int64_t>(y + rows - 1, w.stride_h, w.pad_h, s.pooled_height);
    int64_t oh = first_window<int64_t>(y, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h);
    int64_t cleared = 0;
    while (oh < last) {
      const int64_t count = std::min(at_once, last - oh);
      const int64_t top = oh * w.stride_h - w.pad_h - y;  // in rows of `out`
      const int64_t low = std::max<int64_t>(top, 0), high = std::min(top + rows_seen(count), rows);
      std::fill(out + cleared * width, out + high * width, Held{});
      cleared = high;
      place(o * of_map + oh * windows, count, 1, out + low * width, (high - low) * width, y + low,
            top - low);
      oh += count;
    }
    std::fill(out + cleared * width, out + rows * width, Held{});
    if constexpr (!kInPlace) round_sums<false>(out, rows * width, map);
  }

  void scatter(int64_t begin, int64_t end) {
    const int64_t together = kTogether / plane;
    for (int64_t item = begin; item < end;) {
      const int64_t o = item / s.height, y = item % s.height;
      const int64_t maps = y == 0 ? std::min((end - item) / s.height, together) : 0;
      if (maps > 0) {
        place_maps(o, maps);
        item += maps * s.height;
      } else {
        const int64_t rows = std::min(s.height - y, end - item);
        place_rows(o, y, rows);
        item += rows;
      }
    }
  }
};

// inner > 1: the same. Where Held is T that is done in the map itself, else in a ring of rows: as
// many as stay in a cache, but all that a window sees.
template <typename T, typename Held, bool kAdd, bool kCodes>
struct PlaceChannels {
  static constexpr bool kInPlace = std::is_same_v<T, Held>;
  static constexpr int64_t kRing = 1 << 13;     // elements: they stay in a first-level cache
  static constexpr int64_t kWritten = 1 << 10;  // of a row, until windows have taken them up
  static constexpr int kBlock = CodeBlock::kCount;

  // The channels of a window, and the `seen` elements of the map that their values may go to.
  struct Windows {
    const Held* values;
    const uint8_t* codes;
    const int64_t* indices;
    int64_t origin;  // among those elements: of the window, for indices of the map
    int64_t seen;
    Held* to;  // the first of those elements is to[start], until the ring turns
    int64_t start, turn;
    Held* whole;  // of a window that is whole, what taps_at counts from
  };

  const PoolScatterParams& a;
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  const TapOffsets offsets{w, s.width, s.inner};
  const int64_t width = s.width * s.inner, windows = s.pooled_width * s.inner;  // of a row
  const int64_t span = int64_t{w.kernel_h - 1} * w.dilation_h + 1;  // rows that a window sees
  const int64_t ring_rows = std::max(span, kRing / width);
  const Inside columns = columns_inside(s, w);
  // On either side of the ring: so taps in the padding, which no window takes, are places too.
  const int64_t margin = int64_t{w.kernel_w - 1} * w.dilation_w * s.inner;
  std::vector<Held> ring = {}, converted = {};  // unless in place; a row of windows
  int64_t taps_at[CodeBlock::kMostTaps] = {};
  Held nowhere = {};  // takes the values of rows that are another thread's, and of empty windows

  // kCount channels from the i-th on. Their places differ, but the machine lets a load wait for the
  // stores before it as long as it does not know theirs: so all are loaded before any is stored.
  template <int kCount>
  SEGFAST_LANES void place(const Windows& run, int64_t i) {
    Held* places[kCount];
    Held held[kCount];
    for (int k = 0; k < kCount; ++k) {
      int64_t position = run.origin + i + k;
      position += kCodes ? offsets.at[run.codes[i + k]] : run.indices[i + k] * s.inner;
      const bool is_seen = static_cast<uint64_t>(position) < static_cast<uint64_t>(run.seen);
      if constexpr (!kInPlace) {
        position += run.start;
        if (position >= run.turn) position -= run.turn;
      }
      places[k] = is_seen ? run.to + position : &nowhere;
    }
    for (int k = 0; k < kCount; ++k) {
      held[k] = run.values[i + k];
      if constexpr (kAdd) held[k] += *places[k];
    }
    for (int k = 0; k < kCount; ++k) *places[k] = held[k];
  }

  // kBlock of them by their indices, in the ring: the places by vectors, as addresses. (In vectors
  // of 16 bytes that takes longer, and without a ring to turn in as long.)
  SEGFAST_LANES void place_indexed(const Windows& run, int64_t i) {
    using Wide = bits_t<double>;
    uint64_t places[kBlock];
    for (int k = 0; k < kBlock; k += kLanes<double>) {
      Wide at = load_vector<Wide>(run.indices + i + k) * static_cast<uint64_t>(s.inner);
      at += lane_positions<double>(run.origin + i + k, 1);
      const auto is_seen = at < static_cast<uint64_t>(run.seen);
      at += static_cast<uint64_t>(run.start);
      at = at >= static_cast<uint64_t>(run.turn) ? at - static_cast<uint64_t>(run.turn) : at;
      at = at * sizeof(Held) + reinterpret_cast<uint64_t>(run.to);
      at = is_seen ? at : Wide{} + reinterpret_cast<uint64_t>(&nowhere);
      store_vector(places + k, at);
    }
    Held held[kBlock];
    for (int k = 0; k < kBlock; ++k) {
      held[k] = run.values[i + k];
      if constexpr (kAdd) held[k] += *reinterpret_cast<const Held*>(places[k]);
    }
    for (int k = 0; k < kBlock; ++k) *reinterpret_cast<Held*>(places[k]) = held[k];
  }

  // kWhole: the rows and columns of the window are all there.
  template <bool kWhole>
  SEGFAST_LANES void place_channels(const Windows& window) {
    const Windows run = window;
    const int taps = w.taps();
    int64_t i = 0;
    for (; i + kBlock <= s.inner; i += kBlock) {
      if constexpr (kWhole) {
        const CodeBlock block(run.codes + i);
        if (block.has_taps(taps)) {
          block.place_apart<kAdd>(run.values + i, taps_at, run.whole + i);
          continue;
        }
      }
      if constexpr (kCodes || kInPlace || kLaneBytes <= 16) {
        place<kBlock>(run, i);
      } else {
        place_indexed(run, i);
      }
    }
    for (; i < s.inner; ++i) place<1>(run, i);
  }

  // Where the taps of windows from row `top` on lie in those elements, whose rows may turn.
  void find_taps(int64_t top) {
    for (int tap = 0; tap < w.taps(); ++tap) {
      const int64_t y = int64_t{tap / w.kernel_w} * w.dilation_h;
      const int64_t row = kInPlace ? y : (top + ring_rows + y) % ring_rows;
      taps_at[tap] = row * width + int64_t{tap % w.kernel_w} * w.dilation_w * s.inner;
    }
  }

  Held* ring_at(int64_t row) { return ring.data() + margin + row % ring_rows * width; }

  // Writes a part of rows [from, to) of the map: those before `held` from the ring, 0 to the
  // others.
  struct Rows {
    T* map;
    int64_t from, to, held;
  };
  void write(const Rows& rows, int64_t begin, int64_t end) {
    for (int64_t row = rows.from; row < rows.to; ++row) {
      T* const out = rows.map + row * width;
      if (kInPlace || row >= rows.held) {
        std::fill(out + begin, out + end, T{});
      } else if constexpr (!kInPlace) {
        round_sums<true>(ring_at(row) + begin, end - begin, out + begin);
      }
    }
  }

  // is_mine: all of its windows' taps are places that this thread may write to. before: what is to
  // be written before the windows that see its columns.
  void place_row(int64_t row, int64_t top, int64_t low, int64_t first_index, bool is_mine,
                 const Rows& before, Windows run) {
    const int64_t first = row * windows;
    run.codes = static_cast<const uint8_t*>(a.record) + first;
    run.indices = static_cast<const int64_t*>(a.record) + first;
    const Elements<T> given{static_cast<const T*>(a.values), s.pooled_numel()};
    if constexpr (kInPlace) {
      run.values = given.data + first;
    } else {
      widen(given.data + first, windows, converted.data());
      run.values = converted.data();
    }
    const int64_t left = kCodes ? top * width - w.pad_w * s.inner : -first_index * s.inner;
    run.origin = left - low * width;
    const bool is_whole = kCodes && w.taps() <= CodeBlock::kMostTaps && is_mine;
    if (is_whole) find_taps(top);
    run.whole = run.to - w.pad_w * s.inner;
    int64_t written = 0, seen = (int64_t{w.kernel_w - 1} * w.dilation_w + 1 - w.pad_w) * s.inner;
    for (int64_t ow = 0; ow < s.pooled_width; ++ow, seen += w.stride_w * s.inner) {
      if (written < std::min(seen, width)) {
        const int64_t end = std::min(std::max(seen, written + kWritten), width);
        write(before, written, end);
        written = end;
      }
      if (is_whole && (!kInPlace || columns.holds(ow))) {
        place_channels<true>(run);
      } else {
        place_channels<false>(run);
      }
      run.values += s.inner, run.codes += s.inner, run.indices += s.inner;
      if (kCodes) run.origin += w.stride_w * s.inner, run.whole += w.stride_w * s.inner;
    }
    write(before, written, width);
  }

  // Rows [y, y + rows) of map o.
  void place_rows(int64_t o, int64_t y, int64_t rows) {
    T* const map = static_cast<T*>(a.map) + (o * s.height + y) * width;
    Windows run{};
    run.turn = ring_rows * width;
    const int64_t end = last_window<int64_t>(y + rows - 1, w.stride_h, w.pad_h, s.pooled_height);
    int64_t oh = first_window<int64_t>(y, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h);
    int64_t written = 0, cleared = 0;  // rows
    for (; oh < end; ++oh) {
      const int64_t top = oh * w.stride_h - w.pad_h - y;
      const int64_t low = std::max<int64_t>(top, 0);
      const int64_t high = std::clamp<int64_t>(top + span, cleared, rows);
      run.seen = (high - low) * width;
      Rows before{map, cleared, high, 0};
      if constexpr (kInPlace) {
        run.to = map + low * width;
      } else {
        before = {map, written, high - written > ring_rows ? low : written, cleared};
        written = before.to;
        run.to = ring_at(0);
        run.start = low % ring_rows * width;
      }
      cleared = high;
      // In the ring, rows of the padding are too.
      const bool is_mine = (top >= 0 || (!kInPlace && y == 0)) &&
                           (top + span <= rows || (!kInPlace && y + rows == s.height));
      place_row(o * s.pooled_height + oh, top, low, y * s.width, is_mine, before, run);
    }
    write({map, kInPlace ? cleared : written, rows, cleared}, 0, width);
  }

  void scatter(int64_t begin, int64_t end) {
    if (!kInPlace) {
      ring.resize(static_cast<size_t>(ring_rows * width + 2 * margin + kLanes<T>));
      converted.resize(static_cast<size_t>(windows + kLanes<T>));
    }
    for (int64_t item = begin; item < end;) {
      const int64_t y = item % s.height, rows = std::min(s.height - y, end - item);
      place_rows(item / s.height, y, rows);
      item += rows;
    }
  }
};

template <typename T, typename Held, bool kAdd, bool kCodes>
void place_windows_of(const PoolScatterParams& a, int64_t begin, int64_t end) {
  if (a.shape.inner == 1) {
    PlaceRows<T, Held, kAdd, kCodes>{a}.scatter(begin, end);
  } else {
    PlaceChannels<T, Held, kAdd, kCodes>{a}.scatter(begin, end);
  }
}

template <typename T, typename Held, bool kAdd>
void place_windows(const PoolScatterParams& a, int64_t begin, int64_t end) {
  if (a.record_kind == Record::indices) {
    place_windows_of<T, Held, kAdd, false>(a, begin, end);
  } else {
    place_windows_of<T, Held, kAdd, true>(a, begin, end);
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
