"""segfast.compat.mmseg against the formulas of mmseg 1.2, written plainly; mmseg itself runs in
test_compat_random.py."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from compat_cases import DTYPES, IGNORED, SHAPE, assert_same, labels
from torch import Tensor
from torch.nn import functional as nnf

from segfast.compat import mmseg

C = SHAPE[1]


def formula(
    logits: Tensor,
    target: Tensor,
    activation: str | None,
    naive: bool,
    ignored: int | None = 255,
    eps: float = 1e-3,
) -> Tensor:
    """mmseg's loss of each sample. Labels beyond the classes have no target, but predictions."""
    if target.dim() < logits.dim():
        target = nnf.one_hot(target.clamp(max=C), C + 1)[..., :C].movedim(-1, 1)
    p = logits
    if activation is not None:
        p = logits.sigmoid() if activation == "sigmoid" else logits.softmax(1)
    channels = [c for c in range(C) if c != ignored]
    p, t = p[:, channels].flatten(1), target[:, channels].flatten(1).to(p.dtype)
    both = 2 * (p * t).sum(1)
    if naive:
        return 1 - (both + eps) / (p.sum(1) + t.sum(1) + eps)
    return 1 - both / (p.square().sum(1) + eps + t.square().sum(1) + eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("naive", [False, True], ids=["squares", "naive"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax", None])
def test_dice(activation: str | None, naive: bool, dtype: torch.dtype) -> None:
    """Without ignored pixels; with a class that is ignored; and with strict=True."""
    options: dict[str, Any] = {
        "use_sigmoid": activation == "sigmoid",
        "activate": activation is not None,
        "naive_dice": naive,
        "reduction": "none",
    }
    for ignored, strict in itertools.product((IGNORED, None, 2), (False, True)):
        logits = 2 * torch.randn(SHAPE, dtype=dtype)
        if activation is None:
            logits = logits.sigmoid()
        target = labels(C, IGNORED if ignored == IGNORED and strict else None)
        loss = mmseg.DiceLoss(ignore_index=ignored, strict=strict, **options)
        assert_same(
            loss, lambda x, y, i=ignored: formula(x, y, activation, naive, i), logits, target
        )
        if target.max() < C:
            target = nnf.one_hot(target, C).movedim(-1, 1)
            assert_same(
                loss, lambda x, y, i=ignored: formula(x, y, activation, naive, i), logits, target
            )


@pytest.mark.parametrize("naive", [False, True], ids=["squares", "naive"])
def test_ignored_pixels_count_in_nothing(naive: bool) -> None:
    """The loss of an image is that of the image without its ignored rows, where mmseg's is not."""
    logits = torch.randn(1, C, 8, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randint(C, (1, 8, 6))
    target[:, 5:] = IGNORED
    value = mmseg.DiceLoss(naive_dice=naive)(logits, target)
    expected = formula(logits[:, :, :5], target[:, :5], "sigmoid", naive)
    torch.testing.assert_close(value, expected.mean(), rtol=1e-12, atol=0)
    (grad,) = torch.autograd.grad(value, logits)
    assert (grad[:, :, 5:] == 0).all() and (grad[:, :, :5] != 0).all()
    strict = mmseg.DiceLoss(naive_dice=naive, strict=True)(logits, target)
    (grad,) = torch.autograd.grad(strict, logits)
    assert (grad[:, :, 5:] != 0).all()


def test_reductions() -> None:
    logits, target = torch.randn(SHAPE, dtype=torch.float64), labels(C, None)
    weight = torch.rand(SHAPE[0], dtype=torch.float64)
    each = 0.5 * formula(logits, target, "sigmoid", False) * weight
    loss = mmseg.DiceLoss(loss_weight=0.5)
    torch.testing.assert_close(loss(logits, target, weight), each.mean())
    torch.testing.assert_close(loss(logits, target, weight, avg_factor=7.0), each.sum() / 7)
    total = loss(logits, target, weight, reduction_override="sum")
    torch.testing.assert_close(total, each.sum())
    with pytest.raises(ValueError, match="avg_factor"):
        loss(logits, target, avg_factor=2.0, reduction_override="sum")


def test_all_ignored() -> None:
    logits = torch.randn(SHAPE, requires_grad=True)
    target = torch.full((SHAPE[0], *SHAPE[2:]), IGNORED)
    value = mmseg.DiceLoss()(logits, target)
    assert value == 1 and (torch.autograd.grad(value, logits)[0] == 0).all()
