"""What every differentiable op owes, checked the same way for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

Arguments = tuple[Any, ...]


def tensors_of(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


def assert_same(actual: Any, expected: Any, **tolerance: float) -> None:
    """Values (bit for bit unless a tolerance is given), shapes, dtypes and strides are equal."""
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    actual, expected = tensors_of(actual), tensors_of(expected)
    assert len(actual) == len(expected)
    for mine, theirs in zip(actual, expected, strict=True):
        kinds = [(x.dtype, x.device, x.layout, x.shape) for x in (mine, theirs)]
        # assert_close takes milliseconds, and has to say what differs.
        if kinds[0] != kinds[1] or not torch.equal(mine, theirs):
            torch.testing.assert_close(mine, theirs, equal_nan=True, **tolerance)
        assert mine.stride() == theirs.stride() or mine.numel() == 0, (
            f"strides {mine.stride()}, not {theirs.stride()}, of shape {tuple(mine.shape)}"
        )


def saved_by(run: Callable[[], object]) -> list[Tensor]:
    """What autograd keeps of a call."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return saved


def results_of(op: Callable[..., Any], args: list[Tensor], slope: Tensor) -> list[Tensor]:
    """The outputs, and the gradient of the first argument where it has one, for this slope."""
    first = args[0].detach().requires_grad_(args[0].is_floating_point())
    outputs = tensors_of(op(first, *args[1:]))
    if not outputs[0].requires_grad:
        return outputs
    return [*outputs, *torch.autograd.grad(outputs[0], first, slope)]


class OpTester:
    """Subclass with ``op``, ``small`` and, where the defaults do not fit, the rest.

    ``small`` yields argument tuples whose first entry is a small float64 tensor without ties, so
    that finite differences hold.
    """

    op: Callable[..., Any]
    overloads: tuple[str, ...] = ()
    differentiable = True

    def small(self) -> Iterator[Arguments]:
        raise NotImplementedError

    def overload_arguments(self, name: str) -> Iterator[Arguments]:
        """Arguments of ``torch.ops.segfast.<name>`` for opcheck."""
        raise NotImplementedError

    def call(self, arguments: Arguments) -> Any:
        return type(self).op(*arguments)

    def differentiable_outputs(self, *arguments: Any) -> tuple[Tensor, ...]:
        outputs = tensors_of(self.call(arguments))
        return tuple(output for output in outputs if output.is_floating_point())

    def test_gradients(self, device: torch.device) -> None:
        for first, *rest in self.small():
            first = first.to(device).requires_grad_()
            rest = [x.to(device) if isinstance(x, Tensor) else x for x in rest]
            torch.autograd.gradcheck(
                lambda x, rest=rest: self.differentiable_outputs(x, *rest),
                (first,),
                check_forward_ad=True,
                check_batched_grad=True,
                check_batched_forward_grad=True,
            )
            torch.autograd.gradgradcheck(
                lambda x, rest=rest: self.differentiable_outputs(x, *rest), (first,)
            )

    def test_registration(self, device: torch.device) -> None:
        for name in self.overloads:
            overload = getattr(torch.ops.segfast, name).default
            for first, *rest in self.overload_arguments(name):
                rest = [x.to(device) if isinstance(x, Tensor) else x for x in rest]
                first = first.to(device)
                torch.library.opcheck(overload, (first, *rest))
                if self.differentiable:
                    torch.library.opcheck(overload, (first.clone().requires_grad_(), *rest))

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles_whole(self, device: torch.device, dynamic: bool) -> None:
        for first, *rest in self.small():
            torch._dynamo.reset()
            compiled = torch.compile(
                lambda *arguments: self.call(arguments),
                fullgraph=True,
                dynamic=dynamic,
                backend="aot_eager",
            )
            rest = [x.to(device) if isinstance(x, Tensor) else x for x in rest]
            mine = first.to(device).requires_grad_(self.differentiable)
            theirs = mine.detach().clone().requires_grad_(self.differentiable)
            actual, expected = compiled(mine, *rest), self.call((theirs, *rest))
            assert_same(actual, expected)
            if self.differentiable:
                tensors_of(actual)[0].sin().sum().backward()
                tensors_of(expected)[0].sin().sum().backward()
                assert_same(mine.grad, theirs.grad)

    def test_vmap(self, device: torch.device) -> None:
        for first, *rest in self.small():
            rest = [x.to(device) if isinstance(x, Tensor) else x for x in rest]
            first = first.to(device)
            batch = torch.stack([first, 2 * first, -first], dim=1)
            mapped = torch.vmap(lambda x, rest=rest: self.call((x, *rest)), in_dims=1)(batch)
            for i, example in enumerate(batch.unbind(1)):
                expected = tensors_of(self.call((example, *rest)))
                for mine, theirs in zip(tensors_of(mapped), expected, strict=True):
                    torch.testing.assert_close(mine[i], theirs, rtol=0, atol=0)

    def test_func_grad_equals_autograd(self, device: torch.device) -> None:
        if not self.differentiable:
            return
        for first, *rest in self.small():
            rest = [x.to(device) if isinstance(x, Tensor) else x for x in rest]
            first = first.to(device).requires_grad_()

            def loss(x: Tensor, rest: list[Any] = rest) -> Tensor:
                return sum(y.sin().sum() for y in self.differentiable_outputs(x, *rest))

            (expected,) = torch.autograd.grad(loss(first), first)
            assert_same(torch.func.grad(loss)(first.detach()), expected)
