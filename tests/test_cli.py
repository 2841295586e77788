"""The command, as a user types it: what it prints, what it writes, what it exits with."""

from __future__ import annotations

import csv
import dataclasses
import errno
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
pytest.importorskip("torchmetrics")
pytest.importorskip("torchvision")
pytest.importorskip("typer")
from matplotlib.figure import Figure
from PIL import Image

from segfast.checkpoint import load_model
from segfast.cli import main
from segfast.cli.evaluate import print_matrix, print_scores
from segfast.cli.lr_find import lr_find
from segfast.cli.options import given_options
from segfast.cli.summary import trace
from segfast.cli.train import train
from segfast.data.report import DataReport
from segfast.data.verify import open_data
from segfast.models import create_model
from segfast.train_options import TrainOptions
from segfast.training.scores import Scores

Command = Callable[..., tuple[int, str, str]]

NAMES = ("sky", "road")


pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture
def segfast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command: exit status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["segfast", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn, instead of written."""
    drawn: list[Figure] = []
    monkeypatch.setattr("segfast.training.pictures.save", lambda figure, path: drawn.append(figure))
    return drawn


def make_data(root: Path, corner: int = 0) -> Path:
    """8 training and 3 validation images of 17x22 (odd: halves unevenly): road below the sky.

    ``corner`` is the value of each mask's first pixel.
    """
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(11):
        mask = np.zeros((17, 22), np.uint8)
        mask[random.integers(5, 12) :] = 1
        mask[0, 0] = corner
        image = random.integers(0, 100, (17, 22, 3)) + (mask == 1)[..., None] * 120
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{number:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:02}.png")
    (root / "train.txt").write_text("".join(f"{n:02}\n" for n in range(8)))
    (root / "val.txt").write_text("".join(f"{n:02}\n" for n in range(8, 11)))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "roads")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder."""
    out = tmp_path_factory.mktemp("runs") / "roads"
    arguments = ["train", "--data", data, "--out", out, "--epochs", 4, "--batch-size", 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["segfast", *map(str, arguments), "--option", "width=4", "--lr", "0.01"]
        )
        with pytest.raises(SystemExit, match="0"):
            main()
    return out


def test_train_writes_its_results(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "best.ckpt", "last.ckpt", "config.yaml", "metrics.csv", "scores.csv", "confusion.csv",
        "curves.png", "confusion.png", "worst.png", "report.html",
    }  # fmt: skip
    with open(trained / "scores.csv", newline="") as file:
        scores = {row["class"]: float(row["iou"]) for row in csv.DictReader(file)}
    assert set(scores) == {*NAMES, "mean"}
    assert scores["mean"] > 0.5  # bright road, dark sky: easily told apart


def test_train_says_what_it_does(segfast: Command, data: Path, tmp_path: Path) -> None:
    """Without --epochs and the rest; not on a terminal: a line a validation, no bar."""
    status, out, _ = segfast(
        "train", "--data", data, "--option", "width=4", "--epochs", 1, "--out", tmp_path / "a run"
    )
    assert status == 0
    assert "8 train, 3 val images, RGB, 22x17 (width x height)" in out
    assert "classes: 2, from classes.txt" in out
    assert "epoch   1/1  step 2/2  loss" in out and "val mIoU" in out and "ETA" in out
    # As a shell takes it: with a space in its name, quoted.
    assert f"next: segfast predict '{tmp_path / 'a run' / 'best.ckpt'}' FILE_OR_FOLDER" in out
    assert "\r" not in out and "\x1b" not in out


@pytest.mark.nightly
@pytest.mark.parametrize("launcher", ["segfast", "torchrun"])
def test_two_processes_train_as_one(data: Path, tmp_path: Path, launcher: str) -> None:
    """Two processes with 2 images a step each give the run of one with 4.

    Without batch normalisation, whose statistics are each process's own. The second process says
    nothing and writes nothing.
    """
    arguments = ["-m", "segfast", "train", "--data", data, "--model", "unet", "--epochs", 2]
    arguments += ["--option", "width=4", "--option", "depth=2", "--option", "batch_norm=false"]
    arguments += ["--precision", "32-true"]
    python = [sys.executable, *arguments]
    both = {
        "segfast": [*python, "--devices", 2],
        "torchrun": [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", 2, *arguments],
    }
    states = []
    for name, command in (
        ("one", [*python, "--batch-size", 4]),
        ("two", [*both[launcher], "--batch-size", 2]),
    ):
        done = subprocess.run(
            [str(word) for word in [*command, "--out", tmp_path / name]],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        states.append(torch.load(tmp_path / name / "last.ckpt", weights_only=True))
    assert done.stdout.count("writing to") == 1
    assert "2 steps of 2 images on each of 2 devices" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    one, two = states
    assert one["global_step"] == two["global_step"] == 4
    for key, weight in one["state_dict"].items():
        # Sums of gradients in another order, through 4 steps of AdamW.
        torch.testing.assert_close(two["state_dict"][key], weight, rtol=1e-4, atol=1e-5)


def test_config_repeats_a_run(segfast: Command, trained: Path, tmp_path: Path) -> None:
    status, _, err = segfast(
        "train", "--config", trained / "config.yaml", "--out", tmp_path / "again"
    )
    assert status == 0, err
    first, again = (
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (trained, tmp_path / "again")
    )
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_no_run_is_written_over(segfast: Command, trained: Path) -> None:
    before = (trained / "last.ckpt").read_bytes()
    status, out, _ = segfast(
        "train", "--config", trained / "config.yaml", "--epochs", 1, "--out", trained
    )
    assert status == 0 and f"writing to {trained}-2" in out
    assert (trained / "last.ckpt").read_bytes() == before


def test_eval(segfast: Command, trained: Path, tmp_path: Path) -> None:
    status, out, _ = segfast("eval", trained / "best.ckpt", "--out", tmp_path)
    assert status == 0
    assert "IoU" in out and "Dice" in out and "confusion: % of the true class" in out
    with open(tmp_path / "confusion.csv", newline="") as file:
        matrix = np.array([list(map(int, row[1:])) for row in list(csv.reader(file))[1:]])
    assert matrix.sum() == 3 * 17 * 22
    with open(tmp_path / "scores.csv", newline="") as file:
        sky = next(csv.DictReader(file))
    hits, union = matrix[0, 0], matrix[0].sum() + matrix[:, 0].sum() - matrix[0, 0]
    assert float(sky["iou"]) == pytest.approx(hits / union, abs=1e-6)  # 6 digits are written
    assert (tmp_path / "confusion.png").exists() and (tmp_path / "worst.png").exists()
    assert "Worst predictions" in (tmp_path / "report.html").read_text()


def test_predict_a_folder(segfast: Command, trained: Path, data: Path, tmp_path: Path) -> None:
    status, out, _ = segfast("predict", trained / "best.ckpt", data / "images", "--out", tmp_path)
    assert status == 0 and f"11 masks in {tmp_path / 'masks'}" in out
    right = 0.0
    for image in (data / "images").iterdir():
        mask = Image.open(tmp_path / "masks" / image.name)
        assert mask.mode == "P" and mask.size == Image.open(image).size == (22, 17)
        assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
        truth = np.array(Image.open(data / "masks" / image.name))
        right += float((np.array(mask) == truth).mean()) / 11
        assert (tmp_path / "pictures" / image.name).exists()
    assert right > 0.8
    # What predict writes, training reads.
    shutil.copytree(data / "images", tmp_path / "images")
    shutil.copy(data / "classes.txt", tmp_path)
    assert open_data(str(tmp_path)).problems == []


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        pytest.param("L", (40, 31), id="grey"),
        pytest.param("P", (5, 3), id="palette, smaller than the network's stride"),
        pytest.param("RGBA", (22, 17), id="alpha"),
        pytest.param("I;16", (22, 17), id="16 bits"),
        pytest.param("CMYK", (1, 1), id="print colours, one pixel"),
    ],
)
def test_predict_any_image(
    segfast: Command, trained: Path, tmp_path: Path, mode: str, shape: tuple[int, int]
) -> None:
    file = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    Image.new(mode, shape).save(file)
    status, _, err = segfast("predict", trained / "best.ckpt", file, "--out", tmp_path / "out")
    assert status == 0, err
    assert Image.open(tmp_path / "out" / "masks" / "a.png").size == shape


def test_predict_two_images_of_one_name(
    segfast: Command, trained: Path, data: Path, tmp_path: Path
) -> None:
    """Neither mask is written over the other."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "a.jpg", "b.png"):
        Image.open(data / "images" / "00.png").save(folder / name)
    assert segfast("predict", trained / "best.ckpt", folder, "--out", tmp_path)[0] == 0
    for kind in ("masks", "pictures"):
        written = {path.name for path in (tmp_path / kind).iterdir()}
        assert written == {"a.png.png", "a.jpg.png", "b.png"}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("data/images", "is a data set, whose masks would be written over"),
        ("photos", "is a data set, whose masks"),
        ("data/masks", "would write over"),
        ("data/pictures", "would write over"),
    ],
)
def test_predict_writes_over_nothing_that_is_the_users(
    segfast: Command, trained: Path, tmp_path: Path, images: str, message: str
) -> None:
    data = make_data(tmp_path / "data")
    for folder in ("photos", "data/pictures"):
        shutil.copytree(data / "images", tmp_path / folder)
    before = {path: path.read_bytes() for path in data.rglob("*.png")}
    arguments = "predict", trained / "best.ckpt", tmp_path / images, "--out", data
    status, _, err = segfast(*arguments)
    assert status == 1 and f"--out {data}: {message}" in err
    assert {path: path.read_bytes() for path in data.rglob("*.png")} == before


def test_predict_shows_the_true_mask_of_the_same_classes(
    segfast: Command, trained: Path, tmp_path: Path, figures: list[Figure]
) -> None:
    """Three pictures in a data set; two where the mask has another size or other values."""
    root = make_data(tmp_path / "d")
    Image.new("L", (5, 5)).save(root / "masks" / "01.png")
    Image.new("L", (22, 17), 7).save(root / "masks" / "02.png")
    for name in ("00", "01", "02"):
        image = root / "images" / f"{name}.png"
        assert segfast("predict", trained / "best.ckpt", image, "--out", tmp_path)[0] == 0
    titles = [[axes.get_title() for axes in figure.axes] for figure in figures]
    assert titles == [
        ["00", "prediction", "truth"], ["01", "prediction"], ["02", "prediction"],
    ]  # fmt: skip


def test_predict_in_tiles(segfast: Command, trained: Path, data: Path, tmp_path: Path) -> None:
    image = data / "images" / "00.png"
    np.save(tmp_path / "slide.npy", np.array(Image.open(image)))
    options = ("--tile", 16, "--overlap", 0.5, "--tta", "flip", "--out", tmp_path)
    status, out, _ = segfast("predict", trained / "best.ckpt", tmp_path / "slide.npy", *options)
    assert status == 0 and "1 mask in" in out and "picture" not in out
    labels = np.load(tmp_path / "masks" / "slide.npy")
    assert labels.shape == (17, 22) and labels.dtype == np.uint8
    assert segfast("predict", trained / "best.ckpt", image, *options)[0] == 0
    assert np.array_equal(np.array(Image.open(tmp_path / "masks" / "00.png")), labels)
    status, _, err = segfast("predict", trained / "best.ckpt", image, "--tta", "all")
    assert status == 1 and "tta must be" in err


def test_predict_names_a_bad_file_and_goes_on(
    segfast: Command, trained: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(data / "images" / "00.png", folder / "good.png")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    status, out, err = segfast("predict", trained / "best.ckpt", folder, "--out", tmp_path / "out")
    assert status == 1
    assert f"{folder / 'bad.jpg'}: cannot be read" in err and "1 mask in" in out
    assert (tmp_path / "out" / "masks" / "good.png").exists()


def test_export(segfast: Command, trained: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    status, out, _ = segfast("export", trained / "best.ckpt", "--out", tmp_path / "model.onnx")
    assert status == 0 and f"segnet_basic with 2 classes in {tmp_path}" in out
    file = onnx.load(tmp_path / "model.onnx")
    texts = {entry.key: entry.value for entry in file.metadata_props}
    assert texts["classes"] == '["sky", "road"]'
    _, card = load_model(trained / "best.ckpt")
    assert tuple(json.loads(texts["mean"])) == card.mean
    assert tuple(json.loads(texts["std"])) == card.std


def test_verify_data(segfast: Command, data: Path) -> None:
    status, out, _ = segfast("verify-data", data)
    assert status == 0
    assert "0 sky" in out and "1 road" in out and "median-frequency weight" in out
    assert f"all files are sound; next: segfast train --data {data}" in out
    _, out, _ = segfast("verify-data", data, "--classes", "blue sky,road", "--ignore-index", 9)
    assert f"train --data {data} --classes 'blue sky,road' --ignore-index 9\n" in out


def test_class_names_with_brackets(
    segfast: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are no markup, neither dropped nor an error."""
    names = "[red]", "a[/b]"
    root = make_data(tmp_path / "d")
    (root / "classes.txt").write_text("\n".join(names))
    status, out, _ = segfast("verify-data", root)
    assert status == 0 and all(f"{i} {name}" in out for i, name in enumerate(names))
    scores = Scores(np.eye(2, dtype=np.int64))
    for show in (lambda: print_scores(scores, names, "t"), lambda: print_matrix(scores, names)):
        show()
        out = capsys.readouterr().out
        assert all(name in out for name in names)


def test_verify_data_of_several_sizes_with_ignored_pixels(segfast: Command, tmp_path: Path) -> None:
    root = make_data(tmp_path / "d", corner=2)
    (root / "classes.txt").write_text("sky\nroad\nvoid\n")
    for number, size in ((1, (10, 10)), (2, (40, 30)), (3, (50, 40))):
        for kind in ("images", "masks"):
            file = root / kind / f"{number:02}.png"
            Image.open(file).resize(size, Image.Resampling.NEAREST).save(file)
    status, out, _ = segfast("verify-data", root)
    assert status == 0 and "4 sizes, median 22x17 (width x height)" in out
    ignored = next(line for line in out.splitlines() if line.startswith(" ignored"))
    assert ignored.split()[2] == f"{100 * 3 / (3 * 17 * 22):.2f}"  # a pixel of each mask of val


def test_show(segfast: Command, data: Path, tmp_path: Path) -> None:
    """Two rows of two pairs, 2.2 times as wide as high: 4 panels of 22x17, titles and legend."""
    status, out, _ = segfast("show", data, "--images", 4, "--out", tmp_path / "batch.png")
    assert status == 0 and "4 images of train and their masks" in out
    width, height = Image.open(tmp_path / "batch.png").size
    assert 2 < width / height < 3
    _, out, _ = segfast("show", data, "--split", "val", "--out", tmp_path / "batch.png")
    assert "3 images of val" in out


def test_show_without_augmentation(
    segfast: Command, data: Path, figures: list[Figure], tmp_path: Path
) -> None:
    """The whole images, as they are."""
    out = tmp_path / "a.png"
    status, _, _ = segfast("show", data, "--split", "val", "--no-augment", "--out", out)
    assert status == 0
    panels = [axes for axes in figures[0].axes if axes.images]
    shown = {axes.get_title(): axes.images[0].get_array() for axes in panels[::2]}
    assert set(shown) == {"08", "09", "10"}
    for name, pixels in shown.items():
        assert np.array_equal(pixels, Image.open(data / "images" / f"{name}.png"))


def test_lr_find(segfast: Command, data: Path, tmp_path: Path) -> None:
    status, out, err = segfast(
        "lr-find", data, "--option", "width=4", "--steps", 40, "--out", tmp_path / "lr.png"
    )
    assert status == 0, err
    rate = float(out.split("suggestion: --lr ")[1].split()[0])
    assert 1e-5 < rate < 1
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]


