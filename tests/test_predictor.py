"""Predicting: any image, tiles that give what the whole image gives, memory that stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import segfast
from segfast._errors import UserError
from segfast._tiles import STRIP, blend, tile_starts
from segfast.predictor import Predictor


def pixelwise(classes: int = 5, channels: int = 3) -> nn.Module:
    """Sees one pixel at a time, so that tiles must give what the whole image gives."""
    torch.manual_seed(0)
    return nn.Conv2d(channels, classes, kernel_size=1)


class Symmetric(nn.Module):
    """Commutes with mirroring: its kernel is a palindrome in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel_size=3, padding=1)
        with torch.no_grad():
            weight = self.conv.weight
            weight.copy_(weight + weight.flip(-1))
            weight.copy_(weight + weight.flip(-2))

    def forward(self, input: Tensor) -> Tensor:
        return self.conv(input)


class Virtual:
    """An image that exists only where it is looked at; remembers the largest look."""

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height, width, 3)
        self.largest = 0

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        y, x = (np.arange(*s.indices(n)) for s, n in zip(place, self.shape[:2], strict=True))
        self.largest = max(self.largest, len(y) * len(x))
        pixels = (y[:, None, None] * 31 + x[:, None] * 17) * np.array([1, 3, 7]) % 251
        return pixels.astype(np.uint8)


def photo(height: int = 53, width: int = 71, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (10, 10, 0.5, [0]),
        (7, 10, 0.5, [0]),  # smaller than a tile
        (20, 10, 0.0, [0, 10]),
        (25, 10, 0.0, [0, 8, 15]),  # the last ends with the image
        (20, 10, 0.5, [0, 5, 10]),
        (12, 10, 0.99, [0, 1, 2]),  # never less than a pixel on
    ],
)
def test_tiles_cover_the_axis(length: int, tile: int, overlap: float, expected: list[int]) -> None:
    assert tile_starts(length, tile, overlap) == expected


@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [
        ((53, 71), 16, 0.25),
        ((53, 71), (53, 16), 0.0),  # as high as the image
        ((8, 9), 64, 0.5),  # smaller than a tile
        ((20, 16 * (STRIP + 5)), 16, 0.4),  # two strips
        ((6, 2 * 3 * STRIP), 4, 0.5),  # several
    ],
)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_tiles_give_what_the_whole_gives(
    size: tuple[int, int], tile: Any, overlap: float, batch_size: int
) -> None:
    model, image = pixelwise(), photo(*size)
    whole = Predictor(model)
    tiled = Predictor(model, tile=tile, overlap=overlap, batch_size=batch_size)
    # A weighted mean of equal values: some roundings.
    torch.testing.assert_close(tiled.logits(image), whole.logits(image), rtol=1e-5, atol=1e-6)
    assert np.array_equal(tiled(image), whole(image))


def test_a_pixel_between_tiles_is_their_gaussian_mean() -> None:
    def score(places: list[tuple[int, int]]) -> Tensor:  # a tile's column, everywhere
        return torch.stack([torch.full((1, 1, 8), float(x)) for _, x in places])

    ((_, _, scores),) = blend(score, (1, 12), (1, 8), overlap=0.5, batch_size=1)
    assert scores[0, 0, :4].eq(0).all() and scores[0, 0, 8:].eq(4).all()
    # nnU-Net's: an eighth of the tile wide, and never less than a thousandth.
    weight = torch.exp(-0.5 * (torch.arange(8) - 3.5) ** 2).clamp(min=1e-3)
    left, right = weight[4:], weight[:4]
    torch.testing.assert_close(scores[0, 0, 4:8], 4 * right / (left + right))


def test_a_network_is_nearly_the_same_in_tiles() -> None:
    torch.manual_seed(0)
    model = segfast.create_model("unet", 3, width=4, depth=2, batch_norm=False)
    image = photo(144, 96)
    whole = Predictor(model).logits(image)
    tiled = Predictor(model, tile=96, overlap=0.5).logits(image)
    # Two tiles, from rows 0 and 48, where pooling halves evenly. Depth 2 sees 44 pixels, so that
    # only near its edge does a tile see less than there is, and there its weight is small.
    assert (tiled - whole).abs().mean() < 0.01 * whole.std()
    torch.testing.assert_close(tiled[:, :24], whole[:, :24], rtol=1e-3, atol=1e-4)


