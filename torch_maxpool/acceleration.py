"""PyTorch's own max pooling run on this package's operators: for a whole process, or for one model's modules."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.compiler.config as compiler_config
from torch import Tensor, nn

from torch_maxpool import _C, modules
from torch_maxpool.compiling import tell_inductor

__all__ = ["accelerate", "convert", "is_accelerated", "restore"]

_Model = TypeVar("_Model", bound=nn.Module)

_ATEN = torch.ops.aten
_REPLACED = [
    _ATEN.max_pool1d.default,
    _ATEN.max_pool2d.default,
    _ATEN.max_pool3d.default,
    _ATEN.max_pool1d_with_indices.default,
    _ATEN.max_pool2d_with_indices.default,
    _ATEN.max_pool3d_with_indices.default,
]
_CACHE_TAG = "+torch_maxpool"

_lock = threading.RLock()
_caches_follow = False  # the state that Python's caches were last told


@contextlib.contextmanager
def _switching() -> Iterator[None]:
    """Around every switch. Nothing is compiled meanwhile, and PyTorch's Python side forgets what it derived before."""
    global _caches_follow
    dynamo = sys.modules.get("torch._dynamo")
    with dynamo.convert_frame.compile_lock if dynamo else contextlib.nullcontext(), _lock:
        try:
            yield
        finally:
            on = _C.is_accelerated()
            if on != _caches_follow:
                _caches_follow = on
                _reset_caches(on)


def _reset_caches(on: bool) -> None:
    for operator in _REPLACED:
        operator._dispatch_cache.clear()
    # What torch.compile keeps on disk is looked up by the traced calls, which are the same in both states.
    tag = compiler_config.cache_key_tag.replace(_CACHE_TAG, "")
    compiler_config.cache_key_tag = tag + _CACHE_TAG if on else tag
    # What it keeps in memory has no guard on registrations.
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset_code_caches()


def accepts(tensor: Tensor) -> bool:
    """Whether a call on `tensor` that goes through Python's dispatch (a subclass, a mode) may be replaced.

    Tracing for torch.compile may; torch.export shall see PyTorch's operators, and subclasses know only those.
    """
    if torch.compiler.is_exporting():
        return False  # not covered: coverage.py does not see what PyTorch's tracing calls
    kind = type(tensor)
    if kind.__torch_dispatch__ is Tensor.__torch_dispatch__:
        return True  # not covered: as above
    if kind.__module__ == "torch.distributed.tensor":  # DTensor, once it knows these operators
        return "torch_maxpool.sharding" in sys.modules
    if kind.__module__ not in ("torch._subclasses.fake_tensor", "torch._subclasses.functional_tensor"):
        return False
    tell_inductor()
    return True


class Acceleration:
    """What :func:`accelerate` returns: says what it replaced, and is a context manager."""

    def __init__(self, token: int | None) -> None:
        self._token = token
        self._scopes: list[_C.AccelerationScope] = []

    def __enter__(self) -> Acceleration:
        with _switching():
            self._scopes.append(_C.AccelerationScope())
            if self._token is not None:  # the call was made for this block
                _C.drop_acceleration(self._token)
                self._token = None
        return self

    def __exit__(self, *exception) -> None:
        with _switching():
            self._scopes.pop()

    def __str__(self) -> str:
        return _C.replaced_line()

    def __repr__(self) -> str:
        return f"<{self}>"


def accelerate(*, quiet: bool = False) -> Acceleration:
    """Runs every max pooling of PyTorch's on CPU tensors on this package's operators, in the whole process.

    ``nn.MaxPool1d/2d/3d``, ``F.max_pool1d/2d/3d``, ``torch.max_pool1d/2d/3d``, with and without ``return_indices``;
    eager, under autograd, in inference mode, in ``torch.compile`` and in TorchScript models already saved. On until
    :func:`restore`, or, as a context manager, to the end of the block::

        torch_maxpool.accelerate()

        with torch_maxpool.accelerate():
            model(x)

    A second call changes nothing. Threads share the state; blocks may overlap, in any order, and the end of the last
    one switches off, unless a call outside a block had switched on.

    Functions that ``torch.compile`` has compiled are compiled anew at their next call after a switch. ``torch.export``
    keeps PyTorch's own operators in its graphs. Arguments that PyTorch refuses are refused as before.

    Args:
        quiet: do not print, to ``sys.stderr``, the line that says what was replaced. It is printed where the call
            changed something.

    Returns:
        The context manager; ``str()`` of it is the line.
    """
    with _switching():
        was_on = _C.is_accelerated()
        handle = Acceleration(_C.hold_acceleration())
    if not was_on and not quiet:
        print(handle, file=sys.stderr)
    return handle


def restore() -> bool:
    """Switches :func:`accelerate` off, its blocks included. Returns False if it was off."""
    with _switching():
        return _C.restore()


def is_accelerated() -> bool:
    """Whether PyTorch's max pooling runs on this package's operators now."""
    return _C.is_accelerated()


_PAIRS = [(getattr(nn, name), getattr(modules, name)) for name in modules.__all__]


def _entries(value) -> tuple:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _check_torch_takes(name: str, module: nn.Module) -> None:
    """Raises ValueError where the module asks for what torch.nn's does not have."""
    rank = int(type(module).__name__[-2])
    padding, kernel = _entries(module.padding), _entries(module.kernel_size)
    plain = not isinstance(module.padding, str) and len(padding) in (1, rank)
    if plain:
        plain = all(2 * padding[i % len(padding)] <= kernel[i % len(kernel)] for i in range(rank))
    if module.exact or not plain:
        raise ValueError(
            f"convert: {name or 'the model'} cannot be converted back, torch.nn.{type(module).__name__} has no "
            f"exact=True and no padding that is a word, unequal or beyond half of kernel_size, got {module}"
        )


def convert(model: _Model, back: bool = False) -> _Model:
    """Makes the ``torch.nn.MaxPool1d/2d/3d`` in `model` those of this package, in place; with `back`, the reverse.

    The modules stay the same objects, with their hooks and their places in the model: only their class changes, as does
    nothing outside the model. Modules of classes derived from torch.nn's are left alone, and so are scripted ones.

    Raises:
        ValueError: with `back`, where a module has ``exact=True`` or a padding that PyTorch does not take. Nothing is
            changed then.

    Returns:
        `model`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model must be a torch.nn.Module, got {type(model).__name__}")
    classes = {ours: theirs for theirs, ours in _PAIRS} if back else dict(_PAIRS)
    found = {name: module for name, module in model.named_modules() if type(module) in classes}
    if back:
        for name, module in found.items():
            _check_torch_takes(name, module)
    for module in found.values():
        module.__class__ = classes[type(module)]
        if back:
            del module.exact
        else:
            module.exact = False
    return model
