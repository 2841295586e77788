"""segfast.compat.nnunet equals nnU-Net: losses and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from compat_cases import DTYPES, IGNORED, SHAPE, assert_same, labels, original
from torch import Tensor
from torch.nn import functional as nnf

from segfast.compat import nnunet

pytestmark = pytest.mark.compat
dice = original("nnunetv2.training.loss.dice", "nnunetv2")
compound = original("nnunetv2.training.loss.compound_losses", "nnunetv2")
helpers = original("nnunetv2.utilities.helpers", "nnunetv2")

C = SHAPE[1]
RTOL = 1e-6  # nnU-Net sums in float32, whatever comes in
NAMES = ("SoftDiceLoss", "MemoryEfficientSoftDiceLoss")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_dice(name: str, dtype: torch.dtype) -> None:
    nonlinear = (helpers.softmax_helper_dim1, torch.sigmoid, None)
    choices: list[dict[str, Any]] = [
        {},
        {"batch_dice": True, "do_bg": False, "smooth": 1e-5},
        {"do_bg": False, "smooth": 0.0},
    ]
    if name == "SoftDiceLoss":
        choices += [{"clip_tp": 25.0}]
    for turn, (options, function) in enumerate(itertools.product(choices, nonlinear)):
        logits = 2 * torch.randn(SHAPE, dtype=dtype)
        if function is None:
            logits = logits.softmax(1)
        target = labels(C, None)
        mine, other = (
            getattr(m, name)(apply_nonlin=function, ddp=False, **options) for m in (nnunet, dice)
        )
        mask = torch.rand(SHAPE[0], 1, *SHAPE[2:]) < 0.8
        forms = (target, target.unsqueeze(1).short(), nnf.one_hot(target, C).movedim(-1, 1))
        assert_same(mine, other, logits, forms[turn % 3], rtol=RTOL)
        assert_same(mine, other, logits, forms[turn // 3 % 3], mask, rtol=RTOL)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_dice_and_ce(name: str, dtype: torch.dtype) -> None:
    weight = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64)
    for ce_kwargs in ({}, {"weight": weight, "label_smoothing": 0.1}, {"reduction": "sum"}):
        for ignored, factors in ((None, (1, 1)), (IGNORED, (0.5, 2))):
            logits = 2 * torch.randn(SHAPE, dtype=dtype)
            target = labels(C, ignored).unsqueeze(1)
            kwargs = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
            mine, other = (
                m.DC_and_CE_loss(kwargs, dict(ce_kwargs), *factors, ignored, getattr(d, name))
                for m, d in ((nnunet, nnunet), (compound, dice))
            )
            assert_same(mine, other, logits, target, rtol=RTOL)
            assert_same(mine, other, logits, target.float(), rtol=RTOL)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dice_and_bce(dtype: torch.dtype) -> None:
    per_class = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64)[:, None, None]
    for bce_kwargs, ignore in itertools.product(({}, {"pos_weight": per_class}), (False, True)):
        logits = 2 * torch.randn(SHAPE, dtype=dtype)
        target = torch.rand(SHAPE[0], C + ignore, *SHAPE[2:]) < 0.3
        mine, other = (
            m.DC_and_BCE_loss(dict(bce_kwargs), {"ddp": False}, 0.5, 2, use_ignore_label=ignore)
            for m in (nnunet, compound)
        )
        for form in (target, target.float(), target.to(torch.uint8)):
            assert_same(mine, other, logits, form, rtol=RTOL)


def test_all_ignored() -> None:
    """-1 of Dice alone, with gradient 0, as in nnU-Net."""
    logits: Tensor = torch.randn(SHAPE, requires_grad=True)
    target = torch.full((SHAPE[0], 1, *SHAPE[2:]), IGNORED)
    losses = [
        m.DC_and_CE_loss({"ddp": False}, {}, ignore_label=IGNORED) for m in (nnunet, compound)
    ]
    values = [loss(logits, target) for loss in losses]
    assert values[0] == values[1] == -1
    assert (torch.autograd.grad(values[0], logits)[0] == 0).all()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        nnunet.DC_and_CE_loss({}, {"reduction": "none"})
    with pytest.raises(ValueError, match="of channels"):
        loss = nnunet.DC_and_BCE_loss({"weight": torch.rand(SHAPE[2:])}, {})
        loss(torch.zeros(SHAPE), torch.zeros(SHAPE))
