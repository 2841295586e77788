"""``segfast export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from segfast._errors import OptionError
from segfast.cli.console import say


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of segfast train.")],
    format: Annotated[
        str,
        typer.Option(
            help="onnx: standard ONNX; pt2: torch.export; aoti: compiled for this machine."
        ),
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="The file. (default: the checkpoint's name beside it)")
    ] = None,
) -> None:
    """Write the model of a checkpoint to a file that runs without its Python source.

    It takes images [N, C, H, W] of any size, on the scale 0 to 1, normalised by
    the mean and std in its metadata, where the classes' names and colours are,
    too; it gives each class's score [N, classes, H, W].
    """
    from segfast import __version__
    from segfast._export import SUFFIXES, Format
    from segfast._export import export as write
    from segfast.checkpoint import load_model

    if format not in get_args(Format):
        raise OptionError(f"--format must be one of {', '.join(get_args(Format))}, got {format}")
    model, card = load_model(checkpoint)
    path = out or checkpoint.with_suffix(SUFFIXES[format])  # type: ignore[index]  # checked above
    metadata = {
        "segfast": __version__,
        "model": card.model,
        "classes": card.classes.names,
        "palette": card.classes.palette,
        "mean": card.mean,
        "std": card.std,
    }
    try:
        write(model, path, format, metadata=metadata)  # type: ignore[arg-type]
    except ImportError as error:
        raise OptionError(str(error)) from error
    say(f"{card.model} with {len(card.classes)} classes in {path}")
