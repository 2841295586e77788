"""A training loop of one's own on a folder of images/ and masks/ of the same names.

    python examples/train_on_a_folder.py FOLDER --classes 3

``segfast train --data FOLDER`` does all this and more: it reads other layouts, balances classes,
resumes, and draws what it has learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import segfast


class Folder(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images [3, H, W] in [0, 1] and their masks [H, W] of class numbers."""

    def __init__(self, root: Path, size: tuple[int, int]) -> None:
        self.images = sorted((root / "images").iterdir())
        self.masks = [root / "masks" / f"{image.stem}.png" for image in self.images]
        self.size = size[::-1]  # Pillow's order: width, height

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(self.images[index]).convert("RGB").resize(self.size)
        mask = Image.open(self.masks[index]).resize(self.size, Image.Resampling.NEAREST)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        # Labels stay bytes: segfast's losses and metrics take any integer type.
        return pixels, torch.from_numpy(np.array(mask))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 160), metavar=("H", "W"))
    parser.add_argument("--out", type=Path, default=Path("out/segnet_basic.pt"))
    arguments = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = DataLoader(Folder(arguments.folder, arguments.size), batch_size=4, shuffle=True)
    model = segfast.create_model("segnet_basic", classes=arguments.classes)
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_function = segfast.losses.DiceCELoss(ignore_index=255)
    metric = segfast.metrics.MeanIoU(num_classes=arguments.classes, ignore_index=255).to(device)

    for epoch in range(arguments.epochs):
        for images, labels in data:
            images = images.to(device, memory_format=torch.channels_last)
            labels = labels.to(device)
            logits = model(images)
            loss = loss_function(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            metric.update(logits.detach(), labels)
        print(f"epoch {epoch}: loss {loss:.4f}, mean IoU while training {metric.compute():.4f}")
        metric.reset()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), arguments.out)
    print(f"weights: {arguments.out}")


if __name__ == "__main__":
    main()
