"""The GPU that `make hostgpu` finds on the host shows what a test on a GPU is there to see."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segfast import functional as F
from segfast.bench.cases import Case
from segfast.bench.losses import loss_cases
from segfast.bench.ops import op_cases

ROOT = Path(__file__).parents[1]
#: What makes a process find a GPU (Makefile).
SETTINGS = ("SEGFAST_HOST_GPU", "PYTHONPATH", "LD_PRELOAD")
HOST_GPU = os.environ.get("SEGFAST_HOST_GPU")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(HOST_GPU is None, reason="make hostgpu runs it"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty"),
]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 8, 6, 10, device="cuda")


def is_shuffled(y: Tensor, x: Tensor) -> bool:
    return torch.equal(y, torch.pixel_shuffle(x, 2))


def test_fresh_memory_is_nan() -> None:
    torch.cuda.empty_cache()
    assert torch.empty(2**22, device="cuda").isnan().all()  # 16 MB, which come from no block in use


def test_what_nobody_waits_for_is_not_there(x: Tensor) -> None:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        y = F.pixel_shuffle(x, 2)
    assert not is_shuffled(y, x)
    torch.cuda.current_stream().wait_stream(side)
    assert is_shuffled(y, x)


def test_each_device_has_its_streams() -> None:
    x = torch.randn(2, 8, 6, 10, device="cuda:1")
    y = F.pixel_shuffle(x, 2)
    torch.cuda.current_stream(0).synchronize()
    assert is_shuffled(y, x)
    with torch.cuda.device(1):
        z = F.pixel_shuffle(x.to("cuda:0"), 2)
    assert is_shuffled(z, x.to("cuda:0"))


def test_a_graph_runs_when_it_is_replayed(x: Tensor) -> None:
    F.pixel_shuffle(x, 2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = F.pixel_shuffle(x, 2)
        z = y + 1
    x.copy_(torch.randn_like(x))
    assert not is_shuffled(y, x)
    for _ in range(2):
        graph.replay()
        assert is_shuffled(y, x) and torch.equal(z, y + 1)
        x.copy_(torch.randn_like(x))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: torch.cuda.current_stream().synchronize(),
        lambda x: x[0, 0, 0, 0].item(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.add_(torch.ones(10).cuda()),
    ],
    ids=["synchronize", "item", "cpu", "mask", "cuda"],
)
def test_what_waits_for_a_gpu(x: Tensor, wait: Callable[[Tensor], object]) -> None:
    """No graph can hold it, and PyTorch's alarm for it goes off."""
    F.pixel_shuffle(x, 2)
    with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        wait(x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        F.pixel_shuffle(x, 2)
        with pytest.raises(RuntimeError, match="synchronizing|waits"):
            wait(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def launches_of(case: Case) -> int:
    """Kernels, copies and fills of a call."""
    if case.op == "max_unpool2d indices" and case.direction == "forward":
        return 3  # zeros; all indices checked; values placed
    if case.op.startswith("Dice"):
        return 2 if case.direction == "forward" else 3  # sums of blocks; the loss; its gradient
    return 1


@pytest.fixture(scope="module")
def runtime() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(HOST_GPU or "") / "libcuda.so.1"))
    library.host_gpu_launches.restype = ctypes.c_long
    library.host_gpu_fail.argtypes = (ctypes.c_long,)
    return library


@pytest.mark.parametrize(
    "case", [*op_cases(), *loss_cases()], ids=lambda case: f"{case.op} {case.direction}"
)
def test_launches_of_a_call(case: Case, runtime: ctypes.CDLL) -> None:
    """As many as are needed, and each is looked at: no call goes on where one fails."""
    comparison = case.prepare(torch.randn(2, 16, 12, 20, device="cuda"))
    call = comparison.provider("segfast")
    call()
    before = runtime.host_gpu_launches()
    call()
    launches = runtime.host_gpu_launches() - before
    assert launches == launches_of(case)
    for launch in range(launches):
        runtime.host_gpu_fail(launch)
        with pytest.raises(RuntimeError, match="too many resources requested for launch"):
            call()
    call()


def test_host_time(tmp_path: Path) -> None:
    """Its table: a row a case, type and layout, the launches of each."""
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "scripts/host_time.py", "--seconds", "0", "--out"]
    subprocess.run([*command, tmp_path / "table.md"], check=True, env=env, cwd=ROOT)
    lines = (tmp_path / "table.md").read_text().splitlines()
    name = "| subpixel_upsample forward | float32 nchw"
    [row] = [line for line in lines if line.startswith(name)]
    ours, theirs = (int(cell) for cell in row.split("|")[4:7:2])
    assert (ours, theirs) == (1, 4)
