"""ONNX export: what ``torch.onnx.export(..., dynamo=True)`` makes of this package's operators. Importing the package is
enough.

Every pooling becomes one standard ``MaxPool`` node where ONNX Runtime runs it as it is meant. Otherwise:

* dtypes that MaxPool does not have are pooled in one that holds their values (int64: those below 2**53);
* paddings that ONNX Runtime refuses (as large as the kernel) or gets wrong (windows without any element) become a Pad
  node in front, and so does "same" padding that depends on sizes not known yet, where ``auto_pad`` would go wrong
  (dilation, stride beyond the kernel size);
* indices and offsets are computed from MaxPool's own, which count through the whole input.

``exact`` is checked while exporting; ONNX has no word for it. A MaxPool that meets a NaN may drop it.
"""

from __future__ import annotations

import functools
import math
from collections import ChainMap
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch._decomp import meta_table
from torch.utils.weak import WeakTensorKeyDictionary

# Imports of torch.fx stand in functions: they take long.

_OPS = torch.ops.torch_maxpool

# What ONNX Runtime's MaxPool takes in place of dtypes that it does not.
_POOLED_AS = {
    torch.bool: torch.uint8,
    torch.int16: torch.float32,
    torch.int32: torch.float64,
    torch.int64: torch.float64,
    torch.bfloat16: torch.float32,
}


def _listed(entries, rank):
    return list(entries) * rank if len(entries) == 1 else list(entries)


# Indices that go with offsets made during an export, so that asking for them does not lead through the offsets.
_INDICES = WeakTensorKeyDictionary()


def _number(n):
    """A size for arithmetic with tensors: the exporter takes symbolic ones as tensors only."""
    return n if isinstance(n, int) else torch.full((), n, dtype=torch.int64)


def _least(n):
    """The least that a size can be."""
    if isinstance(n, int):
        return n
    least = n.node.shape_env.bound_sympy(n.node.expr).lower
    # 0: the exporter has lost the bound. torch.export holds a size that varies to be 2 or more, unless its Dim says 1.
    return least or 2


def _lowest(dtype):
    if dtype == torch.bool:
        return 0
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


