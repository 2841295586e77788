#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/max_unpool2d/max_unpool2d.h"

namespace segfast {
namespace {

std::string map_size(const PoolShape& s) {
  return std::to_string(s.height) + "x" + std::to_string(s.width);
}

[[noreturn]] void throw_bad_index(int64_t index, const PoolShape& s) {
  throw std::runtime_error("Found an invalid max index: " + std::to_string(index) +
                           " (output volumes are of size " + map_size(s) + ")");
}

[[noreturn]] void throw_bad_code(int code, const PoolShape& s) {
  throw std::runtime_error("Found an invalid max index: code " + std::to_string(code) +
                           " names no position of its window inside the map (output volumes are "
                           "of size " +
                           map_size(s) + ")");
}

}  // namespace
}  // namespace segfast

#define SEGFAST_ISA_FILE "kernels/max_unpool2d/max_unpool2d_cpu.h"
#include "common/foreach_isa.h"

namespace segfast {

void max_unpool2d_cpu(const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  SEGFAST_CALL_ISA(max_unpool2d, p, begin, end);
}

void max_unpool2d_backward_cpu(const MaxUnpool2dBackwardParams& p, int64_t begin, int64_t end) {
  SEGFAST_CALL_ISA(max_unpool2d_backward, p, begin, end);
}

}  // namespace segfast
