"""Losses: their formulas in plain PyTorch, their options, sums over ranks, torch.compile."""

from __future__ import annotations

import functools
import inspect
import itertools
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from segfast import losses as L
from segfast.bench.memory import peak_bytes
from segfast.losses import _base as losses_base

EXACT = {"rtol": 1e-11, "atol": 1e-12}
IGNORED = 255
C = 4

# The module: the package's name of it is the function.
functional_module = sys.modules["segfast.functional.overlap_stats"]


def problem(mode: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits and labels of three images, in which class 3 is absent; the last one has no label."""
    channels = 1 if mode == "binary" else C
    logits = torch.randn(3, channels, 6, 7, dtype=dtype, requires_grad=True)
    labels = torch.randint(2 if mode == "binary" else C - 1, (3, 6, 7))
    labels[torch.rand(labels.shape) < 0.2] = IGNORED
    labels[2] = IGNORED
    return logits, labels


def sums(logits: Tensor, labels: Tensor, mode: str, reduce: str, q: int = 1) -> list[Tensor]:
    """I, P, T, V [G, C] the long way."""
    counts = (labels != IGNORED).unsqueeze(1).to(logits.dtype)
    kept = labels.masked_fill(labels == IGNORED, 0)
    target = kept.unsqueeze(1) if mode == "binary" else nnf.one_hot(kept, C).movedim(-1, 1)
    target = target * counts
    p = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    p = p * counts
    result = [p * target, p**q, target, counts.expand_as(p)]
    axes = (2, 3) if reduce == "sample" else (0, 2, 3)
    return [x.sum(axes).reshape(-1, p.shape[1]) for x in result]


def mean_of_present(loss: Tensor, target: Tensor) -> Tensor:
    present = (target > 0).to(loss.dtype)
    return (loss * present).sum() / present.sum()


def tversky(i: Tensor, p: Tensor, t: Tensor, a: float, b: float, s: float = 1e-5) -> Tensor:
    return (i + s) / (i + a * (p - i) + b * (t - i) + s)


def mcc(i: Tensor, p: Tensor, t: Tensor, v: Tensor, s: float = 1e-5) -> Tensor:
    tp, fp, fn = i, p - i, t - i
    tn = v - tp - fp - fn
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).clamp(min=1e-12).sqrt()
    return (tp * tn - fp * fn + s) / (root + s)


REGIONS: dict[str, tuple[Callable[..., L.RegionLoss], Callable[..., Tensor]]] = {
    "Dice": (L.DiceLoss, lambda i, p, t, v: 1 - (2 * i + 1e-5) / (p + t + 1e-5)),
    "Jaccard": (L.JaccardLoss, lambda i, p, t, v: 1 - tversky(i, p, t, 1, 1)),
    "Tversky": (
        functools.partial(L.TverskyLoss, alpha=0.2, beta=0.9),
        lambda i, p, t, v: 1 - tversky(i, p, t, 0.2, 0.9),
    ),
    "FocalTversky": (
        L.FocalTverskyLoss,
        lambda i, p, t, v: (1 - tversky(i, p, t, 0.3, 0.7)).clamp(min=1e-12) ** 0.75,
    ),
    "FBeta": (
        functools.partial(L.FBetaLoss, beta=2.0),
        lambda i, p, t, v: 1 - (5 * i + 1e-5) / (4 * t + p + 1e-5),
    ),
    "MCC": (L.MCCLoss, lambda i, p, t, v: 1 - mcc(i, p, t, v)),
}


def same_loss_and_gradient(actual: Tensor, expected: Tensor, logits: Tensor) -> None:
    torch.testing.assert_close(actual, expected, **EXACT)
    (mine,) = torch.autograd.grad(actual, logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(mine, theirs, **EXACT)


@pytest.mark.parametrize("mode", ["multiclass", "binary", "multilabel"])
@pytest.mark.parametrize("reduce", ["batch", "sample"])
@pytest.mark.parametrize("name", REGIONS)
def test_region_losses(name: str, mode: str, reduce: str) -> None:
    build, formula = REGIONS[name]
    logits, labels = problem(mode)
    i, p, t, v = sums(logits, labels, mode, reduce)
    expected = mean_of_present(formula(i, p, t, v), t)
    loss = build(mode, ignore_index=IGNORED, reduce=reduce)
    same_loss_and_gradient(loss(logits, labels), expected, logits)


@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
@pytest.mark.parametrize("empty", ["skip", "include"])
@pytest.mark.parametrize("class_weight", [None, [1.0, 0.5, 2.0, 3.0]])
def test_generalized_dice(weighting: str, empty: str, class_weight: list[float] | None) -> None:
    logits, labels = problem("multiclass")
    i, p, t, _ = sums(logits, labels, "multiclass", "batch")
    w = {"square": 1 / t**2, "simple": 1 / t, "uniform": torch.ones_like(t)}[weighting]
    w = w.masked_fill(t == 0, 0)
    if empty == "include":
        w = w.where(t > 0, w.max())
    w = w * torch.tensor(class_weight or 4 * [1.0]).double()
    w = w / w.sum()
    expected = 1 - (2 * (w * i).sum() + 1e-5) / ((w * (p + t)).sum() + 1e-5)
    loss = L.GeneralizedDiceLoss(
        ignore_index=IGNORED, weighting=weighting, empty=empty, class_weight=class_weight
    )
    same_loss_and_gradient(loss(logits, labels), expected, logits)


@pytest.mark.parametrize("empty", ["skip", "zero", "one", "include"])
@pytest.mark.parametrize("link", ["linear", "negative", "log"])
@pytest.mark.parametrize("include_background", [True, False])
def test_options_of_region_losses(empty: str, link: str, include_background: bool) -> None:
    logits, labels = problem("multiclass")
    weight = torch.tensor([1.0, 0.5, 2.0, 3.0])
    loss = L.DiceLoss(
        ignore_index=IGNORED,
        empty=empty,
        link=link,
        include_background=include_background,
        class_weight=weight,
        exponent=2,
        smooth=(0.0, 1.0),
        power=2.0 if link == "linear" else 1.0,
    )
    i, p, t, _ = sums(logits, labels, "multiclass", "batch", q=2)
    score = 2 * i / (p + t + 1.0)
    each = {"linear": (1 - score) ** 2, "negative": -score, "log": -score.clamp(min=1e-7).log()}[
        link
    ]
    w = weight.double().expand_as(each)
    if empty in ("zero", "one"):
        each = each.where(t > 0, 1.0 if empty == "one" else 0.0)
    elif empty == "skip":
        w = w * (t > 0)
    start = 0 if include_background else 1
    each, w = each[:, start:], w[:, start:]
    same_loss_and_gradient(loss(logits, labels), (each * w).sum() / w.sum(), logits)


def random_region_loss(seed: int) -> tuple[nn.Module, Callable[..., Tensor], Tensor, Tensor]:
    """A loss with every option drawn, its formula, logits and target."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    name = draw.choice(list(REGIONS))
    mode = draw.choice(["multiclass", "binary", "multilabel"])
    channels = 1 if mode == "binary" else C
    background = draw.random() < 0.6 or mode == "binary"
    weight = torch.rand(channels, dtype=torch.float64) + 0.1 if draw.random() < 0.5 else None
    link = draw.choice(["linear", "linear", "negative", "log"])
    smooth = draw.choice([(1e-5, 1e-5), (1.0, 0.5), (0.0, 1.0)])
    options: dict[str, Any] = {
        "ignore_index": IGNORED,
        "reduce": draw.choice(["sample", "batch", "global"]),
        "empty": draw.choice(["skip", "zero", "one", "include"]),
        "reduction": draw.choice(["none", "mean", "sum"]),
        "exponent": 1 if name == "MCC" else draw.choice([1, 2]),
        "smooth": smooth,
        "link": link,
        "class_weight": weight,
        "include_background": background,
    }
    if name != "FocalTversky" and link != "negative":
        options["power"] = draw.choice([1.0, 2.0])
    power = options.get("power", 0.75 if name == "FocalTversky" else 1.0)
    logits, target = problem(mode)
    if mode != "multiclass" and draw.random() < 0.5:  # soft
        target = torch.rand(logits.shape, dtype=torch.float64)
        target[:, -1] *= draw.choice([0, 1])
        target[2] = IGNORED

    def formula(logits: Tensor) -> Tensor:
        kept = target != IGNORED
        p = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
        t, counts = target.masked_fill(~kept, 0), kept
        if t.dim() < p.dim():
            t, counts = t.unsqueeze(1), kept.unsqueeze(1).expand_as(p)
            if mode != "binary":
                t = t == torch.arange(C).view(-1, 1, 1)
        t = (t * counts).double()
        axes = (2, 3) if options["reduce"] == "sample" else (0, 2, 3)
        q = options["exponent"]
        parts = [(x * counts).sum(axes).reshape(-1, channels) for x in (p * t, p**q, t, counts)]
        i, p, t, v = (x[:, 0 if background else 1 :] for x in parts)
        top, bottom = {
            "Dice": (2 * i, p + t),
            "Jaccard": (i, p + t - i),
            "Tversky": (i, i + 0.2 * (p - i) + 0.9 * (t - i)),
            "FocalTversky": (i, i + 0.3 * (p - i) + 0.7 * (t - i)),
            "FBeta": (5 * i, 4 * t + p),
            "MCC": (i * v - p * t, (p * t * (v - p) * (v - t)).clamp(min=1e-12).sqrt()),
        }[name]
        score = (top + smooth[0]) / (bottom + smooth[1])
        if link == "log":
            loss = -score.clamp(min=1e-7).log()
        else:
            loss = -score if link == "negative" else 1 - score
        loss = loss if power == 1 else loss.clamp(min=1e-12) ** power
        if options["empty"] in ("zero", "one"):
            loss = loss.where(t > 0, 1.0 if options["empty"] == "one" else 0.0)
        w = ((t if options["empty"] == "skip" else v) > 0).double()
        if weight is not None:
            w = w * (weight if background else weight[1:])
        if options["reduction"] == "none":
            return loss * w
        total = (loss * w).sum()
        return total if options["reduction"] == "sum" else total / w.sum().clamp(min=1e-300)

    return REGIONS[name][0](mode, **options), formula, logits, target


@pytest.mark.parametrize(
    "seeds", [range(150), pytest.param(range(150, 3000), marks=pytest.mark.nightly)], ids=str
)
def test_all_options_of_region_losses_together(seeds: range) -> None:
    for seed in seeds:
        loss, formula, logits, target = random_region_loss(seed)
        actual, expected = loss(logits, target), formula(logits)
        slope = torch.randn_like(expected)
        try:
            assert actual.shape == expected.shape
            same_loss_and_gradient((actual * slope).sum(), (expected * slope).sum(), logits)
        except AssertionError as error:
            raise AssertionError(f"random_region_loss({seed}): {loss}") from error


def test_reductions() -> None:
    logits, labels = problem("multiclass")
    options = {"ignore_index": IGNORED, "reduce": "sample"}
    each = L.JaccardLoss(reduction="none", **options)(logits, labels)
    assert each.shape == (3, C)
    assert (each[2] == 0).all() and (each[:, 3] == 0).all()  # nothing there: no loss
    total = L.JaccardLoss(reduction="sum", **options)(logits, labels)
    torch.testing.assert_close(total, each.sum(), **EXACT)
    assert L.FocalLoss(reduction="none", **options)(logits, labels).shape == (3,)


def test_pixel_losses_are_torchs() -> None:
    logits, labels = problem("multiclass")
    weight = torch.rand(C).double()
    loss = L.CrossEntropyLoss(ignore_index=IGNORED, class_weight=weight, label_smoothing=0.1)
    expected = nnf.cross_entropy(
        logits, labels, weight.double(), ignore_index=IGNORED, label_smoothing=0.1
    )
    same_loss_and_gradient(loss(logits, labels), expected, logits)

    target = torch.rand(3, C, 6, 7).double()
    pos_weight = torch.rand(C).double()
    loss = L.BCELoss("multilabel", pos_weight=pos_weight)
    expected = nnf.binary_cross_entropy_with_logits(
        logits, target, pos_weight=pos_weight.double()[:, None, None]
    )
    same_loss_and_gradient(loss(logits, target), expected, logits)


def test_focal_loss_is_torchvisions() -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits, _ = problem("multilabel")
    # torchvision weighs soft targets by alpha t + (1 - alpha)(1 - t), so compare with hard ones.
    target = torch.randint(2, logits.shape).double()
    expected = sigmoid_focal_loss(logits, target, alpha=0.3, gamma=1.7, reduction="mean")
    loss = L.FocalLoss("multilabel", alpha=0.3, gamma=1.7)
    same_loss_and_gradient(loss(logits, target), expected, logits)


def test_multiclass_focal_loss() -> None:
    logits, labels = problem("multiclass")
    kept = labels != IGNORED
    log_p = logits.log_softmax(1).movedim(1, -1)[kept]
    log_p = log_p.gather(1, labels[kept, None])
    expected = (-((1 - log_p.exp()) ** 2) * log_p).mean()
    same_loss_and_gradient(L.FocalLoss(ignore_index=IGNORED)(logits, labels), expected, logits)


def jaccard_loss_of_errors(wrong: frozenset[int], positive: set[int]) -> float:
    predicted = positive ^ wrong
    union = positive | predicted
    return 1 - len(positive & predicted) / len(union) if union else 0.0


def lovasz_by_definition(errors: Tensor, positive: set[int]) -> float:
    """The extension of a submodular set function is the largest sum over all orders of its steps
    times the errors (Edmonds)."""
    sums = []
    for order in itertools.permutations(range(len(errors))):
        values = [
            jaccard_loss_of_errors(frozenset(order[:i]), positive) for i in range(len(order) + 1)
        ]
        sums.append(sum(errors[order[i]] * (values[i + 1] - values[i]) for i in range(len(order))))
    return float(max(sums))


def test_lovasz_losses_are_the_extension() -> None:
    """Five counted pixels, in every order; class 3 is absent, and one pixel is ignored."""
    logits = torch.randn(1, C, 6, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 1, 0, 2, IGNORED]])
    p = logits.softmax(1)[0]
    each = []
    for c in range(C):
        positive = {i for i in range(5) if labels[0, i] == c}
        errors = torch.stack([(p[c, i] - float(i in positive)).abs() for i in range(5)])
        each.append(lovasz_by_definition(errors, positive))
    for classes, expected in (
        ("present", sum(each[:3]) / 3),
        ("all", sum(each) / 4),
        ([1, 3], (each[1] + each[3]) / 2),
    ):
        loss = L.LovaszSoftmaxLoss(ignore_index=IGNORED, classes=classes)(logits, labels)
        assert loss.item() == pytest.approx(expected, rel=1e-12)

    labels = (labels == 1).long().masked_fill(labels == IGNORED, IGNORED)
    sign = 2 * labels[0, :5] - 1
    expected = lovasz_by_definition((1 - logits[0, 0, :5] * sign).relu(), {1, 2})
    loss = L.LovaszHingeLoss(ignore_index=IGNORED)(logits[:, :1], labels)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_lovasz_losses_of_images_and_classes() -> None:
    logits, labels = problem("multilabel")
    target = torch.randint(2, logits.shape)
    each = [
        L.LovaszHingeLoss()(logits[n : n + 1, c : c + 1], target[n : n + 1, c])
        for n in range(3)
        for c in range(C)
    ]
    loss = L.LovaszHingeLoss("multilabel", per_image=True)
    same_loss_and_gradient(loss(logits, target), torch.stack(each).mean(), logits)
    loss = L.LovaszSoftmaxLoss(ignore_index=IGNORED, per_image=True)
    alone = [loss(logits[n : n + 1], labels[n : n + 1]) for n in range(3)]
    assert alone[2] == 0  # all ignored
    same_loss_and_gradient(loss(logits, labels), torch.stack(alone).mean(), logits)


