#include "kernels/pool_codes/pool_codes_group.h"

namespace segfast {

void codes_to_indices_cpu(const PoolCodesParams& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) codes_to_indices_group(p, item);
}

void indices_to_codes_cpu(const PoolCodesParams& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) indices_to_codes_group(p, item);
}

}  // namespace segfast
