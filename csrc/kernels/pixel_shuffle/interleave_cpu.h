// interleave_cpu.h: rows and pixels between the coarse and the fine order. Compiled once for each
// instruction set, into the files that include it (see foreach_isa.h).
//
// kShuffle copies coarse to fine, otherwise fine to coarse: the loops differ in the direction of
// one assignment.
//
// What squares of 16-byte vectors gained for a channels_last pixel, over element by element (time
// before over time after, shuffle and unshuffle, a map in cache, one thread of a Zen 3): factor 3
// fp32 2.0 and 1.8, 16 bits 2.4 and 2.2; factor 4 fp32 2.1 and 2.0, 16 bits 3.3 and 3.9.
// What AVX2 gained there for factor 2, in us of half an odd map [2, 64, 65, 127]: rows whose last
// vector overlaps, joined by halves, fp32 unshuffled 93 -> 71, 16 bits shuffled 44 -> 37,
// unshuffled 67 -> 50; pixels fp32 shuffled 109 -> 77. Several vectors of a row written before
// those of the next, halves joined in registers rather than by loads (two threads): rows
// unshuffled, 16 bits 52 -> 40, fp32 75 -> 71.
// What places that go on, and loops chosen once for all rows, gained contiguous maps in cache (us
// of [1, 64, 32, 32], factor 2, one thread of it): 16 bits shuffled 28 -> 19, unshuffled 31 -> 24,
// bytes 20 -> 13, 26 -> 11, fp32 38 -> 35; what channels less than a square gained by going as
// rows, in channels_last [2, C, 16, 16] (time before over time after, shuffle and unshuffle):
// factor 3 with C = 3, 16 bits 1.6 and 1.7, fp32 1.4; factor 8 with C = 4, 16 bits 7 and 4; C = 1,
// fp32 3.8.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

template <bool kShuffle, typename T>
inline void move(T& coarse, T& fine) {
  if (kShuffle) {
    fine = coarse;
  } else {
    coarse = fine;
  }
}

#ifdef SEGFAST_ISA_AVX2

// 32 bytes of each of two rows to the 64 in which their elements alternate.
inline void join_vectors2(const uint16_t* even, const uint16_t* odd, uint16_t* both) {
  const auto x = load_vector<__m256i>(even), y = load_vector<__m256i>(odd);
  const __m256i low = _mm256_unpacklo_epi16(x, y), high = _mm256_unpackhi_epi16(x, y);
  store_vector(both, _mm256_permute2x128_si256(low, high, 0x20));
  store_vector(both + 16, _mm256_permute2x128_si256(low, high, 0x31));
}
inline void join_vectors2(const uint32_t* even, const uint32_t* odd, uint32_t* both) {
  const auto x = load_vector<__m256i>(even), y = load_vector<__m256i>(odd);
  const __m256i low = _mm256_unpacklo_epi32(x, y), high = _mm256_unpackhi_epi32(x, y);
  store_vector(both, _mm256_permute2x128_si256(low, high, 0x20));
  store_vector(both + 8, _mm256_permute2x128_si256(low, high, 0x31));
}

// And back. (Loads of halves would cross more cache lines, which takes longer than halves that
// cross.)
struct Apart {
  __m256i even, odd;

  Apart(__m256i even_by_16, __m256i odd_by_16)
      : even(_mm256_permute4x64_epi64(even_by_16, _MM_SHUFFLE(3, 1, 2, 0))),
        odd(_mm256_permute4x64_epi64(odd_by_16, _MM_SHUFFLE(3, 1, 2, 0))) {}
};
inline Apart split_vectors2(const uint16_t* both) {
  const __m256i apart = _mm256_broadcastsi128_si256(pairs_apart());
  const __m256i x = _mm256_shuffle_epi8(load_vector<__m256i>(both), apart);
  const __m256i y = _mm256_shuffle_epi8(load_vector<__m256i>(both + 16), apart);
  return {_mm256_unpacklo_epi64(x, y), _mm256_unpackhi_epi64(x, y)};
}
inline Apart split_vectors2(const uint32_t* both) {
  const auto x = load_vector<__m256>(both), y = load_vector<__m256>(both + 8);
  return {(__m256i)_mm256_shuffle_ps(x, y, _MM_SHUFFLE(2, 0, 2, 0)),
          (__m256i)_mm256_shuffle_ps(x, y, _MM_SHUFFLE(3, 1, 3, 1))};
}

// Each row's vectors are written together: where rows do not begin on cache lines, going to and fro
// takes longer.
template <int kVectors, typename T>
inline void split_vectors2(const T* both, T* even, T* odd) {
  constexpr int kCount = 32 / sizeof(T);
  __m256i odds[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const Apart rows = split_vectors2(both + 2 * v * kCount);
    store_vector(even + v * kCount, rows.even);
    odds[v] = rows.odd;
  }
  for (int v = 0; v < kVectors; ++v) store_vector(odd + v * kCount, odds[v]);
}

