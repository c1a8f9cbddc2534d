"""What several test files share: sample poolings, inputs in every layout, exact comparison with NumPy."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import reference
import torch_maxpool

OPS = torch.ops.torch_maxpool

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES = [*FLOATS, *INTEGERS, torch.bool]

TORCH_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
TORCH_UNPOOL = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}
TORCH_MODULE = {1: torch.nn.MaxPool1d, 2: torch.nn.MaxPool2d, 3: torch.nn.MaxPool3d}
OUR_POOL = {1: torch_maxpool.max_pool1d, 2: torch_maxpool.max_pool2d, 3: torch_maxpool.max_pool3d}
OUR_MODULE = {1: torch_maxpool.MaxPool1d, 2: torch_maxpool.MaxPool2d, 3: torch_maxpool.MaxPool3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
# What a clear error may be; asserts of PyTorch's inner parts are RuntimeErrors too, so texts are checked as well.
CLEAR_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError, OverflowError)
# Marks what takes long and does not depend on the kernels: it runs where all of them may be used, and not again for
# each lower CPU capability.
once = pytest.mark.skipif("ATEN_CPU_CAPABILITY" in os.environ, reason="the same under every CPU capability")


@dataclass(frozen=True)
class Case:
    """A pooling and the shape of its input (batch and channels included)."""

    name: str
    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = (0,)
    dilation: tuple[int, ...] = (1,)
    ceil_mode: bool = False
    auto_pad: str = "explicit"
    channels_last: bool = False

    @property
    def rank(self):
        return len(self.kernel)

    @property
    def spatial(self):
        return self.shape[-self.rank :]

    @property
    def window(self):
        """Positional arguments of the operators after the tensors (and sizes)."""
        lists = (self.kernel, self.stride or self.kernel, self.padding, self.dilation)
        return *(list(entries) for entries in lists), self.ceil_mode

    @property
    def keywords(self):
        return {"auto_pad": self.auto_pad}

    @property
    def axes(self):
        return reference.make_axes(self.rank, *self.window, self.auto_pad)

    def layout(self, tensor):
        """`tensor` in the case's memory format."""
        return tensor.contiguous(memory_format=CHANNELS_LAST[self.rank]) if self.channels_last else tensor

    def input(self, dtype=torch.float64):
        """Distinct, well separated elements: no finite difference changes a winner."""
        count = int(np.prod(self.shape))
        return self.layout(torch.randperm(count).reshape(self.shape).to(dtype))

    def forward(self, tensor, **keywords):
        return OPS.maxpool_forward(tensor, *self.window, **self.keywords, **keywords)

    def values(self, tensor, **keywords):
        return OPS.maxpool_values(tensor, *self.window, **self.keywords, **keywords)

    def backward(self, grad_output, offsets):
        return OPS.maxpool_backward(grad_output, offsets, list(self.spatial), *self.window, **self.keywords)

    def gather(self, tensor, offsets):
        return OPS.maxpool_gather(tensor, offsets, *self.window, **self.keywords)

    def indices(self, offsets):
        return OPS.maxpool_indices(offsets, list(self.spatial), *self.window, **self.keywords)

    def expected(self, tensor):
        return reference.pool(to_numpy(tensor), self.axes)


