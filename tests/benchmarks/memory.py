"""Memory of a training step: what autograd keeps of a call, and the most that is allocated during one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def kept_tensors(call: Callable[[], Any], apart: Iterable[Tensor] = ()) -> list[Tensor]:
    """The tensors that a forward call keeps for backward, each memory once; without those that share memory with
    `apart` (parameters, which live on anyway)."""
    seen = {tensor.untyped_storage().data_ptr() for tensor in apart}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in seen:
            seen.add(place)
            kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return kept


def kept_bytes(call: Callable[[], Any], apart: Iterable[Tensor] = ()) -> int:
    """Bytes of memory that :func:`kept_tensors` hold."""
    return sum(tensor.untyped_storage().nbytes() for tensor in kept_tensors(call, apart))


def allocations(call: Callable[[], Any]) -> list[int]:
    """Bytes allocated (freed: negative) on the CPU during a call, in order of time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most bytes that are allocated at a time during a call, beyond those allocated before it."""
    now = most = 0
    for change in allocations(call):
        now += change
        most = max(most, now)
    return most
