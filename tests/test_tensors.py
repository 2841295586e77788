"""What is no tensor is named, wherever a tensor is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from segfast import compat, losses
from segfast import functional as F
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


OTHER_LAYOUTS: list[tuple[str, Callable[[Any], Any]]] = [
    ("layout torch.sparse_coo; call its to_dense", torch.Tensor.to_sparse),
    ("layout torch._mkldnn; call its to_dense", lambda x: x.float().to_mkldnn()),
    ("a nested tensor; call its to_padded_tensor", lambda x: torch.nested.nested_tensor([x])),
    (
        "a nested tensor; call its to_padded_tensor",
        lambda x: torch.nested.nested_tensor([x], layout=torch.jagged),
    ),
]


@pytest.mark.parametrize(("kind", "lay_out"), OTHER_LAYOUTS, ids=["sparse", "mkldnn", "n", "j"])
def test_layouts_that_are_not_read(kind: str, lay_out: Callable[[Any], Any]) -> None:
    for name, call in CALLS:
        with pytest.raises(RuntimeError, match=f"^{name} must be dense, got {kind}"):
            call(lay_out(LOGITS.clone()))


def test_shapes_alone() -> None:
    """Tensors of the meta device go through everything, as through torch's ops."""
    logits, labels = LOGITS.to("meta").requires_grad_(), LABELS.to("meta")
    pooled, codes = F.max_pool2d_with_codes(logits)
    indices = F.codes_to_indices(codes, logits.shape)
    for output, shape in [
        (F.max_pool2d(logits, 2), (1, 3, 2, 2)),
        (F.max_unpool2d(pooled, indices, 2), (1, 3, 4, 4)),
        (F.max_unpool2d_with_codes(pooled, codes), (1, 3, 4, 4)),
        (F.pixel_unshuffle(logits, 2), (1, 12, 2, 2)),
        (F.subpixel_upsample(logits.repeat(1, 4, 1, 1), 2, True, True), (1, 3, 8, 8)),
        (F.overlap_stats(logits, labels).intersection, (1, 3)),
        (losses.DiceCELoss(class_weight=torch.ones(3, device="meta"))(logits, labels), ()),
        (losses.LovaszSoftmaxLoss()(logits, labels), ()),
    ]:
        assert output.is_meta and output.shape == shape
        (grad,) = torch.autograd.grad(output.sum(), logits, retain_graph=True)
        assert grad.is_meta and grad.shape == logits.shape
    assert F.indices_to_codes(indices, logits.shape).shape == codes.shape
    assert F.confusion_matrix(logits, labels, 3).shape == (3, 3)


WEIGHTED: list[tuple[str, Callable[[Any], Any]]] = [
    ("class_weight", lambda x: F.overlap_stats(LOGITS, LABELS, class_weight=x)),
    ("pixel_weight", lambda x: F.overlap_stats(LOGITS, LABELS, pixel_weight=x)),
    ("pixel_weight", lambda x: losses.DiceCELoss()(LOGITS, LABELS, x)),
]


def test_weights_that_are_none() -> None:
    for name, call in WEIGHTED:
        with pytest.raises(TypeError, match=f"^{name} must be a Tensor, got ndarray$"):
            call(np.ones(3))
        weight = torch.ones(3) if name == "class_weight" else torch.ones(1, 4, 4)
        with pytest.raises(RuntimeError, match=f"^{name} must be dense, got layout torch.sparse"):
            call(weight.to_sparse())
        # What the kernel would compute of shapes alone is whatever lies in memory.
        with pytest.raises(ValueError, match=rf"^{name} must be on the device of logits \(cpu\)"):
            call(weight.to("meta"))
    makers: list[tuple[str, Callable[[Any], Any]]] = [
        ("class_weight", lambda x: losses.DiceLoss(class_weight=x)),
        ("pos_weight", lambda x: losses.BCELoss(pos_weight=x)),
        ("class_weights", lambda x: compat.smp.DiceLoss("multiclass", class_weights=x)),
        ("alpha", lambda x: compat.monai.FocalLoss(alpha=x)),
    ]
    for name, make in makers:
        for bad in ("abc", [0.5, "x"], [None]):
            with pytest.raises(TypeError, match=f"^{name} must hold numbers, got "):
                make(bad)
        with pytest.raises(RuntimeError, match=f"^{name} must be dense, got layout"):
            make(torch.ones(3).to_sparse())
        if name != "alpha":
            make(torch.ones(3, device="meta"))


@pytest.mark.parametrize("bad", ["255", 255.0, [255], True], ids=str)
def test_numbers_that_are_none(bad: Any) -> None:
    smp = compat.smp.DiceLoss("multiclass", ignore_index=bad)
    calls: list[Callable[[], Any]] = [
        lambda: F.overlap_stats(LOGITS, LABELS, ignore_index=bad),
        lambda: F.confusion_matrix(LOGITS, LABELS, 3, bad),
        lambda: losses.DiceLoss(ignore_index=bad),
        lambda: smp(LOGITS, LABELS),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="^ignore_index must be an int or None, got "):
            call()
    with pytest.raises(TypeError, match="^num_classes must be an int, got "):
        F.confusion_matrix(LOGITS, LABELS, bad)


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
