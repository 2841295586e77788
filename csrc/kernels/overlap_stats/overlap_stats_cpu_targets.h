// overlap_stats_cpu_targets.h: with a row of targets for each class: sigmoid, and softmax against
// soft targets or with label smoothing and the focal factor together. A body file of
// overlap_stats_cpu.h.
namespace segfast::SEGFAST_ISA {
namespace {

// targets [C, kTile] = the soft targets, or one-hot rows from the labels; -1 where ignored.
// label [kTile] = the labels; for soft targets 0, and -1 beyond the span. Returns how many are bad.
template <typename R>
inline int load_targets(const OverlapStatsInputs& in, const Span& span, R* __restrict targets,
                        label_t<R>* __restrict label) {
  const int64_t classes = in.classes;
  const int64_t* ignore_index = in.has_ignore_index ? &in.ignore_index : nullptr;
  if (!in.dense) {
    const int64_t values = in.sigmoid && classes == 1 ? 2 : classes;
    const LabelReport report =
        load_labels<R>(in.target, in.target_type, in.pixels, values, ignore_index, span, label);
    for (int64_t c = 0; c < classes; ++c) {
      const label_t<R> positive = static_cast<label_t<R>>(values == classes ? c : 1);
      R* __restrict row = targets + c * kTile;
      for (int i = 0; i < kTile; ++i) {
        const R hit = label[i] == positive ? R(1) : R(0);
        row[i] = label[i] >= 0 ? hit : R(-1);
      }
    }
    return report.bad;
  }
  const Layout layout{classes, in.pixels, in.channels_last};
  load_soft_rows(layout, in.target, in.target_type, span, targets);
  const bool has_ignore = ignore_index != nullptr;
  const R ignore = has_ignore ? static_cast<R>(*ignore_index) : R(0);
  int bad = 0;
  for (int64_t c = 0; c < classes; ++c) {
    R* __restrict row = targets + c * kTile;
    for (int i = span.count; i < kTile; ++i) row[i] = R(-1);
    for (int i = 0; i < span.count; ++i) {
      const bool is_ignored = has_ignore && row[i] == ignore;
      const bool is_target = row[i] >= R(0) && row[i] <= R(1) && !is_ignored;
      bad += !is_target && !is_ignored;
      row[i] = is_target ? row[i] : R(-1);
    }
  }
  for (int i = 0; i < kTile; ++i) label[i] = i < span.count ? label_t<R>(0) : label_t<R>(-1);
  return bad;
}

// ---- softmax ------------------------------------------------------------------------------------

// A pixel counts if all its targets do. rows stay logits (zeros where the pixel does not count).
template <typename R>
struct TargetsTile {
  alignas(64) label_t<R> label[kTile];  // -1 where the pixel does not count
  alignas(64) R maximum[kTile];
  alignas(64) R inverse[kTile];  // 1 / sum of e; 0 where the pixel does not count
  alignas(64) R log_sum[kTile];  // log of the sum of e
  alignas(64) R pixel_weight[kTile];
  int bad;
};

template <typename T, typename R>
inline void begin_targets_tile(const OverlapStatsInputs& in, const Span& span, R* __restrict rows,
                               R* __restrict targets, TargetsTile<R>& tile) {
  const int64_t classes = in.classes;
  tile.bad = load_targets(in, span, targets, tile.label);
  for (int64_t c = 0; c < classes; ++c) {
    const R* __restrict row = targets + c * kTile;
    for (int i = 0; i < kTile; ++i) tile.label[i] = row[i] < R(0) ? label_t<R>(-1) : tile.label[i];
  }
  const Layout layout{classes, in.pixels, in.channels_last};
  load_rows(layout, static_cast<const T*>(in.logits), span, rows);
  clear_ignored(classes, tile.label, rows);
  clear_ignored(classes, tile.label, targets);
  load_pixel_weights(in, span, tile.pixel_weight);
  for (int i = 0; i < kTile; ++i) {
    tile.pixel_weight[i] = tile.label[i] >= 0 ? tile.pixel_weight[i] : R(0);
  }

  R* __restrict sum = tile.log_sum;
  for (int i = 0; i < kTile; ++i) tile.maximum[i] = rows[i];
  for (int64_t c = 1; c < classes; ++c) {
    const R* __restrict row = rows + c * kTile;
    for (int i = 0; i < kTile; ++i) {
      tile.maximum[i] = row[i] > tile.maximum[i] ? row[i] : tile.maximum[i];
    }
  }
  for (int i = 0; i < kTile; ++i) sum[i] = R(0);
  for (int64_t c = 0; c < classes; ++c) {
    const R* __restrict row = rows + c * kTile;
    for (int i = 0; i < kTile; ++i) sum[i] += segfast::exp_nonpositive(row[i] - tile.maximum[i]);
  }
  for (int i = 0; i < kTile; ++i) {
    tile.inverse[i] = tile.label[i] >= 0 ? R(1) / sum[i] : R(0);
    tile.log_sum[i] = segfast::log_positive(sum[i]);
  }
}

// Class c's share of a pixel's softmax.
template <typename R>
struct ClassTerm {
  R p;
  R others;  // 1 - p
  R nll;     // -log p
};

template <typename R>
inline ClassTerm<R> class_term(const TargetsTile<R>& tile, const R* row, int i) {
  const R logit = row[i] - tile.maximum[i];
  const R p = segfast::exp_nonpositive(logit) * tile.inverse[i];
  return {p, R(1) - p, tile.log_sum[i] - logit};
}

template <typename T, typename R = accumulate_t<T>>
inline void softmax_forward_tile(const OverlapStatsInputs& in, const Span& span, R* rows,
                                 R* targets, const Sums& sums) {
  TargetsTile<R> tile;
  begin_targets_tile<T>(in, span, rows, targets, tile);
  const R gamma = static_cast<R>(in.gamma);
  const R smoothing = static_cast<R>(in.label_smoothing);
  const R share = smoothing / static_cast<R>(in.classes);
  const bool square = in.exponent == 2, minimum = in.minimum;
  double counted = 0.0;
  for (int i = 0; i < kTile; ++i) counted += tile.label[i] >= 0 ? 1.0 : 0.0;

  alignas(64) R probability[kTile], product[kTile], loss[kTile], weight[kTile];
  for (int i = 0; i < kTile; ++i) loss[i] = R(0);
  for (int64_t c = 0; c < in.classes; ++c) {
    const R* __restrict row = rows + c * kTile;
    const R* __restrict target = targets + c * kTile;
    const R class_weight = weight_at<R>(in.class_weight, c);
    for (int i = 0; i < kTile; ++i) {
      const ClassTerm<R> term = class_term(tile, row, i);
      probability[i] = square ? term.p * term.p : term.p;
      product[i] = overlap::intersection_term(term.p, target[i], minimum);
      const R tau = class_weight * ((R(1) - smoothing) * target[i] + share);
      const R phi = overlap::focal_factor(term.others, gamma) * term.nll;
      loss[i] += tau > R(0) ? tau * phi : R(0);  // a logit of -infinity that no target wants
    }
    sums.intersection[c] += sum_row(product);
    sums.probability[c] += sum_row(probability);
    sums.target[c] += sum_row(target);
    sums.pixels[c] += counted;
  }
  *sums.cross_entropy += sum_product(loss, tile.pixel_weight);
  for (int i = 0; i < kTile; ++i) {
    const bool weighs = tile.label[i] >= 0 && !in.dense;
    weight[i] =
        tile.pixel_weight[i] * (weighs ? weight_at<R>(in.class_weight, tile.label[i]) : R(1));
  }
  *sums.weight += sum_row(weight);
  *sums.bad += tile.bad;
}

template <typename T, typename R = accumulate_t<T>>
inline void softmax_backward_tile(const OverlapStatsInputs& in, const Slopes<R>& slopes,
                                  const Span& span, R* rows, R* targets) {
  TargetsTile<R> tile;
  begin_targets_tile<T>(in, span, rows, targets, tile);
  const R gamma = static_cast<R>(in.gamma);
  const R smoothing = static_cast<R>(in.label_smoothing);
  const R share = smoothing / static_cast<R>(in.classes);
  const bool square = in.exponent == 2, minimum = in.minimum;

  // Two passes over the classes: the sums they share, then the gradients.
  alignas(64) R mean[kTile], tau_sum[kTile];
  for (int i = 0; i < kTile; ++i) mean[i] = tau_sum[i] = R(0);
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t c = 0; c < in.classes; ++c) {
      R* __restrict row = rows + c * kTile;
      const R* __restrict target = targets + c * kTile;
      const R a = slopes.intersection[c];
      const R b = slopes.probability[c];
      const R class_weight = weight_at<R>(in.class_weight, c) * slopes.cross_entropy;
      for (int i = 0; i < kTile; ++i) {
        const ClassTerm<R> term = class_term(tile, row, i);
        const R meets = overlap::intersection_slope(term.p, target[i], minimum);
        const R g = (square ? b * term.p : b) + a * meets;
        const R tau = class_weight * ((R(1) - smoothing) * target[i] + share);
        const R slope = overlap::focal_slope(term.p, term.others, term.nll, gamma);
        const R pull = (tau == R(0) ? R(0) : tau * slope) * tile.pixel_weight[i];
        if (pass == 0) {
          mean[i] += term.p * g;
          tau_sum[i] += pull;
        } else {
          const R gradient = term.p * (g - mean[i] + tau_sum[i]) - pull;
          row[i] = tile.label[i] >= 0 ? gradient : R(0);
        }
      }
    }
  }
}

