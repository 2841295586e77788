// windows_2x2_cpu.h: 2x2 windows inside the map, without a NaN, a vector of as many as elements fit
// in: their maxima, and which of the four each was as two masks a vector, of which codes are two
// bits and indices an offset. No tile of taps stands between. Compiled once an instruction set,
// after pool_lanes.h.
namespace segfast {
namespace SEGFAST_ISA {
namespace {

// The maxima of kOwnLanes windows a b / c d. By pairs, each of which keeps its first maximum as the
// whole does: that takes fewer steps, one after the other, than to let every tap compete.
template <typename T, bool = kNarrow<T>>
struct BestOfFour {
  using Elements = lanes_t<T>;

  Elements value;
  Won<T> won;
  mask_t<T> seen;  // what holds_nan() is asked about, of all windows that are to be asked about

  SEGFAST_LANES BestOfFour(Elements a, Elements b, Elements c, Elements d, mask_t<T> before)
      : seen(before | either_nan(a, b) | either_nan(c, d)) {
    const Elements upper = larger(b, a), lower = larger(d, c);
    won.is_lower = lower > upper;
    won.is_right = won.is_lower ? d > c : b > a;
    value = larger(lower, upper);
  }

  SEGFAST_LANES static bool holds_nan(mask_t<T> seen) { return any_lane(seen); }
  SEGFAST_LANES static Elements load(const T* address) { return load_lanes(address); }
  SEGFAST_LANES static Pair<T> load_pairs(const T* address) {
    return SEGFAST_ISA::load_pairs(address);
  }
};

// 16-bit elements as they are, in integers that stand in the same order.
template <typename T>
struct BestOfFour<T, true> {
  using Elements = own_t<T>;
  using Signed = mask_t<T>;

  Elements value;
  Won<T> won;
  Signed seen;  // the largest magnitudes

  // Of equal value, -0 and 0 as well.
  struct Key {
    Signed magnitude, order;

    SEGFAST_LANES explicit Key(Elements x) : magnitude((Signed)(x & 0x7fffu)) {
#if defined(SEGFAST_ISA_AVX2) && !defined(SEGFAST_ISA_AVX512)
      order = (Signed)_mm256_sign_epi16((__m256i)magnitude, (__m256i)x);
#else
      const Signed sign = (Signed)x >> 15;
      order = (magnitude ^ sign) - sign;
#endif
    }
  };

  SEGFAST_LANES BestOfFour(Elements a, Elements b, Elements c, Elements d, Signed before) {
    const Key of_a(a), of_b(b), of_c(c), of_d(d);
    seen = larger(before, larger(larger(of_a.magnitude, of_b.magnitude),
                                 larger(of_c.magnitude, of_d.magnitude)));
    const Signed right_above = of_b.order > of_a.order, right_below = of_d.order > of_c.order;
    won.is_lower = larger(of_c.order, of_d.order) > larger(of_a.order, of_b.order);
    won.is_right = won.is_lower ? right_below : right_above;
    const Elements upper = right_above ? b : a, lower = right_below ? d : c;
    value = won.is_lower ? lower : upper;
  }

  SEGFAST_LANES static bool holds_nan(Signed seen) {
    constexpr short kInfinity = std::is_same_v<T, Half> ? 0x7c00 : 0x7f80;
    return any_lane(seen > kInfinity);
  }
  SEGFAST_LANES static Elements load(const T* address) { return load_vector<Elements>(address); }
  SEGFAST_LANES static OwnPair<T> load_pairs(const T* address) { return load_own_pairs(address); }
};

// ---- neighbours in a row, or the channels of one window; next(): those below, or to the right

template <typename T>
struct WindowsOfRow {
  const T *upper, *lower;
  int64_t width;
  int64_t ahead;  // rows_ahead()

  SEGFAST_LANES void next() { upper += 2 * width, lower += 2 * width; }

  SEGFAST_LANES BestOfFour<T> pool(int64_t at, mask_t<T> seen) const {
    const T *const above = upper + 2 * at, *const below = lower + 2 * at;
    if (ahead != 0) prefetch_pairs<kOwnLanes<T>>(above + ahead, below + ahead);
    const auto a = BestOfFour<T>::load_pairs(above), b = BestOfFour<T>::load_pairs(below);
    return {a.even, a.odd, b.even, b.odd, seen};
  }
};

template <typename T>
struct ChannelsOfWindow {
  const T *upper, *lower;
  int64_t right;

