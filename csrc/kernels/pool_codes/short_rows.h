// short_rows.h: 2x2 windows with stride 2 of contiguous maps whose rows are less than a vector: a
// window at a time. Compiled once an instruction set, after pool_held.h.
//
// What it gained, against a tile of taps for each row, as PyTorch's time over ours of [8, 256, 7,
// 7] and of [2, 512, 11, 15] (one thread of a Zen 3, AVX2; ours and PyTorch's in turns, on a
// machine that had other work too):
//   pool backward from indices: fp32 0.23 -> 1.05, 0.15 -> 1.08; bf16 0.27 -> 1.2, 0.25 -> 1.5
//   unpooling from codes: fp32 0.33 -> 1.6, 0.39 -> 2.1; bf16 0.27 -> 1.9, 0.36 -> 2.6
//   its backward from indices: fp32 0.28 -> 1.07, 0.37 -> 1.09; bf16 0.41 -> 1.3, 0.44 -> 1.3

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// As codes say, a vector takes as many windows as elements fit in.
template <typename T>
bool has_short_rows(const PoolShape& s, Record kind) {
  const int64_t lanes = kind == Record::codes2 ? kOwnLanes<T> : kLanes<T>;
  return s.inner == 1 && s.pooled_width < lanes;
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

// Pairs [begin, end) of rows of all maps: the windows' values over zeros.
template <typename T>
void scatter_short_rows(const ScatterArguments& a, int64_t begin, int64_t end) {
  const PoolShape& s = a.shape;
  constexpr int64_t kTogether = 1 << 11;  // elements to clear: they stay in a first-level cache
  const int64_t width = s.width, windows = s.pooled_width;
  const int64_t pairs = scatter_rows_per_map(s, a.window);
  T* const stop = static_cast<T*>(a.map) + (end / pairs * s.height + 2 * (end % pairs)) * width;
  T* cleared = nullptr;
  for (MapRows at(begin, end, pairs); at.count > 0; at.next()) {
    const int64_t top = 2 * at.row, seen = std::min(2 * at.count, s.height - top) * width;
    T* const map = static_cast<T*>(a.map) + (at.o * s.height + top) * width;
    if (cleared == nullptr || cleared < map + seen) {
      T* const from = cleared == nullptr ? map : cleared;
      cleared = from + std::min(stop - from, std::max(map + seen - from, kTogether));
      std::fill(from, cleared, T{});
    }
    const int64_t rows = std::min(at.count, s.pooled_height - at.row);
    const int64_t first = (at.o * s.pooled_height + at.row) * windows;
    const T* values = static_cast<const T*>(a.values) + first;
    if (a.record_kind == Record::indices) {
      const int64_t* const indices = static_cast<const int64_t*>(a.record) + first;
      for (int64_t i = 0; i < rows * windows; ++i) {
        const int64_t place = indices[i] - top * width;  // no place: of an empty window
        if (static_cast<uint64_t>(place) < static_cast<uint64_t>(seen)) map[place] = values[i];
      }
      continue;
    }
    CodedRows coded(s, a.record, at.o, at.row);
    for (int64_t row = 0; row < rows; ++row, values += windows) {
      coded.open(at.row + row);
      T* const upper = map + 2 * row * width;
      for (int64_t i = 0; i < windows; ++i) upper[coded.next(i)] = values[i];
    }
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