@pytest.mark.parametrize("classes", ["all", "present", [1, 3]])
def test_lovasz_losses_weigh_classes(classes: Any) -> None:
    logits, labels = problem("multiclass")  # without class 3
    weight = torch.tensor([1.0, 0.5, 2.0, 3.0]).double()
    chosen = {"all": [0, 1, 2, 3], "present": [0, 1, 2]}.get(str(classes), classes)
    each = [L.LovaszSoftmaxLoss(ignore_index=IGNORED, classes=[c])(logits, labels) for c in chosen]
    expected = (torch.stack(each) * weight[chosen]).sum() / weight[chosen].sum()
    loss = L.LovaszSoftmaxLoss(ignore_index=IGNORED, classes=classes, class_weight=weight)
    same_loss_and_gradient(loss(logits, labels), expected, logits)


@pytest.mark.parametrize("name", ["lovasz_softmax", "lovasz_hinge"])
def test_lovasz_losses_ignore_any_logits(name: str) -> None:
    """As overlap_stats does: NaN where nothing counts has a gradient of 0."""
    logits, labels = problem("multiclass" if name == "lovasz_softmax" else "binary")
    loss = L.create_loss(name, ignore_index=IGNORED)
    ignored = (labels == IGNORED).unsqueeze(1).expand_as(logits)
    spoiled = logits.detach().masked_fill(ignored, torch.nan).requires_grad_()
    value = loss(spoiled, labels)
    assert value == loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, spoiled)
    assert gradient.isfinite().all() and not gradient[ignored].any() and gradient.any()


