"""Time max pooling's backward on CPU: this package, a copy of as many bytes, PyTorch's eager mode and torch.compile.

Columns: "operator" is maxpool_backward alone, by the time of a copy that moves as many bytes as grad_output, offsets
and grad_input hold; "ours" is backward by torch.autograd.grad, whose own time (tens of microseconds) counts in small
cases; "layer" is forward and backward, by that of a copy that moves the forward's bytes too. In the last two ways for
the peers. The figures to reach are for the operator; how many times ours is faster than a peer compares both through
autograd. "kept" is what autograd keeps between forward and backward: ours, and eager's.
All contenders run in one process in interleaved turns, on PyTorch's number of threads; the least time counts. Before
that, gradients are compared with a scatter in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.config as functorch_config
from cases import DTYPES, Case
from command import Benchmark, Result, run
from measure import OURS, Options, compete, copier, join
from memory import kept_bytes
from peers import Contender, pooling
from report import markdown, number, sections, skips
from torch import Tensor

PEERS = ("eager", "compile")
LABELS = {"ours": "torch_maxpool", "eager": "PyTorch eager", "compile": "torch.compile"}
LEAST, LEAST_LARGE = 1.5, 5.0  # times faster than eager; at 2/2 beyond the cache
# Of sums of small whole numbers in any order, some rounded at each step: peers are left out if they are wrong, not if
# they round.
TOLERANCE = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 0.02, torch.bfloat16: 0.05}

Pool = Callable[[Tensor], Tensor]


def contenders(name: str, pool: Pool, x: Tensor, grad: Tensor) -> list[Contender]:
    """Backward alone, and forward with backward."""
    recorded = x.detach().requires_grad_()
    y = pool(recorded)
    return [
        Contender(name, lambda: torch.autograd.grad(y, recorded, grad, retain_graph=True)[0]),
        Contender(f"{name} layer", lambda: torch.autograd.grad(pool(recorded), recorded, grad)[0]),
    ]


def expected_gradient(case: Case, x: Tensor, grad: Tensor, offsets: Tensor) -> Tensor:
    """By ATen's scatter on plane indices; sums of whole numbers, which are exact."""
    lists = [list(value) for value in case.arguments[:4]]
    indices = torch.ops.torch_maxpool.maxpool_indices(offsets, list(case.shape[2:]), *lists, case.ceil_mode)
    total = torch.zeros(case.shape, dtype=torch.float64).flatten(2)
    total.scatter_add_(2, indices.flatten(2), grad.double().flatten(2))
    return total.view(case.shape).to(x.dtype)


def peer_pool(peer: str, case: Case) -> Pool:
    if peer == "eager":
        return pooling(case)
    # Backward is called again and again on what one forward kept.
    functorch_config.donated_buffer = False
    torch.compiler.reset()  # or the limit of recompilations is reached after some cases
    return torch.compile(pooling(case), dynamic=False)


def measure(case: Case, options: Options, note: Callable[[str], Any]) -> Result:
    x = case.input()
    note("check")

    def pool(tensor: Tensor) -> Tensor:
        return OURS[case.rank](tensor, *case.arguments)

    lists = [list(value) for value in case.arguments[:4]]
    y, offsets = torch.ops.torch_maxpool.maxpool_forward(x, *lists, case.ceil_mode)
    generator = torch.Generator().manual_seed(1)
    grad = torch.empty_like(y).copy_(torch.randint(-4, 5, y.shape, generator=generator))
    expected = expected_gradient(case, x, grad, offsets)
    mine = contenders("ours", pool, x, grad)
    for contender in mine:
        if not torch.equal(contender.call(), expected):
            raise AssertionError(f"{case.name}: {contender.label}: gradient differs from the scatter's")
    backward = x.numel() * x.element_size() + y.nbytes + offsets.nbytes
    mine.append(Contender("copy", copier(backward)))
    arguments = (offsets, list(case.shape[2:]), *lists, case.ceil_mode)
    mine.append(Contender("operator", lambda: torch.ops.torch_maxpool.maxpool_backward(grad, *arguments)))
    mine.append(Contender("copy layer", copier(2 * backward)))

    def is_right(result: Tensor) -> bool:
        return torch.allclose(result, expected, rtol=TOLERANCE[x.dtype], atol=0.0)

    def join_peer(peer: str) -> list[Contender]:
        return join(lambda: contenders(peer, peer_pool(peer, case), x, grad), is_right, case, options)

    result = compete(case, mine, join_peer, options, note)
    recorded = x.detach().requires_grad_()
    result["kept"] = {"ours": kept_bytes(lambda: pool(recorded))}
    if "eager" in result["seconds"]:
        result["kept"]["eager"] = kept_bytes(lambda: pooling(case)(recorded))
    return result


