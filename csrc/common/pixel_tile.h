// pixel_tile.h: a tile of kTile pixels of all classes in scratch, as [C, kTile] in float (double
// for double) whatever its element type and memory format, so that loops run along the pixels of a
// class and a vector's lanes are pixels.
//
// A body file: a kernel's <op>_cpu.h includes it after lanes.h, once for each instruction set.
// Before that, the .cpp includes common/labels.h and what lanes.h asks for.
namespace segfast::SEGFAST_ISA {
namespace {

constexpr int kTile = 128;

// Labels in a tile are as wide as its values, so that comparisons and selections keep their lanes.
template <typename R>
using label_t = std::conditional_t<sizeof(R) == 4, int32_t, int64_t>;

// ---- bringing a tile in, and out ----------------------------------------------------------------

// Whether elements of type T become vectors of R by themselves.
template <typename T, typename R>
constexpr bool kHasLanes = !std::is_integral_v<T> && std::is_same_v<accumulate_t<T>, R>;

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

// N pixels of N classes: block [pixel][class] becomes block [class][pixel], and back.
template <int kDistance, typename V, size_t kCount>
SEGFAST_LANES void transpose(V (&block)[kCount]) {
  for (size_t i = 0; i < kCount; ++i) {
    if ((i & kDistance) != 0) continue;
    const V x = block[i], y = block[i + kDistance];
    block[i] = lower_blocks<kDistance>(x, y);
    block[i + kDistance] = upper_blocks<kDistance>(x, y);
  }
  if constexpr (kDistance > 1) transpose<kDistance / 2>(block);
}

// Pixels of channels-last maps, kLanes at a time, and where kLanes classes of them begin: the last
// classes together with some before them, so that no vector reaches beyond its pixel, unless that
// has fewer classes than lanes. Then it ends among the next pixels, whose stores come later.
template <typename T>
inline int64_t class_step(int64_t c, int64_t classes) {
  constexpr int64_t kStep = kLanes<T>;
  return c + kStep <= classes || classes < kStep ? c : classes - kStep;
}

template <typename T, typename R>
inline void load_group(const T* from, int64_t classes, R* __restrict rows) {
  constexpr int kStep = kLanes<T>;
  for (int64_t first = 0; first < classes; first += kStep) {
    const int64_t c = class_step<T>(first, classes);
    lanes_t<R> block[kStep];
    for (int i = 0; i < kStep; ++i) block[i] = load_lanes<T>(from + i * classes + c);
    transpose<kStep / 2>(block);
    for (int k = 0; k < kStep; ++k) {
      if (c + k < classes) store_vector(rows + (c + k) * kTile, block[k]);
    }
  }
}

template <typename T, typename R>
inline void store_group(const R* __restrict rows, int64_t classes, T* to) {
  constexpr int kStep = kLanes<T>;
  for (int64_t first = 0; first < classes; first += kStep) {
    const int64_t c = class_step<T>(first, classes);
    lanes_t<R> block[kStep];
    for (int k = 0; k < kStep; ++k) {
      block[k] = c + k < classes ? load_vector<lanes_t<R>>(rows + (c + k) * kTile) : lanes_t<R>{};
    }
    transpose<kStep / 2>(block);
    for (int i = 0; i < kStep; ++i) store_lanes<T>(to + i * classes + c, block[i]);
  }
}

// How many pixels of a span of `count` form groups whose vectors end within the span.
template <typename T>
inline int grouped(int count, int64_t classes) {
  int pixels = count / kLanes<T> * kLanes<T>;
  while (pixels > 0 && (pixels - 1) * classes + kLanes<T> > count * classes) pixels -= kLanes<T>;
  return pixels;
}

// rows [C, kTile] = the values of `source` at the span's pixels; zeros beyond its end.
template <typename T, typename R>
inline void load_rows(const Layout& layout, const T* source, const Span& span, R* __restrict rows) {
  const int64_t classes = layout.classes;
  int done = 0;
  if (layout.channels_last) {
    const T* from = source + (span.sample * layout.pixels + span.first) * classes;
    if constexpr (kHasLanes<T, R>) {
      for (const int end = grouped<T>(span.count, classes); done < end; done += kLanes<T>) {
        load_group(from + done * classes, classes, rows + done);
      }
    }
    for (int64_t c = 0; c < classes; ++c) {
      for (int i = done; i < span.count; ++i)
        rows[c * kTile + i] = to_real<R>(from[i * classes + c]);
    }
  } else {
    const T* from = source + span.sample * classes * layout.pixels + span.first;
    for (int64_t c = 0; c < classes; ++c, from += layout.pixels) {
      R* __restrict row = rows + c * kTile;
      if constexpr (kHasLanes<T, R>) {
        for (done = 0; done + kLanes<T> <= span.count; done += kLanes<T>) {
          store_vector(row + done, load_lanes<T>(from + done));
        }
      }
      for (int i = done; i < span.count; ++i) row[i] = to_real<R>(from[i]);
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
  int done = 0;
  if (layout.channels_last) {
    T* to = target + (span.sample * layout.pixels + span.first) * classes;
    for (const int end = grouped<T>(span.count, classes); done < end; done += kLanes<T>) {
      store_group(rows + done, classes, to + done * classes);
    }
    for (int i = done; i < span.count; ++i) {
      for (int64_t c = 0; c < classes; ++c)
        to[i * classes + c] = from_float<T>(rows[c * kTile + i]);
    }
  } else {
    T* to = target + span.sample * classes * layout.pixels + span.first;
    for (int64_t c = 0; c < classes; ++c, to += layout.pixels) {
      const R* __restrict row = rows + c * kTile;
      for (done = 0; done + kLanes<T> <= span.count; done += kLanes<T>) {
        store_lanes<T>(to + done, load_vector<lanes_t<R>>(row + done));
      }
      for (int i = done; i < span.count; ++i) to[i] = from_float<T>(row[i]);
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
  const bool may_be_ignored = has_ignore && ignore >= 0 && ignore < classes;

  // Mostly all are classes: no number below 0 or above the limit sets a sign.
  using Unsigned = std::conditional_t<sizeof(Y) == 8, uint64_t, uint32_t>;
  const Unsigned limit = static_cast<Unsigned>(classes - 1);
  Unsigned signs = 0;
  int done = 0;
  if constexpr (sizeof(R) == 4 && sizeof(Y) == 8) {
    // GCC's own loop is slow where labels become narrower.
    bits_t<float> low_signs = {}, high_words = {};
    for (; done + kLanes<float> <= span.count; done += kLanes<float>) {
      __builtin_prefetch(from + kTile + done);  // the next tile's; the end of memory may be passed
      const auto x = load_vector<bits_t<float>>(from + done);
      const auto y = load_vector<bits_t<float>>(from + done + kLanes<float> / 2);
      const bits_t<float> value = evens(x, y);
      store_vector(label + done, value);
      low_signs |= value | (static_cast<uint32_t>(limit) - value);
      high_words |= x | y;
    }
    for (int k = 0; k < kLanes<float>; ++k) {
      const bool outside = low_signs[k] >> 31 != 0 || (k % 2 == 1 && high_words[k] != 0);
      signs |= outside ? ~Unsigned{0} : Unsigned{0};
    }
  }
  for (int i = done; i < span.count; ++i) {
    const Unsigned value = static_cast<Unsigned>(from[i]);
    label[i] = static_cast<label_t<R>>(value);
    signs |= value | (limit - value);
  }
  for (int i = span.count; i < kTile; ++i) label[i] = -1;
  LabelReport report{kTile - span.count, 0};
  if (signs >> (8 * sizeof signs - 1) == 0 && !may_be_ignored) return report;

  for (int i = 0; i < span.count; ++i) {
    const int64_t value = static_cast<int64_t>(from[i]);
    const bool is_ignored = has_ignore && value == ignore;
    const bool is_class = value >= 0 && value < classes && !is_ignored;
    label[i] = is_class ? static_cast<label_t<R>>(value) : label_t<R>(-1);
    report.ignored += !is_class;
    report.bad += !is_class && !is_ignored;
  }
  return report;
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

}  // namespace
}  // namespace segfast::SEGFAST_ISA
