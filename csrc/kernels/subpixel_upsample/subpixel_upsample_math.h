// subpixel_upsample_math.h: the formulas of one element, forward and backward.
//
// Sums run in the order of PyTorch's layers, so that the results equal theirs bit for bit: in
// float32 (float64 for double), rounded once at the end.
#pragma once

#include "common/host_device.h"

namespace segfast {

// The formulas of cells serve vectors as well: A is a number or a vector of them.

// Keeps NaN, and -0 as PyTorch's does.
template <typename A>
SEGFAST_HOST_DEVICE A relu(A x) {
  return x < A{} ? A{} : x;
}

// Whether ReLU's derivative at x is 1: also at NaN, as in PyTorch.
template <typename A>
SEGFAST_HOST_DEVICE bool passes_gradient(A x) {
  return !(x <= 0);
}

// PyTorch's sums start from +0, which only shows where all four are -0: so does adding it last.
template <typename A>
SEGFAST_HOST_DEVICE A sum4(A a, A b, A c, A d) {
  return (((a + b) + c) + d) + A{};
}

// What is summed to a mean of four: the sum of the first two, the third and the fourth.
template <typename A>
struct Terms {
  A pair, third, fourth;
};

template <typename A>
SEGFAST_HOST_DEVICE A mean(Terms<A> x) {
  return (((x.pair + x.third) + x.fourth) + A{}) * 0.25f;
}

// The blur: the mean of an element, its left and its upper neighbours. Beyond the left and the
// upper edge stand the edge's own values.
template <typename A>
SEGFAST_HOST_DEVICE A mean4(A upper_left, A upper, A left, A center) {
  return mean(Terms<A>{upper_left + upper, left, center});
}

// A 2x2 cell of the fine tensor, or the four subpixels it is made of: [[a, b], [c, d]].
template <typename A>
struct Cell {
  A a, b, c, d;
};

// What the cell above contributes to a cell's a and b: where their sums start.
template <typename A>
struct Above {
  A a, b;
};

// c, d: of the cell above; corner_d: of the cell to its left.
template <typename A>
SEGFAST_HOST_DEVICE Above<A> above_cell(A c, A d, A corner_d) {
  return {corner_d + c, c + d};
}

// What the blur of a cell's element is the mean of: 0 to 3 are a to d. left_b, left_d: of the cell
// to the left.
template <int kElement, typename A>
SEGFAST_HOST_DEVICE Terms<A> blur_terms(Cell<A> s, Above<A> above, A left_b, A left_d) {
  if constexpr (kElement == 0) return {above.a, left_b, s.a};
  if constexpr (kElement == 1) return {above.b, s.a, s.b};
  if constexpr (kElement == 2) return {left_b + s.a, left_d, s.c};
  return {s.a + s.b, s.c, s.d};
}

// The blur's derivative at (y, x) of a map of height x width, given grad(y, x), a quarter of the
// output's gradient. The map is thought padded by a row above and a column to the left: an output
// reaches the four padded elements up and left of it, and the padded edge belongs to the map's
// edge.
template <typename A, typename I, typename Grad>
SEGFAST_HOST_DEVICE A blur_gradient(I y, I x, I height, I width, const Grad& grad) {
  A sum = 0;
  for (I py = y == 0 ? 0 : y + 1; py <= y + 1; ++py) {
    for (I px = x == 0 ? 0 : x + 1; px <= x + 1; ++px) {
      A padded = 0;
      for (I oy = py == 0 ? 0 : py - 1; oy <= py && oy < height; ++oy) {
        for (I ox = px == 0 ? 0 : px - 1; ox <= px && ox < width; ++ox) padded += grad(oy, ox);
      }
      sum += padded;
    }
  }
  return sum;
}

// What the padded edge adds to a cell's sums. kTop, kLeft: the cell is the first. q: quarters of
// the output's gradient at its four elements, at the column to the right and at the row below.
template <bool kTop, bool kLeft, typename A>
SEGFAST_HOST_DEVICE void add_edges(const A (&q)[3][3], Cell<A>& s) {
  const A above_a = q[0][0] + q[0][1];
  const A beside_a = q[0][0] + q[1][0];
  if (kTop && kLeft) {
    s.a = ((q[0][0] + above_a) + beside_a) + s.a;
  } else if (kTop) {
    s.a = above_a + s.a;
  } else if (kLeft) {
    s.a = beside_a + s.a;
  }
  if (kTop) s.b = (q[0][1] + q[0][2]) + s.b;
  if (kLeft) s.c = (q[1][0] + q[2][0]) + s.c;
}

}  // namespace segfast
