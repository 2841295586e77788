"""Plain eager calls, which C++ records for autograd: what torch's own autograd nodes keep."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as T
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from segfast import functional as F


class Call(NamedTuple):
    """A call of an op, beside torch's, of maps of 8 x 8 or their windows."""

    run: Callable[..., Tensor]
    torchs: Callable[..., Tensor]
    shape: tuple[int, ...]
    node: str  # the name of the node in the graph
    record: Callable[[Tensor], tuple[Tensor, ...]] = lambda maps: ()  # what else it is given
    keeps: torch.dtype | None = None  # what the backward pass needs


def _shuffled(x: Tensor, relu: bool, blur: bool) -> Tensor:
    y = T.pixel_shuffle(x.relu() if relu else x, 2)
    return T.avg_pool2d(T.pad(y, (1, 0, 1, 0), mode="replicate"), 2, 1) if blur else y


def _indices(maps: Tensor) -> tuple[Tensor]:
    return (T.max_pool2d(maps, 2, return_indices=True)[1],)


def _codes(maps: Tensor) -> tuple[Tensor]:
    return (F.max_pool2d_with_codes(maps)[1],)


MAPS, WINDOWS, COARSE = (2, 4, 8, 8), (2, 4, 4, 4), (2, 16, 4, 4)
CALLS = {
    "max_pool2d": Call(
        lambda x: F.max_pool2d(x, 2),
        lambda x: T.max_pool2d(x, 2),
        MAPS,
        "MaxPool2dBackward",
        keeps=torch.uint8,
    ),
    "max_pool2d overlapping": Call(
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: T.max_pool2d(x, 3, 2, 1),
        MAPS,
        "MaxPool2dBackward",
        keeps=torch.uint8,
    ),
    "max_pool2d large window": Call(
        lambda x: F.max_pool2d(x, 16, 1, 8),
        lambda x: T.max_pool2d(x, 16, 1, 8),
        MAPS,
        "MaxPool2dBackward",
        keeps=torch.int64,
    ),
    "max_pool2d indices": Call(
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: T.max_pool2d(x, 2),
        MAPS,
        "MaxPool2dBackward",
        keeps=torch.int64,
    ),
    "max_pool2d codes": Call(
        lambda x: F.max_pool2d_with_codes(x)[0],
        lambda x: T.max_pool2d(x, 2),
        MAPS,
        "MaxPool2dBackward",
        keeps=torch.uint8,
    ),
    "max_unpool2d": Call(
        lambda x, indices: F.max_unpool2d(x, indices, 2),
        lambda x, indices: T.max_unpool2d(x, indices, 2),
        WINDOWS,
        "MaxUnpool2dBackward",
        _indices,
        torch.int64,
    ),
    "max_unpool2d codes": Call(
        lambda x, codes: F.max_unpool2d_with_codes(x, codes),
        lambda x, codes: T.max_unpool2d(x, F.codes_to_indices(codes, MAPS), 2),
        WINDOWS,
        "MaxUnpool2dBackward",
        _codes,
        torch.uint8,
    ),
    "pixel_shuffle": Call(
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: T.pixel_shuffle(x, 2),
        COARSE,
        "PixelShuffleBackward",
    ),
    "pixel_unshuffle": Call(
        lambda x: F.pixel_unshuffle(x, 2),
        lambda x: T.pixel_unshuffle(x, 2),
        MAPS,
        "PixelUnshuffleBackward",
    ),
    "subpixel_upsample": Call(
        lambda x: F.subpixel_upsample(x),
        lambda x: _shuffled(x, False, False),
        COARSE,
        "PixelShuffleBackward",
    ),
    "subpixel_upsample blur": Call(
        lambda x: F.subpixel_upsample(x, blur=True),
        lambda x: _shuffled(x, False, True),
        COARSE,
        "SubpixelUpsampleBackward",
    ),
    "subpixel_upsample relu": Call(
        lambda x: F.subpixel_upsample(x, relu=True),
        lambda x: _shuffled(x, True, False),
        COARSE,
        "SubpixelUpsampleBackward",
        keeps=torch.uint8,
    ),
    "subpixel_upsample relu, blur": Call(
        lambda x: F.subpixel_upsample(x, relu=True, blur=True),
        lambda x: _shuffled(x, True, True),
        COARSE,
        "SubpixelUpsampleBackward",
        keeps=torch.uint8,
    ),
}
KEEPING = [name for name, call in CALLS.items() if call.keeps]


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Call:
    return CALLS[request.param]


