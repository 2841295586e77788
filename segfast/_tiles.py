"""Sliding windows over maps of any size: where the tiles lie, and how their scores are blended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

#: Tile columns that are blended at a time: what bounds the memory for a wide image. One column more
#: is scored twice at each seam.
STRIP = 16
#: Of the Gaussian's width to the tile's, as in nnU-Net (Isensee et al. 2021, Nature Methods).
SIGMA = 1 / 8
#: The least weight, at a tile's corner where no other tile may lie.
LEAST = 1e-3


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along an axis: evenly spread, overlapping at least so much."""
    if length <= tile:
        return [0]
    stride = max(1, math.floor(tile * (1 - overlap)))
    last = math.ceil((length - tile) / stride)
    return [round(step * (length - tile) / last) for step in range(last + 1)]


def gaussian(tile: int) -> Tensor:
    """Weights [tile] along one axis: most at the middle, where a model sees most around a pixel."""
    distance = torch.arange(tile) - (tile - 1) / 2
    return torch.exp(-0.5 * (distance / (SIGMA * tile)) ** 2).clamp(min=LEAST)


def _coverage(length: int, starts: Sequence[int], weight: Tensor) -> Tensor:
    """The sum of all tiles' weights at each position [length]."""
    total = torch.zeros(length)
    for start in starts:
        total[start : start + len(weight)] += weight
    return total


def blend(
    score: Callable[[list[tuple[int, int]]], Tensor],
    size: tuple[int, int],
    tile: tuple[int, int],
    overlap: float,
    batch_size: int,
) -> Iterator[tuple[int, int, Tensor]]:
    """Scores of a map of ``size``, piece by piece, each the mean of its tiles' by Gaussian weight.

    Args:
        score: the scores [n, classes, *tile] of n tiles, given the (row, column) each begins at.
        size, tile: (height, width); a tile is no larger than the map.
        overlap: the share of a tile's side that its neighbour covers, too.
        batch_size: tiles scored at a time.

    Yields:
        (row, column, scores [classes, h, w]) of pieces that cover the map once. What is held at a
        time depends on the tile and the batch alone, not on the map's height or width.
    """
    rows, columns = (tile_starts(*pair, overlap) for pair in zip(size, tile, strict=True))
    (height, width), (tile_height, tile_width) = size, tile
    weight_y, weight_x = gaussian(tile_height), gaussian(tile_width)
    total_y, total_x = (
        _coverage(*args) for args in ((height, rows, weight_y), (width, columns, weight_x))
    )
    for first in range(0, len(columns), STRIP):
        left = columns[first]
        right = columns[first + STRIP] if first + STRIP < len(columns) else width
        across = [x for x in columns if x < right and x + tile_width > left]
        band: Tensor | None = None  # [classes, tile_height, right - left]: sums not yet complete
        for y, bottom in zip(rows, [*rows[1:], height], strict=True):
            for start in range(0, len(across), batch_size):
                batch = across[start : start + batch_size]
                scores = score([(y, x) for x in batch])
                if band is None:
                    band = scores.new_zeros(scores.shape[1], tile_height, right - left)
                    weight = (weight_y[:, None] * weight_x).to(scores)
                    totals = total_y.to(scores)[:, None], total_x.to(scores)[left:right]
                for x, values in zip(batch, scores * weight, strict=True):
                    low, high = max(x, left), min(x + tile_width, right)
                    band[..., low - left : high - left] += values[..., low - x : high - x]
            assert band is not None
            done = bottom - y
            yield y, left, band[:, :done] / (totals[0][y:bottom] * totals[1])
            band = torch.cat([band[:, done:], torch.zeros_like(band[:, :done])], dim=1)
