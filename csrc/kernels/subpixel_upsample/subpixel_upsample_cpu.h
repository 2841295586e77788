// subpixel_upsample_cpu.h: compiled once for each instruction set by subpixel_upsample_cpu.cpp.
//
// Factor 2 works on vectors of neighbouring 2x2 cells: along the width in torch.contiguous_format,
// along the channels in torch.channels_last. Runs shorter than a vector are copied to where they
// are one. Other factors, and masks that are given to the forward pass, go element by element.
#include "common/lanes.h"
#include "common/lanes_math.h"

#define SEGFAST_FORMULAS SEGFAST_ISA::fused
#define SEGFAST_FORMULA SEGFAST_LANES
#include "kernels/subpixel_upsample/blur_fused_math.h"

#include "kernels/subpixel_upsample/cells_cpu.h"
#include "kernels/subpixel_upsample/mask_bits_cpu.h"
#include "kernels/subpixel_upsample/runs_cpu.h"

#include "kernels/subpixel_upsample/gradient_rows_cpu.h"
#include "kernels/subpixel_upsample/upsample_rows_cpu.h"

namespace segfast {
namespace SEGFAST_ISA {

void subpixel_upsample(const SubpixelUpsampleParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::float64:
      return upsample_rows<double>(p, begin, end);
    case DType::float16:
      return upsample_rows<Half>(p, begin, end);
    case DType::bfloat16:
      return upsample_rows<BFloat16>(p, begin, end);
    case DType::float32:
      return upsample_rows<float>(p, begin, end);
  }
}

void subpixel_upsample_backward(const SubpixelUpsampleBackwardParams& p, int64_t begin,
                                int64_t end) {
  switch (p.dtype) {
    case DType::float64:
      return gradient_rows<double>(p, begin, end);
    case DType::float16:
      return gradient_rows<Half>(p, begin, end);
    case DType::bfloat16:
      return gradient_rows<BFloat16>(p, begin, end);
    case DType::float32:
      return gradient_rows<float>(p, begin, end);
  }
}

}  // namespace SEGFAST_ISA
}  // namespace segfast
