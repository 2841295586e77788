"""Logits of the size that is wanted, whatever size a model gives them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segfast.models._layers import crop_centre
from segfast.models.unet import UNet


def full_size(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of the images' size, of models too that give the middle only (``padding="valid"``).

    Those see the border mirrored: the overlap-tile strategy of the U-Net paper. Logits of a smaller
    map, as DeepLab's and SegFormer's code gives them, are upsampled, and those of a dict are its
    entry ``out``, as torchvision's models name them. [N, C, H, W] -> [N, classes, H, W]
    """
    height, width = images.shape[-2:]
    core = _core(model)
    if isinstance(core, UNet) and core.padding == "valid":
        # What the convolutions eat, and at most a pixel at each pooling.
        margin = (core.minimum_size + (1 << core.depth)) // 2
        mode = "reflect" if margin < min(height, width) else "replicate"
        padded = nn.functional.pad(images, [margin] * 4, mode=mode)
        return crop_centre(model(padded), height, width)
    out: Any = model(images)
    logits: Tensor = out["out"] if isinstance(out, Mapping) else out
    return logits if logits.shape[-2:] == (height, width) else resize_logits(logits, images.shape)


def _core(model: nn.Module) -> nn.Module:
    """What torch.compile and :func:`segfast.optimize` have wrapped."""
    for name in ("_orig_mod", "model"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module):
            return _core(inner)
    return model


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, in float32. [N, classes, h, w] -> [N, classes, *size[-2:]]"""
    size = list(size[-2:])
    if list(logits.shape[-2:]) == size:
        return logits.float()
    return nn.functional.interpolate(logits.float(), size=size, mode="bilinear")
