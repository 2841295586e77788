"""Metrics: torchmetrics' numbers, the tutorials' golden values, every mode and policy."""

from __future__ import annotations

import itertools
import math
import pickle
import random
from typing import Any

import pytest
import torch
from compat_cases import original
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: extra `metrics`")
from torchmetrics.classification import (
    BinaryJaccardIndex,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MultilabelAccuracy,
    MultilabelJaccardIndex,
)

from segfast.bench.memory import peak_bytes
from segfast.metrics import BoundaryF1, ConfusionMatrix, DiceScore, MeanIoU, PixelAccuracy

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
    for smooth in (0.0, 1.0):  # (0 + s) / (0 + s) is no score either
        metric = MeanIoU(3, empty=empty, average="none", smooth=smooth)
        each = after(metric, [(labels, labels)])
        assert math.isnan(each[2]) == (empty == "skip") and each[:2].tolist() == [1, 1]


@pytest.mark.parametrize("kind", [MeanIoU, ConfusionMatrix, BoundaryF1])
def test_forward_counts_a_batch_once(kind: Any) -> None:
    """torchmetrics updates a metric twice that has to see all that came before."""
    batches = []

    class Counting(kind):
        def update(self, prediction: Tensor, target: Tensor) -> None:
            batches.append(prediction)
            super().update(prediction, target)

    Counting(3)(torch.randn(1, 3, 4, 4), torch.randint(3, (1, 4, 4)))
    assert len(batches) == 1


def test_without_background() -> None:
    pairs = batches()
    all_classes = after(MeanIoU(C, average="none", ignore_index=255), pairs)
    metric = MeanIoU(C, ignore_index=255, include_background=False)
    assert_same_number(after(metric, pairs), all_classes[1:4].mean())


@pytest.mark.compat
@pytest.mark.parametrize("mode", ["multiclass", "multilabel", "binary"])
@pytest.mark.parametrize(
    ("mine", "name"), [(MeanIoU, "iou_score"), (DiceScore, "f1_score"), (PixelAccuracy, "accuracy")]
)
def test_equals_smp(mine: Any, name: str, mode: str) -> None:
    """get_stats and its scores, all reductions. A class that is nowhere scores 1 there."""
    smp = original("segmentation_models_pytorch.metrics", "segmentation-models-pytorch")
    logits, labels = batches()[0]
    score = getattr(smp, name)
    if mode == "multiclass":
        stats = smp.get_stats(logits.argmax(1), labels, mode, ignore_index=255, num_classes=C)
    else:
        if mode == "binary":
            logits = logits[:, :1]
        labels = torch.randint(2, logits.shape)
        stats = smp.get_stats(logits.sigmoid(), labels, mode, threshold=0.5)

    def ours(average: str, per_image: bool) -> Tensor:
        classes = None if mode == "binary" else C
        ignored = 255 if mode == "multiclass" else None
        metric = mine(
            classes, mode, average=average, per_image=per_image, ignore_index=ignored, empty="one"
        )
        return after(metric, [(logits, labels)])

    if name == "accuracy" and mode == "multiclass":
        # smp counts a class's true negatives; the share of right pixels is its sensitivity.
        score = smp.sensitivity
    support = (stats[0] + stats[2]).sum(0).tolist()
    for reduction, average, per_image in (
        ("micro", "micro", False),
        ("macro", "macro", False),
        ("micro-imagewise", "micro", True),
        ("macro-imagewise", "macro", True),
    ):
        expected = score(*stats, reduction=reduction, zero_division=1.0)
        assert_same_number(ours(average, per_image), expected)
    if name != "accuracy":
        weighted = score(*stats, reduction="weighted", class_weights=support, zero_division=1.0)
        assert_same_number(ours("weighted", False), weighted)
        # smp's macro mean divides by the weights' sum and by the number of classes as well.
        twice = score(*stats, reduction="macro", class_weights=support, zero_division=1.0)
        assert_same_number(twice * len(support), weighted)


def boundary_pixels(labels: Tensor, c: int) -> list[tuple[int, int]]:
    height, width = labels.shape
    found = []
    for y, x in itertools.product(range(height), range(width)):
        near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        near = [labels[v, u] for v, u in near if 0 <= v < height and 0 <= u < width]
        if labels[y, x] == c and any(n not in (c, 255) for n in near):
            found.append((y, x))
    return found


