// pool_scatter.h: windows' values sent to the positions that their records name, a row of the map at
// a time in gather form: no zero-fill, no two writers, one order. Pool backward adds up where windows
// overlap; unpooling lets the last window stay. Compiled once an instruction set.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

enum class Combine { sum, last };

struct ScatterArguments {
  const void* values;  // [outer, pooled_height, pooled_width, inner]
  const void* record;
  void* map;           // [outer, height, width, inner]
  Record record_kind;
  const PoolShape& shape;
  const Window2d& window;
};

template <typename T, Combine kCombine>
struct ScatterRow {
  using Raw = raw_t<T>;
  using Lane = typename Element<T>::Lane;
  // Sums of 16-bit elements are kept in float and rounded once.
  static constexpr bool kOwnSums = kCombine == Combine::sum && sizeof(T) == 2;
  using Sum = std::conditional_t<kOwnSums, float, Raw>;

  const ScatterArguments& a;
  alignas(64) Lane sides[kTile];
  std::vector<float> sums;

  explicit ScatterRow(const ScatterArguments& arguments) : a(arguments) {
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

  static Sum combine(Sum held, bool won, Raw value) {
    if constexpr (kCombine == Combine::sum) {
      return held + (won ? widen(value) : Sum{0});
    } else {
      return won ? value : held;
    }
  }

  // 2x2: for windows [first, first + n) of a run, 0 where the row's left column won, 1 where its right
  // one did, something else where the other row did.
  void find_sides(const Run& run, int64_t first, int n, int kh) {
    const PoolShape& s = a.shape;
    if (a.record_kind == Record::codes2) {
      const uint8_t* codes = static_cast<const uint8_t*>(a.record) + run.number * s.run_bytes();
      unpack_codes2(codes + first / kCodesPerByte, n, sides);
      for (int i = 0; i < n; ++i) sides[i] = static_cast<Lane>(sides[i] - 2 * kh);
    } else {
      const int64_t* indices =
          static_cast<const int64_t*>(a.record) + run.number * run.length + first;
      const int64_t x = 2 * (run.ow + (run.along_row ? first : 0));
      const int64_t origin = (2 * run.oh + kh) * s.width + x;
      const int64_t step = run.along_row ? 2 : 0;
      for (int i = 0; i < n; ++i) {
        const int64_t side = indices[i] - origin - i * step;
        sides[i] = static_cast<Lane>(side == 0 ? 0 : side == 1 ? 1 : 2);
      }
    }
  }

  void scatter_2x2(int64_t o, int64_t y, Raw* out) {
    const PoolShape& s = a.shape;
    const int64_t oh = y / 2;
    const int kh = static_cast<int>(y % 2);
    if (oh >= s.pooled_height) {
      std::fill(out, out + s.width * s.inner, Raw{0});
      return;
    }
    if (s.inner == 1) {
      const Run run = row_run(s, o, oh);
      const Raw* values = static_cast<const Raw*>(a.values) + run.number * run.length;
      for (int64_t first = 0; first < run.length; first += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
        find_sides(run, first, n, kh);
        Raw* left = out + 2 * first;
        const int whole = static_cast<int>(std::min<int64_t>(n, (s.width - 2 * first) / 2));
        for (int i = 0; i < whole; ++i) {
          left[2 * i] = sides[i] == 0 ? values[first + i] : Raw{0};
          left[2 * i + 1] = sides[i] == 1 ? values[first + i] : Raw{0};
        }
        if (whole < n) left[2 * whole] = sides[whole] == 0 ? values[first + whole] : Raw{0};
      }
      if (2 * run.length < s.width) std::fill(out + 2 * run.length, out + s.width, Raw{0});
      return;
    }
    for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
      const Run run = channel_run(s, o, oh, ow);
      const Raw* values = static_cast<const Raw*>(a.values) + run.number * run.length;
      Raw* left = out + 2 * ow * s.inner;
      const bool has_right = 2 * ow + 1 < s.width;
      for (int64_t first = 0; first < run.length; first += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
        find_sides(run, first, n, kh);
        for (int i = 0; i < n; ++i) left[first + i] = sides[i] == 0 ? values[first + i] : Raw{0};
        if (!has_right) continue;
        Raw* right = left + s.inner;
        for (int i = 0; i < n; ++i) right[first + i] = sides[i] == 1 ? values[first + i] : Raw{0};
      }
    }
    const int64_t covered = 2 * s.pooled_width;
    if (covered < s.width) std::fill(out + covered * s.inner, out + s.width * s.inner, Raw{0});
  }

  // Adds windows [low, high) of a row of windows, seen by one tap, to the row's sums.
  template <typename Code>
  void add_taps(const Code* record, Code tap, int64_t tap_step, const Raw* values, Sum* out,
                int64_t stride, int64_t low, int64_t high) {
    const int64_t inner = a.shape.inner;
    for (int64_t ow = low; ow < high; ++ow) {
      const Code wanted = static_cast<Code>(tap + static_cast<Code>(ow * tap_step));
      for (int64_t c = 0; c < inner; ++c) {
        const int64_t i = ow * inner + c;
        Sum& sum = out[ow * stride * inner + c];
        sum = combine(sum, record[i] == wanted, values[i]);
      }
    }
  }

  void scatter_any(int64_t o, int64_t y, Raw* out) {
    const PoolShape& s = a.shape;
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

  void scatter(int64_t o, int64_t y) {
    const PoolShape& s = a.shape;
    Raw* out = static_cast<Raw*>(a.map) + (o * s.height + y) * s.width * s.inner;
    if (a.window.is_2x2()) {
      scatter_2x2(o, y, out);
    } else {
      scatter_any(o, y, out);
    }
  }
};

template <typename T, Combine kCombine>
void scatter_rows_of(const ScatterArguments& a, int64_t begin, int64_t end) {
  ScatterRow<T, kCombine> row(a);
  for (int64_t item = begin; item < end; ++item) {
    row.scatter(item / a.shape.height, item % a.shape.height);
  }
}

// Rows [begin, end) of the map.
template <Combine kCombine>
void scatter_rows(const ScatterArguments& a, DType dtype, int64_t begin, int64_t end) {
  switch (dtype) {
    case DType::float32:
      return scatter_rows_of<float, kCombine>(a, begin, end);
    case DType::float64:
      return scatter_rows_of<double, kCombine>(a, begin, end);
    case DType::float16:
      return scatter_rows_of<Half, kCombine>(a, begin, end);
    case DType::bfloat16:
      return scatter_rows_of<BFloat16, kCombine>(a, begin, end);
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
