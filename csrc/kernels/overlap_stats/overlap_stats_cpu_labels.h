// overlap_stats_cpu_labels.h: softmax against label maps. A body file of overlap_stats_cpu.h.
namespace segfast::SEGFAST_ISA {

// What one tile's softmax leaves for each pixel; rows become e = exp(z - max z).
template <typename R>
struct SoftmaxTile {
  alignas(64) label_t<R> label[kTile];
  alignas(64) R maximum[kTile];
  alignas(64) R others[kTile];       // sum of e over all classes but the label's
  alignas(64) R inverse[kTile];      // 1 / sum of e; 0 where the pixel does not count
  alignas(64) R label_logit[kTile];  // z_y - max z
  alignas(64) R label_e[kTile];      // e_y; 0 without a label
  alignas(64) R pixel_weight[kTile];
};

template <typename T, typename R>
inline LabelReport begin_tile(const OverlapStatsInputs& in, const Span& span, R* rows,
                              SoftmaxTile<R>& tile) {
  const LabelReport report =
      load_labels<R>(in.target, in.target_type, in.pixels, in.classes,
                     in.has_ignore_index ? &in.ignore_index : nullptr, span, tile.label);
  const Layout layout{in.classes, in.pixels, in.channels_last};
  load_rows(layout, static_cast<const T*>(in.logits), span, rows);
  if (report.ignored != 0) clear_ignored(in.classes, tile.label, rows);
  load_pixel_weights(in, span, tile.label, tile.pixel_weight);
  return report;
}

// others = sum of e over the classes that are not the label, which with label_e gives the sum, and
// 1 - p_y without cancellation.
template <typename R>
inline void softmax_rows(int64_t classes, R* __restrict rows, SoftmaxTile<R>& tile) {
  R* __restrict maximum = tile.maximum;
  R* __restrict others = tile.others;
  const label_t<R>* __restrict label = tile.label;
  for (int i = 0; i < kTile; ++i) maximum[i] = rows[i];
  for (int64_t c = 1; c < classes; ++c) {
    const R* __restrict row = rows + c * kTile;
    for (int i = 0; i < kTile; ++i) maximum[i] = row[i] > maximum[i] ? row[i] : maximum[i];
  }
  for (int i = 0; i < kTile; ++i) {
    tile.label_logit[i] = label[i] >= 0 ? rows[label[i] * kTile + i] - maximum[i] : R(0);
  }
  for (int i = 0; i < kTile; ++i) others[i] = R(0);
  for (int64_t c = 0; c < classes; ++c) {
    R* __restrict row = rows + c * kTile;
    const label_t<R> this_class = static_cast<label_t<R>>(c);
    for (int i = 0; i < kTile; ++i) {
      const R e = exp_nonpositive(row[i] - maximum[i]);
      row[i] = e;
      others[i] += label[i] == this_class ? R(0) : e;
    }
  }
  for (int i = 0; i < kTile; ++i) {
    const R e = exp_nonpositive(tile.label_logit[i]);
    tile.label_e[i] = label[i] >= 0 ? e : R(0);
    const R inverse = R(1) / (others[i] + tile.label_e[i]);
    tile.inverse[i] = label[i] >= 0 ? inverse : R(0);
  }
}

// For one class, p = e * inverse: *probability += sum p^q, *intersection += sum p where the label
// is c, *target += how many labels are c.
template <typename R, bool kSquare>
inline void sum_class(const R* e, const R* inverse, const label_t<R>* label, label_t<R> c,
                      double* intersection, double* probability, double* target) {
  using Value = typename Lanes<R>::Value;
  using Label = typename Lanes<R>::Label;
  const Value zero = {};
  Value all = {}, hits = {}, x, y;
  Label count = {}, l;
  for (int i = 0; i < kTile; i += Lanes<R>::count) {
    std::memcpy(&x, e + i, sizeof x);
    std::memcpy(&y, inverse + i, sizeof y);
    std::memcpy(&l, label + i, sizeof l);
    const Value p = x * y;
    const Label is_c = l == c;
    all += kSquare ? p * p : p;
    hits += is_c ? p : zero;
    count -= is_c;
  }
  *probability += add_lanes<R>(all);
  *intersection += add_lanes<R>(hits);
  label_t<R> lane[Lanes<R>::count];
  std::memcpy(lane, &count, sizeof count);
  label_t<R> total = 0;
  for (int i = 0; i < Lanes<R>::count; ++i) total += lane[i];
  *target += static_cast<double>(total);
}

template <typename T, typename R = accumulate_t<T>>
inline void labels_forward_tile(const OverlapStatsInputs& in, const Span& span, R* rows,
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
      const R weight = weight_at<R>(in.class_weight, c);
      weight_sum += weight;
      for (int i = 0; i < kTile; ++i) smooth[i] += weight * (first[i] - rows[c * kTile + i]);
    }
  }

  softmax_rows(classes, rows, tile);

  alignas(64) R loss[kTile];
  alignas(64) R weight[kTile];
  for (int i = 0; i < kTile; ++i) weight[i] = tile.pixel_weight[i];
  if (in.class_weight != nullptr) {
    for (int i = 0; i < kTile; ++i) {
      weight[i] *= tile.label[i] >= 0 ? weight_at<R>(in.class_weight, tile.label[i]) : R(0);
    }
  }
  for (int i = 0; i < kTile; ++i) {
    // Exact log(1 + small) where the label has the largest logit.
    const R sum = tile.others[i] + tile.label_e[i];
    loss[i] = log_positive(tile.label[i] >= 0 ? sum : R(1)) - tile.label_logit[i];
  }
  if (in.gamma > 0.0) {
    const R gamma = static_cast<R>(in.gamma);
    for (int i = 0; i < kTile; ++i) {
      loss[i] *= overlap::focal_factor(tile.others[i] * tile.inverse[i], gamma);
    }
  }
  if (smoothing > R(0)) {
    const R share = smoothing / static_cast<R>(classes);
    for (int i = 0; i < kTile; ++i) {
      const R log_sum = loss[i] + tile.label_logit[i];
      const R all = weight_sum * (log_sum + tile.maximum[i] - first[i]) + smooth[i];
      const R smooth_loss =
          (R(1) - smoothing) * weight[i] * loss[i] + share * tile.pixel_weight[i] * all;
      loss[i] = tile.label[i] >= 0 ? smooth_loss : R(0);
    }
    *sums.cross_entropy += sum_row(loss);
  } else {
    *sums.cross_entropy += sum_product(loss, weight);
  }
  *sums.weight += sum_row(weight);
  *sums.bad += report.bad;

  const double counted = static_cast<double>(kTile - report.ignored);
  for (int64_t c = 0; c < classes; ++c) {
    sums.pixels[c] += counted;
    const auto sum = in.exponent == 2 ? sum_class<R, true> : sum_class<R, false>;
    sum(rows + c * kTile, tile.inverse, tile.label, static_cast<label_t<R>>(c),
        sums.intersection + c, sums.probability + c, sums.target + c);
  }
}

