// max_unpool2d_cpu.h: gather form a row of windows at a time (pool_scatter.h), from codes and from
// the indices of 2x2 windows; from other indices, which may name any position of the plane, zero
// and scatter in order, so that of equal indices the last one's value stays.
//
// What it gained, as PyTorch's time over ours on [4, 256, 90, 120] (one thread of a Zen 4,
// AVX-512):
//   from codes: contiguous bf16 0.6 -> 5.1, fp32 1.8 -> 4.7; channels_last bf16 1.7 -> 2.7
//   from indices, gathered: channels_last fp32 0.3 -> 3.5, bf16 0.2 -> 1.4
//   backward: contiguous codes bf16 0.6 -> 3.1, indices fp32 0.6 -> 1.2, bf16 0.6 -> 1.4
// Microseconds of [1, 64, 64, 64] (one thread of a Zen 3, AVX2), before and after indices are
// checked as they are told apart, both halves of eight with two shuffles, and loads without a
// guard:
//   from indices: contiguous fp32 258 -> 80, bf16 255 -> 72; channels_last fp32 165 -> 46, bf16 149
//   -> 38; backward: contiguous fp32 200 -> 72, bf16 187 -> 70; channels_last fp32 198 -> 49, bf16
//   176 -> 40
//   contiguous, without a tile of taps: backward, indices fp32 69 -> 53, bf16 67 -> 50, codes fp32
//   87 -> 65, bf16 82 -> 55; forward, indices 85 -> 53, 78 -> 39, codes fp32 49 -> 28, bf16 41 ->
//   19 from codes, contiguous, those of whole windows not checked row by row: fp32 57 -> 47, bf16
//   51 -> 41
//   channels_last, without a tile of taps (backward without autograd's 37): codes fp32 42 -> 25,
//   bf16 29 -> 19, indices fp32 65 -> 33, bf16 51 -> 23; forward codes fp32 31 -> 23, bf16 22 ->
//   14, indices fp32 50 -> 29, bf16 42 -> 25 contiguous, a row after the other by pointers, indices
//   told apart by one comparison: backward codes bf16 21 -> 15, indices bf16 42 -> 34; forward
//   codes bf16 21 -> 17, indices fp32 54 -> 45, bf16 40 -> 33
// Backward from indices of [2, 64, 65, 127], contiguous (two threads of it), as many windows a step
// as 16-bit lanes tell apart, and no lane crossing but at the end: bf16 57 -> 39, fp32 85 -> 58,
// float64 119 -> 105
// From indices, contiguous, rows of fewer windows than a vector takes scattered by planes, as
// PyTorch's time over ours (one thread of a Zen 3, AVX2), of [8, 256, 7, 7] and [2, 512, 11, 15]:
//   fp32 0.27 -> 2.0, 0.32 -> 2.2; bf16 0.21 -> 1.8, 0.24 -> 2.2. Other short rows: short_rows.h
// Microseconds of contiguous maps of few windows a row, from indices (one thread of it), a vector
// of which is looked at before they are looked up one by one, [2, 512, 11, 15]: backward fp32 48 ->
// 24, bf16 24 -> 17, float64 60 -> 24 (rows of up to 31 windows there, [2, 256, 24, 30] 122 -> 72);
// forward fp32 58 -> 40, bf16 62 -> 39
// Backward from codes of [4, 256, 90, 120], contiguous (two threads), rows of 448 bytes read ahead,
// shorter ones too where memory holds the map: fp32 1650 -> 1150, bf16 527 -> 428
#include "common/lanes.h"
#include "common/lanes_math.h"
#include "kernels/pool_codes/pool_lanes.h"
#include "kernels/pool_codes/pool_runs.h"
#include "kernels/pool_codes/short_rows.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Throws unless every code of a row of windows names a position of the map. Codes of whole windows
// need no more than a tap's number, and 2-bit ones of those nothing at all.
inline void check_codes_row(const MaxUnpool2dParams& p, int64_t o, int64_t oh) {
  const PoolShape& s = p.shape;
  const Window2d& w = p.window;
  const uint8_t* codes = static_cast<const uint8_t*>(p.record);
  const Inside columns = columns_inside(s, w);
  const bool row_inside = rows_inside(s, w).holds(oh);
  const int64_t start = (o * s.pooled_height + oh) * s.pooled_width;
  for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
    const bool whole = row_inside && columns.holds(ow);
    if (whole && w.is_2x2()) {
      ow = std::min(columns.last, s.pooled_width) - 1;
      continue;
    }
    for (int64_t c = 0; c < s.inner; ++c) {
      int code;
      if (w.is_2x2()) {
        const Run run = s.inner == 1 ? row_run(s, o, oh) : channel_run(s, o, oh, ow);
        const int64_t place = s.inner == 1 ? ow : c;
        code = code2(codes + run.number * s.run_bytes(), place);
      } else {
        code = codes[(start + ow) * s.inner + c];
      }
      if (code >= w.taps() || (!whole && tap_position(w, s, oh, ow, code) < 0)) {
        throw_bad_code(code, s);
      }
    }
  }
}

