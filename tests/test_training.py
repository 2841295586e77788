"""Training runs: resuming, checkpoints, files that are whole or not there."""

from __future__ import annotations

import csv
import errno
import io
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
pytest.importorskip("rich")
pytest.importorskip("torchmetrics")
pytest.importorskip("torchvision")
pytest.importorskip("typer")
from PIL import Image
from rich.console import Console

from segfast._errors import OptionError
from segfast._files import atomic_file
from segfast.checkpoint import CheckpointError, load, load_model
from segfast.data.verify import open_data
from segfast.train_options import TrainOptions
from segfast.training import lr_range
from segfast.training.callbacks import AtomicCheckpointIO, Checkpoints, Interrupted
from segfast.training.history import TrainingError
from segfast.training.lr_range import RangeTest
from segfast.training.module import predict_whole
from segfast.training.plan import Plan, make_plan
from segfast.training.run import fit
from segfast.training.scores import Scores

# 16 training and 4 validation images in batches of 2: 8 steps an epoch, 2 validations in it.
EPOCHS, STEPS = 3, 24


pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24x32 images, the left half dark, in two classes."""
    root = tmp_path_factory.mktemp("données")
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        (root / split).mkdir()
        (root / f"{split}annot").mkdir()
        for number in range(count):
            mask = np.zeros((24, 32), np.uint8)
            mask[:, random.integers(8, 24) :] = 1
            image = (mask[..., None] * 120 + random.integers(0, 100, (24, 32, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / split / f"{number:02}.png")
            Image.fromarray(mask).save(root / f"{split}annot" / f"{number:02}.png")
    return root


def options_for(data: Path, **changed: Any) -> TrainOptions:
    return TrainOptions(
        **{
            "data": str(data),
            "model_options": {"width": 4},
            "epochs": EPOCHS,
            "batch_size": 2,
            "workers": 0,
            **changed,
        }
    )


def plan_for(data: Path, **changed: Any) -> Plan:
    return make_plan(options_for(data, **changed), open_data(str(data)))


def run(data: Path, out: Path, resume: Path | None = None, **changed: Any) -> Path:
    console = Console(file=io.StringIO())
    fit(plan_for(data, **changed), open_data(str(data)), out, console, resume)
    return out


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without its one column that depends on the clock."""
    with open(folder / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    for row in table:
        del row["images_per_second"]
    return table


def assert_same_run(one: Path, other: Path) -> None:
    """Same numbers, and the same weights to the bit."""
    assert rows(one) == rows(other)
    for name in ("last.ckpt", "best.ckpt"):
        first, second = load(one / name)["state_dict"], load(other / name)["state_dict"]
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), key


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    return run(data, tmp_path_factory.mktemp("runs") / "whole")


