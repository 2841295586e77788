"""segfast.compat.keras against segmentation_models' formulas, written plainly: it needs Keras;
test_compat_random.py runs its own formulas in torch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from compat_cases import DTYPES, SHAPE, assert_same, labels
from torch import Tensor
from torch.nn import functional as nnf

from segfast.compat import keras

C = SHAPE[1]
WEIGHTS = [0.5, 1.0, 2.0, 0.25, 3.0]


def probabilities(logits: Tensor, activation: str) -> Tensor:
    return logits.sigmoid() if activation == "sigmoid" else logits.softmax(1)


def onehot(target: Tensor) -> Tensor:
    return nnf.one_hot(target, C).movedim(-1, 1).double()


def score(
    name: str,
    p: Tensor,
    t: Tensor,
    class_weights: list[float] | None = None,
    class_indexes: list[int] | None = None,
    per_image: bool = False,
    smooth: float = 1e-5,
    beta: float = 1.0,
) -> Tensor:
    """Keras' average: over images first, then classes times weights, which are not divided by."""
    if class_indexes is not None:
        p, t = p[:, class_indexes], t[:, class_indexes]
    axes = (2, 3) if per_image else (0, 2, 3)
    tp = (p * t).sum(axes)
    fp, fn = p.sum(axes) - tp, t.sum(axes) - tp
    if name == "JaccardLoss":
        each = (tp + smooth) / (tp + fp + fn + smooth)
    else:
        square = beta**2
        each = ((1 + square) * tp + smooth) / ((1 + square) * tp + square * fn + fp + smooth)
    if per_image:
        each = each.mean(0)
    return (each * torch.tensor(class_weights or [1.0], dtype=each.dtype)).mean()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("name", ["JaccardLoss", "DiceLoss"])
def test_region_losses(name: str, activation: str, dtype: torch.dtype) -> None:
    choices: list[dict[str, Any]] = [
        {},
        {"class_weights": WEIGHTS, "smooth": 1.0},
        {"class_indexes": [1, 4], "class_weights": [2.0, 0.5]},
    ]
    if name == "DiceLoss":
        choices += [{"beta": 2.0}]
    for options, per_image in itertools.product(choices, (False, True)):
        options = {**options, "per_image": per_image}
        logits, target = 2 * torch.randn(SHAPE, dtype=dtype), labels(C, None)

        def formula(x: Tensor, y: Tensor, options: dict[str, Any] = options) -> Tensor:
            y = y if y.dim() == x.dim() else onehot(y)
            return 1 - score(name, probabilities(x, activation), y, **options)

        loss = getattr(keras, name)(activation=activation, **options)
        assert_same(loss, formula, logits, target)
        assert_same(loss, formula, logits, onehot(target))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_of_losses(dtype: torch.dtype) -> None:
    logits, target = 2 * torch.randn(SHAPE, dtype=dtype), labels(C, None)

    def binary(x: Tensor, y: Tensor) -> Tensor:
        return nnf.binary_cross_entropy(x.sigmoid(), onehot(y))

    def categorical(x: Tensor, y: Tensor, w: list[float] | None = None) -> Tensor:
        weight = torch.tensor(w or [1.0], dtype=x.dtype).view(-1, 1, 1)
        return -(weight * onehot(y) * x.softmax(1).log()).mean()

    def dice(x: Tensor, y: Tensor, activation: str) -> Tensor:
        return 1 - score("DiceLoss", probabilities(x, activation), onehot(y))

    assert_same(keras.BinaryCELoss(), binary, logits, target)
    assert_same(
        keras.CategoricalCELoss(WEIGHTS), lambda x, y: categorical(x, y, WEIGHTS), logits, target
    )
    assert_same(
        keras.bce_dice_loss, lambda x, y: binary(x, y) + dice(x, y, "sigmoid"), logits, target
    )
    total = 0.5 * (keras.CategoricalCELoss() + keras.DiceLoss(activation="softmax") * 3)
    assert_same(
        total, lambda x, y: 0.5 * categorical(x, y) + 1.5 * dice(x, y, "softmax"), logits, target
    )


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="activation must be one of"):
        keras.DiceLoss(activation="linear")
    with pytest.raises(ValueError, match="one activation"):
        keras.CategoricalCELoss() + keras.JaccardLoss()
    with pytest.raises(ValueError, match="at most one cross-entropy"):
        keras.BinaryCELoss() + keras.bce_dice_loss
    with pytest.raises(ValueError, match="alpha must be in"):
        keras.BinaryFocalLoss(alpha=1.0)
    with pytest.raises(ValueError, match="class_indexes must be of 5 classes"):
        keras.CategoricalCELoss(class_indexes=[5])(torch.zeros(SHAPE), labels(C, None))
