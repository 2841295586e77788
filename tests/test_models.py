"""Models: parameters to the unit, exact shapes at any size, the same numbers as torch's layers."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import segfast.nn
from segfast.models import Encoder, SegNet, UNet, create_model, list_models, load_encoder_weights
from segfast.models._layers import crop_centre, init_he_, pad_to_multiple, resize_nearest
from segfast.models.encoders import create_encoder
from segfast.models.fcn import bilinear_upsampling

torchvision = pytest.importorskip("torchvision")


class TinyEncoder(Encoder):
    """Four maps as ConvNeXt has them, the finest at a quarter; dilated like a ResNet."""

    def __init__(self, in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        self.reductions = tuple(min(r, output_stride) for r in (4, 8, 16, 32))
        self.channels = (4, 8, 12, 16)
        self.convs = nn.ModuleList()
        before = 1
        for channels, reduction in zip(self.channels, self.reductions, strict=True):
            stride = reduction // before
            self.convs.append(nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1))
            in_channels, before = channels, reduction

    def forward(self, input: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for conv in self.convs:
            input = conv(input).relu()
            maps.append(input)
        return maps


# What a test of shapes or numbers builds: of each name a narrow model with every kind of layer, and
# one case for each option that changes a layer. Two presets, which are a family with its defaults,
# are left out.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"width": 4}) for name in ("segnet", "segnet_basic", "unet", "unet_paper")),
    *((name, {"width": 4}) for name in ("unet_carla", "unet_pets")),
    *((name, {"width": 4}) for name in ("fcn8s", "fcn16s", "fcn32s")),
    *((name, {"width": 4}) for name in ("fcn8_vgg16", "fcn16_vgg16", "fcn32_vgg16")),
    ("dynamic_unet", {"encoder": TinyEncoder()}),
    *((name, {"encoder": TinyEncoder(3, 8)}) for name in ("pspnet", "deeplabv3")),
    ("deeplabv3plus", {"encoder": TinyEncoder(3, 16)}),
    ("unet", {"width": 4, "upsampling": "subpixel"}),
    ("unet", {"width": 4, "upsampling": "bilinear", "depth": 2}),
    ("unet", {"width": 4, "up_kernel_size": 3, "dropout": 0.5, "dropout_at": "levels"}),
    ("unet", {"encoder": "resnet18", "decoder_channels": (16, 8, 8, 8, 4)}),
    (
        "unet",
        {
            "encoder": TinyEncoder(),
            "decoder_channels": (16, 8, 8, 8, 4),
            "upsampling": "subpixel",
        },
    ),
    ("fcn8s", {"width": 4, "fc": False, "learn_upsampling": True}),
    ("fcn16s", {"encoder": TinyEncoder()}),
    (
        "dynamic_unet",
        {"encoder": TinyEncoder(), "blur": True, "self_attention": True, "y_range": (-1.0, 2.0)},
    ),
    ("dynamic_unet", {"encoder": TinyEncoder(), "last_cross": False}),
    ("dynamic_unet", {"encoder": TinyEncoder(), "bottle": True, "blur": True, "blur_final": False}),
]
FAMILIES = dict(reversed(VARIANTS))
IDS = [
    " ".join([name, *(f"{key}={str(value).partition('(')[0]}" for key, value in options.items())])
    for name, options in VARIANTS
]


def build(name: str, options: dict[str, Any], **more: Any) -> nn.Module:
    """A small model with 3 classes; the same weights for the same name and options."""
    torch.manual_seed(0)
    model = create_model(name, 3, 3, **copy.deepcopy(options), **more)
    with torch.no_grad():
        for parameter in model.parameters():  # FCN's scores and the attention's gamma start at 0
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def images(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def least_size(model: nn.Module) -> int:
    return getattr(model, "minimum_size", 1)


# Counts: notes of the papers and tutorials; without a number there, our own sum, layer by layer.
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("segnet", {"classes": 12}, 29_449_932),
        ("segnet_vgg16", {}, 29_449_932),
        # 7 * 7 * (3 + 7 * 64) * 64 weights, 8 * 2 * 64 of batch norms, 65 * 11 of the classifier.
        ("segnet_basic", {"classes": 11}, 1_416_075),
        ("unet_paper", {}, 31_030_658),
        ("unet_carla", {}, 8_640_471),
        ("unet_pets", {}, 34_513_475),
        # The paper's at 3 channels in and 1 class, and 2 parameters a channel of batch norm.
        ("unet", {"classes": 1}, 31_030_658 + 2 * 9 * 64 - 65 + 2 * 2 * (2 * 960 + 1024)),
        ("fcn8s", {"classes": 21}, 134_489_759),
        ("fcn16s", {"classes": 21}, 134_815_994),
        ("fcn32s", {"classes": 21}, 136_152_917),
        ("fcn8_vgg16", {}, 14_833_776),
        ("dynamic_unet_resnet34", {}, 41_222_168),
        ("dynamic_unet", {"classes": 12}, 41_222_168),
        # fastai 2.8.12's own count with this option.
        ("dynamic_unet", {"classes": 12, "self_attention": True}, 41_406_489),
        ("dynamic_unet", {"classes": 12, "last_cross": False}, 41_045_516),
        # segmentation_models.pytorch 0.6.0's own count.
        ("unet", {"classes": 1, "encoder": "resnet34"}, 24_436_369),
        # torchvision's own count, without the auxiliary classifier.
        ("deeplabv3", {"classes": 21}, 39_638_869),
    ],
)
def test_parameters(name: str, arguments: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        model = create_model(name, **arguments)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_any_size_comes_back_exact(name: str, options: dict[str, Any]) -> None:
    model = build(name, options).eval()
    if least_size(model) > 1:
        pytest.skip("valid padding has a test of its own")
    sizes = [
        (1, 1),  # smaller than every stride
        (5, 70),  # smaller than the stride in height, even and no multiple of it in width
        (33, 47),  # odd at the first level
        (64, 32),  # a multiple of every stride
    ]
    for height, width in sizes:
        with torch.no_grad():
            logits = model(images(height, width))
        assert logits.shape == (1, 3, height, width)
        assert logits.isfinite().all()


def test_valid_padding() -> None:
    model = build("unet_paper", {"width": 2}).eval()
    with torch.no_grad():
        # The paper's figure 1; the least size; odd inside, so that pooling drops a row.
        for size, expected in ((572, 388), (188, 4), (200, 4)):
            assert model(images(size, size)).shape == (1, 3, expected, expected)
        shallow = UNet(3, depth=2, width=2, padding="valid", head_conv=True)
        with pytest.raises(ValueError, match="at least 188x188 .* received 187x300"):
            model(images(187, 300))
        least = least_size(shallow)
        assert min(shallow(images(least, least)).shape) > 0
        with pytest.raises(ValueError, match=f"at least {least}x{least}"):
            shallow(images(least - 1, least))


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_torch_backend_gives_the_same_bits(name: str, options: dict[str, Any]) -> None:
    ours = build(name, options)
    torchs = build(name, options, backend="torch")
    assert not [m for m in torchs.modules() if type(m).__module__.startswith("segfast.nn")]

    theirs = torchs.state_dict()
    assert list(theirs) == list(ours.state_dict())
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs[key]), key

    # Odd, and large enough for batch norm at the deepest level in training.
    size = max(least_size(ours), 45)
    input = images(size, size + 6, batch=2)
    gradients = []
    for model in (ours, torchs):
        torch.manual_seed(3)  # dropout
        logits = model.train()(input)
        logits.square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
        gradients[-1].append(logits.detach())
    for mine, other in zip(*gradients, strict=True):
        assert torch.equal(mine, other)


def test_segnet_pools_as_caffe_does_and_keeps_two_bits_a_window() -> None:
    model = SegNet(11, width=4).eval()
    seen = []
    for layer in model.features:
        if isinstance(layer, segfast.nn.MaxPool2dWithCodes):
            layer.register_forward_hook(lambda layer, input, output: seen.append(output))
    with torch.no_grad():
        model(images(360, 480))
    assert [tuple(values.shape[-2:]) for values, _ in seen] == [
        (180, 240),
        (90, 120),
        (45, 60),
        (23, 30),  # the decoder's targets in the authors' prototxt
        (12, 15),
    ]
    values, codes = seen[0]
    assert codes.dtype == torch.uint8
    assert codes.numel() * 8 == values.numel() * 2


@pytest.mark.parametrize("name", ["segnet", "unet", "fcn8s", "dynamic_unet"])
def test_channels_last_gives_the_same_logits(name: str) -> None:
    model = build(name, FAMILIES[name]).eval()
    for size in ((1, 1), (33, 47)):  # a single pixel's strides say nothing of its format
        input = images(*size, batch=2)
        with torch.no_grad():
            expected = model(input)
            model.to(memory_format=torch.channels_last)
            logits = model(input.to(memory_format=torch.channels_last))
            model.to(memory_format=torch.contiguous_format)
        # Convolutions sum in another order: float32's epsilon times some 20 layers.
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["segnet", "unet", "fcn8s", "dynamic_unet"])
def test_mixed_precision(name: str) -> None:
    model = build(name, FAMILIES[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images(33, 47, batch=2))
        loss = logits.float().square().mean()
    loss.backward()
    assert logits.dtype == torch.bfloat16
    trained = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad is not None and grad.isfinite().all() for grad in trained)


@pytest.mark.parametrize("name", ["segnet_basic", "unet", "fcn8s", "dynamic_unet", "deeplabv3"])
def test_learns(name: str) -> None:
    model = build(name, FAMILIES[name])
    input = images(4, 4, batch=2).repeat_interleave(8, -2).repeat_interleave(8, -1)
    target = input.argmax(dim=1)  # the strongest colour of each square
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(24):
        loss = nn.functional.cross_entropy(model(input), target)
        if loss < 0.9 * math.log(3):  # guessing costs log 3
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss is still {loss.item()}")


def test_convolutions_pass_on_the_size_of_their_input() -> None:
    """He's weights: the logits of a deep, wide network without batch norm stay of order one."""
    torch.manual_seed(0)
    for options in ({}, {"up_kernel_size": 3}, {"upsampling": "bilinear"}):
        model = UNet(8, width=32, batch_norm=False, **options).eval()
        with torch.no_grad():
            size = model(torch.randn(2, 3, 64, 64)).square().mean().sqrt()
        assert 0.2 < size < 5


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nn.Conv2d(64, 64, 3), 64 * 9),
        (nn.Conv2d(64, 64, (3, 5), groups=4), 16 * 15),
        (nn.ConvTranspose2d(64, 64, 2, stride=2), 64),
        (nn.ConvTranspose2d(64, 64, (4, 3), stride=(2, 1)), 64 * 2 * 3),
    ],
)
def test_hes_weights(layer: nn.Conv2d | nn.ConvTranspose2d, fan_in: int) -> None:
    torch.manual_seed(0)
    for relu in (True, False):
        init_he_(layer, relu)
        # Of 15,000 weights and more: 4 standard deviations of their variance.
        assert layer.weight.var().item() == pytest.approx((1 + relu) / fan_in, rel=0.05)
        assert not layer.bias.any()


