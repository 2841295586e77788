"""Checkpoints that say what they are: model, classes, palette, normalisation, options.

A file holds tensors, numbers, strings, lists and dicts alone, so that
``torch.load(path, weights_only=True)`` reads it. Beside Lightning's own entries it has the entry
``segfast``, which :class:`Card` describes. ``segfast train`` writes them
(:mod:`segfast.training`); reading one needs no Lightning.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segfast import __version__, models
from segfast._errors import OptionError, UserError
from segfast.data.classes import ClassTable
from segfast.train_options import TrainOptions

ENTRY = "segfast"
_PREFIX = "model."  # of the model's weights in Lightning's state_dict


class CheckpointError(UserError):
    """A checkpoint that cannot be used. The message names the file and says why."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint says about its model.

    Attributes:
        model: the name for :func:`segfast.create_model`, and ``model_options`` its options.
        in_channels: 1 for grey images, 3 for RGB.
        classes: names, palette and how masks write them.
        mean, std: what images are normalised by, per channel, on the scale 0 to 1.
        size: height and width that images were trained at.
        options: the run's options.
    """

    model: str
    model_options: dict[str, Any]
    in_channels: int
    classes: ClassTable
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    options: TrainOptions

    def build(self, backend: str = "segfast") -> nn.Module:
        """The model, with new weights.

        Raises:
            OptionError: the model or one of its options is unknown or out of range.
        """
        return build_model(
            self.model, self.model_options, len(self.classes), self.in_channels, backend
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "version": __version__,
            "model": self.model,
            "model_options": self.model_options,
            "in_channels": self.in_channels,
            "classes": self.classes.to_dict(),
            "mean": list(self.mean),
            "std": list(self.std),
            "size": list(self.size),
            "options": self.options.to_dict(),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Card:
        """The inverse of :meth:`to_dict`, but for what the model's encoder started from: that would
        be downloaded or looked for, and the checkpoint's own weights come after it."""
        return cls(
            model=state["model"],
            model_options=without_weights(state["model_options"]),
            in_channels=state["in_channels"],
            classes=ClassTable.from_dict(state["classes"]),
            mean=tuple(state["mean"]),
            std=tuple(state["std"]),
            size=(state["size"][0], state["size"][1]),
            options=TrainOptions.from_dict(state["options"]),
        )


def without_weights(model_options: dict[str, Any]) -> dict[str, Any]:
    """The options but for what the encoder starts from, which is a file or a download."""
    return {name: value for name, value in model_options.items() if name != "encoder_weights"}


def build_model(
    name: str,
    options: dict[str, Any],
    classes: int = 2,
    in_channels: int = 3,
    backend: str = "segfast",
) -> nn.Module:
    """:func:`segfast.create_model` for a command.

    Raises:
        OptionError: the model or one of its options is unknown or out of range.
    """
    if backend not in ("segfast", "torch"):
        raise OptionError(f"--backend must be segfast or torch, got {backend}")
    try:
        return models.create_model(
            name,
            classes,
            in_channels,
            backend=backend,  # type: ignore[arg-type]  # checked above
            **options,
        )
    except (ImportError, TypeError, ValueError) as error:
        raise OptionError(f"model {name}: {error}") from error


def load(path: Path) -> dict[str, Any]:
    """The entries of a checkpoint file of ours, its tensors on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, holds code, or is another program's.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name a checkpoint in it, such as best.ckpt")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: does not exist") from None
    except PermissionError:
        raise CheckpointError(f"{path}: may not be read by you") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, or is damaged; "
            "segfast does not run code out of files"
        ) from error
    except Exception as error:  # the archive reader raises several kinds
        raise CheckpointError(f"{path}: is no checkpoint, or is damaged") from error
    if not isinstance(checkpoint, dict) or ENTRY not in checkpoint:
        raise CheckpointError(f"{path}: was not written by segfast train")
    return checkpoint


def read_card(checkpoint: dict[str, Any]) -> Card:
    """The card of a loaded checkpoint."""
    return Card.from_dict(checkpoint[ENTRY])


def load_model(path: Path, backend: str = "segfast") -> tuple[nn.Module, Card]:
    """The trained model of a checkpoint, in evaluation mode, and its card.

    Raises:
        CheckpointError: as :func:`load`, or the weights do not fit the model.
    """
    checkpoint = load(path)
    try:
        card = read_card(checkpoint)
        model = card.build(backend)
        model.load_state_dict(model_weights(checkpoint["state_dict"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: does not fit this version of segfast ({__version__}): {error}"
        ) from error
    return model.eval(), card


def model_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's part of a Lightning state_dict, under the model's own names."""
    return {key[len(_PREFIX) :]: value for key, value in state.items() if key.startswith(_PREFIX)}
