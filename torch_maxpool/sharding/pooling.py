"""Pooling of one process's slab: the plan of a call, and its execution with the exchange beside the interior.

Everything works on plain local tensors ``[*leading, *spatial]``. Results do not depend on how the rows are shared out:
values, offsets and gradients have the bits of one process's, because each is made by the same kernel from the same rows
(and gradients from the same windows in the same order).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from torch_maxpool.sharding.exchange import Exchange, Part, agree
from torch_maxpool.sharding.plan import Axis, Piece, Rows, output_sizes

OPS = torch.ops.torch_maxpool


class Pooling(NamedTuple):
    """The operators' hyper-parameters."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = (0,)
    dilation: tuple[int, ...] = (1,)
    ceil_mode: bool = False
    exact: bool = False
    auto_pad: str = "explicit"


class Layout(NamedTuple):
    """How a tensor is spread: along spatial dimension ``dims[i]``, ``counts[i]`` processes, the members of
    ``groups[i]``, of which this one is number ``coordinates[i]``, own the next ``counts[i]`` entries of `sizes`."""

    dims: tuple[int, ...]
    counts: tuple[int, ...]
    sizes: tuple[int, ...]
    coordinates: tuple[int, ...]
    groups: tuple[str, ...]
    chunked: bool  # outputs are cut as torch.chunk does

    def slabs(self) -> list[Sequence[int]]:
        """The slab sizes along each of `dims`."""
        slabs, start = [], 0
        for count in self.counts:
            slabs.append(self.sizes[start : start + count])
            start += count
        return slabs


def pooled_size(spatial: Sequence, pooling: Pooling) -> list:
    """Output sizes, from the operators' own formula; sizes may be symbolic. Raises what the operators raise."""
    window = (list(entries) for entries in pooling[:4])
    like = torch.empty((1, *spatial), device="meta")
    output = OPS.maxpool_values(like, *window, pooling.ceil_mode, exact=pooling.exact, auto_pad=pooling.auto_pad)
    return list(output.shape[1:])


def entry(entries: Sequence[int], i: int) -> int:
    return entries[0] if len(entries) == 1 else entries[i]


def stride_of(pooling: Pooling, i: int) -> int:
    return entry(pooling.stride or pooling.kernel_size, i)


def offsets_dtype(pooling: Pooling) -> torch.dtype:
    taps = 1
    for size in pooling.kernel_size:
        taps *= size
    return torch.uint8 if taps <= 256 else torch.int32


def local_output_size(spatial: Sequence, pooling: Pooling, layout: Layout) -> list:
    """Output sizes of this process for an input of (global) size `spatial`; sizes may be symbolic."""
    result = pooled_size(spatial, pooling)
    for i, slabs, coordinate in zip(layout.dims, layout.slabs(), layout.coordinates, strict=True):
        result[i] = output_sizes(slabs, stride_of(pooling, i), result[i], layout.chunked)[coordinate]
    return result


def memory_format(like: Tensor, rank: int) -> torch.memory_format:
    """Layout of results made from `like`: the operators' rule."""
    batched = rank > 1 and like.dim() == rank + 2
    return suggest_memory_format(like) if batched else torch.contiguous_format


def new_result(like: Tensor, spatial: Sequence, dtype: torch.dtype | None = None) -> Tensor:
    rank = len(spatial)
    sizes = [*like.shape[: like.dim() - rank], *spatial]
    return torch.empty(sizes, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format(like, rank))


@dataclass(frozen=True)
class Plan:
    """A pooling of a spread tensor, as one process sees it."""

    pooling: Pooling
    layout: Layout
    axes: tuple[Axis, ...]  # every spatial dimension
    coordinates: tuple[int, ...]  # of this process, 0 where a dimension is not sharded

    @property
    def rank(self) -> int:
        return len(self.axes)

    @cached_property
    def owned(self) -> tuple[Rows, ...]:
        return tuple(axis.owned(at) for axis, at in zip(self.axes, self.coordinates, strict=True))

    @cached_property
    def owned_outputs(self) -> tuple[Rows, ...]:
        return tuple(axis.owned_outputs(at) for axis, at in zip(self.axes, self.coordinates, strict=True))

    def window(self, outputs: Sequence[Rows]) -> tuple:
        """The operators' arguments from kernel_size to ceil_mode for these outputs alone."""
        padding = [axis.padding(rows) for axis, rows in zip(self.axes, outputs, strict=True)]
        return (
            [axis.kernel for axis in self.axes],
            [axis.stride for axis in self.axes],
            [before for before, _ in padding] + [after for _, after in padding],
            [axis.dilation for axis in self.axes],
            False,
        )

    def region(self, outputs: Sequence[Rows]) -> list[Rows]:
        """The input rows that a kernel is given for these outputs: all, where a dimension is not sharded."""
        return [
            axis.read(rows) if i in self.layout.dims else axis.rows
            for i, (axis, rows) in enumerate(zip(self.axes, outputs, strict=True))
        ]


