"""Optimised models: the same masks, folded, swapped, checked; the model itself untouched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_models import FAMILIES, build, images
from torch import Tensor, nn

import segfast
from segfast import _optimize
from segfast._optimize import Optimized, fold_batch_norm


def lively(model: nn.Module) -> nn.Module:
    """Batch norms with statistics of their own, so that folding them wrongly shows."""
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight, 1, 0.2)
            nn.init.normal_(layer.bias, 0, 0.2)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("segnet_basic", 0),
        ("unet", 0),
        ("dynamic_unet", 4),  # those on the encoder's maps, which the decoder uses, too
        ("deeplabv3", 0),
    ],
)
def test_batch_norms_are_folded(name: str, left: int) -> None:
    model = lively(build(name, FAMILIES[name]))
    twin = copy.deepcopy(model)
    input = images(45, 51)
    count = sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert fold_batch_norm(twin, input) == count - left
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in twin.modules()) == left
    with torch.no_grad():
        # Weights are scaled before they are multiplied instead of after: some roundings a layer.
        torch.testing.assert_close(twin(input), model(input), rtol=1e-3, atol=1e-4)


def test_only_what_may_be_folded_is() -> None:
    class Tangled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(4))
            self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            shared = self.convs[0](x)
            x = self.norms[0](shared) + shared  # used twice
            x = self.norms[1](self.convs[1](x).relu())  # something between
            x = self.norms[2](self.convs[2](self.convs[2](x)))  # runs twice
            x = self.norms[3](self.norms[4](x))
            last = self.convs[3](x)
            return self.norms[4](last), last  # returned, too

    model = lively(Tangled())
    input = images(8, 8)
    expected = model(input)
    assert fold_batch_norm(model, input) == 0
    torch.testing.assert_close(model(input), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["auto", torch.float32])
def test_optimize(dtype: Any) -> None:
    model = lively(build("segnet_basic", FAMILIES["segnet_basic"])).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    input = images(45, 51)
    fast = segfast.optimize(segfast.restore(model), input, dtype=dtype)
    assert isinstance(fast, Optimized) and not fast.training
    assert type(fast.model.unpool).__module__.startswith("segfast.nn")
    assert model.training and type(model.unpool) is nn.MaxUnpool2d
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    logits = fast(input)
    assert not logits.requires_grad
    if fast.dtype == torch.float32:
        with torch.no_grad():
            torch.testing.assert_close(logits, model.eval()(input), rtol=1e-3, atol=1e-4)


def test_reduced_types_run_and_are_checked() -> None:
    model = lively(build("unet", FAMILIES["unet"]))
    input = images(64, 64)
    fast = segfast.optimize(model, input, dtype=torch.bfloat16)
    assert fast.dtype == torch.bfloat16 and fast(input).dtype == torch.bfloat16
    weights = [m.weight.dtype for m in fast.modules() if isinstance(m, nn.Conv2d)]
    assert set(weights) == {torch.bfloat16}


def test_masks_that_change_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(build("unet", FAMILIES["unet"]))
    input = images(16, 16)

    class Coarse(Optimized):
        """Whose reduced types lose everything."""

        def forward(self, input: Tensor) -> Any:
            return super().forward(input if self.dtype == torch.float32 else 0 * input)

    monkeypatch.setattr(_optimize, "Optimized", Coarse)
    monkeypatch.setattr(_optimize, "_dtypes", lambda device: [torch.float32, torch.bfloat16])
    with pytest.warns(UserWarning, match="bfloat16 was left out: .*% of the example's pixels"):
        assert segfast.optimize(model, input).dtype == torch.float32
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="UNet cannot be optimised: .*% of the example's pixels"),
    ):
        segfast.optimize(model, input, dtype=torch.bfloat16)


def test_without_folding_where_that_changes_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a pooling's ties turn by rounding."""

    def fold(model: nn.Module, example: Tensor) -> None:
        for parameter in model.parameters():
            parameter.data.neg_()

    model = lively(build("unet", FAMILIES["unet"])).train()
    input = images(16, 16)
    monkeypatch.setattr(_optimize, "fold_batch_norm", fold)
    monkeypatch.setattr(_optimize, "_dtypes", lambda device: [torch.float32])
    with pytest.warns(UserWarning, match="batch norm was not folded: .*% of the example's pixels"):
        fast = segfast.optimize(model, input)
    assert model.training
    with torch.no_grad():
        torch.testing.assert_close(fast(input), model.eval()(input))


def test_wrong_arguments() -> None:
    model = nn.Conv2d(3, 2, 1)
    with pytest.raises(ValueError, match="cuda_graph needs a model on a CUDA device"):
        segfast.optimize(model, cuda_graph=True)
    with pytest.raises(ValueError, match="received torch.int8"):
        segfast.optimize(model, dtype=torch.int8)
    with pytest.raises(ValueError, match="pass example"):
        segfast.optimize(nn.Identity())


@pytest.mark.nightly
def test_compiled() -> None:
    model = lively(build("unet", FAMILIES["unet"]))
    input = images(32, 32)
    fast = segfast.optimize(model, input, dtype=torch.float32, compile=True)
    with torch.no_grad():
        torch.testing.assert_close(fast(input), model(input), rtol=1e-3, atol=1e-4)


@pytest.mark.cuda
# TF32 has three digits. (Beside test_opinfo.py, whose source in torch forbids it, a flag cannot be
# set by itself.)
@torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
def test_cuda_graphs() -> None:
    model = lively(build("segnet_basic", FAMILIES["segnet_basic"])).cuda()
    fast = segfast.optimize(model, images(45, 51).cuda(), dtype=torch.float32, cuda_graph=True)
    for size in ((45, 51), (32, 40), (45, 51)):
        first, second = (torch.randn(1, 3, *size, device="cuda") for _ in range(2))
        found = [fast(first), fast(second)]
        with torch.no_grad():
            for logits, input in zip(found, (first, second), strict=True):
                torch.testing.assert_close(logits, model(input), rtol=1e-3, atol=1e-3)
    assert len(fast._graphs) == 2
