"""Imports where the compiled part is missing or does not fit: a clean message, and nothing is loaded."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torch_maxpool
from torch_maxpool import _C, _library

PACKAGE = Path(torch_maxpool.__file__).parent


# Without the finder of an editable install, which finds the compiled part in the source tree.
IMPORT = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
import torch_maxpool
"""


def import_error(folder):
    """What `import torch_maxpool` prints where `folder` holds the package."""
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def package(tmp_path):
    """A copy of the package's Python files."""
    copy = tmp_path / "torch_maxpool"
    copy.mkdir()
    for file in PACKAGE.glob("*.py"):
        shutil.copy(file, copy)
    return copy


def test_compiled_part_is_missing(package):
    text = import_error(package.parent)
    assert text.startswith("ImportError: torch_maxpool: the compiled part, torch_maxpool._C for Python 3.")
    assert "is missing" in text
    assert "pip install --no-build-isolation -e ." in text


def test_built_for_another_torch(package):
    """The compiled part of the copy cannot be loaded at all, so the check comes first."""
    (package / Path(_C.__file__).name).write_bytes(b"no library")
    (package / "_built_for.py").write_text('TORCH_VERSION = "2.12.1+cpu"\n')
    text = import_error(package.parent)
    assert text.startswith(
        f"ImportError: torch_maxpool was built for PyTorch 2.12.1+cpu, this is PyTorch {torch.__version__}; build it"
    )


def test_every_difference_counts(monkeypatch):
    _library.check()
    for version in ("2.13.0+cu130", "2.13.1+cpu", "2.14.0", "1.13.0"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(ImportError, match=f"this is PyTorch {version.replace('+', '.')}; build it"):
            _library.check()


def test_record_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_maxpool._built_for", None)
    with pytest.raises(ImportError, match="was built for PyTorch of an unknown version, this is PyTorch"):
        _library.check()
