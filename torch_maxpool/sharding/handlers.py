"""What DTensor's rules cannot say: shards along spatial dimensions, and channels that run out before the processes do.

DTensor asks a handler before its rules. Ours leaves to the rules what they cover, and runs the rest itself: the
operators on slabs for spatial shards, empty results for a process without channels.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import torch
import torch.compiler.config as compiler_config
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from torch_maxpool.sharding import rules
from torch_maxpool.sharding.operators import OPS
from torch_maxpool.sharding.plan import chunk_sizes
from torch_maxpool.sharding.pooling import Layout, Pooling, memory_format, new_result, offsets_dtype, pooled_size

_SHARDED = {
    rules.FORWARD[0]: OPS.sharded_forward,
    rules.VALUES[0]: OPS.sharded_values,
    rules.BACKWARD[0]: OPS.sharded_backward,
    rules.GATHER[0]: OPS.sharded_gather,
    rules.INDICES[0]: OPS.sharded_indices,
}


def _cut_dim(placement: Placement) -> int:
    """The dimension that a kind of Shard cuts, else -1."""
    return getattr(placement, "dim", -1)


class _Call:
    """An operator's call on DTensors. The placements of one tensor, the leader, decide; others follow it."""

    def __init__(self, op, args: Sequence, kwargs: dict):
        self.op = op
        arguments = op._schema.arguments
        given = dict(zip((argument.name for argument in arguments), args, strict=False)) | kwargs
        self.values = {a.name: given.get(a.name, a.default_value) for a in arguments}
        self.tensors = {name: value for name, value in self.values.items() if isinstance(value, Tensor)}
        self.leader_name = "offsets" if "offsets" in self.tensors else "input"
        self.leader: Tensor = self.tensors[self.leader_name]
        self.leading = self.leader.dim() - len(self.values["kernel_size"])

    @property
    def pooling(self) -> Pooling:
        value = self.values
        lists = (tuple(value[name]) for name in ("kernel_size", "stride", "padding", "dilation"))
        return Pooling(*lists, value["ceil_mode"], value.get("exact", False), value["auto_pad"])

    @property
    def spatial(self) -> list:
        """Spatial sizes of the whole input."""
        if "input_spatial_size" in self.values:
            return list(self.values["input_spatial_size"])
        return list(self.values["input"].shape[self.leading :])

    def is_for_rules(self) -> bool:
        """True where the rules know what to do. Every process gets the same answer."""
        if not all(isinstance(tensor, DTensor) for tensor in self.tensors.values()):
            return True  # they have the words for it
        mesh = self.leader.device_mesh
        if mesh.get_coordinate() is None:
            return True  # this process has no part in it
        channels, parts = self.leading - 1, 1
        for i, placement in enumerate(self.leader.placements):
            dim = _cut_dim(placement)
            if dim >= self.leading:
                return False
            if dim == channels:
                parts *= mesh.size(i)
        return self.leader.shape[channels] % parts == 0

    def placements(self) -> tuple[Placement, ...]:
        """The leader's, but for what cannot be pooled as it is: unsummed parts, and spatial dimensions that are cut in
        other ways than into one sequence of chunks."""
        kept: list[Placement] = []
        for placement in self.leader.placements:
            dim = _cut_dim(placement)
            spatial = dim >= self.leading
            again = spatial and dim in map(_cut_dim, kept)
            keep = dim >= 0 and not again and (isinstance(placement, Shard) or not spatial)
            kept.append(placement if keep else Replicate())
        return tuple(kept)

    def layout(self, placements: Sequence[Placement]) -> Layout:
        mesh, spatial = self.leader.device_mesh, self.spatial
        cut = {_cut_dim(p) - self.leading: i for i, p in enumerate(placements) if _cut_dim(p) >= self.leading}
        slabs = [chunk_sizes(spatial[dim], mesh.size(i)) for dim, i in cut.items()]
        return Layout(
            tuple(cut),
            tuple(len(sizes) for sizes in slabs),
            tuple(size for sizes in slabs for size in sizes),
            tuple(mesh.get_local_rank(i) for i in cut.values()),
            tuple(mesh.get_group(i).group_name for i in cut.values()),
            True,
        )

    def results(self) -> list[tuple[list, torch.dtype]]:
        """Whole shapes and dtypes of the results."""
        first = next(iter(self.tensors.values()))
        spatial = self.spatial if self.op == rules.BACKWARD[0] else pooled_size(self.spatial, self.pooling)
        shape = [*self.leader.shape[: self.leading], *spatial]
        if self.op == rules.FORWARD[0]:
            return [(shape, first.dtype), (shape, offsets_dtype(self.pooling))]
        return [(shape, torch.int64 if self.op == rules.INDICES[0] else first.dtype)]

    def run(self):
        """The results as DTensors, after moving the tensors to where they can be pooled."""
        placements = self.placements()
        results = list(placements)
        local = []
        for tensor in self.tensors.values():
            wanted = list(placements)
            for i, (placement, target) in enumerate(zip(tensor.placements, placements, strict=True)):
                if tensor is not self.leader and isinstance(placement, Partial) and isinstance(target, Replicate):
                    wanted[i] = results[i] = placement  # linear: summed later
            local.append(_moved(tensor, wanted))
        whole = self.results()
        made = self._run_local(local, self.layout(placements), whole)
        wrapped = [
            _wrapped(part, self.leader, len(shape) - self.leading, results, shape)
            for part, (shape, _) in zip(made, whole, strict=True)
        ]
        return tuple(wrapped) if len(wrapped) > 1 else wrapped[0]

    def _run_local(self, local: list[Tensor], layout: Layout, whole) -> Sequence[Tensor]:
        if layout.dims:
            sizes = [self.spatial] if "input_spatial_size" in self.values else []
            made = _SHARDED[self.op](*local, *sizes, *self.pooling, *layout)
        elif all(tensor.numel() for tensor in local):
            tensors = dict(zip(self.tensors, local, strict=True))
            made = self.op(**(self.values | tensors))
        else:
            like = local[list(self.tensors).index(self.leader_name)]
            made = tuple(new_result(like, shape[self.leading :], dtype) for shape, dtype in whole)
        return made if isinstance(made, (tuple, list)) else (made,)


