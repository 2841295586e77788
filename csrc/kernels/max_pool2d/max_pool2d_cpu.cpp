#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/max_pool2d/max_pool2d.h"

#define SEGFAST_ISA_FILE "kernels/max_pool2d/max_pool2d_cpu.h"
#include "common/foreach_isa.h"

namespace segfast {

void max_pool2d_cpu(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  SEGFAST_CALL_ISA(max_pool2d, p, begin, end);
}

void max_pool2d_backward_cpu(const MaxPool2dBackwardParams& p, int64_t begin, int64_t end) {
  pool_scatter_cpu({p.grad_output, p.record, p.grad_input, nullptr, Combine::sum, p.record_kind,
                    p.dtype, p.shape, p.window},
                   begin, end);
}

}  // namespace segfast
