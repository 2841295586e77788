// bandwidth.h: the floor of a benchmark row: reads some memory once, writes some once, computes
// nothing. No op that has these inputs and outputs can take less time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace segfast {

struct BandwidthParams {
  const unsigned char* const* reads;  // [num_reads], each of read_bytes[i]
  const size_t* read_bytes;
  int num_reads;
  unsigned char* const* writes;  // [num_writes], each of write_bytes[i]
  const size_t* write_bytes;
  int num_writes;
  int64_t items;  // into how many parts all of them are cut, alike
};

inline int64_t bandwidth_items(const BandwidthParams& params) { return params.items; }

// Parts [begin, end) of every array: reads them, then writes 0.
void bandwidth_cpu(const BandwidthParams& params, int64_t begin, int64_t end);

}  // namespace segfast