def test_maps_are_brought_to_each_others_size() -> None:
    row = torch.arange(7.0).expand(1, 1, 7, 7)
    assert crop_centre(row, 7, 4).tolist() == row[..., 1:5].tolist()
    assert crop_centre(row.mT, 4, 7).tolist() == row.mT[..., 1:5, :].tolist()
    assert (
        pad_to_multiple(row, 4).shape == (1, 1, 8, 8) and not pad_to_multiple(row, 4)[..., 7].any()
    )
    # The neighbours of torch's "nearest", as fastai takes them.
    assert resize_nearest(row[..., :3], (7, 5))[0, 0, 0].tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("scale", [2, 8, 32])
def test_fcn_upsampling_is_bilinear(scale: int) -> None:
    layer = bilinear_upsampling(3, scale)
    assert not layer.weight.requires_grad
    assert bilinear_upsampling(3, scale, learnable=True).weight.requires_grad
    input = torch.rand(2, 3, 5, 4)
    expected = nn.functional.interpolate(
        input, scale_factor=scale, mode="bilinear", align_corners=False
    )
    inner = (..., slice(scale // 2, -scale // 2), slice(scale // 2, -scale // 2))
    assert layer(input).shape == expected.shape
    torch.testing.assert_close(layer(input)[inner], expected[inner])


def test_fcn_trains_its_upsampling_only_when_asked() -> None:
    def frozen(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters() if not p.requires_grad)

    # Kernels 4x4, 4x4 and 16x16 from 3 to 3 channels.
    assert frozen(create_model("fcn8s", 3, width=1)) == 9 * (16 + 16 + 256)
    assert frozen(create_model("fcn8s", 3, width=1, learn_upsampling=True)) == 0


def test_fully_connected_layers_are_vgg16s() -> None:
    """fc6 and fc7, each with ReLU and dropout, before the scores; with another encoder none."""
    assert len(create_model("fcn8s", 3, width=1).classifier) == 7
    assert len(create_model("fcn16s", 3, encoder=TinyEncoder()).classifier) == 1


def test_new_fcn_scores_start_at_zero() -> None:
    model = create_model("fcn8s", 3, width=4).eval()
    with torch.no_grad():
        assert not model(images(40, 40)).any()


@pytest.mark.parametrize(
    ("name", "options", "network"),
    [
        ("segnet", {}, "vgg16_bn"),
        ("fcn8s", {}, "vgg16"),
        ("dynamic_unet", {}, "resnet34"),
        ("unet", {"encoder": "resnext50_32x4d"}, "resnext50_32x4d"),
    ],
)
def test_encoders_have_torchvisions_names(name: str, options: dict[str, Any], network: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 2, **options)
        trained = torchvision.models.get_model(network, weights=None)
    theirs, ours = (
        {
            key.removeprefix("encoder."): value.shape
            for key, value in network.state_dict().items()
            if key.startswith(prefixes)
        }
        for network, prefixes in (
            (trained, ("features.", "conv1.", "bn1.", "layer")),
            (model, ("features.", "encoder.")),
        )
    )
    assert ours == theirs


@pytest.mark.parametrize(("name", "options"), [("segnet", {}), ("fcn8s", {"fc": False})])
@pytest.mark.parametrize("channels", [3, 1, 5])
def test_encoder_weights_load_from_a_file(
    name: str, options: dict[str, Any], channels: int, tmp_path: Path
) -> None:
    trained = getattr(model := create_model(name, 2, width=2, **options), "encoder", model)
    state = {
        key: torch.rand_like(value) if value.is_floating_point() else value + 7
        for key, value in trained.state_dict().items()
        # Torchvision's oldest files know no num_batches_tracked.
        if key.startswith("features.") and (channels == 3 or "num_batches" not in key)
    }
    torch.save(state, tmp_path / "trained.pth")
    model = create_model(
        name, 2, channels, encoder_weights=tmp_path / "trained.pth", width=2, **options
    )
    loaded = getattr(model, "encoder", model).state_dict()
    first, *others = state
    assert others and all(torch.equal(loaded[key], state[key]) for key in others)
    red, green, blue = state[first].unbind(1)
    expected = {
        1: torch.stack([red, green, blue]).sum(0)[:, None],
        3: state[first],
        5: torch.stack([red, green, blue, red, green], dim=1) * 3 / 5,
    }
    torch.testing.assert_close(loaded[first], expected[channels])


def test_fcn_takes_the_fully_connected_layers_of_vgg() -> None:
    model = create_model("fcn8s", 3, width=1)
    state = {key: torch.rand_like(value) for key, value in model.encoder.state_dict().items()}
    state["classifier.0.weight"] = torch.rand(64, 8 * 7 * 7)  # as nn.Linear has them
    state["classifier.3.weight"] = torch.rand(64, 64)
    load_encoder_weights(model, state)
    assert torch.equal(model.classifier[0].weight.flatten(1), state["classifier.0.weight"])
    assert torch.equal(model.classifier[3].weight.flatten(1), state["classifier.3.weight"])


def test_weights_of_another_network_are_refused() -> None:
    resnet = torchvision.models.resnet18(weights=None).state_dict()
    with pytest.raises(ValueError, match=r"not those of SegNet's encoder: .* features\.0\.weight"):
        create_model("segnet", 2, width=4, encoder_weights=resnet)
    with pytest.raises(ValueError, match="UNet has no pretrained network as its encoder"):
        create_model("unet", 2, width=4, encoder_weights=resnet)


def test_deeplab_needs_a_map_at_a_quarter() -> None:
    encoder = TinyEncoder(3, 16)
    encoder.reductions = (8, 16, 16, 16)
    with pytest.raises(ValueError, match=r"quarter of the image, received reductions \(8, 16"):
        create_model("deeplabv3plus", 2, encoder=encoder)


def test_context_is_that_of_the_papers() -> None:
    """Grids, dilations, dropout and strides, which no count of parameters shows."""

    def made(name: str, kind: type[nn.Module]) -> list[Any]:
        return [layer for layer in models[name].modules() if isinstance(layer, kind)]

    def dilations(name: str) -> list[int]:
        return [
            c.dilation[0]
            for c in made(name, nn.Conv2d)
            if c.in_channels == 2048 and c.groups == 1 and c.kernel_size == (3, 3)
        ]

    with torch.device("meta"):
        names = ("pspnet", "deeplabv3", "deeplabv3plus")
        models: dict[str, Any] = {name: create_model(name, 2) for name in names}
    assert [pool.output_size for pool in made("pspnet", nn.AdaptiveAvgPool2d)] == [1, 2, 3, 6]
    assert [layer.p for layer in made("pspnet", nn.Dropout)] == [0.1]
    assert dilations("deeplabv3") == [12, 24, 36] and dilations("deeplabv3plus") == [6, 12, 18]
    assert [max(models[name].encoder.reductions) for name in names] == [8, 8, 16]


def test_dynamic_unet_starts_as_fastais() -> None:
    model = create_model("dynamic_unet", 2, encoder=TinyEncoder())
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 4 and all((norm.bias == 1e-3).all() for norm in norms)
    blurred = create_model("dynamic_unet", 2, encoder=TinyEncoder(), blur=True, blur_final=False)
    assert [block.upsample.blur for block in blurred.blocks] == [True, True, False]
    narrow = create_model("dynamic_unet", 2, encoder=TinyEncoder(), bottle=True)
    inner = narrow.head[0].convolutions[0]
    assert inner.out_channels == inner.in_channels // 2


def test_a_resnet_of_one_channel_starts_as_torchvisions() -> None:
    torch.manual_seed(0)
    weight = create_encoder("resnet18", in_channels=1).conv1.weight
    # He's, by fan_out. 3136 weights: 4 standard deviations of their variance.
    assert weight.var().item() == pytest.approx(2 / (64 * 49), rel=0.1)


def test_unet_drops_out_where_it_says() -> None:
    carla = create_model("unet_carla", width=2)
    assert [type(layer).__name__ for layer in carla.encoder_dropout] == [
        *["Identity"] * 3,
        *["Dropout"] * 2,  # blocks 4 and 5
    ]
    assert [layer.p for layer in carla.encoder_dropout[3:]] == [0.3, 0.3]
    calls = []
    pets = create_model("unet_pets", width=2).train()
    pets.level_dropout.register_forward_hook(lambda *_: calls.append(1))
    pets(images(32, 32, batch=2))
    assert len(calls) == 8  # 4 poolings and 4 concatenations


def test_models_pickle_and_copy() -> None:
    for name in ("segnet", "unet", "dynamic_unet"):
        model = build(name, FAMILIES[name]).eval()
        input = images(33, 40)
        with torch.no_grad():
            expected = model(input)
            for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                assert torch.equal(twin(input), expected)


def test_every_name_builds() -> None:
    assert set(list_models()) >= set(FAMILIES)
    with torch.device("meta"):
        for name in list_models():
            assert isinstance(create_model(name, 2), nn.Module)


def whole_graph_cases() -> list[Any]:
    quick = [("segnet_basic", {"width": 4}), ("unet", {"width": 4, "depth": 2})]
    return [
        pytest.param(name, kw, id=id, marks=[] if (name, kw) in quick else pytest.mark.nightly)
        for (name, kw), id in zip([*VARIANTS, quick[1]], [*IDS, "unet depth=2"], strict=True)
    ]


@pytest.mark.parametrize(("name", "options"), whole_graph_cases())
def test_compiles_whole(name: str, options: dict[str, Any]) -> None:
    model = build(name, options).eval()
    size = max(least_size(model), 45)
    input = images(size, size + 6)
    with torch.no_grad():
        expected = model(input)
        # aot_eager traces everything that Inductor would and leaves the kernels as they are.
        logits = torch.compile(model, fullgraph=True, backend="aot_eager")(input)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), whole_graph_cases())
