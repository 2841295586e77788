#include "kernels/overlap_loss/overlap_loss_math.h"

namespace segfast {

void overlap_loss_cpu(const OverlapLossParams& params) {
  double sums[kLossSums];
  accumulate(params, 0, 1, sums);
  store_loss(params, loss_of(params, sums));
  differentiate(params, 0, 1, sums);
}

}  // namespace segfast
