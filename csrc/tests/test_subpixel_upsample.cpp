// test_subpixel_upsample.cpp: [ReLU] -> pixel_shuffle -> [replicate pad, 2x2 mean] and its
// backward.
#include "kernels/subpixel_upsample/subpixel_upsample.h"

#include "tensors.h"

using namespace segfast;
using namespace segfast::test;

namespace {

struct UpsampleCase {
  const char* reason;
  int64_t N, C, H, W, r;  // C: channels of the fine tensor; H, W: of the coarse one
};

const UpsampleCase kCases[] = {
    {"one pixel", 1, 1, 1, 1, 2},
    {"one row", 1, 3, 1, 6, 2},
    {"one row of whole vectors", 1, 4, 1, 8, 2},
    {"one column", 2, 2, 5, 1, 2},
    {"rows and channels less than a vector", 2, 3, 4, 5, 2},
    {"the same, of which two make a byte of the mask", 2, 2, 3, 2, 2},
    {"whole vectors along rows and channels", 1, 32, 3, 64, 2},
    {"vectors and a tail along rows", 1, 2, 4, 75, 2},
    {"vectors and a tail along channels", 1, 37, 3, 5, 2},
    {"a tile of the CPU kernel and more", 1, 1, 3, 131, 2},
    {"more channels than a tile of the CPU kernel", 1, 133, 2, 3, 2},
    {"more than one block of threads", 2, 9, 13, 17, 2},
    {"factor 1", 1, 2, 4, 5, 1},
    {"factor 3", 2, 3, 4, 7, 3},
    {"factor 4", 1, 5, 3, 9, 4},
    {"an empty batch", 0, 3, 4, 4, 2},
};

// One case in one memory format.
struct Shape {
  Shape(const UpsampleCase& c, bool channels_last)
      : c(c),
        coarse{channels_last, c.C * c.r * c.r, c.H, c.W},
        fine{channels_last, c.C, c.H * c.r, c.W * c.r},
        batch(channels_last ? c.N : c.N * c.C),
        channels(channels_last ? c.C : 1),
        row_bytes((c.W * channels * c.r * c.r + 7) / 8),
        numel(c.N * c.C * c.r * c.r * c.H * c.W) {}

  UpsampleCase c;
  Layout coarse, fine;
  int64_t batch, channels, row_bytes, numel;

