// checks.h: what every binding does around a kernel: check, make contiguous, spread over threads,
// guard the device, turn a launch error into an exception.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>

#include "common/launch.h"
#include "common/types.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(SEGFAST_WITH_CUDA)
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace segfast {

inline DType floating_dtype(const at::Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::float32;
    case at::kDouble:
      return DType::float64;
    case at::kHalf:
      return DType::float16;
    case at::kBFloat16:
      return DType::bfloat16;
    default:
      TORCH_CHECK(false, name, " must be float32, float64, float16 or bfloat16, got ",
                  tensor.scalar_type());
  }
}

inline void check_device(const at::Tensor& tensor) {
#if defined(SEGFAST_WITH_CUDA)
  TORCH_CHECK(tensor.is_cpu() || tensor.is_cuda(),
              "input must be on the CPU or a CUDA device, got ", tensor.device());
#else
  TORCH_CHECK(tensor.is_cpu(), "input must be on the CPU (segfast was built without CUDA), got ",
              tensor.device());
#endif
}

inline void check_same_device(const at::Tensor& tensor, const char* name, const at::Tensor& other,
                              const char* other_name) {
  TORCH_CHECK(tensor.device() == other.device(), name, " must be on the device of ", other_name,
              " (", other.device(), "), got ", tensor.device());
}

// The memory format an op works in and returns: torch's choice for 4-D tensors.
inline at::MemoryFormat format_of(const at::Tensor& tensor) {
  return tensor.dim() == 4 ? tensor.suggest_memory_format() : at::MemoryFormat::Contiguous;
}

// Fresh memory costs a page fault for every 4 KB that a kernel first touches, which takes longer
// than the kernel. Linux gives 2 MB at a fault where it is asked to.
inline void ask_for_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__)
  constexpr size_t kHugePage = size_t{1} << 21;
  if (bytes < 2 * kHugePage) return;
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint: it may fail
#else
  (void)memory, (void)bytes;
#endif
}

inline at::Tensor empty(at::IntArrayRef sizes, const at::TensorOptions& options,
                        at::MemoryFormat format = at::MemoryFormat::Contiguous) {
  at::Tensor tensor = at::empty(sizes, options.memory_format(format));
  if (tensor.is_cpu()) ask_for_huge_pages(tensor.mutable_data_ptr(), tensor.nbytes());
  return tensor;
}

// Runs kernel(params, begin, end) over items on torch's threads, at least `grain_bytes` of work
// each.
template <typename Params>
void run_cpu(void (*kernel)(const Params&, int64_t, int64_t), const Params& params, int64_t items,
             int64_t bytes) {
  constexpr int64_t kGrainBytes = 1 << 17;  // below this a second thread costs more than it saves
  const int64_t bytes_per_item = std::max<int64_t>(1, bytes / std::max<int64_t>(1, items));
  const int64_t grain = std::max<int64_t>(1, kGrainBytes / bytes_per_item);
  at::parallel_for(0, items, grain,
                   [&](int64_t begin, int64_t end) { kernel(params, begin, end); });
}

#if defined(SEGFAST_WITH_CUDA)
// The first thing a small call would wait for is the host: zero_() goes through the dispatcher to a
// kernel of its own.
inline void zero_cuda(const at::Tensor& tensor) {
  if (tensor.numel() == 0) return;
  const c10::cuda::CUDAGuard guard(tensor.device());
  C10_CUDA_CHECK(cudaMemsetAsync(tensor.mutable_data_ptr(), 0, tensor.nbytes(),
                                 c10::cuda::getCurrentCUDAStream()));
}

// Launches kernel(params, stream) on the tensor's device and its current stream.
template <typename Params>
void run_cuda(cudaError_t (*kernel)(const Params&, cudaStream_t), const Params& params,
              const at::Tensor& tensor) {
  const c10::cuda::CUDAGuard guard(tensor.device());
  C10_CUDA_CHECK(kernel(params, c10::cuda::getCurrentCUDAStream()));
}
#endif

// Those of the tensor's GPU; 0 on the CPU.
inline int multiprocessors([[maybe_unused]] const at::Tensor& tensor) {
  int count = 0;
#if defined(SEGFAST_WITH_CUDA)
  if (tensor.is_cuda()) {
    C10_CUDA_CHECK(
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, tensor.get_device()));
  }
#endif
  return count;
}

}  // namespace segfast

// Runs <name>_cpu or <name>_cuda, as the tensor's device says.
#if defined(SEGFAST_WITH_CUDA)
#define SEGFAST_RUN(name, params, tensor, bytes)                           \
  do {                                                                     \
    if ((tensor).is_cuda()) {                                              \
      ::segfast::run_cuda(name##_cuda, params, tensor);                    \
    } else {                                                               \
      ::segfast::run_cpu(name##_cpu, params, name##_items(params), bytes); \
    }                                                                      \
  } while (0)
#else
#define SEGFAST_RUN(name, params, tensor, bytes) \
  ::segfast::run_cpu(name##_cpu, params, name##_items(params), bytes)
#endif
