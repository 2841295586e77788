"""Drop-in layers: torch's argument names and state_dict keys over :mod:`segfast.functional`."""

from segfast.nn.pixel_shuffle import PixelShuffle, PixelUnshuffle
from segfast.nn.pooling import MaxPool2d, MaxPool2dWithCodes, MaxUnpool2d, MaxUnpool2dWithCodes

__all__ = [
    "MaxPool2d",
    "MaxPool2dWithCodes",
    "MaxUnpool2d",
    "MaxUnpool2dWithCodes",
    "PixelShuffle",
    "PixelUnshuffle",
]
