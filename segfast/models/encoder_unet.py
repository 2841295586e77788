"""U-Net on a classification network, as segmentation_models and its PyTorch heir build it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segfast.models._layers import conv_unit, init_he_, resize_nearest
from segfast.models.encoders import Encoder, create_encoder
from segfast.nn import SubpixelUpsample


class _Block(nn.Module):
    """Upsample to a given size, join the encoder's map of that size if there is one, convolve."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, subpixel: bool
    ) -> None:
        super().__init__()
        self.upsample = (
            SubpixelUpsample(in_channels, scale=2, weight_norm=False) if subpixel else nn.Identity()
        )
        self.convolutions = nn.Sequential(
            *conv_unit(in_channels + skip_channels, out_channels, bias=False),
            *conv_unit(out_channels, out_channels, bias=False),
        )

    def forward(self, input: Tensor, size: Sequence[int], skip: Tensor | None) -> Tensor:
        x = resize_nearest(self.upsample(input), size)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        output: Tensor = self.convolutions(x)
        return output


class EncoderUNet(nn.Module):
    """U-Net whose way down is a classification network.

    The decoder of segmentation_models (https://github.com/qubvel/segmentation_models) and
    segmentation_models.pytorch: for each halving of the encoder, upsampling by nearest neighbours,
    concatenation with the encoder's map of that size where it has one, and two 3x3 convolutions
    with batch norm and ReLU; at the end a 3x3 convolution to the logits. 24,436,369 parameters with
    a ResNet-34 at 1 class.

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        encoder: a name for :func:`~segfast.models.encoders.create_encoder` or an
            :class:`~segfast.models.encoders.Encoder`.
        decoder_channels: of the blocks from the coarsest to the full size, as many as the encoder
            halves the image; by default 256 and half as many each time.
        upsampling: ``"nearest"`` or ``"subpixel"``, :class:`segfast.nn.SubpixelUpsample`.

    Shape:
        - input: ``[N, in_channels, H, W]``, any ``H`` and ``W`` that the encoder takes; ResNets
          take all
        - output: ``[N, classes, H, W]``, logits. Nearest neighbours also bridge odd sizes.
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        encoder: str | Encoder = "resnet34",
        decoder_channels: Sequence[int] | None = None,
        upsampling: Literal["nearest", "subpixel"] = "nearest",
    ) -> None:
        super().__init__()
        if upsampling not in ("nearest", "subpixel"):
            raise ValueError(f'upsampling must be "nearest" or "subpixel", received {upsampling!r}')
        self.encoder = create_encoder(encoder, in_channels)
        *finer, deepest = self.encoder.reductions
        halvings = deepest.bit_length() - 1
        if decoder_channels is None:
            decoder_channels = [256 >> step for step in range(halvings)]
        if len(decoder_channels) != halvings:
            raise ValueError(
                f"decoder_channels must have one entry for each of the encoder's {halvings} "
                f"halvings, received {tuple(decoder_channels)}"
            )
        skips = dict(zip(finer, self.encoder.channels, strict=False))
        channels = self.encoder.channels[-1]
        self.blocks = nn.ModuleList()
        for step, out_channels in enumerate(decoder_channels, start=1):
            skip_channels = skips.get(deepest >> step, 0)
            self.blocks.append(
                _Block(channels, skip_channels, out_channels, upsampling == "subpixel")
            )
            channels = out_channels
        self.head = init_he_(nn.Conv2d(channels, classes, kernel_size=3, padding=1))

    def forward(self, input: Tensor) -> Tensor:
        *finer, x = self.encoder(input)
        skips = dict(zip(self.encoder.reductions, finer, strict=False))
        reduction = self.encoder.reductions[-1]
        for block in self.blocks:
            reduction //= 2
            skip = skips.get(reduction)
            if skip is not None:
                size = skip.shape[-2:]
            elif reduction == 1:
                size = input.shape[-2:]
            else:
                size = [2 * extent for extent in x.shape[-2:]]
            x = block(x, size, skip)
        logits: Tensor = self.head(x)
        return logits