// A row of whole vectors, the last of which may overlap, where GCC leaves the last elements scalar.
template <bool kShuffle, typename T>
void move_row2(T* coarse, T* fine, int64_t plane, int64_t width) {
  constexpr int64_t kCount = 32 / sizeof(T);
  constexpr int kTogether = 8 / sizeof(T);  // measured for either
  constexpr int64_t kGroup = kTogether * kCount;
  T* const odd = coarse + plane;
  int64_t w = 0;
  for (; !kShuffle && w + kGroup <= width; w += kGroup) {
    split_vectors2<kTogether>(fine + 2 * w, coarse + w, odd + w);
  }
  if (w > 0 && w + kGroup - kCount < width) {
    w = width - kGroup;
    return split_vectors2<kTogether>(fine + 2 * w, coarse + w, odd + w);
  }
  for (; w < width; w += kCount) {
    const int64_t at = std::min(w, width - kCount);
    if constexpr (kShuffle) {
      join_vectors2(coarse + at, odd + at, fine + 2 * at);
    } else {
      split_vectors2<1>(fine + 2 * at, coarse + at, odd + at);
    }
  }
}

// move_pixel2_loop<true>, which GCC leaves scalar or shuffles more than need be: the channels that
// fill whole vectors. Returns how many it moved.
inline int64_t split_pixel2(const uint16_t* coarse, uint16_t* const fine[4], int64_t channels) {
  // In each half, [2 channels, 4 subpixels] to [4, 2]: a pair of channels is one 32-bit word.
  const __m256i pair = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
  // What the transposition of words, each half of a vector for itself, leaves to be put in order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  int64_t c = 0;
  for (; c + 16 <= channels; c += 16) {
    __m256i x[4];
    for (int k = 0; k < 4; ++k) {
      const __m256i* source = reinterpret_cast<const __m256i*>(coarse + c * 4) + k;
      x[k] = _mm256_shuffle_epi8(_mm256_loadu_si256(source), pair);
    }
    const __m256i low01 = _mm256_unpacklo_epi32(x[0], x[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(x[2], x[3]);
    const __m256i high01 = _mm256_unpackhi_epi32(x[0], x[1]);
    const __m256i high23 = _mm256_unpackhi_epi32(x[2], x[3]);
    x[0] = _mm256_unpacklo_epi64(low01, low23);
    x[1] = _mm256_unpackhi_epi64(low01, low23);
    x[2] = _mm256_unpacklo_epi64(high01, high23);
    x[3] = _mm256_unpackhi_epi64(high01, high23);
    for (int k = 0; k < 4; ++k) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(fine[k] + c),
                          _mm256_permutevar8x32_epi32(x[k], order));
    }
  }
  return c;
}
inline int64_t split_pixel2(const uint32_t* coarse, uint32_t* const fine[4], int64_t channels) {
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8) {
    const uint32_t* const at = coarse + c * 4;
    const __m256i x = join_halves(at, at + 16), y = join_halves(at + 4, at + 20);
    const __m256i z = join_halves(at + 8, at + 24), w = join_halves(at + 12, at + 28);
    const __m256i low01 = _mm256_unpacklo_epi32(x, y), low23 = _mm256_unpacklo_epi32(z, w);
    const __m256i high01 = _mm256_unpackhi_epi32(x, y), high23 = _mm256_unpackhi_epi32(z, w);
    store_vector(fine[0] + c, _mm256_unpacklo_epi64(low01, low23));
    store_vector(fine[1] + c, _mm256_unpackhi_epi64(low01, low23));
    store_vector(fine[2] + c, _mm256_unpacklo_epi64(high01, high23));
    store_vector(fine[3] + c, _mm256_unpackhi_epi64(high01, high23));
  }
  return c;
}

#endif  // SEGFAST_ISA_AVX2

// coarse: `rows` of `width`, `plane` apart. fine: one row of width * rows. R: `rows`, or 0 where it
// is not known to the compiler.
template <bool kShuffle, int R, typename T>
inline void move_row(T* __restrict coarse, T* __restrict fine, int64_t plane, int64_t width,
                     int64_t rows) {
#ifdef SEGFAST_ISA_AVX2
  if constexpr (R == 2 && (sizeof(T) == 2 || sizeof(T) == 4)) {
    if (width * sizeof(T) >= 32) return move_row2<kShuffle>(coarse, fine, plane, width);
  }
#endif
  if constexpr (R == 0) {
    for (int64_t j = 0; j < rows; ++j) {
      for (int64_t w = 0; w < width; ++w) move<kShuffle>(coarse[j * plane + w], fine[w * rows + j]);
    }
  } else {
    for (int64_t w = 0; w < width; ++w) {
      for (int j = 0; j < R; ++j) move<kShuffle>(coarse[j * plane + w], fine[w * R + j]);
    }
  }
}

constexpr int kMostRows = 8;

// mover.run<R>() with the R of move_row(): a number up to kMostRows, or 0.
template <int R = 1, typename Mover>
void with_rows(int64_t rows, const Mover& mover) {
  if constexpr (R > kMostRows) {
    mover.template run<0>();
  } else if (rows == R) {
    mover.template run<R>();
  } else {
    with_rows<R + 1>(rows, mover);
  }
}