// ---- sigmoid ------------------------------------------------------------------------------------

template <typename T, typename R>
inline int begin_sigmoid_tile(const OverlapStatsInputs& in, const Span& span, R* rows, R* targets,
                              R* pixel_weight) {
  alignas(64) label_t<R> label[kTile];
  const int bad = load_targets(in, span, targets, label);
  const Layout layout{in.classes, in.pixels, in.channels_last};
  load_rows(layout, static_cast<const T*>(in.logits), span, rows);
  load_pixel_weights(in, span, pixel_weight);
  for (int i = 0; i < kTile; ++i) pixel_weight[i] = label[i] >= 0 ? pixel_weight[i] : R(0);
  return bad;
}

template <typename R>
inline overlap::SigmoidOptions<R> sigmoid_options(const OverlapStatsInputs& in, int64_t c) {
  return {weight_at<R>(in.class_weight, c), weight_at<R>(in.pos_weight, c),
          static_cast<R>(in.label_smoothing), static_cast<R>(in.gamma)};
}

template <typename T, typename R = accumulate_t<T>>
inline void sigmoid_forward_tile(const OverlapStatsInputs& in, const Span& span, R* rows,
                                 R* targets, const Sums& sums) {
  alignas(64) R pixel_weight[kTile];
  *sums.bad += begin_sigmoid_tile<T>(in, span, rows, targets, pixel_weight);
  const bool square = in.exponent == 2, minimum = in.minimum;
  alignas(64) R probability[kTile], product[kTile], positive[kTile], counted[kTile], loss[kTile];
  for (int64_t c = 0; c < in.classes; ++c) {
    const R* __restrict row = rows + c * kTile;
    const R* __restrict target = targets + c * kTile;
    const overlap::SigmoidOptions<R> options = sigmoid_options<R>(in, c);
    for (int i = 0; i < kTile; ++i) {
      const bool counts = target[i] >= R(0);
      const R t = counts ? target[i] : R(0);
      const overlap::SigmoidTerm<R> term = overlap::sigmoid_term(counts ? row[i] : R(0));
      const R p = counts ? term.p : R(0);
      probability[i] = square ? p * p : p;
      product[i] = overlap::intersection_term(p, t, minimum);
      positive[i] = t;
      counted[i] = counts ? R(1) : R(0);
      loss[i] = counts ? overlap::sigmoid_loss(term, t, options) : R(0);
    }
    sums.intersection[c] += sum_row(product);
    sums.probability[c] += sum_row(probability);
    sums.target[c] += sum_row(positive);
    sums.pixels[c] += sum_row(counted);
    *sums.cross_entropy += sum_product(loss, pixel_weight);
    *sums.weight += static_cast<double>(options.weight) * sum_product(counted, pixel_weight);
  }
}

