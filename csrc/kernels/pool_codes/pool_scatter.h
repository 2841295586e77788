// pool_scatter.h: windows' values sent to the positions that their records name, in gather form: no
// zero-fill, no two writers, one order. Pool backward adds up where windows overlap; unpooling lets
// the last window stay. Compiled once an instruction set, after pool_lanes.h.
//
// What it gained, as PyTorch's time over ours in pool backward of [4, 256, 90, 120] (one thread of
// a Zen 4, AVX-512), against a pass over each row for every tap:
//   2x2, two rows of the map at once: contiguous bf16 0.5 -> 3.0; channels_last bf16 2.1 -> 3.7
//   3x3, stride 2, sums in registers: contiguous fp32 1.0 -> 2.6, bf16 0.2 -> 1.3; channels_last
//   bf16 0.7 -> 2.8 (of this, bytes widened by an instruction rather than by GCC 12: contiguous
//   bf16 2.2 times, channels_last bf16 3.6 times)
//   5x5, stride 5, placed over zeros: contiguous bf16 0.2 -> 2.9
//   5x5, stride 2, each window visited once rather than each element's taps (other runs before and
//   after): contiguous fp32 2.2 -> 3.2, bf16 0.7 -> 1.1; of [1, 64, 64, 64] fp32 0.3 -> 0.7
// Milliseconds of [4, 256, 90, 120] bf16 (two threads of a Zen 3, AVX2), before and after windows
// are held in the width of sums, so that each is converted once:
//   contiguous 3x3, stride 2 4.0 -> 2.5, stride 1 7.9 -> 6.1; 5x5, stride 2 3.9 -> 3.0;
//   channels_last 5x5, stride 2 4.1 -> 3.2
// Microseconds of [2, 64, 65, 127] (one thread of a Zen 3, AVX2):
//   channels_last 5x5, stride 2, several windows loaded before one is stored: fp32 610 -> 320, bf16
//   600 -> 506
//   codes of windows that are visited read eight at a time, sums rounded by vectors: contiguous
//   5x5, stride 2 fp32 333 -> 307, fp16 489 (pool_cells.h) -> 396; channels_last float64 3x3,
//   stride 1 1369 (ScatterPixels) -> 1110
//   channels_last 5x5, stride 2, windows over the padding placed as all others are, sums taken from
//   the ring rather than read and cleared: bf16 515 -> 462, fp16 461 -> 445 (two threads: 287 ->
//   262, 256 -> 247); rows cleared or written a part at a time, before the windows that see them:
//   fp16 424 -> 394 (237 -> 220), fp32 206 -> 200 on two threads, others as before
//   contiguous 2x2 of [1, 64, 64, 64], packed codes compared in two lanes a window, without a tile
//   of taps (autograd's 33 in both): fp32 84 -> 65, bf16 73 -> 54
//   2x2 of [2, 64, 65, 127] likewise in channels_last: fp32 274 -> 137, bf16 118 -> 94; contiguous,
//   two vectors of a row stored before those of the next (rows that begin at an odd element): bf16
//   138 -> 112; unpooling, with less to do for a row: channels_last bf16 75 -> 44, contiguous 92 ->
//   72
//   contiguous unpooling (two threads), two vectors' windows to one row and then to the other, the
//   last element of an odd row without a call of memset: from codes bf16 34 -> 31, fp32 62 -> 49,
//   float64 123 -> 111; from indices, told apart in 16-bit lanes where elements have them, bf16 76
//   -> 47, fp32 101 -> 64, float64 153 -> 126
// Tried without gain for contiguous maps whose windows are visited: four maps side by side (fp32
// 375 -> 490 us), rows of the map in a ring that is copied out, what eight windows hold added up by
// vectors (gathered, and compared with their neighbours' places), places ahead of the windows. For
// channels_last ones: tiles of some columns and channels that stay in a first-level cache (fp32 370
// -> 540), codes read as bytes (370 -> 390), prefetches. A channel takes 0.8 ns there, of which
// 0.74 are the loads of what it is added to.

#include "kernels/pool_codes/pool_cells.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Tells 2x2 windows apart by their indices, as long as these lie in their own windows.
template <typename T>
struct IndexedTaps {
  using Lanes = own_t<T>;
  using Lane = std::remove_reference_t<decltype(std::declval<Lanes&>()[0])>;

  const Lanes width;
  const mask_t<T> last;       // of the upper row
  Lanes columns{}, uppers{};  // of all that were read; the upper halves where they are wide

