"""Processes that fail, end, or come with other arguments: an error in every process, in time, and no wrong result."""

import datetime
import os
import time

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import processes
from common import OPS, OUR_POOL
from torch_maxpool.sharding import Slabs, max_pool2d
from torch_maxpool.sharding.exchange import Exchange, Part

DISAGREE = "processes do not make the same call"
PART = Part((3, 4), torch.float32)


def one(value, other):
    """`other` in the last process, `value` elsewhere."""
    return other if is_last() else value


def is_last():
    return dist.get_rank() == dist.get_world_size() - 1


def whole_and_slabs(rows=8):
    world = dist.get_world_size()
    return torch.randn(2, 3, rows, 7), Slabs.of(-2, [rows] * world)


def still_works():
    """The group can be used after an error that all of it saw."""
    x, slabs = whole_and_slabs()
    assert max_pool2d(x, 3, 1, 1, slabs=slabs).shape == x.shape


@processes.check(2, 4)
def different_arguments():
    x, slabs = whole_and_slabs()
    last = dist.get_world_size() - 1
    cases = {
        "kernel_size": lambda: max_pool2d(x, one(3, 2), 1, slabs=slabs),
        "stride": lambda: max_pool2d(x, 2, one(2, 1), slabs=slabs),
        "no rows to exchange": lambda: max_pool2d(x, one(2, 4), slabs=slabs),
        "padding": lambda: max_pool2d(x, 3, 2, one(1, 0), slabs=slabs),
        "word": lambda: max_pool2d(x, 3, 2, one("same", "same_lower"), slabs=slabs),
        "dilation": lambda: max_pool2d(x, 3, 1, 1, one(1, 2), slabs=slabs),
        "ceil_mode": lambda: max_pool2d(x, 3, 2, 1, ceil_mode=one(False, True), slabs=slabs),
        "dtype": lambda: max_pool2d(one(x, x.double()), 3, 1, 1, slabs=slabs),
        "channels": lambda: max_pool2d(one(x, x[:, 1:]), 3, 1, 1, slabs=slabs),
        "width": lambda: max_pool2d(one(x, x[..., 1:]), 3, 1, 1, slabs=slabs),
        "gradient wanted": lambda: max_pool2d(x.requires_grad_(one(True, False)), 3, 1, 1, slabs=slabs),
        "slabs": lambda: max_pool2d(one(x, x[:, :, :6]), 3, 1, 1, slabs=Slabs.of(-2, [8] * last + [one(8, 6)])),
    }
    for name, call in cases.items():
        with pytest.raises(RuntimeError, match=DISAGREE) as caught:
            call()
        lines = str(caught.value).splitlines()[1:]
        assert [line.split(":")[0] for line in lines] == [f"  process {rank}" for rank in range(last + 1)], (
            name,
            lines,
        )
        assert lines[0].split(":", 1)[1] != lines[last].split(":", 1)[1]
        assert "maxpool_" in lines[0] and "kernel_size=" in lines[0]
    still_works()


@processes.check(2, 4)
def one_process_fails():
    """Its own error in it, a report of it in the others."""
    x, slabs = whole_and_slabs()
    with pytest.raises(one(RuntimeError, ValueError)) as caught:
        max_pool2d(one(x, x[:, :, 1:]), 3, 1, 1, slabs=slabs)
    text = str(caught.value)
    assert "input must have spatial sizes [8, 7]" in text
    assert is_last() or f"process {dist.get_world_size() - 1}: failed with ValueError" in text
    # All fail alike: all see the operator's own error.
    with pytest.raises(RuntimeError, match="output size is too small"):
        max_pool2d(x, (1000, 1), slabs=slabs)
    with pytest.raises(ValueError, match="Invalid dimensions!"):
        max_pool2d(x, (5, 1), (2, 1), exact=True, slabs=slabs)
    with pytest.raises(ValueError, match="padding must be smaller"):
        max_pool2d(x, 3, 1, 3, slabs=slabs)
    with pytest.raises(TypeError, match="input must be float64"):
        max_pool2d(x.to(torch.complex64), 3, 1, slabs=slabs)
    still_works()


@processes.check(2, 4)
def backward_and_gather_agree_too():
    x, slabs = whole_and_slabs()
    world = dist.get_world_size()
    arguments = ([3, 3], [1, 1], [1, 1], [1, 1], False, False, "explicit")
    layout = ([0], [world], [8] * world, [slabs.coordinate], [slabs.group], False)
    _, offsets = OPS.sharded_forward(x, *arguments, *layout)
    # A failure found on the way, in one process alone, leaves no message behind.
    wrong = one(offsets, torch.full_like(offsets, 9))
    if is_last():
        with pytest.raises(IndexError, match="names no element of its window"):
            OPS.sharded_backward(x, wrong, [8 * world, 7], *arguments, *layout)
    elif dist.get_rank() == dist.get_world_size() - 2:
        with pytest.raises(IndexError, match="names no element of its window"):  # has that process's rows
            OPS.sharded_backward(x, wrong, [8 * world, 7], *arguments, *layout)
    else:
        OPS.sharded_backward(x, wrong, [8 * world, 7], *arguments, *layout)
    still_works()
    with pytest.raises(RuntimeError, match=DISAGREE):
        OPS.sharded_backward(one(x, x.double()), offsets, [8 * world, 7], *arguments, *layout)
    with pytest.raises(RuntimeError, match=DISAGREE):
        OPS.sharded_gather(one(x, x[:1]), one(offsets, offsets[:1]), *arguments, *layout)
    with pytest.raises((RuntimeError, ValueError), match="grad_output must have spatial sizes"):
        OPS.sharded_backward(one(x, x[:, :, 1:]), offsets, [8 * world, 7], *arguments, *layout)
    still_works()