class Live(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    model = pixelwise()
    predictor = Predictor(model, tile=16, overlap=0.25, batch_size=16)
    largest = []
    for size in ((208, 208), (208, 416), (416, 208)):
        image, live = Virtual(*size), Live()
        with live:
            labels = predictor(image, out=tmp_path / "labels.npy")
        assert isinstance(labels, np.memmap) and labels.shape == size
        largest.append((image.largest, live.largest))
        rows = slice(size[0] - 50, size[0]), slice(size[1] - 50, size[1])
        assert np.array_equal(labels[rows], Predictor(model)(image[rows]))
    assert largest[0][0] == largest[1][0] == largest[2][0] == 16 * 16
    assert largest[0][1] == largest[1][1] == largest[2][1]
    assert [file.name for file in tmp_path.iterdir()] == ["labels.npy"]


def test_a_result_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Predictor(pixelwise(), tile=8)(photo(), out=tmp_path / "labels.npy", on_progress=stop)
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        Predictor(pixelwise())(photo(), out=tmp_path / "file" / "labels.npy")
    assert str(tmp_path / "file" / "labels.npy") in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("tta", ["flip", "flips", "scales"])
def test_augmentation_leaves_a_symmetric_model_alone(tta: Any) -> None:
    model, image = Symmetric(), photo(40, 60)
    if tta == "scales":  # scaling commutes with nothing but one colour
        image = np.broadcast_to(image[:1, :1], image.shape)
    expected = Predictor(model).logits(image)
    found = Predictor(model, tta=tta).logits(image)
    inner = (..., slice(2, -2), slice(2, -2)) if tta == "scales" else ...
    torch.testing.assert_close(found[inner], expected[inner], rtol=1e-4, atol=1e-5)


def test_augmentation_mirrors_back() -> None:
    class Column(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            ramp = torch.arange(input.shape[-1], dtype=input.dtype).expand(input.shape[-2:])
            return torch.stack([ramp, -ramp]).expand(len(input), -1, -1, -1)

    logits = Predictor(Column(3, 2, 1), tta="flip").logits(photo(4, 9))
    torch.testing.assert_close(logits[0], torch.full((4, 9), 4.0))  # the mean of x and 8 - x


def test_scales_are_those_that_are_promised() -> None:
    seen: list[tuple[int, ...]] = []

    class Seen(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(tuple(input.shape[-2:]))
            return super().forward(input)

    Predictor(Seen(3, 2, 1), tta="scales").logits(photo(40, 60))
    assert seen == [(30, 45)] * 2 + [(40, 60)] * 2 + [(50, 75)] * 2


def test_images_of_every_kind(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    model, image = pixelwise(), photo()
    predictor = Predictor(model, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    scaled = (torch.from_numpy(image) / 255 - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor(
        [0.2, 0.3, 0.2]
    )
    with torch.no_grad():
        expected = model(scaled.permute(2, 0, 1)[None])[0].argmax(0).numpy()
    pil.fromarray(image).save(tmp_path / "photo.png")
    np.save(tmp_path / "photo.npy", image)
    for kind in (
        image,
        image.astype(np.uint16) * 257,
        (image / 255).astype(np.float32),
        torch.from_numpy(image).permute(2, 0, 1),
        pil.fromarray(image),
        tmp_path / "photo.png",
        str(tmp_path / "photo.npy"),
    ):
        labels = predictor(kind)
        assert labels.dtype == np.uint8
        assert (labels != expected).mean() < 1e-3  # 8 bits and float32 round differently
    assert np.array_equal(
        segfast.predict(model, image[..., 0]), segfast.predict(model, image[..., [0, 0, 0]])
    )
    rounded = torch.from_numpy(image / 255).permute(2, 0, 1).bfloat16()  # NumPy has no such type
    assert np.array_equal(predictor(rounded), predictor(rounded.float()))


def test_models_of_every_kind() -> None:
    class Half(nn.Module):
        """As torchvision's: a dict; as SegFormer's code: smaller. Refuses sizes that 8 does not
        divide."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, kernel_size=8, stride=8)
            self.drop = nn.Dropout(0.9)

        def forward(self, input: Tensor) -> dict[str, Tensor]:
            assert input.shape[-1] % 8 == input.shape[-2] % 8 == 0
            return {"out": self.drop(self.conv(input))}

    model = Half().train()
    model.drop.eval()
    labels = Predictor(model, divisor=8)(photo())
    assert labels.shape == (53, 71)
    assert model.training and model.conv.training and not model.drop.training
    binary = Predictor(pixelwise(classes=1))
    logits = binary.logits(photo())
    assert logits.requires_grad is False
    assert np.array_equal(binary(photo()), (logits[0] > 0).numpy())
    valid = segfast.create_model("unet_paper", 2, 3, width=2)
    assert Predictor(valid, tile=40)(photo()).shape == (53, 71)
    many = Predictor(pixelwise(classes=300))(photo())
    assert many.dtype == np.int32


def test_optimised_models() -> None:
    model = segfast.create_model("unet_paper", 2, 3, width=2)  # gives the middle only
    fast = segfast.optimize(model, dtype=torch.float32)
    expected = Predictor(model).logits(photo())
    torch.testing.assert_close(Predictor(fast).logits(photo()), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5)}, "mean must have one number, or one for each of the 3 channels"),
        ({"tile": 0}, "tile must be at least 1 pixel, received 0"),
        ({"overlap": 1.0}, "overlap must be at least 0 and less than 1, received 1.0"),
        ({"tta": "all"}, "tta must be one of none, flip, flips, scales, received 'all'"),
        ({"batch_size": 0}, "batch_size and divisor must be at least 1, received 0 and 1"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor(pixelwise(), **options)


def test_wrong_images(tmp_path: Path) -> None:
    predictor = Predictor(pixelwise())
    for image, message in (
        (photo(channels=4), "takes 3 channels, the image has 4"),
        (np.zeros((0, 3, 3)), r"none of them empty; received ndarray of shape \(0, 3, 3\)"),
        (None, "received NoneType"),
        (torch.zeros(1, 3, 4, 5), r"received Tensor of shape \(1, 3, 4, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor(image)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="bad.npy: cannot be read"):
        predictor(tmp_path / "bad.npy")
    with pytest.raises(ValueError, match="has no card"):
        _ = predictor.card


def test_pictures_need_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ``import segfast`` and predicting arrays do without."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "segfast.data.images", raising=False)
    with pytest.raises(UserError, match="^a.png: reading it needs Pillow: pip install pillow$"):
        segfast.predict(pixelwise(), "a.png")
