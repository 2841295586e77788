"""Training on a GPU: the defaults there, and that a run goes through to its last file."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
pytest.importorskip("torchvision")
from rich.console import Console

from segfast.checkpoint import load, model_weights
from segfast.data.verify import open_data
from segfast.train_options import TrainOptions
from segfast.training.plan import make_plan
from segfast.training.run import fit


@pytest.mark.cuda
def test_defaults(tmp_path: Path) -> None:
    """Mixed precision and channels_last; an epoch of drawn images teaches something."""
    report = open_data("synthetic")
    options = TrainOptions("synthetic", model_options={"width": 16}, epochs=2)
    plan = make_plan(options, report)
    assert plan.options.precision in ("bf16-mixed", "16-mixed")
    assert plan.memory_format == torch.channels_last
    rows = fit(plan, report, tmp_path / "run", Console(file=io.StringIO()), None)
    assert rows[-1]["val_loss"] < rows[0]["train_loss"]
    assert (tmp_path / "run" / "report.html").exists()
    weights = model_weights(load(tmp_path / "run" / "last.ckpt")["state_dict"])
    convolutions = [weight for weight in weights.values() if weight.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in convolutions)
    assert all(weight.isfinite().all() for weight in weights.values())
