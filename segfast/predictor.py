"""Masks for images of any kind and size, from any model or checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as torch_functional
from numpy.typing import NDArray
from torch import Tensor, nn

from segfast._errors import UserError
from segfast._example import input_channels
from segfast._files import replacing
from segfast._tensors import check_module
from segfast._tiles import blend
from segfast.models.full_size import full_size, resize_logits

if TYPE_CHECKING:
    from segfast.checkpoint import Card

Labels = NDArray[Any]  # [H, W], uint8 up to 256 classes
Progress = Callable[[int, int], None]
Augmentation = Literal["none", "flip", "flips", "scales"]

_MIRRORED: dict[Augmentation, list[list[int]]] = {
    "none": [[]],
    "flip": [[], [-1]],
    "flips": [[], [-1], [-2], [-2, -1]],
    "scales": [[], [-1]],
}
_SCALES: dict[Augmentation, tuple[float, ...]] = {"scales": (0.75, 1.0, 1.25)}


class Predictor:
    """Labels every pixel of images, with a model of ours, one of yours, or a checkpoint.

    By default an image goes through the model whole; a checkpoint's model sees it resized to about
    the size that it was trained at, as in training. With ``tile`` the image keeps its resolution,
    which should be that of training, and goes through in overlapping tiles, whose scores are
    averaged with Gaussian weights. The memory that takes depends on the tile alone, so that an
    image may be larger than memory, read from and written to memory-mapped files.

    What is averaged, over tiles and over ``tta``, are logits. The model runs in eval mode and
    without gradients, where it is, and in its own type; :func:`segfast.optimize` makes it faster.

    Args:
        model: a module that takes [N, C, H, W], or the path of a checkpoint of ``segfast train``.
            Logits smaller than the image are resized; a dict's are its entry ``out``. One class is
            taken for a binary model: 1 where the logit is positive.
        tile: side or (height, width) of tiles, in pixels.
        overlap: the share of a tile's side that the next one covers, too, at least 0, less than 1.
        batch_size: tiles that go through the model together.
        tta: test-time augmentation: ``"flip"``, mirrored left to right as well; ``"flips"``, in all
            four mirrorings, for images without up and down; ``"scales"``, mirrored left to right,
            at 0.75, 1 and 1.25 of the size, much as PSPNet's and DeepLab's papers do.
        mean, std: what images are normalised by, per channel, on the scale 0 to 1: a checkpoint
            knows its own, and a model without is given the scale 0 to 1.
        divisor: pad heights and widths, by repeating the edge, to multiples of it, for models that
            take no others. Ours take all.
        device: where to move a checkpoint's model; the GPU if there is one.

    Raises:
        ValueError: an option out of range.
        CheckpointError: the file is no checkpoint of ours.

    Example:
        >>> predictor = segfast.Predictor(model, tile=512, tta="flip")
        >>> labels = predictor("photo.jpg")  # [H, W] uint8
        >>> predictor("slide.npy", out="labels.npy")  # 100,000 x 80,000 pixels, on disk
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        *,
        tile: int | tuple[int, int] | None = None,
        overlap: float = 0.25,
        batch_size: int = 4,
        tta: Augmentation = "none",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        divisor: int = 1,
        device: torch.device | str | None = None,
    ) -> None:
        self.tile = (tile, tile) if isinstance(tile, int) else tile
        if self.tile is not None and min(self.tile) < 1:
            raise ValueError(f"tile must be at least 1 pixel, received {tile}")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap must be at least 0 and less than 1, received {overlap}")
        if tta not in _MIRRORED:
            raise ValueError(f"tta must be one of {', '.join(_MIRRORED)}, received {tta!r}")
        if batch_size < 1 or divisor < 1:
            raise ValueError(
                f"batch_size and divisor must be at least 1, received {batch_size} and {divisor}"
            )
        self.overlap, self.batch_size, self.tta, self.divisor = overlap, batch_size, tta, divisor
        self._card: Card | None = None
        if isinstance(model, (str, os.PathLike)):
            from segfast.checkpoint import load_model

            self.model, self._card = load_model(Path(model))
            self.model.to(device or default_device())
            mean, std = mean or self._card.mean, std or self._card.std
        else:
            check_module(model)
            self.model = model if device is None else model.to(device)
        self.channels = self._card.in_channels if self._card else input_channels(self.model)
        self._mean, self._std = mean or (0.0,), std or (1.0,)
        for name, values in (("mean", self._mean), ("std", self._std)):
            if len(values) not in (1, self.channels or len(values)):
                raise ValueError(
                    f"{name} must have one number, or one for each of the {self.channels} "
                    f"channels, received {list(values)}"
                )

    @property
    def card(self) -> Card:
        """What the checkpoint says about itself: classes, palette, sizes.

        Raises:
            ValueError: the predictor was made of a model.
        """
        if self._card is None:
            raise ValueError("a predictor made of a model has no card; make it of a checkpoint")
        return self._card

    def read(self, path: str | os.PathLike[str]) -> NDArray[Any]:  # [H, W, channels]
        """The image in a file, upright, with the model's channels; a ``.npy`` is memory-mapped.

        Raises:
            UserError: the file cannot be used, or Pillow is missing; the message names the file.
        """
        path = Path(path)
        if path.suffix == ".npy":
            try:
                array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            except ValueError as error:
                raise UserError(f"{path}: cannot be read: {error}") from error
            return array
        try:
            from segfast.data.images import named, open_upright, to_array
        except ModuleNotFoundError as error:
            raise UserError(f"{path}: reading it needs Pillow: pip install pillow") from error
        with named(path):
            return to_array(open_upright(path), self.channels or 3)

    def __call__(
        self,
        image: Any,
        out: str | os.PathLike[str] | None = None,
        on_progress: Progress | None = None,
    ) -> Labels:
        """The class of each pixel of an image, [H, W].

        Args:
            image: a file (``.npy`` for [H, W] or [H, W, C] arrays, which are memory-mapped); a
                Pillow image; a tensor [C, H, W]; or an array [H, W] or [H, W, C], which may be
                anything with a shape that gives NumPy arrays when sliced, such as a memory map or a
                Zarr or HDF5 array. Integers are scaled to 0..1 by their type's range, floats taken
                as they are.
            out: a ``.npy`` file to write the labels to, which are returned memory-mapped.
            on_progress: called with (pixels done, of all).

        Raises:
            UserError: the image has another shape or other channels than the model takes, or the
                file cannot be used; a ValueError.
            OSError: ``out`` cannot be written.
        """
        source = self._open(image)
        height, width = source.shape[:2]
        done = 0
        with _evaluating(self.model):
            pieces = self._pieces(source)
            first = next(pieces)
            kind = np.dtype(np.uint8 if len(first[2]) <= 256 else np.int32)
            with _result(out, kind, (height, width)) as labels:
                for y, x, scores in chain([first], pieces):
                    piece = _decide(scores).cpu().numpy()
                    labels[y : y + piece.shape[0], x : x + piece.shape[1]] = piece
                    done += piece.size
                    if on_progress:
                        on_progress(done, height * width)
        if out is None:
            return labels
        written: Labels = np.load(out, mmap_mode="r")
        return written

    def logits(self, image: Any) -> Tensor:
        """The scores of each class at each pixel, [classes, H, W], of an image as above."""
        source = self._open(image)
        result: Tensor | None = None
        with _evaluating(self.model):
            for y, x, scores in self._pieces(source):
                if result is None:
                    result = scores.new_empty(len(scores), *source.shape[:2])
                result[:, y : y + scores.shape[1], x : x + scores.shape[2]] = scores
        assert result is not None
        return result

    def _open(self, image: Any) -> Any:
        """Anything sliceable, [H, W] or [H, W, C], with the model's channels."""
        if isinstance(image, (str, os.PathLike)):
            image = self.read(image)
        given = f"{type(image).__name__} of shape {tuple(getattr(image, 'shape', ()))}"
        if isinstance(image, Tensor):
            image = image.detach().cpu().permute(*range(1, image.dim()), 0)
            image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
        elif hasattr(image, "convert"):  # Pillow's
            from segfast.data.images import to_array

            image = to_array(image, self.channels or 3)
        shape = tuple(getattr(image, "shape", ()))
        if len(shape) not in (2, 3) or 0 in shape:
            raise UserError(
                "image must be a file, a Pillow image, an array [H, W] or [H, W, C] or a tensor "
                f"[C, H, W], none of them empty; received {given}"
            )
        channels = shape[2] if len(shape) == 3 else 1
        if self.channels and channels not in (1, self.channels):
            raise UserError(f"the model takes {self.channels} channels, the image has {channels}")
        return image

    def _pieces(self, source: Any) -> Iterator[tuple[int, int, Tensor]]:
        """(row, column, logits [classes, h, w]) of pieces that cover the image once; inside
        :func:`_evaluating`."""
        height, width = source.shape[:2]
        if self.tile is None:
            pixels = self._pixels(source[:, :])
            if self._card:
                from segfast.data.transforms import fit, resize

                pixels = resize(pixels, fit((height, width), self._card.size))
            scores = self._score(self._normalised(pixels[None]))
            yield 0, 0, resize_logits(scores, (height, width))[0]
            return
        tile = min(self.tile[0], height), min(self.tile[1], width)

        def score(places: list[tuple[int, int]]) -> Tensor:
            tiles = [source[y : y + tile[0], x : x + tile[1]] for y, x in places]
            return self._score(self._normalised(torch.stack(list(map(self._pixels, tiles)))))

        yield from blend(score, (height, width), tile, self.overlap, self.batch_size)

    def _pixels(self, pixels: Any) -> Tensor:  # [h, w] or [h, w, C] -> [C, h, w]
        """uint8 as it is, other integers scaled to 0..1, a grey image in each channel."""
        array = np.array(pixels)  # a copy: a memory map may not be written to
        if array.dtype.kind == "b":
            array = array.astype(np.float32)
        elif array.dtype.kind in "iu" and array.dtype != np.uint8:
            array = array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
        tensor = torch.from_numpy(array)
        tensor = tensor[None] if tensor.dim() == 2 else tensor.permute(2, 0, 1)
        return tensor.expand(self.channels or -1, -1, -1)

    def _normalised(self, images: Tensor) -> Tensor:
        """[N, C, H, W] on the model's device and in its type, scaled and normalised."""
        like = next(self.model.parameters(), torch.empty(0))
        scale = 255 if images.dtype == torch.uint8 else 1
        images = images.to(like.device).float() / scale
        mean, std = (
            torch.tensor(values, device=like.device)[:, None, None]
            for values in (self._mean, self._std)
        )
        return ((images - mean) / std).to(like.dtype)

    def _score(self, images: Tensor) -> Tensor:
        """Logits [N, classes, H, W] in float32, the mean over mirrored and scaled copies."""
        size = images.shape[-2:]
        copies = []
        for scale in _SCALES.get(self.tta, (1.0,)):
            scaled = images
            if scale != 1:
                scaled = torch_functional.interpolate(
                    images,
                    [max(1, round(scale * extent)) for extent in size],
                    mode="bilinear",
                    antialias=True,
                )
            for axes in _MIRRORED[self.tta]:
                copies.append(resize_logits(self._run(scaled.flip(axes)).flip(axes), size))
        return copies[0] if len(copies) == 1 else torch.stack(copies).mean(0)

    def _run(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        pads = (0, -width % self.divisor, 0, -height % self.divisor)
        if any(pads):
            images = torch_functional.pad(images, pads, mode="replicate")
        return full_size(self.model, images)[..., :height, :width]


def predict(
    model: nn.Module | str | os.PathLike[str],
    image: Any,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Labels:
    """The class of each pixel of one image, [H, W]: ``Predictor(model, **options)(image, out)``.

    See :class:`Predictor` for the options and for what an image may be.

    Example:
        >>> labels = segfast.predict("runs/camvid/best.ckpt", "photo.jpg")
        >>> labels = segfast.predict(model, array, tile=512, mean=(0.5,), std=(0.25,))
    """
    return Predictor(model, **options)(image, out)


def default_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _decide(scores: Tensor) -> Tensor:  # [classes, h, w] -> [h, w]
    return (scores[0] > 0).byte() if len(scores) == 1 else scores.argmax(0)


@contextmanager
def _result(
    path: str | os.PathLike[str] | None, dtype: np.dtype[Any], shape: tuple[int, int]
) -> Iterator[Labels]:
    """An array; with ``path`` a memory-mapped one, whose file is there once the block has ended."""
    if path is None:
        yield np.empty(shape, dtype)
        return
    with replacing(Path(path)) as aside:
        labels = np.lib.format.open_memmap(aside, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # or a full disk would kill the process later
            with open(aside, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, aside.stat().st_size)
        yield labels
        labels.flush()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; each layer's own mode again afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
