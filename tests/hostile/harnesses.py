"""Rows of kind M: what one call cannot show. Each runs in a process of its own, under the limits it declares."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import reference
from common import CHANNELS_LAST, DTYPES, FLOATS, OPS, assert_array, assert_same, random_input, to_numpy
from hostile.limits import GIB, MIB, Skipped, status_bytes, virtual_bytes


@dataclass(frozen=True)
class Harness:
    """A row's code and what it may use."""

    run: Callable[[], None]
    memory: int  # bytes that must be available for it to be run
    address_space: int  # bytes on top of what the process has
    seconds: int  # of processor time
    once: bool  # too long to be run again under every CPU capability


HARNESSES: dict[str, Harness] = {}


def harness(row, memory=GIB // 2, address_space=2 * GIB, seconds=60, once=False):
    """Enters the decorated function for the row with this id."""

    def enter(function):
        HARNESSES[row] = Harness(function, memory, address_space, seconds, once)
        return function

    return enter


def pool(tensor, *arguments):
    """Forward, compared with the reference."""
    output, offsets = OPS.maxpool_forward(tensor, *arguments)
    expected = reference.pool(to_numpy(tensor), reference.make_axes(len(arguments[0]), *arguments))
    assert_array(output, expected.values)
    some = expected.offsets >= 0
    assert (offsets.numpy()[some] == expected.offsets[some]).all()
    return output, offsets


# More elements than 32 bits count. Inputs are zero but for a few marks and take pages only where they are written, so
# the outputs are what needs memory.


def zeros(shape, dtype):
    """Zeros that have not been written: torch.zeros writes them."""
    width = torch.empty(0, dtype=dtype).element_size()
    return torch.from_numpy(np.zeros(shape, f"i{width}")).view(dtype)


def mark(tensor, places):
    """Puts 1, 2, ... at flat places of a tensor of zeros."""
    flat = tensor.view(-1)
    for number, place in enumerate(places):
        flat[place] = number + 1


def edges(count):
    """Places at the ends and around every multiple of 2^31 of `count` elements."""
    found = {0, 1, count // 3, count - 2, count - 1}
    for boundary in range(2**31, count, 2**31):
        found |= {boundary - 1, boundary, boundary + 1}
    return sorted(place for place in found if 0 <= place < count)


def nonzeros(tensor):
    """How many elements are not 0, in pieces."""
    return sum(int(torch.count_nonzero(piece)) for piece in tensor.reshape(-1).split(1 << 28))


def check_marks(tensor, places, kernel):
    """Pools windows of `kernel` side by side; every marked window must show its largest mark, the rest 0, offset 0."""
    mark(tensor, places)
    rank = len(kernel)
    arguments = (kernel, kernel, [0], [1], False)
    output, offsets = OPS.maxpool_forward(tensor, *arguments)
    spatial = tensor.shape[-rank:]
    winners = {}
    for number, place in enumerate(places):
        rest, position, window, tap = place, [], [], 0
        for size in reversed(tensor.shape):
            rest, at = divmod(rest, size)
            position.insert(0, at)
        for at, length in zip(position[-rank:], kernel, strict=True):
            window.append(at // length)
            tap = tap * length + at % length
        if all(at < size // length for at, size, length in zip(window, spatial, kernel, strict=True)):
            winners[(*position[:-rank], *window)] = (number + 1, tap)
    assert winners
    for window, (value, tap) in winners.items():
        assert output[window] == value
        assert offsets[window] == tap
    assert nonzeros(output) == len(winners)
    assert nonzeros(offsets) == sum(tap != 0 for _, tap in winners.values())
    return output, offsets


@harness("PT-52822", memory=2 * GIB, address_space=8 * GIB, seconds=200, once=True)
def planes_of_more_than_2_31_elements():
    shape = (190, 64, 64, 2933)
    count = 190 * 64 * 64 * 2933
    assert count > 2**31
    check_marks(zeros(shape, torch.int8), edges(count), [2, 2])


@harness("PT-167253", memory=9 * GIB, address_space=24 * GIB, seconds=400, once=True)
def output_of_more_than_2_31_elements():
    shape = (74, 32, 30090, 81)
    count = 74 * 32 * 30090 * 81
    output, _ = check_marks(zeros(shape, torch.bfloat16), edges(count), [1, 2])
    assert output.numel() > 2**31


@harness("PD-79608", memory=3 * GIB, address_space=8 * GIB, seconds=200, once=True)
def one_row_of_more_than_2_31_elements():
    """A counter of 32 bits that steps by the stride would wrap."""
    tensor = zeros((1, 1, 2**31 + 8), torch.int8)
    places = [0, 2, 2**31 - 2, 2**31, 2**31 + 6]
    mark(tensor, places)
    tensor[0, 0, 2**31 - 1] = 100  # between two windows
    output, offsets = OPS.maxpool_forward(tensor, [1], [2], [0], [1], False)
    assert output.shape == (1, 1, 2**30 + 4)
    assert [int(output[0, 0, place // 2]) for place in places] == [1, 2, 3, 4, 5]
    assert nonzeros(output) == len(places)
    assert nonzeros(offsets) == 0


@harness("XPU-3940", memory=7 * GIB, address_space=16 * GIB, seconds=400, once=True)
def backward_channels_last_of_more_than_2_31_elements():
    """Four images of more than 2^29 elements, so that some places lie beyond 2^31 elements of 16 bits."""
    images, channels, height, width = 4, 8, 8200, 8200
    count = images * channels * height * width
    assert count > 2**31
    last = (images, height // 2, width // 2, channels)
    grad = zeros(last, torch.bfloat16).permute(0, 3, 1, 2)
    offsets = zeros(last, torch.uint8).permute(0, 3, 1, 2)
    windows = [(0, 0, 0, 0), (3, 7, 4099, 4099), (3, 7, 4099, 4098), (3, 0, 4099, 4099), (2, 3, 1000, 7)]
    for number, window in enumerate(windows):
        grad[window] = number + 1
        offsets[window] = 3 - number % 4
    result = OPS.maxpool_backward(grad, offsets, [height, width], [2, 2], [2, 2], [0, 0], [1, 1], False)
    assert result.is_contiguous(memory_format=torch.channels_last)
    for number, (n, c, h, w) in enumerate(windows):
        tap = 3 - number % 4
        assert result[n, c, 2 * h + tap // 2, 2 * w + tap % 2] == number + 1
    assert nonzeros(result.permute(0, 2, 3, 1)) == len(windows)


@harness("PT-28714", memory=GIB)
def channels_last_of_more_than_2_24_rows():
    tensor = torch.randn(1, 1, 16777217, 2).contiguous(memory_format=torch.channels_last)
    output, offsets = OPS.maxpool_forward(tensor, [1, 1], [1, 1], [0, 0], [1, 1], False)
    assert torch.equal(output, tensor)
    assert nonzeros(offsets) == 0
    assert torch.equal(OPS.maxpool_backward(output, offsets, [16777217, 2], [1, 1], [1], [0], [1], False), tensor)


@harness("PT-38764")
def a_million_channels():
    output, _ = pool(torch.rand(1, 10**6, 4), [4], [4], [0], [1], False)
    assert output.shape == (1, 10**6, 1)


# Derivatives.


@harness("PT-64306")
def empty_batch_differentiated_twice():
    tensor = torch.zeros(0, 3, 6, 6, dtype=torch.double, requires_grad=True)
    output, _ = OPS.maxpool_forward(tensor, [2, 2], [2, 2], [0, 0], [1, 1], False)
    (gradient,) = torch.autograd.grad(output.sum(), tensor, create_graph=True)
    assert gradient.shape == tensor.shape
    torch.autograd.gradgradcheck(
        lambda x: OPS.maxpool_forward(x, [2, 2], [2, 2], [0, 0], [1, 1], False)[0], (tensor,), torch.zeros(0, 3, 3, 3)
    )


@harness("PT-85485")
def offsets_changed_before_backward():
    """autograd notices; behind its back, through .data, the kernel still does not leave its memory."""
    tensor = torch.randn(1, 2, 8, 8, requires_grad=True)
    output, offsets = OPS.maxpool_forward(tensor, [2, 2])
    offsets.fill_(1)
    try:
        output.sum().backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        raise AssertionError("no error was raised")
    output, offsets = OPS.maxpool_forward(tensor, [2, 2])
    offsets.data.fill_(200)
    try:
        output.sum().backward()
    except IndexError as error:
        assert "maxpool_backward: offsets hold a value that names no element of its window" in str(error)
    else:
        raise AssertionError("no error was raised")


@harness("PT-vmap", seconds=120)
def vmap_forward_and_double_backward():
    arguments = ([2, 2], [2, 2], [0, 0], [1, 1], False)
    for layout in (torch.contiguous_format, torch.channels_last):
        batch = torch.randn(3, 2, 1, 4, 4, dtype=torch.double)
        batch = torch.stack([sample.contiguous(memory_format=layout) for sample in batch])
        found = torch.func.vmap(lambda t: OPS.maxpool_forward(t, *arguments)[0])(batch)
        each = [OPS.maxpool_forward(sample, *arguments)[0] for sample in batch]
        assert torch.equal(found, torch.stack(each))

        def energy(t):
            return (OPS.maxpool_forward(t, *arguments)[0] ** 3).sum()

        def second(t):
            return torch.func.grad(lambda u: (torch.func.grad(energy)(u) * u).sum())(t)

        found = torch.func.vmap(second)(batch)
        assert torch.equal(found, torch.stack([second(sample) for sample in batch]))


@harness("PT-meta")
def meta_tensors():
    """Sizes, and the errors of a CPU tensor; tests/test_ways_in.py has all the errors."""
    tensor = torch.empty(1, 1, 4, 4, device="meta")
    for result in OPS.maxpool_forward(tensor, [2, 2], [2, 2], [0, 0], [1, 1], False):
        assert result.device.type == "meta"
        assert result.shape == (1, 1, 2, 2)
    texts = set()
    for device in ("meta", "cpu"):
        try:
            OPS.maxpool_forward(torch.empty(1, 1, 4, 4, device=device), [5, 5])
        except RuntimeError as error:
            texts.add(str(error))
    assert len(texts) == 1
    assert "output size is too small" in texts.pop()


# Memory that ends where the tensor ends.


class Guarded:
    """Tensors whose first or last byte borders on a page that cannot be touched."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.pages = 8
        self.map = mmap.mmap(-1, (self.pages + 2) * mmap.PAGESIZE)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for page in (0, self.pages + 1):
            if self.libc.mprotect(self.base + page * mmap.PAGESIZE, mmap.PAGESIZE, 0):
                raise Skipped("mprotect is not allowed here")

    def tensor(self, like, at_end):
        """A copy of `like` in its layout, next to a guard page; valid until the next call."""
        size = like.untyped_storage().nbytes()
        room = self.pages * mmap.PAGESIZE
        assert 0 < size <= room
        start = mmap.PAGESIZE + (room - size if at_end else 0)
        flat = torch.frombuffer(self.map, dtype=like.dtype, count=size // like.element_size(), offset=start)
        flat.copy_(like.as_strided((flat.numel(),), (1,)))
        return flat.as_strided(like.shape, like.stride())


@harness("XN-10199", seconds=120)
def inputs_beside_pages_that_cannot_be_read():
    """tests/cpp/kernels/test_kernels.cpp has the kernels' outputs too, and every layout."""
    first, second = Guarded(), Guarded()
    arguments = ([3, 2], [1, 1], [1, 1], [1, 1], False)
    for dtype in DTYPES:
        lanes = 64 // torch.empty(0, dtype=dtype).element_size()
        lengths = sorted({1, 2, 3, lanes - 1, lanes, lanes + 1, 2 * lanes - 1, 2 * lanes, 2 * lanes + 1})
        shapes = [(1, 2, 3, max(2, n)) for n in lengths] + [(1, n, 3, 3) for n in lengths]
        for shape in shapes:
            for layout in (torch.contiguous_format, torch.channels_last):
                tensor = random_input(shape, dtype).contiguous(memory_format=layout)
                expected = OPS.maxpool_forward(tensor, *arguments)
                for at_end in (False, True):
                    found = OPS.maxpool_forward(first.tensor(tensor, at_end), *arguments)
                    for mine, theirs in zip(found, expected, strict=True):
                        assert_same(mine, theirs)
                    if dtype in FLOATS:
                        rest = (expected[1], list(shape[2:]), *arguments)
                        gradient = OPS.maxpool_backward(expected[0], *rest)
                        mine = OPS.maxpool_backward(
                            first.tensor(expected[0], at_end), second.tensor(expected[1], at_end), *rest[1:]
                        )
                        assert_same(mine, gradient)


# Processes, threads, signals, memory.


@harness("PROC-fork", seconds=120)
def fork_after_use():
    """As for every operator of PyTorch that uses OpenMP, the child sets one thread first (data loaders do)."""
    torch.set_num_threads(2)
    tensor = torch.randn(8, 16, 128, 128)
    expected = OPS.maxpool_forward(tensor, [3, 3], [2, 2], [1, 1], [1, 1], False)[0]
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        torch.set_num_threads(1)
        leaf = tensor.clone().requires_grad_()
        output = OPS.maxpool_forward(leaf, [3, 3], [2, 2], [1, 1], [1, 1], False)[0]
        output.sum().backward()
        os._exit(0 if torch.equal(output, expected) and leaf.grad.sum() == output.numel() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert torch.equal(OPS.maxpool_forward(tensor, [3, 3], [2, 2], [1, 1], [1, 1], False)[0], expected)


@harness("PROC-threads", seconds=120)
def eight_threads():
    tensor = torch.randn(4, 8, 40, 40)
    weight = torch.randn(4, 8, 20, 20)

    def step():
        leaf = tensor.clone().requires_grad_()
        output, offsets = OPS.maxpool_forward(leaf, [3, 3], [2, 2], [1, 1], [1, 1], False)
        (output * weight).sum().backward()
        return output.detach(), offsets, leaf.grad

    expected = step()
    wrong = []

    def work():
        for _ in range(50):
            if not all(torch.equal(mine, theirs) for mine, theirs in zip(step(), expected, strict=True)):
                wrong.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@harness("PROC-oom", memory=GIB, address_space=4 * GIB, seconds=120)
def every_allocation_fails_once():
    """The limit rises step by step, so that every large allocation is the first to fail somewhere.

    Results are of 32 MiB and more, which malloc never takes from what it has at hand.
    """
    torch.set_num_threads(2)
    tensor = torch.randn(8, 32, 256, 512).to(torch.bfloat16)
    arguments = ([3, 3], [1, 1], [1, 1], [1, 1], False)
    output, offsets = OPS.maxpool_forward(tensor, *arguments)
    strided = offsets.transpose(2, 3).contiguous().transpose(2, 3)  # backward has to copy these
    expected = OPS.maxpool_backward(output, offsets, [256, 512], *arguments)
    forward = lambda: OPS.maxpool_forward(tensor, *arguments)  # noqa: E731
    backward = lambda: OPS.maxpool_backward(output, strided, [256, 512], *arguments)  # noqa: E731
    for call in (forward, backward):
        call()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    failures = successes = 0
    for step in range(48):
        for call in (forward, backward):
            held = forward()  # takes the memory that is kept of results before
            resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + 3 * step * MIB, hard))
            try:
                result = call()
            except (RuntimeError, MemoryError) as error:
                failures += 1
                assert isinstance(error, MemoryError) or "alloc" in str(error), error
            else:
                successes += 1
                if call is forward:
                    assert torch.equal(result[0], output)
                    assert torch.equal(result[1], offsets)
                else:
                    assert torch.equal(result, expected)
                del result
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            del held
    assert failures > 10, failures
    assert successes > 10, successes
    before = status_bytes("VmRSS")
    for _ in range(20):
        resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + MIB, hard))
        try:
            forward()
        except (RuntimeError, MemoryError):
            pass
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    assert status_bytes("VmRSS") - before < 16 * MIB


@harness("PROC-signal", memory=3 * GIB, address_space=8 * GIB, seconds=200)
def interrupt_in_a_long_call():
    """The call returns, KeyboardInterrupt is raised after it, and everything works on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tensor = zeros((1, 16, 8192, 8192), torch.uint8)
    assert tensor.numel() > 10**9
    began = time.monotonic()
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    interrupted = None
    try:
        OPS.maxpool_forward(tensor, [5, 5], [1, 1], [2, 2], [1, 1], False)
        while time.monotonic() - began < 10:  # the call may have been faster than the signal
            time.sleep(0.01)
    except KeyboardInterrupt:
        interrupted = time.monotonic() - began
    assert interrupted is not None
    for layout in CHANNELS_LAST.values():
        small = torch.randn(1, 3, *[6] * (2 if layout == torch.channels_last else 3))
        small = small.contiguous(memory_format=layout)
        rank = small.dim() - 2
        pool(small, [2] * rank, [2] * rank, [0] * rank, [1] * rank, False)