# Poolings that PyTorch knows too and whose windows all hold an element of the input.
TORCH_CASES = [
    Case("1d", (2, 3, 9), (3,)),
    Case("1d_overlap_pad", (2, 3, 10), (3,), (2,), (1,)),
    Case("1d_dilated_unbatched", (3, 11), (3,), (1,), (0,), (2,)),
    Case("1d_ceil", (1, 2, 8), (3,), (2,), (1,), ceil_mode=True),
    Case("2d", (2, 3, 6, 8), (2, 2)),
    Case("2d_overlap_pad", (2, 2, 7, 6), (3, 3), (2, 1), (1, 1)),
    Case("2d_dilated", (1, 2, 9, 8), (3, 2), (2, 1), (0,), (2, 3)),
    Case("2d_ceil_unbatched", (3, 6, 7), (3, 2), (2, 2), (1, 1), ceil_mode=True),
    Case("2d_channels_last", (2, 3, 5, 6), (3, 2), (2, 1), (1, 0), channels_last=True),
    Case("2d_gaps", (1, 3, 9, 9), (1, 2), (2, 4)),
    Case("3d", (1, 2, 4, 4, 6), (2, 2, 3)),
    Case("3d_overlap_pad_unbatched", (2, 4, 5, 4), (3, 3, 2), (2, 2, 1), (1, 1, 0)),
    Case("3d_ceil_channels_last", (2, 2, 3, 4, 5), (2, 2, 2), (2, 2, 2), ceil_mode=True, channels_last=True),
]
# Poolings beyond PyTorch's, some with windows that hold no element.
OWN_CASES = [
    Case("1d_unequal", (2, 2, 7), (3,), (2,), (2, 0)),
    Case("1d_wide_pad", (2, 2, 5), (4,), (2,), (3,)),
    Case("1d_empty_windows", (2, 2, 3), (2,), (1,), (3,), (5,)),
    Case("1d_same_lower", (1, 2, 8), (4,), (3,), auto_pad="same_lower"),
    Case("2d_unequal", (2, 2, 5, 6), (3, 4), (2, 2), (2, 0, 1, 3)),
    Case("2d_same", (2, 2, 5, 7), (2, 4), (2, 3), auto_pad="same"),
    Case("2d_same_dilated_channels_last", (1, 3, 6, 5), (2, 3), (2, 2), (0,), (3, 1), False, "same", True),
    Case("2d_empty_windows", (1, 2, 2, 3), (2, 2), (1, 2), (3, 1), (4, 2), ceil_mode=True),
    Case("2d_wide_offsets", (1, 2, 20, 19), (17, 16), (2, 1)),
    Case("3d_unequal", (1, 2, 3, 4, 3), (2, 3, 2), (1, 2, 1), (0, 2, 1, 1, 0, 0)),
    Case("3d_same_lower", (1, 2, 3, 4, 5), (2, 2, 3), (1, 3, 2), auto_pad="same_lower"),
    Case("3d_empty_windows", (1, 1, 2, 2, 2), (2, 1, 2), (1, 1, 1), (1, 0, 2), (3, 1, 3)),
]
CASES = TORCH_CASES + OWN_CASES


def every_case(cases=CASES):
    """Parametrizes a test over `cases`, as argument ``case``."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def to_numpy(tensor):
    """The tensor as an array; bfloat16 as float32, which holds all its values."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.resolve_neg().contiguous().numpy()


def assert_array(tensor, expected):
    """Equal to an array in shape and value: NaNs anywhere they are, zeros with their signs."""
    actual = to_numpy(tensor)
    np.testing.assert_array_equal(actual, expected)
    if actual.dtype.kind == "f":
        numbers = ~np.isnan(actual)
        np.testing.assert_array_equal(np.signbit(actual[numbers]), np.signbit(expected[numbers]))


def assert_same(actual, expected):
    """Two tensors equal in dtype, shape and value, NaNs and signs of zeros included."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert_array(actual, to_numpy(expected))


def assert_offsets(offsets, expected):
    """Offsets equal those of the reference where a window has elements, and have the dtype its size asks for."""
    some = expected.offsets >= 0
    np.testing.assert_array_equal(offsets.numpy()[some], expected.offsets[some])


def random_input(shape, dtype, specials=True):
    """Few distinct values, so that ties abound; for floats also NaN, infinities and zeros of both signs."""
    if dtype == torch.bool:
        return torch.rand(shape) < 0.3
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        palette = torch.tensor([info.min, info.min + 1, 0, 1, 7, info.max], dtype=dtype)
        return palette[torch.randint(len(palette), shape)]
    if not specials:
        return torch.randn(shape).to(dtype)
    nan, inf = float("nan"), float("inf")
    palette = torch.tensor([-inf, -inf, -3.0, -1.5, -0.0, 0.0, 1.0, 2.5, 7.0, inf, nan]).to(dtype)
    weights = torch.tensor([6.0, 6, 6, 6, 6, 6, 3, 3, 2, 1, 1])
    drawn = torch.multinomial(weights, max(1, int(np.prod(shape))), replacement=True)
    return palette[drawn[: int(np.prod(shape))]].reshape(shape)


def text_of(error):
    """The first line of an exception, without the C++ call stack."""
    return str(error).split("\n")[0]
