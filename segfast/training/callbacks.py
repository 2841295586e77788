"""What happens around the steps: checkpoints, a stop on Ctrl-C that loses nothing, the console."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from segfast._files import atomic_file
from segfast.checkpoint import load
from segfast.training.history import History
from segfast.training.module import SegmentationModule

SAVE_EVERY = 300  # seconds, between validations


class Interrupted(Exception):
    """The user stopped the run; the last checkpoint is written."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's checkpoints so that a kill leaves the previous one whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Writes aside, syncs, renames."""
        with atomic_file(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # On a full disk the archive's end fails, too, and hides the file's own error.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[[Any, Any], Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads tensors and plain values only."""
        return load(Path(path))


class Checkpoints(Callback):
    """Keeps ``best.ckpt`` (highest validation mean IoU) and ``last.ckpt``.

    On the first Ctrl-C or SIGTERM the step or validation under way is finished, ``last.ckpt``
    written, and :class:`Interrupted` raised; a second Ctrl-C stops at once.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.best_path = folder / "best.ckpt"
        self.last_path = folder / "last.ckpt"
        self.best = math.nan  # before the first validation
        self._console = console
        self._saved = time.monotonic()
        self._stop = False
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves now and then in long epochs, and where the run is to stop."""
        assert trainer.val_check_batch is not None
        if (batch_idx + 1) % trainer.val_check_batch == 0:
            return  # the validation that comes now ends with saving; resumed, it would be skipped
        stop = self._should_stop(trainer)
        if stop or _any_rank(trainer, time.monotonic() - self._saved > SAVE_EVERY):
            self._save(trainer, self.last_path)
        if stop:
            raise Interrupted

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the best and the last."""
        assert isinstance(pl_module, SegmentationModule) and pl_module.scores is not None
        score = pl_module.scores.mean_iou
        if math.isnan(self.best) or score > self.best:
            self.best = score
            self._save(trainer, self.best_path)
        self._save(trainer, self.last_path)
        if self._should_stop(trainer):
            raise Interrupted

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the finished run."""
        self._save(trainer, self.last_path)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.best = state_dict["best"]

    def _should_stop(self, trainer: Trainer) -> bool:
        return _any_rank(trainer, self._stop)

    def _save(self, trainer: Trainer, path: Path) -> None:
        trainer.save_checkpoint(path)
        self._saved = time.monotonic()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._stop = True
        self._console.print("stopping after this step, then saving; Ctrl-C again stops at once")


def _any_rank(trainer: Trainer, decision: bool) -> bool:
    """Whether a process decided so: saving and stopping must happen in all of them at once."""
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


class Reporter(Callback):
    """Prints one line at each validation."""

    def __init__(self, console: Console, history: History, checkpoints: Checkpoints) -> None:
        self._console = console
        self._history = history
        self._checkpoints = checkpoints

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how far the run is and how well it does."""
        if not trainer.is_global_zero:
            return
        row, loss = self._history.latest, self._history.recent_loss()
        best = "best" if row["val_mean_iou"] >= self._checkpoints.best else "    "
        self._console.print(
            f"epoch {row['epoch']:>3.0f}/{trainer.max_epochs}  "
            f"step {row['step']:>{len(str(self._history.total_steps))}.0f}"
            f"/{self._history.total_steps}  "
            f"loss {loss:.3f}  val loss {row['val_loss']:.3f}  "
            f"val mIoU [bold]{row['val_mean_iou']:.3f}[/] {best}  "
            f"{row['images_per_second']:.1f} images/s  "
            f"ETA {duration(self._history.seconds_left)}",
            highlight=False,
            soft_wrap=True,
        )


class Bar(ProgressBar):
    """A bar for the epoch: loss, images a second, time left of the run."""

    def __init__(self, console: Console, history: History) -> None:
        super().__init__()
        self._history = history
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", state="")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the bar."""
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        self._show_epoch(trainer, batch_idx + 1)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Moves the bar."""
        self._progress.update(
            self._task,
            description="validating",
            total=trainer.num_val_batches[dataloader_idx],
            completed=batch_idx + 1,
            state="",
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the epoch again."""
        self._show_epoch(trainer, trainer.fit_loop.batch_idx + 1)

    def _show_epoch(self, trainer: Trainer, batches: int) -> None:
        row = self._history.latest
        state = ""
        if row:
            state = (
                f"loss {row['train_loss']:.3f}  {row['images_per_second']:.1f} images/s  "
                f"ETA {duration(self._history.seconds_left)}"
            )
        self._progress.update(
            self._task,
            description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            total=self.total_train_batches,
            completed=batches,
            state=state,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the bar away."""
        self._progress.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Takes the bar away before anything is said about the error."""
        self._progress.stop()


def duration(seconds: float) -> str:
    """1:02:03, or a dash where it is not known."""
    return "-" if math.isnan(seconds) else str(timedelta(seconds=round(seconds)))
