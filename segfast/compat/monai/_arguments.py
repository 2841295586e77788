"""What MONAI's losses are given: targets of either form, weights and reductions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segfast._classes import check_choice
from segfast.compat._common import as_labels, masked, weights

REDUCTIONS = ("mean", "sum", "none")
Weight = Sequence[float] | float | Tensor | None


def choice_of(name: str, value: object, choices: Sequence[str]) -> str:
    """A text, or one of MONAI's enums, that must be one of the choices."""
    return check_choice(name, str(getattr(value, "value", value)), choices)


def known_target(
    input: Tensor, target: Tensor, to_onehot_y: bool, ignore_index: int | None
) -> tuple[Tensor, int | None]:
    """The target as overlap_stats takes it, and the value there of what does not count."""
    if to_onehot_y and input.shape[1] > 1:
        return as_labels(input, target), ignore_index
    if ignore_index is None or target.shape[1] == 1:
        return target, ignore_index
    if 0 <= ignore_index < target.shape[1]:
        kept = target[:, ignore_index : ignore_index + 1] != 1
    else:
        kept = target.sum(1, keepdim=True) > 0
    return masked(target, kept), -1


def for_classes(numbers: Tensor, first: int, channels: int, name: str) -> Tensor:
    """One number, or one for each class from ``first`` on, as one for each class."""
    if numbers.numel() == 1:
        return numbers.reshape(1).expand(channels)
    if numbers.numel() != channels - first:
        raise ValueError(
            f"{name} must be one number, or {channels - first}, one for each class that takes "
            f"part, got {numbers.numel()}"
        )
    return torch.cat([numbers.new_ones(first), numbers])


def class_weights(weight: Weight) -> Tensor | None:
    """The weight as a float tensor, [C] or [1]."""
    result = weights("weight", weight)
    return None if result is None else result.reshape(-1)


def check_dimensions(input: Tensor, target: Tensor) -> None:
    if input.dim() != target.dim() or target.shape[1] not in (1, input.shape[1]):
        raise ValueError(
            f"target must be {list(input.shape)}, or have one channel of labels, got "
            f"{list(target.shape)}"
        )
