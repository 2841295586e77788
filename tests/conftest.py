"""What every test may use: the devices, a fixed seed, and a compiled segfast."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Threads that wait for work sleep: spinning, they take the cores from other processes. Read when
# torch loads OpenMP, here and in the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
import torch  # noqa: E402

from segfast._extension import C  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    if C is None:
        raise pytest.UsageError("the tests need the compiled kernels: pip install -e . first")
    # Beside other workers of pytest-xdist: a share of the cores, but two threads, so that kernels
    # are split.
    if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
        torch.set_num_threads(max(2, torch.get_num_threads() // workers))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked cuda run where there is a GPU and segfast was built for it."""
    if item.get_closest_marker("cuda") is None:
        return
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    if not C.with_cuda:
        pytest.skip("segfast was built without CUDA")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and a GPU where there is one."""
    return torch.device(request.param)


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """For tests that train: one thread of the CPU, whatever the machine has.

    There a run is the same to the bit whenever it is repeated, and for pictures this small waiting
    for a second thread takes longer than the work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seed() -> None:
    # torch.manual_seed formats a stack trace for each kind of device that is not there, which takes
    # milliseconds.
    (torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed)(0)
