// max_unpool2d_cpu.h: from codes, gather form a row of the map at a time (pool_scatter.h); from
// indices, which may name any position of the plane, zero and scatter in order, so that of equal
// indices the last one's value stays.
#include "kernels/pool_codes/pool_lanes.h"
#include "kernels/pool_codes/pool_scatter.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Windows [first, last) of an axis lie wholly inside a map of `size`.
struct Inside {
  int64_t first, last;
  Inside(int64_t size, int64_t windows, int kernel, int stride, int pad, int dilation) {
    const int64_t end = size + pad - int64_t{dilation} * (kernel - 1);  // of a whole window's start
    first = ceil_div<int64_t>(pad, stride);
    last = std::clamp<int64_t>(end <= 0 ? 0 : ceil_div<int64_t>(end, stride), first,
                               std::max(first, windows));
  }
  bool holds(int64_t window) const { return window >= first && window < last; }
};

// Throws unless every code of a row of windows names a position of the map. Codes of whole windows
// need no more than a tap's number, and 2-bit ones of those nothing at all.
inline void check_codes_row(const MaxUnpool2dParams& p, int64_t o, int64_t oh) {
  const PoolShape& s = p.shape;
  const Window2d& w = p.window;
  const uint8_t* codes = static_cast<const uint8_t*>(p.record);
  const Inside columns(s.width, s.pooled_width, w.kernel_w, w.stride_w, w.pad_w, w.dilation_w);
  const bool row_inside =
      Inside(s.height, s.pooled_height, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h).holds(oh);
  const int64_t start = (o * s.pooled_height + oh) * s.pooled_width;
  for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
    const bool whole = row_inside && columns.holds(ow);
    if (whole && w.is_2x2()) {
      ow = std::min(columns.last, s.pooled_width) - 1;
      continue;
    }
    for (int64_t c = 0; c < s.inner; ++c) {
      int code;
      if (w.is_2x2()) {
        const Run run = s.inner == 1 ? row_run(s, o, oh) : channel_run(s, o, oh, ow);
        const int64_t place = s.inner == 1 ? ow : c;
        code = codes[run.number * s.run_bytes() + place / 4] >> (2 * (place % 4)) & 3;
      } else {
        code = codes[(start + ow) * s.inner + c];
      }
      if (code >= w.taps() || (!whole && tap_position(w, s, oh, ow, code) < 0)) {
        throw_bad_code(code, s);
      }
    }
  }
}

inline void check_codes(const MaxUnpool2dParams& p, int64_t item) {
  // Item y of a map checks row y of windows, and the last item those that remain.
  const PoolShape& s = p.shape;
  const int64_t o = item / s.height, y = item % s.height;
  const int64_t end = y + 1 == s.height ? s.pooled_height : std::min(y + 1, s.pooled_height);
  for (int64_t oh = y; oh < end; ++oh) check_codes_row(p, o, oh);
}

template <typename Bits>
void scatter_planes(const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  const PoolShape& s = p.shape;
  const int64_t groups = ceil_div<int64_t>(s.inner, kUnpoolChannels);
  const int64_t plane = s.height * s.width;
  const int64_t windows = s.pooled_height * s.pooled_width;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t o = item / groups;
    const int64_t first = item % groups * kUnpoolChannels;
    const int64_t n = std::min(kUnpoolChannels, s.inner - first);
    const Bits* input = static_cast<const Bits*>(p.input) + o * windows * s.inner + first;
    const int64_t* indices =
        static_cast<const int64_t*>(p.record) + o * windows * s.inner + first;
    Bits* output = static_cast<Bits*>(p.output) + o * plane * s.inner + first;
    if (n == s.inner) {
      std::memset(output, 0, static_cast<size_t>(plane * n) * sizeof(Bits));
    } else {
      for (int64_t i = 0; i < plane; ++i) {
        std::memset(output + i * s.inner, 0, static_cast<size_t>(n) * sizeof(Bits));
      }
    }
    for (int64_t i = 0; i < windows; ++i) {
      for (int64_t c = 0; c < n; ++c) {
        const int64_t index = indices[i * s.inner + c];
        if (index < 0 || index >= plane) throw_bad_index(index, s);
        output[index * s.inner + c] = input[i * s.inner + c];
      }
    }
  }
}

// Windows i of a row, n of them: the element of rows a and b that its tap names. Column pairs lie
// `pair` apart, a pair's columns `column` apart: (2, 1) along a row, (1, channels) along channels.
template <int kPair, typename Bits>
void pick_taps(const Bits* __restrict taps, const Bits* __restrict a, const Bits* __restrict b,
               int64_t column, Bits* __restrict out, int n) {
  const int64_t right_at = kPair == 2 ? 1 : column;
  for (int i = 0; i < n; ++i) {
    const Bits lower = static_cast<Bits>(-static_cast<Bits>((taps[i] & 2) != 0));
    const Bits right = static_cast<Bits>(-static_cast<Bits>((taps[i] & 1) != 0));
    const Bits left_one = (a[kPair * i] & ~lower) | (b[kPair * i] & lower);
    const Bits right_one =
        (a[kPair * i + right_at] & ~lower) | (b[kPair * i + right_at] & lower);
    out[i] = (left_one & ~right) | (right_one & right);
  }
}

