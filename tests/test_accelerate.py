"""accelerate and restore: only the class of a layer changes."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import segfast.nn
from segfast import accelerate, restore


class Autoencoder(nn.Module):
    """Every layer that is swapped, one of them in two places, and one that must not be."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2, stride=2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2, stride=2)
        self.same_pool = self.pool
        self.shuffle = nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2))
        self.custom = LoudPool(3, stride=1, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        x = self.conv(input)
        size = x.shape
        x, where = self.pool(x)
        x, where_again = self.same_pool(x)
        x = self.unpool(x, where_again, output_size=where.shape)
        x = self.unpool(x, where, output_size=size)
        return self.custom(self.shuffle(x))


class LoudPool(nn.MaxPool2d):
    """Someone's own layer, which only inherits."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def kinds(model: nn.Module) -> Counter[str]:
    return Counter(
        type(m).__module__.split(".")[0] for m in model.modules() if not list(m.children())
    )


def test_every_layer_is_swapped_and_restored() -> None:
    model = Autoencoder()
    layers = dict(model.named_modules(remove_duplicate=False))
    input = torch.randn(2, 3, 13, 18)  # odd: the unpooling needs its output_size
    expected = model(input)
    state = copy.deepcopy(model.state_dict())

    assert accelerate(model) is model
    assert type(model.pool) is segfast.nn.MaxPool2d
    assert type(model.unpool) is segfast.nn.MaxUnpool2d
    assert type(model.shuffle[0]) is segfast.nn.PixelShuffle
    assert type(model.shuffle[1]) is segfast.nn.PixelUnshuffle
    assert type(model.custom) is LoudPool
    assert dict(model.named_modules(remove_duplicate=False)) == layers  # the same objects
    assert torch.equal(model(input), expected)
    assert list(model.state_dict()) == list(state)

    accelerate(model)  # a second time changes nothing
    assert type(model.pool) is segfast.nn.MaxPool2d

    assert restore(restore(model)) is model
    assert type(model.pool) is nn.MaxPool2d and type(model.shuffle[0]) is nn.PixelShuffle
    assert not kinds(model)["segfast"]
    assert torch.equal(model(input), expected)


def test_gradients_are_the_same() -> None:
    model = Autoencoder()
    input = torch.randn(2, 3, 13, 18)
    gradients = []
    for swap in (restore, accelerate):
        model.zero_grad()
        swap(model)(input).square().sum().backward()
        gradients.append(model.conv.weight.grad.clone())
    assert torch.equal(*gradients)


def test_the_model_itself_may_be_the_layer() -> None:
    pool = nn.MaxPool2d(2)
    assert accelerate(pool) is pool
    assert type(pool) is segfast.nn.MaxPool2d
    assert type(restore(pool)) is nn.MaxPool2d


def test_hooks_mode_and_attributes_stay() -> None:
    pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True).eval()
    pool.note = "mine"
    calls: list[str] = []
    pool.register_forward_pre_hook(lambda *_: calls.append("before"))
    pool.register_forward_hook(lambda *_: calls.append("after"))
    pool.register_full_backward_hook(lambda *_: calls.append("backward"))
    accelerate(pool)
    pool(torch.randn(1, 1, 9, 9, requires_grad=True)).sum().backward()
    assert calls == ["before", "after", "backward"]
    assert not pool.training and pool.note == "mine" and pool.ceil_mode and pool.padding == 1


def test_accelerated_models_pickle_and_copy() -> None:
    model = accelerate(Autoencoder())
    input = torch.randn(1, 3, 8, 8)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin.pool) is segfast.nn.MaxPool2d
        assert twin.same_pool is twin.pool
        assert torch.equal(twin(input), model(input))


def test_accelerated_models_compile_whole() -> None:
    model = accelerate(Autoencoder())
    input = torch.randn(1, 3, 13, 18)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(input), model(input))
    # The layers change under the compiled model: it must not go on with the old ones.
    restore(model)
    assert torch.equal(compiled(input), model(input))


@pytest.mark.parametrize(
    "name", ["resnet18", "googlenet", "densenet121", "squeezenet1_1", "fcn_resnet50"]
)
def test_torchvision_models(name: str) -> None:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    if name == "fcn_resnet50":
        options = {"weights_backbone": None}
    model = models.get_model(name, weights=None, **options).eval()
    pools = sum(type(m) is nn.MaxPool2d for m in model.modules())
    input = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        expected = model(input)
        outputs = accelerate(model)(input)
    assert pools > 0 and sum(type(m) is segfast.nn.MaxPool2d for m in model.modules()) == pools
    if isinstance(expected, dict):
        expected, outputs = expected["out"], outputs["out"]
    assert torch.equal(outputs, expected)


class Everything(nn.Module):
    """Each layer, and those that only segfast has."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.MaxPool2d(2), nn.PixelUnshuffle(2), segfast.nn.SubpixelUpsample(16, 4)
        )
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.code, self.uncode = segfast.nn.MaxPool2dWithCodes(), segfast.nn.MaxUnpool2dWithCodes()

    def forward(self, input: Tensor) -> Tensor:
        x = self.layers(input)
        pooled, indices = self.pool(x)
        coded, codes = self.code(x)
        return self.unpool(pooled, indices, x.shape) + self.uncode(coded, codes, x.shape)


