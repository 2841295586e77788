"""Counts of (label, prediction) pairs: what every metric of label maps is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segfast._classes import check_ignore_index
from segfast._library import define_op
from segfast._tensors import as_int, check_tensors
from segfast.functional._batching import batch_first
from segfast.reference import confusion_matrix as reference

__all__ = ["confusion_matrix"]


def confusion_matrix(
    prediction_or_logits: Tensor,
    target: Tensor,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    threshold: float = 0.5,
    per_image: bool = False,
) -> Tensor:
    """How many pixels of each class were predicted as each class.

    Reads logits once, with the argmax fused in: no temporary of the image's size, and no wait for
    the device.

    Args:
        prediction_or_logits: logits [N, C, ...] (float32, float64, float16 or bfloat16, contiguous
            or channels_last) with 1 to 3 spatial dimensions, or predicted labels [N, ...] of any
            integer type. The prediction is the first largest logit (NaN counts as largest), as of
            ``torch.argmax``; of one channel it is 1 where its sigmoid is above ``threshold``.
        target: integer labels [N, ...] of any integer type.
        num_classes: K: the number of channels of the logits, 2 for one channel.
        ignore_index: label of pixels that do not count.
        threshold: probability above which one channel predicts 1, strictly between 0 and 1.
        per_image: a matrix for each image.

    Returns:
        int64 [K, K], or [N, K, K] with ``per_image``: rows are the labels, columns the predictions.
        Exact, whatever the number of threads.

    Raises:
        ValueError: shapes or ``num_classes`` do not fit.
        TypeError: floating-point labels, what is no tensor, or a number that is no int.
        RuntimeError: logits of another type than float32, float64, float16 and bfloat16.
        IndexError: on the CPU, a label or a predicted label outside ``[0, num_classes)``, where the
            pixel is not ignored. On CUDA the kernel stops and the next synchronising call raises.

    The plain-PyTorch equivalent is ``bincount(target * K + logits.argmax(1), minlength=K * K)``.
    """
    check_tensors(prediction_or_logits=prediction_or_logits, target=target)
    return _confusion_matrix(  # type: ignore[no-any-return]
        prediction_or_logits,
        target,
        as_int("num_classes", num_classes),
        check_ignore_index(ignore_index),
        logit_of(threshold),
        per_image,
    )


def logit_of(threshold: float) -> float:
    """The logit whose sigmoid is ``threshold``.

    Raises:
        ValueError: it does not lie strictly between 0 and 1.
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
    return math.log(threshold / (1.0 - threshold))


def _fake(
    prediction: Tensor,
    target: Tensor,
    num_classes: int,
    ignore_index: int | None,
    threshold: float,
    per_image: bool,
) -> Tensor:
    reference.check_inputs(prediction, target, num_classes)
    shape = [target.shape[0], num_classes, num_classes] if per_image else [num_classes] * 2
    return target.new_empty(shape, dtype=torch.int64)


def _vmap(
    info: Any,
    in_dims: Sequence[int | None],
    prediction: Tensor,
    target: Tensor,
    *options: Any,
) -> tuple[Tensor, int]:
    size = info.batch_size
    batched = [
        batch_first(x, dim, size) for x, dim in zip((prediction, target), in_dims, strict=False)
    ]
    images = batched[1].shape[1]
    *others, per_image = options
    matrices = _confusion_matrix(*(x.flatten(0, 1) for x in batched), *others, True)
    matrices = matrices.unflatten(0, (size, images))
    return matrices if per_image else matrices.sum(1), 0


_confusion_matrix = define_op(
    "confusion_matrix(Tensor prediction, Tensor target, int num_classes, int? ignore_index, "
    "float threshold, bool per_image) -> Tensor",
    reference=reference.confusion_matrix,
    fake=_fake,
    vmap=_vmap,
)
