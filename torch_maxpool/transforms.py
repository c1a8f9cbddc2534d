"""Batching rules for torch.func.vmap. Importing this registers them; the package does.

A pooling works on planes one by one, so a mapped dimension becomes part of the batch: views where the layout allows it,
one call of the same operator, no loop.
"""

from __future__ import annotations

import torch

_OPS = torch.ops.torch_maxpool


class _Fold:
    """Puts a mapped dimension of one or more tensors of the same logical rank into their batch, and takes it out again.

    A batched tensor's mapped dimension lies beside the batch, in front of it or behind it (``dim``), and the two become
    one. An unbatched tensor's becomes the batch itself.

    Args:
        dims: where the mapped dimension is in each tensor, None where a tensor has none.
        tensors: as they came, mapped dimension included.
        rank: number of spatial dimensions.
        size: of the mapped dimension.
    """

    def __init__(self, dims, tensors, rank, size):
        self.size = size
        self.batched = tensors[0].dim() - (dims[0] is not None) == rank + 2
        # [N, mapped, ...] is folded as it lies: moving the mapped dimension to the front would cost a copy.
        self.dim = 1 if self.batched and set(dims) <= {1, None} else 0
        self.tensors = [self._fold(tensor, dim) for tensor, dim in zip(tensors, dims, strict=True)]

    def _fold(self, tensor, dim):
        if dim is None:
            sizes = list(tensor.shape)
            sizes.insert(self.dim, self.size)
            tensor = tensor.unsqueeze(self.dim).expand(sizes)
        else:
            tensor = tensor.movedim(dim, self.dim)
        if self.batched:
            self.batch = tensor.shape[1 - self.dim]
            tensor = tensor.reshape(self.size * self.batch, *tensor.shape[2:])
        return tensor

    def unfold(self, result):
        """The result of an operator on the folded tensors, with its mapped dimension at ``dim``."""
        if not self.batched:
            return result
        sizes = (self.size, self.batch) if self.dim == 0 else (self.batch, self.size)
        return result.reshape(*sizes, *result.shape[1:])


def _check_ranks(op, dims, tensors, rank, arguments, keywords):
    """Has the operator itself refuse tensors whose ranks are wrong: folded, they could look right."""
    logical = [tensor.dim() - (dim is not None) for tensor, dim in zip(tensors, dims, strict=True)]
    if logical[0] not in (rank + 1, rank + 2) or len(set(logical)) > 1:
        op(*(_unmapped(tensor, dim) for tensor, dim in zip(tensors, dims, strict=True)), *arguments, **keywords)


def _unmapped(tensor, dim):
    sizes = list(tensor.shape)
    if dim is not None:
        del sizes[dim]
    return torch.empty(sizes, dtype=tensor.dtype, device="meta")


def _register(op, tensor_count, kernel_position):
    """Registers the rule of an operator: ``tensor_count`` tensors first, kernel_size at ``kernel_position``."""

    def rule(info, in_dims, *arguments, **keywords):
        tensors, rest = arguments[:tensor_count], arguments[tensor_count:]
        dims = in_dims[:tensor_count]
        rank = len(arguments[kernel_position])
        _check_ranks(op, dims, tensors, rank, rest, keywords)
        fold = _Fold(dims, tensors, rank, info.batch_size)
        result = op(*fold.tensors, *rest, **keywords)
        if isinstance(result, tuple):
            return tuple(map(fold.unfold, result)), (fold.dim,) * len(result)
        return fold.unfold(result), fold.dim

    torch.library.register_vmap(op.name(), rule)


_register(_OPS.maxpool_forward.default, 1, 1)
_register(_OPS.maxpool_values.default, 1, 1)
_register(_OPS.maxpool_backward.default, 2, 3)
_register(_OPS.maxpool_gather.default, 2, 2)
_register(_OPS.maxpool_indices.default, 1, 2)
