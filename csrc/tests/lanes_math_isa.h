// lanes_math_isa.h: loops of test_lanes_math.cpp, compiled once for each instruction set.
#include "common/lanes.h"
#include "common/lanes_math.h"

namespace segfast::SEGFAST_ISA {

// y [count] = the function of x [count]; count is whole vectors.
void evaluate(Function function, const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<float>) {
    const auto value = load_vector<lanes_t<float>>(x + i);
    switch (function) {
      case Function::exp_nonpositive:
        store_vector(y + i, exp_nonpositive(value));
        break;
      case Function::log_positive:
        store_vector(y + i, log_positive(value));
        break;
      case Function::log1p_unit:
        store_vector(y + i, log1p_unit(value));
        break;
    }
  }
}

}  // namespace segfast::SEGFAST_ISA
