"""Classification networks as encoders: an image in, its feature maps from fine to coarse out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from segfast._accelerate import accelerate
from segfast.models._layers import crop_corner, pad_to_multiple
from segfast.models.vgg import vgg16_features
from segfast.nn import MaxPool2d

_BASIC_RESNETS = ("resnet18", "resnet34")
_BOTTLENECK_RESNETS = (
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


class Encoder(nn.Module):
    """What a decoder asks of an encoder; subclass it to bring one of your own.

    Attributes:
        channels: of each map that ``forward`` returns, from fine to coarse.
        reductions: by how much each map is smaller than the input.
    """

    channels: Sequence[int]
    reductions: Sequence[int]

    def forward(self, input: Tensor) -> list[Tensor]:
        """The maps of ``input`` [N, in_channels, H, W]: ``[N, channels[i], ~H / reductions[i], ~W /
        reductions[i]]``, from fine to coarse."""
        raise NotImplementedError

    def pretrained_weights(self, file: Path | None = None) -> Mapping[str, Tensor]:
        """A trained state_dict, from ``file`` or by the loader of the library it comes from."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to load its weights")


class VGG16Encoder(Encoder):
    """VGG16 without its classifier: the map after each of the five poolings.

    Layers have torchvision's names (``features.0`` ...).
    """

    def __init__(self, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.features = vgg16_features(lambda: MaxPool2d(kernel_size=2), in_channels, width)
        self.channels = (width, 2 * width, 4 * width, 8 * width, 8 * width)
        self.reductions = (2, 4, 8, 16, 32)

    def forward(self, input: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.features:
            input = layer(input)
            if isinstance(layer, nn.MaxPool2d):
                maps.append(input)
        return maps

    def pretrained_weights(self, file: Path | None = None) -> Mapping[str, Tensor]:
        return torchvision_weights("vgg16", file)


class ResNetEncoder(Encoder):
    """A torchvision ResNet without its classifier: the stem's ReLU and the four stages.

    Layers have torchvision's names. With ``output_stride`` 16 or 8 the last stages dilate their
    convolutions and do not shrink the map any more.
    """

    def __init__(self, name: str, in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        dilate = [output_stride < 16, output_stride < 32]
        resnet = _torchvision_models().get_model(
            name, replace_stride_with_dilation=[False, *dilate]
        )
        self.name = name
        self.conv1 = resnet.conv1
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out")  # as torchvision's
        self.bn1 = resnet.bn1
        self.relu = resnet.relu
        self.maxpool = accelerate(resnet.maxpool)
        self.layer1 = resnet.layer1
        self.layer2 = resnet.layer2
        self.layer3 = resnet.layer3
        self.layer4 = resnet.layer4
        deepest: int = resnet.fc.in_features
        self.channels = (64, deepest // 8, deepest // 4, deepest // 2, deepest)
        self.reductions = tuple(min(reduction, output_stride) for reduction in (2, 4, 8, 16, 32))

    def forward(self, input: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(input)))
        maps = [x]
        x = self.maxpool(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def pretrained_weights(self, file: Path | None = None) -> Mapping[str, Tensor]:
        return torchvision_weights(self.name, file)


class TimmEncoder(Encoder):
    """Any timm network that offers ``features_only``; layers have timm's names.

    The input is padded with zeros to a multiple of the deepest map's reduction, which some networks
    insist on, and the maps are cropped. Transformers made for one size are asked to take any. What
    timm cannot dilate keeps its own reductions whatever ``output_stride`` is.
    """

    def __init__(self, name: str, in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        self.name = name
        self.network = accelerate(_timm_network(name, in_channels, output_stride))
        self.channels = tuple(self.network.feature_info.channels())
        self.reductions = tuple(self.network.feature_info.reduction())

    def forward(self, input: Tensor) -> list[Tensor]:
        height, width = input.shape[-2:]
        maps = self.network(pad_to_multiple(input, max(self.reductions)))
        if str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC"):
            maps = [map.permute(0, 3, 1, 2).contiguous() for map in maps]
        return [
            # Rounded up without a negative number, which ONNX divides towards zero.
            crop_corner(map, (height - 1) // reduction + 1, (width - 1) // reduction + 1)
            for map, reduction in zip(maps, self.reductions, strict=True)
        ]

    def pretrained_weights(self, file: Path | None = None) -> Mapping[str, Tensor]:
        source = {} if file is None else {"pretrained_cfg_overlay": {"file": str(file)}}
        network = _timm().create_model(self.name, features_only=True, pretrained=True, **source)
        return {f"network.{name}": value for name, value in network.state_dict().items()}


def _timm_network(name: str, in_channels: int, output_stride: int) -> Any:
    """timm's network with as many of our wishes as its family knows."""
    dilated = {} if output_stride == 32 else {"output_stride": output_stride}
    any_size: list[dict[str, Any]] = [{"dynamic_img_size": True}, {"strict_img_size": False}, {}]
    refusal: Exception | None = None
    for wishes in [*({**dilated, **size} for size in any_size), *any_size]:
        try:
            return _timm().create_model(name, features_only=True, in_chans=in_channels, **wishes)
        except (AssertionError, TypeError) as error:  # how timm's families refuse an argument
            refusal = error
    raise ValueError(f"timm's {name} cannot be an encoder: {refusal}") from refusal


def create_encoder(
    encoder: str | Encoder, in_channels: int = 3, output_stride: int = 32
) -> Encoder:
    """An encoder by name: ``vgg16``, a torchvision ResNet, or else a timm network.

    Args:
        encoder: the name; an :class:`Encoder` is returned as it is.
        in_channels: channels of the input.
        output_stride: reduction of the deepest map, 32, 16 or 8; networks that timm cannot dilate
            keep their own.

    Raises:
        ValueError: nobody has a network of that name.
        ImportError: the library that may have it is not installed.
    """
    if isinstance(encoder, Encoder):
        return encoder
    if encoder == "vgg16" and output_stride == 32:
        return VGG16Encoder(in_channels)
    # torchvision cannot dilate the two small ResNets; timm can.
    if encoder in _BOTTLENECK_RESNETS or (encoder in _BASIC_RESNETS and output_stride == 32):
        return ResNetEncoder(encoder, in_channels, output_stride)
    if encoder not in _timm().list_models():
        raise ValueError(
            f"no encoder is named {encoder!r}: it must be vgg16, one of torchvision's ResNets or "
            "one of timm.list_models()"
        )
    return TimmEncoder(encoder, in_channels, output_stride)


def torchvision_weights(name: str, file: Path | None = None) -> Mapping[str, Tensor]:
    """The weights in ``file``, or else torchvision's own for ImageNet, of its network ``name``."""
    state: Mapping[str, Tensor]
    if file is None:
        weights = _torchvision_models().get_model_weights(name).DEFAULT
        state = weights.get_state_dict(check_hash=True)
    else:
        content = torch.load(file, map_location="cpu", weights_only=True)
        state = content.get("state_dict", content)
    return state


def _torchvision_models() -> ModuleType:
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(
            "ResNet encoders come from torchvision: install it with `pip install torchvision`"
        ) from error
    module: ModuleType = models
    return module


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "encoders other than VGG16 and the ResNets come from timm: install it with "
            "`pip install timm`"
        ) from error
    module: ModuleType = timm
    return module