class TestSummary:
    def test_published_counts(self, segfast: Command) -> None:
        """2.511 GMAC and 8,640,471 parameters: the CARLA tutorial's U-Net."""
        status, out, _ = segfast("summary", "unet_carla", "--size", 96, 128)
        assert status == 0
        assert "8,640,471 parameters; 2.51 GMACs for one image of 3 x 96 x 128" in out
        _, out, _ = segfast("summary", "unet_paper", "--size", 572, 572)
        assert "31,030,658 parameters" in out and "2 x 388 x 388" in out

    def test_units(self, segfast: Command) -> None:
        """The first convolution: 3 maps to 4, 7x7 at every pixel; the last: 4 to 2, 1x1."""
        for side, first, last in ((8, "37.6 k", "512"), (80, "3.76 M", "51.2 k")):
            options = ("--option", "width=4", "--classes", 2, "--size", side, side)
            _, out, _ = segfast("summary", "segnet_basic", *options)
            rows = [line.rstrip() for line in out.splitlines() if "Conv2d" in line]
            assert rows[0].endswith(f" {first}") and rows[-1].endswith(f" {last}"), out

    @pytest.mark.parametrize("depth", [1, 2, None])
    def test_rows_add_up(self, depth: int | None) -> None:
        with torch.device("meta"):
            model = create_model("segnet_basic", classes=5)
            layers, total = trace(model, torch.empty(1, 3, 40, 56), depth)
        assert sum(layer.parameters for layer in layers) == sum(
            parameter.numel() for parameter in model.parameters()
        )
        assert sum(layer.macs for layer in layers) == total
        # The last convolution, 1x1: 64 channels to 5 at every pixel.
        assert layers[-1].shape == "5 x 40 x 56"
        assert depth is not None or layers[-1].macs == 64 * 5 * 40 * 56

    def test_checkpoint(self, segfast: Command, trained: Path) -> None:
        _, out, _ = segfast("summary", trained / "best.ckpt", "--depth", 1)
        assert "segnet_basic, classes sky, road" in out and "for one image of 3 x 17 x 22" in out


