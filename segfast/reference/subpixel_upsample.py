"""Plain-PyTorch twins of subpixel_upsample, its mask and its backward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from segfast._shuffle import coarse_size, fine_size, mask_format, mask_size
from segfast._window import format_of
from segfast.reference.pixel_shuffle import lay_out, pixel_shuffle, pixel_unshuffle


def subpixel_upsample(input: Tensor, upscale_factor: int, relu: bool, blur: bool) -> Tensor:
    """The composition of PyTorch's layers."""
    output = pixel_shuffle(input.relu() if relu else input, upscale_factor)
    if blur and output.numel() > 0:
        maps = output.flatten(0, -4) if output.dim() > 4 else output
        output = avg_pool2d(pad(maps, (1, 0, 1, 0), mode="replicate"), 2, stride=1).view_as(output)
    return lay_out(output, format_of(input))


def subpixel_upsample_with_mask(
    input: Tensor, upscale_factor: int, blur: bool
) -> tuple[Tensor, Tensor]:
    """The same with ReLU, and the mask of where ReLU passes its gradient."""
    output = subpixel_upsample(input, upscale_factor, True, blur)
    format = format_of(input)
    fine = fine_size(input, upscale_factor, "subpixel_upsample")
    bits = _cells(~(input <= 0), upscale_factor, format == torch.channels_last).flatten(-3)
    if format == torch.channels_last:
        bits = bits.flatten(-2)
    size = mask_size(fine, upscale_factor, format)
    eights = pad(bits.to(torch.uint8), (0, -bits.shape[-1] % 8)).reshape(*size, 8)
    mask = (eights << torch.arange(8, device=input.device)).sum(-1, dtype=torch.uint8)
    return output, mask


def subpixel_upsample_masked(
    input: Tensor, mask: Tensor, upscale_factor: int, blur: bool
) -> Tensor:
    """The composition without ReLU, of ``input`` where the mask is 1 and 0 elsewhere."""
    format = mask_format(mask, input)
    kept = lay_out(_keep(input, mask, upscale_factor), format)
    return subpixel_upsample(kept, upscale_factor, False, blur)


def subpixel_upsample_backward(
    grad_output: Tensor, mask: Tensor | None, upscale_factor: int, blur: bool
) -> Tensor:
    """The derivative, summed in the order of PyTorch's layers, rounded once."""
    format = format_of(grad_output) if mask is None else mask_format(mask, grad_output)
    coarse_size(grad_output, upscale_factor, "subpixel_upsample_backward")
    grad = grad_output.contiguous(memory_format=format)
    if blur and grad.numel() > 0:
        grad = _blur_backward(grad)
    grad_input = pixel_unshuffle(grad, upscale_factor)
    if mask is not None:
        grad_input = _keep(grad_input, mask, upscale_factor)
    return lay_out(grad_input, format)


def _blur_backward(grad_output: Tensor) -> Tensor:
    accumulate = torch.float64 if grad_output.dtype == torch.float64 else torch.float32
    quarters = pad(grad_output.to(accumulate) / 4, (1, 1, 1, 1))
    # AvgPool2d's derivative, [..., H + 1, W + 1]: the replicated edges are still apart.
    padded = (quarters[..., :-1, :-1] + quarters[..., :-1, 1:] + quarters[..., 1:, :-1]) + quarters[
        ..., 1:, 1:
    ]
    grad = padded[..., 1:, 1:].clone()
    grad[..., 0, :] = padded[..., 0, 1:] + padded[..., 1, 1:]
    grad[..., :, 0] = padded[..., 1:, 0] + padded[..., 1:, 1]
    corner = padded[..., 0, 0] + padded[..., 0, 1] + padded[..., 1, 0] + padded[..., 1, 1]
    grad[..., 0, 0] = corner
    return grad.to(grad_output.dtype)


def _cells(coarse: Tensor, factor: int, channels_last: bool) -> Tensor:
    """[..., C * r * r, H, W] to [..., C, H, W, r, r], or [N, H, W, C, r, r] for channels_last."""
    *leading, channels, height, width = coarse.shape
    channels //= factor * factor
    cells = coarse.reshape(*leading, channels, factor, factor, height, width)
    cells = cells.movedim((-4, -3), (-2, -1))
    return cells.movedim(-5, -3) if channels_last else cells


def _keep(coarse: Tensor, mask: Tensor, factor: int) -> Tensor:
    """``coarse``, 0 where its bit of the mask is 0."""
    *leading, channels, height, width = coarse.shape
    channels //= factor * factor
    channels_last = mask_format(mask, coarse) == torch.channels_last
    bits = (mask.unsqueeze(-1) >> torch.arange(8, device=mask.device)) & 1
    row = width * factor * factor * (channels if channels_last else 1)
    bits = bits.flatten(-2)[..., :row].bool()
    if channels_last:
        cells = bits.reshape(*leading, height, width, channels, factor, factor).movedim(-3, -5)
    else:
        cells = bits.reshape(*leading, channels, height, width, factor, factor)
    keep = cells.movedim((-2, -1), (-4, -3)).flatten(-5, -3)
    return coarse.masked_fill(~keep, 0)