  // Of windows with origins up to `end`.
  IndexedTaps(const PoolShape& s, int64_t end)
      : width(all(static_cast<Lane>(s.width))),
        last((mask_t<T>)all(s.width > 1)) {  // in a map one column wide the second row begins at 1
    // Those whose lower halves do not tell are left to those who take any indices.
    if constexpr (sizeof(T) == 4) uppers += static_cast<Lane>((end + s.width + 2) >> 32 != 0);
  }

  // Whether 16 bits tell how far from a window, and a row of them, its elements lie.
  static bool can_read(const PoolShape& s) { return !kNarrow<T> || s.width < 1 << 14; }

  // Those of the channels of a window.
  SEGFAST_LANES Won<T> read_channels(const int64_t* index, int64_t origin) {
    return tell(from_origin<Channels>(index, origin));
  }
  // Those of a row of windows, folded or in order.
  SEGFAST_LANES Won<T> read_folded(const int64_t* index, int64_t origin) {
    return tell(from_origin<Row>(index, origin) - from_first<Folded<Lanes>>(lane_numbers<Lanes>{}));
  }
  SEGFAST_LANES Won<T> read_row(const int64_t* index, int64_t origin) {
    return tell(from_origin<Channels>(index, origin) - from_first<InOrder>(lane_numbers<Lanes>{}));
  }

  // Not zero where any of them lay in no such window.
  SEGFAST_LANES bits_t<float> foreign() const {
    return (bits_t<float>)((columns & static_cast<Lane>(~1)) | uppers);
  }

 private:
  // The order of lanes; that of 32-bit words of 16-bit ones, from saturate_by_16() of four vectors.
  struct Channels {
    static constexpr bool kFolded = false;
    static constexpr int from(int word) {
      constexpr int kBlocks = kLaneBytes / 16;
      return word % kBlocks * 4 + word / kBlocks;
    }
  };
  struct Row {
    static constexpr bool kFolded = true;
    static constexpr int from(int word) {
      return Channels::from(Folded<bits_t<float>>::from(word));
    }
  };

  SEGFAST_LANES static Lanes all(Lane lane) { return Lanes{} + lane; }

  // How far after the first window of a row the others begin.
  template <typename Order, int... kLane>
  SEGFAST_LANES static Lanes from_first(std::integer_sequence<int, kLane...>) {
    return Lanes{static_cast<Lane>(2 * Order::from(kLane))...};
  }
  struct InOrder {
    static constexpr int from(int lane) { return lane; }
  };

  SEGFAST_LANES Won<T> tell(Lanes offset) {
    const mask_t<T> is_lower = (mask_t<T>)offset > last;
    const Lanes column = offset - ((Lanes)is_lower & width);
    columns |= column;
    return {(mask_t<T>)-column, is_lower};
  }

  template <typename Order>
  SEGFAST_LANES Lanes from_origin(const int64_t* index, int64_t origin) {
    if constexpr (kNarrow<T>) {
      using Wide = bits_t<double>;
      using Words = bits_t<float>;
      Words from[4];
      for (int v = 0; v < 4; ++v) {
        const auto indices = load_vector<Wide>(index + v * kLanes<double>);
        from[v] = (Words)(indices - static_cast<uint64_t>(origin));
      }
      // Both halves of 64 bits, and these 32.
      const auto low = (Words)saturate_by_16(from[0], from[1]);
      const auto high = (Words)saturate_by_16(from[2], from[3]);
      return (Lanes)reorder<Order>((Words)saturate_by_16(low, high));
    } else if constexpr (sizeof(T) == 4) {
      const auto* const halves = reinterpret_cast<const float*>(index);
      bits_t<T> lower, upper;
      if constexpr (Order::kFolded) {
        const OwnPair<float> pairs = load_folded_pairs(halves);
        lower = pairs.even, upper = pairs.odd;
      } else {
        const WordPair<float> pairs = load_word_pairs(halves);
        lower = pairs.even, upper = pairs.odd;
      }
      uppers |= (Lanes)upper;
      return (Lanes)(lower - static_cast<uint32_t>(origin));
    } else {
      const auto from = load_vector<Lanes>(index) - static_cast<Lane>(origin);
      if constexpr (Order::kFolded) return fold(from);
      return from;
    }
  }
};

// The taps of up to kTile 2x2 windows of a run, a byte each, from codes or from indices.
struct TapTile {
  using Words = bits_t<float>;

  const PoolShape& s;
  Elements<uint8_t> codes;  // none: indices
  Elements<int64_t> indices;
  Words foreign = {};  // not zero: indices of windows that had a tile lay in no such window
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

