"""What all losses share: one call of overlap_stats, and sums over the sample, the batch or all
ranks.

A loss says which statistics it wants (:meth:`StatsLoss.stats_options`) and what they come to
(:meth:`StatsLoss.from_groups`); :class:`CombinedLoss` asks several the same and calls the kernel
once. Where it is plain numbers (:meth:`StatsLoss.term`), one more kernel does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import update_wrapper
from inspect import unwrap
from types import FunctionType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.compiler import is_compiling

from segfast._classes import check_choice, check_ignore_index
from segfast._tensors import as_numbers, check_tensors
from segfast.functional.overlap_stats import MODES, OverlapStats, overlap_stats
from segfast.losses._fused import PixelTerm, RegionTerm, is_own, overlap_loss

REDUCE = ("sample", "batch", "global")
REDUCTIONS = ("none", "mean", "sum")

Weights = Tensor | Sequence[float]


def as_weights(name: str, weights: Weights | None) -> Tensor | None:
    """A float64 tensor [C] of non-negative weights.

    Raises:
        ValueError: not one number for each class, or a negative one.
        TypeError: they are no numbers.
    """
    if weights is None:
        return None
    tensor = as_numbers(name, weights, torch.float64)
    right = tensor.is_meta or bool((tensor >= 0).all())
    if tensor.dim() != 1 or tensor.numel() == 0 or not right:
        raise ValueError(
            f"{name} must hold one number, not negative, for each class, got {tensor.tolist()}"
        )
    return tensor


def for_classes(class_weight: Tensor, classes: int) -> Tensor:
    """Weights [classes], checked; one number stands for all of them.

    Raises:
        ValueError: they are of another number of classes.
    """
    if class_weight.numel() not in (1, classes):
        raise ValueError(
            f"class_weight must have shape [{classes}], got {list(class_weight.shape)}"
        )
    return class_weight.expand(classes)


class _SumOverRanks(torch.autograd.Function):
    """All-reduce by sum; its gradient is all-reduced too.

    DDP averages the parameters' gradients over the ranks. Each rank's loss is a function of the
    sums of all, so that average is the gradient of one process with the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        output = input.clone()
        dist.all_reduce(output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        output = grad.clone()
        dist.all_reduce(output)
        return output


def spans_ranks(reduce: str) -> bool:
    """Whether ``reduce`` names more than this process's samples."""
    return reduce == "global" and dist.is_available() and dist.is_initialized()


def sum_group(stats: OverlapStats, reduce: str) -> OverlapStats:
    """Statistics [N, C] and [N] summed over what ``reduce`` names: [1, C] and [1], or unchanged."""
    if reduce == "sample":
        return stats
    summed = [x.sum(0, keepdim=True) for x in stats]
    if spans_ranks(reduce):
        sizes = [x.numel() for x in summed]
        everything = _SumOverRanks.apply(torch.cat([x.flatten() for x in summed]))
        parts = everything.split(sizes)
        summed = [part.view_as(x) for part, x in zip(parts, summed, strict=True)]
    return OverlapStats(*summed)


class StatsLoss(nn.Module):
    """A loss that is a function of :func:`segfast.functional.overlap_stats`."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Gives each class that inherits ``forward`` a copy of its code.

        torch.compile counts compilations by code, and runs what has met its limit of eight as it
        is, with a warning: so it would the ninth kind of loss of a process.
        """
        super().__init_subclass__(**options)
        shared: Any = StatsLoss.forward
        if unwrap(cls.forward) is shared:
            own = FunctionType(shared.__code__.replace(), globals(), argdefs=shared.__defaults__)
            cls.forward = update_wrapper(own, shared)  # type: ignore[method-assign]

    def __init__(self, mode: str, ignore_index: int | None, reduce: str, reduction: str) -> None:
        super().__init__()
        self.class_weight: Tensor | None
        self.mode = check_choice("mode", mode, MODES)
        self.ignore_index = check_ignore_index(ignore_index)
        self.reduce = check_choice("reduce", reduce, REDUCE)
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)

    def stats_options(self) -> dict[str, Any]:
        """The options of overlap_stats that this loss wants other than by default."""
        raise NotImplementedError

    def from_groups(self, stats: OverlapStats) -> Tensor:
        """The loss from the statistics of groups, [G, C] and [G], in float64."""
        raise NotImplementedError

    def from_stats(self, stats: OverlapStats) -> Tensor:
        """The loss from the statistics of samples, [N, C] and [N], in float64."""
        return self.from_groups(sum_group(stats, self.reduce))

    def term(self, factor: float) -> RegionTerm | PixelTerm | None:
        """``factor`` times this loss in numbers; None for a loss that is none such."""
        return None

    def _weighed(self) -> Iterable[tuple[float, StatsLoss]]:
        """The losses whose sum this is, and their factors."""
        return ((1.0, self),)

    def _fused(self) -> tuple[Any, ...] | None:
        """What overlap_loss is called with after the tensors, if it can be."""
        if not is_own(self):
            return None
        region: RegionTerm | None = None
        pixel: PixelTerm | None = None
        region_weight = None
        given: dict[str, Any] = {}
        for factor, loss in self._weighed():
            if not is_own(loss) or loss.reduction == "none" or spans_ranks(loss.reduce):
                return None
            term = loss.term(factor)
            given.update(loss.stats_options())
            if isinstance(term, PixelTerm) and pixel is None:
                pixel = term
            elif isinstance(term, RegionTerm) and region is None:
                region, region_weight = term, loss.class_weight
            else:
                return None
        get = given.get
        options = (
            self.mode != "multiclass",
            self.ignore_index,
            get("exponent", 1),
            get("label_smoothing", 0.0),
            get("gamma", 0.0),
            False,
        )
        weights = get("class_weight"), get("pos_weight"), region_weight
        return (*weights, options, region, pixel, self._composite)

    def forward(self, logits: Tensor, target: Tensor, pixel_weight: Tensor | None = None) -> Tensor:
        """The loss of ``logits`` [N, C, ...] against ``target``.

        Args:
            logits: raw scores, no softmax or sigmoid applied.
            target: as for :func:`segfast.functional.overlap_stats`: labels [N, ...], or in sigmoid
                modes also one value a class [N, C, ...].
            pixel_weight: [N, ...] weights of the pixels, in the pixel losses only.

        Returns:
            float32, or float64 for float64 logits.
        """
        if not (is_compiling() or overlap_loss is None):
            fused = self._fused()
            if fused is not None:
                check_tensors(logits=logits, target=target)  # else overlap_stats does
                if self.mode != "binary" or logits.shape[1:2] == (1,):
                    loss = overlap_loss(logits, target, pixel_weight, *fused)
                    if loss is not None:
                        return loss
        return self._composite(logits, target, pixel_weight)

    def _composite(self, logits: Tensor, target: Tensor, pixel_weight: Tensor | None) -> Tensor:
        """The same in steps that PyTorch differentiates."""
        stats = overlap_stats(
            logits,
            target,
            self.mode,
            self.ignore_index,
            pixel_weight=pixel_weight,
            **self.stats_options(),
        )
        loss = self.from_stats(stats)
        return loss if logits.dtype == torch.float64 else loss.float()

    def extra_repr(self) -> str:
        """mode and the rest, for print()."""
        return (
            f"mode={self.mode!r}, ignore_index={self.ignore_index}, reduce={self.reduce!r}, "
            f"reduction={self.reduction!r}"
        )
