// Plain eager calls of the shuffles and of sub-pixel upsampling.

#include "bindings/eager.h"
#include "bindings/shuffling.h"

namespace segfast {
namespace {

struct ShuffleGeometry {
  int64_t factor;
};

struct ShuffleMap {
  using Geometry = ShuffleGeometry;
  static constexpr const char* kModule = "segfast.functional.pixel_shuffle";
  static bool has_kernel(const at::Tensor&) { return true; }
  static pybind11::tuple arguments(const at::Tensor& x, const at::Tensor&, const Geometry& g) {
    return pybind11::make_tuple(x, g.factor);
  }
};

struct Unshuffle;

struct Shuffle : ShuffleMap {
  using Transpose = Unshuffle;
  static constexpr const char* kNode = "PixelUnshuffleBackward";
  static constexpr const char* kFunction = "pixel_shuffle";
  static at::Tensor run(const at::Tensor& x, const at::Tensor&, const Geometry& g) {
    return segfast::pixel_shuffle(x, g.factor);
  }
};

struct Unshuffle : ShuffleMap {
  using Transpose = Shuffle;
  static constexpr const char* kNode = "PixelShuffleBackward";
  static constexpr const char* kFunction = "pixel_unshuffle";
  static at::Tensor run(const at::Tensor& x, const at::Tensor&, const Geometry& g) {
    return segfast::pixel_unshuffle(x, g.factor);
  }
};

struct UpsampleGeometry {
  int64_t factor, blur;
};

// The maps of segfast/functional/subpixel_upsample.py. The record is the ReLU's mask, if any.
struct UpsampleMap {
  using Geometry = UpsampleGeometry;
  static constexpr const char* kModule = "segfast.functional.subpixel_upsample";
  static bool has_kernel(const at::Tensor&) { return true; }
  static pybind11::tuple arguments(const at::Tensor& x, const at::Tensor& mask, const Geometry& g) {
    return pybind11::make_tuple(x, mask, g.factor, g.blur != 0);
  }
};

struct Downsample;

struct Upsample : UpsampleMap {
  using Transpose = Downsample;
  static constexpr const char* kNode = "SubpixelUpsampleBackwardBackward";
  static constexpr const char* kFunction = "_apply";
  static at::Tensor run(const at::Tensor& x, const at::Tensor& mask, const Geometry& g) {
    return mask.defined() ? subpixel_upsample_masked(x, mask, g.factor, g.blur != 0)
                          : subpixel_upsample(x, g.factor, /*relu=*/false, g.blur != 0);
  }
};

struct Downsample : UpsampleMap {
  using Transpose = Upsample;
  static constexpr const char* kNode = "SubpixelUpsampleBackward";
  static constexpr const char* kFunction = "_backward";
  static at::Tensor run(const at::Tensor& x, const at::Tensor& mask, const Geometry& g) {
    return subpixel_upsample_backward(
        x, mask.defined() ? std::optional<at::Tensor>(mask) : std::nullopt, g.factor, g.blur != 0);
  }
};

// ---- calls

// (input, factor)
template <typename Map>
PyObject* shuffle_call(PyObject* const* a) {
  const at::Tensor* input = eager::plain_argument(a[0]);
  ShuffleGeometry g;
  if (input == nullptr || !eager::read_int(a[1], &g.factor)) return eager::not_implemented();
  return eager::wrap_without_gil([&] { return eager::apply_plain<Map>(*input, {}, g); });
}

// (input, upscale_factor, relu, blur)
PyObject* subpixel_upsample_call(PyObject* const* a) {
  const at::Tensor* input = eager::plain_argument(a[0]);
  UpsampleGeometry g;
  bool relu, blur;
  if (input == nullptr || !eager::read_int(a[1], &g.factor) || !eager::read_bool(a[2], &relu) ||
      !eager::read_bool(a[3], &blur))
    return eager::not_implemented();
  g.blur = blur;
  return eager::wrap_without_gil([&] {
    if (!relu && !blur) return eager::apply_plain<Shuffle>(*input, {}, {g.factor});
    if (!relu) return eager::apply_plain<Upsample>(*input, {}, g);
    if (!needs_grad(*input)) {
      return eager::below_autograd([&] { return subpixel_upsample(*input, g.factor, relu, blur); });
    }
    auto [output, mask] =
        eager::below_autograd([&] { return subpixel_upsample_with_mask(*input, g.factor, blur); });
    eager::set_derivative<Downsample>(output, *input, mask, g);
    return output;
  });
}

}  // namespace

void bind_eager_shuffling(pybind11::module_& m) {
  eager::bind<2, shuffle_call<Shuffle>>(m, "pixel_shuffle");
  eager::bind<2, shuffle_call<Unshuffle>>(m, "pixel_unshuffle");
  eager::bind<4, subpixel_upsample_call>(m, "subpixel_upsample");
}

}  // namespace segfast
