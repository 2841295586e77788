// scalar_math.h: for one number what lanes_math.h has for a vector of them, so that a formula can
// be written once for both: the standard functions, constants and a selection.
#pragma once

#include <cmath>

#include "common/types.h"

namespace segfast {

// exp(x) for x <= 0.
SEGFAST_HOST_DEVICE float exp_nonpositive(float x) { return expf(x); }
SEGFAST_HOST_DEVICE double exp_nonpositive(double x) { return exp(x); }

// log(x) for normal positive x.
SEGFAST_HOST_DEVICE float log_positive(float x) { return logf(x); }
SEGFAST_HOST_DEVICE double log_positive(double x) { return log(x); }

// log(1 + e) for 0 <= e <= 1, relatively exact for small e.
SEGFAST_HOST_DEVICE float log1p_unit(float e) { return log1pf(e); }
SEGFAST_HOST_DEVICE double log1p_unit(double e) { return log1p(e); }

// a * b + c, rounded once.
SEGFAST_HOST_DEVICE float madd(float a, float b, float c) { return fmaf(a, b, c); }
SEGFAST_HOST_DEVICE double madd(double a, double b, double c) { return fma(a, b, c); }

template <typename R>
SEGFAST_HOST_DEVICE R constant(double x) {
  return static_cast<R>(x);
}

template <typename R>
SEGFAST_HOST_DEVICE R select(bool condition, R x, R y) {
  return condition ? x : y;
}

}  // namespace segfast
