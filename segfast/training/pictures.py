"""What a run draws: curves, confusion matrices, images beside their masks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from segfast._files import atomic_file
from segfast.data.classes import IGNORE_INDEX, ClassTable, Colour
from segfast.data.images import to_bytes
from segfast.training.history import Row
from segfast.training.scores import Scores

TRAIN, VAL, ACCURACY = "#4c72b0", "#dd8452", "#55a868"
IGNORED = (230, 230, 230)
MOST_LEGEND = 40  # classes
LONGEST_TITLE = 40  # characters over a picture
AS_WRITTEN: dict[str, Any] = {"parse_math": False}  # the user's names: $ starts no formula
PANEL = 900  # pixels: the longest side of one picture in a page


def save(figure: Figure, path: Path) -> None:
    """Replaces the PNG file."""
    FigureCanvasAgg(figure)
    with atomic_file(path) as file, warnings.catch_warnings():
        # Of names in a script that the font lacks, which are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight")


def curves(rows: Sequence[Row], steps_per_epoch: int) -> Figure:
    """Loss on the left, mean IoU and accuracy on the right, both over epochs."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_loss(left, rows, steps_per_epoch)
    draw_scores(right, rows, steps_per_epoch)
    return figure


def draw_loss(axes: Axes, rows: Sequence[Row], steps_per_epoch: int) -> None:
    """Training and validation loss over epochs."""
    train = _column(rows, "train_loss", steps_per_epoch)
    axes.plot(*train, color=TRAIN, alpha=0.3, linewidth=0.8)
    axes.plot(train[0], _smooth(train[1]), color=TRAIN, label="train (smoothed)")
    val = _column(rows, "val_loss", steps_per_epoch)
    axes.plot(*val, "o-", color=VAL, ms=3, label="validation")
    axes.set(xlabel="epoch", ylabel="loss", title="Loss")
    axes.set_ylim(bottom=0)
    _finish(axes)


def draw_scores(axes: Axes, rows: Sequence[Row], steps_per_epoch: int) -> None:
    """Mean IoU and pixel accuracy of the validation images over epochs."""
    miou = _column(rows, "val_mean_iou", steps_per_epoch)
    accuracy = _column(rows, "val_accuracy", steps_per_epoch)
    axes.plot(*miou, "o-", color=VAL, ms=3, label="mean IoU")
    axes.plot(*accuracy, "o-", color=ACCURACY, ms=3, label="pixel accuracy")
    axes.set(xlabel="epoch", ylabel="score", ylim=(0, 1), title="Validation")
    if len(miou[1]) and not np.isnan(miou[1]).all():
        best = int(np.nanargmax(miou[1]))
        axes.axhline(miou[1][best], color=VAL, linewidth=0.6, linestyle=":")
        axes.set_title(
            f"Validation: best mean IoU {miou[1][best]:.3f} at epoch {miou[0][best]:.2g}"
        )
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)


