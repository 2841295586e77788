"""MONAI's focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segfast._classes import check_target, check_values
from segfast._tensors import as_numbers
from segfast.compat._common import divided, focal_terms, in_type_of, sums
from segfast.compat.monai._arguments import (
    REDUCTIONS,
    Weight,
    check_dimensions,
    choice_of,
    class_weights,
    for_classes,
    known_target,
)
from segfast.reference import overlap_stats as reference


class FocalLoss(nn.Module):
    """``monai.losses.FocalLoss``: -(1 - p)^gamma log p of each true answer, of the sigmoid class by
    class, or with ``use_softmax`` of the softmax.

    ``alpha``, in [0, 1], weighs positives and 1 - alpha negatives (with ``use_softmax`` class 0);
    a number for each class weighs that class's positives. ``weight`` multiplies the classes.
    ``"mean"`` divides by the number of terms, but with ``ignore_index`` by that of counted pixels;
    ``"sum"`` adds up means over pixels; ``"none"`` is [N, C, ...].

    One pass, but for ``"none"``, ``alpha=1`` and a softmax without the background, which are
    computed in plain PyTorch. Targets are 0 and 1: MONAI's focal factor of soft ones is another.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        weight: Weight = None,
        reduction: str = "mean",
        use_softmax: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.include_background, self.to_onehot_y = include_background, to_onehot_y
        self.gamma, self.use_softmax, self.ignore_index = gamma, use_softmax, ignore_index
        factors = None if alpha is None else as_numbers("alpha", alpha, torch.float64)
        if factors is not None and not bool(((factors >= 0) & (factors <= 1)).all()):
            raise ValueError(f"alpha must be in [0, 1], got {factors.tolist()}")
        self.alpha: Tensor | None
        self.register_buffer("alpha", factors, persistent=False)
        # Asked here: later it may lie on a GPU, which would be waited for.
        self.all_on_positives = factors is not None and factors.dim() == 0 and float(factors) == 1
        self.reduction = choice_of("reduction", reduction, REDUCTIONS)
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", class_weights(weight))

    def first(self, channels: int) -> int:
        """The first class that takes part."""
        return 0 if self.include_background or channels == 1 else 1

    def is_fused(self, channels: int) -> bool:
        """Whether overlap_stats has the sums."""
        if self.use_softmax:
            fused = channels > 1 and self.first(channels) == 0
        else:  # all weight on positives: no ratio to that of negatives says so
            fused = not self.all_on_positives
        return fused and self.reduction != "none"

    def factors(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Those of positive and of negative targets, [C]: 0 for a class that takes no part."""
        channels, device = input.shape[1], input.device
        first = self.first(channels)
        weight = torch.ones(channels, dtype=torch.float64, device=device)
        weight[:first] = 0
        if self.class_weight is not None:
            weight = weight * for_classes(self.class_weight.to(device), first, channels, "weight")
        if self.alpha is None or (self.use_softmax and self.alpha.dim() == 0 and first == 1):
            return weight, weight
        alpha = for_classes(self.alpha.to(device), first, channels, "alpha")
        if self.alpha.dim() > 0:
            return weight * alpha, weight
        if self.use_softmax:
            is_background = torch.arange(channels, device=device) == 0
            alpha = torch.where(is_background, 1 - alpha, alpha)
        return weight * alpha, weight * (1 - alpha)

    def options(self, input: Tensor) -> dict[str, Any]:
        """The options of overlap_stats whose cross-entropy is the sum of a sample's terms."""
        positive, negative = self.factors(input)
        if self.use_softmax:
            return {"gamma": self.gamma, "class_weight": positive}
        ratio = divided(positive, negative)
        return {"gamma": self.gamma, "class_weight": negative, "pos_weight": ratio}

    def from_sums(self, entropy: Tensor, pixels: Tensor, channels: int) -> Tensor:
        """The loss, in float64, from each sample's sum of terms and number of pixels, [N]."""
        if self.reduction == "sum":
            return divided(entropy, pixels).sum()
        terms = 1 if self.ignore_index is not None else channels - self.first(channels)
        return divided(entropy.sum(), pixels.sum() * terms)

    def loss(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss in the type of its sums."""
        check_dimensions(input, target)
        known, ignored = known_target(input, target, self.to_onehot_y, self.ignore_index)
        if self.is_fused(input.shape[1]):
            activation = "softmax" if self.use_softmax else "sigmoid"
            stats = sums(input, known, activation, ignored, **self.options(input))
            return self.from_sums(stats.cross_entropy, stats.pixels[:, 0], input.shape[1])
        check_values(known, check_target(input, known), max(input.shape[1], 2), ignored)
        first = self.first(input.shape[1])
        terms, counts = self._terms(input, known, ignored, first)
        if self.reduction == "none":
            return terms.reshape(len(input), terms.shape[1], *input.shape[2:])
        pixels = counts[:, 0].sum(1, dtype=torch.float64)
        return self.from_sums(terms.sum((1, 2)), pixels, input.shape[1])

    def _terms(
        self, input: Tensor, target: Tensor, ignored: int | None, first: int
    ) -> tuple[Tensor, Tensor]:
        """The loss of each value from class ``first`` on, and where it counts, [N, C, S]."""
        t, counts = (x[:, first:] for x in reference.spread_targets(input, target, True, ignored))
        z, t = input[:, first:].flatten(2).double().masked_fill(~counts, 0), t.double()
        positive, negative = (x[first:, None] for x in self.factors(input))
        loss = focal_terms(z, t, self.gamma, "softmax" if self.use_softmax else "sigmoid")
        loss = loss * (positive if self.use_softmax else positive * t + negative * (1 - t))
        return loss.masked_fill(~counts, 0), counts

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against ``target`` [N, C, ...] or labels [N, 1, ...]."""
        return in_type_of(self.loss(input, target), input)
