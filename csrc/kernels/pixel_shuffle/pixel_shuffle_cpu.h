// pixel_shuffle_cpu.h: compiled once for each instruction set by pixel_shuffle_cpu.cpp.
#include "common/lanes.h"
#include "kernels/pixel_shuffle/interleave_cpu.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

template <bool kShuffle, typename T>
void move_rows(T* coarse, T* fine, const PixelShuffleParams& p, int64_t begin, int64_t end) {
  const int64_t r = p.factor;
  const ShuffleShape<int64_t> shape{p.channels, p.height, p.width, r, p.channels_last};
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / p.height;
    const int64_t h = row % p.height;
    if (!p.channels_last) {
      for (int64_t i = 0; i < r; ++i) {
        move_row<kShuffle>(coarse + shape.coarse(b, h, 0, 0, i, 0),
                           fine + shape.fine(row * r + i, 0, 0), p.height * p.width, p.width, r);
      }
    } else {
      for (int64_t w = 0; w < p.width; ++w) {
        T* pixel = coarse + shape.coarse(b, h, w, 0, 0, 0);
        T* first = fine + shape.fine(row * r, w * r, 0);
        const int64_t fine_row = p.width * r * p.channels;
        if (r == 2) {
          T* const pixels[4] = {first, first + p.channels, first + fine_row,
                                first + fine_row + p.channels};
          move_pixel2<kShuffle>(pixel, pixels, p.channels);
          continue;
        }
        move_pixel<kShuffle>(pixel, first, p.channels, r, fine_row);
      }
    }
  }
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
