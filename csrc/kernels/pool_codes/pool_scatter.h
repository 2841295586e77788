// pool_scatter.h: windows' values sent to the positions that their records name, a row of the map at
// a time in gather form: no zero-fill, no two writers, one order. Pool backward adds up where windows
// overlap; unpooling lets the last window stay. Compiled once an instruction set.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

enum class Combine { sum, last };

// Free functions with restricted pointers, for the compiler to see that nothing overlaps. Elements
// that are only moved are unsigned integers of their size: a choice is then a mask, not a branch.

// Two columns a window: its value where side 0 (left) or 1 (right) won, 0 elsewhere.
template <typename Bits>
void split_pairs(const Bits* __restrict sides, const Bits* __restrict values,
                 Bits* __restrict out, int n) {
  for (int i = 0; i < n; ++i) {
    const Bits left = static_cast<Bits>(-static_cast<Bits>(sides[i] == 0));
    const Bits right = static_cast<Bits>(-static_cast<Bits>(sides[i] == 1));
    out[2 * i] = values[i] & left;
    out[2 * i + 1] = values[i] & right;
  }
}

// The windows' values where `side` won, 0 elsewhere.
template <typename Bits>
void pick_side(const Bits* __restrict sides, Bits side, const Bits* __restrict values,
               Bits* __restrict out, int n) {
  for (int i = 0; i < n; ++i) {
    out[i] = values[i] & static_cast<Bits>(-static_cast<Bits>(sides[i] == side));
  }
}

// won[i] = all ones where records[i] == wanted + i * step, 0 elsewhere.
template <typename Lane, typename Code>
void find_won(const Code* __restrict records, Code wanted, Code step, Lane* __restrict won, int n) {
  for (int i = 0; i < n; ++i) {
    const bool is_won = records[i] == static_cast<Code>(wanted + static_cast<Code>(i) * step);
    won[i] = static_cast<Lane>(-static_cast<Lane>(is_won));
  }
}

struct ScatterArguments {
  const void* values;  // [outer, pooled_height, pooled_width, inner]
  const void* record;
  void* map;           // [outer, height, width, inner]
  Record record_kind;
  DType dtype;
  const PoolShape& shape;
  const Window2d& window;
};

// 2x2 windows: a row of the map sees one row of windows, and every value is moved or left out.
template <typename Bits>
struct ScatterRow2x2 {
  const ScatterArguments& a;
  alignas(64) Bits sides[kTile];

  explicit ScatterRow2x2(const ScatterArguments& arguments) : a(arguments) {}

  // For windows [first, first + n) of a run, 0 where the row's left column won, 1 where its right one
  // did, something else where the other row did.
  void find_sides(const Run& run, int64_t first, int n, int kh) {
    const PoolShape& s = a.shape;
    Bits* __restrict out = sides;
    if (a.record_kind == Record::codes2) {
      const uint8_t* codes = static_cast<const uint8_t*>(a.record) + run.number * s.run_bytes();
      unpack_codes2(codes + first / kCodesPerByte, n, sides);
      for (int i = 0; i < n; ++i) out[i] = static_cast<Bits>(out[i] - 2 * kh);
    } else {
      const int64_t* __restrict indices =
          static_cast<const int64_t*>(a.record) + run.number * run.length + first;
      const int64_t x = 2 * (run.ow + (run.along_row ? first : 0));
      const int64_t origin = (2 * run.oh + kh) * s.width + x;
      const int64_t step = run.along_row ? 2 : 0;
      for (int i = 0; i < n; ++i) {
        const int64_t side = indices[i] - origin - i * step;
        out[i] = static_cast<Bits>(side == 0 ? 0 : side == 1 ? 1 : 2);
      }
    }
  }

