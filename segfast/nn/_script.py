"""What ``torch.jit.script`` is told: it compiles Python source, and ours calls C++."""

from __future__ import annotations

from typing import NoReturn

from torch import nn


def refuse_script(layer: nn.Module) -> NoReturn:
    """``__prepare_scriptable__`` of a layer: torch.jit.script asks it before it compiles a model.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        f"torch.jit.script cannot compile segfast.nn.{type(layer).__name__}: call "
        "segfast.restore(model) first, which puts PyTorch's own layers in, or use torch.compile, "
        "torch.export or torch.jit.trace"
    )
