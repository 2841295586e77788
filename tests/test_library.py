"""Which way a call takes to its kernel: straight only where nothing else wants to see it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from segfast import functional as F


class Seen(TorchDispatchMode):
    """Notes the names of the ops it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class Named(Tensor):
    """A subclass that notes what was called on it."""

    names: list[str] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.names.append(getattr(func, "__name__", str(func)))
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(2, 4, 6, 8, dtype=torch.float64)


def expected(maps: Tensor) -> Tensor:
    return torch.nn.functional.pixel_shuffle(maps, 2)


def test_straight_calls_are_not_dispatched(maps: Tensor) -> None:
    with torch.profiler.profile() as profile:
        F.pixel_shuffle(maps, 2)
        F.pixel_shuffle(maps.clone().requires_grad_(), 2)
    assert not any(event.key.startswith("segfast::") for event in profile.key_averages())


def test_dispatch_mode_sees_the_op(maps: Tensor) -> None:
    with Seen() as seen:
        actual = F.pixel_shuffle(maps, 2)
    assert "segfast::pixel_shuffle" in seen.names
    assert torch.equal(actual, expected(maps))


def test_dispatched_pooling_keeps_its_codes(maps: Tensor) -> None:
    """As a plain eager call does: its backward pass does not pool again."""
    with Seen() as seen:
        F.max_pool2d(maps, 2)
        F.max_pool2d(maps.requires_grad_(), 2).sum().backward()
    assert [name.removeprefix("segfast::") for name in seen.names if "segfast" in name] == [
        "max_pool2d",
        "max_pool2d_with_codes",
        "max_pool2d_backward",
    ]


def test_subclass_sees_the_op(maps: Tensor) -> None:
    Named.names.clear()
    actual = F.pixel_shuffle(maps.as_subclass(Named), 2)
    assert any("pixel_shuffle" in name for name in Named.names)
    assert isinstance(actual, Named)
    assert torch.equal(actual.as_subclass(Tensor), expected(maps))


def test_subclass_beside_a_plain_tensor(maps: Tensor) -> None:
    pooled, codes = F.max_pool2d_with_codes(maps)
    actual = F.max_unpool2d_with_codes(pooled, codes.as_subclass(Named))
    assert torch.equal(actual.as_subclass(Tensor), F.max_unpool2d_with_codes(pooled, codes))


@pytest.mark.parametrize("dispatched", [False, True])
def test_forward_mode(maps: Tensor, dispatched: bool) -> None:
    tangent = torch.randn_like(maps)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(maps, tangent)
        if dispatched:
            with Seen():
                actual = F.max_pool2d(dual, 2)
        else:
            actual = F.max_pool2d(dual, 2)
        theirs = torch.nn.functional.max_pool2d(dual, 2)
        for mine, other in zip(
            forward_ad.unpack_dual(actual), forward_ad.unpack_dual(theirs), strict=True
        ):
            assert torch.equal(mine, other)


def test_zeros_without_memory() -> None:
    zeros = torch._efficientzerotensor((2, 4, 3, 3))
    assert torch.equal(F.pixel_shuffle(zeros, 2), torch.zeros(2, 1, 6, 6))


def test_conjugate_and_negative_views(maps: Tensor) -> None:
    maps = torch.complex(maps, -maps)
    for view in (maps.conj(), maps.conj().imag, torch._neg_view(maps)):
        assert torch.equal(F.pixel_shuffle(view, 2), expected(view))


def test_tensor_that_left_its_transform(maps: Tensor) -> None:
    left: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        left.append(x)
        return x.sum()

    torch.func.grad(function)(maps)
    assert torch.equal(F.pixel_shuffle(left[0], 2), expected(maps))


def test_saved_tensors_pass_the_hooks(maps: Tensor) -> None:
    packed: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        packed.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = F.max_pool2d(maps.requires_grad_(), 2)
    assert [x.dtype for x in packed] == [torch.uint8]
    output.sum().backward()
    assert maps.grad is not None and maps.grad.sum() == output.numel()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_nothing_is_recorded_without_grad_mode(maps: Tensor, context: Any) -> None:
    with context():
        assert F.max_pool2d(maps.requires_grad_(), 2).grad_fn is None


def test_records_have_no_gradient(maps: Tensor) -> None:
    for indices in (False, True):
        pool = F.max_pool2d if indices else F.max_pool2d_with_codes
        options = {"return_indices": True} if indices else {}
        output, record = pool(maps.requires_grad_(), 2, **options)
        assert output.requires_grad and not record.requires_grad
