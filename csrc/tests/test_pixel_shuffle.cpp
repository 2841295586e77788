// test_pixel_shuffle.cpp: pixel_shuffle and pixel_unshuffle, by element size.
#include "kernels/pixel_shuffle/pixel_shuffle.h"

#include "tensors.h"

using namespace segfast;
using namespace segfast::test;

namespace {

struct ShuffleCase {
  const char* reason;
  int64_t N, C, H, W,
      r;  // C, H, W: channels of the fine tensor, rows and columns of the coarse one
};

const ShuffleCase kCases[] = {
    {"one pixel", 1, 1, 1, 1, 2},
    {"whole vectors along rows and channels", 2, 32, 4, 64, 2},
    {"vectors and a tail along rows", 1, 2, 3, 75, 2},
    {"vectors and a tail along channels", 1, 37, 3, 5, 2},
    {"more than one block of threads", 3, 19, 21, 23, 2},
    {"factor 1: a copy", 2, 3, 5, 7, 1},
    {"factor 3", 2, 5, 4, 37, 3},
    {"factor 3, whole squares, a last one that overlaps, a subpixel left", 1, 18, 2, 5, 3},
    {"factor 4", 1, 21, 5, 19, 4},
    {"factor 4: whole vectors along rows", 1, 2, 3, 8, 4},
    {"factor 5", 2, 3, 3, 11, 5},
    {"factor 6", 1, 4, 2, 9, 6},
    {"factor 7", 1, 5, 3, 2, 7},
    {"factor 8", 1, 2, 5, 9, 8},
    {"factor 9: no loop of its own", 1, 6, 2, 3, 9},
    {"1 channel", 2, 1, 3, 5, 3},
    {"7 channels, less than a square of 16 bits", 2, 7, 3, 4, 3},
    {"8 channels, less than a square of bytes", 1, 8, 2, 3, 3},
    {"9 channels, less than a square of bytes", 1, 9, 2, 3, 5},
    {"an empty batch", 0, 3, 4, 4, 2},
};

void test_case(Backend backend, const ShuffleCase& c, bool channels_last, int size,
               int64_t offset) {
  const Layout coarse{channels_last, c.C * c.r * c.r, c.H, c.W};
  const Layout fine{channels_last, c.C, c.H * c.r, c.W * c.r};
  const int64_t bytes = c.N * c.C * c.r * c.r * c.H * c.W * size;
  Array<uint8_t> source(bytes, offset * size);
  Array<uint8_t> destination(bytes), shuffled(bytes), unshuffled(bytes);
  for (int64_t i = 0; i < bytes; ++i) source[i] = static_cast<uint8_t>(generator()());
  const auto copy = [size](Array<uint8_t>& to, int64_t i, const Array<uint8_t>& from, int64_t j) {
    std::memcpy(to.data() + i * size, from.data() + j * size, static_cast<size_t>(size));
  };
  for (int64_t n = 0; n < c.N; ++n)
    for (int64_t k = 0; k < coarse.C; ++k)
      for (int64_t h = 0; h < c.H; ++h)
        for (int64_t w = 0; w < c.W; ++w) {
          const int64_t from = coarse(n, k, h, w);
          const int64_t to = fine(n, k / (c.r * c.r), h * c.r + k / c.r % c.r, w * c.r + k % c.r);
          copy(shuffled, to, source, from);
          copy(unshuffled, from, source, to);
        }

  const PixelShuffleParams p{source.data(),
                             destination.data(),
                             channels_last ? c.N : c.N * c.C,
                             channels_last ? c.C : 1,
                             c.H,
                             c.W,
                             c.r,
                             size,
                             channels_last};
  const int64_t items = p.batch * p.height;
  std::string missing = unwritten(
      [&] { run_op(backend, p, items, pixel_shuffle_cpu, pixel_shuffle_cuda); }, destination);
  CHECK(missing.empty(), "pixel_shuffle: " + missing);
  check_same(destination, shuffled, "pixel_shuffle, byte");
  missing = unwritten([&] { run_op(backend, p, items, pixel_unshuffle_cpu, pixel_unshuffle_cuda); },
                      destination);
  CHECK(missing.empty(), "pixel_unshuffle: " + missing);
  check_same(destination, unshuffled, "pixel_unshuffle, byte");
}

void test_pixel_shuffle(Backend backend) {
  for (const ShuffleCase& c : kCases) {
    for (bool channels_last : {false, true}) {
      for (int size : {1, 2, 4, 8, 16}) {
        for (int64_t offset : {0, 1}) {
          const std::string name =
              std::string(c.reason) + (channels_last ? ", channels_last" : ", contiguous") +
              ", element size " + std::to_string(size) + (offset ? ", unaligned source" : "");
          if (!begin_case(name)) continue;
          test_case(backend, c, channels_last, size, offset);
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return op_main(argc, argv, test_pixel_shuffle); }
