"""Max pooling with offsets and its backward as loops of Inductor's own, for compiling.py.

Inductor has such loops for PyTorch's indices. These keep this package's contract: the last NaN of a window is named,
and an offset never names an element of the padding. All tensors are Inductor's, float32 or float64, of two spatial
dimensions.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch


def pooled(
    input: Any, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> tuple[Any, Any]:
    """Each window's maximum and its offset, uint8."""
    from torch._inductor.ir import Pointwise
    from torch._inductor.lowering import pooling_size
    from torch._inductor.virtualized import ops

    input.realize_hint()  # it is read once for each window
    load, dtype = input.make_loader(), input.get_dtype()
    *batch, height, width = input.get_size()
    rules = kernel, stride, padding, ceil_mode
    sizes = [pooling_size(size, i, *rules, dilation=dilation) for i, size in enumerate((height, width))]
    is_cut = any(padding) or any(is_ceiled for _, is_ceiled in sizes)

    def winner(index: Sequence[Any]) -> tuple[Any, Any]:
        *prefix, row, column = index
        value = offset = None
        for tap, (i, j) in enumerate(itertools.product(*map(range, kernel))):
            h, w = row * stride[0] + i * dilation[0] - padding[0], column * stride[1] + j * dilation[1] - padding[1]
            inside = _is_within(ops, (h, height), (w, width)) if is_cut else None
            number, none = ops.constant(tap, torch.int32), ops.constant(-1, torch.int32)
            read = functools.partial(load, [*prefix, h, w])
            element = ops.masked(inside, read, -math.inf) if is_cut else read()
            if value is None:
                value, offset = element, ops.where(inside, number, none) if is_cut else number
                continue
            wins = ops.or_(ops.gt(element, value), ops.isnan(element))
            if is_cut:  # the first of the input's elements wins over none
                wins = ops.and_(inside, ops.or_(wins, ops.eq(offset, none)))
            value, offset = ops.where(wins, element, value), ops.where(wins, number, offset)
        return value, ops.maximum(offset, ops.constant(0, torch.int32)) if is_cut else offset

    shape = [*batch, *(size for size, _ in sizes)]
    device = input.get_device()
    values = Pointwise.create(device=device, dtype=dtype, inner_fn=lambda i: winner(i)[0], ranges=shape)
    offsets = Pointwise.create(
        device=device, dtype=torch.uint8, inner_fn=lambda i: ops.to_dtype(winner(i)[1], torch.uint8), ranges=shape
    )
    return values, offsets


def gradient(
    grad_output: Any, offsets: Any, size: Sequence[Any], kernel: list[int], stride: list[int], padding: list[int]
) -> Any:
    """Of the input: each output's gradient is added to the element that its offset names, in the order of the outputs.
    For loops of one thread. Windows are not dilated. Of offsets that name no element of their window those are
    noticed that lead out of the plane."""
    from torch._inductor import ir
    from torch._inductor.virtualized import V, ops

    device, dtype = grad_output.get_device(), grad_output.get_dtype()
    load_grad, load_offset = grad_output.make_loader(), offsets.make_loader()
    sums = ir.Pointwise.create(
        device=device,
        dtype=dtype,
        inner_fn=lambda _: ops.constant(0.0, dtype),
        ranges=[*grad_output.get_size()[:-2], *size],
    )
    sums.realize()

    def winner(index: Sequence[Any]) -> list[Any]:
        *prefix, row, column = index
        offset = ops.to_dtype(load_offset(index), torch.int32)
        width = ops.constant(kernel[1], torch.int32)
        tap_row = ops.truncdiv(offset, width)
        tap_column = ops.sub(offset, ops.mul(tap_row, width))
        place = []
        for i, (position, tap) in enumerate(((row, tap_row), (column, tap_column))):
            first = ops.index_expr(position * stride[i] - padding[i], torch.int32)
            place.append(ops.indirect_indexing(ops.add(first, tap), size[i], wrap_neg=False))
        return [*prefix, *place]

    scatter = ir.Scatter(
        device=device,
        dtype=dtype,
        inner_fn=load_grad,
        ranges=grad_output.get_size(),
        output_indexer=winner,
        scatter_mode="atomic_add",
    )
    buffer = ir.ComputedBuffer(name=None, layout=ir.MutationLayoutSHOULDREMOVE(sums), data=scatter)
    buffer.name = V.graph.register_buffer(buffer)
    V.graph.register_operation(buffer)
    return sums


def _is_within(ops: Any, *positions: tuple[Any, Any]) -> Any:
    inside = None
    for position, size in positions:
        index = ops.index_expr(position, torch.int64)
        for condition in (
            ops.ge(index, ops.index_expr(0, torch.int64)),
            ops.lt(index, ops.index_expr(size, torch.int64)),
        ):
            inside = condition if inside is None else ops.and_(inside, condition)
    return inside