  // Whether rows of windows lie in the map, and are told apart without a tile: by codes as they
  // are packed, whole bytes a vector, or by indices as they are read.
  int64_t run_length() const { return s.inner == 1 ? s.pooled_width : s.inner; }
  bool is_whole() const { return 2 * s.pooled_width <= s.width; }
  template <typename T>
  bool is_coded() const {
    return is_whole() && codes.data != nullptr && run_length() >= kOwnLanes<T> &&
           kOwnLanes<T> % kCodesPerByte == 0;
  }
  template <typename T>
  bool is_indexed() const {
    if (!is_whole() || indices.data == nullptr) return false;
    return fills_lanes<T>() || (s.inner == 1 && run_length() >= kLanes<T>);
  }

  // Whether indices are told apart in lanes as wide as elements, else 16-bit ones in words.
  template <typename T>
  bool fills_lanes() const {
    return run_length() >= kOwnLanes<T> && IndexedTaps<T>::can_read(s);
  }

  // How many runs have enough behind their codes for a vector to be read.
  int64_t packed_runs() const {
    return std::max<int64_t>(0, codes.count - kCodesRead) / s.run_bytes();
  }

  // Windows [first, first + n) of a run.
  void open(const Run& run, int64_t first, int n) {
    if (codes.data != nullptr) {
      return unpack_codes2(codes, run.number * s.run_bytes() + first / kCodesPerByte, n, taps);
    }
    const int64_t step = run.along_row ? 2 : 0, start = run.number * run.length + first;
    const int64_t origin = 2 * (run.oh * s.width + run.ow) + first * step;
    const int64_t* const all = indices.data + start;
    IndexedTaps<float> indexed(s, origin + n * step);
    for (int at = 0; at < n; at += kLanes<float>) {
      const int i = n < kLanes<float> ? 0 : std::min(at, n - kLanes<float>);  // may overlap
      if (n >= kLanes<float>) {
        store_taps<float>(taps + i, read_taps(indexed, all + i, origin + i * step, step));
      } else {
        int64_t some[kLanes<float>];
        for (int k = 0; k < kLanes<float>; ++k) some[k] = all[std::min(k, n - 1)];
        store_taps<float>(taps, read_taps(indexed, some, origin, step));
        // Those of the other lanes are no windows.
        indexed.columns &= (IndexedTaps<float>::Lanes)(lane_positions<float>(0, 1) < n);
      }
    }
    foreign |= indexed.foreign();
  }

  SEGFAST_LANES static Words read_taps(IndexedTaps<float>& indexed, const int64_t* index,
                                       int64_t origin, int64_t step) {
    return (step != 0 ? indexed.read_row(index, origin) : indexed.read_channels(index, origin))
        .tap();
  }

  bool has_foreign() const { return any_lane(foreign); }
};

// ---- what moves kOwnLanes windows of a run as they won (those of a row folded) or, with
// kByColumns, as packed codes say in two lanes each; next(): to the next run. Where they go to two
// rows of the map, take() gives what put() writes to either.

// How windows are read by their indices. next(): how far from a run's origin the next one's lies.
template <typename T>
struct FoldedWindows {
  using Taps = IndexedTaps<T>;
  static constexpr int kCount = kOwnLanes<T>;
  static int64_t next(int64_t width) { return 2 * width; }
  SEGFAST_LANES static Won<T> read(Taps& taps, const int64_t* indices, int64_t origin, int64_t at) {
    return taps.read_folded(indices + at, origin + 2 * at);
  }
};
// In words: a row of fewer windows, or of wider maps.
struct WordWindows {
  using Taps = IndexedTaps<float>;
  static constexpr int kCount = kLanes<float>;
  static int64_t next(int64_t width) { return 2 * width; }
  SEGFAST_LANES static Won<float> read(Taps& taps, const int64_t* indices, int64_t origin,
                                       int64_t at) {
    return taps.read_row(indices + at, origin + 2 * at);
  }
};
template <typename T>
struct ChannelWindows {
  using Taps = IndexedTaps<T>;
  static constexpr int kCount = kOwnLanes<T>;
  static int64_t next(int64_t) { return 2; }
  SEGFAST_LANES static Won<T> read(Taps& taps, const int64_t* indices, int64_t origin, int64_t at) {
    return taps.read_channels(indices + at, origin);
  }
};

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

// What a run's records say of kOwnLanes windows; read_last(): of the last ones.

// 2-bit codes, of which kCodesRead bytes more can be read.
template <typename Move>
struct CodedRun {
  const uint8_t* codes;

