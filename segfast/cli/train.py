"""``segfast train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from segfast._errors import OptionError
from segfast.cli.console import bar, console, say, say_files
from segfast.cli.data import Binary, Classes, IgnoreIndex, summary, verified

if TYPE_CHECKING:
    from segfast.data.report import DataReport
    from segfast.training.history import Row
    from segfast.training.plan import Plan

# A resumed run keeps its options; these may change without changing its meaning.
_RESUMABLE = {"data", "epochs", "workers", "devices"}


def train(
    data: Annotated[
        str | None, typer.Option(help="A data set folder, or: synthetic.", metavar="DIR")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model's name. (default: segnet_basic)")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the model, such as depth=4. May be repeated."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How often each image is seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Height and width to train at.", metavar="H W"),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate. (default: 0.001)")] = None,
    loss: Annotated[str | None, typer.Option(help="(default: cross_entropy)")] = None,
    class_weights: Annotated[
        str | None, typer.Option(help="none or median_frequency. (default: none)")
    ] = None,
    augment: Annotated[
        bool | None,
        typer.Option(help="Crop, mirror and recolour at random. (default: augment)"),
    ] = None,
    classes: Classes = None,
    ignore_index: IgnoreIndex = None,
    binary: Binary = None,
    backend: Annotated[
        str | None, typer.Option(help="Whose layers: segfast or torch. (default: segfast)")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="32-true, bf16-mixed or 16-mixed.")] = None,
    seed: Annotated[int | None, typer.Option(help="(default: 0)")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read images.")] = None,
    devices: Annotated[int | None, typer.Option(help="How many GPUs. (default: 1)")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's config.yaml; other options go before it.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="The folder of a run to go on with.", metavar="RUN")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. (default: runs/DATA-MODEL)")
    ] = None,
) -> None:
    """Train a model on a folder of images and masks.

    Without more than --data everything is chosen for the data and the machine, and said. Ctrl-C
    stops after the step under way and saves; --resume RUN goes on from there.
    """
    given = {
        "data": data,
        "model": model,
        "model_options": _model_options(option),
        "epochs": epochs,
        "batch_size": batch_size,
        "size": list(size) if size else None,
        "lr": lr,
        "loss": loss,
        "class_weights": class_weights,
        "augment": augment,
        "classes": classes,
        "ignore_index": ignore_index,
        "binary": binary,
        "backend": backend,
        "precision": precision,
        "seed": seed,
        "workers": workers,
        "devices": devices,
    }
    said = {name: value for name, value in given.items() if value is not None}
    base: dict[str, Any] = {}
    checkpoint = None
    if resume:
        if config or out:
            raise OptionError("--resume goes on in the run's own folder with its own options")
        checkpoint, base = _resumed(resume, said)
    elif config:
        base = _read_config(config)
    if "data" not in base | said:
        raise OptionError("--data is missing: a data set folder, or --data synthetic")
    _run(base | said, resume, checkpoint, out)


def _run(
    state: dict[str, Any], resume: Path | None, checkpoint: Path | None, out: Path | None
) -> None:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from segfast.training.callbacks import Interrupted
    from segfast.training.options import TrainOptions
    from segfast.training.plan import make_plan
    from segfast.training.run import fit

    # With several GPUs, Lightning runs this command once more for each: only the first speaks.
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # Lightning sets it
    console.quiet = not first
    options = TrainOptions.from_dict(state)
    report = verified(options.data, options.classes, options.ignore_index, options.binary)
    plan = make_plan(options, report)
    if checkpoint:
        _check_unfinished(checkpoint, plan)
    folder = resume or _new_folder(out or Path("runs") / f"{_name(options.data)}-{options.model}")
    _announce(plan, report, folder, checkpoint)
    try:
        rows = fit(plan, report, folder, console, checkpoint)
    except Interrupted:
        say(f"stopped; go on with: segfast train --resume {folder}")
        raise typer.Exit(130) from None
    if first:
        _conclude(plan, report, rows, folder)


def _model_options(pairs: list[str] | None) -> dict[str, Any] | None:
    """name=value pairs; values are read as YAML, so 3, 0.5, true and text are what they seem."""
    if not pairs:
        return None
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise OptionError(f"--option {pair}: must be name=value")
        options[name.strip()] = yaml.safe_load(value)
    return options


def _read_config(path: Path) -> dict[str, Any]:
    try:
        state = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise OptionError(f"{path}: is not YAML: {error}") from error
    if not isinstance(state, dict):
        raise OptionError(f"{path}: must hold option: value lines")
    return state


def _resumed(run: Path, said: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The checkpoint to go on from, and the run's options."""
    from segfast.training.checkpoint import load, read_card

    path = run / "last.ckpt"
    if run.is_dir() and not path.exists():
        raise OptionError(f"{run}: holds no last.ckpt; that run saved nothing, start it anew")
    options = read_card(load(path)).options.to_dict()
    for name in said.keys() - _RESUMABLE:
        if said[name] != options[name]:
            raise OptionError(
                f"--{name.replace('_', '-')} is {options[name]} in {run}, and a resumed run keeps "
                "it; leave the option out or start a new run"
            )
    return path, options


def _check_unfinished(checkpoint: Path, plan: Plan) -> None:
    from segfast.training.checkpoint import load, read_card
    from segfast.training.plan import chosen

    state = load(checkpoint)
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
    options = plan.options
    say(summary(report))
    say(f"classes: {len(report.classes)}, {report.classes_from}")
    for note in [*report.notes, *plan.notes]:
        say(f"note: {note}")
    say(
        f"model {options.model} on {options.backend} layers, {options.loss}"
        f"{' with median-frequency class weights' * (options.class_weights != 'none')}, "
        f"{options.epochs} epochs of {plan.steps_per_epoch} steps of {options.batch_size} images"
        f"{f' on each of {options.devices} devices' * (options.devices > 1)}, "
        f"lr {options.lr:g}, {options.precision}, seed {options.seed}"
    )
    say(f"{'going on from ' + str(checkpoint) if checkpoint else 'writing to ' + str(folder)}")


def _conclude(plan: Plan, report: DataReport, rows: list[Row], folder: Path) -> None:
    """Scores the best checkpoint and names every file."""
    from segfast.cli.evaluate import print_scores
    from segfast.training.evaluate import draw_worst, evaluate, write_scores
    from segfast.training.predictor import Predictor
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
            "scores.csv": "IoU and Dice of each class",
            "confusion.png": "what was taken for what",
            "worst.png": "the validation images with the lowest mean IoU",
        },
    )
    say(f"next: segfast predict {folder / 'best.ckpt'} FILE_OR_FOLDER")
