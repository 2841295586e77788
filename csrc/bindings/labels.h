// labels.h: what the bindings of overlap_stats and confusion_matrix ask of logits and label maps.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <optional>
#include <string>
#include <utility>
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

// The values that count, for a message about those that do not fit.
inline std::pair<double, double> range_of(const at::Tensor& values,
                                          std::optional<int64_t> ignore_index) {
  at::Tensor used = values.is_floating_point() ? values.to(at::kDouble) : values.to(at::kLong);
  if (ignore_index.has_value()) used = used.masked_select(used.ne(*ignore_index));
  return {used.min().item<double>(), used.max().item<double>()};
}

inline std::string or_ignored(std::optional<int64_t> ignore_index) {
  return ignore_index.has_value() ? " or ignore_index " + std::to_string(*ignore_index) : "";
}

// After a kernel has found labels that are no class.
[[noreturn]] inline void throw_bad_label(const at::Tensor& labels, const char* name,
                                         int64_t classes, std::optional<int64_t> ignore_index) {
  const auto [low, high] = range_of(labels, ignore_index);
  TORCH_CHECK_INDEX(false, name, " must hold labels 0 to ", classes - 1, or_ignored(ignore_index),
                    ", but holds labels from ", low, " to ", high,
                    "; map them, or name the one to leave out with ignore_index");
}

// After a kernel has found soft targets outside [0, 1].
[[noreturn]] inline void throw_bad_soft_target(const at::Tensor& target,
                                               std::optional<int64_t> ignore_index) {
  const auto [low, high] = range_of(target, ignore_index);
  TORCH_CHECK_INDEX(false, "target must be between 0 and 1", or_ignored(ignore_index),
                    ", but lies between ", low, " and ", high);
}

}  // namespace segfast