@processes.check(2, 4)
def dtensors():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    x = distribute_tensor(torch.randn(2, 3, 9, 7), mesh, [Shard(2)])
    with pytest.raises(RuntimeError, match=DISAGREE):
        OUR_POOL[2](x, one(3, 2), 1)
    with pytest.raises(RuntimeError, match="output size is too small"):
        OUR_POOL[2](x, 30)
    still_works()


@processes.check(2, 4)
def dtensors_and_plain_tensors():
    """DTensor's own words, for spatial shards too."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    x = torch.randn(2, 3, 8, 8)
    window = ([2, 2], [2, 2], [0, 0], [1, 1], False)
    output, offsets = OPS.maxpool_forward(x, *window)
    for placement in (Shard(0), Shard(2)):
        spread = distribute_tensor(output, mesh, [placement])
        with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
            OPS.maxpool_backward(spread, offsets, [8, 8], *window)


@processes.check(4)
def every_process_of_a_square_hears_of_it():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    slabs = [Slabs.of(-2, [4, 4], mesh.get_group(0)), Slabs.of(-1, [5, 5], mesh.get_group(1))]
    x = torch.randn(2, 3, 4, 5)
    for call in (
        lambda: max_pool2d(x, one(3, 2), 1, slabs=slabs),
        lambda: max_pool2d(one(x, x[:, :, 1:]), 3, 1, slabs=slabs),
    ):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            call()
        assert DISAGREE in str(caught.value) or is_last()
    assert max_pool2d(x, 3, 1, 1, slabs=slabs).shape == x.shape


@processes.check(2)
def bad_slabs():
    x = torch.randn(2, 3, 8, 7)
    for dim, sizes in ((2, [8, 8]), (-4, [8, 8]), (0, [8, 8])):
        with pytest.raises(ValueError, match="dim must be -1, -2 or -3"):
            Slabs.of(dim, sizes)
    for sizes in ([8], [8, 8, 8], [8, -1], []):
        with pytest.raises(ValueError, match="sizes must have 2 entries"):
            Slabs.of(-2, sizes)
    other = dist.new_group([0])
    if dist.get_rank() == 1:
        with pytest.raises(ValueError, match="group must be a process group that this process is in"):
            Slabs.of(-2, [8], other)
    mesh = init_device_mesh("cpu", (2,))
    slabs = Slabs.of(-2, [8, 8])
    with pytest.raises(TypeError, match=r"call torch_maxpool\.max_pool2d"):
        max_pool2d(distribute_tensor(x, mesh, [Shard(2)]), 3, slabs=slabs)
    for wrong in ([], [slabs, slabs], Slabs.of(-3, [8, 8])):
        with pytest.raises(ValueError, match="slabs must name different spatial dimensions"):
            max_pool2d(x, 3, slabs=wrong)
    with pytest.raises(ValueError, match="kernel_size must be an int or have 2 entries"):
        max_pool2d(x, (3, 3, 3), slabs=slabs)
    still_works()


@processes.check(2, 4, alone=True)
def a_process_that_does_not_take_part():
    """The others hear of it when the group's time is over."""
    seconds = 6
    group = dist.new_group(timeout=datetime.timedelta(seconds=seconds))
    slabs = Slabs.of(-2, [8] * dist.get_world_size(), group)
    max_pool2d(torch.randn(1, 1, 8, 4), 3, 1, 1, slabs=slabs)
    dist.barrier()
    if not is_last():
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="did not take part in this call before the group's timeout"):
            max_pool2d(torch.randn(1, 1, 8, 4), 3, 1, 1, slabs=slabs)
        assert time.monotonic() - began < 20 * seconds
    dist.barrier()


@processes.check(2, 4, alone=True)
def a_process_that_ends():
    """As a crash would end it: the others see an error, not a result."""
    x, slabs = whole_and_slabs()
    max_pool2d(x, 3, 1, 1, slabs=slabs)
    if is_last():
        processes.passed_and_gone("a_process_that_ends")
        os._exit(0)
    with pytest.raises(RuntimeError, match=r"torch_maxpool\.sharding: a process of the group has failed, has ended"):
        max_pool2d(x, 3, 1, 1, slabs=slabs)
    processes.passed_and_gone("a_process_that_ends")
    os._exit(0)


@processes.check(2, alone=True)
def a_process_that_ends_while_rows_are_on_their_way():
    """After it has agreed to the call: seen where a message starts or where it is waited for."""
    group = dist.group.WORLD.group_name
    rows = torch.randn(3, 4)
    exchange = Exchange(group, [(1 - dist.get_rank(), [rows])], [(1 - dist.get_rank(), [PART])], rows.device)
    assert [[part.shape for part in message] for message in exchange.wait()] == [[rows.shape]]
    processes.passed_and_gone("a_process_that_ends_while_rows_are_on_their_way")
    if is_last():
        os._exit(0)
    for _ in range(3):
        with pytest.raises(
            RuntimeError, match=r"torch_maxpool\.sharding: a process of the group has failed, has ended"
        ):
            Exchange(group, [(1, [rows])], [(1, [PART])], rows.device).wait()
    os._exit(0)


@processes.once
def test_without_torch_distributed():
    with pytest.raises(ValueError, match="group must be a process group"):
        Slabs.of(-2, [8])


test_in_processes = processes.tests(__name__)
