"""Who owns, needs and sends what, in integers alone: every process computes the same plan, so nothing is negotiated.

Along one spatial dimension of `size` rows, process r owns the input rows ``[starts[r], starts[r + 1])`` and the output
rows ``[output_starts[r], output_starts[r + 1])``. Output row o pools the input rows ``o * stride - before + tap *
dilation``. A row may be needed by any number of processes, however far away their slabs are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch


class Rows(NamedTuple):
    """The rows from `start` up to `stop`; empty where they are equal."""

    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start

    def __and__(self, other: Rows) -> Rows:
        start = max(self.start, other.start)
        return Rows(start, max(start, min(self.stop, other.stop)))

    def within(self, outer: Rows) -> Rows:
        """The same rows, numbered from the first of `outer`."""
        return Rows(self.start - outer.start, self.stop - outer.start)


class Piece(NamedTuple):
    """Rows of a result that are made in one call of a kernel."""

    result: Rows
    source: Rows  # what the call reads
    local: bool  # whether this process owns all of the source


def starts_of(sizes: Sequence) -> list:
    """Slab borders from slab sizes."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts


def chunk_sizes(size, processes: int) -> list:
    """Slabs as torch.chunk and DTensor cut them. Sizes may be symbolic."""
    step = (size + processes - 1) // processes
    return [torch.sym_max(torch.sym_min(step, size - step * process), 0) for process in range(processes)]


def output_sizes(sizes: Sequence, stride: int, outputs, chunked: bool) -> list:
    """Output rows of each process. Sizes may be symbolic.

    chunked: as torch.chunk cuts them, which DTensor wants. Otherwise row o goes with the input row ``o * stride``:
    slabs keep their proportions, and fewer rows travel.
    """
    if chunked:
        return chunk_sizes(outputs, len(sizes))
    starts = starts_of(sizes)
    total = starts[-1]
    borders = [0]
    for start in starts[1:-1]:
        borders.append(outputs if start >= total else torch.sym_min((start + stride - 1) // stride, outputs))
    borders.append(outputs)
    return [stop - start for start, stop in pairwise(borders)]


@dataclass(frozen=True)
class Axis:
    """One spatial dimension of a pooling over slabs; one slab where the dimension is not sharded."""

    kernel: int
    stride: int
    dilation: int
    before: int  # padding before the first input row
    sizes: tuple[int, ...]  # input rows of each process
    output_sizes: tuple[int, ...]

    @cached_property
    def starts(self) -> list[int]:
        return starts_of(self.sizes)

    @cached_property
    def output_starts(self) -> list[int]:
        return starts_of(self.output_sizes)

    @property
    def rows(self) -> Rows:
        return Rows(0, self.starts[-1])

    @property
    def outputs(self) -> Rows:
        return Rows(0, self.output_starts[-1])

    @property
    def effective(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    def owned(self, process: int) -> Rows:
        return Rows(self.starts[process], self.starts[process + 1])

    def owned_outputs(self, process: int) -> Rows:
        return Rows(self.output_starts[process], self.output_starts[process + 1])

    def span(self, outputs: Rows) -> Rows:
        """From the first to the last row under these windows, padding included."""
        start = outputs.start * self.stride - self.before
        return Rows(start, start + (outputs.count - 1) * self.stride + self.effective)

    def read(self, outputs: Rows) -> Rows:
        """The span without padding; never empty unless `outputs` is."""
        return self.span(outputs) & self.rows if outputs.count else Rows(0, 0)

    def padding(self, outputs: Rows) -> tuple[int, int]:
        """Padding (before, after) with which a kernel makes `outputs` of what they read."""
        span = self.span(outputs)
        return max(0, -span.start), max(0, span.stop - self.rows.stop)

    def windows(self, rows: Rows) -> Rows:
        """The outputs whose span reaches any of these input rows."""
        if not rows.count:
            return Rows(0, 0)
        first = -((self.effective - 1 - self.before - rows.start) // self.stride)
        last = (rows.stop - 1 + self.before) // self.stride
        return Rows(first, last + 1) & self.outputs

    def touches(self, row: int, outputs: Rows) -> bool:
        """True where a tap of one of these windows lies on the input row."""
        # o * stride + tap * dilation == row + before, first <= o < stop, 0 <= tap < kernel
        target = row + self.before
        first = max(outputs.start, -((self.effective - 1 - target) // self.stride))
        stop = min(outputs.stop, target // self.stride + 1)
        return any((target - o * self.stride) % self.dilation == 0 for o in range(first, stop))

    def forward_pieces(self, process: int) -> list[Piece]:
        """This process's outputs: what needs nobody else's rows in one piece, what is before and after it in others."""
        owned, outputs = self.owned(process), self.owned_outputs(process)
        if not outputs.count:
            return []
        first, stop = outputs
        if owned.start > 0:
            first = max(first, -(-(owned.start + self.before) // self.stride))
        if owned.stop < self.rows.stop:
            stop = min(stop, (owned.stop + self.before - self.effective) // self.stride + 1)
        return _pieces(outputs, Rows(first, stop), self.read, owned)

    def backward_pieces(self, process: int) -> list[Piece]:
        """This process's input rows: what only its own windows reach in one piece, the rest in others."""
        owned, outputs = self.owned(process), self.owned_outputs(process)
        if not owned.count:
            return []
        reaching = self.windows(owned)
        first, stop = owned
        if reaching.start < outputs.start:
            first = max(first, self.span(outputs).start - self.stride + self.effective)
        if reaching.stop > outputs.stop:
            stop = min(stop, outputs.stop * self.stride - self.before)
        return _pieces(owned, Rows(first, stop), self.windows, outputs)

    def inputs_to_move(self, source: int, target: int) -> list[Rows]:
        """Runs of input rows that `source` owns and the windows of `target` touch."""
        outputs = self.owned_outputs(target)
        rows = self.owned(source) & self.read(outputs)
        if self.dilation == 1 and self.stride <= self.kernel:
            return [rows] if rows.count else []
        return _runs(row for row in range(*rows) if self.touches(row, outputs))

    def outputs_to_move(self, source: int, target: int) -> list[Rows]:
        """Runs of output rows that `source` owns and whose windows reach the input rows of `target`."""
        rows = self.owned_outputs(source) & self.windows(self.owned(target))
        return [rows] if rows.count else []


def _pieces(result: Rows, middle: Rows, read, owned: Rows) -> list[Piece]:
    """`result` cut around `middle`, which can be made of `owned` alone; empty pieces are left out."""
    if middle.start >= middle.stop:
        parts = [result]
    else:
        parts = [Rows(result.start, middle.start), middle, Rows(middle.stop, result.stop)]
    found = []
    for part in parts:
        if part.count:
            source = read(part)
            found.append(Piece(part, source, (source & owned) == source or not source.count))
    return found


def _runs(rows) -> list[Rows]:
    """Ascending row numbers as runs of neighbours."""
    runs: list[Rows] = []
    for row in rows:
        if runs and runs[-1].stop == row:
            runs[-1] = Rows(runs[-1].start, row + 1)
        else:
            runs.append(Rows(row, row + 1))
    return runs
