"""The programs of the package: ``python -m torch_maxpool`` and ``python -m torch_maxpool.sharding``."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from processes import once
from torch_maxpool import __main__ as digits

OURS = "torch.ops.torch_maxpool"


def run_module(name, *options, **environment):
    """`python -m name`; its exit status, standard output and standard error."""
    command = [sys.executable, "-m", name, *map(str, options)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_digits(capsys, tmp_path, set_threads):
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    set_threads(1)
    path = tmp_path / "digits.pt"
    assert digits.main(["--epochs", "1", "--batch-size", "64", "--output", str(path)]) == 0
    text = capsys.readouterr().out
    assert "Losses: the two sequences are identical, 23 steps" in text
    assert f"{OURS}: 100352 bytes (torch.uint8 [64, 32, 7, 7])" in text
    assert "answers on test scans identical" in text
    assert torch.jit.load(path)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_digits_without_its_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match="pip install scikit-learn tqdm"):
        digits.main(["--epochs", "1"])


def test_digits_tells_of_differences(capsys):
    runs = {name: digits.Run(None, losses, 0.5) for name, losses in (("one", [2.0, 1.0]), ("other", [2.0, 1.5]))}
    assert not digits.report_training(runs)
    assert "DIFFERENT in 1 of 2 steps, first in step 2" in capsys.readouterr().out


@once
def test_digits_refuses_bad_options():
    status, _, error = run_module("torch_maxpool", "--epochs", 0)
    assert status == 2
    assert "--epochs, --batch-size and --threads must be at least 1" in error


@once
def test_sharding_in_one_process():
    """tests/test_sharding_slabs.py has it in several."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    group = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    options = ["--size", 8, 9, 10, "--batch", 1, "--channels", 2, "--steps", 1]
    status, text, error = run_module("torch_maxpool.sharding", *options, GLOO_SOCKET_IFNAME="lo", **group)
    assert status == 0, error
    assert "The same bits as in one process: output True, gradient True" in text
