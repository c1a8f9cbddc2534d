"""Moments of tests/soak.py: TORCH_MAXPOOL_SOAK_SECONDS and TORCH_MAXPOOL_SOAK_CALLS make them longer."""

import os

from hostile.limits import MIB
from soak import run_calls, run_threads


def test_threads_on_shared_inputs():
    done, wrong = run_threads(float(os.environ.get("TORCH_MAXPOOL_SOAK_SECONDS", "2")))
    assert not wrong
    assert done > 8


def test_memory_is_flat():
    assert run_calls(int(os.environ.get("TORCH_MAXPOOL_SOAK_CALLS", "8000"))) < 16 * MIB
