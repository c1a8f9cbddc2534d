"""Functional max pooling with PyTorch's calling conventions.

Shapes: ``input`` is ``[N, C, *spatial]`` or ``[C, *spatial]``; the output has the same batch and channels and, per
spatial dimension, ``floor((size + before + after - dilation * (kernel_size - 1) - 1) / stride) + 1`` elements (``ceil``
with ``ceil_mode``, less a window that would start beyond the input and its leading padding), as
``torch.nn.functional.max_pool*d`` has it.

Dtypes: float64, float32, float16, bfloat16, uint8, int8, int16, int32, int64, bool.

Errors: ``ValueError`` for hyper-parameters out of range and for windows that do not tile the input where ``exact`` is
set ("Invalid dimensions!"), ``RuntimeError`` for ranks and shapes, ``TypeError`` for dtypes, layouts and arguments of
the wrong kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Union

import torch
from torch import Tensor
from torch._jit_internal import boolean_dispatched
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary

from torch_maxpool import _C
from torch_maxpool.compiling import tell_inductor

__all__ = ["max_pool1d", "max_pool2d", "max_pool3d"]

Ints = Union[int, Sequence[int]]
Padding = Union[int, Sequence[int], Sequence[tuple[int, int]], str]
Result = Union[Tensor, tuple[Tensor, Tensor]]

_OPS = torch.ops.torch_maxpool
_VALUES = {1: _OPS.max_pool1d, 2: _OPS.max_pool2d, 3: _OPS.max_pool3d}
_WITH_INDICES = {
    1: _OPS.max_pool1d_with_indices,
    2: _OPS.max_pool2d_with_indices,
    3: _OPS.max_pool3d_with_indices,
}


def flat_padding(padding: Any, name: str) -> Any:
    """Pairs ``[(before, after), ...]`` as one list, all begins, then all ends; anything else as it is. `name`: the
    caller's, for the error."""
    if isinstance(padding, (list, tuple)) and padding and all(isinstance(pair, (list, tuple)) for pair in padding):
        if any(len(pair) != 2 for pair in padding):
            raise ValueError(f"{name}: padding must be pairs (before, after), got {padding}")
        return [pair[0] for pair in padding] + [pair[1] for pair in padding]
    return padding


def _handled(public, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, exact):
    """The call of `public`, by what `input`'s type or a mode puts in its place."""
    return handle_torch_function(
        public,
        (input,),
        input,
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        return_indices=return_indices,
        exact=exact,
    )


def _pool(public, rank, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, exact):
    if is_compiling():
        if is_dynamo_compiling():
            _substitute()
        return _TRACED[public](input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, exact=exact)
    if has_torch_function_unary(input):
        return _handled(public, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, exact)
    if return_indices:
        return _C.max_pool_with_indices(input, rank, kernel_size, stride, padding, dilation, ceil_mode, exact)
    return _C.max_pool(input, rank, kernel_size, stride, padding, dilation, ceil_mode, exact)


def max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    exact: bool = False,
) -> Result:
    """Maxima of windows along the last dimension of ``[N, C, L]`` or ``[C, L]``.

    Arguments as for :func:`max_pool2d`, with one entry where that takes two.
    """
    return _pool(max_pool1d, 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, exact)


def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    exact: bool = False,
) -> Result:
    """Maxima of windows over the last two dimensions of ``[N, C, H, W]`` or ``[C, H, W]``.

    Args:
        input: any strides; channels_last input gives channels_last output.
        kernel_size: int or one per dimension.
        stride: int or one per dimension; default ``kernel_size``.
        padding: cells around the input that never win, fewer than the effective kernel size on each side. An int, one
            int per dimension, begins then ends (``[top, left, bottom, right]``, ONNX's order), pairs
            ``[(before, after), ...]``, ``"valid"`` (none), ``"same"`` (output ``ceil(size / stride)``, the odd cell
            after: ONNX's SAME_UPPER) or ``"same_lower"`` (the odd cell before).
        dilation: int or one per dimension.
        ceil_mode: round output sizes up rather than down.
        return_indices: also return the maxima's int64 indices, flattened over the spatial sizes of ``input``; -1 for
            a window without any element of the input (possible with dilation).
        exact: refuse, with "Invalid dimensions!", sizes that the windows do not tile exactly.

    The first of equal maxima is named; a NaN wins, and the last NaN is named.
    """
    return _pool(max_pool2d, 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, exact)


def max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    exact: bool = False,
) -> Result:
    """Maxima of windows over the last three dimensions of ``[N, C, D, H, W]`` or ``[C, D, H, W]``.

    Arguments as for :func:`max_pool2d`, with three entries where that takes two; channels_last_3d is kept.
    """
    return _pool(max_pool3d, 3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, exact)


def _traced(public: Callable[..., Result], rank: int) -> Callable[..., Result]:
    """`public` for compilers. What a function that Dynamo traces reads, it compares at every call of the compiled code,
    names of modules and built-ins too, but not what is in the closure of a function like this one's."""
    values, with_indices = _VALUES[rank], _WITH_INDICES[rank]
    is_handled, handled, tell, flat = has_torch_function_unary, _handled, tell_inductor, flat_padding
    are_subclasses_on, is_mode_on = torch._C._is_torch_function_enabled, torch._C._is_torch_function_mode_enabled
    is_a, integer, sequences, name = isinstance, int, (list, tuple), public.__name__

    def traced(
        input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False, *, exact=False
    ):
        # Dynamo answers the first for subclasses alone, be they switched off or not.
        if (is_handled(input) and are_subclasses_on()) or is_mode_on():
            return handled(public, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, exact)
        tell()
        # Ints in lists: Dynamo may hold one as a SymInt, which the operators' schemas take in lists only.
        kernel_size = [kernel_size] if is_a(kernel_size, integer) else kernel_size
        stride = [stride] if is_a(stride, integer) else stride
        if is_a(padding, integer):
            padding = [padding]
        elif is_a(padding, sequences) and padding and is_a(padding[0], sequences):
            padding = flat(padding, name)
        dilation = [dilation] if is_a(dilation, integer) else dilation
        operator = with_indices if return_indices else values
        return operator(input, kernel_size, stride, padding, dilation, ceil_mode, exact=exact)

    return traced


_TRACED = {function: _traced(function, rank) for rank, function in ((1, max_pool1d), (2, max_pool2d), (3, max_pool3d))}
_to_substitute = dict(_TRACED)


def _substitute() -> bool:
    """Has Dynamo trace those of _TRACED in place of the public functions from now on, also in what it traces now: not
    before, since this loads Dynamo."""
    from torch._dynamo.exc import UnspecializeRestartAnalysis

    if not _to_substitute:
        return True
    while _to_substitute:
        function, traced = _to_substitute.popitem()
        torch.compiler.substitute_in_graph(function)(traced)
    raise UnspecializeRestartAnalysis(restart_reason="torch_maxpool's functions have another form for Dynamo")


_substitute._dynamo_marked_constant = True

# TorchScript compiles a call of one of these functions to the operator that its constant return_indices picks, the way
# torch.nn.functional's own functions are compiled.
for _rank, _function in ((1, max_pool1d), (2, max_pool2d), (3, max_pool3d)):
    boolean_dispatched[_function] = {
        "if_true": _WITH_INDICES[_rank],
        "if_false": _VALUES[_rank],
        "index": 6,
        "default": False,
        "arg_name": "return_indices",
    }
