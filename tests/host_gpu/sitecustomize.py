"""A GPU for every Python process that has this folder on its path, on a machine without one.

Python imports this module when it starts; `make hostgpu` starts the tests marked cuda so. PyTorch
finds two CUDA devices whose memory is the host's (cudart.cpp) and computes its own ops there with
its CPU kernels (torch_ops.py); segfast._C is the extension's own bindings, linked with the CUDA
kernels compiled for the CPU (csrc/common/host_run.h).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch
from torch_ops import Runtime, compute_on_the_cpu

#: Where CMake built both libraries.
BUILD = Path(os.environ["SEGFAST_HOST_GPU"])


def load_extension() -> None:
    """Puts the extension with CUDA kernels for the CPU in the place of segfast._C."""
    spec = importlib.util.spec_from_file_location("segfast._C", BUILD / "_C.so")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["segfast._C"] = module


torch.backends.cudnn.enabled = False  # PyTorch has other convolutions, which a CPU has too
torch.cuda._sleep = lambda cycles: None  # what is launched waits as it is
OPS = compute_on_the_cpu(Runtime(BUILD / "libcuda.so.1"))
load_extension()
