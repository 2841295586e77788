"""What the tests of segfast.compat share: the originals, and the comparison with them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

IGNORED = 255
SHAPE = (3, 5, 13, 9)  # [N, C, H, W]: odd sizes, and a tail after every vector width

# float64: the same formula in another order. float32: the original in float64 is the truth.
RTOL = {torch.float64: 1e-12, torch.float32: 1e-6}
DTYPES = tuple(RTOL)


# Their dependencies are many, or conflict with those of the rest.
BY_THEMSELVES = ("fastai", "fastcore", "mmsegmentation", "nnunetv2", "segmentation-models")


def how_to_install(package: str) -> str:
    """The reason of a skip."""
    command = "--no-deps " + " ".join(BY_THEMSELVES)
    if package not in BY_THEMSELVES:
        command = "'segfast[compat]'"
    return f"{package} is not installed; compare with it after: pip install {command}"


def original(module: str, package: str) -> ModuleType:
    """The library, or a skip that says what to install."""
    reason = how_to_install(package)
    result: ModuleType = pytest.importorskip(module, reason=reason)
    return result


def labels(
    classes: int = 5, ignored: int | None = IGNORED, shape: tuple[int, ...] = SHAPE
) -> Tensor:
    """Labels [N, ...] without the last class; all of the last image is ignored."""
    result = torch.randint(classes - 1, (shape[0], *shape[2:]))
    if ignored is not None:
        result[torch.rand(result.shape) < 0.2] = ignored
        result[-1] = ignored
    return result


def assert_same(
    mine: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    logits: Tensor,
    *target: Any,
    rtol: float | None = None,
) -> None:
    """Values and gradients, relative to the largest of each. ``theirs`` sees float64 logits."""
    rtol = RTOL[logits.dtype] if rtol is None else rtol
    x = logits.detach().clone().requires_grad_()
    y = logits.detach().double().requires_grad_()
    actual, expected = mine(x, *target), theirs(y, *target)
    assert actual.dtype == logits.dtype
    scale = expected.detach().abs().max().item()
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=rtol * scale)
    slope = torch.randn(expected.shape, dtype=torch.float64)
    (grad,) = torch.autograd.grad((actual * slope).sum(), x)
    (expected_grad,) = torch.autograd.grad((expected * slope).sum(), y)
    scale = expected_grad.abs().max().item()
    torch.testing.assert_close(grad.double(), expected_grad, rtol=0, atol=rtol * scale)
