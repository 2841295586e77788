"""Weight initialisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["icnr_"]


def icnr_(
    weight: Tensor,
    scale: int = 2,
    initializer: Callable[[Tensor], object] = torch.nn.init.kaiming_normal_,
) -> Tensor:
    """Initialises a convolution in front of a pixel shuffle so that it starts without checkerboard.

    All ``scale * scale`` subpixels of an output channel get the same kernel, so that shuffling the
    convolution's output equals upsampling a smaller convolution's by nearest neighbours (Aitken et
    al., 2017, "Checkerboard artifact free sub-pixel convolution", section 3).

    Args:
        weight: [C * scale * scale, in_channels, ...], changed in place.
        scale: upscale factor of the pixel shuffle that follows.
        initializer: fills a tensor [C, in_channels, ...] in place.

    Returns:
        ``weight``.

    Raises:
        ValueError: ``scale * scale`` does not divide the first dimension of ``weight``.
    """
    if scale < 1 or weight.dim() < 2 or weight.shape[0] % (scale * scale) != 0:
        raise ValueError(
            f"weight must have a first dimension that scale * scale = {scale * scale} divides and "
            f"at least 2 dimensions, got shape {list(weight.shape)}"
        )
    with torch.no_grad():
        kernel = weight.new_empty(weight.shape[0] // (scale * scale), *weight.shape[1:])
        initializer(kernel)
        return weight.copy_(kernel.repeat_interleave(scale * scale, dim=0))