def test_lovasz_losses_refuse_bad_input() -> None:
    logits, labels = torch.zeros(1, 3, 4), torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(IndexError, match="labels 0 to 2"):
        L.LovaszSoftmaxLoss()(logits, labels + 3)
    with pytest.raises(RuntimeError, match="logits must be float32, float64, .* got torch.int64"):
        L.LovaszSoftmaxLoss()(logits.long(), labels)
    with pytest.raises(ValueError, match="one channel in mode 'binary'"):
        L.LovaszHingeLoss()(logits, labels)
    with pytest.raises(ValueError, match="LovaszHingeLoss"):
        L.LovaszSoftmaxLoss("binary")
    with pytest.raises(ValueError, match="classes must be one of"):
        L.LovaszHingeLoss(classes="some")


@pytest.mark.parametrize("reduce", ["batch", "sample"])
def test_combined_losses_are_sums(reduce: str) -> None:
    options: dict[str, Any] = {"ignore_index": IGNORED, "reduce": reduce}
    weight = torch.rand(C).double()
    logits, labels = problem("multiclass")
    pairs = [
        (
            L.DiceCELoss(factors=(0.3, 2.0), class_weight=weight, exponent=2, **options),
            0.3 * L.DiceLoss(class_weight=weight, exponent=2, **options)(logits, labels)
            + 2.0 * L.CrossEntropyLoss(class_weight=weight, **options)(logits, labels),
        ),
        (
            L.DiceFocalLoss(gamma=1.0, **options),
            L.DiceLoss(**options)(logits, labels)
            + L.FocalLoss(gamma=1.0, **options)(logits, labels),
        ),
    ]
    for loss, expected in pairs:
        same_loss_and_gradient(loss(logits, labels), expected, logits)
    logits, labels = problem("binary")
    three = L.CombinedLoss(
        [
            L.BCELoss(**options),
            L.DiceLoss("binary", link="log", **options),
            L.JaccardLoss("binary", ignore_index=IGNORED),
        ],
        [1.0, 0.5, 0.25],
    )
    expected = (
        L.BCELoss(**options)(logits, labels)
        + 0.5 * L.DiceLoss("binary", link="log", **options)(logits, labels)
        + 0.25 * L.JaccardLoss("binary", ignore_index=IGNORED)(logits, labels)
    )
    same_loss_and_gradient(three(logits, labels), expected, logits)
    both = L.DiceBCELoss(pos_weight=[2.0], **options)
    expected = L.DiceLoss("binary", **options)(logits, labels) + L.BCELoss(
        pos_weight=[2.0], **options
    )(logits, labels)
    same_loss_and_gradient(both(logits, labels), expected, logits)


