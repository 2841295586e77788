"""PyTorch's own sample inputs and error inputs, run against ours.

They come from torch.testing._internal.common_methods_invocations.op_db.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_tester import assert_same

from segfast import functional as F
from segfast._window import format_of

pytest.importorskip("expecttest", reason="torch's op_db needs expecttest, which is not installed")

from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

OURS: dict[str, Callable[..., Any]] = {
    "nn.functional.max_pool2d": F.max_pool2d,
    "nn.functional.max_unpool2d": F.max_unpool2d,
    "nn.functional.pixel_shuffle": F.pixel_shuffle,
    "nn.functional.pixel_unshuffle": F.pixel_unshuffle,
}
OPS = [op for op in op_db if op.name in OURS]
CASES = [
    pytest.param(op, dtype, id=f"{op.name}-{op.variant_test_name}-{dtype}")
    for op in OPS
    for dtype in sorted(op.dtypes, key=str)
]


def test_every_op_is_there() -> None:
    assert {op.name for op in OPS} == set(OURS)


@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_sample_inputs(device: torch.device, op: Any, dtype: torch.dtype) -> None:
    if dtype not in op.supported_dtypes(device.type):
        pytest.skip(f"torch's own has no {dtype} on {device.type}")
    differentiable = dtype.is_floating_point or dtype.is_complex
    samples = 0
    options = {"requires_grad": differentiable, "set_seed": False}  # or it seeds for each of 1440
    for sample in op.sample_inputs(device.type, dtype, **options):
        expected = op(sample.input, *sample.args, **sample.kwargs)
        if op.name == "nn.functional.max_unpool2d" and device.type == "cuda":
            # torch unpools to contiguous maps there; ours keep the input's format, as on the CPU.
            expected = expected.contiguous(memory_format=format_of(sample.input))
        mine = sample.input.detach().requires_grad_(differentiable)
        actual = OURS[op.name](mine, *sample.args, **sample.kwargs)
        assert_same(actual, expected)
        samples += 1
        if differentiable:
            first = expected[0] if isinstance(expected, tuple) else expected
            grad = torch.randn(first.shape, dtype=torch.float64).to(first)
            (expected_grad,) = torch.autograd.grad(first, sample.input, grad)
            first = actual[0] if isinstance(actual, tuple) else actual
            (actual_grad,) = torch.autograd.grad(first, mine, grad)
            # Overlapping windows add up: torch rounds each partial sum of 16-bit gradients, we
            # round once.
            eps = torch.finfo(dtype).eps if dtype.itemsize == 2 else 0
            torch.testing.assert_close(
                actual_grad, expected_grad, rtol=4 * eps, atol=4 * eps, check_stride=False
            )
    assert samples > 0


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in OPS if op.error_inputs_func])
def test_error_inputs(device: torch.device, op: Any) -> None:
    for error in op.error_inputs(device):
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            OURS[op.name](sample.input, *sample.args, **sample.kwargs)
