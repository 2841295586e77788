// max_pool2d_cpu.h: a row of windows at a time, in tiles whose taps stay in the first-level cache.
// Values are compared in the output itself; records are written once a tile is done.
#include "kernels/pool_codes/pool_lanes.h"
#include "kernels/pool_codes/pool_scatter.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// A tap number no window has: nothing seen yet.
template <typename Lane>
constexpr Lane kNoTap = static_cast<Lane>(-1);

template <typename T, typename Lane>
struct PoolRow {
  using E = Element<T>;
  using Raw = raw_t<T>;

  const MaxPool2dParams& p;
  const TapOffsets& offsets;
  alignas(64) Lane taps[kTile];

  // Lets one tap of windows [low, high) of the tile compete; window i sees source[i * stride].
  template <int kStride>
  void compete(Raw* best, Lane tap, const Raw* source, int64_t stride, int low, int high) {
    const int64_t step = kStride == 0 ? stride : kStride;
    Raw* __restrict held = best;
    const Raw* __restrict seen = source;
    Lane* __restrict numbers = taps;
    for (int i = low; i < high; ++i) {
      const Raw value = seen[i * step], old = held[i];
      const Lane number = numbers[i];
      const bool take = (number == kNoTap<Lane>) | E::takes(value, old);
      held[i] = take ? value : old;
      numbers[i] = take ? tap : number;
    }
  }

  // Nothing seen yet in windows [from, n) of the tile.
  void start(Raw* best, int from, int n) {
    T value = from_float<T>(-std::numeric_limits<accumulate_t<T>>::infinity());
    Raw lowest;
    std::memcpy(&lowest, &value, sizeof lowest);
    std::fill(best + from, best + n, lowest);
    std::fill(taps + from, taps + n, kNoTap<Lane>);
  }

  // n whole 2x2 windows of two rows.
  void pool_2x2(Raw* __restrict best, const Raw* __restrict upper, const Raw* __restrict lower,
                int n) {
    Lane* __restrict numbers = taps;
    for (int i = 0; i < n; ++i) {
      Raw value = upper[2 * i];
      Lane tap = 0;
      const Raw b = upper[2 * i + 1], c = lower[2 * i], d = lower[2 * i + 1];
      bool take = E::takes(b, value);
      value = take ? b : value;
      tap = take ? 1 : tap;
      take = E::takes(c, value);
      value = take ? c : value;
      tap = take ? 2 : tap;
      take = E::takes(d, value);
      value = take ? d : value;
      tap = take ? 3 : tap;
      best[i] = value;
      numbers[i] = tap;
    }
  }

  // Windows [first, first + n) of a row, inner = 1.
  void pool_row_tile(const Raw* plane, Raw* best, int64_t oh, int64_t first, int n) {
    const PoolShape& s = p.shape;
    const Window2d& w = p.window;
    int done = 0;
    if (w.is_2x2() && 2 * oh + 1 < s.height) {
      const Raw* upper = plane + 2 * oh * s.width + 2 * first;
      done = static_cast<int>(std::clamp<int64_t>(s.width / 2 - first, 0, n));
      pool_2x2(best, upper, upper + s.width, done);
    }
    if (done == n) return;
    start(best, done, n);
    for (int kh = 0; kh < w.kernel_h; ++kh) {
      const int64_t y = oh * w.stride_h - w.pad_h + int64_t{kh} * w.dilation_h;
      if (y < 0 || y >= s.height) continue;
      for (int kw = 0; kw < w.kernel_w; ++kw) {
        // Window first + i sees column x + i * stride_w.
        const int64_t x = first * w.stride_w - w.pad_w + int64_t{kw} * w.dilation_w;
        const int64_t low = x >= 0 ? 0 : ceil_div<int64_t>(-x, w.stride_w);
        const int64_t high = x >= s.width ? 0 : ceil_div<int64_t>(s.width - x, w.stride_w);
        const int from = static_cast<int>(std::max<int64_t>(low, done));
        const int to = static_cast<int>(std::min<int64_t>(high, n));
        const Raw* source = plane + y * s.width + x;
        const Lane tap = static_cast<Lane>(kh * w.kernel_w + kw);
        if (w.stride_w == 1) {
          compete<1>(best, tap, source, 1, from, to);
        } else if (w.stride_w == 2) {
          compete<2>(best, tap, source, 2, from, to);
        } else {
          compete<0>(best, tap, source, w.stride_w, from, to);
        }
      }
    }
  }

