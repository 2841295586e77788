"""An input to show a model with: what exporting, optimising and timing have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def example_input(model: nn.Module, batch: int = 1, height: int = 64, width: int = 96) -> Tensor:
    """Noise [batch, C, height, width] on the model's device, with the channels and the type of its
    first convolution; larger where the model says that it needs more (``minimum_size``).

    Raises:
        ValueError: the model has no 2-D convolution to tell the channels by.
    """
    layer = _first_convolution(model)
    if layer is None:
        raise ValueError(
            f"{type(model).__name__} has no Conv2d to tell its input by: pass example, a tensor "
            "[N, C, H, W] that it takes"
        )
    least = getattr(model, "minimum_size", 1)
    size = (batch, layer.in_channels, max(height, least), max(width, least))
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0))
    return noise.to(device=layer.weight.device, dtype=layer.weight.dtype)


def input_channels(model: nn.Module) -> int | None:
    """What ``model`` takes, if its first convolution tells."""
    layer = _first_convolution(model)
    return None if layer is None else layer.in_channels


def _first_convolution(model: nn.Module) -> nn.Conv2d | None:
    return next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
