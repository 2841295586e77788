// overlap_stats_math.h: the formulas of one pixel, forward and backward, once for host and device.
//
// Softmax, p = e / s with e_c = exp(z_c - max z), s = sum e:
//   l = sum_c tau_c phi(p_c),  tau_c = w_c ((1 - eps) t_c + eps / C),
//   phi(p) = -(1 - p)^gamma log p
//   dl/dz_k = p_k sum_c tau_c K(p_c) - tau_k K(p_k),
//   K(p) = (1 - p)^gamma - gamma p (1 - p)^(gamma-1) log p
//   d(sums)/dz_k = p_k (g_k - sum_c p_c g_c),  g_c = A_c i(p_c, t_c) + q B_c p_c^(q-1)
// where A, B and e are the loss's derivatives by intersection, probability and cross_entropy, and
// i = t, or for min(p, t) 1 where p < t, 0 where p > t, and 1/2 where they are equal. With hard
// labels the derivative by the true class's logit is taken as minus the sum of all others: p_y - 1
// would cancel where the network is sure.
//
// Sigmoid, each class by itself, t' = t (1 - eps) + (1 - t) eps:
//   l  = w u^gamma b,  b = pos_weight t' softplus(-z) + (1 - t') softplus(z),  u = p + t' - 2 p t'
//   dl/dz = w (u^gamma b' + gamma u^(gamma-1) (1 - 2 t') p (1 - p) b)
//   b' = (1 - t') p - pos_weight t' (1 - p)
#pragma once

#include "common/vector_math.h"

namespace segfast::overlap {

// A pixel's share of the intersection, and its derivative by p.
template <typename R>
SEGFAST_HOST_DEVICE R intersection_term(R p, R t, bool minimum) {
  return minimum ? (p < t ? p : t) : p * t;
}
template <typename R>
SEGFAST_HOST_DEVICE R intersection_slope(R p, R t, bool minimum) {
  return minimum ? (p < t ? R(1) : p > t ? R(0) : R(0.5)) : t;
}

// (1 - p)^gamma, from `others` = 1 - p.
template <typename R>
SEGFAST_HOST_DEVICE R focal_factor(R others, R gamma) {
  return gamma == R(0) ? R(1) : unit_power(others, gamma);
}

// K(p) from others = 1 - p and nll = -log p.
template <typename R>
SEGFAST_HOST_DEVICE R focal_slope(R p, R others, R nll, R gamma) {
  if (gamma == R(0)) return R(1);
  const R factor = unit_power(others, gamma);
  // The second term is p log p (1 - p)^gamma / (1 - p), whose limit at p = 1 is 0 for gamma > 0.
  const R tiny = R(1e-30);
  return factor + gamma * p * nll * (factor / (others > tiny ? others : tiny));
}

template <typename R>
struct SigmoidTerm {
  R p;      // sigmoid(z)
  R q;      // 1 - p, without cancellation
  R plus;   // softplus(z)  = -log(1 - p)
  R minus;  // softplus(-z) = -log(p)
};

template <typename R>
SEGFAST_HOST_DEVICE SigmoidTerm<R> sigmoid_term(R z) {
  const R magnitude = z < R(0) ? -z : z;
  const R e = exp_nonpositive(-magnitude);
  const R large = R(1) / (R(1) + e);
  const R small = e * large;
  const R log_term = log1p_unit(e);
  const bool positive = z > R(0);
  return {positive ? large : small, positive ? small : large, (positive ? z : R(0)) + log_term,
          (positive ? R(0) : -z) + log_term};
}

// The options of l for one class.
template <typename R>
struct SigmoidOptions {
  R weight;
  R pos_weight;
  R smoothing;
  R gamma;
};

// b(z, t); a target of exactly 0 or 1 keeps it finite where the logit is infinite and right.
template <typename R>
SEGFAST_HOST_DEVICE R binary_cross_entropy(const SigmoidTerm<R>& s, R t, R pos_weight) {
  const R positive = pos_weight * t * s.minus;
  const R negative = (R(1) - t) * s.plus;
  return (t == R(0) ? R(0) : positive) + (t == R(1) ? R(0) : negative);
}

template <typename R>
SEGFAST_HOST_DEVICE R sigmoid_loss(const SigmoidTerm<R>& s, R t, const SigmoidOptions<R>& options) {
  const R smooth_t = t + options.smoothing * (R(1) - R(2) * t);
  const R b = binary_cross_entropy(s, smooth_t, options.pos_weight);
  const R u = s.p * (R(1) - smooth_t) + s.q * smooth_t;
  return options.weight * focal_factor(u, options.gamma) * b;
}

template <typename R>
SEGFAST_HOST_DEVICE R sigmoid_slope(const SigmoidTerm<R>& s, R t,
                                    const SigmoidOptions<R>& options) {
  const R smooth_t = t + options.smoothing * (R(1) - R(2) * t);
  const R slope = (R(1) - smooth_t) * s.p - options.pos_weight * smooth_t * s.q;
  if (options.gamma == R(0)) return options.weight * slope;
  const R b = binary_cross_entropy(s, smooth_t, options.pos_weight);
  const R u = s.p * (R(1) - smooth_t) + s.q * smooth_t;
  const R tiny = R(1e-30);
  const R ratio = s.p * s.q / (u > tiny ? u : tiny);
  return options.weight * unit_power(u, options.gamma) *
         (slope + options.gamma * (R(1) - R(2) * smooth_t) * ratio * b);
}

}  // namespace segfast::overlap