def test_files_of_a_run(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert names == {
        "best.ckpt", "last.ckpt", "config.yaml", "metrics.csv", "scores.csv", "confusion.csv",
        "curves.png", "confusion.png", "report.html",
    }  # fmt: skip
    for name in ("config.yaml", "report.html"):
        assert "/données" in (whole / name).read_text(encoding="utf-8")
    table = rows(whole)
    assert [row["step"] for row in table] == [str(step) for step in range(1, STEPS + 1)]
    scored = [row["step"] for row in table if row["val_mean_iou"]]
    assert scored == ["4", "8", "12", "16", "20", "24"]
    losses = [float(row["train_loss"]) for row in table]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_bar_on_a_terminal(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # a dumb one, as under make or CI, shows no bars
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    fit(plan_for(data, epochs=1), open_data(str(data)), tmp_path / "run", console, None)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("epoch 1/1", "8/8", "images/s", "ETA", "val mIoU"):
        assert part in shown


def test_checkpoint_holds_plain_values_and_says_what_it_is(data: Path, whole: Path) -> None:
    checkpoint = torch.load(whole / "best.ckpt", weights_only=True)
    card = checkpoint["segfast"]
    assert card["model"] == "segnet_basic" and card["model_options"] == {"width": 4}
    assert card["classes"]["names"] == ("class 0", "class 1")
    assert len(card["classes"]["palette"]) == 2 and len(card["mean"]) == len(card["std"]) == 3
    model, read = load_model(whole / "best.ckpt")
    assert read == plan_for(data).card
    assert model(torch.zeros(1, 3, 25, 31)).shape == (1, 2, 25, 31)  # odd sizes


def test_a_checkpoint_does_not_look_for_its_encoders_first_weights(
    whole: Path, tmp_path: Path
) -> None:
    checkpoint = load(whole / "best.ckpt")
    checkpoint["segfast"]["model_options"]["encoder_weights"] = str(tmp_path / "long gone.pth")
    torch.save(checkpoint, tmp_path / "trained.ckpt")
    model, _ = load_model(tmp_path / "trained.ckpt")
    expected, _ = load_model(whole / "best.ckpt")
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(model(image), expected(image))


def test_a_failed_run_says_so(data: Path, tmp_path: Path) -> None:
    """A rate at which the weights overflow: the report tells why, and what to try."""
    with pytest.raises(TrainingError, match="the loss became (nan|inf) at step"):
        run(data, tmp_path / "run", lr=1e30, optimizer="sgd", precision="32-true")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "failed: the loss became" in page and "try a lower --lr" in page


def test_torch_layers_give_the_same_run(data: Path, tmp_path: Path) -> None:
    """Pooling copies values, so our layers and torch's agree to the bit.

    In full precision: with bfloat16 maps are channels_last, which torch's unpooling gives up, so
    that the convolutions after it add in another order.
    """
    ours = run(data, tmp_path / "ours", precision="32-true")
    assert_same_run(ours, run(data, tmp_path / "torch", precision="32-true", backend="torch"))


def test_default_precision_and_layout_go_together(data: Path) -> None:
    plan = plan_for(data)
    fast = torch.cuda.is_available() or plan.options.precision == "bf16-mixed"
    assert plan.memory_format == (torch.channels_last if fast else torch.contiguous_format)
    assert plan.options.precision in ("32-true", "bf16-mixed", "16-mixed")


@pytest.mark.parametrize("cache", [False, True])
def test_worker_processes_give_the_same_run(
    data: Path, whole: Path, tmp_path: Path, cache: bool
) -> None:
    assert_same_run(whole, run(data, tmp_path / "workers", workers=2, cache=cache))


class StopAt(Checkpoints):
    """Acts as though Ctrl-C were pressed during one step."""

    step = 0

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == self.step:
            self._stop = True
        super().on_train_batch_end(trainer, *rest)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(2, id="before the first validation"),
        pytest.param(4, id="at a validation in the epoch"),
        pytest.param(11, id="within the second epoch"),
        pytest.param(16, id="at the end of an epoch"),
    ],
)
def test_stopped_run_resumes_to_the_same_result(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr("segfast.training.run.Checkpoints", StopAt)
    monkeypatch.setattr(StopAt, "step", step)
    with pytest.raises(Interrupted):
        run(data, tmp_path / "run")
    assert load(tmp_path / "run" / "last.ckpt")["global_step"] == step
    assert (
        f"Step {step} of {STEPS} ({EPOCHS} epochs): stopped"
        in (tmp_path / "run" / "report.html").read_text()
    )
    assert int(rows(tmp_path / "run")[-1]["step"]) == step
    monkeypatch.undo()
    run(data, tmp_path / "run", resume=tmp_path / "run" / "last.ckpt")
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.nightly  # the next test says more
def test_killed_run_resumes_to_the_same_result(data: Path, whole: Path, tmp_path: Path) -> None:
    """kill -9 at whatever the run is doing once it has saved."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "segfast", "train", "--data", str(data), "--out", str(out)]
    command += ["--option", "width=4", "--batch-size", "2", "--epochs", str(EPOCHS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        deadline = time.monotonic() + 600  # a busy machine takes minutes to import torch
        while not (out / "last.ckpt").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert load(out / "last.ckpt")["global_step"] > 0
    run(data, out, resume=out / "last.ckpt")
    assert_same_run(whole, out)


# Kills itself when it has written half of the fourth checkpoint file to be.
DIE_WHILE_SAVING = """
import os, signal
import torch
from segfast.cli import main

class Half:
    def __init__(self, file):
        self.file = file
    def write(self, data):
        self.file.write(bytes(data)[: len(data) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    def flush(self):
        pass

saved, save = [], torch.save
def dying(state, file):
    saved.append(file)
    save(state, Half(file) if len(saved) == 4 else file)
torch.save = dying
main()
"""


def test_killed_while_saving(data: Path, whole: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of a checkpoint: the one before is whole, and the run goes on."""
    out = tmp_path / "run"
    options = ["train", "--data", data, "--out", out, "--option", "width=4", "--batch-size", 2]
    done = subprocess.run(
        [sys.executable, "-c", DIE_WHILE_SAVING, *map(str, [*options, "--epochs", EPOCHS])],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    halves = [path for path in out.iterdir() if path.suffix == ".part"]
    assert len(halves) == 1 and halves[0].stat().st_size > 0
    for name in ("best.ckpt", "last.ckpt"):
        assert load(out / name)["global_step"] > 0
    run(data, out, resume=out / "last.ckpt")
    assert_same_run(whole, out)
    assert not any(path.suffix == ".part" for path in out.iterdir())


def test_interrupted_while_saving(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a checkpoint: it is finished, then the run stops."""
    saved = []

    def save(state: dict[str, Any], file: Any, real: Any = torch.save) -> None:
        saved.append(state["global_step"])
        if len(saved) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        real(state, file)

    monkeypatch.setattr("segfast.training.callbacks.torch.save", save)
    with pytest.raises(Interrupted):
        run(data, tmp_path / "run")
    assert load(tmp_path / "run" / "last.ckpt")["global_step"] == saved[2]
    monkeypatch.undo()
    run(data, tmp_path / "run", resume=tmp_path / "run" / "last.ckpt")
    assert_same_run(whole, tmp_path / "run")


def test_full_disk(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written from some moment on; what was saved is whole, and the run goes on."""
    written = []

    def fsync(descriptor: int, real: Any = os.fsync) -> None:
        written.append(descriptor)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("segfast._files.os.fsync", fsync)
    with pytest.raises(OSError, match="No space left") as caught:
        run(data, tmp_path / "run")
    assert Path(caught.value.filename).parent == tmp_path / "run"
    monkeypatch.undo()
    assert not any(path.suffix == ".part" for path in (tmp_path / "run").iterdir())
    run(data, tmp_path / "run", resume=tmp_path / "run" / "last.ckpt")
    assert_same_run(whole, tmp_path / "run")


def test_more_gpus_than_there_are(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OptionError, match="--devices 2, but torch sees 1 GPU$"):
        plan_for(data, devices=2)


def test_torchrun_says_how_many(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines with two processes each: 16 images are 4 steps of one image on each."""
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    plan = plan_for(data, batch_size=1)
    assert (plan.options.devices, plan.nodes, plan.steps_per_epoch) == (2, 2, 4)
    with pytest.raises(OptionError, match="--devices 3, but torchrun started 2 processes"):
        plan_for(data, devices=3)


@pytest.mark.parametrize("sizes", [[(8, 6)] * 3, [(8, 6), (6, 8), (8, 6)]])
def test_whole_images_are_scored_one_by_one(sizes: list[tuple[int, int]]) -> None:
    """Of one size or of several, with masks twice as large: as though each were alone."""
    model = torch.nn.Conv2d(3, 2, 3, padding=1)
    batch = [
        (torch.randn(3, *size), torch.randint(2, (2 * size[0], 2 * size[1]))) for size in sizes
    ]
    for (logits, labels), (image, mask) in zip(predict_whole(model, batch), batch, strict=True):
        alone = torch.nn.functional.interpolate(model(image[None]), mask.shape, mode="bilinear")
        torch.testing.assert_close(logits, alone)  # convolutions of several may add otherwise
        assert torch.equal(labels[0], mask)


class TestOptions:
    def test_of_a_file(self) -> None:
        """What YAML makes of 1e-3 and of a number of classes."""
        options = TrainOptions.from_dict(
            {"data": "d", "lr": "1e-3", "classes": 11, "size": [4, 6], "epochs": None}
        )
        assert options == TrainOptions("d", lr=1e-3, classes="11", size=(4, 6))
        assert TrainOptions.from_dict(options.to_dict()) == options

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("epoch", 3, "unknown option 'epoch'; there are data, model"),
            ("epochs", "many", "epochs must be a whole number, got 'many'"),
            ("epochs", 1.5, "epochs must be a whole number, got 1.5"),
            ("batch_size", True, "batch_size must be a whole number, got True"),
            ("lr", "fast", "lr must be a number, got 'fast'"),
            ("binary", "yes", "binary must be true or false, got 'yes'"),
            ("size", 360, r"size must be height and width, as \[360, 480\], got 360"),
            ("size", [1, 2, 3], "size must be height and width"),
            ("model_options", ["a=1"], "model_options must be name: value lines"),
            ("loss", ["dice"], "loss must be text"),
        ],
    )
    def test_bad_ones(self, name: str, value: object, message: str) -> None:
        with pytest.raises(OptionError, match=message):
            TrainOptions.from_dict({"data": "d", name: value})


def test_suggested_rate_lies_halfway_down_the_loss() -> None:
    """Level to 1e-4, lowest at 1e-2, rising from there: 1e-3."""
    rates = np.geomspace(1e-6, 1, 61)
    losses = np.interp(np.log10(rates), [-6, -4, -2, 0], [1, 1, 0.2, 3])
    assert RangeTest(rates, losses).suggestion == pytest.approx(1e-3)
    with pytest.raises(TrainingError, match="the loss never fell"):
        RangeTest(rates, np.linspace(1, 2, 61)).suggestion  # noqa: B018


def test_rates_rise_until_the_loss_diverges(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lr_range, "LOWEST", 1e-2)
    monkeypatch.setattr(lr_range, "HIGHEST", 1e6)
    done: list[tuple[int, int]] = []
    plan = plan_for(data, optimizer="sgd", precision="32-true")
    found = lr_range.find_lr(plan, open_data(str(data)), 60, lambda *of: done.append(of))
    steps = len(found.rates)
    assert len(found.losses) == steps < 60 and done == [(n, 60) for n in range(1, steps + 1)]
    assert np.allclose(np.diff(np.log(found.rates)), np.log(1e8) / 59)
    assert found.losses[0] == pytest.approx(np.log(2), rel=0.5)  # new weights tell no class
    assert found.losses[-1] > 4 * found.losses.min() >= 0
    assert (found.losses[10:-1] <= 4 * np.minimum.accumulate(found.losses)[10:-1]).all()


def test_scores() -> None:
    """By hand: class 0 has 3 hits, 1 miss, 2 false; class 2 does not occur."""
    scores = Scores(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    np.testing.assert_allclose(scores.iou, [3 / 6, 4 / 7, np.nan])
    np.testing.assert_allclose(scores.dice, [6 / 9, 8 / 11, np.nan])
    np.testing.assert_allclose(scores.class_accuracy, [3 / 4, 4 / 6, np.nan])
    assert scores.mean_class_accuracy == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert scores.mean_iou == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert scores.accuracy == pytest.approx(7 / 10)
    np.testing.assert_allclose(scores.share, [4 / 10, 6 / 10, 0])


class TestBadCheckpoints:
    def test_damaged(self, whole: Path, tmp_path: Path) -> None:
        (tmp_path / "half.ckpt").write_bytes((whole / "best.ckpt").read_bytes()[:5000])
        with pytest.raises(CheckpointError, match=r"half.ckpt: is no checkpoint, or is damaged"):
            load(tmp_path / "half.ckpt")

    def test_code_inside(self, tmp_path: Path) -> None:
        torch.save({"segfast": {}, "model": torch.nn.ReLU()}, tmp_path / "code.ckpt")
        with pytest.raises(CheckpointError, match="code.ckpt: holds more than tensors"):
            load(tmp_path / "code.ckpt")

    def test_of_another_program(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
        with pytest.raises(CheckpointError, match="was not written by segfast train"):
            load(tmp_path / "other.ckpt")

    def test_missing_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="none.ckpt: does not exist"):
            load(tmp_path / "none.ckpt")
        with pytest.raises(CheckpointError, match="is a folder; name a checkpoint in it"):
            load(tmp_path)

    def test_weights_of_another_model(self, whole: Path, tmp_path: Path) -> None:
        checkpoint = load(whole / "best.ckpt")
        checkpoint["segfast"]["model_options"] = {"width": 8}
        torch.save(checkpoint, tmp_path / "mixed.ckpt")
        with pytest.raises(CheckpointError, match="does not fit this version of segfast"):
            load_model(tmp_path / "mixed.ckpt")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path)
    assert torch.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


FAULTS = """
import resource
import torch
from segfast._malloc import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
keep_freed_memory()
# An aligned block needs a little more room than the one freed before it leaves: glibc finds it once
# neighbours were freed too.
print(given_back, min(faults() for _ in range(20)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc gives large blocks back")
def test_freed_memory_is_kept() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=120
    )
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 10 * kept
