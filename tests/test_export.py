"""Exported files: standard operators, free sizes, the model's logits and masks."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_models import FAMILIES, IDS, VARIANTS, build, images, least_size
from torch import Tensor, nn

import segfast
from segfast._example import example_input
from segfast._export import ExportError

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="needs the extra export",
)
SHARED = Path(__file__).parents[2] / "shared" / "data"
# Other kernels sum in another order: float32's epsilon over some twenty layers.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def functions_read_once() -> Iterator[None]:
    """At each export torch parses the source of onnxscript's 497 functions again: for a second."""
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ImportError, AttributeError):  # where this torch does so elsewhere: slowly
            from torch.onnx._internal.exporter._registration import onnxscript_apis as apis

            patch.setattr(apis, "get_torchlib_ops", functools.cache(apis.get_torchlib_ops))
        yield


def run_onnx(path: Path, image: Tensor) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(None, {"image": image.numpy()})]


class Pooling(nn.Module):
    """A pooling and its unpooling, of values that tell overlapping windows apart."""

    def __init__(
        self, kind: str, size: tuple[int, int], ceil_mode: bool = False, **window: Any
    ) -> None:
        super().__init__()
        self.size = size
        if kind == "codes":
            self.pool = segfast.nn.MaxPool2dWithCodes(**window, ceil_mode=ceil_mode)
            self.unpool = segfast.nn.MaxUnpool2dWithCodes(**window)
        else:
            layers = segfast.nn if kind == "indices" else torch.nn
            self.pool = layers.MaxPool2d(**window, ceil_mode=ceil_mode, return_indices=True)
            window.pop("dilation", None)
            self.unpool = layers.MaxUnpool2d(**window)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled, record = self.pool(input)
        column = torch.arange(pooled.shape[-1], dtype=pooled.dtype)
        return pooled, record, self.unpool(pooled + column, record, output_size=input.shape[-2:])