  SEGFAST_LANES void next() { upper += 2 * right, lower += 2 * right; }
  SEGFAST_LANES BestOfFour<T> pool(int64_t at, mask_t<T> seen) const {
    const T *const a = upper + at, *const c = lower + at;
    prefetch_quad(a + 2 * right, c + 2 * right, right);
    return {BestOfFour<T>::load(a), BestOfFour<T>::load(a + right), BestOfFour<T>::load(c),
            BestOfFour<T>::load(c + right), seen};
  }
};

// ---- what is kept of where they were: put() takes kVectors vectors of windows from `from` on, of
// which those before `at` are kept already; put_last() those that end with window n, be they fewer.

template <typename T>
struct NothingOfRun {
  static constexpr int kVectors = 1;

  static NothingOfRun of(const MaxPool2dParams&, const Run&) { return {}; }
  SEGFAST_LANES void next() {}
  SEGFAST_LANES void put(int64_t, const Won<T> (&)[1]) const {}
  SEGFAST_LANES void put_last(int64_t, int64_t, int64_t, const Won<T> (&)[1]) const {}
};

template <typename T>
struct TapsOfRun {
  static constexpr int kVectors = 1;
  uint8_t* taps;

  SEGFAST_LANES void put(int64_t at, const Won<T> (&won)[1]) const {
    narrow_to_bytes(taps + at, won[0].tap());
  }
  SEGFAST_LANES void put_last(int64_t, int64_t from, int64_t, const Won<T> (&won)[1]) const {
    put(from, won);
  }
};

template <typename T>
struct CodesOfRun {
  static constexpr int kVectors = sizeof(T) / 2;  // as many windows as 16-bit lanes
  uint8_t* codes;
  int64_t bytes;  // of a run

  static CodesOfRun of(const MaxPool2dParams& p, const Run& run) {
    const int64_t bytes = p.shape.run_bytes();
    return {static_cast<uint8_t*>(p.record) + run.number * bytes, bytes};
  }
  SEGFAST_LANES void next() { codes += bytes; }

  SEGFAST_LANES static auto join(const Won<T> (&won)[kVectors]) {
    mask_t<T> right[kVectors], lower[kVectors];
    for (int v = 0; v < kVectors; ++v) right[v] = won[v].is_right, lower[v] = won[v].is_lower;
    return pair_masks<kVectors>(narrow(right), narrow(lower));
  }

  SEGFAST_LANES static mask_t<BFloat16> narrow(const mask_t<T> (&masks)[kVectors]) {
    using Narrow = mask_t<BFloat16>;
    if constexpr (kVectors == 1) {
      return masks[0];
    } else if constexpr (kVectors == 2) {
      return narrow_masks<Narrow>(masks[0], masks[1]);
    } else {
      return narrow_masks<Narrow>(narrow_masks<mask_t<float>>(masks[0], masks[1]),
                                  narrow_masks<mask_t<float>>(masks[2], masks[3]));
    }
  }

  SEGFAST_LANES void put(int64_t at, const Won<T> (&won)[kVectors]) const {
    const auto bits = join(won);
    std::memcpy(codes + at / kCodesPerByte, &bits, sizeof bits);
  }

  SEGFAST_LANES void put_last(int64_t at, int64_t from, int64_t n,
                              const Won<T> (&won)[kVectors]) const {
    const uint64_t bits = join(won) >> 2 * (at - from) & ((uint64_t{1} << 2 * (n - at)) - 1);
    if (kOwnLanes<T> < kCodesPerByte && at % kCodesPerByte != 0) {
      codes[at / kCodesPerByte] |= static_cast<uint8_t>(bits << 2 * (at % kCodesPerByte));
      return;
    }
    copy_few(codes + at / kCodesPerByte, reinterpret_cast<const uint8_t*>(&bits),
             static_cast<int>(ceil_div<int64_t>(n - at, kCodesPerByte)));
  }
};

template <typename T>
struct IndicesOfRun {
  static constexpr int kVectors = 1;
  using Wide = bits_t<double>;
  static constexpr int kWide = kLanes<double>;

  int64_t* indices;
  int64_t origin, step;    // of the first window, and to the next
  int64_t width, windows;  // of a map and of a run

