"""What the benchmark measures: shapes of real networks and uses, and the figures to reach on them.

A figure is the time divided by that of a copy which moves as many bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = ("float32", "float64", "bfloat16", "float16", "uint8", "int8", "int16", "int32", "int64", "bool")
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Case:
    shape_name: str
    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool
    layout: str  # contiguous, channels_last or cropped
    dtype: str
    target: tuple[float, float] | None = None  # time / copy to reach: values only, with offsets
    chart: bool = False
    backward_target: float | None = None

    @property
    def name(self) -> str:
        layout = "" if self.layout == "contiguous" else f", {self.layout}"
        return f"{self.shape_name}{layout}, {self.dtype}"

    @property
    def rank(self) -> int:
        return len(self.shape) - 2

    @property
    def arguments(self) -> tuple:
        """kernel_size, stride, padding, dilation, ceil_mode"""
        return self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode

    @property
    def is_wide(self) -> bool:
        """Whether the padding is wider than PyTorch takes."""
        return any(2 * padding > kernel for padding, kernel in zip(self.padding, self.kernel, strict=True))

    def output_size(self) -> list[int]:
        """Spatial sizes of the output."""
        size, padding = list(self.shape[2:]), self.padding
        if self.is_wide:  # elements in place of padding
            size, padding = [n + 2 * p for n, p in zip(size, padding, strict=True)], 0
        meta = torch.empty((1, 1, *size), device="meta")
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[self.rank - 1]
        return list(pool(meta, self.kernel, self.stride, padding, self.dilation, self.ceil_mode).shape[2:])

    def input(self) -> Tensor:
        """Random numbers of the case's dtype and layout, the same at each call."""
        generator = torch.Generator().manual_seed(0)
        dtype = getattr(torch, self.dtype)
        # A crop leaves gaps between the rows of the tensor.
        shape = (*self.shape[:-1], self.shape[-1] + 8) if self.layout == "cropped" else self.shape
        if dtype.is_floating_point:
            x = torch.randn(shape, generator=generator).to(dtype)
        elif dtype == torch.bool:
            x = torch.randint(0, 2, shape, dtype=torch.uint8, generator=generator).bool()
        else:
            x = torch.randint(0, min(torch.iinfo(dtype).max, 1000), shape, dtype=dtype, generator=generator)
        if self.layout == "channels_last":
            x = x.contiguous(memory_format=CHANNELS_LAST[x.dim()])
        return x[..., 4:-4] if self.layout == "cropped" else x


