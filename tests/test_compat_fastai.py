"""segfast.compat.fastai equals fastai: losses and gradients.

``import fastai.losses`` wants pandas, scipy, spacy's relatives and a web framework, so that its one
file of losses is run here beside stand-ins for what it imports from its own package.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import typing
from collections.abc import MutableSequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from compat_cases import DTYPES, SHAPE, assert_same, how_to_install, labels, original
from torch import Tensor, nn
from torch.nn import functional as nnf

from segfast.compat import fastai

pytestmark = pytest.mark.compat

C = SHAPE[1]


class TensorBase(Tensor):
    """fastai's subclass, as far as its losses use it."""


def load_losses() -> ModuleType:
    basics = original("fastcore.all", "fastcore")
    spec = importlib.util.find_spec("fastai")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(how_to_install("fastai"), allow_module_level=True)
    file = Path(spec.submodule_search_locations[0]) / "losses.py"
    names: dict[str, Any] = {name: getattr(basics, name) for name in dir(basics)}
    names |= {"torch": torch, "nn": nn, "F": nnf, "Tensor": Tensor, "TensorBase": TensorBase}
    names |= {"typing": typing, "functools": functools, "MutableSequence": MutableSequence}
    names |= {"Module": nn.Module}
    package = "fastai_of_the_tests"
    stand_ins = {
        f"{package}.{part}": ModuleType(part)
        for part in ("imports", "torch_imports", "torch_core", "layers")
    }
    for module in stand_ins.values():
        vars(module).update({name: x for name, x in names.items() if not name.startswith("_")})
    sys.modules[package] = ModuleType(package)
    sys.modules.update(stand_ins)
    try:
        own = importlib.util.spec_from_file_location(f"{package}.losses", file)
        assert own is not None and own.loader is not None
        losses = importlib.util.module_from_spec(own)
        own.loader.exec_module(losses)
    finally:
        for name in (package, *stand_ins):
            del sys.modules[name]
    return losses


theirs = load_losses()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_dice(reduction: str, dtype: torch.dtype) -> None:
    for square, smooth in ((False, 1e-6), (True, 1.0)):
        logits, target = 2 * torch.randn(SHAPE, dtype=dtype), labels(C, None)
        mine, other = (m.DiceLoss(1, smooth, reduction, square) for m in (fastai, theirs))
        assert_same(mine, lambda *args, f=other: f(*args).as_subclass(Tensor), logits, target)
        assert torch.equal(mine.decodes(logits), other.decodes(logits))
        assert torch.equal(mine.activation(logits), other.activation(logits))


@pytest.mark.parametrize("method", ["__init__", "__call__", "activation", "decodes"])
def test_arguments_are_fastais(method: str) -> None:
    found = []
    for loss in (fastai.DiceLoss, theirs.DiceLoss):
        parameters = inspect.signature(getattr(loss, method)).parameters.values()
        found.append([(p.name, p.default) for p in parameters])
    assert found[0] == found[1]


def test_fastais_tensors_and_defaults() -> None:
    logits, target = torch.randn(SHAPE), labels(C, None)
    value = fastai.DiceLoss()(logits.as_subclass(TensorBase), target.as_subclass(TensorBase))
    assert type(value) is Tensor
    torch.testing.assert_close(value, theirs.DiceLoss()(logits, target).as_subclass(Tensor))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="axis must be 1"):
        fastai.DiceLoss(axis=-1)
    with pytest.raises(ValueError, match="reduction must be one of"):
        fastai.DiceLoss(reduction="max")
    with pytest.raises(IndexError, match="labels 0 to 4"):
        fastai.DiceLoss()(torch.zeros(SHAPE), labels(C))
