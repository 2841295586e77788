"""subpixel_upsample and its layer: the values and gradients of PyTorch's layers; what it owes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator

import pytest
import torch
from cases import FLOATS, LAYOUTS, lay_out, random_map
from op_tester import Arguments, OpTester, assert_same, saved_by
from torch import Tensor

import segfast
from segfast import functional as F
from segfast.nn.init import icnr_
from segfast.reference import subpixel_upsample as twin

# [N, C, H, W] before the channels are multiplied by r * r.
SHAPES = {
    "odd everything": (2, 3, 5, 7),
    "whole vectors in NCHW and channels_last": (1, 16, 4, 32),
    "more than one tile along a row": (1, 2, 3, 300),
    "more than one tile along the channels": (1, 133, 3, 2),
    "one pixel: all edges at once": (1, 1, 1, 1),
    "one row": (1, 3, 1, 6),
    "one column": (1, 3, 6, 1),
    "an empty batch": (0, 2, 3, 4),
}
MODES = [(True, True), (True, False), (False, True), (False, False)]


def torch_layers(input: Tensor, factor: int, relu: bool, blur: bool) -> Tensor:
    """What fastai's PixelShuffle_ICNR runs after its convolution."""
    output = torch.nn.functional.pixel_shuffle(input.relu() if relu else input, factor)
    if blur:
        output = torch.nn.functional.pad(output, (1, 0, 1, 0), mode="replicate")
        output = torch.nn.functional.avg_pool2d(output, 2, stride=1)
    return output


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("relu", "blur"), MODES)
def test_equals_torch(
    device: torch.device, dtype: torch.dtype, layout: str, relu: bool, blur: bool
) -> None:
    for n, c, h, w in SHAPES.values():
        for r in (1, 2, 3):
            input = lay_out(random_map((n, c * r * r, h, w), dtype, device), layout)
            output = F.subpixel_upsample(input, r, relu, blur)
            assert_same(output, twin.subpixel_upsample(input, r, relu, blur))
            expected = torch_layers(input, r, relu, blur)
            torch.testing.assert_close(output, expected, rtol=0, atol=0, equal_nan=True)

            mine = input.clone().requires_grad_()
            result = F.subpixel_upsample(mine, r, relu, blur)
            assert_same(result, output)
            grad_output = torch.randn(output.shape, dtype=torch.float64).to(output)
            (grad,) = torch.autograd.grad(result, mine, grad_output)
            mask = torch.ops.segfast.subpixel_upsample_with_mask(input, r, blur)[1]
            mask = mask if relu else None
            expected = twin.subpixel_upsample_backward(grad_output, mask, r, blur)
            torch.testing.assert_close(grad, expected, rtol=0, atol=0)
            # PyTorch rounds a 16-bit gradient up to three times, we once; on CUDA its
            # replication_pad2d_backward adds in any order.
            exact = dtype.itemsize >= 4 and device.type == "cpu"
            eps = 0.0 if exact else 4 * torch.finfo(dtype).eps
            if n == 0:
                continue  # torch 2.14 gives an empty pixel_shuffle's gradient the wrong shape
            theirs = input.clone().requires_grad_()
            torch_layers(theirs, r, relu, blur).backward(grad_output)
            assert theirs.grad is not None
            torch.testing.assert_close(grad, theirs.grad, rtol=eps, atol=eps, check_stride=False)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_equal_their_twin(device: torch.device, dtype: torch.dtype, layout: str) -> None:
    for n, c, h, w in SHAPES.values():
        for r in (1, 2, 3):
            input = lay_out(random_map((n, c * r * r, h, w), dtype, device), layout)
            for blur in (False, True):
                result = torch.ops.segfast.subpixel_upsample_with_mask(input, r, blur)
                assert_same(result, twin.subpixel_upsample_with_mask(input, r, blur))
                mask = result[1]
                assert_same(
                    torch.ops.segfast.subpixel_upsample_masked(input, mask, r, blur),
                    twin.subpixel_upsample_masked(input, mask, r, blur),
                )


