"""Finds the image and mask pairs of a data set folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from segfast.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES, DataError

LAYOUTS = """\
  DIR/train/a.jpg    DIR/trainannot/a.png    (and val/ + valannot/, test/ + testannot/)
or
  DIR/images/a.jpg   DIR/masks/a.png         (and train.txt, val.txt: one name a line)"""

SPLITS = ("train", "val", "test")
HOLD_OUT_EVERY = 5  # without a validation part, every fifth training pair becomes it


@dataclass(frozen=True)
class Pair:
    """An image, its mask, and their common name without suffix."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass
class Folder:
    """The pairs of a folder by split, and what is wrong with its files."""

    root: Path
    splits: dict[str, list[Pair]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, file: Path, what: str) -> None:
        """Notes a problem of a file, named from the folder's root."""
        name = file.relative_to(self.root) if file.is_relative_to(self.root) else file
        self.problems.append(Problem(str(name), what))


def find_pairs(root: Path) -> Folder:
    """Lists a data set folder's pairs.

    Two layouts are known: ``train/`` + ``trainannot/`` (with ``val``, ``test`` alike), and
    ``images/`` + ``masks/`` with ``train.txt``, ``val.txt`` (and ``test.txt``), one name a line,
    with or without suffix. An image and its mask have the same name up to the suffix. Without a
    validation part every fifth training pair is held out.

    Raises:
        DataError: the folder does not exist or has neither layout.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'is not a folder' if root.exists() else 'does not exist'}")
    folder = Folder(root)
    if (root / "images").is_dir() and (root / "masks").is_dir():
        _find_listed(folder)
    elif (root / "train").is_dir() and (root / "trainannot").is_dir():
        for split in SPLITS:
            if (root / split).is_dir() and (root / f"{split}annot").is_dir():
                pairs = _match(folder, root / split, root / f"{split}annot")
                folder.splits[split] = list(pairs.values())
            elif (root / split).is_dir():
                folder.add(root / split, f"its masks are missing: there is no {split}annot/")
    else:
        raise DataError(f"{root}: is not laid out as a data set; expected\n{LAYOUTS}")
    if not folder.splits.get("val") and not folder.problems:
        _hold_out(folder)
    return folder


def find_mask(image: Path) -> Path | None:
    """The mask of an image that lies in one of the known layouts, if it is there."""
    parent = image.parent
    masks = parent.with_name("masks" if parent.name == "images" else f"{parent.name}annot")
    found = [masks / f"{image.stem}{suffix}" for suffix in MASK_SUFFIXES]
    return next((mask for mask in found if mask.is_file()), None)


def list_images(folder: Path) -> list[Path]:
    """The picture files in a folder, by name; hidden files and other kinds are left out."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "." and file.is_file()
    )


def _find_listed(folder: Folder) -> None:
    root = folder.root
    lists = {split: root / f"{split}.txt" for split in SPLITS}
    lists = {split: path for split, path in lists.items() if path.is_file()}
    if lists and "train" not in lists:
        folder.add(
            root / "train.txt", f"does not exist, but {next(iter(lists.values())).name} does"
        )
    names = {split: _read_list(folder, path) for split, path in lists.items()}
    wanted = {name for split in names.values() for name in split} if lists else None
    pairs = _match(folder, root / "images", root / "masks", wanted)
    if not lists:
        folder.splits["train"] = list(pairs.values())
        return
    images = {image.stem for image in list_images(root / "images")}
    for split, listed in names.items():
        for name, line in listed.items():
            if name not in images:
                folder.add(
                    lists[split], f"line {line} names {name!r}, but images/ has no such file"
                )
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
    found = {"image": _by_name(folder, images), "mask": _by_name(folder, masks)}
    if not found["image"]:
        folder.add(images, f"holds no images ({', '.join(IMAGE_SUFFIXES)})")
        return {}
    pairs = {}
    for name, image in found["image"].items():
        if wanted is not None and name not in wanted:
            continue
        mask = found["mask"].get(name)
        if mask is None:
            folder.add(image, f"has no mask: expected {masks.name}/{name}.png")
        elif mask.suffix.lower() not in MASK_SUFFIXES:
            folder.add(mask, "is a JPEG, whose compression changes class values; save masks as PNG")
        else:
            pairs[name] = Pair(name, image, mask)
    for name, mask in found["mask"].items():
        if name not in found["image"] and (wanted is None or name in wanted):
            folder.add(mask, f"has no image: expected {images.name}/{name}.jpg or another format")
    return pairs


def _by_name(folder: Folder, directory: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in list_images(directory):
        first = files.setdefault(file.stem, file)
        if first is not file:
            folder.add(file, f"has the same name as {first.name}; rename or remove one of them")
    return files


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
        f"no validation part: every {every}th pair is held out ({len(folder.splits['val'])} pairs)"
    )
