"""What each of two processes does with its share of a batch: ranks.py FOLDER RANK; see
test_losses.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from segfast import losses as L
from segfast.metrics import BoundaryF1, ConfusionMatrix, MeanIoU, PixelAccuracy

IGNORED = 255
CLASSES = 4


def results(
    images: Tensor, labels: Tensor, guess: Tensor, mine: slice, reduce: str
) -> dict[str, Any]:
    """Losses, gradients of a layer's weights, and scores, of ``mine`` of the batch."""
    options: dict[str, Any] = {"ignore_index": IGNORED, "reduce": reduce}
    found: dict[str, Any] = {}
    for name, loss in {
        "dice_ce": L.DiceCELoss(class_weight=[1.0, 2.0, 0.5, 3.0], **options),
        "dice_focal": L.DiceFocalLoss(**options),
        "log_mcc": L.MCCLoss(link="log", **options),
        "generalized_dice": L.GeneralizedDiceLoss("multilabel", **options),
        "bce": L.BCELoss("multilabel", **options),
    }.items():
        layer = nn.Conv2d(2, CLASSES, 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.fill_(0.3)
            layer.weight[1] = -0.5
        model = nn.parallel.DistributedDataParallel(layer) if dist.is_initialized() else layer
        value = loss(model(images[mine]), labels[mine])
        value.backward()
        found[name] = value.detach(), layer.weight.grad
    for name, metric in {
        "iou": MeanIoU(CLASSES, ignore_index=IGNORED),
        "iou_per_image": MeanIoU(CLASSES, per_image=True, ignore_index=IGNORED),
        "boundary": BoundaryF1(CLASSES, ignore_index=IGNORED),
        "accuracy": PixelAccuracy(CLASSES, ignore_index=IGNORED),
        "confusion": ConfusionMatrix(CLASSES, ignore_index=IGNORED),
    }.items():
        metric.update(guess[mine], labels[mine])
        found[name] = metric.compute()  # of all ranks
    return found


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    share = slice(0, 1) if rank == 0 else slice(1, 3)  # unequal batches
    torch.save(results(*torch.load(folder / "batch"), share, "global"), folder / f"rank{rank}")
    dist.barrier()
    # Without the teardown: gloo's threads now and then abort a process that ends while DDP still
    # holds its group, and all that this rank has to say is in the file.
    os._exit(0)
