// labels.h: what the bindings of overlap_stats and confusion_matrix ask of logits and label maps.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>
#include <c10/util/Exception.h>

#include <optional>
#include <vector>

#include "common/labels.h"

namespace segfast {

inline TargetType target_type(const at::Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case at::kByte:
    case at::kBool:
      return TargetType::uint8;
    case at::kChar:
      return TargetType::int8;
    case at::kShort:
      return TargetType::int16;
    case at::kUInt16:
      return TargetType::uint16;
    case at::kInt:
      return TargetType::int32;
    case at::kLong:
      return TargetType::int64;
    case at::kFloat:
      return TargetType::float32;
    case at::kDouble:
      return TargetType::float64;
    case at::kHalf:
      return TargetType::float16;
    case at::kBFloat16:
      return TargetType::bfloat16;
    default:
      TORCH_CHECK_TYPE(false, name, " must be bool, uint8, int8, int16, uint16, int32, int64 or ",
                       "floating point, got ", tensor.scalar_type());
  }
}

// [N, C, ...] with one to three spatial dimensions and at least one class.
inline void check_classes(const at::Tensor& logits, const char* name) {
  TORCH_CHECK_VALUE(logits.dim() >= 3 && logits.dim() <= 5 && logits.size(1) > 0, name,
                    " must have shape [N, C, ...] with at least one class and 1 to 3 spatial ",
                    "dimensions, got ", logits.sizes());
}

inline std::vector<int64_t> without_classes(at::IntArrayRef sizes) {
  std::vector<int64_t> result{sizes[0]};
  result.insert(result.end(), sizes.begin() + 2, sizes.end());
  return result;
}

// channels_last (channels_last_3d) or contiguous, as torch chooses it.
inline at::MemoryFormat dense_format_of(const at::Tensor& tensor) {
  return tensor.dim() >= 4 ? tensor.suggest_memory_format() : at::MemoryFormat::Contiguous;
}

// After a kernel has found targets that it could not use: says which.
[[noreturn]] inline void throw_bad_target(const at::Tensor& target, bool dense, int64_t classes,
                                          std::optional<int64_t> ignore_index) {
  at::Tensor used = dense ? target.to(at::kDouble) : target.to(at::kLong);
  if (ignore_index.has_value()) used = used.masked_select(used.ne(*ignore_index));
  const double least = used.min().item<double>(), most = used.max().item<double>();
  const std::string ignored =
      ignore_index.has_value() ? " or ignore_index " + std::to_string(*ignore_index) : "";
  TORCH_CHECK_INDEX(!dense, "target must be between 0 and 1", ignored, ", but lies between ", least,
                    " and ", most);
  TORCH_CHECK_INDEX(false, "target must hold labels 0 to ", classes - 1, ignored,
                    ", but holds labels from ", least, " to ", most,
                    "; map them, or name the one to leave out with ignore_index");
}

}  // namespace segfast