template <typename T, typename R = accumulate_t<T>>
inline void sigmoid_backward_tile(const OverlapStatsInputs& in, const Slopes<R>& slopes,
                                  const Span& span, R* rows, R* targets) {
  alignas(64) R pixel_weight[kTile];
  begin_sigmoid_tile<T>(in, span, rows, targets, pixel_weight);
  const bool square = in.exponent == 2, minimum = in.minimum;
  for (int64_t c = 0; c < in.classes; ++c) {
    R* __restrict row = rows + c * kTile;
    const R* __restrict target = targets + c * kTile;
    const overlap::SigmoidOptions<R> options = sigmoid_options<R>(in, c);
    const R a = slopes.intersection[c];
    const R b = slopes.probability[c];
    for (int i = 0; i < kTile; ++i) {
      const bool counts = target[i] >= R(0);
      const R t = counts ? target[i] : R(0);
      const overlap::SigmoidTerm<R> term = overlap::sigmoid_term(counts ? row[i] : R(0));
      const R meets = overlap::intersection_slope(term.p, t, minimum);
      const R region = term.p * term.q * (a * meets + (square ? b * term.p : b));
      const R pixel =
          slopes.cross_entropy * pixel_weight[i] * overlap::sigmoid_slope(term, t, options);
      row[i] = counts ? region + pixel : R(0);
    }
  }
}

}  // namespace
}  // namespace segfast::SEGFAST_ISA
