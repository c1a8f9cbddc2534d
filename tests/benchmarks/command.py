"""What the commands share that time this package, a copy of as many bytes and other packages on the benchmark's cases:
options, the choice of cases, the progress bar, files, the report.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cases import Case, named_cases, random_cases
from peers import version

Result = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One command."""

    description: str
    peers: tuple[str, ...]
    dtypes: tuple[str, ...]
    measure: Callable[..., Result]  # of a case, measure.Options and a function to be told of each step
    line: Callable[[Result, list[Result], list[str]], str]  # of a result, all until then, and peers
    table: Callable[[list[Result]], str]
    summary: Callable[[list[Result]], str]
    explanation: str  # of the table
    chart_title: str
    chart_labels: dict[str, str]  # contenders' labels among the seconds, and what the chart calls them
    ratio: Callable[[Result, str], float | None]  # of a result and a label: time by that of the copy


def arguments(benchmark: Benchmark) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=benchmark.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Filters may be given several times; a case stays if any of a filter's values fits.",
    )
    add = parser.add_argument
    add("--shape", action="append", metavar="TEXT", help="only cases whose name contains TEXT ('random' for those)")
    add(
        "--dtype",
        action="append",
        metavar="TEXT",
        help=f"only dtypes that contain TEXT, of {', '.join(benchmark.dtypes)}",
    )
    add(
        "--layout",
        action="append",
        metavar="TEXT",
        help="only layouts that contain TEXT: contiguous, channels_last, ...",
    )
    add(
        "--peer",
        action="append",
        metavar="TEXT",
        help=f"only peers that contain TEXT, of {', '.join(benchmark.peers)}, or none",
    )
    add("--random", type=int, default=0, metavar="N", help="add N random cases")
    add("--seed", type=int, default=0, help="seed of the random cases (default 0)")
    add(
        "--seconds", type=float, default=4.0, help="time to measure each case for, shared by its contenders (default 4)"
    )
    add(
        "--turn",
        type=float,
        default=1.0,
        metavar="MS",
        help="a turn: two calls or more and MS; 0: one call (default 1)",
    )
    add(
        "--work",
        type=float,
        default=5e9,
        metavar="N",
        help="leave out peers that read each window whole where windows hold more than N elements in all (default 5e9)",
    )
    add(
        "--passes",
        type=int,
        default=1,
        metavar="N",
        help="go through all cases N times and keep each contender's least time: other users of the machine may slow "
        "one down for longer than a case takes (default 1)",
    )
    add("--json", type=Path, metavar="FILE", help="write raw seconds")
    add(
        "--chart",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="draw a chart (name.png, name.svg; name without a suffix: both)",
    )
    add("--load", type=Path, metavar="FILE", help="measure nothing: report and draw what --json wrote")
    add("--list", action="store_true", help="list cases and peers, measure nothing")
    return parser.parse_args()


def fits(text: str, filters: list[str] | None) -> bool:
    return filters is None or any(part.lower() in text.lower() for part in filters)


def chosen(options: argparse.Namespace, dtypes: tuple[str, ...]) -> list[Case]:
    cases = [*named_cases(), *random_cases(options.random, options.seed)]
    return [
        case
        for case in cases
        if case.dtype in dtypes
        and fits(case.name, options.shape)
        and fits(case.dtype, options.dtype)
        and fits(case.layout, options.layout)
    ]


def cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine(peers: list[str]) -> dict[str, Any]:
    return {
        "cpu": cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peers": {peer: version(peer) for peer in peers},
    }


def charts(paths: list[Path]) -> list[Path]:
    files = [
        path for name in paths for path in ([name] if name.suffix else [name.with_suffix(s) for s in (".png", ".svg")])
    ]
    if files and importlib.util.find_spec("matplotlib") is None:
        sys.exit("--chart needs matplotlib: pip install matplotlib")
    if wrong := [str(path) for path in files if path.suffix not in (".png", ".svg")]:
        sys.exit(f"--chart writes .png and .svg, not {', '.join(wrong)}")
    return files


def progress_bar() -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        sys.exit("the benchmark's progress bar needs tqdm: pip install tqdm")
    return tqdm


def measure_all(benchmark: Benchmark, cases: list[Case], options: argparse.Namespace, peers: list[str]) -> list[Result]:
    tqdm = progress_bar()
    import measure

    settings = measure.Options(peers, options.seconds, options.turn / 1000, options.work)
    results: dict[Case, Result] = {}
    with tqdm(cases * options.passes, unit="case", dynamic_ncols=True) as bar:
        for case in bar:
            result = benchmark.measure(
                case, settings, lambda step, case=case: bar.set_postfix_str(f"{case.name}: {step}")
            )
            results[case] = quicker(results[case], result) if case in results else result
            names = [label for label in result["seconds"] if label.split()[0] in peers]
            tqdm.write(benchmark.line(results[case], list(results.values()), names))
            if options.json:  # after each case: a run that is broken off keeps what it has
                write(options.json, {**machine(peers), "results": list(results.values())})
    return list(results.values())


def quicker(result: Result, other: Result) -> Result:
    """One entry of two for the same case: the least seconds of each contender that both have."""
    both = result["seconds"].keys() & other["seconds"].keys()
    seconds = {label: min(result["seconds"][label], other["seconds"][label]) for label in both}
    return {**result, "seconds": {label: seconds[label] for label in result["seconds"] if label in both}}


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def warn_of_load() -> None:
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
        print(f"Other processes are busy (load {os.getloadavg()[0]:.1f}): the figures will be off.", flush=True)


def run(benchmark: Benchmark) -> None:
    options = arguments(benchmark)
    files = charts(options.chart)
    # OpenMP's own threads, for contenders that bring a pool of their own.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    peers = [peer for peer in benchmark.peers if fits(peer, options.peer)]
    if options.load:
        content = json.loads(options.load.read_text())
    else:
        cases = chosen(options, benchmark.dtypes)
        if not cases:
            sys.exit("no case fits the filters (see --list)")
        content = machine(peers)
    from report import heading

    print(heading(content), flush=True)
    if options.list:
        print("\n".join(case.name for case in cases))
        return
    if not options.load:
        warn_of_load()
        content["results"] = measure_all(benchmark, cases, options, peers)
    print(f"\n{benchmark.explanation}\n")
    print(benchmark.table(content["results"]))
    print("\n" + benchmark.summary(content["results"]))
    if files:
        from chart import draw

        draw(content, content["results"], files, benchmark)
