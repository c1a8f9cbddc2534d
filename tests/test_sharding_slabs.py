"""Tensors cut into slabs in 2 and 4 processes, without DTensor: values, offsets, gradients, compilation."""

import contextlib
import io
import random
from itertools import pairwise

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import processes
from common import FLOATS, OUR_POOL, random_input
from test_sharding_dtensor import random_call
from torch_maxpool import sharding
from torch_maxpool.sharding import Slabs

POOL = {1: sharding.max_pool1d, 2: sharding.max_pool2d, 3: sharding.max_pool3d}


def random_sizes(random_, size, processes):
    """Slabs of any sizes, 0 among them."""
    borders = [0, *sorted(random_.randint(0, size) for _ in range(processes - 1)), size]
    return [stop - start for start, stop in pairwise(borders)]


def part(tensor, slabs):
    """What of a whole tensor lies in this process's slabs."""
    for slab in slabs:
        start = sum(slab.sizes[: slab.coordinate])
        tensor = tensor.narrow(slab.dim, start, slab.sizes[slab.coordinate])
    return tensor


def assert_bits(actual, expected):
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    same = (
        (actual == expected) | (actual.isnan() & expected.isnan()) if actual.is_floating_point() else actual == expected
    )
    assert same.all(), (actual, expected)


def compare(rank, x, arguments, slabs):
    """The sharded pooling of `x`, its indices and two derivatives against the whole one."""
    whole = x.detach().requires_grad_()
    output, indices = OUR_POOL[rank](whole, *arguments, return_indices=True)
    weight = torch.randn_like(output)
    (grad,) = torch.autograd.grad((output * output * weight).sum(), whole, create_graph=True)
    (second,) = torch.autograd.grad((grad**3).sum(), whole)

    local = part(x, slabs).clone(memory_format=torch.preserve_format).requires_grad_()
    pooled = [slab.pooled(rank, *arguments) for slab in slabs]
    mine, named = POOL[rank](local, *arguments, return_indices=True, slabs=slabs)
    assert_bits(mine, part(output, pooled))
    assert_bits(named, part(indices, pooled))
    (local_grad,) = torch.autograd.grad((mine * mine * part(weight, pooled)).sum(), local, create_graph=True)
    assert_bits(local_grad, part(grad, slabs))
    (local_second,) = torch.autograd.grad((local_grad**3).sum(), local)
    assert_bits(local_second, part(second, slabs))
    with torch.no_grad():
        assert_bits(POOL[rank](local, *arguments, slabs=slabs), part(output, pooled))


@processes.check(2, 4)
def any_pooling_in_any_slabs():
    random_ = random.Random(5)
    for _ in range(120):
        rank, x, arguments = random_call(random_)
        dim = random_.randrange(-rank, 0)
        slabs = [Slabs.of(dim, random_sizes(random_, x.shape[dim], dist.get_world_size()))]
        try:
            compare(rank, x, arguments, slabs)
        except BaseException:
            print(x.shape, arguments, slabs, flush=True)
            raise


@processes.check(4)
def two_dimensions_on_a_square():
    random_ = random.Random(6)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    count = 0
    while count < 50:
        rank, x, arguments = random_call(random_)
        if rank == 1:
            continue
        count += 1
        dims = random_.sample(range(-rank, 0), 2)
        slabs = [Slabs.of(dim, random_sizes(random_, x.shape[dim], 2), mesh.get_group(i)) for i, dim in enumerate(dims)]
        try:
            compare(rank, x, arguments, slabs)
        except BaseException:
            print(x.shape, arguments, slabs, flush=True)
            raise


