"""Segmentation models built on :mod:`segfast.nn`."""

from segfast.models._registry import create_model, list_models
from segfast.models.fcn import FCNVGG16, FCN8s, FCN16s, FCN32s
from segfast.models.segnet import SegNet, SegNetBasic
from segfast.models.unet import UNet

__all__ = [
    "FCNVGG16",
    "FCN8s",
    "FCN16s",
    "FCN32s",
    "SegNet",
    "SegNetBasic",
    "UNet",
    "create_model",
    "list_models",
]
