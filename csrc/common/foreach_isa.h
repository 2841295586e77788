// foreach_isa.h: compiles the file named by SEGFAST_ISA_FILE once for each instruction set, each
// time inside another namespace SEGFAST_ISA. No include guard: this header is meant to be included
// once in each <op>_cpu.cpp.
//
// Rules for such a file: it includes nothing but files of its own kind (all other headers come
// first, those of the .cpp and <immintrin.h> below, so that nothing shared is compiled for a newer
// machine than the one at hand), has no include guard and no lambda (GCC does not give a lambda the
// pragma's target), and stands wholly inside `namespace segfast::SEGFAST_ISA`.
#include "common/isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if SEGFAST_BASELINE_VARIANT

#define SEGFAST_ISA isa_default
#include SEGFAST_ISA_FILE
#undef SEGFAST_ISA

#endif  // SEGFAST_BASELINE_VARIANT

#if SEGFAST_X86_VARIANTS

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#endif
#define SEGFAST_ISA isa_avx2
#define SEGFAST_ISA_AVX2 1
#include SEGFAST_ISA_FILE
#undef SEGFAST_ISA
#undef SEGFAST_ISA_AVX2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // SEGFAST_X86_VARIANTS

#if SEGFAST_AVX512_VARIANT

#if defined(__clang__)
#pragma clang attribute push(                                                             \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2"))), \
    apply_to = function)
#else
#pragma GCC push_options
#if defined(SEGFAST_EMULATED_AVX512)
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")
#pragma GCC target("prefer-vector-width=512")
#endif
#endif
#define SEGFAST_ISA isa_avx512
#define SEGFAST_ISA_AVX2 1
#define SEGFAST_ISA_AVX512 1
#include SEGFAST_ISA_FILE
#undef SEGFAST_ISA
#undef SEGFAST_ISA_AVX2
#undef SEGFAST_ISA_AVX512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#elif SEGFAST_X86_VARIANTS

namespace segfast {
namespace isa_avx512 = isa_avx2;  // never chosen
}

#endif  // SEGFAST_AVX512_VARIANT

#if !SEGFAST_BASELINE_VARIANT

namespace segfast {
namespace isa_default = isa_avx2;  // never chosen
}

#endif
