"""Segmentation models built on :mod:`segfast.nn`."""

from segfast.models._registry import create_model, list_models
from segfast.models._weights import load_encoder_weights
from segfast.models.context import DeepLabV3, DeepLabV3Plus, PSPNet
from segfast.models.dynamic_unet import DynamicUNet
from segfast.models.encoder_unet import EncoderUNet
from segfast.models.encoders import Encoder, create_encoder
from segfast.models.fcn import FCNVGG16, FCN8s, FCN16s, FCN32s
from segfast.models.segnet import SegNet, SegNetBasic
from segfast.models.unet import UNet

__all__ = [
    "FCNVGG16",
    "DynamicUNet",
    "FCN8s",
    "FCN16s",
    "FCN32s",
    "SegNet",
    "SegNetBasic",
    "UNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "EncoderUNet",
    "Encoder",
    "create_encoder",
    "load_encoder_weights",
    "create_model",
    "list_models",
]