inline void check_codes(const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  const PoolShape& s = p.shape;
  const bool whole = 2 * s.pooled_height <= s.height && 2 * s.pooled_width <= s.width;
  if (p.window.is_2x2() && whole) return;
  for (MapRows at(begin, end, scatter_rows_per_map(s, p.window)); at.count > 0; at.next()) {
    const WindowRows windows(s, p.window, at.row, at.count);
    for (int64_t oh = windows.begin; oh < windows.end; ++oh) check_codes_row(p, at.o, oh);
  }
}

template <typename Bits>
void scatter_planes(const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  constexpr int kCount = kLanes<double>;
  const PoolShape& s = p.shape;
  const int64_t groups = ceil_div<int64_t>(s.inner, kUnpoolChannels);
  const int64_t plane = s.height * s.width;
  const int64_t windows = s.pooled_height * s.pooled_width;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t o = item / groups;
    const int64_t first = item % groups * kUnpoolChannels;
    const int64_t n = std::min(kUnpoolChannels, s.inner - first);
    const Bits* input = static_cast<const Bits*>(p.input) + o * windows * s.inner + first;
    const int64_t* indices = static_cast<const int64_t*>(p.record) + o * windows * s.inner + first;
    Bits* output = static_cast<Bits*>(p.output) + o * plane * s.inner + first;
    if (n == s.inner) {
      std::memset(output, 0, static_cast<size_t>(plane * n) * sizeof(Bits));
    } else {
      for (int64_t i = 0; i < plane; ++i) {
        std::memset(output + i * s.inner, 0, static_cast<size_t>(n) * sizeof(Bits));
      }
    }
    int64_t i = 0;
    for (; s.inner == 1 && i + kCount <= windows; i += kCount) {
      if (!are_inside(indices + i, 0, plane)) break;
#pragma GCC unroll 16
      for (int k = 0; k < kCount; ++k) output[indices[i + k]] = input[i + k];
    }
    for (; i < windows; ++i) {
      for (int64_t c = 0; c < n; ++c) {
        const int64_t index = indices[i * s.inner + c];
        if (index < 0 || index >= plane) throw_bad_index(index, s);
        output[index * s.inner + c] = input[i * s.inner + c];
      }
    }
  }
}

// The elements of two rows of the map that a row of windows names. (Moved as ScatterRow is.)
template <typename T>
struct GatherColumns {
  using Element = T;
  using Windows = FoldedWindows<T>;
  static constexpr bool kByColumns = true, kTwoRows = false;
  const T *upper, *lower;
  T* out;
  int64_t windows, width;
  int64_t ahead;  // rows_ahead()

  SEGFAST_LANES void place(int64_t at, const CodedPair<T>& coded) const {
    if (ahead != 0) prefetch_pairs<kOwnLanes<T>>(upper + ahead + 2 * at, lower + ahead + 2 * at);
    store_vector(out + at,
                 join_columns(pick(2 * at, coded.low), pick(2 * at + kOwnLanes<T>, coded.high)));
  }

