"""Finds the image and mask pairs of a data set folder, in the layouts that LAYOUTS lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from segfast.data import coco
from segfast.data.classes import ClassTable
from segfast.data.images import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    NO_MASKS,
    DataError,
    Mask,
    read_mask,
)

#: In Markdown: what a folder in no such layout is answered with, part of ``segfast verify-data
#: --help`` and of docs/folder.md.
LAYOUTS = """\
- images/a.jpg and masks/a.png; train.txt and val.txt, one name a line, may say which is which
- images/train/a.jpg and masks/train/a.png, or train/images/a.jpg and train/masks/a.png
- train/a.jpg and trainannot/a.png: the SegNet tutorial's CamVid
- JPEGImages/a.jpg and SegmentationClass/a.png, with ImageSets/Segmentation/train.txt: Pascal VOC
- train/a.jpg and train.json: COCO's format, of polygons or run lengths; also train2017/ and
  annotations/instances_train2017.json, or train/_annotations.coco.json

The part val may lack: then every fifth training image is held out. The part test may be there. The
folder masks may also be called labels or annotations, and a mask a_mask.png, a_label.png,
a_seg.png, a_gt.png, a_L.png or a_P.png. A mask may also be an array [height, width] of whole
numbers, a.npy.
"""

# What folders of images are called, and those of their masks.
_FOLDERS = (
    ("images", "masks"),
    ("images", "labels"),
    ("images", "annotations"),
    ("imgs", "masks"),
    ("image", "mask"),
    ("image", "label"),
    ("JPEGImages", "SegmentationClass"),
)
_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_seg", "_gt", "_L", "_P")  # of masks' names

SPLITS = ("train", "val", "test")
_CALLED = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
HOLD_OUT_EVERY = 5  # without a validation part, every fifth training pair becomes it


@dataclass(frozen=True)
class Pair:
    """An image, its mask, and their common name without suffix.

    ``mask`` is a picture, or the JSON file that the image's ``shapes`` come from.
    """

    name: str
    image: Path
    mask: Path
    shapes: coco.Shapes | None = field(default=None, compare=False)

    def read_mask(self, colour_masks: bool) -> Mask:
        """The mask, upright.

        Raises:
            DataError: it cannot be read.
        """
        if self.shapes is not None:
            return self.shapes.draw()
        return read_mask(self.mask, colour_masks)


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass
class Folder:
    """The pairs of a folder by split, what is wrong with its files, and its classes if it says."""

    root: Path
    classes: tuple[ClassTable, str] | None = None  # and where they come from
    splits: dict[str, list[Pair]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, file: Path, what: str) -> None:
        """Notes a problem of a file, named from the folder's root."""
        name = file.relative_to(self.root) if file.is_relative_to(self.root) else file
        self.problems.append(Problem(str(name), what))


