#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

#include "kernels/pixel_shuffle/pixel_shuffle_math.h"
#include "kernels/subpixel_upsample/subpixel_upsample.h"
#include "kernels/subpixel_upsample/subpixel_upsample_math.h"

#define SEGFAST_ISA_FILE "kernels/subpixel_upsample/subpixel_upsample_cpu.h"
#include "common/foreach_isa.h"

namespace segfast {

void subpixel_upsample_cpu(const SubpixelUpsampleParams& p, int64_t begin, int64_t end) {
  SEGFAST_CALL_ISA(subpixel_upsample, p, begin, end);
}

void subpixel_upsample_backward_cpu(const SubpixelUpsampleBackwardParams& p, int64_t begin,
                                    int64_t end) {
  SEGFAST_CALL_ISA(subpixel_upsample_backward, p, begin, end);
}

}  // namespace segfast