template <typename Bits>
struct GatherRow {
  const MaxUnpool2dBackwardParams& p;
  alignas(64) Bits taps[kTile];

  void gather_2x2_codes(int64_t o, int64_t oh) {
    const PoolShape& s = p.shape;
    const Bits* map = static_cast<const Bits*>(p.grad_output) + o * s.height * s.width * s.inner;
    const uint8_t* codes = static_cast<const uint8_t*>(p.record);
    Bits* out = static_cast<Bits*>(p.grad_input);
    const Bits* upper = map + 2 * oh * s.width * s.inner;
    // A clipped window has no second row or column; its codes name none either, so any address that
    // can be read will do.
    const Bits* lower = 2 * oh + 1 < s.height ? upper + s.width * s.inner : upper;
    if (s.inner == 1) {
      const Run run = row_run(s, o, oh);
      const int64_t whole = s.width / 2;
      for (int64_t first = 0; first < run.length; first += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
        unpack_codes2(codes + run.number * s.run_bytes() + first / kCodesPerByte, n, taps);
        const int pairs = static_cast<int>(std::min<int64_t>(n, whole - first));
        const Bits* a = upper + 2 * first;
        const Bits* b = lower + 2 * first;
        Bits* values = out + run.number * run.length + first;
        pick_taps<2>(taps, a, b, 1, values, pairs);
        if (pairs < n) values[pairs] = taps[pairs] < 2 ? a[2 * pairs] : b[2 * pairs];
      }
      return;
    }
    for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
      const Run run = channel_run(s, o, oh, ow);
      const int64_t step = 2 * ow + 1 < s.width ? s.inner : 0;
      for (int64_t first = 0; first < run.length; first += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
        unpack_codes2(codes + run.number * s.run_bytes() + first / kCodesPerByte, n, taps);
        const Bits* a = upper + 2 * ow * s.inner + first;
        const Bits* b = lower + 2 * ow * s.inner + first;
        Bits* values = out + run.number * run.length + first;
        pick_taps<1>(taps, a, b, step, values, n);
      }
    }
  }

  void gather_any(int64_t o, int64_t oh) {
    const PoolShape& s = p.shape;
    const int64_t plane = s.height * s.width;
    const Bits* map = static_cast<const Bits*>(p.grad_output) + o * plane * s.inner;
    for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
      for (int64_t c = 0; c < s.inner; ++c) {
        const int64_t i = ((o * s.pooled_height + oh) * s.pooled_width + ow) * s.inner + c;
        int64_t position;
        bool empty;
        if (p.record_kind == Record::codes8) {
          const int code = static_cast<const uint8_t*>(p.record)[i];
          empty = code == kEmptyCode;
          if (!empty && code >= p.window.taps()) throw_bad_code(code, s);
          position = empty ? 0 : tap_position(p.window, s, oh, ow, code);
          if (position < 0) throw_bad_code(code, s);
        } else {
          position = static_cast<const int64_t*>(p.record)[i];
          empty = position == kEmptyIndex;
          if (position >= plane || (position < 0 && !empty)) throw_bad_index(position, s);
        }
        static_cast<Bits*>(p.grad_input)[i] = empty ? Bits{0} : map[position * s.inner + c];
      }
    }
  }

  void gather(int64_t o, int64_t oh) {
    if (p.record_kind == Record::codes2) {
      gather_2x2_codes(o, oh);
    } else {
      gather_any(o, oh);
    }
  }
};

template <typename Bits>
void gather_rows(const MaxUnpool2dBackwardParams& p, int64_t begin, int64_t end) {
  GatherRow<Bits> row{p, {}};
  for (int64_t item = begin; item < end; ++item) {
    row.gather(item / p.shape.pooled_height, item % p.shape.pooled_height);
  }
}

}  // namespace

void max_unpool2d(const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  if (p.record_kind == Record::indices) {
    switch (p.dtype) {
      case DType::float32:
        return scatter_planes<uint32_t>(p, begin, end);
      case DType::float64:
        return scatter_planes<uint64_t>(p, begin, end);
      case DType::float16:
      case DType::bfloat16:
        return scatter_planes<uint16_t>(p, begin, end);
    }
  }
  for (int64_t item = begin; item < end; ++item) check_codes(p, item);
  const ScatterArguments arguments{p.input, p.record, p.output, p.record_kind,
                                   p.dtype, p.shape,  p.window};
  scatter_rows<Combine::last>(arguments, begin, end);
}

void max_unpool2d_backward(const MaxUnpool2dBackwardParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::float32:
      return gather_rows<uint32_t>(p, begin, end);
    case DType::float64:
      return gather_rows<uint64_t>(p, begin, end);
    case DType::float16:
    case DType::bfloat16:
      return gather_rows<uint16_t>(p, begin, end);
  }
}

}  // namespace SEGFAST_ISA
}  // namespace segfast
