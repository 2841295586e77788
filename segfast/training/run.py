"""One training run, from its options to its folder of results."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, Subset

from segfast._errors import OptionError
from segfast._files import write_text
from segfast._malloc import keep_freed_memory
from segfast.checkpoint import build_model, without_weights
from segfast.data.classes import IGNORE_INDEX
from segfast.data.loading import (
    EpochSampler,
    TrainingSet,
    WholeBatch,
    WholeSet,
    training_loader,
    whole_loader,
)
from segfast.data.report import DataReport
from segfast.data.transforms import Normalise, TrainingCrop, WholeImage
from segfast.losses import create_loss, loss_modes
from segfast.train_options import TrainOptions
from segfast.training.callbacks import (
    AtomicCheckpointIO,
    Bar,
    Checkpoints,
    Interrupted,
    Reporter,
)
from segfast.training.evaluate import write_scores
from segfast.training.history import History, Row
from segfast.training.module import SegmentationModule
from segfast.training.pictures import curves, save
from segfast.training.plan import Plan, check_values, chosen
from segfast.training.report import run_page, write_report

DRAW_EVERY = 10  # seconds at least, and
DRAW_SHARE = 0.05  # of the time at most


class Pictures(Callback):
    """Keeps curves.png, the scores' files and report.html up to date."""

    def __init__(self, folder: Path, plan: Plan, history: History) -> None:
        self.folder = folder
        self._plan = plan
        self._history = history
        self._due = time.monotonic() + DRAW_EVERY

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws, unless it has just done so."""
        if time.monotonic() > self._due:
            self._draw(trainer, pl_module, "in training")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws."""
        self._draw(trainer, pl_module, "finished")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Draws what there is of a run that was stopped, or failed."""
        if self._history.rows and not isinstance(exception, OSError):
            stopped = isinstance(exception, Interrupted | KeyboardInterrupt)
            self._draw(trainer, pl_module, "stopped" if stopped else f"failed: {exception}")

    def _draw(self, trainer: Trainer, pl_module: LightningModule, state: str) -> None:
        assert isinstance(pl_module, SegmentationModule)
        if not trainer.is_global_zero:
            return
        start = time.monotonic()
        rows = self._history.rows
        save(curves(rows, self._plan.steps_per_epoch), self.folder / "curves.png")
        page = run_page(self._plan, rows, state)
        if pl_module.scores is not None:
            write_scores(pl_module.scores, self._plan.card.classes, self.folder)
            page = replace(page, scores=pl_module.scores, scored="latest validation")
        write_report(page, self.folder / "report.html")
        now = time.monotonic()
        self._due = now + max(DRAW_EVERY, (now - start) / DRAW_SHARE)


class Batches(L.LightningDataModule):
    """The loaders of a run; a resumed one starts after the batches that are trained on."""

    def __init__(self, plan: Plan, data: DataReport) -> None:
        super().__init__()
        self._plan = plan
        self._samples = {
            split: data.cached(split) if plan.options.cache else data.samples[split]
            for split in ("train", "val")
        }
        card = plan.card
        self._normalise = Normalise(card.mean, card.std)

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented crops in an order that depends on the seed and the epoch."""
        options, trainer = self._plan.options, self.trainer
        assert trainer is not None
        samples = self._samples["train"]
        crop = TrainingCrop(self._plan.card.size, self._normalise, options.augment)
        sampler = EpochSampler(
            len(samples),
            chosen(options.batch_size),
            self._plan.steps_per_epoch,
            options.seed,
            trainer.global_rank,
            trainer.world_size,
        )
        sampler.skip = trainer.global_step % self._plan.steps_per_epoch
        return training_loader(
            TrainingSet(samples, crop, options.seed), sampler, chosen(options.workers)
        )

    def val_dataloader(self) -> DataLoader[WholeBatch]:
        """Whole images, each by one of the processes."""
        options, trainer = self._plan.options, self.trainer
        assert trainer is not None
        samples = self._samples["val"]
        whole = WholeSet(samples, WholeImage(self._plan.card.size, self._normalise))
        mine = Subset(whole, range(trainer.global_rank, len(samples), trainer.world_size))
        return whole_loader(mine, chosen(options.batch_size), chosen(options.workers))


