"""U-Net: the paper's, the tutorials', and what lies between them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from segfast.models._layers import conv_unit, crop_centre, crop_corner, init_he_, pad_to_multiple
from segfast.nn import MaxPool2d, SubpixelUpsample

Upsampling = Literal["transpose", "subpixel", "bilinear"]


def _upsampler(
    kind: Upsampling, in_channels: int, out_channels: int, kernel_size: int
) -> nn.Module:
    """Doubles height and width, at least: a transposed convolution of kernel 3 adds one more."""
    if kind == "transpose":
        return init_he_(nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride=2))
    if kind == "subpixel":
        return SubpixelUpsample(in_channels, out_channels, scale=2, weight_norm=False)
    if kind == "bilinear":
        # A 1x1 convolution and an interpolation commute: convolve the smaller image.
        return nn.Sequential(
            init_he_(nn.Conv2d(in_channels, out_channels, kernel_size=1)),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        )
    raise ValueError(f'upsampling must be "transpose", "subpixel" or "bilinear", received {kind!r}')


class UNet(nn.Module):
    """U-Net with the choices that its many versions differ in.

    Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation", https://arxiv.org/abs/1505.04597.

    On the way down, ``depth`` times: two 3x3 convolutions with ReLU, then a 2x2 max-pooling, the
    channels doubling from ``width`` on. At the bottom two more convolutions. On the way up,
    ``depth`` times: upsampling to twice the size and half the channels, concatenation with the map
    of the same level (upsampled channels first), two 3x3 convolutions. A 1x1 convolution gives the
    logits.

    The paper's own network is ``UNet(2, 1, batch_norm=False, padding="valid", dropout=0.5)``:
    31,030,658 parameters, 572x572 pixels in, 388x388 out.

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        depth: how often the image is halved.
        width: channels of the first level.
        batch_norm: batch norm between each 3x3 convolution and its ReLU.
        padding: ``"same"`` keeps the size at every convolution; ``"valid"`` pads nowhere, as the
            paper does, crops the maps that are concatenated, and returns the middle of the image.
        upsampling: ``"transpose"``, a transposed convolution; ``"subpixel"``,
            :class:`segfast.nn.SubpixelUpsample`; or ``"bilinear"``, interpolation and a 1x1
            convolution.
        up_kernel_size: of the transposed convolution, 2 as in the paper or 3 as in TensorFlow's
            tutorials. With 3 the last row and column are dropped, as Keras does for ``"same"``.
        dropout: probability; 0 for none.
        dropout_at: ``"bottom"``, after the convolutions of the two deepest levels on the way down,
            as in the paper; or ``"levels"``, after each pooling and each concatenation.
        head_conv: one more 3x3 convolution with ReLU before the logits.

    Shape:
        - input: ``[N, in_channels, H, W]``
        - output: ``[N, classes, H, W]``, logits. Sizes that ``2^depth`` does not divide are padded
          with zeros inside and cropped at the end. With ``padding="valid"`` the output is smaller,
          by 184 pixels at depth 4 for the sizes that halve evenly.

    Raises:
        ValueError: an unknown option, or an input too small for ``padding="valid"``.
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        depth: int = 4,
        width: int = 64,
        batch_norm: bool = True,
        padding: Literal["same", "valid"] = "same",
        upsampling: Upsampling = "transpose",
        up_kernel_size: Literal[2, 3] = 2,
        dropout: float = 0.0,
        dropout_at: Literal["bottom", "levels"] = "bottom",
        head_conv: bool = False,
    ) -> None:
        super().__init__()
        if padding not in ("same", "valid"):
            raise ValueError(f'padding must be "same" or "valid", received {padding!r}')
        if dropout_at not in ("bottom", "levels"):
            raise ValueError(f'dropout_at must be "bottom" or "levels", received {dropout_at!r}')
        if up_kernel_size not in (2, 3):
            raise ValueError(f"up_kernel_size must be 2 or 3, received {up_kernel_size!r}")
        self.depth = depth
        self.padding = padding
        conv_padding = 1 if padding == "same" else 0

        def block(in_channels: int, out_channels: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (in_channels, out_channels):
                layers += conv_unit(
                    channels, out_channels, padding=conv_padding, batch_norm=batch_norm
                )
            return nn.Sequential(*layers)

        def dropout_if(wanted: bool) -> nn.Module:
            return nn.Dropout(dropout) if wanted and dropout else nn.Identity()

        at_levels = dropout_at == "levels"
        channels = [width << level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            block(inner, outer)
            for inner, outer in zip([in_channels, *channels[:-1]], channels, strict=True)
        )
        self.encoder_dropout = nn.ModuleList(
            dropout_if(not at_levels and level >= depth - 1) for level in range(depth + 1)
        )
        self.pool = MaxPool2d(kernel_size=2)
        self.level_dropout = dropout_if(at_levels)
        self.upsample = nn.ModuleList(
            _upsampler(upsampling, 2 * inner, inner, up_kernel_size)
            for inner in reversed(channels[:-1])
        )
        self.decoder = nn.ModuleList(block(2 * inner, inner) for inner in reversed(channels[:-1]))
        head = conv_unit(width, width, padding=conv_padding, batch_norm=False) if head_conv else []
        self.head = nn.Sequential(*head, init_he_(nn.Conv2d(width, classes, kernel_size=1)))
        self.minimum_size = self._minimum_size(head_conv) if padding == "valid" else 1

    def _minimum_size(self, head_conv: bool) -> int:
        """The smallest input that leaves one pixel when no convolution pads."""
        size = 3 if head_conv else 1
        for _ in range(self.depth):
            size = (size + 4 + 1) // 2
        for _ in range(self.depth):
            size = 2 * (size + 4)
        return size + 4

    def forward(self, input: Tensor) -> Tensor:
        height, width = input.shape[-2:]
        if self.padding == "same":
            input = pad_to_multiple(input, 1 << self.depth)
        elif min(height, width) < self.minimum_size:
            raise ValueError(
                f"input must be at least {self.minimum_size}x{self.minimum_size} for "
                f'padding="valid", received {height}x{width}: enlarge it or use padding="same"'
            )
        x = input  # [N, in_channels, H, W]
        skips: list[Tensor] = []
        levels = zip(self.encoder, self.encoder_dropout, strict=True)
        for level, (block, dropout) in enumerate(levels):
            if level:
                x = self.level_dropout(self.pool(x))
            x = dropout(block(x))
            skips.append(x)
        skips.pop()  # the bottom is no one's neighbour
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            doubled_height, doubled_width = 2 * x.shape[-2], 2 * x.shape[-1]
            x = upsample(x)[..., :doubled_height, :doubled_width]
            skip = crop_centre(skips.pop(), doubled_height, doubled_width)
            x = block(self.level_dropout(torch.cat([x, skip], dim=1)))
        logits: Tensor = self.head(x)
        return crop_corner(logits, height, width) if self.padding == "same" else logits