  SEGFAST_LANES auto read(int64_t at) const { return told(codes + at / kCodesPerByte); }
  // The first of them may lie within a byte.
  SEGFAST_LANES auto read_last(int64_t at) const {
    const uint8_t* const first = codes + at / kCodesPerByte;
    const int shift = static_cast<int>(2 * (at % kCodesPerByte));
    const uint64_t last[2] = {
        load_vector<uint64_t>(first) >> shift | uint64_t{first[8]} << (63 - shift) << 1, 0};
    return told(reinterpret_cast<const uint8_t*>(last));
  }

 private:
  SEGFAST_LANES static auto told(const uint8_t* from) {
    using T = typename Move::Element;
    if constexpr (Move::kByColumns) {
      return CodedPair<T>::load(from);
    } else {
      return load_coded<T>(from);
    }
  }
};

template <typename Windows>
struct IndexedRun {
  typename Windows::Taps& taps;
  const int64_t* indices;
  int64_t origin;

  SEGFAST_LANES auto read(int64_t at) const { return Windows::read(taps, indices, origin, at); }
  SEGFAST_LANES auto read_last(int64_t at) const { return read(at); }
};

template <typename Move, typename Told>
SEGFAST_LANES void move_one(const Move& move, int64_t at, const Told& told) {
  if constexpr (Move::kTwoRows) {
    const auto taken = move.take(at, told);
    move.template put<0>(at, taken);
    move.template put<1>(at, taken);
  } else {
    move.place(at, told);
  }
}
template <typename Move, typename Told>
SEGFAST_LANES void move_two(const Move& move, int64_t first, const Told& told_first, int64_t second,
                            const Told& told_second) {
  const auto taken_first = move.take(first, told_first);
  const auto taken_second = move.take(second, told_second);
  move.template put<0>(first, taken_first);
  move.template put<0>(second, taken_second);
  move.template put<1>(first, taken_first);
  move.template put<1>(second, taken_second);
}

// A run of n windows, a vector at least. By twos where they go to two rows: what goes to one is
// written together, for where rows do not begin on cache lines, going to and fro takes longer.
template <typename Move, typename Records>
SEGFAST_LANES void move_run(const Move& move, const Records& records, int64_t n) {
  constexpr int kCount = Move::Windows::kCount;
  const int64_t last = n - kCount;  // may overlap
  int64_t at = 0;
  if constexpr (Move::kTwoRows) {
    for (; at + kCount <= last; at += 2 * kCount) {
      move_two(move, at, records.read(at), at + kCount, records.read(at + kCount));
    }
    if (at < last) return move_two(move, at, records.read(at), last, records.read_last(last));
  } else {
    for (; at <= last; at += kCount) move_one(move, at, records.read(at));
  }
  if (at < n) move_one(move, last, records.read_last(last));
}

// `count` runs of n windows, told apart without a tile. (Functions of their own: in a larger one
// GCC keeps fewer vectors in registers.)
template <typename Move>
__attribute__((noinline)) void move_coded(Move move, const uint8_t* codes, int64_t bytes, int64_t n,
                                          int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    move_run(move, CodedRun<Move>{codes}, n);
    codes += bytes;
    move.next();
  }
}
template <typename Move>
__attribute__((noinline)) void move_indexed(Move move, TapTile& tile, const Run& first,
                                            int64_t count) {
  using Windows = typename Move::Windows;
  const int64_t n = first.length, next = Windows::next(tile.s.width);
  const int64_t* indices = tile.indices.data + first.number * n;
  int64_t origin = 2 * first.oh * tile.s.width;
  typename Windows::Taps taps(tile.s, origin + count * next);
  for (int64_t i = 0; i < count; ++i) {
    move_run(move, IndexedRun<Windows>{taps, indices, origin}, n);
    indices += n;
    origin += next;
    move.next();
  }
  tile.foreign |= taps.foreign();
}

// As many of `count` runs from `first` on as can be told apart so.
template <typename Move>
int64_t move_runs(const Move& move, TapTile& tile, const Run& first, int64_t count) {
  if (tile.codes.data == nullptr) {
    move_indexed(move, tile, first, count);
    return count;
  }
  const int64_t bytes = tile.s.run_bytes();
  count = std::clamp<int64_t>(tile.packed_runs() - first.number, 0, count);
  move_coded(move, tile.codes.data + first.number * bytes, bytes, first.length, count);
  return count;
}

