"""What a training run is asked to do, as one plain record: on the command line, in files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from segfast._errors import OptionError


@dataclass(frozen=True)
class TrainOptions:
    """The options of ``segfast train``; None means chosen for the data and the device.

    Attributes:
        data: a folder, or ``synthetic``.
        model: a name of :func:`segfast.create_model`, and ``model_options`` its options.
        classes, ignore_index, binary: see :class:`segfast.data.class_options.ClassOptions`.
        epochs: how often each training image is seen.
        batch_size: images a step.
        size: height and width that images are trained at.
        lr: the highest learning rate, reached after the warm-up.
        optimizer: ``adamw``, or ``sgd`` with a momentum of 0.9.
        weight_decay: the optimizer's.
        loss: a name of :func:`segfast.losses.list_losses`.
        class_weights: ``none`` or ``median_frequency``.
        augment: crop, mirror and recolour training images at random.
        backend: ``segfast`` for our layers, ``torch`` for PyTorch's.
        precision: Lightning's name of it.
        seed: of the initial weights, the order and the augmentation.
        cache: keep decoded images in memory.
        workers: processes that read images.
        devices: how many GPUs, or processes on a CPU, of each machine.
        logger: ``tensorboard`` to write its events beside the other files, else ``none``.
    """

    data: str
    model: str = "segnet_basic"
    model_options: dict[str, Any] = field(default_factory=dict)
    classes: str | None = None
    ignore_index: int | None = None
    binary: bool = False
    epochs: int | None = None
    batch_size: int | None = None
    size: tuple[int, int] | None = None
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    loss: str = "cross_entropy"
    class_weights: str = "none"
    augment: bool = True
    backend: str = "segfast"
    precision: str | None = None
    seed: int = 0
    cache: bool = False
    workers: int | None = None
    devices: int | None = None
    logger: str = "none"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and configuration files."""
        state = asdict(self)
        state["size"] = list(self.size) if self.size else None
        return state

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> TrainOptions:
        """The inverse of :meth:`to_dict`; numbers that YAML takes for text, as 1e-3, are numbers.

        Raises:
            OptionError: an unknown option, or a value of another kind.
        """
        kinds = {option.name: str(option.type).removesuffix(" | None") for option in fields(cls)}
        unknown = sorted(state.keys() - kinds.keys())
        if unknown:
            raise OptionError(f"unknown option {unknown[0]!r}; there are {', '.join(kinds)}")
        said = {name: value for name, value in state.items() if value is not None}
        return cls(**{name: _read(name, kinds[name], value) for name, value in said.items()})


_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict[str, Any]": "name: value lines",
    "tuple[int, int]": "height and width, as [360, 480]",
}


def _read(name: str, kind: str, value: Any) -> Any:
    """A value of the kind that an option has."""
    try:
        if kind == "float" and not isinstance(value, bool):
            return float(value)
        if kind == "str" and isinstance(value, str | int):
            return str(value)
        if kind == "tuple[int, int]" and all(isinstance(side, int) for side in value):
            height, width = value
            return height, width
        if kind == "int" and type(value) is int or kind == "bool" and isinstance(value, bool):
            return value
        if kind == "dict[str, Any]" and isinstance(value, dict):
            return value
    except (TypeError, ValueError):
        pass
    raise OptionError(f"{name} must be {_KINDS[kind]}, got {value!r}")