template <bool kShuffle, typename T>
void move_pixel2_loop(T* __restrict coarse, T* __restrict fine0, T* __restrict fine1,
                      T* __restrict fine2, T* __restrict fine3, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c) {
    move<kShuffle>(coarse[c * 4 + 0], fine0[c]);
    move<kShuffle>(coarse[c * 4 + 1], fine1[c]);
    move<kShuffle>(coarse[c * 4 + 2], fine2[c]);
    move<kShuffle>(coarse[c * 4 + 3], fine3[c]);
  }
}

// coarse: one pixel's [channels, 2, 2]. fine: its four pixels' [channels].
template <bool kShuffle, typename T>
void move_pixel2(T* coarse, T* const fine[4], int64_t channels) {
  int64_t c = 0;
#ifdef SEGFAST_ISA_AVX2
  if constexpr (kShuffle && (sizeof(T) == 2 || sizeof(T) == 4)) {
    c = split_pixel2(coarse, fine, channels);
  }
#endif
  move_pixel2_loop<kShuffle>(coarse + c * 4, fine[0] + c, fine[1] + c, fine[2] + c, fine[3] + c,
                             channels - c);
}

// coarse: one pixel's [channels, stride], of which this moves one subpixel. fine: [channels].
template <bool kShuffle, typename T>
void move_subpixel(T* __restrict coarse, T* __restrict fine, int64_t channels, int64_t stride) {
  for (int64_t c = 0; c < channels; ++c) move<kShuffle>(coarse[c * stride], fine[c]);
}

// As many rows of elements as there are elements in a vector of 16 bytes.
template <typename T>
constexpr int kSide = 16 / sizeof(T);

template <typename T>
struct Square {
  typedef T Row __attribute__((vector_size(16)));
  Row rows[kSide<T>];

  template <int... kIndex>
  static inline __attribute__((always_inline)) void interleave(
      Row x, Row y, Row& low, Row& high, std::integer_sequence<int, kIndex...>) {
#if defined(__clang__)
    low = __builtin_shufflevector(x, y, (kIndex / 2 + kIndex % 2 * kSide<T>)...);
    high = __builtin_shufflevector(x, y, (kSide<T> / 2 + kIndex / 2 + kIndex % 2 * kSide<T>)...);
#else
    low = __builtin_shuffle(x, y, Row{(kIndex / 2 + kIndex % 2 * kSide<T>)...});
    high = __builtin_shuffle(x, y, Row{(kSide<T> / 2 + kIndex / 2 + kIndex % 2 * kSide<T>)...});
#endif
  }

  // Each pass moves the highest bit of an element's row number below its column number.
  inline __attribute__((always_inline)) void transpose() {
    for (int pass = 1; pass < kSide<T>; pass *= 2) {
      const Square from = *this;
      for (int k = 0; k < kSide<T> / 2; ++k) {
        interleave(from.rows[k], from.rows[k + kSide<T> / 2], rows[2 * k], rows[2 * k + 1],
                   std::make_integer_sequence<int, kSide<T>>{});
      }
    }
  }
};

// coarse: kSide<T> subpixels of each of `channels` channels, `stride` apart; channels >= kSide<T>.
// fine: these subpixels' [channels].
template <bool kShuffle, typename T>
void move_subpixels(T* coarse, T* const* fine, int64_t channels, int64_t stride) {
  using Row = typename Square<T>::Row;
  for (int64_t first = 0; first < channels; first += kSide<T>) {
    const int64_t c = std::min<int64_t>(first, channels - kSide<T>);  // the last square may overlap
    Square<T> square;
    for (int k = 0; k < kSide<T>; ++k) {
      std::memcpy(&square.rows[k], kShuffle ? coarse + (c + k) * stride : fine[k] + c, sizeof(Row));
    }
    square.transpose();
    for (int k = 0; k < kSide<T>; ++k) {
      std::memcpy(kShuffle ? fine[k] + c : coarse + (c + k) * stride, &square.rows[k], sizeof(Row));
    }
  }
}

// coarse: one pixel's [channels, factor, factor]. fine: its first subpixel's [channels], rows of
// subpixels `fine_row` apart.
template <bool kShuffle, typename T>
void move_pixel(T* coarse, T* fine, int64_t channels, int64_t factor, int64_t fine_row) {
  const int64_t subpixels = factor * factor;
  int64_t s = 0, j = 0;
  while (s < subpixels) {
    const bool square = kSide<T> > 1 && channels >= kSide<T> && s + kSide<T> <= subpixels;
    T* subpixel[kSide<T>];
    const int count = square ? kSide<T> : 1;
    for (int k = 0; k < count; ++k) {
      subpixel[k] = fine + j * channels;
      if (++j == factor) {
        j = 0;
        fine += fine_row;
      }
    }
    if constexpr (kSide<T> > 1) {
      if (square) move_subpixels<kShuffle>(coarse + s, subpixel, channels, subpixels);
    }
    if (!square) move_subpixel<kShuffle>(coarse + s, subpixel[0], channels, subpixels);
    s += count;
  }
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
