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

  using V = lanes_t<R>;
  for (int i = 0; i < kTile; i += kLanes<R>) {
    V maximum = lanes_at(rows + i), sum = {};
    for (int64_t c = 1; c < classes; ++c) maximum = larger(lanes_at(rows + c * kTile + i), maximum);
    for (int64_t c = 0; c < classes; ++c) {
      sum += exp_nonpositive(lanes_at(rows + c * kTile + i) - maximum);
    }
    const auto counts = load_vector<signed_t<R>>(tile.label + i) >= 0;
    store_vector(tile.maximum + i, maximum);
    store_vector(tile.inverse + i, keep(counts, R(1) / sum));
    store_vector(tile.log_sum + i, log_positive(sum));
  }
}

// Class c's share of a vector of pixels' softmax.
template <typename V>
struct ClassTerm {
  V p;
  V others;  // 1 - p
  V nll;     // -log p
};

template <typename R>
SEGFAST_LANES ClassTerm<lanes_t<R>> class_term(const TargetsTile<R>& tile, const R* row, int i) {
  const lanes_t<R> logit = lanes_at(row + i) - lanes_at(tile.maximum + i);
  const lanes_t<R> p = exp_nonpositive(logit) * lanes_at(tile.inverse + i);
  return {p, R(1) - p, lanes_at(tile.log_sum + i) - logit};
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

  using V = lanes_t<R>;
  alignas(64) R loss[kTile] = {}, weight[kTile];
  for (int64_t c = 0; c < in.classes; ++c) {
    const R* row = rows + c * kTile;
    const R class_weight = weight_at<R>(in.class_weight, c);
    V probability = {}, intersection = {}, target_sum = {};
    for (int i = 0; i < kTile; i += kLanes<R>) {
      const ClassTerm<V> term = class_term(tile, row, i);
      const V target = lanes_at(targets + c * kTile + i);
      probability += square ? term.p * term.p : term.p;
      intersection += overlap::intersection_term(term.p, target, minimum);
      target_sum += target;
      const V tau = class_weight * ((R(1) - smoothing) * target + share);
      const V phi = overlap::focal_factor(term.others, gamma) * term.nll;
      // A logit of -infinity that no target wants has a phi of infinity.
      store_vector(loss + i, lanes_at(loss + i) + select(tau > R(0), tau * phi, V{}));
    }
    sums.intersection[c] += sum_lanes(intersection);
    sums.probability[c] += sum_lanes(probability);
    sums.target[c] += sum_lanes(target_sum);
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
  using V = lanes_t<R>;
  alignas(64) R mean[kTile] = {}, tau_sum[kTile] = {};
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t c = 0; c < in.classes; ++c) {
      R* row = rows + c * kTile;
      const R a = slopes.intersection[c];
      const R b = slopes.probability[c];
      const R class_weight = weight_at<R>(in.class_weight, c) * slopes.cross_entropy;
      for (int i = 0; i < kTile; i += kLanes<R>) {
        const ClassTerm<V> term = class_term(tile, row, i);
        const V target = lanes_at(targets + c * kTile + i);
        const V meets = overlap::intersection_slope(term.p, target, minimum);
        const V g = (square ? b * term.p : constant<V>(b)) + a * meets;
        const V tau = class_weight * ((R(1) - smoothing) * target + share);
        const V slope = overlap::focal_slope(term.p, term.others, term.nll, gamma);
        const V pull = select(tau == R(0), V{}, tau * slope) * lanes_at(tile.pixel_weight + i);
        if (pass == 0) {
          store_vector(mean + i, madd(term.p, g, lanes_at(mean + i)));
          store_vector(tau_sum + i, lanes_at(tau_sum + i) + pull);
        } else {
          const V factor = g - lanes_at(mean + i) + lanes_at(tau_sum + i);
          const auto counts = load_vector<signed_t<R>>(tile.label + i) >= 0;
          store_vector(row + i, keep(counts, madd(term.p, factor, -pull)));
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

// A vector of pixels of one class.
template <typename R>
struct SigmoidPixels {
  using V = lanes_t<R>;
  signed_t<R> counts;  // all bits set where the target does
  V target;            // 0 where it does not
  overlap::SigmoidTerm<V> term;

  SEGFAST_LANES SigmoidPixels(const R* row, const R* targets) {
    counts = lanes_at(targets) >= R(0);
    target = keep(counts, lanes_at(targets));
    term = overlap::sigmoid_term(keep(counts, lanes_at(row)));
  }
};

template <typename T, typename R = accumulate_t<T>>
inline void sigmoid_forward_tile(const OverlapStatsInputs& in, const Span& span, R* rows,
                                 R* targets, const Sums& sums) {
  using V = lanes_t<R>;
  alignas(64) R pixel_weight[kTile];
  *sums.bad += begin_sigmoid_tile<T>(in, span, rows, targets, pixel_weight);
  const bool square = in.exponent == 2, minimum = in.minimum;
  for (int64_t c = 0; c < in.classes; ++c) {
    const overlap::SigmoidOptions<R> options = sigmoid_options<R>(in, c);
    V probability = {}, intersection = {}, target = {}, pixels = {}, entropy = {}, weight = {};
    for (int i = 0; i < kTile; i += kLanes<R>) {
      const SigmoidPixels<R> x(rows + c * kTile + i, targets + c * kTile + i);
      const V p = keep(x.counts, x.term.p), counted = keep(x.counts, constant<V>(1));
      const V loss = keep(x.counts, overlap::sigmoid_loss(x.term, x.target, options));
      probability += square ? p * p : p;
      intersection += overlap::intersection_term(p, x.target, minimum);
      target += x.target;
      pixels += counted;
      entropy = madd(loss, lanes_at(pixel_weight + i), entropy);
      weight = madd(counted, lanes_at(pixel_weight + i), weight);
    }
    sums.intersection[c] += sum_lanes(intersection);
    sums.probability[c] += sum_lanes(probability);
    sums.target[c] += sum_lanes(target);
    sums.pixels[c] += sum_lanes(pixels);
    *sums.cross_entropy += sum_lanes(entropy);
    *sums.weight += static_cast<double>(options.weight) * sum_lanes(weight);
  }
}

template <typename T, typename R = accumulate_t<T>>
inline void sigmoid_backward_tile(const OverlapStatsInputs& in, const Slopes<R>& slopes,
                                  const Span& span, R* rows, R* targets) {
  using V = lanes_t<R>;
  alignas(64) R pixel_weight[kTile];
  begin_sigmoid_tile<T>(in, span, rows, targets, pixel_weight);
  const bool square = in.exponent == 2, minimum = in.minimum;
  for (int64_t c = 0; c < in.classes; ++c) {
    const overlap::SigmoidOptions<R> options = sigmoid_options<R>(in, c);
    const R a = slopes.intersection[c];
    const R b = slopes.probability[c];
    for (int i = 0; i < kTile; i += kLanes<R>) {
      R* row = rows + c * kTile + i;
      const SigmoidPixels<R> x(row, targets + c * kTile + i);
      const V p = x.term.p;
      const V meets = overlap::intersection_slope(p, x.target, minimum);
      const V region = p * x.term.q * (a * meets + (square ? b * p : constant<V>(b)));
      const V weight = slopes.cross_entropy * lanes_at(pixel_weight + i);
      const V pixel = weight * overlap::sigmoid_slope(x.term, x.target, options);
      store_vector(row, keep(x.counts, region + pixel));
    }
  }
}

}  // namespace
}  // namespace segfast::SEGFAST_ISA
