"""Agreement between processes, and the messages that carry rows: everything here communicates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group

# Parts of a message start at multiples of this many bytes, so that they can be viewed as any dtype.
_ALIGNMENT = 8


@dataclass
class Traffic:
    """What this process sent: payload of messages between neighbours. Agreement (24 bytes a call) is not counted."""

    bytes: int = 0
    messages: int = 0


_counting: list[Traffic] = []


@contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Counts the rows that this process sends inside the block."""
    traffic = Traffic()
    _counting.append(traffic)
    try:
        yield traffic
    finally:
        _counting.remove(traffic)


def _broken(error: Exception) -> RuntimeError:
    return RuntimeError(
        "torch_maxpool.sharding: a process of the group has failed, has ended or did not take part in this call before "
        f"the group's timeout: {error}"
    )


def agree(groups: Sequence[str], description: str, failure: Exception | None, device: torch.device) -> None:
    """Returns where every process of every group came with the same `description` and without a failure; raises in all
    of them otherwise: `failure` where there is one, RuntimeError elsewhere.

    One all-reduce of three integers per group; texts travel only where there is something to report.
    """
    digest = int.from_bytes(hashlib.blake2b(description.encode(), digest_size=7).digest(), "little")
    for name in groups:
        group = _resolve_process_group(name)
        try:
            flags = torch.tensor([digest, -digest, failure is not None], dtype=torch.int64, device=device)
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=group)
            largest, smallest, failed = flags.tolist()
            if largest == -smallest and not failed:
                continue
            texts: list[str] = [""] * group.size()
            own = description if failure is None else f"failed with {type(failure).__name__}: {failure}"
            dist.all_gather_object(texts, own.split("\n")[0], group=group)
        except RuntimeError as error:
            raise (failure or _broken(error)) from error
        if failure is None:
            lines = "".join(f"\n  process {rank}: {text}" for rank, text in enumerate(texts))
            failure = RuntimeError(f"torch_maxpool.sharding: processes do not make the same call{lines}")
    if failure is not None:
        raise failure


@dataclass(frozen=True)
class Part:
    """A tensor within a message."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        count = self.dtype.itemsize
        for size in self.shape:
            count *= size
        return count

    def view(self, buffer: Tensor, start: int) -> Tensor:
        return buffer[start : start + self.bytes].view(self.dtype).view(self.shape)


def _layout(parts: Sequence[Part]) -> tuple[list[int], int]:
    """Where each part starts, and the length of the message."""
    starts, length = [], 0
    for part in parts:
        starts.append(length)
        length += -(-part.bytes // _ALIGNMENT) * _ALIGNMENT
    return starts, length


class Exchange:
    """Messages under way: started by the constructor, finished by :meth:`wait`.

    sends: for each peer, the tensors it gets. receives: for each peer, the parts it sends. A process has at most one
    message for each other one; both sides leave out messages without bytes.
    """

    def __init__(
        self,
        group: str,
        sends: Sequence[tuple[int, Sequence[Tensor]]],
        receives: Sequence[tuple[int, Sequence[Part]]],
        device: torch.device,
    ):
        process_group = _resolve_process_group(group)
        self._received: list[list[Tensor]] = []
        self._buffers = []
        operations = []
        for peer, parts in receives:
            starts, length = _layout(parts)
            buffer = torch.empty(length, dtype=torch.uint8, device=device)
            self._received.append([part.view(buffer, start) for part, start in zip(parts, starts, strict=True)])
            if length:
                operations.append(dist.P2POp(dist.irecv, buffer, group=process_group, group_peer=peer))
        for peer, tensors in sends:
            parts = [Part(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
            starts, length = _layout(parts)
            if not length:
                continue
            buffer = torch.empty(length, dtype=torch.uint8, device=device)
            for part, start, tensor in zip(parts, starts, tensors, strict=True):
                part.view(buffer, start).copy_(tensor)
            operations.append(dist.P2POp(dist.isend, buffer, group=process_group, group_peer=peer))
            self._buffers.append(buffer)  # kept until the messages are out
            for traffic in _counting:
                traffic.bytes += length
                traffic.messages += 1
        try:
            self._works = dist.batch_isend_irecv(operations) if operations else []
        except RuntimeError as error:
            raise _broken(error) from error

    def wait(self) -> list[list[Tensor]]:
        """The tensors received, in the order of `receives`."""
        try:
            for work in self._works:
                work.wait()
        except RuntimeError as error:
            raise _broken(error) from error
        self._buffers.clear()
        return self._received
