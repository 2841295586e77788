// labels.h: label maps of every integer type, for the tests of ops that read them.
#pragma once

#include "common/labels.h"
#include "tensors.h"

namespace segfast::test {

inline constexpr TargetType kLabelTypes[] = {TargetType::uint8, TargetType::int8,
                                             TargetType::int16, TargetType::uint16,
                                             TargetType::int32, TargetType::int64};

inline constexpr TargetType kSoftTypes[] = {TargetType::float32, TargetType::float64,
                                            TargetType::float16, TargetType::bfloat16};

inline int label_bytes(TargetType type) {
  switch (type) {
    case TargetType::uint8:
    case TargetType::int8:
      return 1;
    case TargetType::int16:
    case TargetType::uint16:
      return 2;
    case TargetType::int32:
      return 4;
    default:
      return 8;
  }
}

inline int64_t largest_label(TargetType type) {
  const bool is_signed = type != TargetType::uint8 && type != TargetType::uint16;
  const int bits = 8 * label_bytes(type) - (is_signed ? 1 : 0);
  return static_cast<int64_t>((uint64_t{1} << bits) - 1);
}

// `values` stored as `type`.
inline Array<uint8_t> store_labels(const std::vector<int64_t>& values, TargetType type,
                                   int64_t offset = 0) {
  const int bytes = label_bytes(type);
  Array<uint8_t> stored(static_cast<int64_t>(values.size()) * bytes, offset * bytes);
  for (size_t i = 0; i < values.size(); ++i) {  // little endian: the low bytes come first
    std::memcpy(stored.data() + i * static_cast<size_t>(bytes), &values[i],
                static_cast<size_t>(bytes));
  }
  return stored;
}

template <typename T>
Array<uint8_t> store_soft_targets_as(const std::vector<double>& values, int64_t offset) {
  constexpr int64_t kBytes = sizeof(T);
  Array<uint8_t> stored(static_cast<int64_t>(values.size()) * kBytes, offset * kBytes);
  for (size_t i = 0; i < values.size(); ++i) {
    const T value = from_float<T>(static_cast<accumulate_t<T>>(values[i]));
    std::memcpy(stored.data() + i * kBytes, &value, kBytes);
  }
  return stored;
}

inline Array<uint8_t> store_soft_targets(const std::vector<double>& values, TargetType type,
                                         int64_t offset) {
  switch (type) {
    case TargetType::float64:
      return store_soft_targets_as<double>(values, offset);
    case TargetType::float16:
      return store_soft_targets_as<Half>(values, offset);
    case TargetType::bfloat16:
      return store_soft_targets_as<BFloat16>(values, offset);
    default:
      return store_soft_targets_as<float>(values, offset);
  }
}

// Labels in [0, classes), one in eight of them `ignored`.
inline std::vector<int64_t> random_labels(int64_t count, int64_t classes, int64_t ignored) {
  std::vector<int64_t> labels(static_cast<size_t>(count));
  for (int64_t& label : labels) {
    label = random_integer(0, 7) == 0 ? ignored : random_integer(0, classes - 1);
  }
  return labels;
}

}  // namespace segfast::test
