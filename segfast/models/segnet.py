"""SegNet: an encoder that remembers where its maxima stood, a decoder that puts them back there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from segfast.models._layers import conv_unit, init_he_
from segfast.models.encoders import torchvision_weights
from segfast.models.vgg import VGG16_STAGES, vgg16_features
from segfast.nn import MaxPool2dWithCodes, MaxUnpool2dWithCodes


def _pool() -> nn.Module:
    # Ceil mode, as Caffe pools: no row or column is dropped at an odd size, so that every pixel
    # of the output has a source, and a single pixel can be pooled too. At the paper's 360x480 the
    # last two poolings give 23x30 and 12x15, and the decoder's targets are 23x30 and 45x60.
    return MaxPool2dWithCodes(kernel_size=2, stride=2, ceil_mode=True)


class _PoolingCodesNet(nn.Module):
    """Encoder and decoder joined by pooling codes alone: no feature map is kept for the decoder."""

    def __init__(self, features: nn.Sequential, decoder: list[nn.Sequential]) -> None:
        super().__init__()
        self.features = features
        self.unpool = MaxUnpool2dWithCodes(kernel_size=2, stride=2)
        self.decoder = nn.ModuleList(decoder)

    def forward(self, input: Tensor) -> Tensor:
        x = input  # [N, in_channels, H, W]
        pooled = []
        for layer in self.features:
            size = x.shape[-2:]
            x = layer(x)
            if isinstance(x, tuple):  # a pooling layer: the maxima and where they stood
                x, codes = x
                pooled.append((codes, size))
        for stage in self.decoder:
            codes, size = pooled.pop()
            x = stage(self.unpool(x, codes, output_size=size))
        return x  # [N, classes, H, W]


class SegNet(_PoolingCodesNet):
    """SegNet on VGG16 with batch norm.

    Badrinarayanan, Kendall and Cipolla 2017, "SegNet: A Deep Convolutional Encoder-Decoder
    Architecture for Image Segmentation", https://arxiv.org/abs/1511.00561.

    The encoder is VGG16's 13 convolutions (2, 2, 3, 3, 3 a stage), each with batch norm and ReLU,
    a 2x2 max-pooling after each stage. The decoder mirrors it: each stage first unpools, putting
    every value where its maximum stood and zeros elsewhere, then convolves as often as its twin,
    the last convolution of a stage going down to the channels of the next. The very last one gives
    the logits and has neither batch norm nor ReLU. All 26 convolutions have a bias, as in the
    authors' Caffe model: 29,449,932 parameters at 12 classes.

    Between encoder and decoder pass only pooling codes, 2 bits a window; see
    :func:`segfast.functional.max_pool2d_with_codes`. Pooling is in ceil mode, as in Caffe.

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        width: channels of the first stage; the others are 2, 4, 8 and 8 times as wide.

    Shape:
        - input: ``[N, in_channels, H, W]``, any ``H`` and ``W`` from 1 on
        - output: ``[N, classes, H, W]``, logits
    """

    def __init__(self, classes: int, in_channels: int = 3, width: int = 64) -> None:
        features = vgg16_features(_pool, in_channels, width, batch_norm=True)
        # Channels of the encoder's convolutions, read from the back, are those of the decoder.
        outputs = [multiple * width for stage in VGG16_STAGES for multiple in stage]
        channels = outputs.pop()
        decoder = []
        for stage in reversed(VGG16_STAGES):
            layers: list[nn.Module] = []
            for _ in stage:
                if outputs:
                    layers += conv_unit(channels, outputs[-1])
                    channels = outputs.pop()
                else:
                    layers += conv_unit(channels, classes, batch_norm=False, relu=False)
            decoder.append(nn.Sequential(*layers))
        super().__init__(features, decoder)

    def pretrained_weights(self, file: Path | None = None) -> Mapping[str, Tensor]:
        """Trained weights of VGG16 with batch norm, from ``file`` or by torchvision."""
        return torchvision_weights("vgg16_bn", file)


class SegNetBasic(_PoolingCodesNet):
    """SegNet-Basic, the small SegNet that the paper's comparisons were made with.

    Badrinarayanan, Kendall and Cipolla 2017, https://arxiv.org/abs/1511.00561, section 3.2.

    Four encoders (7x7 convolution to 64 channels, batch norm, ReLU, 2x2 max-pooling) and four
    decoders (unpooling, 7x7 convolution, batch norm, no ReLU), then a 1x1 convolution to the
    logits. A value of the deepest map sees 106x106 pixels of the input. As the paper says, the
    convolutions before a batch norm have no bias, which leaves 1,416,075 parameters at 11 classes
    (the paper's table says 1.425 M). The authors' Caffe model differs in two things: it gives
    those convolutions biases, which the batch norms cancel, and it passes the raw 0..255 image
    through a local response normalisation across its channels; that is preprocessing, and on
    images scaled to unit variance it changes next to nothing.

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        width: channels of every layer.

    Shape:
        - input: ``[N, in_channels, H, W]``, any ``H`` and ``W`` from 1 on
        - output: ``[N, classes, H, W]``, logits
    """

    def __init__(self, classes: int, in_channels: int = 3, width: int = 64) -> None:
        features: list[nn.Module] = []
        for channels in (in_channels, width, width, width):
            features += conv_unit(channels, width, kernel_size=7, bias=False)
            features.append(_pool())
        decoder = [
            nn.Sequential(*conv_unit(width, width, kernel_size=7, bias=False, relu=False))
            for _ in range(4)
        ]
        decoder[-1].append(init_he_(nn.Conv2d(width, classes, kernel_size=1)))
        super().__init__(nn.Sequential(*features), decoder)
