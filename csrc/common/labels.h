// labels.h: label maps and soft targets of any element type.
#pragma once

#include <type_traits>

#include "common/types.h"
#include "common/vec.h"

namespace segfast {

enum class TargetType : uint8_t {
  uint8,  // bool too
  int8,
  int16,
  uint16,
  int32,
  int64,
  float32,
  float64,
  float16,
  bfloat16
};

// Calls read(labels) with the labels' own type, which is the same for a whole launch: the switch
// costs a GPU one uniform branch.
template <typename Read>
SEGFAST_HOST_DEVICE void with_label_type(TargetType type, const void* labels, Read read) {
  switch (type) {
    case TargetType::uint8:
      return read(static_cast<const uint8_t*>(labels));
    case TargetType::int8:
      return read(static_cast<const int8_t*>(labels));
    case TargetType::int16:
      return read(static_cast<const int16_t*>(labels));
    case TargetType::uint16:
      return read(static_cast<const uint16_t*>(labels));
    case TargetType::int32:
      return read(static_cast<const int32_t*>(labels));
    default:
      return read(static_cast<const int64_t*>(labels));
  }
}

// out[j] = the label at base + at[j], by loads that do not wait for each other.
template <int N>
SEGFAST_HOST_DEVICE void read_labels(const void* labels, TargetType type, int64_t base,
                                     const int64_t (&at)[N], int64_t (&out)[N]) {
  const auto read = [&](auto* typed) {
    for (int j = 0; j < N; ++j) out[j] = static_cast<int64_t>(typed[base + at[j]]);
  };
  with_label_type(type, labels, read);
}

// The labels first to first + N - 1, in the widest accesses: where label_run_aligned() and `first`
// is a multiple of N.
template <int N>
SEGFAST_HOST_DEVICE void read_label_run(const void* labels, TargetType type, int64_t first,
                                        int64_t (&out)[N]) {
  const auto read = [&](auto* typed) {
    using L = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
    constexpr int kTogether = N < kVec16<L> ? N : kVec16<L>;
    for (int j = 0; j < N; j += kTogether) {
      const auto some = Vec<L, kTogether>::load(typed + first + j);
      for (int k = 0; k < kTogether; ++k) out[j + k] = static_cast<int64_t>(some.at[k]);
    }
  };
  with_label_type(type, labels, read);
}

inline bool label_run_aligned(const void* labels) { return is_aligned(labels, 16); }

// The same as read_labels() for soft targets.
template <int N, typename R>
SEGFAST_HOST_DEVICE void read_soft_targets(const void* target, TargetType type, int64_t base,
                                           const int64_t (&at)[N], R (&out)[N]) {
  const auto read = [&](auto* typed) {
    for (int j = 0; j < N; ++j) out[j] = static_cast<R>(to_float(typed[base + at[j]]));
  };
  switch (type) {
    case TargetType::float32:
      return read(static_cast<const float*>(target));
    case TargetType::float64:
      return read(static_cast<const double*>(target));
    case TargetType::float16:
      return read(static_cast<const Half*>(target));
    case TargetType::bfloat16:
      return read(static_cast<const BFloat16*>(target));
    default: {
      int64_t labels[N];
      read_labels(target, type, base, at, labels);
      for (int j = 0; j < N; ++j) out[j] = static_cast<R>(labels[j]);
    }
  }
}

// One label, or soft target.
SEGFAST_HOST_DEVICE int64_t read_label(const void* labels, TargetType type, int64_t index) {
  int64_t label[1];
  read_labels(labels, type, index, {0}, label);
  return label[0];
}

template <typename R>
SEGFAST_HOST_DEVICE R read_soft_target(const void* target, TargetType type, int64_t index) {
  R value[1];
  read_soft_targets(target, type, index, {0}, value);
  return value[0];
}

}  // namespace segfast
