"""Lazily conjugated and negated views: tensors whose memory holds something else than their values.

torch's ops see the values; so must every op here, of its inputs and of the gradients it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_tester import results_of
from torch import Tensor

import segfast
from segfast import functional as F
from segfast import losses
from segfast.compat import smp

nnf = torch.nn.functional


def lazy(values: Tensor, strided: bool) -> Tensor:
    """The same values, negated in memory; with gaps as a view of complex numbers, or without."""
    view = torch._neg_view(-values)
    if strided and values.is_floating_point():
        view = torch.complex(torch.zeros_like(values), -values).conj().imag
    assert view.is_neg() and torch.equal(view, values)
    return view


def upsample(x: Tensor) -> Tensor:
    """fastai's tail after the convolution, of torch's layers."""
    fine = nnf.pixel_shuffle(x.relu(), 2)
    return nnf.avg_pool2d(nnf.pad(fine, (1, 0, 1, 0), mode="replicate"), 2, stride=1)


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    p = logits.softmax(1)
    t = nnf.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    sums = [x.sum((0, 2, 3)) for x in (p * t, p + t)]
    return (1 - 2 * sums[0] / sums[1]).mean()


def count(prediction: Tensor, labels: Tensor) -> Tensor:
    return (4 * labels + prediction).flatten().bincount(minlength=16).view(4, 4)


def mean_iou(logits: Tensor, labels: Tensor) -> Tensor:
    pytest.importorskip("torchmetrics")
    metric = segfast.metrics.MeanIoU(4).to(logits.device)
    metric.update(logits, labels)
    return metric.compute()


def iou(logits: Tensor, labels: Tensor) -> Tensor:
    matrix = count(logits.argmax(1), labels).double()
    return (matrix.diag() / (matrix.sum(0) + matrix.sum(1) - matrix.diag())).mean()


MAP = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(4, (2, 6, 8), generator=torch.Generator().manual_seed(2))
POOLED, INDICES = nnf.max_pool2d(MAP, 2, return_indices=True)
CODES = F.indices_to_codes(INDICES, (2, 4, 6, 8), 2)

#: Ours, the original, the arguments.
OPS: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...]]] = {
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), lambda x: nnf.max_pool2d(x, 2), (MAP,)),
    "max_pool2d padded": (
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: nnf.max_pool2d(x, 3, 2, 1),
        (MAP,),
    ),
    "max_pool2d indices": (
        lambda x: F.max_pool2d(x, 2, return_indices=True),
        lambda x: nnf.max_pool2d(x, 2, return_indices=True),
        (MAP,),
    ),
    "max_pool2d_with_codes": (
        lambda x: F.max_pool2d_with_codes(x)[0],
        lambda x: nnf.max_pool2d(x, 2),
        (MAP,),
    ),
    "max_unpool2d": (
        lambda x, i: F.max_unpool2d(x, i, 2),
        lambda x, i: nnf.max_unpool2d(x, i, 2),
        (POOLED, INDICES),
    ),
    "max_unpool2d_with_codes": (
        F.max_unpool2d_with_codes,
        lambda x, _: nnf.max_unpool2d(x, INDICES, 2),
        (POOLED, CODES),
    ),
    "codes_to_indices": (
        lambda codes: F.codes_to_indices(codes, (2, 4, 6, 8), 2),
        lambda codes: INDICES.to(codes.device),
        (CODES,),
    ),
    "indices_to_codes": (
        lambda indices: F.indices_to_codes(indices, (2, 4, 6, 8), 2),
        lambda indices: CODES.to(indices.device),
        (INDICES,),
    ),
    "pixel_shuffle": (
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: nnf.pixel_shuffle(x, 2),
        (MAP,),
    ),
    "pixel_unshuffle": (
        lambda x: F.pixel_unshuffle(x, 2),
        lambda x: nnf.pixel_unshuffle(x, 2),
        (MAP,),
    ),
    "subpixel_upsample": (
        lambda x: F.subpixel_upsample(x, 2, relu=True, blur=True),
        upsample,
        (MAP,),
    ),
    "confusion_matrix of logits": (
        lambda x, y: F.confusion_matrix(x, y, 4),
        lambda x, y: count(x.argmax(1), y),
        (MAP, LABELS),
    ),
    "confusion_matrix of labels": (
        lambda x, y: F.confusion_matrix(x, y, 4),
        count,
        (LABELS.roll(1), LABELS),
    ),
    "metrics": (mean_iou, iou, (MAP, LABELS)),
    "overlap_stats": (
        lambda x, y: F.overlap_stats(x, y).cross_entropy.sum().float(),
        lambda x, y: nnf.cross_entropy(x, y, reduction="sum"),
        (MAP, LABELS),
    ),
    "DiceLoss": (losses.DiceLoss(), dice, (MAP, LABELS)),
    "CrossEntropyLoss": (losses.CrossEntropyLoss(), nnf.cross_entropy, (MAP, LABELS)),
    "BCELoss": (
        losses.BCELoss("multilabel"),
        nnf.binary_cross_entropy_with_logits,
        (MAP, MAP.sigmoid().roll(1)),
    ),
    "compat.smp.DiceLoss": (smp.DiceLoss("multiclass"), dice, (MAP, LABELS)),
    "LovaszSoftmaxLoss": (
        losses.LovaszSoftmaxLoss(),
        lambda x, y: losses.LovaszSoftmaxLoss()(x.resolve_neg(), y.resolve_neg()),
        (MAP, LABELS),
    ),
}


@pytest.mark.parametrize("strided", [False, True], ids=["dense", "strided"])
@pytest.mark.parametrize("name", OPS)
def test_every_op_sees_the_values(device: torch.device, name: str, strided: bool) -> None:
    ours, theirs, arguments = OPS[name]
    arguments = tuple(x.to(device) for x in arguments)
    example = theirs(*arguments)
    first = example[0] if isinstance(example, tuple) else example
    slope = torch.rand(first.shape, device=device).to(first.dtype)
    for lazily in range(1, 2 ** (len(arguments) + 1)):  # each argument and the gradient
        given = [
            lazy(x, strided) if lazily >> i & 1 else x for i, x in enumerate((*arguments, slope))
        ]
        args, given_slope = given[:-1], given[-1]
        actual, expected = (results_of(op, args, given_slope) for op in (ours, theirs))
        torch.testing.assert_close(actual, expected)
