// bandwidth_cpu.h: compiled once for each instruction set by foreach_isa.h.
#include "common/lanes.h"

namespace segfast::SEGFAST_ISA {

// The sum of the whole words, so that the reads cannot be left out; in vectors that do not wait for
// each other, so that it waits for memory only.
inline uint64_t read_all(const unsigned char* memory, size_t bytes) {
  using Words = LaneTypes<double>::Bits;
  constexpr size_t kVectors = 8, kBytes = kVectors * sizeof(Words);
  Words sums[kVectors] = {};
  size_t at = 0;
  for (; at + kBytes <= bytes; at += kBytes) {
    for (size_t v = 0; v < kVectors; ++v) {
      sums[v] += load_vector<Words>(memory + at + v * sizeof(Words));
    }
  }
  uint64_t sum = 0;
  for (const Words& words : sums) {
    for (size_t i = 0; i < sizeof(Words) / 8; ++i) sum += words[i];
  }
  for (; at < bytes; ++at) sum += memory[at];
  return sum;
}

inline uint64_t bandwidth(const BandwidthParams& params, int64_t begin, int64_t end) {
  uint64_t sum = 0;
  for (int64_t item = begin; item < end; ++item) {
    for (int i = 0; i < params.num_reads; ++i) {
      const Part part = part_of(params.read_bytes[i], item, params.items);
      sum += read_all(params.reads[i] + part.first, part.bytes);
    }
    for (int i = 0; i < params.num_writes; ++i) {
      const Part part = part_of(params.write_bytes[i], item, params.items);
      std::memset(params.writes[i] + part.first, 0, part.bytes);
    }
  }
  return sum;
}

}  // namespace segfast::SEGFAST_ISA