@dataclass(frozen=True)
class _Pooling:
    """A pooling of spatial sizes, one entry per dimension; sizes and paddings may be symbolic."""

    size: list[Any]
    kernel: list[int]
    stride: list[int]
    before: list[Any]
    after: list[Any]
    dilation: list[int]
    ceil_mode: bool
    auto_pad: str

    @classmethod
    def of(cls, size, kernel_size, stride=(), padding=(0,), dilation=(1,), ceil_mode=False, auto_pad="explicit"):
        """From the operators' arguments; "same" padding becomes numbers."""
        rank = len(kernel_size)
        kernel, dilation = list(kernel_size), _listed(dilation, rank)
        stride = _listed(stride or kernel_size, rank)
        if auto_pad == "explicit":
            padding = _listed(padding, rank)
            return cls(
                list(size), kernel, stride, padding[:rank], padding[-rank:], dilation, ceil_mode, auto_pad
            ).without_dropped_windows()
        before, after = [], []
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            reach = d * (k - 1) + 1
            # With a stride of 1 the total does not depend on the size.
            total = reach - 1 if s == 1 else torch.sym_max(0, (n - 1) // s * s + reach - n)
            before.append(total // 2 if auto_pad == "same" else total - total // 2)
            after.append(total - before[-1])
        return cls(list(size), kernel, stride, before, after, dilation, False, auto_pad)

    def without_dropped_windows(self):
        """The same windows by padding alone, where ceil_mode has some that are dropped: ONNX counts them."""
        if not self.ceil_mode or not all(isinstance(n, int) for n in self.size):
            return self
        if self.output_size == [span // s + 1 for span, s in zip(self.spans(), self.stride, strict=True)]:
            return self
        after = [
            max(0, (out - 1) * s + d * (k - 1) + 1 - n - before)
            for out, s, d, k, n, before in zip(
                self.output_size, self.stride, self.dilation, self.kernel, self.size, self.before, strict=True
            )
        ]
        return replace(self, after=after, ceil_mode=False)

    @property
    def rank(self):
        return len(self.kernel)

    def spans(self):
        """Where the last window may start, counted from the first; ceil_mode's rounding is in it."""
        lists = (self.size, self.before, self.after, self.kernel, self.dilation, self.stride)
        return [
            n + before + after - d * (k - 1) - 1 + (s - 1 if self.ceil_mode else 0)
            for n, before, after, k, d, s in zip(*lists, strict=True)
        ]

    @property
    def output_size(self):
        """README's "Sizes", in arithmetic that the exporter can follow; the operator itself has checked them."""
        if self.auto_pad != "explicit":
            return [(n - 1) // s + 1 for n, s in zip(self.size, self.stride, strict=True)]
        size = [span // s + 1 for span, s in zip(self.spans(), self.stride, strict=True)]
        if not self.ceil_mode:
            return size
        lists = (size, self.size, self.before, self.stride)
        return [torch.sym_min(out, (n + before - 1) // s + 1) for out, n, before, s in zip(*lists, strict=True)]

    def runs_with_pads(self):
        """Whether ONNX Runtime takes this padding as an attribute, and every window has an element."""
        pads = [*zip(self.before, self.kernel, strict=True), *zip(self.after, self.kernel, strict=True)]
        return all(isinstance(pad, int) and pad < kernel for pad, kernel in pads) and all(
            pad == 0 or _least(n) >= d for n, pad, d in zip(self.size, self.before, self.dilation, strict=True)
        )

    def runs_with_auto_pad(self):
        """Whether ONNX Runtime finds this padding by itself."""
        return self.auto_pad != "explicit" and all(
            d == 1 and s <= k for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True)
        )

    def padded(self):
        """The same windows on an input that has the padding in it."""
        size = [b + n + a for b, n, a in zip(self.before, self.size, self.after, strict=True)]
        none = [0] * self.rank
        return _Pooling(size, self.kernel, self.stride, none, none, self.dilation, self.ceil_mode, "explicit")

    def starts(self, device):
        """Per dimension, where each output's window starts, in a shape that broadcasts over the outputs."""
        for i, (n, s, before) in enumerate(zip(self.output_size, self.stride, self.before, strict=True)):
            places = torch.arange(n, device=device) * s - _number(before)
            yield places.reshape([-1] + [1] * (self.rank - 1 - i))

    def flat(self, places):
        """Coordinates as one number, row-major."""
        total = places[0]
        for n, place in zip(self.size[1:], places[1:], strict=True):
            total = total * _number(n) + place
        return total


def _quotient(numbers, n):
    """Of numbers that are not negative, for which rounding down is one node."""
    return torch.div(numbers, _number(n), rounding_mode="trunc")


def _split(numbers, sizes):
    """Row-major numbers as coordinates."""
    places = []
    for n in reversed(sizes):
        places.append(numbers % _number(n))
        numbers = _quotient(numbers, n)
    return places[::-1]


def _max_pool_node(x, pooling, with_indices):
    """One ONNX MaxPool on a batched input of a dtype it takes."""
    attributes: dict[str, Any] = {"kernel_shape": pooling.kernel, "strides": pooling.stride}
    if pooling.runs_with_pads():
        attributes["pads"] = [*pooling.before, *pooling.after]
    else:
        attributes["auto_pad"] = "SAME_UPPER" if pooling.auto_pad == "same" else "SAME_LOWER"
    if any(d > 1 for d in pooling.dilation):
        attributes["dilations"] = pooling.dilation
    if pooling.ceil_mode:
        attributes["ceil_mode"] = 1
    shape = [*x.shape[:2], *pooling.output_size]
    if not with_indices:
        return torch.onnx.ops.symbolic("MaxPool", (x,), attributes, dtype=x.dtype, shape=shape), None
    results = torch.onnx.ops.symbolic_multi_out(
        "MaxPool", (x,), attributes, dtypes=(x.dtype, torch.int64), shapes=(shape, shape)
    )
    return results[0], results[1]


def _unpadded(indices, padded, pooling):
    """Indices into a padded input as indices into the input, -1 for a window without any element of it."""
    places = _split(indices, padded.size)
    # Padding wins only where nothing is greater than the dtype's lowest value: then the first element does.
    real, some, firsts = True, True, []
    for i, start in enumerate(pooling.starts(indices.device)):
        places[i] = places[i] - _number(pooling.before[i])
        n, d = _number(pooling.size[i]), pooling.dilation[i]
        first = start + _quotient((d - 1 - start).clamp_min(0), d) * d
        firsts.append(first)
        some = (first < n) & (first < start + d * pooling.kernel[i]) & some
        real = (places[i] >= 0) & (places[i] < n) & real
    return pooling.flat(places).where(real, pooling.flat(firsts)).where(some, -1)


def _decompose(x, arguments, exact, auto_pad, with_indices):
    """(pooling, maxima, plane indices or None) of a pooling with these arguments of the operators."""
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    rank, dtype = len(arguments[0]), x.dtype
    pooling = _Pooling.of(x.shape[-rank:], *arguments, auto_pad=auto_pad)
    with disable_proxy_modes_tracing():
        _OPS.maxpool_values(x, *arguments, exact=exact, auto_pad=auto_pad)  # for its checks
    x = x.to(_POOLED_AS.get(dtype, dtype))
    batched = x.dim() == rank + 2
    if not batched:
        x = x.unsqueeze(0)
    inner = pooling
    if not (pooling.runs_with_pads() or pooling.runs_with_auto_pad()):
        inner = pooling.padded()
        pairs = zip(reversed(pooling.before), reversed(pooling.after), strict=True)
        x = F.pad(x, [pad for pair in pairs for pad in pair], value=_lowest(dtype))
    values, indices = _max_pool_node(x, inner, with_indices)
    values = (values if batched else values.squeeze(0)).to(dtype)
    if with_indices:
        indices = (indices if batched else indices.squeeze(0)) % _number(math.prod(inner.size))
        if inner is not pooling:
            indices = _unpadded(indices, inner, pooling)
    return pooling, values, indices


def _maxpool_values(
    input, kernel_size, stride=(), padding=(0,), dilation=(1,), ceil_mode=False, *, exact=False, auto_pad="explicit"
):
    return _decompose(input, (kernel_size, stride, padding, dilation, ceil_mode), exact, auto_pad, False)[1]


def _maxpool_forward(
    input, kernel_size, stride=(), padding=(0,), dilation=(1,), ceil_mode=False, *, exact=False, auto_pad="explicit"
):
    arguments = (kernel_size, stride, padding, dilation, ceil_mode)
    pooling, values, indices = _decompose(input, arguments, exact, auto_pad, True)
    offsets: Any = 0
    places = _split(indices.clamp_min(0), pooling.size)
    starts = pooling.starts(input.device)
    for place, start, k, d in zip(places, starts, pooling.kernel, pooling.dilation, strict=True):
        offsets = offsets * k + _quotient(place - start, d)
    offsets = offsets.where(indices >= 0, 0).to(torch.uint8 if math.prod(kernel_size) <= 256 else torch.int32)
    _INDICES[offsets] = indices
    return values, offsets


def _maxpool_indices(
    offsets, input_spatial_size, kernel_size, stride, padding, dilation, ceil_mode, *, auto_pad="explicit"
):
    if offsets in _INDICES:
        return _INDICES[offsets]
    pooling = _Pooling.of(input_spatial_size, kernel_size, stride, padding, dilation, ceil_mode, auto_pad=auto_pad)
    taps = _split(offsets.to(torch.int64), pooling.kernel)
    starts = pooling.starts(offsets.device)
    places, some = [], True
    for tap, start, d, n in zip(taps, starts, pooling.dilation, pooling.size, strict=True):
        places.append(start + tap * d)
        some = (places[-1] >= 0) & (places[-1] < _number(n)) & some
    return pooling.flat(places).where(some, -1)


def _in_onnx_export_only(decomposition):
    """`decomposition`, without effect on whoever else reads PyTorch's table."""

    @functools.wraps(decomposition)
    def wrapped(*arguments, **keywords):
        if torch.onnx.is_in_onnx_export():
            return decomposition(*arguments, **keywords)
        from torch.fx.experimental.proxy_tensor import get_proxy_mode

        if get_proxy_mode() is not None:
            return NotImplemented  # a trace keeps the operator
        raise NotImplementedError("torch_maxpool has decompositions for ONNX export alone")

    return wrapped


def _register():
    """Puts the decompositions where torch.onnx.export looks for those of operators that it has no ONNX function for."""
    table = {
        _OPS.maxpool_values.default: _maxpool_values,
        _OPS.maxpool_forward.default: _maxpool_forward,
        _OPS.maxpool_indices.default: _maxpool_indices,
    }
    # Not by register_decomposition: Inductor expects operators that get_decompositions knows to be decomposed, and
    # fails where they are not and the environment variable CI is set.
    ours = {op: _in_onnx_export_only(decomposition) for op, decomposition in table.items()}
    torch._decomp.decomposition_table = ChainMap(ours, torch._decomp.decomposition_table)
    for op in table:
        # Fake tensors of symbolic sizes would otherwise run the decomposition and not the meta kernel.
        meta_table[op] = op


_register()
