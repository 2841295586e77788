// Plain eager calls of pooling and unpooling.

#include <utility>

#include "bindings/eager.h"
#include "bindings/pooling.h"

namespace segfast {
namespace {

// Of [N, C, map_size] maps and their [N, C, pooled_size] windows.
struct PoolGeometry {
  WindowArgument window;
  Ints<2> map_size, pooled_size;
};

template <size_t N>
pybind11::object as_list(const Ints<N>& numbers) {
  return pybind11::cast(static_cast<const std::array<int64_t, N>&>(numbers));
}

using PoolKernel = at::Tensor(const at::Tensor&, const at::Tensor&, const WindowArgument&,
                              const Ints<2>&);

// The maps of segfast/functional/_pool_records.py: a kernel, and the size that it makes.
template <PoolKernel* kKernel, Ints<2> PoolGeometry::* kSize>
struct PoolMap {
  using Geometry = PoolGeometry;
  static constexpr const char* kModule = "segfast.functional._pool_records";
  static bool has_kernel(const at::Tensor&) { return true; }
  static at::Tensor run(const at::Tensor& x, const at::Tensor& record, const Geometry& g) {
    return kKernel(x, record, g.window, g.*kSize);
  }
  static pybind11::tuple arguments(const at::Tensor& x, const at::Tensor& record,
                                   const Geometry& g) {
    return pybind11::make_tuple(x, record, as_list(g.window), as_list(g.*kSize));
  }
};

struct Gather;

// Each window's value to the position it won, summed: the derivative of pooling.
struct Scatter : PoolMap<max_pool2d_backward, &PoolGeometry::map_size> {
  using Transpose = Gather;
  static constexpr const char* kNode = "MaxPool2dBackward";
  static constexpr const char* kFunction = "max_pool2d_backward";
};

// The same of a record that may not come from pooling with this window, as indices given to
// max_unpool2d; the kernel relies on that.
struct ScatterAny : Scatter {
  static constexpr const char* kNode = "MaxUnpool2dBackwardBackward";
  static constexpr const char* kFunction = "scatter_any";
  static bool has_kernel(const at::Tensor& record) { return record.scalar_type() == at::kByte; }
};

// The value at each window's position: the derivative of unpooling.
struct Gather : PoolMap<max_unpool2d_backward, &PoolGeometry::pooled_size> {
  using Transpose = ScatterAny;
  static constexpr const char* kNode = "MaxUnpool2dBackward";
  static constexpr const char* kFunction = "max_unpool2d_backward";
};

// ---- arguments

// An int for both axes, or a tuple or list of one or two.
bool read_pair(PyObject* object, int64_t* pair) {
  if (eager::read_int(object, pair)) {
    pair[1] = pair[0];
    return true;
  }
  if (!PyTuple_CheckExact(object) && !PyList_CheckExact(object)) return false;
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
  if (size != 1 && size != 2) return false;
  return eager::read_int(PySequence_Fast_GET_ITEM(object, 0), &pair[0]) &&
         eager::read_int(PySequence_Fast_GET_ITEM(object, size - 1), &pair[1]);
}

// The window that pool_window of segfast/_window.py makes of the arguments; false where it refuses.
bool read_window(PyObject* kernel_size, PyObject* stride, PyObject* padding, PyObject* dilation,
                 WindowArgument* window) {
  WindowArgument& w = *window;
  if (!read_pair(kernel_size, &w[0]) || !read_pair(stride == Py_None ? kernel_size : stride, &w[2]))
    return false;
  w[4] = w[5] = 0;
  w[6] = w[7] = 1;
  if (padding != nullptr && !read_pair(padding, &w[4])) return false;
  if (dilation != nullptr && !read_pair(dilation, &w[6])) return false;
  for (int d = 0; d < 2; ++d) {
    const int64_t kernel = w[d], step = w[2 + d], pad = w[4 + d], dilated = w[6 + d];
    if (kernel < 1 || step < 1 || pad < 0 || dilated < 1) return false;
    if (kernel > kLargestWindow || dilated > kLargestWindow) return false;
    if (pad > (dilated * (kernel - 1) + 1) / 2) return false;
  }
  return true;
}

bool is_coded(const WindowArgument& window) { return window[0] * window[1] <= kMaxCodedTaps; }

Ints<2> spatial(const at::Tensor& maps) { return {{maps.size(-2), maps.size(-1)}}; }

bool is_maps(const at::Tensor& tensor) {
  if (tensor.dim() != 3 && tensor.dim() != 4) return false;
  return tensor.size(-1) > 0 && tensor.size(-2) > 0 && tensor.size(-3) > 0;
}

// The size that _output_size of segfast/functional/max_unpool2d.py makes; false where it refuses.
bool read_output_size(PyObject* object, const at::Tensor& input, const WindowArgument& w,
                      Ints<2>* size) {
  Ints<2> given{};
  if (object != Py_None) {
    if (!PyTuple_Check(object) && !PyList_Check(object)) return false;
    const Py_ssize_t n = PySequence_Fast_GET_SIZE(object);
    if (n < 2 || !eager::read_int(PySequence_Fast_GET_ITEM(object, n - 2), &given[0]) ||
        !eager::read_int(PySequence_Fast_GET_ITEM(object, n - 1), &given[1]))
      return false;
  }
  for (size_t d = 0; d < 2; ++d) {
    const int64_t stride = w[2 + d];
    const int64_t extent = (w[d] - 1) * w[6 + d] + 1;
    const int64_t usual =
        (input.size(static_cast<int64_t>(d) - 2) - 1) * stride - 2 * w[4 + d] + extent;
    (*size)[d] = object == Py_None ? usual : given[d];
    if ((*size)[d] <= usual - stride || (*size)[d] >= usual + stride) return false;
  }
  return true;
}

// ---- calls

enum class Keep { values, indices, codes };

// Pools a map, and tells autograd: by codes where they fit, as they are smaller than indices.
Pooled pool_recorded(const at::Tensor& input, PoolGeometry* geometry, bool ceil_mode, Keep keep) {
  const bool recorded = needs_grad(input);
  const bool codes = keep == Keep::codes || (keep == Keep::values && is_coded(geometry->window));
  Pooled pooled = eager::below_autograd([&] {
    const bool with_record = recorded || keep != Keep::values;
    return pool(input, geometry->window, ceil_mode, with_record, with_record && codes);
  });
  if (recorded) {
    geometry->map_size = spatial(input);
    geometry->pooled_size = spatial(pooled.output);
    eager::set_derivative<Scatter>(pooled.output, input, pooled.record, *geometry);
  }
  return pooled;
}

PyObject* pool_call(const at::Tensor& input, PoolGeometry* geometry, bool ceil_mode, Keep keep) {
  if (keep == Keep::values) {
    return eager::wrap_without_gil(
        [&] { return pool_recorded(input, geometry, ceil_mode, keep).output; });
  }
  return eager::wrap_without_gil([&] {
    Pooled pooled = pool_recorded(input, geometry, ceil_mode, keep);
    return std::pair(std::move(pooled.output), std::move(pooled.record));
  });
}

// (input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
PyObject* max_pool2d_call(PyObject* const* a) {
  const at::Tensor* input = eager::plain_argument(a[0]);
  PoolGeometry g;
  bool ceil_mode, return_indices;
  if (input == nullptr || !input->is_floating_point() ||
      !read_window(a[1], a[2], a[3], a[4], &g.window) || !eager::read_bool(a[5], &ceil_mode) ||
      !eager::read_bool(a[6], &return_indices)) {
    return eager::not_implemented();
  }
  return pool_call(*input, &g, ceil_mode, return_indices ? Keep::indices : Keep::values);
}

// (input, kernel_size, stride, padding, dilation, ceil_mode)
PyObject* max_pool2d_with_codes_call(PyObject* const* a) {
  const at::Tensor* input = eager::plain_argument(a[0]);
  PoolGeometry g;
  bool ceil_mode;
  if (input == nullptr || !read_window(a[1], a[2], a[3], a[4], &g.window) || !is_coded(g.window) ||
      !eager::read_bool(a[5], &ceil_mode)) {
    return eager::not_implemented();
  }
  return pool_call(*input, &g, ceil_mode, Keep::codes);
}

// Unpooling with `kernel`, which is max_unpool2d or max_unpool2d_with_codes.
template <typename Kernel>
PyObject* unpool_call(PyObject* input_argument, PyObject* record_argument, PyObject* output_size,
                      PoolGeometry* geometry, const Kernel& kernel) {
  PoolGeometry& g = *geometry;
  const at::Tensor* input = eager::plain_argument(input_argument);
  const at::Tensor* record = eager::plain_argument(record_argument);
  if (input == nullptr || record == nullptr || !is_maps(*input) ||
      !read_output_size(output_size, *input, g.window, &g.map_size)) {
    return eager::not_implemented();
  }
  g.pooled_size = spatial(*input);
  return eager::wrap_without_gil([&] {
    at::Tensor output =
        eager::below_autograd([&] { return kernel(*input, *record, g.window, g.map_size); });
    if (needs_grad(*input)) eager::set_derivative<Gather>(output, *input, *record, g);
    return output;
  });
}

// (input, indices, kernel_size, stride, padding, output_size)
PyObject* max_unpool2d_call(PyObject* const* a) {
  PoolGeometry g;
  if (!read_window(a[2], a[3], a[4], nullptr, &g.window)) return eager::not_implemented();
  return unpool_call(a[0], a[1], a[5], &g, max_unpool2d);
}

// (input, codes, kernel_size, stride, padding, dilation, output_size)
PyObject* max_unpool2d_with_codes_call(PyObject* const* a) {
  PoolGeometry g;
  if (!read_window(a[2], a[3], a[4], a[5], &g.window) || !is_coded(g.window)) {
    return eager::not_implemented();
  }
  return unpool_call(a[0], a[1], a[6], &g, max_unpool2d_with_codes);
}

}  // namespace

void bind_eager_pooling(pybind11::module_& m) {
  eager::bind<7, max_pool2d_call>(m, "max_pool2d");
  eager::bind<6, max_pool2d_with_codes_call>(m, "max_pool2d_with_codes");
  eager::bind<6, max_unpool2d_call>(m, "max_unpool2d");
  eager::bind<7, max_unpool2d_with_codes_call>(m, "max_unpool2d_with_codes");
}

}  // namespace segfast
