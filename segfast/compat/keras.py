"""The losses of Keras' segmentation_models 1.0 (MIT), by their formulas, for PyTorch.

=================== ============================================================================
sums                of each class over the batch; with ``per_image`` of each sample and class
JaccardLoss         (I + s) / (P + T - I + s)
DiceLoss            ((1 + b^2) I + s) / (b^2 T + P + s)
loss                1 - the mean over classes (and samples) of ``class_weights`` x score
absent class        its score as it is: loss about 1
cross-entropies,    means over samples, classes and pixels; ``alpha`` multiplies the
focal losses        categorical focal loss
=================== ============================================================================

As there, losses are added up and multiplied by numbers: ``BinaryCELoss() + 2 * DiceLoss()``, here
in one pass; the ready-made ones have their names, from ``dice_loss`` to
``categorical_focal_jaccard_loss``. What differs is PyTorch's habit: called with logits [N, C, ...]
first and the target, one-hot [N, C, ...] or labels [N, ...], second. ``activation`` says what turns
the logits into the probabilities of a Keras model's last layer. Keras' clips of probabilities at
1e-7 are not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segfast._classes import check_choice, check_target, check_values, pick_classes
from segfast.compat._common import in_type_of, mean, sums, weights
from segfast.functional.overlap_stats import OverlapStats


class Loss(nn.Module):
    """What the losses share: ``+`` and ``*``, and the sums that they are made of.

    Args:
        activation: ``"sigmoid"`` or ``"softmax"``.
    """

    is_entropy = False
    needs_own_pass = False

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = check_choice("activation", activation, ("sigmoid", "softmax"))

    def stats_options(self, input: Tensor) -> dict[str, Any]:
        """The options of overlap_stats that the loss wants."""
        return {}

    def from_stats(self, stats: OverlapStats, input: Tensor) -> Tensor:
        """The loss, in float64, from the sums of samples."""
        raise NotImplementedError

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against one-hot [N, C, ...] or labels [N, ...]."""
        stats = sums(input, target, self.activation, **self.stats_options(input))
        return in_type_of(self.from_stats(stats, input), input)

    def __add__(self, other: Loss) -> Loss:
        return SumOfLosses([(1.0, self), (1.0, other)])

    def __mul__(self, factor: float) -> Loss:
        return SumOfLosses([(factor, self)])

    __rmul__ = __mul__


class SumOfLosses(Loss):
    """The weighted sum of losses, in one pass: of one activation, and at most one cross-entropy.

    Args:
        parts: pairs of a factor and a loss.
    """

    def __init__(self, parts: Sequence[tuple[float, Loss]]) -> None:
        flat: list[tuple[float, Loss]] = []
        for factor, loss in parts:
            inner = loss.parts() if isinstance(loss, SumOfLosses) else [(1.0, loss)]
            flat += [(factor * f, x) for f, x in inner]
        activations = {loss.activation for _, loss in flat}
        if len(activations) > 1:
            raise ValueError(
                f"losses must have one activation to be added, got {sorted(activations)}"
            )
        if sum(loss.is_entropy for _, loss in flat) > 1:
            raise ValueError("losses must hold at most one cross-entropy to be added")
        super().__init__(flat[0][1].activation)
        self.factors = [factor for factor, _ in flat]
        self.losses = nn.ModuleList([loss for _, loss in flat])

    def parts(self) -> list[tuple[float, Any]]:
        """The pairs."""
        return list(zip(self.factors, self.losses, strict=True))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See :class:`Loss`."""
        alone = [(f, loss) for f, loss in self.parts() if loss.needs_own_pass]
        together = [(f, loss) for f, loss in self.parts() if not loss.needs_own_pass]
        values = [factor * loss(input, target).double() for factor, loss in alone]
        if together:
            options = [loss.stats_options(input) for _, loss in together]
            merged = {key: x for each in options for key, x in each.items()}
            stats = sums(input, target, self.activation, **merged)
            values += [factor * loss.from_stats(stats, input) for factor, loss in together]
        return in_type_of(torch.stack(values).sum(), input)


class _RegionLoss(Loss):
    def __init__(
        self,
        class_weights: Sequence[float] | None,
        class_indexes: int | Sequence[int] | None,
        per_image: bool,
        smooth: float,
        activation: str,
    ) -> None:
        super().__init__(activation)
        self.class_indexes = _as_list(class_indexes)
        self.per_image, self.smooth = per_image, smooth
        self.class_weights: Tensor | None
        given = weights("class_weights", class_weights)
        self.register_buffer("class_weights", given, persistent=False)

    def score(self, i: Tensor, p: Tensor, t: Tensor) -> Tensor:
        """The score of each group and class."""
        raise NotImplementedError

    def from_stats(self, stats: OverlapStats, input: Tensor) -> Tensor:
        """See :class:`Loss`."""
        i, p, t = (x if self.per_image else x.sum(0, keepdim=True) for x in stats[:3])
        if self.class_indexes is not None:
            i, p, t = (pick_classes(x, self.class_indexes, 1) for x in (i, p, t))
        score = self.score(i, p, t)
        if self.class_weights is not None:
            score = score * self.class_weights
        return mean(1 - score)


class JaccardLoss(_RegionLoss):
    """``segmentation_models.losses.JaccardLoss``.

    Args:
        class_weights: factors of the classes' scores.
        class_indexes: classes that count; all by default.
        per_image: the mean of the samples' scores rather than the score of the batch.
        smooth: added to numerator and denominator.
        activation: ``"sigmoid"`` or ``"softmax"``.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        class_indexes: int | Sequence[int] | None = None,
        per_image: bool = False,
        smooth: float = 1e-5,
        *,
        activation: str = "sigmoid",
    ) -> None:
        super().__init__(class_weights, class_indexes, per_image, smooth, activation)

    def score(self, i: Tensor, p: Tensor, t: Tensor) -> Tensor:
        """Intersection over union."""
        return (i + self.smooth) / (p + t - i + self.smooth)


