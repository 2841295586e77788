#include "kernels/pool_codes/pool_codes_group.h"

namespace segfast {
namespace {

void mark_bad(int32_t* bad) { __atomic_store_n(bad, 1, __ATOMIC_RELAXED); }

}  // namespace

void codes_to_indices_cpu(const PoolCodesParams& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    if (!codes_to_indices_group(p, item)) mark_bad(p.bad);
  }
}

void indices_to_codes_cpu(const PoolCodesParams& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    if (!indices_to_codes_group(p, item)) mark_bad(p.bad);
  }
}

}  // namespace segfast
