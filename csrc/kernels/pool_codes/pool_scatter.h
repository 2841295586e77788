// pool_scatter.h: windows' values sent to the positions of a map that their records name, on the
// CPU: pool backward and unpooling. (Unpooling from indices that lie anywhere is its own.)
#pragma once

#include <algorithm>

#include "common/launch.h"
#include "common/types.h"
#include "kernels/pool_codes/pool_codes_math.h"

namespace segfast {

// Of values at one position: their sum, or the last window's.
enum class Combine { sum, last };

// Rows of fewer windows, contiguous, are too few for vectors to tell their indices apart.
inline constexpr int64_t kShortRow = 8;

struct PoolScatterParams {
  const void* values;  // [outer, pooled_height, pooled_width, inner]
  const void* record;  // codes of positions of the map, or indices: to let the last one stay, of
                       // 2x2 windows alone
  void* map;           // [outer, height, width, inner], every element written
  int32_t* foreign;  // null where indices are max_pool2d's. Else one zero, set where an index lies
                     // outside its own window: what is written then is not what was asked for
  Combine combine;
  Record record_kind;
  DType dtype;
  PoolShape shape;
  Window2d window;
};

// Work items of a map that is written from its windows: its rows, two together where one row of 2x2
// windows gives both.
inline int64_t scatter_rows_per_map(const PoolShape& shape, const Window2d& window) {
  return window.is_2x2() ? ceil_div<int64_t>(shape.height, 2) : shape.height;
}

// The rows of windows [begin, end) that `count` of a map's items from `item` on answer for: their
// own, and its last item all that remain.
struct WindowRows {
  int64_t begin, end;
  WindowRows(const PoolShape& s, const Window2d& w, int64_t item, int64_t count)
      : begin(item),
        end(item + count == scatter_rows_per_map(s, w) ? s.pooled_height
                                                       : std::min(item + count, s.pooled_height)) {}
};

void pool_scatter_cpu(const PoolScatterParams& p, int64_t begin, int64_t end);

}  // namespace segfast
