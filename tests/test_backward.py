"""maxpool_backward against NumPy's scatter, bit for bit, on random poolings; bad offsets; any number of threads.

The reference adds grad_output, window after window, at PyTorch-style plane indices, in float32 (float64 for float64),
and rounds once to the 16-bit dtypes. So results are those of one fixed order of additions for every family of kernels.
"""

import math
import random
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from common import FLOATS, Case, assert_same

SEEDS, EXAMPLES = 30, 40  # random poolings: SEEDS tests of EXAMPLES each
LARGEST = {1: 300, 2: 40, 3: 12}  # spatial sizes beyond the smallest that the window fits
MOST_ELEMENTS = 60_000  # of an input
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Example:
    """A pooling, a dtype, and how grad_output lies in memory."""

    case: Case
    dtype: torch.dtype
    grad_layout: str

    def input(self):
        """Normal numbers or, so that windows agree on few winners, small whole ones."""
        shape = self.case.shape
        tensor = torch.randn(shape) if sum(shape) % 2 else torch.randint(-9, 10, shape)
        return self.case.layout(tensor.to(self.dtype))

    def lay_out(self, grad):
        if self.grad_layout == "strided":
            wide = torch.zeros([2 * n for n in grad.shape], dtype=grad.dtype)
            return wide[tuple(slice(0, None, 2) for _ in grad.shape)].copy_(grad)
        return self.case.layout(grad) if self.grad_layout == "like the input" else grad


def draw_kernel(pick, rank):
    if pick.random() < 0.1:  # offsets of int32
        return {1: (pick.randint(257, 400),), 2: (17, pick.randint(16, 20)), 3: (7, 7, 6)}[rank]
    if pick.random() < 0.15:
        largest = 17 if rank < 3 else 6
        return tuple(pick.randint(1, largest) for _ in range(rank))
    kernel = tuple(pick.choice((1, 2, 2, 3, 3, 4, 5, 7)) for _ in range(rank))
    return kernel[:1] * rank if pick.random() < 0.4 else kernel


