"""``segfast summary``: a model's layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from segfast._errors import OptionError
from segfast.cli.console import console, say
from segfast.cli.options import ModelOptions, read_pairs

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class Layer:
    """A row of the table.

    Attributes:
        name: the module's path in the model.
        kind: its class.
        shape: of its output, without the batch.
        parameters: all below it.
        macs: multiplications with addition in its convolutions and matrix products, for one image.
    """

    name: str
    kind: str
    shape: str
    parameters: int
    macs: int


def summary(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|CHECKPOINT", help="A model's name, or a file.")
    ],
    classes: Annotated[
        int | None, typer.Option(min=1, help="Of the output. (default: the preset's own, or 2)")
    ] = None,
    in_channels: Annotated[
        int | None, typer.Option(min=1, help="Of the input. (default: the model's own)")
    ] = None,
    option: ModelOptions = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help="Height and width of an image. (default: as trained, or 512 512)", metavar="H W"
        ),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="How deep to open blocks. (default: to the layers)")
    ] = None,
) -> None:
    """List a model's layers with output shapes, parameters and multiply-accumulates.

    MACs are those of convolutions and matrix products for one image. Nothing is computed and no
    memory is taken: any size can be asked for.
    """
    import torch

    from segfast._example import input_channels

    options = read_pairs(option)
    with torch.device("meta"):
        if Path(model).exists():
            from segfast.checkpoint import load, read_card

            if classes or in_channels or options:
                raise OptionError(f"{model}: a checkpoint has its own classes and options")
            card = read_card(load(Path(model)))
            network, size = card.build(), size or card.size
            say(f"{model}: {card.model}, classes {', '.join(card.classes.names)}")
        else:
            network, size = _build(model, classes, in_channels, options), size or (512, 512)
        channels = input_channels(network)
        assert channels is not None  # all of ours begin with a convolution
        layers, total = trace(network, torch.empty(1, channels, *size), depth)
    table = Table(box=None)
    for column in ("layer", "type", "output (C, H, W)", "parameters", "MACs"):
        table.add_column(column, justify="left" if column in ("layer", "type") else "right")
    for layer in layers:
        table.add_row(
            layer.name,
            layer.kind,
            layer.shape,
            f"{layer.parameters:,}" if layer.parameters else "",
            _count(layer.macs) if layer.macs else "",
        )
    console.print(table)
    parameters = sum(p.numel() for p in network.parameters())
    fixed = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    say(
        f"{parameters:,} parameters{f', {fixed:,} of them fixed' * bool(fixed)}; "
        f"{_count(total)}MACs for one image of {channels} x {size[0]} x {size[1]}"
    )


def trace(
    model: nn.Module, image: Tensor, depth: int | None = None
) -> tuple[list[Layer], int]:  # [1, C, H, W]
    """The layers in the order in which they are called, and the MACs of the whole model.

    A block at ``depth`` stands for all in it.

    Raises:
        OptionError: the image is too small for the model.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    shapes: dict[str, str] = {}  # of the last output in each row
    levels = slice(depth)

    def on_call(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output  # of pooling with codes
            shapes[name] = " x ".join(map(str, first.shape[1:]))

        return note

    for name, module in model.named_modules():
        if name and not any(True for _ in module.children()):
            module.register_forward_hook(on_call(".".join(name.split(".")[levels])))
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            model.eval()(image)
    except (ValueError, RuntimeError) as error:
        raise OptionError(f"--size {image.shape[2]} {image.shape[3]}: {error}") from error
    flops = counter.get_flop_counts()

    def macs(name: str, module: nn.Module) -> int:
        """A list of modules is never called itself: it has what is in it."""
        if name in flops:
            return sum(flops[name].values()) // 2
        return sum(macs(f"{name}.{child}", inner) for child, inner in module.named_children())

    layers = []
    for name, shape in shapes.items():
        module = model.get_submodule(name)
        parameters = sum(p.numel() for p in module.parameters())
        count = macs(f"{type(model).__name__}.{name}", module)
        layers.append(Layer(name, type(module).__name__, shape, parameters, count))
    return layers, counter.get_total_flops() // 2


def _build(
    name: str, classes: int | None, in_channels: int | None, options: dict[str, Any]
) -> nn.Module:
    from segfast.models import create_model

    try:
        return create_model(name, classes, in_channels, **options)
    except (TypeError, ValueError) as error:
        if classes is None:  # a family, unlike a preset, has no number of classes of its own
            return _build(name, 2, in_channels, options)
        raise OptionError(f"model {name}: {error}") from error


def _count(number: int) -> str:
    """1.23 G, 45.6 M, 789 k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} "