def test_mask_is_packed_as_documented() -> None:
    input = -torch.ones(1, 8, 1, 3)  # two fine channels, three cells
    input[0, 0, 0, 0] = 1  # bit 0 of channel 0's row
    input[0, 3, 0, 1] = 1  # cell 1, subpixel 3: bit 7
    input[0, 6, 0, 2] = torch.nan  # channel 1, cell 2, subpixel 2: bit 10
    with_mask = torch.ops.segfast.subpixel_upsample_with_mask
    _, mask = with_mask(input, 2, True)
    assert mask.tolist() == [[[[0b10000001, 0]], [[0, 0b100]]]]
    _, mask = with_mask(input.contiguous(memory_format=torch.channels_last), 2, True)
    # Bits of [width, channels, 2, 2]: 0; 8 + 3; 16 + 4 + 2.
    assert mask.tolist() == [[[0b1, 0b1000, 0b1000000]]]


def test_negative_zero_and_nan_are_torchs(device: torch.device) -> None:
    values = torch.tensor([-0.0, 0.0, torch.nan, -torch.inf, torch.inf, -1e-45, 1e-45, 3e38])
    input = values.repeat(8, 4)[None].permute(0, 2, 1)[..., None].contiguous().to(device)
    for relu, blur in MODES:
        actual = F.subpixel_upsample(input, 2, relu, blur)
        expected = torch_layers(input, 2, relu, blur)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
        if device.type == "cpu" and blur:
            assert torch.equal(actual.signbit(), expected.signbit())


