"""pixel_shuffle and pixel_unshuffle: torch's results in every dtype; what they owe as ops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cases import LAYOUTS, lay_out, random_map
from op_tester import Arguments, OpTester, assert_same, saved_by

import segfast
from segfast import functional as F
from segfast._extension import C
from segfast.reference import pixel_shuffle as twin

# [N, C, H, W] before the channels are multiplied by r * r.
SHAPES = {
    "odd everything": (2, 3, 5, 7),
    "whole vectors in NCHW and channels_last": (1, 16, 4, 32),
    "a vector and a tail along rows": (1, 2, 3, 75),
    "a vector and a tail along channels": (2, 37, 3, 2),
    "one pixel": (1, 1, 1, 1),
    "one row": (1, 3, 1, 6),
    "an empty batch": (0, 2, 3, 4),
    "no channels": (1, 0, 3, 4),
}
FACTORS = (1, 2, 3, 4, 5)  # up to 8 have loops of their own; csrc/tests go on to 9

# One of each size in bytes, and what a copy could get wrong: bool, complex.
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.bool,
    torch.int64,
    torch.complex64,
    torch.complex128,
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_torch(device: torch.device, dtype: torch.dtype, layout: str) -> None:
    for n, c, h, w in SHAPES.values():
        for r in FACTORS:
            values = random_map((n, c * r * r, h, w), torch.float64, "cpu")
            coarse = lay_out(values.nan_to_num().to(device=device, dtype=dtype), layout)
            fine = F.pixel_shuffle(coarse, r)
            assert_same(fine, twin.pixel_shuffle(coarse, r))
            assert torch.equal(fine, torch.nn.functional.pixel_shuffle(coarse, r))
            fine = lay_out(fine, layout)
            back = F.pixel_unshuffle(fine, r)
            assert_same(back, twin.pixel_unshuffle(fine, r))
            assert torch.equal(back, coarse)


def test_bits_are_moved_untouched(device: torch.device) -> None:
    bits = torch.randint(-(2**31), 2**31, (2, 12, 5, 6), device=device).to(torch.int32)
    floats = bits.view(torch.float32)  # signalling NaNs among them
    assert torch.equal(F.pixel_shuffle(floats, 2).view(torch.int32), F.pixel_shuffle(bits, 2))


@pytest.mark.parametrize("leading", [(), (2,), (2, 3), (2, 1, 3, 2)], ids=str)
def test_any_leading_dimensions(device: torch.device, leading: tuple[int, ...]) -> None:
    coarse = torch.randn(*leading, 8, 3, 5, device=device)
    fine = F.pixel_shuffle(coarse, 2)
    assert_same(fine, torch.nn.functional.pixel_shuffle(coarse, 2))
    assert_same(F.pixel_unshuffle(fine, 2), coarse)


def test_lazy_conjugates_and_negatives(device: torch.device) -> None:
    coarse = torch.randn(1, 4, 3, 3, dtype=torch.complex64, device=device).conj()
    assert torch.equal(F.pixel_shuffle(coarse, 2), torch.nn.functional.pixel_shuffle(coarse, 2))
    negative = coarse.imag  # torch keeps the sign as a bit of the view
    assert negative.is_neg()
    assert torch.equal(F.pixel_shuffle(negative, 2), torch.nn.functional.pixel_shuffle(negative, 2))


class TestPixelShuffle(OpTester):
    op = F.pixel_shuffle
    overloads = ("pixel_shuffle",)

    def small(self) -> Iterator[Arguments]:
        yield torch.randn(2, 8, 3, 2, dtype=torch.float64), 2
        yield torch.randn(9, 2, 3, dtype=torch.float64), 3

    def overload_arguments(self, name: str) -> Iterator[Arguments]:
        for layout in LAYOUTS:
            yield lay_out(torch.randn(2, 8, 3, 5), layout), 2


class TestPixelUnshuffle(OpTester):
    op = F.pixel_unshuffle
    overloads = ("pixel_unshuffle",)

    def small(self) -> Iterator[Arguments]:
        yield torch.randn(2, 2, 6, 4, dtype=torch.float64), 2
        yield torch.randn(1, 6, 9, dtype=torch.float64), 3

    def overload_arguments(self, name: str) -> Iterator[Arguments]:
        for layout in LAYOUTS:
            yield lay_out(torch.randn(2, 2, 6, 10), layout), 2


@pytest.mark.parametrize(
    ("shape", "factor", "sentence"),
    [
        ((4, 3), 2, "at least 3 dimensions, but got input with 2 dimension"),
        ((1, 4, 2, 2), 0, "positive upscale_factor, but got 0"),
        ((1, 4, 2, 2), -1, "positive upscale_factor, but got -1"),
        (
            (1, 5, 2, 2),
            2,
            r"square of upscale_factor, but input.size\(-3\)=5 is not divisible by 4",
        ),
    ],
)
def test_bad_shuffles(shape: tuple[int, ...], factor: int, sentence: str) -> None:
    for op in (F.pixel_shuffle, torch.nn.functional.pixel_shuffle):
        with pytest.raises(RuntimeError, match=sentence):
            op(torch.zeros(shape), factor)
    with torch.device("meta"), pytest.raises(RuntimeError, match=sentence):
        F.pixel_shuffle(torch.zeros(shape), factor)


@pytest.mark.parametrize(
    ("shape", "factor", "sentence"),
    [
        ((4, 3), 2, "at least 3 dimensions, but got input with 2 dimension"),
        ((1, 4, 2, 2), 0, "positive downscale_factor, but got 0"),
        ((1, 4, 3, 2), 2, r"height to be divisible by .*, but input.size\(-2\)=3 is not .* by 2"),
        ((1, 4, 2, 3), 2, r"width to be divisible by .*, but input.size\(-1\)=3 is not .* by 2"),
    ],
)
def test_bad_unshuffles(shape: tuple[int, ...], factor: int, sentence: str) -> None:
    for op in (F.pixel_unshuffle, torch.nn.functional.pixel_unshuffle):
        with pytest.raises(RuntimeError, match=sentence):
            op(torch.zeros(shape), factor)
    with torch.device("meta"), pytest.raises(RuntimeError, match=sentence):
        F.pixel_unshuffle(torch.zeros(shape), factor)


@pytest.mark.parametrize("factor", [2.0, True, "2"])
def test_factor_must_be_an_int(factor: object) -> None:
    with pytest.raises(TypeError, match="upscale_factor must be an int, got"):
        F.pixel_shuffle(torch.zeros(1, 4, 2, 2), factor)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="downscale_factor must be an int, got"):
        F.pixel_unshuffle(torch.zeros(1, 4, 2, 2), factor)  # type: ignore[arg-type]


def test_factor_whose_square_overflows() -> None:
    with pytest.raises(ValueError, match="upscale factor is too large"):
        F.pixel_shuffle(torch.zeros(1, 4, 2, 2), 2**40)


def test_sparse_input() -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="[Ss]parse"):
        F.pixel_shuffle(torch.zeros(1, 4, 2, 2).to_sparse(), 2)


@pytest.mark.skipif(C is None, reason="the check is of what is compiled")
@pytest.mark.filterwarnings("ignore:.*quantize")
def test_quantized_input() -> None:
    quantized = torch.quantize_per_tensor(torch.zeros(1, 4, 2, 2), 0.1, 0, torch.qint8)
    for op in (F.pixel_shuffle, F.pixel_unshuffle, F.subpixel_upsample):
        with pytest.raises(RuntimeError, match=r"not quantized, got .*; call its dequantize\(\)"):
            op(quantized, 2)


def test_layers_are_torchs() -> None:
    input = torch.randn(2, 8, 4, 6)
    for name, argument in (("PixelShuffle", 2), ("PixelUnshuffle", 2)):
        theirs, ours = getattr(torch.nn, name)(argument), getattr(segfast.nn, name)(argument)
        assert repr(ours) == repr(theirs)
        assert isinstance(ours, type(theirs))
        assert_same(ours(input), theirs(input))


def test_saves_nothing() -> None:
    input = torch.randn(1, 8, 4, 4, requires_grad=True)
    assert not saved_by(lambda: F.pixel_unshuffle(F.pixel_shuffle(input, 2), 2))


@pytest.mark.parametrize("isa", ["default", "avx2", "avx512"])
def test_each_instruction_set(isa: str) -> None:
    """The tests of values again, with the kernels of another instruction set."""
    if isa == C.cpu_isa():
        pytest.skip(f"{isa} is what all the tests run with here")
    order = ["default", "avx2", "avx512"]  # of which the best is chosen, unless one is named
    if "SEGFAST_CPU_ISA" not in os.environ and order.index(isa) > order.index(C.cpu_isa()):
        pytest.skip(f"no {isa} here")
    tests = [
        f"{Path(__file__).parent}/test_{op}.py" for op in ("pixel_shuffle", "subpixel_upsample")
    ]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            "equals_torch and cpu and not strided",
        ]
        + tests,
        env=os.environ | {"SEGFAST_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    if "this machine does not have it" in result.stdout:
        pytest.skip(f"no {isa} here")
    assert result.returncode == 0, result.stdout


@pytest.mark.nightly
@pytest.mark.xdist_group("huge")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_more_than_2_31_elements(device: torch.device, layout: str) -> None:
    # 2^31 + 2^18 bytes: the last element lies beyond 32-bit offsets on either side.
    coarse = torch.zeros(1, 4, 32772, 16384, dtype=torch.uint8, device=device)
    if layout == "channels_last":
        coarse = coarse.contiguous(memory_format=torch.channels_last)
    coarse[0, 3, -1, -1] = 7
    coarse[0, 1, -1, -2] = 5
    fine = F.pixel_shuffle(coarse, 2)
    assert fine[0, 0, -1, -1] == 7
    assert fine[0, 0, -2, -3] == 5
    assert fine.count_nonzero() == 2
    assert torch.equal(F.pixel_unshuffle(fine, 2), coarse)
