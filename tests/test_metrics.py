"""Metrics: torchmetrics' numbers, the tutorials' golden values, every mode and policy."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import (
    BinaryJaccardIndex,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MultilabelJaccardIndex,
)

from segfast.metrics import ConfusionMatrix, DiceScore, MeanIoU, PixelAccuracy

C = 5


def batches() -> list[tuple[Tensor, Tensor]]:
    """Two batches; class 4 never occurs, and is never predicted."""
    result = []
    for _ in range(2):
        logits, labels = torch.randn(3, C, 8, 9), torch.randint(C - 1, (3, 8, 9))
        logits[:, 4] = -10
        labels[torch.rand(labels.shape) < 0.2] = 255
        result.append((logits, labels))
    return result


def after(metric: Any, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    for prediction, target in pairs:
        metric.update(prediction, target)
    result: Tensor = metric.compute()
    return result


def assert_same_number(actual: Tensor, expected: Tensor) -> None:
    # torchmetrics divides in float32.
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "none"])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (MeanIoU, MulticlassJaccardIndex),
        (DiceScore, MulticlassF1Score),
        (PixelAccuracy, MulticlassAccuracy),
    ],
)
def test_equals_torchmetrics(mine: Any, theirs: Any, average: str) -> None:
    pairs = batches()
    metric = mine(
        C, average=average, ignore_index=255, empty="zero" if average == "none" else "skip"
    )
    expected = after(theirs(C, average=average, ignore_index=255), pairs)
    assert_same_number(after(metric, pairs), expected)
    by_label = [(logits.argmax(1), labels) for logits, labels in pairs]
    metric.reset()
    assert_same_number(after(metric, by_label), expected)


@pytest.mark.parametrize("normalize", ["none", "true", "pred", "all"])
def test_confusion_matrix_equals_torchmetrics(normalize: str) -> None:
    pairs = batches()
    expected = after(MulticlassConfusionMatrix(C, normalize=normalize, ignore_index=255), pairs)
    actual = after(ConfusionMatrix(C, normalize=normalize, ignore_index=255), pairs)
    assert_same_number(actual, expected)
    if normalize == "none":
        assert actual.dtype == torch.int64


def test_sigmoid_modes_equal_torchmetrics() -> None:
    logits, target = torch.randn(4, 3, 8, 9), torch.randint(2, (4, 3, 8, 9))
    expected = after(MultilabelJaccardIndex(3, threshold=0.3), [(logits.sigmoid(), target)])
    metric = MeanIoU(3, "multilabel", threshold=0.3)
    assert_same_number(after(metric, [(logits, target)]), expected)

    one, labels = logits[:, :1], target[:, 0]
    expected = after(BinaryJaccardIndex(), [(one.squeeze(1).sigmoid(), labels)])
    for prediction, truth in (
        (one, labels),
        (one, labels.unsqueeze(1)),
        (one > 0, labels),
        (one.squeeze(1) > 0, labels),
    ):
        assert_same_number(after(MeanIoU(mode="binary"), [(prediction, truth)]), expected)
    accuracy = ((one > 0).squeeze(1) == labels).double().mean()
    assert_same_number(after(PixelAccuracy(mode="binary"), [(one, labels)]), accuracy)


def test_golden_values_of_the_tutorials() -> None:
    """Intersection 1638, union 3042, sizes 4680 together, smoothed by 1e-5."""
    predicted, target = torch.zeros(1, 5000, dtype=torch.long), torch.zeros(1, 5000).long()
    target[0, :2340] = 1
    predicted[0, 702 : 702 + 2340] = 1
    options = {"average": "none", "smooth": 1e-5}
    iou = after(MeanIoU(2, **options), [(predicted, target)])[1]
    dice = after(DiceScore(2, **options), [(predicted, target)])[1]
    assert iou.item() == pytest.approx(0.5384615399787589, rel=1e-15)
    assert dice.item() == pytest.approx(0.7000000027777779, rel=1e-14)


def test_per_image_is_the_mean_of_the_images_scores() -> None:
    pairs = batches()
    scores = [
        after(MulticlassJaccardIndex(C, ignore_index=255), [(logits[i : i + 1], labels[i : i + 1])])
        for logits, labels in pairs
        for i in range(3)
    ]
    actual = after(MeanIoU(C, ignore_index=255, per_image=True), pairs)
    assert_same_number(actual, torch.stack(scores).mean())


@pytest.mark.parametrize(("empty", "value"), [("skip", 1.0), ("zero", 2 / 3), ("one", 1.0)])
def test_absent_classes(empty: str, value: float) -> None:
    """All is right, and class 2 is nowhere."""
    labels = torch.tensor([[0, 1, 1, 0]])
    assert after(MeanIoU(3, empty=empty), [(labels, labels)]).item() == pytest.approx(value)
    each = after(MeanIoU(3, empty=empty, average="none"), [(labels, labels)])
    assert math.isnan(each[2]) == (empty == "skip")


def test_without_background() -> None:
    pairs = batches()
    all_classes = after(MeanIoU(C, average="none", ignore_index=255), pairs)
    metric = MeanIoU(C, ignore_index=255, include_background=False)
    assert_same_number(after(metric, pairs), all_classes[1:4].mean())


def test_states_are_integers_that_sum_over_ranks() -> None:
    for metric in (ConfusionMatrix(3), MeanIoU(3), PixelAccuracy(3, "multilabel")):
        assert metric.confusion.dtype == torch.int64
        assert metric._reductions["confusion"] is torch.sum or "sum" in str(
            metric._reductions["confusion"]
        )
    metric = pickle.loads(pickle.dumps(MeanIoU(3)))
    metric(torch.randn(1, 3, 4, 4), torch.randint(3, (1, 4, 4)))  # forward: the batch's own value
    assert metric.confusion.sum() == 16


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="mode must be one of"):
        MeanIoU(3, "softmax")
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        MeanIoU(1)
    with pytest.raises(ValueError, match="num_classes"):
        MeanIoU()
    with pytest.raises(ValueError, match="average must be one of"):
        MeanIoU(3, average="mean")
    with pytest.raises(ValueError, match="2 channels"):
        MeanIoU(2, "multilabel").update(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4).long())
    with pytest.raises(IndexError, match="labels 0 to 2"):
        MeanIoU(3).update(torch.zeros(1, 3, 4), torch.full((1, 4), 3))
