"""segfast.compat.smp equals segmentation_models_pytorch: losses and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from compat_cases import DTYPES, IGNORED, SHAPE, assert_same, labels, original
from torch import Tensor

from segfast.compat import smp

pytestmark = pytest.mark.compat
theirs = original("segmentation_models_pytorch.losses", "segmentation-models-pytorch")

C = SHAPE[1]
WEIGHTS = [0.5, 1.0, 2.0, 0.25, 3.0]
REGIONS: dict[str, dict[str, Any]] = {
    "DiceLoss": {},
    "JaccardLoss": {},
    "TverskyLoss": {"alpha": 0.3, "beta": 0.8, "gamma": 0.75},
}


def problem(mode: str, ignored: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits, and a target in which class 4 is absent and, if any, all of one image ignored."""
    if mode == "multiclass":
        return 2 * torch.randn(SHAPE, dtype=dtype), labels(C, ignored)
    channels = 1 if mode == "binary" else C
    logits = 2 * torch.randn(SHAPE[0], channels, *SHAPE[2:], dtype=dtype)
    target = torch.randint(2, logits.shape)
    if mode == "multilabel":
        target[:, 4] = 0
    if ignored is not None:
        target[torch.rand(target.shape) < 0.2] = ignored
        target[-1] = ignored
    return logits, target


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("name", REGIONS)
def test_region_losses(name: str, mode: str, dtype: torch.dtype) -> None:
    choices: list[dict[str, Any]] = [{}, {"smooth": 1.0}, {"log_loss": True, "smooth": 0.5}]
    if mode != "binary":
        choices += [{"class_weights": WEIGHTS}, {"classes": [1, 4]}]
        choices += [{"class_weights": WEIGHTS, "classes": [0, 2, 3], "eps": 1e-3}]
    for options, ignored in itertools.product(choices, (None, IGNORED)):
        options = {**options, **REGIONS[name], "ignore_index": ignored}
        logits, target = problem(mode, ignored, dtype)
        mine, other = (getattr(m, name)(mode, **options) for m in (smp, theirs))
        assert_same(mine, other, logits, target)
        if mode == "multilabel":
            continue
        other_form = target.squeeze(1) if mode == "binary" else target.unsqueeze(1)
        torch.testing.assert_close(mine(logits, other_form), mine(logits, target), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
@pytest.mark.parametrize("name", REGIONS)
def test_soft_targets(name: str, mode: str) -> None:
    """smp's intersection of soft targets is that of the smaller of the two."""
    for dtype in DTYPES:
        logits, _ = problem(mode, None, dtype)
        target = torch.rand(logits.shape, dtype=torch.float64)
        mine, other = (getattr(m, name)(mode, **REGIONS[name]) for m in (smp, theirs))
        assert_same(mine, other, logits, target)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_probabilities(mode: str) -> None:
    logits, target = problem(mode, IGNORED, torch.float64)
    p = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    for name, options in REGIONS.items():
        mine, other = (
            getattr(m, name)(mode, from_logits=False, ignore_index=IGNORED, **options)
            for m in (smp, theirs)
        )
        assert_same(mine, other, p, target)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_focal_loss(mode: str, dtype: torch.dtype) -> None:
    choices: list[dict[str, Any]] = [
        {},
        {"alpha": 0.3, "gamma": 1.5},
        {"reduction": "sum"},
        {"normalized": True},
        {"reduced_threshold": 0.4},
        {"strict": True},
        {"alpha": 1.0},
    ]
    if mode == "binary":
        choices += [{"reduction": "none"}]
    else:
        choices += [{"class_weights": WEIGHTS}]
    for options in choices:
        # smp fails with ignore_index in mode "multilabel".
        for ignored in (None,) if mode == "multilabel" else (None, IGNORED):
            logits, target = problem(mode, ignored, dtype)
            plain = {key: value for key, value in options.items() if key != "strict"}
            mine = smp.FocalLoss(mode, ignore_index=ignored, **options)
            other = theirs.FocalLoss(mode, ignore_index=ignored, **plain)
            assert_same(mine, other, logits, target)


def test_focal_loss_of_probabilities_and_soft_targets() -> None:
    logits, target = problem("binary", None, torch.float64)
    for options in ({}, {"alpha": 0.25}):
        mine = smp.FocalLoss("binary", from_logits=False, **options)
        other = theirs.FocalLoss("binary", from_logits=False, **options)
        assert_same(mine, other, logits.sigmoid(), target)
    soft = torch.rand(logits.shape, dtype=torch.float64)
    assert_same(smp.FocalLoss("binary", strict=True), theirs.FocalLoss("binary"), logits, soft)


def test_focal_loss_where_smp_fails() -> None:
    """ignore_index in mode "multilabel": the mean over the counted terms."""
    logits, target = problem("multilabel", IGNORED, torch.float64)
    kept = target != IGNORED
    expected = theirs.FocalLoss("binary")(logits[kept], target[kept])
    actual = smp.FocalLoss("multilabel", ignore_index=IGNORED)(logits, target)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_soft_cross_entropy(reduction: str, dtype: torch.dtype) -> None:
    for smoothing, ignored in itertools.product((0.0, 0.1), (None, -100, IGNORED)):
        logits, target = problem("multiclass", ignored, dtype)
        options = {"reduction": reduction, "smooth_factor": smoothing, "ignore_index": ignored}
        mine, other = (m.SoftCrossEntropyLoss(**options) for m in (smp, theirs))
        if ignored is None and reduction == "none":  # smp keeps a dimension here
            assert_same(mine, lambda *args, f=other: f(*args).squeeze(1), logits, target)
        else:
            assert_same(mine, other, logits, target)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_soft_bce(reduction: str, dtype: torch.dtype) -> None:
    per_class = torch.tensor(WEIGHTS, dtype=torch.float64)[:, None, None]
    choices: list[dict[str, Any]] = [
        {},
        {"smooth_factor": 0.1},
        {"pos_weight": torch.tensor([2.5])},
        {"pos_weight": per_class, "weight": per_class.flip(0)},
        {"weight": torch.rand(SHAPE[2:], dtype=torch.float64)},
    ]
    for options, ignored in itertools.product(choices, (None, -100)):
        logits, target = problem("multilabel", ignored, dtype)
        options = {"ignore_index": ignored, "reduction": reduction, **options}
        mine, other = (m.SoftBCEWithLogitsLoss(**options) for m in (smp, theirs))
        assert_same(mine.to(dtype), other, logits, target.double())
    flat = logits[:, 0]  # [N, H, W]
    soft = flat.sigmoid().flip(0)
    assert_same(smp.SoftBCEWithLogitsLoss(), theirs.SoftBCEWithLogitsLoss(), flat, soft)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_lovasz(mode: str, dtype: torch.dtype) -> None:
    for per_image, ignored in itertools.product((False, True), (None, IGNORED)):
        logits, target = problem(mode, ignored, dtype)
        if per_image and ignored is not None:  # smp fails where all of an image is ignored
            logits, target = logits[:-1], target[:-1]
        mine, other = (m.LovaszLoss(mode, per_image, ignored) for m in (smp, theirs))
        in_float32 = lambda x, y, f=other: f(x.float(), y).double()  # noqa: E731
        # smp takes float32 alone, and its gradients are differences of numbers near 1.
        assert_same(mine, in_float32, logits, target, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mcc(dtype: torch.dtype) -> None:
    logits, target = problem("binary", None, dtype)
    p = logits.sigmoid()
    assert_same(smp.MCCLoss(), theirs.MCCLoss(), p, target)
    assert_same(smp.MCCLoss(1.0), theirs.MCCLoss(1.0), p.squeeze(1), target)


def test_all_ignored() -> None:
    """0 with gradient 0, where smp's focal loss is NaN and the weighted ones divide by 0."""
    logits = torch.randn(SHAPE, requires_grad=True)
    target = torch.full((SHAPE[0], *SHAPE[2:]), IGNORED)
    for loss in (
        smp.DiceLoss("multiclass", ignore_index=IGNORED),
        smp.TverskyLoss("multiclass", ignore_index=IGNORED, gamma=0.5),
        smp.JaccardLoss("multiclass", ignore_index=IGNORED, class_weights=[0.0] * C),
        smp.FocalLoss("multiclass", ignore_index=IGNORED),
        smp.FocalLoss("multiclass", ignore_index=IGNORED, strict=True),
        smp.SoftCrossEntropyLoss(ignore_index=IGNORED),
        smp.LovaszLoss("multiclass", ignore_index=IGNORED),
        smp.LovaszLoss("multiclass", True, ignore_index=IGNORED),
    ):
        value = loss(logits, target)
        (grad,) = torch.autograd.grad(value, logits)
        assert value == 0 and (grad == 0).all()
    assert theirs.FocalLoss("multiclass", ignore_index=IGNORED)(logits, target).isnan()


def test_half_precision_where_smp_is_nan() -> None:
    """Sums beyond 65504."""
    logits = torch.randn(1, 2, 320, 320).half()
    target = torch.zeros(1, 320, 320, dtype=torch.long)
    x = logits.clone().requires_grad_()
    value = smp.DiceLoss("multiclass")(x, target)
    (grad,) = torch.autograd.grad(value, x)
    expected = theirs.DiceLoss("multiclass")(logits.double(), target)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    assert grad.dtype == torch.float16 and grad.isfinite().all()
    assert not theirs.DiceLoss("multiclass")(logits, target).isfinite() or (
        abs(theirs.DiceLoss("multiclass")(logits, target).item() - expected.item()) > 1e-4
    )


def test_compiles_whole() -> None:
    torch._dynamo.reset()
    logits, target = problem("multiclass", IGNORED, torch.float32)
    logits.requires_grad_()
    loss = smp.DiceLoss("multiclass", ignore_index=IGNORED, class_weights=WEIGHTS)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(logits, target), loss(logits, target)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, logits), torch.autograd.grad(expected, logits)
    )


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="mode must be one of"):
        smp.DiceLoss("softmax")
    with pytest.raises(ValueError, match="one class of 'binary'"):
        smp.DiceLoss("binary", classes=[0])
    with pytest.raises(ValueError, match="dim must be 1"):
        smp.SoftCrossEntropyLoss(dim=-1)
    with pytest.raises(IndexError, match="labels 0 to 4"):
        smp.DiceLoss("multiclass")(torch.zeros(SHAPE), labels())
