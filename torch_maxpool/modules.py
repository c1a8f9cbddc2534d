"""Max pooling modules that replace torch.nn's: same constructors, attributes, repr and pickling, and ``exact``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from torch_maxpool.functional import flat_padding, max_pool1d, max_pool2d, max_pool3d

__all__ = ["MaxPool1d", "MaxPool2d", "MaxPool3d"]


class _ExactMixin:
    """The constructor and repr that the three modules share on top of torch.nn's."""

    __constants__ = [*nn.MaxPool1d.__constants__, "exact"]

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        exact: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
        if isinstance(padding, (list, tuple)):
            self.padding = tuple(flat_padding(padding, type(self).__name__))
        self.exact = exact

    def extra_repr(self) -> str:
        return super().extra_repr() + (", exact=True" if self.exact else "")


class MaxPool1d(_ExactMixin, nn.MaxPool1d):
    """``torch.nn.MaxPool1d`` on :func:`torch_maxpool.max_pool1d`.

    ``padding`` takes every form that function does (pairs are kept flat, begins then ends); ``exact=True`` refuses
    sizes that the windows do not tile.
    """

    def forward(self, input: Tensor):
        return max_pool1d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            exact=self.exact,
        )


class MaxPool2d(_ExactMixin, nn.MaxPool2d):
    """``torch.nn.MaxPool2d`` on :func:`torch_maxpool.max_pool2d`; see :class:`MaxPool1d`."""

    def forward(self, input: Tensor):
        return max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            exact=self.exact,
        )


class MaxPool3d(_ExactMixin, nn.MaxPool3d):
    """``torch.nn.MaxPool3d`` on :func:`torch_maxpool.max_pool3d`; see :class:`MaxPool1d`."""

    def forward(self, input: Tensor):
        return max_pool3d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            exact=self.exact,
        )
