"""What segfast's ops are in ONNX: standard operators only, for any batch and size.

Each function takes the arguments of ``torch.ops.segfast.<op>``, tensors as ONNX values, and returns
ONNX values; ``torch.onnx.export`` calls it where the graph calls the op. Needs the extra export.

A window's maximum and where it stood are found by comparing the window's taps in turn, which gives
exactly the kernels' answer (the first of equal maxima, the last NaN), where ONNX's MaxPool leaves
NaN open. Values go back by comparing each pixel's place in its window with the code, for 2x2
windows, or by ScatterElements. All of it is element by element, so that every runtime has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnxscript import INT64, ir, opset18

from segfast._window import CODES_PER_BYTE, is_2x2

op: Any = opset18  # its annotations want each value's very type
Value = Any  # of ONNX
#: Sizes among which there may be unknown ones. The exporter takes lists of numbers for attributes,
#: which hold none; it passes anything where a tensor is asked for.
Sizes = INT64

_PLACES = np.array([1, 4, 16, 64], np.int32)  # of the four codes in a byte


def _ints(*values: int) -> Value:
    return op.Constant(value_ints=list(values))


def _one(sizes: Any) -> Value:
    """One vector of sizes, some of which may be known only when the file runs."""
    parts = [_ints(n) if isinstance(n, int) else op.Reshape(n, _ints(1)) for n in sizes]
    return op.Concat(*parts, axis=0)


def _size(map: Value) -> Value:
    """[H, W] of a map."""
    return op.Shape(map, start=-2)


def _planes(map: Value) -> Value:
    """The sizes before [H, W]."""
    return op.Shape(map, end=-2)


def _batched(layer: Callable[[Value], Value], input: Value) -> Value:
    """``layer`` of [N, C, H, W], for [C, H, W] as well."""
    if len(input.shape) == 4:
        return layer(input)
    return op.Squeeze(layer(op.Unsqueeze(input, _ints(0))), _ints(0))


def _pooled_size(input: Value, window: Sequence[int], ceil_mode: bool) -> Value:
    """[OH, OW]: see ``_window.pooled_size``."""
    kernel, stride, pad, dilation = (window[i : i + 2] for i in (0, 2, 4, 6))
    size = _size(input)
    span = [
        2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)
        for k, s, p, d in zip(kernel, stride, pad, dilation, strict=True)
    ]
    count = op.Add(op.Div(op.Add(size, _ints(*span)), _ints(*stride)), _ints(1))
    if not ceil_mode:
        return count
    begin = op.Mul(op.Sub(count, _ints(1)), _ints(*stride))
    beyond = op.GreaterOrEqual(begin, op.Add(size, _ints(*pad)))
    return op.Sub(count, op.Cast(beyond, to=ir.DataType.INT64))


def _winners(input: Value, window: Sequence[int], ceil_mode: bool) -> tuple[Value, Value]:
    """Maxima and the taps they stood at, int32, both [..., OH, OW]."""
    kh, kw, sh, sw, ph, pw, dh, dw = window
    strides = _ints(sh, sw)
    count = _pooled_size(input, window, ceil_mode)
    reach = op.Mul(op.Sub(count, _ints(1)), strides)  # from the first window to the last
    end = op.Add(reach, _ints((kh - 1) * dh + 1, (kw - 1) * dw + 1))
    after = op.Sub(end, op.Add(_size(input), _ints(ph, pw)))
    axes = _ints(-2, -1)
    lowest = op.CastLike(op.Constant(value_float=float("-inf")), input)
    padded = op.Pad(input, op.Concat(_ints(ph, pw), after, axis=0), lowest, axes)
    steps = op.Add(reach, _ints(1))
    value = taps = None
    for tap in range(kh * kw):
        begin = _ints(tap // kw * dh, tap % kw * dw)
        here = op.Slice(padded, begin, op.Add(begin, steps), axes, strides)
        number = op.Constant(value=ir.tensor(np.array(tap, np.int32)))
        if value is None:
            value, taps = here, op.Expand(number, op.Shape(here))
        else:
            wins = op.Or(op.Greater(here, value), op.IsNaN(here))
            value, taps = op.Where(wins, here, value), op.Where(wins, number, taps)
    return value, taps


def _indices(taps: Value, window: Sequence[int], size: Value) -> Value:
    """Taps [..., OH, OW] of a map of ``size`` [2] to torch's indices, y * W + x, int64."""
    _, kw, sh, sw, ph, pw, dh, dw = window
    taps = op.Cast(taps, to=ir.DataType.INT64)
    height, width = op.Split(size, num_outputs=2, axis=0)
    zero, one = (op.Constant(value_int=n) for n in (0, 1))
    counts = op.Split(_size(taps), num_outputs=2, axis=0)
    row, column = (op.Range(zero, op.Squeeze(count, _ints(0)), one) for count in counts)
    row = op.Unsqueeze(row, _ints(1))
    y = op.Add(
        op.Sub(op.Mul(row, _ints(sh)), _ints(ph)), op.Mul(op.Div(taps, _ints(kw)), _ints(dh))
    )
    x = op.Add(
        op.Sub(op.Mul(column, _ints(sw)), _ints(pw)), op.Mul(op.Mod(taps, _ints(kw)), _ints(dw))
    )
    # Padding wins only where all the window is -inf; then torch names the first tap inside.
    y, x = op.Max(y, _ints(0)), op.Max(x, _ints(0))
    return op.Add(op.Mul(y, width), x)


