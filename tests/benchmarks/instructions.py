"""Count the instructions of small cases under valgrind's callgrind, which do not depend on the machine's load.

One process under valgrind (with AVX2, since valgrind has no AVX-512, and one thread) calls each case some times, then
more times, and marks each part. The difference of the parts divided by that of the calls is the count of one call;
Python's loop around it is in it. Starting PyTorch under valgrind takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FEW, MANY = 4, 12
MARK = "getppid"  # a C function that nothing else calls here: callgrind writes a file before each call of it
# name, shape, kernel, stride, padding, dtype, channels_last
CASES = [
    ("tiny 2/2", (1, 8, 8, 8), 2, 2, 0, "float32", False),
    ("2/2", (1, 16, 56, 56), 2, 2, 0, "float32", False),
    ("3/2", (1, 16, 56, 56), 3, 2, 1, "float32", False),
    ("3/2 bfloat16", (1, 16, 56, 56), 3, 2, 1, "bfloat16", False),
    ("3/2 channels_last", (1, 16, 56, 56), 3, 2, 1, "float32", True),
    ("3/1", (1, 16, 28, 28), 3, 1, 1, "float32", False),
    ("5/1", (1, 16, 20, 20), 5, 1, 2, "float32", False),
    ("31/1 uint8", (1, 1, 128, 128), 31, 1, 15, "uint8", False),
    ("3-d 3/2", (1, 8, 8, 28, 28), 3, 2, 1, "float32", False),
    ("1-d 3/1", (1, 32, 512), 3, 1, 1, "float32", False),
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--case", action="append", metavar="TEXT", help="only cases whose name contains TEXT; may be repeated")
    add("--capability", default="avx2", choices=("avx2", "default"), help="kernels to count (default avx2)")
    add("--json", type=Path, metavar="FILE", help="write the counts")
    add("--compare", type=Path, metavar="FILE", help="counts written earlier: exit with 1 if one has grown too much")
    add("--growth", type=float, default=0.03, help="how much a count may grow by, as a fraction (default 0.03)")
    add("--list", action="store_true", help="list the cases, count nothing")
    add("--worker", action="store_true", help=argparse.SUPPRESS)  # the process under valgrind
    return parser.parse_args()


def calls(filters: list[str] | None) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name, "values" or "offsets", and what to call."""
    import torch

    import torch_maxpool

    forward = torch.ops.torch_maxpool.maxpool_forward
    for name, shape, kernel, stride, padding, dtype, channels_last in chosen(filters):
        x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 50).to(getattr(torch, dtype))
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        rank = len(shape) - 2
        pool = getattr(torch_maxpool, f"max_pool{rank}d")
        lists = [[value] * rank for value in (kernel, stride, padding)]
        yield name, "values", lambda pool=pool, x=x, lists=lists: pool(x, *lists)
        yield name, "offsets", lambda x=x, lists=lists: forward(x, *lists)


def chosen(filters: list[str] | None) -> list[tuple]:
    return [case for case in CASES if not filters or any(text.lower() in case[0].lower() for text in filters)]


def worker(filters: list[str] | None) -> None:
    for _, _, call in calls(filters):
        call()
        for repetitions in (FEW, MANY):
            os.getppid()
            for _ in range(repetitions):
                call()
        os.getppid()


def totals(folder: Path) -> list[int]:
    """Instructions up to each mark from the one before it, in order."""
    parts = sorted(folder.glob("out.*"), key=lambda path: int(path.suffix[1:]))
    return [int(re.search(r"^totals: (\d+)", path.read_text(), re.MULTILINE)[1]) for path in parts]


def count(options: argparse.Namespace) -> dict[str, dict[str, int]]:
    valgrind = shutil.which("valgrind")
    if not valgrind:
        sys.exit("valgrind is not installed (Debian and Ubuntu: apt install valgrind)")
    names = [(case[0], mode) for case in chosen(options.case) for mode in ("values", "offsets")]
    filters = [word for text in options.case or () for word in ("--case", text)]
    environment = {
        **os.environ,
        "ATEN_CPU_CAPABILITY": options.capability,
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",  # and so the same dictionaries in every run
        "OPENBLAS_CORETYPE": "Haswell",  # or NumPy's library may pick AVX-512
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [
            valgrind,
            "--tool=callgrind",
            f"--callgrind-out-file={folder}/out",
            f"--dump-before={MARK}",
            "--compress-strings=no",
            "--dump-line=no",
            "--error-limit=no",
            sys.executable,
            __file__,
            "--worker",
            *filters,
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\nfailed:\n{done.stderr[-3000:]}")
        parts = totals(Path(folder))
    if len(parts) != 3 * len(names):
        sys.exit(f"callgrind wrote {len(parts)} parts, expected {3 * len(names)}: does its C library name {MARK}?")
    counts: dict[str, dict[str, int]] = {}
    for i, (name, mode) in enumerate(names):
        few, many = parts[3 * i + 1 : 3 * i + 3]
        counts.setdefault(name, {})[mode] = round((many - few) / (MANY - FEW))
    return counts


def show(counts: dict[str, dict[str, int]], before: dict[str, dict[str, int]]) -> None:
    print(f"| {'case':18} | {'shape':15} | {'values':>20} | {'offsets':>20} |")
    print(f"|{'-' * 20}|{'-' * 17}|{'-' * 21}:|{'-' * 21}:|")
    shapes = {case[0]: "x".join(map(str, case[1])) for case in CASES}
    for name, modes in counts.items():
        cells = []
        for mode, now in modes.items():
            old = before.get(name, {}).get(mode)
            cells.append(f"{now:,}" + (f" ({now / old - 1:+.1%})" if old else ""))
        print(f"| {name:18} | {shapes[name]:15} | {cells[0]:>20} | {cells[1]:>20} |")


def main() -> None:
    options = arguments()
    if options.worker:
        return worker(options.case)
    if options.list or not chosen(options.case):
        print("\n".join(case[0] for case in CASES))
        return None
    before = json.loads(options.compare.read_text()) if options.compare else {"counts": {}}
    if before.get("capability", options.capability) != options.capability:
        sys.exit(f"{options.compare} counts another capability: {before['capability']}")
    print(f"Instructions of one call, one thread, capability {options.capability}", flush=True)
    counts = count(options)
    show(counts, before["counts"])
    if options.json:
        options.json.write_text(json.dumps({"capability": options.capability, "counts": counts}, indent=1) + "\n")
    grown = [
        f"{name}, {mode}: {old:,} to {counts[name][mode]:,}"
        for name, modes in before["counts"].items()
        for mode, old in modes.items()
        if name in counts and counts[name][mode] > old * (1 + options.growth)
    ]
    if grown:
        sys.exit("More instructions than before:\n" + "\n".join(grown))
    return None


if __name__ == "__main__":
    main()
