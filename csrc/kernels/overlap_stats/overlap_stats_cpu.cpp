#include <cstring>
#include <memory>
#include <type_traits>

#include "kernels/overlap_stats/overlap_stats.h"
#include "kernels/overlap_stats/overlap_stats_math.h"

#define SEGFAST_ISA_FILE "kernels/overlap_stats/overlap_stats_cpu.h"
#include "common/foreach_isa.h"

namespace segfast {
namespace {

constexpr int64_t kTilePixels = isa_default::kTile;

// Two tiles of all classes and a sample's derivatives, aligned for vectors.
class Scratch {
 public:
  explicit Scratch(const OverlapStatsInputs& in)
      : storage_(new unsigned char[static_cast<size_t>(size(in) + kAlignment)]) {}

  void* get() {
    const uintptr_t address = reinterpret_cast<uintptr_t>(storage_.get());
    return reinterpret_cast<void*>(ceil_div(address, kAlignment) * kAlignment);
  }

 private:
  static constexpr uintptr_t kAlignment = 64;

  static uintptr_t size(const OverlapStatsInputs& in) {
    const uintptr_t real = in.dtype == DType::float64 ? sizeof(double) : sizeof(float);
    return static_cast<uintptr_t>(in.classes) * (2 * kTilePixels + 3) * real;
  }

  std::unique_ptr<unsigned char[]> storage_;
};

void run(const OverlapStatsParams& params, int64_t begin, int64_t end, void* scratch) {
  SEGFAST_CALL_ISA(overlap_stats_range, params, begin, end, scratch);
}

void run(const OverlapStatsBackwardParams& params, int64_t begin, int64_t end, void* scratch) {
  SEGFAST_CALL_ISA(overlap_stats_backward_range, params, begin, end, scratch);
}

}  // namespace

void overlap_stats_cpu(const OverlapStatsParams& params, int64_t begin, int64_t end) {
  Scratch scratch(params.in);
  run(params, begin, end, scratch.get());
}

void overlap_stats_backward_cpu(const OverlapStatsBackwardParams& params, int64_t begin,
                                int64_t end) {
  Scratch scratch(params.in);
  run(params, begin, end, scratch.get());
}

int64_t overlap_stats_finish_cpu(const OverlapStatsParams& params) {
  const int64_t classes = params.in.classes;
  const int64_t chunks = overlap_stats_chunks(params.in.pixels, false);
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