def boundary_f1(predicted: Tensor, labels: Tensor, c: int, distance: float) -> float | None:
    """Every boundary pixel against every one of the other map; None without a labelled one."""
    predicted = predicted.masked_fill(labels == 255, 255)
    mine, theirs = boundary_pixels(predicted, c), boundary_pixels(labels, c)
    if not theirs:
        return None

    def share(points: list[Any], others: list[Any]) -> float:
        close = [any(math.dist(a, b) <= distance for b in others) for a in points]
        return sum(close) / max(len(points), 1)

    precision, recall = share(mine, theirs), share(theirs, mine)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.11, 0.3])  # 0, 1, 2.2 and 6 pixels
def test_boundary_f1(tolerance: float) -> None:
    """Blobs of 3 classes on odd sizes; class 2 is absent in one image, class 3 in all."""
    coarse = torch.randn(4, 4, 5, 5)
    coarse[:, 3] = -10
    logits = torch.nn.functional.interpolate(coarse, size=(11, 17), mode="bilinear")
    labels = (logits + torch.randn(4, 4, 1, 1)).argmax(1)
    labels[0][labels[0] == 2] = 1
    labels[:, :2, 5:9] = 255
    distance = tolerance * math.hypot(11, 17)
    each = [
        [boundary_f1(p, t, c, distance) for c in range(4)]
        for p, t in zip(logits.argmax(1), labels, strict=True)
    ]
    options: dict[str, Any] = {"ignore_index": 255, "tolerance": tolerance}
    classes = [[row[c] for row in each if row[c] is not None] for c in range(4)]
    images = [[score for score in row if score is not None] for row in each]

    actual = after(BoundaryF1(4, average="none", **options), [(logits, labels)])
    for c, scores in enumerate(classes):
        if scores:
            assert actual[c].item() == pytest.approx(sum(scores) / len(scores), rel=1e-12)
        else:
            assert actual[c].isnan()
    pairs = [(logits[:1], labels[:1]), (logits[1:].argmax(1), labels[1:])]
    means = [sum(row) / len(row) for row in images if row]
    assert after(BoundaryF1(4, **options), pairs).item() == pytest.approx(sum(means) / len(means))


def test_boundary_f1_of_a_shifted_square() -> None:
    """An outline two pixels off: half of it lies within one pixel's tolerance."""
    labels = torch.zeros(1, 30, 40, dtype=torch.long)  # the diagonal is 50
    labels[:, 10:20, 10:20] = 1
    shifted = labels.roll(1, -1)
    assert after(BoundaryF1(2, tolerance=0.02), [(labels, labels)]) == 1
    assert after(BoundaryF1(2, tolerance=0.02), [(shifted, labels)]) == 1
    assert 0.4 < after(BoundaryF1(2, tolerance=0.0), [(shifted, labels)]) < 0.7
    one = 10.0 * shifted.unsqueeze(1).float() - 5
    score = after(BoundaryF1(mode="binary", tolerance=0.0), [(one, labels)])
    foreground = after(BoundaryF1(2, tolerance=0.0, include_background=False), [(shifted, labels)])
    assert score == foreground
    assert after(BoundaryF1(2), [(labels * 0, labels)]) == 0
    assert after(BoundaryF1(2), [(labels, labels * 0)]).isnan()


def test_boundary_f1_has_the_papers_tolerance() -> None:
    """0.75 % of the diagonal: 3.75 pixels of 300 x 400."""
    labels = torch.zeros(1, 300, 400, dtype=torch.long)
    labels[:, 100:200, 150:250] = 1
    assert after(BoundaryF1(2), [(labels.roll(3, -1), labels)]) == 1
    assert after(BoundaryF1(2), [(labels.roll(4, -1), labels)]) < 1


def test_scores_are_the_better_the_higher() -> None:
    """As Lightning and torchmetrics' own tools ask."""
    for metric in (MeanIoU(3), DiceScore(3), PixelAccuracy(3), BoundaryF1(3)):
        assert metric.higher_is_better and not metric.is_differentiable


