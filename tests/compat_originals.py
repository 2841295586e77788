"""The libraries whose numbers segfast.compat must equal, as far as they can be run here."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from compat_cases import how_to_install, original
from torch import Tensor
from torch.nn import functional as nnf


def from_file(package: str, distribution: str, file: str, **stand_ins: Any) -> ModuleType:
    """One file of a package whose own imports want more than is installed: run beside modules that
    stand in for what it imports, given as ``module_name=dict``; or a skip."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(how_to_install(distribution), allow_module_level=True)
    name = file.removesuffix(".py").replace("/", ".")
    modules = {key: ModuleType(key) for key in (*stand_ins, f"{package}_of_the_tests")}
    for key, module in modules.items():
        vars(module).update(stand_ins.get(key, {}), __path__=[])
    with pytest.MonkeyPatch.context() as patch:
        for key, module in modules.items():
            patch.setitem(sys.modules, key, module)
        path = Path(spec.submodule_search_locations[0]) / file
        own = importlib.util.spec_from_file_location(f"{package}_of_the_tests.{name}", path)
        assert own is not None and own.loader is not None
        result = importlib.util.module_from_spec(own)
        own.loader.exec_module(result)
    return result


def load_mmseg() -> SimpleNamespace:
    """mmseg.models.losses: its import wants mmcv, which no torch of today has."""
    registry = SimpleNamespace(register_module=lambda: lambda cls: cls)
    load = functools.partial(from_file, "mmseg", "mmsegmentation")
    here = "mmseg_of_the_tests.models"
    stand_ins: dict[str, dict[str, Any]] = {
        "mmengine": {},
        "mmengine.fileio": {"load": None},
        "mmseg": {},
        "mmseg.registry": {"MODELS": registry},
        here: {},
        f"{here}.builder": {"LOSSES": registry},
        f"{here}.losses": {},
    }
    utils = load("models/losses/utils.py", **stand_ins)
    stand_ins[f"{here}.losses.utils"] = vars(utils)
    files = [load(f"models/losses/{x}_loss.py", **stand_ins) for x in ("dice", "tversky")]
    return SimpleNamespace(DiceLoss=files[0].DiceLoss, TverskyLoss=files[1].TverskyLoss)


class Backend:
    """Keras' backend, as far as segmentation_models' formulas use it, in torch."""

    log, pow, clip = torch.log, torch.pow, torch.clamp

    @staticmethod
    def epsilon() -> float:
        return 0.0  # the logits of the tests need no clip

    @staticmethod
    def image_data_format() -> str:
        return "channels_last"

    @staticmethod
    def permute_dimensions(x: Tensor, order: tuple[int, ...]) -> Tensor:
        return x.permute(order)

    @staticmethod
    def gather(x: Tensor, indexes: list[int]) -> Tensor:
        return x[indexes]

    @staticmethod
    def sum(x: Tensor, axis: list[int], keepdims: bool = False) -> Tensor:
        return x.sum(axis, keepdim=keepdims)

    @staticmethod
    def mean(x: Tensor, axis: int | None = None) -> Tensor:
        return x.mean() if axis is None else x.mean(axis)

    @staticmethod
    def binary_crossentropy(target: Tensor, p: Tensor) -> Tensor:
        return nnf.binary_cross_entropy(p, target, reduction="none")


def load_keras() -> SimpleNamespace:
    """segmentation_models.losses: its formulas take Keras' backend as an argument."""
    load = functools.partial(from_file, "segmentation_models", "segmentation-models")
    formulas = load("base/functional.py")
    base = load("base/objects.py")
    here = "segmentation_models_of_the_tests"
    base.Loss._backend = Backend
    for part in ("models", "layers", "utils"):
        setattr(base.Loss, f"_{part}", part)
    losses = load(
        "losses.py", **{here: {}, f"{here}.base": {"Loss": base.Loss, "functional": formulas}}
    )
    return SimpleNamespace(**vars(losses))


class _InDouble:
    """torch, whose float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def in_double(modules: list[ModuleType]) -> Iterator[None]:
    """MONAI and nnU-Net make float32 of whatever comes in: here float64, so that what they mean
    can be compared to the last digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        for module in modules:
            if hasattr(module, "one_hot"):
                wide = functools.partial(module.one_hot, dtype=torch.float64)
                patch.setattr(module, "one_hot", lambda x, f=wide, **kw: f(x.double(), **kw))
            patch.setattr(module, "torch", _InDouble())
        yield


def exactly(loss: Callable[..., Tensor], modules: list[ModuleType]) -> Callable[..., Tensor]:
    def run(*args: Any) -> Tensor:
        with in_double(modules):
            return loss(*args)

    return run


def load(library: str) -> tuple[Any, list[ModuleType]]:
    """The library's losses, and their modules that compute in float32; or a skip."""
    if library == "mmseg":
        return load_mmseg(), []
    if library == "keras":
        return load_keras(), []
    if library == "smp":
        name = "segmentation_models_pytorch.losses"
        return original(name, "segmentation-models-pytorch"), []
    if library == "kornia":
        return original("kornia.losses", "kornia"), []
    if library == "monai":
        names = [f"monai.losses.{x}" for x in ("dice", "tversky", "focal_loss", "mcc_loss")]
        losses = original("monai.losses", "monai")
        return losses, [importlib.import_module(name) for name in names]
    places = ["compound_losses", "robust_ce_loss", "dice"]
    modules = [original(f"nnunetv2.training.loss.{x}", "nnunetv2") for x in places]
    helpers = original("nnunetv2.utilities.helpers", "nnunetv2")
    merged = {name: x for m in (helpers, *modules) for name, x in vars(m).items()}
    return SimpleNamespace(**merged), [modules[2]]
