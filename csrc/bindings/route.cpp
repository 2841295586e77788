// Which way a call of an op takes to its kernel (segfast/_library.py), asked once a call: the same
// questions cost more in Python than a small kernel takes.

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings/plain.h"

namespace segfast {
namespace {

// In the order of _DISPATCHED, _STRAIGHT, _RECORDED.
enum Route : int {
  kDispatched,  // something stands between the caller and the kernel: modes, transforms, subclasses
  kStraight,
  kRecorded,  // straight, and autograd takes note
};

// The way of a call whose first `count` arguments are tensors, or None.
int route(size_t count, const pybind11::tuple& arguments) {
  if (!is_plain_context()) return kDispatched;
  bool recorded = false;
  for (size_t i = 0; i < count; ++i) {
    PyObject* object = PyTuple_GET_ITEM(arguments.ptr(), static_cast<Py_ssize_t>(i));
    if (object == Py_None) continue;
    if (!THPVariable_CheckExact(object)) return kDispatched;  // a subclass: __torch_function__
    const at::Tensor& tensor = THPVariable_Unpack(object);
    if (!is_plain(tensor)) return kDispatched;
    recorded |= needs_grad(tensor) || is_dual(tensor);
  }
  return recorded ? kRecorded : kStraight;
}

}  // namespace

void bind_route(pybind11::module_& m) { m.def("route", &route); }

}  // namespace segfast