def test_sums_pass_their_options_on() -> None:
    """To both losses what is for both, and each its own."""
    shared: dict[str, Any] = {"ignore_index": IGNORED, "reduce": "sample", "reduction": "sum"}
    own: list[tuple[Any, Any, str, dict[str, Any]]] = [
        (L.DiceCELoss, L.CrossEntropyLoss, "multiclass", {"label_smoothing": 0.2}),
        (L.DiceBCELoss, L.BCELoss, "multilabel", {"label_smoothing": 0.2, "pos_weight": [3.0]}),
        (L.DiceFocalLoss, L.FocalLoss, "multilabel", {"gamma": 1.5, "alpha": 0.3}),
    ]
    for both, pixel, mode, options in own:
        logits, labels = problem(mode)
        expected = L.DiceLoss(mode, **shared)(logits, labels)
        expected = expected + pixel(mode, **options, **shared)(logits, labels)
        same_loss_and_gradient(both(mode, **options, **shared)(logits, labels), expected, logits)


def test_a_sum_of_losses_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass forward and one backward, however many losses are added up: of C++ where one
    region loss and one pixel loss are."""
    calls: list[str] = []
    for module, name in (
        (losses_base, "overlap_loss"),
        (losses_base, "overlap_stats"),
        (functional_module, "_overlap_stats"),
        (functional_module, "_overlap_stats_backward"),
    ):
        function = getattr(module, name)

        def counting(*args: Any, function: Any = function, name: str = name, **kwargs: Any) -> Any:
            calls.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counting)
    region: dict[str, Any] = {"class_weight": [1.0, 2.0, 0.0, 1.0], "exponent": 2}
    sums: list[nn.Module] = [build(name) for name in L.list_losses() if "lovasz" not in name] + [
        L.CombinedLoss([L.BCELoss("multilabel"), L.DiceLoss("multilabel", link="log")]),
        L.CombinedLoss(
            [
                L.DiceLoss(**region),
                L.FocalLoss(gamma=1.5),
                L.JaccardLoss(reduce="sample", exponent=2),
                L.TverskyLoss(exponent=2, link="log"),
                L.GeneralizedDiceLoss(exponent=2),
            ],
            [1.0, 2.0, 3.0, 4.0, 5.0],
        ),
    ]
    in_steps = ["overlap_stats", "_overlap_stats", "_overlap_stats_backward"]
    for loss in sums:
        logits, labels = problem("multiclass")
        calls.clear()
        loss(logits, labels.masked_fill(labels == IGNORED, 0)).backward()
        fused = not isinstance(loss, (L.GeneralizedDiceLoss, L.MCCLoss)) and loss is not sums[-1]
        assert calls == (["overlap_loss"] if fused else in_steps), loss


def build(name: str, **options: Any) -> nn.Module:
    mode = "multiclass" if "multiclass" in L.loss_modes(name) else "multilabel"
    return L.create_loss(name, mode=mode, **options)


@pytest.mark.parametrize("name", L.list_losses())
def test_modes(name: str) -> None:
    for mode in ("multiclass", "binary", "multilabel"):
        if mode not in L.loss_modes(name):
            with pytest.raises(ValueError, match="mode|for modes"):
                L.create_loss(name, mode=mode)
            continue
        logits, labels = problem(mode)
        assert L.create_loss(name, mode=mode, ignore_index=IGNORED)(logits, labels).isfinite()


@pytest.mark.parametrize("name", L.list_losses())
def test_segfast_train_takes_every_loss(name: str) -> None:
    from segfast.training.run import _build_loss

    logits, labels = problem("multiclass", torch.float32)
    for class_weight in (None, torch.rand(C)):
        value = _build_loss(name, class_weight)(logits, labels)
        (grad,) = torch.autograd.grad(value, logits)
        assert value > 0 and grad.isfinite().all() and (grad != 0).any()


@pytest.mark.parametrize("name", L.list_losses())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_types_and_an_all_ignored_batch(
    device: torch.device, name: str, dtype: torch.dtype
) -> None:
    """float32 out, the gradient in the logits' type, and 0 with zero gradient of nothing."""
    loss = build(name, ignore_index=IGNORED).to(device)
    logits, labels = problem("multiclass", dtype)
    logits = logits.detach().to(device).requires_grad_()
    value = loss(logits, labels.to(device))
    assert value.dtype == torch.float32 and value.shape == () and value.isfinite()
    (grad,) = torch.autograd.grad(value, logits)
    assert grad.dtype == dtype and grad.isfinite().all() and (grad != 0).any()
    value = loss(logits, torch.full_like(labels, IGNORED).to(device))
    (grad,) = torch.autograd.grad(value, logits)
    assert value == 0 and (grad == 0).all()


