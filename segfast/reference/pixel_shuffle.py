"""Plain-PyTorch twins of pixel_shuffle and pixel_unshuffle."""

from __future__ import annotations

import torch
from torch import Tensor

from segfast._shuffle import coarse_size
from segfast._window import empty, format_of


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """torch's pixel_shuffle, which keeps channels_last on the CPU alone."""
    return lay_out(torch.nn.functional.pixel_shuffle(input, upscale_factor), format_of(input))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """torch's pixel_unshuffle, which keeps channels_last on the CPU alone.

    On the CPU torch (2.14) gives back the shape of an empty input; this gives the unshuffled one.
    """
    if input.numel() == 0:
        return empty(coarse_size(input, downscale_factor, "pixel_unshuffle"), input)
    return lay_out(torch.nn.functional.pixel_unshuffle(input, downscale_factor), format_of(input))


def lay_out(tensor: Tensor, format: torch.memory_format) -> Tensor:
    """``tensor`` with the strides of a fresh one, also for dimensions of 1, unlike contiguous()."""
    output = torch.empty(
        tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=format
    )
    return output.copy_(tensor)
