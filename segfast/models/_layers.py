"""What several model families share: convolution units, initialisation, padding to a multiple."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as torch_functional
from torch import Tensor, nn

Conv = TypeVar("Conv", nn.Conv2d, nn.ConvTranspose2d)


def init_he_(layer: Conv, relu: bool = False) -> Conv:
    """Initialises a convolution so that its output is as large as its input, and returns it.

    The weights are normal with variance ``2 / fan_in`` before a ReLU (He et al. 2015, "Delving Deep
    into Rectifiers") and ``1 / fan_in`` where none follows; the bias is zero. ``fan_in`` counts the
    products summed into one output element: ``in_channels * (kernel_size / stride)^2`` for a
    transposed convolution, where :func:`torch.nn.init.kaiming_normal_` takes another number.
    """
    fan_in = layer.in_channels / layer.groups * math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose2d):
        fan_in /= math.prod(layer.stride)
    nn.init.normal_(layer.weight, std=math.sqrt((2 if relu else 1) / fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv_unit(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    padding: int | None = None,
    bias: bool = True,
    batch_norm: bool = True,
    relu: bool = True,
) -> list[nn.Module]:
    """A convolution, then batch norm and ReLU as asked. ``padding=None`` keeps the size."""
    if padding is None:
        padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=bias)
    layers: list[nn.Module] = [init_he_(conv, relu)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(out_channels))
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return layers


def pad_to_multiple(input: Tensor, multiple: int) -> Tensor:
    """Zeros at the right and the bottom of ``input`` [N, C, H, W] up to the next multiple."""
    height, width = input.shape[-2:]
    return torch_functional.pad(input, (0, -width % multiple, 0, -height % multiple))


def crop_corner(input: Tensor, height: int, width: int) -> Tensor:
    """The first ``height`` rows and ``width`` columns of ``input`` [N, C, H, W]."""
    if torch.compiler.is_exporting():
        # A copy: of a view of unknown size torch.export asks whether it is contiguous, and then
        # takes no other size for which the answer differs.
        rest = (0, width - input.shape[-1], 0, height - input.shape[-2])
        return torch_functional.pad(input, rest)
    return input[..., :height, :width]


def crop_centre(input: Tensor, height: int, width: int) -> Tensor:
    """The middle ``height`` x ``width`` of ``input`` [N, C, H, W]."""
    top = (input.shape[-2] - height) // 2
    left = (input.shape[-1] - width) // 2
    return input[..., top : top + height, left : left + width]


def resize_nearest(input: Tensor, size: Sequence[int]) -> Tensor:
    """``input`` [N, C, H, W] at another height and width, by nearest neighbours."""
    old, new = tuple(input.shape[-2:]), tuple(size)
    # A size that torch.export knows only at run time is a SymInt: comparing it would fix it.
    if all(isinstance(extent, int) for extent in old + new) and old == new:
        return input
    return torch_functional.interpolate(input, list(size), mode="nearest")