@processes.check(2, 4)
def dtypes_layouts_and_special_values():
    world = dist.get_world_size()
    for dtype in (*FLOATS, torch.uint8, torch.int32, torch.bool):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = random_input((1, 3, 5 * world, 7), dtype).contiguous(memory_format=layout)
            slabs = Slabs.of(-2, [5] * world)
            local = part(x, [slabs]).clone(memory_format=torch.preserve_format)
            # The last has offsets of int32, sent after an odd number of elements.
            for arguments in ((3, 1, 1), (3, 2, 1, 2), ([9, 2], [2, 1], [4, 1]), ([18, 15], 1, [17, 14])):
                output, indices = OUR_POOL[2](x, *arguments, return_indices=True)
                mine, named = sharding.max_pool2d(local, *arguments, return_indices=True, slabs=slabs)
                pooled = [slabs.pooled(2, *arguments)]
                assert_bits(mine, part(output, pooled))
                assert_bits(named, part(indices, pooled))
                assert mine.is_contiguous(memory_format=layout)
                if dtype.is_floating_point:
                    grads = []
                    for pool, tensor, cut in ((OUR_POOL[2], x, []), (sharding.max_pool2d, local, pooled)):
                        leaf = tensor.clone().requires_grad_()
                        out = pool(leaf, *arguments, **({"slabs": slabs} if cut else {}))
                        weight = torch.linspace(-3, 5, output.numel()).view(output.shape).to(dtype)
                        out.backward(part(weight, cut))
                        grads.append(leaf.grad)
                    assert_bits(grads[1], part(grads[0], [slabs]))
                    assert grads[1].is_contiguous(memory_format=layout)


@processes.check(2, 4)
def layers_follow_each_other():
    """Slabs of one layer's output are the next one's input."""
    world = dist.get_world_size()
    x = torch.randn(2, 3, 13 * world, 11, dtype=torch.float64, requires_grad=True)
    layers = [(3, 2, 1), (3, 1, 1), (2,), ([5, 3], [3, 2], [2, 1])]
    whole = x
    for layer in layers:
        whole = OUR_POOL[2](whole, *layer).relu()
    whole.square().sum().backward()
    slabs = first = Slabs.of(-2, [13 + (2 if rank % 2 else -2) for rank in range(world)])
    local = leaf = part(x.detach(), [slabs]).clone().requires_grad_()
    for layer in layers:
        local = sharding.max_pool2d(local, *layer, slabs=slabs).relu()
        slabs = slabs.pooled(2, *layer)
    local.square().sum().backward()
    assert_bits(local, part(whole, [slabs]))
    assert_bits(leaf.grad, part(x.grad, [first]))
    assert Slabs.gather(local, -2) == slabs


@processes.check(2, 4)
def forms_of_arguments():
    world = dist.get_world_size()
    x = torch.randn(3, 9 * world, 8)
    slabs = Slabs.of(-2, [9] * world)
    for padding in (1, [1], [1, 0], [1, 0, 2, 1], [(1, 2), (0, 1)], ((0, 2), (1, 1)), "valid", "same", "same_lower"):
        compare(2, x.double(), (3, 2, padding), [slabs])
        compare(2, x.double(), ([3, 2], [2, 1], padding, [1, 2]), [slabs])
    # exact holds for the whole tensor, not for slabs.
    output = sharding.max_pool2d(part(x, [slabs]), (9 * world, 2), exact=True, slabs=slabs)
    assert_bits(output, part(OUR_POOL[2](x, (9 * world, 2)), [slabs.pooled(2, (9 * world, 2))]))
    with torch.inference_mode():
        output = sharding.max_pool2d(part(x, [slabs]), 3, 1, 1, slabs=slabs)
    assert_bits(output, part(OUR_POOL[2](x, 3, 1, 1), [slabs]))


@processes.check(2, 4)
def example():
    """python -m torch_maxpool.sharding, on a small volume with uneven slabs."""
    from torch_maxpool.sharding.__main__ import parse_arguments, run

    arguments = ["--batch", "2", "--channels", "4", "--size", "15", "8", "9", "--steps", "1"]
    output = io.StringIO()
    threads = torch.get_num_threads()
    with contextlib.redirect_stdout(output):
        run(parse_arguments(arguments))
    torch.set_num_threads(threads)
    if dist.get_rank() == 0:
        world, text = dist.get_world_size(), output.getvalue().replace(",", "")
        assert "The same bits as in one process: output True gradient True" in text, text
        for name in ("batch", "channels"):
            (line,) = [line.split() for line in text.splitlines() if line.startswith(f"  cut along {name}")]
            assert line[3:] == ["0", "0", "0"], text
        (line,) = [line.split() for line in text.splitlines() if line.startswith("  cut along depth")]
        # Forward: a plane of float32 passes each border, but where the window starts at it.
        assert 0 < int(line[3]) <= (world - 1) * 2 * 4 * 8 * 9 * 4 and line[5] == "0", text


test_in_processes = processes.tests(__name__)
