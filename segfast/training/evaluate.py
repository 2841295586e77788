"""Scores of a checkpoint on a split, and the files that show them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segfast._files import write_text
from segfast.data.classes import IGNORE_INDEX, ClassTable
from segfast.data.samples import Sample
from segfast.functional import confusion_matrix
from segfast.predictor import Predictor
from segfast.training.pictures import Shown, confusion, save, triptychs
from segfast.training.scores import Scores

WORST = 6  # images on the page of the worst predictions


@dataclass(frozen=True)
class Evaluation:
    """Scores over all images, and each image's own mean IoU."""

    scores: Scores
    images: list[float]


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predicts every image at its own size and counts what is right."""
    count = len(predictor.card.classes)
    total = np.zeros((count, count), np.int64)
    images = []
    for done, sample in enumerate(samples, start=1):
        prediction = torch.from_numpy(predictor(sample.image))[None]
        truth = torch.from_numpy(sample.labels)[None]
        matrix = confusion_matrix(prediction, truth, count, ignore_index=IGNORE_INDEX).numpy()
        total += matrix
        images.append(Scores(matrix).mean_iou)
        if on_progress:
            on_progress(done, len(samples))
    return Evaluation(Scores(total), images)


def write_scores(scores: Scores, classes: ClassTable, folder: Path) -> list[Path]:
    """Writes scores.csv, confusion.csv and confusion.png; returns their paths."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", "iou", "dice", "accuracy", "share"])
    columns = (scores.iou, scores.dice, scores.class_accuracy, scores.share)
    for name, *values in zip(classes.names, *columns, strict=True):
        writer.writerow([name, *(f"{value:.6f}" for value in values)])
    means = (scores.mean_iou, scores.mean_dice, scores.mean_class_accuracy, 1.0)
    writer.writerow(["mean", *(f"{value:.6f}" for value in means)])
    write_text(folder / "scores.csv", table.getvalue())

    matrix = io.StringIO()
    writer = csv.writer(matrix, lineterminator="\n")
    writer.writerow(["true \\ predicted", *classes.names])
    for name, row in zip(classes.names, scores.matrix, strict=True):
        writer.writerow([name, *row.tolist()])
    write_text(folder / "confusion.csv", matrix.getvalue())

    save(confusion(scores, classes.names), folder / "confusion.png")
    return [folder / name for name in ("scores.csv", "confusion.csv", "confusion.png")]


def draw_worst(
    predictor: Predictor, samples: Sequence[Sample], evaluation: Evaluation, path: Path
) -> None:
    """Draws the images with the lowest mean IoU beside their masks."""
    order = np.argsort(np.nan_to_num(evaluation.images, nan=1.0), kind="stable")[:WORST]
    shown = []
    for index in order.tolist():
        sample = samples[index]
        title = f"{sample.name}: mean IoU {evaluation.images[index]:.2f}"
        shown.append(Shown(title, sample.image, predictor(sample.image), sample.labels))
    save(triptychs(shown, predictor.card.classes), path)
