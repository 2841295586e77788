"""Scores of a segmentation, all from its confusion matrix.

Those that are metrics too are theirs (:mod:`segfast.metrics.scores`), here as NumPy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from segfast.metrics.scores import DiceScore, MeanIoU, PixelAccuracy, Score


@dataclass(frozen=True)
class Scores:
    """Per-class and mean scores. NaN for a class that is neither labelled nor predicted.

    Attributes:
        matrix: pixels of each true class (row) predicted as each class (column). [classes, classes]
    """

    matrix: NDArray[np.int64]

    @property
    def iou(self) -> NDArray[np.float64]:  # [classes]
        """Intersection over union of each class: TP / (TP + FP + FN)."""
        return self._of_classes(MeanIoU)

    @property
    def dice(self) -> NDArray[np.float64]:  # [classes]
        """Dice (F1) of each class: 2 TP / (2 TP + FP + FN)."""
        return self._of_classes(DiceScore)

    @property
    def class_accuracy(self) -> NDArray[np.float64]:  # [classes]
        """Share of each class's pixels that are right: TP / (TP + FN)."""
        return self._of_classes(PixelAccuracy)

    @property
    def mean_iou(self) -> float:
        """Mean of :attr:`iou` over the classes that occur."""
        return _mean(self.iou)

    @property
    def mean_dice(self) -> float:
        """Mean of :attr:`dice` over the classes that occur."""
        return _mean(self.dice)

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of :attr:`class_accuracy` over the classes that are labelled."""
        return _mean(self.class_accuracy)

    @property
    def accuracy(self) -> float:
        """Share of the pixels that are right."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))

    @property
    def share(self) -> NDArray[np.float64]:  # [classes]
        """Share of the labelled pixels that are of each class."""
        return _ratio(self._labelled, self.matrix.sum())

    @property
    def recall(self) -> NDArray[np.float64]:  # [classes, classes]
        """Each row of the matrix as shares of its class's pixels."""
        return _ratio(self.matrix, self._labelled[:, None])

    def _of_classes(self, score: type[Score]) -> NDArray[np.float64]:
        matrix = torch.from_numpy(self.matrix).double()
        scores: NDArray[np.float64]
        scores = score.of_counts(matrix.diagonal(), matrix.sum(0), matrix.sum(1)).numpy()
        return scores

    @property
    def _labelled(self) -> NDArray[np.int64]:
        pixels: NDArray[np.int64] = self.matrix.sum(axis=1)
        return pixels


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