  // Half of the windows: the named element in its lane, 0 in the other.
  SEGFAST_LANES own_t<T> pick(int64_t at, const CodedColumns<T>& coded) const {
    return (load_vector<own_t<T>>(upper + at) & coded.template won<0>()) |
           (load_vector<own_t<T>>(lower + at) & coded.template won<1>());
  }

  SEGFAST_LANES void place(int64_t at, const Won<T>& won) const {
    const T *const above = upper + 2 * at, *const below = lower + 2 * at;
    if (ahead != 0) prefetch_pairs<kOwnLanes<T>>(above + ahead, below + ahead);
    const OwnPair<T> a = load_folded_pairs(above), b = load_folded_pairs(below);
    const own_t<T> left = won.is_lower ? b.even : a.even, right = won.is_lower ? b.odd : a.odd;
    store_vector(out + at, unfold(won.is_right ? right : left));
  }

  SEGFAST_LANES void next() {
    upper += 2 * width, lower += 2 * width;
    out += windows;
  }
  SEGFAST_LANES void skip(int64_t elements) { upper += elements, lower += elements; }
};

// The same of 16-bit elements, both columns of a window in a word.
template <typename T>
struct GatherWords : GatherColumns<T> {
  using Windows = WordWindows;

  SEGFAST_LANES void place(int64_t at, const Won<float>& won) const {
    const auto above = load_vector<bits_t<T>>(this->upper + 2 * at);
    const auto below = load_vector<bits_t<T>>(this->lower + 2 * at);
    const bits_t<T> pair = won.is_lower ? below : above;
    store_words(this->out + at, (won.is_right ? pair >> 16 : pair) & 0xffffu);
  }
};

// The elements of four pixels of the map that the channels of a window name.
template <typename T>
struct GatherChannels {
  using Element = T;
  using Windows = ChannelWindows<T>;
  static constexpr bool kByColumns = false, kTwoRows = false;
  const T *upper, *lower;
  T* out;
  int64_t right;

  SEGFAST_LANES void place(int64_t at, const Won<T>& won) const {
    const T *const a = upper + at, *const c = lower + at;
    const own_t<T> in_left = won.is_lower ? load_vector<own_t<T>>(c) : load_vector<own_t<T>>(a);
    const own_t<T> in_right =
        won.is_lower ? load_vector<own_t<T>>(c + right) : load_vector<own_t<T>>(a + right);
    store_vector(out + at, won.is_right ? in_right : in_left);
  }
  SEGFAST_LANES void next() {
    upper += 2 * right, lower += 2 * right;
    out += right;
  }
};

// The element of a channel of the map that an index names: 0 if it is that of an empty window.
template <typename T>
SEGFAST_LANES T at_index(const T* elements, const PoolShape& s, int64_t index) {
  if (index >= 0 && index < s.height * s.width) return elements[index * s.inner];
  if (index != kEmptyIndex) throw_bad_index(index, s);
  return T{};
}

// A row of windows at a time: the elements of the map that their records name. T stands for all
// types of its size.
template <typename T>
struct GatherRow {
  const MaxUnpool2dBackwardParams& p;
  const PoolShape& s = p.shape;
  Elements<T> map{static_cast<const T*>(p.grad_output), s.map_numel()};
  TapTile tile{p.shape, p.record, p.record_kind};
  const bool is_coded = p.window.is_2x2() && tile.is_coded<T>();
  const bool is_indexed =
      p.window.is_2x2() && p.record_kind == Record::indices && tile.is_indexed<T>();
  const int64_t ahead = rows_ahead<T>(s);

  template <bool kExist>
  SEGFAST_LANES static WordPair<T> load_columns(const Elements<T>& map, int64_t first) {
    if (kExist || map.holds(first, 2 * kLanes<T>)) return load_word_pairs(map.data + first);
    T existing[2 * kLanes<T>];
    copy_existing(map, first, 2 * kLanes<T>, existing);
    return load_word_pairs(existing);
  }

