"""Time networks of published packages, unedited, with and without accelerate(): inference and a training step.

    pip install monai && pip install --no-deps pytorchcv
    python tests/benchmarks/accelerate.py [--network TEXT] [--seconds S] [--json FILE]

The two take turns in one process; the least time of each counts, and the share of it that the profiler finds in pooling
(with everything that pooling calls) is shown beside it. Results of both are compared first, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor, nn

import torch_maxpool
from networks import NETWORKS, Network

STATES = ("pytorch", "accelerated")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", metavar="TEXT", help="only networks whose name contains TEXT")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each network and mode (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times, in milliseconds, to FILE")
    return parser.parse_args()


def state(name: str):
    return torch_maxpool.accelerate(quiet=True) if name == "accelerated" else nullcontext()


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Dropout off and statistics kept, so that two runs can be compared."""
    model.eval()
    yield
    model.train()


def inference(model: nn.Module, x: Tensor) -> Callable[[], list[Tensor]]:
    def run() -> list[Tensor]:
        with torch.inference_mode():
            return [model(x)]

    return run


def training(model: nn.Module, x: Tensor) -> Callable[[], list[Tensor]]:
    parameters = list(model.parameters())

    def run() -> list[Tensor]:
        return list(torch.autograd.grad((model(x) ** 2).mean(), parameters))

    return run


def pooling_share(run: Callable[[], list[Tensor]]) -> float:
    """Part of a run's time that is spent in poolings, from 0 to 1."""
    with torch.autograd.profiler.profile() as profile:
        run()
    events = profile.function_events
    spent = sum(event.self_cpu_time_total for event in events if "pool" in event.name)
    return spent / max(1.0, sum(event.self_cpu_time_total for event in events))


def measure(run: Callable[[], list[Tensor]], seconds: float) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in STATES}
    results, shares = {}, {}
    for name in STATES:
        with state(name):
            results[name] = run()
            shares[name] = pooling_share(run)
    for plain, ours in zip(results["pytorch"], results["accelerated"], strict=True):
        if not torch.equal(plain, ours):
            raise SystemExit("results differ")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["accelerated"]) < 3:
        for name in STATES:
            with state(name):
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    return {name: {"ms": 1e3 * min(times[name]), "pooling": shares[name]} for name in STATES}


def report(network: Network, seconds: float) -> dict[str, dict[str, dict[str, float]]]:
    model, x = network.model(), torch.randn(network.shape)
    found = {}
    with evaluation(model):
        for mode, make in (("inference", inference), ("training", training)):
            found[mode] = measure(make(model, x), seconds)
            cells = [f"{found[mode][name]['ms']:9.2f} ms {found[mode][name]['pooling']:5.0%}" for name in STATES]
            print(f"{network.name:18}{mode:11}" + "".join(cells), flush=True)
    return found


def main() -> None:
    options = arguments()
    print(f"{'network':18}{'mode':11}" + "".join(f"{name:>12} pooling" for name in STATES))
    found = {}
    for network in NETWORKS:
        if options.network and not any(text.lower() in network.name.lower() for text in options.network):
            continue
        if not network.installed:
            print(f"{network.name:18}not installed: {network.package}")
            continue
        found[network.name] = report(network, options.seconds)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
