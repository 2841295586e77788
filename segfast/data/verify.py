"""Reads every file of a data set once, before training: what is wrong, and what the data hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from segfast.data.class_options import ClassOptions, find_classes, given_classes
from segfast.data.classes import ClassTable
from segfast.data.folder import Folder, Pair, find_pairs
from segfast.data.images import DataError, describe_value
from segfast.data.report import DataReport, channels_of
from segfast.data.samples import FolderSamples, SyntheticSamples, synthetic_splits
from segfast.data.scan import Scan, histogram, scan_pair

Progress = Callable[[int, int], None]  # called with (files done, files in all)

SYNTHETIC = "synthetic"


def open_data(
    where: str,
    options: ClassOptions | None = None,
    classes: ClassTable | None = None,
    on_progress: Progress | None = None,
) -> DataReport:
    """Reads a data set through: the folder ``where``, or the images of ``"synthetic"``.

    Args:
        where: a folder in one of the layouts of :func:`segfast.data.folder.find_pairs`, or
            ``"synthetic"``.
        options: what the user says about the classes.
        classes: the class table itself, where a checkpoint has it.
        on_progress: called with (files done, files in all).

    Raises:
        DataError: the folder has no known layout, the class file or the options are wrong, or the
            masks do not tell their classes, or are ignored to the last pixel in "train" or "val".
            What is wrong with single files is in ``problems``.
    """
    if where == SYNTHETIC:
        return _synthetic()
    root = Path(where)
    options = options or ClassOptions()
    folder = find_pairs(root)
    given = (classes, "from the checkpoint") if classes else None
    given = given or given_classes(root, options) or folder.classes
    colour_masks = given is not None and given[0].colour_masks
    scans = _scan_all(folder, colour_masks, on_progress)
    if not scans and not folder.problems:
        raise DataError(f"{where}: holds no pair of image and mask")
    if given is None and scans:
        given = find_classes(root, scans, options.ignore_index)
    table, source = given or (ClassTable.two(), "unknown")
    _check_values(folder, scans, table)
    blank = {pair for pair, scan in scans.items() if not scan.pixels(table)[:-1].any()}
    for split, pairs in list(folder.splits.items()):
        if not pairs or not blank.issuperset(pairs):
            continue
        what = f"all {len(pairs)} masks of its part {split} hold ignored pixels alone"
        if split in ("train", "val"):
            raise DataError(
                f"{where}: {what}: nothing to learn or to score; look at the masks and at "
                "--ignore-index"
            )
        del folder.splits[split]  # whose labels are kept back, as those of a challenge are
        folder.notes.append(f"{what}; it is left out")
        blank.difference_update(pairs)
    if blank:
        folder.notes.append(f"{len(blank)} masks hold ignored pixels only; they are left out")
    usable = {
        split: [pair for pair in pairs if pair in scans and pair not in blank]
        for split, pairs in folder.splits.items()
    }
    split_scans = {split: [scans[pair] for pair in pairs] for split, pairs in usable.items()}
    channels = channels_of(split_scans.get("train", []))
    report = DataReport(
        root=root,
        samples={s: FolderSamples(pairs, table, channels) for s, pairs in usable.items()},
        classes=table,
        classes_from=source,
        scans=split_scans,
        notes=folder.notes,
        problems=[str(problem) for problem in folder.problems],
    )
    if not report.problems:
        absent = [table.names[i] for i in np.flatnonzero(report.pixels("train")[:-1] == 0)]
        if absent:
            folder.notes.append(f"no training pixel of {', '.join(absent)}: cannot be learnt")
    return report


def _synthetic() -> DataReport:
    splits = synthetic_splits()
    return DataReport(
        root=Path(SYNTHETIC),
        samples=splits,
        classes=SyntheticSamples.classes,
        classes_from="as drawn",
        scans={
            split: [
                Scan(
                    size=sample.labels.shape,
                    grey=False,
                    colour=False,
                    counts=dict(enumerate(np.bincount(sample.labels.ravel()).tolist())),
                    levels=histogram(sample.image),
                )
                for sample in samples
            ]
            for split, samples in splits.items()
        },
    )


def _scan_all(
    folder: Folder, colour_masks: bool, on_progress: Progress | None
) -> Mapping[Pair, Scan]:
    pairs = [pair for split in folder.splits.values() for pair in split]
    scans: dict[Pair, Scan] = {}
    # Pillow decodes outside the interpreter's lock, so threads do it in parallel.
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as threads:
        results = threads.map(lambda pair: scan_pair(pair, colour_masks), pairs)
        for done, (pair, result) in enumerate(zip(pairs, results, strict=True), start=1):
            if isinstance(result, Scan):
                scans[pair] = result
            else:
                for file, what in result:
                    folder.add(file, what)
            if on_progress:
                on_progress(done, len(pairs))
    return scans


def _check_values(folder: Folder, scans: Mapping[Pair, Scan], classes: ClassTable) -> None:
    for pair, scan in scans.items():
        for value, pixels in scan.counts.items():
            if classes.classify(value, scan.colour) is None:
                what = describe_value(value, scan.colour)
                folder.add(
                    pair.mask,
                    f"holds {what} in {pixels} pixels, which is none of the {len(classes)} classes"
                    f"{_meant(classes, scan.colour)}",
                )


def _meant(classes: ClassTable, colour: bool) -> str:
    if colour:
        return " of the class file" if classes.colour_masks else "; no class file gives colours"
    ignored = "".join(f", {value} ignored" for value in classes.ignore_values)
    return f" ({min(classes.values)} to {max(classes.values)}{ignored})"