def arguments(call: Call, device: torch.device, dtype: torch.dtype = torch.float64) -> Any:
    """A leaf that needs a gradient, and the rest."""
    leaf = torch.randn(call.shape, dtype=dtype, device=device, requires_grad=True)
    return leaf, *call.record(torch.randn(MAPS, dtype=dtype, device=device))


def gradient(output: Tensor, leaf: Tensor, **options: Any) -> Tensor:
    (grad,) = torch.autograd.grad(output.sin().sum(), leaf, **options)
    return grad


def test_the_node_is_ours_and_its_input_the_leaf(call: Call, device: torch.device) -> None:
    leaf, *rest = arguments(call, device)
    node = call.run(leaf, *rest).grad_fn
    assert node is not None and node.name() == f"segfast::{call.node}"
    assert [edge[0].variable is leaf for edge in node.next_functions] == [True]
    # What an op does to the strides of its input is no node in the graph.
    strided = torch.randn(*leaf.shape[:-1], 2 * leaf.shape[-1], dtype=leaf.dtype, device=device)
    strided = strided[..., ::2].requires_grad_()
    node = call.run(strided, *rest).grad_fn
    assert (
        node is not None and node.next_functions[0][0].name() == "torch::autograd::AccumulateGrad"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_equal_torchs(call: Call, device: torch.device, dtype: torch.dtype) -> None:
    leaf, *rest = arguments(call, device, dtype)
    mine, theirs = (
        torch.autograd.grad(run(leaf, *rest).sum() * 3, leaf)[0] for run in (call.run, call.torchs)
    )
    assert torch.equal(mine, theirs)


def test_higher_derivatives_equal_torchs(call: Call, device: torch.device) -> None:
    leaf, *rest = arguments(call, device)
    results = []
    for run in (call.run, call.torchs):
        derivative = run(leaf, *rest)
        for _ in range(4):
            derivative = gradient(derivative, leaf, create_graph=True)
        results.append(derivative.detach())
    torch.testing.assert_close(*results)


def test_forward_over_reverse(call: Call, device: torch.device) -> None:
    """The gradient's derivative along a direction: by forward mode as by a second backward pass."""
    leaf, *rest = arguments(call, device)
    along = torch.randn_like(leaf)

    def loss(x: Tensor) -> Tensor:
        return call.run(x, *rest).sin().sum()

    _, forward = torch.func.jvp(torch.func.grad(loss), (leaf.detach(),), (along,))
    grad = gradient(call.run(leaf, *rest), leaf, create_graph=True)
    torch.testing.assert_close(forward, torch.autograd.grad(grad, leaf, along)[0])


def test_a_second_backward_needs_the_graph(call: Call, device: torch.device) -> None:
    leaf, *rest = arguments(call, device)
    output = call.run(leaf, *rest)
    ones = torch.ones_like(output)
    (first,) = torch.autograd.grad(output, leaf, ones, retain_graph=True)
    (second,) = torch.autograd.grad(output, leaf, ones)
    assert torch.equal(first, second)
    if call.keeps is None:  # torch's shuffles keep nothing either
        assert torch.equal(torch.autograd.grad(output, leaf, ones)[0], first)
        return
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(output, leaf, ones)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.max_pool2d(x, 2, return_indices=True),
        lambda x: F.max_pool2d_with_codes(x),
        lambda x: F.max_pool2d_with_codes(x, 3),
    ],
    ids=["indices", "codes", "byte codes"],
)
def test_a_changed_record_of_pooling_is_noticed(
    pool: Callable[[Tensor], tuple[Tensor, Tensor]], device: torch.device
) -> None:
    leaf = torch.randn(MAPS, device=device, requires_grad=True)
    output, record = pool(leaf)
    record.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("name", ["max_unpool2d", "max_unpool2d codes"])