def find_pairs(root: Path) -> Folder:
    """Lists a data set folder's pairs, in one of the :data:`LAYOUTS`.

    Raises:
        DataError: the folder does not exist or has no known layout.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'is not a folder' if root.exists() else 'does not exist'}")
    folder = Folder(root)
    annotations = {split: path for split in SPLITS if (path := _find_coco(root, split))}
    if "train" in annotations:
        for split, path in annotations.items():
            _add_coco(folder, split, path)
    elif parts := _find_parts(root):
        for split, (images, masks) in parts.items():
            if masks.is_dir():
                folder.splits[split] = list(_match(folder, images, masks).values())
            else:
                missing = masks.relative_to(root)
                folder.add(images, f"its masks are missing: there is no {missing}/")
    elif both := [(i, m) for i, m in _FOLDERS if (root / i).is_dir() and (root / m).is_dir()]:
        images, masks = (root / name for name in both[0])
        lists = root / "ImageSets" / "Segmentation"
        _find_listed(folder, images, masks, lists if lists.is_dir() else root)
    else:
        raise DataError(
            f"{root}: is not laid out as a data set (it holds {_held(root)}); expected one of\n"
            f"{LAYOUTS}"
        )
    if not folder.splits.get("val") and not folder.problems:
        _hold_out(folder)
    return folder


def _held(root: Path) -> str:
    """What lies in a folder, in a few words."""
    names = sorted(f"{path.name}/" for path in root.iterdir() if path.is_dir())
    shown = [*names[:6], *["..."] * (len(names) > 6)]
    if pictures := len(list_images(root)):
        shown.append(f"{pictures} picture{'s' * (pictures > 1)}")
    return ", ".join(shown) or "no folders and no pictures"


def find_mask(image: Path) -> Path | None:
    """The mask of an image that lies in one of the known layouts, if it is there."""
    parent, above = image.parent, image.parent.parent
    places = [parent.with_name(f"{parent.name}annot")]
    for images, masks in _FOLDERS:
        if parent.name == images:
            places.append(parent.with_name(masks))
        if above.name == images:
            places.append(above.with_name(masks) / parent.name)
    names = [image.stem + ending for ending in ("", *_ENDINGS)]
    found = (p / f"{name}{s}" for p in places for name in names for s in MASK_SUFFIXES)
    return next((mask for mask in found if mask.is_file()), None)


def has_true_masks(folder: Path) -> bool:
    """Whether ``folder/masks`` is that of a data set, with the images beside it."""
    images = (images for images, masks in _FOLDERS if masks == "masks")
    return (folder / "masks").is_dir() and any((folder / name).is_dir() for name in images)


def list_images(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """The picture files in a folder, by name; hidden files and other kinds are left out.

    A link to nothing is listed: whoever opens it says so.
    """
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and file.name[0] != "." and not file.is_dir()
    )


def _find_parts(root: Path) -> dict[str, tuple[Path, Path]]:
    """Folders of images and masks by part, all in the way in which the training part has them."""
    ways = [("{0}", "{0}annot")]
    for images, masks in _FOLDERS:
        ways += [(f"{images}/{{0}}", f"{masks}/{{0}}"), (f"{{0}}/{images}", f"{{0}}/{masks}")]
    for way in ways:
        parts = {}
        for split, names in _CALLED.items():
            places = ((root / way[0].format(n), root / way[1].format(n)) for n in names)
            there = next((place for place in places if place[0].is_dir()), None)
            if there:
                parts[split] = there
        if "train" in parts and parts["train"][1].is_dir():
            return parts
    return {}


def _find_listed(folder: Folder, images: Path, masks: Path, where: Path) -> None:
    lists = {split: where / f"{split}.txt" for split in SPLITS}
    lists = {split: path for split, path in lists.items() if path.is_file()}
    if lists and "train" not in lists:
        folder.add(
            where / "train.txt", f"does not exist, but {next(iter(lists.values())).name} does"
        )
    names = {split: _read_list(folder, path) for split, path in lists.items()}
    wanted = {name for split in names.values() for name in split} if lists else None
    pairs = _match(folder, images, masks, wanted)
    if not lists:
        folder.splits["train"] = list(pairs.values())
        return
    there = {image.stem for image in list_images(images)}
    for split, listed in names.items():
        for name, line in listed.items():
            if name not in there:
                what = f"line {line} names {name!r}, but {images.name}/ has no such file"
                folder.add(lists[split], what)
        folder.splits[split] = [pairs[name] for name in listed if name in pairs]
    shared = len(names.get("train", {}).keys() & names.get("val", {}).keys())
    if shared:
        folder.notes.append(
            f"val.txt repeats {shared} of train.txt's names: its scores will be too good"
        )


def _read_list(folder: Folder, path: Path) -> dict[str, int]:
    """Names without suffix and the lines they stand in."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = Path(line.strip()).name
        if name.lower().endswith(IMAGE_SUFFIXES):
            name = name[: name.rindex(".")]
        if name:
            names.setdefault(name, number)
    if not names:
        folder.add(path, "is empty; write one image name a line")
    return names


