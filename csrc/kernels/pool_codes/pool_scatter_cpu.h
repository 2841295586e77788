// pool_scatter_cpu.h: windows' values sent to the positions that their records name, in gather
// form: no zero-fill, no two writers, one order. Pool backward adds up where windows overlap;
// unpooling lets the last window stay. What it gained stands in the files that it includes.
#include "common/lanes.h"
#include "common/lanes_math.h"
#include "kernels/pool_codes/pool_lanes.h"

#include "kernels/pool_codes/pool_cells.h"
#include "kernels/pool_codes/pool_place.h"
#include "kernels/pool_codes/pool_runs.h"
#include "kernels/pool_codes/pool_scatter_rows.h"
#include "kernels/pool_codes/short_rows.h"

#include "kernels/pool_codes/pool_scatter_2x2.h"

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
template <typename T>
bool has_few_windows(const PoolScatterParams& a) {
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  const bool has_wide = a.record_kind == Record::indices && sizeof(T) == sizeof(float);
  if (s.inner == 1) return s.pooled_width < (has_wide ? 4 : 2) * kLanes<T>;
  const int64_t of_six = has_wide ? 5 : 4;
  return w.stride_h == 1 && w.stride_w == 1 &&
         6 * s.pooled_height * s.pooled_width < of_six * s.height * s.width;
}

// Whether to visit each window once, a scalar at a time, rather than each element's taps by
// vectors: where neighbouring elements do not meet neighbouring windows, and where there are more
// taps than vectors make up for (measured for 3x3 to 9x9 windows with strides 1 and 2 in all
// types). Sums of 16-bit elements are rounded afterwards.
template <typename T>
bool visits_windows(const PoolScatterParams& a) {
  const PoolShape& s = a.shape;
  const Window2d& w = a.window;
  if (has_few_windows<T>(a)) return true;
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
  const int64_t windows = HeldRows<T>::rows_held(w) * s.pooled_width * s.inner;
  return kNarrow<T> && windows * 2 * static_cast<int64_t>(sizeof(word_t<T>)) <= kCache;
}

template <typename Row>
void scatter_rows_with(Row&& row, int64_t begin, int64_t end) {
  MapRow at(begin, scatter_rows_per_map(row.a.shape, row.a.window));
  for (int64_t item = begin; item < end; ++item, at.next()) row.scatter(at.o, at.row);
}

template <typename T, typename Moved, Combine kCombine>
void scatter_rows_any(const PoolScatterParams& a, int64_t begin, int64_t end) {
  const bool visits = visits_windows<T>(a), is_coded = a.record_kind != Record::indices;
  if constexpr (kCombine == Combine::sum) {
    if (!has_few_windows<T>(a) && sum_cells<T>(a, begin, end)) return;
    if (visits && overlaps(a.window)) {
      return place_windows<T, accumulate_t<T>, true>(a, begin, end);
    }
  }
  if (visits) {
    place_windows<Moved, Moved, false>(a, begin, end);
  } else if (is_coded && a.shape.inner >= kLanes<T> && !holds_rows<T>(a.shape, a.window)) {
    scatter_rows_with(ScatterPixels<T, kCombine, GivenRows<T>>(a), begin, end);
  } else if (a.shape.inner > 1) {
    scatter_rows_with(ScatterPixels<T, kCombine, HeldRows<T>>(a), begin, end);
  } else if (a.window.stride_w == 1) {
    scatter_rows_with(ScatterRowsAlong<T, kCombine, 1>(a, end), begin, end);
  } else {
    scatter_rows_with(ScatterRowsAlong<T, kCombine, 2>(a, end), begin, end);
  }
}

// Moved: stands for T where values are not added up.
template <typename T, typename Moved>
void scatter_rows(const PoolScatterParams& a, int64_t begin, int64_t end) {
  if (a.window.is_2x2()) {
    scatter_rows_2x2<Moved>(a, begin, end);
  } else if (a.combine == Combine::last) {
    scatter_rows_any<Moved, Moved, Combine::last>(a, begin, end);
  } else {
    scatter_rows_any<T, Moved, Combine::sum>(a, begin, end);
  }
}

}  // namespace

void pool_scatter(const PoolScatterParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::float32:
      return scatter_rows<float, float>(p, begin, end);
    case DType::float64:
      return scatter_rows<double, double>(p, begin, end);
    case DType::float16:  // which is moved as any 16 bits are
      return scatter_rows<Half, BFloat16>(p, begin, end);
    case DType::bfloat16:
      return scatter_rows<BFloat16, BFloat16>(p, begin, end);
  }
}

}  // namespace SEGFAST_ISA
}  // namespace segfast
