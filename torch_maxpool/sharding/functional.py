"""max_pool1d/2d/3d of tensors that are spread along spatial dimensions, as each process calls them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from torch_maxpool.functional import flat_padding
from torch_maxpool.sharding.operators import OPS
from torch_maxpool.sharding.plan import output_sizes
from torch_maxpool.sharding.pooling import Layout, Pooling, entry, pooled_size, stride_of


def _group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    group = dist.group.WORLD if group is None else group
    if not isinstance(group, dist.ProcessGroup):
        raise ValueError(f"Slabs: group must be a process group that this process is in, got {group}")
    return group


@dataclass(frozen=True)
class Slabs:
    """A dimension cut over the processes of a group, process r owning ``sizes[r]`` rows next to those of r - 1.

    Made by :meth:`of`; plain integers and a name, so that compiled code can hold it.
    """

    dim: int  # counted from the last: -1, -2 or -3
    sizes: tuple[int, ...]
    group: str  # the group's name
    coordinate: int  # this process's number in the group

    @staticmethod
    def of(dim: int, sizes: Sequence[int], group: dist.ProcessGroup | None = None) -> Slabs:
        """Slabs of `sizes` rows along `dim` (-1, -2 or -3) over `group` (default: all processes).

        Raises ValueError where `dim` is not one of those, where `sizes` has not one entry of at least 0 per process,
        and where torch.distributed is not initialized or this process is not in the group.
        """
        group = _group(group)
        sizes = tuple(int(size) for size in sizes)
        if dim not in (-1, -2, -3):
            raise ValueError(f"Slabs: dim must be -1, -2 or -3, got {dim}")
        if len(sizes) != group.size() or min(sizes) < 0:
            raise ValueError(f"Slabs: sizes must have {group.size()} entries of at least 0, got {list(sizes)}")
        return Slabs(dim, sizes, group.group_name, group.rank())

    @staticmethod
    def gather(tensor: Tensor, dim: int, group: dist.ProcessGroup | None = None) -> Slabs:
        """The slabs that the processes of `group` hold, found by an all-gather of one integer each."""
        group = _group(group)
        sizes = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(group.size())]
        own = torch.tensor([tensor.shape[dim]], dtype=torch.int64, device=tensor.device)
        dist.all_gather(sizes, own, group=group)
        return Slabs.of(dim, [int(size) for size in sizes], group)

    def pooled(
        self,
        rank: int,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Slabs:
        """The slabs of what max_pool1d, 2d or 3d (`rank`) of this module returns for these arguments."""
        pooling = _pooling(rank, kernel_size, stride, padding, dilation, ceil_mode)
        (i,) = _layout(rank, self).dims
        pads = pooling.padding if len(pooling.padding) == 2 * rank else 2 * pooling.padding
        only = pooling._replace(
            kernel_size=(pooling.kernel_size[i],),
            stride=(stride_of(pooling, i),),
            padding=(pads[i], pads[rank + i]) if len(pads) == 2 * rank else (pads[0],),
            dilation=(entry(pooling.dilation, i),),
        )
        (outputs,) = pooled_size([sum(self.sizes)], only)
        return replace(self, sizes=tuple(output_sizes(self.sizes, stride_of(only, 0), outputs, False)))


def _ints(value: Any) -> tuple[int, ...]:
    # index(): a constant to the compiler, even where it has seen other ints in its place.
    return (index(value),) if isinstance(value, int) else tuple(index(entry) for entry in value)


def _pooling(rank, kernel_size, stride, padding, dilation, ceil_mode, exact=False) -> Pooling:
    kernel = _ints(kernel_size)
    kernel = kernel * rank if len(kernel) == 1 else kernel
    if len(kernel) != rank:
        raise ValueError(f"max_pool{rank}d: kernel_size must be an int or have {rank} entries, got {list(kernel)}")
    auto_pad = "explicit"
    if isinstance(padding, str):
        auto_pad, padding = ("explicit" if padding == "valid" else padding), 0
    return Pooling(
        kernel,
        () if stride is None else _ints(stride),
        _ints(flat_padding(padding, f"max_pool{rank}d")),
        _ints(dilation),
        ceil_mode,
        exact,
        auto_pad,
    )


def _layout(rank: int, slabs: Slabs | Sequence[Slabs]) -> Layout:
    every = [slabs] if isinstance(slabs, Slabs) else list(slabs)
    dims = [rank + part.dim for part in every]
    if not dims or min(dims) < 0 or len(set(dims)) != len(dims):
        raise ValueError(f"max_pool{rank}d: slabs must name different spatial dimensions, got {slabs}")
    return Layout(
        tuple(dims),
        tuple(len(part.sizes) for part in every),
        tuple(size for part in every for size in part.sizes),
        tuple(part.coordinate for part in every),
        tuple(part.group for part in every),
        False,
    )


def _max_pool(rank, input, slabs, return_indices, pooling):
    if isinstance(input, DTensor):
        raise TypeError(f"max_pool{rank}d: a DTensor knows its slabs, call torch_maxpool.max_pool{rank}d")
    layout = _layout(rank, slabs)
    arguments = (*pooling, *layout)
    if not return_indices and not (torch.is_grad_enabled() and input.requires_grad):
        return OPS.sharded_values(input, *arguments)
    output, offsets = OPS.sharded_forward(input, *arguments)
    if not return_indices:
        return output
    spatial = list(input.shape[input.dim() - rank :])
    for i, sizes in zip(layout.dims, layout.slabs(), strict=True):
        spatial[i] = sum(sizes)
    return output, OPS.sharded_indices(offsets, spatial, *arguments)


def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    slabs: Slabs | Sequence[Slabs],
    exact: bool = False,
):
    """:func:`torch_maxpool.max_pool1d` of a tensor whose length is cut into `slabs`. See :func:`max_pool2d`."""
    pooling = _pooling(1, kernel_size, stride, padding, dilation, ceil_mode, exact)
    return _max_pool(1, input, slabs, return_indices, pooling)


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    slabs: Slabs | Sequence[Slabs],
    exact: bool = False,
):
    """:func:`torch_maxpool.max_pool2d` of a tensor that is cut into slabs, called by every process of the group.

    Args:
        input: this process's part ``[N, C, H, W]`` or ``[C, H, W]``; slabs may have 0 rows.
        slabs: how the tensor is cut: one :class:`Slabs`, or one for each of two or three dimensions, whose groups are
            then those of a mesh.
        others: as for :func:`torch_maxpool.max_pool2d`, the same on every process.

    Returns this process's part of the result: the output rows whose ``row * stride`` lies in its slab
    (:meth:`Slabs.pooled` has the sizes). With `return_indices` also indices into the whole plane.

    The bits are those of one process, gradients included. Only rows that a window of another process touches are sent.

    Raises on every process of the group, within its timeout, where one of them fails or comes with other arguments.
    """
    pooling = _pooling(2, kernel_size, stride, padding, dilation, ceil_mode, exact)
    return _max_pool(2, input, slabs, return_indices, pooling)


def max_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    slabs: Slabs | Sequence[Slabs],
    exact: bool = False,
):
    """:func:`torch_maxpool.max_pool3d` of a volume that is cut into slabs. See :func:`max_pool2d`."""
    pooling = _pooling(3, kernel_size, stride, padding, dilation, ceil_mode, exact)
    return _max_pool(3, input, slabs, return_indices, pooling)
