"""Boundary F1: how well outlines agree."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from segfast._classes import LABEL_DTYPES, check_choice, check_values
from segfast._tensors import check_tensors
from segfast.functional.confusion_matrix import logit_of
from segfast.metrics.confusion_matrix import CountingMetric


def boundary_of(inside: Tensor, counts: Tensor) -> Tensor:
    """Pixels [N, H, W] of a class with a neighbour, above, below or beside, that is not of it.

    Ignored pixels are no boundary and make none, and neither does the edge of the image.
    """
    outside = ~inside & counts
    beside = torch.zeros_like(inside)
    beside[:, 1:] |= outside[:, :-1]
    beside[:, :-1] |= outside[:, 1:]
    beside[:, :, 1:] |= outside[:, :, :-1]
    beside[:, :, :-1] |= outside[:, :, 1:]
    return inside & counts & beside


def within(pixels: Tensor, distance: float) -> Tensor:
    """Which pixels [N, H, W] have one of ``pixels`` at most that far away, as the crow flies."""
    height, width = pixels.shape[-2:]
    near = torch.zeros_like(pixels)
    wide, columns = pixels.clone(), 0  # `wide` reaches that many columns to both sides
    for rows in range(min(int(distance), height - 1), -1, -1):
        while columns < min(int(math.sqrt(distance**2 - rows**2)), width - 1):
            wider = wide.clone()
            wider[:, :, 1:] |= wide[:, :, :-1]
            wider[:, :, :-1] |= wide[:, :, 1:]
            wide, columns = wider, columns + 1
        near[:, rows:] |= wide[:, : height - rows]
        near[:, : height - rows] |= wide[:, rows:]
    return near


class BoundaryF1(CountingMetric):
    r"""The F1 score of boundaries: SegNet's BF score (Csurka et al., BMVC 2013).

    For one class of one image, the precision is the share of the predicted boundary's pixels that
    lie within ``tolerance`` of the labelled boundary, the recall the share of the labelled
    boundary's pixels within ``tolerance`` of the predicted one, and the score
    :math:`2 P R / (P + R)`. A boundary pixel has, above, below or beside it, a pixel of another
    class; the edge of the image and ignored pixels make no boundary.

    Args:
        num_classes: C. May be left out for mode ``"binary"``.
        mode: ``"multiclass"``, or ``"binary"``: one channel, labels 0 and 1, the score of class 1.
        tolerance: in shares of the image's diagonal.
        average: ``"macro"`` is the mean over the images of an image's mean over its classes (those
            whose labels have a boundary there), ``"none"`` the mean over the images for each class,
            [C].
        include_background: whether class 0 takes part, in mode ``"multiclass"``.
        ignore_index: label of pixels that do not count.
        threshold: the probability above which mode ``"binary"`` predicts 1.
        kwargs: for ``torchmetrics.Metric``.

    ``update`` makes temporaries of a label map's size. ``compute()`` gives float64, NaN where no
    label has a boundary. Images are two-dimensional.
    """

    higher_is_better = True

    def __init__(
        self,
        num_classes: int | None = None,
        mode: str = "multiclass",
        *,
        tolerance: float = 0.0075,
        average: str = "macro",
        include_background: bool = True,
        **options: Any,
    ) -> None:
        check_choice("mode", mode, ("multiclass", "binary"))
        super().__init__(num_classes, mode, **options)
        self.average = check_choice("average", average, ("macro", "none"))
        if tolerance < 0:
            raise ValueError(f"tolerance must not be negative, got {tolerance}")
        self.tolerance = tolerance
        first = 0 if include_background else 1
        self.classes = [1] if mode == "binary" else list(range(first, self.num_classes))
        self.keep_mean(() if average == "macro" else (len(self.classes),))

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch: logits [N, C, H, W] or predicted labels [N, H, W], and labels [N, H, W]."""
        check_tensors(prediction=prediction, target=target)
        predicted = self._labels(prediction)
        target = target.squeeze(1) if target.dim() == 4 and target.shape[1] == 1 else target
        if predicted.dim() != 3 or predicted.shape != target.shape:
            raise ValueError(
                "prediction and target must be label maps [N, H, W], or the prediction logits "
                f"[N, C, H, W], got {list(prediction.shape)} and {list(target.shape)}"
            )
        if target.dtype not in LABEL_DTYPES:
            raise TypeError(f"target must hold integer labels, got {target.dtype}")
        target, classes = target.long(), max(self.num_classes, 2)
        check_values(target, False, classes, self.ignore_index)
        counts = torch.ones_like(target, dtype=torch.bool)
        if self.ignore_index is not None:
            counts = target != self.ignore_index
        predicted = predicted.long().masked_fill(~counts, 0)  # nobody asks what it is there
        check_values(predicted, False, classes, None, "prediction")
        distance = self.tolerance * math.hypot(*target.shape[1:])
        each = [self._score(predicted == c, target == c, counts, distance) for c in self.classes]
        scores = torch.stack(each, 1)  # [N, classes], NaN where the labels have no boundary
        self.add_scores(scores.nanmean(1) if self.average == "macro" else scores)

    def _labels(self, prediction: Tensor) -> Tensor:
        if prediction.is_floating_point():
            if prediction.dim() != 4 or prediction.shape[1] != self.num_classes:
                raise ValueError(
                    f"logits must have shape [N, {self.num_classes}, H, W], got "
                    f"{list(prediction.shape)}"
                )
            if self.mode == "multiclass":
                return prediction.argmax(1)
            prediction = prediction.double() > logit_of(self.threshold)
        return prediction.squeeze(1) if prediction.dim() == 4 else prediction

    @staticmethod
    def _score(predicted: Tensor, labelled: Tensor, counts: Tensor, distance: float) -> Tensor:
        """The scores [N] of a class."""
        mine, theirs = boundary_of(predicted, counts), boundary_of(labelled, counts)
        axes = (1, 2)
        size, labelled_size = mine.sum(axes), theirs.sum(axes)
        precision = (mine & within(theirs, distance)).sum(axes) / size.clamp(min=1).double()
        recall = (theirs & within(mine, distance)).sum(axes) / labelled_size.clamp(min=1).double()
        score = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
        return score.masked_fill(labelled_size == 0, torch.nan)

    def compute(self) -> Tensor:
        """The score so far."""
        return self.total / self.count
