"""Masks for single images from a trained checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segfast.data.images import named, open_upright, to_array
from segfast.data.transforms import Normalise, WholeImage
from segfast.training.checkpoint import load_model
from segfast.training.module import full_size, resize_logits

Picture = NDArray[np.uint8] | NDArray[np.float32]


class Predictor:
    """Reads images as training did, and labels every pixel.

    Args:
        checkpoint: a file of ``segfast train``.
        device: where the model runs; the GPU if there is one.

    Raises:
        CheckpointError: the file is no checkpoint of ours.
    """

    def __init__(self, checkpoint: Path, device: torch.device | None = None) -> None:
        self.device = device or default_device()
        model, self.card = load_model(checkpoint)
        self.model = model.to(self.device)
        self.prepare = WholeImage(self.card.size, Normalise(self.card.mean, self.card.std))

    def read(self, path: Path) -> Picture:  # [H, W, channels]
        """The image in a file, upright, with the model's channels.

        Raises:
            DataError: the file cannot be used; the message names it.
        """
        with named(path):
            return to_array(open_upright(path), self.card.in_channels)

    def __call__(self, image: Picture) -> NDArray[np.uint8]:  # [H, W, channels] -> [H, W]
        """The class of each pixel of an image, at the image's own size."""
        labels: NDArray[np.uint8] = self.logits(image).argmax(0).to(torch.uint8).cpu().numpy()
        return labels

    @torch.inference_mode()
    def logits(self, image: Picture) -> Tensor:  # [H, W, channels] -> [classes, H, W]
        """The scores of each class at each pixel."""
        tensor = self.prepare(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
        out = full_size(self.model, tensor[None].to(self.device))
        return resize_logits(out, image.shape[:2])[0]


def default_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
