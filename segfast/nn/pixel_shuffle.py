"""Sub-pixel shuffling layers."""

from __future__ import annotations

import torch
from torch import Tensor

from segfast import functional as F
from segfast.nn._script import refuse_script


class PixelShuffle(torch.nn.PixelShuffle):
    """Drop-in for :class:`torch.nn.PixelShuffle`.

    See :func:`segfast.functional.pixel_shuffle`.
    """

    __prepare_scriptable__ = refuse_script

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, self.upscale_factor)


class PixelUnshuffle(torch.nn.PixelUnshuffle):
    """Drop-in for :class:`torch.nn.PixelUnshuffle`.

    See :func:`segfast.functional.pixel_unshuffle`.
    """

    __prepare_scriptable__ = refuse_script

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_unshuffle(input, self.downscale_factor)
