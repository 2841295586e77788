// pool_taps.h: which tap of 2x2 windows with stride 2 each won, as indices and codes say it: by the
// vector, or in tiles. Compiled once an instruction set, after pool_lanes.h.

namespace segfast {
namespace SEGFAST_ISA {
namespace {

// Tells 2x2 windows apart by their indices, as long as these lie in their own windows.
template <typename T>
struct IndexedTaps {
  using Lanes = own_t<T>;
  using Lane = std::remove_reference_t<decltype(std::declval<Lanes&>()[0])>;

  const Lanes width;
  const mask_t<T> last;       // of the upper row
  Lanes columns{}, uppers{};  // of all that were read; the upper halves where they are wide

  // Of windows with origins up to `end`.
  IndexedTaps(const PoolShape& s, int64_t end)
      : width(all(static_cast<Lane>(s.width))),
        last((mask_t<T>)all(s.width > 1)) {  // in a map one column wide the second row begins at 1
    // Those whose lower halves do not tell are left to those who take any indices.
    if constexpr (sizeof(T) == 4) uppers += static_cast<Lane>((end + s.width + 2) >> 32 != 0);
  }

  // Whether 16 bits tell how far from a window, and a row of them, its elements lie.
  static bool can_read(const PoolShape& s) { return !kNarrow<T> || s.width < 1 << 14; }

  // Those of the channels of a window.
  SEGFAST_LANES Won<T> read_channels(const int64_t* index, int64_t origin) {
    return tell(from_origin<Channels>(index, origin));
  }
  // Those of a row of windows, folded or in order.
  SEGFAST_LANES Won<T> read_folded(const int64_t* index, int64_t origin) {
    return tell(from_origin<Row>(index, origin) - from_first<Folded<Lanes>>(lane_numbers<Lanes>{}));
  }
  SEGFAST_LANES Won<T> read_row(const int64_t* index, int64_t origin) {
    return tell(from_origin<Channels>(index, origin) - from_first<InOrder>(lane_numbers<Lanes>{}));
  }

  // Not zero where any of them lay in no such window.
  SEGFAST_LANES bits_t<float> foreign() const {
    return (bits_t<float>)((columns & static_cast<Lane>(~1)) | uppers);
  }

 private:
  // The order of lanes; that of 32-bit words of 16-bit ones, from saturate_by_16() of four vectors.
  struct Channels {
    static constexpr bool kFolded = false;
    static constexpr int from(int word) {
      constexpr int kBlocks = kLaneBytes / 16;
      return word % kBlocks * 4 + word / kBlocks;
    }
  };
  struct Row {
    static constexpr bool kFolded = true;
    static constexpr int from(int word) {
      return Channels::from(Folded<bits_t<float>>::from(word));
    }
  };

  SEGFAST_LANES static Lanes all(Lane lane) { return Lanes{} + lane; }

  // How far after the first window of a row the others begin.
  template <typename Order, int... kLane>
  SEGFAST_LANES static Lanes from_first(std::integer_sequence<int, kLane...>) {
    return Lanes{static_cast<Lane>(2 * Order::from(kLane))...};
  }
  struct InOrder {
    static constexpr int from(int lane) { return lane; }
  };

  SEGFAST_LANES Won<T> tell(Lanes offset) {
    const mask_t<T> is_lower = (mask_t<T>)offset > last;
    const Lanes column = offset - ((Lanes)is_lower & width);
    columns |= column;
    return {(mask_t<T>)-column, is_lower};
  }

  template <typename Order>
  SEGFAST_LANES Lanes from_origin(const int64_t* index, int64_t origin) {
    if constexpr (kNarrow<T>) {
      using Wide = bits_t<double>;
      using Words = bits_t<float>;
      Words from[4];
      for (int v = 0; v < 4; ++v) {
        const auto indices = load_vector<Wide>(index + v * kLanes<double>);
        from[v] = (Words)(indices - static_cast<uint64_t>(origin));
      }
      // Both halves of 64 bits, and these 32.
      const auto low = (Words)saturate_by_16(from[0], from[1]);
      const auto high = (Words)saturate_by_16(from[2], from[3]);
      return (Lanes)reorder<Order>((Words)saturate_by_16(low, high));
    } else if constexpr (sizeof(T) == 4) {
      const auto* const halves = reinterpret_cast<const float*>(index);
      bits_t<T> lower, upper;
      if constexpr (Order::kFolded) {
        const OwnPair<float> pairs = load_folded_pairs(halves);
        lower = pairs.even, upper = pairs.odd;
      } else {
        const WordPair<float> pairs = load_word_pairs(halves);
        lower = pairs.even, upper = pairs.odd;
      }
      uppers |= (Lanes)upper;
      return (Lanes)(lower - static_cast<uint32_t>(origin));
    } else {
      const auto from = load_vector<Lanes>(index) - static_cast<Lane>(origin);
      if constexpr (Order::kFolded) return fold(from);
      return from;
    }
  }
};

// The taps of up to kTile 2x2 windows of a run, a byte each, from codes or from indices.
struct TapTile {
  using Words = bits_t<float>;

