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
    for name in ("overlap_stats", "overlap_loss"):
        function = getattr(_common, name)

        def counting(*args: Any, function: Any = function, **options: Any) -> Any:
            calls.append(function)
            return function(*args, **options)

        monkeypatch.setattr(_common, name, counting)
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


def losses_of_labels() -> dict[str, tuple[Any, bool]]:
    """Every loss of labels, and whether these have a channel."""
    labels_and_softmax = {"to_onehot_y": True, "softmax": True}
    plain = {
        "smp Dice": smp.DiceLoss("multiclass", class_weights=[1.0] * C),
        "smp Jaccard": smp.JaccardLoss("multiclass"),
        "smp Tversky": smp.TverskyLoss("multiclass", gamma=0.5),
        "smp focal": smp.FocalLoss("multiclass"),
        "smp focal, plain": smp.FocalLoss("multiclass", strict=True),
        "smp cross-entropy": smp.SoftCrossEntropyLoss(smooth_factor=0.1),
        "smp Lovasz": smp.LovaszLoss("multiclass"),
        "kornia Dice": kornia.DiceLoss(),
        "kornia Dice, macro": kornia.DiceLoss("macro"),
        "kornia Tversky": kornia.TverskyLoss(0.5, 0.5),
        "kornia focal": kornia.FocalLoss(0.5, reduction="mean"),
        "kornia focal, map": kornia.FocalLoss(0.5),
        "kornia Lovasz": kornia.LovaszSoftmaxLoss(),
        "fastai": fastai.DiceLoss(),
        "mmseg Dice": mmseg.DiceLoss(use_sigmoid=False),
        "mmseg Tversky": mmseg.TverskyLoss(),
        "keras sigmoid": keras.binary_focal_jaccard_loss,
        "keras softmax": keras.categorical_focal_dice_loss,
        "keras, some classes": keras.CategoricalCELoss(class_indexes=[0, 1]),
    }
    with_channel = {
        "monai Dice": monai.DiceLoss(**labels_and_softmax),
        "monai Tversky": monai.TverskyLoss(**labels_and_softmax),
        "monai generalised Dice": monai.GeneralizedDiceLoss(**labels_and_softmax),
        "monai MCC": monai.MCCLoss(**labels_and_softmax),
        "monai Dice + CE": monai.DiceCELoss(**labels_and_softmax),
        "monai Dice + focal": monai.DiceFocalLoss(to_onehot_y=True, sigmoid=True),
        "monai generalised + focal": monai.GeneralizedDiceFocalLoss(**labels_and_softmax),
        "monai focal": monai.FocalLoss(to_onehot_y=True),
        "monai focal, map": monai.FocalLoss(to_onehot_y=True, reduction="none"),
        "monai softmax focal": monai.FocalLoss(to_onehot_y=True, use_softmax=True),
        "nnunet Dice": nnunet.SoftDiceLoss(nnunet.softmax_helper_dim1, ddp=False),
        "nnunet Dice + CE": nnunet.DC_and_CE_loss({"ddp": False}, {}),
        "nnunet Dice + top k": nnunet.DC_and_topk_loss({"ddp": False}, {}),
    }
    return {
        **{name: (loss, False) for name, loss in plain.items()},
        **{name: (loss, True) for name, loss in with_channel.items()},
    }


LABELLED = losses_of_labels()


@pytest.mark.parametrize("name", LABELLED)
def test_bad_input(name: str) -> None:
    """A sentence, a finite number of nothing, or NaN of NaN: never a silent wrong number."""
    loss, with_channel = LABELLED[name]

    def call(x: Tensor, y: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        value: Tensor = loss(x, y.unsqueeze(1) if with_channel else y).sum()
        (grad,) = torch.autograd.grad(value, x)
        assert grad.shape == x.shape and (grad.isfinite().all() or x.isnan().any())
        return value

    x, y = torch.randn(2, C, 3, 4), torch.randint(C, (2, 3, 4))
    for bad in (y + C, y - C):
        with pytest.raises(
            IndexError, match=r"target must hold labels 0 to 4.* but holds labels from"
        ):
            call(x, bad)
    with pytest.raises((ValueError, TypeError), match="whole numbers|integer labels"):
        call(x, y + 0.5)
    with pytest.raises(ValueError, match=r"target must have shape \[2, 3, 4\]"):
        call(x, y[:, :2])
    assert call(x[:, :, :0], y[:, :0]).isfinite()
    assert call(x[:0], y[:0]).isfinite()
    assert call(x.index_fill(1, torch.tensor([1]), torch.nan), y).isnan()
    for half in (torch.float16, torch.bfloat16):
        assert call((1e4 * x).to(half), y).isfinite()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("fastai", "kornia focal") else pytest.mark.nightly)
        for name in LABELLED
    ],
)
def test_compiles_whole(name: str) -> None:
    torch._dynamo.reset()
    loss, with_channel = LABELLED[name]
    x, y = torch.randn(2, C, 3, 4, requires_grad=True), torch.randint(C, (2, 3, 4))
    y = y.unsqueeze(1) if with_channel else y
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(x, y), loss(x, y)
    torch.testing.assert_close(actual, expected)
    grads = [torch.autograd.grad(value.sum(), x) for value in (actual, expected)]
    torch.testing.assert_close(*grads)


