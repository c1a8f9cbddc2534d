"""What torch.compile is left to do itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _only(value: Any, allowed: tuple[int, ...]) -> int | None:
    """What all entries of an int or a list of one or two are, if it is one of `allowed`."""
    entries = [value] if isinstance(value, int) else value
    return (
        entries[0]
        if len(entries) in (1, 2) and all(entry == entries[0] and entry in allowed for entry in entries)
        else None
    )


def leaves_to_inductor(
    input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> bool:
    """Whether a 2-d pooling that is being compiled stays PyTorch's own.

    An operator is a wall for Inductor. Where its own loops are as fast as our kernels, it gains by fusing them with
    what is before and after: in channels_last, for float32, for small windows without padding, without gradient
    (measured; everywhere else our operators are faster). Values are those of ``F.max_pool2d`` when compiled: which of
    0 and -0 a window gives may differ.
    """
    if (
        (torch.is_grad_enabled() and input.requires_grad)
        or input.dtype != torch.float32
        or input.dim() != 4
        or ceil_mode
    ):
        return False
    if input.device.type != "cpu" or input.stride(1) != 1 or input.size(1) == 1 or isinstance(padding, str):
        return False
    kernel = _only(kernel_size, (2, 3))
    if kernel is None or _only(padding, (0,)) is None or _only(dilation, (1,)) is None:
        return False
    return _only(kernel if stride is None or stride == [] else stride, (2, 3)) is not None
