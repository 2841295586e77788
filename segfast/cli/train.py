"""``segfast train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segfast._errors import OptionError
from segfast.cli.console import bar, command, console, say, say_files
from segfast.cli.data import in_a_line, verified
from segfast.cli.options import (
    Augment,
    BatchSize,
    Binary,
    Classes,
    ClassWeights,
    Config,
    Data,
    IgnoreIndex,
    Loss,
    Model,
    ModelOptions,
    Optimizer,
    Precision,
    Seed,
    Size,
    Workers,
    given_options,
    read_config,
)
from segfast.train_options import TrainOptions

if TYPE_CHECKING:
    from segfast.data.report import DataReport
    from segfast.training.history import Row
    from segfast.training.plan import Plan

# A resumed run keeps its options; these may change without changing its meaning.
_RESUMABLE = {"data", "epochs", "workers", "cache", "devices", "logger"}


def train(
    where: Annotated[
        str | None, typer.Argument(metavar="DATA", help="The same as --data DATA.")
    ] = None,
    data: Data = None,
    classes: Classes = None,
    ignore_index: IgnoreIndex = None,
    binary: Binary = None,
    size: Size = None,
    augment: Augment = None,
    model: Model = None,
    model_options: ModelOptions = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Whose layers: segfast or torch. (default: segfast)", rich_help_panel="Model"
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="How often each image is seen. (default: 100, on a CPU 20)",
            rich_help_panel="Training",
        ),
    ] = None,
    batch_size: BatchSize = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate; segfast lr-find suggests one. (default: 0.001)",
            rich_help_panel="Training",
        ),
    ] = None,
    loss: Loss = None,
    class_weights: ClassWeights = None,
    optimizer: Optimizer = None,
    precision: Precision = None,
    seed: Seed = None,
    workers: Workers = None,
    cache: Annotated[
        bool | None,
        typer.Option(
            help="Keep decoded images in memory. (default: no-cache)", rich_help_panel="Run"
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            help="How many GPUs, or processes on a CPU. (default: 1)", rich_help_panel="Run"
        ),
    ] = None,
    logger: Annotated[
        str | None,
        typer.Option(help="none or tensorboard. (default: none)", rich_help_panel="Run"),
    ] = None,
    config: Config = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a run to go on with.", metavar="RUN", rich_help_panel="Run"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to. (default: runs/DATA-MODEL)", rich_help_panel="Run"),
    ] = None,
) -> None:
    """Train a model on a folder of images and masks.

    Without more than --data everything is chosen for the data and the machine, and said. Ctrl-C
    stops after the step under way and saves; --resume RUN goes on from there.
    """
    if where is not None and data is not None:
        raise OptionError(f"{where} and --data {data}: name one data set")
    data = data or where
    options = given_options(locals())
    base: dict[str, Any] = {}
    checkpoint = None
    if resume:
        if config or out:
            raise OptionError("--resume goes on in the run's own folder with its own options")
        checkpoint, base = _resumed(resume, options)
    elif config:
        base = read_config(config)
    options = base | options
    if "data" not in options:
        raise OptionError("--data is missing: a data set folder, or --data synthetic")
    _run(options, resume, checkpoint, out)


def _run(
    state: dict[str, Any], resume: Path | None, checkpoint: Path | None, out: Path | None
) -> None:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from segfast.training.callbacks import Interrupted
    from segfast.training.plan import make_plan
    from segfast.training.run import check_options, fit

    # With several GPUs, Lightning runs this command once more for each: only the first speaks.
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # Lightning sets it
    console.quiet = not first
    options = TrainOptions.from_dict(state)
    check_options(options)
    report = verified(options.data, options.classes, options.ignore_index, options.binary)
    plan = make_plan(options, report)
    if checkpoint:
        _check_unfinished(checkpoint, plan)
    folder = resume or _new_folder(out or Path("runs") / f"{_name(options.data)}-{options.model}")
    _announce(plan, report, folder, checkpoint)
    try:
        rows = fit(plan, report, folder, console, checkpoint)
    except Interrupted:
        say(f"stopped; go on with: {command('train', '--resume', folder)}")
        raise typer.Exit(130) from None
    if first:
        _conclude(plan, report, rows, folder)


def _resumed(run: Path, given: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The checkpoint to go on from, and the run's options."""
    from segfast.checkpoint import load, read_card

    if run.is_file():
        raise OptionError(f"--resume {run}: is a file; name the run's folder, {run.parent}")
    path = run / "last.ckpt"
    if run.is_dir() and not path.exists():
        raise OptionError(f"{run}: holds no last.ckpt; that run saved nothing, start it anew")
    options = read_card(load(path)).options.to_dict()
    for name in given.keys() - _RESUMABLE:
        if given[name] != options[name]:
            raise OptionError(
                f"--{name.replace('_', '-')} is {options[name]} in {run}, and a resumed run keeps "
                "it; leave the option out or start a new run"
            )
    return path, options