  void scatter(int64_t o, int64_t y) {
    const PoolShape& s = a.shape;
    Bits* out = static_cast<Bits*>(a.map) + (o * s.height + y) * s.width * s.inner;
    const int64_t oh = y / 2;
    const int kh = static_cast<int>(y % 2);
    if (oh >= s.pooled_height) {
      std::fill(out, out + s.width * s.inner, Bits{0});
      return;
    }
    if (s.inner == 1) {
      const Run run = row_run(s, o, oh);
      const Bits* values = static_cast<const Bits*>(a.values) + run.number * run.length;
      for (int64_t first = 0; first < run.length; first += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
        find_sides(run, first, n, kh);
        Bits* left = out + 2 * first;
        const int whole = static_cast<int>(std::min<int64_t>(n, (s.width - 2 * first) / 2));
        split_pairs(sides, values + first, left, whole);
        if (whole < n) left[2 * whole] = sides[whole] == 0 ? values[first + whole] : Bits{0};
      }
      if (2 * run.length < s.width) std::fill(out + 2 * run.length, out + s.width, Bits{0});
      return;
    }
    for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
      const Run run = channel_run(s, o, oh, ow);
      const Bits* values = static_cast<const Bits*>(a.values) + run.number * run.length;
      Bits* left = out + 2 * ow * s.inner;
      const bool has_right = 2 * ow + 1 < s.width;
      for (int64_t first = 0; first < run.length; first += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
        find_sides(run, first, n, kh);
        pick_side(sides, Bits{0}, values + first, left + first, n);
        if (has_right) pick_side(sides, Bits{1}, values + first, left + s.inner + first, n);
      }
    }
    const int64_t covered = 2 * s.pooled_width;
    if (covered < s.width) std::fill(out + covered * s.inner, out + s.width * s.inner, Bits{0});
  }
};

// Any windows. T is the element where values are added up, its unsigned integer where they are moved.
template <typename T, Combine kCombine>
struct ScatterRowAny {
  using Raw = raw_t<T>;
  using Lane = typename Element<T>::Lane;
  // Sums of 16-bit elements are kept in float and rounded once.
  static constexpr bool kOwnSums = kCombine == Combine::sum && sizeof(T) == 2;
  using Sum = std::conditional_t<kOwnSums, float, Raw>;

  const ScatterArguments& a;
  std::vector<float> sums;

  explicit ScatterRowAny(const ScatterArguments& arguments) : a(arguments) {
    if (kOwnSums) sums.resize(static_cast<size_t>(a.shape.width * a.shape.inner));
  }

  static Sum widen(Raw raw) {
    if constexpr (kOwnSums) {
      T value;
      std::memcpy(&value, &raw, sizeof value);
      return to_float(value);
    } else {
      return raw;
    }
  }

  static void combine(Sum& held, bool won, Raw value) {
    if constexpr (kCombine == Combine::sum) {
      held += won ? widen(value) : Sum{0};
    } else {
      held = won ? value : held;
    }
  }

