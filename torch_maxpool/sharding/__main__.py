"""A volume cut over several processes and pooled by them: what travels, and how long a step takes.

    torchrun --nproc-per-node 4 -m torch_maxpool.sharding

Each process makes its own slab. For comparison the first process then pools the whole volume by itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.debug import CommDebugMode

import torch_maxpool
from torch_maxpool.sharding.exchange import count_traffic
from torch_maxpool.sharding.plan import chunk_sizes

DEPTH = 2  # dimension of [batch, channels, depth, height, width]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="torch_maxpool.sharding", description=__doc__.split("\n\n")[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=3, default=[128, 160, 160], help="depth, height, width")
    parser.add_argument("--window", type=int, nargs=3, default=[3, 2, 1], help="kernel_size, stride, padding")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed, after one that is not")
    parser.add_argument("--no-comparison", action="store_true", help="for volumes that one process cannot hold")
    return parser.parse_args(arguments)


def make_planes(options: argparse.Namespace, start: int, count: int) -> Tensor:
    """`count` planes of the volume from depth `start` on."""
    generator = torch.Generator()
    shape = (options.batch, options.channels, *options.size[1:])
    planes = [torch.randn(shape, generator=generator.manual_seed(start + i)) for i in range(count)]
    return torch.stack(planes, DEPTH) if planes else torch.empty(*shape[:2], 0, *shape[2:])


def step(volume: Tensor, window: list[int]) -> tuple[Tensor, Tensor]:
    """Output and gradient of one pooling."""
    volume = volume.detach().requires_grad_()
    output = torch_maxpool.max_pool3d(volume, *window)
    output.backward(output.detach())
    return output.detach(), volume.grad


def milliseconds(call: Callable[[], object], steps: int) -> float:
    """Median of the times of a step."""
    call()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def communication(volume: DTensor, window: list[int]) -> list[int]:
    """Of all processes: bytes sent in forward, bytes sent in backward, DTensor's collectives in both."""
    volume = volume.detach().requires_grad_()
    with CommDebugMode() as collectives:
        with count_traffic() as forward:
            output = torch_maxpool.max_pool3d(volume, *window)
        with count_traffic() as backward:
            output.backward(output.detach())
    total = torch.tensor([forward.bytes, backward.bytes, collectives.get_total_counts()])
    dist.all_reduce(total)
    return total.tolist()


def same_everywhere(mine: Tensor, whole: Tensor | None) -> bool:
    """In the first process: whether the processes' parts make up `whole`, bit for bit."""
    if whole is None:
        dist.send(mine.contiguous(), 0)
        return True
    sizes = chunk_sizes(whole.shape[DEPTH], dist.get_world_size())
    same = torch.equal(mine, whole.narrow(DEPTH, 0, sizes[0]))
    for process in range(1, len(sizes)):
        expected = whole.narrow(DEPTH, sum(sizes[:process]), sizes[process])
        received = torch.empty(expected.shape)
        dist.recv(received, process)
        same = same and torch.equal(received, expected)
    return same


def compare(options: argparse.Namespace, results: tuple[Tensor, Tensor]) -> None:
    """The whole volume in the first process: time of a step, and its bits against `results`, the parts of each."""
    rank, cores = dist.get_rank(), len(os.sched_getaffinity(0))
    whole: tuple = (None, None)
    if rank == 0:
        volume = make_planes(options, 0, options.size[0])
        torch.set_num_threads(cores)
        print(f"  1 process, {cores} threads  {milliseconds(lambda: step(volume, options.window), options.steps):9.1f}")
        whole = step(volume, options.window)
    dist.barrier()
    same = [same_everywhere(mine, expected) for mine, expected in zip(results, whole, strict=True)]
    if rank == 0:
        print(f"The same bits as in one process: output {same[0]}, gradient {same[1]}")


def run(options: argparse.Namespace) -> None:
    """Everything, in each process of the default group."""
    rank, world = dist.get_rank(), dist.get_world_size()
    threads = max(1, len(os.sched_getaffinity(0)) // world)
    torch.set_num_threads(threads)
    mesh = init_device_mesh("cpu", (world,))

    def say(text: str) -> None:
        if rank == 0:
            print(text, flush=True)

    sizes = chunk_sizes(options.size[0], world)
    slab = make_planes(options, sum(sizes[:rank]), sizes[rank])
    shape = torch.Size((options.batch, options.channels, *options.size))
    stride = torch.empty(shape, device="meta").stride()
    volume = DTensor.from_local(slab, mesh, [Shard(DEPTH)], run_check=False, shape=shape, stride=stride)
    count = volume.numel() * volume.element_size()
    kernel, strides, padding = options.window
    say(f"Volume {list(shape)}, {count / 2**20:.0f} MiB; kernel {kernel}, stride {strides}, padding {padding}")
    say(f"{world} processes with {threads} thread(s), planes of each: {sizes}")

    say("\nBytes sent in a step    forward      backward  collectives")
    found = {
        name: communication(DTensor.from_local(slab, mesh, [Shard(dim)], run_check=False), options.window)
        for dim, name in enumerate(("batch", "channels"))  # of tensors of as many elements
    }
    found["depth"] = communication(volume, options.window)
    for name, (forward, backward, collectives) in found.items():
        say(f"  cut along {name:<9} {forward:>12,}  {backward:>12,}  {collectives:>11}")
    gathered, sent = (world - 1) * count, sum(found["depth"][:2])
    say(
        f"  all-gather of it    {gathered:>12,}"
        + (f"  {gathered / sent:.0f} times the step along depth" if sent else "")
    )

    def sharded() -> tuple[Tensor, Tensor]:
        results = step(volume, options.window)
        dist.barrier()
        return results

    say("\nMilliseconds of a step")
    say(f"  {world} processes            {milliseconds(sharded, options.steps):9.1f}")
    if not options.no_comparison:
        output, grad = sharded()
        compare(options, (output.to_local(), grad.to_local()))


def main() -> None:
    options = parse_arguments()
    dist.init_process_group("gloo")
    run(options)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
