#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "common/scratch.h"
#include "kernels/overlap_stats/overlap_stats.h"

#define SEGFAST_ISA_FILE "kernels/overlap_stats/overlap_stats_cpu.h"
#include "common/foreach_isa.h"

namespace segfast {
namespace {

void run(const OverlapStatsParams& params, int64_t begin, int64_t end, void* scratch) {
  SEGFAST_CALL_ISA(overlap_stats_range, params, begin, end, scratch);
}

void run(const OverlapStatsBackwardParams& params, int64_t begin, int64_t end, void* scratch) {
  SEGFAST_CALL_ISA(overlap_stats_backward_range, params, begin, end, scratch);
}

}  // namespace

void overlap_stats_cpu(const OverlapStatsParams& params, int64_t begin, int64_t end) {
  const Scratch scratch(isa_default::overlap_stats_scratch_bytes(params.in));
  run(params, begin, end, scratch.get());
}

void overlap_stats_backward_cpu(const OverlapStatsBackwardParams& params, int64_t begin,
                                int64_t end) {
  const Scratch scratch(isa_default::overlap_stats_scratch_bytes(params.in));
  run(params, begin, end, scratch.get());
}

int64_t overlap_stats_finish_cpu(const OverlapStatsParams& params) {
  const int64_t classes = params.in.classes;
  const int64_t chunks = overlap_stats_chunks(params.in);
  const int64_t size = overlap_stats_partial_size(classes);
  double* const by_class[4] = {params.intersection, params.probability, params.target,
                               params.pixels};
  double bad = 0.0;
  for (int64_t n = 0; n < params.in.samples; ++n) {
    for (int64_t i = 0; i < size; ++i) {
      double sum = 0.0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        sum += params.partials[(n * chunks + chunk) * size + i];
      }
      if (i < 4 * classes) {
        by_class[i / classes][n * classes + i % classes] = sum;
      } else if (i == 4 * classes) {
        params.cross_entropy[n] = sum;
      } else if (i == 4 * classes + 1) {
        params.weight[n] = sum;
      } else {
        bad += sum;
      }
    }
  }
  return static_cast<int64_t>(bad);
}

}  // namespace segfast