@pytest.mark.parametrize(("empty", "value"), [("zero", 0.0), ("one", 1.0), ("skip", None)])
def test_absent_classes_of_generalized_dice(empty: str, value: float | None) -> None:
    """Foreground alone, of which the second sample has none."""
    logits, labels = torch.randn(2, 3, 8, dtype=torch.float64), torch.ones(2, 8).long()
    labels[1] = 0
    options: dict[str, Any] = {"reduce": "sample", "include_background": False}
    first = L.GeneralizedDiceLoss(**options)(logits[:1], labels[:1])
    loss = L.GeneralizedDiceLoss(empty=empty, **options)(logits, labels)
    torch.testing.assert_close(loss, first if value is None else (first + value) / 2, **EXACT)


@pytest.mark.parametrize("name", L.list_losses())
def test_bad_input(device: torch.device, name: str) -> None:
    """A sentence, the documented value, or NaN of NaN: never a silent wrong number."""
    loss = build(name).to(device)
    logits = torch.randn(2, C, 3, 5, device=device)
    labels = torch.randint(C, (2, 3, 5), device=device)
    with pytest.raises(TypeError, match="integer labels, got"):
        loss(logits, labels.float())
    with pytest.raises(ValueError, match=r"target must have shape \[2, 3, 5\]"):
        loss(logits, labels[:, :2])
    with pytest.raises(ValueError, match="at least one class and 1 to 3 spatial"):
        loss(logits[..., 0, 0], labels[..., 0, 0])
    if "multiclass" in L.loss_modes(name):
        with pytest.raises(ValueError, match="one channel"):
            loss(logits[:, :1], labels)
    if device.type == "cpu":  # on CUDA the device asserts, and is lost for the tests after
        with pytest.raises(IndexError, match="labels 0 to 3, but holds labels from 4 to 4"):
            loss(logits, torch.full_like(labels, 4))
    assert loss(logits.index_fill(3, torch.tensor([0], device=device), torch.nan), labels).isnan()

    nothing = torch.zeros(2, C, 0, 5, device=device, requires_grad=True)
    value = loss(nothing, labels[:, :0])
    assert value == 0 and torch.autograd.grad(value, nothing)[0].shape == nothing.shape

    # Right where the network is sure beyond measure, and a class that it rules out.
    sure = torch.full((1, C, 4), -1e4, device=device)
    sure.scatter_(1, torch.arange(4, device=device).view(1, 1, 4), 1e4)
    each = torch.arange(4, device=device)[None]
    for certain in (sure, sure.masked_fill(sure < 0, -torch.inf)):
        certain = certain.requires_grad_()
        value = loss(certain, each)
        (grad,) = torch.autograd.grad(value, certain)
        assert value.abs() < 1e-4 and grad.isfinite().all()


