"""The convolutions of VGG16, which SegNet and FCN share."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from segfast.models._layers import conv_unit

#: Convolutions a stage, in multiples of the width (64 in the paper).
VGG16_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


def vgg16_features(
    pool: Callable[[], nn.Module], in_channels: int = 3, width: int = 64, batch_norm: bool = False
) -> nn.Sequential:
    """VGG16's 13 convolutions with ``pool()`` after each of the five stages.

    Simonyan and Zisserman 2015, "Very Deep Convolutional Networks", configuration D: 14,714,688
    parameters for RGB input, 8,448 more with batch norm. The layers stand at the indices of
    torchvision's ``vgg16().features`` (``vgg16_bn`` with batch norm), so that its checkpoints load
    by name where these are called ``features``.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for stage in VGG16_STAGES:
        for multiple in stage:
            layers += conv_unit(channels, multiple * width, batch_norm=batch_norm)
            channels = multiple * width
        layers.append(pool())
    return nn.Sequential(*layers)
