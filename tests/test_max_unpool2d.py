"""max_unpool2d: torch's values, checks and gradients, from indices and from codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import FLOATS, LAYOUTS, MAPS, WINDOWS, fits, lay_out, random_map
from op_tester import Arguments, OpTester, assert_same

import segfast
from segfast import functional as F
from segfast._window import format_of, pool_window
from segfast.reference import max_unpool2d as twin

# Windows that torch's unpooling can undo: it knows no dilation.
UNDILATED = {name: window for name, window in WINDOWS.items() if "dilation" not in window}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arguments", UNDILATED.values(), ids=UNDILATED.keys())
def test_equals_torch(
    device: torch.device, dtype: torch.dtype, layout: str, arguments: dict[str, Any]
) -> None:
    unpool = {k: v for k, v in arguments.items() if k != "ceil_mode"}
    window = pool_window(unpool["kernel_size"], unpool.get("stride"), unpool.get("padding", 0))
    for shape in MAPS.values():
        if not fits(shape, arguments):
            continue
        map = random_map(shape, dtype, device)
        pooled, indices = F.max_pool2d(map, **arguments, return_indices=True)
        # Other values than the pooled ones, so that two windows that share a maximum differ.
        input = lay_out(torch.randn(pooled.shape, dtype=torch.float64).to(pooled), layout)
        indices = lay_out(indices, layout)
        plain = input.contiguous(memory_format=format_of(input))
        try:
            native = torch.nn.functional.max_unpool2d(plain, indices, **unpool, output_size=shape)
        except ValueError:  # torch cannot unpool to this size
            with pytest.raises(ValueError, match="invalid output_size"):
                F.max_unpool2d(input, indices, **unpool, output_size=shape)
            continue
        expected = twin.max_unpool2d(input, indices, window, shape[-2:])
        if window[0] <= window[2]:  # windows apart: no two values for one position
            assert torch.equal(native, expected)
        mine = input.clone().requires_grad_()
        output = F.max_unpool2d(mine, indices, **unpool, output_size=shape)
        assert_same(output.detach(), expected)

        codes = F.indices_to_codes(indices, shape, **arguments)
        coded = mine.detach().clone().requires_grad_()
        output_of_codes = F.max_unpool2d_with_codes(coded, codes, **unpool, output_size=shape)
        assert_same(output_of_codes.detach(), expected)

        grad_output = torch.randn(output.shape, dtype=torch.float64).to(output)
        expected_grad = twin.max_unpool2d_backward(grad_output, indices, window, pooled.shape[-2:])
        for result, leaf in ((output, mine), (output_of_codes, coded)):
            (grad,) = torch.autograd.grad(result, leaf, grad_output)
            torch.testing.assert_close(grad, expected_grad, rtol=0, atol=0, check_stride=False)


def _pooled(kernel: int, stride: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    map = torch.randn(shape, dtype=torch.float64)
    _, indices = F.max_pool2d(map, kernel, stride, return_indices=True)
    return torch.randn(indices.shape, dtype=torch.float64), indices


def test_second_derivative_by_foreign_indices(device: torch.device) -> None:
    """Indices that no window covers, as no pooling of this window gives them."""
    input = torch.randn(2, 3, 3, 4, dtype=torch.float64, device=device)
    indices = torch.stack([torch.randperm(48)[:12] for _ in range(6)]).view(2, 3, 3, 4).to(device)
    found = []
    for unpool in (F.max_unpool2d, torch.nn.functional.max_unpool2d):
        x = input.clone().requires_grad_()
        slope = torch.linspace(-1, 1, 288, dtype=torch.float64, device=device)
        slope = slope.view(2, 3, 6, 8).requires_grad_()
        (grad,) = torch.autograd.grad(unpool(x, indices, 2), x, slope, create_graph=True)
        found.append(torch.autograd.grad(grad.sin().sum(), slope)[0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


class TestMaxUnpool2d(OpTester):
    op = F.max_unpool2d
    overloads = ("max_unpool2d", "max_unpool2d_backward")

    def small(self) -> Iterator[Arguments]:
        # Windows apart only: finite differences know nothing of who wins a shared position.
        yield *_pooled(2, 2, 2, 3, 5, 6), 2, 2, 0, (5, 6)
        yield *_pooled(3, 3, 3, 6, 7), 3, 3, 0, (6, 7)

    def overload_arguments(self, name: str) -> Iterator[Arguments]:
        for layout in ("channels_last", "strided"):
            for kernel in (2, 3):
                values, indices = _pooled(kernel, kernel, 2, 3, 7, 6)
                window = list(pool_window(kernel, None))
                if name == "max_unpool2d":
                    yield lay_out(values, layout), indices, window, [7, 6]
                else:
                    map = lay_out(torch.randn(2, 3, 7, 6, dtype=torch.float64), layout)
                    yield map, indices, window, list(values.shape[-2:])


class TestMaxUnpool2dWithCodes(OpTester):
    op = F.max_unpool2d_with_codes
    overloads = ("max_unpool2d_with_codes", "max_unpool2d_backward")

    def small(self) -> Iterator[Arguments]:
        for kernel, shape in ((2, (2, 3, 5, 6)), (3, (3, 6, 7))):
            output, codes = F.max_pool2d_with_codes(torch.randn(shape, dtype=torch.float64), kernel)
            yield torch.randn_like(output), codes, kernel, None, 0, 1, shape[-2:]

    def overload_arguments(self, name: str) -> Iterator[Arguments]:
        for layout in ("channels_last", "strided"):
            for kernel, stride in ((2, 2), (3, 2)):
                map = lay_out(torch.randn(2, 3, 7, 6, dtype=torch.float64), layout)
                output, codes = F.max_pool2d_with_codes(map, kernel, stride)
                window = list(pool_window(kernel, stride))
                if name == "max_unpool2d_with_codes":
                    yield torch.randn_like(output), codes, window, [7, 6]
                else:
                    yield map, codes, window, list(output.shape[-2:])


def test_foreign_indices_go_on_working(device: torch.device) -> None:
    # Indices that no 2x2 window holds: of another pooling, with many duplicates, in both layouts.
    for layout in ("contiguous", "channels_last"):
        for shape in ((2, 3, 5, 6), (1, 4, 33, 34), (2, 40, 7, 9)):
            input = lay_out(torch.randn(shape, device=device), layout)
            plane = 4 * shape[2] * shape[3]
            indices = lay_out(torch.randint(plane // 3, shape, device=device), layout)
            window = pool_window(2, None)
            expected = twin.max_unpool2d(input, indices, window, (2 * shape[2], 2 * shape[3]))
            actual = F.max_unpool2d(input, indices, 2)
            assert_same(actual, expected)
            again = F.max_unpool2d(input, indices, 2)
            assert torch.equal(actual, again)


def test_codes_of_one_layout_with_values_of_the_other(device: torch.device) -> None:
    map = torch.randn(2, 5, 6, 7, device=device)
    for made in ("contiguous", "channels_last"):
        output, codes = F.max_pool2d_with_codes(lay_out(map, made))
        for used in ("contiguous", "channels_last"):
            restored = F.max_unpool2d_with_codes(lay_out(output, used), codes, output_size=(6, 7))
            expected = torch.where(restored != 0, map, 0)
            assert_same(restored, lay_out(expected, used))
            assert restored.count_nonzero() == output.numel()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("index", [-1, 16, 2**31, 2**40])
def test_an_index_outside_its_plane_is_refused(layout: str, index: int) -> None:
    input = lay_out(torch.ones(1, 2, 2, 2), layout)
    indices = lay_out(torch.zeros(1, 2, 2, 2, dtype=torch.int64), layout)
    indices[0, 1, 1, 1] = index
    with pytest.raises(RuntimeError, match=f"Found an invalid max index: {index} "):
        F.max_unpool2d(input, indices, 2)
    backward = torch.ops.segfast.max_unpool2d_backward
    arguments = torch.ones(1, 2, 4, 4), indices, [2, 2, 2, 2, 0, 0, 1, 1], [2, 2]
    if index == -1:  # to the backward pass the record of a window without input
        expected = torch.ones(1, 2, 2, 2)
        expected[0, 1, 1, 1] = 0
        assert torch.equal(backward(*arguments), expected)
        return
    with pytest.raises(RuntimeError, match="Found an invalid max index"):
        backward(*arguments)


def test_a_code_outside_the_map_is_refused() -> None:
    values = torch.ones(1, 1, 2, 2)
    # Of a 3x3 map the second window of a row holds one column: code 1 names none.
    with pytest.raises(RuntimeError, match="code 1 names no position of its window inside the map"):
        F.max_unpool2d_with_codes(
            values, torch.tensor([[[0b0100, 0b0000]]], dtype=torch.uint8), output_size=(3, 3)
        )
    codes = torch.full((1, 1, 2, 2), 9, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="code 9 names no position"):
        F.max_unpool2d_with_codes(values, codes, 3, 3)
    with pytest.raises(RuntimeError, match="code 255 names no position"):
        F.max_unpool2d_with_codes(values, codes * 0 + 255, 3, 3)
    with pytest.raises(ValueError, match="codes hold a position outside the map"):
        F.codes_to_indices(codes, (1, 1, 6, 6), 3)


def test_indices_that_no_code_can_say() -> None:
    indices = torch.tensor([[[[0, 5]]]])
    with pytest.raises(ValueError, match="its own window does not cover"):
        F.indices_to_codes(indices, (1, 1, 2, 4))


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"indices": torch.zeros(1, 1, 2, 2)}, RuntimeError, "indices must be int64, got"),
        (
            {"indices": torch.zeros(1, 1, 2, 3, dtype=torch.int64)},
            RuntimeError,
            r"Expected shape of indices to be \[1, 1, 2, 2\]",
        ),
        ({"kernel_size": 0}, RuntimeError, "kernel_size must be at least 1, got"),
        ({"output_size": (4,)}, ValueError, "output_size should be a sequence containing 2 or 4"),
        (
            {"output_size": (9, 4)},
            ValueError,
            r'invalid output_size "\[9, 4\]" \(dim 0 must be between 2 and 6\)',
        ),
        ({"input": torch.zeros(2, 2)}, RuntimeError, "Expected 3D or 4D"),
        (
            {"input": torch.zeros(1, 1, 2, 2, dtype=torch.int32)},
            RuntimeError,
            "input must be float32, float64, float16 or bfloat16, got Int",
        ),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    good = {
        "input": torch.zeros(1, 1, 2, 2),
        "indices": torch.zeros(1, 1, 2, 2, dtype=torch.int64),
        "kernel_size": 2,
    }
    with pytest.raises(error, match=sentence):
        F.max_unpool2d(**(good | arguments))


def test_sizes_within_a_stride_of_the_default() -> None:
    """4 by default: 3 and 5 are torch's too, 2 and 6 nobody's, eager or traced."""
    input, indices = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    for function in (F.max_unpool2d, torch.nn.functional.max_unpool2d):
        for size in ((3, 5), (5, 3)):
            assert function(input, indices, 2, output_size=size).shape == (1, 1, *size)
        for tensors in ((input, indices), (input.to("meta"), indices.to("meta"))):
            for size in ((2, 4), (4, 2), (6, 4), (4, 6)):
                with pytest.raises(ValueError, match="must be between 2 and 6"):
                    function(*tensors, 2, output_size=size)


def test_indices_of_another_device() -> None:
    """Of fake tensors too, whose result would be memory that nobody wrote."""
    with pytest.raises(RuntimeError, match="indices must be on the device of input"):
        F.max_unpool2d(
            torch.zeros(1, 1, 2, 2, device="meta"), torch.zeros(1, 1, 2, 2, dtype=torch.int64), 2
        )


def test_layer_is_torchs() -> None:
    theirs, ours = torch.nn.MaxUnpool2d(2, stride=2), segfast.nn.MaxUnpool2d(2, stride=2)
    assert repr(ours) == repr(theirs)
    map = torch.randn(2, 3, 6, 8)
    pooled, indices = torch.nn.functional.max_pool2d(map, 2, return_indices=True)
    for size in (None, (7, 9), (2, 3, 6, 9)):
        assert_same(ours(pooled, indices, size), theirs(pooled, indices, size))


def test_layers_of_codes_pass_their_window_on() -> None:
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}
    pool = segfast.nn.MaxPool2dWithCodes(**window, ceil_mode=True)
    unpool = segfast.nn.MaxUnpool2dWithCodes(**window)
    map = torch.randn(2, 3, 12, 13)
    pooled, codes = pool(map)
    assert_same((pooled, codes), F.max_pool2d_with_codes(map, **window, ceil_mode=True))
    expected = F.max_unpool2d_with_codes(pooled, codes, **window, output_size=map.shape)
    assert_same(unpool(pooled, codes, map.shape), expected)
    said = "kernel_size=3, stride=2, padding=1, dilation=2"
    assert f"({said}, ceil_mode=True)" in repr(pool) and f"({said})" in repr(unpool)


@pytest.mark.parametrize("device", ["cpu", "meta"])  # in C++, and in Python
def test_default_size_of_dilated_windows(device: str) -> None:
    map = torch.randn(1, 2, 9, 11)
    pooled, codes = (x.to(device) for x in F.max_pool2d_with_codes(map, 3, 1, 1, 2))
    assert F.max_unpool2d_with_codes(pooled, codes, 3, 1, 1, 2).shape == map.shape


def test_results_are_the_same_for_any_thread_count() -> None:
    map = torch.randn(2, 16, 64, 66)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            output, codes = F.max_pool2d_with_codes(map, 3, 2, 1)
            results.append(
                (output, codes, F.max_unpool2d_with_codes(output, codes, 3, 2, 1, 1, (64, 66)))
            )
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert_same(other, results[0])


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("F.max_unpool2d(torch.ones(1, 1, 2, 2).cuda(), bad, 2)", "Found an invalid max index"),
        ("F.indices_to_codes(bad, (1, 1, 4, 4))", "an index lies outside its own window"),
        (
            "F.codes_to_indices(bad.byte(), (1, 1, 6, 6), 3)",
            "a code names a position outside the map",
        ),
    ],
)
def test_a_bad_record_on_cuda_stops_the_next_synchronising_call(call: str, sentence: str) -> None:
    # A failed device check spoils the context, so this runs in a process of its own.
    import subprocess
    import sys

    code = (
        "import torch, segfast.functional as F\n"
        "bad = torch.full((1, 1, 2, 2), 99, device='cuda')\n"
        f"{call}\n"
        "try:\n    torch.cuda.synchronize()\nexcept RuntimeError as e:\n    print('refused', e)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "refused" in result.stdout
    assert sentence in result.stderr