// 2x2 windows with stride 2: a row of windows gives two rows of the map, and every value is moved
// to one of four places. T stands for all types of its size.
template <typename T>
struct ScatterRows2x2 {
  const ScatterArguments& a;
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
      if constexpr (kNarrow<T>) {
        if (is_indexed && !tile.fills_lanes<T>()) {
          move_indexed(ScatterWords<T>{rows}, tile, run, count);
          return count;
        }
      }
      return move_runs(rows, tile, run, count);
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

// inner = 1, strides 1 and 2 along the width: a row of the map at a time, each of its elements
// meets the windows that see it, in their order. Held rows have room on both sides, so that vectors
// need not know where a row ends. 16-bit elements are added up in float, rounded once.
template <typename T, Combine kCombine, bool kCodes, int kStride>
struct ScatterRowsAlong {
  using Word = word_t<T>;
  // The windows that a row's elements of one parity see by one tap.
  struct SeenWindows {
    int64_t at;  // where the first of them is held
    Word won;    // what its record holds where it won
  };
  static constexpr int kSpan = kStride * kLanes<T>;  // columns of the map in a vector of windows
  static constexpr int kBlock = 8 / kStride;  // vectors at once: sums that do not wait for others

  const ScatterArguments& a;
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  const T* end;  // of the rows that this thread writes: what it spills beyond a row it mends next
  HeldRows<T, kCodes> rows;
  std::vector<SeenWindows> windows;  // of each row of a map, of either parity
  std::vector<size_t> windows_end;

  // How far windows lie before column 0's, and beyond those of the last column's vector.
  static int64_t margin_of(const Window2d& w) {
    return ceil_div<int64_t>(std::max<int64_t>(0, int64_t{w.kernel_w - 1} * w.dilation_w - w.pad_w),
                             kStride);
  }
  static int64_t width_of(const PoolShape& s, const Window2d& w) {
    const int64_t seen =
        ceil_div<int64_t>(s.width, kSpan) * kLanes<T> + (kStride - 1 + w.pad_w) / kStride;
    return margin_of(w) + std::max(s.pooled_width, seen);
  }

  ScatterRowsAlong(const ScatterArguments& arguments, int64_t end_item)
      : a(arguments),
        end(static_cast<const T*>(a.map) + end_item * a.shape.width),
        rows(a, margin_of(w), width_of(s, w)) {
    for (int64_t y = 0; y < s.height; ++y) {
      for (int64_t x = 0; x < kStride; ++x) list_windows(y, x);
    }
  }

  void list_windows(int64_t y, int64_t x) {
    for (int64_t oh = rows.first_row(y); oh < rows.last_row(y); ++oh) {
      const int64_t kh = tap_along<int64_t>(y, oh, w.stride_h, w.pad_h, w.dilation_h);
      for (int64_t kw = w.kernel_w - 1; kh >= 0 && kw >= 0; --kw) {
        const int64_t start = x + w.pad_w - kw * w.dilation_w;
        if (start % kStride != 0) continue;
        const int64_t won = rows.won_along_height(kh) + rows.won_along_width(kw);
        windows.push_back({rows.place(oh) + start / kStride, static_cast<Word>(won)});
      }
    }
    windows_end.push_back(windows.size());
  }

  // kVectors vectors of elements of one parity, which see the windows `column` behind those listed.
  template <int kVectors>
  SEGFAST_LANES void gather(const SeenWindows* seen, const SeenWindows* last, int64_t column,
                            bits_t<T> (&out)[kVectors]) const {
    lanes_t<T> held[kVectors] = {};
    for (; seen < last; ++seen) {
      rows.template meet<kCombine>(column + seen->at, seen->won, held);
    }
    for (int v = 0; v < kVectors; ++v) out[v] = combined_words<T, kCombine>(held[v]);
  }

  // kVectors spans of row y from column x on.
  template <int kVectors>
  SEGFAST_LANES void gather_spans(int64_t y, int64_t x, T* out) const {
    const SeenWindows* const all = windows.data();
    const size_t* const ends = windows_end.data() + y * kStride;
    bits_t<T> even[kVectors];
    gather(all + (y == 0 ? 0 : ends[-1]), all + ends[0], x / kStride, even);
    if constexpr (kStride == 1) {
      for (int v = 0; v < kVectors; ++v) store_words(out + v * kSpan, even[v]);
    } else {
      bits_t<T> odd[kVectors];
      gather(all + ends[0], all + ends[1], x / kStride, odd);
      for (int v = 0; v < kVectors; ++v) store_word_pairs(out + v * kSpan, even[v], odd[v]);
    }
  }

