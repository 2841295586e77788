// overlap_stats_cpu.h: the CPU kernels, compiled once for each instruction set by foreach_isa.h.
//
// overlap_stats_cpu_labels.h   softmax of label maps, the fast path: load, max, exp and sum, then
//                              for each class the sum of p, and pixel by pixel what is the label's
// overlap_stats_cpu_targets.h  with rows of targets: sigmoid, soft targets, and label smoothing
//                              together with the focal factor
// Backward recomputes the same tile. Ignored pixels have factors of zero; their logits are replaced
// by zeros, so that not even NaN comes out of them.
//
// What each version gained, in ns a logit (12 classes, float32, contiguous, AVX2 on one core of a
// 3.2 GHz Zen 3, least of several runs), forward and backward, of softmax and of sigmoid:
//   loops for the compiler to vectorize                            6.2    8.3     20    19
//   vectors by hand, fused multiply-adds, no label in a loop over
//   classes, exp by a table, the next tile fetched ahead           0.65   1.1    2.3   3.1
//   slopes broadcast without an addition (another machine, 2.4 GHz)  0.72  1.3 -> 1.15
// Forward there is arithmetic, not memory: of 1.74 clocks a logit, max and exp take 0.88 (11
// instructions for the two multiply-add units a vector of 8, so 0.69 at the least), bringing the
// tile in 0.30, the label's logit 0.17, its loss 0.15, sums by label 0.16, sums of p 0.09. Reading
// the logits alone (a sum of them) takes 0.35.
// Tried without gain: several vectors' exp in lockstep, tiles of 256 pixels, and stores of the
// gradient past the caches.
#include "common/lanes.h"
#include "common/lanes_math.h"
#include "common/pixel_tile.h"

#define SEGFAST_FORMULAS SEGFAST_ISA::overlap
#define SEGFAST_FORMULA SEGFAST_LANES
#include "kernels/overlap_stats/overlap_stats_math.h"

namespace segfast::SEGFAST_ISA {
namespace {

// Of a row of a tile.
template <typename R>
SEGFAST_LANES lanes_t<R> lanes_at(const R* values) {
  return load_vector<lanes_t<R>>(values);
}

template <typename R>
inline double sum_row(const R* row) {
  lanes_t<R> sum = {};
  for (int i = 0; i < kTile; i += kLanes<R>) sum += lanes_at(row + i);
  return sum_lanes(sum);
}

template <typename R>
inline double sum_product(const R* a, const R* b) {
  lanes_t<R> sum = {};
  for (int i = 0; i < kTile; i += kLanes<R>) {
    sum = madd(lanes_at(a + i), lanes_at(b + i), sum);
  }
  return sum_lanes(sum);
}

// The sums of a chunk, in `partials` of overlap_stats.h.
struct Sums {
  double* intersection;
  double* probability;
  double* target;
  double* pixels;
  double* cross_entropy;
  double* weight;
  double* bad;
};

inline Sums sums_at(double* partial, int64_t classes) {
  return {partial,
          partial + classes,
          partial + 2 * classes,
          partial + 3 * classes,
          partial + 4 * classes,
          partial + 4 * classes + 1,
          partial + 4 * classes + 2};
}

template <typename R>
inline R weight_at(const double* weight, int64_t index) {
  return weight == nullptr ? R(1) : static_cast<R>(weight[index]);
}

// The loss's derivatives of one sample, in R, each [C + 1]: of the void row 0. A null gradient is
// zero.
template <typename R>
struct Slopes {
  R* intersection;  // A
  R* probability;   // q B
  R* label;         // A, for q = 1 A + B: all that meets the label's p alone
  R* entropy;       // e ((1 - eps) w_c + sum of smooth)
  R* smooth;        // e (eps / C) w_c, label smoothing's part of every class
  R cross_entropy;  // e
};
constexpr int kSlopeRows = 5;

template <typename R>
inline Slopes<R> slopes_of(const OverlapStatsBackwardParams& params, int64_t sample, R* rows) {
  const OverlapStatsInputs& in = params.in;
  const int64_t classes = in.classes, size = classes + 1;
  const double scale = gradient_scale(params);
  const Slopes<R> slopes{rows,
                         rows + size,
                         rows + 2 * size,
                         rows + 3 * size,
                         rows + 4 * size,
                         gradient_at<R>(params.grad_cross_entropy, sample, scale)};
  for (int64_t i = 0; i < kSlopeRows * size; ++i) rows[i] = R(0);
  const R smoothing = static_cast<R>(in.label_smoothing);
  const R share = smoothing / static_cast<R>(classes);
  R smooth_sum = R(0);
  for (int64_t c = 0; c < classes; ++c) {
    const int64_t at = sample * classes + c;
    slopes.intersection[c] = gradient_at<R>(params.grad_intersection, at, scale);
    slopes.probability[c] =
        static_cast<R>(in.exponent) * gradient_at<R>(params.grad_probability, at, scale);
    slopes.label[c] = slopes.intersection[c] + (in.exponent == 1 ? slopes.probability[c] : R(0));
    slopes.smooth[c] = slopes.cross_entropy * share * weight_at<R>(in.class_weight, c);
    smooth_sum += slopes.smooth[c];
  }
  for (int64_t c = 0; c < classes; ++c) {
    slopes.entropy[c] =
        slopes.cross_entropy * (R(1) - smoothing) * weight_at<R>(in.class_weight, c) + smooth_sum;
  }
  return slopes;
}

// The pixel weights of a tile; 1 if there are none.
template <typename R>
inline void load_pixel_weights(const OverlapStatsInputs& in, const Span& span,
                               R* __restrict weight) {
  for (int i = 0; i < kTile; ++i) weight[i] = R(1);
  if (in.pixel_weight == nullptr) return;
  const R* from = static_cast<const R*>(in.pixel_weight) + span.sample * in.pixels + span.first;
  for (int i = 0; i < span.count; ++i) weight[i] = from[i];
}

template <typename R>
inline void clear_ignored(int64_t classes, const label_t<R>* __restrict label, R* __restrict rows) {
  for (int64_t c = 0; c < classes; ++c) {
    R* __restrict row = rows + c * kTile;
    for (int i = 0; i < kTile; ++i) row[i] = label[i] >= 0 ? row[i] : R(0);
  }
}

}  // namespace
}  // namespace segfast::SEGFAST_ISA

