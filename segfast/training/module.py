"""The Lightning module: one training step, one validation step, the optimizer and its schedule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from segfast.checkpoint import ENTRY, Card
from segfast.data.classes import IGNORE_INDEX
from segfast.data.loading import WholeBatch
from segfast.metrics import ConfusionMatrix
from segfast.models.full_size import full_size, resize_logits
from segfast.training.scores import Scores

WARM_UP = 0.05  # of all steps
MAX_WARM_UP = 200  # steps
MOMENTUM = 0.9
POWER = 0.9  # of the polynomial decay, as in the FCN and DeepLab papers' code


class SegmentationModule(L.LightningModule):
    """Fits a model to labelled crops and scores it on whole images.

    Args:
        model: [N, C, H, W] to logits [N, classes, H, W].
        loss: logits and labels to a scalar.
        card: what checkpoints say about the model.
        total_steps: of the whole run, for the schedule.
        memory_format: that images are brought into; the model's weights should have it too.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        card: Card,
        total_steps: int,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.card = card
        self.total_steps = total_steps
        self.memory_format = memory_format
        self.confusion = ConfusionMatrix(len(card.classes), ignore_index=IGNORE_INDEX)
        self.validation_loss = 0.0
        self.scores: Scores | None = None  # of the latest validation

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Makes dropout a function of the seed and the step, so that a resumed run repeats it."""
        seed = self.card.options.seed * 1_000_003 + self.global_step
        torch.manual_seed(seed * 1009 + self.global_rank)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """The loss of one batch of crops."""
        images, labels = batch  # [N, C, H, W], [N, H, W]
        images = images.contiguous(memory_format=self.memory_format)
        loss: Tensor = self.loss(full_size(self.model, images), labels)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Starts counting anew."""
        self.confusion.reset()
        self._losses: list[Tensor] = []

    def validation_step(self, batch: WholeBatch, batch_index: int) -> None:
        """Compares predictions, at the masks' own size, with the masks."""
        for logits, labels in predict_whole(self.model, batch):
            self.confusion.update(logits, labels)
            self._losses.append(self.loss(logits, labels))

    def on_validation_epoch_end(self) -> None:
        """Computes the scores over all images, and over all devices where there are several."""
        self.scores = Scores(self.confusion.compute().cpu().numpy())
        mean = self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
        self.validation_loss = float(mean)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """A linear warm-up of the learning rate, then polynomial decay to zero."""
        options = self.card.options
        settings: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
        optimizer: torch.optim.Optimizer
        if options.optimizer == "sgd":
            optimizer = torch.optim.SGD(self.model.parameters(), momentum=MOMENTUM, **settings)
        else:
            optimizer = torch.optim.AdamW(self.model.parameters(), **settings)
        warm_up = max(1, min(MAX_WARM_UP, round(WARM_UP * self.total_steps)))

        def factor(step: int) -> float:
            left = max(0.0, 1 - step / self.total_steps)
            return float(min(1.0, (step + 1) / warm_up) * left**POWER)

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the card."""
        checkpoint[ENTRY] = self.card.to_dict()
        checkpoint["total_steps"] = self.total_steps


def predict_whole(model: nn.Module, batch: WholeBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits at each mask's own size, with the mask, one by one.

    Images of one size go through the model together. Masks may be far larger than what goes through
    the model, so that the logits of all of them at once might not fit into memory.
    [1, classes, H, W], [1, H, W]
    """
    logits: Iterable[Tensor]
    if len({image.shape for image, _ in batch}) == 1:
        logits = full_size(model, torch.stack([image for image, _ in batch])).split(1)
    else:
        logits = (full_size(model, image[None]) for image, _ in batch)
    for out, (_, labels) in zip(logits, batch, strict=True):
        yield resize_logits(out, labels.shape), labels[None]
