"""Swaps PyTorch's layers for segfast's in models that others wrote, and back."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as torch_functional
from torch import Tensor

import segfast.nn as fast
from segfast._tensors import check_module


class _PlainSubpixelUpsample(fast.SubpixelUpsample):
    """:class:`segfast.nn.SubpixelUpsample` on PyTorch's own functions."""

    def forward(self, input: Tensor) -> Tensor:
        x = self.conv(input)
        if self.relu:
            x = x.relu()
        x = torch_functional.pixel_shuffle(x, self.scale)
        if self.blur:
            x = torch_functional.pad(x, (1, 0, 1, 0), mode="replicate")
            x = torch_functional.avg_pool2d(x, kernel_size=2, stride=1)
        return x


Model = TypeVar("Model", bound=torch.nn.Module)

_FAST: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.MaxPool2d: fast.MaxPool2d,
    torch.nn.MaxUnpool2d: fast.MaxUnpool2d,
    torch.nn.PixelShuffle: fast.PixelShuffle,
    torch.nn.PixelUnshuffle: fast.PixelUnshuffle,
    _PlainSubpixelUpsample: fast.SubpixelUpsample,
}

_PLAIN: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    **{ours: theirs for theirs, ours in _FAST.items()},
    # Indices in place of codes: accelerate cannot tell that nobody else wants them.
    fast.MaxPool2dWithCodes: torch.nn.MaxPool2d,
    fast.MaxUnpool2dWithCodes: torch.nn.MaxUnpool2d,
}


def accelerate(model: Model) -> Model:
    """Swaps the layers of ``model`` that segfast has faster kernels for, in place, and returns it.

    ``torch.nn.MaxPool2d``, ``MaxUnpool2d``, ``PixelShuffle`` and ``PixelUnshuffle`` become
    :class:`segfast.nn.MaxPool2d` and so on, wherever they stand in the model, the model itself
    included. The results are the same. A layer stays the object it was and only its class changes:
    hooks, training mode, the names in the state_dict, and places that share a layer are untouched.
    Subclasses of PyTorch's layers are left alone, since their ``forward`` may be their own, and so
    are calls of ``torch.nn.functional``. :func:`restore` is the way back.

    Example:
        >>> model = segfast.accelerate(torchvision.models.resnet18())
        >>> type(model.maxpool)
        <class 'segfast.nn.MaxPool2d'>
    """
    for module in _modules(model):
        module.__class__ = _FAST.get(type(module), type(module))
    return model


def restore(model: Model) -> Model:
    """Swaps segfast's layers for PyTorch's, in place, and returns ``model``.

    The inverse of :func:`accelerate`. It also does what segfast's own models need to run without
    segfast's kernels, with the same parameters and results: layers that pass pooling codes pass
    int64 indices.
    """
    for module in _modules(model):
        if type(module) is fast.MaxPool2dWithCodes:
            vars(module)["return_indices"] = True
        module.__class__ = _PLAIN.get(type(module), type(module))
    return model


def _modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    check_module(model)
    return list(model.modules())
