"""From samples to tensors: joint augmentation for training, plain resizing for everything else."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from segfast.data.classes import IGNORE_INDEX
from segfast.data.samples import Sample

Size = tuple[int, int]  # (height, width)


def fit(image: Size, size: Size) -> Size:
    """The image's size scaled to the area of ``size``, its aspect ratio kept."""
    scale = math.sqrt(size[0] * size[1] / (image[0] * image[1]))
    return max(1, round(image[0] * scale)), max(1, round(image[1] * scale))


def resize(image: Tensor, size: Size) -> Tensor:
    """Bilinear, smoothed where it shrinks. [C, H, W] -> [C, *size]"""
    out: Tensor = v2.functional.resize(image, list(size), antialias=True)
    return out


class Normalise:
    """Scales an image to 0 to 1, then to zero mean and unit deviation per channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._steps = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        )

    def __call__(self, image: Tensor) -> Tensor:  # [C, H, W]
        out: Tensor = self._steps(image)
        return out


class WholeImage:
    """The whole image, resized to about the training size; labels are not needed."""

    def __init__(self, size: Size, normalise: Normalise) -> None:
        self.size = size
        self.normalise = normalise

    def __call__(self, image: Tensor) -> Tensor:  # [C, H, W] -> [C, h, w]
        size = fit((image.shape[-2], image.shape[-1]), self.size)
        return self.normalise(resize(image, size))


class TrainingCrop:
    """A random part of the image at the training size, with its labels.

    Crop (30 to 100 % of the area), mirror, brightness, contrast and saturation; without ``augment``
    the whole image, resized.
    """

    def __init__(self, size: Size, normalise: Normalise, augment: bool = True) -> None:
        self.normalise = normalise
        aspect = size[1] / size[0]
        self._whole = v2.Resize(size)
        self._steps = (
            v2.Compose(
                [
                    v2.RandomResizedCrop(
                        size, scale=(0.3, 1.0), ratio=(aspect * 3 / 4, aspect * 4 / 3)
                    ),
                    v2.RandomHorizontalFlip(),
                    v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
                ]
            )
            if augment
            else self._whole
        )

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # [C, H, W], [H, W] -> [C, h, w], [h, w]
        pair = tv_tensors.Image(image), tv_tensors.Mask(labels)
        out, mask = self._steps(*pair)
        if (mask == IGNORE_INDEX).all():  # nothing to learn, and a mean over no pixel is NaN
            out, mask = self._whole(*pair)
        return self.normalise(out.as_subclass(Tensor)), mask.as_subclass(Tensor)


def to_tensors(sample: Sample) -> tuple[Tensor, Tensor]:
    """Image [C, H, W] and labels [H, W] of a sample."""
    image = torch.from_numpy(sample.image).permute(2, 0, 1)
    return image, torch.from_numpy(sample.labels)