#include "kernels/overlap_stats/overlap_stats_cpu_labels.h"
#include "kernels/overlap_stats/overlap_stats_cpu_targets.h"

namespace segfast::SEGFAST_ISA {
namespace {

inline bool has_fast_path(const OverlapStatsInputs& in) {
  return !in.sigmoid && !in.dense && (in.gamma == 0.0 || in.label_smoothing == 0.0);
}

// The pixels of an item, tile after tile.
struct Chunk {
  int64_t sample, first, last;

  Chunk(const OverlapStatsInputs& in, int64_t item) {
    const int64_t chunks = overlap_stats_chunks(in);
    const int64_t size = ceil_div(ceil_div(in.pixels, chunks), int64_t{kTile}) * kTile;
    sample = item / chunks;
    first = item % chunks * size;  // rounding up to whole tiles may leave the last chunks nothing
    last = first + size < in.pixels ? first + size : in.pixels;
  }

  Span span(int64_t pixel) const {
    return {sample, pixel, static_cast<int>(last - pixel < kTile ? last - pixel : kTile)};
  }
};

// A thread's scratch: two tiles of all classes (of the label maps' fast path one, and the void row)
// and what each class has besides.
inline int64_t by_class_size(int64_t classes) {
  return ceil_div<int64_t>(kSlopeRows * (classes + 1), 4) * 4;  // keeps the tables aligned
}
inline int64_t table_size(int64_t classes) { return 2 * kTables * (classes + 1); }

template <typename R>
inline int64_t workspace_bytes(int64_t classes) {
  const int64_t reals = (2 * classes + 1) * kTile + by_class_size(classes);
  return reals * static_cast<int64_t>(sizeof(R)) +
         table_size(classes) * static_cast<int64_t>(sizeof(LabelSum));
}

template <typename R>
struct Workspace {
  R* rows;
  R* targets;
  R* by_class;       // [kSlopeRows, C + 1]
  LabelSum* tables;  // [2, kTables, C + 1]