def draw_example(pick):
    while True:
        rank = pick.choice((1, 2, 2, 2, 3))
        kernel = draw_kernel(pick, rank)
        dilation = (1,) * rank if pick.random() < 0.7 else tuple(pick.randint(1, 4) for _ in range(rank))
        stride = tuple(pick.choice((1, 1, 2, 2, 3, 4, 9, k)) for k in kernel)
        stride = stride[:1] * rank if pick.random() < 0.5 else stride
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        kind = pick.choice(("none", "half", "unequal", "unequal"))
        begins = [pick.randint(0, n) if kind == "unequal" else n // 2 * (kind == "half") for n in reach]
        ends = [pick.randint(0, n) if kind == "unequal" else n // 2 * (kind == "half") for n in reach]
        least = [max(1, n + 1 - a - b) for n, a, b in zip(reach, begins, ends, strict=True)]
        size = [n + pick.randint(0, pick.choice((1, LARGEST[rank]))) for n in least]
        planes = (pick.choice((1, 1, 2, 3)), pick.choice((1, 2, 3, 4, 7, 8, 16, 17, 33, 64, 100)))
        shape = (*planes[pick.random() < 0.1 :], *size)  # now and then without a batch
        if math.prod(shape) > MOST_ELEMENTS:
            continue
        ceil_mode, last = pick.random() < 0.3, rank > 1 and len(shape) == rank + 2 and pick.random() < 0.4
        padding = (*begins, *ends)
        case = Case("random", shape, kernel, stride, padding, dilation, ceil_mode, channels_last=last)
        return Example(case, pick.choice(FLOATS), pick.choice(("like the input", "contiguous", "strided")))


def examples(seed):
    pick = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(EXAMPLES):
        yield draw_example(pick), pick


def random_grad(shape, dtype):
    """Magnitudes so different that sums depend on the order of additions, and zeros of both signs."""
    grad = torch.randn(shape) * 10.0 ** torch.randint(-3, 3, shape)
    zeros = torch.rand(shape)
    grad[zeros < 0.1] = -0.0
    grad[zeros < 0.05] = 0.0
    return grad.to(dtype)


def scattered(case, grad, offsets):
    """The gradient of the case's input, by NumPy from PyTorch-style plane indices (-1: nothing to add)."""
    wide = grad.to(torch.float64 if grad.dtype == torch.float64 else torch.float32)
    planes, elements = math.prod(case.shape[: -case.rank]), math.prod(case.spatial)
    # reshape and contiguous: rows in the order of the planes, windows in row-major order, whatever the layout.
    grads = wide.contiguous().reshape(planes, -1).numpy()
    indices = case.indices(offsets).contiguous().reshape(planes, -1).numpy()
    rows = np.broadcast_to(np.arange(planes)[:, None], indices.shape)
    some = indices >= 0
    total = np.zeros((planes, elements), grads.dtype)
    np.add.at(total, (rows[some], indices[some]), grads[some])
    return torch.from_numpy(total).reshape(case.shape).to(grad.dtype)


def check_bits(actual, expected, note):
    assert actual.dtype == expected.dtype, note
    assert actual.shape == expected.shape, note
    as_bits = BITS[actual.element_size()]
    different = actual.contiguous().view(as_bits) != expected.contiguous().view(as_bits)
    assert not different.any(), f"{note}: {int(different.sum())} of {different.numel()} elements differ"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_poolings(seed):
    for example, _ in examples(seed):
        case = example.case
        output, offsets = case.forward(example.input())
        grad = random_grad(output.shape, example.dtype)
        actual = case.backward(example.lay_out(grad), offsets)
        check_bits(actual, scattered(case, grad, offsets), example)
        if case.channels_last:
            assert case.layout(actual) is actual, example


@pytest.mark.parametrize("seed", range(100, 106))
def test_random_offsets(seed):
    """Any offsets that name elements, not only those of winners: neighbouring windows then seldom agree."""
    for example, _ in examples(seed):
        case = example.case
        output, winners = case.forward(example.input())
        drawn = torch.randint(0, math.prod(case.kernel), winners.shape).to(winners.dtype)
        offsets = winners.clone()
        offsets.copy_(drawn)
        if sum(case.padding) or case.ceil_mode:  # taps that fall outside the input stay with the winner
            offsets = torch.where(names_element(case, offsets), offsets, winners)
            offsets = case.layout(offsets)
        grad = random_grad(output.shape, example.dtype)
        check_bits(case.backward(grad, offsets), scattered(case, grad, offsets), example)


def names_element(case, offsets):
    """Where offsets (at least 0, below the number of taps) name an element of the input, by arithmetic."""
    result = torch.ones(offsets.shape, dtype=torch.bool)
    rest = offsets.long()
    for i in reversed(range(case.rank)):
        axis, size = case.axes[i], case.spatial[i]
        starts = torch.arange(offsets.shape[i - case.rank]) * axis.stride - axis.padding(size)[0]
        starts = starts.view([-1 if j == i else 1 for j in range(case.rank)])
        at = starts + rest % axis.kernel * axis.dilation
        result &= (at >= 0) & (at < size)
        rest = rest // axis.kernel
    return result


@pytest.mark.parametrize("seed", range(200, 206))
def test_nan_and_infinities_stay_where_they_belong(seed):
    """Compared apart from the rest: which NaN a sum of NaNs is, no one promises."""
    for example, _ in examples(seed):
        case = example.case
        output, offsets = case.forward(example.input())
        grad = random_grad(output.shape, example.dtype)
        kinds = torch.rand(output.shape)
        for share, value in ((0.06, math.inf), (0.04, -math.inf), (0.02, math.nan)):
            grad[kinds < share] = value
        with np.errstate(invalid="ignore"):
            expected = scattered(case, grad, offsets)
        assert_same(case.backward(example.lay_out(grad), offsets), expected)


def raised_by(call):
    """The text of the IndexError of a call; empty where there is none."""
    try:
        call()
    except IndexError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(300, 310))
def test_a_bad_offset_is_named(seed):
    """Wherever it is, by its place in contiguous order; and an offset is bad to backward where it is to indices."""
    bad = 0
    for example, pick in examples(seed):
        case = example.case
        output, offsets = case.forward(example.input())
        taps = math.prod(case.kernel)
        place = pick.choice((0, offsets.numel() - 1, pick.randrange(offsets.numel())))
        values = [taps, pick.randrange(taps), pick.randrange(taps)]
        values += [255, pick.randrange(256)] if offsets.dtype == torch.uint8 else [-1, -(2**31), 2**31 - 1, taps + 7]
        value = pick.choice(values)
        if offsets.dtype == torch.uint8 and value > 255:
            continue
        offsets[np.unravel_index(place, offsets.shape)] = value
        note = (example, place, value)
        refused = raised_by(lambda: case.indices(offsets))  # noqa: B023
        assert bool(re.search(f"element {place} of the outputs", refused)) == bool(refused), note
        grad = random_grad(output.shape, example.dtype)
        actual = raised_by(lambda: case.backward(example.lay_out(grad), offsets))  # noqa: B023
        assert actual == refused.replace("maxpool_indices", "maxpool_backward"), note
        bad += bool(refused)
    assert bad > EXAMPLES // 6


@pytest.mark.parametrize("count", [2, 5])
def test_one_of_many_bad_offsets_is_named(count, set_threads):
    case = Case("many", (2, 70, 40, 40), (3, 3), (2, 2), (1, 1))
    output, offsets = case.forward(case.input(torch.float32))
    places = torch.randperm(offsets.numel())[:count]
    offsets.view(-1)[places] = 9
    for threads in (1, 2, 5):
        set_threads(threads)
        text = raised_by(lambda: case.backward(output, offsets))
        assert int(re.search(r"element (\d+) of the outputs", text)[1]) in places


# Large enough for several threads, or for planes that are split among tasks.
LARGE = [
    Case("2/2", (2, 40, 64, 66), (2, 2)),
    Case("2/2 channels_last", (1, 70, 64, 66), (2, 2), channels_last=True),
    Case("3/2", (1, 40, 65, 64), (3, 3), (2, 2), (1, 1)),
    Case("3/2 channels_last", (1, 33, 65, 64), (3, 3), (2, 2), (1, 1), channels_last=True),
    Case("5/1", (1, 70, 20, 20), (5, 5), (1, 1), (2, 2)),
    Case("13/1", (1, 30, 20, 20), (13, 13), (1, 1), (6, 6)),
    Case("21/1, one plane", (1, 1, 600, 600), (21, 21), (1, 1), (10, 10)),
    Case("21/3, dilated plane", (1, 1, 600, 600), (21, 21), (3, 3), (10, 4, 0, 7), (2, 1)),
    Case("40/1, one plane", (1, 1, 300, 310), (40, 40), (1, 1), (20, 20)),
    Case("plane of 5 channels_last", (1, 5, 250, 260), (17, 16), (2, 1), (8, 8), channels_last=True),
    Case("wide rows", (1, 1, 8, 60000), (2, 3), (1, 1), (0, 1)),
    Case("few windows in wide rows", (1, 2, 7, 40_000), (2, 3), (2, 700)),
    Case("rows beyond the last window", (1, 1, 11, 2703), (2, 3), (3, 1), (0, 0), (2, 1)),
    Case("256 taps side by side", (1, 2, 130, 41), (64, 4), (64, 4)),
    Case("3d 3/2", (1, 9, 16, 28, 29), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    Case("taps far apart", (1, 2, 70, 72, 74), (2, 2, 2), (1, 1, 1), (0, 0, 0), (30, 30, 30)),
    Case("3d 7/1, one plane", (1, 1, 40, 42, 44), (7, 7, 7), (1, 1, 1), (3, 3, 3)),
    Case("1d 3/1", (1, 1, 200_000), (3,), (1,), (1,)),
    Case("1d 4/4", (1, 1, 200_000), (4,)),
    Case("1d 300/7", (1, 1, 200_000), (300,), (7,), (12,)),
    Case("1d taps far apart", (1, 2, 80_000), (2,), (9000,), (0,), (35_000,)),
    Case("1d text", (8, 128, 100), (3,), (1,), (1,)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
def test_large_planes_and_any_number_of_threads(case, dtype, set_threads):
    tensor = case.layout(torch.randn(case.shape).to(dtype))
    output, offsets = case.forward(tensor)
    grad = case.layout(random_grad(output.shape, dtype))
    expected = scattered(case, grad, offsets)
    for threads in (1, 2, 5):
        set_threads(threads)
        check_bits(case.backward(grad, offsets), expected, f"{threads} threads")
