"""segfast: fast segmentation layers, losses, metrics and models for PyTorch."""

from segfast import functional, nn

__version__ = "0.1.0"

__all__ = ["functional", "nn"]
