#include <algorithm>
#include <cstring>
#include <utility>

#include "common/types.h"
#include "kernels/pixel_shuffle/pixel_shuffle.h"

namespace segfast {

struct Bytes16 {
  uint64_t low, high;
};

}  // namespace segfast

#define SEGFAST_ISA_FILE "kernels/pixel_shuffle/pixel_shuffle_cpu.h"
#include "common/foreach_isa.h"

namespace segfast {

void pixel_shuffle_cpu(const PixelShuffleParams& params, int64_t begin, int64_t end) {
  SEGFAST_CALL_ISA(pixel_shuffle, params, begin, end);
}

void pixel_unshuffle_cpu(const PixelShuffleParams& params, int64_t begin, int64_t end) {
  SEGFAST_CALL_ISA(pixel_unshuffle, params, begin, end);
}

}  // namespace segfast