@pytest.mark.parametrize(("relu", "blur"), MODES)
def test_forward_mode_of_what_also_requires_grad(
    device: torch.device, relu: bool, blur: bool
) -> None:
    """Both derivatives of one call: the mask is kept for the one and used by the other."""
    input, tangent = torch.randn(2, 2, 8, 3, 5, dtype=torch.float64, device=device)
    _, expected = torch.func.jvp(lambda x: torch_layers(x, 2, relu, blur), (input,), (tangent,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(input.requires_grad_(), tangent)
        output = F.subpixel_upsample(dual, 2, relu, blur)
        actual = torch.autograd.forward_ad.unpack_dual(output).tangent
    torch.testing.assert_close(actual, expected)
    (grad,) = torch.autograd.grad(output.sin().sum(), input)
    (theirs,) = torch.autograd.grad(torch_layers(input, 2, relu, blur).sin().sum(), input)
    torch.testing.assert_close(grad, theirs)


class TestSubpixelUpsample(OpTester):
    op = F.subpixel_upsample
    overloads = (
        "subpixel_upsample",
        "subpixel_upsample_with_mask",
        "subpixel_upsample_masked",
        "subpixel_upsample_backward",
    )

    def small(self) -> Iterator[Arguments]:
        # Away from 0, where ReLU has no derivative.
        def values(*shape: int) -> Tensor:
            drawn = torch.randn(shape, dtype=torch.float64)
            return drawn + 0.1 * drawn.sign()

        for relu, blur in MODES[:3]:
            yield values(2, 4, 3, 2), 2, relu, blur
        yield values(9, 2, 2), 3, True, True

    def overload_arguments(self, name: str) -> Iterator[Arguments]:
        for layout in ("channels_last", "strided"):
            input = lay_out(torch.randn(2, 8, 3, 5), layout)
            output, mask = torch.ops.segfast.subpixel_upsample_with_mask(input, 2, True)
            if name == "subpixel_upsample":
                yield input, 2, True, True
                yield input, 2, False, True
            elif name == "subpixel_upsample_with_mask":
                yield input, 2, True
            elif name == "subpixel_upsample_masked":
                yield input, mask, 2, True
            else:
                yield torch.randn_like(output), mask, 2, True
                yield torch.randn_like(output), None, 2, True


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_saves_one_bit_an_element(device: torch.device, layout: str) -> None:
    input = lay_out(torch.randn(2, 16, 6, 8, device=device), layout).requires_grad_()
    (mask,) = saved_by(lambda: F.subpixel_upsample(input, 2, relu=True, blur=True))
    assert mask.dtype == torch.uint8
    assert mask.numel() * 8 == input.numel()
    assert not saved_by(lambda: F.subpixel_upsample(input, 2, blur=True))


def test_gradient_in_another_memory_format(device: torch.device) -> None:
    input = torch.randn(2, 8, 5, 6, device=device).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(2, 2, 10, 12, device=device)
    grads = []
    for layout in LAYOUTS:
        mine = input.clone().requires_grad_()
        F.subpixel_upsample(mine, 2, relu=True, blur=True).backward(lay_out(grad, layout))
        grads.append(mine.grad)
    assert_same(grads[1], grads[0])
    assert_same(grads[2], grads[0])


def test_neither_relu_nor_blur_takes_any_dtype(device: torch.device) -> None:
    input = torch.arange(16, device=device).reshape(1, 4, 2, 2)
    assert_same(F.subpixel_upsample(input), F.pixel_shuffle(input, 2))


def test_bad_inputs() -> None:
    for device in ("cpu", "meta"):
        with pytest.raises(RuntimeError, match="input must be float32, .* or bfloat16, got"):
            F.subpixel_upsample(
                torch.zeros(1, 4, 2, 2, dtype=torch.int32, device=device), relu=True
            )
        with pytest.raises(RuntimeError, match=r"input.size\(-3\)=5 is not divisible by 4"):
            F.subpixel_upsample(torch.zeros(1, 5, 2, 2, device=device), blur=True)
        with pytest.raises(RuntimeError, match="at least 3 dimensions"):
            F.subpixel_upsample(torch.zeros(4, 2, device=device), blur=True)
        with pytest.raises(RuntimeError, match="positive upscale_factor, but got 0"):
            F.subpixel_upsample(torch.zeros(1, 4, 2, 2, device=device), 0, blur=True)
        grad = torch.zeros(1, 1, 4, 4, device=device)
        backward = torch.ops.segfast.subpixel_upsample_backward
        with pytest.raises(RuntimeError, match=r"mask must have shape \[1, 1, 2, 1\], got \[3\]"):
            backward(grad, torch.zeros(3, dtype=torch.uint8, device=device), 2, True)
        with pytest.raises(RuntimeError, match="mask must be uint8, got"):
            backward(grad, torch.zeros(1, 1, 2, 1, device=device), 2, True)
    with pytest.raises(TypeError, match="upscale_factor must be an int, got 2.0"):
        F.subpixel_upsample(torch.zeros(1, 4, 2, 2), 2.0)  # type: ignore[arg-type]
    for arguments in ((0,), (4, 0), (4, 4, 0)):
        with pytest.raises(
            ValueError, match="in_channels, out_channels and scale must be at least 1"
        ):
            segfast.nn.SubpixelUpsample(*arguments)


@pytest.mark.parametrize("scale", [2, 3])
def test_icnr_is_nearest_upsampling(scale: int) -> None:
    conv = torch.nn.Conv2d(5, 4 * scale * scale, 3, padding=1, bias=False)
    assert icnr_(conv.weight, scale) is conv.weight
    small = torch.nn.Conv2d(5, 4, 3, padding=1, bias=False)
    small.weight.data.copy_(conv.weight[:: scale * scale])
    input = torch.randn(2, 5, 6, 7)
    expected = torch.nn.functional.interpolate(small(input), scale_factor=scale, mode="nearest")
    # Two convolutions may add in different orders: a few units in the last place of float32.
    torch.testing.assert_close(F.pixel_shuffle(conv(input), scale), expected, rtol=1e-5, atol=1e-6)


def test_icnr_draws_with_the_initializer() -> None:
    weight = torch.empty(8, 3, 1, 1)
    icnr_(weight, initializer=torch.nn.init.ones_)
    assert (weight == 1).all()
    torch.manual_seed(1)
    icnr_(weight)
    torch.manual_seed(1)
    kernel = torch.nn.init.kaiming_normal_(torch.empty(2, 3, 1, 1))
    assert torch.equal(weight, kernel.repeat_interleave(4, 0))
    with pytest.raises(ValueError, match=r"scale \* scale = 9 divides .* got shape \[8, 3, 1, 1\]"):
        icnr_(weight, 3)
    for bad, scale in ((weight, 0), (torch.empty(8), 2)):
        with pytest.raises(ValueError, match="divides and at least 2 dimensions, got shape"):
            icnr_(bad, scale)


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("blur", [True, False])
@pytest.mark.parametrize("scale", [2, 3])
def test_layer_is_fastais(weight_norm: bool, blur: bool, scale: int) -> None:
    layer = segfast.nn.SubpixelUpsample(6, 4, scale, blur=blur, weight_norm=weight_norm)
    keys = (
        {
            "conv.bias",
            "conv.parametrizations.weight.original0",
            "conv.parametrizations.weight.original1",
        }
        if weight_norm
        else {"conv.bias", "conv.weight"}
    )
    assert set(layer.state_dict()) == keys
    assert not layer.conv.bias.any()
    weight = layer.conv.weight.detach()
    assert torch.equal(weight, weight[:: scale * scale].repeat_interleave(scale * scale, 0))

    theirs = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(6, 4 * scale * scale, 1), torch.nn.ReLU()),
        torch.nn.PixelShuffle(scale),
        *([torch.nn.ReplicationPad2d((1, 0, 1, 0)), torch.nn.AvgPool2d(2, stride=1)] * blur),
    )
    theirs[0][0].weight.data.copy_(weight)
    theirs[0][0].bias.data.zero_()
    input = torch.randn(2, 6, 5, 4)
    assert_same(layer(input), theirs(input))


