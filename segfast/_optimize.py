"""Models made faster for inference: what may help is tried, checked and timed."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections import Counter
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from segfast._accelerate import accelerate
from segfast._errors import UserError
from segfast._example import example_input
from segfast._tensors import check_module
from segfast.models.full_size import full_size

#: How far logits may be off, in standard deviations of the logits, before a class that wins by more
#: than that counts as another mask: the type's epsilon over some hundred layers.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
#: The share of such pixels that is let pass. Where a pooling's maximum is another by rounding, as
#: good as equal, unpooling puts it elsewhere, and pixels around it may change.
_CHANGED = 1e-3

CUDA_GRAPH_SHAPES = 8  # captured at most; others run without


class Optimized(nn.Module):
    """What :func:`optimize` returns: runs ``model`` without gradients, in the type and the memory
    format that were fastest.

    Attributes:
        model: the changed copy.
        dtype: float32, or the type that convolutions compute in under autocast.
        memory_format: of the input inside.
    """

    def __init__(
        self, model: nn.Module, dtype: torch.dtype, memory_format: torch.memory_format
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False).to(memory_format=memory_format)
        self.dtype = dtype
        self.memory_format = memory_format
        if dtype != torch.float32:  # or autocast would convert them at every call
            for layer in model.modules():
                if type(layer) in (nn.Conv2d, nn.ConvTranspose2d) and not is_parametrized(layer):
                    layer.to(dtype)
        self._call: Any = self.model
        self._graphs: dict[Any, tuple[Any, Tensor, Any]] | None = None
        self.eval()

    def forward(self, input: Tensor) -> Any:
        reduced = self.dtype != torch.float32
        with torch.no_grad(), torch.autocast(input.device.type, self.dtype, enabled=reduced):
            input = input.contiguous(memory_format=self.memory_format)
            return self._call(input) if self._graphs is None else self._replay(input)

    def _replay(self, input: Tensor) -> Any:
        """A CUDA graph per input shape. The output is the graph's own and lives until the next
        call, so that it is copied."""
        assert self._graphs is not None
        key = input.shape, input.dtype
        if key not in self._graphs:
            if len(self._graphs) == CUDA_GRAPH_SHAPES:
                return self._call(input)
            static = input.clone()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # lazy initialisation may not be captured
                for _ in range(3):
                    self._call(static)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = self._call(static)
            self._graphs[key] = graph, static, output
        graph, static, output = self._graphs[key]
        static.copy_(input)
        graph.replay()
        return tree_map(torch.clone, output)

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}, memory_format={self.memory_format}"


def optimize(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    dtype: torch.dtype | Literal["auto"] = "auto",
    compile: bool = False,
    cuda_graph: bool = False,
) -> Optimized:
    """A copy of ``model`` for inference, in eval mode, that gives the same masks faster.

    Batch norm is folded into the convolution before it (Jacob et al. 2018,
    https://arxiv.org/abs/1712.05877, section 3.2), layers that segfast has kernels for are swapped
    (:func:`accelerate`), and the types and memory formats that may help on the model's device are
    timed on ``example``, in turn; the fastest whose mask is the model's is taken. Convolutions then
    run under autocast in bfloat16 (float16 on GPUs before Ampere), where the device computes in it
    and it wins. A mask is the same when its pixels are, but for those that two classes share within
    the type's rounding.

    The model itself is not changed. Its copy takes twice its memory for a moment, and more while
    types are tried.

    Args:
        model: any module that takes one tensor, on the device that it is to run on.
        example: an input [N, C, H, W] like those to come; by default noise, 256x256, of the
            channels of the first convolution. The model runs on it some twenty times.
        dtype: ``"auto"`` as above; ``torch.float32`` to leave the type alone; or one to be tried
            only.
        compile: hand the result to :func:`torch.compile`, which compiles at the first call.
        cuda_graph: capture a CUDA graph for each input shape (the first eight) at its first call.
            Not together with ``compile``.

    Raises:
        UserError: the copy gives other masks, in the one type that is to be tried or even in
            float32 with its layers as they are; a ValueError.
        ValueError: ``cuda_graph`` on a CPU or together with ``compile``, a type that is none of
            float32, float16 and bfloat16, or no ``example`` where the model does not tell its
            channels.

    Warns:
        UserWarning: a type, or folding, was left out because its masks differ.

    Example:
        >>> fast = segfast.optimize(model.cuda(), images)
        >>> masks = fast(images).argmax(1)
    """
    check_module(model)
    if example is None:
        example = example_input(model, height=256, width=256)
    device = example.device
    if cuda_graph and (compile or device.type != "cuda"):
        raise ValueError("cuda_graph needs a model on a CUDA device, and compile=False")
    if dtype != "auto" and dtype not in _TOLERANCE:
        raise ValueError(
            f'dtype must be "auto", torch.float32, float16 or bfloat16, received {dtype}'
        )
    twin = accelerate(copy.deepcopy(model).eval())
    with torch.no_grad():
        expected = full_size(copy.deepcopy(model).eval(), example)
        fold_batch_norm(twin, example)
        dtypes = _dtypes(device) if isinstance(dtype, str) else [dtype]
        formats = (torch.contiguous_format, torch.channels_last)
        candidates = [
            Optimized(copy.deepcopy(twin), kind, format)
            for kind, format in product(dtypes, formats)
        ]
        reasons = [_why_not(one, example, expected) for one in candidates]
        if all(reasons) and torch.float32 in dtypes:
            # Folding rounds otherwise: it may turn a pooling's ties, which unpooling shows.
            unfolded = Optimized(accelerate(copy.deepcopy(model)), torch.float32, formats[0])
            warnings.warn(f"batch norm was not folded: {reasons[0]}", stacklevel=2)
            candidates.append(unfolded)
            reasons.append(_why_not(unfolded, example, expected))
        good = [one for one, reason in zip(candidates, reasons, strict=True) if not reason]
        for kind in dtypes:
            if kind not in {one.dtype for one in good}:
                reason = reasons[candidates.index(next(c for c in candidates if c.dtype == kind))]
                warnings.warn(f"{kind} was left out: {reason}", stacklevel=2)
        if not good:
            raise UserError(f"{type(model).__name__} cannot be optimised: {reasons[0]}")
        best = _fastest(good, example)
    if compile:
        best._call = torch.compile(best.model)
    if cuda_graph:
        best._graphs = {}
    return best


def _dtypes(device: torch.device) -> list[torch.dtype]:
    """float32, and what the device multiplies matrices in natively."""
    if device.type == "cuda":
        ampere = torch.cuda.get_device_capability(device) >= (8, 0)
        return [torch.float32, torch.bfloat16 if ampere else torch.float16]
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return [torch.float32, torch.bfloat16]
    return [torch.float32]


def _fastest(models: list[Optimized], example: Tensor) -> Optimized:
    """By the best of three runs, in turn."""
    best = [math.inf] * len(models)
    for _ in range(3):
        for index, model in enumerate(models):
            begin = time.perf_counter()
            model(example)
            if example.is_cuda:
                torch.cuda.synchronize(example.device)
            best[index] = min(best[index], time.perf_counter() - begin)
    return models[best.index(min(best))]


def _why_not(model: Optimized, example: Tensor, expected: Tensor) -> str | None:
    """Why the masks of ``model`` are not those of ``expected`` logits [N, classes, H, W]."""
    found = full_size(model, example).float()
    expected = expected.float()
    if expected.shape[1] == 1:  # binary: two classes, 0 and the logit
        found, expected = (torch.cat([x, torch.zeros_like(x)], dim=1) for x in (found, expected))
    first, second = expected.topk(2, dim=1).values.unbind(1)
    clear = first - second > _TOLERANCE[model.dtype] * expected.std()
    changed = clear & (found.argmax(1) != expected.argmax(1))
    share = float(changed.float().mean())
    if share <= _CHANGED and bool(found.isfinite().all() or not expected.isfinite().all()):
        return None
    return f"{share:.1%} of the example's pixels change their class"


def fold_batch_norm(model: nn.Module, example: Tensor) -> int:
    """Folds each batch norm of ``model``, in eval mode, into the convolution before it, in place.

    Which that is shows as the model runs on ``example``: a convolution that ran once, and whose
    output went to nothing but a batch norm that ran once. Returns how many were folded.
    """
    flow = _Flow(model)
    pairs = flow.watch(example)
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
        for parent in list(model.modules()):
            for name, child in list(parent._modules.items()):
                if child is conv:
                    parent._modules[name] = fused
                elif child is norm:
                    parent._modules[name] = nn.Identity()
    return len(pairs)


class _Flow(TorchDispatchMode):
    """Sees every operation on the outputs of convolutions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.runs: Counter[nn.Module] = Counter()
        self.outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # kept, so that ids stay theirs
        self.normalised: dict[int, nn.Module] = {}  # by the id of the output
        self.used: set[int] = set()  # by anything else
        self.inside = False  # a batch norm

    def watch(self, example: Tensor) -> list[tuple[Any, Any]]:
        """Pairs of a convolution and the batch norm to fold into it."""
        handles = []
        for layer in self.model.modules():
            if type(layer) in (nn.Conv2d, nn.ConvTranspose2d) and not is_parametrized(layer):
                handles.append(layer.register_forward_hook(self._after_convolution))
            elif type(layer) is nn.BatchNorm2d and layer.track_running_stats:
                handles.append(layer.register_forward_pre_hook(self._before_norm))
                handles.append(layer.register_forward_hook(self._after_norm))
        try:
            with self, torch.no_grad():
                result = self.model(example)
        finally:
            for handle in handles:
                handle.remove()
        self._use(result)
        return [
            (conv, norm)
            for output, norm in self.normalised.items()
            if output not in self.used
            for conv in [self.outputs[output][0]]
            if self.runs[conv] == self.runs[norm] == 1 and not conv._forward_hooks
        ]

    def _after_convolution(self, layer: nn.Module, args: Any, output: Tensor) -> None:
        self.runs[layer] += 1
        self.outputs[id(output)] = layer, output

    def _before_norm(self, layer: nn.Module, args: tuple[Tensor]) -> None:
        self.runs[layer] += 1
        if id(args[0]) in self.outputs:
            self.normalised[id(args[0])] = layer
        self.inside = True

    def _after_norm(self, layer: nn.Module, args: Any, output: Tensor) -> None:
        self.inside = False

    def _use(self, values: Any) -> None:
        self.used.update(self.outputs.keys() & {id(value) for value in tree_leaves(values)})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside:
            self._use((args, kwargs))
        return func(*args, **(kwargs or {}))
