"""max_pool2d: torch's values, indices and gradients; codes; what it owes as an op."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import FLOATS, LAYOUTS, MAPS, WINDOWS, fits, lay_out, random_map
from op_tester import Arguments, OpTester, assert_same, saved_by

import segfast
from segfast import functional as F
from segfast._window import pool_window
from segfast.reference import max_pool2d as twin


def has_empty_windows(indices: torch.Tensor) -> bool:
    return bool((indices < 0).any())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arguments", WINDOWS.values(), ids=WINDOWS.keys())
def test_equals_torch(
    device: torch.device, dtype: torch.dtype, layout: str, arguments: dict[str, Any]
) -> None:
    window = pool_window(
        arguments["kernel_size"],
        arguments.get("stride"),
        arguments.get("padding", 0),
        arguments.get("dilation", 1),
    )
    for shape in MAPS.values():
        if not fits(shape, arguments):
            continue
        input = lay_out(random_map(shape, dtype, device), layout)
        # The twin calls torch, and says what torch leaves undefined: windows without input.
        format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        plain = input.contiguous(memory_format=format)
        expected = twin.max_pool2d_with_indices(plain, window, arguments.get("ceil_mode", False))
        mine = input.clone().requires_grad_()
        output, indices = F.max_pool2d(mine, **arguments, return_indices=True)
        assert_same((output.detach(), indices), expected)
        assert_same(F.max_pool2d(input, **arguments), expected[0])
        coded, codes = F.max_pool2d_with_codes(input, **arguments)
        assert_same(coded, expected[0])
        assert_same(F.codes_to_indices(codes, input.shape, **arguments), expected[1])
        assert_same(F.indices_to_codes(indices, input.shape, **arguments), codes)

        grad_output = torch.randn(output.shape, dtype=torch.float64).to(output)
        (grad,) = torch.autograd.grad(output, mine, grad_output)
        (grad_of_codes,) = torch.autograd.grad(F.max_pool2d(mine, **arguments), mine, grad_output)
        expected_grad = twin.max_pool2d_backward(
            grad_output.contiguous(memory_format=format), indices, window, shape[-2:]
        )
        # Sums of up to nine terms in another order: a few units in the last place of float32, and
        # 16-bit results are rounded once in both.
        tolerance = {} if window[0] <= window[2] else {"rtol": 2e-6, "atol": 2e-6}
        if dtype in (torch.float16, torch.bfloat16) and tolerance:
            eps = torch.finfo(dtype).eps
            tolerance = {"rtol": eps, "atol": eps}
        for actual in (grad, grad_of_codes):
            torch.testing.assert_close(
                actual, expected_grad, **(tolerance or {"rtol": 0, "atol": 0})
            )
        if not has_empty_windows(indices) and dtype == torch.float32 and device.type == "cpu":
            native = plain.clone().requires_grad_()
            torch.nn.functional.max_pool2d(native, **arguments).backward(grad_output)
            assert native.grad is not None
            torch.testing.assert_close(
                grad, native.grad, **(tolerance or {"rtol": 0, "atol": 0}), check_stride=False
            )


class TestMaxPool2d(OpTester):
    op = F.max_pool2d
    overloads = ("max_pool2d", "max_pool2d_with_indices", "max_pool2d_with_codes")

    def small(self) -> Iterator[Arguments]:
        for kind in ("2x2 ceil", "3x3/s2/p1", "dilated", "uneven"):
            arguments = next(value for name, value in WINDOWS.items() if name.startswith(kind))
            window = pool_window(*(arguments.get(k, d) for k, d in _DEFAULTS.items()))
            for return_indices in (False, True):
                yield (
                    _distinct(2, 3, 5, 6),
                    window[:2],
                    window[2:4],
                    window[4:6],
                    window[6:],
                    arguments.get("ceil_mode", False),
                    return_indices,
                )

    def overload_arguments(self, name: str) -> Iterator[Arguments]:
        for layout in ("channels_last", "strided"):
            input = lay_out(_distinct(2, 3, 5, 6).float(), layout)
            yield input, [2, 2, 2, 2, 0, 0, 1, 1], True
            yield input, [3, 2, 2, 1, 1, 0, 1, 2], False


class TestMaxPool2dWithCodes(OpTester):
    op = F.max_pool2d_with_codes
    overloads = ("max_pool2d_backward",)

    def small(self) -> Iterator[Arguments]:
        for kernel, stride in ((2, 2), (3, 2)):
            yield _distinct(2, 3, 5, 6), kernel, stride
            yield _distinct(3, 5, 6), kernel, stride

    def overload_arguments(self, name: str) -> Iterator[Arguments]:
        for layout in ("channels_last", "strided"):
            for kernel, stride in ((2, 2), (3, 2)):
                input = lay_out(_distinct(2, 3, 5, 6), layout)
                output, codes = F.max_pool2d_with_codes(input, kernel, stride)
                window = list(pool_window(kernel, stride))
                yield torch.randn_like(output), codes, window, [5, 6]
                _, indices = F.max_pool2d(input, kernel, stride, return_indices=True)
                yield torch.randn_like(output), indices, window, [5, 6]


_DEFAULTS: dict[str, Any] = {"kernel_size": None, "stride": None, "padding": 0, "dilation": 1}


def _distinct(*shape: int) -> torch.Tensor:
    """Float64 values at least 0.1 apart, so that finite differences change no maximum."""
    count = torch.Size(shape).numel()
    return ((torch.randperm(count).double() - count / 2) / 10).reshape(shape)


def test_codes_are_packed_as_documented() -> None:
    input = torch.zeros(1, 2, 2, 10)
    # The maxima of channel 0's five windows at taps 0, 1, 2, 3, 1; of channel 1's at tap 3.
    for window, tap in enumerate((0, 1, 2, 3, 1)):
        input[0, 0, tap // 2, 2 * window + tap % 2] = 1
        input[0, 1, 1, 2 * window + 1] = 1
    _, codes = F.max_pool2d_with_codes(input)
    assert codes.tolist() == [[[0b11100100, 0b01], [0b11111111, 0b11]]]
    _, codes = F.max_pool2d_with_codes(input.contiguous(memory_format=torch.channels_last))
    assert codes.tolist() == [[[[0b1100], [0b1101], [0b1110], [0b1111], [0b1101]]]]


def test_codes_take_two_bits_or_a_byte(device: torch.device) -> None:
    input = torch.randn(4, 64, 36, 48, device=device)
    windows = 4 * 64 * 18 * 24
    for layout in ("contiguous", "channels_last"):
        _, codes = F.max_pool2d_with_codes(lay_out(input, layout))
        assert codes.nbytes == windows // 4
        _, codes = F.max_pool2d_with_codes(lay_out(input, layout), 3, 2, 1)
        assert codes.nbytes == windows


def test_indices_serve_torch_and_the_other_way_round(device: torch.device) -> None:
    input = torch.randn(2, 3, 8, 10, device=device)
    ours = F.max_pool2d(input, 2, return_indices=True)
    theirs = torch.nn.functional.max_pool2d(input, 2, return_indices=True)
    assert_same(ours, theirs)
    expected = torch.nn.functional.max_unpool2d(*theirs, 2)
    assert_same(torch.nn.functional.max_unpool2d(*ours, 2), expected)
    assert_same(F.max_unpool2d(*theirs, 2), expected)


def test_a_window_without_input_is_empty(device: torch.device) -> None:
    input = torch.randn(1, 1, 1, 4, device=device, requires_grad=True)
    output, indices = F.max_pool2d(input, 2, 1, 1, 2, return_indices=True)
    assert output.isneginf().all()
    assert (indices == -1).all()
    coded, codes = F.max_pool2d_with_codes(input, 2, 1, 1, 2)
    assert coded.isneginf().all()
    assert (codes == 255).all()
    coded.clamp(min=0).sum().backward()
    assert input.grad is not None
    assert not input.grad.any()
    with pytest.raises(RuntimeError, match="Found an invalid max index"):
        window = [2, 2, 1, 1, 1, 1, 2, 2]
        torch.ops.segfast.max_unpool2d(output.detach().cpu(), indices.cpu(), window, [1, 4])


def test_large_windows_use_indices(device: torch.device) -> None:
    input = torch.randn(1, 2, 300, 290, device=device)
    expected = torch.nn.functional.max_pool2d(input, 280, return_indices=True)
    assert_same(F.max_pool2d(input, 280, return_indices=True), expected)
    mine, theirs = input.clone().requires_grad_(), input.clone().requires_grad_()
    F.max_pool2d(mine, 280).sum().backward()
    torch.nn.functional.max_pool2d(theirs, 280).sum().backward()
    assert_same(mine.grad, theirs.grad)
    half = input.half()
    expected = torch.nn.functional.max_pool2d(half, 280, return_indices=True)
    assert_same(F.max_pool2d(half, 280, return_indices=True), expected)
    with pytest.raises(ValueError, match="at most 255 taps"):
        F.max_pool2d_with_codes(input, 16)


def test_integers_are_torchs(device: torch.device) -> None:
    input = torch.randint(100, (1, 2, 7, 6), device=device, dtype=torch.int32)
    if device.type == "cpu":
        for window in ((2,), (2, 3, 1), (3, 2, 1, 1, True), (2, 2, 0, 2, False, True)):
            expected = torch.nn.functional.max_pool2d(input, *window)
            assert_same(F.max_pool2d(input, *window), expected)
    with pytest.raises(RuntimeError, match="input must be float32, float64, float16 or bfloat16"):
        F.max_pool2d_with_codes(input)


def test_empty_batch(device: torch.device) -> None:
    input = torch.empty(0, 3, 8, 8, device=device, requires_grad=True)
    output, codes = F.max_pool2d_with_codes(input)
    assert output.shape == (0, 3, 4, 4)
    assert codes.shape == (0, 3, 4)
    restored = F.max_unpool2d_with_codes(output, codes)
    assert restored.shape == input.shape
    restored.sum().backward()
    assert input.grad is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kernel_size": 0}, "kernel_size must be at least 1, got"),
        ({"kernel_size": 2, "stride": 0}, "stride must be at least 1, got"),
        ({"kernel_size": 2, "dilation": 0}, "dilation must be at least 1, got"),
        ({"kernel_size": 2, "padding": -1}, r"pad must be non-negative, but padding is \(-1, -1\)"),
        ({"kernel_size": 2, "padding": 2}, "pad should be at most half of effective kernel size"),
        ({"kernel_size": (1, 2, 3)}, r"kernel_size must be an int or two ints .* got \(1, 2, 3\)"),
        ({"kernel_size": 9}, r"Given input size: \[1, 2, 4, 4\]. .* Output size is too small"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        F.max_pool2d(torch.zeros(1, 2, 4, 4), **arguments)


@pytest.mark.parametrize("bad", [2.0, "2", None, (2.0, 2.0), (2, None)])
@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding", "dilation"])
def test_bad_kinds_of_arguments(name: str, bad: Any) -> None:
    if name == "stride" and bad is None:
        return
    with pytest.raises(TypeError, match=rf"{name} must be an int or two ints .*, got "):
        F.max_pool2d(torch.zeros(1, 2, 4, 4), **{"kernel_size": 2, name: bad})


def test_a_stride_that_is_left_out_in_any_way() -> None:
    input = torch.randn(1, 2, 7, 9)
    strides: tuple[Any, ...] = (None, [], ())
    for stride in strides:
        expected = torch.nn.functional.max_pool2d(input, 3, stride)
        assert_same(F.max_pool2d(input, 3, stride), expected)


def test_bad_inputs() -> None:
    with pytest.raises(RuntimeError, match=r"Expected 3D or 4D .* got: \[4, 4\]"):
        F.max_pool2d(torch.zeros(4, 4), 2)
    with pytest.raises(RuntimeError, match=r"Expected 3D or 4D .* got: \[1, 0, 4, 4\]"):
        F.max_pool2d(torch.zeros(1, 0, 4, 4), 2)
    window = [2, 2, 2, 2, 0, 0, 1, 1]
    backward = torch.ops.segfast.max_pool2d_backward
    with pytest.raises(RuntimeError, match=r"Expected shape of record to be \[1, 1, 2\]"):
        backward(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 3, dtype=torch.uint8), window, [4, 4])
    with pytest.raises(RuntimeError, match="window must be"):
        torch.ops.segfast.max_pool2d(torch.zeros(1, 1, 4, 4), [0, 2, 2, 2, 0, 0, 1, 1], False)


def test_layer_is_torchs() -> None:
    theirs = torch.nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True, return_indices=True)
    ours = segfast.nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True, return_indices=True)
    assert repr(ours) == repr(theirs)
    assert ours.state_dict() == theirs.state_dict()
    input = torch.randn(2, 3, 9, 8)
    assert_same(ours(input), theirs(input))


def test_saves_codes_alone() -> None:
    input = torch.randn(1, 4, 16, 16, requires_grad=True)
    (codes,) = saved_by(lambda: F.max_pool2d(input, 2))
    assert codes.dtype == torch.uint8 and codes.numel() == 4 * 8 * 2


@pytest.mark.nightly
@pytest.mark.xdist_group("huge")
def test_more_than_2_31_elements(device: torch.device) -> None:
    # [N, C, H, W] of 2^31 + 2^17 half-precision elements: 4.3 GB, with one known maximum at the
    # end.
    input = torch.zeros(1, 2, 32769, 32768, dtype=torch.float16, device=device)
    input[0, -1, -2, -1] = 1
    output, codes = F.max_pool2d_with_codes(input)
    assert output[0, -1, -1, -1] == 1
    assert codes[0, -1, -1] >> 6 == 3  # of the last window, the last element
    assert output.count_nonzero() == 1


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_of_large_windows(device: torch.device, dtype: torch.dtype, layout: str) -> None:
    # Enough taps that the CPU kernel visits windows rather than elements, and more elements in a
    # map than it holds sums of in 16 bits; 19 channels: whole blocks of them and a rest.
    for kernel, stride, shape in (
        ((5, 5), (2, 2), (2, 19, 33, 41)),
        ((11, 9), (2, 1), (1, 35, 40, 17)),
        ((3, 13), (4, 2), (1, 9, 60, 64)),  # rows that no window sees
    ):
        padding = (kernel[0] // 2, kernel[1] // 2)
        input = lay_out(random_map(shape, dtype, device), layout)
        pool = {"kernel_size": kernel, "stride": stride, "padding": padding}
        wide = torch.promote_types(dtype, torch.float32)
        mine, theirs = input.clone().requires_grad_(), input.to("cpu", wide).requires_grad_()
        output = F.max_pool2d(mine, **pool)
        grad = torch.randn(output.shape).to(dtype)
        output.backward(grad.to(device))
        torch.nn.functional.max_pool2d(theirs, **pool).backward(grad.to(wide))
        # On the CPU torch adds in the same order; 16-bit sums are rounded once, as those of float32
        # are here.
        assert_same(mine.grad.cpu(), theirs.grad.to(dtype))


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("shape", [(2, 6, 7), (4, 2, 6, 7)])
def test_records_along_a_mapped_dimension(dim: int, window: int, shape: tuple[int, ...]) -> None:
    """Codes and indices of several maps, as though each were alone."""
    codes = [F.max_pool2d_with_codes(torch.randn(shape), window)[1] for _ in range(3)]
    to_indices = partial(F.codes_to_indices, input_size=shape, kernel_size=window)
    to_codes = partial(F.indices_to_codes, input_size=shape, kernel_size=window)
    indices = torch.stack([to_indices(each) for each in codes], dim)
    stacked = torch.stack(codes, dim)
    assert torch.equal(torch.vmap(to_indices, dim, dim)(stacked), indices)
    assert torch.equal(torch.vmap(to_codes, dim, dim)(indices), stacked)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("window", [2, 3])
def test_converted_records_without_memory(window: int, format: torch.memory_format) -> None:
    """Tensors of the meta device get the shapes and strides that those of the CPU get."""
    maps = torch.randn(2, 6, 7, 9).contiguous(memory_format=format)
    codes = F.max_pool2d_with_codes(maps, window)[1]
    indices = F.codes_to_indices(codes, maps.shape, window)
    for actual, expected in (
        (F.codes_to_indices(codes.to("meta"), maps.shape, window), indices),
        (F.indices_to_codes(indices.to("meta"), maps.shape, window), codes),
    ):
        assert (actual.shape, actual.stride()) == (expected.shape, expected.stride())


TYPED = """\
import torch
from segfast import functional as F

x = torch.zeros(1, 1, 2, 2)
halved = F.max_pool2d(x, 2).relu()
values, indices = F.max_pool2d(x, 2, return_indices=True)
either = F.max_pool2d(x, 2, return_indices=bool(len(x)))
reveal_type(halved)
reveal_type(indices)
reveal_type(either)
"""


@pytest.mark.nightly
def test_types_say_whether_there_are_indices(tmp_path: Path) -> None:
    """For the mypy of a user: pooling without indices is a tensor, and no union."""
    api = pytest.importorskip("mypy.api")
    script = tmp_path / "user.py"
    script.write_text(TYPED)
    output, _, _ = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(script)])
    found = re.findall(r'(?:error: .*|type is "(.*)")', output)
    tensor = "torch._tensor.Tensor"
    assert found == [tensor, tensor, f"{tensor} | tuple[{tensor}, {tensor}]"], output
