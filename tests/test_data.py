"""Folder data sets: layouts, class tables, verification, reading of awkward files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image

from segfast.data.class_options import ClassOptions
from segfast.data.classes import IGNORE_INDEX, ClassTable, default_palette, read_class_file
from segfast.data.coco import Shapes
from segfast.data.folder import LAYOUTS, find_mask, find_pairs
from segfast.data.images import DataError, Mask, open_upright, to_array, to_mask
from segfast.data.known import recognise
from segfast.data.report import DataReport
from segfast.data.verify import open_data

SHARED = Path(__file__).parents[2] / "shared" / "data"


def save_pair(images: Path, masks: Path, name: str, mask: np.ndarray, suffix: str = "png") -> None:
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(len(name)).integers(0, 256, (*mask.shape[:2], 3), dtype=np.uint8)
    Image.fromarray(image).save(images / f"{name}.{suffix}")
    Image.fromarray(mask).save(masks / f"{name}.png")


@pytest.fixture
def camvid_like(tmp_path: Path) -> Path:
    """train/ and val/ of four pairs each, three classes in every mask, 9x12 pixels."""
    mask = (np.arange(9 * 12, dtype=np.uint8) % 3).reshape(9, 12)
    for split in ("train", "val"):
        for name in "abcd":
            save_pair(tmp_path / split, tmp_path / f"{split}annot", name, mask)
    return tmp_path


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """images/ and masks/ of ten pairs with train.txt and val.txt; 0/255 masks."""
    mask = np.zeros((8, 10), np.uint8)
    mask[2:5, 3:7] = 255
    for number in range(10):
        save_pair(tmp_path / "images", tmp_path / "masks", f"n{number}", mask)
    (tmp_path / "train.txt").write_text("".join(f"n{n}.png\n" for n in range(8)))
    (tmp_path / "val.txt").write_text("n8\nn9\n")
    return tmp_path


def verify(root: Path, options: ClassOptions | None = None) -> DataReport:
    return open_data(str(root), options)


def only_problem(root: Path, **options: object) -> str:
    report = verify(root, ClassOptions(**options))  # type: ignore[arg-type]
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


def test_both_layouts(camvid_like: Path) -> None:
    report = verify(camvid_like)
    assert report.problems == []
    assert {split: len(samples) for split, samples in report.samples.items()} == {
        "train": 4,
        "val": 4,
    }
    assert report.classes.names == ("class 0", "class 1", "class 2")
    assert report.size == (9, 12)
    assert report.pixels("train").tolist() == [144, 144, 144, 0]
    assert find_mask(camvid_like / "val" / "a.png") == camvid_like / "valannot" / "a.png"


def test_listed_layout_reads_0_255_masks_as_binary(listed: Path) -> None:
    report = verify(listed)
    assert report.problems == []
    assert [pair.name for pair in report.samples["val"].pairs] == ["n8", "n9"]
    assert report.classes.names == ("background", "foreground")
    assert report.pixels("val").tolist() == [2 * 68, 2 * 12, 0]


def test_masks_may_be_arrays(camvid_like: Path) -> None:
    mask = (np.arange(9 * 12) % 3).reshape(9, 12)
    for name, dtype in (("a", np.int64), ("b", np.float64), ("c", np.uint8)):
        (camvid_like / "trainannot" / f"{name}.png").unlink()
        np.save(camvid_like / "trainannot" / f"{name}_mask.npy", mask.astype(dtype))
    report = verify(camvid_like)
    assert report.problems == []
    assert report.pixels("train").tolist() == [144, 144, 144, 0]
    assert np.array_equal(report.samples["train"][0].labels, mask)
    assert find_mask(camvid_like / "train" / "a.png") == camvid_like / "trainannot" / "a_mask.npy"


def test_lists_may_hold_paths_and_repeat_names(listed: Path) -> None:
    (listed / "val.txt").write_text("images/n8.png\n  some/where/n1 \n")
    report = verify(listed)
    assert [pair.name for pair in report.samples["val"].pairs] == ["n8", "n1"]
    assert report.notes == ["val.txt repeats 1 of train.txt's names: its scores will be too good"]


def test_numbers_of_the_images(tmp_path: Path) -> None:
    """Three grey images without contrast, the last mask of one class alone."""
    for name, shape in (("a", (8, 30)), ("b", (40, 14)), ("c", (12, 10))):
        mask = np.zeros(shape, np.uint8)
        mask[0] = 2
        save_pair(tmp_path / "train", tmp_path / "trainannot", name, mask)
        Image.new("L", shape[::-1], 51).save(tmp_path / "train" / f"{name}.png")
    save_pair(tmp_path / "val", tmp_path / "valannot", "d", mask)
    report = verify(tmp_path, ClassOptions(classes="sky,road,kerb"))
    assert report.problems == [] and report.channels == 1
    assert report.size == (12, 14)  # the median of heights and that of widths
    # Divided by a deviation of 0 they would be no numbers.
    assert report.moments() == (pytest.approx((0.2,)), (1e-3,))
    assert report.samples["train"][0].image.shape == (8, 30, 1)
    assert report.notes == ["no training pixel of road: cannot be learnt"]


def test_without_lists_every_fifth_pair_is_held_out(listed: Path) -> None:
    (listed / "train.txt").unlink()
    (listed / "val.txt").unlink()
    folder = find_pairs(listed)
    assert [pair.name for pair in folder.splits["val"]] == ["n4", "n9"]
    assert len(folder.splits["train"]) == 8
    assert "held out" in folder.notes[0]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}", "masks/{}"),
        ("images/{}", "annotations/{}"),
        ("{}/images", "{}/labels"),
        ("{}/image", "{}/label"),
        ("{}", "{}annot"),
    ],
)
@pytest.mark.parametrize("parts", [("train", "val"), ("training", "validation")])
@pytest.mark.parametrize("ending", ["", "_mask", "_L"])
def test_parts_by_folder(
    tmp_path: Path, images: str, masks: str, parts: tuple[str, str], ending: str
) -> None:
    mask = (np.arange(9 * 12, dtype=np.uint8) % 3).reshape(9, 12)
    for part in parts:
        for name in "ab":
            folder = tmp_path / masks.format(part)
            save_pair(tmp_path / images.format(part), folder, name, mask)
            (folder / f"{name}.png").rename(folder / f"{name}{ending}.png")
    report = verify(tmp_path)
    assert report.problems == []
    assert {
        split: [pair.name for pair in samples.pairs] for split, samples in report.samples.items()
    } == {"train": ["a", "b"], "val": ["a", "b"]}
    image = tmp_path / images.format(parts[1]) / "b.png"
    assert find_mask(image) == tmp_path / masks.format(parts[1]) / f"b{ending}.png"


def test_fastais_camvid(tmp_path: Path) -> None:
    """images/ and labels/, a_P.png for a.png; the class file is classes.txt here."""
    mask = (np.arange(9 * 12, dtype=np.uint8) % 3).reshape(9, 12)
    for name in "abcdef":
        save_pair(tmp_path / "images", tmp_path / "labels", name, mask)
        (tmp_path / "labels" / f"{name}.png").rename(tmp_path / "labels" / f"{name}_P.png")
    report = verify(tmp_path)
    assert report.problems == [] and len(report.samples["val"]) == 1


def test_pascal_voc(tmp_path: Path) -> None:
    """Its folders, lists, palette masks and names; 255 between objects is ignored."""
    mask = np.zeros((8, 10), np.uint8)
    mask[2:5, 3:7] = 15
    mask[1] = 255
    for name in ("2007_000032", "2007_000039", "2008_000001"):
        save_pair(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", name, mask)
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette([channel for colour in default_palette(256) for channel in colour])
        picture.save(tmp_path / "SegmentationClass" / f"{name}.png")
    save_pair(tmp_path / "JPEGImages", tmp_path / "others", "2010_000009", mask)  # unlabelled
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n2007_000039\n")
    (lists / "val.txt").write_text("2008_000001\n")
    report = verify(tmp_path)
    assert report.problems == []
    assert "Pascal VOC" in report.classes_from and report.classes.names[15] == "person"
    assert report.pixels("val")[[0, 15, -1]].tolist() == [58, 12, 10]
    image = tmp_path / "JPEGImages" / "2008_000001.png"
    assert find_mask(image) == tmp_path / "SegmentationClass" / "2008_000001.png"


def test_recognised_by_all_names_and_all_values() -> None:
    voc = ["2007_000032", "2008_000001"]
    known = recognise(voc, {0, 15, 255})
    assert known is not None and known.title.startswith("Pascal VOC")
    assert recognise([*voc, "dog"], {0, 15, 255}) is None
    assert recognise(voc, {0, 15, 21}) is None
    assert recognise([], set()) is None


@pytest.mark.filterwarnings("ignore:__array__")  # pycocotools and numpy 2
class TestCoco:
    """Shapes in a JSON file: a 4x3 rectangle in each way of writing it, on 8x10 images."""

    # Runs down the columns, background first: columns 3 to 5, rows 2 to 5.
    RUNS = [26, 4, 4, 4, 4, 4, 34]
    WAYS = {
        "polygon": [[3, 2, 6, 2, 6, 6, 3, 6]],
        "run lengths": {"size": [8, 10], "counts": RUNS},
        "run lengths as text": None,  # made by pycocotools itself
    }

    def write(self, path: Path, segmentation: object, **changed: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"id": 7, "image_id": 1, "category_id": 5, "segmentation": segmentation}
        state = {
            "images": [
                {"id": 1, "file_name": "a.png", "height": 8, "width": 10},
                {"id": 2, "file_name": "b.png", "height": 8, "width": 10},
            ],
            "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
            "annotations": [{**entry, **changed}],
        }
        path.write_text(json.dumps(state))

    def images(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in "ab":
            Image.new("RGB", (10, 8)).save(folder / f"{name}.png")

    @pytest.mark.parametrize(
        ("folder", "file"),
        [
            ("{}", "{}.json"),
            ("{}2017", "annotations/instances_{}2017.json"),
            ("images/{}2017", "annotations/instances_{}2017.json"),
            ("{}", "{}/_annotations.coco.json"),
        ],
    )
    def test_layouts(self, tmp_path: Path, folder: str, file: str) -> None:
        pytest.importorskip("pycocotools")
        for split in ("train", "val"):
            self.images(tmp_path / folder.format(split))
            self.write(tmp_path / file.format(split), self.WAYS["polygon"])
        report = verify(tmp_path)
        assert report.problems == []
        assert report.classes.names == ("background", "cat", "dog")
        assert {split: len(samples) for split, samples in report.samples.items()} == {
            "train": 2,
            "val": 2,
        }
        assert report.pixels("val").tolist() == [160 - 12, 12, 0, 0]

    @pytest.mark.parametrize("way", WAYS)
    def test_drawing(self, way: str) -> None:
        mask = pytest.importorskip("pycocotools.mask")
        expected = np.zeros((8, 10), int)
        expected[2:6, 3:6] = 1
        segmentation = self.WAYS[way]
        if way == "run lengths as text":
            encoded = mask.encode(np.asfortranarray(expected.astype(np.uint8)))
            segmentation = {"size": [8, 10], "counts": encoded["counts"].decode()}
        assert Shapes((8, 10), [(1, segmentation)]).draw().values.tolist() == expected.tolist()

    def test_the_last_of_overlapping_shapes_counts(self) -> None:
        pytest.importorskip("pycocotools")
        square = [[0, 0, 4, 0, 4, 4, 0, 4]]
        drawn = Shapes((4, 8), [(1, [[0, 0, 8, 0, 8, 4, 0, 4]]), (2, square)]).draw()
        assert drawn.counts() == {1: 16, 2: 16}

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"category_id": 3}, "annotation 7 has category_id 3, which the file does not list"),
            ({"image_id": 3}, "annotation 7 has image_id 3"),
            ({"segmentation": []}, "annotation 7 has no segmentation"),
            ({"segmentation": "?"}, "holds a segmentation that is no polygon and no RLE"),
            (
                {"segmentation": {"size": [4, 4], "counts": [16]}},
                "holds an RLE of 4x4 for an image of 10x8",
            ),
        ],
    )
    def test_bad_annotations(
        self, tmp_path: Path, changed: dict[str, object], message: str
    ) -> None:
        pytest.importorskip("pycocotools")
        self.images(tmp_path / "train")
        self.write(tmp_path / "train.json", **{"segmentation": self.WAYS["polygon"], **changed})
        try:
            found = "".join(verify(tmp_path).problems)
        except DataError as error:
            found = str(error)
        assert message in found and "train.json" in found

    def test_other_categories(self, tmp_path: Path) -> None:
        """A label would mean one class in training and another in validation."""
        for split in ("train", "val"):
            self.images(tmp_path / split)
            self.write(tmp_path / f"{split}.json", self.WAYS["polygon"])
        text = (tmp_path / "val.json").read_text()
        (tmp_path / "val.json").write_text(text.replace("dog", "cow"))
        expected = "val.json: has other categories than the training part"
        assert verify(tmp_path).problems == [expected]

    def test_bad_files(self, tmp_path: Path) -> None:
        self.images(tmp_path / "train")
        self.write(tmp_path / "train.json", self.WAYS["polygon"])
        (tmp_path / "train" / "b.png").unlink()
        expected = "train/b.png: does not exist, but train.json lists it"
        assert verify(tmp_path).problems[0] == expected
        (tmp_path / "train.json").write_text('{"images": []}')
        with pytest.raises(DataError, match="train.json: is not in COCO's format"):
            verify(tmp_path)
        (tmp_path / "train.json").write_text("{")
        with pytest.raises(DataError, match="train.json: cannot be read"):
            verify(tmp_path)


class TestProblems:
    """Each broken folder gives one sentence that names the file."""

    def test_missing_mask(self, camvid_like: Path) -> None:
        (camvid_like / "trainannot" / "b.png").unlink()
        assert only_problem(camvid_like) == "train/b.png: has no mask: expected trainannot/b.png"

    def test_missing_image(self, camvid_like: Path) -> None:
        (camvid_like / "val" / "c.png").unlink()
        assert only_problem(camvid_like).startswith("valannot/c.png: has no image: expected val/c")

    def test_link_to_nothing(self, camvid_like: Path) -> None:
        (camvid_like / "val" / "c.png").unlink()
        (camvid_like / "val" / "c.png").symlink_to("/nowhere/c.png")
        expected = "val/c.png: is a link to /nowhere/c.png, which does not exist"
        assert only_problem(camvid_like) == expected

    def test_missing_mask_folder(self, camvid_like: Path) -> None:
        (camvid_like / "valannot").rename(camvid_like / "elsewhere")
        assert only_problem(camvid_like) == "val: its masks are missing: there is no valannot/"

    @pytest.mark.parametrize("kind", ["train", "trainannot"])
    def test_truncated(self, camvid_like: Path, kind: str) -> None:
        file = camvid_like / kind / "b.png"
        file.write_bytes(file.read_bytes()[:-30])
        assert only_problem(camvid_like).startswith(f"{kind}/b.png: cannot be read: ")

    def test_truncated_jpeg(self, camvid_like: Path) -> None:
        image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        file = camvid_like / "train" / "b.jpg"
        Image.fromarray(image).save(file)
        (camvid_like / "train" / "b.png").unlink()
        file.write_bytes(file.read_bytes()[:-40])
        assert only_problem(camvid_like).startswith("train/b.jpg: cannot be read: image file is tr")

    def test_not_a_picture(self, camvid_like: Path) -> None:
        (camvid_like / "train" / "b.png").write_text("<html>404</html>")
        assert "train/b.png: cannot be read: it is not a picture" in only_problem(camvid_like)

    def test_sizes_differ(self, camvid_like: Path) -> None:
        Image.fromarray(np.zeros((12, 10), np.uint8)).save(camvid_like / "trainannot" / "b.png")
        expected = "trainannot/b.png: is 10x12, but its image b.png is 12x9 (width x height)"
        assert only_problem(camvid_like) == expected

    def test_mask_of_an_unturned_photo(self, camvid_like: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        Image.fromarray(np.zeros((9, 12, 3), np.uint8)).save(
            camvid_like / "train" / "b.png", exif=exif
        )
        assert "turned upright as its EXIF orientation says" in only_problem(camvid_like)

    def test_unknown_value(self, camvid_like: Path) -> None:
        mask = np.zeros((9, 12), np.uint8)
        mask[0, :2] = 7
        Image.fromarray(mask).save(camvid_like / "trainannot" / "b.png")
        expected = (
            "trainannot/b.png: holds value 7 in 2 pixels, "
            "which is none of the 3 classes (0 to 2, 9 ignored)"
        )
        assert only_problem(camvid_like, classes="3", ignore_index=9) == expected

    def test_empty_folder(self, camvid_like: Path) -> None:
        for file in (camvid_like / "val").iterdir():
            file.unlink()
        assert only_problem(camvid_like).startswith("val: holds no images (.jpg,")

    @pytest.mark.parametrize(
        ("suffix", "message"),
        [(".jpg", "is a JPEG, whose compression"), (".gif", "is a GIF, which may number")],
    )
    def test_masks_of_other_formats(self, camvid_like: Path, suffix: str, message: str) -> None:
        mask = camvid_like / "trainannot" / "b.png"
        Image.open(mask).save(mask.with_suffix(suffix))
        mask.unlink()
        assert f"trainannot/b{suffix}: {message}" in only_problem(camvid_like)

    def test_moving_picture(self, camvid_like: Path) -> None:
        frames = [Image.new("RGB", (12, 9), (n, 0, 0)) for n in (0, 200)]
        file = camvid_like / "train" / "b.gif"
        frames[0].save(file, save_all=True, append_images=frames[1:])
        (camvid_like / "train" / "b.png").unlink()
        assert only_problem(camvid_like).startswith("train/b.gif: holds 2 pictures; save each")

    def test_mask_of_another_kind(self, camvid_like: Path) -> None:
        (camvid_like / "trainannot" / "b.png").rename(camvid_like / "trainannot" / "b_mask.mat")
        expected = (
            "train/b.png: has no mask: trainannot/b_mask.mat is of no kind that is read (.png"
        )
        assert only_problem(camvid_like).startswith(expected)

    def test_image_of_another_kind(self, camvid_like: Path) -> None:
        (camvid_like / "train" / "b.png").rename(camvid_like / "train" / "b.heic")
        expected = "trainannot/b.png: has no image: train/b.heic is of no kind that is read (.jpg, "
        assert only_problem(camvid_like).startswith(expected)

    @pytest.mark.parametrize(
        ("array", "kind"),
        [
            (np.zeros((9, 12, 3), np.uint8), "uint8 of shape [9, 12, 3]"),
            (np.full((9, 12), 0.5), "float64 of shape [9, 12]"),
            (np.full((9, 12), np.nan), "float64 of shape [9, 12]"),
            (np.full((9, 12), 2**40), "int64 of shape [9, 12]"),
            (np.full((9, 12), "road"), "<U4 of shape [9, 12]"),
        ],
    )
    def test_array_that_is_no_mask(self, camvid_like: Path, array: np.ndarray, kind: str) -> None:
        (camvid_like / "trainannot" / "b.png").unlink()
        np.save(camvid_like / "trainannot" / "b.npy", array)
        expected = f"trainannot/b.npy: holds {kind}; an array of a mask is [height, width] and "
        assert only_problem(camvid_like).startswith(expected)

    def test_array_that_cannot_be_read(self, camvid_like: Path) -> None:
        (camvid_like / "trainannot" / "b.png").unlink()
        (camvid_like / "trainannot" / "b.npy").write_bytes(b"no array")
        assert "trainannot/b.npy: cannot be read: " in only_problem(camvid_like)
        np.save(camvid_like / "trainannot" / "b.npy", np.array([{}]), allow_pickle=True)
        assert "trainannot/b.npy: cannot be read: object arrays" in only_problem(camvid_like)

    def test_two_images_of_one_name(self, camvid_like: Path) -> None:
        Image.open(camvid_like / "train" / "b.png").save(camvid_like / "train" / "b.bmp")
        assert "train/b.png: has the same name as b.bmp" in only_problem(camvid_like)

    def test_list_names_a_missing_image(self, listed: Path) -> None:
        (listed / "val.txt").write_text("n8\nn11\n")
        expected = "val.txt: line 2 names 'n11', but images/ has no such file"
        assert only_problem(listed) == expected

    def test_empty_list(self, listed: Path) -> None:
        (listed / "val.txt").write_text("\n")
        assert only_problem(listed) == "val.txt: is empty; write one image name a line"

    def test_only_pair(self, listed: Path) -> None:
        for name in ("train.txt", "val.txt"):
            (listed / name).unlink()
        for number in range(1, 10):
            for kind in ("images", "masks"):
                (listed / kind / f"n{number}.png").unlink()
        expected = "images/n0.png: is the only pair; training needs at least two"
        assert only_problem(listed) == expected

    def test_several_at_once(self, camvid_like: Path) -> None:
        (camvid_like / "trainannot" / "b.png").unlink()
        (camvid_like / "val" / "c.png").write_bytes(b"")
        assert [problem.split(":")[0] for problem in verify(camvid_like).problems] == [
            "train/b.png",
            "val/c.png",
        ]

    def test_the_page_has_the_same_list(self) -> None:
        page = Path(__file__).resolve().parents[1] / "docs" / "folder.md"
        assert LAYOUTS in page.read_text(encoding="utf-8")

    def test_unknown_layout(self, tmp_path: Path) -> None:
        for held in ("no folders and no pictures", "1 picture", "Images/, Masks/, 2 pictures"):
            wanted = (
                rf"is not laid out as a data set \(it holds {held}\); expected one of\n.*images.*"
            )
            with pytest.raises(DataError, match=wanted):
                verify(tmp_path)
            Image.new("L", (3, 2)).save(tmp_path / f"{len(held)}.png")
            if held == "1 picture":
                (tmp_path / "Images").mkdir()
                (tmp_path / "Masks").mkdir()
        with pytest.raises(DataError, match="nowhere: does not exist"):
            verify(tmp_path / "nowhere")


class TestClasses:
    def test_palette_is_that_of_pascal_voc(self) -> None:
        voc = ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
        assert default_palette(5) == voc
        assert len(set(default_palette(255))) == 255

    def test_instance_ids_are_not_taken_for_classes(self, listed: Path) -> None:
        for number in range(10):
            mask = np.zeros((8, 10), np.uint8)
            for k in range(number % 3 + 1):
                mask[k, :3] = k + 1
            Image.fromarray(mask).save(listed / "masks" / f"n{number}.png")
        with pytest.raises(DataError, match="number objects .*--binary .*--classes 4"):
            verify(listed)
        assert verify(listed, ClassOptions(binary=True)).classes.names[1] == "foreground"
        assert len(verify(listed, ClassOptions(classes="4")).classes) == 4

    def test_nothing_but_ignored_pixels(self, listed: Path) -> None:
        for file in (listed / "masks").iterdir():
            Image.fromarray(np.full((8, 10), 255, np.uint8)).save(file)
        with pytest.raises(
            DataError, match=r"all masks hold ignored pixels alone \(255\): nothing"
        ):
            verify(listed)
        with pytest.raises(DataError, match="masks of its part train hold ignored pixels alone"):
            verify(listed, ClassOptions(classes="3", ignore_index=255))

    def test_a_test_part_whose_labels_are_kept_back(self, camvid_like: Path) -> None:
        for name in "abcd":
            ignored = np.full((9, 12), 255, np.uint8)
            save_pair(camvid_like / "test", camvid_like / "testannot", name, ignored)
        report = verify(camvid_like)
        assert list(report.samples) == ["train", "val"]
        assert report.notes == [
            "all 4 masks of its part test hold ignored pixels alone; it is left out"
        ]

    def test_gaps_need_a_class_list(self, listed: Path) -> None:
        for file in (listed / "masks").iterdir():
            Image.fromarray(np.full((8, 10), [[0], [38], [75], [113]] * 2, np.uint8)).save(file)
        with pytest.raises(
            DataError, match="hold the values 0, 38, 75, 113, which do not .*--classes 114 if"
        ):
            verify(listed)

    def test_more_values_than_classes_may_have(self, listed: Path) -> None:
        for file in (listed / "masks").iterdir():
            values = np.full((8, 10), [[0], [1000], [2000], [0]] * 2, np.uint16)
            Image.fromarray(values).save(file)
        with pytest.raises(DataError, match="values 0, 1000, 2000, .*; save them anew with 0, 1"):
            verify(listed)

    def test_smoothed_masks(self, listed: Path) -> None:
        """Not 255 classes, with the foreground ignored."""
        smooth = np.linspace(0, 255, 80).round().astype(np.uint8).reshape(8, 10)
        for file in (listed / "masks").iterdir():
            Image.fromarray(smooth).save(file)
        with pytest.raises(DataError, match="hold 80 values up to 255, as after smoothing"):
            verify(listed)
        with pytest.raises(DataError, match=r"--classes 256|2 to 255 classes"):
            verify(listed, ClassOptions(classes="256"))
        assert len(verify(listed, ClassOptions(classes="255", ignore_index=255)).classes) == 255

    def test_255_is_ignored_beside_other_values(self, camvid_like: Path) -> None:
        mask = np.full((9, 12), 255, np.uint8)
        Image.fromarray(mask).save(camvid_like / "trainannot" / "a.png")  # to be left out
        mask[:1] = 0
        Image.fromarray(mask).save(camvid_like / "trainannot" / "b.png")
        report = verify(camvid_like)
        assert report.classes.ignore_values == (255,)
        assert report.pixels("train").tolist() == [72 + 12, 72, 72, 96]
        assert len(report.samples["train"]) == 3
        assert "1 masks hold ignored pixels only" in report.notes[0]

    def test_class_file_with_void_and_colours(self, camvid_like: Path) -> None:
        """RGB masks are read by their colours, palette masks of the same data by their indices."""
        (camvid_like / "classes.csv").write_text(
            "name,r,g,b\nvoid,0,0,0\nroad,128,64,128\nsky,200,200,200\n"
        )
        colours = np.array([[0, 0, 0], [128, 64, 128], [200, 200, 200]], np.uint8)
        for file in (camvid_like / "trainannot").iterdir():
            Image.fromarray(colours[np.array(Image.open(file))]).save(file)
        report = verify(camvid_like)
        assert report.classes.names == ("road", "sky")
        assert report.classes_from == "from classes.csv"
        assert report.pixels("train").tolist() == report.pixels("val").tolist() == [144, 144, 144]
        labels = report.classes.decode(Mask(np.array([[0, 1, 2]], np.int32), colour=False))
        assert labels.tolist() == [[IGNORE_INDEX, 0, 1]]

    def test_colour_masks_without_class_file(self, camvid_like: Path) -> None:
        Image.new("RGB", (12, 9), (1, 2, 3)).save(camvid_like / "trainannot" / "b.png")
        with pytest.raises(
            DataError, match="b.png: is a colour mask, .*classes.csv with a line .* are 1,2,3"
        ):
            verify(camvid_like)
        random = np.random.default_rng(0)
        for file in (camvid_like / "trainannot").iterdir():
            Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8)).save(file)
        with pytest.raises(DataError, match=r"there are \d{3} colours, as after smoothing"):
            verify(camvid_like)

    def test_label_colors(self, tmp_path: Path) -> None:
        """CamVid's own list of colours."""
        path = tmp_path / "label_colors.txt"
        path.write_text("64 128 64\tAnimal\n0 0 0\t\tVoid\n128 0 64   Lane Markings\n")
        table = read_class_file(path)
        assert table.names == ("Animal", "Lane Markings") and table.colour_masks
        assert table.palette == ((64, 128, 64), (128, 0, 64))
        assert table.ignore_colours == ((0, 0, 0),)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty"),
            ("road,1,2\nsky,1,2,3\n", "each line must be a name"),
            ("road,1,2,3\nsky,1,2,300\n", "colours run from 0 to 255"),
            ("road\nroad\n", "'road' is given twice"),
            ("road\n", "needs 2 to 255 classes, got 1"),
        ],
    )
    def test_bad_class_file(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "classes.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read_class_file(tmp_path / "classes.csv")

    def test_decode_names_the_unknown_value(self) -> None:
        table = ClassTable.numbered([0, 1], [9])
        assert table.decode(Mask(np.array([[0, 9, 1]], np.int32), False)).tolist() == [[0, 255, 1]]
        with pytest.raises(DataError, match="holds value -3, which is no class"):
            table.decode(Mask(np.array([[0, -3]], np.int32), False))

    def test_survives_a_checkpoint(self) -> None:
        table = ClassTable.numbered([0, 2, 5], [255])
        assert ClassTable.from_dict(table.to_dict()) == table


class TestAwkwardImages:
    def save(self, path: Path, picture: Image.Image) -> np.ndarray:
        picture.save(path)
        return to_array(open_upright(path), channels=3)

    def test_exif_rotation_is_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
        assert to_array(open_upright(tmp_path / "a.jpg"), 3).shape == (40, 20, 3)

    def test_palette_picture(self, tmp_path: Path) -> None:
        picture = Image.new("P", (3, 2), 1)
        picture.putpalette([0, 0, 0, 10, 20, 30])
        assert (self.save(tmp_path / "a.png", picture) == [10, 20, 30]).all()

    def test_transparent_pixels_are_blended_over_white(self, tmp_path: Path) -> None:
        array = self.save(tmp_path / "a.png", Image.new("RGBA", (3, 2), (0, 0, 0, 0)))
        assert (array == 255).all()

    def test_16_bit_grey_keeps_its_depth(self, tmp_path: Path) -> None:
        picture = Image.fromarray(np.full((2, 3), 257, np.uint16))
        array = self.save(tmp_path / "a.png", picture)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, 257 / 65535, rtol=1e-6)  # one float32 division

    def test_float_picture_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="32-bit pixels"):
            self.save(tmp_path / "a.tif", Image.new("F", (3, 2)))

    def test_stack_is_refused(self, tmp_path: Path) -> None:
        frames = [Image.new("L", (3, 2)) for _ in range(4)]
        frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match="holds 4 pictures"):
            open_upright(tmp_path / "a.tif")

    def test_mask_kinds(self) -> None:
        indexed = Image.new("P", (3, 2), 7)
        assert not to_mask(indexed, False).colour
        assert to_mask(indexed, False).counts() == {7: 6}
        grey_rgb = Image.new("RGB", (3, 2), (4, 4, 4))
        assert to_mask(grey_rgb, colour_masks=False).counts() == {4: 6}
        assert to_mask(grey_rgb, colour_masks=True).counts() == {0x040404: 6}
        deep = Image.fromarray(np.full((2, 3), 33000, np.uint16))  # beyond int16
        assert to_mask(deep, False).counts() == {33000: 6}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the CamVid folder is not there")
