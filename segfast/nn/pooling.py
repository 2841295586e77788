"""Pooling layers: torch's, and those that keep codes in place of indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segfast import functional as F
from segfast.nn._script import refuse_script


class MaxPool2d(torch.nn.MaxPool2d):
    """Drop-in for :class:`torch.nn.MaxPool2d`. See :func:`segfast.functional.max_pool2d`."""

    __prepare_scriptable__ = refuse_script

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return F.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )


class MaxUnpool2d(torch.nn.MaxUnpool2d):
    """Drop-in for :class:`torch.nn.MaxUnpool2d`. See :func:`segfast.functional.max_unpool2d`."""

    __prepare_scriptable__ = refuse_script

    def forward(
        self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        return F.max_unpool2d(
            input, indices, self.kernel_size, self.stride, self.padding, output_size
        )


class MaxPool2dWithCodes(torch.nn.Module):
    """Max pooling that returns codes. See :func:`segfast.functional.max_pool2d_with_codes`."""

    __prepare_scriptable__ = refuse_script

    def __init__(
        self,
        kernel_size: int | tuple[int, int] = 2,
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        return F.max_pool2d_with_codes(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxUnpool2dWithCodes(torch.nn.Module):
    """Unpooling from codes. See :func:`segfast.functional.max_unpool2d_with_codes`."""

    __prepare_scriptable__ = refuse_script

    def __init__(
        self,
        kernel_size: int | tuple[int, int] = 2,
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation

    def forward(
        self, input: Tensor, codes: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        return F.max_unpool2d_with_codes(
            input, codes, self.kernel_size, self.stride, self.padding, self.dilation, output_size
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}"
        )
