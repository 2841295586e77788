"""DynamicUNet: fastai's U-Net on a classification network, with sub-pixel upsampling."""

from __future__ import annotations

import torch
import torch.nn.functional as torch_functional
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from segfast.models._layers import conv_unit, resize_nearest
from segfast.models.encoders import Encoder, create_encoder
from segfast.nn import SubpixelUpsample


def _convolutions(in_channels: int, *out_channels: int) -> nn.Sequential:
    """3x3 convolutions with bias and ReLU, one for each of ``out_channels``."""
    layers: list[nn.Module] = []
    for channels in out_channels:
        layers += conv_unit(in_channels, channels, batch_norm=False)
        in_channels = channels
    return nn.Sequential(*layers)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.bias, 1e-3)  # as fastai: keeps the ReLU behind it from starting dead
    return norm


class SelfAttention(nn.Module):
    """Self-attention over all pixels, added with a weight that starts at zero.

    ``output[j] = input[j] + gamma * sum_i softmax_i(query[i] . key[j]) * value[i]``, where query
    and key have ``channels / 8`` channels and all three are 1x1 convolutions with spectral norm
    (Zhang et al. 2019, "Self-Attention Generative Adversarial Networks",
    https://arxiv.org/abs/1805.08318). Input and output are ``[N, channels, H, W]``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

        def project(out_channels: int) -> nn.Module:
            return spectral_norm(nn.Conv1d(channels, out_channels, kernel_size=1, bias=False))

        self.query = project(channels // 8)
        self.key = project(channels // 8)
        self.value = project(channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, input: Tensor) -> Tensor:
        x = input.flatten(2)  # [N, C, H * W]
        # PyTorch's kernels that do not keep all the weights, and ONNX, want a dimension of heads.
        query, key, value = (
            project(x).mT.unsqueeze(1) for project in (self.query, self.key, self.value)
        )
        # The softmax runs over the paper's queries, so that they are what PyTorch calls keys.
        attended = torch_functional.scaled_dot_product_attention(key, query, value, scale=1.0)
        return input + self.gamma * attended.squeeze(1).mT.reshape(input.shape)


class _Block(nn.Module):
    """One step up: upsample, join the encoder's map of that size, convolve twice."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        blur: bool,
        self_attention: bool,
    ) -> None:
        super().__init__()
        self.upsample = SubpixelUpsample(
            in_channels, in_channels // 2, scale=2, blur=blur, weight_norm=False
        )
        self.norm = _batch_norm(skip_channels)
        joined = in_channels // 2 + skip_channels
        self.convolutions = _convolutions(joined, out_channels, out_channels)
        self.attention = SelfAttention(out_channels) if self_attention else nn.Identity()

    def forward(self, input: Tensor, skip: Tensor) -> Tensor:
        x = resize_nearest(self.upsample(input), skip.shape[-2:])
        x = torch.relu(torch.cat([x, self.norm(skip)], dim=1))
        output: Tensor = self.attention(self.convolutions(x))
        return output


class _ResidualBlock(nn.Module):
    """``relu(x + conv(relu(conv(x))))``, 3x3 convolutions with bias and without batch norm."""

    def __init__(self, channels: int, inner_channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *conv_unit(channels, inner_channels, batch_norm=False),
            *conv_unit(inner_channels, channels, batch_norm=False, relu=False),
        )

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(input + self.convolutions(input))


class DynamicUNet(nn.Module):
    """fastai's DynamicUnet, layer for layer, on any encoder.

    https://docs.fast.ai/vision.models.unet.html (fastai 2; its decoder has no batch norm but the
    ones on the encoder's maps).

    The encoder's deepest map goes through batch norm, ReLU and two 3x3 convolutions (to twice the
    channels and back). Then, for each finer map of the encoder: sub-pixel upsampling to half the
    channels (1x1 convolution, ReLU, pixel shuffle, ICNR initialised), concatenation with the batch
    norm of that map, ReLU, two 3x3 convolutions with ReLU, which keep the channels but in the last
    block, where they are halved. One more sub-pixel upsampling brings the size of the input, the
    input itself is concatenated, a residual block of two 3x3 convolutions follows, and a 1x1
    convolution gives the logits. 41,222,168 parameters with a ResNet-34 at 12 classes.

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        encoder: a name for :func:`~segfast.models.encoders.create_encoder` or an
            :class:`~segfast.models.encoders.Encoder`.
        blur: average 2x2 pixels after each upsampling of the blocks (Sugawara et al. 2018,
            https://arxiv.org/abs/1806.02658), against checkerboard patterns.
        blur_final: with ``blur``, do so in the last block, too.
        self_attention: a :class:`SelfAttention` after the third block from the end.
        last_cross: concatenate the input and add the residual block.
        bottle: halve the channels inside the residual block. (In fastai 2 this option builds a
            network that cannot run; here it does what it does in fastai 1.)
        y_range: low and high end of the output, which then goes through a sigmoid.

    Shape:
        - input: ``[N, in_channels, H, W]``, any ``H`` and ``W`` that the encoder takes; ResNets
          take all
        - output: ``[N, classes, H, W]``. Where a size is odd, the upsampled map is brought to the
          encoder's size by nearest neighbours.
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        encoder: str | Encoder = "resnet34",
        blur: bool = False,
        blur_final: bool = True,
        self_attention: bool = False,
        last_cross: bool = True,
        bottle: bool = False,
        y_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = create_encoder(encoder, in_channels)
        *skips, channels = self.encoder.channels
        self.middle = nn.Sequential(
            _batch_norm(channels), nn.ReLU(), *_convolutions(channels, 2 * channels, channels)
        )
        self.blocks = nn.ModuleList()
        for remaining, skip_channels in reversed(list(enumerate(skips))):
            last = remaining == 0
            joined = channels // 2 + skip_channels
            out_channels = joined // 2 if last else joined
            self.blocks.append(
                _Block(
                    channels,
                    skip_channels,
                    out_channels,
                    blur=blur and (blur_final or not last),
                    self_attention=self_attention and remaining == 2,
                )
            )
            channels = out_channels
        self.upsample = (
            SubpixelUpsample(channels, scale=2, weight_norm=False)
            if self.encoder.reductions[0] > 1
            else nn.Identity()
        )
        self.last_cross = last_cross
        head: list[nn.Module] = []
        if last_cross:
            channels += in_channels
            head.append(_ResidualBlock(channels, channels // 2 if bottle else channels))
        head += conv_unit(channels, classes, kernel_size=1, batch_norm=False, relu=False)
        self.head = nn.Sequential(*head)
        self.y_range = y_range

    def forward(self, input: Tensor) -> Tensor:
        *skips, x = self.encoder(input)
        x = self.middle(x)
        for block in self.blocks:
            x = block(x, skips.pop())
        x = resize_nearest(self.upsample(x), input.shape[-2:])
        if self.last_cross:
            x = torch.cat([x, input], dim=1)
        output: Tensor = self.head(x)
        if self.y_range is not None:
            low, high = self.y_range
            output = torch.sigmoid(output) * (high - low) + low
        return output
