"""segfast: fast segmentation layers, losses, metrics and models for PyTorch."""

from segfast import functional, losses, models, nn
from segfast._accelerate import accelerate, restore
from segfast.models import create_model

__version__ = "0.1.0"

__all__ = ["accelerate", "create_model", "functional", "losses", "models", "nn", "restore"]
