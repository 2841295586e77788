// short_rows.h: 2x2 windows with stride 2 of contiguous maps whose rows are less than a vector, or
// two: from codes by whole vectors all the same, else a window at a time. Compiled once an
// instruction set, after pool_runs.h.
//
// What it gained, against a tile of taps for each row, as PyTorch's time over ours of [8, 256, 7,
// 7] and of [2, 512, 11, 15] (one thread of a Zen 3, AVX2; ours and PyTorch's in turns, on a
// machine that had other work too):
//   pool backward from indices: fp32 0.23 -> 1.05, 0.15 -> 1.08; bf16 0.27 -> 1.2, 0.25 -> 1.5
//   unpooling from codes: fp32 0.33 -> 1.6, 0.39 -> 2.1; bf16 0.27 -> 1.9, 0.36 -> 2.6
//   its backward from indices: fp32 0.28 -> 1.07, 0.37 -> 1.09; bf16 0.41 -> 1.3, 0.44 -> 1.3
// Then, microseconds of [8, 512, 11, 15] without autograd's (one thread of it), before and after a
// row is moved by a vector:
//   from codes: pool backward fp32 257 -> 104, bf16 290 -> 124; unpooling 251 -> 102, 200 -> 94;
//   its backward 183 -> 49, 180 -> 44
//   from indices, small maps together: pool backward of [8, 256, 7, 7] 26 -> 20, 36 -> 31
// by two vectors, of which the second reads and writes beyond the row, rather than end where it
// does, [2, 256, 16, 30]: pool backward fp32 36 -> 23, unpooling 36 -> 23, its backward 31 -> 19;
// [1, 256, 24, 60] bf16 25 -> 18, 25 -> 17, 22 -> 16; [2, 512, 11, 15] float64 64 -> 36, 64 -> 36,
// 48 -> 28

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Rows of fewer windows than two vectors take as codes tell them apart, or one as indices do.
template <typename T>
bool has_short_rows(const PoolShape& s, Record kind) {
  constexpr int64_t kInWord = sizeof(uint64_t) * kCodesPerByte;
  const int64_t least = kind == Record::codes2 ? std::min<int64_t>(2 * kOwnLanes<T>, kInWord)
                                               : std::max<int64_t>(kLanes<T>, kShortRow);
  return s.inner == 1 && s.pooled_width < least;
}

// Rows of windows, one after the other, each one's codes in a word: where the elements lie that
// they name, from the row's start in the map. A clipped window has no second row or column, and
// none that its code may name then.
struct CodedRows {
  const PoolShape& s;
  const int64_t bytes = s.run_bytes();
  const uint8_t *from, *end;  // the next row's codes, and all codes'
  uint64_t kept = ~uint64_t{0};
  uint64_t codes = 0;  // of the row's windows that are still to come
  int64_t below = 0;   // from a window's first row to its second

  CodedRows(const PoolShape& shape, const void* record, int64_t o, int64_t oh) : s(shape) {
    static_assert(kOwnLanes<BFloat16> <= sizeof codes * kCodesPerByte);
    from = static_cast<const uint8_t*>(record) + (o * s.pooled_height + oh) * bytes;
    end = static_cast<const uint8_t*>(record) + s.outer * s.pooled_height * bytes;
    if (s.width < 2 * s.pooled_width) kept ^= uint64_t{1} << 2 * (s.width / 2);
  }

  SEGFAST_LANES void open(int64_t oh) {
    if (end - from >= static_cast<int64_t>(sizeof codes)) {
      codes = load_vector<uint64_t>(from);
    } else {
      std::memcpy(&codes, from, static_cast<size_t>(end - from));
    }
    codes &= kept;
    below = 2 * oh + 1 < s.height ? s.width : 0;
    from += bytes;
  }

  // The place that the row's next code names, the i-th. By arithmetic: of lookups in a table GCC
  // makes a gather.
  SEGFAST_LANES int64_t next(int64_t i) {
    const auto tap = static_cast<int64_t>(codes & 3);
    codes >>= 2;
    return 2 * i + (tap & 1) + (-(tap >> 1) & below);
  }
};

// Of maps with such rows and codes, how many from the first on have them moved by whole vectors:
// they read beyond a row what counts for nothing, and write there what is written anew with the row
// that follows. Those at the tensors' ends, or where this thread's part ends, are not among them.
// map_end, windows_end: elements that can be read, or written.
template <typename T>
int64_t vector_maps(const TapTile& tile, int64_t map_end, int64_t windows_end) {
  constexpr int64_t kCount = kOwnLanes<T>;
  const PoolShape& s = tile.s;
  const int64_t n = s.pooled_width, rows = s.pooled_height;
  const int64_t moved = ceil_div<int64_t>(n, kCount) * kCount;  // at once
  const bool are_told = kCount % kCodesPerByte == 0 && tile.codes.data != nullptr;
  if (!are_told || !tile.is_whole() || 2 * rows > s.height) return 0;
  const int64_t room = map_end - 2 * moved - (2 * rows - 1) * s.width;
  if (room < 0 || windows_end < moved) return 0;
  const int64_t runs = std::min(tile.packed_runs(), (windows_end - moved) / n + 1);
  return std::min(room / (s.height * s.width) + 1, runs / rows);
}

// Those of them that begin where a thread's rows do, or did once it had moved others.
inline int64_t whole_maps(const MapRows& at, int64_t maps) {
  return at.row != 0 ? 0 : std::clamp<int64_t>(maps - at.o, 0, (at.end - at.item) / at.rows);
}

// kTwo: a row is two vectors.
template <bool kTwo, typename Move>
__attribute__((noinline)) void move_maps_of(Move move, const uint8_t* from, const PoolShape& s,
                                            int64_t maps) {
  constexpr int64_t kCount = Move::Windows::kCount;
  const int64_t bytes = s.run_bytes(), rows = s.pooled_height;
  const int64_t below = (s.height - 2 * rows) * s.width;  // elements that no window sees
  for (int64_t k = 0; k < maps; ++k, move.skip(below)) {
    for (int64_t i = 0; i < rows; ++i, from += bytes, move.next()) {
      const CodedRun<Move> codes{from};
      if constexpr (!kTwo) {
        move_one(move, 0, codes.read(0));
      } else if constexpr (Move::kTwoRows) {
        move_two(move, 0, codes.read(0), kCount, codes.read(kCount));
      } else {
        move_one(move, 0, codes.read(0));
        move_one(move, kCount, codes.read(kCount));
      }
    }
  }
}

template <typename Move>
void move_maps(const Move& move, const uint8_t* codes, const PoolShape& s, int64_t maps) {
  if (s.pooled_width <= Move::Windows::kCount) {
    move_maps_of<false>(move, codes, s, maps);
  } else {
    move_maps_of<true>(move, codes, s, maps);
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
