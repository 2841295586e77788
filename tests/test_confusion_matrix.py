"""confusion_matrix: torch's argmax and bincount in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from cases import FLOATS, LAYOUTS, random_map
from op_tester import Arguments, OpTester
from test_overlap_stats import LOGITS, labels_for, lay_out_any

from segfast import functional as F
from segfast.reference import confusion_matrix as twin


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("per_image", [False, True])
def test_equals_argmax_and_bincount(
    device: torch.device, dtype: torch.dtype, layout: str, per_image: bool
) -> None:
    """Ties, NaN and infinities included: the first maximum wins, and the first NaN before all."""
    for shape in (*LOGITS.values(), (2, 1, 9, 7), (1, 3, 150, 170)):
        logits = lay_out_any(random_map(shape, dtype, device), layout)
        target = labels_for(shape).to(device)
        classes = max(shape[1], 2)
        actual = F.confusion_matrix(logits, target, classes, -1, per_image=per_image)
        expected = twin.confusion_matrix(logits, target, classes, -1, 0.0, per_image)
        assert torch.equal(actual, expected)
        assert actual.sum() == (target != -1).sum()


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64], ids=str
)
def test_label_maps_of_any_integer_type(device: torch.device, dtype: torch.dtype) -> None:
    predicted = torch.randint(5, (3, 20, 30), device=device)
    target = torch.randint(5, (3, 20, 30), device=device)
    target[0] = 99
    predicted[0] = 99  # nobody looks at predictions of ignored pixels
    actual = F.confusion_matrix(predicted.to(dtype), target.to(dtype), 5, 99)
    assert torch.equal(actual, twin.confusion_matrix(predicted, target, 5, 99, 0.0, False))
    booleans = F.confusion_matrix(predicted > 2, target > 2, 2)
    assert booleans.sum() == target.numel()


@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.9])
def test_one_channel_predicts_above_the_threshold(device: torch.device, threshold: float) -> None:
    logits = torch.randn(2, 1, 30, 40, dtype=torch.float64, device=device)
    target = torch.randint(2, (2, 30, 40), device=device)
    actual = F.confusion_matrix(logits, target, 2, threshold=threshold)
    predicted = (logits.sigmoid() > threshold).squeeze(1).long()
    assert torch.equal(actual, F.confusion_matrix(predicted, target, 2))


def test_many_classes(device: torch.device) -> None:
    """More than a GPU's shared memory counts."""
    logits = torch.randn(1, 200, 9, 31, device=device)
    target = torch.randint(200, (1, 9, 31), device=device)
    expected = twin.confusion_matrix(logits, target, 200, None, 0.0, False)
    assert torch.equal(F.confusion_matrix(logits, target, 200), expected)


def test_empty(device: torch.device) -> None:
    for shape in ((0, 3, 4, 5), (2, 3, 0, 5)):
        target = torch.zeros(shape[0], *shape[2:], dtype=torch.long, device=device)
        logits = torch.zeros(shape, device=device)
        assert F.confusion_matrix(logits, target, 3).sum() == 0
        assert F.confusion_matrix(logits, target, 3, per_image=True).shape == (shape[0], 3, 3)


L = torch.zeros(2, 3, 4, 4)
Y = torch.zeros(2, 4, 4, dtype=torch.long)
BAD: dict[str, tuple[type[Exception], str, tuple[Any, ...]]] = {
    "label": (IndexError, "target must hold labels 0 to 2", (L, Y + 3, 3)),
    "negative label": (IndexError, "from -1 to -1", (L, Y - 1, 3)),
    "predicted label": (IndexError, "prediction must hold labels 0 to 2", (Y + 3, Y, 3)),
    "float labels": (TypeError, "integer labels", (L, Y.float(), 3)),
    "classes": (ValueError, "number of channels", (L, Y, 4)),
    "no classes": (ValueError, "at least 1", (Y, Y, 0)),
    "shape": (ValueError, r"shape \[2, 4, 4\]", (L, Y[:1], 3)),
    "shape of labels": (ValueError, "target must have shape", (Y, Y[:1], 3)),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input(case: tuple[type[Exception], str, tuple[Any, ...]]) -> None:
    error, message, arguments = case
    for function in (
        F.confusion_matrix,
        lambda *args: twin.confusion_matrix(*args, None, 0.0, False),
    ):
        with pytest.raises(error, match=message):
            function(*arguments)


def test_tensors_of_two_devices() -> None:
    """For fake tensors too, whose result would be memory that nobody wrote."""
    for function in (
        F.confusion_matrix,
        lambda *args: twin.confusion_matrix(*args, None, 0, False),
    ):
        with pytest.raises(ValueError, match="target must be on the device of prediction"):
            function(L.to("meta"), Y, 3)


def test_bad_threshold() -> None:
    for end in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"threshold must lie between 0 and 1, got {end}"):
            F.confusion_matrix(L[:, :1], Y, 2, threshold=end)


def test_vmap_of_matrices_per_image(device: torch.device) -> None:
    logits = torch.randn(4, 2, 3, 5, 6, device=device)
    target = torch.randint(3, (4, 2, 5, 6), device=device)
    matrices = torch.vmap(lambda x, y: F.confusion_matrix(x, y, 3, per_image=True))(logits, target)
    each = [
        F.confusion_matrix(x, y, 3, per_image=True) for x, y in zip(logits, target, strict=True)
    ]
    assert torch.equal(matrices, torch.stack(each))
    for per_image, shape in ((True, (0, 2, 3, 3)), (False, (0, 3, 3))):
        count = partial(F.confusion_matrix, num_classes=3, per_image=per_image)
        assert torch.vmap(count)(logits[:0], target[:0]).shape == shape


class TestOp(OpTester):
    op = staticmethod(F.confusion_matrix)
    overloads = ("confusion_matrix",)
    differentiable = False

    def small(self) -> Iterator[Arguments]:
        yield torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(3, (2, 4, 5)), 3

    def overload_arguments(self, name: str) -> Iterator[Arguments]:
        for logits, target, classes in self.small():
            yield logits, target, classes, None, 0.0, True

    def test_gradients(self, device: torch.device) -> None:
        pytest.skip("counts have no gradient")
