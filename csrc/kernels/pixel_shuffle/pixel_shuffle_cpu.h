// pixel_shuffle_cpu.h: compiled once for each instruction set by pixel_shuffle_cpu.cpp.
#include "common/lanes.h"
#include "kernels/pixel_shuffle/interleave_cpu.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Rows of elements; the fine ones follow one another.
template <bool kShuffle, int R, typename T>
void move_contiguous(T* coarse, T* fine, const PixelShuffleParams& p, int64_t begin, int64_t end) {
  const int64_t r = p.factor, height = p.height, width = p.width, plane = height * width;
  int64_t b = begin / height, h = begin % height;
  fine += begin * r * r * width;
  for (int64_t row = begin; row < end; ++row) {
    T* planes = coarse + b * r * r * plane + h * width;
    for (int64_t i = 0; i < r; ++i) {
      move_row<kShuffle, R>(planes, fine, plane, width, r);
      planes += r * plane;
      fine += r * width;
    }
    if (++h == height) h = 0, ++b;
  }
}

// move_one(coarse, fine) for each pixel of rows, which follow one another in either order.
template <typename T, typename Move>
inline void for_pixels(T* coarse, T* fine, const PixelShuffleParams& p, int64_t begin, int64_t end,
                       const Move& move_one) {
  const int64_t across = p.channels * p.factor, pixel = across * p.factor, width = p.width;
  const int64_t further_rows = (p.factor - 1) * width * across;
  coarse += begin * width * pixel;
  fine += begin * width * pixel;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t w = 0; w < width; ++w) {
      move_one(coarse, fine);
      coarse += pixel;
      fine += across;
    }
    fine += further_rows;
  }
}

template <bool kShuffle, typename T>
void move_channels_last(T* coarse, T* fine, const PixelShuffleParams& p, int64_t begin,
                        int64_t end) {
  const int64_t r = p.factor, channels = p.channels, fine_row = p.width * channels * r;
  if (r == 2) {
    for_pixels(coarse, fine, p, begin, end, [=](T* from, T* upper) {
      T* const lower = upper + fine_row;
      T* const pixels[4] = {upper, upper + channels, lower, lower + channels};
      move_pixel2<kShuffle>(from, pixels, channels);
    });
  } else if (channels < kSide<T> && channels <= kMostRows) {
    // Too few for a square: like rows in torch.contiguous_format, those of each channel alternate.
    with_rows(channels, [&](auto rows) {
      for_pixels(coarse, fine, p, begin, end, [=](T* from, T* to) {
        for (int64_t i = 0; i < r; ++i) {
          move_row<kShuffle, rows>(from + i * r, to + i * fine_row, r * r, r, channels);
        }
      });
    });
  } else {
    for_pixels(coarse, fine, p, begin, end,
               [=](T* from, T* to) { move_pixel<kShuffle>(from, to, channels, r, fine_row); });
  }
}

template <bool kShuffle, typename T>
void move_rows(T* coarse, T* fine, const PixelShuffleParams& p, int64_t begin, int64_t end) {
  if (p.channels_last) return move_channels_last<kShuffle>(coarse, fine, p, begin, end);
  with_rows(p.factor, [&](auto r) { move_contiguous<kShuffle, r>(coarse, fine, p, begin, end); });
}

template <bool kShuffle>
void move_rows(void* coarse, void* fine, const PixelShuffleParams& p, int64_t begin, int64_t end) {
  switch (p.element_size) {
    case 1:
      return move_rows<kShuffle>(static_cast<uint8_t*>(coarse), static_cast<uint8_t*>(fine), p,
                                 begin, end);
    case 2:
      return move_rows<kShuffle>(static_cast<uint16_t*>(coarse), static_cast<uint16_t*>(fine), p,
                                 begin, end);
    case 4:
      return move_rows<kShuffle>(static_cast<uint32_t*>(coarse), static_cast<uint32_t*>(fine), p,
                                 begin, end);
    case 8:
      return move_rows<kShuffle>(static_cast<uint64_t*>(coarse), static_cast<uint64_t*>(fine), p,
                                 begin, end);
    default:
      return move_rows<kShuffle>(static_cast<Bytes16*>(coarse), static_cast<Bytes16*>(fine), p,
                                 begin, end);
  }
}

}  // namespace

void pixel_shuffle(const PixelShuffleParams& p, int64_t begin, int64_t end) {
  move_rows<true>(const_cast<void*>(p.source), p.destination, p, begin, end);
}

void pixel_unshuffle(const PixelShuffleParams& p, int64_t begin, int64_t end) {
  move_rows<false>(p.destination, const_cast<void*>(p.source), p, begin, end);
}

}  // namespace SEGFAST_ISA
}  // namespace segfast
