// pool_codes_group.h: the conversion of one group of up to four windows, for the CPU and the GPU.
#pragma once

#include "kernels/pool_codes/pool_codes.h"

namespace segfast {

// Where a group of windows stands: the first of them, and how many there are.
struct CodeGroup {
  int64_t byte;     // its byte in codes2
  int64_t first;    // its first window in the order of codes8 and indices
  int64_t oh, ow;   // of the first window
  int64_t ow_step;  // 1 where the run goes along a row, 0 where it goes along channels
  int count;
};

SEGFAST_HOST_DEVICE CodeGroup code_group(const PoolShape& s, int64_t item) {
  const int64_t run_length = s.inner == 1 ? s.pooled_width : s.inner;
  const int64_t run = item / s.run_bytes();
  const int64_t start = item % s.run_bytes() * kCodesPerByte;
  CodeGroup group;
  group.byte = item;
  group.first = run * run_length + start;
  group.count =
      static_cast<int>(run_length - start < kCodesPerByte ? run_length - start : kCodesPerByte);
  if (s.inner == 1) {
    group.oh = run % s.pooled_height;
    group.ow = start;
    group.ow_step = 1;
  } else {
    group.oh = run / s.pooled_width % s.pooled_height;
    group.ow = run % s.pooled_width;
    group.ow_step = 0;
  }
  return group;
}

// Both return whether every record of the group could be converted.
SEGFAST_HOST_DEVICE bool codes_to_indices_group(const PoolCodesParams& p, int64_t item) {
  const CodeGroup group = code_group(p.shape, item);
  bool sound = true;
  for (int k = 0; k < group.count; ++k) {
    const uint8_t code =
        p.window.is_2x2() ? (p.codes[group.byte] >> (2 * k)) & 3 : p.codes[group.first + k];
    int64_t index = kEmptyIndex;
    if (code != kEmptyCode) {
      index = code < p.window.taps()
                  ? tap_position(p.window, p.shape, group.oh, group.ow + k * group.ow_step, code)
                  : -1;
      sound &= index >= 0;
    }
    p.indices[group.first + k] = index;
  }
  return sound;
}

SEGFAST_HOST_DEVICE bool indices_to_codes_group(const PoolCodesParams& p, int64_t item) {
  const CodeGroup group = code_group(p.shape, item);
  bool sound = true;
  uint8_t packed = 0;
  for (int k = 0; k < group.count; ++k) {
    const int64_t index = p.indices[group.first + k];
    const int tap = position_tap(p.window, p.shape, group.oh, group.ow + k * group.ow_step, index);
    const bool empty = index == kEmptyIndex && !p.window.is_2x2();
    sound &= tap >= 0 || empty;
    if (p.window.is_2x2()) {
      packed |= static_cast<uint8_t>((tap & 3) << (2 * k));
    } else {
      p.codes[group.first + k] = tap < 0 ? kEmptyCode : static_cast<uint8_t>(tap);
    }
  }
  if (p.window.is_2x2()) p.codes[group.byte] = packed;
  return sound;
}

}  // namespace segfast
