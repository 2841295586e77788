#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/scratch.h"
#include "kernels/confusion_matrix/confusion_matrix.h"
#include "kernels/confusion_matrix/confusion_matrix_math.h"

#define SEGFAST_ISA_FILE "kernels/confusion_matrix/confusion_matrix_cpu.h"
#include "common/foreach_isa.h"

namespace segfast {
namespace {

void count(const ConfusionMatrixParams& params, int64_t item, int64_t* counts, int64_t* bad,
           void* scratch) {
  SEGFAST_CALL_ISA(confusion_matrix_item, params, item, counts, bad, scratch);
}

void add(int64_t* target, const int64_t* counts, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    if (counts[i] != 0) __atomic_fetch_add(target + i, counts[i], __ATOMIC_RELAXED);
  }
}

}  // namespace

void confusion_matrix_cpu(const ConfusionMatrixParams& params, int64_t begin, int64_t end) {
  const int64_t size = params.classes * params.classes;
  const int64_t chunks = confusion_matrix_chunks(params.pixels);
  const int64_t real = params.dtype == DType::float64 ? sizeof(double) : sizeof(float);
  const Scratch scratch(params.channels * isa_default::kTile * real);
  std::vector<int64_t> counts(static_cast<size_t>(size));
  int64_t bad[2] = {0, 0};
  for (int64_t item = begin; item < end; ++item) {
    count(params, item, counts.data(), bad, scratch.get());
    const bool sample_ends = (item + 1) % chunks == 0;
    if (item + 1 == end || (params.by_sample && sample_ends)) {
      add(params.matrix + (params.by_sample ? item / chunks * size : 0), counts.data(), size);
      counts.assign(counts.size(), 0);
    }
  }
  add(params.bad, bad, 2);
}

}  // namespace segfast
