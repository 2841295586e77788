// isa.h: which instruction set the CPU kernels run with, decided once, at the first call.
//
// foreach_isa.h compiles a kernel body for each set in one translation unit; SEGFAST_CALL_ISA then
// calls the best one this machine has. SEGFAST_CPU_ISA=default|avx2|avx512 forces one (an unknown
// or unsupported name is an error at the first call), which is how each variant is tested.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define SEGFAST_X86_VARIANTS 1
#else
#define SEGFAST_X86_VARIANTS 0
#endif
// For tests: SEGFAST_NO_AVX512 leaves that variant out, which not every machine could run, and
// SEGFAST_NO_BASELINE that for any x86-64; SEGFAST_EMULATED_AVX512 compiles the widest for AVX2,
// with csrc/tests/emulated_avx512.h in place of its instructions.
#if SEGFAST_X86_VARIANTS && !defined(SEGFAST_NO_AVX512)
#define SEGFAST_AVX512_VARIANT 1
#else
#define SEGFAST_AVX512_VARIANT 0
#endif
#if SEGFAST_X86_VARIANTS && defined(SEGFAST_NO_BASELINE)
#define SEGFAST_BASELINE_VARIANT 0
#else
#define SEGFAST_BASELINE_VARIANT 1
#endif

namespace segfast {

enum class Isa { baseline, avx2, avx512 };

// The set in use. Throws std::runtime_error if SEGFAST_CPU_ISA names one that cannot run here.
Isa cpu_isa();

// "default", "avx2" or "avx512".
const char* cpu_isa_name();

}  // namespace segfast

#if SEGFAST_X86_VARIANTS
#define SEGFAST_CALL_ISA(function, ...)          \
  switch (::segfast::cpu_isa()) {                \
    case ::segfast::Isa::avx512:                 \
      return isa_avx512::function(__VA_ARGS__);  \
    case ::segfast::Isa::avx2:                   \
      return isa_avx2::function(__VA_ARGS__);    \
    default:                                     \
      return isa_default::function(__VA_ARGS__); \
  }
#else
#define SEGFAST_CALL_ISA(function, ...)                              \
  ::segfast::cpu_isa(); /* reports a bad SEGFAST_CPU_ISA here too */ \
  return isa_default::function(__VA_ARGS__)
#endif