def _to_codes(taps: Value, window: Sequence[int]) -> Value:
    """Taps to the codes of a contiguous map: see ``_window.codes_shape``."""
    if not is_2x2(window):
        return op.Cast(taps, to=ir.DataType.UINT8)
    ow = op.Shape(taps, start=-1)
    missing = op.Mod(op.Neg(ow), _ints(CODES_PER_BYTE))
    pads = op.Concat(_ints(0), missing, axis=0)
    runs = op.Pad(taps, pads, None, _ints(-1))
    shape = op.Concat(_planes(taps), _ints(-1, CODES_PER_BYTE), axis=0)
    places = op.Constant(value=ir.tensor(_PLACES))
    bytes = op.ReduceSum(op.Mul(op.Reshape(runs, shape), places), _ints(-1), keepdims=0)
    return op.Cast(bytes, to=ir.DataType.UINT8)


def _to_taps(codes: Value, input: Value, window: Sequence[int]) -> Value:
    """The inverse, int32 of the shape of ``input``."""
    codes = op.Cast(codes, to=ir.DataType.INT32)
    if not is_2x2(window):
        return codes
    places = op.Constant(value=ir.tensor(_PLACES))
    four = op.Constant(value=ir.tensor(np.array(4, np.int32)))
    taps = op.Mod(op.Div(op.Unsqueeze(codes, _ints(-1)), places), four)
    taps = op.Reshape(taps, op.Concat(op.Shape(input, end=-1), _ints(-1), axis=0))
    return op.Slice(taps, _ints(0), op.Shape(input, start=-1), _ints(-1))


def _unpool_2x2(input: Value, taps: Value, output_size: Value) -> Value:
    """Each value to its place in its own 2x2 pixels."""
    between = _ints(-3, -1)  # [..., OH, 1, OW, 1]
    places = op.Constant(
        value=ir.tensor(np.array([[[0], [1]], [[2], [3]]], np.int32).reshape(2, 1, 2))
    )
    here = op.Equal(op.Unsqueeze(taps, between), places)
    zero = op.CastLike(op.Constant(value_float=0.0), input)
    blocks = op.Where(here, op.Unsqueeze(input, between), zero)
    fine = op.Mul(_size(input), _ints(2))
    map = op.Reshape(blocks, op.Concat(_planes(input), fine, axis=0))
    # At odd sizes a row or column too many (ceil_mode) or too few.
    pads = op.Concat(_ints(0, 0), op.Sub(output_size, fine), axis=0)
    return op.Pad(map, pads, None, _ints(-2, -1))


def _scatter(input: Value, indices: Value, output_size: Value) -> Value:
    """Each value to where its index points, the last of several."""
    planes = _planes(input)
    pixels = op.ReduceProd(output_size, keepdims=1)
    flat = op.Concat(planes, _ints(-1), axis=0)
    values, targets = op.Reshape(input, flat), op.Reshape(indices, flat)
    zero, one = (op.Constant(value_int=n) for n in (0, 1))
    count = op.Shape(values, start=-1)
    order = op.Expand(op.Range(zero, op.Squeeze(count, _ints(0)), one), op.Shape(values))
    nobody = op.Expand(_ints(-1), op.Concat(planes, pixels, axis=0))
    last = op.ScatterElements(nobody, targets, order, axis=-1, reduction="max")
    found = op.GatherElements(values, op.Max(last, _ints(0)), axis=-1)
    output = op.Where(op.Less(last, _ints(0)), op.CastLike(_ints(0), input), found)
    return op.Reshape(output, op.Concat(planes, output_size, axis=0))


