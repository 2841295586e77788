"""``segfast lr-find``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segfast.cli.console import bar, say, say_files
from segfast.cli.data import in_a_line, verified
from segfast.cli.options import (
    Augment,
    BatchSize,
    Binary,
    Classes,
    ClassWeights,
    Config,
    DataArgument,
    IgnoreIndex,
    Loss,
    Model,
    ModelOptions,
    Optimizer,
    Precision,
    Seed,
    Size,
    Workers,
    check_picture,
    given_options,
    read_config,
)
from segfast.train_options import TrainOptions


def lr_find(
    data: DataArgument,
    classes: Classes = None,
    ignore_index: IgnoreIndex = None,
    binary: Binary = None,
    size: Size = None,
    augment: Augment = None,
    model: Model = None,
    model_options: ModelOptions = None,
    batch_size: BatchSize = None,
    loss: Loss = None,
    class_weights: ClassWeights = None,
    optimizer: Optimizer = None,
    precision: Precision = None,
    seed: Seed = None,
    workers: Workers = None,
    config: Config = None,
    steps: Annotated[int, typer.Option(min=20, help="Steps of the test.")] = 100,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("lr-find.png"),
) -> None:
    """Suggest a learning rate: train a little while it rises, and see where the loss falls.

    Give the options that you will train with; nothing of the trained model is kept.
    """
    said = given_options(locals())

    from segfast.training.lr_range import find_lr
    from segfast.training.pictures import lr_curve, save
    from segfast.training.plan import make_plan
    from segfast.training.run import check_options

    base = read_config(config) if config else {}
    options = TrainOptions.from_dict(base | said)
    check_options(options)
    check_picture(out)
    report = verified(options.data, options.classes, options.ignore_index, options.binary)
    plan = make_plan(options, report)
    say(in_a_line(report))
    say(f"model {options.model}, {options.loss}, {steps} steps of {plan.options.batch_size} images")
    with bar("raising the learning rate") as on_progress:
        test = find_lr(plan, report, steps, on_progress)
    save(lr_curve(test.rates, test.losses, test.suggestion), out)
    say(f"suggestion: --lr {test.suggestion:.1e}")
    say_files(out.parent, {out.name: "the loss over the learning rate"})
