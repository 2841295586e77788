#include "common/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace segfast {
namespace {

bool supported(Isa isa) {
#if SEGFAST_X86_VARIANTS
  switch (isa) {
    case Isa::avx512:
#if defined(SEGFAST_EMULATED_AVX512)
      return supported(Isa::avx2);
#else
      return SEGFAST_AVX512_VARIANT && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && supported(Isa::avx2);
#endif
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    default:
      return SEGFAST_BASELINE_VARIANT;
  }
#else
  return isa == Isa::baseline;
#endif
}

Isa choose() {
  const char* forced = std::getenv("SEGFAST_CPU_ISA");
  if (forced == nullptr || *forced == '\0') {
    for (Isa isa : {Isa::avx512, Isa::avx2}) {
      if (supported(isa)) return isa;
    }
    return Isa::baseline;
  }
  const std::string name = forced;
  Isa isa = Isa::baseline;
  if (name == "avx512") {
    isa = Isa::avx512;
  } else if (name == "avx2") {
    isa = Isa::avx2;
  } else if (name != "default") {
    throw std::runtime_error("SEGFAST_CPU_ISA must be default, avx2 or avx512, got " + name);
  }
  if (!supported(isa)) {
    throw std::runtime_error("SEGFAST_CPU_ISA=" + name +
                             ", but this machine does not have it; use default or unset it");
  }
  return isa;
}

}  // namespace

Isa cpu_isa() {
  static const Isa isa = choose();
  return isa;
}

const char* cpu_isa_name() {
  switch (cpu_isa()) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "default";
  }
}

}  // namespace segfast
