"""Drop-in layers: torch's argument names and state_dict keys over :mod:`segfast.functional`."""

from segfast.nn import init
from segfast.nn.pixel_shuffle import PixelShuffle, PixelUnshuffle
from segfast.nn.pooling import MaxPool2d, MaxPool2dWithCodes, MaxUnpool2d, MaxUnpool2dWithCodes
from segfast.nn.subpixel_upsample import SubpixelUpsample

__all__ = [
    "MaxPool2d",
    "MaxPool2dWithCodes",
    "MaxUnpool2d",
    "MaxUnpool2dWithCodes",
    "PixelShuffle",
    "PixelUnshuffle",
    "SubpixelUpsample",
    "init",
]
