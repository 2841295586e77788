// test_lanes_math.cpp: exp and log of lanes_math.h against the C library's in double, by units in
// the last place.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/types.h"
#include "tensors.h"

namespace segfast {
enum class Function { exp_nonpositive, log_positive, log1p_unit };
}

#define SEGFAST_ISA_FILE "tests/lanes_math_isa.h"
#include "common/foreach_isa.h"

using namespace segfast;
using namespace segfast::test;

namespace {

void evaluate(Function function, const float* x, float* y, int64_t count) {
  SEGFAST_CALL_ISA(evaluate, function, x, y, count);
}

constexpr int64_t kBatch = 1024;

// Every `step`-th float from `first` to `last`, both of one sign, by magnitude.
void check_range(Function function, double (*exact)(double), float first, float last, double ulps) {
  const uint32_t step = 331, end = detail::float_to_bits(last);
  std::vector<float> x(kBatch), y(kBatch);
  double worst = 0.0;
  float worst_at = 0.0f;
  for (uint32_t bits = detail::float_to_bits(first); bits <= end; bits += step * kBatch) {
    for (int64_t i = 0; i < kBatch; ++i) {
      const auto at = bits + step * static_cast<uint32_t>(i);
      x[static_cast<size_t>(i)] = detail::bits_to_float(std::min(at, end));
    }
    evaluate(function, x.data(), y.data(), kBatch);
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = exact(static_cast<double>(x[i]));
      const float nearest = std::abs(static_cast<float>(expected));
      const double ulp = static_cast<double>(std::nextafter(nearest, INFINITY) - nearest);
      const double error = std::abs(static_cast<double>(y[i]) - expected) / ulp;
      if (!(error <= worst)) worst = error, worst_at = x[i];
    }
  }
  CHECK(worst <= ulps, show(worst) + " ulp at " + show(worst_at));
}

void check_value(Function function, float x, float expected) {
  const std::vector<float> all(kBatch, x);
  std::vector<float> y(kBatch);
  evaluate(function, all.data(), y.data(), kBatch);
  for (float value : y) {
    const bool same = std::isnan(expected) ? std::isnan(value) : value == expected;
    CHECK(same, show(x) + " became " + show(value) + ", expected " + show(expected));
  }
}

void test_lanes_math(Backend) {
  const float nan = std::nanf(""), odd_nan = detail::bits_to_float(0x7fc00001u);
  const float smallest = std::numeric_limits<float>::min();

  if (begin_case("exp_nonpositive")) {
    const Function exponential = Function::exp_nonpositive;
    check_range(exponential, std::exp, -0.0f, -87.3f, 2);
    check_value(exponential, 0.0f, 1.0f);
    for (float x : {-88.1f, -88.5f, -1e4f, -std::numeric_limits<float>::max(), -INFINITY}) {
      check_value(exponential, x, 0.0f);
    }
    for (float x : {nan, -nan, odd_nan}) check_value(exponential, x, nan);
    for (float x = -87.34f; x > -88.1f; x -= 0.01f) {
      const std::vector<float> all(kBatch, x);
      std::vector<float> y(kBatch);
      evaluate(exponential, all.data(), y.data(), kBatch);
      CHECK(y[0] >= 0.0f && y[0] < smallest, show(x) + " became " + show(y[0]));
    }
  }
  if (begin_case("log_positive")) {
    check_range(Function::log_positive, std::log, smallest, std::numeric_limits<float>::max(), 2);
    check_value(Function::log_positive, 1.0f, 0.0f);
    check_value(Function::log_positive, INFINITY, INFINITY);
    for (float x : {nan, odd_nan}) check_value(Function::log_positive, x, nan);
  }
  if (begin_case("log1p_unit")) {
    check_range(Function::log1p_unit, std::log1p, smallest, 1.0f, 2);
    check_value(Function::log1p_unit, 0.0f, 0.0f);
    check_value(Function::log1p_unit, nan, nan);
  }
}

}  // namespace

int main(int argc, char** argv) { return op_main(argc, argv, test_lanes_math); }
