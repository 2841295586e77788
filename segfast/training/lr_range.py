"""The learning rate range test: how high a rate a model takes before the loss rises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from segfast.data.report import DataReport
from segfast.training.history import TrainingError
from segfast.training.plan import Plan
from segfast.training.run import Batches, build_module, build_trainer, quiet_lightning

LOWEST, HIGHEST = 1e-6, 1.0
DIVERGED = 4.0  # times the lowest loss: the test ends
MEMORY = 0.9  # of the running mean of the losses
FEWEST = 10  # steps to tell a slope by


@dataclass(frozen=True)
class RangeTest:
    """The losses that a rising learning rate gave.

    Attributes:
        rates: one a step. [steps]
        losses: the training loss, a running mean. [steps]
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def suggestion(self) -> float:
        """Halfway on a logarithmic scale from where the loss begins to fall to where it is lowest.

        It begins to fall where it last was as high as at the start.

        Raises:
            TrainingError: the loss never fell.
        """
        lowest = int(np.argmin(self.losses))
        if lowest < FEWEST:
            raise TrainingError(
                "the loss never fell, whatever the learning rate; try more --steps, and look at "
                "the data with segfast show"
            )
        begin = np.flatnonzero(self.losses[:lowest] >= self.losses[0])[-1]
        return float(np.sqrt(self.rates[begin] * self.rates[lowest]))


class _Rise(Callback):
    """Raises the learning rate at each step, by the same factor, until the loss diverges."""

    def __init__(self, steps: int, on_progress: Callable[[int, int], None]) -> None:
        self.rates = np.geomspace(LOWEST, HIGHEST, steps)
        self.losses: list[float] = []
        self._mean = 0.0
        self._on_progress = on_progress

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rates[len(self.losses)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            trainer.should_stop = True
            return
        self._mean = MEMORY * self._mean + (1 - MEMORY) * loss
        self.losses.append(self._mean / (1 - MEMORY ** (len(self.losses) + 1)))
        self._on_progress(len(self.losses), len(self.rates))
        if len(self.losses) > FEWEST and self.losses[-1] > DIVERGED * min(self.losses):
            trainer.should_stop = True


def find_lr(
    plan: Plan, data: DataReport, steps: int, on_progress: Callable[[int, int], None]
) -> RangeTest:
    """Trains a new model for some steps while the rate rises from 1e-6 to 1; keeps nothing of it.

    Source: L. N. Smith, Cyclical learning rates for training neural networks, WACV 2017.

    Raises:
        OptionError: the model or the loss is unknown, or its options are wrong.
    """
    rise = _Rise(steps, on_progress)
    with quiet_lightning():
        trainer = build_trainer(
            plan,
            [rise],
            devices=1,
            max_steps=steps,
            limit_val_batches=0,
            logger=False,
            enable_progress_bar=False,
        )
        trainer.fit(build_module(plan, data), datamodule=Batches(plan, data))
    return RangeTest(rise.rates[: len(rise.losses)], np.array(rise.losses))
