"""report.html: whole, self-contained, and what it says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
pytest.importorskip("torchvision")
from PIL import Image

from segfast.data.classes import ClassTable, default_palette
from segfast.training.history import Row
from segfast.training.report import Page, write_report
from segfast.training.scores import Scores

VOID = {"meta", "img", "link", "br"}  # elements without an end


class Reader(HTMLParser):
    """The text, the elements and what they load; fails on an element that is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def table() -> ClassTable:
    """Three classes, one with a name that would be markup."""
    return ClassTable(("sky", "<b>road & kerb", "never"), default_palette(3), (0, 1, 2))


def scores() -> Scores:
    return Scores(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))


def read(page: Page, path: Path) -> Reader:
    write_report(page, path)
    return Reader(path.read_text(encoding="utf-8"))


def test_everything_on_one_page(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), "red").save(tmp_path / "worst.png")
    rows: list[Row] = [
        {"step": step, "epoch": 1, "train_loss": 2.0 / step, "lr": 0.1, "images_per_second": 7.0}
        for step in range(1, 9)
    ]
    rows[3].update(val_loss=1.0, val_mean_iou=0.625, val_accuracy=0.75)
    rows[7].update(val_loss=1.0, val_mean_iou=0.5, val_accuracy=0.75)
    page = Page(
        "a & b", "Step 8.", table(), scores(), "val", rows, 8, tmp_path / "worst.png", {"lr": 0.1}
    )
    reader = read(page, tmp_path / "report.html")
    assert reader.seen.count("svg") == 2 and reader.seen.count("img") == 1
    assert "script" not in reader.seen and "link" not in reader.seen
    # Nothing is loaded: the picture is inside, and the other references are the curves' own.
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in reader.sources)
    assert "url(http" not in reader.text
    for said in ("a & b", "0.625", "best mean IoU, step 4", "<b>road & kerb", "lr: 0.1", "Loss"):
        assert said in reader.text, said
    html = (tmp_path / "report.html").read_text()
    tiles = re.findall(r"<div><b>([0-9.]+)</b>([^<]*)</div>", html)
    assert tiles == [
        ("0.625", "best mean IoU, step 4"),
        ("0.697", "mean Dice"),  # of 6/9 and 8/11
        ("0.700", "pixel accuracy"),
        ("0.708", "mean class accuracy"),  # of 3/4 and 4/6
        (f"{np.mean([2 / step for step in range(1, 9)]):.3f}", "training loss"),
        ("7.0", "images/s"),
    ]
    assert "#123456" not in html and "currentColor" in html
    # The matrix in per cent of its rows; a dash where a class has no pixel.
    cells = re.findall(r"<td[^>]*>([0-9]+|-)</td>", html[html.index("Confusion matrix") :])
    assert cells == ["75", "25", "0", "33", "67", "0", "-", "-", "-"]


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    reader = read(Page("run", "Nothing yet.", table()), tmp_path / "report.html")
    assert reader.seen.count("h2") == 0 and "Nothing yet." in reader.text
    reader = read(Page("eval", "Scored.", table(), scores(), "test"), tmp_path / "report.html")
    assert "mean IoU" in reader.text and "svg" not in reader.seen
