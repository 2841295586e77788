"""Plain-PyTorch twin of confusion_matrix: argmax, then bincount."""

from __future__ import annotations

import torch
from torch import Tensor

from segfast._classes import LABEL_DTYPES, check_classes, check_values, map_shape
from segfast._tensors import check_floating, check_same_device


def check_inputs(prediction: Tensor, target: Tensor, num_classes: int) -> None:
    """Raises ValueError, TypeError or RuntimeError for inputs that the op refuses."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if target.dtype not in LABEL_DTYPES:
        raise TypeError(f"target must hold integer labels, got {target.dtype}")
    shape = list(prediction.shape)
    if prediction.is_floating_point():
        check_floating("logits", prediction)
        check_classes(prediction)
        channels = prediction.shape[1]
        if num_classes != (2 if channels == 1 else channels):
            raise ValueError(
                "num_classes must be the number of channels of the logits (2 for one), got "
                f"{num_classes} for {shape}"
            )
        shape = map_shape(prediction)
    if list(target.shape) != shape:
        raise ValueError(f"target must have shape {shape}, got {list(target.shape)}")
    check_same_device("target", target, "prediction", prediction)


def confusion_matrix(
    prediction: Tensor,
    target: Tensor,
    num_classes: int,
    ignore_index: int | None,
    threshold: float,
    per_image: bool,
) -> Tensor:
    """See :func:`segfast.functional.confusion_matrix`; ``threshold`` is a logit here."""
    check_inputs(prediction, target, num_classes)
    labels = target.long()
    counts = torch.ones_like(labels, dtype=torch.bool)
    if ignore_index is not None:
        counts = labels != ignore_index
    check_values(target, False, num_classes, ignore_index)
    if not prediction.is_floating_point():
        predicted = prediction.long().masked_fill(~counts, 0)  # nobody asks what it is there
        check_values(predicted, False, num_classes, None, "prediction")
    elif prediction.shape[1] == 1:
        predicted = (prediction.squeeze(1) > threshold).long()
    else:
        predicted = prediction.argmax(1)
    shape = (len(labels) if per_image else 1, num_classes, num_classes)
    images = torch.arange(shape[0], device=labels.device).reshape(-1, *[1] * (labels.dim() - 1))
    pairs = (images * num_classes + labels) * num_classes + predicted
    matrix = pairs[counts].bincount(minlength=shape[0] * num_classes**2).reshape(shape)
    return matrix if per_image else matrix[0]
