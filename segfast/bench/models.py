"""Whole models: images a second and peak memory, on PyTorch's layers, on ours, and optimised."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segfast._errors import UserError
from segfast._example import example_input
from segfast._optimize import optimize
from segfast.bench.memory import peak_bytes
from segfast.bench.timing import SETTLED, compare
from segfast.models import create_model
from segfast.models.full_size import full_size

if TYPE_CHECKING:
    from rich.table import Table

Calls = dict[str, Callable[[], Any]]
CLASSES = 11  # CamVid's
#: Images, height and width: CamVid's on a GPU, half as high and wide elsewhere.
SIZES = {"cuda": (8, 360, 480), "cpu": (1, 180, 240)}


@dataclass(frozen=True)
class ModelRow:
    """One way to run a model; ``speedup`` is over PyTorch's layers, round by round.

    ``peak_mb`` is the memory that a call takes beyond weights and input, in 10^6 bytes.
    """

    phase: str  # inference or training
    layers: str
    images_per_second: float
    speedup: float
    settled: bool
    peak_mb: float

    def cells(self) -> tuple[str, str, str, str]:
        """The row of a table: the way, images a second, the speed (~: not settled), the peak."""
        speed = f"{'' if self.settled else '~'}{self.speedup:.2f}x"
        way = f"{self.phase}, {self.layers}"
        return way, f"{self.images_per_second:.3g}", speed, f"{self.peak_mb:.0f}"


def measure_model(
    name: str, device: torch.device, size: tuple[int, int, int], seconds: float = 10.0
) -> Iterator[ModelRow]:
    """Times inference and a training step (forward, loss, backward), each way's calls in turn.

    All ways have the same weights and see the same noise: ``size`` is its batch, height and width.
    On a GPU training is as people train: bfloat16 under autocast and channels_last, eager and then
    compiled, which takes minutes. All else is in float32 but the row of :func:`segfast.optimize`,
    which says what it has chosen.

    Raises:
        ValueError: no model is named so.
    """
    ours = create_model(name, CLASSES).to(device).eval()
    torchs = create_model(name, CLASSES, backend="torch").to(device).eval()
    torchs.load_state_dict(ours.state_dict())
    input = example_input(ours, *size)
    layers: dict[str, nn.Module] = {"PyTorch's layers": torchs, "segfast's layers": ours}
    try:
        fastest = optimize(ours, input)
    except UserError as error:  # weights without training: masks that the least rounding changes
        fastest = None
        warnings.warn(f"no row of optimize: {error}", stacklevel=2)
    with torch.no_grad():
        target = full_size(ours, input).argmax(1)
        calls: Calls = {way: partial(model, input) for way, model in layers.items()}
        if fastest is not None:
            format = "NHWC" if fastest.memory_format == torch.channels_last else "NCHW"
            chosen = f"optimize ({str(fastest.dtype).removeprefix('torch.')}, {format})"
            calls[chosen] = partial(fastest, input)
        yield from _rows("inference", calls, input, seconds)

    on_gpu = device.type == "cuda"
    if on_gpu:
        input = input.to(memory_format=torch.channels_last)
        for model in layers.values():
            model.to(memory_format=torch.channels_last)

    def step(model: nn.Module) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            loss = nn.functional.cross_entropy(full_size(model, input), target)
        loss.backward()
        model.zero_grad()

    calls = {way: partial(step, model.train()) for way, model in layers.items()}
    yield from _rows("training", calls, input, seconds)
    for way, model in layers.items() if on_gpu else ():
        compiled: Any = torch.compile(model, dynamic=False)
        pair: Calls = {"": calls["PyTorch's layers"], f"{way}, compiled": partial(step, compiled)}
        yield [*_rows("training", pair, input, seconds)][1]


def _rows(phase: str, calls: Calls, input: Tensor, seconds: float) -> Iterator[ModelRow]:
    peaks = [peak_bytes(call, input.device) for call in calls.values()]
    timing = compare(list(calls.values()), input.device, seconds)
    for way, seconds_a_call, ratio, spread, peak in zip(
        calls, timing.seconds, timing.ratios, timing.spreads, peaks, strict=True
    ):
        yield ModelRow(
            phase, way, len(input) / seconds_a_call, 1 / ratio, spread <= SETTLED, peak / 1e6
        )


def markdown(name: str, rows: Sequence[ModelRow]) -> str:
    """The same table in Markdown; what is slower than PyTorch's layers in bold."""
    lines = [f"| {name} | images/s | speed | peak MB |", "|---|--:|--:|--:|"]
    for row in rows:
        way, images, speed, peak = row.cells()
        speed = f"**{speed}**" if row.speedup < 1 else speed
        lines.append(f"| {way} | {images} | {speed} | {peak} |")
    return "\n".join(lines) + "\n"


def table(title: str, rows: Sequence[ModelRow]) -> Table:
    """For the console, within 80 columns; what is slower than PyTorch's layers in red."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    result = Table(title=title, box=SIMPLE_HEAD)
    result.add_column("")
    for head in ("images/s", "speed", "peak MB"):
        result.add_column(head, justify="right")
    for row in rows:
        result.add_row(*row.cells(), style="red" if row.speedup < 1 else "")
    return result
