// blur_fused_math.h: the blur and its derivative in fused multiply-adds, where a processor has
// them: the bits of subpixel_upsample_math.h's formulas in fewer operations.
//
// A is a number (scalar_math.h has its madd) or a vector of them (lanes_math.h). A body file:
// before it, SEGFAST_FORMULAS is defined as the namespace that it fills, within segfast, and
// SEGFAST_FORMULA as what a function of it begins with.
namespace segfast::SEGFAST_FORMULAS {

// The product is rounded once either way; with +0 added, four -0 become +0.
template <typename A>
SEGFAST_FORMULA A mean(Terms<A> x) {
  const A zero{}, quarter = zero + 0.25f;
  return madd((x.pair + x.third) + x.fourth, quarter, zero);
}

// sum4() of quarters of elements of 16 bits. Such quarters are exact, so that a fused multiply-add
// rounds as the sum of a quarter does.
template <typename A>
SEGFAST_FORMULA A sum_quarters(A a, A b, A c, A d) {
  const A zero{}, quarter = zero + 0.25f;
  return madd(d, quarter, madd(c, quarter, madd(b, quarter, madd(a, quarter, zero))));
}
template <bool kNarrow, typename A>
SEGFAST_FORMULA A gradient_sum(A a, A b, A c, A d) {
  if constexpr (kNarrow) {
    return sum_quarters(a, b, c, d);
  } else {
    return sum4(a, b, c, d);
  }
}

// The blur's derivative for a cell. g: quarters of the output's gradient at its four elements, at
// the column to the right and at the row below, 0 beyond the map; kNarrow: elements of 16 bits,
// which are still whole.
template <bool kNarrow, typename A>
SEGFAST_FORMULA Cell<A> inner_gradient(const A (&g)[3][3]) {
  return {gradient_sum<kNarrow>(g[0][0], g[0][1], g[1][0], g[1][1]),
          gradient_sum<kNarrow>(g[0][1], g[0][2], g[1][1], g[1][2]),
          gradient_sum<kNarrow>(g[1][0], g[1][1], g[2][0], g[2][1]),
          gradient_sum<kNarrow>(g[1][1], g[1][2], g[2][1], g[2][2])};
}

// The same for a cell that may lie in the map's first row or column.
template <bool kNarrow, typename A>
SEGFAST_FORMULA Cell<A> blur_gradient_cell(const A (&g)[3][3], bool top, bool left) {
  Cell<A> s = inner_gradient<kNarrow>(g);
  if (!top && !left) return s;
  A q[3][3];
  for (int y = 0; y < 3; ++y) {
    for (int x = 0; x < 3; ++x) q[y][x] = kNarrow ? g[y][x] * 0.25f : g[y][x];
  }
  if (!left) {
    add_edges<true, false>(q, s);
  } else if (top) {
    add_edges<true, true>(q, s);
  } else {
    add_edges<false, true>(q, s);
  }
  return s;
}

}  // namespace segfast::SEGFAST_FORMULAS

#undef SEGFAST_FORMULAS
#undef SEGFAST_FORMULA
