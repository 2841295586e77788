// pool_runs.h: runs of 2x2 windows with stride 2, a row of them or a pixel's channels, moved
// between the windows and the map. Compiled once an instruction set, after pool_held.h.
//
// What moves a run has Windows, how windows are read by their indices, and Element. It moves
// kOwnLanes windows as they won (those of a row folded) or, with kByColumns, as packed codes say in
// two lanes each; next(): to the next run. Where they go to two rows of the map (kTwoRows), take()
// gives what put() writes to either.

#include "kernels/pool_codes/pool_taps.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

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

// The same of rows of windows: by indices that do not fit in the lanes of 16-bit elements they are
// told apart in words, and moved by Words<T>.
template <template <typename> class Words, typename Move>
int64_t move_rows(const Move& move, TapTile& tile, const Run& first, int64_t count) {
  using T = typename Move::Element;
  if constexpr (kNarrow<T>) {
    if (tile.codes.data == nullptr && !tile.fills_lanes<T>()) {
      move_indexed(Words<T>{move}, tile, first, count);
      return count;
    }
  }
  return move_runs(move, tile, first, count);
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