def _column(
    rows: Sequence[Row], key: str, steps_per_epoch: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points = [(row["step"] / steps_per_epoch, row[key]) for row in rows if key in row]
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A running mean over a thirtieth of the curve, shorter at its ends."""
    half = len(values) // 60
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return mean


def confusion(scores: Scores, names: Sequence[str]) -> Figure:
    """The confusion matrix, each row as percent of its true class."""
    count = len(names)
    side = max(4.0, 0.55 * count + 2)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    percent = 100 * scores.recall
    image = axes.imshow(np.nan_to_num(percent), cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(
        range(count), names, rotation=45, ha="right", rotation_mode="anchor", **AS_WRITTEN
    )
    axes.set_yticks(range(count), names, **AS_WRITTEN)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"Percent of each true class; mean IoU {scores.mean_iou:.3f}")
    if count <= 30:
        for row in range(count):
            for column in range(count):
                value = percent[row, column]
                text = "-" if np.isnan(value) else f"{value:.0f}"
                colour = "white" if value > 55 else "black"
                if text != "0":
                    axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    return figure


def lr_curve(rates: NDArray[np.float64], losses: NDArray[np.float64], suggestion: float) -> Figure:
    """The loss over the learning rate, and the rate that is suggested."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=TRAIN)
    axes.axvline(suggestion, color=VAL, linestyle="--", label=f"suggestion {suggestion:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss (running mean)")
    axes.set_ylim(top=min(losses.max(), 2 * losses[0] - losses.min()))  # not the divergence
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


@dataclass(frozen=True)
class Shown:
    """One image with its prediction and, where known, its truth.

    Attributes:
        title: what stands over the image.
        image: [H, W, channels].
        prediction, truth: labels. [H, W]
    """

    title: str
    image: NDArray[np.uint8] | NDArray[np.float32]
    prediction: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None = None


def triptychs(shown: Sequence[Shown], classes: ClassTable) -> Figure:
    """A row an image: input, prediction and, where there is one, the truth; the classes below."""
    columns = 3 if any(item.truth is not None for item in shown) else 2
    labels = [m for item in shown for m in (item.prediction, item.truth) if m is not None]
    present = sorted({int(label) for mask in labels for label in np.unique(mask)})
    handles = _legend(present, classes)
    figure, grid = _grid(len(shown), columns, shown[0].image.shape, handles)
    for axes_row, item in zip(grid, shown, strict=True):
        _panel(axes_row[0], picture(item.image), item.title)
        _panel(axes_row[1], colourise(item.prediction, classes), "prediction")
        if item.truth is not None:
            _panel(axes_row[2], colourise(item.truth, classes), "truth")
        elif columns == 3:
            axes_row[2].axis("off")
    return figure


def batch(
    names: Sequence[str],
    images: Sequence[NDArray[np.uint8] | NDArray[np.float32]],
    masks: Sequence[NDArray[np.uint8]],
    classes: ClassTable,
) -> Figure:
    """Images and masks side by side, two pairs a row; the classes below."""
    present = sorted({int(label) for mask in masks for label in np.unique(mask)})
    pairs = min(2, len(images))
    handles = _legend(present, classes)
    figure, grid = _grid(-(-len(images) // pairs), 2 * pairs, images[0].shape, handles)
    for axes in grid.flat:
        axes.axis("off")
    panels = grid.reshape(-1, 2)
    for (left, right), name, image, mask in zip(panels, names, images, masks, strict=False):
        _panel(left, picture(image), name)
        _panel(right, colourise(mask, classes), "mask")
    return figure


def _grid(
    rows: int, columns: int, shape: tuple[int, ...], handles: Sequence[Patch]
) -> tuple[Figure, NDArray[Any]]:
    """A figure for panels of one shape [height, width, ...], with a legend below."""
    panel_width, legend_columns = 4.0, 5
    row_height = panel_width * shape[0] / shape[1] + 0.35
    legend_height = 0.3 * -(-len(handles) // legend_columns) + 0.2
    figure = Figure(
        figsize=(panel_width * columns, row_height * rows + legend_height), layout="constrained"
    )
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.update(AS_WRITTEN)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _legend(present: Sequence[int], classes: ClassTable) -> list[Patch]:
    def handle(colour: Colour, name: str) -> Patch:
        red, green, blue = (channel / 255 for channel in colour)
        return Patch(facecolor=(red, green, blue), edgecolor="black", linewidth=0.5, label=name)

    named = [label for label in present if label != IGNORE_INDEX][:MOST_LEGEND]
    handles = [handle(classes.palette[label], classes.names[label]) for label in named]
    if IGNORE_INDEX in present:
        handles.append(handle(IGNORED, "ignored"))
    return handles


def _panel(axes: Axes, array: NDArray[np.uint8], title: str) -> None:
    axes.imshow(array, interpolation="nearest")
    half = LONGEST_TITLE // 2
    short = title if len(title) <= LONGEST_TITLE else f"{title[:half]}...{title[-half:]}"
    axes.set_title(short, fontsize=9, **AS_WRITTEN)
    axes.axis("off")


def picture(image: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """[H, W, 1 or 3] in uint8, or in 0 to 1, as RGB of at most PANEL pixels a side."""
    pixels = to_bytes(image)
    small = Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
    small.thumbnail((PANEL, PANEL))
    return np.asarray(small)


def colourise(labels: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.uint8]:
    """Labels as RGB in the classes' colours, at most PANEL pixels a side. [H, W] -> [h, w, 3]"""
    step = max(1, -(-max(labels.shape) // PANEL))
    return full_palette(classes)[labels[::step, ::step]]


def full_palette(classes: ClassTable) -> NDArray[np.uint8]:  # [256, 3]
    """A colour for each of the 256 labels that a mask file can hold."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.palette
    palette[IGNORE_INDEX] = IGNORED
    return palette


def save_mask(labels: NDArray[np.uint8], classes: ClassTable, path: Path) -> None:
    """Writes labels as an indexed PNG: a pixel's value is its class, its colour the palette's."""
    mask = Image.fromarray(labels, mode="P")
    mask.putpalette(full_palette(classes).tobytes())
    with atomic_file(path) as file:
        mask.save(file, format="PNG", optimize=False)
