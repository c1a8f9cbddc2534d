"""Time of every contender on one case, in interleaved turns, after a check that all of them agree."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from cases import Case
from peers import PEERS, POOLS, Contender, Skip
from torch import Tensor

import torch_maxpool

OURS = {1: torch_maxpool.max_pool1d, 2: torch_maxpool.max_pool2d, 3: torch_maxpool.max_pool3d}
WINDOW_READS_CHECKED = 5e8  # with PyTorch's own indices; above it, indices are checked by what they point at


class Options(NamedTuple):
    peers: list[str]
    seconds: float
    turn: float  # shortest time of a contender's turn, in seconds
    work: float  # most window elements to be read by a peer that reads every window whole


def copier(size: int) -> Callable[[], Tensor]:
    """A copy that reads size / 2 bytes and writes as many."""
    source = torch.empty(max(size // 2, 1), dtype=torch.uint8).random_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def reference(case: Case, x: Tensor) -> Tensor:
    """PyTorch's maxima, one dimension after the other: the same values in less time."""
    y = x if x.is_floating_point() else x.double()
    if case.is_wide:
        around = [padding for padding in reversed(case.padding) for _ in range(2)]
        kernel, stride, _, dilation, ceil_mode = case.arguments
        return POOLS[case.rank](F.pad(y, around, value=-math.inf), kernel, stride, 0, dilation, ceil_mode).to(x.dtype)
    if case.rank == 1:
        return F.max_pool1d(y, *case.arguments).to(x.dtype)
    for i in range(case.rank):
        one = [[1] * case.rank, [1] * case.rank, [0] * case.rank, [1] * case.rank]
        for values, argument in zip(one, case.arguments, strict=False):
            values[i] = argument[i]
        y = POOLS[case.rank](y, *one, case.ceil_mode)
    return y.to(x.dtype)


def check(case: Case, x: Tensor, y: Tensor, offsets: Tensor) -> None:
    """Raises unless the values are PyTorch's, and the offsets name its winners (in the largest windows, a winner)."""
    expected = reference(case, x)
    if not torch.equal(y, expected) or not torch.equal(OURS[case.rank](x, *case.arguments), expected):
        raise AssertionError(f"{case.name}: values differ from PyTorch's")
    indices = torch.ops.torch_maxpool.maxpool_indices(offsets, list(case.shape[2:]), *case.arguments)
    if y.numel() * math.prod(case.kernel) <= WINDOW_READS_CHECKED and not case.is_wide:
        wide = x if x.is_floating_point() else x.double()
        right = torch.equal(indices, POOLS[case.rank](wide, *case.arguments, return_indices=True)[1])
    else:
        right = torch.equal(x.flatten(2).gather(2, indices.flatten(2)).view(y.shape), y)
    if not right:
        raise AssertionError(f"{case.name}: offsets differ from PyTorch's")


def ours(case: Case, x: Tensor) -> tuple[list[Contender], Tensor]:
    """Copies and this package's contenders, and the output."""
    pool, arguments = OURS[case.rank], case.arguments
    forward = torch.ops.torch_maxpool.maxpool_forward
    lists = [list(value) for value in arguments[:4]]
    y, offsets = forward(x, *lists, case.ceil_mode)
    check(case, x, y, offsets)
    size = x.numel() * x.element_size() + y.nbytes
    contenders = [
        Contender("copy", copier(size)),
        Contender("values", lambda: pool(x, *arguments)),
        Contender("copy with offsets", copier(size + offsets.nbytes)),
        Contender("offsets", lambda: forward(x, *lists, case.ceil_mode)),
    ]
    if x.is_floating_point():
        recorded = x.detach().requires_grad_()
        contenders.append(Contender("train", lambda: pool(recorded, *arguments)))
    return contenders, y


def join(
    make: Callable[[], list[Contender]], is_right: Callable[[Tensor], bool], case: Case, options: Options
) -> list[Contender]:
    """A peer's contenders, warm, with a right result. Raises Skip with the reason where that cannot be."""
    if math.prod(case.output_size()) * math.prod(case.shape[:2] + case.kernel) > options.work:
        raise Skip("windows too large for a peer that reads each whole (see --work)")
    try:
        contenders = make()
        for contender in contenders:
            if not is_right(contender.tensor(contender.call())):
                raise Skip(f"{contender.label} computes something else")
        return contenders
    except Skip:
        raise
    except Exception as error:  # whatever a peer raises on a case that it does not support
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Skip(first if len(first) < 100 else first[:97] + "...") from None


def time_all(contenders: list[Contender], options: Options) -> dict[str, float]:
    """The least time of one call of each. In every round, in an order of its own, each contender has a turn of two
    calls or more, so that neither the caches nor the threads are still busy with the contender before it."""
    best = {contender.label: math.inf for contender in contenders}
    spent = dict.fromkeys(best, 0.0)
    rounds = dict.fromkeys(best, 0)
    share = options.seconds / len(contenders)
    clock = time.perf_counter
    active = contenders
    while active:
        for label, call, _ in random.sample(active, len(active)):
            start, calls = clock(), 0
            while True:
                before = clock()
                call()
                after = clock()
                best[label] = min(best[label], after - before)
                calls += 1
                if after - before > 0.25 or (after - start >= options.turn and calls > 1) or options.turn == 0:
                    break
            spent[label] += after - start
            rounds[label] += 1
        active = [c for c in contenders if spent[c.label] < (share if rounds[c.label] >= 5 else max(share, 1.0))]
    return best


def compete(
    case: Case,
    contenders: list[Contender],
    join_peer: Callable[[str], list[Contender]],
    options: Options,
    note: Callable[[str], Any],
) -> dict[str, Any]:
    """One entry of the benchmark's JSON file: the case, seconds by contender, and reasons by peer left out."""
    skipped = {}
    for peer in options.peers:
        note(peer)
        try:
            contenders = contenders + join_peer(peer)
        except Skip as reason:
            skipped[peer] = str(reason)
    note("timing")
    return {
        "name": case.name,
        **dataclasses.asdict(case),
        "seconds": time_all(contenders, options),
        "skipped": skipped,
    }


def measure(case: Case, options: Options, note: Callable[[str], Any]) -> dict[str, Any]:
    """An entry of the forward's benchmark."""
    x = case.input()
    note("check")
    contenders, y = ours(case, x)

    def join_peer(peer: str) -> list[Contender]:
        limits = options._replace(work=math.inf) if peer == "opencv" else options
        return join(lambda: PEERS[peer](case, x), lambda result: torch.equal(result, y), case, limits)

    return compete(case, contenders, join_peer, options, note)
