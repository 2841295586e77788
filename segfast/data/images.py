"""Images and masks from files, each refused by name where it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from segfast._errors import UserError

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# Formats that masks may not have, and what they do to class values.
NO_MASKS = {
    ".jpg": "is a JPEG, whose compression changes class values",
    ".jpeg": "is a JPEG, whose compression changes class values",
    ".gif": "is a GIF, which may number class values anew",
}
IMAGE_SUFFIXES = (*NO_MASKS, *_LOSSLESS)
MASK_SUFFIXES = (*_LOSSLESS, ".npy")

_GREY_MODES = ("1", "L", "I;16", "I;16L", "I;16B", "LA", "La")
_ORIENTATION = 0x0112  # EXIF tag
_SIDEWAYS = (5, 6, 7, 8)  # its values that swap width and height


class DataError(UserError):
    """A file or folder that cannot be used. The message names it and says what is wrong."""


def pack_rgb(colour: tuple[int, int, int]) -> int:
    """One number for a colour: red * 65536 + green * 256 + blue."""
    return colour[0] << 16 | colour[1] << 8 | colour[2]


@dataclass(frozen=True)
class Mask:
    """A mask as its file has it.

    Attributes:
        values: [H, W], class indices, or packed colours where ``colour``.
        colour: whether the file was RGB.
    """

    values: NDArray[np.int32]
    colour: bool

    def counts(self) -> dict[int, int]:
        """The values that occur, and in how many pixels."""
        if (
            not self.colour
            and self.values.size
            and 0 <= self.values.min() <= self.values.max() < 65536
        ):
            bins = np.bincount(self.values.ravel())  # ten times faster than sorting
            return {int(value): int(bins[value]) for value in np.flatnonzero(bins)}
        values, pixels = np.unique(self.values, return_counts=True)
        return dict(zip(values.tolist(), pixels.tolist(), strict=True))


def describe_value(value: int, colour: bool) -> str:
    """A mask's value in words: ``value 7`` or ``colour (0, 0, 255)``."""
    if not colour:
        return f"value {value}"
    return f"colour ({value >> 16}, {value >> 8 & 255}, {value & 255})"


def open_upright(path: Path) -> Image.Image:
    """Decodes a picture completely and turns it as its EXIF orientation says.

    Raises:
        DataError: the file is missing, no picture, truncated, or a stack of several pictures.
    """
    try:
        with Image.open(path) as file:
            if file.format in ("TIFF", "GIF") and getattr(file, "n_frames", 1) > 1:
                raise DataError(f"holds {file.n_frames} pictures; save each to its own file")
            file.load()
            return ImageOps.exif_transpose(file)
    except DataError:
        raise
    except FileNotFoundError:
        link = f"is a link to {path.readlink()}, which " if path.is_symlink() else ""
        raise DataError(f"{link}does not exist") from None
    except Exception as error:  # Pillow's decoders raise a dozen kinds
        raise DataError(f"cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    reason = str(error)
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture in a format that Pillow knows"
    return reason[:1].lower() + reason[1:] if reason else type(error).__name__


def is_sideways(path: Path) -> bool:
    """Whether the file's EXIF orientation swaps width and height."""
    with Image.open(path) as file:
        return file.getexif().get(_ORIENTATION) in _SIDEWAYS


def is_grey(picture: Image.Image) -> bool:
    """Whether the picture has one colour channel."""
    return picture.mode in _GREY_MODES


def to_array(picture: Image.Image, channels: int) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Pixels of a picture: [H, W, channels], uint8, or float32 in 0 to 1 where it has 16 bits.

    Palette, CMYK and bilevel pictures are converted, transparent pixels are blended over white, as
    a viewer shows them.

    Raises:
        DataError: 32-bit pictures, whose range is not known.
    """
    if picture.mode in ("I", "F"):
        raise DataError(f"has 32-bit pixels (mode {picture.mode}); save it with 8 or 16 bits")
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) / np.float32(65535)).astype(np.float32)[..., None]
        return np.repeat(grey, channels, axis=2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    array = np.array(picture.convert("L" if channels == 1 else "RGB"))
    return array[..., None] if channels == 1 else array


def to_bytes(image: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels in uint8 as they are, those in 0 to 1 rounded to the nearest of 256 levels."""
    levels = image if image.dtype == np.uint8 else (image * 255).round()
    return levels.astype(np.uint8, copy=False)


def to_mask(picture: Image.Image, colour_masks: bool) -> Mask:
    """The mask in a picture. RGB with three equal channels is read as class indices.

    Args:
        picture: the decoded file; palette pictures give their indices.
        colour_masks: the data set's masks are colours, so an RGB mask is never indices.
    """
    if picture.mode in ("1", "L", "P") or picture.mode.startswith("I;16"):
        return Mask(np.asarray(picture).astype(np.int32), colour=False)
    if picture.mode == "I":
        return Mask(np.asarray(picture), colour=False)
    if picture.mode in ("LA", "La", "PA"):
        return Mask(np.asarray(picture)[..., 0].astype(np.int32), colour=False)
    if picture.mode not in ("RGB", "RGBA", "RGBX"):
        raise DataError(f"has mode {picture.mode}; a mask is an index, grey or RGB picture")
    red, green, blue = np.moveaxis(np.asarray(picture)[..., :3].astype(np.int32), 2, 0)
    if not colour_masks and np.array_equal(red, green) and np.array_equal(green, blue):
        return Mask(red, colour=False)
    return Mask(red << 16 | green << 8 | blue, colour=True)


def read_mask(path: Path, colour_masks: bool) -> Mask:
    """The mask in a file, upright: a picture, or the array [H, W] that np.save has written.

    Raises:
        DataError: it cannot be read, or does not hold whole numbers [H, W].
    """
    if path.suffix.lower() != ".npy":
        return to_mask(open_upright(path), colour_masks)
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {_reason(error)}") from error
    with np.errstate(invalid="ignore"):  # NaN, which no whole number equals
        values = array.astype(np.int32) if array.dtype.kind in "biuf" else None
    if array.ndim != 2 or values is None or not np.array_equal(values, array):
        raise DataError(
            f"holds {array.dtype} of shape {list(array.shape)}; an array of a mask is [height, "
            "width] and holds whole numbers, the classes"
        )
    return Mask(values, colour=False)


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Puts the file's name before the message of a DataError raised inside."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__