def _max_pool2d(input: Value, window: Sequence[int], ceil_mode: bool) -> Value:
    kernel, stride, pad, dilation = (list(window[i : i + 2]) for i in (0, 2, 4, 6))

    def pool(maps: Value) -> Value:
        output, _ = op.MaxPool(
            maps,
            kernel_shape=kernel,
            strides=stride,
            pads=2 * pad,
            dilations=dilation,
            ceil_mode=ceil_mode,
        )
        return output

    return _batched(pool, input)


def _max_pool2d_with_indices(
    input: Value, window: Sequence[int], ceil_mode: bool
) -> tuple[Value, Value]:
    value, taps = _winners(input, window, ceil_mode)
    return value, _indices(taps, window, _size(input))


def _max_pool2d_with_codes(
    input: Value, window: Sequence[int], ceil_mode: bool
) -> tuple[Value, Value]:
    value, taps = _winners(input, window, ceil_mode)
    return value, _to_codes(taps, window)


def _max_unpool2d(input: Value, indices: Value, window: Sequence[int], output_size: Sizes) -> Value:
    return _scatter(input, indices, _one(output_size))


def _max_unpool2d_with_codes(
    input: Value, codes: Value, window: Sequence[int], output_size: Sizes
) -> Value:
    taps, size = _to_taps(codes, input, window), _one(output_size)
    if is_2x2(window):
        return _unpool_2x2(input, taps, size)
    return _scatter(input, _indices(taps, window, size), size)


def _torchs_max_unpool2d(input: Value, indices: Value, output_size: Sizes) -> Value:
    return _scatter(input, indices, _one(output_size))


def _pixel_shuffle(input: Value, factor: int) -> Value:
    return _batched(lambda maps: op.DepthToSpace(maps, blocksize=factor, mode="CRD"), input)


def _subpixel_upsample(input: Value, factor: int, relu: bool, blur: bool) -> Value:
    def upsample(maps: Value) -> Value:
        maps = op.DepthToSpace(op.Relu(maps) if relu else maps, blocksize=factor, mode="CRD")
        if not blur:
            return maps
        padded = op.Pad(maps, _ints(1, 1, 0, 0), None, _ints(2, 3), mode="edge")
        return op.AveragePool(padded, kernel_shape=[2, 2], strides=[1, 1])

    return _batched(upsample, input)


def _adaptive_avg_pool2d(input: Value, output_size: Sequence[int]) -> Value:
    """Rows, then columns, each a product with a matrix: torch's own translation fixes the size."""
    size = op.Split(_size(input), num_outputs=2, axis=0)
    rows, columns = (_bins(*pair) for pair in zip(size, output_size, strict=True))
    rows, columns = op.CastLike(rows, input), op.CastLike(columns, input)
    return op.MatMul(rows, op.MatMul(input, op.Transpose(columns, perm=[1, 0])))


def _bins(size: Value, count: int) -> Value:
    """[count, size]: the mean of each bin, floor(i * size / count) to ceil((i + 1) * size / count),
    as a row."""
    bins = op.Constant(value=ir.tensor(np.arange(count)[:, None]))
    begin = op.Div(op.Mul(bins, size), _ints(count))
    end = op.Div(op.Add(op.Mul(op.Add(bins, _ints(1)), size), _ints(count - 1)), _ints(count))
    zero, one = (op.Constant(value_int=n) for n in (0, 1))
    pixels = op.Range(zero, op.Squeeze(size, _ints(0)), one)
    inside = op.And(op.GreaterOrEqual(pixels, begin), op.Less(pixels, end))
    extent = op.Cast(op.Sub(end, begin), to=ir.DataType.FLOAT)
    return op.Div(op.Cast(inside, to=ir.DataType.FLOAT), extent)


_ours: Any = torch.ops.segfast
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    _ours.max_pool2d.default: _max_pool2d,
    _ours.max_pool2d_with_indices.default: _max_pool2d_with_indices,
    _ours.max_pool2d_with_codes.default: _max_pool2d_with_codes,
    _ours.max_unpool2d.default: _max_unpool2d,
    _ours.max_unpool2d_with_codes.default: _max_unpool2d_with_codes,
    _ours.pixel_shuffle.default: _pixel_shuffle,
    _ours.subpixel_upsample.default: _subpixel_upsample,
    torch.ops.aten.max_unpool2d.default: _torchs_max_unpool2d,
    torch.ops.aten.adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
}