  const PoolShape& s;
  Elements<uint8_t> codes;  // none: indices
  Elements<int64_t> indices;
  Words foreign = {};  // not zero: indices of windows that had a tile lay in no such window
  alignas(64) uint8_t taps[kTile + kLaneBytes] = {};

  TapTile(const PoolShape& shape, const void* record, Record kind)
      : s(shape), codes{nullptr, 0}, indices{nullptr, 0} {
    if (kind == Record::codes2) {
      const int64_t runs = s.outer * s.pooled_height * (s.inner == 1 ? 1 : s.pooled_width);
      codes = {static_cast<const uint8_t*>(record), runs * s.run_bytes()};
    } else {
      indices = {static_cast<const int64_t*>(record), s.pooled_numel()};
    }
  }

  // Whether rows of windows lie in the map, and are told apart without a tile: by codes as they
  // are packed, whole bytes a vector, or by indices as they are read.
  int64_t run_length() const { return s.inner == 1 ? s.pooled_width : s.inner; }
  bool is_whole() const { return 2 * s.pooled_width <= s.width; }
  template <typename T>
  bool is_coded() const {
    return is_whole() && codes.data != nullptr && run_length() >= kOwnLanes<T> &&
           kOwnLanes<T> % kCodesPerByte == 0;
  }
  template <typename T>
  bool is_indexed() const {
    if (!is_whole() || indices.data == nullptr) return false;
    return fills_lanes<T>() || (s.inner == 1 && run_length() >= kLanes<T>);
  }

  // Whether indices are told apart in lanes as wide as elements, else 16-bit ones in words.
  template <typename T>
  bool fills_lanes() const {
    return run_length() >= kOwnLanes<T> && IndexedTaps<T>::can_read(s);
  }

  // How many runs have enough behind their codes for a vector to be read.
  int64_t packed_runs() const {
    return std::max<int64_t>(0, codes.count - kCodesRead) / s.run_bytes();
  }

  // Windows [first, first + n) of a run.
  void open(const Run& run, int64_t first, int n) {
    if (codes.data != nullptr) {
      return unpack_codes2(codes, run.number * s.run_bytes() + first / kCodesPerByte, n, taps);
    }
    const int64_t step = run.along_row ? 2 : 0, start = run.number * run.length + first;
    const int64_t origin = 2 * (run.oh * s.width + run.ow) + first * step;
    const int64_t* const all = indices.data + start;
    IndexedTaps<float> indexed(s, origin + n * step);
    for (int at = 0; at < n; at += kLanes<float>) {
      const int i = n < kLanes<float> ? 0 : std::min(at, n - kLanes<float>);  // may overlap
      if (n >= kLanes<float>) {
        store_taps<float>(taps + i, read_taps(indexed, all + i, origin + i * step, step));
      } else {
        int64_t some[kLanes<float>];
        for (int k = 0; k < kLanes<float>; ++k) some[k] = all[std::min(k, n - 1)];
        store_taps<float>(taps, read_taps(indexed, some, origin, step));
        // Those of the other lanes are no windows.
        indexed.columns &= (IndexedTaps<float>::Lanes)(lane_positions<float>(0, 1) < n);
      }
    }
    foreign |= indexed.foreign();
  }

  SEGFAST_LANES static Words read_taps(IndexedTaps<float>& indexed, const int64_t* index,
                                       int64_t origin, int64_t step) {
    return (step != 0 ? indexed.read_row(index, origin) : indexed.read_channels(index, origin))
        .tap();
  }

  bool has_foreign() const { return any_lane(foreign); }
};

// Whether a row of 2x2 windows has some that reach beyond the map.
inline bool has_clipped(const PoolShape& s, int64_t oh) {
  return 2 * oh + 1 >= s.height || 2 * s.pooled_width > s.width;
}

// Whether every index of a row of such windows lies in its own one, and that inside the map.
inline bool own_clipped_indices(const int64_t* record, const PoolShape& s, const Window2d& window,
                                int64_t o, int64_t oh) {
  const int64_t* indices = record + (o * s.pooled_height + oh) * s.pooled_width * s.inner;
  for (int64_t i = 0; i < s.pooled_width * s.inner; ++i) {
    if (position_tap(window, s, oh, i / s.inner, indices[i]) < 0) return false;
  }
  return true;
}

}  // namespace
}  // namespace SEGFAST_ISA
}  // namespace segfast
