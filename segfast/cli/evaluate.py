"""``segfast eval``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from segfast.cli.console import bar, console, say, say_files
from segfast.cli.data import samples_of, verified

if TYPE_CHECKING:
    from segfast.training.scores import Scores

WIDEST = 20  # classes of a confusion matrix that fits a terminal


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of segfast train.")],
    data: Annotated[
        str | None,
        typer.Option(help="A data set folder; else the one trained on.", metavar="DIR"),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to. (default: eval-SPLIT beside the checkpoint)"),
    ] = None,
) -> None:
    """Score a checkpoint: IoU, Dice and accuracy of each class, and the confusion matrix."""
    from segfast.predictor import Predictor
    from segfast.training.evaluate import draw_worst, evaluate, write_scores
    from segfast.training.report import Page, write_report

    predictor = Predictor(checkpoint)
    card = predictor.card
    report = verified(data or card.options.data, table=card.classes)
    samples = samples_of(report, split)
    folder = out or checkpoint.parent / f"eval-{split}"
    with bar("scoring") as on_progress:
        evaluation = evaluate(predictor, samples, on_progress)
    write_scores(evaluation.scores, card.classes, folder)
    draw_worst(predictor, samples, evaluation, folder / "worst.png")
    scored = f"{split}, {len(samples)} images"
    page = Page(
        title=f"{card.model} on {report.root.name}, {split}",
        state=f"{checkpoint} on {len(samples)} images of {report.root}.",
        classes=card.classes,
        scores=evaluation.scores,
        scored=scored,
        worst=folder / "worst.png",
        options=card.options.to_dict(),
    )
    write_report(page, folder / "report.html")
    print_scores(evaluation.scores, card.classes.names, scored)
    print_matrix(evaluation.scores, card.classes.names)
    say_files(
        folder,
        {
            "report.html": "everything below on one page",
            "scores.csv": "IoU, Dice and accuracy of each class",
            "confusion.png": "what was taken for what",
            "confusion.csv": "the same in pixels",
            "worst.png": "the images with the lowest mean IoU",
        },
    )


def print_scores(scores: Scores, names: Sequence[str], title: str) -> None:
    """A table of the classes' scores; a dash where a class does not occur."""
    say(title)
    table = Table(box=None)
    table.add_column("class")
    for column in ("IoU", "Dice", "accuracy", "pixels %"):
        table.add_column(column, justify="right")
    columns = (scores.iou, scores.dice, scores.class_accuracy, 100 * scores.share)
    for name, *values in zip(names, *columns, strict=True):
        table.add_row(escape(name), *(_number(value) for value in values))
    means = (scores.mean_iou, scores.mean_dice, scores.mean_class_accuracy)
    table.add_row("mean", *(_number(value) for value in means), "", style="bold")
    table.add_row("all pixels", "", "", _number(scores.accuracy), "")
    console.print(table)


def print_matrix(scores: Scores, names: Sequence[str]) -> None:
    """The confusion matrix in percent of the true class, where it fits."""
    if len(names) > WIDEST:
        return
    say("confusion: % of the true class (row) predicted as each class (column, by number)")
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("true")
    for index in range(len(names)):
        table.add_column(str(index), justify="right")
    for index, name in enumerate(names):
        row = ["-" if np.isnan(v) else f"{100 * v:.0f}" for v in scores.recall[index]]
        row[index] = f"[bold]{row[index]}[/]"
        table.add_row(f"{index} {escape(name)}", *row)
    console.print(table)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
