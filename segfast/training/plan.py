"""What a run will do: everything the options leave open, chosen for the data and the device."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import torch

from segfast._errors import OptionError
from segfast._toolkit import usable_cores
from segfast.checkpoint import Card
from segfast.data.report import DataReport
from segfast.data.transforms import Size, fit
from segfast.train_options import TrainOptions

# A full-size SegNet-Basic step takes a CPU core minutes a batch: there, images are trained smaller.
CPU_AREA = 120 * 160
CUDA_AREA = 512 * 512

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
OPTIMIZERS = ("adamw", "sgd")
CLASS_WEIGHTS = ("none", "median_frequency")
LOGGERS = ("none", "tensorboard")


@dataclass(frozen=True)
class Plan:
    """The options with nothing left open, and what follows from them.

    Attributes:
        options: complete.
        card: what checkpoints will say.
        validations: in each epoch.
        steps_per_epoch: optimizer steps, a multiple of ``validations``.
        nodes: machines, each with ``options.devices``.
        notes: in words, what was chosen and may surprise.
    """

    options: TrainOptions
    card: Card
    validations: int
    steps_per_epoch: int
    nodes: int
    notes: list[str]

    @property
    def memory_format(self) -> torch.memory_format:
        """channels_last, but for full precision on a CPU, whose convolutions are slower so."""
        if torch.cuda.is_available() or self.options.precision == "bf16-mixed":
            return torch.channels_last
        return torch.contiguous_format

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return chosen(self.options.epochs) * self.steps_per_epoch


def chosen(option: int | None) -> int:
    """An option of a plan, where none is left open."""
    assert option is not None
    return option


def check_values(options: TrainOptions) -> None:
    """Whether each option that is given is in its range, whatever the data hold.

    Raises:
        OptionError: one is not.
    """
    for name, value, least in (
        ("--batch-size", options.batch_size, 1),
        ("--epochs", options.epochs, 1),
        ("--size", min(options.size or (1,)), 1),
        ("--devices", options.devices, 1),
        ("--workers", options.workers, 0),
        ("--seed", options.seed, 0),
    ):
        if value is not None and value < least:
            raise OptionError(f"{name} must be at least {least}, got {value}")
    if not 0 < options.lr < math.inf:
        raise OptionError(f"--lr must be above 0, got {options.lr:g}")
    for option, choice, choices in (
        ("--optimizer", options.optimizer, OPTIMIZERS),
        ("--class-weights", options.class_weights, CLASS_WEIGHTS),
        ("--precision", options.precision, (None, *PRECISIONS)),
        ("--logger", options.logger, LOGGERS),
    ):
        if choice not in choices:
            known = ", ".join(filter(None, choices))
            raise OptionError(f"{option} must be one of {known}, got {choice}")
    _processes(options.devices)


def make_plan(options: TrainOptions, data: DataReport) -> Plan:
    """Chooses what the options leave open.

    Raises:
        OptionError: an option out of range.
    """
    check_values(options)
    cuda = torch.cuda.is_available()
    devices, nodes = _processes(options.devices)
    world = devices * nodes
    notes = []
    native = data.size
    size = options.size
    if size is None:
        size = _default_size(native, CUDA_AREA if cuda else CPU_AREA)
        if size != native:
            notes.append(
                f"images are trained at {size[0]}x{size[1]} (height x width; they are "
                f"{native[0]}x{native[1]}), scores count at full size; --size changes that"
            )
    train, val = len(data.samples["train"]), len(data.samples["val"])
    batch_size, epochs = options.batch_size, options.epochs
    if batch_size is None:
        batch_size = max(1, min(16 if cuda else 4, train // max(1, world)))
    if epochs is None:
        epochs = 100 if cuda else 20
    workers = _default_workers() if options.workers is None else options.workers
    if batch_size * world > train:
        raise OptionError(
            f"--batch-size {batch_size} on {world} devices is more than the {train} training images"
        )
    steps = train // (batch_size * world)
    # On a CPU an epoch may take long; score more often, but not more than a third of the time.
    validations = 1 if cuda else max(1, min(steps, round(train / (2 * val))))
    options = replace(
        options,
        size=size,
        batch_size=batch_size,
        epochs=epochs,
        precision=options.precision or _default_precision(),
        devices=devices,
        workers=workers,
    )
    mean, std = data.moments()
    card = Card(
        model=options.model,
        model_options=options.model_options,
        in_channels=data.channels,
        classes=data.classes,
        mean=mean,
        std=std,
        size=size,
        options=options,
    )
    return Plan(options, card, validations, steps - steps % validations, nodes, notes)


def _processes(devices: int | None) -> tuple[int, int]:
    """Processes of each machine, and machines; torchrun has started them before we are asked."""
    if not torch.distributed.is_torchelastic_launched():
        devices = 1 if devices is None else devices
        there = torch.cuda.device_count()
        if torch.cuda.is_available() and devices > there:
            raise OptionError(f"--devices {devices}, but torch sees {there} GPU{'s' * (there > 1)}")
        return devices, 1
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    if devices not in (None, local):
        raise OptionError(
            f"--devices {devices}, but torchrun started {local} processes on each machine; leave "
            "--devices out"
        )
    return local, int(os.environ["WORLD_SIZE"]) // local


def _default_size(native: Size, area: int) -> Size:
    """The data's size, or the largest of the same shape within ``area``, in multiples of 8."""
    if native[0] * native[1] <= area:
        return native
    side = math.sqrt(area)
    height, width = fit(native, (round(side), round(side)))
    return max(8, round(height / 8) * 8), max(8, round(width / 8) * 8)


def _default_precision() -> str:
    """bfloat16 where the hardware multiplies it; on a GPU that does not, float16."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = cpu.get("avx512_bf16") or cpu.get("amx_bf16")
    return "bf16-mixed" if fast else "32-true"


def _default_workers() -> int:
    """Few on a CPU, where the model wants the cores."""
    cores = usable_cores()
    return min(8, cores) if torch.cuda.is_available() else min(2, cores // 4)
