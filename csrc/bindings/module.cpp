// The Python module segfast._C: every binding by name, and nothing else.

#include <pybind11/pybind11.h>

namespace segfast {
void bind_bandwidth(pybind11::module_& m);
void bind_build(pybind11::module_& m);
void bind_confusion_matrix(pybind11::module_& m);
void bind_eager_pooling(pybind11::module_& m);
void bind_eager_shuffling(pybind11::module_& m);
void bind_max_pool2d(pybind11::module_& m);
void bind_max_unpool2d(pybind11::module_& m);
void bind_overlap_loss(pybind11::module_& m);
void bind_overlap_stats(pybind11::module_& m);
void bind_pixel_shuffle(pybind11::module_& m);
void bind_pool_codes(pybind11::module_& m);
void bind_route(pybind11::module_& m);
void bind_subpixel_upsample(pybind11::module_& m);
}  // namespace segfast

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
