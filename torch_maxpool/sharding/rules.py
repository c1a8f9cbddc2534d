"""DTensor's rules for the operators: every dimension before the spatial ones may be sharded, without communication.

A rule names, for one dimension of the mesh, the placements of the outputs and of the tensors that come in. The
derivatives are linear, so a gradient that waits to be summed (Partial) passes through them as it is.
"""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

OPS = torch.ops.torch_maxpool

# Operators, and the position of the first argument that is not a tensor.
FORWARD = (OPS.maxpool_forward.default, 1)
VALUES = (OPS.maxpool_values.default, 1)
BACKWARD = (OPS.maxpool_backward.default, 2)
GATHER = (OPS.maxpool_gather.default, 2)
INDICES = (OPS.maxpool_indices.default, 1)
# Operators that are linear in their first tensor.
LINEAR = (BACKWARD[0], GATHER[0])
ALL = (FORWARD, VALUES, BACKWARD, GATHER, INDICES)
KEYWORDS = ("exact", "auto_pad")


def leading_dims(op, args) -> int:
    """Number of dimensions before the spatial ones, from an operator's arguments."""
    names = [argument.name for argument in op._schema.arguments]
    return len(args[0].shape) - len(args[names.index("kernel_size")])


def tensor_count(op) -> int:
    """Number of tensors that go in and come out."""
    tensors = [argument for argument in op._schema.arguments if isinstance(argument.type, torch.TensorType)]
    return len(tensors) + len(op._schema.returns)


def _strategies(op, args, shard):
    """Placements (outputs, then inputs) for one dimension of the mesh; all replicated goes without saying."""
    count = tensor_count(op)
    rows = [[shard(dim)] * count for dim in range(leading_dims(op, args))]
    if op in LINEAR:
        rows += [[Partial(reduce), Partial(reduce), Replicate()] for reduce in ("sum", "avg")]
    return rows


def _schema_info(op, first):
    # DTensor keeps decisions by the arguments named here. Lists of integers would otherwise not count, and a second
    # kernel_size on one shape would get the first one's result.
    from torch.distributed.tensor._op_schema import RuntimeSchemaInfo

    keywords = [argument.name for argument in op._schema.arguments if argument.name in KEYWORDS]
    return RuntimeSchemaInfo(first, static_kwargkey=keywords, needs_pytree=True)


def _register_single_dim() -> None:
    """The newer, private interface, which also keeps shards of a batch smaller than the mesh."""
    from torch.distributed.tensor._ops.single_dim_strategy import (
        _ShardingPlaceholder,
        register_single_dim_strategy,
    )

    for op, first in ALL:

        def strategies(op, args, kwargs):
            return _strategies(op, args, _ShardingPlaceholder)

        register_single_dim_strategy(op, schema_info=_schema_info(op, first), allow_uneven_sharding=True)(strategies)


def _register_public() -> None:
    """The public, experimental interface; only the cache's key needs a private one."""
    from torch.distributed.tensor.experimental import register_sharding

    for op, first in ALL:
        outputs = len(op._schema.returns)

        def shardings(*args, op=op, outputs=outputs, **kwargs):
            rows = _strategies(op, args, Shard)
            rows.insert(0, [Replicate()] * tensor_count(op))
            others = [None] * (len(args) + len(kwargs) - (tensor_count(op) - outputs))
            return [(row[:outputs], row[outputs:] + others) for row in rows]

        register_sharding(op)(shardings)
        DTensor._op_dispatcher.sharding_propagator.op_to_schema_info[op] = _schema_info(op, first)


def register() -> None:
    """Registers the rules with DTensor; calling it again changes nothing."""
    try:
        _register_single_dim()
    except ImportError:
        _register_public()