def _check_unfinished(checkpoint: Path, plan: Plan) -> None:
    from segfast.checkpoint import load, read_card
    from segfast.training.plan import chosen

    state = load(checkpoint)
    if read_card(state).classes != plan.card.classes:
        raise OptionError(
            f"{plan.options.data}: holds other classes than when {checkpoint} was written; start "
            "a new run"
        )
    if state["total_steps"] != plan.steps_per_epoch * chosen(read_card(state).options.epochs):
        raise OptionError(
            f"{plan.options.data}: holds another number of images than when {checkpoint} was "
            "written; start a new run"
        )
    if state["global_step"] >= plan.total_steps:
        raise OptionError(
            f"{checkpoint.parent}: has run its {plan.options.epochs} epochs; go on with more "
            "by --epochs"
        )


def _name(data: str) -> str:
    return Path(data).resolve().name


def _new_folder(wanted: Path) -> Path:
    """The folder, or the same with the first free number, so that no run is written over."""
    number, folder = 1, wanted
    while (folder / "config.yaml").exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _announce(plan: Plan, report: DataReport, folder: Path, checkpoint: Path | None) -> None:
    from segfast.training.plan import chosen

    options = plan.options
    world = chosen(options.devices) * plan.nodes
    say(in_a_line(report))
    say(f"classes: {len(report.classes)}, {report.classes_from}")
    for note in [*report.notes, *plan.notes]:
        say(f"note: {note}")
    say(
        f"model {options.model} on {options.backend} layers, {options.loss}"
        f"{' with median-frequency class weights' * (options.class_weights != 'none')}, "
        f"{options.epochs} epochs of {plan.steps_per_epoch} steps of {options.batch_size} images"
        f"{f' on each of {world} devices' * (world > 1)}, "
        f"lr {options.lr:g}, {options.precision}, seed {options.seed}"
    )
    say(f"{'going on from ' + str(checkpoint) if checkpoint else 'writing to ' + str(folder)}")


def _conclude(plan: Plan, report: DataReport, rows: list[Row], folder: Path) -> None:
    """Scores the best checkpoint and names every file."""
    from segfast.cli.evaluate import print_scores
    from segfast.predictor import Predictor
    from segfast.training.evaluate import draw_worst, evaluate, write_scores
    from segfast.training.report import run_page, write_report

    predictor = Predictor(folder / "best.ckpt")
    with bar("scoring the best checkpoint") as on_progress:
        evaluation = evaluate(predictor, report.samples["val"], on_progress)
    classes = predictor.card.classes
    write_scores(evaluation.scores, classes, folder)
    draw_worst(predictor, report.samples["val"], evaluation, folder / "worst.png")
    page = replace(
        run_page(plan, rows, "finished"),
        scores=evaluation.scores,
        scored="validation, best checkpoint",
        worst=folder / "worst.png",
    )
    write_report(page, folder / "report.html")
    print_scores(evaluation.scores, classes.names, page.scored)
    say_files(
        folder,
        {
            "report.html": "everything below on one page",
            "best.ckpt": "the model with the highest validation mean IoU",
            "last.ckpt": "the last state",
            "curves.png": "loss, mean IoU and accuracy over the epochs",
            "metrics.csv": "the same as numbers",
            "scores.csv": "IoU, Dice and accuracy of each class",
            "confusion.png": "what was taken for what",
            "worst.png": "the validation images with the lowest mean IoU",
        },
    )
    say(f"next: {command('predict', folder / 'best.ckpt', 'FILE_OR_FOLDER')}")