def test_accelerated_models_are_traced_by_fx() -> None:
    """As PyTorch's own layers are: torchvision's feature extraction needs it, for one."""
    model, input = accelerate(Everything()), torch.randn(2, 4, 12, 20)
    graph = torch.fx.symbolic_trace(model)
    for traced in (graph, copy.deepcopy(graph)):
        torch.testing.assert_close(traced(input), model(input), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_accelerated_models_are_traced_by_jit() -> None:
    """With its own check, which traces once more, without gradients: the ops must be the same."""
    model, input = accelerate(Everything()), torch.randn(2, 4, 12, 20)
    traced = torch.jit.trace(model, input)
    other = torch.randn(2, 4, 12, 20)
    torch.testing.assert_close(traced(other), model(other), rtol=0, atol=0)
    traced(other).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    "layer",
    [
        *(segfast.nn.MaxPool2d(2), segfast.nn.MaxPool2dWithCodes()),
        *(segfast.nn.MaxUnpool2d(2), segfast.nn.MaxUnpool2dWithCodes()),
        *(segfast.nn.PixelShuffle(2), segfast.nn.PixelUnshuffle(2)),
        segfast.nn.SubpixelUpsample(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_script_names_the_layer_and_the_way_out(layer: nn.Module) -> None:
    name = type(layer).__name__
    with pytest.raises(RuntimeError, match=rf"cannot compile segfast.nn.{name}: call segfast.rest"):
        torch.jit.script(nn.Sequential(layer))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_restored_models_are_scripted() -> None:
    model, input = nn.Sequential(nn.MaxPool2d(2), nn.PixelShuffle(2)), torch.randn(1, 4, 12, 20)
    script = torch.jit.script(restore(accelerate(model)))
    torch.testing.assert_close(script(input), model(input), rtol=0, atol=0)


def test_subclasses_of_tensors_stay_what_they_are() -> None:
    class Named(Tensor):
        pass

    model, input = accelerate(Everything()), torch.randn(2, 4, 12, 20)
    result = model(input.as_subclass(Named))
    assert type(result) is Named
    torch.testing.assert_close(result.as_subclass(Tensor), model(input), rtol=0, atol=0)


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, received Tensor"):
        accelerate(torch.zeros(1))
    for call in (segfast.optimize, lambda x: segfast.export(x, "x.onnx"), segfast.Predictor):
        with pytest.raises(TypeError, match="model must be a torch.nn.Module, received int"):
            call(3)
