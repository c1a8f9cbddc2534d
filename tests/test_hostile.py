"""Calls that crashed, hung or misled some library, each in a process of its own: see hostile/README.md."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hostile import harnesses
from hostile.server import SKIPPED, read_rows

SERVER = Path(__file__).parent / "hostile" / "server.py"
ROWS = read_rows()


@pytest.fixture(scope="module")
def run_row():
    """Runs a row by its id in a fresh process; returns what came of it."""
    with subprocess.Popen([sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def run(row):
            print(row, file=server.stdin, flush=True)
            answer = server.stdout.readline()
            assert answer, "the server has ended"
            return json.loads(answer)

        yield run
        server.stdin.close()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_hostile_inputs(run_row, row):
    answer = run_row(row["id"])
    if answer["exit"] == SKIPPED:
        pytest.skip(answer["text"])  # the row's own reason: what this machine lacks for it
    assert answer["exit"] == 0, f"{answer['signal'] or answer['exit']}: {answer['text']}"


def test_every_row_is_there():
    """110 rows of four kinds; every M row has a harness, every other one says what to expect."""
    kinds = [row["kind"] for row in ROWS]
    assert {kind: kinds.count(kind) for kind in kinds} == {"E": 54, "R": 29, "ER": 12, "M": 15}
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    assert {row["id"] for row in ROWS if row["kind"] == "M"} == set(harnesses.HARNESSES)
    for row in ROWS:
        assert row["expected"].startswith(("error: ", "result: "))
        assert row["kind"] != "E" or row["expected"].startswith("error: ")
        assert row["kind"] != "R" or row["expected"].startswith("result: ")