  void scatter(int64_t o, int64_t y) {
    rows.hold(o, rows.first_row(y), rows.last_row(y));
    T* const out = static_cast<T*>(a.map) + (o * s.height + y) * s.width;
    int64_t x = 0;
    for (; x + kBlock * kSpan <= s.width; x += kBlock * kSpan) gather_spans<kBlock>(y, x, out + x);
    for (; x < s.width; x += kSpan) {
      if (out + x + kSpan <= end) {
        gather_spans<1>(y, x, out + x);
      } else {
        T last[kSpan];
        gather_spans<1>(y, x, last);
        std::memcpy(out + x, last, static_cast<size_t>(s.width - x) * sizeof(T));
      }
    }
  }
};

// inner > 1: a pixel of the map at a time, each channel meets the windows that see it, in their
// order.
template <typename T, Combine kCombine, typename Rows>
struct ScatterPixels {
  using Word = word_t<T>;
  // Windows that see a row or a column of the map: where the first of them is held, in its row for
  // a column, and what its record holds where it won.
  struct Seen {
    int64_t at;
    Word won;
  };

  const ScatterArguments& a;
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  Rows rows;
  std::vector<Seen> seen_rows;
  std::vector<Seen> columns;        // of all columns of the map, one after another
  std::vector<size_t> columns_end;  // of each column

  explicit ScatterPixels(const ScatterArguments& arguments)
      : a(arguments), rows(a, 0, s.pooled_width * s.inner + kLanes<T>) {
    for (int64_t x = 0; x < s.width; ++x) {
      const int64_t last = last_window<int64_t>(x, w.stride_w, w.pad_w, s.pooled_width);
      for (int64_t ow = first_window<int64_t>(x, w.kernel_w, w.stride_w, w.pad_w, w.dilation_w);
           ow < last; ++ow) {
        const int64_t kw = tap_along<int64_t>(x, ow, w.stride_w, w.pad_w, w.dilation_w);
        const Word won = static_cast<Word>(rows.won_along_width(kw));
        if (kw >= 0) columns.push_back({ow * s.inner, won});
      }
      columns_end.push_back(columns.size());
    }
  }

  // kVectors vectors of channels from c on, of the column of the map that sees those from `first`
  // on.
  template <int kVectors>
  SEGFAST_LANES void gather(const Seen* first, const Seen* last, int64_t c,
                            bits_t<T> (&out)[kVectors]) const {
    lanes_t<T> held[kVectors] = {};
    for (const Seen& row : seen_rows) {
      for (const Seen* column = first; column < last; ++column) {
        rows.template meet<kCombine>(row.at + column->at + c, row.won + column->won, held);
      }
    }
    for (int v = 0; v < kVectors; ++v) out[v] = combined_words<T, kCombine>(held[v]);
  }

  void scatter(int64_t o, int64_t y) {
    constexpr int kBlock = 8;  // vectors at once: sums that do not wait for others
    const int64_t inner = s.inner;
    T* out = static_cast<T*>(a.map) + (o * s.height + y) * s.width * inner;
    rows.hold(o, rows.first_row(y), rows.last_row(y));
    seen_rows.clear();
    for (int64_t oh = rows.first_row(y); oh < rows.last_row(y); ++oh) {
      const int64_t kh = tap_along<int64_t>(y, oh, w.stride_h, w.pad_h, w.dilation_h);
      const Word won = static_cast<Word>(rows.won_along_height(kh));
      if (kh >= 0) seen_rows.push_back({rows.place(oh), won});
    }
    const Seen* first = columns.data();
    for (int64_t x = 0; x < s.width; ++x, out += inner) {
      const Seen* const last = columns.data() + columns_end[static_cast<size_t>(x)];
      bits_t<T> one[1];
      int64_t c = 0;
      for (; c + kBlock * kLanes<T> <= inner; c += kBlock * kLanes<T>) {
        bits_t<T> several[kBlock];
        gather(first, last, c, several);
        for (int v = 0; v < kBlock; ++v) store_words(out + c + v * kLanes<T>, several[v]);
      }
      for (; inner >= kLanes<T> && c < inner; c += kLanes<T>) {
        c = std::min(c, inner - kLanes<T>);  // the last may overlap
        gather(first, last, c, one);
        store_words(out + c, one[0]);
      }
      if (inner < kLanes<T>) {
        gather(first, last, 0, one);
        store_some_words(out, one[0], static_cast<int>(inner));
      }
      first = last;
    }
  }
};

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

