"""Losses of other libraries beside those of segfast.compat, where the library is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from segfast.bench.cases import Case, Comparison
from segfast.bench.losses import CLASSES, Loss, both_ways

Make = Callable[[Any], Loss]


def _smp_dice_ce(losses: Any) -> Loss:
    dice, ce = losses.DiceLoss("multiclass"), losses.SoftCrossEntropyLoss(smooth_factor=0.0)
    return lambda logits, labels: dice(logits, labels) + ce(logits, labels)


def _with_channel(loss: Loss) -> Loss:
    """For MONAI and nnU-Net, whose label maps are [N, 1, ...]."""
    return lambda logits, labels: loss(logits, labels.unsqueeze(1))


def _monai(losses: Any) -> Loss:
    return _with_channel(losses.DiceCELoss(to_onehot_y=True, softmax=True))


def _nnunet(losses: Any) -> Loss:
    """What nnU-Net trains with (its memory-efficient Dice), without deep supervision."""
    options = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    dice = losses.MemoryEfficientSoftDiceLoss
    return _with_channel(losses.DC_and_CE_loss(options, {}, dice_class=dice))


#: Row: the package, its module of losses, ours, and what makes the loss from either.
LIBRARIES: dict[str, tuple[str, str, str, Make]] = {
    "smp DiceLoss": (
        "segmentation_models_pytorch",
        "segmentation_models_pytorch.losses",
        "smp",
        lambda losses: losses.DiceLoss("multiclass"),
    ),
    "smp Dice + CE": (
        "segmentation_models_pytorch",
        "segmentation_models_pytorch.losses",
        "smp",
        _smp_dice_ce,
    ),
    "MONAI DiceCELoss": ("monai", "monai.losses", "monai", _monai),
    "nnU-Net DC_and_CE": (
        "nnunetv2",
        "nnunetv2.training.loss.compound_losses",
        "nnunet",
        _nnunet,
    ),
    "kornia dice_loss": ("kornia", "kornia.losses", "kornia", lambda losses: losses.dice_loss),
}


def missing() -> list[str]:
    """The packages that are not installed here."""
    packages = dict.fromkeys(package for package, *_ in LIBRARIES.values())
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _prepare(x: Tensor, row: str, classes: int) -> Comparison:
    _, module, ours, make = LIBRARIES[row]
    mine = make(importlib.import_module(f"segfast.compat.{ours}"))
    return both_ways(mine, make(importlib.import_module(module)), classes)(x)


def library_cases() -> Iterator[Case]:
    """The rows of the libraries that are installed."""
    absent = missing()
    for classes in CLASSES:
        for row, (package, *_) in LIBRARIES.items():
            if package not in absent:
                prepare = partial(_prepare, row=row, classes=classes)
                yield Case(f"{row} C={classes}", "both", prepare)
