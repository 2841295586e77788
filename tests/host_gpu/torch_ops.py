"""PyTorch's own CUDA ops, computed by its CPU kernels in the same memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: Ops that touch no element of a tensor: as they are.
KEPT = {
    "aten::_reshape_alias",
    "aten::as_strided",
    "aten::empty.memory_format",
    "aten::empty_strided",
    "aten::is_set_to",
    "aten::record_stream",
    "aten::resize_",
    "aten::set_",
    "aten::set_.source_Storage",
    "aten::set_.source_Storage_storage_offset",
    "aten::set_.source_Tensor",
    "aten::unfold",
    "aten::view",
    "aten::view_as_complex",
    "aten::view_as_real",
}
#: A CPU has faster ones than the ops that these choose for CUDA, those of 16 bits in float32.
CONVOLUTIONS = {"convolution", "convolution_backward"}
#: Ops that start kernels without one registered for CUDA alone.
OTHERS = {"aten::copy_", *(f"aten::{name}" for name in CONVOLUTIONS)}

#: Ops whose results have as many elements as values decide. Indices that are truth values are
#: another, and so is what returns a number.
WAITING = {"bincount", "masked_select", "nonzero", "_unique", "_unique2", "unique_dim"}

CALLBACK = ctypes.CFUNCTYPE(None)


class Runtime:
    """The streams of cudart.cpp."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        #: ctypes frees what nobody holds.
        self._recorded: list[Any] = []

    def is_captured(self, device: torch.device) -> bool:
        """Whether the current stream is captured; if it is not, it does what it has been given."""
        error = ctypes.c_int()
        captured = self._library.host_gpu_is_captured(*_place(device), ctypes.byref(error))
        if error.value:
            raise RuntimeError(f"CUDA error {error.value} of what the stream had been given")
        return bool(captured)

    def record(self, device: torch.device, work: Callable[[], None]) -> None:
        self._recorded.append(CALLBACK(work))
        self._library.host_gpu_record(*_place(device), self._recorded[-1])


def _place(device: torch.device) -> tuple[int, ctypes.c_void_p]:
    stream = torch._C._cuda_getCurrentRawStream(device.index)
    return device.index, ctypes.c_void_p(stream)


def on_the_cpu(tensor: Tensor) -> Tensor:
    """A tensor of the CPU over the same memory."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        view = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    else:
        memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
        view = torch.empty(0, dtype=tensor.dtype)
        view.set_(
            torch.frombuffer(memory, dtype=torch.uint8).untyped_storage(),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
        )
    if tensor.is_conj():
        view = view.conj()
    return torch._neg_view(view) if tensor.is_neg() else view


def each(function: Callable[[Any], Any], value: Any) -> Any:
    """The function of a value, or of each in a list; what an op takes and returns is no deeper."""
    if isinstance(value, list | tuple):
        return type(value)([each(function, item) for item in value])
    return function(value)


def cast(value: Any, source: torch.dtype, target: torch.dtype) -> Any:
    """In another type, if it is a tensor of the first one."""
    return value.to(target) if isinstance(value, Tensor) and value.dtype == source else value


class Call:
    """One call of an op on the CPU, and what becomes of its results."""

    def __init__(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.device: torch.device | None = None
        self._op = op
        self._name = op.__name__.partition(".")[0]
        self._pairs: list[tuple[Tensor, Tensor]] = []  # on the CPU and on the GPU
        self._args = [each(self._down, value) for value in args]
        self._kwargs = {name: each(self._down, value) for name, value in kwargs.items()}

    def __call__(self) -> Any:
        """Its results on the GPU."""
        return each(self._up, self._compute())

    def again(self, results: Any) -> None:
        """Computes anew, into the results of before."""
        old = iter(results if isinstance(results, list | tuple) else [results])
        each(lambda value: self._renew(value, next(old)), self._compute())

    def waits(self, results: Any) -> bool:
        """Whether the host would wait for the GPU to compute them."""
        if self._name == "index":
            return any(cpu.dtype in (torch.bool, torch.uint8) for cpu, _ in self._pairs[1:])
        if self._name == "copy_" and len(self._pairs) < 2:  # to or from the host
            return not any(self._args[2:])  # non_blocking
        return self._name in WAITING or isinstance(results, bool | int | float | complex)

    def _compute(self) -> Any:
        dtype = self._args[0].dtype if self._name in CONVOLUTIONS else None
        if dtype not in (torch.float16, torch.bfloat16):
            return self._op(*self._args, **self._kwargs)
        results = self._op(*[each(lambda x: cast(x, dtype, torch.float32), x) for x in self._args])
        return each(lambda x: cast(x, torch.float32, dtype), results)

    def _down(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_cuda:
            self.device = self.device or value.device
            self._pairs.append((on_the_cpu(value), value))
            return self._pairs[-1][0]
        if isinstance(value, torch.device):
            self.device = self.device or value
            return torch.device("cpu")
        return torch.default_generator if isinstance(value, torch.Generator) else value

    def _original(self, result: Tensor) -> Tensor | None:
        return next((gpu for cpu, gpu in self._pairs if cpu is result), None)

    def _up(self, result: Any) -> Any:
        if not isinstance(result, Tensor):
            return result
        original = self._original(result)
        if original is None:
            original = torch.empty_strided(
                result.shape, result.stride(), dtype=result.dtype, device=self.device
            )
        elif original.shape != result.shape:  # out=, which the op has given its shape
            original.resize_(result.shape)
        else:
            return original
        on_the_cpu(original).copy_(result)
        return original

    def _renew(self, new: Any, old: Any) -> None:
        if isinstance(new, Tensor) and new.data_ptr() != old.data_ptr():  # not written in place
            on_the_cpu(old).copy_(new)


def redirected(op: Any, runtime: Runtime) -> Callable[..., Any]:
    tensors = [str(argument.type) == "Tensor" for argument in op._schema.arguments]

    def kernel(*args: Any, **kwargs: Any) -> Any:
        # A number in a tensor's place comes as a number, which another overload takes.
        numbers = any(
            is_tensor and isinstance(value, int | float | complex)
            for value, is_tensor in zip(args, tensors, strict=False)
        )
        call = Call(op.overloadpacket if numbers else op, args, kwargs)
        device = call.device
        if device is None or device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        captured = runtime.is_captured(device)
        results = call()
        if (captured or torch.cuda.get_sync_debug_mode() == 2) and call.waits(results):
            raise RuntimeError(f"{op} waits for the GPU, which a stream may not while capturing")
        if captured:
            runtime.record(device, lambda: call.again(results))
        return results

    return kernel


def compute_on_the_cpu(runtime: Runtime) -> torch.library.Library:
    """Takes the place of every kernel for CUDA that would run on a GPU, while the result lives."""
    library = torch.library.Library("aten", "IMPL")
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        on_cuda = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")
        if namespace != "aten" or name in KEPT or not (on_cuda or name in OTHERS):
            continue
        packet, _, overload = rest.partition(".")
        op = getattr(getattr(torch.ops.aten, packet), overload or "default")
        library.impl(op, redirected(op, runtime), "CUDA")
    return library
