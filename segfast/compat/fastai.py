"""The Dice loss of fastai 2.8 (Apache-2.0): ``fastai.losses.DiceLoss``, by its formula.

=================== ============================================================================
sums                of each sample and class
score               (2 I + s) / (P + T + s); with ``square_in_union`` P sums squares
absent class        its score as it is: loss about 1
reduction           the sum over samples and classes by default
=================== ============================================================================

fastai counts pixels of labels that are no class as negatives of all classes; here they are refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segfast._classes import check_choice
from segfast.compat._common import as_labels, in_type_of, reduced, sums


class DiceLoss:
    """``fastai.losses.DiceLoss``, as a Learner's ``loss_func``: an object that is called, with
    ``activation`` and ``decodes``.

    Args:
        axis: of the classes: 1.
        smooth: added to numerator and denominator.
        reduction: ``"sum"``, ``"mean"`` or ``"none"`` for [N, C].
        square_in_union: squares of the probabilities in the denominator.
    """

    def __init__(
        self,
        axis: int = 1,
        smooth: float = 1e-6,
        reduction: str = "sum",
        square_in_union: bool = False,
    ) -> None:
        if axis != 1:
            raise ValueError(f"axis must be 1, got {axis}")
        self.axis, self.smooth, self.square_in_union = axis, smooth, square_in_union
        self.reduction = check_choice("reduction", reduction, ("sum", "mean", "none"))

    def __call__(self, pred: Tensor, targ: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, ...]."""
        # Of fastai's TensorBase; torch.compile refuses to be told what is a Tensor anyway.
        pred, targ = (x if type(x) is Tensor else x.as_subclass(Tensor) for x in (pred, targ))
        exponent = 2 if self.square_in_union else 1
        i, p, t = sums(pred, as_labels(pred, targ), "softmax", exponent=exponent)[:3]
        loss = 1 - (2 * i + self.smooth) / (p + t + self.smooth)
        return in_type_of(reduced(loss, self.reduction), pred)

    def activation(self, x: Tensor) -> Tensor:
        """The softmax over the classes."""
        return torch.softmax(x, self.axis)

    def decodes(self, x: Tensor) -> Tensor:
        """The class of the largest score."""
        return x.argmax(self.axis)
