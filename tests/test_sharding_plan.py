"""The plan of spatial sharding against its definition, row by row, without any process."""

import random
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from torch_maxpool.sharding.plan import Axis, Rows, chunk_sizes, output_sizes
from torch_maxpool.sharding.pooling import Layout, Pooling, make_plan


def random_axis(seed):
    """An axis as a call makes it: random slabs (empty ones too), windows and ownership of outputs."""
    random_ = random.Random(seed)
    while True:
        size, processes = random_.randint(1, 24), random_.randint(1, 5)
        kernel, dilation, stride = random_.randint(1, 5), random_.randint(1, 4), random_.randint(1, 6)
        effective = dilation * (kernel - 1) + 1
        auto_pad = random_.choice(["explicit", "explicit", "same", "same_lower"])
        pads = [random_.randrange(effective) if auto_pad == "explicit" else 0 for _ in range(2)]
        borders = [0, *sorted(random_.randint(0, size) for _ in range(processes - 1)), size]
        chunked = random_.random() < 0.5
        sizes = [stop - start for start, stop in pairwise(borders)]
        layout = Layout(
            (0,), (processes,), tuple(chunk_sizes(size, processes) if chunked else sizes), (0,), ("",), chunked
        )
        pooling = Pooling((kernel,), (stride,), tuple(pads), (dilation,), random_.random() < 0.5, False, auto_pad)
        try:
            return make_plan((size,), pooling, layout).axes[0]
        except RuntimeError as error:  # nothing to pool
            assert "output size is too small" in str(error)


def taps(axis: Axis, output: int) -> list[int]:
    """The input rows under a window, from the definition."""
    rows = [output * axis.stride - axis.before + tap * axis.dilation for tap in range(axis.kernel)]
    return [row for row in rows if 0 <= row < axis.rows.stop]


def owner_of(starts, row):
    return max(process for process in range(len(starts) - 1) if starts[process] <= row < starts[process + 1])


@pytest.mark.parametrize("block", range(4))
def test_everything_needed_is_there_and_nothing_else_moves(block):
    for seed in range(100 * block, 100 * block + 100):
        axis = random_axis(seed)
        processes = range(len(axis.sizes))
        for me in processes:
            outputs = range(*axis.owned_outputs(me))
            needed = {row for output in outputs for row in taps(axis, output)}
            arriving = [
                row
                for other in processes
                if other != me
                for run in axis.inputs_to_move(other, me)
                for row in range(*run)
            ]
            assert len(arriving) == len(set(arriving))
            assert set(arriving) == needed - set(range(*axis.owned(me)))
            # Outputs whose windows touch my rows must arrive for backward.
            mine = set(range(*axis.owned(me)))
            wanted = {o for o in range(axis.outputs.stop) if mine & set(taps(axis, o))} - set(outputs)
            arriving = [
                row
                for other in processes
                if other != me
                for run in axis.outputs_to_move(other, me)
                for row in range(*run)
            ]
            assert len(arriving) == len(set(arriving))
            assert wanted <= set(arriving)
            if axis.dilation == 1:
                assert wanted == set(arriving)


@pytest.mark.parametrize("block", range(4))
def test_pieces_cover_the_results_once_and_local_ones_need_nobody(block):
    for seed in range(100 * block, 100 * block + 100):
        axis = random_axis(seed)
        for me in range(len(axis.sizes)):
            owned, outputs = axis.owned(me), axis.owned_outputs(me)
            pieces = axis.forward_pieces(me)
            assert [o for piece in pieces for o in range(*piece.result)] == list(range(*outputs))
            assert len(pieces) <= 3
            for piece in pieces:
                needed = {row for output in range(*piece.result) for row in taps(axis, output)}
                assert needed <= set(range(*piece.source))
                assert piece.local == ((piece.source & owned) == piece.source)
                before, after = axis.padding(piece.result)
                assert 0 <= before < axis.effective and 0 <= after < axis.effective
                made = (piece.source.count + before + after - axis.effective) // axis.stride + 1
                assert made == piece.result.count
                assert piece.source.start - before == piece.result.start * axis.stride - axis.before
            pieces = axis.backward_pieces(me)
            assert [row for piece in pieces for row in range(*piece.result)] == list(range(*owned))
            assert len(pieces) <= 3
            for piece in pieces:
                rows = set(range(*piece.result))
                touching = {o for o in range(axis.outputs.stop) if rows & set(taps(axis, o))}
                assert touching <= set(range(*piece.source))
                assert piece.local == (not piece.source.count or (piece.source & outputs) == piece.source)


@pytest.mark.parametrize("block", range(4))
def test_a_slab_in_the_middle_pools_its_interior_alone(block):
    """The piece that needs nobody is as large as it can be."""
    for seed in range(100 * block, 100 * block + 100):
        axis = random_axis(seed)
        for me in range(len(axis.sizes)):
            owned, outputs = axis.owned(me), axis.owned_outputs(me)
            alone = {o for o in range(*outputs) if (axis.read(Rows(o, o + 1)) & owned) == axis.read(Rows(o, o + 1))}
            local = {o for piece in axis.forward_pieces(me) if piece.local for o in range(*piece.result)}
            assert local == alone
            if axis.stride > axis.effective:
                continue  # rows between windows need nobody, wherever they are
            alone = {
                row for row in range(*owned) if not set(range(*axis.windows(Rows(row, row + 1)))) - set(range(*outputs))
            }
            local = {row for piece in axis.backward_pieces(me) if piece.local for row in range(*piece.result)}
            assert local == alone


def test_outputs_follow_the_rows_their_windows_start_at():
    for seed in range(200):
        random_ = random.Random(seed)
        sizes = [random_.randint(0, 6) for _ in range(random_.randint(1, 5))]
        total = sum(sizes)
        if not total:
            continue
        stride, outputs = random_.randint(1, 4), random_.randint(1, 20)
        starts = [sum(sizes[:process]) for process in range(len(sizes) + 1)]
        owners = [owner_of(starts, min(output * stride, total - 1)) for output in range(outputs)]
        expected = [owners.count(process) for process in range(len(sizes))]
        assert output_sizes(sizes, stride, outputs, False) == expected


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_chunks_are_those_of_torch(processes):
    for size in range(1, 30):
        chunks = [chunk.numel() for chunk in torch.arange(size).chunk(processes)]
        assert chunk_sizes(size, processes) == chunks + [0] * (processes - len(chunks))


def test_rows_per_border():
    """(kernel - 1) * dilation + 1 - stride rows pass each border of slabs that the stride divides."""
    for kernel, stride, dilation in [(3, 2, 1), (5, 1, 1), (3, 1, 2), (2, 2, 1), (7, 3, 1)]:
        axis = Axis(kernel, stride, dilation, 0, (24, 24, 24), (24 // stride,) * 3)
        moved = sum(run.count for run in axis.inputs_to_move(1, 0))
        if dilation == 1:
            assert moved == max(0, kernel - stride)
        assert moved <= max(0, (kernel - 1) * dilation + 1 - stride)


def test_the_package_alone_loads_nothing_of_torch_distributed():
    code = (
        "import sys, torch; before = set(sys.modules); import torch_maxpool; "
        "sys.exit(any('distributed' in name or 'sharding' in name for name in set(sys.modules) - before))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
