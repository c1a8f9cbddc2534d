"""What torch.compile is left to do itself.

An operator is a wall for Inductor, and calling one takes longer than starting a loop of Inductor's own. So Inductor is
told to make 2-d poolings for their values alone out of its own loops wherever those are as fast as our kernels, as it
does for PyTorch's pooling. Which of 0 and -0 a window gives may then differ. Small steps of training are made of the
loops in inductor_loops.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch

_OPS = torch.ops.torch_maxpool
_VALUES, _FORWARD, _BACKWARD = (
    getattr(_OPS, name).default for name in ("maxpool_values", "maxpool_forward", "maxpool_backward")
)
_LARGEST_WINDOW = 25  # elements; Inductor does not unroll larger ones
# Elements of all windows up to which Inductor's loops take no longer than the call of an operator (measured with AVX2
# and AVX-512): in channels_last, likewise where windows move by more than one element, in others that move by one along
# the width, in others, in those on one thread; of types but float32 and float64 one part in so many.
_FEW_IN_CHANNELS_LAST, _FEW_SPARSE_IN_CHANNELS_LAST = 512 * 1024, 2 * 1024 * 1024
_FEW_BY_ONE, _FEW, _FEW_ON_ONE_THREAD = 64 * 1024, 32 * 1024, 16 * 1024
_PART = 8
# Likewise of a step of training, where windows share no element, and where they do, times the windows over an element
# (measured with AVX-512).
_FEW_IN_A_STEP, _FEW_SHARED = 8 * 1024, 16 * 1024
_MOST_SHARED = 9  # windows over an element
# Bytes of a result from which Inductor takes new pages for it at each call, as the C library returns them: the operator
# keeps some, and takes half the time.
_IN_NEW_PAGES = 32 * 1024 * 1024


def _window(
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
    *,
    exact: bool = False,
    auto_pad: str = "explicit",
) -> tuple[list[int], list[int], list[int], list[int], bool] | None:
    """The operator's arguments as those of PyTorch's 2-d pooling, or None."""
    if list(padding[2:]) == list(padding[:2]):
        padding = padding[:2]
    if len(kernel_size) != 2 or len(padding) > 2 or auto_pad != "explicit" or exact:
        return None
    kernel, stride, padding, dilation = (
        list(values) * (2 // len(values)) for values in (kernel_size, stride or kernel_size, padding, dilation)
    )
    fits = (
        all(2 * pad <= size for pad, size in zip(padding, kernel, strict=True)) and math.prod(kernel) <= _LARGEST_WINDOW
    )
    return (kernel, stride, padding, dilation, ceil_mode) if fits else None


def _is_channels_last(input: Any) -> bool:
    """As far as Inductor has laid out its `input` yet; without strides, it will take those of what it is made from."""
    from torch._inductor.virtualized import V

    size = input.get_size()
    has_strides = input.maybe_get_stride() is not None
    sources = [input] if has_strides else map(V.graph.try_get_buffer, input.get_read_names())
    strides = [source.maybe_get_stride() for source in sources if source and source.get_size() == size]
    return len(size) == 4 and size[1] != 1 and any(stride and stride[1] == 1 for stride in strides)


def _is_left(input: Any, kernel: list[int], stride: list[int], padding: list[int]) -> bool:
    """Whether Inductor's own loops are to pool its `input`."""
    sizes, dtype = input.get_size(), input.get_dtype()
    if input.get_device().type != "cpu":
        return False
    is_channels_last = _is_channels_last(input)
    few = _FEW_BY_ONE if stride[1] == 1 else _FEW_ON_ONE_THREAD if _is_serial() else _FEW
    if is_channels_last:
        few = _FEW_IN_CHANNELS_LAST
    if is_channels_last and kernel in ([2, 2], [3, 3]) and dtype == torch.float32:
        is_sparse = stride in ([2, 2], [3, 3])
        # For an operator, a tensor that exists as a formula so far would have to be written first.
        if input.maybe_get_stride() is None and (is_sparse or kernel == [2, 2]):
            return True
        if is_sparse and padding == [0, 0]:
            return _is_at_most(math.prod(sizes) * dtype.itemsize, _IN_NEW_PAGES * math.prod(stride))
        if is_sparse:
            few = _FEW_SPARSE_IN_CHANNELS_LAST
    if dtype not in (torch.float32, torch.float64):
        few //= _PART
    return _is_at_most(math.prod(sizes) * math.prod(kernel), few * math.prod(stride))