@pytest.mark.parametrize("name", L.list_losses())
def test_an_ignored_class(name: str) -> None:
    """ignore_index may be a class: its pixels are as if they were not there."""
    logits = torch.randn(2, C, 40, dtype=torch.float64)
    labels = torch.randint(C, (2, 40))
    kept = (labels != 2).nonzero(as_tuple=True)
    cut = [
        x.movedim(1, -1)[kept].T[None] if x.dim() == 3 else x[kept][None] for x in (logits, labels)
    ]
    actual, expected = build(name, ignore_index=2)(logits, labels), build(name)(*cut)
    torch.testing.assert_close(actual, expected, **EXACT)


def test_your_own_ratio() -> None:
    """The lines of the documentation, as they stand there."""
    assert L.__doc__ is not None
    block = L.__doc__.split("::\n\n", 1)[1].split("\n\nSmoothing", 1)[0]
    names: dict[str, Any] = vars(L).copy()
    exec(textwrap.dedent(block), names)
    logits, labels = problem("multiclass")
    i, _, t, _ = sums(logits, labels, "multiclass", "sample")
    expected = mean_of_present(1 - (i + 1e-5) / (t + 1e-5), t)
    same_loss_and_gradient(names["loss"](logits, labels), expected, logits)


COMPILED = ("dice_ce", "focal_tversky", "generalized_dice", "dice_bce", "lovasz_softmax")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in COMPILED else pytest.mark.nightly)
        for name in L.list_losses()
    ],
)
def test_compiles_whole(device: torch.device, name: str) -> None:
    torch._dynamo.reset()
    loss = build(name, ignore_index=IGNORED).to(device)
    logits, labels = problem("multiclass", torch.float32)
    logits, labels = logits.detach().to(device).requires_grad_(), labels.to(device)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(logits, labels), loss(logits, labels)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, logits), torch.autograd.grad(expected, logits)
    )


class ASum(L.CombinedLoss):
    """Of a user's own."""


def test_each_kind_of_loss_has_torch_compiles_graphs_to_itself() -> None:
    """torch.compile gives up on code that was compiled so often: here, once."""
    torch._dynamo.reset()
    logits, labels = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
    kinds = [L.DiceLoss(), L.CrossEntropyLoss(), ASum([L.FocalLoss()])]
    with torch._dynamo.config.patch(recompile_limit=1):
        for loss in kinds:
            torch.compile(loss, fullgraph=True, backend="eager")(logits, labels)
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):  # the limit holds
            torch.compile(L.DiceLoss(smooth=1.0), fullgraph=True, backend="eager")(logits, labels)
    assert all(str(inspect.signature(type(x).forward)).startswith("(self, logits") for x in kinds)


def test_forward_of_your_own_stays() -> None:
    class Halved(L.DiceLoss):
        def forward(self, logits: Tensor, target: Tensor, pixel_weight: Any = None) -> Tensor:
            return super().forward(logits, target, pixel_weight) / 2

    class Renamed(Halved):
        pass

    logits, labels = problem("multiclass")
    halved, whole = (kind(ignore_index=IGNORED)(logits, labels) for kind in (Renamed, L.DiceLoss))
    assert halved == whole / 2 and Renamed.forward is Halved.forward


def test_under_autocast_checkpointing_and_func() -> None:
    loss = L.DiceCELoss()
    layer = nn.Conv2d(3, C, 1)
    images, labels = torch.randn(2, 3, 8, 8), torch.randint(C, (2, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(layer(images), labels)
    assert value.dtype == torch.float32
    value.backward()

    def step(x: Tensor) -> Tensor:
        result: Tensor = loss(layer(x), labels)
        return result

    x = images.clone().requires_grad_()
    (plain,) = torch.autograd.grad(step(x), x)
    checkpointed = torch.utils.checkpoint.checkpoint(step, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(checkpointed, x)[0], plain)
    torch.testing.assert_close(torch.func.grad(step)(images), plain)
    each = torch.vmap(lambda image, label: loss(image[None], label[None]))(layer(images), labels)
    assert each.shape == (2,)


@pytest.mark.parametrize("name", L.list_losses())
def test_under_func_and_vmap(name: str) -> None:
    """torch.func.grad is autograd, and a vmap the losses of single examples; bad labels raise."""
    loss = build(name, ignore_index=IGNORED)
    logits, labels = problem("multiclass")
    (expected,) = torch.autograd.grad(loss(logits, labels), logits)
    actual = torch.func.grad(lambda x: loss(x, labels))(logits.detach())
    torch.testing.assert_close(actual, expected, **EXACT)

    def one(image: Tensor, label: Tensor) -> Tensor:
        result: Tensor = loss(image[None], label[None])
        return result

    values, grads = [], []
    for image, label in zip(logits, labels, strict=True):
        values.append(one(image, label))
        grads.append(torch.autograd.grad(values[-1], image)[0])
    each = torch.vmap(torch.func.grad_and_value(one))(logits.detach(), labels)
    torch.testing.assert_close(each, (torch.stack(grads), torch.stack(values)), **EXACT)
    with pytest.raises(IndexError, match="labels 0 to 3 or ignore_index 255"):
        torch.vmap(one)(logits, labels + 3)


def test_under_a_gradient_scaler() -> None:
    """A scaled loss has scaled gradients, and the unscaled step is that without a scaler."""
    images, labels = torch.randn(2, 3, 8, 8), torch.randint(C, (2, 8, 8))
    grads = []
    for enabled in (False, True):
        torch.manual_seed(1)
        layer = nn.Conv2d(3, C, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=enabled)
        with torch.autocast("cpu", torch.bfloat16):
            loss = L.DiceCELoss()(layer(images), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        grads.append(layer.weight.grad)
    assert scaler.get_scale() == 2.0**16  # no step was skipped
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-2, atol=1e-5)  # bfloat16 logits


@pytest.mark.cuda
@pytest.mark.parametrize("name", L.list_losses())
def test_in_a_cuda_graph(name: str) -> None:
    """Captured once, replayed on other data: nothing waits for the host."""
    options = {"class_weight": torch.rand(C)} if name in ("dice_ce", "dice_bce") else {}
    loss = build(name, ignore_index=IGNORED, **options).cuda()
    logits = torch.randn(2, C, 32, 48, device="cuda", requires_grad=True)
    labels = torch.randint(C, (2, 32, 48), device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        loss(logits, labels).backward()
    torch.cuda.current_stream().wait_stream(side)
    logits.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(logits, labels)
        (grad,) = torch.autograd.grad(value, logits)
    with torch.no_grad():
        logits.copy_(torch.randn_like(logits))
        labels.copy_(torch.randint_like(labels, C)).masked_fill_(labels == 0, IGNORED)
    graph.replay()
    expected = loss(logits, labels)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits)[0], rtol=0, atol=0)


def test_in_lightning(tmp_path: Any) -> None:
    """As the loss and the metric of a LightningModule, which moves, logs and resets them."""
    lightning = pytest.importorskip("lightning", reason="needs lightning: segfast[train]")
    from segfast.metrics import MeanIoU

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, C, 1)
            self.loss = L.DiceFocalLoss(class_weight=[1.0, 2.0, 3.0, 4.0])
            self.iou = MeanIoU(C)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            value: Tensor = self.loss(self.layer(batch[0]), batch[1])
            self.log("loss", value)
            return value

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            self.iou(self.layer(batch[0]), batch[1])
            self.log("iou", self.iou)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 8, 8), torch.randint(C, (4, 8, 8)))
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = Module()
    trainer.fit(module, loader, loader)
    expected = MeanIoU(C)
    expected.update(module.layer(data.tensors[0]), data.tensors[1])
    torch.testing.assert_close(trainer.callback_metrics["iou"].double(), expected.compute())


