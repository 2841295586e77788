"""The losses of kornia 0.9 (Apache-2.0): ``kornia.losses``, by their formulas.

=================== ============================================================================
``"micro"`` Dice    of each sample: 2 sum w I / (sum w (P + T) + eps)
``"macro"`` Dice    of each sample and class: 2 I / (P + T + eps); 1 - score averaged over the
                    classes that are there, weighted by ``weight``
Tversky             of each sample and class: I / (I + alpha (P - I) + beta (T - I) + eps),
                    averaged over the classes that are there
all ignored         that sample's loss is 1, with gradient 0
result              1 - score, or the loss, averaged over samples: a scalar
=================== ============================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segfast._classes import check_choice
from segfast.compat._common import divided, in_type_of, sums

AVERAGES = ("micro", "macro")


def dice_loss(
    pred: Tensor,
    target: Tensor,
    average: str = "micro",
    eps: float = 1e-8,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """``kornia.losses.dice_loss``.

    Args:
        pred: logits [N, C, ...].
        target: labels [N, ...].
        average: ``"micro"`` pools the classes of a sample, ``"macro"`` averages over them.
        eps: added to the denominator.
        weight: [C].
        ignore_index: label of pixels that do not count.
    """
    check_choice("average", average, AVERAGES)
    classes = pred.shape[1]
    if weight is not None and list(weight.shape) != [classes]:
        raise ValueError(f"weight must have shape [{classes}], got {list(weight.shape)}")
    i, p, t = sums(pred, target, "softmax", ignore_index)[:3]
    w = torch.ones_like(t) if weight is None else weight.to(t.dtype).expand_as(t)
    if average == "micro":
        i, size = (w * i).sum(1), (w * (p + t)).sum(1)
        loss = 1 - divided(2 * i, torch.where(size == 0, 0, size + eps))
    else:
        w = w * (t > 0)
        total = w.sum(1)
        loss = divided((w * (1 - 2 * i / (p + t + eps).clamp(min=1e-300))).sum(1), total)
        loss = torch.where(total == 0, 1, loss)
    return in_type_of(loss.mean(), pred)


def tversky_loss(
    pred: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    eps: float = 1e-8,
    ignore_index: int | None = -100,
) -> Tensor:
    """``kornia.losses.tversky_loss``: ``alpha`` weighs false positives, ``beta`` false negatives.

    See :func:`dice_loss` for the other arguments.
    """
    i, p, t = sums(pred, target, "softmax", ignore_index)[:3]
    present = t > 0
    size = (i + alpha * (p - i) + beta * (t - i) + eps).masked_fill(~present, 1)
    score = (i / size * present).sum(1) / present.sum(1).clamp(min=1)
    return in_type_of(1 - score.mean(), pred)


class DiceLoss(nn.Module):
    """``kornia.losses.DiceLoss``; see :func:`dice_loss`."""

    def __init__(
        self,
        average: str = "micro",
        eps: float = 1e-8,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
    ) -> None:
        super().__init__()
        self.average = check_choice("average", average, AVERAGES)
        self.eps, self.ignore_index = eps, ignore_index
        self.weight: Tensor | None
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, ...]."""
        return dice_loss(pred, target, self.average, self.eps, self.weight, self.ignore_index)


class TverskyLoss(nn.Module):
    """``kornia.losses.TverskyLoss``; see :func:`tversky_loss`."""

    def __init__(
        self, alpha: float, beta: float, eps: float = 1e-8, ignore_index: int | None = -100
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.eps, self.ignore_index = alpha, beta, eps, ignore_index

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, ...]."""
        return tversky_loss(pred, target, self.alpha, self.beta, self.eps, self.ignore_index)
