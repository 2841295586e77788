"""The losses that training knows by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from segfast._errors import OptionError
from segfast.data.classes import IGNORE_INDEX

LossBuilder = Callable[[Tensor | None], nn.Module]  # class weights [classes] -> loss

LOSSES: dict[str, LossBuilder] = {
    "cross_entropy": lambda weight: nn.CrossEntropyLoss(weight=weight, ignore_index=IGNORE_INDEX),
}


def build_loss(name: str, weight: Tensor | None) -> nn.Module:
    """The loss of that name. It takes logits [N, classes, H, W] and labels [N, H, W].

    Raises:
        OptionError: an unknown name.
    """
    if name not in LOSSES:
        raise OptionError(f"--loss {name} is unknown; there are {', '.join(LOSSES)}")
    return LOSSES[name](weight)