def test_camvid_is_recognised_and_counted() -> None:
    """Numbers of the data set's own README."""
    report = verify(SHARED / "camvid")
    assert report.problems == []
    assert report.classes.names[0] == "Sky" and len(report.classes) == 11
    assert "CamVid" in report.classes_from
    assert report.pixels("train").tolist() == [
        10682767, 14750079, 623349, 20076880, 2845085, 6166762,
        743859, 714595, 3719877, 405385, 184967, 2503995,
    ]  # fmt: skip
    mean, std = report.moments()
    np.testing.assert_allclose(mean, (0.4116, 0.4247, 0.4321), atol=5e-5)  # 4 digits printed
    np.testing.assert_allclose(std, (0.3066, 0.3111, 0.3067), atol=5e-5)
    weights = (0.2793, 0.2017, 4.7865, 0.149, 1, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587)
    np.testing.assert_allclose(report.median_frequency_weights(), weights, atol=5e-5)


def test_cached_samples_are_read_once(tmp_path: Path) -> None:
    """An odd size, and 16 bits, whose pixels are floats, between two of 8 bits."""
    for name, shape in (("a", (3, 5)), ("b", (7, 3)), ("c", (4, 4))):
        mask = np.zeros(shape, np.uint8)
        mask[0] = 1
        save_pair(tmp_path / "images", tmp_path / "masks", name, mask)
    Image.fromarray(np.full((7, 3), 257, np.uint16)).save(tmp_path / "images" / "b.png")
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text("a\nb\nc\n")
    report = verify(tmp_path)
    cached = report.cached("train")
    elsewhere = pickle.loads(pickle.dumps(cached))  # as in a worker process that is not forked
    kept = [cached[index] for index in (2, 0, 1)]
    assert [sample.image.dtype for sample in kept] == [np.uint8, np.uint8, np.float32]
    for sample, copied in zip(kept, [elsewhere[index] for index in (2, 0, 1)], strict=True):
        assert np.array_equal(sample.image, copied.image)
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(b"")
    for index in range(3):
        with pytest.raises(DataError):
            report.samples["train"][index]
    for sample, again in zip(kept, [cached[index] for index in (2, 0, 1)], strict=True):
        assert np.array_equal(sample.image, again.image) and np.array_equal(
            sample.labels, again.labels
        )
    assert (cached[1].image == np.float32(257 / 65535)).all()
    assert cached[0].labels.tolist() == [[1] * 5, [0] * 5, [0] * 5]


def test_synthetic_images_are_the_same_every_time() -> None:
    report = open_data("synthetic")
    first, again = report.samples["train"][3], open_data("synthetic").samples["train"][3]
    assert np.array_equal(first.image, again.image) and np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, report.samples["val"][3].image)
    assert (report.pixels("train")[:-1] > 0).all() and report.size == first.labels.shape
