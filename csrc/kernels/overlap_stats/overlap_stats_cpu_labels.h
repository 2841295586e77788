// overlap_stats_cpu_labels.h: softmax against label maps. A body file of overlap_stats_cpu.h.
//
// The label's logit is taken out of its row, where -infinity takes its place: so no loop over the
// classes compares labels, the sum of e over the other classes comes out by itself, and with it
// 1 - p_y without cancellation. What belongs to the label is then added pixel by pixel.
namespace segfast::SEGFAST_ISA {
namespace {

// Sums of a chunk by label: a value of each pixel, and the number of pixels. Neighbouring pixels
// use tables in turn, so that those of one label need not wait for each other's sums.
typedef double LabelSum __attribute__((vector_size(16)));
constexpr int kTables = 8;

template <typename R>
inline void add_by_label(int64_t classes, const R* value, const label_t<R>* label,
                         LabelSum* tables) {
  const int64_t size = classes + 1;
  for (int i = 0; i < kTile; i += kTables) {
    for (int k = 0; k < kTables; ++k) {
      tables[k * size + label[i + k]] += LabelSum{static_cast<double>(value[i + k]), 1.0};
    }
  }
}

// What one tile's softmax leaves for each pixel; rows become e = exp(z - max z), 0 for the label.
template <typename R>
struct SoftmaxTile {
  alignas(64) label_t<R> label[kTile];  // `classes`, the void row, where the pixel does not count
  alignas(64) R maximum[kTile];
  alignas(64) R others[kTile];       // sum of e over all classes but the label's
  alignas(64) R inverse[kTile];      // 1 / sum of all e; 0 where the pixel does not count
  alignas(64) R label_logit[kTile];  // z_y - max z
  alignas(64) R label_e[kTile];
  alignas(64) R sloped[kTile];  // backward: sum of slope e^q over all classes but the label's
  alignas(64) R weight[kTile];  // the pixel weight, if there is one
  int counted;                  // pixels
};

// 0 and -1: all bits set where the pixel counts.
template <typename R>
SEGFAST_LANES signed_t<R> counted_at(int64_t classes, const label_t<R>* label) {
  return load_vector<signed_t<R>>(label) < static_cast<label_t<R>>(classes);
}

template <typename T, typename R>
inline LabelReport begin_tile(const OverlapStatsInputs& in, const Span& span, R* rows,
                              SoftmaxTile<R>& tile) {
  const int64_t classes = in.classes;
  label_t<R>* label = tile.label;
  const LabelReport report =
      load_labels<R>(in.target, in.target_type, in.pixels, classes,
                     in.has_ignore_index ? &in.ignore_index : nullptr, span, label);
  const Layout layout{classes, in.pixels, in.channels_last};
  load_rows(layout, static_cast<const T*>(in.logits), span, rows);
  tile.counted = kTile - report.ignored;
  if (report.ignored != 0) {
    clear_ignored(classes, label, rows);
    for (int i = 0; i < kTile; ++i) {
      label[i] = label[i] >= 0 ? label[i] : static_cast<label_t<R>>(classes);
      rows[classes * kTile + i] = R(0);
    }
  }
  if (in.pixel_weight != nullptr) load_pixel_weights(in, span, tile.weight);
  return report;
}

// Where the next tile's logits lie, to be fetched while this one is worked on: as many cache lines
// as it has vectors of this tile's, whichever layout. The end of memory may be passed.
template <typename T>
struct NextTile {
  const T* begin;
  int64_t stride;