def each(value: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else value


_F32, _BOTH = ("float32",), ("contiguous", "channels_last")
_ALL = DTYPES

# name, shape, kernel, stride, padding, dilation, ceil_mode, {layout: dtypes}
_SHAPES = [
    ("resnet50 stem, one image", (1, 64, 112, 112), 3, 2, 1, 1, False, dict.fromkeys(_BOTH, DTYPES[:1] + DTYPES[2:4])),
    (
        "resnet50 stem, batch 16",
        (16, 64, 112, 112),
        3,
        2,
        1,
        1,
        False,
        {"contiguous": _ALL, "channels_last": _ALL, "cropped": _F32},
    ),
    ("vgg16 pool1, one image", (1, 64, 224, 224), 2, 2, 0, 1, False, dict.fromkeys(_BOTH, ("float32", "bfloat16"))),
    (
        "vgg16 pool1, batch 8",
        (8, 64, 224, 224),
        2,
        2,
        0,
        1,
        False,
        {"contiguous": _ALL, "channels_last": ("float32", "bfloat16"), "cropped": _F32},
    ),
    ("vgg16 pool4, batch 8", (8, 512, 28, 28), 2, 2, 0, 1, False, dict.fromkeys(_BOTH, _F32)),
    ("squeezenet1.1 pool1, batch 8", (8, 64, 111, 111), 3, 2, 0, 1, True, dict.fromkeys(_BOTH, _F32)),
    ("alexnet pool1, batch 8", (8, 64, 55, 55), 3, 2, 0, 1, False, {"contiguous": _F32}),
    ("googlenet inception pool", (1, 192, 28, 28), 3, 1, 1, 1, True, dict.fromkeys(_BOTH, _F32)),
    ("googlenet pool2, batch 32", (32, 192, 56, 56), 3, 2, 0, 1, True, {"contiguous": _F32}),
    ("googlenet pool4, batch 32", (32, 832, 14, 14), 3, 2, 0, 1, True, {"contiguous": ("float32", "bfloat16")}),
    ("googlenet last pool, batch 32", (32, 832, 7, 7), 3, 1, 1, 1, True, {"contiguous": ("float32", "bfloat16")}),
    ("darts cell, batch 96", (96, 36, 32, 32), 3, 1, 1, 1, False, {"contiguous": ("float32", "bfloat16")}),
    ("inception-v3 grid, odd size", (4, 288, 35, 35), 3, 2, 0, 1, False, {"contiguous": _F32}),
    ("yolo SPPF", (1, 512, 20, 20), 5, 1, 2, 1, False, dict.fromkeys(_BOTH, ("float32", "bfloat16"))),
    ("yolo SPP 9", (1, 512, 20, 20), 9, 1, 4, 1, False, {"contiguous": _F32}),
    ("yolo SPP 13", (1, 512, 20, 20), 13, 1, 6, 1, False, {"contiguous": _F32}),
    ("u-net level 1", (1, 64, 512, 512), 2, 2, 0, 1, False, dict.fromkeys(_BOTH, _F32)),
    ("deepnet cifar10 cnn, batch 64", (64, 32, 32, 32), 2, 2, 0, 1, False, {"contiguous": DTYPES[:2]}),
    ("deepnet mnist cnn, batch 64", (64, 32, 28, 28), 2, 1, 0, 1, False, {"contiguous": DTYPES[:2]}),
    ("keypoint peak search (nms)", (1, 17, 256, 192), 3, 1, 1, 1, False, {"contiguous": _F32}),
    ("label mask dilation", (1, 1, 2048, 2048), 3, 1, 1, 1, False, {"contiguous": ("uint8", "bool")}),
    ("grey dilation 31", (1, 1, 2048, 2048), 31, 1, 15, 1, False, {"contiguous": ("float32", "uint8")}),
    ("grey dilation 99", (1, 1, 2048, 2048), 99, 1, 49, 1, False, {"contiguous": ("float32", "uint8")}),
    ("dilated window", (4, 64, 64, 64), 3, 1, 2, 2, False, {"contiguous": _F32}),
    ("wide window, unequal", (8, 32, 64, 128), (1, 4), (1, 4), 0, 1, False, {"contiguous": _F32}),
    ("global pool", (32, 1024, 7, 7), 7, 7, 0, 1, False, dict.fromkeys(_BOTH, _F32)),
    ("colour image", (8, 3, 512, 512), 3, 2, 1, 1, False, {"channels_last": ("float32", "uint8")}),
    ("3d u-net level 1", (1, 32, 64, 128, 128), 2, 2, 0, 1, False, dict.fromkeys(_BOTH, _F32)),
    ("i3d / 3d resnet stem", (1, 64, 16, 56, 56), 3, 2, 1, 1, False, dict.fromkeys(_BOTH, _F32)),
    ("c3d pool1", (1, 64, 16, 112, 112), (1, 2, 2), (1, 2, 2), 0, 1, False, {"contiguous": _F32}),
    ("audio, raw wave", (8, 64, 16000), 4, 4, 0, 1, False, {"contiguous": _F32}),
    ("text cnn", (32, 128, 512), 3, 1, 1, 1, False, {"contiguous": _F32}),
    ("tiny, latency", (1, 8, 8, 8), 2, 2, 0, 1, False, {"contiguous": _F32}),
]

# Figures to reach: time / copy, values only and with offsets, and the cases they hold for.
_2D_LAST, _RESNET, _VGG = ("channels_last", _F32), "resnet50 stem, batch 16", "vgg16 pool1, batch 8"
_PLAIN = ("contiguous", _F32)
_FAMILIES = {
    "2/2 beyond the cache": (1.2, 1.3, [(_VGG, *_PLAIN), ("u-net level 1", *_PLAIN), ("3d u-net level 1", *_PLAIN)]),
    "2/2 in cache": (1.4, 1.6, [("vgg16 pool1, one image", *_PLAIN), ("vgg16 pool4, batch 8", *_PLAIN)]),
    "3/2 beyond the cache": (1.6, 2, [(_RESNET, *_PLAIN)]),
    "3/2 in cache": (2, 3.2, [("resnet50 stem, one image", *_PLAIN)]),
    "3/1, planes of 28x28": (3.5, 6, [("googlenet inception pool", *_PLAIN)]),
    "2/1": (1.6, 1.9, [("deepnet mnist cnn, batch 64", *_PLAIN)]),
    "5/1, 20x20": (4.5, 8, [("yolo SPPF", *_PLAIN)]),
    "13/1, 20x20": (11, 17, [("yolo SPP 13", *_PLAIN)]),
    "31/1 and 99/1, 2048x2048": (
        3.5,
        12,
        [(f"grey dilation {k}", "contiguous", ("float32", "uint8")) for k in (31, 99)],
    ),
    "3/1, 2048x2048": (2, 3.2, [("label mask dilation", "contiguous", ("uint8", "bool"))]),
    "3-d 3/2": (3, 5, [("i3d / 3d resnet stem", *_PLAIN)]),
    "1-d 4/4": (1.15, 1.3, [("audio, raw wave", *_PLAIN)]),
    "1-d 3/1": (2, 3, [("text cnn", *_PLAIN)]),
    "channels_last beyond the cache": (
        1.15,
        1.25,
        [(_VGG, *_2D_LAST), ("u-net level 1", *_2D_LAST), (_RESNET, *_2D_LAST)],
    ),
    "bfloat16 3/2 beyond the cache": (1.6, 2.2, [(_RESNET, layout, ("bfloat16",)) for layout in _BOTH]),
}
TARGETS = {
    (name, layout, dtype): (values, offsets)
    for values, offsets, members in _FAMILIES.values()
    for name, layout, dtypes in members
    for dtype in dtypes
}

# Figures to reach by the backward, for the same cases in float32 but for some.
_BACKWARD = {
    "2/2 beyond the cache": 1.3,
    "2/2 in cache": 1.8,
    "3/2 beyond the cache": 2,
    "3/2 in cache": 3,
    "3/1, planes of 28x28": 7.5,
    "2/1": 3.3,
    "5/1, 20x20": 8,
    "13/1, 20x20": 10,
    "31/1 and 99/1, 2048x2048": 6,
    "3-d 3/2": 6,
    "1-d 4/4": 1.5,
    "1-d 3/1": 4,
    "channels_last beyond the cache": 1.6,
}
_NO_BACKWARD = ("vgg16 pool4, batch 8", "grey dilation 99")
BACKWARD_TARGETS = {
    (name, layout, "float32"): figure
    for family, figure in _BACKWARD.items()
    for name, layout, _ in _FAMILIES[family][2]
    if name not in _NO_BACKWARD
}

# The chart shows one case for each family, or two.
_CHART = {
    ("vgg16 pool1, batch 8", "contiguous", "float32"),
    ("vgg16 pool1, batch 8", "channels_last", "float32"),
    ("resnet50 stem, one image", "contiguous", "float32"),
    ("resnet50 stem, batch 16", "contiguous", "float32"),
    ("resnet50 stem, batch 16", "contiguous", "bfloat16"),
    ("resnet50 stem, batch 16", "channels_last", "bfloat16"),
    ("googlenet inception pool", "contiguous", "float32"),
    ("deepnet mnist cnn, batch 64", "contiguous", "float32"),
    ("yolo SPPF", "contiguous", "float32"),
    ("yolo SPP 13", "contiguous", "float32"),
    ("grey dilation 31", "contiguous", "float32"),
    ("label mask dilation", "contiguous", "uint8"),
    ("3d u-net level 1", "contiguous", "float32"),
    ("i3d / 3d resnet stem", "contiguous", "float32"),
    ("audio, raw wave", "contiguous", "float32"),
    ("text cnn", "contiguous", "float32"),
}


def named_cases() -> Iterator[Case]:
    for name, shape, kernel, stride, padding, dilation, ceil_mode, variants in _SHAPES:
        window = [each(value, len(shape) - 2) for value in (kernel, stride, padding, dilation)]
        for layout, dtypes in variants.items():
            for dtype in dtypes:
                key = (name, layout, dtype)
                targets = {"target": TARGETS.get(key), "backward_target": BACKWARD_TARGETS.get(key)}
                yield Case(name, shape, *window, ceil_mode, layout, dtype, chart=key in _CHART, **targets)


def random_cases(count: int, seed: int) -> Iterator[Case]:
    """Shapes, windows, dtypes and layouts that F.max_pool takes, up to some millions of elements."""
    pick = random.Random(seed)
    for i in range(count):
        rank = pick.choice((1, 2, 2, 2, 3))
        batch, channels = pick.choice((1, 1, 2, 8, 32)), pick.choice((1, 3, 4, 16, 17, 64, 130, 512))
        kernel = tuple(pick.choice((1, 2, 2, 3, 3, 3, 5, 7, 9 if rank < 3 else 4)) for _ in range(rank))
        dilation = tuple(pick.choice((1, 1, 1, 1, 2, 3)) for _ in range(rank))
        stride = tuple(pick.choice((1, 2, 2, 3, k)) for k in kernel)
        padding = tuple(pick.randint(0, k // 2) for k in kernel)
        elements = 2 ** pick.uniform(8, 23) / (batch * channels)
        size = tuple(
            max((k - 1) * d + 1, round(elements ** (1 / rank) * pick.uniform(0.5, 2)))
            for k, d in zip(kernel, dilation, strict=True)
        )
        dtype = pick.choice(DTYPES[:4] * 2 + (DTYPES if rank == 2 else ()))
        layout = pick.choice(_BOTH if rank > 1 else _BOTH[:1])
        sizes = "x".join(map(str, (batch, channels, *size)))
        window = zip("kspd", (kernel, stride, padding, dilation), strict=True)
        name = f"random {seed}.{i}: {sizes} " + " ".join(letter + "x".join(map(str, n)) for letter, n in window)
        shape, ceil_mode = (batch, channels, *size), pick.random() < 0.25
        yield Case(name, shape, kernel, stride, padding, dilation, ceil_mode, layout, dtype)
