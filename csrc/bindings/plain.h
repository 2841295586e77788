// plain.h: the question whether anything stands between a call and its kernel.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace segfast {

// What a tensor may be for the dispatcher to have nothing to add. Not in it: tensors of
// __torch_dispatch__, vmap, torch.func, functionalization, other layouts, zeros without memory, and
// lazily conjugated or negated views, whose memory does not hold their values.
inline constexpr c10::DispatchKeySet kPlainTensor =
    c10::DispatchKeySet({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
#ifdef SEGFAST_WITH_CUDA
                         c10::DispatchKey::CUDA, c10::DispatchKey::AutogradCUDA,
#endif
                         c10::DispatchKey::ADInplaceOrView}) |
    c10::autocast_dispatch_keyset;

inline bool has_only(c10::DispatchKeySet keys, c10::DispatchKeySet known) {
  return (keys.raw_repr() & ~known.raw_repr()) == 0;
}

// False under dispatch modes, torch.func's transforms, vmap and tracing: they include keys of their
// own.
inline bool is_plain_context() {
  return has_only(c10::impl::tls_local_dispatch_key_set().included_, c10::default_included_set);
}

inline bool is_plain(const at::Tensor& tensor) { return has_only(tensor.key_set(), kPlainTensor); }

// A tensor of forward-mode differentiation.
inline bool is_dual(const at::Tensor& tensor) { return tensor._fw_grad(/*level=*/0).defined(); }

inline bool needs_grad(const at::Tensor& tensor) {
  return at::GradMode::is_enabled() && tensor.requires_grad();
}

}  // namespace segfast
