// pixel_shuffle_cpu.h: compiled once for each instruction set by pixel_shuffle_cpu.cpp.
#include "common/lanes.h"
#include "kernels/pixel_shuffle/interleave_cpu.h"

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// The rows [begin, end) of the coarse tensor and what the fine one has of them.
template <typename T>
struct Rows {
  T *coarse, *fine;
  const PixelShuffleParams& p;
  int64_t begin, end;
};

// Rows of elements; the fine ones follow one another.
template <bool kShuffle, typename T>
struct MoveContiguous {
  const Rows<T>& rows;

  template <int R>
  void run() const {
    const PixelShuffleParams& p = rows.p;
    const int64_t r = p.factor, height = p.height, width = p.width, plane = height * width;
    int64_t b = rows.begin / height, h = rows.begin % height;
    T* fine = rows.fine + rows.begin * r * r * width;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      T* planes = rows.coarse + b * r * r * plane + h * width;
      for (int64_t i = 0; i < r; ++i) {
        move_row<kShuffle, R>(planes, fine, plane, width, r);
        planes += r * plane;
        fine += r * width;
      }
      if (++h == height) h = 0, ++b;
    }
  }
};

// Rows of pixels, which follow one another in either order; move(coarse, fine) moves one.
template <typename T, typename Move>
inline void move_pixels(const Rows<T>& rows, const Move& move) {
  const PixelShuffleParams& p = rows.p;
  const int64_t across = p.channels * p.factor, pixel = across * p.factor, width = p.width;
  const int64_t further_rows = (p.factor - 1) * width * across;
  T* coarse = rows.coarse + rows.begin * width * pixel;
  T* fine = rows.fine + rows.begin * width * pixel;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t w = 0; w < width; ++w) {
      move(coarse, fine);
      coarse += pixel;
      fine += across;
    }
    fine += further_rows;
  }
}

// channels, factor and fine_row: as move_pixel() has them.
struct PixelShape {
  int64_t channels, factor, fine_row;

  explicit PixelShape(const PixelShuffleParams& p)
      : channels(p.channels), factor(p.factor), fine_row(p.width * p.channels * p.factor) {}
};

template <bool kShuffle>
struct MovePixel : PixelShape {
  using PixelShape::PixelShape;

  template <typename T>
  void operator()(T* coarse, T* fine) const {
    move_pixel<kShuffle>(coarse, fine, channels, factor, fine_row);
  }
};

template <bool kShuffle>
struct MovePixel2 : PixelShape {
  using PixelShape::PixelShape;

  template <typename T>
  void operator()(T* coarse, T* upper) const {
    T* const lower = upper + fine_row;
    T* const fine[4] = {upper, upper + channels, lower, lower + channels};
    move_pixel2<kShuffle>(coarse, fine, channels);
  }
};

// Like rows in torch.contiguous_format: those of each channel alternate.
template <bool kShuffle, int R>
struct MoveChannelsAsRows : PixelShape {
  using PixelShape::PixelShape;

  template <typename T>
  void operator()(T* coarse, T* fine) const {
    for (int64_t i = 0; i < factor; ++i) {
      move_row<kShuffle, R>(coarse + i * factor, fine + i * fine_row, factor * factor, factor,
                            channels);
    }
  }
};
template <bool kShuffle, typename T>
struct MoveFewChannels {
  const Rows<T>& rows;

  template <int R>
  void run() const {
    move_pixels(rows, MoveChannelsAsRows<kShuffle, R>(rows.p));
  }
};

template <bool kShuffle, typename T>
void move_rows(T* coarse, T* fine, const PixelShuffleParams& p, int64_t begin, int64_t end) {
  const Rows<T> rows{coarse, fine, p, begin, end};
  if (!p.channels_last) return with_rows(p.factor, MoveContiguous<kShuffle, T>{rows});
  if (p.factor == 2) return move_pixels(rows, MovePixel2<kShuffle>(p));
  const bool few = p.channels < kSide<T> && p.channels <= kMostRows;  // too few for a square
  if (few) return with_rows(p.channels, MoveFewChannels<kShuffle, T>{rows});
  move_pixels(rows, MovePixel<kShuffle>(p));
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
