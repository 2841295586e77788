"""Weights of classification networks into the encoders of segmentation models."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn

EncoderWeights = str | PathLike[str] | Mapping[str, Tensor]


def load_encoder_weights(model: nn.Module, weights: EncoderWeights) -> None:
    """Loads a classification network's weights into ``model`` by name, in place.

    Layers that only one of the two has are left out, but all of the encoder must be found. FCN's
    fc6 and fc7 take the weights of VGG16's fully connected layers. A first convolution of one
    channel gets the sum over the three, one of more channels gets theirs in turn, scaled so that
    its output is about as large.

    Args:
        model: SegNet or a model with an ``encoder``.
        weights: ``"imagenet"``, what the library that the encoder comes from has for it; a file of
            that library, such as torchvision's ``vgg16_bn-6c64b313.pth``; or a state_dict.

    Raises:
        ValueError: the model has no such encoder, or the weights are not those of its network.
    """
    encoder: Any = getattr(model, "encoder", model)
    if not hasattr(encoder, "pretrained_weights"):
        raise ValueError(
            f"{type(model).__name__} has no pretrained network as its encoder: build a model with "
            "encoder=..., or without encoder_weights"
        )
    if isinstance(weights, Mapping):
        found = weights
    else:
        found = encoder.pretrained_weights(None if weights == "imagenet" else Path(weights))
    prefix = "" if encoder is model else "encoder."
    wanted = model.state_dict()
    taken = {}
    for key, own in wanted.items():
        value = found.get(key.removeprefix(prefix))
        if value is not None and value.ndim == own.ndim == 4 and value.shape[1] == 3:
            value = _for_channels(value, own.shape[1])
        if value is None or value.shape[:1] != own.shape[:1] or value.numel() != own.numel():
            continue
        taken[key] = value.view_as(own)  # fully connected weights become a convolution's
    backbone = "features." if encoder is model else prefix
    missing = [
        key
        for key in wanted
        # Old checkpoints have no num_batches_tracked, and nothing depends on it.
        if key.startswith(backbone) and key not in taken and "num_batches" not in key
    ]
    if missing:
        raise ValueError(
            f"the weights are not those of {type(model).__name__}'s encoder: {len(missing)} of its "
            f"tensors, {missing[0]} the first, are not there or have another shape"
        )
    model.load_state_dict(taken, strict=False)


def _for_channels(weight: Tensor, channels: int) -> Tensor:
    """First-layer weights [O, 3, k, k] for another number of input channels."""
    if channels == 1:  # what the three make of a grey image
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)
