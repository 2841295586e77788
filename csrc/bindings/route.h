// route.h: which way a call of an op takes to its kernel.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

namespace segfast {

// In the order of _DISPATCHED, _STRAIGHT, _RECORDED in segfast/_library.py.
enum Route : int {
  kDispatched,  // something stands between the caller and the kernel: modes, transforms, subclasses
  kStraight,
  kRecorded,  // straight, and autograd takes note
};

// Whether the dispatcher has nothing to add to a call in this thread: no modes, no transforms of
// torch.func, no vmap, no tracing.
bool is_plain_thread();

// Nor to this tensor. The tensor may be of a Python subclass.
bool is_plain_tensor(const at::Tensor& tensor);

// Whether a call with this tensor is to be recorded by either mode of differentiation.
bool is_recorded(const at::Tensor& tensor);

}  // namespace segfast
