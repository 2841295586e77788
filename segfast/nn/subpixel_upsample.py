"""Learned upsampling by sub-pixel convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segfast import functional as F
from segfast.nn._script import refuse_script
from segfast.nn.init import icnr_


class SubpixelUpsample(torch.nn.Module):
    """1x1 convolution, ReLU, pixel shuffle and, if wanted, a blur: fastai's ``PixelShuffle_ICNR``.

    Everything after the convolution is one pass, :func:`segfast.functional.subpixel_upsample`. The
    weight is initialised by :func:`segfast.nn.init.icnr_`, the bias with 0, as in fastai 2.8 (which
    repeats kernels for scale 2 whatever ``scale`` is; this repeats them for ``scale``).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; ``in_channels`` by default.
        scale: upscale factor.
        blur: end with the mean of each pixel and its left, upper and upper left neighbours.
        weight_norm: reparametrise the weight by its norm and direction
            (:func:`torch.nn.utils.parametrizations.weight_norm`), as fastai does by default.
        relu: clamp at 0 before the shuffle.
        bias: give the convolution a bias.

    Raises:
        ValueError: a number of channels or a scale below 1.

    Shape: [N, in_channels, H, W] to [N, out_channels, H * scale, W * scale].

    Keys of the state_dict, and fastai's for the same tensors:

    * ``conv.bias``: ``0.0.bias``;
    * with ``weight_norm``, ``conv.parametrizations.weight.original0`` and ``.original1``:
      ``0.0.weight_g`` and ``0.0.weight_v``;
    * without it, ``conv.weight``: ``0.0.weight``.
    """

    __prepare_scriptable__ = refuse_script

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        scale: int = 2,
        blur: bool = False,
        weight_norm: bool = True,
        relu: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        channels = in_channels if out_channels is None else out_channels
        if min(in_channels, channels, scale) < 1:
            raise ValueError(
                "in_channels, out_channels and scale must be at least 1, got "
                f"{in_channels}, {channels} and {scale}"
            )
        self.scale = scale
        self.blur = blur
        self.relu = relu
        self.conv = torch.nn.Conv2d(
            in_channels, channels * scale * scale, 1, bias=bias, device=device, dtype=dtype
        )
        icnr_(self.conv.weight, scale)
        if self.conv.bias is not None:
            torch.nn.init.zeros_(self.conv.bias)
        if weight_norm:
            _normalise_weight(self.conv)

    def forward(self, input: Tensor) -> Tensor:
        return F.subpixel_upsample(self.conv(input), self.scale, self.relu, self.blur)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, blur={self.blur}, relu={self.relu}"


def _normalise_weight(conv: torch.nn.Conv2d) -> torch.nn.Conv2d:
    """Gives ``conv`` weight norm, in place, and a way to be pickled.

    torch has none: it makes a class for each such layer and hooks a local function to it.
    """

    def reduce(conv: torch.nn.Conv2d, protocol: object) -> tuple[Any, ...]:
        state = dict(vars(conv))
        del state["_load_state_dict_pre_hooks"]  # torch's, which the new layer has, too
        return _normalised_conv, (), state

    torch.nn.utils.parametrizations.weight_norm(conv)
    type(conv).__reduce_ex__ = reduce  # type: ignore[assignment]
    return conv


def _normalised_conv() -> torch.nn.Conv2d:
    """A layer of such a class, to be filled with the attributes that were pickled."""
    return _normalise_weight(torch.nn.Conv2d(1, 1, 1))
