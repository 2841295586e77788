// The Python module segfast._C: every binding by name, and nothing else.
//
// All bindings are compiled as this one file: each of them alone spends ten seconds on the headers
// of torch and pybind11, and two on what it says itself.

#include <pybind11/pybind11.h>

#include "bindings/bandwidth.cpp"
#include "bindings/build.cpp"
#include "bindings/confusion_matrix.cpp"
#include "bindings/eager_pooling.cpp"
#include "bindings/eager_shuffling.cpp"
#include "bindings/max_pool2d.cpp"
#include "bindings/max_unpool2d.cpp"
#include "bindings/overlap_loss.cpp"
#include "bindings/overlap_stats.cpp"
#include "bindings/pixel_shuffle.cpp"
#include "bindings/pool_codes.cpp"
#include "bindings/route.cpp"
#include "bindings/subpixel_upsample.cpp"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "The compiled kernels of segfast; see segfast.functional.";
  segfast::bind_bandwidth(m);
  segfast::bind_build(m);
  segfast::bind_confusion_matrix(m);
  segfast::bind_max_pool2d(m);
  segfast::bind_max_unpool2d(m);
  segfast::bind_overlap_loss(m);
  segfast::bind_overlap_stats(m);
  segfast::bind_pixel_shuffle(m);
  segfast::bind_pool_codes(m);
  segfast::bind_route(m);
  segfast::bind_subpixel_upsample(m);
  pybind11::module_ eager = m.def_submodule("eager");
  segfast::bind_eager_pooling(eager);
  segfast::bind_eager_shuffling(eager);
}
