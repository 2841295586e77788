// bandwidth_cpu.h: compiled once for each instruction set by foreach_isa.h.

namespace segfast::SEGFAST_ISA {

// The sum of the whole words, so that the reads cannot be left out; independent lanes, so that it
// waits for memory only.
inline uint64_t read_all(const unsigned char* memory, size_t bytes) {
  constexpr size_t kLanes = 32;
  uint64_t lanes[kLanes] = {};
  size_t at = 0;
  for (; at + kLanes * 8 <= bytes; at += kLanes * 8) {
    uint64_t words[kLanes];
    std::memcpy(words, memory + at, sizeof(words));
    for (size_t i = 0; i < kLanes; ++i) lanes[i] += words[i];
  }
  uint64_t sum = 0;
  for (size_t i = 0; i < kLanes; ++i) sum += lanes[i];
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
