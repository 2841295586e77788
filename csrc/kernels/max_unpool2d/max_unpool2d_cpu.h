// max_unpool2d_cpu.h: from codes, gather form a row of the map at a time (pool_scatter.h); from
// indices, which may name any position of the plane, zero and scatter in order, so that of equal
// indices the last one's value stays.
#include "kernels/pool_codes/pool_lanes.h"
#include "kernels/pool_codes/pool_scatter.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Throws unless every code of a row of windows names a position of the map.
inline void check_codes_row(const MaxUnpool2dParams& p, int64_t o, int64_t oh) {
  const PoolShape& s = p.shape;
  const Window2d& w = p.window;
  const uint8_t* codes = static_cast<const uint8_t*>(p.record);
  for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
    const bool whole = oh * w.stride_h >= w.pad_h && ow * w.stride_w >= w.pad_w &&
                       tap_position(w, s, oh, ow, w.taps() - 1) >= 0;
    if (whole && w.is_2x2()) continue;
    for (int64_t c = 0; c < s.inner; ++c) {
      int code;
      if (w.is_2x2()) {
        const Run run = s.inner == 1 ? row_run(s, o, oh) : channel_run(s, o, oh, ow);
        const int64_t place = s.inner == 1 ? ow : c;
        code = codes[run.number * s.run_bytes() + place / 4] >> (2 * (place % 4)) & 3;
      } else {
        code = codes[((o * s.pooled_height + oh) * s.pooled_width + ow) * s.inner + c];
      }
      if (code < w.taps() && (whole || tap_position(w, s, oh, ow, code) >= 0)) continue;
      throw_bad_code(code, s);
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

template <typename Raw>
void scatter_planes(const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  const PoolShape& s = p.shape;
  const int64_t groups = ceil_div<int64_t>(s.inner, kUnpoolChannels);
  const int64_t plane = s.height * s.width;
  const int64_t windows = s.pooled_height * s.pooled_width;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t o = item / groups;
    const int64_t first = item % groups * kUnpoolChannels;
    const int64_t n = std::min(kUnpoolChannels, s.inner - first);
    const Raw* input = static_cast<const Raw*>(p.input) + o * windows * s.inner + first;
    const int64_t* indices =
        static_cast<const int64_t*>(p.record) + o * windows * s.inner + first;
    Raw* output = static_cast<Raw*>(p.output) + o * plane * s.inner + first;
    for (int64_t i = 0; i < plane; ++i) {
      std::memset(output + i * s.inner, 0, static_cast<size_t>(n) * sizeof(Raw));
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

template <typename T>
struct GatherRow {
  using Raw = raw_t<T>;
  using Lane = typename Element<T>::Lane;

  const MaxUnpool2dBackwardParams& p;
  alignas(64) Lane taps[kTile];

  void gather_2x2_codes(int64_t o, int64_t oh) {
    const PoolShape& s = p.shape;
    const Raw* map = static_cast<const Raw*>(p.grad_output) + o * s.height * s.width * s.inner;
    const uint8_t* codes = static_cast<const uint8_t*>(p.record);
    Raw* out = static_cast<Raw*>(p.grad_input);
    const Raw* upper = map + 2 * oh * s.width * s.inner;
    // A clipped window has no second row or column; its codes name none either, so any address that
    // can be read will do.
    const Raw* lower = 2 * oh + 1 < s.height ? upper + s.width * s.inner : upper;
    if (s.inner == 1) {
      const Run run = row_run(s, o, oh);
      const int64_t whole = s.width / 2;
      for (int64_t first = 0; first < run.length; first += kTile) {
        const int n = static_cast<int>(std::min<int64_t>(kTile, run.length - first));
        unpack_codes2(codes + run.number * s.run_bytes() + first / kCodesPerByte, n, taps);
        const int pairs = static_cast<int>(std::min<int64_t>(n, whole - first));
        const Raw* a = upper + 2 * first;
        const Raw* b = lower + 2 * first;
        Raw* values = out + run.number * run.length + first;
        for (int i = 0; i < pairs; ++i) {
          const Raw left = taps[i] < 2 ? a[2 * i] : b[2 * i];
          const Raw right = taps[i] < 2 ? a[2 * i + 1] : b[2 * i + 1];
          values[i] = taps[i] & 1 ? right : left;
        }
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
        const Raw* a = upper + 2 * ow * s.inner + first;
        const Raw* b = lower + 2 * ow * s.inner + first;
        Raw* values = out + run.number * run.length + first;
        for (int i = 0; i < n; ++i) {
          const Raw left = taps[i] < 2 ? a[i] : b[i];
          const Raw right = taps[i] < 2 ? a[step + i] : b[step + i];
          values[i] = taps[i] & 1 ? right : left;
        }
      }
    }
  }

  void gather_any(int64_t o, int64_t oh) {
    const PoolShape& s = p.shape;
    const int64_t plane = s.height * s.width;
    const Raw* map = static_cast<const Raw*>(p.grad_output) + o * plane * s.inner;
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
        static_cast<Raw*>(p.grad_input)[i] = empty ? Raw{0} : map[position * s.inner + c];
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

template <typename T>
void gather_rows(const MaxUnpool2dBackwardParams& p, int64_t begin, int64_t end) {
  GatherRow<T> row{p, {}};
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
  const ScatterArguments arguments{p.input, p.record, p.output, p.record_kind, p.shape, p.window};
  scatter_rows<Combine::last>(arguments, p.dtype, begin, end);
}

void max_unpool2d_backward(const MaxUnpool2dBackwardParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::float32:
      return gather_rows<float>(p, begin, end);
    case DType::float64:
      return gather_rows<double>(p, begin, end);
    case DType::float16:
      return gather_rows<Half>(p, begin, end);
    case DType::bfloat16:
      return gather_rows<BFloat16>(p, begin, end);
  }
}

}  // namespace SEGFAST_ISA
}  // namespace segfast
