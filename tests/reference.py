"""Max pooling in plain Python and NumPy, written from its definition: no torch, none of the package's code.

Everything is for arrays ``[*planes, *spatial]`` whose last ``rank`` dimensions are pooled.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """One spatial dimension of a pooling."""

    kernel: int
    stride: int
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil_mode: bool = False
    auto_pad: str = "explicit"

    @property
    def effective(self) -> int:
        """Elements from the first to the last tap of a window."""
        return self.dilation * (self.kernel - 1) + 1

    def padding(self, size: int) -> tuple[int, int]:
        """Padding (before, after) for an input of `size`."""
        if self.auto_pad == "explicit":
            return self.before, self.after
        output = -(-size // self.stride)
        total = max(0, (output - 1) * self.stride + self.effective - size)
        small, large = total // 2, total - total // 2
        return (small, large) if self.auto_pad == "same" else (large, small)

    def span(self, size: int) -> int:
        """Steps of 1 that the window can take from its first place to its last."""
        return size + sum(self.padding(size)) - self.effective

    def output(self, size: int) -> int:
        """Number of windows; below 1 where the pooling is an error."""
        span = self.span(size)
        if not self.ceil_mode:
            return span // self.stride + 1
        windows = -(-span // self.stride) + 1
        before, _ = self.padding(size)
        return windows - 1 if (windows - 1) * self.stride >= size + before else windows

    def tiles(self, size: int) -> bool:
        """True where the windows end exactly at the end of the padded input."""
        return self.span(size) >= 0 and self.span(size) % self.stride == 0

    def taps(self, size: int, place: int) -> list[tuple[int, int]]:
        """(tap number, position in the input) of window number `place`, elements of the input only."""
        start = place * self.stride - self.padding(size)[0]
        window = range(start, start + self.kernel * self.dilation, self.dilation)
        inside = range(max(start, 0), min(size, start + self.effective))
        return [(window.index(position), position) for position in inside if position in window]


@dataclass
class Pooled:
    """Results of a pooling; offsets and indices are -1 for windows that hold no element of the input."""

    values: np.ndarray
    offsets: np.ndarray
    indices: np.ndarray


def make_axes(rank, kernel, stride=(), padding=(0,), dilation=(1,), ceil_mode=False, auto_pad="explicit"):
    """Axes from lists as the operators take them."""

    def every(entries):
        return list(entries) * rank if len(entries) == 1 else list(entries)

    padding = every(padding)
    begins, ends = (padding[:rank], padding[rank:]) if len(padding) == 2 * rank else (padding, padding)
    lists = (every(kernel), every(stride or kernel), begins, ends, every(dilation))
    return [Axis(*entries, ceil_mode, auto_pad) for entries in zip(*lists, strict=True)]


def lowest(dtype) -> object:
    """What a window without elements gives."""
    if dtype.kind == "b":
        return False
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def as_planes(array: np.ndarray, rank: int) -> np.ndarray:
    """`array` as [planes, elements]."""
    return array.reshape(int(np.prod(array.shape[:-rank])), int(np.prod(array.shape[-rank:])))


def winner(elements: np.ndarray) -> np.ndarray:
    """Along the last dimension: the last NaN's number where there is one, else the first maximum's."""
    first_maximum = elements.argmax(-1)
    if elements.dtype.kind != "f":
        return first_maximum
    nan = np.isnan(elements)
    last_nan = elements.shape[-1] - 1 - nan[..., ::-1].argmax(-1)
    return np.where(nan.any(-1), last_nan, first_maximum)


def pool(array: np.ndarray, axes: list[Axis]) -> Pooled:
    """Values, offsets (tap numbers) and plane indices of every window."""
    rank = len(axes)
    spatial = array.shape[-rank:]
    planes = as_planes(array, rank)
    shape = [axis.output(size) for axis, size in zip(axes, spatial, strict=True)]
    if min(shape) < 1:
        raise ValueError("empty output")
    count = int(np.prod(shape))
    values = np.full((len(planes), count), lowest(array.dtype), dtype=array.dtype)
    offsets = np.full((len(planes), count), -1, dtype=np.int64)
    indices = offsets.copy()
    rows = np.arange(len(planes))
    taps = [[axis.taps(size, i) for i in range(n)] for axis, size, n in zip(axes, spatial, shape, strict=True)]
    for window, places in enumerate(itertools.product(*taps)):
        elements = list(itertools.product(*places))
        if not elements:
            continue
        numbers, positions = [], []
        for element in elements:
            number = position = 0
            for (tap, at), axis, size in zip(element, axes, spatial, strict=True):
                number = number * axis.kernel + tap
                position = position * size + at
            numbers.append(number)
            positions.append(position)
        taken = planes[:, positions]
        won = winner(taken)
        values[:, window] = taken[rows, won]
        offsets[:, window] = np.array(numbers)[won]
        indices[:, window] = np.array(positions)[won]
    full = (*array.shape[:-rank], *shape)
    return Pooled(values.reshape(full), offsets.reshape(full), indices.reshape(full))


def scatter(grad_output: np.ndarray, indices: np.ndarray, spatial: tuple[int, ...]) -> np.ndarray:
    """Gradient of the input: grad_output's elements added, window after window, at their indices."""
    rank = len(spatial)
    grads, places = as_planes(grad_output, rank), as_planes(indices, rank)
    result = np.zeros((len(grads), int(np.prod(spatial))), dtype=grad_output.dtype)
    rows = np.arange(len(grads))
    for window in range(grads.shape[1]):
        some = places[:, window] >= 0
        result[rows[some], places[some, window]] += grads[some, window]
    return result.reshape(*grad_output.shape[:-rank], *spatial)


def gather(array: np.ndarray, indices: np.ndarray, rank: int) -> np.ndarray:
    """Elements of `array` at plane indices; 0 where the index is -1."""
    flat, places = as_planes(array, rank), as_planes(indices, rank)
    taken = np.take_along_axis(flat, np.maximum(places, 0), 1)
    return np.where(places >= 0, taken, np.zeros((), array.dtype)).reshape(indices.shape)
