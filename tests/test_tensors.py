"""What is no tensor is named, wherever a tensor is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from segfast import functional as F
from segfast import losses
from segfast.reference import overlap_stats as twin

LOGITS, LABELS = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)

# The name of the argument, and a call with x in its place.
CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("input", lambda x: F.max_pool2d(x, 2)),
    ("input", F.max_pool2d_with_codes),
    ("input", lambda x: F.max_unpool2d(x, LABELS, 2)),
    ("indices", lambda x: F.max_unpool2d(LOGITS, x, 2)),
    ("input", lambda x: F.max_unpool2d_with_codes(x, LABELS)),
    ("codes", lambda x: F.max_unpool2d_with_codes(LOGITS, x)),
    ("codes", lambda x: F.codes_to_indices(x, (1, 3, 4, 4))),
    ("indices", lambda x: F.indices_to_codes(x, (1, 3, 4, 4))),
    ("input", lambda x: F.pixel_shuffle(x, 2)),
    ("input", lambda x: F.pixel_unshuffle(x, 2)),
    ("input", F.subpixel_upsample),
    ("logits", lambda x: F.overlap_stats(x, LABELS)),
    ("target", lambda x: F.overlap_stats(LOGITS, x)),
    ("prediction_or_logits", lambda x: F.confusion_matrix(x, LABELS, 3)),
    ("target", lambda x: F.confusion_matrix(LOGITS, x, 3)),
    ("logits", lambda x: losses.DiceCELoss()(x, LABELS)),
    ("target", lambda x: losses.DiceCELoss()(LOGITS, x)),
    ("logits", lambda x: losses.LovaszSoftmaxLoss()(x, LABELS)),
    ("target", lambda x: losses.LovaszSoftmaxLoss()(LOGITS, x)),
]

# What the kernels compute in, asked for by C++ and by Python.
COMPUTED: list[tuple[str, Callable[[Any], Any]]] = [
    ("input", lambda x: F.max_pool2d_with_codes(x)),
    ("input", lambda x: F.max_unpool2d(x, LABELS.expand(1, 3, 4, 4), 2)),
    ("input", lambda x: F.subpixel_upsample(x, 1, relu=True)),
    ("logits", lambda x: F.overlap_stats(x, LABELS)),
    ("logits", lambda x: losses.DiceCELoss()(x, LABELS)),
    ("logits", lambda x: losses.LovaszSoftmaxLoss()(x, LABELS)),
    ("logits", lambda x: twin.check_inputs(x, LABELS, *[None] * 3, False, 1, 0.0, 0.0)),
]


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e5m2], ids=str)
def test_types_that_are_not_computed_in(dtype: torch.dtype) -> None:
    for name, call in COMPUTED:
        wanted = f"^{name} must be float32, float64, float16 or bfloat16, got "
        with pytest.raises(RuntimeError, match=wanted):
            call(LOGITS.to(dtype))


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (None, "NoneType$"),
        (LOGITS.numpy(), "ndarray$"),
        ((LOGITS, LOGITS), "tuple; pass one of its tensors"),
        ({"out": LOGITS}, "dict; pass one of its tensors"),  # as torchvision's models return
    ],
    ids=["None", "ndarray", "tuple", "dict"],
)
def test_what_is_no_tensor(bad: Any, kind: str) -> None:
    for name, call in CALLS:
        with pytest.raises(TypeError, match=f"^{name} must be a Tensor, got {kind}"):
            call(bad)
