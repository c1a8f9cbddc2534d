"""Operators on slabs: torch.ops.torch_maxpool.sharded_forward, _values, _backward, _gather and _indices.

Each is the operator of the same name on a tensor that is spread over processes, given and returning this process's
part. To compilers each is one opaque node, so graphs stay whole; autograd knows them as each other's derivatives, just
as the operators they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_maxpool.sharding import pooling as local
from torch_maxpool.sharding.pooling import OPS, Layout, Pooling

_POOLING = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, bool ceil_mode, bool exact, str auto_pad"
_LAYOUT = "int[] dims, int[] counts, SymInt[] slab_sizes, int[] coordinates, str[] groups, bool chunked"
_ARGUMENTS = f"{_POOLING}, {_LAYOUT}"
_FIELDS = len(Pooling._fields)

_library = torch.library.Library("torch_maxpool", "FRAGMENT")


def _split(arguments: Sequence) -> tuple[Pooling, Layout]:
    """The operators' flat arguments as the two groups they are made of, hashable."""
    values = [tuple(value) if isinstance(value, (list, tuple)) else value for value in arguments]
    return Pooling(*values[:_FIELDS]), Layout(*values[_FIELDS:])


def _whole(input: Tensor, pooling: Pooling, layout: Layout) -> list:
    """Spatial sizes of the whole tensor of which `input` is this process's part."""
    spatial = list(input.shape[input.dim() - len(pooling.kernel_size) :])
    for i, sizes in zip(layout.dims, layout.slabs(), strict=True):
        spatial[i] = sum(sizes)
    return spatial


def _part(spatial: Sequence, layout: Layout) -> list:
    """Spatial sizes of this process's part of an input."""
    part = list(spatial)
    for i, sizes, coordinate in zip(layout.dims, layout.slabs(), layout.coordinates, strict=True):
        part[i] = sizes[coordinate]
    return part


def _counts(plan: local.Plan) -> list[int]:
    return [rows.count for rows in plan.owned_outputs]


def _values(input: Tensor, *arguments) -> Tensor:
    pooling, layout = _split(arguments)
    spatial = _whole(input, pooling, layout)
    plan = local.checked_plan("maxpool_values", spatial, pooling, layout, {"input": input})
    results = [local.new_result(input, _counts(plan))]
    local.run_forward(plan, input, None, results, lambda *given: [OPS.maxpool_values(*given)])
    return results[0]


def _forward(input: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    pooling, layout = _split(arguments)
    spatial = _whole(input, pooling, layout)
    plan = local.checked_plan("maxpool_forward", spatial, pooling, layout, {"input": input})
    results = [local.new_result(input, _counts(plan), dtype) for dtype in (None, local.offsets_dtype(pooling))]
    local.run_forward(plan, input, None, results, OPS.maxpool_forward)
    return results[0], results[1]


def _backward(grad_output: Tensor, offsets: Tensor, input_spatial_size: Sequence[int], *arguments) -> Tensor:
    pooling, layout = _split(arguments)
    tensors = {"grad_output": grad_output, "offsets": offsets}
    plan = local.checked_plan("maxpool_backward", input_spatial_size, pooling, layout, tensors)
    results = [local.new_result(offsets, _part(input_spatial_size, layout), grad_output.dtype)]
    local.run_backward(plan, grad_output, offsets, results)
    return results[0]


def _gather(input: Tensor, offsets: Tensor, *arguments) -> Tensor:
    pooling, layout = _split(arguments)
    spatial = _whole(input, pooling, layout)
    plan = local.checked_plan("maxpool_gather", spatial, pooling, layout, {"input": input, "offsets": offsets})
    results = [local.new_result(offsets, _counts(plan), input.dtype)]
    local.run_forward(plan, input, offsets, results, lambda *given: [OPS.maxpool_gather(*given)])
    return results[0]


def _indices(offsets: Tensor, input_spatial_size: Sequence[int], *arguments) -> Tensor:
    pooling, layout = _split(arguments)
    plan = local.make_plan(tuple(input_spatial_size), pooling, layout)
    indices = local.new_result(offsets, _counts(plan), torch.int64)
    return indices.copy_(local.plane_indices(plan, offsets)) if indices.numel() else indices


def _values_fake(input: Tensor, *arguments) -> Tensor:
    pooling, layout = _split(arguments)
    size = local.local_output_size(_whole(input, pooling, layout), pooling, layout)
    return local.new_result(input, size)


def _forward_fake(input: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    pooling, layout = _split(arguments)
    size = local.local_output_size(_whole(input, pooling, layout), pooling, layout)
    return local.new_result(input, size), local.new_result(input, size, local.offsets_dtype(pooling))


def _backward_fake(grad_output: Tensor, offsets: Tensor, input_spatial_size: Sequence, *arguments) -> Tensor:
    _, layout = _split(arguments)
    return local.new_result(offsets, _part(input_spatial_size, layout), grad_output.dtype)


def _gather_fake(input: Tensor, offsets: Tensor, *arguments) -> Tensor:
    pooling, _ = _split(arguments)
    return local.new_result(offsets, offsets.shape[offsets.dim() - len(pooling.kernel_size) :], input.dtype)


def _indices_fake(offsets: Tensor, input_spatial_size: Sequence, *arguments) -> Tensor:
    pooling, _ = _split(arguments)
    return local.new_result(offsets, offsets.shape[offsets.dim() - len(pooling.kernel_size) :], torch.int64)


def _keep_input(ctx, inputs, output) -> None:
    """Offsets and the whole input's sizes, for the derivative of sharded_forward and sharded_gather."""
    ctx.save_for_backward(output[1] if isinstance(output, tuple) else inputs[1])
    ctx.arguments = inputs[1 if isinstance(output, tuple) else 2 :]
    ctx.spatial = _whole(inputs[0], *_split(ctx.arguments))


def _keep_output(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.arguments = inputs[3:]


def _forward_backward(ctx, grad_output, _):
    nones = [None] * len(ctx.arguments)
    return OPS.sharded_backward(grad_output, *ctx.saved_tensors, ctx.spatial, *ctx.arguments), *nones


def _gather_backward(ctx, grad_output):
    grad_input = OPS.sharded_backward(grad_output, *ctx.saved_tensors, ctx.spatial, *ctx.arguments)
    return grad_input, None, *[None] * len(ctx.arguments)


def _backward_backward(ctx, grad):
    return OPS.sharded_gather(grad, *ctx.saved_tensors, *ctx.arguments), None, None, *[None] * len(ctx.arguments)


def _define(name, tensors, returns, implementation, fake, backward=None, setup_context=None) -> None:
    _library.define(
        f"{name}({tensors}, {_ARGUMENTS}) -> {returns}",
        tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides),
    )
    qualified = f"torch_maxpool::{name}"
    _library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_library)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_library)


_define("sharded_values", "Tensor input", "Tensor", _values, _values_fake)
_define(
    "sharded_forward",
    "Tensor input",
    "(Tensor output, Tensor offsets)",
    _forward,
    _forward_fake,
    _forward_backward,
    _keep_input,
)
_define(
    "sharded_backward",
    "Tensor grad_output, Tensor offsets, SymInt[] input_spatial_size",
    "Tensor",
    _backward,
    _backward_fake,
    _backward_backward,
    _keep_output,
)
_define(
    "sharded_gather", "Tensor input, Tensor offsets", "Tensor", _gather, _gather_fake, _gather_backward, _keep_input
)
_define("sharded_indices", "Tensor offsets, SymInt[] input_spatial_size", "Tensor", _indices, _indices_fake)