def test_layer_is_made_where_and_as_asked() -> None:
    layer = segfast.nn.SubpixelUpsample(4, device="meta", dtype=torch.float64)
    assert {(x.device.type, x.dtype) for x in layer.parameters()} == {("meta", torch.float64)}


@pytest.mark.parametrize("bias", [True, False])
def test_layer_with_weight_norm_is_pickled(bias: bool) -> None:
    """As fastai's is, whose learners are exported by pickle, and torch.save of a whole model."""
    layer = segfast.nn.SubpixelUpsample(4, 3, blur=True, bias=bias).eval()
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    input = torch.randn(1, 4, 5, 3)
    for again in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(layer))):
        again = pickle.loads(pickle.dumps(copy.deepcopy(again)))
        assert torch.equal(again(input), layer(input)) and not again.training
        assert repr(again) == repr(layer)
        again(input).sum().backward()  # and it learns
        assert again.state_dict().keys() == layer.state_dict().keys()
        assert all(p.grad is not None for p in again.parameters())


def test_layer_defaults() -> None:
    layer = segfast.nn.SubpixelUpsample(8)
    assert layer(torch.randn(1, 8, 3, 3)).shape == (1, 8, 6, 6)
    assert "scale=2, blur=False, relu=True" in repr(layer)
    assert segfast.nn.SubpixelUpsample(8, 2, bias=False, relu=False).conv.bias is None


@pytest.mark.nightly
@pytest.mark.xdist_group("huge")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_more_than_2_31_elements(device: torch.device, layout: str) -> None:
    # 2^31 + 2^18 half-precision elements; the last cell holds the only positive value.
    input = torch.zeros(1, 4, 32772, 16384, dtype=torch.float16, device=device)
    if layout == "channels_last":
        input = input.contiguous(memory_format=torch.channels_last)
    input[0, 3, -1, -1] = 4
    output, mask = torch.ops.segfast.subpixel_upsample_with_mask(input, 2, True)
    assert output[0, 0, -1, -1] == 1
    assert output.count_nonzero() == 1
    assert mask.count_nonzero() == 1
    grad = torch.ops.segfast.subpixel_upsample_backward(output, mask, 2, True)
    assert grad[0, 3, -1, -1] == 0.25
    assert grad.count_nonzero() == 1
