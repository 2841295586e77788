"""``segfast show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segfast.cli.console import say, say_files
from segfast.cli.data import in_a_line, samples_of, verified
from segfast.cli.options import (
    Augment,
    Binary,
    Classes,
    DataArgument,
    IgnoreIndex,
    Seed,
    Size,
    check_picture,
)
from segfast.train_options import TrainOptions


def show(
    data: DataArgument,
    classes: Classes = None,
    ignore_index: IgnoreIndex = None,
    binary: Binary = None,
    size: Size = None,
    augment: Augment = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    images: Annotated[int, typer.Option(min=1, max=64, help="How many.")] = 8,
    seed: Seed = None,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("show.png"),
) -> None:
    """Draw a batch as training sees it: images and masks, cropped, mirrored and recoloured.

    With --no-augment the whole images, resized to the training size.
    """
    from segfast.data.loading import EpochSampler, TrainingSet
    from segfast.data.transforms import Normalise, TrainingCrop
    from segfast.training.pictures import batch, save
    from segfast.training.plan import make_plan

    check_picture(out)
    report = verified(data, classes, ignore_index, bool(binary))
    samples = samples_of(report, split)
    card = make_plan(TrainOptions(data, size=size), report).card
    seed = seed or 0
    as_they_are = Normalise((0.0,) * card.in_channels, (1.0,) * card.in_channels)
    crops = TrainingSet(samples, TrainingCrop(card.size, as_they_are, augment is not False), seed)
    numbers = list(EpochSampler(len(samples), min(images, len(samples)), 1, seed))
    pairs = [crops[number] for number in numbers]
    figure = batch(
        [samples[number].name for number in numbers],
        [image.permute(1, 2, 0).numpy() for image, _ in pairs],
        [labels.numpy() for _, labels in pairs],
        report.classes,
    )
    save(figure, out)
    say(in_a_line(report))
    height, width = card.size
    what = f"{len(pairs)} images of {split} and their masks, {height}x{width} (height x width)"
    say_files(out.parent, {out.name: what})
