// overlap_stats_math.h: the formulas of one pixel, forward and backward, once for CPU and GPU.
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
//
// R is a number (scalar_math.h) or a vector of them (lanes_math.h), S a number. A body file: before
// it, SEGFAST_FORMULAS is defined as the namespace that it fills, within segfast, and
// SEGFAST_FORMULA as what a function of it begins with.
namespace segfast::SEGFAST_FORMULAS {

// A pixel's share of the intersection, and its derivative by p.
template <typename R>
SEGFAST_FORMULA R intersection_term(R p, R t, bool minimum) {
  return minimum ? select(p < t, p, t) : p * t;
}
template <typename R>
SEGFAST_FORMULA R intersection_slope(R p, R t, bool minimum) {
  const R not_below = select(p > t, constant<R>(0), constant<R>(0.5));
  return minimum ? select(p < t, constant<R>(1), not_below) : t;
}

// u^gamma for 0 <= u <= 1 and gamma > 0.
template <typename R, typename S>
SEGFAST_FORMULA R unit_power(R u, S gamma) {
  const R tiny = constant<R>(1.2e-38), one = constant<R>(1);
  const R power = exp_nonpositive(gamma * log_positive(select(u > tiny, u, tiny)));
  return select(u > tiny, select(u < one, power, one), u * S(0));  // u * 0: NaN stays NaN
}

// (1 - p)^gamma, from `others` = 1 - p.
template <typename R, typename S>
SEGFAST_FORMULA R focal_factor(R others, S gamma) {
  if (gamma == S(0)) return constant<R>(1);
  return unit_power(others, gamma);
}

// x, but not less than what can be divided by.
template <typename R>
SEGFAST_FORMULA R divisor(R x) {
  const R tiny = constant<R>(1e-30);
  return select(x > tiny, x, tiny);
}

// K(p) from others = 1 - p and nll = -log p.
template <typename R, typename S>
SEGFAST_FORMULA R focal_slope(R p, R others, R nll, S gamma) {
  if (gamma == S(0)) return constant<R>(1);
  const R factor = unit_power(others, gamma);
  // The second term is p log p (1 - p)^gamma / (1 - p), whose limit at p = 1 is 0 for gamma > 0.
  return factor + gamma * p * nll * (factor / divisor(others));
}

template <typename R>
struct SigmoidTerm {
  R p;      // sigmoid(z)
  R q;      // 1 - p, without cancellation
  R plus;   // softplus(z)  = -log(1 - p)
  R minus;  // softplus(-z) = -log(p)
};

template <typename R>
SEGFAST_FORMULA SigmoidTerm<R> sigmoid_term(R z) {
  const R zero = constant<R>(0), one = constant<R>(1);
  const R magnitude = select(z < zero, -z, z);
  const R e = exp_nonpositive(-magnitude);
  const R large = one / (one + e);
  const R small = e * large;
  const R log_term = log1p_unit(e);
  const auto positive = z > zero;
  return {select(positive, large, small), select(positive, small, large),
          select(positive, z, zero) + log_term, select(positive, zero, -z) + log_term};
}

// The options of l for one class.
template <typename S>
struct SigmoidOptions {
  S weight;
  S pos_weight;
  S smoothing;
  S gamma;
};

// b(z, t); a target of exactly 0 or 1 keeps it finite where the logit is infinite and right.
template <typename R, typename S>
SEGFAST_FORMULA R binary_cross_entropy(const SigmoidTerm<R>& s, R t, S pos_weight) {
  const R zero = constant<R>(0), one = constant<R>(1);
  const R positive = pos_weight * t * s.minus;
  const R negative = (one - t) * s.plus;
  return select(t == zero, zero, positive) + select(t == one, zero, negative);
}

template <typename R, typename S>
SEGFAST_FORMULA R smoothed(R t, const SigmoidOptions<S>& options) {
  return t + options.smoothing * (constant<R>(1) - constant<R>(2) * t);
}

template <typename R, typename S>
SEGFAST_FORMULA R sigmoid_loss(const SigmoidTerm<R>& s, R t, const SigmoidOptions<S>& options) {
  const R smooth_t = smoothed(t, options);
  const R b = binary_cross_entropy(s, smooth_t, options.pos_weight);
  const R u = s.p * (constant<R>(1) - smooth_t) + s.q * smooth_t;
  return options.weight * focal_factor(u, options.gamma) * b;
}

template <typename R, typename S>
SEGFAST_FORMULA R sigmoid_slope(const SigmoidTerm<R>& s, R t, const SigmoidOptions<S>& options) {
  const R one = constant<R>(1), smooth_t = smoothed(t, options);
  const R slope = (one - smooth_t) * s.p - options.pos_weight * smooth_t * s.q;
  if (options.gamma == S(0)) return options.weight * slope;
  const R b = binary_cross_entropy(s, smooth_t, options.pos_weight);
  const R u = s.p * (one - smooth_t) + s.q * smooth_t;
  const R ratio = s.p * s.q / divisor(u);
  return options.weight * unit_power(u, options.gamma) *
         (slope + options.gamma * (one - constant<R>(2) * smooth_t) * ratio * b);
}

}  // namespace segfast::SEGFAST_FORMULAS

#undef SEGFAST_FORMULAS
#undef SEGFAST_FORMULA
