// confusion_matrix_math.h: the rule of the argmax, once for host and device.
#pragma once

#include "common/host_device.h"

namespace segfast {

// Whether `value`, of a later class, beats `best`: it is larger, or the first NaN. torch.argmax's
// rule.
template <typename R>
SEGFAST_HOST_DEVICE bool beats(R value, R best) {
  return !(value <= best) && best == best;
}

}  // namespace segfast