def test_boundary_f1_refuses() -> None:
    with pytest.raises(TypeError, match="prediction must be a Tensor, got dict"):
        BoundaryF1(3).update({"out": torch.zeros(1, 3, 4, 4)}, torch.zeros(1, 4, 4).long())
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="tolerance must not be negative"):
        BoundaryF1(3, tolerance=-1.0)
    with pytest.raises(ValueError, match="mode must be one of multiclass, binary"):
        BoundaryF1(3, "multilabel")
    with pytest.raises(ValueError, match=r"label maps \[N, H, W\]"):
        BoundaryF1(3).update(labels, labels[:, :2])
    with pytest.raises(ValueError, match=r"shape \[N, 3, H, W\], got \[1, 2, 4, 4\]"):
        BoundaryF1(3).update(torch.zeros(1, 2, 4, 4), labels)
    with pytest.raises(IndexError, match="target must hold labels 0 to 2"):
        BoundaryF1(3).update(labels, labels + 3)
    with pytest.raises(IndexError, match="prediction must hold labels 0 to 2"):
        BoundaryF1(3).update(labels + 3, labels)
    with pytest.raises(TypeError, match="target must hold integer labels, got torch.float32"):
        BoundaryF1(3).update(labels, labels.float())
    for metric in (BoundaryF1, MeanIoU):
        with pytest.raises(ValueError, match="threshold must lie between 0 and 1, got 2"):
            metric(mode="binary", threshold=2.0)
        with pytest.raises(TypeError, match="ignore_index must be an int or None, got 255.0"):
            metric(3, ignore_index=255.0)


def test_boundary_f1_ignores_what_is_ignored_alone() -> None:
    """Whatever is predicted there; and a byte of 0 is not 256."""
    labels = torch.randint(3, (2, 6, 7), dtype=torch.uint8)
    predicted = torch.randint(3, (2, 6, 7), dtype=torch.uint8)
    scores = [after(BoundaryF1(3, ignore_index=i), [(predicted, labels)]) for i in (None, 256, -1)]
    assert scores[0] == scores[1] == scores[2]
    labels[:, 2:4] = 255
    expected = after(BoundaryF1(3, ignore_index=255), [(predicted, labels)])
    predicted[:, 2:4] = 200
    assert after(BoundaryF1(3, ignore_index=255), [(predicted, labels)]) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_boundary_f1_thresholds_as_the_other_metrics_do(dtype: torch.dtype) -> None:
    """Logits whose sigmoid is 0.5 by rounding predict 1 where they are positive."""
    logits = (torch.randn(2, 1, 6, 7) * 1e-4).to(dtype)
    labels = torch.randint(2, (2, 6, 7))
    given, decided = (
        after(BoundaryF1(mode="binary"), [(prediction, labels)])
        for prediction in (logits, (logits > 0).long())
    )
    assert given == decided


def test_states_are_integers() -> None:
    """Their sums over ranks are tested in test_losses.py."""
    for metric in (ConfusionMatrix(3), MeanIoU(3), PixelAccuracy(3, "multilabel")):
        assert metric.confusion.dtype == torch.int64
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


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_a_binary_score_is_that_of_its_one_class(average: str) -> None:
    metric = MeanIoU(mode="binary", average=average)
    metric.update(torch.ones(1, 1, 3), torch.zeros(1, 3).long())  # positives that no label has
    assert metric.compute() == 0


RANDOM = [range(60), pytest.param(range(60, 2000), marks=pytest.mark.nightly)]


def random_batches(draw: random.Random, mode: str, ignored: int | None) -> list[Any]:
    """Logits and labels of two batches, of any spatial shape, some without the last class."""
    classes = 1 if mode == "binary" else draw.randint(2, 7)
    space = [draw.randint(1, 9) for _ in range(draw.randint(1, 3))]
    result = []
    for _ in range(2):
        n = draw.randint(1, 3)
        logits = torch.randn(n, classes, *space)
        shape = (n, classes, *space) if mode == "multilabel" else (n, *space)
        labels = torch.randint(classes if mode == "multiclass" else 2, shape)
        if mode == "multiclass" and draw.random() < 0.5:
            logits[:, -1] = -9
            labels[labels == classes - 1] = 0
        if ignored is not None:
            labels[torch.rand(shape) < draw.choice([0.1, 0.6])] = ignored
        result.append((logits, labels))
    return result


