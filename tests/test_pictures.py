"""Scores of a set of images, and what the pictures show: that each panel is the one it says."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
pytest.importorskip("torchmetrics")
pytest.importorskip("torchvision")
from matplotlib.figure import Figure
from PIL import Image

from segfast.data.classes import IGNORE_INDEX, ClassTable
from segfast.data.samples import Sample
from segfast.training import evaluate as evaluation
from segfast.training.pictures import (
    Shown,
    batch,
    colourise,
    confusion,
    save,
    save_mask,
    triptychs,
)
from segfast.training.scores import Scores

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)
CLASSES = ClassTable(("red", "green", "blue"), (RED, GREEN, BLUE), (0, 1, 2))
LIGHT_GREY = (230, 230, 230)  # of what is ignored


def labels(*values: int) -> NDArray[np.uint8]:
    """A row of labels, 2 pixels high."""
    return np.array([values, values], np.uint8)


def panels(figure: Figure) -> list[tuple[str, list[list[int]]]]:
    """Of each panel that shows a picture: its title and its first row of colours."""
    return [
        (axes.get_title(), np.asarray(axes.images[0].get_array())[0].tolist())
        for axes in figure.axes
        if axes.images
    ]


def image(*grey: int) -> NDArray[np.uint8]:  # [2, W, 1]
    return np.array([grey, grey], np.uint8)[..., None]


def test_colours() -> None:
    colours = colourise(labels(2, IGNORE_INDEX, 0), CLASSES)
    assert colours[0].tolist() == list(map(list, (BLUE, LIGHT_GREY, RED)))


def test_a_mask_file_holds_labels_and_colours(tmp_path: Path) -> None:
    save_mask(labels(2, IGNORE_INDEX, 0), CLASSES, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as file:
        assert np.array_equal(np.array(file), labels(2, IGNORE_INDEX, 0))
        colours = np.array(file.convert("RGB"))
    assert colours[0].tolist() == list(map(list, (BLUE, LIGHT_GREY, RED)))


def test_triptychs() -> None:
    """With a truth and without; the legend names the classes that occur, and no others."""
    figure = triptychs(
        [Shown("one", image(1, 2), labels(0, 1), labels(1, IGNORE_INDEX)),
         Shown("two", image(3, 4), labels(1, 1))],
        CLASSES,
    )  # fmt: skip
    assert panels(figure) == [
        ("one", [[1] * 3, [2] * 3]),
        ("prediction", [list(RED), list(GREEN)]),
        ("truth", [list(GREEN), list(LIGHT_GREY)]),
        ("two", [[3] * 3, [4] * 3]),
        ("prediction", [list(GREEN), list(GREEN)]),
    ]
    assert [text.get_text() for text in figure.legends[0].texts] == ["red", "green", "ignored"]


@pytest.mark.filterwarnings("error")
def test_names_of_any_letters(tmp_path: Path) -> None:
    """Neither formulas, nor hidden, nor warned of: labelme calls a class _background_."""
    names = ("_background_", "$_$", "\N{CJK UNIFIED IDEOGRAPH-56FE}")
    classes = ClassTable(names, CLASSES.palette, CLASSES.values)
    shown = [Shown(names[1], image(1, 2, 3), labels(0, 1, 2), None)]
    for figure in (
        triptychs(shown, classes),
        batch(names[1:], [image(1, 2)] * 2, [labels(0, 2)] * 2, classes),
        confusion(Scores(np.eye(3, dtype=np.int64)), names),
    ):
        save(figure, tmp_path / "a.png")
    (legend,) = triptychs(shown, classes).legends
    assert [text.get_text() for text in legend.get_texts()] == list(names)


def test_batch() -> None:
    """Images on the scale 0 to 1, as training has them."""
    names = ["one", "two", "three"]
    pixels = [np.full((2, 1, 3), n / 255, np.float32) for n in range(3)]
    figure = batch(names, pixels, [labels(n) for n in range(3)], CLASSES)
    assert panels(figure) == [
        ("one", [[0] * 3]), ("mask", [list(RED)]), ("two", [[1] * 3]), ("mask", [list(GREEN)]),
        ("three", [[2] * 3]), ("mask", [list(BLUE)]),
    ]  # fmt: skip


def test_confusion() -> None:
    """Percent of each row; a dash where a class has no pixel, nothing where none went."""
    figure = confusion(Scores(np.array([[3, 1, 0], [0, 5, 0], [0, 0, 0]])), CLASSES.names)
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert cells == {
        (0, 0): "75", (1, 0): "25", (1, 1): "100", (0, 2): "-", (1, 2): "-", (2, 2): "-",
    }  # fmt: skip


class TestEvaluate:
    """Eight images of 2x4 pixels, of which the first n are predicted wrong, and one ignored."""

    WRONG = (1, 3, 0, 2, 4, 1, 0, 2)

    @pytest.fixture
    def samples(self) -> list[Sample]:
        truth = labels(0, 0, 1, 1)
        truth[1, 3] = IGNORE_INDEX
        return [
            Sample(f"image {number}", np.full((2, 4, 1), wrong, np.uint8), truth)
            for number, wrong in enumerate(self.WRONG)
        ]

    @pytest.fixture
    def predictor(self) -> Any:
        def predict(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            out = labels(0, 0, 1, 1)
            out[0, : image[0, 0, 0]] ^= 1
            return out

        predict.card = SimpleNamespace(classes=ClassTable.two())  # type: ignore[attr-defined]
        return predict

    def test_counts(self, predictor: Any, samples: list[Sample]) -> None:
        done = []
        found = evaluation.evaluate(predictor, samples, lambda *of: done.append(of))
        assert done == [(n, 8) for n in range(1, 9)]
        # Wrong pixels of class 0, the first two of the row: 1, 2, 0, 2, 2, 1, 0, 2.
        assert found.scores.matrix.tolist() == [[32 - 10, 10], [3, 24 - 3]]
        assert found.images[2] == 1.0
        assert found.images[0] == pytest.approx((3 / 4 + 3 / 4) / 2)

    def test_worst_first(
        self, predictor: Any, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Six of the eight, the worst on top; those with the same score as they come."""
        figures: list[Figure] = []
        monkeypatch.setattr(evaluation, "save", lambda figure, path: figures.append(figure))
        found = evaluation.evaluate(predictor, samples)
        evaluation.draw_worst(predictor, samples, found, tmp_path / "worst.png")
        shown = panels(figures[0])
        titles = [title.split(":")[0] for title, _ in shown[::3]]
        assert titles == [f"image {number}" for number in (4, 1, 3, 7, 0, 5)]
        # The image is what the prediction was made of; the truth is the mask's.
        background, foreground = (list(colour) for colour in ClassTable.two().palette)
        assert shown[0][1] == [[4] * 3] * 4
        assert shown[1] == ("prediction", [foreground] * 2 + [background] * 2)
        assert shown[2] == ("truth", [background] * 2 + [foreground] * 2)

    def test_table(self, tmp_path: Path) -> None:
        """By hand: class 0 has 3 hits, 1 miss, 2 false."""
        scores = Scores(np.array([[3, 1], [2, 4]]))
        evaluation.write_scores(scores, ClassTable.two(), tmp_path)
        with open(tmp_path / "scores.csv", newline="") as file:
            first, _, mean = (
                [float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]
            )
        assert first == pytest.approx([3 / 6, 6 / 9, 3 / 4, 4 / 10], abs=1e-6)  # digits written
        assert mean == pytest.approx(
            [(3 / 6 + 4 / 7) / 2, (6 / 9 + 8 / 11) / 2, (3 / 4 + 4 / 6) / 2, 1], abs=1e-6
        )