  // Of the elements a b / c d of its window, the one that each tap names.
  template <typename Bits>
  SEGFAST_LANES static Bits pick(Bits taps, Bits a, Bits b, Bits c, Bits d) {
    const auto is_lower = (taps & 2) != 0;
    const Bits left = is_lower ? c : a, right = is_lower ? d : b;
    return (taps & 1) != 0 ? right : left;
  }

  // A clipped window has no second row or column; its record names none either, so any address that
  // can be read will do.
  int64_t lower_row(int64_t oh, int64_t upper) const {
    return 2 * oh + 1 < s.height ? upper + s.width * s.inner : upper;
  }

  // Rows of windows that lie in the map, without a tile: how many.
  int64_t gather_inside(int64_t o, int64_t row, int64_t count) {
    T* const out = static_cast<T*>(p.grad_input);
    const int64_t map_row = s.width * s.inner;
    const T* upper = map.data + (o * s.height + 2 * row) * map_row;
    if (s.inner == 1) {
      const Run run = row_run(s, o, row);
      const GatherColumns<T> rows{upper,      upper + map_row, out + run.number * run.length,
                                  run.length, s.width,         ahead};
      return move_rows<GatherWords>(rows, tile, run, count);
    }
    for (int64_t i = 0; i < count; ++i, upper += 2 * map_row) {
      const Run run = channel_run(s, o, row + i, 0);
      const GatherChannels<T> pixels{upper, upper + map_row, out + run.number * run.length,
                                     s.inner};
      int64_t ow = move_runs(pixels, tile, run, s.pooled_width);
      for (; ow < s.pooled_width; ++ow) gather_pixel(o, row + i, ow);
    }
    return count;
  }

  void gather_row(int64_t o, int64_t oh) {
    const Run run = row_run(s, o, oh);
    T* const out = static_cast<T*>(p.grad_input) + run.number * run.length;
    const int64_t upper = (o * s.height + 2 * oh) * s.width, lower = lower_row(oh, upper);
    const bool exist = lower + 2 * run.length <= map.count;
    for (int64_t first = 0; first < run.length; first += kTile) {
      const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
      tile.open(run, first, n);
      exist&& n >= kLanes<T>
          ? gather_windows<true>(upper + 2 * first, lower + 2 * first, n, out + first)
          : gather_windows<false>(upper + 2 * first, lower + 2 * first, n, out + first);
    }
  }

  // The n windows of the tile. kExist: they are a vector at least, and lie in the map.
  template <bool kExist>
  void gather_windows(int64_t upper, int64_t lower, int n, T* out) const {
    const Elements<T> elements = map;  // a copy, which no store can change
    const uint8_t* const taps = tile.taps;
    const int64_t after = 4 * s.width;
    for (int start = 0; start < n; start += kLanes<T>) {
      const int at = n < kLanes<T> ? 0 : std::min(start, n - kLanes<T>);  // the last may overlap
      prefetch_pairs<kLanes<T>>(elements.data + upper + after + 2 * at,
                                elements.data + lower + after + 2 * at);
      const WordPair<T> a = load_columns<kExist>(elements, upper + 2 * at);
      const WordPair<T> b = load_columns<kExist>(elements, lower + 2 * at);
      const bits_t<T> picked = pick(load_taps<T>(taps + at), a.even, a.odd, b.even, b.odd);
      kExist ? store_words(out + at, picked) : store_some_words(out + at, picked, n - at);
    }
  }

  void gather_pixel(int64_t o, int64_t oh, int64_t ow) {
    const Run run = channel_run(s, o, oh, ow);
    T* const out = static_cast<T*>(p.grad_input) + run.number * run.length;
    const int64_t upper = ((o * s.height + 2 * oh) * s.width + 2 * ow) * s.inner;
    const int64_t lower = lower_row(oh, upper), right = 2 * ow + 1 < s.width ? s.inner : 0;
    for (int64_t first = 0; first < run.length; first += kTile) {
      const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
      tile.open(run, first, n);
      if (n >= kOwnLanes<T>) {
        gather_taps(map.data + upper + first, map.data + lower + first, right, n, out + first);
        continue;
      }
      for (int i = 0; i < n; ++i) {
        const int64_t row = (tile.taps[i] & 2) != 0 ? lower : upper;
        out[first + i] = map.data[row + ((tile.taps[i] & 1) != 0 ? right : 0) + first + i];
      }
    }
  }