@pytest.mark.parametrize("seeds", RANDOM, ids=str)
@pytest.mark.parametrize("mode", ["multiclass", "multilabel", "binary"])
def test_equals_torchmetrics_at_random(mode: str, seeds: range) -> None:
    """The Jaccard index with any average, threshold, ignore_index (a class, too) and shape."""
    for seed in seeds:
        draw = random.Random(seed)
        torch.manual_seed(seed)
        ignored = draw.choice([None, 255, -1, *([0, 1] if mode == "multiclass" else [])])
        pairs = random_batches(draw, mode, ignored)
        classes, threshold = pairs[0][0].shape[1], draw.choice([0.5, 0.3])
        average = draw.choice(["macro", "micro", "weighted", "none"])
        options: dict[str, Any] = {"ignore_index": ignored}
        metric = MeanIoU(
            classes,
            mode,
            average=average,
            threshold=threshold,
            empty="skip" if mode == "multiclass" and average != "none" else "zero",
            **options,
        )
        if mode == "multiclass":
            theirs = MulticlassJaccardIndex(classes, average=average, **options)
        elif mode == "multilabel":
            options["threshold"] = threshold
            theirs = MultilabelJaccardIndex(classes, average=average, **options)
        else:
            theirs = BinaryJaccardIndex(threshold, **options)
        seen = [(x if mode == "multiclass" else x.sigmoid(), y) for x, y in pairs]
        if mode == "binary":
            seen = [(x.squeeze(1), y) for x, y in seen]
        expected, actual = after(theirs, seen), after(metric, pairs)
        if metric.empty == "skip" and metric.confusion.sum() == 0:
            assert actual.isnan()  # nothing to score
        else:
            try:
                assert_same_number(actual.reshape(expected.shape), expected)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {average}, ignored {ignored}") from error


@pytest.mark.parametrize("metric", [MeanIoU, DiceScore, PixelAccuracy])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("ignored", [0, 1])
def test_an_ignored_class_is_left_out(metric: Any, average: str, ignored: int) -> None:
    """As if neither it nor predictions of it were there, whatever `empty` says of absent ones."""
    logits, labels = torch.randn(2, 4, 9, 9), torch.randint(4, (2, 9, 9))
    predicted = logits.argmax(1)
    scores = []
    for empty in ("skip", "zero", "one"):
        mine = metric(4, average=average, ignore_index=ignored, empty=empty)
        scores.append(after(mine, [(logits, labels)]))
    each, sizes = [], []
    for c in {0, 1, 2, 3} - {ignored}:
        counts = labels != ignored
        truth, guess = (labels == c) & counts, (predicted == c) & counts
        hits, union = (truth & guess).sum(), (truth | guess).sum()
        both, right = truth.sum() + guess.sum(), truth.sum()
        ratio = {MeanIoU: (hits, union), DiceScore: (2 * hits, both), PixelAccuracy: (hits, right)}
        each.append(torch.stack(ratio[metric]).double())
        sizes.append(right.double())
    top, bottom = torch.stack(each).unbind(1)
    weights = torch.stack(sizes) if average == "weighted" else torch.ones(3).double()
    expected = (top / bottom * weights).sum() / weights.sum()
    if average == "micro":
        expected = top.sum() / bottom.sum()
    for score in scores:
        torch.testing.assert_close(score, expected, rtol=1e-12, atol=0)


def test_weighted_accuracy_of_several_labels_equals_torchmetrics() -> None:
    """Weighted by each class's positives."""
    logits, labels = torch.randn(4, 3, 8, 9), torch.randint(2, (4, 3, 8, 9))
    labels[:, 1] &= labels[:, 2]
    theirs = MultilabelAccuracy(3, average="weighted")
    expected = after(theirs, [(logits.sigmoid(), labels)])
    mine = PixelAccuracy(3, "multilabel", average="weighted")
    assert_same_number(after(mine, [(logits, labels)]), expected)


