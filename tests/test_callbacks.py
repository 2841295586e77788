"""The rows of a run as they come, and which checkpoint is the best."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
pytest.importorskip("rich")
pytest.importorskip("torchmetrics")
pytest.importorskip("torchvision")
from rich.console import Console

from segfast.training.callbacks import Checkpoints, duration
from segfast.training.history import History, TrainingError, to_csv
from segfast.training.module import SegmentationModule


class Trainer(SimpleNamespace):
    """What the callbacks read of Lightning's trainer, on two devices."""

    def __init__(self) -> None:
        super().__init__(
            global_step=0,
            current_epoch=0,
            world_size=2,
            is_global_zero=True,
            loggers=[],
            optimizers=[SimpleNamespace(param_groups=[{"lr": 0.25}])],
            strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
            saved=[],
        )

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(path.stem)


class Clock:
    """Stands still until it is set."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("segfast.training.history.time", clock)
    return clock


def step(history: History, trainer: Any, loss: float) -> None:
    trainer.global_step += 1
    history.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, 0)  # type: ignore[arg-type]


class TestHistory:
    def test_a_row_every_few_steps(self, tmp_path: Path, clock: Clock) -> None:
        """Of 6000 steps every third: 3 steps of 4 images on 2 devices in 2 seconds."""
        history, trainer = History(tmp_path / "metrics.csv", 4, 6000), Trainer()
        history.on_train_start(trainer, None)  # type: ignore[arg-type]
        step(history, trainer, 1.0)
        step(history, trainer, 2.0)
        clock.now += 2
        step(history, trainer, 6.0)
        step(history, trainer, 5.0)
        assert history.rows == [
            {"step": 3, "epoch": 1, "train_loss": 3.0, "lr": 0.25, "images_per_second": 12.0}
        ]
        assert history.latest["train_loss"] == 3.0

    def test_time_left(self, tmp_path: Path, clock: Clock) -> None:
        """Resumed at step 10: ten steps in five seconds, 80 to go."""
        history, trainer = History(tmp_path / "metrics.csv", 4, 100), Trainer()
        assert math.isnan(history.seconds_left) and duration(history.seconds_left) == "-"
        trainer.global_step = 10
        history.on_train_start(trainer, None)  # type: ignore[arg-type]
        clock.now += 5
        for _ in range(10):
            step(history, trainer, 1.0)
        assert history.seconds_left == pytest.approx(40)
        assert duration(3723.4) == "1:02:03"

    def test_recent_loss(self, tmp_path: Path) -> None:
        """Since the validation before the latest."""
        history = History(tmp_path / "metrics.csv", 4, 100)
        history.rows = [{"step": n, "train_loss": float(n**2)} for n in range(1, 7)]
        assert history.recent_loss() == pytest.approx(91 / 6)
        history.rows[5]["val_loss"] = 1.0
        assert history.recent_loss() == pytest.approx(91 / 6)
        history.rows[3]["val_loss"] = 1.0
        assert history.recent_loss() == pytest.approx((25 + 36) / 2)

    @pytest.mark.parametrize("loss", [math.nan, math.inf])
    def test_a_loss_that_is_no_number(self, tmp_path: Path, loss: float) -> None:
        history, trainer = History(tmp_path / "metrics.csv", 4, 100), Trainer()
        message = f"the loss became {loss} at step 1; try a lower --lr .now 0.25."
        with pytest.raises(TrainingError, match=message):
            step(history, trainer, loss)

    def test_table(self) -> None:
        rows = [{"step": 1.0, "train_loss": 1 / 3}, {"step": 2.0, "val_loss": 2e-7}]
        assert to_csv(rows).splitlines()[1:] == ["1,,0.333333,,,,,", "2,,,,,2e-07,,"]


class TestCheckpoints:
    @pytest.fixture
    def module(self) -> SegmentationModule:
        card: Any = SimpleNamespace(classes="ab")
        return SegmentationModule(torch.nn.Identity(), torch.nn.Identity(), card, 10)

    def saved(
        self, callback: Checkpoints, module: SegmentationModule, mean_iou: float
    ) -> list[str]:
        """What is saved after a validation with this score."""
        trainer: Any = Trainer()
        module.scores = SimpleNamespace(mean_iou=mean_iou)  # type: ignore[assignment]
        callback.on_validation_end(trainer, module)
        return list(trainer.saved)

    def test_the_best_is_the_highest(self, tmp_path: Path, module: SegmentationModule) -> None:
        """The first is the best so far, even where no class occurs and there is no mean."""
        callback = Checkpoints(tmp_path, Console())
        scores = (math.nan, 0.4, 0.5, 0.5, 0.3, 0.6)
        saved = [self.saved(callback, module, score) for score in scores]
        assert ["best" in names for names in saved] == [True, True, True, False, False, True]
        assert all("last" in names for names in saved)

    def test_a_resumed_run_knows_the_best(self, tmp_path: Path, module: SegmentationModule) -> None:
        stopped, resumed = (Checkpoints(tmp_path, Console()) for _ in range(2))
        self.saved(stopped, module, 0.5)
        resumed.load_state_dict(stopped.state_dict())
        assert self.saved(resumed, module, 0.4) == ["last"]
        assert self.saved(resumed, module, 0.6) == ["best", "last"]
