"""PSPNet and DeepLab: a dilated encoder, and a head that looks around on its deepest map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as torch_functional
from torch import Tensor, nn

from segfast.models._layers import conv_unit, init_he_
from segfast.models.encoders import Encoder, create_encoder


def _resize(input: Tensor, size: Sequence[int]) -> Tensor:
    return torch_functional.interpolate(input, size, mode="bilinear", align_corners=False)


class _PyramidPooling(nn.Module):
    """The map beside its averages over grids of several sizes, each brought back to full size."""

    def __init__(self, channels: int, grids: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(grid),
                *conv_unit(channels, channels // len(grids), kernel_size=1, bias=False),
            )
            for grid in grids
        )

    def forward(self, input: Tensor) -> Tensor:
        averages = [_resize(branch(input), input.shape[-2:]) for branch in self.branches]
        return torch.cat([input, *averages], dim=1)


class PSPNet(nn.Module):
    """PSPNet: pyramid pooling on a dilated encoder.

    Zhao et al. 2017, "Pyramid Scene Parsing Network", https://arxiv.org/abs/1612.01105.

    The encoder's deepest map, at an eighth of the image, is joined by its averages over grids of
    1, 2, 3 and 6 (each a 1x1 convolution to a quarter of the channels, batch norm, ReLU, bilinear
    upsampling). A 3x3 convolution to 512 channels with batch norm and ReLU, dropout 0.1 and a 1x1
    convolution give logits, which are upsampled to the image bilinearly. The paper's auxiliary loss
    is left out.

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        encoder: a name for :func:`~segfast.models.encoders.create_encoder` or an
            :class:`~segfast.models.encoders.Encoder`.

    Shape:
        - input: ``[N, in_channels, H, W]``, any ``H`` and ``W`` that the encoder takes
        - output: ``[N, classes, H, W]``, logits
    """

    def __init__(
        self, classes: int, in_channels: int = 3, encoder: str | Encoder = "resnet50"
    ) -> None:
        super().__init__()
        self.encoder = create_encoder(encoder, in_channels, output_stride=8)
        channels = self.encoder.channels[-1]
        self.head = nn.Sequential(
            _PyramidPooling(channels),
            *conv_unit(2 * channels, 512, bias=False),
            nn.Dropout(0.1),
            init_he_(nn.Conv2d(512, classes, kernel_size=1)),
        )

    def forward(self, input: Tensor) -> Tensor:
        return _resize(self.head(self.encoder(input)[-1]), input.shape[-2:])


class DeepLabV3(nn.Module):
    """DeepLabv3: atrous spatial pyramid pooling on a dilated encoder, with torchvision's head.

    Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation",
    https://arxiv.org/abs/1706.05587. 39,638,869 parameters with a ResNet-50 at 21 classes.

    Args and shapes: see :class:`PSPNet`.
    """

    def __init__(
        self, classes: int, in_channels: int = 3, encoder: str | Encoder = "resnet50"
    ) -> None:
        super().__init__()
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        self.encoder = create_encoder(encoder, in_channels, output_stride=8)
        self.head = DeepLabHead(self.encoder.channels[-1], classes)

    def forward(self, input: Tensor) -> Tensor:
        return _resize(self.head(self.encoder(input)[-1]), input.shape[-2:])


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+: DeepLabv3 at a sixteenth of the image, refined by the encoder's map at a quarter.

    Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
    Segmentation", https://arxiv.org/abs/1802.02611. The map at a quarter goes through a 1x1
    convolution to 48 channels, the pyramid's 256 are upsampled to its size and concatenated, and
    two 3x3 convolutions with 256 channels precede the logits; none is separable. 40,352,181
    parameters with a ResNet-50 at 21 classes.

    Args and shapes: see :class:`PSPNet`.
    """

    def __init__(
        self, classes: int, in_channels: int = 3, encoder: str | Encoder = "resnet50"
    ) -> None:
        super().__init__()
        from torchvision.models.segmentation.deeplabv3 import ASPP

        self.encoder = create_encoder(encoder, in_channels, output_stride=16)
        if 4 not in self.encoder.reductions:
            raise ValueError(
                "DeepLabV3Plus needs an encoder with a map at a quarter of the image, received "
                f"reductions {tuple(self.encoder.reductions)}"
            )
        self.quarter = list(self.encoder.reductions).index(4)
        channels = self.encoder.channels
        self.pyramid = ASPP(channels[-1], atrous_rates=(6, 12, 18))
        self.project = nn.Sequential(*conv_unit(channels[self.quarter], 48, 1, bias=False))
        self.head = nn.Sequential(
            *conv_unit(256 + 48, 256, bias=False),
            *conv_unit(256, 256, bias=False),
            init_he_(nn.Conv2d(256, classes, kernel_size=1)),
        )

    def forward(self, input: Tensor) -> Tensor:
        maps = self.encoder(input)
        fine = self.project(maps[self.quarter])
        coarse = _resize(self.pyramid(maps[-1]), fine.shape[-2:])
        return _resize(self.head(torch.cat([coarse, fine], dim=1)), input.shape[-2:])