def test_exports(name: str, options: dict[str, Any]) -> None:
    model = build(name, options).eval()
    size = max(least_size(model), 45)
    input = images(size, size + 6)
    with torch.no_grad():
        expected = model(input)
        program = torch.export.export(model, (input,))
        torch.testing.assert_close(program.module()(input), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), whole_graph_cases())
def test_exports_for_any_size(name: str, options: dict[str, Any]) -> None:
    model = build(name, options).eval()
    size = max(least_size(model), 64)
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    input = images(size, size + 32, batch=2)
    program = torch.export.export(model, (input,), dynamic_shapes=(sizes,))
    other = images(size + 5, size + 9, batch=3)  # odd, and of another remainder
    with torch.no_grad():
        torch.testing.assert_close(program.module()(other), model(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("segnett", 3),
            ValueError,
            "no model is named 'segnett'; there are segnet, segnet_basic,",
        ),
        (("segnet",), ValueError, "segnet needs classes, .* received None"),
        (("segnet", 0), ValueError, "segnet needs classes, .* received 0"),
        (("unet", 3, 0), ValueError, "unet needs in_channels, .* received 0"),
        (("unet", 2.0), ValueError, "unet needs classes, .* received 2.0"),
        (("unet", True), ValueError, "unet needs classes, .* received True"),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        create_model(*arguments)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("unet", {"widht": 3}, TypeError, "unet has no option 'widht'; it has depth, width,"),
        (
            "unet",
            {"width": 0},
            ValueError,
            "unet needs width, a whole number from 1 on; received 0",
        ),
        ("segnet", {"width": 2.5}, ValueError, "segnet needs width, .* received 2.5"),
        ("unet_pets", {"depth": "3"}, ValueError, "unet_pets needs depth, .* received '3'"),
        ("unet", {"padding": "reflect"}, ValueError, '"same" or "valid", received \'reflect\''),
        ("unet", {"upsampling": "nearest"}, ValueError, "upsampling must be .* 'nearest'"),
        ("unet", {"up_kernel_size": 4}, ValueError, "up_kernel_size must be 2 or 3, received 4"),
        ("unet", {"dropout_at": "top"}, ValueError, "dropout_at must be .* 'top'"),
        ("fcn8_vgg16", {"stride": 4}, ValueError, "stride must be 8, 16 or 32, received 4"),
        ("segnet", {"backend": "jax"}, ValueError, "backend must be .* received 'jax'"),
        ("fcn8s", {"encoder": TinyEncoder(3, 8)}, ValueError, r"8, 16 and 32, received .*8, 8\)"),
        ("unet", {"encoder": "resnet18", "upsampling": "bilinear"}, ValueError, '"bilinear"|bil'),
        ("unet", {"encoder": "resnet18", "decoder_channels": (8, 4)}, ValueError, "5 halvings"),
        ("unet", {"encoder": "resnet18", "depth": 3}, TypeError, "no option 'depth'"),
    ],
)
def test_wrong_options(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        create_model(name, 3, **options)


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["segnet", "segnet_basic", "unet", "fcn8s", "dynamic_unet"])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_cuda_agrees_with_cpu(name: str, format: torch.memory_format) -> None:
    model = build(name, FAMILIES[name]).double().eval()
    input = images(45, 51, batch=2).double()
    with torch.no_grad():
        expected = model(input)
        model.to(device="cuda", memory_format=format)
        logits = model(input.to(device="cuda", memory_format=format)).cpu()
    # Double, so that a maximum has the same place on both: summation order is all that differs.
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=math.ulp(1.0) * 1e6)