  // Channels [first, first + n) of one window.
  void pool_channel_tile(const Raw* map, Raw* best, int64_t oh, int64_t ow, int64_t first, int n) {
    const PoolShape& s = p.shape;
    const Window2d& w = p.window;
    start(best, 0, n);
    for (int kh = 0; kh < w.kernel_h; ++kh) {
      const int64_t y = oh * w.stride_h - w.pad_h + int64_t{kh} * w.dilation_h;
      if (y < 0 || y >= s.height) continue;
      for (int kw = 0; kw < w.kernel_w; ++kw) {
        const int64_t x = ow * w.stride_w - w.pad_w + int64_t{kw} * w.dilation_w;
        if (x < 0 || x >= s.width) continue;
        compete<1>(best, static_cast<Lane>(kh * w.kernel_w + kw),
                   map + (y * s.width + x) * s.inner + first, 1, 0, n);
      }
    }
  }

  void record_tile(const Run& run, int64_t first, int n) {
    const PoolShape& s = p.shape;
    const Window2d& w = p.window;
    if (p.record == nullptr) return;
    if (p.record_kind == Record::codes2) {
      uint8_t* codes = static_cast<uint8_t*>(p.record) + run.number * s.run_bytes();
      pack_codes2(taps, n, codes + first / kCodesPerByte);
    } else if (p.record_kind == Record::codes8) {
      uint8_t* codes = static_cast<uint8_t*>(p.record) + run.number * run.length + first;
      for (int i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(taps[i]);  // kNoTap: kEmptyCode
    } else {
      int64_t* indices = static_cast<int64_t*>(p.record) + run.number * run.length + first;
      const int64_t ow = run.ow + (run.along_row ? first : 0);
      const int64_t step = run.along_row ? w.stride_w : 0;
      const int64_t origin =
          (run.oh * w.stride_h - w.pad_h) * s.width + ow * w.stride_w - w.pad_w;
      if (w.is_2x2()) {
        int64_t* __restrict out = indices;
        const Lane* __restrict numbers = taps;
        const int64_t below = s.width;
        for (int i = 0; i < n; ++i) {
          const int64_t tap = static_cast<int64_t>(numbers[i]);
          out[i] = origin + i * step + (tap & 1) + (tap & 2 ? below : 0);
        }
      } else if (w.taps() <= kMaxCodedTaps) {
        for (int i = 0; i < n; ++i) {
          indices[i] = taps[i] == kNoTap<Lane> ? kEmptyIndex
                                               : origin + i * step + offsets.at[taps[i]];
        }
      } else {
        for (int i = 0; i < n; ++i) {
          indices[i] = taps[i] == kNoTap<Lane>
                           ? kEmptyIndex
                           : tap_position(w, s, run.oh, ow + (run.along_row ? i : 0),
                                          static_cast<int>(taps[i]));
        }
      }
    }
  }

  void pool(int64_t o, int64_t oh) {
    const PoolShape& s = p.shape;
    const Raw* map = static_cast<const Raw*>(p.input) + o * s.height * s.width * s.inner;
    Raw* output = static_cast<Raw*>(p.output);
    if (s.inner == 1) {
      const Run run = row_run(s, o, oh);
      for (int64_t first = 0; first < run.length; first += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
        pool_row_tile(map, output + run.number * run.length + first, oh, first, n);
        record_tile(run, first, n);
      }
      return;
    }
    for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
      const Run run = channel_run(s, o, oh, ow);
      for (int64_t first = 0; first < run.length; first += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
        pool_channel_tile(map, output + run.number * run.length + first, oh, ow, first, n);
        record_tile(run, first, n);
      }
    }
  }
};

template <typename T, typename Lane>
void pool_rows(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  const TapOffsets offsets(p.window, p.shape.width);
  PoolRow<T, Lane> row{p, offsets, {}};
  for (int64_t item = begin; item < end; ++item) {
    row.pool(item / p.shape.pooled_height, item % p.shape.pooled_height);
  }
}

template <typename T>
void pool_rows_of(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  // A 16-bit lane cannot number the taps of a window larger than about 256 x 256.
  if (p.window.taps() < 65535) {
    pool_rows<T, typename Element<T>::Lane>(p, begin, end);
  } else {
    pool_rows<T, uint32_t>(p, begin, end);
  }
}

}  // namespace

void max_pool2d(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::float32:
      return pool_rows_of<float>(p, begin, end);
    case DType::float64:
      return pool_rows_of<double>(p, begin, end);
    case DType::float16:
      return pool_rows_of<Half>(p, begin, end);
    case DType::bfloat16:
      return pool_rows_of<BFloat16>(p, begin, end);
  }
}

void max_pool2d_backward(const MaxPool2dBackwardParams& p, int64_t begin, int64_t end) {
  const ScatterArguments arguments{p.grad_output, p.record, p.grad_input,
                                   p.record_kind, p.dtype,  p.shape,
                                   p.window};
  scatter_rows<Combine::sum>(arguments, begin, end);
}

}  // namespace SEGFAST_ISA
}  // namespace segfast
