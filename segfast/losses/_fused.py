"""Losses in numbers, for the kernel that turns sums into a loss and its derivatives at once.

It spans what the library's own losses do but for a few (csrc/kernels/overlap_loss); a loss says by
:meth:`StatsLoss.term` whether and how it is one of them. What PyTorch makes of the same formulas,
step by step, defines the numbers, and is taken wherever the kernel cannot be: under torch.compile
and torch.func, for ranks, for losses of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from segfast._extension import C

EMPTY = ("skip", "zero", "one", "include")
LINKS = ("linear", "negative", "log")


class RegionTerm(NamedTuple):
    """A region loss: the fields of RegionTerm in csrc/kernels/overlap_loss/overlap_loss.h."""

    factor: float
    coefficients: tuple[float, float, float, float]
    top: float
    bottom: float
    least: float
    link: int
    least_score: float
    power: float
    empty: int
    every_class: bool
    include_background: bool
    by_sample: bool
    mean: bool


class PixelTerm(NamedTuple):
    """A pixel loss: the fields of PixelTerm there."""

    factor: float
    weighted: bool
    by_class: bool
    by_sample: bool
    mean: bool


def is_own(loss: object) -> bool:
    """Whether the loss is the library's: a subclass of yours may change any formula."""
    return type(loss).__module__.startswith(("segfast.losses.", "segfast.compat."))


#: overlap_loss(logits, target, pixel_weight, class_weight, pos_weight, region_weight,
#: (sigmoid, ignore_index, exponent, label_smoothing, gamma, minimum), region, pixel, composite)
#: is the loss, or None where the call has to take ``composite(logits, target, pixel_weight)``.
overlap_loss: Callable[..., Tensor | None] | None = None if C is None else C.overlap_loss