def check_options(options: TrainOptions) -> None:
    """All that can be wrong with the options whatever the data hold. Asked before the data are
    read, which may take minutes.

    Raises:
        OptionError: one is out of range, the model or the loss unknown, or tensorboard missing.
    """
    check_values(options)
    _build_loss(options.loss, None)
    _logger(options.logger, Path())
    with torch.device("meta"), suppress(RuntimeError):  # of networks that look at their weights
        build_model(options.model, without_weights(options.model_options), backend=options.backend)


def fit(
    plan: Plan, data: DataReport, out: Path, console: Console, resume: Path | None
) -> list[Row]:
    """Trains, writing checkpoints, config.yaml, metrics, scores, pictures and a report to ``out``.

    Args:
        plan: what to do.
        data: the verified data.
        out: the run's folder.
        console: where progress goes.
        resume: the checkpoint to go on from.

    Returns:
        The rows of metrics.csv.

    Raises:
        Interrupted: the user stopped the run; the last checkpoint is written.
        TrainingError: the loss is no longer finite.
        OptionError: the model or the loss is unknown, or its options are wrong.
    """
    options = plan.options
    module = build_module(plan, data)
    history = History(out / "metrics.csv", chosen(options.batch_size), plan.total_steps)
    checkpoints = Checkpoints(out, console)
    callbacks: list[Callback] = [
        history,
        checkpoints,
        Reporter(console, history, checkpoints),
        Pictures(out, plan, history),
    ]
    if console.is_terminal:
        callbacks.append(Bar(console, history))
    with quiet_lightning():
        trainer = build_trainer(
            plan,
            callbacks,
            devices=chosen(options.devices),
            num_nodes=plan.nodes,
            max_epochs=options.epochs,
            val_check_interval=1 / plan.validations,
            plugins=[AtomicCheckpointIO()],
            logger=_logger(options.logger, out),
            enable_progress_bar=console.is_terminal,
        )
        if trainer.is_global_zero:
            config = yaml.safe_dump(options.to_dict(), sort_keys=False, allow_unicode=True)
            write_text(out / "config.yaml", config)
        trainer.fit(module, datamodule=Batches(plan, data), ckpt_path=resume)
    return history.rows


def build_module(plan: Plan, data: DataReport) -> SegmentationModule:
    """The model with new weights, its loss and its optimizer.

    Raises:
        OptionError: the model or the loss is unknown, or its options are wrong.
    """
    options = plan.options
    L.seed_everything(options.seed, workers=False, verbose=False)
    weight = None
    if options.class_weights == "median_frequency":
        weight = torch.tensor(data.median_frequency_weights())
    loss = _build_loss(options.loss, weight)
    model = plan.card.build(options.backend).to(memory_format=plan.memory_format)
    return SegmentationModule(model, loss, plan.card, plan.total_steps, plan.memory_format)


def build_trainer(plan: Plan, callbacks: list[Callback], **options: Any) -> Trainer:
    """Lightning's trainer, with nothing on that prints or writes by itself."""
    cuda = torch.cuda.is_available()
    if not cuda:
        keep_freed_memory()
    return Trainer(
        accelerator="cuda" if cuda else "cpu",
        precision=plan.options.precision,  # type: ignore[arg-type]  # checked by make_plan
        callbacks=callbacks,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


def _logger(name: str, out: Path) -> Logger | bool:
    if name == "none":
        return False
    try:
        return TensorBoardLogger(out, name="", version="tensorboard")
    except ModuleNotFoundError as error:
        raise OptionError(
            "--logger tensorboard: it is not installed; do: pip install 'segfast[tensorboard]'"
        ) from error


def _build_loss(name: str, class_weight: torch.Tensor | None) -> nn.Module:
    try:
        # Losses of sigmoids take a label map as one class against the rest.
        mode = "multiclass" if "multiclass" in loss_modes(name) else "multilabel"
        return create_loss(name, mode=mode, ignore_index=IGNORE_INDEX, class_weight=class_weight)
    except ValueError as error:
        raise OptionError(f"--loss {name}: {error}") from error


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advertisements and its advice about loaders, which are chosen here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
