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

// A row of windows with their codes: how far from the row's start in the map the elements lie that
// these name. A clipped window has no second row or column, and none that its code may name then.
struct CodedRow {
  const uint8_t* codes;
  int64_t whole;  // windows that have two columns
  int64_t below;  // from a window's first row to its second

  CodedRow(const PoolShape& s, const void* record, int64_t o, int64_t oh)
      : codes(static_cast<const uint8_t*>(record) + (o * s.pooled_height + oh) * s.run_bytes()),
        whole(std::min(s.pooled_width, s.width / 2)),
        below(2 * oh + 1 < s.height ? s.width : 0) {}

  // Of four windows from the i-th on, those of a byte, the k-th.
  SEGFAST_LANES int64_t place(int64_t i, int k) const {
    return 2 * (i + k) + offset(codes[i / kCodesPerByte] >> 2 * k);
  }
  SEGFAST_LANES int64_t place(int64_t i) const {
    return 2 * i + offset(code2(codes, i) & (i < whole ? 3 : 2));
  }

 private:
  // By arithmetic: of four lookups in a table GCC makes a gather, which takes three times as long.
  SEGFAST_LANES int64_t offset(int64_t tap) const { return (tap & 1) + (-(tap >> 1 & 1) & below); }
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
    for (int64_t row = 0; row < rows; ++row, values += windows) {
      const CodedRow coded(s, a.record, at.o, at.row + row);
      T* const upper = map + 2 * row * width;
      int64_t i = 0;
      for (; i + kCodesPerByte <= coded.whole; i += kCodesPerByte) {
#pragma GCC unroll 4
        for (int k = 0; k < kCodesPerByte; ++k) upper[coded.place(i, k)] = values[i + k];
      }
      for (; i < windows; ++i) upper[coded.place(i)] = values[i];
    }
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
