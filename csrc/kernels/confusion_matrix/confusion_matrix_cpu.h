// confusion_matrix_cpu.h: the CPU kernel, compiled once for each instruction set by foreach_isa.h.
#include "common/lanes.h"
#include "common/pixel_tile.h"

namespace segfast::SEGFAST_ISA {
namespace {

// prediction [kTile] from the logits of a span; rows [C, kTile] is scratch.
template <typename T, typename R>
inline void predict(const ConfusionMatrixParams& params, const Span& span, R* __restrict rows,
                    label_t<R>* __restrict prediction) {
  const Layout layout{params.channels, params.pixels, params.channels_last};
  load_rows(layout, static_cast<const T*>(params.logits), span, rows);
  if (params.channels == 1) {
    const R threshold = static_cast<R>(params.threshold);
    for (int i = 0; i < kTile; ++i) prediction[i] = rows[i] > threshold ? 1 : 0;
    return;
  }
  alignas(64) R best[kTile];
  for (int i = 0; i < kTile; ++i) best[i] = rows[i];
  for (int i = 0; i < kTile; ++i) prediction[i] = 0;
  for (int64_t c = 1; c < params.channels; ++c) {
    const R* __restrict row = rows + c * kTile;
    const label_t<R> this_class = static_cast<label_t<R>>(c);
    for (int i = 0; i < kTile; ++i) {
      const bool better = beats(row[i], best[i]);
      best[i] = better ? row[i] : best[i];
      prediction[i] = better ? this_class : prediction[i];
    }
  }
}

// counts [K, K] += the pairs of one item.
template <typename T>
inline void count_item(const ConfusionMatrixParams& params, int64_t item, int64_t* counts,
                       int64_t* bad, void* scratch) {
  using R = accumulate_t<T>;
  const int64_t chunks = confusion_matrix_chunks(params.pixels);
  const int64_t size = ceil_div(ceil_div(params.pixels, chunks), int64_t{kTile}) * kTile;
  const int64_t sample = item / chunks;
  const int64_t first = item % chunks * size;
  const int64_t last = first + size < params.pixels ? first + size : params.pixels;
  alignas(64) label_t<R> label[kTile], prediction[kTile];
  for (int64_t pixel = first; pixel < last; pixel += kTile) {
    const Span span{sample, pixel, static_cast<int>(last - pixel < kTile ? last - pixel : kTile)};
    bad[0] += load_labels<R>(params.target, params.target_type, params.pixels, params.classes,
                             params.has_ignore_index ? &params.ignore_index : nullptr, span, label)
                  .bad;
    if (params.logits != nullptr) {
      predict<T>(params, span, static_cast<R*>(scratch), prediction);
    } else {
      load_labels<R>(params.prediction, params.prediction_type, params.pixels, params.classes,
                     nullptr, span, prediction);
    }
    for (int i = 0; i < span.count; ++i) {
      if (label[i] < 0) continue;
      if (prediction[i] < 0) {
        ++bad[1];
      } else {
        ++counts[label[i] * params.classes + prediction[i]];
      }
    }
  }
}

}  // namespace

void confusion_matrix_item(const ConfusionMatrixParams& params, int64_t item, int64_t* counts,
                           int64_t* bad, void* scratch) {
  switch (params.dtype) {
    case DType::float64:
      return count_item<double>(params, item, counts, bad, scratch);
    case DType::float16:
      return count_item<Half>(params, item, counts, bad, scratch);
    case DType::bfloat16:
      return count_item<BFloat16>(params, item, counts, bad, scratch);
    default:
      return count_item<float>(params, item, counts, bad, scratch);
  }
}

}  // namespace segfast::SEGFAST_ISA
