"""Losses for segmentation: loss(logits [N, C, ...], labels [N, ...]).

Each reads the logits once forward and once backward (see
:func:`segfast.functional.overlap_stats`), and any weighted sum of them does too. Defaults: mode
``"multiclass"``, one score a class over the whole batch, the mean over the classes that are there.

========================= ======================================================================
region losses             :class:`DiceLoss`, :class:`JaccardLoss`, :class:`TverskyLoss`,
                          :class:`FocalTverskyLoss`, :class:`FBetaLoss`,
                          :class:`GeneralizedDiceLoss`, :class:`MCCLoss`; your own:
                          :class:`RegionLoss`
pixel losses              :class:`CrossEntropyLoss`, :class:`FocalLoss`, :class:`BCELoss`
sorting losses            :class:`LovaszSoftmaxLoss`, :class:`LovaszHingeLoss`
sums                      :class:`DiceCELoss`, :class:`DiceBCELoss`, :class:`DiceFocalLoss`, any:
                          :class:`CombinedLoss`
========================= ======================================================================

A ratio of your own is three lines. ``stats`` holds the sums of each class over the counted pixels:
``intersection`` (of p t), ``probability`` (of p), ``target`` (of t) and ``pixels`` (of 1), and more
(:class:`segfast.functional.OverlapStats`)::

    class Recall(RegionLoss):
        def score(self, stats):
            return self.ratio(stats.intersection, stats.target)

    loss = Recall(ignore_index=255, reduce="sample")  # the mean of 1 - recall

Smoothing, absent classes, class weights, ranks and the rest are :class:`RegionLoss`'s, and it adds
up with a pixel loss in the same two passes: ``CombinedLoss([loss, CrossEntropyLoss(...)])``. Losses
with other libraries' names and numbers are in :mod:`segfast.compat`.

An option that is out of its range is a ValueError when the loss is made, and names itself. Logits
and targets that do not fit raise when it is called, as :func:`segfast.functional.overlap_stats`
says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from segfast._classes import check_choice
from segfast.functional.overlap_stats import MODES
from segfast.losses._base import StatsLoss
from segfast.losses.combined import CombinedLoss, DiceBCELoss, DiceCELoss, DiceFocalLoss
from segfast.losses.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from segfast.losses.pixel import BCELoss, CrossEntropyLoss, FocalLoss, PixelLoss
from segfast.losses.region import (
    DiceLoss,
    FBetaLoss,
    FocalTverskyLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    MCCLoss,
    RegionLoss,
    TverskyLoss,
)

__all__ = [
    "BCELoss",
    "CombinedLoss",
    "CrossEntropyLoss",
    "DiceBCELoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FBetaLoss",
    "FocalLoss",
    "FocalTverskyLoss",
    "GeneralizedDiceLoss",
    "JaccardLoss",
    "LovaszHingeLoss",
    "LovaszSoftmaxLoss",
    "MCCLoss",
    "PixelLoss",
    "RegionLoss",
    "StatsLoss",
    "TverskyLoss",
    "create_loss",
    "list_losses",
    "loss_modes",
]

_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "bce": BCELoss,
    "cross_entropy": CrossEntropyLoss,
    "dice": DiceLoss,
    "dice_bce": DiceBCELoss,
    "dice_ce": DiceCELoss,
    "dice_focal": DiceFocalLoss,
    "f_beta": FBetaLoss,
    "focal": FocalLoss,
    "focal_tversky": FocalTverskyLoss,
    "generalized_dice": GeneralizedDiceLoss,
    "jaccard": JaccardLoss,
    "lovasz_hinge": LovaszHingeLoss,
    "lovasz_softmax": LovaszSoftmaxLoss,
    "mcc": MCCLoss,
    "tversky": TverskyLoss,
}


def list_losses() -> list[str]:
    """The names that :func:`create_loss` takes."""
    return list(_LOSSES)


def loss_modes(name: str) -> tuple[str, ...]:
    """The modes in which the loss of that name works."""
    sigmoid = ("binary", "multilabel")
    if name in ("bce", "dice_bce", "lovasz_hinge"):
        return sigmoid
    return ("multiclass",) if name in ("cross_entropy", "dice_ce", "lovasz_softmax") else MODES


def create_loss(name: str, **options: Any) -> nn.Module:
    """The loss of that name, such as ``"dice_ce"``, with the options of its class.

    Raises:
        ValueError: an unknown name.
    """
    return _LOSSES[check_choice("name", name, list_losses())](**options)
