#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "common/types.h"
#include "kernels/bandwidth/bandwidth.h"

namespace segfast {
namespace {

struct Part {
  size_t first, bytes;
};

// Part `item` of `items` nearly equal ones, on borders of cache lines.
Part part_of(size_t bytes, int64_t item, int64_t items) {
  const size_t lines = (bytes + 63) / 64;
  const size_t first = lines * static_cast<size_t>(item) / static_cast<size_t>(items) * 64;
  const size_t next = lines * static_cast<size_t>(item + 1) / static_cast<size_t>(items) * 64;
  const size_t last = next < bytes ? next : bytes;
  return {first, last > first ? last - first : 0};
}

}  // namespace
}  // namespace segfast

#define SEGFAST_ISA_FILE "kernels/bandwidth/bandwidth_cpu.h"
#include "common/foreach_isa.h"

namespace segfast {
namespace {

uint64_t run(const BandwidthParams& params, int64_t begin, int64_t end) {
  SEGFAST_CALL_ISA(bandwidth, params, begin, end);
}

std::atomic<uint64_t> sink;

}  // namespace

void bandwidth_cpu(const BandwidthParams& params, int64_t begin, int64_t end) {
  sink.store(run(params, begin, end), std::memory_order_relaxed);
}

}  // namespace segfast
