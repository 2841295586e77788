"""segfast.compat.monai equals MONAI: losses and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from compat_cases import DTYPES, IGNORED, assert_same, labels, original
from torch import Tensor
from torch.nn import functional as nnf

from segfast.compat import monai

pytestmark = pytest.mark.compat
theirs = original("monai.losses", "monai")

C = 4
SHAPES = {"2-D": (3, C, 11, 7), "3-D": (2, C, 5, 3, 6)}  # odd sizes
IN_FLOAT32 = {torch.float64: 1e-6, torch.float32: 1e-6}  # where MONAI computes in float32


def problem(
    shape: tuple[int, ...], dtype: torch.dtype, onehot: bool, ignored: int | None = None
) -> tuple[Tensor, Tensor]:
    """Logits, and labels [N, 1, ...] without class 3, or their one-hot form."""
    logits = 2 * torch.randn(shape, dtype=dtype)
    target = labels(C, ignored, shape).unsqueeze(1)
    if ignored is not None:
        target[0, 0, 0] = 0
    if onehot:
        target = nnf.one_hot(target[:, 0], C).movedim(-1, 1).double()
    return logits, target


def both(name: str, **options: Any) -> list[Any]:
    return [getattr(m, name)(**options) for m in (monai, theirs)]


REGIONS: dict[str, list[dict[str, Any]]] = {
    "DiceLoss": [
        {},
        {"squared_pred": True, "batch": True},
        {"jaccard": True},
        {"jaccard": True, "squared_pred": True, "smooth_nr": 0.0, "smooth_dr": 1.0},
        {"include_background": False, "weight": [0.5, 2.0, 1.5]},
        {"weight": 2.0, "batch": True},
    ],
    "TverskyLoss": [{"alpha": 0.3, "beta": 0.9}, {"batch": True, "include_background": False}],
    "GeneralizedDiceLoss": [
        {},
        {"w_type": "simple", "batch": True},
        {"w_type": "uniform", "include_background": False},
        {"batch": True},
    ],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", REGIONS)
def test_region_losses(name: str, reduction: str, dtype: torch.dtype) -> None:
    forms = list(itertools.product(("softmax", "sigmoid", None), (True, False)))
    for turn, options in enumerate(REGIONS[name]):
        # Every form of input and target with the defaults, then two of them with each option.
        for activation, onehot in forms if turn == 0 else forms[turn % 3 :: 3]:
            options = {**options, "reduction": reduction, "to_onehot_y": not onehot}
            if activation is not None:
                options[activation] = True
            logits, target = problem(SHAPES["3-D" if turn == 1 else "2-D"], dtype, onehot)
            if activation is None:
                logits = logits.softmax(1)
            mine, other = both(name, **options)
            # GDice's weights and the norms of one-hot labels are float32 in MONAI.
            in_float32 = name.startswith("Gen") or (options.get("squared_pred") and not onehot)
            rtol = IN_FLOAT32[dtype] if in_float32 else None
            for form in (target,) if onehot else (target, target.float()):
                assert_same(mine, other, logits, form, rtol=rtol)
            options.pop(activation, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["DiceLoss", "TverskyLoss"])
def test_ignore_index(name: str, dtype: torch.dtype) -> None:
    for ignored in (IGNORED, 0, 2, -1):
        options = {"softmax": True, "ignore_index": ignored}
        logits, target = problem(SHAPES["2-D"], dtype, False, IGNORED)
        target[target == IGNORED] = ignored
        mine, other = both(name, to_onehot_y=True, **options)
        assert_same(mine, other, logits, target)
        if 0 <= ignored < C:
            onehot = nnf.one_hot(target[:, 0], C).movedim(-1, 1)
        else:  # pixels of no class
            onehot = nnf.one_hot(target[:, 0].where(target[:, 0] != ignored, C), C + 1)
            onehot = onehot[..., :C].movedim(-1, 1)
        mine, other = both(name, **options)
        assert_same(mine, other, logits, onehot.double())
        assert_same(mine, other, logits, onehot)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", REGIONS)
def test_soft_labels(name: str, dtype: torch.dtype) -> None:
    squares = [False, True] if name == "DiceLoss" else [None]
    for soft_label, squared in itertools.product((False, True), squares):
        options = {} if squared is None else {"squared_pred": squared}
        logits, _ = problem(SHAPES["2-D"], dtype, True)
        target = torch.rand(logits.shape, dtype=torch.float64)
        mine, other = both(name, sigmoid=True, soft_label=soft_label, **options)
        rtol = IN_FLOAT32[dtype] if name.startswith("General") else None
        assert_same(mine, other, logits, target, rtol=rtol)


def test_one_channel_and_other_activations() -> None:
    """MONAI skips softmax and one-hot of one channel, with a warning."""
    logits = torch.randn(2, 1, 9, 7, dtype=torch.float64)
    target = torch.randint(2, logits.shape)
    for name in REGIONS:
        rtol = IN_FLOAT32[torch.float64] if name.startswith("General") else None
        mine, other = both(name, sigmoid=True)
        assert_same(mine, other, logits, target.double(), rtol=rtol)
        mine, other = both(name, other_act=lambda x: (x.tanh() + 1) / 2, include_background=False)
        with pytest.warns(UserWarning, match="single channel"):
            assert_same(mine, other, logits, target.double(), rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_dice_ce(reduction: str, dtype: torch.dtype) -> None:
    weight = torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)
    choices: list[dict[str, Any]] = [
        {"softmax": True},
        {"softmax": True, "weight": weight, "lambda_dice": 0.5, "lambda_ce": 2.0},
        {"softmax": True, "weight": weight, "include_background": False, "batch": True},
        {"softmax": True, "label_smoothing": 0.1, "squared_pred": True},
        {"sigmoid": True},
    ]
    for options, onehot in itertools.product(choices, (True, False)):
        logits, target = problem(SHAPES["2-D"], dtype, onehot)
        mine, other = both("DiceCELoss", reduction=reduction, to_onehot_y=not onehot, **options)
        in_float32 = options.get("squared_pred") and not onehot
        assert_same(mine, other, logits, target, rtol=IN_FLOAT32[dtype] if in_float32 else None)
    logits = torch.randn(2, 1, 9, 7, dtype=dtype)
    target = torch.randint(2, logits.shape)
    for options in ({}, {"weight": torch.tensor([3.0])}):
        mine, other = both("DiceCELoss", reduction=reduction, sigmoid=True, **options)
        assert_same(mine, other, logits, target.double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_dice_focal(reduction: str, dtype: torch.dtype) -> None:
    choices: list[dict[str, Any]] = [
        {"sigmoid": True},
        {"softmax": True, "gamma": 1.5},
        {"softmax": True, "weight": [0.5, 1.0, 2.0, 0.25], "alpha": 0.3, "lambda_focal": 2.0},
        {"sigmoid": True, "weight": [1.0, 2.0, 0.25], "include_background": False},
        {"sigmoid": True, "alpha": 1.0},
    ]
    for options, onehot in itertools.product(choices, (True, False)):
        logits, target = problem(SHAPES["2-D"], dtype, onehot)
        mine, other = both("DiceFocalLoss", reduction=reduction, to_onehot_y=not onehot, **options)
        assert_same(mine, other, logits, target, rtol=IN_FLOAT32[dtype])


def test_all_ignored_and_half_precision() -> None:
    """MONAI's smoothed 0 / 0 is 1 and the loss 0; its sums overflow beyond 65504."""
    logits = torch.randn(1, C, 5, 5, requires_grad=True)
    target = torch.full((1, 1, 5, 5), IGNORED)
    for name in ("DiceLoss", "TverskyLoss"):
        mine, other = both(name, softmax=True, to_onehot_y=True, ignore_index=IGNORED)
        value = mine(logits, target)
        assert value == other(logits, target) == 0
        assert (torch.autograd.grad(value, logits)[0] == 0).all()
    logits, target = torch.zeros(1, 2, 320, 320).half(), torch.zeros(1, 1, 320, 320)
    logits[:, 0] = 2  # p = 0.88 of 102400 pixels
    mine, other = both("DiceLoss", softmax=True, to_onehot_y=True)
    expected = other(logits.double(), target)
    torch.testing.assert_close(mine(logits, target).double(), expected, rtol=1e-6, atol=0)
    assert other(logits, target).item() > 1.5 * expected.item()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at most one"):
        monai.DiceLoss(sigmoid=True, softmax=True)
    with pytest.raises(ValueError, match="not be negative"):
        monai.DiceLoss(weight=[1.0, -1.0])
    with pytest.raises(ValueError, match="lambda_ce must not be negative"):
        monai.DiceCELoss(lambda_ce=-1.0)
    with pytest.raises(ValueError, match="reduction must be one of mean, sum"):
        monai.DiceCELoss(reduction="none")
    with pytest.raises(ValueError, match="one channel of labels"):
        monai.DiceCELoss(softmax=True)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4))
    x, y, mask = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4).long(), torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="mask must hold 0 and 1"):
        monai.MaskedDiceLoss(softmax=True, to_onehot_y=True)(x, y, 0.5 * mask)
    with pytest.raises(ValueError, match=r"mask must have shape \[1, 1, 4, 4\]"):
        monai.MaskedDiceLoss(softmax=True, to_onehot_y=True)(x, y, mask[0])
    with pytest.raises(ValueError, match="weight must be one number, or 3"):
        monai.FocalLoss(to_onehot_y=True, weight=[1.0, 2.0])(x, y)
    with pytest.raises(ValueError, match="alpha must be in"):
        monai.FocalLoss(alpha=1.5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masked_dice(dtype: torch.dtype) -> None:
    """With labels the masked pixels count as labelled with class 0, as in MONAI."""
    for onehot, options in itertools.product(
        (True, False), ({}, {"squared_pred": True}, {"include_background": False, "jaccard": True})
    ):
        logits, target = problem(SHAPES["2-D"], dtype, onehot)
        for batch in (1, len(logits)):
            mask = torch.rand(batch, 1, *logits.shape[2:]) < 0.7
            options = {"to_onehot_y": not onehot, "softmax": True, **options}
            mine, other = both("MaskedDiceLoss", **options)
            in_float32 = options.get("squared_pred") and not onehot
            rtol = IN_FLOAT32[dtype] if in_float32 else None
            assert_same(mine, other, logits, target, mask.long(), rtol=rtol)