def test_memory_of_a_loss_is_the_gradient() -> None:
    """Forward and backward of Dice + CE allocate the gradient of the logits and little else."""
    logits = torch.randn(1, 8, 256, 256, requires_grad=True)
    labels = torch.randint(8, (1, 256, 256))
    loss = L.DiceCELoss(ignore_index=IGNORED)
    peak = peak_bytes(lambda: loss(logits, labels).backward(), logits.device)
    assert logits.nbytes <= peak <= 1.01 * logits.nbytes


def test_class_weights_move_with_the_module_and_stay_out_of_its_state() -> None:
    loss = L.DiceCELoss(class_weight=[1, 2, 3, 4])
    assert not loss.state_dict()
    assert len(list(loss.buffers())) == 2
    assert loss.to(torch.bfloat16) is loss


def test_weights_are_copied() -> None:
    given = torch.ones(C, dtype=torch.float64)
    loss = L.DiceBCELoss("multilabel", class_weight=given, pos_weight=given)
    given.zero_()
    assert [bool(weights.all()) for weights in loss.buffers()] == [True] * 3


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "mode": (lambda: L.DiceLoss("softmax"), "mode must be one of"),
    "reduce": (lambda: L.DiceLoss(reduce="rank"), "reduce must be one of"),
    "link": (lambda: L.DiceLoss(link="exp"), "link must be one of"),
    "empty": (lambda: L.DiceLoss(empty="nan"), "empty must be one of"),
    "smooth": (lambda: L.DiceLoss(smooth=-1.0), "smooth must not be negative"),
    "exponent": (lambda: L.DiceLoss(exponent=3), "exponent must be 1 or 2"),
    "negative weights": (lambda: L.DiceLoss(class_weight=[1.0, -1.0]), "not negative"),
    "background of one class": (
        lambda: L.DiceLoss("binary", include_background=False),
        "include_background",
    ),
    "alpha of softmax": (lambda: L.FocalLoss(alpha=0.5), "class_weight"),
    "alpha 0": (lambda: L.FocalLoss("binary", alpha=0.0), "alpha must lie between 0 and 1, got 0"),
    "alpha 1": (lambda: L.FocalLoss("binary", alpha=1.0), "alpha must lie between 0 and 1, got 1"),
    "gamma": (lambda: L.FocalLoss(gamma=-0.5), "gamma must not be negative, got -0.5"),
    "smoothed labels": (
        lambda: L.CrossEntropyLoss(label_smoothing=1.1),
        "label_smoothing must be between 0 and 1, got 1.1",
    ),
    "Tversky": (lambda: L.TverskyLoss(alpha=-1.0), "alpha and beta must not be negative"),
    "F beta": (lambda: L.FBetaLoss(beta=0.0), "beta must be positive, got 0"),
    "weighting": (lambda: L.GeneralizedDiceLoss(weighting="cube"), "weighting must be one of"),
    "exponent of MCC": (lambda: L.MCCLoss(exponent=2), "exponent must be 1 in MCCLoss, got 2"),
    "softmax of BCE": (lambda: L.BCELoss("multiclass"), "use CrossEntropyLoss"),
    "sum of nothing": (lambda: L.CombinedLoss([]), "losses must not be empty"),
    "factors": (lambda: L.CombinedLoss([L.DiceLoss()], [1.0, 2.0]), "factors must be one for each"),
    "sum of vectors": (
        lambda: L.CombinedLoss([L.DiceLoss(reduction="none")]),
        "losses must have reduction 'mean' or 'sum'",
    ),
    "cross-entropy of one channel": (lambda: L.CrossEntropyLoss("binary"), "BCELoss"),
    "two modes": (lambda: L.CombinedLoss([L.DiceLoss(), L.BCELoss()]), "one mode"),
    "two pixel losses": (
        lambda: L.CombinedLoss([L.FocalLoss(), L.CrossEntropyLoss()]),
        "at most one pixel loss",
    ),
    "two exponents": (
        lambda: L.CombinedLoss([L.DiceLoss(), L.DiceLoss(exponent=2)]),
        "one exponent",
    ),
    "unknown name": (lambda: L.create_loss("dise"), "name must be one of"),
    "three smooths": (
        lambda: L.DiceLoss(smooth=(1.0, 2.0, 3.0)),
        "smooth must be one number or two",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_arguments(case: tuple[Callable[[], Any], str]) -> None:
    with pytest.raises(ValueError, match=case[1]):
        case[0]()


NO_NUMBERS: list[tuple[str, Callable[[], Any]]] = [
    ("smooth", lambda: L.DiceLoss(smooth=("2", 0.0))),
    ("power", lambda: L.DiceLoss(power="2")),
    ("alpha", lambda: L.TverskyLoss(alpha="2")),
    ("gamma", lambda: L.FocalTverskyLoss(gamma="2")),
    ("beta", lambda: L.FBetaLoss(beta="2")),
    ("label_smoothing", lambda: L.CrossEntropyLoss(label_smoothing="2")),
    ("gamma", lambda: L.FocalLoss(gamma="2")),
    ("alpha", lambda: L.FocalLoss("binary", alpha="2")),
]


@pytest.mark.parametrize(("option", "make"), NO_NUMBERS)
def test_options_that_are_no_numbers(option: str, make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=f"{option} must be a number, got '2'"):
        make()


def test_ends_of_ranges_are_within() -> None:
    logits, labels = problem("multiclass")
    smoothed = L.CrossEntropyLoss(label_smoothing=1.0, ignore_index=IGNORED)
    expected = nnf.cross_entropy(logits, labels, label_smoothing=1.0, ignore_index=IGNORED)
    same_loss_and_gradient(smoothed(logits, labels), expected, logits)
    unsmoothed = L.DiceLoss(smooth=0.0, ignore_index=IGNORED)(logits, labels)
    plain = L.TverskyLoss(alpha=0.0, beta=0.0, smooth=0.0, ignore_index=IGNORED)(logits, labels)
    assert 0 < unsmoothed < 1 and plain.abs() < 1e-12  # I / I


def test_bad_kinds_of_arguments() -> None:
    for combined in (L.LovaszSoftmaxLoss(), L.DiceCELoss(), nn.CrossEntropyLoss()):
        with pytest.raises(TypeError, match="losses must be region and pixel losses, got"):
            L.CombinedLoss([L.DiceLoss(), combined])  # type: ignore[list-item]
    for make in (L.DiceLoss, L.CrossEntropyLoss, L.LovaszSoftmaxLoss):
        with pytest.raises(TypeError, match="ignore_index must be an int or None, got 255.0"):
            make(ignore_index=255.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("name", ["dice", "mcc", "generalized_dice", "lovasz_softmax"])
def test_weights_of_another_number_of_classes(name: str, include_background: bool) -> None:
    """Of C - 1 classes too: without the background, one that is left would do for all the rest."""
    options = {} if include_background else {"include_background": False}
    if name == "lovasz_softmax":
        options = {}
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    for wrong in ([1.0, 5.0], [1.0, 2.0, 3.0, 4.0]):
        loss = L.create_loss(name, class_weight=wrong, **options)
        with pytest.raises(ValueError, match=r"class_weight must have shape \[3\], got \["):
            loss(logits, labels)
    one, none = (L.create_loss(name, class_weight=w, **options) for w in ([7.0], None))
    torch.testing.assert_close(one(logits, labels), none(logits, labels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32], ids=str)
def test_lovasz_losses_of_any_integer_labels(dtype: torch.dtype) -> None:
    logits, labels = torch.randn(2, C, 4, 5), torch.randint(C, (2, 4, 5))
    labels[:, 0] = IGNORED
    loss = L.LovaszSoftmaxLoss(ignore_index=IGNORED)
    assert loss(logits, labels.to(dtype)) == loss(logits, labels)
    every = (labels.unsqueeze(1) == torch.arange(C).view(-1, 1, 1)).long()
    for ignored in (None, 256, -1):  # no value of the target: 256 is not 0 to a byte
        hinge = L.LovaszHingeLoss("multilabel", ignore_index=ignored)
        assert hinge(logits, every.to(dtype)) == L.LovaszHingeLoss("multilabel")(logits, every)


def test_ranks_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """Two processes, of one and two images, some of whose pixels are ignored."""
    import ranks

    images = torch.randn(3, 2, 6, 7, dtype=torch.float64)
    _, labels = problem("multiclass")
    labels[2, 3:] = 1
    guess = torch.randint(C - 1, labels.shape)
    torch.save((images, labels, guess), tmp_path / "batch")
    processes = [
        subprocess.Popen([sys.executable, ranks.__file__, str(tmp_path), str(rank)])
        for rank in (0, 1)
    ]
    try:
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    expected = ranks.results(images, labels, guess, slice(0, 3), "batch")
    for rank in (0, 1):
        actual = torch.load(tmp_path / f"rank{rank}")
        torch.testing.assert_close(actual, expected, **EXACT)