def _is_at_most(size: Any, limit: int) -> bool:
    """Where `size` is symbolic, the answer becomes a guard: across the limit, and there only, sizes are compiled for
    anew. Not in ahead-of-time compilation, which has no guards."""
    from torch._inductor.virtualized import V

    if not getattr(size, "free_symbols", None):
        return size <= limit
    return not V.graph.aot_mode and V.graph.sizevars.guard_or_false(size <= limit)


def _call(operator: Any, *arguments: Any, **options: Any) -> Any:
    """The operator as it is. Python code calls it by the shorter of two ways, which _library.py has put beside it."""
    from torch._inductor.ir import FallbackKernel
    from torch._inductor.lowering import fallback_handler

    results = fallback_handler(operator, add_to_fallback_set=False)(*arguments, **options)
    for result in results if isinstance(results, (list, tuple)) else (results,):
        for kernel in result.data.data.inputs:
            name = f"torch.ops.{operator}"
            if isinstance(kernel, FallbackKernel) and kernel.python_kernel_name == name:
                kernel.python_kernel_name = name.removesuffix("default") + "direct"
    return results


def _lower_values(input: Any, *arguments: Any, **options: Any) -> Any:
    """How Inductor lowers maxpool_values; `input` is Inductor's."""
    from torch._inductor.lowering import lowerings

    window = _window(*arguments, **options)
    if window and _is_left(input, *window[:3]):
        return lowerings[torch.ops.prims._low_memory_max_pool_with_offsets.default](input, *window)[0]
    return _call(_VALUES, input, *arguments, **options)


def _is_step_left(tensor: Any, size: Sequence[Any], kernel: list[int], stride: list[int]) -> bool:
    """Whether forward or backward of a step of training, on an input of this size, is to be Inductor's own loops:
    where that takes less than the call."""
    if tensor.get_device().type != "cpu" or tensor.get_dtype() not in (torch.float32, torch.float64):
        return False
    windows = math.prod(-(-k // s) for k, s in zip(kernel, stride, strict=True))
    limit = _FEW_IN_A_STEP if windows == 1 else _FEW_SHARED if windows <= _MOST_SHARED else 0
    return not _is_channels_last(tensor) and _is_at_most(math.prod(size) * windows, limit)


def _is_serial() -> bool:
    """Whether Inductor's loops are for one thread. On more it adds to places that a tensor names in any order, and in
    tiles of two dimensions (where offsets and gradients are laid out differently) to wrong ones (PyTorch 2.13)."""
    from torch._inductor import config
    from torch._inductor.utils import parallel_num_threads

    return parallel_num_threads() == 1 and not config.cpp.dynamic_threads


def _lower_forward(input: Any, *arguments: Any, **options: Any) -> Any:
    from torch_maxpool import inductor_loops

    window = _window(*arguments, **options)
    if window and _is_step_left(input, input.get_size(), *window[:2]):
        return inductor_loops.pooled(input, *window)
    return _call(_FORWARD, input, *arguments, **options)


def _lower_backward(grad_output: Any, offsets: Any, size: Sequence[Any], *arguments: Any, **options: Any) -> Any:
    from torch._inductor.virtualized import V

    from torch_maxpool import inductor_loops

    window = _window(*arguments, **options)
    # Elsewhere offsets may be anyone's, and have to be checked.
    if window and V.graph.is_backward and window[3] == [1, 1]:
        sizes = [*grad_output.get_size()[:-2], *size]
        if _is_serial() and _is_step_left(grad_output, sizes, *window[:2]):
            return inductor_loops.gradient(grad_output, offsets, size, *window[:3])
    return _call(_BACKWARD, grad_output, offsets, size, *arguments, **options)


def tell_inductor() -> bool:
    """To be called while Dynamo traces, which runs it then. Does nothing in programs without Inductor."""
    if "torch._inductor" in sys.modules:
        from torch.utils._python_dispatch import _disable_current_modes

        with _disable_current_modes():  # what is imported may not be traced
            from torch._inductor.lowering import lowerings, register_lowering

        for operator, lower in ((_VALUES, _lower_values), (_FORWARD, _lower_forward), (_BACKWARD, _lower_backward)):
            if operator not in lowerings:
                register_lowering(operator, type_promotion_kind=None)(lower)
    return True


tell_inductor._dynamo_marked_constant = True  # as torch.compiler.assume_constant_result does, which would load Dynamo