  // The n windows of the tile, a vector at least.
  void gather_taps(const T* upper, const T* lower, int64_t right, int n, T* out) const {
    const uint8_t* const taps = tile.taps;
    const int64_t next = 2 * s.inner;
    for (int start = 0; start < n; start += kOwnLanes<T>) {
      const int at = std::min(start, n - kOwnLanes<T>);  // the last may overlap
      prefetch_quad(upper + next + at, lower + next + at, right);
      store_vector(out + at, pick(load_own_taps<T>(taps + at), load_vector<own_t<T>>(upper + at),
                                  load_vector<own_t<T>>(upper + right + at),
                                  load_vector<own_t<T>>(lower + at),
                                  load_vector<own_t<T>>(lower + right + at)));
    }
  }

  void gather_any(int64_t o, int64_t oh) const {
    const int64_t plane = s.height * s.width;
    const T* elements = map.data + o * plane * s.inner;
    for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
      const int64_t window = ((o * s.pooled_height + oh) * s.pooled_width + ow) * s.inner;
      T* out = static_cast<T*>(p.grad_input) + window;
      if (p.record_kind == Record::codes8) {
        const uint8_t* codes = static_cast<const uint8_t*>(p.record) + window;
        for (int64_t c = 0; c < s.inner; ++c) {
          if (codes[c] == kEmptyCode) {
            out[c] = T{};
            continue;
          }
          const int64_t position =
              codes[c] < p.window.taps() ? tap_position(p.window, s, oh, ow, codes[c]) : -1;
          if (position < 0) throw_bad_code(codes[c], s);
          out[c] = elements[position * s.inner + c];
        }
      } else {
        const int64_t* indices = static_cast<const int64_t*>(p.record) + window;
        for (int64_t c = 0; c < s.inner; ++c) out[c] = at_index(elements + c, s, indices[c]);
      }
    }
  }

  // Rows [row, row + count) of windows of a map. Where indices lie elsewhere than in their own
  // windows, all of them are gathered anew.
  void gather(int64_t o, int64_t row, int64_t count) {
    int64_t done = 0;
    if (is_coded || is_indexed) {
      const int64_t inside = std::min(s.pooled_height, s.height / 2);
      done = gather_inside(o, row, std::clamp<int64_t>(inside - row, 0, count));
      if (tile.has_foreign()) {
        for (int64_t i = 0; i < done; ++i) gather_any(o, row + i);
      }
      tile.foreign = TapTile::Words{};
    }
    for (; done < count; ++done) gather_else(o, row + done);
  }

  __attribute__((noinline)) void gather_else(int64_t o, int64_t oh) {
    if (!p.window.is_2x2()) return gather_any(o, oh);
    const bool own = p.record_kind == Record::codes2 || !has_clipped(s, oh) ||
                     own_clipped_indices(static_cast<const int64_t*>(p.record), s, p.window, o, oh);
    if (own && s.inner == 1) gather_row(o, oh);
    for (int64_t ow = 0; own && s.inner > 1 && ow < s.pooled_width; ++ow) gather_pixel(o, oh, ow);
    if (own && !tile.has_foreign()) return;
    tile.foreign = TapTile::Words{};
    gather_any(o, oh);
  }
};