  // Whether a lane of 16 bits holds any offset from a window's first element.
  static bool are_told(const PoolShape& shape) { return !kNarrow<T> || shape.width < UINT16_MAX; }

  static IndicesOfRun of(const MaxPool2dParams& p, const Run& run) {
    const int64_t width = p.shape.width;
    return {static_cast<int64_t*>(p.record) + run.number * run.length,
            2 * (run.oh * width + run.ow), run.along_row ? 2 : 0, width, run.length};
  }
  SEGFAST_LANES void next() {
    indices += windows;
    origin += step != 0 ? 2 * width : 2;
  }

  SEGFAST_LANES void put_last(int64_t, int64_t from, int64_t, const Won<T> (&won)[1]) const {
    put(from, won);
  }
  SEGFAST_LANES void put(int64_t at, const Won<T> (&won)[1]) const {
    const auto [is_right, is_lower] = won[0];
    const Wide places = lane_positions<double>(origin + at * step, step);
    if constexpr (kNarrow<T>) {
      const auto offset = (TwiceLanes16)((is_lower & static_cast<int16_t>(width)) - is_right);
      store(at, places, lower_wide(offset));
      store(at + kLanes<T>, places + static_cast<uint64_t>(kLanes<T> * step), upper_wide(offset));
    } else if constexpr (sizeof(T) == 4) {
      store(at, places, (bits_t<T>)((is_lower & static_cast<int32_t>(width)) - is_right));
    } else {
      store_vector(indices + at, places + (Wide)((is_lower & width) - is_right));
    }
  }

  SEGFAST_LANES void store(int64_t at, Wide places, bits_t<float> offset) const {
    store_vector(indices + at, places + lower_wide(offset));
    store_vector(indices + at + kWide,
                 places + static_cast<uint64_t>(kWide * step) + upper_wide(offset));
  }
};

// ---- n windows, a vector at least. Whether none holds a NaN: else they are still to be pooled.

// kVectors of them from window `at` on, or all of them the first.
template <int kCount, typename T, typename Windows, int kVectors>
SEGFAST_LANES void pool_vectors(const Windows& windows, int64_t at, T* output, mask_t<T>& seen,
                                Won<T> (&won)[kVectors]) {
  for (int v = 0; v < kVectors; ++v) {
    if (v >= kCount) {
      won[v] = won[0];
      continue;
    }
    const int64_t from = at + v * kOwnLanes<T>;
    const BestOfFour<T> best = windows.pool(from, seen);
    if constexpr (kNarrow<T>) {
      store_vector(output + from, best.value);
    } else {
      store_exact(output + from, best.value);
    }
    won[v] = best.won;
    seen = best.seen;
  }
}

template <typename T, typename Windows, typename Kept>
SEGFAST_LANES bool pool_inside(const Windows& windows, int64_t n, T* output, const Kept& kept) {
  constexpr int kCount = kOwnLanes<T>, kVectors = Kept::kVectors;
  mask_t<T> seen{};
  Won<T> won[kVectors];
  int64_t at = 0;
  for (; at + kVectors * kCount <= n; at += kVectors * kCount) {
    pool_vectors<kVectors>(windows, at, output, seen, won);
    kept.put(at, won);
  }
  if (at < n && at > 0) {  // overlaps
    const int64_t from = n - kVectors * kCount;
    pool_vectors<kVectors>(windows, from, output, seen, won);
    kept.put_last(at, from, n, won);
    at = n;
  }
  for (; at < n; at += kCount) {
    const int64_t from = std::min(at, n - kCount);
    pool_vectors<1>(windows, from, output, seen, won);
    kept.put_last(at, from, from + kCount, won);
  }
  return !BestOfFour<T>::holds_nan(seen);
}

// The same of n windows that are less than a vector. It reads one, and writes one of outputs and of
// indices: what lies beyond the run is the caller's, and is written anew with the runs that follow.
template <typename T, typename Windows, typename Kept>
SEGFAST_LANES bool pool_short(const Windows& windows, int64_t n, T* output, const Kept& kept) {
  mask_t<T> seen{};
  Won<T> won[Kept::kVectors];
  pool_vectors<1>(windows, 0, output, seen, won);
  kept.put_last(0, 0, n, won);
  return !BestOfFour<T>::holds_nan(seen);
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