  NextTile(const OverlapStatsInputs& in, const Span& span)
      : begin(static_cast<const T*>(in.logits)), stride(in.channels_last ? kTile : in.pixels) {
    const int64_t pixel = span.first + kTile;
    begin += in.channels_last ? (span.sample * in.pixels + pixel) * in.classes
                              : span.sample * in.classes * in.pixels + pixel;
  }
};

// Rows become e, and in backward `sloped` is left too: kPower is its q, or 0 in forward.
template <int kPower, typename T, typename R>
inline void softmax_rows(int64_t classes, const R* slopes, const NextTile<T>& next, R* rows,
                         SoftmaxTile<R>& tile) {
  using V = lanes_t<R>;
  constexpr int kStep = kLanes<R>, kVectors = 2;
  for (int i = 0; i < kTile; ++i) {
    R& logit = rows[tile.label[i] * kTile + i];
    tile.label_logit[i] = logit;
    logit = -std::numeric_limits<R>::infinity();
  }
  for (int i = 0; i < kTile; i += kVectors * kStep) {
    V maximum[kVectors], others[kVectors] = {}, sloped[kVectors] = {};
    for (int j = 0; j < kVectors; ++j) maximum[j] = lanes_at(tile.label_logit + i + j * kStep);
    for (int64_t c = 0; c < classes; ++c) {
      for (int j = 0; j < kVectors; ++j) {
        maximum[j] = larger(lanes_at(rows + c * kTile + i + j * kStep), maximum[j]);
      }
    }
    for (int64_t c = 0; c < classes; ++c) {
      __builtin_prefetch(next.begin + c * next.stride + i);
      for (int j = 0; j < kVectors; ++j) {
        R* at = rows + c * kTile + i + j * kStep;
        const V e = exp_nonpositive(lanes_at(at) - maximum[j]);
        store_vector(at, e);
        others[j] += e;
        if (kPower > 0) sloped[j] = madd(kPower == 2 ? e * e : e, splat<V>(slopes[c]), sloped[j]);
      }
    }
    for (int j = 0; j < kVectors; ++j) {
      const int at = i + j * kStep;
      const V logit = lanes_at(tile.label_logit + at) - maximum[j];
      const V label_e = exp_nonpositive(logit);
      const V inverse = R(1) / (others[j] + label_e);
      store_vector(tile.maximum + at, maximum[j]);
      store_vector(tile.others + at, others[j]);
      store_vector(tile.inverse + at, keep(counted_at<R>(classes, tile.label + at), inverse));
      store_vector(tile.label_logit + at, logit);
      store_vector(tile.label_e + at, label_e);
      if (kPower > 0) store_vector(tile.sloped + at, sloped[j]);
    }
  }
}

// probability [c] += sum p_c^q over the tile, for kCount classes from c on.
template <int kPower, int kCount, typename R>
inline void add_probabilities(int64_t c, const R* rows, const R* inverse, double* probability) {
  using V = lanes_t<R>;
  constexpr int kStep = kLanes<R>;
  V sum[kCount][2] = {};
  for (int i = 0; i < kTile; i += 2 * kStep) {
    for (int j = 0; j < 2; ++j) {
      const int at = i + j * kStep;
      for (int k = 0; k < kCount; ++k) {
        const V e = lanes_at(rows + (c + k) * kTile + at), factor = lanes_at(inverse + at);
        const V p = e * factor;
        sum[k][j] = kPower == 2 ? madd(p, p, sum[k][j]) : madd(e, factor, sum[k][j]);
      }
    }
  }
  for (int k = 0; k < kCount; ++k) probability[c + k] += sum_lanes(sum[k][0] + sum[k][1]);
}

template <int kPower, typename R>
inline void add_probabilities(int64_t classes, const R* rows, const R* inverse,
                              double* probability) {
  constexpr int kCount = 4;
  int64_t c = 0;
  for (; c + kCount <= classes; c += kCount) {
    add_probabilities<kPower, kCount>(c, rows, inverse, probability);
  }
  for (; c < classes; ++c) add_probabilities<kPower, 1>(c, rows, inverse, probability);
}

// -log p_y where the pixel counts, else 0; exact where the label has the largest logit and p_y is
// nearly 1.
template <typename R>
inline void label_losses(int64_t classes, const SoftmaxTile<R>& tile, R* loss) {
  for (int i = 0; i < kTile; i += kLanes<R>) {
    const lanes_t<R> sum = lanes_at(tile.others + i) + lanes_at(tile.label_e + i);
    const lanes_t<R> nll = log_positive(sum) - lanes_at(tile.label_logit + i);
    store_vector(loss + i, keep(counted_at<R>(classes, tile.label + i), nll));
  }
}

// class_weight [C + 1]: of the void row 0. tables: two times kTables of C + 1.
template <typename T, typename R = accumulate_t<T>>
inline void labels_forward_tile(const OverlapStatsInputs& in, const Span& span,
                                const R* class_weight, R* rows, LabelSum* tables,
                                const Sums& sums) {
  SoftmaxTile<R> tile;
  const int64_t classes = in.classes;
  const LabelReport report = begin_tile<T>(in, span, rows, tile);

  // Label smoothing wants sum w (z_0 - z) before the logits are gone: differences keep their digits
  // where logits are large.
  alignas(64) R first[kTile], smooth[kTile];
  const R smoothing = static_cast<R>(in.label_smoothing);
  R weight_sum = R(0);
  if (smoothing > R(0)) {
    for (int i = 0; i < kTile; ++i) {
      first[i] = rows[i];
      smooth[i] = R(0);
    }
    for (int64_t c = 0; c < classes; ++c) {
      weight_sum += class_weight[c];
      for (int i = 0; i < kTile; ++i)
        smooth[i] += class_weight[c] * (first[i] - rows[c * kTile + i]);
    }
  }

  const R* no_slopes = nullptr;
  softmax_rows<0>(classes, no_slopes, NextTile<T>(in, span), rows, tile);

  alignas(64) R loss[kTile];
  label_losses(classes, tile, loss);
  if (in.gamma > 0.0) {
    const R gamma = static_cast<R>(in.gamma);
    for (int i = 0; i < kTile; i += kLanes<R>) {
      const lanes_t<R> others = lanes_at(tile.others + i) * lanes_at(tile.inverse + i);
      store_vector(loss + i, lanes_at(loss + i) * overlap::focal_factor(others, gamma));
    }
  }
  if (in.class_weight == nullptr && in.pixel_weight == nullptr && smoothing == R(0)) {
    *sums.cross_entropy += sum_row(loss);
    *sums.weight += tile.counted;
  } else {
    alignas(64) R weight[kTile];
    for (int i = 0; i < kTile; ++i) weight[i] = class_weight[tile.label[i]];
    if (in.pixel_weight != nullptr) {
      for (int i = 0; i < kTile; ++i) weight[i] *= tile.weight[i];
    }
    *sums.weight += sum_row(weight);
    *sums.cross_entropy += (R(1) - smoothing) * sum_product(loss, weight);
  }
  if (smoothing > R(0)) {
    const double share = in.label_smoothing / static_cast<double>(classes);
    for (int i = 0; i < kTile; ++i) {
      const bool counts = tile.label[i] < classes;
      const R log_sum = loss[i] + tile.label_logit[i];
      const R all = weight_sum * (log_sum + tile.maximum[i] - first[i]) + smooth[i];
      const R weight = in.pixel_weight != nullptr ? tile.weight[i] : R(1);
      loss[i] = counts ? weight * all : R(0);
    }
    *sums.cross_entropy += share * sum_row(loss);
  }
  *sums.bad += report.bad;
  for (int64_t c = 0; c < classes; ++c) sums.pixels[c] += tile.counted;

  alignas(64) R p[kTile];
  for (int i = 0; i < kTile; ++i) p[i] = tile.label_e[i] * tile.inverse[i];
  add_by_label(classes, p, tile.label, tables);
  if (in.exponent == 2) {
    for (int i = 0; i < kTile; ++i) p[i] *= p[i];
    add_by_label(classes, p, tile.label, tables + kTables * (classes + 1));
    add_probabilities<2>(classes, rows, tile.inverse, sums.probability);
  } else {
    add_probabilities<1>(classes, rows, tile.inverse, sums.probability);
  }
}

// What the chunk's labels left in the tables.
inline void add_label_sums(const OverlapStatsInputs& in, const LabelSum* tables, const Sums& sums) {
  const int64_t size = in.classes + 1;
  const LabelSum* powers = in.exponent == 2 ? tables + kTables * size : tables;
  for (int64_t c = 0; c < in.classes; ++c) {
    for (int k = 0; k < kTables; ++k) {
      sums.intersection[c] += tables[k * size + c][0];
      sums.target[c] += tables[k * size + c][1];
      sums.probability[c] += powers[k * size + c][0];
    }
  }
}

// rows become d loss / d logits.
template <int kPower, typename R>
inline void labels_backward_rows(const OverlapStatsInputs& in, const Slopes<R>& slopes, R* rows,
                                 SoftmaxTile<R>& tile) {
  using V = lanes_t<R>;
  constexpr int kStep = kLanes<R>, kVectors = 2;
  const int64_t classes = in.classes;
  const label_t<R>* label = tile.label;

  // entropy = e sum_c tau_c K, which all classes share.
  alignas(64) R entropy[kTile], label_slope[kTile], label_power[kTile];
  for (int i = 0; i < kTile; ++i) {
    entropy[i] = slopes.entropy[label[i]];
    label_slope[i] = slopes.label[label[i]];
    if (kPower == 2) label_power[i] = slopes.probability[label[i]];
  }
  if (in.gamma > 0.0) {  // without label smoothing: that is not for the fast path
    const R gamma = static_cast<R>(in.gamma);
    alignas(64) R loss[kTile];
    label_losses(classes, tile, loss);
    for (int i = 0; i < kTile; i += kStep) {
      const V inverse = lanes_at(tile.inverse + i);
      const V p = lanes_at(tile.label_e + i) * inverse,
              others = lanes_at(tile.others + i) * inverse;
      const V slope = overlap::focal_slope(p, others, lanes_at(loss + i), gamma);
      store_vector(entropy + i, lanes_at(entropy + i) * slope);
    }
  }
  if (in.pixel_weight != nullptr) {
    for (int i = 0; i < kTile; ++i) entropy[i] *= tile.weight[i];
  }

  // The true class gets minus the sum of the others.
  alignas(64) R rest[kTile];
  for (int i = 0; i < kTile; i += kVectors * kStep) {
    V common[kVectors], inverse[kVectors];
    for (int j = 0; j < kVectors; ++j) {
      const int at = i + j * kStep;
      inverse[j] = lanes_at(tile.inverse + at);
      const V p = lanes_at(tile.label_e + at) * inverse[j];
      const V sloped =
          lanes_at(tile.sloped + at) * (kPower == 2 ? inverse[j] * inverse[j] : inverse[j]);
      common[j] = lanes_at(entropy + at) - sloped - lanes_at(label_slope + at) * p;
      if (kPower == 2) common[j] -= lanes_at(label_power + at) * p * p;
      const V others = lanes_at(tile.others + at) * inverse[j];
      store_vector(rest + at, -madd(common[j], others, sloped));
      if (kPower == 1) common[j] *= inverse[j];
    }
    for (int64_t c = 0; c < classes; ++c) {
      const V slope = splat<V>(slopes.probability[c]);
      for (int j = 0; j < kVectors; ++j) {
        R* at = rows + c * kTile + i + j * kStep;
        const V e = lanes_at(at);
        const V p = kPower == 2 ? e * inverse[j] : e;
        store_vector(at, p * madd(slope, kPower == 2 ? p : inverse[j], common[j]));
      }
    }
  }
  if (in.label_smoothing > 0.0) {
    alignas(64) R weight[kTile];
    for (int i = 0; i < kTile; ++i) {
      const R given = in.pixel_weight != nullptr ? tile.weight[i] : R(1);
      weight[i] = label[i] < classes ? given : R(0);
    }
    R smooth_sum = R(0);
    for (int64_t c = 0; c < classes; ++c) {
      const R smooth = slopes.smooth[c];
      smooth_sum += smooth;
      for (int i = 0; i < kTile; ++i) rows[c * kTile + i] -= smooth * weight[i];
    }
    for (int i = 0; i < kTile; ++i) rest[i] += weight[i] * (smooth_sum - slopes.smooth[label[i]]);
  }
  for (int i = 0; i < kTile; ++i) rows[label[i] * kTile + i] = rest[i];
}

template <typename T, typename R = accumulate_t<T>>
inline void labels_backward_tile(const OverlapStatsInputs& in, const Slopes<R>& slopes,
                                 const Span& span, R* rows) {
  SoftmaxTile<R> tile;
  begin_tile<T>(in, span, rows, tile);
  if (in.exponent == 2) {
    softmax_rows<2>(in.classes, slopes.probability, NextTile<T>(in, span), rows, tile);
    labels_backward_rows<2>(in, slopes, rows, tile);
  } else {
    softmax_rows<1>(in.classes, slopes.probability, NextTile<T>(in, span), rows, tile);
    labels_backward_rows<1>(in, slopes, rows, tile);
  }
}

}  // namespace
}  // namespace segfast::SEGFAST_ISA