// rows become d loss / d logits.
template <typename R, bool kSquare>
inline void labels_backward_rows(const OverlapStatsInputs& in, const Slopes<R>& slopes, R* rows,
                                 SoftmaxTile<R>& tile) {
  const int64_t classes = in.classes;
  const label_t<R>* __restrict label = tile.label;

  // common = e sum_c tau_c K - sum_c p_c g_c: p_c's factor that all classes share.
  alignas(64) R common[kTile];
  for (int i = 0; i < kTile; ++i) common[i] = R(0);
  for (int64_t c = 0; c < classes; ++c) {
    const R slope = slopes.probability[c];
    const R* __restrict row = rows + c * kTile;
    for (int i = 0; i < kTile; ++i) common[i] -= slope * (kSquare ? row[i] * row[i] : row[i]);
  }
  R smooth_sum = R(0);
  for (int64_t c = 0; c < classes; ++c) smooth_sum += slopes.smooth[c];
  alignas(64) R label_slope[kTile];
  alignas(64) R label_weight[kTile];
  for (int i = 0; i < kTile; ++i) {
    label_slope[i] = label[i] >= 0 ? slopes.intersection[label[i]] : R(0);
    label_weight[i] = label[i] >= 0 ? weight_at<R>(in.class_weight, label[i]) : R(0);
  }
  const R factor = slopes.cross_entropy * (R(1) - static_cast<R>(in.label_smoothing));
  for (int i = 0; i < kTile; ++i) {
    label_weight[i] = factor * label_weight[i] + smooth_sum;
  }
  if (in.gamma > 0.0) {  // without label smoothing: that is not for the fast path
    const R gamma = static_cast<R>(in.gamma);
    for (int i = 0; i < kTile; ++i) {
      const R sum = label[i] >= 0 ? tile.others[i] + tile.label_e[i] : R(1);
      const R nll = log_positive(sum) - tile.label_logit[i];
      label_weight[i] *= overlap::focal_slope(tile.label_e[i] * tile.inverse[i],
                                              tile.others[i] * tile.inverse[i], nll, gamma);
    }
  }
  for (int i = 0; i < kTile; ++i) {
    const R inverse = tile.inverse[i];
    common[i] = common[i] * (kSquare ? inverse * inverse : inverse) -
                label_slope[i] * tile.label_e[i] * inverse + label_weight[i] * tile.pixel_weight[i];
  }

  // The true class gets minus the sum of the others.
  alignas(64) R rest[kTile];
  for (int i = 0; i < kTile; ++i) rest[i] = R(0);
  for (int64_t c = 0; c < classes; ++c) {
    R* __restrict row = rows + c * kTile;
    const R slope = slopes.probability[c];
    const R smooth = slopes.smooth[c];
    const label_t<R> this_class = static_cast<label_t<R>>(c);
    for (int i = 0; i < kTile; ++i) {
      const R p = row[i] * tile.inverse[i];
      const R gradient =
          p * ((kSquare ? slope * p : slope) + common[i]) - smooth * tile.pixel_weight[i];
      row[i] = gradient;
      rest[i] -= label[i] == this_class ? R(0) : gradient;
    }
  }
  for (int i = 0; i < kTile; ++i) {
    if (label[i] >= 0) rows[label[i] * kTile + i] = rest[i];
  }
}

template <typename T, typename R = accumulate_t<T>>
inline void labels_backward_tile(const OverlapStatsInputs& in, const Slopes<R>& slopes,
                                 const Span& span, R* rows) {
  SoftmaxTile<R> tile;
  begin_tile<T>(in, span, rows, tile);
  softmax_rows(in.classes, rows, tile);
  if (in.exponent == 2) {
    labels_backward_rows<R, true>(in, slopes, rows, tile);
  } else {
    labels_backward_rows<R, false>(in, slopes, rows, tile);
  }
}

}  // namespace segfast::SEGFAST_ISA