def test_tensorboard(segfast: Command, data: Path, tmp_path: Path) -> None:
    """The same numbers as in metrics.csv."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    arguments = ["--option", "width=4", "--epochs", 1, "--logger", "tensorboard", "--out", run]
    status, _, err = segfast("train", "--data", data, *arguments)
    assert status == 0, err
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for key in ("train_loss", "val_mean_iou"):
        written = {event.step: event.value for event in events.Scalars(key)}
        table = {int(row["step"]): float(row[key]) for row in rows if row[key]}
        assert written == pytest.approx(table, rel=1e-5)  # six digits are written


def test_train_on_awkward_images(segfast: Command, tmp_path: Path) -> None:
    """Palette, alpha, grey, 16 bits, and a photo to be turned, beside plain ones."""
    root = make_data(tmp_path / "d")
    for number, mode in enumerate(("P", "RGBA", "L", "I;16")):
        Image.new(mode, (22, 17)).save(root / "images" / f"{number:02}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: 17x22 in the file, 22x17 upright
    Image.new("RGB", (17, 22)).save(root / "images" / "04.png", exif=exif)
    status, out, err = segfast(
        "train", "--data", root, "--option", "width=4", "--epochs", 1, "--out", tmp_path / "run"
    )
    assert status == 0, err
    # The mask of a turned photo is upright, as the photo is seen.
    photo = root / "images" / "04.png"
    status, _, _ = segfast("predict", tmp_path / "run" / "best.ckpt", photo, "--out", tmp_path)
    assert status == 0 and Image.open(tmp_path / "masks" / "04.png").size == (22, 17)


class TestErrors:
    """One sentence on stderr, exit status 1 or 2, and no traceback."""

    def fails(self, segfast: Command, *arguments: object) -> str:
        status, _, err = segfast(*arguments)
        assert status in (1, 2) and "Traceback" not in err
        return err

    def test_train_checks_the_data_first(self, segfast: Command, tmp_path: Path) -> None:
        """Ten masks with an unknown value and a missing one: nothing is trained or written."""
        root = make_data(tmp_path / "d", corner=255)
        (root / "masks" / "03.png").unlink()
        err = self.fails(segfast, "train", "--data", root, "--out", tmp_path / "run")
        assert "error: images/03.png: has no mask: expected masks/03.png\n" in err
        assert "error: masks/00.png: holds value 255 in 1 pixels, which is none of the 2" in err
        assert f"error: {root}: 11 problems; mend them, then try again" in err
        root = make_data(tmp_path / "e")
        (root / "masks" / "03.png").unlink()
        err = self.fails(segfast, "train", "--data", root, "--out", tmp_path / "run")
        assert f"error: {root}: 1 problem; mend it, then try again" in err
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "option",
        [
            ("--model", "segnot"),
            ("--option", "width=0"),
            ("--loss", "hinge"),
            ("--class-weights", "some"),
            ("--precision", "12"),
        ],
    )
    @pytest.mark.parametrize("command", [("train", "--data"), ("lr-find",)], ids=["train", "lr"])
    def test_options_are_checked_before_the_data_are_read(
        self, segfast: Command, command: tuple[str, ...], option: tuple[str, str]
    ) -> None:
        """Which may take minutes. That a folder does not exist is found out at once, too."""
        err = self.fails(segfast, *command, "nowhere", *option)
        assert option[1].removesuffix("=0") in err and "nowhere" not in err

    def test_weights_are_not_looked_for_before_the_data_are_read(self, segfast: Command) -> None:
        err = self.fails(segfast, "train", "--data", "nowhere", "--option", "encoder_weights=none")
        assert "nowhere: does not exist" in err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--model", "segnot"], "model segnot: no model is named 'segnot'; there are"),
            (["--option", "wide=3"], "segnet_basic has no option 'wide'"),
            (["--option", "wide"], "--option wide: must be name=value"),
            (["--loss", "hinge"], "--loss hinge: name must be one of"),
            (["--class-weights", "some"], "--class-weights must be one of none, median_frequency"),
            (["--lr", "0"], "--lr must be above 0, got 0"),
            (["--workers", "-1"], "--workers must be at least 0, got -1"),
            (["--devices", "0"], "--devices must be at least 1, got 0"),
            (["--optimizer", "lamb"], "--optimizer must be one of adamw, sgd, got lamb"),
            (["--backend", "jax"], "--backend must be segfast or torch, got jax"),
            (["--epochs", "0"], "--epochs must be at least 1, got 0"),
            (["--batch-size", "9"], "--batch-size 9 on 1 devices is more than the 8 training"),
            (["--precision", "12"], "--precision"),
            (["--logger", "wandb"], "--logger must be one of none, tensorboard, got wandb"),
            (["--binary", "--classes", "2"], "--binary has two classes and ignores none"),
        ],
    )
    def test_wrong_options(
        self,
        segfast: Command,
        data: Path,
        tmp_path: Path,
        arguments: list[str],
        message: str,
    ) -> None:
        err = self.fails(segfast, "train", "--data", data, "--out", tmp_path / "r", *arguments)
        assert message in err
        assert not (tmp_path / "r" / "last.ckpt").exists()

    def test_summary(self, segfast: Command, tmp_path: Path) -> None:
        assert "no model is named 'segnot'" in self.fails(segfast, "summary", "segnot")
        err = self.fails(segfast, "summary", "unet_paper", "--size", 9, 9)
        assert "--size 9 9: input must be at least 188x188" in err
        (tmp_path / "a.ckpt").write_bytes(b"no")
        assert "a.ckpt: holds more than tensors" in self.fails(
            segfast, "summary", tmp_path / "a.ckpt"
        )

    def test_pictures_end_in_png(self, segfast: Command, data: Path) -> None:
        for command in ("show", "lr-find"):
            err = self.fails(segfast, command, data, "--out", "picture")
            assert "--out picture: must end in .png" in err

    def test_no_data(self, segfast: Command) -> None:
        assert "--data is missing" in self.fails(segfast, "train")
        assert "nowhere: does not exist" in self.fails(segfast, "train", "--data", "nowhere")
        assert "nowhere: does not exist" in self.fails(segfast, "train", "nowhere")
        assert "name one data set" in self.fails(segfast, "train", "a", "--data", "a")

    def test_resume(self, segfast: Command, trained: Path, tmp_path: Path) -> None:
        err = self.fails(segfast, "train", "--resume", tmp_path)
        assert "holds no last.ckpt" in err
        err = self.fails(segfast, "train", "--resume", trained)
        assert "has run its 4 epochs; go on with more by --epochs" in err
        err = self.fails(segfast, "train", "--resume", trained / "last.ckpt")
        assert f"is a file; name the run's folder, {trained}" in err
        err = self.fails(segfast, "train", "--resume", trained, "--lr", "0.5")
        assert "--lr is 0.01 in" in err

    def test_resume_with_other_classes(
        self, segfast: Command, trained: Path, tmp_path: Path
    ) -> None:
        root = make_data(tmp_path / "d", corner=2)
        (root / "classes.txt").write_text("sky\nroad\nkerb\n")
        err = self.fails(segfast, "train", "--resume", trained, "--data", root, "--epochs", 9)
        assert f"{root}: holds other classes than when" in err

    def test_resume_with_another_number_of_images(
        self, segfast: Command, trained: Path, tmp_path: Path
    ) -> None:
        root = make_data(tmp_path / "d")
        (root / "train.txt").write_text("".join(f"{n:02}\n" for n in range(5)))
        err = self.fails(segfast, "train", "--resume", trained, "--data", root, "--epochs", 9)
        assert f"{root}: holds another number of images than when" in err

    def test_unknown_split(self, segfast: Command, trained: Path, data: Path) -> None:
        for command in (["eval", trained / "best.ckpt"], ["show", data]):
            err = self.fails(segfast, *command, "--split", "tests")
            assert f"--split tests: {data} has train, val" in err

    def test_full_disk(
        self, segfast: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in (errno.ENOSPC, errno.EDQUOT):
            error = OSError(number, os.strerror(number), "run/last.ckpt")
            monkeypatch.setattr("segfast.training.run.fit", Mock(side_effect=error))
            err = self.fails(segfast, "train", "--data", data, "--out", tmp_path / "r")
            reason = os.strerror(number).lower()
            assert f"error: run/last.ckpt: {reason}; what was saved before is" in err

    def test_resume_from_another_programs_checkpoint(
        self, segfast: Command, tmp_path: Path
    ) -> None:
        torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
        err = self.fails(segfast, "train", "--resume", tmp_path)
        assert f"{tmp_path / 'last.ckpt'}: was not written by segfast train" in err

    def test_empty_folder(self, segfast: Command, tmp_path: Path) -> None:
        for command in (["verify-data"], ["show"], ["lr-find"], ["train", "--data"]):
            err = self.fails(segfast, *command, tmp_path)
            assert f"{tmp_path}: is not laid out as a data set" in err

    def test_every_command_names_the_broken_image(
        self, segfast: Command, trained: Path, tmp_path: Path
    ) -> None:
        root = make_data(tmp_path / "d")
        image = root / "images" / "08.png"
        image.write_bytes(image.read_bytes()[:-30])
        for command in (
            ["show", root],
            ["lr-find", root],
            ["eval", trained / "best.ckpt", "--data", root],
        ):
            err = self.fails(segfast, *command)
            assert "images/08.png: cannot be read" in err

    def test_an_image_that_breaks_while_training(
        self, segfast: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After all were read, in a worker process, whose traceback is not shown."""
        root = make_data(tmp_path / "d")

        def open_and_break(*arguments: object) -> DataReport:
            report = open_data(*arguments)  # type: ignore[arg-type]
            (root / "images" / "03.png").write_bytes(b"")
            return report

        monkeypatch.setattr("segfast.data.verify.open_data", open_and_break)
        arguments = ["--option", "width=4", "--epochs", 1, "--workers", 1, "--out", tmp_path / "r"]
        err = self.fails(segfast, "train", "--data", root, *arguments)
        assert err.startswith(f"error: {root / 'images' / '03.png'}: cannot be read")
        assert err.count("\n") == 1

    def test_checkpoints(self, segfast: Command, data: Path, tmp_path: Path) -> None:
        (tmp_path / "a.ckpt").write_bytes(b"no")
        for command in (["predict", tmp_path / "a.ckpt", data / "images"], ["eval", tmp_path]):
            assert str(tmp_path) in self.fails(segfast, *command)

    def test_predict_without_images(self, segfast: Command, trained: Path, data: Path) -> None:
        err = self.fails(segfast, "predict", trained / "best.ckpt", data)
        assert f"holds no images; did you mean {data / 'images'}?" in err

    def test_no_permission(self, segfast: Command, trained: Path, data: Path) -> None:
        """/proc cannot be written to, by root either."""
        if not Path("/proc/self").exists():
            pytest.skip("no /proc here")
        image = data / "images" / "00.png"
        err = self.fails(segfast, "predict", trained / "best.ckpt", image, "--out", "/proc/x")
        assert "error: /proc/x/masks" in err
        best = trained / "best.ckpt"
        for command in (
            ["train", "--data", data, "--option", "width=4", "--out", "/proc/x"],
            ["eval", best, "--out", "/proc/x"],
            ["show", data, "--out", "/proc/x/a.png"],
        ):
            assert "error: /proc/x" in self.fails(segfast, *command)

    def test_debug_shows_the_traceback(self, segfast: Command) -> None:
        with pytest.raises(ValueError, match="nowhere: does not exist"):
            segfast("verify-data", "nowhere", "--debug")