class DiceLoss(_RegionLoss):
    """``segmentation_models.losses.DiceLoss``: ``beta`` weighs recall.

    See :class:`JaccardLoss` for the other arguments.
    """

    def __init__(
        self,
        beta: float = 1,
        class_weights: Sequence[float] | None = None,
        class_indexes: int | Sequence[int] | None = None,
        per_image: bool = False,
        smooth: float = 1e-5,
        *,
        activation: str = "sigmoid",
    ) -> None:
        super().__init__(class_weights, class_indexes, per_image, smooth, activation)
        self.beta = beta

    def score(self, i: Tensor, p: Tensor, t: Tensor) -> Tensor:
        """The F score."""
        square = self.beta**2
        return ((1 + square) * i + self.smooth) / (square * t + p + self.smooth)


class BinaryCELoss(Loss):
    """``segmentation_models.losses.BinaryCELoss``: sigmoid; the mean over classes and pixels."""

    is_entropy = True

    def __init__(self) -> None:
        super().__init__("sigmoid")

    def from_stats(self, stats: OverlapStats, input: Tensor) -> Tensor:
        """See :class:`Loss`."""
        return stats.cross_entropy.sum() / max(input.numel(), 1)


class CategoricalCELoss(Loss):
    """``segmentation_models.losses.CategoricalCELoss``: softmax; the sum over classes, weighted by
    ``class_weights``, divided by the number of classes, averaged over pixels.

    Args:
        class_weights: factors of the classes.
        class_indexes: the softmax is one of these classes alone, in a pass of its own; pixels of
            the others add 0.
    """

    is_entropy = True

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        class_indexes: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__("softmax")
        self.class_indexes = _as_list(class_indexes)
        self.needs_own_pass = self.class_indexes is not None
        self.class_weights: Tensor | None
        given = weights("class_weights", class_weights)
        self.register_buffer("class_weights", given, persistent=False)

    def stats_options(self, input: Tensor) -> dict[str, Any]:
        """See :class:`Loss`."""
        return {"class_weight": self.class_weights}

    def from_stats(self, stats: OverlapStats, input: Tensor) -> Tensor:
        """See :class:`Loss`."""
        return stats.cross_entropy.sum() / max(input.numel(), 1)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See :class:`Loss`."""
        if self.class_indexes is None:
            return super().forward(input, target)
        input, target = _only(self.class_indexes, input, target)
        stats = sums(input, target, "softmax", -1, **self.stats_options(input))
        return in_type_of(self.from_stats(stats, input), input)


class CategoricalFocalLoss(Loss):
    """``segmentation_models.losses.CategoricalFocalLoss``: -alpha (1 - p)^gamma log p of the
    softmax, for the classes ``class_indexes`` (all by default)."""

    is_entropy = True

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        class_indexes: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__("softmax")
        self.alpha, self.gamma, self.class_indexes = alpha, gamma, _as_list(class_indexes)

    def stats_options(self, input: Tensor) -> dict[str, Any]:
        """See :class:`Loss`."""
        if self.class_indexes is None:
            return {"gamma": self.gamma}
        chosen = torch.zeros(input.shape[1], dtype=torch.float64, device=input.device)
        for index in self.class_indexes:
            chosen[index].fill_(1)  # an assignment would wait for a GPU
        return {"gamma": self.gamma, "class_weight": chosen}

    def from_stats(self, stats: OverlapStats, input: Tensor) -> Tensor:
        """See :class:`Loss`."""
        classes = input.shape[1] if self.class_indexes is None else len(self.class_indexes)
        terms = classes * input.shape[0] * input.shape[2:].numel()
        return self.alpha * stats.cross_entropy.sum() / max(terms, 1)


class BinaryFocalLoss(Loss):
    """``segmentation_models.losses.BinaryFocalLoss``: the focal loss of the sigmoid, positives
    weighted by ``alpha`` and negatives by 1 - alpha (of which Keras' documentation says alpha).

    Targets are 0 and 1: Keras weighs the two terms of soft ones apart. ``alpha`` is in [0, 1), as
    no ratio to a weight of 0 says 1.
    """

    is_entropy = True

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__("sigmoid")
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must be in [0, 1), got {alpha}")
        self.alpha, self.gamma = alpha, gamma

    def stats_options(self, input: Tensor) -> dict[str, Any]:
        """See :class:`Loss`."""
        ratio = self.alpha / (1 - self.alpha)
        positive = torch.full((1,), ratio, dtype=torch.float64, device=input.device)
        return {"gamma": self.gamma, "pos_weight": positive}

    def from_stats(self, stats: OverlapStats, input: Tensor) -> Tensor:
        """See :class:`Loss`."""
        return (1 - self.alpha) * stats.cross_entropy.sum() / max(input.numel(), 1)


def _as_list(indexes: int | Sequence[int] | None) -> list[int] | None:
    if indexes is None:
        return None
    return [indexes] if isinstance(indexes, int) else list(indexes)


def _only(classes: list[int], input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and target of those classes; labels of others become -1."""
    if not all(0 <= c < input.shape[1] for c in classes):
        raise ValueError(f"class_indexes must be of {input.shape[1]} classes, got {classes}")
    dense = check_target(input, target)
    chosen = pick_classes(input, classes, 1)
    if dense:
        return chosen, pick_classes(target, classes, 1)
    check_values(target, dense, input.shape[1], None)
    places = torch.full((input.shape[1],), -1, device=target.device)
    for place, index in enumerate(classes):
        places[index].fill_(place)
    return chosen, places[target.long()]


dice_loss = DiceLoss()
jaccard_loss = JaccardLoss()
binary_crossentropy = BinaryCELoss()
categorical_crossentropy = CategoricalCELoss()
binary_focal_loss = BinaryFocalLoss()
categorical_focal_loss = CategoricalFocalLoss()
bce_dice_loss = BinaryCELoss() + DiceLoss()
bce_jaccard_loss = BinaryCELoss() + JaccardLoss()
cce_dice_loss = CategoricalCELoss() + DiceLoss(activation="softmax")
cce_jaccard_loss = CategoricalCELoss() + JaccardLoss(activation="softmax")
binary_focal_dice_loss = BinaryFocalLoss() + DiceLoss()
binary_focal_jaccard_loss = BinaryFocalLoss() + JaccardLoss()
categorical_focal_dice_loss = CategoricalFocalLoss() + DiceLoss(activation="softmax")
categorical_focal_jaccard_loss = CategoricalFocalLoss() + JaccardLoss(activation="softmax")
