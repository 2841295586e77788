"""Our losses and confusion matrix, and what PyTorch users and other libraries compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from segfast import functional as F
from segfast import losses
from segfast.bench.cases import Case, Comparison, Layer
from segfast.bench.timing import Call

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits [N, C, H, W] and labels [N, H, W]

#: CamVid's classes, and Cityscapes'.
CLASSES = (12, 19)
SMOOTH = 1e-5


def _logits(x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Logits [N, classes, H, W] in the layout of ``x``, and labels [N, H, W]."""
    logits = torch.randn(x.shape[0], classes, *x.shape[-2:], device=x.device).to(x.dtype)
    if x.is_contiguous(memory_format=torch.channels_last):
        logits = logits.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(classes, (x.shape[0], *x.shape[-2:]), device=x.device)
    return logits, labels


def _torch_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Soft Dice over the batch, as it is usually written."""
    probabilities = logits.softmax(1)
    one_hot = torch.nn.functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    intersection = (probabilities * one_hot).sum((0, 2, 3))
    total = probabilities.sum((0, 2, 3)) + one_hot.sum((0, 2, 3))
    return 1 - ((2 * intersection + SMOOTH) / (total + SMOOTH)).mean()


def _torch_dice_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """The same plus cross-entropy."""
    return _torch_dice(logits, labels) + torch.nn.functional.cross_entropy(logits, labels)


def _tolerance(dtype: torch.dtype) -> float:
    """Ours is as exact as float32 sums let it be; theirs rounds every step to ``dtype``."""
    return 1e-5 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps


def both_ways(ours: Loss, theirs: Loss, classes: int) -> Callable[[Tensor], Comparison]:
    """The gradient of a loss by its logits: the forward and the backward pass."""

    def prepare(x: Tensor) -> Comparison:
        logits, labels = _logits(x, classes)

        def call(loss: Layer) -> Call:
            leaf = logits.detach().requires_grad_()
            return lambda: torch.autograd.grad(loss(leaf), leaf)

        return Comparison(
            lambda z: ours(z, labels),
            lambda z: theirs(z, labels),
            call,
            (logits, labels, logits, labels),
            (logits,),
            _tolerance(x.dtype),
        )

    return prepare


def _forward(ours: Loss, theirs: Loss, classes: int) -> Callable[[Tensor], Comparison]:
    def prepare(x: Tensor) -> Comparison:
        logits, labels = _logits(x, classes)
        return Comparison(
            lambda z: ours(z, labels),
            lambda z: theirs(z, labels),
            lambda loss: lambda: loss(logits),
            (logits, labels),
            (),
            _tolerance(x.dtype),
        )

    return prepare


def _torch_confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts [C, C] of (label, prediction) pairs."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)
    return torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes)


def _confusion(logits: Tensor, labels: Tensor) -> Tensor:
    return F.confusion_matrix(logits, labels, logits.shape[1])


def loss_cases() -> Iterator[Case]:
    """Dice, Dice + CE and the confusion matrix, by number of classes."""
    dice = losses.DiceLoss(empty="include", smooth=SMOOTH)
    dice_ce = losses.DiceCELoss(empty="include", smooth=SMOOTH)
    for classes in CLASSES:
        yield Case(f"Dice C={classes}", "forward", _forward(dice, _torch_dice, classes))
        yield Case(f"Dice C={classes}", "both", both_ways(dice, _torch_dice, classes))
        yield Case(f"Dice + CE C={classes}", "both", both_ways(dice_ce, _torch_dice_ce, classes))
        yield Case(
            f"confusion_matrix C={classes}",
            "forward",
            _forward(_confusion, _torch_confusion, classes),
        )