class NoHostSync(TorchDispatchMode):
    """Fails where the host would wait for a device: a tensor becomes a number or a truth value, or
    a shape depends on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique", "is_nonzero")

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.__name__
        boolean = any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if name.startswith("index.") else ())
        )
        assert not boolean and name.split(".")[0] not in self.WAITS, f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("mode", ["multiclass", "multilabel", "binary"])
def test_updates_do_not_wait_for_the_device(mode: str, per_image: bool) -> None:
    """What the kernels themselves do is tested on a GPU, with torch's own alarm for waits."""
    draw = random.Random(0)
    pairs = random_batches(draw, mode, 255)
    classes = pairs[0][0].shape[1]
    metrics = [
        score(classes, mode, per_image=per_image, ignore_index=255, average=average)
        for score in (MeanIoU, DiceScore, PixelAccuracy)
        for average in ("macro", "micro", "weighted", "none")
    ]
    for metric in (*metrics, ConfusionMatrix(classes, mode, ignore_index=255)):
        with NoHostSync():
            for logits, labels in pairs:
                metric.update(logits, labels)
    with pytest.raises(AssertionError, match="waits"), NoHostSync():
        bool(logits.sum() > 0)
    with pytest.raises(AssertionError, match="waits"), NoHostSync():
        logits[logits > 0]


@pytest.mark.cuda
def test_updates_do_not_wait_for_a_gpu() -> None:
    logits, labels = torch.randn(2, 5, 64, 64).cuda(), torch.randint(5, (2, 64, 64)).cuda()
    metrics = [MeanIoU(5).cuda(), DiceScore(5, per_image=True).cuda(), ConfusionMatrix(5).cuda()]
    for metric in metrics:
        metric.update(logits, labels)  # the first launch may load code
    torch.cuda.set_sync_debug_mode("error")
    try:
        for metric in metrics:
            metric.update(logits, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("mode", ["multiclass", "multilabel", "binary"])
def test_updates_make_no_temporary_of_the_images_size(mode: str, per_image: bool) -> None:
    classes = 1 if mode == "binary" else 4
    logits = torch.randn(2, classes, 256, 256)
    labels = torch.randint(2, logits.shape if mode == "multilabel" else (2, 256, 256)).byte()
    for metric in (MeanIoU(classes, mode, per_image=per_image), PixelAccuracy(classes, mode)):
        metric.update(logits, labels)
        assert peak_bytes(lambda m=metric: m.update(logits, labels), logits.device) < 4096


def test_bad_input_of_updates() -> None:
    """A sentence that says what is required and what came."""
    logits, labels = torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.long)
    for metric in (MeanIoU(3), DiceScore(3, per_image=True), PixelAccuracy(3), ConfusionMatrix(3)):
        with pytest.raises(TypeError, match="integer labels, got"):
            metric.update(logits, labels.float())
        with pytest.raises(IndexError, match="labels 0 to 2, but holds labels from 3 to 3"):
            metric.update(logits, labels + 3)
        with pytest.raises(IndexError, match="prediction must hold labels 0 to 2"):
            metric.update(labels - 1, labels)
        with pytest.raises(
            ValueError, match=r"target must have shape \[2, 4, 5\], got \[2, 3, 5\]"
        ):
            metric.update(logits, labels[:, :3])
        with pytest.raises(ValueError, match="number of channels"):
            metric.update(logits[:, :2], labels)
        metric.update(logits[:0], labels[:0])
        metric.update(logits[:, :, :0], labels[:, :0])
        nothing = metric.compute()
        assert nothing.sum() == 0 if isinstance(metric, ConfusionMatrix) else nothing.isnan()
    nothing = MeanIoU(3, ignore_index=255)
    nothing.update(logits, torch.full_like(labels, 255))
    assert nothing.compute().isnan()
    with pytest.raises(TypeError, match="smooth must be a number, got '1'"):
        MeanIoU(3, smooth="1")
    with pytest.raises(ValueError, match="smooth must not be negative"):
        MeanIoU(3, smooth=-1.0)
    with pytest.raises(ValueError, match="threshold must lie between 0 and 1"):
        MeanIoU(mode="binary", threshold=1.5).update(logits[:, :1], labels)


@pytest.mark.parametrize("normalize", ["true", "pred", "all"])
def test_shares_of_a_single_pixel(normalize: str) -> None:
    matrix = ConfusionMatrix(3, normalize=normalize)
    matrix.update(torch.tensor([[1]]), torch.tensor([[2]]))
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[2, 1] = 1.0
    assert torch.equal(matrix.compute(), expected)
