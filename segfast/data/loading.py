"""Batches for training and scoring, the same whatever the workers or interruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segfast.data.samples import Sample
from segfast.data.transforms import TrainingCrop, WholeImage, to_tensors

WholeBatch = list[tuple[Tensor, Tensor]]  # images [C, h, w] and labels [H, W], sizes may differ


class EpochSampler(Sampler[int]):
    """Shuffled sample numbers that depend on the seed and the epoch alone.

    Yields ``epoch * samples + index``, so that a data set that draws its augmentation from that
    number repeats it exactly. ``skip`` leaves out the batches that an interrupted run
    has trained on.

    Args:
        samples: how many there are.
        batch_size, steps: of each epoch; what does not fill them is left out.
        seed: of the order.
        rank, world: this process and how many share the samples.
    """

    def __init__(
        self, samples: int, batch_size: int, steps: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batch_size * self.steps

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.samples, generator=random)
        mine = order[self.rank :: self.world][: len(self)]
        mine = mine[self.skip * self.batch_size :]
        self.skip = 0
        yield from (mine + self.epoch * self.samples).tolist()


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops; number ``epoch * len + index`` fixes the sample and its augmentation."""

    def __init__(self, samples: Sequence[Sample], crop: TrainingCrop, seed: int) -> None:
        self.samples = samples
        self.crop = crop
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image, labels = to_tensors(self.samples[number % len(self.samples)])
        # torchvision draws from the generator that dropout on a CPU needs undisturbed; seeding that
        # of a GPU too takes a thousand times as long.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed * 1_000_003 + number)
            return self.crop(image, labels)


class WholeSet(Dataset[tuple[Tensor, Tensor]]):
    """Whole images at about the training size, with labels at their own."""

    def __init__(self, samples: Sequence[Sample], whole: WholeImage) -> None:
        self.samples = samples
        self.whole = whole

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = to_tensors(self.samples[index])
        return self.whole(image), labels


def training_loader(
    data: TrainingSet, sampler: EpochSampler, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The sampler's batches."""
    return DataLoader(
        data,
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )


def whole_loader(
    data: Dataset[tuple[Tensor, Tensor]], batch_size: int, workers: int
) -> DataLoader[WholeBatch]:
    """Every image once, in order, as a list, since sizes may differ."""
    return DataLoader(
        cast(Dataset[WholeBatch], data),  # a batch is what collate_fn makes of the samples
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=list,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )
