"""segfast in a model that is already there: its layers swapped, its loss and its metric replaced.

python examples/drop_in.py
"""

from __future__ import annotations

import torch
from torch import nn

import segfast
from segfast.compat import smp  # was: from segmentation_models_pytorch import losses as smp


class TinySegNet(nn.Module):
    """What somebody wrote with PyTorch's own layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.middle = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
        self.unpool = nn.MaxUnpool2d(2)
        self.head = nn.Conv2d(32, classes, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.encode(image)
        pooled, indices = self.pool(features)
        return self.head(self.unpool(self.middle(pooled), indices, output_size=features.shape))


def main() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 97, 128)  # any size: 97 is odd
    labels = torch.randint(5, (2, 97, 128))
    labels[:, :4] = 255  # unlabelled

    model = TinySegNet(classes=5)
    before = model(images)
    segfast.accelerate(model)  # in place; segfast.restore(model) is the way back
    after = model(images)
    print(f"pool is now {type(model.pool).__module__}.{type(model.pool).__name__}")
    print(f"largest difference of the logits: {(after - before).abs().max():.1g}")

    loss = smp.DiceLoss("multiclass", ignore_index=255)(after, labels)
    loss.backward()
    print(f"Dice loss: {loss:.4f}")

    metric = segfast.metrics.MeanIoU(num_classes=5, ignore_index=255)
    metric.update(after, labels)  # logits: the argmax is part of the kernel
    print(f"mean IoU: {metric.compute():.4f}")


if __name__ == "__main__":
    main()