def _match(
    folder: Folder, images: Path, masks: Path, wanted: set[str] | None = None
) -> dict[str, Pair]:
    """Pairs the files of two folders by name; with ``wanted``, those names only."""
    found = {
        "image": _by_name(folder, images, IMAGE_SUFFIXES),
        "mask": _by_name(folder, masks, (*NO_MASKS, *MASK_SUFFIXES)),
    }
    if not found["image"]:
        folder.add(images, f"holds no images ({', '.join(IMAGE_SUFFIXES)})")
        return {}
    for name in sorted(found["mask"].keys() - found["image"].keys()):
        stem = next((name.removesuffix(e) for e in _ENDINGS if name.endswith(e)), name)
        if stem in found["image"] and stem not in found["mask"]:
            found["mask"][stem] = found["mask"].pop(name)
    pairs = {}
    unread = _unread(masks, MASK_SUFFIXES)
    for name, image in found["image"].items():
        if wanted is not None and name not in wanted:
            continue
        mask = found["mask"].get(name)
        if mask is None:
            there = next((x for e in ("", *_ENDINGS) if (x := unread.get(name + e))), None)
            folder.add(image, f"has no mask: {there or f'expected {masks.name}/{name}.png'}")
        elif why_not := NO_MASKS.get(mask.suffix.lower()):
            folder.add(mask, f"{why_not}; save masks as PNG")
        else:
            pairs[name] = Pair(name, image, mask)
    unread = _unread(images, IMAGE_SUFFIXES)
    for name, mask in sorted(found["mask"].items()):
        if name not in found["image"] and (wanted is None or name in wanted):
            expected = f"expected {images.name}/{name}.jpg or another format"
            folder.add(mask, f"has no image: {unread.get(name, expected)}")
    return pairs


def _unread(directory: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """By name, the files of other kinds than ``suffixes``, and in words that they are."""
    kinds = ", ".join(suffixes)
    return {
        file.stem: f"{directory.name}/{file.name} is of no kind that is read ({kinds})"
        for file in sorted(directory.iterdir())
        if file.suffix.lower() not in suffixes and file.is_file()
    }


def _by_name(folder: Folder, directory: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in list_images(directory, suffixes):
        first = files.setdefault(file.stem, file)
        if first is not file:
            folder.add(file, f"has the same name as {first.name}; rename or remove one of them")
    return files


def _find_coco(root: Path, split: str) -> Path | None:
    """The JSON file of a part, wherever the usual tools put it."""
    for name in _CALLED[split]:
        for place in (f"{name}.json", f"annotations/instances_{name}*.json", f"{name}/{coco.NAME}"):
            if found := sorted(root.glob(place)):
                return found[0]
    return None


def _add_coco(folder: Folder, split: str, path: Path) -> None:
    """The pairs of one part; images lie beside the JSON file or in a folder of the part's name."""
    table, shapes = coco.read_coco(path)
    if folder.classes and folder.classes[0] != table:
        folder.add(path, "has other categories than the training part")
    folder.classes = folder.classes or (table, f"the categories of {path.name}")
    part = path.stem.removeprefix("instances_")
    places = [
        path.parent,
        folder.root / part,
        folder.root / "images" / part,
        folder.root / "images",
    ]
    images = next((p for p in places if any((p / name).is_file() for name in shapes)), places[1])
    pairs = []
    for name, drawn in shapes.items():
        if (images / name).is_file():
            pairs.append(Pair(Path(name).stem, images / name, path, drawn))
        else:
            folder.add(images / name, f"does not exist, but {path.name} lists it")
    if not shapes:
        folder.add(path, "lists no images")
    folder.splits[split] = pairs


def _hold_out(folder: Folder) -> None:
    pairs = folder.splits.get("train", [])
    if len(pairs) < 2:
        if pairs:
            folder.add(pairs[0].image, "is the only pair; training needs at least two")
        return
    every = min(HOLD_OUT_EVERY, len(pairs))
    folder.splits["val"] = pairs[every - 1 :: every]
    folder.splits["train"] = [pair for n, pair in enumerate(pairs) if n % every != every - 1]
    folder.notes.append(
        f"no validation part: one pair in {every} is held out ({len(folder.splits['val'])} in all)"
    )
