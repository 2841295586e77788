"""What `segfast doctor` finds, in installations that are whole and in those that are not."""

from types import SimpleNamespace

import pytest
import torch

from segfast import doctor


def findings():
    return {finding.subject: finding for finding in doctor.findings()}


def test_names_versions_and_what_was_built():
    found = findings()
    assert found["torch"].state.startswith(torch.__version__)
    assert "kernels" in found
    assert "torchvision" in found["extras"].state


def test_never_compiled(monkeypatch):
    monkeypatch.setattr(doctor, "C", None)
    assert "not compiled" in findings()["kernels"].state
    assert "pip install --no-build-isolation" in findings()["kernels"].cure


@pytest.fixture
def hopper(monkeypatch):
    """A machine with one GPU, of capability 9.0."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")


def built_for(monkeypatch, with_cuda, archs):
    module = SimpleNamespace(
        with_cuda=with_cuda, cpu_isa=lambda: "avx2", parallel_threads=lambda: 1
    )
    record = {"archs": archs, "summary": "", "compiler": ""}
    monkeypatch.setattr(doctor, "C", module)
    monkeypatch.setattr(doctor._build_info, "read", lambda directory: record)


def test_gpu_that_the_build_serves(monkeypatch, hopper):
    built_for(monkeypatch, with_cuda=True, archs="8.0+PTX")
    assert findings()["GPU"] == doctor.Finding("GPU", "a GPU, 9.0")


def test_gpu_that_the_build_left_out(monkeypatch, hopper):
    built_for(monkeypatch, with_cuda=True, archs="8.0;8.6")
    assert "no kernels among archs 8.0;8.6" in findings()["GPU"].state
    assert "pip install" in findings()["GPU"].cure


def test_gpu_and_a_build_for_the_cpu(monkeypatch, hopper):
    built_for(monkeypatch, with_cuda=False, archs="")
    assert "built for the CPU only" in findings()["GPU"].state
    assert "pip install" in findings()["GPU"].cure
