"""The confusion matrix as a metric, and what the scores build on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError(
        "segfast.metrics needs torchmetrics; install it with: pip install 'segfast[metrics]'"
    ) from error

from segfast._classes import check_choice, check_ignore_index
from segfast._tensors import as_int
from segfast.functional.confusion_matrix import confusion_matrix, logit_of
from segfast.functional.overlap_stats import MODES

NORMALIZE = ("none", "true", "pred", "all")


class CountingMetric(Metric):
    """What the metrics share: their mode, and the matrices of a batch.

    Args:
        num_classes: C. May be left out for mode ``"binary"``.
        mode: ``"multiclass"``; ``"binary"``: one channel, labels 0 and 1; ``"multilabel"``: C
            channels, each binary.
        ignore_index: label of pixels that do not count.
        threshold: the probability above which sigmoid modes predict 1.
        kwargs: for ``torchmetrics.Metric``.
    """

    full_state_update = False
    is_differentiable = False

    total: Tensor
    count: Tensor

    def __init__(
        self,
        num_classes: int | None = None,
        mode: str = "multiclass",
        *,
        ignore_index: int | None = None,
        threshold: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mode = check_choice("mode", mode, MODES)
        if num_classes is None and mode == "binary":
            num_classes = 1
        if num_classes is not None:
            num_classes = as_int("num_classes", num_classes)
        least = 2 if mode == "multiclass" else 1
        if num_classes is None or num_classes < least or (mode == "binary" and num_classes != 1):
            raise ValueError(
                f"num_classes must be {'1' if mode == 'binary' else f'at least {least}'} in mode "
                f"{mode!r}, got {num_classes}"
            )
        self.num_classes = num_classes
        self.ignore_index = check_ignore_index(ignore_index)
        logit_of(threshold)  # or it says what is wrong
        self.threshold = threshold

    def matrices(self, prediction: Tensor, target: Tensor, per_image: bool) -> Tensor:
        """The counts of a batch: [K, K], in mode ``"multilabel"`` [C, 2, 2]; [N, ...] per image.

        Args:
            prediction: logits [N, C, ...] or predicted labels, [N, ...] (``"multilabel"``: [N, C,
                ...]).
            target: labels [N, ...] (``"multilabel"``: [N, C, ...]; ``"binary"`` may have a
                channel).
            per_image: whether to keep images apart.
        """
        if self.mode == "multiclass":
            return confusion_matrix(
                prediction, target, self.num_classes, self.ignore_index, per_image=per_image
            )
        # Each channel counts like an image of its own, with one class against the rest.
        channel = 1 if self.mode == "binary" else self.num_classes
        if self.mode == "binary" and target.dim() + 1 == prediction.dim():
            target = target.unsqueeze(1)
        elif self.mode == "binary" and not prediction.is_floating_point():
            if prediction.dim() + 1 == target.dim():
                prediction = prediction.unsqueeze(1)
            elif target.shape[1:2] != (1,):
                prediction, target = prediction.unsqueeze(1), target.unsqueeze(1)
        if prediction.shape != target.shape or prediction.shape[1:2] != (channel,):
            raise ValueError(
                f"prediction and target must have {channel} channels in mode {self.mode!r}, got "
                f"{list(prediction.shape)} and {list(target.shape)}"
            )
        images = prediction.shape[0]
        rows = (images * channel, *target.shape[2:])
        if prediction.is_floating_point():
            prediction = prediction.reshape(images * channel, 1, *target.shape[2:])
        else:
            prediction = prediction.reshape(rows)
        matrix = confusion_matrix(
            prediction,
            target.reshape(rows),
            2,
            self.ignore_index,
            threshold=self.threshold,
            per_image=True,
        )
        matrix = matrix.reshape(images, channel, 2, 2)
        if self.mode == "binary":
            matrix = matrix.squeeze(1)
        return matrix if per_image else matrix.sum(0)

    def keep_mean(self, shape: tuple[int, ...]) -> None:
        """Adds the states of a mean over images: of scores of that shape, where they are no NaN."""
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def add_scores(self, scores: Tensor) -> None:
        """Adds the scores [N, ...] of a batch to that mean, which is ``total / count``."""
        self.total += scores.nan_to_num(0.0).sum(0)
        self.count += (~scores.isnan()).sum(0)

    def matrix_shape(self) -> tuple[int, ...]:
        """The shape of :meth:`matrices` for the whole batch."""
        if self.mode == "multiclass":
            return (self.num_classes, self.num_classes)
        return (2, 2) if self.mode == "binary" else (self.num_classes, 2, 2)


class ConfusionMatrix(CountingMetric):
    """How many pixels of each class were predicted as each class.

    ``compute()`` gives int64 [C, C], rows the labels and columns the predictions (mode ``"binary"``
    [2, 2], mode ``"multilabel"`` [C, 2, 2]), or with ``normalize`` float64 shares of each row
    (``"true"``), of each column (``"pred"``) or of all (``"all"``), 0 where there is nothing to
    share. See :class:`CountingMetric` for the other arguments. The same as
    ``torchmetrics.classification.MulticlassConfusionMatrix``.
    """

    confusion: Tensor

    def __init__(
        self,
        num_classes: int | None = None,
        mode: str = "multiclass",
        *,
        normalize: str = "none",
        **options: Any,
    ) -> None:
        super().__init__(num_classes, mode, **options)
        self.normalize = check_choice("normalize", normalize, NORMALIZE)
        zeros = torch.zeros(self.matrix_shape(), dtype=torch.int64)
        self.add_state("confusion", zeros, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Counts a batch: logits [N, C, ...] or predicted labels, and labels [N, ...]."""
        self.confusion += self.matrices(prediction, target, per_image=False)

    def compute(self) -> Tensor:
        """The matrix so far."""
        if self.normalize == "none":
            return self.confusion
        axes = {"true": (-1,), "pred": (-2,), "all": (-2, -1)}[self.normalize]
        counts = self.confusion.double()
        return counts / counts.sum(axes, keepdim=True).clamp(min=1)
