// pixel_tile.h: a tile of kTile pixels of all classes in scratch, as [C, kTile] in float (double
// for double) whatever its element type and memory format, so that loops run along the pixels of a
// class and a vector's lanes are pixels.
//
// A body file: a kernel's <op>_cpu.h includes it first, once for each instruction set. Before that,
// the .cpp includes <cstring>, <type_traits> and common/labels.h.
namespace segfast::SEGFAST_ISA {

#if defined(SEGFAST_ISA_AVX512)
constexpr int kVectorBytes = 64;
#elif defined(SEGFAST_ISA_AVX2)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

constexpr int kTile = 128;

template <typename R>
struct Lanes {
  using Int = typename std::conditional<sizeof(R) == 4, int32_t, int64_t>::type;
  static constexpr int count = kVectorBytes / static_cast<int>(sizeof(R));
  typedef R Value __attribute__((vector_size(kVectorBytes)));
  typedef Int Label __attribute__((vector_size(kVectorBytes)));
};

// Labels in a tile are as wide as its values, so that comparisons and selections keep their lanes.
template <typename R>
using label_t = typename Lanes<R>::Int;

// ---- sums along a row ---------------------------------------------------------------------------

template <typename R>
inline double add_lanes(const typename Lanes<R>::Value& sum) {
  R lane[Lanes<R>::count];
  std::memcpy(lane, &sum, sizeof sum);
  for (int width = Lanes<R>::count / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return static_cast<double>(lane[0]);
}

template <typename R>
inline double sum_row(const R* row) {
  typename Lanes<R>::Value sum = {}, value;
  for (int i = 0; i < kTile; i += Lanes<R>::count) {
    std::memcpy(&value, row + i, sizeof value);
    sum += value;
  }
  return add_lanes<R>(sum);
}

template <typename R>
inline double sum_product(const R* a, const R* b) {
  typename Lanes<R>::Value sum = {}, x, y;
  for (int i = 0; i < kTile; i += Lanes<R>::count) {
    std::memcpy(&x, a + i, sizeof x);
    std::memcpy(&y, b + i, sizeof y);
    sum += x * y;
  }
  return add_lanes<R>(sum);
}

// ---- bringing a tile in, and out ----------------------------------------------------------------

struct Layout {
  int64_t classes;
  int64_t pixels;      // of a sample
  bool channels_last;  // [N, S, C], else [N, C, S]
};

struct Span {
  int64_t sample;
  int64_t first;  // pixel
  int count;      // 1 to kTile
};

template <typename R, typename T>
inline R to_real(T value) {
  return static_cast<R>(value);
}
template <typename R>
inline R to_real(Half value) {
  return static_cast<R>(to_float(value));
}
template <typename R>
inline R to_real(BFloat16 value) {
  return static_cast<R>(to_float(value));
}

// rows [C, kTile] = the values of `source` at the span's pixels; zeros beyond its end.
template <typename T, typename R>
inline void load_rows(const Layout& layout, const T* source, const Span& span, R* __restrict rows) {
  const int64_t classes = layout.classes;
  if (layout.channels_last) {
    const T* from = source + (span.sample * layout.pixels + span.first) * classes;
    for (int64_t c = 0; c < classes; ++c) {
      for (int i = 0; i < span.count; ++i) rows[c * kTile + i] = to_real<R>(from[i * classes + c]);
    }
  } else {
    const T* from = source + span.sample * classes * layout.pixels + span.first;
    for (int64_t c = 0; c < classes; ++c, from += layout.pixels) {
      R* __restrict row = rows + c * kTile;
      if (span.count == kTile) {  // a constant count: no vector tail
        for (int i = 0; i < kTile; ++i) row[i] = to_real<R>(from[i]);
      } else {
        for (int i = 0; i < span.count; ++i) row[i] = to_real<R>(from[i]);
      }
    }
  }
  if (span.count < kTile) {
    for (int64_t c = 0; c < classes; ++c) {
      for (int i = span.count; i < kTile; ++i) rows[c * kTile + i] = R(0);
    }
  }
}

template <typename R>
inline void load_soft_rows(const Layout& layout, const void* source, TargetType type,
                           const Span& span, R* rows) {
#define SEGFAST_LOAD_ROWS(T) return load_rows(layout, static_cast<const T*>(source), span, rows)
  switch (type) {
    case TargetType::uint8:
      SEGFAST_LOAD_ROWS(uint8_t);
    case TargetType::int8:
      SEGFAST_LOAD_ROWS(int8_t);
    case TargetType::int16:
      SEGFAST_LOAD_ROWS(int16_t);
    case TargetType::uint16:
      SEGFAST_LOAD_ROWS(uint16_t);
    case TargetType::int32:
      SEGFAST_LOAD_ROWS(int32_t);
    case TargetType::int64:
      SEGFAST_LOAD_ROWS(int64_t);
    case TargetType::float64:
      SEGFAST_LOAD_ROWS(double);
    case TargetType::float16:
      SEGFAST_LOAD_ROWS(Half);
    case TargetType::bfloat16:
      SEGFAST_LOAD_ROWS(BFloat16);
    default:
      SEGFAST_LOAD_ROWS(float);
  }
#undef SEGFAST_LOAD_ROWS
}

template <typename T, typename R>
inline void store_rows(const Layout& layout, const R* __restrict rows, const Span& span,
                       T* target) {
  const int64_t classes = layout.classes;
  if (layout.channels_last) {
    T* to = target + (span.sample * layout.pixels + span.first) * classes;
    for (int i = 0; i < span.count; ++i) {
      for (int64_t c = 0; c < classes; ++c)
        to[i * classes + c] = from_float<T>(rows[c * kTile + i]);
    }
  } else {
    T* to = target + span.sample * classes * layout.pixels + span.first;
    for (int64_t c = 0; c < classes; ++c, to += layout.pixels) {
      const R* __restrict row = rows + c * kTile;
      if (span.count == kTile) {
        for (int i = 0; i < kTile; ++i) to[i] = from_float<T>(row[i]);
      } else {
        for (int i = 0; i < span.count; ++i) to[i] = from_float<T>(row[i]);
      }
    }
  }
}

// What the labels of a tile hold besides classes.
struct LabelReport {
  int ignored;  // pixels that count for nothing: ignored, bad, or beyond the span's end
  int bad;      // labels that are neither in [0, classes) nor ignored
};

// label [kTile] = the labels of the span, -1 where the pixel counts for nothing.
template <typename R, typename Y>
inline LabelReport load_labels_as(const Y* source, int64_t pixels, int64_t classes,
                                  const int64_t* ignore_index, const Span& span,
                                  label_t<R>* __restrict label) {
  const Y* from = source + span.sample * pixels + span.first;
  const bool has_ignore = ignore_index != nullptr;
  const int64_t ignore = has_ignore ? *ignore_index : 0;
  int ignored = kTile - span.count;
  int bad = 0;
  for (int i = 0; i < span.count; ++i) {
    const int64_t value = static_cast<int64_t>(from[i]);
    const bool is_ignored = has_ignore && value == ignore;
    const bool is_class = value >= 0 && value < classes && !is_ignored;
    label[i] = is_class ? static_cast<label_t<R>>(value) : label_t<R>(-1);
    ignored += !is_class;
    bad += !is_class && !is_ignored;
  }
  for (int i = span.count; i < kTile; ++i) label[i] = -1;
  return {ignored, bad};
}

template <typename R>
inline LabelReport load_labels(const void* source, TargetType type, int64_t pixels, int64_t classes,
                               const int64_t* ignore_index, const Span& span, label_t<R>* label) {
#define SEGFAST_LOAD_LABELS(Y)                                                                 \
  return load_labels_as<R>(static_cast<const Y*>(source), pixels, classes, ignore_index, span, \
                           label)
  switch (type) {
    case TargetType::uint8:
      SEGFAST_LOAD_LABELS(uint8_t);
    case TargetType::int8:
      SEGFAST_LOAD_LABELS(int8_t);
    case TargetType::int16:
      SEGFAST_LOAD_LABELS(int16_t);
    case TargetType::uint16:
      SEGFAST_LOAD_LABELS(uint16_t);
    case TargetType::int32:
      SEGFAST_LOAD_LABELS(int32_t);
    default:
      SEGFAST_LOAD_LABELS(int64_t);
  }
#undef SEGFAST_LOAD_LABELS
}

}  // namespace segfast::SEGFAST_ISA
