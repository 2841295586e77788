// Which way a call of an op takes to its kernel (segfast/_library.py), asked once a call: the same
// questions cost more in Python than a small kernel takes.

#include "bindings/route.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>

namespace segfast {
namespace {

// What a tensor may be for the dispatcher to have nothing to add. Not in it: tensors of
// __torch_dispatch__, vmap, torch.func, functionalization, other layouts, zeros without memory.
constexpr c10::DispatchKeySet kPlainTensor =
    c10::DispatchKeySet({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
#ifdef SEGFAST_WITH_CUDA
                         c10::DispatchKey::CUDA, c10::DispatchKey::AutogradCUDA,
#endif
                         c10::DispatchKey::ADInplaceOrView, c10::DispatchKey::Conjugate,
                         c10::DispatchKey::Negative}) |
    c10::autocast_dispatch_keyset;

bool has_only(c10::DispatchKeySet keys, c10::DispatchKeySet known) {
  return (keys.raw_repr() & ~known.raw_repr()) == 0;
}

// The way of a call whose first `count` arguments are tensors, or None.
int route(size_t count, const pybind11::tuple& arguments) {
  if (!is_plain_thread()) return kDispatched;
  bool recorded = false;
  for (size_t i = 0; i < count; ++i) {
    PyObject* object = PyTuple_GET_ITEM(arguments.ptr(), static_cast<Py_ssize_t>(i));
    if (object == Py_None) continue;
    if (!THPVariable_CheckExact(object)) return kDispatched;  // a subclass: __torch_function__
    const at::Tensor& tensor = THPVariable_Unpack(object);
    if (!is_plain_tensor(tensor)) return kDispatched;
    recorded |= is_recorded(tensor);
  }
  return recorded ? kRecorded : kStraight;
}

}  // namespace

bool is_plain_thread() {
  // Dispatch modes, torch.func's transforms, vmap and tracing include keys of their own.
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  return has_only(included, c10::default_included_set);
}

bool is_plain_tensor(const at::Tensor& tensor) { return has_only(tensor.key_set(), kPlainTensor); }

bool is_recorded(const at::Tensor& tensor) {
  return (at::GradMode::is_enabled() && tensor.requires_grad()) ||
         tensor._fw_grad(/*level=*/0).defined();
}

void bind_route(pybind11::module_& m) { m.def("route", &route); }

}  // namespace segfast
