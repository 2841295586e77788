"""The options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from segfast._errors import OptionError
from segfast.train_options import TrainOptions

_DATA, _MODEL, _TRAINING, _RUN = "Data", "Model", "Training", "Run"

DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="A data set folder, or: synthetic.")
]
Data = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="A data set folder, or: synthetic.", rich_help_panel=_DATA),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="A number, names (a,b,c) or a file of classes; else read off the data.",
        rich_help_panel=_DATA,
    ),
]
IgnoreIndex = Annotated[
    int | None,
    typer.Option(help="The mask value that counts for nothing.", rich_help_panel=_DATA),
]
Binary = Annotated[
    bool | None,
    typer.Option(
        "--binary",
        help="Every mask value but 0 is one class, as in masks that number objects.",
        rich_help_panel=_DATA,
    ),
]
Size = Annotated[
    tuple[int, int] | None,
    typer.Option(
        help="Height and width to train at. (default: the data's, smaller on a CPU)",
        metavar="H W",
        rich_help_panel=_DATA,
    ),
]
Augment = Annotated[
    bool | None,
    typer.Option(
        help="Crop, mirror and recolour at random. (default: augment)", rich_help_panel=_DATA
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="A model's name, such as unet; a wrong one is answered with all of them. "
        "(default: segnet_basic)",
        rich_help_panel=_MODEL,
    ),
]
ModelOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="An option of the model, such as depth=4. May be repeated.",
        rich_help_panel=_MODEL,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Images a step. (default: 16, on a CPU 4)", rich_help_panel=_TRAINING),
]
Loss = Annotated[
    str | None,
    typer.Option(
        help="A loss's name, such as dice_ce; a wrong one is answered with all of them. "
        "(default: cross_entropy)",
        rich_help_panel=_TRAINING,
    ),
]
ClassWeights = Annotated[
    str | None,
    typer.Option(help="none or median_frequency. (default: none)", rich_help_panel=_TRAINING),
]
Optimizer = Annotated[
    str | None,
    typer.Option(help="adamw, or sgd with momentum. (default: adamw)", rich_help_panel=_TRAINING),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="32-true, bf16-mixed or 16-mixed. (default: the fastest that the device has)",
        rich_help_panel=_RUN,
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Of weights, order and crops. (default: 0)", rich_help_panel=_RUN)
]
Workers = Annotated[
    int | None, typer.Option(help="Processes that read images.", rich_help_panel=_RUN)
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A YAML file of options, such as a run's config.yaml; other options go before it.",
        rich_help_panel=_RUN,
    ),
]


def given_options(parameters: dict[str, Any]) -> dict[str, Any]:
    """The training options among a command's ``parameters``, its ``locals()``, that were given."""
    known = {field.name for field in fields(TrainOptions)}
    options = {key: x for key, x in parameters.items() if key in known and x is not None}
    if "size" in options:
        options["size"] = list(options["size"])
    if pairs := options.pop("model_options", None):
        options["model_options"] = read_pairs(pairs)
    return options


def read_pairs(pairs: list[str] | None) -> dict[str, Any]:
    """name=value pairs; values are read as YAML, so 3, 0.5, true and text are what they seem."""
    options = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise OptionError(f"--option {pair}: must be name=value")
        options[name.strip()] = yaml.safe_load(value)
    return options


def read_config(path: Path) -> dict[str, Any]:
    """The options in a YAML file."""
    try:
        state = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: is not YAML: {error}") from error
    if not isinstance(state, dict):
        raise OptionError(f"{path}: must hold option: value lines")
    return state


def check_picture(out: Path) -> None:
    """Raises OptionError unless the file of ``--out`` is called as a PNG is."""
    if out.suffix != ".png":
        raise OptionError(f"--out {out}: must end in .png")
