"""segfast: fast segmentation layers, losses, metrics and models for PyTorch."""

import importlib
from typing import TYPE_CHECKING, Any

from segfast import compat, functional, losses, models, nn
from segfast._accelerate import accelerate, restore
from segfast._export import export
from segfast._optimize import optimize
from segfast.models import create_model
from segfast.predictor import Predictor, predict

if TYPE_CHECKING:
    from segfast import metrics

__version__ = "0.1.0"

__all__ = [
    "Predictor",
    "accelerate",
    "compat",
    "create_model",
    "export",
    "functional",
    "losses",
    "metrics",
    "models",
    "nn",
    "optimize",
    "predict",
    "restore",
]


def __getattr__(name: str) -> Any:
    """``segfast.metrics`` is imported when first asked for: it needs torchmetrics."""
    if name == "metrics":
        return importlib.import_module("segfast.metrics")
    raise AttributeError(f"module 'segfast' has no attribute {name!r}")
