#include "kernels/pool_codes/pool_scatter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/dispatch.h"
#include "kernels/pool_codes/known_window.h"

#define SEGFAST_ISA_FILE "kernels/pool_codes/pool_scatter_cpu.h"
#include "common/foreach_isa.h"

namespace segfast {

void pool_scatter_cpu(const PoolScatterParams& p, int64_t begin, int64_t end) {
  SEGFAST_CALL_ISA(pool_scatter, p, begin, end);
}

}  // namespace segfast
