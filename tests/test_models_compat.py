"""The models against the libraries whose networks they are: the same bits from the same weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import segfast
from segfast.models import create_model
from segfast.models.dynamic_unet import SelfAttention

torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.compat


def randomise(model: nn.Module) -> nn.Module:
    """Another value for everything that starts at zero or one, running statistics included."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.ndim < 2:
                value.uniform_(0.5, 1) if "var" in name else value.add_(torch.randn_like(value) / 9)
    return model.eval()


def copy_in_order(theirs: nn.Module, ours: nn.Module) -> None:
    """Weights by position: both networks define their layers in the order they run."""
    values, names = theirs.state_dict().values(), ours.state_dict()
    assert [value.shape for value in values] == [value.shape for value in names.values()]
    ours.load_state_dict(dict(zip(names, values, strict=True)))


def assert_same_bits(theirs: nn.Module, ours: nn.Module, input: Tensor) -> None:
    with torch.no_grad():
        expected = theirs(input)
        expected = expected["out"] if isinstance(expected, dict) else expected
        assert torch.equal(ours.eval()(input), expected)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_unet_is_that_of_segmentation_models(encoder: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = randomise(smp.Unet(encoder, encoder_weights=None, in_channels=4, classes=5))
    ours = create_model("unet", 5, 4, encoder=encoder)
    copy_in_order(theirs, ours)
    assert_same_bits(theirs, ours, torch.randn(2, 4, 64, 96))


def test_deeplab_is_that_of_torchvision() -> None:
    theirs = randomise(
        torchvision.models.segmentation.deeplabv3_resnet50(
            weights=None, weights_backbone=None, num_classes=5
        )
    )
    ours = create_model("deeplabv3", 5)
    copy_in_order(theirs, ours)
    assert_same_bits(theirs, ours, torch.randn(2, 3, 65, 70))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (64, 96)),
        # Odd sizes: nearest neighbours at every level.
        ({"blur": True, "self_attention": True, "y_range": (-1, 3)}, (67, 75)),
        ({"blur": True, "blur_final": False, "last_cross": False}, (64, 65)),
    ],
)
def test_dynamic_unet_is_that_of_fastai(options: dict[str, Any], size: tuple[int, int]) -> None:
    fastai = pytest.importorskip("fastai.vision.models.unet")
    resnet = torchvision.models.resnet18(weights=None)
    body = nn.Sequential(*list(resnet.children())[:-2])
    theirs = randomise(fastai.DynamicUnet(body, 5, size, **options))
    ours = create_model("dynamic_unet", 5, encoder="resnet18", **options)
    without_spectral_norm(theirs, ours)

    def layers(*parts: nn.Module) -> Iterator[nn.Module]:
        for part in parts:
            for layer in part.modules():
                if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.BatchNorm2d)):
                    yield layer

    # Both run the encoder first; fastai joins an encoder's map before, we after the upsampling.
    pairs = zip(
        layers(*theirs.layers),
        layers(ours.encoder, ours.middle, *ours.blocks, ours.upsample, ours.head),
        strict=True,
    )
    for other, mine in pairs:
        mine.load_state_dict(other.state_dict())
    assert_same_bits(theirs, ours, torch.randn(2, 3, *size))


def without_spectral_norm(theirs: nn.Module, ours: nn.Module) -> None:
    """Plain attention weights in both: how each stores its norm is its own affair."""
    pairs = zip(
        (m for m in theirs.modules() if type(m).__name__ == "SelfAttention"),
        (m for m in ours.modules() if isinstance(m, SelfAttention)),
        strict=True,
    )
    for other, mine in pairs:
        mine.gamma.data = other.gamma.data
        for name in ("query", "key", "value"):
            nn.utils.remove_spectral_norm(getattr(other, name)[0])
            parametrize.remove_parametrizations(getattr(mine, name), "weight")


@pytest.fixture(scope="module")
def timm_encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, nn.Module, Path]:
    """Its name, timm's model, and that one's weights in a file."""
    trained = pytest.importorskip("timm").create_model(request.param)
    weights = tmp_path_factory.mktemp("timm") / "trained.pth"
    torch.save(trained.state_dict(), weights)
    return request.param, trained.eval(), weights


TIMM_ENCODERS = [
    "convnext_atto",  # four maps, the finest at a quarter; a stem that timm renames
    "mobilenetv3_small_050",  # five maps
    "darknet17",  # six maps, the finest as large as the image
]
HEADS = ["unet", "dynamic_unet", "fcn8s"]


@pytest.mark.parametrize(
    ("timm_encoder", "name"),
    # 500 MB of weights, most of them a classifier's convolutions: once will do.
    [*itertools.product(TIMM_ENCODERS, HEADS), ("vgg11_bn", "unet")],
    indirect=["timm_encoder"],
)
def test_timm_encoders(timm_encoder: tuple[str, nn.Module, Path], name: str) -> None:
    encoder, trained, weights = timm_encoder
    model = create_model(name, 2, 3, encoder=encoder, encoder_weights=weights).eval()
    input = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        deepest = trained.forward_intermediates(input, intermediates_only=True)[-1]
        assert torch.equal(model.encoder(input)[-1], deepest)
        for size in ((75, 101), (1, 1)):
            input = torch.randn(1, 3, *size)
            assert model(input).shape == (1, 2, *size)
        assert torch.equal(segfast.restore(model)(input), model(input))


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        ("mambaout_femto", "unet"),  # maps with the channels last
        ("vit_tiny_patch16_224", "unet"),  # made for one size; three maps at a sixteenth
        ("hrnet_w18_small", "dynamic_unet"),  # adds maps whose sizes must divide
        ("densenet121", "pspnet"),  # cannot be dilated
        ("efficientnet_b0", "deeplabv3plus"),  # can
    ],
)
def test_awkward_timm_encoders(encoder: str, name: str) -> None:
    pytest.importorskip("timm")
    model = create_model(name, 2, 3, encoder=encoder).eval()
    for size in ((33, 47), (1, 1)):
        with torch.no_grad():
            assert model(torch.randn(1, 3, *size)).shape == (1, 2, *size)


def test_unknown_encoders() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="no encoder is named 'resnet35'"):
        create_model("unet", 2, encoder="resnet35")
