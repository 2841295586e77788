"""The models by name: families, and presets with every option set."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from segfast._accelerate import restore
from segfast.models._weights import EncoderWeights, load_encoder_weights
from segfast.models.context import DeepLabV3, DeepLabV3Plus, PSPNet
from segfast.models.dynamic_unet import DynamicUNet
from segfast.models.encoder_unet import EncoderUNet
from segfast.models.fcn import FCNVGG16, FCN8s, FCN16s, FCN32s
from segfast.models.segnet import SegNet, SegNetBasic
from segfast.models.unet import UNet


@dataclass(frozen=True)
class _Entry:
    build: Callable[..., nn.Module]
    classes: int | None = None  # what a preset takes where the caller names none
    in_channels: int = 3
    options: dict[str, Any] = field(default_factory=dict)


_TENSORFLOW_UNET = {"batch_norm": False, "up_kernel_size": 3, "dropout": 0.3}

_ENTRIES = {
    "segnet": _Entry(SegNet),
    "segnet_basic": _Entry(SegNetBasic),
    "unet": _Entry(UNet),
    "fcn8s": _Entry(FCN8s),
    "fcn16s": _Entry(FCN16s),
    "fcn32s": _Entry(FCN32s),
    "dynamic_unet": _Entry(DynamicUNet),
    "pspnet": _Entry(PSPNet),
    "deeplabv3": _Entry(DeepLabV3),
    "deeplabv3plus": _Entry(DeepLabV3Plus),
    # Networks of papers and tutorials, to the parameter.
    "unet_paper": _Entry(UNet, 2, 1, {"batch_norm": False, "padding": "valid", "dropout": 0.5}),
    "unet_carla": _Entry(UNet, 23, 3, {**_TENSORFLOW_UNET, "width": 32, "head_conv": True}),
    "unet_pets": _Entry(UNet, 3, 3, {**_TENSORFLOW_UNET, "dropout_at": "levels"}),
    "segnet_vgg16": _Entry(SegNet, 12),
    "fcn8_vgg16": _Entry(FCNVGG16, 12, 3, {"stride": 8}),
    "fcn16_vgg16": _Entry(FCNVGG16, 12, 3, {"stride": 16}),
    "fcn32_vgg16": _Entry(FCNVGG16, 12, 3, {"stride": 32}),
    "dynamic_unet_resnet34": _Entry(DynamicUNet, 12, 3, {"encoder": "resnet34"}),
}


def list_models() -> list[str]:
    """The names that :func:`create_model` takes."""
    return list(_ENTRIES)


def create_model(
    name: str,
    classes: int | None = None,
    in_channels: int | None = None,
    *,
    backend: Literal["segfast", "torch"] = "segfast",
    encoder_weights: EncoderWeights | None = None,
    **options: Any,
) -> nn.Module:
    """Builds a segmentation model: ``[N, in_channels, H, W]`` to logits ``[N, classes, H, W]``.

    Families, which want ``classes``: ``segnet``, ``segnet_basic``, ``unet``, ``fcn8s``, ``fcn16s``,
    ``fcn32s``, ``dynamic_unet``, ``pspnet``, ``deeplabv3``, ``deeplabv3plus``. The option
    ``encoder`` of all but the SegNets names a classification network: ``vgg16``, a torchvision
    ResNet or any timm network; ``unet`` with it is an :class:`EncoderUNet`. Presets, with the
    parameters they have at their own number of classes:

    ========================  ===========  ==========  =============================================
    name                      parameters   classes     is
    ========================  ===========  ==========  =============================================
    ``unet_paper``            31,030,658   2           Ronneberger's: valid padding, one channel in
    ``unet_carla``            8,640,471    23          the U-Net of the CARLA tutorial
    ``unet_pets``             34,513,475   3           TensorFlow's U-Net for the Oxford pets
    ``segnet_vgg16``          29,449,932   12          :class:`SegNet`
    ``fcn8_vgg16``            14,833,776   12          :class:`FCNVGG16`; 16 and 32 alike
    ``dynamic_unet_resnet34`` 41,222,168   12          fastai's U-Net on a ResNet-34
    ========================  ===========  ==========  =============================================

    Args:
        name: one of :func:`list_models`.
        classes: channels of the output; a preset knows its own.
        in_channels: channels of the input; 3 unless the preset says otherwise.
        backend: ``"torch"`` builds the same model from PyTorch's own layers: same parameters, same
            state_dict, same outputs. For comparisons.
        encoder_weights: ``"imagenet"``, a file or a state_dict: see
            :func:`segfast.models.load_encoder_weights`.
        options: arguments of the model's class.

    Raises:
        ValueError: an unknown name or backend, a family without ``classes``, or weights that are
            not those of the encoder.
        TypeError: an option that the model does not have.
    """
    if name not in _ENTRIES:
        raise ValueError(f"no model is named {name!r}; there are {', '.join(_ENTRIES)}")
    if backend not in ("segfast", "torch"):
        raise ValueError(f'backend must be "segfast" or "torch", received {backend!r}')
    entry = _ENTRIES[name]
    build: Callable[..., nn.Module] = (
        EncoderUNet if name == "unet" and "encoder" in options else entry.build
    )
    classes = entry.classes if classes is None else classes
    in_channels = entry.in_channels if in_channels is None else in_channels
    known = list(inspect.signature(build).parameters)[2:]
    for option in options:
        if option not in known:
            raise TypeError(f"{name} has no option {option!r}; it has {', '.join(known)}")
    arguments = {"classes": classes, "in_channels": in_channels, **entry.options, **options}
    for argument in ("classes", "in_channels", "width", "depth"):
        value = arguments.get(argument, 1)
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
            raise ValueError(
                f"{name} needs {argument}, a whole number from 1 on; received {value!r}"
            )
    model = build(**arguments)
    if encoder_weights is not None:
        load_encoder_weights(model, encoder_weights)
    return restore(model) if backend == "torch" else model
