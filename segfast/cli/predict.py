"""``segfast predict``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segfast._errors import OptionError, UserError
from segfast.cli.console import bar, say, say_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segfast.predictor import Predictor, Progress


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of segfast train.")],
    images: Annotated[
        Path,
        typer.Argument(
            help="An image, a folder of images, or an array in an .npy file.",
            metavar="FILE_OR_FOLDER",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to. (default: predictions beside the checkpoint)"),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Go through the image in tiles of this side, at its own resolution, which should "
            "be that of training. (default: whole images, resized as in training)",
        ),
    ] = None,
    overlap: Annotated[
        float, typer.Option(help="The share of a tile that its neighbour covers, too.")
    ] = 0.25,
    tta: Annotated[
        str,
        typer.Option(
            help="Average over copies: none; flip: left to right; flips: all 4 mirrorings; scales: "
            "flip at 3 sizes."
        ),
    ] = "none",
) -> None:
    """Write a mask for each image, and a picture of the image beside its mask.

    Masks are indexed PNGs: a pixel's value is its class. Where the image lies
    in a data set folder, the picture shows the true mask too. An .npy file,
    [H, W] or [H, W, C], is memory-mapped; its mask is one, too, without a picture.
    """
    from segfast.data.folder import has_true_masks, list_images
    from segfast.predictor import Predictor

    if not images.exists():
        raise OptionError(f"{images}: does not exist")
    files = list_images(images) if images.is_dir() else [images]
    if not files:
        inside = [f for f in sorted(images.iterdir()) if f.is_dir() and list_images(f)]
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise OptionError(f"{images}: holds no images{hint}")
    folder = out or checkpoint.parent / "predictions"
    if files[0].parent.resolve() in [(folder / name).resolve() for name in ("masks", "pictures")]:
        raise OptionError(f"--out {folder}: would write over {files[0]}; name another folder")
    if has_true_masks(folder):
        raise OptionError(
            f"--out {folder}: is a data set, whose masks would be written over; name another folder"
        )
    try:
        predictor = Predictor(checkpoint, tile=tile, overlap=overlap, tta=tta)  # type: ignore[arg-type]
    except ValueError as error:
        raise OptionError(str(error)) from error
    stems = Counter(file.stem for file in files)
    alone = len(files) == 1  # then the bar counts its pixels
    failed = 0
    with bar("predicting") as on_progress:
        for done, file in enumerate(files, start=1):
            name = file.stem if stems[file.stem] == 1 else file.name
            try:
                _predict_one(predictor, file, folder, name, on_progress if alone else None)
            except UserError as error:
                say_error(str(error) if str(file) in str(error) else f"{file}: {error}")
                failed += 1
            if not alone:
                on_progress(done, len(files))
    written = len(files) - failed
    if written:
        say(f"{written} mask{'s' * (written > 1)} in {folder / 'masks'}")
    if written and images.suffix != ".npy":
        say(f"{written} picture{'s' * (written > 1)} in {folder / 'pictures'}")
    if failed:
        raise typer.Exit(1)


def _predict_one(
    predictor: Predictor, file: Path, folder: Path, name: str, on_progress: Progress | None
) -> None:
    from segfast.training.pictures import Shown, save, save_mask, triptychs

    if file.suffix == ".npy":
        predictor(file, folder / "masks" / file.name, on_progress)
        return
    classes = predictor.card.classes
    image = predictor.read(file)
    labels = predictor(image, on_progress=on_progress)
    save_mask(labels, classes, folder / "masks" / f"{name}.png")
    shown = Shown(name, image, labels, _truth(predictor, file, labels.shape))
    save(triptychs([shown], classes), folder / "pictures" / f"{name}.png")


def _truth(predictor: Predictor, file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The labels that lie in the image's data set, if they are of this image and these classes."""
    from segfast.data.folder import find_mask
    from segfast.data.images import DataError, read_mask

    mask = find_mask(file)
    if mask is None:
        return None
    classes = predictor.card.classes
    try:
        truth = classes.decode(read_mask(mask, classes.colour_masks))
    except DataError:
        return None
    return truth if truth.shape == shape else None
