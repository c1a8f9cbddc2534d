"""Time max pooling under torch.compile: F.max_pool*d compiled and this package's functions compiled, and both eager.

    python tests/benchmarks/compiled.py [--shape TEXT] [--layout TEXT] [--block] [--seconds S] [--json FILE]

Of each float32 case of the benchmark: the forward alone, and a step (forward and backward). --block puts the pooling
between two convolutions, with a ReLU in front, as networks have it: Inductor then fuses the ReLU into its own pooling,
and picks layouts. Times in microseconds, the least of interleaved turns on PyTorch's number of threads. The last
columns are compiled F / compiled ours (above 1: ours is faster) and what compiling adds to ours, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from cases import CHANNELS_LAST, Case, named_cases
from command import fits
from measure import OURS, Options, time_all
from peers import Contender, pooling
from torch import Tensor, nn


def our_pooling(case: Case) -> Callable[[Tensor], Tensor]:
    """The twin of pooling(): compiled code compares at every call what a function reads, and is kept by the function's
    own code, so neither may have more to read, or share it with the other."""
    pool, (kernel, stride, padding, dilation, ceil_mode) = OURS[case.rank], case.arguments
    return lambda x: pool(x, kernel, stride, padding, dilation, ceil_mode)


POOLS: dict[str, Callable[[Case], Callable[[Tensor], Tensor]]] = {"F": pooling, "ours": our_pooling}
COLUMNS = ["F eager", "ours eager", "F compiled", "ours compiled"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", metavar="TEXT", help="only cases whose name contains TEXT")
    parser.add_argument("--layout", action="append", metavar="TEXT", help="only layouts that contain TEXT")
    parser.add_argument("--block", action="store_true", help="time a block of convolutions, not the pooling alone")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case and kind (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times, in microseconds, to FILE")
    return parser.parse_args()


def block(case: Case, pool: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Convolutions of one element, which take little time beside the pooling."""
    torch.manual_seed(0)
    channels, convolution = case.shape[1], (nn.Conv1d, nn.Conv2d, nn.Conv3d)[case.rank - 1]
    before, after = (convolution(channels, channels, 1, groups=channels) for _ in range(2))
    if case.layout == "channels_last":
        before, after = (layer.to(memory_format=CHANNELS_LAST[len(case.shape)]) for layer in (before, after))
    return lambda x: after(pool(before(x).relu()))


def contenders(case: Case, is_block: bool, is_step: bool) -> Iterator[Contender]:
    x = case.input().requires_grad_(is_step)
    expected: Tensor | None = None
    for compiled in (False, True):
        for name, make in POOLS.items():
            layer = block(case, make(case)) if is_block else make(case)
            if compiled:
                layer = torch.compile(layer, fullgraph=True, dynamic=False)

            def call(layer=layer) -> Tensor:
                if not is_step:
                    with torch.no_grad():
                        return layer(x)
                y = layer(x)
                return torch.autograd.grad(y, x, y.detach())[0]

            result = call()
            expected = result if expected is None else expected
            if not (is_step and is_block and compiled):  # convolutions that round otherwise may make other winners
                torch.testing.assert_close(result, expected)
            yield Contender(f"{name} {'compiled' if compiled else 'eager'}", call)


def measure(case: Case, options: argparse.Namespace, is_step: bool) -> dict[str, float]:
    torch.compiler.reset()  # or the limit of recompilations is reached after some cases
    timing = Options([], options.seconds, 0.001, math.inf)
    best = time_all(list(contenders(case, options.block, is_step)), timing)
    return {label: 1e6 * seconds for label, seconds in best.items()}


def main() -> None:
    options = arguments()
    print(f"{'case':50}" + "".join(f"{label:>14}" for label in COLUMNS) + f"{'F / ours':>10}{'added':>11}")
    found = {}
    for case in named_cases():
        if case.dtype != "float32" or case.layout == "cropped" or case.is_wide:
            continue
        if not (fits(case.name, options.shape) and fits(case.layout, options.layout)):
            continue
        for kind, is_step in (("forward", False), ("step", True)):
            times = found[f"{case.name}, {kind}"] = measure(case, options, is_step)
            ratio = times["F compiled"] / times["ours compiled"]
            added = times["ours compiled"] - times["ours eager"]
            cells = "".join(f"{times[label]:14.1f}" for label in COLUMNS)
            name = case.name.removesuffix(", float32")
            print(f"{name + ', ' + kind:50}{cells}{ratio:10.2f}{added:11.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
