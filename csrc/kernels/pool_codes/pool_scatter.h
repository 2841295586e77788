// pool_scatter.h: windows' values sent to the positions that their records name, in gather form: no
// zero-fill, no two writers, one order. Pool backward adds up where windows overlap; unpooling lets
// the last window stay. Compiled once an instruction set, after pool_lanes.h.

#include "kernels/pool_codes/pool_cells.h"
#include "kernels/pool_codes/pool_place.h"
#include "kernels/pool_codes/pool_runs.h"
#include "kernels/pool_codes/pool_scatter_2x2.h"
#include "kernels/pool_codes/pool_scatter_rows.h"
#include "kernels/pool_codes/short_rows.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

inline bool overlaps(const Window2d& w) {
  return w.stride_h <= (w.kernel_h - 1) * w.dilation_h ||
         w.stride_w <= (w.kernel_w - 1) * w.dilation_w;
}

// Whether vectors gain less than they take to make ready: of a row's windows, which are held, above
// all by their indices; or of channels, where windows one step apart are so many fewer than a small
// map's elements (measured for 3x3 ones with dilation 2 in all types).
template <typename T, bool kCodes>
bool has_few_windows(const PoolShape& s, const Window2d& w) {
  constexpr bool kWideIndices = !kCodes && sizeof(T) == sizeof(float);
  if (s.inner == 1) return s.pooled_width < (kWideIndices ? 4 : 2) * kLanes<T>;
  const int64_t of_six = kWideIndices ? 5 : 4;
  return w.stride_h == 1 && w.stride_w == 1 &&
         6 * s.pooled_height * s.pooled_width < of_six * s.height * s.width;
}

// Whether to visit each window once, a scalar at a time, rather than each element's taps by
// vectors: where neighbouring elements do not meet neighbouring windows, and where there are more
// taps than vectors make up for (measured for 3x3 to 9x9 windows with strides 1 and 2 in all
// types). Sums of 16-bit elements are rounded afterwards.
template <typename T, bool kCodes>
bool visits_windows(const PoolShape& s, const Window2d& w) {
  if (has_few_windows<T, kCodes>(s, w)) return true;
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
  if (has_short_rows<T>(a.shape, a.record_kind)) return scatter_short_rows<T>(a, begin, end);
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
    if (!has_few_windows<T, kCodes>(a.shape, a.window) && sum_cells<T, kCodes>(a, begin, end))
      return;
    if (visits_windows<T, kCodes>(a.shape, a.window) && overlaps(a.window)) {
      return place_windows<T, accumulate_t<T>, true, kCodes>(a, begin, end);
    }
  }
  if (visits_windows<T, kCodes>(a.shape, a.window)) {
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