  // f(n, channel, y, x) for every element of the fine tensor.
  template <typename F>
  void for_each(F&& f) const {
    for (int64_t n = 0; n < c.N; ++n)
      for (int64_t k = 0; k < c.C; ++k)
        for (int64_t y = 0; y < fine.H; ++y)
          for (int64_t x = 0; x < fine.W; ++x) f(n, k, y, x);
  }
  // Where element (y, x) of a fine plane lies in the coarse tensor.
  int64_t source(int64_t n, int64_t k, int64_t y, int64_t x) const {
    return coarse(n, (k * c.r + y % c.r) * c.r + x % c.r, y / c.r, x / c.r);
  }
  // Its bit in the mask, as a number of bits from the start.
  int64_t bit(int64_t n, int64_t k, int64_t y, int64_t x) const {
    const int64_t row = (coarse.channels_last ? n : n * c.C + k) * c.H + y / c.r;
    const int64_t channel = coarse.channels_last ? k : 0;
    return row * row_bytes * 8 + (((x / c.r) * channels + channel) * c.r + y % c.r) * c.r + x % c.r;
  }
};

bool test_bit(const Array<uint8_t>& mask, int64_t bit) {
  return ((mask[bit / 8] >> (bit % 8)) & 1) != 0;
}

const char* kActivations[] = {"no activation", "ReLU", "ReLU with mask", "masked"};

template <typename T>
void test_forward(Backend backend, const Shape& shape, Activation activation, bool blur,
                  Values values, char unaligned) {
  Array<T> input(shape.numel, unaligned == 'i'), output(shape.numel, unaligned == 'o');
  const bool has_mask =
      activation == Activation::relu_with_mask || activation == Activation::masked;
  Array<uint8_t> mask(has_mask ? shape.batch * shape.c.H * shape.row_bytes : 0);
  Array<uint8_t> expected_mask(mask.size());
  fill_random(input, values);
  if (activation == Activation::masked) {
    shape.for_each([&](int64_t n, int64_t k, int64_t y, int64_t x) {
      const int64_t bit = shape.bit(n, k, y, x);
      expected_mask[bit / 8] =
          static_cast<uint8_t>(expected_mask[bit / 8] | random_integer(0, 1) << (bit % 8));
    });
    std::memcpy(mask.data(), expected_mask.data(), mask.bytes());
  }

  Array<double> active(shape.numel), expected(shape.numel);  // in the fine layout
  shape.for_each([&](int64_t n, int64_t k, int64_t y, int64_t x) {
    const double value = static_cast<double>(to_float(input[shape.source(n, k, y, x)]));
    double& result = active[shape.fine(n, k, y, x)];
    const int64_t bit = shape.bit(n, k, y, x);
    if (activation == Activation::none) {
      result = value;
    } else if (activation == Activation::masked) {
      result = test_bit(mask, bit) ? value : 0.0;
    } else {
      result = value < 0 ? 0.0 : value;
    }
    if (activation == Activation::relu_with_mask && !(value <= 0)) {
      expected_mask[bit / 8] = static_cast<uint8_t>(expected_mask[bit / 8] | 1 << (bit % 8));
    }
  });
  shape.for_each([&](int64_t n, int64_t k, int64_t y, int64_t x) {
    const int64_t up = std::max<int64_t>(y - 1, 0), left = std::max<int64_t>(x - 1, 0);
    // From +0 on, as PyTorch's sums: the mean of four -0 is +0.
    expected[shape.fine(n, k, y, x)] =
        blur ? (0.0 + active[shape.fine(n, k, up, left)] + active[shape.fine(n, k, up, x)] +
                active[shape.fine(n, k, y, left)] + active[shape.fine(n, k, y, x)]) /
                   4
             : active[shape.fine(n, k, y, x)];
  });

  const SubpixelUpsampleParams p{input.data(), output.data(),  has_mask ? mask.data() : nullptr,
                                 shape.batch,  shape.channels, shape.c.H,
                                 shape.c.W,    shape.c.r,      dtype_of<T>(),
                                 activation,   blur,           shape.coarse.channels_last};
  const auto run = [&] {
    run_op(backend, p, subpixel_upsample_items(p), subpixel_upsample_cpu, subpixel_upsample_cuda);
  };
  const std::string missing = activation == Activation::relu_with_mask
                                  ? unwritten(run, output, mask)
                                  : unwritten(run, output);
  CHECK(missing.empty(), missing);
  check_same(mask, expected_mask, "mask");
  // One rounding to T, after sums of four terms of about 1 in float (or double).
  const double step = std::ldexp(1.0, std::is_same_v<T, double>  ? -50
                                      : std::is_same_v<T, float> ? -22
                                      : std::is_same_v<T, Half>  ? -10
                                                                 : -7);
  check_close(output, expected, step, std::is_same_v<T, double> ? 1e-14 : 1e-6, "output");
  const auto other_zero = [&](int64_t i) {
    const auto value = to_float(output[i]);
    return value == 0 && expected[i] == 0 && std::signbit(value) != std::signbit(expected[i]);
  };
  int64_t i = 0;
  while (i < output.size() && !other_zero(i)) ++i;
  CHECK(i == output.size(), "output[" + std::to_string(i) + "] is the other zero");
}

// Gradients are small integers, zeros of either sign: sums of their quarters are exact in every
// type.
template <typename T>
void test_backward(Backend backend, const Shape& shape, bool has_mask, bool blur, char unaligned) {
  Array<T> grad_output(shape.numel, unaligned == 'i'), grad_input(shape.numel, unaligned == 'o');
  Array<T> expected(shape.numel);
  Array<uint8_t> mask(has_mask ? shape.batch * shape.c.H * shape.row_bytes : 0, unaligned == 'm');
  fill_random(grad_output, Values::ties);
  for (int64_t i = 0; i < shape.numel; ++i) {
    if (to_float(grad_output[i]) == 0 && i % 2 == 0) grad_output[i] = from_float<T>(-0.0f);
  }
  for (int64_t i = 0; i < mask.size(); ++i) mask[i] = static_cast<uint8_t>(generator()());
  Array<double> sums(shape.numel);
  shape.for_each([&](int64_t n, int64_t k, int64_t y, int64_t x) {
    const double grad = static_cast<double>(to_float(grad_output[shape.fine(n, k, y, x)]));
    const int64_t up = std::max<int64_t>(y - 1, 0), left = std::max<int64_t>(x - 1, 0);
    if (!blur) {
      sums[shape.source(n, k, y, x)] = grad;
      return;
    }
    sums[shape.source(n, k, up, left)] += grad / 4;
    sums[shape.source(n, k, up, x)] += grad / 4;
    sums[shape.source(n, k, y, left)] += grad / 4;
    sums[shape.source(n, k, y, x)] += grad / 4;
  });
  shape.for_each([&](int64_t n, int64_t k, int64_t y, int64_t x) {
    const int64_t i = shape.source(n, k, y, x);
    const bool passes = !has_mask || test_bit(mask, shape.bit(n, k, y, x));
    expected[i] = from_float<T>(static_cast<accumulate_t<T>>(passes ? sums[i] : 0.0));
  });

  const SubpixelUpsampleBackwardParams p{grad_output.data(),
                                         has_mask ? mask.data() : nullptr,
                                         grad_input.data(),
                                         shape.batch,
                                         shape.channels,
                                         shape.c.H,
                                         shape.c.W,
                                         shape.c.r,
                                         dtype_of<T>(),
                                         blur,
                                         shape.coarse.channels_last};
  const auto run = [&] {
    run_op(backend, p, subpixel_upsample_backward_items(p), subpixel_upsample_backward_cpu,
           subpixel_upsample_backward_cuda);
  };
  const std::string missing = unwritten(run, grad_input);
  CHECK(missing.empty(), missing);
  check_same(grad_input, expected, "grad_input");
}

void test_subpixel_upsample(Backend backend) {
  for (const UpsampleCase& c : kCases) {
    for (bool channels_last : {false, true}) {
      const Shape shape(c, channels_last);
      for_each_type([&](auto tag) {
        using T = typename decltype(tag)::type;
        for (bool blur : {false, true}) {
          for (const char* unaligned : {"nothing", "input", "output", "mask"}) {
            const std::string where =
                std::string(c.reason) + (channels_last ? ", channels_last, " : ", contiguous, ") +
                type_name<T>() + (blur ? ", blur" : "") + ", unaligned: " + unaligned;
            for (Activation activation : {Activation::none, Activation::relu,
                                          Activation::relu_with_mask, Activation::masked}) {
              const char* name = kActivations[static_cast<int>(activation)];
              if (*unaligned == 'm' || !begin_case(where + ", " + name)) continue;
              const Values values = *unaligned == 'o' ? Values::normal : Values::special;
              test_forward<T>(backend, shape, activation, blur, values, *unaligned);
            }
            for (bool has_mask : {false, true}) {
              if (*unaligned == 'm' && !has_mask) continue;
              if (!begin_case(where + ", backward" + (has_mask ? ", mask" : ""))) continue;
              test_backward<T>(backend, shape, has_mask, blur, *unaligned);
            }
          }
        }
      });
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return op_main(argc, argv, test_subpixel_upsample); }
