"""Time whole networks on CPU with F.max_pool2d and with this package's max_pool2d: inference, and a step of training
(forward, backward; no optimizer).

"share" is the part of PyTorch's time that its pooling takes, by the profiler; "ceiling" is how many times faster the
network would be if pooling took no time, 1 / (1 - share); "reached" is the speed-up by that. "kept" is what autograd
keeps between forward and backward, without parameters and the batch; "peak" the most memory allocated during a step
beyond what lives between steps (parameters, their gradients, the batch). Outputs and gradients are compared first.
The two networks have the same weights and take turns; the least time counts.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from command import fits, machine, progress_bar, warn_of_load, write
from measure import Options, time_all
from memory import kept_bytes, peak_bytes
from models import MODELS, Model
from peers import Contender
from report import heading, markdown, number
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

import torch_maxpool

POOLS = {"torch": F.max_pool2d, "ours": torch_maxpool.max_pool2d}
# What the profiler calls pooling, outermost.
EVENTS = ("aten::max_pool2d", "autograd::engine::evaluate_function: MaxPool2DWithIndicesBackward0")
PROFILES = 5


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--network", action="append", metavar="TEXT", help="only networks whose name contains TEXT")
    add("--seconds", type=float, default=20.0, help="time to measure each network for, each kind (default 20)")
    add("--scale", type=float, default=1.0, help="images of SCALE times the size, for a quick look (default 1)")
    add("--json", type=Path, metavar="FILE", help="write raw figures")
    add("--load", type=Path, metavar="FILE", help="measure nothing: report what --json wrote")
    return parser.parse_args()


def build(model: Model, x: Tensor) -> dict[str, nn.Module]:
    """The network with each pooling, of the same weights."""
    networks = {name: model.build(pool) for name, pool in POOLS.items()}
    torch.manual_seed(0)
    for network in networks.values():
        with torch.no_grad():
            network(x)  # sets what is lazy
    networks["ours"].load_state_dict(networks["torch"].state_dict())
    return networks


def inference(network: nn.Module, x: Tensor) -> Callable[[], Any]:
    def call() -> Tensor:
        with torch.inference_mode():
            return network(x)

    return call


def training(network: nn.Module, x: Tensor) -> Callable[[], Any]:
    """A step; gradients stay until the next."""

    def call() -> None:
        for parameter in network.parameters():
            parameter.grad = None
        network(x).square().mean().backward()

    return call


KINDS = {"inference": inference, "training": training}


def check(model: Model, networks: dict[str, nn.Module], x: Tensor) -> None:
    """Raises unless the two give the same outputs and gradients."""
    results = []
    for network in networks.values():
        training(network, x)()
        with torch.no_grad():
            results.append([network(x), *(parameter.grad for parameter in network.parameters())])
    for theirs, ours in zip(*results, strict=True):
        scale = theirs.abs().max().item()
        if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale):
            raise AssertionError(f"{model.name}: outputs or gradients differ")


def pooling_share(step: Callable[[], Any]) -> float:
    """Part of a step's time that PyTorch's pooling takes: the median of some profiles."""
    shares = []
    for _ in range(PROFILES):
        with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("whole step"):
            step()
        times = {event.key: event.cpu_time_total for event in profiler.key_averages()}
        shares.append(sum(times.get(name, 0.0) for name in EVENTS) / times["whole step"])
    return statistics.median(shares)


def measure(model: Model, options: argparse.Namespace, note: Callable[[str], Any]) -> dict[str, Any]:
    """One entry of the JSON file."""
    x = model.input(options.scale)
    networks = build(model, x)
    note("check")
    check(model, networks, x)
    result: dict[str, Any] = {"name": model.name, "shape": list(x.shape), "kinds": {}}
    for kind, make in KINDS.items():
        note(kind)
        steps = {name: make(network, x) for name, network in networks.items()}
        share = pooling_share(steps["torch"])
        contenders = [Contender(name, step) for name, step in steps.items()]
        seconds = time_all(contenders, Options([], options.seconds, 0.0, math.inf))
        result["kinds"][kind] = {
            "seconds": seconds,
            "share": share,
            "peak": {name: peak_bytes(step) for name, step in steps.items()},
        }
    result["kept"] = {
        name: kept_bytes(lambda network=network: network(x), [x, *network.parameters()])
        for name, network in networks.items()
    }
    return result


def cells(result: dict[str, Any], kind: str) -> list[str]:
    figures = result["kinds"][kind]
    seconds, share, peak = (figures[key] for key in ("seconds", "share", "peak"))
    faster, ceiling = seconds["torch"] / seconds["ours"], 1 / (1 - share)
    kept = result["kept"] if kind == "training" else {"torch": 0, "ours": 0}
    return [
        result["name"],
        kind,
        *(number(1000 * seconds[name]) for name in POOLS),
        number(faster),
        f"{share:.1%}",
        number(ceiling),
        f"{faster / ceiling:.0%}",
        *(f"{memory[name] / 2**20:.3g}" for memory in (kept, peak) for name in POOLS),
    ]


def table(results: list[dict[str, Any]]) -> str:
    head = ["network", "kind", "F, ms", "ours, ms", "faster", "share", "ceiling", "reached"]
    head += ["F kept, MiB", "ours kept, MiB", "F peak, MiB", "ours peak, MiB"]
    return markdown([head, *(cells(result, kind) for result in results for kind in result["kinds"])])


def main() -> None:
    options = arguments()
    if options.load:
        content = json.loads(options.load.read_text())
        print(f"{heading(content)}\n\n{table(content['results'])}")
        return
    models = [model for model in MODELS if fits(model.name, options.network)]
    if not models:
        sys.exit("no network fits; there are: " + "; ".join(model.name for model in MODELS))
    content = {**machine([]), "results": []}
    print(heading(content), flush=True)
    warn_of_load()
    with progress_bar()(models, unit="network", dynamic_ncols=True) as bar:
        for model in bar:
            content["results"].append(
                measure(model, options, lambda step, m=model: bar.set_postfix_str(f"{m.name}: {step}"))
            )
            if options.json:  # after each: a run that is broken off keeps what it has
                write(options.json, content)
    print("\n" + table(content["results"]))


if __name__ == "__main__":
    main()