def test_negative_weights_are_refused() -> None:
    bad = [-1.0] + [1.0] * (C - 1)
    x, y = torch.randn(SHAPE), labels(C, None)
    tensor = torch.tensor(bad)
    calls: list[Callable[[], Any]] = [
        lambda: smp.DiceLoss("multiclass", class_weights=bad),
        lambda: smp.FocalLoss("multiclass", class_weights=bad),
        lambda: monai.DiceLoss(weight=bad),
        lambda: monai.FocalLoss(weight=bad),
        lambda: monai.GeneralizedDiceFocalLoss(weight=bad),
        lambda: nnunet.DC_and_CE_loss({"ddp": False}, {"weight": tensor})(x, y.unsqueeze(1)),
        lambda: kornia.DiceLoss(weight=tensor)(x, y),
        lambda: kornia.FocalLoss(None, weight=tensor)(x, y),
        lambda: kornia.LovaszSoftmaxLoss(weight=tensor)(x, y),
        lambda: mmseg.TverskyLoss(class_weight=bad),
        lambda: keras.JaccardLoss(class_weights=bad),
        lambda: keras.CategoricalCELoss(class_weights=bad),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="negative"):
            call()


def test_kornias_focal_loss_of_one_channel_names_the_other() -> None:
    x, y = torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
    for reduction in ("none", "mean"):
        with pytest.raises(ValueError, match="no softmax; use binary_focal_loss_with_logits"):
            kornia.focal_loss(x, y, None, reduction=reduction)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_focal_loss_without_doubt_has_a_slope(reduction: str) -> None:
    """1 - p is 0 there, whose root has none."""
    x = torch.tensor([200.0, 0.0, 0.0]).reshape(1, 3, 1, 1).requires_grad_()
    y = torch.zeros(1, 1, 1, dtype=torch.long)
    loss = kornia.focal_loss(x, y, None, gamma=0.5, reduction=reduction).sum()
    assert loss == 0 and torch.autograd.grad(loss, x)[0].isfinite().all()


def test_nnunets_top_k_is_a_pixel_at_least() -> None:
    x, y = torch.randn(1, C, 3, 4), torch.randint(C, (1, 1, 3, 4))
    each = torch.nn.functional.cross_entropy(x, y[:, 0], reduction="none").flatten()
    torch.testing.assert_close(nnunet.TopKLoss(k=1)(x, y), each.max())
    y[..., 0, 0] = C + 2
    options = {"weight_dice": 0, "ignore_label": C + 2}
    loss = nnunet.DC_and_topk_loss({"ddp": False}, {"k": 100}, **options)
    torch.testing.assert_close(loss(x, y), each[1:].sum() / 12)


def test_monais_mcc_of_one_kind_of_error_is_not_perfect() -> None:
    x = torch.zeros(1, 1, 3, 4)
    for y in (torch.zeros_like(x), torch.ones_like(x)):  # nothing is missed, nothing is invented
        assert monai.MCCLoss(sigmoid=True)(x, y) == 1
        assert monai.MCCLoss()(y, y) == 0


def test_weights_are_copied() -> None:
    given = torch.ones(C)
    losses = [
        smp.DiceLoss("multiclass", class_weights=given),
        monai.DiceCELoss(weight=given),
        mmseg.TverskyLoss(class_weight=given),
        keras.JaccardLoss(class_weights=given),
    ]
    given.zero_()
    assert all(bool(weights.all()) for loss in losses for weights in loss.buffers())


@pytest.mark.parametrize("name", ["smp", "monai, Dice + focal"])
def test_memory_of_a_compiled_loss_is_the_gradient(name: str) -> None:
    """Compiled too, the graph holds nothing of the image's size but its gradient."""
    torch._dynamo.reset()
    loss, _, with_channel = CASES[name]
    logits = torch.randn(1, 8, 256, 256, requires_grad=True)
    target = torch.randint(8, (1, 1, 256, 256) if with_channel else (1, 256, 256))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    compiled(logits, target).backward()  # compiles
    logits.grad = None
    peak = peak_bytes(lambda: compiled(logits, target).backward(), logits.device)
    assert logits.nbytes <= peak <= 1.01 * logits.nbytes