def _moved(tensor: DTensor, placements: Sequence[Placement]) -> Tensor:
    """The local part of `tensor` under these placements."""
    from torch.distributed.tensor._dtensor_spec import DTensorSpec
    from torch.distributed.tensor._redistribute import redistribute_local_tensor

    spec = tensor._spec
    if tuple(placements) == tuple(spec.placements):
        return tensor._local_tensor
    target = DTensorSpec(spec.mesh, tuple(placements), tensor_meta=spec.tensor_meta)
    return redistribute_local_tensor(tensor._local_tensor, spec, target)


def _wrapped(local: Tensor, like: DTensor, rank: int, placements: Sequence[Placement], shape: Sequence) -> DTensor:
    """`local` as a DTensor of `shape`, laid out as `like`."""
    from torch._prims_common import make_channels_last_strides_for, make_contiguous_strides_for
    from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

    contiguous = memory_format(like, rank) == torch.contiguous_format
    strides = make_contiguous_strides_for if contiguous else make_channels_last_strides_for
    meta = TensorMeta(torch.Size(shape), tuple(strides(tuple(shape))), local.dtype)
    spec = DTensorSpec(like.device_mesh, tuple(placements), tensor_meta=meta)
    return DTensor(local, spec, requires_grad=False)


_CACHE_TAG = "+torch_maxpool.sharding:"


def _separate_caches() -> None:
    """Keeps what torch.compile stores on disk apart for each process.

    It looks graphs up by what DTensors are as a whole. The parts differ between processes, so one process would be
    given another's graph, made for other sizes and neighbours.
    """
    mine = f"{_CACHE_TAG}{dist.get_rank()}"
    tag = compiler_config.cache_key_tag
    if not tag.endswith(mine):
        compiler_config.cache_key_tag = re.sub(re.escape(_CACHE_TAG) + r"\d+", "", tag) + mine


def _handle(op, args: Sequence, kwargs: dict):
    _separate_caches()
    call = _Call(op, args, kwargs)
    if not call.is_for_rules():
        return call.run()
    # As DTensor's own dispatcher goes on, which a handler has taken over.
    dispatcher = DTensor._op_dispatcher
    info = dispatcher.unwrap_to_op_info(op, args, kwargs)
    dispatcher.sharding_propagator.propagate(info)
    results = dispatcher._dispatch_get_local_results_slow_path(op, args, info)
    return dispatcher.wrap(results, info.output_sharding.output_spec)


def register() -> None:
    """Puts the handlers in DTensor's table; calling it again changes nothing.

    The table and what the handlers use are private parts of PyTorch, written against 2.13. Where they are not there, a
    warning says what is lost.
    """
    try:
        from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta  # noqa: F401
        from torch.distributed.tensor._redistribute import redistribute_local_tensor  # noqa: F401

        table = DTensor._op_dispatcher._custom_op_handlers
    except (ImportError, AttributeError) as error:
        warnings.warn(
            f"torch_maxpool.sharding: PyTorch {torch.__version__} takes no handlers for DTensor ({error}); its spatial "
            "shards will be gathered. Slabs of plain tensors work.",
            stacklevel=3,
        )
        return
    table.update(dict.fromkeys(_SHARDED, _handle))
