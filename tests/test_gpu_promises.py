"""What ops owe on a GPU beside right values, over the benchmark's cases, forward and backward.

Any stream, CUDA graphs, the same bits each time, no memory but what it returns or saves, and more
elements than 32 bits can count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from segfast import functional as F
from segfast import losses
from segfast.bench.cases import Case, Comparison, floats, forward
from segfast.bench.losses import loss_cases
from segfast.bench.memory import peak_bytes
from segfast.bench.ops import op_cases

CASES = [*op_cases(), *loss_cases()]


def whole(op: str, layer: Callable[[Tensor], Tensor | tuple[Tensor, ...]]) -> Case:
    """Both passes of what the benchmark has no case of."""
    return Case(op, "forward", lambda x: forward(layer, layer, x))


def unpool_overlapping(x: Tensor) -> Comparison:
    pooled, indices = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    layer = partial(F.max_unpool2d, indices=indices, kernel_size=3, stride=2, padding=1)
    return forward(layer, layer, pooled, [indices])


def multilabel(x: Tensor) -> Tensor:
    target = torch.arange(x.numel(), device=x.device).view(x.shape) % 3 == 0
    return losses.DiceBCELoss(mode="multilabel")(x, target)


def pixels_of(x: Tensor) -> Tensor:
    return F.confusion_matrix(x.argmax(1), x.argmin(1), x.shape[1])


#: A case whose first input is the map itself: its backward pass is run with it.
WHOLE = [
    *(case for case in CASES if case.direction != "backward"),
    whole("max_pool2d 3x3 indices", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)),
    whole("max_pool2d 7x7", lambda x: F.max_pool2d(x, 7, 3, 2)),
    Case("max_unpool2d 3x3 indices", "forward", unpool_overlapping),
    whole("pixel_shuffle 4", lambda x: F.pixel_shuffle(x, 4)),
    whole("subpixel_upsample 4", lambda x: F.subpixel_upsample(x, 4, blur=True)),
    whole("multilabel", multilabel),
    whole("confusion_matrix labels", pixels_of),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op} {case.direction}")
every_op = pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.op)


def comparisons(
    case: Case, device: str | torch.device, *shape: int
) -> Iterator[tuple[Comparison, Tensor]]:
    """The case over maps of this shape, and its first input."""
    for dtype in (torch.float32, torch.bfloat16):
        for format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape, device=device).to(dtype).contiguous(memory_format=format)
            comparison = case.prepare(x)
            yield comparison, comparison.reads[0].detach()


def both_passes(comparison: Comparison, x: Tensor) -> list[Tensor]:
    """What our layer returns, and the gradient by its input where there is one."""
    leaf = x.detach().requires_grad_()
    result = comparison.ours(leaf)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    first = floats(result)[0]
    if first.requires_grad:
        outputs += torch.autograd.grad(first, leaf, torch.ones_like(first))
    return [output.detach() for output in outputs]


def assert_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@every_op
def test_the_same_bits_each_time(device: torch.device, case: Case) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        for comparison, source in comparisons(case, device, 2, 16, 65, 127):
            expected = both_passes(comparison, source)
            for _ in range(3):
                assert_same_bits(both_passes(comparison, source), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@every_case
def test_no_memory_but_what_it_returns_or_saves(device: torch.device, case: Case) -> None:
    for comparison, _ in comparisons(case, device, 2, 16, 128, 256):
        # Beside it the sums of losses and allocations rounded up.
        allowed = 1.05 * sum(tensor.nbytes for tensor in comparison.writes) + 2**17
        assert peak_bytes(comparison.provider("segfast"), device) <= allowed


@pytest.mark.cuda
@every_op
def test_on_another_stream(case: Case) -> None:
    """Work that the stream has yet to do comes before ours."""
    for comparison, source in comparisons(case, "cuda", 2, 16, 33, 47):
        expected = both_passes(comparison, source)
        late = torch.zeros_like(source)
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(20_000_000)  # clocks: some 10 ms
            late.copy_(source)
            actual = both_passes(comparison, late)
        side.synchronize()
        assert_same_bits(actual, expected)


@pytest.mark.cuda
@every_op
def test_in_a_cuda_graph(case: Case) -> None:
    """Captured once, replayed on other data."""
    for comparison, source in comparisons(case, "cuda", 2, 16, 33, 47):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            both_passes(comparison, source)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            actual = both_passes(comparison, source)
        source.copy_(torch.randn_like(source))
        graph.replay()
        assert_same_bits(actual, both_passes(comparison, source))


@pytest.mark.cuda
def test_codes_and_indices_in_a_cuda_graph() -> None:
    x = torch.randn(2, 16, 33, 47, device="cuda")
    _, codes = F.max_pool2d_with_codes(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        indices = F.codes_to_indices(codes, x.shape)
        again = F.indices_to_codes(indices, x.shape)
    graph.replay()
    assert torch.equal(again, codes)


#: 2^31 + 2^17 elements: of a map [1, 2, H, W], and of the logits of as many pixels.
HUGE = (1, 2, 32769, 32768)


def huge(value: float) -> Tensor:
    """Zeros in 16 bits, and one value in the last channel's last full 2 x 2 window."""
    map = torch.zeros(HUGE, dtype=torch.float16, device="cuda")
    map[0, -1, -2, -1] = value
    return map


@pytest.mark.cuda
@pytest.mark.nightly
@pytest.mark.xdist_group("huge")
@pytest.mark.parametrize("record", ["codes", "indices"])
def test_unpooling_more_than_2_31_elements(record: str) -> None:
    map = huge(1)
    output, codes = F.max_pool2d_with_codes(map)
    output.requires_grad_()
    if record == "codes":
        unpooled = F.max_unpool2d_with_codes(output, codes, output_size=map.shape)
    else:
        indices = F.codes_to_indices(codes, map.shape)
        unpooled = F.max_unpool2d(output, indices, 2, output_size=map.shape)
    assert torch.equal(unpooled, map)
    (grad,) = torch.autograd.grad(unpooled, output, map)
    assert grad[0, -1, -1, -1] == 1 and grad.count_nonzero() == 1


@pytest.mark.cuda
@pytest.mark.nightly
@pytest.mark.xdist_group("huge")
def test_statistics_of_more_than_2_31_logits() -> None:
    # Class 1 wins one pixel, which lies beyond 32-bit offsets, and class 0 all others, by ties.
    logits = huge(9)
    labels = torch.zeros(1, *HUGE[2:], dtype=torch.uint8, device="cuda")
    labels[0, -2, -1] = 1
    pixels = HUGE[2] * HUGE[3]
    matrix = F.confusion_matrix(logits, labels, 2)
    assert matrix.tolist() == [[pixels - 1, 0], [0, 1]]
    logits.requires_grad_()
    stats = F.overlap_stats(logits, labels, "multiclass")
    assert stats.target.flatten().tolist() == [pixels - 1, 1]
    assert stats.intersection[0, 1].item() == pytest.approx(torch.tensor(9.0).sigmoid().item())
    (grad,) = torch.autograd.grad(stats.intersection[0, 1], logits)
    assert grad[0, 1, -2, -1] > 0 and grad.count_nonzero() == 2
