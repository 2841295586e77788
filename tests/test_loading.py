"""From samples to batches: crops, resizing, and an order that a resumed run repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("PIL")
pytest.importorskip("torchvision")

from segfast.data.classes import IGNORE_INDEX
from segfast.data.loading import EpochSampler, TrainingSet
from segfast.data.samples import Sample
from segfast.data.transforms import Normalise, TrainingCrop, WholeImage, fit, resize

AS_IT_IS = Normalise((0.0,), (1.0,))  # on the scale 0 to 1
SEEDS = range(40)


def crop(size: tuple[int, int], image: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return TrainingCrop(size, AS_IT_IS)(image, labels)


@pytest.mark.parametrize(
    ("image", "size", "expected"),
    [((100, 400), (20, 20), (10, 40)), ((7, 5), (14, 10), (14, 10)), ((1, 1000), (5, 2), (1, 100))],
)
def test_fit_keeps_area_and_aspect(
    image: tuple[int, int], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fit(image, size) == expected


def test_shrinking_smooths() -> None:
    """Pixels of 0 and 255 in turn become grey; the middle ones of each 3x3 are one of the two."""
    board = torch.arange(24).add(torch.arange(24)[:, None]).remainder(2).mul(255)
    small = resize(board.to(torch.uint8)[None], (8, 8))
    assert ((small > 100) & (small < 155)).all()


def test_normalise_and_whole_image() -> None:
    image = torch.full((3, 20, 40), 51, dtype=torch.uint8)
    out = WholeImage((8, 4), Normalise((0.1, 0.2, 0.3), (1.0, 0.5, 0.25)))(image)
    assert out.shape == (3, 4, 8) and out.dtype == torch.float32  # 51 / 255 = 0.2
    expected = torch.tensor([0.1, 0.0, -0.4])[:, None, None].expand_as(out)
    torch.testing.assert_close(out, expected)


class TestCrop:
    def test_image_and_labels_stay_together(self) -> None:
        """Bright where the label is 1, whatever is cropped, mirrored and recoloured."""
        labels = torch.zeros(40, 40, dtype=torch.uint8)
        labels[:, 20:] = 1
        left = set()
        for seed in SEEDS:
            image, mask = crop((16, 16), (labels * 250)[None], labels, seed)
            assert image.shape == (1, 16, 16) and mask.shape == (16, 16)
            left.add(int(mask[0, 0]) if len(mask.unique()) == 2 else None)
            bright = image[0] > (image.min() + image.max()) / 2
            if len(mask.unique()) == 2:
                assert (bright == mask.bool()).float().mean() > 0.9  # the edge is between pixels
        assert {0, 1} <= left  # mirrored, and not

    @pytest.mark.parametrize("size", [(16, 64), (40, 40)])
    def test_shape_and_area(self, size: tuple[int, int]) -> None:
        """At least 30 % of the area, stretched by 4 to 3 at most."""
        height, width = 2 * size[0], 2 * size[1]
        row = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
        column = torch.arange(width, dtype=torch.uint8).expand(height, width)
        image = torch.zeros(1, height, width, dtype=torch.uint8)
        areas = []
        for seed in SEEDS:
            rows, columns = (crop(size, image, labels, seed)[1] for labels in (row, column))
            # Labels are those of the nearest pixels: to each span belongs one step more.
            high = float(rows[-1, 0]) - float(rows[0, 0]) + height / size[0]
            wide = abs(float(columns[0, -1]) - float(columns[0, 0])) + width / size[1]
            assert 0.65 < wide / high / (width / height) < 1.5
            areas.append(wide * high / (width * height))
        assert 0.25 < min(areas) < 0.5 and 0.8 < max(areas) < 1.1

    def test_no_crop_without_a_labelled_pixel(self) -> None:
        """The mean loss of such a crop would be NaN."""
        labels = torch.full((32, 32), IGNORE_INDEX, dtype=torch.uint8)
        labels[:6, :6] = 1
        for seed in SEEDS:
            _, mask = crop((16, 16), torch.zeros(3, 32, 32, dtype=torch.uint8), labels, seed)
            assert (mask == 1).any()

    def test_without_augmentation(self) -> None:
        """The whole image, resized, each time."""
        image = torch.randint(256, (3, 12, 10), dtype=torch.uint8)
        labels = torch.randint(3, (12, 10), dtype=torch.uint8)
        plain = TrainingCrop((24, 20), AS_IT_IS, augment=False)
        for _ in range(3):
            out, mask = plain(image, labels)
            assert torch.equal(out, AS_IT_IS(resize(image, (24, 20))))
            assert torch.equal(mask, labels.repeat_interleave(2, 0).repeat_interleave(2, 1))


class TestTrainingSet:
    @pytest.fixture
    def crops(self) -> TrainingSet:
        random = np.random.default_rng(0)
        samples = [
            Sample(
                str(number),
                random.integers(0, 256, (20, 20, 3), dtype=np.uint8),
                np.full((20, 20), number, np.uint8),
            )
            for number in range(3)
        ]
        return TrainingSet(samples, TrainingCrop((8, 8), AS_IT_IS), seed=5)

    def test_a_number_stands_for_a_sample_and_its_augmentation(self, crops: TrainingSet) -> None:
        torch.manual_seed(1)
        image, labels = crops[4]
        torch.manual_seed(2)
        again, _ = crops[4]
        other_epoch, _ = crops[1]
        assert (labels == 1).all()
        assert torch.equal(image, again) and not torch.equal(image, other_epoch)

    def test_the_global_generators_are_left_alone(
        self, crops: TrainingSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded"))
        torch.default_generator.manual_seed(1)
        expected = torch.rand(3)
        torch.default_generator.manual_seed(1)
        crops[4]
        assert torch.equal(torch.rand(3), expected)


class TestSampler:
    def test_visits_each_sample_once_and_differs_by_epoch(self) -> None:
        """11 samples, 2 ranks, 2 steps of 2: 8 distinct ones in an epoch, 3 left out."""
        epochs = []
        for epoch in range(2):
            numbers = []
            for rank in range(2):
                sampler = EpochSampler(11, batch_size=2, steps=2, seed=1, rank=rank, world=2)
                sampler.set_epoch(epoch)
                assert len(sampler) == len(list(sampler)) == 4
                numbers += list(sampler)
            assert len(set(numbers)) == 8
            assert {number // 11 for number in numbers} == {epoch}
            epochs.append([number % 11 for number in numbers])
        assert epochs[0] != epochs[1]

    def test_resumed_within_an_epoch(self) -> None:
        """The rest of that epoch, and the next one whole."""
        sampler = EpochSampler(11, batch_size=2, steps=5, seed=1)
        whole = list(sampler)
        sampler.skip = 2
        assert list(sampler) == whole[4:]
        assert list(sampler) == whole
