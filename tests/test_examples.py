"""The examples run as they are printed."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: extra `metrics`")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: extra `train`")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs an example in a folder of its own: what it prints. In this process, which has loaded
    what it imports."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_drop_in(run: Callable[..., str]) -> None:
    printed = run("drop_in.py")
    assert "segfast.nn" in printed and "difference of the logits: 0\n" in printed


def test_train_on_a_folder(run: Callable[..., str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(4):  # the left half is class 1, and bright
        mask = torch.zeros(24, 32, dtype=torch.uint8)
        mask[:, :16] = 1
        image = (mask * 200 + torch.randint(40, (24, 32))).to(torch.uint8)
        Image.fromarray(image.numpy()).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(mask.numpy()).save(tmp_path / "masks" / f"{i}.png")
    options = ["--classes", "2", "--epochs", "4", "--size", "24", "32"]
    lines = run("train_on_a_folder.py", ".", *options).splitlines()
    first, last = (float(line.rpartition(" ")[2]) for line in (lines[0], lines[3]))
    assert last > max(first, 0.6) and (tmp_path / "out" / "segnet_basic.pt").exists()


def test_export_segnet(run: Callable[..., str]) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: extra `export`")
    assert run("export_segnet.py").count("100.00 % of the mask") == 2