  Workspace(int64_t classes, void* scratch)
      : rows(static_cast<R*>(scratch)),
        targets(rows + (classes + 1) * kTile),
        by_class(targets + classes * kTile),
        tables(reinterpret_cast<LabelSum*>(by_class + by_class_size(classes))) {}
};

template <typename T>
inline void overlap_forward_range(const OverlapStatsParams& params, int64_t begin, int64_t end,
                                  void* scratch) {
  using R = accumulate_t<T>;
  const OverlapStatsInputs& in = params.in;
  const int64_t size = overlap_stats_partial_size(in.classes);
  const Workspace<R> work(in.classes, scratch);
  R* class_weight = work.by_class;
  for (int64_t c = 0; c < in.classes; ++c) class_weight[c] = weight_at<R>(in.class_weight, c);
  class_weight[in.classes] = R(0);
  for (int64_t item = begin; item < end; ++item) {
    double* partial = params.partials + item * size;
    for (int64_t i = 0; i < size; ++i) partial[i] = 0.0;
    const Sums sums = sums_at(partial, in.classes);
    for (int64_t i = 0; i < table_size(in.classes); ++i) work.tables[i] = LabelSum{};
    const Chunk chunk(in, item);
    for (int64_t pixel = chunk.first; pixel < chunk.last; pixel += kTile) {
      const Span span = chunk.span(pixel);
      if (has_fast_path(in)) {
        labels_forward_tile<T>(in, span, class_weight, work.rows, work.tables, sums);
      } else if (in.sigmoid) {
        sigmoid_forward_tile<T>(in, span, work.rows, work.targets, sums);
      } else {
        softmax_forward_tile<T>(in, span, work.rows, work.targets, sums);
      }
    }
    if (has_fast_path(in)) add_label_sums(in, work.tables, sums);
  }
}

template <typename T>
inline void overlap_backward_range(const OverlapStatsBackwardParams& params, int64_t begin,
                                   int64_t end, void* scratch) {
  using R = accumulate_t<T>;
  const OverlapStatsInputs& in = params.in;
  const Layout layout{in.classes, in.pixels, in.channels_last};
  const Workspace<R> work(in.classes, scratch);
  for (int64_t item = begin; item < end; ++item) {
    const Chunk chunk(in, item);
    const Slopes<R> slopes = slopes_of(params, chunk.sample, work.by_class);
    for (int64_t pixel = chunk.first; pixel < chunk.last; pixel += kTile) {
      const Span span = chunk.span(pixel);
      if (has_fast_path(in)) {
        labels_backward_tile<T>(in, slopes, span, work.rows);
      } else if (in.sigmoid) {
        sigmoid_backward_tile<T>(in, slopes, span, work.rows, work.targets);
      } else {
        softmax_backward_tile<T>(in, slopes, span, work.rows, work.targets);
      }
      store_rows(layout, work.rows, span, static_cast<T*>(params.grad_logits));
    }
  }
}

}  // namespace

int64_t overlap_stats_scratch_bytes(const OverlapStatsInputs& in) {
  return in.dtype == DType::float64 ? workspace_bytes<double>(in.classes)
                                    : workspace_bytes<float>(in.classes);
}

#define SEGFAST_FOR_DTYPE(dtype, function, ...) \
  switch (dtype) {                              \
    case DType::float64:                        \
      return function<double>(__VA_ARGS__);     \
    case DType::float16:                        \
      return function<Half>(__VA_ARGS__);       \
    case DType::bfloat16:                       \
      return function<BFloat16>(__VA_ARGS__);   \
    default:                                    \
      return function<float>(__VA_ARGS__);      \
  }

void overlap_stats_range(const OverlapStatsParams& params, int64_t begin, int64_t end,
                         void* scratch) {
  SEGFAST_FOR_DTYPE(params.in.dtype, overlap_forward_range, params, begin, end, scratch)
}

void overlap_stats_backward_range(const OverlapStatsBackwardParams& params, int64_t begin,
                                  int64_t end, void* scratch) {
  SEGFAST_FOR_DTYPE(params.in.dtype, overlap_backward_range, params, begin, end, scratch)
}

#undef SEGFAST_FOR_DTYPE

}  // namespace segfast::SEGFAST_ISA