@lru_cache(maxsize=512)
def make_plan(spatial: tuple[int, ...], pooling: Pooling, layout: Layout) -> Plan:
    """The plan for an input of (global) size `spatial`. Raises what the operators raise on bad arguments."""
    rank = len(pooling.kernel_size)
    outputs = pooled_size(spatial, pooling)
    slabs: list[Sequence[int]] = [(size,) for size in spatial]
    coordinates = [0] * rank
    for i, sizes, coordinate in zip(layout.dims, layout.slabs(), layout.coordinates, strict=True):
        slabs[i], coordinates[i] = sizes, coordinate
    axes = []
    for i, sizes in enumerate(slabs):
        kernel, stride = pooling.kernel_size[i], stride_of(pooling, i)
        dilation, before = entry(pooling.dilation, i), entry(pooling.padding, i)
        if pooling.auto_pad != "explicit":
            total = max(0, (outputs[i] - 1) * stride + dilation * (kernel - 1) + 1 - spatial[i])
            before = total // 2 if pooling.auto_pad == "same" else total - total // 2
        shares = output_sizes(sizes, stride, outputs[i], layout.chunked)
        axes.append(Axis(kernel, stride, dilation, before, tuple(sizes), tuple(shares)))
    return Plan(pooling, layout, tuple(axes), tuple(coordinates))


def _rows(tensor: Tensor, dim: int, rows: Rows) -> Tensor:
    return tensor.narrow(dim, rows.start, rows.count)


