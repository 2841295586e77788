// dispatch.h: from run-time values to compile-time variants. These are the only switches that
// multiply code; a kernel is instantiated for what is named here and nothing else.
#pragma once

#include <type_traits>

#include "common/types.h"

namespace segfast {

template <typename T>
struct TypeTag {
  using type = T;
};

// f(TypeTag<T>{}) for the floating types every op supports.
template <typename F>
inline decltype(auto) dispatch_floating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float64:
      return f(TypeTag<double>{});
    case DType::float16:
      return f(TypeTag<Half>{});
    case DType::bfloat16:
      return f(TypeTag<BFloat16>{});
    case DType::float32:
    default:
      return f(TypeTag<float>{});
  }
}

// f(std::true_type{}) or f(std::false_type{}).
template <typename F>
inline decltype(auto) dispatch_bool(bool value, F&& f) {
  if (value) return f(std::true_type{});
  return f(std::false_type{});
}

// The tensors below this many elements are indexed in 32 bits. The tests lower it, so that small
// tensors take the 64-bit path too.
#if defined(SEGFAST_HOST_RUN)
inline int64_t max_numel_32 = int64_t{1} << 30;
#else
inline constexpr int64_t max_numel_32 = int64_t{1} << 30;
#endif

// f(TypeTag<I>{}) with the narrowest offset type: 32-bit arithmetic is several times cheaper on a
// GPU, and is right only while no offset, nor any sum of two, passes 2^31.
template <typename F>
inline decltype(auto) dispatch_offset(int64_t numel, F&& f) {
  if (numel < max_numel_32) return f(TypeTag<int32_t>{});
  return f(TypeTag<int64_t>{});
}

}  // namespace segfast