  // Windows of a row, `step` apart: each one's value to where its tap lies from the window.
  template <bool kAdd, typename Held>
  SEGFAST_LANES void place_along(const Held* __restrict values, const int64_t* offsets, Held* to,
                                 int64_t step) const {
    uint64_t rest = codes;
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k, rest >>= 8, to += step) {
      Held& place = to[offsets[rest & 0xff]];
      if constexpr (kAdd) {
        place += values[k];
      } else {
        place = values[k];
      }
    }
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

// inner = 1: each window's value placed over zeros, or, with kAdd, added where windows overlap, in
// Held, rounded once.
template <typename T, typename Held, bool kAdd, bool kCodes>
__attribute__((noinline)) void place_rows(  // inlined, its loop runs out of registers
    const ScatterArguments& a, int64_t begin, int64_t end) {
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  const TapOffsets offsets(w, s.width);
  constexpr bool kInPlace = std::is_same_v<T, Held>;
  const Elements<T> given{static_cast<const T*>(a.values), s.pooled_numel()};
  const int64_t width = s.width, windows = s.pooled_width;  // of a row
  std::vector<Held> sums, converted;  // unless in place: of the map, and a row of windows
  if (!kInPlace) converted.resize(static_cast<size_t>(windows + kLanes<T>));
  for (int64_t item = begin; item < end;) {
    const int64_t o = item / s.height, y = item % s.height;
    const int64_t rows = std::min(s.height - y, end - item);
    T* const map = static_cast<T*>(a.map) + item * width;
    Held* out;
    if constexpr (kInPlace) {
      out = map;
    } else {
      sums.resize(static_cast<size_t>(rows * width + kLanes<T>));
      out = sums.data();
    }
    const int64_t first = first_window<int64_t>(y, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h);
    const int64_t last = last_window<int64_t>(y + rows - 1, w.stride_h, w.pad_h, s.pooled_height);
    int64_t cleared = 0;
    for (int64_t oh = first; oh < last; ++oh) {
      const int64_t top = oh * w.stride_h - w.pad_h - y;  // in rows of `out`
      const int64_t bottom =
          std::clamp<int64_t>(top + int64_t{w.kernel_h - 1} * w.dilation_h + 1, cleared, rows);
      std::fill(out + cleared * width, out + bottom * width, Held{});
      cleared = bottom;
      const int64_t row = (o * s.pooled_height + oh) * windows;
      const Held* __restrict values;
      if constexpr (kInPlace) {
        values = given.data + row;
      } else {
        widen(given.data + row, windows, converted.data());
        values = converted.data();
      }
      const uint8_t* const codes = static_cast<const uint8_t*>(a.record) + row;
      const int64_t* const indices = static_cast<const int64_t*>(a.record) + row;
      const int64_t origin = top * width - w.pad_w;
      // Whatever tap a window of the row names lies in `out`.
      const bool is_inside =
          kCodes && w.taps() <= CodeBlock::kMostTaps && origin >= 0 &&
          origin + (windows - 1) * w.stride_w + offsets.at[w.taps() - 1] < rows * width;
      int64_t i = 0;
      for (; is_inside && i + CodeBlock::kCount <= windows; i += CodeBlock::kCount) {
        const CodeBlock block(codes + i);
        if (!block.has_taps(w.taps())) break;
        block.place_along<kAdd>(values + i, offsets.at, out + origin + i * w.stride_w, w.stride_w);
      }
      for (; i < windows; ++i) {
        int64_t position;
        if constexpr (kCodes) {
          position = origin + i * w.stride_w + offsets.at[codes[i]];
        } else {
          position = indices[i] - y * width;
        }
        // Rows of the same windows may be another thread's; an empty window's position is none.
        if (static_cast<uint64_t>(position) >= static_cast<uint64_t>(rows * width)) continue;
        if constexpr (kAdd) {
          out[position] += values[i];
        } else {
          out[position] = values[i];
        }
      }
    }
    std::fill(out + cleared * width, out + rows * width, Held{});
    if constexpr (!kInPlace) {
      round_sums<false>(out, rows * width, map);
    }
    item += rows;
  }
}

// inner > 1: the same. Where Held is T that is done in the map itself, else in a ring of rows: as
// many as stay in a cache, but all that a window sees.
template <typename T, typename Held, bool kAdd, bool kCodes>
struct PlaceChannels {
  static constexpr bool kInPlace = std::is_same_v<T, Held>;
  static constexpr int64_t kRing = 1 << 13;     // elements: they stay in a first-level cache
  static constexpr int64_t kWritten = 1 << 10;  // of a row, until windows have taken them up

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

  const ScatterArguments& a;
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
  int64_t taps_at[CodeBlock::kMostTaps];
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