def test_a_changed_record_of_unpooling_is_noticed(name: str, device: torch.device) -> None:
    leaf, record = arguments(CALLS[name], device)
    output = CALLS[name].run(leaf, record)
    record.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_in_place_operations_on_input_and_output(call: Call, device: torch.device) -> None:
    leaf, *rest = arguments(call, device)
    results = []
    for run in (call.run, call.torchs):
        input = leaf * 1
        output = run(input, *rest)
        if run is call.run:
            input.zero_()  # the op keeps none of its values
        results.append(gradient(output.mul_(3), leaf))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", KEEPING)
def test_hooks_see_what_is_kept(name: str, device: torch.device) -> None:
    call = CALLS[name]
    leaf, *rest = arguments(call, device)
    expected = gradient(call.run(leaf, *rest), leaf)
    seen: list[tuple[str, torch.dtype]] = []

    def pack(x: Tensor) -> Tensor:
        seen.append(("pack", x.dtype))
        return x.cpu().numpy()

    def unpack(x: Any) -> Tensor:
        seen.append(("unpack", torch.from_numpy(x).dtype))
        return torch.from_numpy(x).to(device)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        output = call.run(leaf, *rest)
    assert seen == [("pack", call.keeps)]
    assert torch.equal(gradient(output, leaf), expected)
    assert seen == [("pack", call.keeps), ("unpack", call.keeps)]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(call: Call, device: torch.device, reentrant: bool) -> None:
    leaf, *rest = arguments(call, device)
    output = checkpoint(lambda x: call.run(x.sin(), *rest).cos(), leaf, use_reentrant=reentrant)
    output.sum().backward()
    (expected,) = torch.autograd.grad(call.run(leaf.sin(), *rest).cos().sum(), leaf)
    assert leaf.grad is not None and torch.equal(leaf.grad, expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_nothing_is_recorded_without_grad_mode(
    call: Call, device: torch.device, context: Any
) -> None:
    leaf, *rest = arguments(call, device)
    expected = call.run(leaf, *rest)
    with context():
        output = call.run(leaf, *rest)
    assert output.grad_fn is None and not output.requires_grad
    assert output.is_inference() == (context is torch.inference_mode)
    assert torch.equal(output, expected)


def test_nothing_is_recorded_of_a_leaf_without_gradient(call: Call, device: torch.device) -> None:
    leaf, *rest = arguments(call, device)
    output = call.run(leaf.detach(), *rest)
    assert output.grad_fn is None and not output.requires_grad


def test_inference_tensors_are_not_kept(device: torch.device) -> None:
    with torch.inference_mode():
        (indices,) = _indices(torch.randn(MAPS, device=device))
    leaf = torch.randn(WINDOWS, device=device, requires_grad=True)
    F.max_unpool2d(leaf.detach(), indices, 2)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        F.max_unpool2d(leaf, indices, 2)


def test_hooks_of_the_graph(call: Call, device: torch.device) -> None:
    leaf, *rest = arguments(call, device)
    seen: list[str] = []
    output = call.run(leaf, *rest)
    node = output.grad_fn
    assert node is not None
    output.register_hook(lambda grad: seen.append("output"))
    node.register_prehook(lambda grads: seen.append("before"))
    node.register_hook(lambda grads, _: seen.append("after"))
    leaf.register_hook(lambda grad: seen.append("leaf"))
    output.sum().backward()
    assert seen == ["output", "before", "after", "leaf"]
    if hasattr(torch.autograd.graph, "node_creation_hook"):
        created: list[str] = []
        with torch.autograd.graph.node_creation_hook(lambda node: created.append(node.name())):
            call.run(leaf, *rest)
        assert created == [f"segfast::{call.node}"]


def test_anomaly_mode_names_the_call(call: Call, device: torch.device) -> None:
    leaf, *rest = arguments(call, device)
    with (
        pytest.warns(UserWarning, match=f"segfast::{call.node}.*(.|\n)*call.run"),
        pytest.raises(RuntimeError, match=f"segfast::{call.node}' returned nan"),
        torch.autograd.detect_anomaly(),
    ):
        output = call.run(leaf, *rest)
        output.backward(torch.full_like(output, torch.nan))


def test_threads_share_a_graph(call: Call, device: torch.device) -> None:
    leaf, *rest = arguments(call, device)
    output = call.run(leaf, *rest)
    ones = torch.ones_like(output)
    (expected,) = torch.autograd.grad(output, leaf, ones, retain_graph=True)
    good: list[bool] = []

    def work() -> None:
        for _ in range(50):
            (grad,) = torch.autograd.grad(output, leaf, ones, retain_graph=True)
            again = call.run(leaf, *rest)
            (other,) = torch.autograd.grad(again, leaf, ones)
            good.append(torch.equal(grad, expected) and torch.equal(other, expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 200


def test_vmapped_gradients(call: Call, device: torch.device) -> None:
    leaf, *rest = arguments(call, device)
    output = call.run(leaf, *rest)
    grads = torch.randn(3, *output.shape, dtype=output.dtype, device=device)
    (batched,) = torch.autograd.grad(output, leaf, grads, retain_graph=True, is_grads_batched=True)
    for mine, grad in zip(batched, grads, strict=True):
        assert torch.equal(mine, torch.autograd.grad(output, leaf, grad, retain_graph=True)[0])


def test_mapped_gradients(call: Call, device: torch.device) -> None:
    """torch.func's: of several maps as of each alone."""
    leaf, *rest = arguments(call, device)
    leaf = leaf.detach()

    def loss(x: Tensor) -> Tensor:
        return call.run(x, *rest).sin().sum()

    maps = torch.stack([leaf, 2 * leaf, -leaf])
    for mine, x in zip(torch.vmap(torch.func.grad(loss))(maps), maps, strict=True):
        assert torch.equal(mine, torch.func.grad(loss)(x))


def test_a_dispatch_mode_sees_the_backward(call: Call, device: torch.device) -> None:
    names: list[str] = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    leaf, *rest = arguments(call, device)
    output = call.run(leaf, *rest)
    ones = torch.ones_like(output)
    (expected,) = torch.autograd.grad(output, leaf, ones, retain_graph=True)
    with Seen():
        (grad,) = torch.autograd.grad(output, leaf, ones)
    assert any(name.startswith("segfast::") for name in names)
    assert torch.equal(grad, expected)


def test_an_error_of_a_hook_reaches_the_caller(device: torch.device) -> None:
    def refuse(x: Any) -> Tensor:
        raise ZeroDivisionError("not unpacked")

    leaf = torch.randn(MAPS, device=device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, refuse):
        output = F.max_pool2d(leaf, 2)
    with pytest.raises(ZeroDivisionError, match="not unpacked"):
        output.sum().backward()


def test_an_error_of_the_python_function_reaches_the_caller(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segfast.functional import _pool_records

    def refuse(*arguments: Any) -> Tensor:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(_pool_records, "max_pool2d_backward", refuse)
    leaf = torch.randn(MAPS, device=device, requires_grad=True)
    output = F.max_pool2d(leaf, 2)
    with pytest.raises(ZeroDivisionError, match="no"):
        torch.autograd.grad(
            output, leaf, torch.ones(3, *output.shape, device=device), is_grads_batched=True
        )


def test_compiled_autograd(call: Call, device: torch.device) -> None:
    leaf, *rest = arguments(call, device)
    ones = torch.ones_like(call.run(leaf, *rest))
    (expected,) = torch.autograd.grad(call.run(leaf, *rest), leaf, ones)
    torch._dynamo.reset()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        call.run(leaf, *rest).backward(ones)
    assert leaf.grad is not None and torch.equal(leaf.grad, expected)


def test_conjugate_gradients(device: torch.device) -> None:
    leaf = torch.randn(COARSE, dtype=torch.complex64, device=device, requires_grad=True)
    grad = torch.randn(2, 4, 8, 8, dtype=torch.complex64, device=device).conj()
    (mine,) = torch.autograd.grad(F.pixel_shuffle(leaf.conj(), 2), leaf, grad)
    (theirs,) = torch.autograd.grad(T.pixel_shuffle(leaf.conj(), 2), leaf, grad)
    assert torch.equal(mine, theirs)


def test_foreign_indices_have_a_second_derivative(device: torch.device) -> None:
    """Two values to one position: its derivative's derivative sums both."""
    leaf = torch.randn(1, 1, 2, 2, dtype=torch.float64, device=device, requires_grad=True)
    indices = torch.tensor([[[[5, 5], [0, 3]]]], device=device)
    output = F.max_unpool2d(leaf, indices, 2)
    grad = torch.randn_like(output).requires_grad_()
    (first,) = torch.autograd.grad(output, leaf, grad, create_graph=True)
    weights = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]], dtype=torch.float64, device=device)
    (second,) = torch.autograd.grad(first, grad, weights)
    expected = torch.zeros(16, dtype=torch.float64, device=device)
    expected[[5, 0, 3]] = torch.tensor([3.0, 4.0, 8.0], dtype=torch.float64, device=device)
    assert torch.equal(second.flatten(), expected)


@pytest.mark.parametrize(
    "usual, unusual",
    [
        (lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x, [2])),
        (lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x, torch.Size([2, 2]))),
        (lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2, stride=[])),
        (lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x, (2, 2), (2, 2), (0,), [1, 1])),
        (lambda x: F.max_pool2d(x, 1), lambda x: F.max_pool2d(x, True)),
        (lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2, ceil_mode=0)),
        (lambda x: F.pixel_shuffle(x, 2), lambda x: F.pixel_shuffle(x, np.int64(2))),
    ],
)
def test_unusual_arguments(
    usual: Callable[[Tensor], Tensor], unusual: Callable[[Tensor], Tensor], device: torch.device
) -> None:
    leaf = torch.randn(MAPS, device=device, requires_grad=True)
    assert torch.equal(usual(leaf), unusual(leaf))
    assert torch.equal(gradient(usual(leaf), leaf), gradient(unusual(leaf), leaf))


@pytest.mark.parametrize("size", [(9, 8), [9, 8], torch.Size([2, 4, 9, 8]), (2, 4, 9, 8)])
def test_output_sizes(size: Any, device: torch.device) -> None:
    leaf, indices = arguments(CALLS["max_unpool2d"], device)
    mine, theirs = (
        run(leaf, indices, 2, None, 0, size) for run in (F.max_unpool2d, T.max_unpool2d)
    )
    assert torch.equal(mine, theirs)
    assert torch.equal(gradient(mine, leaf), gradient(theirs, leaf))


@pytest.mark.cuda
def test_tensors_of_another_device(call: Call) -> None:
    """The kernels run where the tensors are, whatever the current device."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU alone")
    leaf, *rest = arguments(call, torch.device("cuda", 1))
    with torch.cuda.device(0):
        mine, theirs = call.run(leaf, *rest), call.torchs(leaf, *rest)
        assert mine.device == leaf.device
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(gradient(mine, leaf), gradient(theirs, leaf))