class _Halo:
    """The exchange of the rows of some tensors along one sharded dimension: started by the constructor, finished at the
    end of a ``with`` block."""

    def __init__(self, plan: Plan, which: int, tensors: Sequence[Tensor], of_outputs: bool):
        i = plan.layout.dims[which]
        axis, me = plan.axes[i], plan.layout.coordinates[which]
        to_move = axis.outputs_to_move if of_outputs else axis.inputs_to_move
        self._tensors = tensors
        self._owned = (axis.owned_outputs if of_outputs else axis.owned)(me)
        self._dim = i - plan.rank
        peers = [peer for peer in range(len(axis.sizes)) if peer != me]
        self._runs = [(peer, runs) for peer in peers if (runs := to_move(peer, me))]
        sends = [
            (peer, [_rows(tensor, self._dim, run.within(self._owned)) for tensor in tensors for run in runs])
            for peer in peers
            if (runs := to_move(me, peer))
        ]
        receives = [
            (peer, [self._part(tensor, run) for tensor in tensors for run in runs]) for peer, runs in self._runs
        ]
        self._exchange = Exchange(plan.layout.groups[which], sends, receives, tensors[0].device)

    def _part(self, tensor: Tensor, run: Rows) -> Part:
        shape = list(tensor.shape)
        shape[self._dim] = run.count
        return Part(tuple(shape), tensor.dtype)

    def __enter__(self) -> None:
        """Begins what is done while the rows travel."""

    def __exit__(self, *exception) -> None:
        # Waits even where that has failed: a message left behind would meet the group's next one.
        received = self._exchange.wait()
        self._known: list[list[tuple[Rows, Tensor]]] = [[(self._owned, tensor)] for tensor in self._tensors]
        for (_, runs), parts in zip(self._runs, received, strict=True):
            for number, part in enumerate(parts):
                self._known[number // len(runs)].append((runs[number % len(runs)], part))

    def take(self, wanted: Rows) -> list[Tensor]:
        """Any rows this process needs, of each tensor, once they have arrived; rows that no window touches are 0."""
        taken = []
        for known in self._known:
            like = known[0][1]
            shape = list(like.shape)
            shape[self._dim] = wanted.count
            parts = [(rows & wanted, rows, tensor) for rows, tensor in known]
            whole = sum(shared.count for shared, _, _ in parts) == wanted.count
            result = (like.new_empty if whole else like.new_zeros)(shape)
            for shared, rows, tensor in parts:
                if shared.count:
                    _rows(result, self._dim, shared.within(wanted)).copy_(_rows(tensor, self._dim, shared.within(rows)))
            taken.append(result)
        return taken


def _cut(plan: Plan, tensor: Tensor, rows: Sequence[Rows], within: Sequence[Rows]) -> Tensor:
    """`rows` (along each sharded dimension) of a tensor that holds `within`."""
    for i, part, outer in zip(plan.layout.dims, rows, within, strict=True):
        tensor = _rows(tensor, i - plan.rank, part.within(outer))
    return tensor


def _run(
    plan: Plan,
    tensors: list[Tensor],
    of_outputs: bool,
    pieces: Sequence[Sequence[Piece]],
    make: Callable[[Sequence[Piece], Sequence[Tensor]], None],
) -> None:
    """Calls ``make(pieces, sources)`` for each combination of pieces along the sharded dimensions, once its sources are
    here: with nothing received, or along the first dimensions, while the rows of the next dimension travel.

    Rows that arrive along one dimension bring their own neighbours along with the next, so corners need no messages of
    their own. of_outputs: the tensors have output rows, as in backward.
    """
    dims = plan.layout.dims
    have = [(plan.owned_outputs if of_outputs else plan.owned)[i] for i in dims]
    combinations: list[list[tuple[Piece, ...]]] = [[] for _ in range(len(dims) + 1)]
    for combination in itertools.product(*pieces):
        exchanges = max((which + 1 for which, piece in enumerate(combination) if not piece.local), default=0)
        combinations[exchanges].append(combination)

    def make_of(combination, tensors, have) -> None:
        sources = [piece.source for piece in combination]
        some = all(source.count for source in sources)
        make(combination, [_cut(plan, tensor, sources, have) for tensor in tensors] if some else [])

    for which, i in enumerate(dims):
        axis = plan.axes[i]
        halo = _Halo(plan, which, tensors, of_outputs)
        with halo:
            for combination in combinations[which]:
                make_of(combination, tensors, have)
        if which + 1 < len(dims):
            have[which] = axis.windows(plan.owned[i]) if of_outputs else axis.read(plan.owned_outputs[i])
            tensors = halo.take(have[which])
    for combination in combinations[-1]:
        source = combination[-1].source
        make_of(combination, halo.take(source), [*have[:-1], source])


def _put(results: list[Tensor], number: int, target: Tensor, made: Tensor) -> None:
    """Puts `made` where `target` is, a part of ``results[number]``: as it is, where that is all of it."""
    result = results[number]
    whole = target.shape == result.shape and made.stride() == result.stride()
    if whole and made.untyped_storage().nbytes() == result.untyped_storage().nbytes():
        results[number] = made
    else:
        target.copy_(made)


def run_forward(
    plan: Plan,
    input: Tensor,
    offsets: Tensor | None,
    results: list[Tensor],
    kernel: Callable[..., Sequence[Tensor]],
) -> None:
    """Fills `results` (this process's outputs), or replaces them by others alike, with
    ``kernel(input, [offsets,] *window)``, piece by piece."""
    dims = plan.layout.dims
    pieces = [plan.axes[i].forward_pieces(plan.coordinates[i]) if results[0].numel() else [] for i in dims]
    owned = [plan.owned_outputs[i] for i in dims]

    def make(combination: Sequence[Piece], sources: Sequence[Tensor]) -> None:
        outputs, places = list(plan.owned_outputs), [piece.result for piece in combination]
        for i, place in zip(dims, places, strict=True):
            outputs[i] = place
        given = sources if offsets is None else [*sources, _cut(plan, offsets, places, owned)]
        for number, made in enumerate(kernel(*given, *plan.window(outputs))):
            _put(results, number, _cut(plan, results[number], places, owned), made)

    _run(plan, [input], False, pieces, make)


def run_backward(plan: Plan, grad_output: Tensor, offsets: Tensor, results: list[Tensor]) -> None:
    """Fills the one tensor of `results` (this process's rows of grad_input) from the windows that reach them, wherever
    those are."""
    dims, rank, grad_input = plan.layout.dims, plan.rank, results[0]
    pieces = [plan.axes[i].backward_pieces(plan.coordinates[i]) if grad_input.numel() else [] for i in dims]
    owned = [plan.owned[i] for i in dims]

    def make(combination: Sequence[Piece], pair: Sequence[Tensor]) -> None:
        outputs, wanted = [axis.outputs for axis in plan.axes], list(plan.owned)
        for i, piece in zip(dims, combination, strict=True):
            outputs[i], wanted[i] = piece.source, piece.result
        target = _cut(plan, grad_input, [piece.result for piece in combination], owned)
        region = plan.region(outputs)
        shared = [a & b for a, b in zip(region, wanted, strict=True)]
        if not pair or shared != wanted:
            target.zero_()  # rows that no window reaches
        if not pair:
            return
        made = OPS.maxpool_backward(*pair, [rows.count for rows in region], *plan.window(outputs))
        for i in range(rank):
            target = _rows(target, i - rank, shared[i].within(wanted[i]))
            made = _rows(made, i - rank, shared[i].within(region[i]))
        _put(results, 0, target, made)

    _run(plan, [grad_output, offsets], True, pieces, make)


def plane_indices(plan: Plan, offsets: Tensor) -> Tensor:
    """Offsets as indices into the whole tensor's plane; -1 for a window without elements. Nothing is exchanged."""
    region = plan.region(plan.owned_outputs)
    local = OPS.maxpool_indices(offsets, [rows.count for rows in region], *plan.window(plan.owned_outputs))
    result = torch.zeros_like(local)
    rest, step = local, 1
    for axis, rows in zip(reversed(plan.axes), reversed(region), strict=True):
        result += (rest.remainder(rows.count) + rows.start) * step
        rest = rest.div(rows.count, rounding_mode="floor")
        step *= axis.rows.count
    return result.masked_fill_(local < 0, -1)


class Kind(NamedTuple):
    """What all parts of a tensor have in common."""

    name: str
    leading: tuple[int, ...]  # batch and channels
    dtype: torch.dtype

    def whole(self, spatial: Sequence[int]) -> Tensor:
        leading = (max(1, size) for size in self.leading)  # this process may have no channels
        return torch.empty((*leading, *spatial), dtype=self.dtype, device="meta")


@lru_cache(maxsize=512)
def _check_whole(op: str, spatial: tuple[int, ...], pooling: Pooling, kinds: tuple[Kind, ...]) -> None:
    """Raises what the operator would raise on the whole tensors."""
    outputs = pooled_size(spatial, pooling)
    tensors = [kind.whole(spatial if kind.name == "input" else outputs) for kind in kinds]
    sizes = [list(spatial)] if op == "maxpool_backward" else []
    window = [list(entries) for entries in (pooling.kernel_size, pooling.stride, pooling.padding, pooling.dilation)]
    getattr(OPS, op)(*tensors, *sizes, *window, pooling.ceil_mode, auto_pad=pooling.auto_pad)


def _check_parts(op: str, plan: Plan, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        rows = plan.owned if name == "input" else plan.owned_outputs
        expected = [part.count for part in rows]
        got = list(tensor.shape[tensor.dim() - plan.rank :])
        if tensor.dim() not in (plan.rank + 1, plan.rank + 2) or got != expected:
            raise ValueError(
                f"{op}: {name} must have spatial sizes {expected} on process {plan.layout.coordinates} of the layout, "
                f"got a tensor of sizes {list(tensor.shape)}"
            )


def checked_plan(op: str, spatial: Sequence[int], pooling: Pooling, layout: Layout, tensors: dict[str, Tensor]) -> Plan:
    """The plan of a call, once all processes agree on it. Raises on all of them where one cannot go on.

    tensors: this process's, by name; "input" has input rows, the others have output rows.
    """
    failure = plan = None
    spatial, rank = tuple(spatial), len(pooling.kernel_size)
    kinds = tuple(Kind(name, tuple(t.shape[: max(0, t.dim() - rank)]), t.dtype) for name, t in tensors.items())
    try:
        plan = make_plan(spatial, pooling, layout)
        _check_parts(op, plan, tensors)
        _check_whole(op, spatial, pooling, kinds)
    except Exception as error:
        failure = error
    described = [f"{kind.name} {str(kind.dtype).removeprefix('torch.')} {list(kind.leading)}" for kind in kinds]
    described += [f"{name}={value}" for name, value in zip(Pooling._fields, pooling, strict=True)]
    shares = ", ".join(f"{i}: {list(sizes)}" for i, sizes in zip(layout.dims, layout.slabs(), strict=False))
    words = f"{', '.join(described)}, input_spatial_size={list(spatial)}, slabs={{{shares}}}, chunked={layout.chunked}"
    agree(layout.groups, f"{op}({words})", failure, next(iter(tensors.values())).device)
    return plan