  // kWhole: the rows and columns of the window are all there.
  template <bool kWhole>
  SEGFAST_LANES void place_channels(const Windows& window) {
    constexpr int kBlock = CodeBlock::kCount;
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
      place<kBlock>(run, i);
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
void place_windows(const ScatterArguments& a, int64_t begin, int64_t end) {
  if (a.shape.inner == 1) {
    place_rows<T, Held, kAdd, kCodes>(a, begin, end);
  } else {
    PlaceChannels<T, Held, kAdd, kCodes>{a}.scatter(begin, end);
  }
}

inline bool overlaps(const Window2d& w) {
  return w.stride_h <= (w.kernel_h - 1) * w.dilation_h ||
         w.stride_w <= (w.kernel_w - 1) * w.dilation_w;
}

// Whether to visit each window once, a scalar at a time, rather than each element's taps by
// vectors: where neighbouring elements do not meet neighbouring windows, and where there are more
// taps than vectors make up for (measured for 3x3 to 9x9 windows with strides 1 and 2 in all
// types). Sums of 16-bit elements are rounded afterwards.
template <typename T>
bool visits_windows(const PoolShape& s, const Window2d& w) {
  if (s.inner == 1 && (w.stride_w > 2 || !overlaps(w))) return true;
  if (s.inner > 1 && kNarrow<T>) return w.taps() >= 3 * kLanes<T>;
  const bool is_early = sizeof(T) == 8 || (s.inner == 1 && !kNarrow<T>);
  return w.taps() * w.stride_w >= (is_early ? 2 : 3) * kLanes<T>;
}

// Whether to hold rows of channels, with codes: where they must be widened, if they stay in a
// second-level cache.
template <typename T>
bool holds_rows(const PoolShape& s, const Window2d& w) {
  constexpr int64_t kCache = int64_t{1} << 19;
  const int64_t windows = HeldRows<T, true>::rows_held(w) * s.pooled_width * s.inner;
  return kNarrow<T> && windows * 2 * static_cast<int64_t>(sizeof(word_t<T>)) <= kCache;
}

template <typename T>
void scatter_rows_2x2(const ScatterArguments& a, int64_t begin, int64_t end) {
  ScatterRows2x2<T> rows{a};
  for (MapRows at(begin, end, scatter_rows_per_map(a.shape, a.window)); at.count > 0; at.next()) {
    rows.scatter(at.o, at.row, at.count);
  }
}

template <typename Row>
void scatter_rows_with(Row&& row, int64_t begin, int64_t end) {
  MapRow at(begin, scatter_rows_per_map(row.a.shape, row.a.window));
  for (int64_t item = begin; item < end; ++item, at.next()) row.scatter(at.o, at.row);
}

template <typename T, typename Moved, Combine kCombine, bool kCodes>
void scatter_rows_any(const ScatterArguments& a, int64_t begin, int64_t end) {
  if constexpr (kCombine == Combine::sum) {
    if (sum_cells<T, kCodes>(a, begin, end)) return;
    if (visits_windows<T>(a.shape, a.window) && overlaps(a.window)) {
      return place_windows<T, accumulate_t<T>, true, kCodes>(a, begin, end);
    }
  }
  if (visits_windows<T>(a.shape, a.window)) {
    place_windows<Moved, Moved, false, kCodes>(a, begin, end);
  } else if (kCodes && a.shape.inner >= kLanes<T> && !holds_rows<T>(a.shape, a.window)) {
    scatter_rows_with(ScatterPixels<T, kCombine, GivenRows<T>>(a), begin, end);
  } else if (a.shape.inner > 1) {
    scatter_rows_with(ScatterPixels<T, kCombine, HeldRows<T, kCodes>>(a), begin, end);
  } else if (a.window.stride_w == 1) {
    scatter_rows_with(ScatterRowsAlong<T, kCombine, kCodes, 1>(a, end), begin, end);
  } else {
    scatter_rows_with(ScatterRowsAlong<T, kCombine, kCodes, 2>(a, end), begin, end);
  }
}

template <typename T, typename Moved, Combine kCombine>
void scatter_rows_of(const ScatterArguments& a, int64_t begin, int64_t end) {
  if (a.window.is_2x2()) {
    scatter_rows_2x2<Moved>(a, begin, end);
  } else if (a.record_kind == Record::codes8) {
    scatter_rows_any<T, Moved, kCombine, true>(a, begin, end);
  } else {
    scatter_rows_any<T, Moved, kCombine, false>(a, begin, end);
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
    case DType::float16:  // which is moved as any 16 bits are
      return scatter_rows_of<std::conditional_t<kCombine == Combine::sum, Half, BFloat16>, BFloat16,
                             kCombine>(a, begin, end);
    case DType::bfloat16:
      return scatter_rows_of<BFloat16, BFloat16, kCombine>(a, begin, end);
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
