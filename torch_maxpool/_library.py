"""Loads the compiled part, unless it is missing or was built for another PyTorch, when its calls would crash."""

from __future__ import annotations

import importlib.util
import sys

import torch

_BUILD = "build it in the repository's root: pip install --no-build-isolation -e ."


def check() -> None:
    """Raises ImportError unless ``torch_maxpool._C`` is there and was built for this PyTorch."""
    if importlib.util.find_spec("torch_maxpool._C") is None:  # not covered: tests/test_library.py does, in a copy
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        raise ImportError(f"torch_maxpool: the compiled part, torch_maxpool._C for {python}, is missing; {_BUILD}")
    try:
        from torch_maxpool._built_for import TORCH_VERSION
    except ImportError:
        TORCH_VERSION = "of an unknown version"
    # PyTorch keeps no binary interface between versions, nor between builds of one.
    if str(torch.__version__) != TORCH_VERSION:
        raise ImportError(
            f"torch_maxpool was built for PyTorch {TORCH_VERSION}, this is PyTorch {torch.__version__}; {_BUILD}"
        )


check()

from torch_maxpool import _C  # noqa: E402  registers the operators

# What compiled code calls, which may have been compiled by another process (compiling.py).
for _name in ("maxpool_forward", "maxpool_values", "maxpool_backward"):
    getattr(torch.ops.torch_maxpool, _name).direct = getattr(_C, _name)
