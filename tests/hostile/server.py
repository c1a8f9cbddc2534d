"""Runs rows of hostile_inputs.tsv, each in a process of its own with limits on memory and time.

A process that has imported torch and run nothing on it reads row ids from its standard input, forks a child for each
and answers with a line of JSON: ``{"id", "exit", "signal", "text"}``. A child that raises, crashes or hangs takes
nothing with it, and no child pays for the import. Exit statuses of a child: 0 as expected, 3 skipped (``text`` says
why); anything else, and every signal, is a failure.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import reference
from common import CLEAR_ERRORS, OPS, assert_array, to_numpy
from hostile import harnesses
from hostile.limits import GIB, Skipped, lack_of_memory, status_bytes, virtual_bytes

TABLE = Path(__file__).with_name("hostile_inputs.tsv")
CALL_SECONDS = 1.0  # of processor time, for one call of an operator in an E or R row: all of them are small
ROW_BYTES = GIB  # address space that an E or R row may take on top of what the process has
ROW_SECONDS = 20  # of processor time for a whole row, reference included
SKIPPED = 3


def read_rows():
    """All rows, in the order of the file."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def distinct(tensor):
    """The tensor with dimensions of stride 0 cut to one entry: all its values, few of their repetitions."""
    for dimension, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.size(dimension) > 1:
            tensor = tensor.narrow(dimension, 0, 1)
    return tensor


class Calls:
    """The names that rows use. Every result is compared with the reference, every call must be short."""

    def __init__(self):
        self.indices = None

    @staticmethod
    def timed(operator, *arguments):
        began = time.process_time()
        try:
            return operator(*arguments)
        finally:
            spent = time.process_time() - began
            if spent > CALL_SECONDS * torch.get_num_threads():
                os.write(2, f"the call took {spent:.1f} s of processor time\n".encode())
                os._exit(1)

    def fwd(self, tensor, *arguments):
        output, offsets = self.timed(OPS.maxpool_forward, tensor, *arguments)
        expected = reference.pool(to_numpy(tensor), reference.make_axes(len(arguments[0]), *arguments))
        assert_array(output, expected.values)
        assert_array(self.timed(OPS.maxpool_values, tensor, *arguments), expected.values)
        some = expected.offsets >= 0
        assert np.array_equal(offsets.numpy()[some], expected.offsets[some])
        self.indices = expected.indices
        return output, offsets

    def bwd(self, grad, offsets, size, kernel, *rest):
        rank = len(kernel)
        if len(size) in (rank + 1, rank + 2):
            size = size[-rank:]
        dtype = torch.uint8 if np.prod([float(n) for n in kernel]) <= 256 else torch.int32
        values = distinct(offsets)
        if offsets.dtype == torch.int64 and torch.equal(values, values.to(dtype).to(torch.int64)):
            offsets = values.to(dtype).expand(offsets.shape)
        result = self.timed(OPS.maxpool_backward, grad, offsets, size, kernel, *rest)
        if self.indices is not None:
            assert_array(result, reference.scatter(to_numpy(grad), self.indices, tuple(size)))
        return result

    @staticmethod
    def L(number, *shape):
        return torch.full(shape, number, dtype=torch.int64)


def run_call(row):
    """Evaluates an E, R or ER row."""
    calls = Calls()
    names = {"torch": torch, "fwd": calls.fwd, "bwd": calls.bwd, "L": calls.L}
    verdict, _, text = row["expected"].partition(": ")
    if verdict == "result":
        eval(row["call"], names)
        return
    try:
        eval(row["call"], names)
    except CLEAR_ERRORS as error:
        message = str(error)
        for part in text.split(" | "):
            assert part in message, f"{part!r} is not in: {message}"
        assert "internal assert" not in message.lower()
        return
    raise AssertionError("no error was raised")


def run_row(row):
    """In the child: sets the limits, runs the row."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    harness = harnesses.HARNESSES[row["id"]] if row["kind"] == "M" else None
    address_space = harness.address_space if harness else ROW_BYTES
    seconds = harness.seconds if harness else ROW_SECONDS
    if harness and harness.once and "ATEN_CPU_CAPABILITY" in os.environ:
        raise Skipped("is run where ATEN_CPU_CAPABILITY is not set")
    if harness and (lack := lack_of_memory(harness.memory)):
        raise Skipped(lack)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + address_space, hard))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    (harness.run if harness else lambda: run_call(row))()
    if harness:
        peak = status_bytes("VmHWM")
        assert peak < harness.memory + GIB // 2, f"declared {harness.memory / GIB:.1f} GiB, took {peak / GIB:.1f}"


def child(row, output):
    """Runs the row and ends the process with what came of it."""
    status = 1
    try:
        os.dup2(output, 2)
        run_row(row)
        status = 0
    except Skipped as skipped:
        os.write(2, str(skipped).encode())
        status = SKIPPED
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def wait(pid, seconds):
    """The wait status of a child; it is killed after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1]
        time.sleep(0.002)


def serve():
    rows = {row["id"]: row for row in read_rows()}
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        row = rows[line.strip()]
        with tempfile.TemporaryFile() as output:
            pid = os.fork()
            if pid == 0:
                child(row, output.fileno())
            harness = harnesses.HARNESSES.get(row["id"])
            # Processor time is limited in the child; this is for one that waits for ever.
            status = wait(pid, 4 * (harness.seconds if harness else ROW_SECONDS) + 60)
            output.seek(0)
            answer = {
                "id": row["id"],
                "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                "signal": signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None,
                "text": output.read().decode(errors="replace"),
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
