"""Sub-pixel shuffling layers."""

from __future__ import annotations

import torch
from torch import Tensor

from segfast import functional as F


class PixelShuffle(torch.nn.PixelShuffle):
    """Drop-in for :class:`torch.nn.PixelShuffle`.

    See :func:`segfast.functional.pixel_shuffle`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, self.upscale_factor)


class PixelUnshuffle(torch.nn.PixelUnshuffle):
    """Drop-in for :class:`torch.nn.PixelUnshuffle`.

    See :func:`segfast.functional.pixel_unshuffle`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_unshuffle(input, self.downscale_factor)
