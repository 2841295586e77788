"""segfast.compat without the originals: each library's default loss by its formula, in one call of
overlap_stats, in the memory of one gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compat_cases import DTYPES, SHAPE, assert_same, labels
from torch import Tensor
from torch.nn import functional as nnf

from segfast.bench.memory import peak_bytes
from segfast.compat import _common, fastai, keras, kornia, mmseg, monai, nnunet, smp

C = SHAPE[1]


def sums(x: Tensor, y: Tensor, sigmoid: bool = False, q: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """I, P and T of each sample and class."""
    p = x.sigmoid() if sigmoid else x.softmax(1)
    t = nnf.one_hot(y.view(len(y), *SHAPE[2:]), C).movedim(-1, 1).to(x.dtype)
    return (p * t).sum((2, 3)), (p**q).sum((2, 3)), t.sum((2, 3))


def smp_dice(x: Tensor, y: Tensor) -> Tensor:
    i, p, t = (s.sum(0) for s in sums(x, y))
    return ((1 - 2 * i / (p + t)) * (t > 0)).mean()


def monai_dice(x: Tensor, y: Tensor) -> Tensor:
    i, p, t = sums(x, y)
    return (1 - (2 * i + 1e-5) / (p + t + 1e-5)).mean()


def monai_dice_ce(x: Tensor, y: Tensor) -> Tensor:
    return monai_dice(x, y) + nnf.cross_entropy(x, y.squeeze(1))


def monai_dice_focal(x: Tensor, y: Tensor) -> Tensor:
    i, p, t = sums(x, y, sigmoid=True)
    spread = nnf.one_hot(y.squeeze(1), C).movedim(-1, 1).to(x.dtype)
    bce = nnf.binary_cross_entropy_with_logits(x, spread, reduction="none")
    dice = (1 - (2 * i + 1e-5) / (p + t + 1e-5)).mean()
    return dice + ((1 - (-bce).exp()) ** 2 * bce).mean()


def nnunet_dice_ce(x: Tensor, y: Tensor) -> Tensor:
    i, p, t = (s.sum(0)[1:] for s in sums(x, y))
    return nnf.cross_entropy(x, y.squeeze(1)) - ((2 * i + 1e-5) / (p + t + 1e-5)).mean()


def kornia_dice(x: Tensor, y: Tensor) -> Tensor:
    i, p, t = (s.sum(1) for s in sums(x, y))
    return (1 - 2 * i / (p + t + 1e-8)).mean()


def fastai_dice(x: Tensor, y: Tensor) -> Tensor:
    i, p, t = sums(x, y)
    return (1 - (2 * i + 1e-6) / (p + t + 1e-6)).sum()


def mmseg_dice(x: Tensor, y: Tensor) -> Tensor:
    i, p, t = (s.sum(1) for s in sums(x, y, sigmoid=True, q=2))
    return (1 - 2 * i / (p + t + 2e-3)).mean()


def keras_bce_jaccard(x: Tensor, y: Tensor) -> Tensor:
    i, p, t = (s.sum(0) for s in sums(x, y, sigmoid=True))
    spread = nnf.one_hot(y, C).movedim(-1, 1).to(x.dtype)
    jaccard = 1 - ((i + 1e-5) / (p + t - i + 1e-5)).mean()
    return jaccard + nnf.binary_cross_entropy_with_logits(x, spread)


DICE = {"batch_dice": True, "smooth": 1e-5, "do_bg": False}
CASES: dict[str, tuple[Any, Callable[..., Tensor], bool]] = {
    "smp": (smp.DiceLoss("multiclass"), smp_dice, False),
    "monai, Dice": (monai.DiceLoss(to_onehot_y=True, softmax=True), monai_dice, True),
    "monai, Dice + CE": (monai.DiceCELoss(to_onehot_y=True, softmax=True), monai_dice_ce, True),
    "monai, Dice + focal": (
        monai.DiceFocalLoss(to_onehot_y=True, sigmoid=True),
        monai_dice_focal,
        True,
    ),
    "nnunet": (nnunet.DC_and_CE_loss(DICE, {}), nnunet_dice_ce, True),
    "kornia": (kornia.DiceLoss(), kornia_dice, False),
    "fastai": (fastai.DiceLoss(), fastai_dice, False),
    "mmseg": (mmseg.DiceLoss(), mmseg_dice, False),
    "keras": (keras.bce_jaccard_loss, keras_bce_jaccard, False),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_formula_in_one_call(
    case: tuple[Any, Callable[..., Tensor], bool],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loss, formula, with_channel = case
    calls = []
    overlap_stats = _common.overlap_stats

    def counting(*args: Any, **options: Any) -> Any:
        calls.append(options)
        return overlap_stats(*args, **options)

    monkeypatch.setattr(_common, "overlap_stats", counting)
    logits, target = 2 * torch.randn(SHAPE, dtype=dtype), labels(C, None)
    assert_same(loss, formula, logits, target.unsqueeze(1) if with_channel else target)
    assert len(calls) == 1


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_memory_is_the_gradient(case: tuple[Any, Callable[..., Tensor], bool]) -> None:
    """Forward and backward allocate the gradient of the logits and small sums."""
    loss, _, with_channel = case
    logits = torch.randn(1, 8, 256, 256, requires_grad=True)
    target = torch.randint(8, (1, 1, 256, 256) if with_channel else (1, 256, 256))
    peak = peak_bytes(lambda: loss(logits, target).backward(), logits.device)
    assert logits.nbytes <= peak <= 1.01 * logits.nbytes


def test_a_float_map_of_half_precision() -> None:
    """Half logits: the loss is float32, the gradient half; float labels are taken for labels."""
    for loss, formula, with_channel in CASES.values():
        logits = torch.randn(SHAPE).half().requires_grad_()
        target = labels(C, None)
        shaped = target.unsqueeze(1) if with_channel else target
        value = loss(logits, shaped)
        (grad,) = torch.autograd.grad(value, logits)
        assert value.dtype == torch.float32 and grad.dtype == torch.float16
        torch.testing.assert_close(
            value.double(), formula(logits.double(), target), rtol=1e-6, atol=0
        )
