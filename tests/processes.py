"""Tests that run in several processes: gloo over the loopback address, forked from one that has torch loaded.

A test file marks functions with ``@check(2, 4)``; they run in 2 and in 4 processes, all of a file and number in one
start, one after the other. ``test_in_processes = tests(__name__)`` makes pytest report each. By hand, with the output
in sight: ``python tests/processes.py test_sharding_dtensor 4 [name...]``.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TIMEOUT = 150  # seconds that a group waits for a message
LIMIT = 540  # seconds for all checks of a file in one number of processes

_checks: dict[str, list] = {}
_folder = ""  # of the results, in the processes

# What is tested here does not depend on the CPU's instruction set, which repeated runs choose by this variable.
once = pytest.mark.skipif("ATEN_CPU_CAPABILITY" in os.environ, reason="starts processes: once is enough")


def check(*worlds: int, alone: bool = False):
    """Marks a function of no arguments to be run by each of 2, 4, ... processes at once.

    alone: in a start of its own, for checks that end a process.
    """

    def mark(function):
        function.worlds, function.alone = worlds, alone
        _checks.setdefault(function.__module__, []).append(function)
        return function

    return mark


def tests(module: str):
    """A pytest function with a case for each check of the module and number of processes."""
    cases = [(function.__name__, world) for function in _checks[module] for world in function.worlds]
    alone = {function.__name__ for function in _checks[module] if function.alone}
    together = tuple(function.__name__ for function in _checks[module] if not function.alone)

    @once
    @pytest.mark.parametrize(("name", "world"), cases, ids=[f"{name}-{world}" for name, world in cases])
    def test_in_processes(name, world):
        results = run(module, world, (name,) if name in alone else together)
        for rank, result in enumerate(results):
            text = result.get(name, "did not run: an earlier check failed, or its process ended")
            assert text == "passed", f"process {rank}: {text}"

    return test_in_processes


@functools.cache
def run(module: str, world: int, names: tuple[str, ...]) -> list[dict[str, str]]:
    """Runs checks in `world` processes; what became of them, for each process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, module, str(world), *names]
        environment = os.environ | {"CHECKS_FOLDER": folder, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT + 60)
        results = []
        for rank in range(world):
            path = Path(folder, f"{rank}.json")
            lines = path.read_text().splitlines() if path.exists() else []
            results.append(dict(json.loads(line) for line in lines))
        if any("passed" not in result.values() for result in results):
            results[0].setdefault("output", done.stdout + done.stderr)
            print(done.stdout[-4000:], done.stderr[-4000:])
        return results


def passed_and_gone(name: str) -> None:
    """Notes, for a check that ends its process, that it got as far as it should."""
    import torch.distributed as dist

    with Path(_folder, f"{dist.get_rank()}.json").open("a") as results:
        print(json.dumps([name, "passed"]), file=results)


def _work(module: str, names: list[str], rank: int, world: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    global _folder
    _folder = folder
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=TIMEOUT),
    )
    with Path(folder, f"{rank}.json").open("a") as results:
        for function in _checks[module]:
            if world not in function.worlds or function.__name__ not in names:
                continue
            torch.manual_seed(0)
            began = time.time()
            try:
                function()
                text = "passed"
            except BaseException:
                text = traceback.format_exc(limit=-6)
            print(json.dumps([function.__name__, text]), file=results, flush=True)
            if rank == 0 or text != "passed":
                print(f"process {rank}: {function.__name__}, {time.time() - began:.1f} s: {text}", flush=True)
            if text != "passed":
                os._exit(1)  # the others see closed connections rather than waiting
    dist.destroy_process_group()


def main() -> None:
    module, world, *names = sys.argv[1:]
    sys.path.insert(0, str(TESTS))
    sys.path.append(str(TESTS.parent))  # the last place to look for the package: PYTHONPATH may name another build
    # One copy of this file's checks, whatever its name.
    sys.modules["processes"] = sys.modules["__main__"]
    importlib.import_module(module)
    names = names or [function.__name__ for function in _checks[module]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = os.environ.get("CHECKS_FOLDER", temporary)
        # Shared by the processes, as it is on one machine, but not with earlier runs.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/cache"
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no processes of its own
        context = multiprocessing.get_context("fork")
        processes = [
            context.Process(target=_work, args=(module, names, rank, int(world), folder)) for rank in range(int(world))
        ]
        for process in processes:
            process.start()
        end = time.monotonic() + LIMIT
        for process in processes:
            process.join(max(1.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
        sys.exit(any(process.exitcode for process in processes))


if __name__ == "__main__":
    main()