POOLINGS = [
    ("codes", {"kernel_size": 2}),  # 2 bits
    ("codes", {"kernel_size": 2, "ceil_mode": True}),  # SegNet's
    ("codes", {"kernel_size": 3, "stride": 2, "padding": 1}),  # a byte; windows overlap
    ("codes", {"kernel_size": (2, 3), "dilation": (2, 1), "ceil_mode": True}),
    ("indices", {"kernel_size": 2, "ceil_mode": True}),
    ("indices", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ("torch", {"kernel_size": 2}),
]


@needs_onnx
@pytest.mark.parametrize(
    ("kind", "window", "free"),
    [*((*pooling, True) for pooling in POOLINGS), (*POOLINGS[1], False), (*POOLINGS[2], False)],
)
def test_pooling_and_unpooling_to_the_bit(
    kind: str, window: dict[str, Any], free: bool, tmp_path: Path
) -> None:
    model = Pooling(kind, (13, 18), **window)
    example = torch.randn(2, 3, 12, 16) if free else torch.randn(1, 3, 12, 16)
    segfast.export(model, tmp_path / "pool.onnx", example=example)
    sizes = [(12, 16)]
    if free:
        sizes += [(13, 17), (5, 22)]  # odd; fewer windows a row than a byte holds, or more
    for size in sizes:
        # Few values: every window has ties, of which the first wins.
        input = torch.randint(3, (len(example), 3, *size)).float()
        if kind != "torch":  # whose translation of pooling is torch's own
            input[0, 0, :4, :4] = torch.nan
            input[0, 1, 2:4] = -torch.inf
        for found, expected in zip(
            run_onnx(tmp_path / "pool.onnx", input), model(input), strict=True
        ):
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@needs_onnx
def test_maps_without_a_batch(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        segfast.nn.MaxPool2d(3, stride=2, ceil_mode=True),
        segfast.nn.SubpixelUpsample(8, 8, blur=True, weight_norm=False),
        segfast.nn.PixelShuffle(2),
    ).eval()
    input = torch.randn(3, 12, 17)
    segfast.export(model, tmp_path / "model.onnx", example=input)
    with torch.no_grad():
        torch.testing.assert_close(run_onnx(tmp_path / "model.onnx", input)[0], model(input))


def onnx_cases() -> list[Any]:
    """One of each kind of layer in the quick tests, all variants at night."""
    quick = [IDS.index(name) for name in ("segnet_basic width=4", "pspnet encoder=TinyEncoder")]
    quick.append(next(i for i, name in enumerate(IDS) if "self_attention" in name))
    return [
        pytest.param(name, options, id=id, marks=[] if i in quick else pytest.mark.nightly)
        for i, ((name, options), id) in enumerate(zip(VARIANTS, IDS, strict=True))
    ]


@needs_onnx
@pytest.mark.parametrize(("name", "options"), onnx_cases())
def test_onnx(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    import onnx

    model = build(name, options).eval()
    segfast.export(model, tmp_path / "model.onnx")
    file = onnx.load(tmp_path / "model.onnx")
    assert not [node.op_type for node in file.graph.node if node.domain]  # standard operators
    assert not file.functions
    sizes = [dim.dim_param for dim in file.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", "", "height", "width"]
    least = least_size(model)
    for batch, height, width in (
        (2, 64, 96),  # as it was exported
        (3, 45, 51),  # odd
        (1, 1, 1),  # smaller than every stride
        (1, 5, 200),
    ):
        input = images(max(height, least), max(width, least), batch)
        (logits,) = run_onnx(tmp_path / "model.onnx", input)
        with torch.no_grad():
            expected = model(input)
        torch.testing.assert_close(logits, expected, **CLOSE)
        # Where the first two classes are further apart than rounding.
        first, second = expected.topk(2, dim=1).values.unbind(1)
        clear = first - second > 1e-4
        assert torch.equal(logits.argmax(1)[clear], expected.argmax(1)[clear])


@needs_onnx
def test_segnet_on_real_images(tmp_path: Path) -> None:
    file = next((SHARED / "camvid" / "test").glob("*.jpg"), None)
    if file is None:
        pytest.skip("CamVid is not here")
    picture = np.array(pytest.importorskip("PIL.Image").open(file))
    input = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    torch.manual_seed(0)
    model = segfast.create_model("segnet_basic", 11, width=16).eval()
    segfast.export(model, tmp_path / "segnet.onnx")
    (logits,) = run_onnx(tmp_path / "segnet.onnx", input)
    with torch.no_grad():
        expected = model(input)
    # Rounding decides between two maxima of a window, or two classes, that are as good as equal.
    assert (logits.argmax(1) != expected.argmax(1)).float().mean() < 1e-3
    assert (logits - expected).abs().mean() < 1e-5


@needs_onnx
def test_layers_of_torch_export_once_accelerated(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.PixelShuffle(2))
    segfast.export(segfast.accelerate(model), tmp_path / "model.onnx")
    input = torch.randn(1, 1, 20, 30)
    with torch.no_grad():
        torch.testing.assert_close(run_onnx(tmp_path / "model.onnx", input)[0], model(input))


@needs_onnx
def test_the_file_tells_its_metadata_and_nothing_of_the_machine(tmp_path: Path) -> None:
    import onnxruntime

    model = nn.Conv2d(3, 2, 1)
    metadata = {"classes": ["sky", "road"], "model": "plain"}
    segfast.export(model, tmp_path / "model.onnx", metadata=metadata)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    texts = session.get_modelmeta().custom_metadata_map
    assert json.loads(texts["classes"]) == ["sky", "road"] and texts["model"] == "plain"
    assert str(Path(__file__).parent).encode() not in (tmp_path / "model.onnx").read_bytes()


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = build("unet", FAMILIES["unet"]).train().to(memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    segfast.export(model, tmp_path / "model.pt2", format="pt2")
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) and value.stride() == before[key].stride()


def test_pt2_loads_where_segfast_is(tmp_path: Path) -> None:
    model = build("segnet_basic", {"width": 4}).eval()
    path = tmp_path / "model.pt2"
    segfast.export(model, path, format="pt2", metadata={"classes": ["a", "b"]})
    extra = {"segfast.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["segfast.json"]) == {"classes": ["a", "b"]}
    assert any(
        node.target is torch.ops.segfast.max_pool2d_with_codes.default
        for node in program.graph.nodes
    )
    with torch.no_grad():
        input = images(45, 51, batch=3)
        torch.testing.assert_close(program.module()(input), model(input), **CLOSE)


@pytest.mark.nightly
def test_aot_inductor(tmp_path: Path) -> None:
    model = build("segnet_basic", {"width": 4}).eval()
    segfast.export(model, tmp_path / "model.pt2", format="aoti")
    package = torch._inductor.aoti_load_package(tmp_path / "model.pt2")
    with torch.no_grad():
        input = images(45, 51, batch=3)
        torch.testing.assert_close(package(input), model(input), **CLOSE)


def test_what_cannot_be_exported_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Branches(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) if input.sum() > 0 else input

    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match='must be "onnx", "pt2" or "aoti", received \'tflite\''):
        segfast.export(nn.Conv2d(3, 3, 1), path, format="tflite")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Linear has no Conv2d .* pass example"):
        segfast.export(nn.Linear(3, 3), path)
    with pytest.raises(ExportError, match="torch.export cannot follow the model: .*") as caught:
        segfast.export(Branches(3, 3, 1), path)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'segfast\[export\]'"):
        segfast.export(nn.Conv2d(3, 3, 1), path)
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segfast import _onnx_ops

    def average(input: Any, window: Any, ceil_mode: bool) -> Any:
        return _onnx_ops.op.AveragePool(input, kernel_shape=window[:2], strides=window[2:4])

    op = torch.ops.segfast.max_pool2d.default
    monkeypatch.setitem(_onnx_ops.TRANSLATIONS, op, average)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), segfast.nn.MaxPool2d(2))
    with pytest.raises(ExportError, match="onnxruntime computes other logits"):
        segfast.export(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_a_file_that_is_wrong_at_another_size_is_not_written(tmp_path: Path) -> None:
    class Ceil(nn.Conv2d):
        """Python rounds down, ONNX towards zero: the same at the example's even sizes alone."""

        def forward(self, input: Tensor) -> Tensor:
            size = [-(-extent // 2) for extent in input.shape[-2:]]
            return nn.functional.interpolate(super().forward(input), size)

    with pytest.raises(ExportError, match=r"logits of shape .* for an input \[2, 3, 75, 109\]"):
        segfast.export(Ceil(3, 3, 1), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_example_input() -> None:
    assert example_input(build("unet_paper", {"width": 2}), batch=2).shape == (2, 3, 188, 188)
    assert example_input(nn.Conv2d(4, 1, 1).half(), height=8).shape == (1, 4, 8, 96)
    assert example_input(nn.Conv2d(4, 1, 1).half()).dtype == torch.float16
