"""Fully convolutional networks: VGG16's scores at several strides, upsampled and added up."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from segfast.models._layers import conv_unit, crop_corner, init_he_, pad_to_multiple
from segfast.models.encoders import Encoder, VGG16Encoder, create_encoder

#: Finest stride with scores of its own -> how many coarser predictions are refined on the way.
_SKIPS = {32: 0, 16: 1, 8: 2}


def bilinear_upsampling(channels: int, scale: int, learnable: bool = False) -> nn.ConvTranspose2d:
    """A transposed convolution that multiplies height and width by ``scale``, bilinear at first.

    Kernel ``2 * scale``, padding ``scale / 2``, no bias; each channel is interpolated on its own
    (Long et al. 2015, section 3.3). ``scale`` is even. Zeros stand outside the image, so that the
    outermost ``scale / 2`` pixels are darker than those of :func:`torch.nn.functional.interpolate`.
    """
    layer = nn.ConvTranspose2d(
        channels, channels, 2 * scale, stride=scale, padding=scale // 2, bias=False
    )
    distance = (torch.arange(2 * scale) - (scale - 0.5)).abs()
    triangle = 1 - distance / scale
    with torch.no_grad():
        layer.weight.zero_()
        for channel in range(channels):
            layer.weight[channel, channel] = torch.outer(triangle, triangle)
    layer.weight.requires_grad_(learnable)
    return layer


def _zero_scores(in_channels: int, classes: int) -> nn.Conv2d:
    """1x1 scores that start at zero, so that a new stride leaves the coarser prediction alone."""
    layer = nn.Conv2d(in_channels, classes, kernel_size=1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class _FCN(nn.Module):
    """An encoder, and on the way back up one addition for each finer stride with its own scores."""

    def __init__(
        self,
        encoder: Encoder,
        classifier: nn.Module,
        upsample: list[nn.Module],
        score: list[nn.Module],
        last_upsample: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier  # of the map at stride 32
        self.upsample = nn.ModuleList(upsample)  # each doubles the size: to stride 16, to stride 8
        self.score = nn.ModuleList(score)  # of the map at stride 16, at stride 8
        self.last_upsample = last_upsample

    def forward(self, input: Tensor) -> Tensor:
        height, width = input.shape[-2:]
        maps = self.encoder(pad_to_multiple(input, 32))
        x = self.classifier(maps.pop())
        for upsample, score in zip(self.upsample, self.score, strict=True):
            x = upsample(x) + score(maps.pop())
        logits: Tensor = self.last_upsample(x)
        return crop_corner(logits, height, width)


class _PaperFCN(_FCN):
    stride: int

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        fc: bool | None = None,
        learn_upsampling: bool = False,
        encoder: str | Encoder = "vgg16",
        width: int = 64,
    ) -> None:
        if encoder == "vgg16":
            encoder = VGG16Encoder(in_channels, width)
        if fc is None:
            fc = isinstance(encoder, VGG16Encoder)
        encoder = create_encoder(encoder, in_channels)
        if tuple(encoder.reductions[-3:]) != (8, 16, 32):
            raise ValueError(
                "an FCN needs an encoder whose last maps are reduced by 8, 16 and 32, received "
                f"reductions {tuple(encoder.reductions)}"
            )

        def double() -> nn.Module:
            return bilinear_upsampling(classes, 2, learn_upsampling)

        *finer, channels = encoder.channels
        classifier: list[nn.Module] = []
        if fc:
            for kernel_size in (7, 1):
                classifier += conv_unit(channels, 64 * width, kernel_size, batch_norm=False)
                classifier.append(nn.Dropout())
                channels = 64 * width
        classifier.append(_zero_scores(channels, classes))
        skips = finer[::-1][: _SKIPS[self.stride]]
        super().__init__(
            encoder=encoder,
            classifier=nn.Sequential(*classifier),
            upsample=[double() for _ in skips],
            score=[_zero_scores(channels, classes) for channels in skips],
            last_upsample=bilinear_upsampling(classes, self.stride, learn_upsampling),
        )


class FCN32s(_PaperFCN):
    """FCN-32s: the scores at stride 32, upsampled 32 times at once. Arguments: see :class:`FCN8s`.

    136,152,917 parameters at 21 classes.
    """

    stride = 32


class FCN16s(_PaperFCN):
    """FCN-16s: :class:`FCN8s` without the scores at stride 8.

    134,815,994 parameters at 21 classes.
    """

    stride = 16


class FCN8s(_PaperFCN):
    """FCN-8s on VGG16.

    Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation",
    https://arxiv.org/abs/1411.4038.

    VGG16's 13 convolutions and 5 poolings; its fully connected layers as convolutions (fc6 7x7 and
    fc7 1x1 to 4,096 channels, each with ReLU and dropout 0.5); a 1x1 convolution to the scores at
    stride 32. These are upsampled twice and the scores of pool 4 are added, upsampled twice again
    and those of pool 3 are added, then upsampled eight times. 134,489,759 parameters at 21 classes.

    Upsampling is a transposed convolution with the weights of bilinear interpolation, which stay
    fixed as in the authors' released models; all scores start at zero, as theirs do. The authors
    pad the input by 100 pixels so that fc6 can go without padding. Here fc6 pads by 3 and the
    input is padded with zeros to a multiple of 32, which takes half the arithmetic at 360x480.

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        fc: with the convolutions fc6 and fc7, which hold nine tenths of the parameters; without
            them the scores at stride 32 are those of pool 5. ``None``: with VGG16 only.
        learn_upsampling: train the upsampling's weights, too.
        encoder: what stands in for VGG16: a name for
            :func:`~segfast.models.encoders.create_encoder` or an
            :class:`~segfast.models.encoders.Encoder`.
        width: channels of VGG16's first stage; fc6 and fc7 have 64 times as many.

    Shape:
        - input: ``[N, in_channels, H, W]``, any ``H`` and ``W`` from 1 on
        - output: ``[N, classes, H, W]``, logits
    """

    stride = 8


class FCNVGG16(_FCN):
    """The small FCN that TensorFlow's tutorials build on VGG16, without fc6 and fc7.

    It differs from :class:`FCN8s` in its other layers, too. A transposed 4x4 convolution of stride
    2 without bias takes pool 5 straight to scores at stride 16; ``ReLU(1x1 convolution)`` of pool 4
    is added; another transposed 4x4 convolution, with bias, doubles the size;
    ``ReLU(1x1 convolution)`` of pool 3 is added; a transposed 8x8 convolution of stride 8, whose
    outputs do not overlap, gives the logits. At stride 16 and 32 the additions that are missing
    leave a larger last step. All weights are trained. 14,833,776 parameters at
    stride 8 and 12 classes.

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        stride: the finest stride with scores of its own, 8, 16 or 32.
        width: channels of VGG16's first stage.

    Shape:
        - input: ``[N, in_channels, H, W]``, any ``H`` and ``W`` from 1 on
        - output: ``[N, classes, H, W]``, logits
    """

    def __init__(
        self, classes: int, in_channels: int = 3, stride: Literal[8, 16, 32] = 8, width: int = 64
    ) -> None:
        if stride not in _SKIPS:
            raise ValueError(f"stride must be 8, 16 or 32, received {stride!r}")

        def up(in_channels: int, kernel_size: int, scale: int, bias: bool) -> nn.Module:
            padding = (kernel_size - scale) // 2
            return init_he_(
                nn.ConvTranspose2d(
                    in_channels, classes, kernel_size, stride=scale, padding=padding, bias=bias
                )
            )

        skips = [8 * width, 4 * width][: _SKIPS[stride]]
        inputs = [8 * width, classes, classes]
        super().__init__(
            encoder=VGG16Encoder(in_channels, width),
            classifier=nn.Identity(),
            upsample=[up(inputs[i], 4, 2, bias=i > 0) for i in range(len(skips))],
            score=[
                nn.Sequential(*conv_unit(channels, classes, kernel_size=1, batch_norm=False))
                for channels in skips
            ],
            last_upsample=up(inputs[len(skips)], stride, stride, bias=bool(skips)),
        )