  // Adds windows [low, high) of a row of windows, seen by one tap, to the row's sums. The window at ow
  // wins where its record is `tap`, or for indices `tap + ow * tap_step`.
  template <typename Code>
  void add_taps(const Code* record, Code tap, int64_t tap_step, const Raw* values, Sum* out,
                int64_t stride, int64_t low, int64_t high) {
    const int64_t inner = a.shape.inner;
    if (inner == 1) {
      // Who won is found for a tile at once, without branches.
      alignas(64) Lane won[kTile];
      for (int64_t first = low; first < high; first += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, high - first));
        const Code wanted = static_cast<Code>(tap + static_cast<Code>(first * tap_step));
        find_won(record + first, wanted, static_cast<Code>(tap_step), won, n);
        Sum* at = out + first * stride;
        for (int i = 0; i < n; ++i) {
          if constexpr (kCombine == Combine::sum) {
            Raw given;
            Lane bits;
            std::memcpy(&bits, values + first + i, sizeof bits);
            bits &= won[i];
            std::memcpy(&given, &bits, sizeof given);
            at[i * stride] += widen(given);
          } else {
            at[i * stride] = (values[first + i] & won[i]) | (at[i * stride] & ~won[i]);
          }
        }
      }
      return;
    }
    for (int64_t ow = low; ow < high; ++ow) {
      const Code wanted = static_cast<Code>(tap + static_cast<Code>(ow * tap_step));
      const Code* __restrict codes = record + ow * inner;
      const Raw* __restrict value = values + ow * inner;
      Sum* __restrict sum = out + ow * stride * inner;
      for (int64_t c = 0; c < inner; ++c) combine(sum[c], codes[c] == wanted, value[c]);
    }
  }

  void scatter(int64_t o, int64_t y) {
    const PoolShape& s = a.shape;
    Raw* out = static_cast<Raw*>(a.map) + (o * s.height + y) * s.width * s.inner;
    const Window2d& w = a.window;
    Sum* held;
    if constexpr (kOwnSums) {
      held = sums.data();
    } else {
      held = out;
    }
    std::fill(held, held + s.width * s.inner, Sum{0});
    const int64_t last = last_window<int64_t>(y, w.stride_h, w.pad_h, s.pooled_height);
    for (int64_t oh = first_window<int64_t>(y, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h);
         oh < last; ++oh) {
      const int kh = tap_along<int64_t>(y, oh, w.stride_h, w.pad_h, w.dilation_h);
      if (kh < 0) continue;
      const int64_t row = (o * s.pooled_height + oh) * s.pooled_width * s.inner;
      const Raw* values = static_cast<const Raw*>(a.values) + row;
      // From the last tap to the first, so that each position meets its windows in their order.
      for (int kw = w.kernel_w - 1; kw >= 0; --kw) {
        const int64_t x = int64_t{kw} * w.dilation_w - w.pad_w;
        const int64_t low = x >= 0 ? 0 : ceil_div<int64_t>(-x, w.stride_w);
        const int64_t reach = x >= s.width ? 0 : ceil_div<int64_t>(s.width - x, w.stride_w);
        const int64_t high = std::min(reach, s.pooled_width);
        Sum* sums_at = held + x * s.inner;
        if (a.record_kind == Record::codes8) {
          add_taps<uint8_t>(static_cast<const uint8_t*>(a.record) + row,
                            static_cast<uint8_t>(kh * w.kernel_w + kw), 0, values, sums_at,
                            w.stride_w, low, high);
        } else {
          add_taps<int64_t>(static_cast<const int64_t*>(a.record) + row, y * s.width + x,
                            w.stride_w, values, sums_at, w.stride_w, low, high);
        }
      }
    }
    if constexpr (kOwnSums) {
      for (int64_t i = 0; i < s.width * s.inner; ++i) {
        const T value = from_float<T>(sums[static_cast<size_t>(i)]);
        std::memcpy(out + i, &value, sizeof value);
      }
    }
  }
};

template <typename Row>
void scatter_rows_with(const ScatterArguments& a, int64_t begin, int64_t end) {
  Row row(a);
  for (int64_t item = begin; item < end; ++item) {
    row.scatter(item / a.shape.height, item % a.shape.height);
  }
}

template <typename Bits, Combine kCombine>
void move_rows(const ScatterArguments& a, int64_t begin, int64_t end) {
  if (a.window.is_2x2()) {
    scatter_rows_with<ScatterRow2x2<Bits>>(a, begin, end);
  } else if constexpr (kCombine == Combine::last) {
    scatter_rows_with<ScatterRowAny<Bits, kCombine>>(a, begin, end);
  }
}

// Rows [begin, end) of the map.
template <Combine kCombine>
void scatter_rows(const ScatterArguments& a, int64_t begin, int64_t end) {
  const bool moves = a.window.is_2x2() || kCombine == Combine::last;
  switch (a.dtype) {
    case DType::float32:
      if (moves) return move_rows<uint32_t, kCombine>(a, begin, end);
      return scatter_rows_with<ScatterRowAny<float, Combine::sum>>(a, begin, end);
    case DType::float64:
      if (moves) return move_rows<uint64_t, kCombine>(a, begin, end);
      return scatter_rows_with<ScatterRowAny<double, Combine::sum>>(a, begin, end);
    case DType::float16:
      if (moves) return move_rows<uint16_t, kCombine>(a, begin, end);
      return scatter_rows_with<ScatterRowAny<Half, Combine::sum>>(a, begin, end);
    case DType::bfloat16:
      if (moves) return move_rows<uint16_t, kCombine>(a, begin, end);
      return scatter_rows_with<ScatterRowAny<BFloat16, Combine::sum>>(a, begin, end);
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
