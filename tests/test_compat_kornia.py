"""segfast.compat.kornia equals kornia: losses and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from compat_cases import DTYPES, IGNORED, SHAPE, assert_same, labels, original

from segfast.compat import kornia

pytestmark = pytest.mark.compat
theirs = original("kornia.losses", "kornia")

C = SHAPE[1]
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_dice(average: str, dtype: torch.dtype) -> None:
    """One image of the batch is ignored as a whole: its loss is 1."""
    for weight, ignored, eps in itertools.product((None, WEIGHT), (None, IGNORED), (1e-8, 0.5)):
        logits, target = 2 * torch.randn(SHAPE, dtype=dtype), labels(C, ignored)
        mine, other = (m.DiceLoss(average, eps, weight, ignored) for m in (kornia, theirs))
        assert_same(mine, other, logits, target)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tversky(dtype: torch.dtype) -> None:
    for alpha, ignored in itertools.product((0.5, 0.2), (None, IGNORED)):
        logits, target = 2 * torch.randn(SHAPE, dtype=dtype), labels(C, ignored)
        mine, other = (m.TverskyLoss(alpha, 0.9, 1e-6, ignored) for m in (kornia, theirs))
        assert_same(mine, other, logits, target)


def test_all_ignored_and_weightless() -> None:
    """1 with gradient 0, as in kornia, with eps = 0 too."""
    logits = torch.randn(SHAPE, requires_grad=True)
    nothing = torch.full((SHAPE[0], *SHAPE[2:]), IGNORED)
    for average, weight in itertools.product(("micro", "macro"), (None, torch.zeros(C))):
        target = nothing if weight is None else labels(C)
        values = [
            m.dice_loss(logits, target, average, 0.0, weight, IGNORED) for m in (kornia, theirs)
        ]
        assert values[0] == values[1] == 1
        assert (torch.autograd.grad(values[0], logits)[0] == 0).all()
    value = kornia.tversky_loss(logits, nothing, 0.5, 0.5, ignore_index=IGNORED)
    assert value == 1 and (torch.autograd.grad(value, logits)[0] == 0).all()


def test_half_precision_and_bad_arguments() -> None:
    logits, target = torch.randn(1, 2, 320, 320).half(), torch.zeros(1, 320, 320).long()
    expected = theirs.dice_loss(logits.double(), target)
    torch.testing.assert_close(
        kornia.dice_loss(logits, target).double(), expected, rtol=1e-6, atol=0
    )
    with pytest.raises(ValueError, match="average must be one of"):
        kornia.DiceLoss("weighted")
    with pytest.raises(ValueError, match=r"weight must have shape \[2\]"):
        kornia.dice_loss(logits, target, weight=WEIGHT)