// The same of contiguous maps, each index looked up.
template <typename T>
__attribute__((noinline)) void gather_indexed(const MaxUnpool2dBackwardParams& p, int64_t begin,
                                              int64_t end) {
  const PoolShape s = p.shape;  // a copy, which no store can change
  constexpr int kCount = kLanes<double>;
  const int64_t plane = s.height * s.width;
  const int64_t* index = static_cast<const int64_t*>(p.record) + begin * s.pooled_width;
  T* out = static_cast<T*>(p.grad_input) + begin * s.pooled_width;
  for (MapRows at(begin, end, s.pooled_height); at.count > 0; at.next()) {
    const T* const map = static_cast<const T*>(p.grad_output) + at.o * plane;
    int64_t n = at.count * s.pooled_width;
    for (; n >= kCount; n -= kCount, index += kCount, out += kCount) {
      if (!are_inside(index, 0, plane)) break;
#pragma GCC unroll 16
      for (int k = 0; k < kCount; ++k) out[k] = map[index[k]];
    }
    for (; n > 0; --n, ++index, ++out) {
      const bool is_named = static_cast<uint64_t>(*index) < static_cast<uint64_t>(plane);
      *out = is_named ? map[*index] : at_index(map, s, *index);
    }
  }
}

// The same by codes.
template <typename T>
__attribute__((noinline)) void gather_coded(const MaxUnpool2dBackwardParams& p, int64_t begin,
                                            int64_t end) {
  const PoolShape& s = p.shape;
  const TapTile tile(s, p.record, p.record_kind);
  const int64_t windows = s.pooled_width;
  const int64_t moved = vector_maps<T>(tile, s.map_numel(), end * windows);
  for (MapRows at(begin, end, s.pooled_height); at.count > 0;) {
    const T* upper = static_cast<const T*>(p.grad_output) + at.o * s.height * s.width;
    T* out = static_cast<T*>(p.grad_input) + at.item * windows;
    const int64_t maps = whole_maps(at, moved);
    if (maps > 0) {
      move_maps(GatherColumns<T>{upper, upper + s.width, out, windows, s.width, 0},
                tile.codes.data + at.item * s.run_bytes(), s, maps);
      at.next(maps);
      continue;
    }
    CodedRows coded(s, p.record, at.o, at.row);
    upper += 2 * at.row * s.width;
    for (int64_t oh = at.row; oh < at.row + at.count; ++oh, out += windows, upper += 2 * s.width) {
      coded.open(oh);
      for (int64_t i = 0; i < windows; ++i) out[i] = upper[coded.next(i)];
    }
    at.next();
  }
}

// Whether a row has so few windows that their indices are looked up faster than told apart.
template <typename T>
bool has_few_indexed(const MaxUnpool2dBackwardParams& p) {
  constexpr int64_t kFew = sizeof(T) == 8 ? 32 : 16;
  return p.record_kind == Record::indices && p.shape.inner == 1 && p.shape.pooled_width < kFew;
}

template <typename T>
void gather_rows(const MaxUnpool2dBackwardParams& p, int64_t begin, int64_t end) {
  if (p.window.is_2x2() && has_few_indexed<T>(p)) return gather_indexed<T>(p, begin, end);
  if (p.record_kind == Record::codes2 && has_short_rows<T>(p.shape, p.record_kind)) {
    return gather_coded<T>(p, begin, end);
  }
  GatherRow<T> row{p};
  for (MapRows at(begin, end, p.shape.pooled_height); at.count > 0; at.next()) {
    row.gather(at.o, at.row, at.count);
  }
}

}  // namespace

void max_unpool2d(const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  if (!gathers(p)) {
    switch (p.dtype) {
      case DType::float32:
        return scatter_planes<uint32_t>(p, begin, end);
      case DType::float64:
        return scatter_planes<uint64_t>(p, begin, end);
      case DType::float16:
      case DType::bfloat16:
        return scatter_planes<uint16_t>(p, begin, end);
    }
  }
  if (p.record_kind != Record::indices) check_codes(p, begin, end);
  pool_scatter_cpu({p.input, p.record, p.output, p.foreign, Combine::last, p.record_kind, p.dtype,
                    p.shape, p.window},
                   begin, end);
}

void max_unpool2d_backward(const MaxUnpool2dBackwardParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::float32:
      return gather_rows<float>(p, begin, end);
    case DType::float64:
      return gather_rows<double>(p, begin, end);
    case DType::float16:
    case DType::bfloat16:
      return gather_rows<BFloat16>(p, begin, end);
  }
}

}  // namespace SEGFAST_ISA
}  // namespace segfast
