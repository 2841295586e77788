"""The numbers of a run as they come: rows, a CSV file, and what the console says."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from segfast._errors import UserError
from segfast._files import write_text
from segfast.training.module import SegmentationModule

COLUMNS = (
    "step",
    "epoch",
    "train_loss",
    "lr",
    "images_per_second",
    "val_loss",
    "val_mean_iou",
    "val_accuracy",
)
MOST_ROWS = 2000  # of training losses in a whole run

Row = dict[str, float]  # an entry of COLUMNS is left out where it was not measured


class TrainingError(UserError):
    """Training cannot go on. The message says why and what to try."""


class History(Callback):
    """Gathers a row every few steps and at each validation, and keeps metrics.csv.

    ``train_loss`` is the mean since the row before. The rows travel in the checkpoints, so that a
    resumed run continues its table where the checkpoint stands.
    """

    def __init__(self, path: Path, batch_size: int, total_steps: int) -> None:
        self.path = path
        self.batch_size = batch_size
        self.total_steps = total_steps
        self.every = max(1, total_steps // MOST_ROWS)
        self.rows: list[Row] = []
        self._losses: list[Tensor] = []  # since the last row, on the device: reading them waits
        self._clock = self._start = time.monotonic()
        self._first_step = 0

    @property
    def latest(self) -> Row:
        """The newest value of each column."""
        return {key: value for row in self.rows[-50:] for key, value in row.items()}

    def recent_loss(self) -> float:
        """The mean training loss since the validation before the latest."""
        scored = [index for index, row in enumerate(self.rows) if "val_loss" in row]
        recent = self.rows[scored[-2] + 1 if len(scored) > 1 else 0 :]
        return sum(row["train_loss"] for row in recent) / len(recent)

    @property
    def seconds_left(self) -> float:
        """Until the end of the run, at the pace of this session, validation included."""
        done = self.rows[-1]["step"] - self._first_step if self.rows else 0
        if done < 1:
            return math.nan
        pace = (time.monotonic() - self._start) / done
        return pace * (self.total_steps - self.rows[-1]["step"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clocks."""
        self._clock = self._start = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the loss."""
        self._losses.append(outputs["loss"].detach())
        if trainer.global_step % self.every == 0:
            self._add_row(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the row, so that images per second count training alone."""
        if self._losses:
            self._add_row(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the scores to the row of the step just trained."""
        assert isinstance(pl_module, SegmentationModule) and pl_module.scores is not None
        self.rows[-1].update(
            val_loss=pl_module.validation_loss,
            val_mean_iou=pl_module.scores.mean_iou,
            val_accuracy=pl_module.scores.accuracy,
        )
        self._clock = time.monotonic()
        self._log(trainer)
        self.write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the last rows."""
        self.write(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Writes the rows of a run that was stopped, or failed."""
        if self.rows and not isinstance(exception, OSError):
            self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        """Replaces the CSV file."""
        if trainer.is_global_zero:
            write_text(self.path, to_csv(self.rows))

    def _add_row(self, trainer: Trainer) -> None:
        loss = float(torch.stack(self._losses).mean())
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at step {trainer.global_step}; try a lower --lr "
                f"(now {trainer.optimizers[0].param_groups[0]['lr']:g}) or --precision 32-true"
            )
        now = time.monotonic()
        images = len(self._losses) * self.batch_size * trainer.world_size
        self.rows.append(
            {
                "step": trainer.global_step,
                "epoch": trainer.current_epoch + 1,
                "train_loss": loss,
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
                "images_per_second": images / max(now - self._clock, 1e-9),
            }
        )
        self._losses.clear()
        self._clock = now
        self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        """Passes the newest row on to TensorBoard, where it is asked for."""
        step, *values = self.rows[-1].items()
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=int(step[1]))

    def state_dict(self) -> dict[str, Any]:
        """The rows, and the losses that wait for their row."""
        waiting = [float(loss) for loss in self._losses]
        return {"rows": [dict(row) for row in self.rows], "waiting": waiting}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._losses = [torch.tensor(loss) for loss in state_dict["waiting"]]


def to_csv(rows: list[Row]) -> str:
    """Rows as text: 6 significant digits, empty where nothing was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([f"{row[key]:.6g}" if key in row else "" for key in COLUMNS])
    return text.getvalue()