def test_bench(segfast: Command, tmp_path: Path) -> None:
    cell = ("--op", "pixel_shuffle", "--size", "small", "--dtype", "float32", "--layout", "nchw")
    status, out, _ = segfast("bench", *cell, "--seconds", 0.01, "--out", tmp_path)
    assert status == 0
    assert all(len(line) <= 80 for line in out.splitlines() if "pixel_shuffle" in line)
    assert "small, fp32" in out and "GB/s" in out and "of 2 rows are at least as fast" in out
    for name in ("bench.json", "speedup.png", "floor.png", "memory.png"):
        assert (tmp_path / name).stat().st_size > 0, name
    status, _, err = segfast("bench", "--op", "nothing", "--out", tmp_path)
    assert status != 0 and "no op's name contains nothing" in err


def test_the_training_options_are_the_commands() -> None:
    """given_options takes what is called as a field of TrainOptions, and nothing else."""
    fields = {field.name for field in dataclasses.fields(TrainOptions)}
    own = {train: {"where", "config", "resume", "out"}, lr_find: {"config", "steps", "out"}}
    for command, others in own.items():
        assert inspect.signature(command).parameters.keys() - others <= fields
    assert fields - inspect.signature(train).parameters.keys() == {"weight_decay"}
    given = {"size": (8, 6), "model_options": ["depth=2"], "cache": False, "lr": None, "out": "x"}
    expected = {"size": [8, 6], "model_options": {"depth": 2}, "cache": False}
    assert given_options(given) == expected