def ratio(result: Result, label: str) -> float | None:
    """Time by that of the copy."""
    seconds = result["seconds"]
    copy = "copy layer" if label.endswith(" layer") else "copy"
    return seconds[label] / seconds[copy] if label in seconds else None


def alone(result: Result) -> float:
    """Of the operator; through autograd in files that were written before it was timed."""
    return ratio(result, "operator" if "operator" in result["seconds"] else "ours")


def speedup(result: Result, peer: str) -> float:
    """How many times ours is faster than the peer."""
    mine = "ours layer" if peer.endswith(" layer") else "ours"
    return result["seconds"][peer] / result["seconds"][mine]


def cells(result: Result, peers: list[str]) -> list[str]:
    goal, value = result["backward_target"], alone(result)
    aim = "" if goal is None else f" ({goal:g})" if value <= goal else f" ({goal:g}) !"
    row = [result["name"], number(value) + aim, number(ratio(result, "ours")), number(ratio(result, "ours layer"))]
    for peer in peers:
        timed = peer in result["seconds"]
        row.append(f"{number(ratio(result, peer))} ({number(speedup(result, peer))}x)" if timed else "")
    kept = (result["kept"].get(name) for name in ("ours", "eager"))
    return [*row, *("" if size is None else f"{size / 2**20:.3g}" for size in kept)]


def line(result: Result, results: list[Result], names: list[str]) -> str:
    name, operator, backward, layer, *others, kept, eager = cells(result, names)
    timed = "  ".join(f"{label} {cell}" for label, cell in zip(names, others, strict=True))
    return (
        f"{name}: operator {operator}  ours {backward}  layer {layer}  {timed}  kept, MiB: {kept}, eager {eager or '-'}"
    )


def table(results: list[Result]) -> str:
    labels = [peer + kind for kind in ("", " layer") for peer in PEERS]
    peers = [label for label in labels if any(label in result["seconds"] for result in results)]
    heading = ["case", "operator", "ours", "ours layer", *peers, "kept, MiB", "eager kept, MiB"]
    return markdown([heading, *(cells(result, peers) for result in results)])


def missed(result: Result) -> list[str]:
    """Figures that a result misses."""
    lines, name, goal = [], result["name"], result["backward_target"]
    if goal is not None and alone(result) > goal:
        lines.append(f"{name}: {alone(result):.2f} x copy, {goal:g} to reach")
    if "eager" in result["seconds"] and not result["shape_name"].startswith(("tiny", "random")):
        least = LEAST_LARGE if goal == 1.3 else LEAST
        if speedup(result, "eager") < least:
            lines.append(f"{name}: {speedup(result, 'eager'):.2f} times faster than eager, {least:g} to reach")
    return lines


def summary(results: list[Result]) -> str:
    slower = [
        f"{result['name']}: {label} takes {speedup(result, label):.2f} times ours"
        for result in results
        for label in result["seconds"]
        if label.split()[0] in PEERS and speedup(result, label) < 1
    ]
    return sections(
        [
            ("Left out", skips(results)),
            ("Figures missed", [text for result in results for text in missed(result)]),
            ("Slower than a peer", slower),
        ]
    )


if __name__ == "__main__":
    run(
        Benchmark(
            description=__doc__,
            peers=PEERS,
            dtypes=DTYPES[:4],
            measure=measure,
            line=line,
            table=table,
            summary=summary,
            explanation="Time / copy. In parentheses: the figure to reach (! where missed); how many times faster than "
            "the peer.",
            chart_title="Max pooling backward: time / time to copy as many bytes (dashed line: 1). Shorter is better.",
            chart_labels=LABELS,
            ratio=ratio,
        )
    )
