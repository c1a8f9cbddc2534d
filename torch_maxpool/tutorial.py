"""The max-pool layer of the deepnet tutorial, on this package's operators.

A drop-in for the tutorial's ``Maxpool``: the same constructor, attributes and two methods, NumPy arrays in and out. It
differs in one point: where a window holds NaNs, the last of them wins, as in PyTorch (NumPy's argmax names the first).
"""

from __future__ import annotations

import operator
import warnings

import numpy as np
import torch

__all__ = ["Maxpool"]


def _as_tensor(array):
    """A tensor on the array's memory; a copy only where PyTorch cannot view it (negative strides, byte order)."""
    if isinstance(array, torch.Tensor):
        return array
    array = np.asarray(array)
    if not array.dtype.isnative or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # A read-only array is only ever read here.
        warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
        return torch.from_numpy(array)


class Maxpool:
    """Max pooling without padding over windows that tile the input exactly; the depth is untouched.

    Args:
        X_dim: ``(depth, height, width)`` of the input.
        size: extent of the square window.
        stride: step of the window.

    Raises:
        Exception: "Invalid dimensions!" where ``(height - size) / stride + 1`` or ``(width - size) / stride + 1`` is
            not a positive whole number.
    """

    def __init__(self, X_dim, size, stride):
        self.d_X, self.h_X, self.w_X = (operator.index(n) for n in X_dim)
        self.params = []
        self.size = operator.index(size)
        self.stride = operator.index(stride)
        if self.size < 1 or self.stride < 1:
            raise Exception("Invalid dimensions!")
        for extent in (self.h_X, self.w_X):
            if extent < self.size or (extent - self.size) % self.stride:
                raise Exception("Invalid dimensions!")
        self.h_out = (self.h_X - self.size) // self.stride + 1
        self.w_out = (self.w_X - self.size) // self.stride + 1
        self.out_dim = (self.d_X, self.h_out, self.w_out)

    def _window(self):
        return [self.size, self.size], [self.stride, self.stride], [0, 0], [1, 1], False

    def forward(self, X):
        """Maxima of the windows of ``X`` (``[n, depth, height, width]``) as ``[n, *out_dim]``, of its kind and dtype.

        Keeps each window's winner, one byte each for windows of up to 256 elements, and not ``X``.
        """
        tensor = _as_tensor(X)
        if tuple(tensor.shape[1:]) != (self.d_X, self.h_X, self.w_X) or tensor.dim() != 4:
            expected = f"[n, {self.d_X}, {self.h_X}, {self.w_X}]"
            raise ValueError(f"Maxpool: X must be {expected}, got {list(tensor.shape)}")
        self.n_X = tensor.shape[0]
        self._dtype = tensor.dtype
        output, self.offsets = torch.ops.torch_maxpool.maxpool_forward(tensor, *self._window(), exact=True)
        return output if isinstance(X, torch.Tensor) else output.numpy()

    def backward(self, dout):
        """``(dX, [])``: each element of ``dout`` ``[n, *out_dim]`` added to the element that won its window.

        ``dX`` has the dtype of the ``X`` last seen by :meth:`forward` where that is floating point, else ``dout``'s.
        """
        grad = _as_tensor(dout)
        if self._dtype.is_floating_point:
            grad = grad.to(self._dtype)
        spatial_size = [self.h_X, self.w_X]
        dX = torch.ops.torch_maxpool.maxpool_backward(grad, self.offsets, spatial_size, *self._window())
        return (dX if isinstance(dout, torch.Tensor) else dX.numpy()), []
