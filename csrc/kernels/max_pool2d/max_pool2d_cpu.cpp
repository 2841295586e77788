#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/max_pool2d/max_pool2d.h"
#include "kernels/pool_codes/known_window.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SEGFAST_ISA_FILE "kernels/max_pool2d/max_pool2d_cpu.h"
#include "common/foreach_isa.h"

namespace segfast {

void max_pool2d_cpu(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  SEGFAST_CALL_ISA(max_pool2d, p, begin, end);
}

void max_pool2d_backward_cpu(const MaxPool2dBackwardParams& p, int64_t begin, int64_t end) {
  SEGFAST_CALL_ISA(max_pool2d_backward, p, begin, end);
}

}  // namespace segfast
