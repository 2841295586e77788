"""Scores of label maps: intersection over union, Dice, pixel accuracy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segfast._classes import check_choice
from segfast._tensors import check_numbers
from segfast.metrics.confusion_matrix import CountingMetric

AVERAGES = ("macro", "micro", "weighted", "none")
EMPTY = ("skip", "zero", "one")


class Score(CountingMetric):
    """A score of each class, made of its pixels in the intersection, the prediction and the labels.

    Args:
        num_classes, mode, ignore_index, threshold: see :class:`CountingMetric`.
        average: ``"macro"`` is the mean of the classes' scores, ``"micro"`` the score of the sums
            over classes, ``"weighted"`` the mean weighted by the classes' labelled pixels,
            ``"none"`` all scores, [C].
        per_image: the mean of the images' scores, rather than the score of all pixels together.
        empty: a class without a pixel in labels and prediction alike, whose score is 0 / 0:
            ``"skip"`` leaves it out of means (and is NaN in ``"none"``), ``"zero"`` and ``"one"``
            give it that score. A class that is the ``ignore_index`` takes no part in means, nor do
            predictions of it.
        include_background: whether class 0 takes part.
        smooth: added to counts in numerator and denominator: the tutorials' (I + s) / (U + s) and
            2 (I + s) / (A + B + s).

    ``compute()`` gives float64: a scalar, or [C] with ``average="none"``; NaN where nothing has a
    score. In mode ``"binary"`` the one class is the positive one, whose score every average is.
    """

    higher_is_better = True
    factor = 1.0  # of the intersection in the numerator

    confusion: Tensor

    def __init__(
        self,
        num_classes: int | None = None,
        mode: str = "multiclass",
        *,
        average: str = "macro",
        per_image: bool = False,
        empty: str = "skip",
        include_background: bool = True,
        smooth: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, mode, **options)
        self.average = check_choice("average", average, AVERAGES)
        self.empty = check_choice("empty", empty, EMPTY)
        self.per_image = per_image
        if not include_background and mode == "binary":
            raise ValueError("include_background=False needs more than the one class of 'binary'")
        check_numbers(smooth=smooth)
        if smooth < 0:
            raise ValueError(f"smooth must not be negative, got {smooth}")
        self.include_background = include_background
        self.smooth = smooth
        if per_image:
            self.keep_mean(self.score_shape())
        else:
            zeros = torch.zeros(self.matrix_shape(), dtype=torch.int64)
            self.add_state("confusion", zeros, dist_reduce_fx="sum")

    def score_shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        if self.average != "none":
            return ()
        return (self.num_classes - (not self.include_background),)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Counts a batch: logits [N, C, ...] or predicted labels, and labels [N, ...]."""
        matrices = self.matrices(prediction, target, self.per_image)
        if self.per_image:
            self.add_scores(self.averaged(matrices))
        else:
            self.confusion += matrices

    def compute(self) -> Tensor:
        """The score so far."""
        if self.per_image:
            return self.total / self.count
        return self.averaged(self.confusion)

    def counts(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels of each class in the intersection, the prediction and the labels, [..., C]."""
        if self.mode == "multiclass":
            counts = matrix.diagonal(dim1=-2, dim2=-1), matrix.sum(-2), matrix.sum(-1)
        else:
            counts = matrix[..., 1, 1], matrix[..., :, 1].sum(-1), matrix[..., 1, :].sum(-1)
        return self._of_classes(*counts)

    def _of_classes(
        self, hits: Tensor, predicted: Tensor, labelled: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Counts [..., C], without a dimension of classes in mode ``"binary"``, of those that take
        part."""
        counts = hits, predicted, labelled
        if self.mode == "binary":
            hits, predicted, labelled = (x[..., None] for x in counts)
        elif not self.include_background:
            hits, predicted, labelled = (x[..., 1:] for x in counts)
        return hits.double(), predicted.double(), labelled.double()

    @staticmethod
    def size(hits: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
        """The denominator of the score."""
        raise NotImplementedError

    @classmethod
    def of_counts(
        cls, hits: Tensor, predicted: Tensor, labelled: Tensor, smooth: float = 0.0
    ) -> Tensor:
        """The scores of counts [..., C] in float64, NaN where it is 0 / 0 without ``smooth``."""
        size = cls.size(hits, predicted, labelled)
        scores = cls.factor * (hits + smooth) / (size + smooth)
        return scores.masked_fill(size == 0, torch.nan)

    def averaged(self, matrix: Tensor) -> Tensor:
        """The scores of matrices [..., K, K], NaN where there is none."""
        kept = self.kept_classes(matrix.device)
        hits, predicted, labelled = (x * kept for x in self.counts(matrix))
        weights = torch.ones_like(hits) * kept
        if self.average == "weighted" and self.mode != "binary":
            weights = self.support(matrix) * kept
        if self.average == "micro":
            hits, predicted, labelled, weights = (
                x.sum(-1, keepdim=True) for x in (hits, predicted, labelled, weights)
            )
        scores = self.of_counts(hits, predicted, labelled, self.smooth)
        if self.empty != "skip":
            scores = scores.nan_to_num(1.0 if self.empty == "one" else 0.0)
        if self.average == "none":
            return scores
        weights = weights.masked_fill(scores.isnan(), 0)
        return (scores.nan_to_num(0.0) * weights).sum(-1) / weights.sum(-1)

    def kept_classes(self, device: torch.device) -> Tensor:
        """1 for each class, [C], but 0 for one that is the ignore_index."""
        first = 0 if self.include_background else 1
        kept = torch.ones(self.num_classes - first, dtype=torch.float64, device=device)
        ignored = self.ignore_index
        if (
            self.mode == "multiclass"
            and ignored is not None
            and first <= ignored < self.num_classes
        ):
            kept[ignored - first] = 0
        return kept

    def support(self, matrix: Tensor) -> Tensor:
        """The pixels that are labelled with each class, [..., C]."""
        return self.counts(matrix)[2]


class MeanIoU(Score):
    """Intersection over union, I / (A + B - I), also called Jaccard index; see :class:`Score`.

    Over a data set by default (the mIoU of Pascal VOC and Cityscapes). Equal to torchmetrics'
    ``JaccardIndex``, which is ``empty="skip"`` in means over multiclass labels and
    ``empty="zero"`` elsewhere.
    """

    @staticmethod
    def size(hits: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
        """The union."""
        return predicted + labelled - hits


class DiceScore(Score):
    """Dice coefficient 2 I / (A + B), also called F1 score; see :class:`Score`."""

    factor = 2.0

    @staticmethod
    def size(hits: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
        """The sum of the sizes."""
        return predicted + labelled


class PixelAccuracy(Score):
    """The share of a class's labelled pixels that are predicted right; see :class:`Score`.

    By default the ``"micro"`` average: the share of all pixels. ``"macro"`` is the mean class
    accuracy, of the classes that are labelled somewhere (torchmetrics' accuracy counts a class that
    is predicted and never labelled as 0). In modes ``"binary"`` and ``"multilabel"`` a class's
    accuracy counts its negatives too.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        mode: str = "multiclass",
        *,
        average: str = "micro",
        **options: Any,
    ) -> None:
        super().__init__(num_classes, mode, average=average, **options)

    def counts(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`Score`; in sigmoid modes both answers of a class are its pixels."""
        if self.mode == "multiclass":
            return super().counts(matrix)
        right = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
        pixels = matrix.sum((-2, -1))
        return self._of_classes(right, pixels, pixels)

    def support(self, matrix: Tensor) -> Tensor:
        """See :class:`Score`: of the positives."""
        return super().counts(matrix)[2]

    @staticmethod
    def size(hits: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
        """The labelled pixels."""
        return labelled
