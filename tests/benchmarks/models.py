"""Networks with max pooling, each with the pooling function as an argument, and the inputs they are measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Pool(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *arguments: object) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.arguments)


def convolution(before: int, after: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(before, after, kernel, stride, padding), nn.ReLU(inplace=True)]


def tutorial_mnist(pool: Callable[..., Tensor]) -> nn.Module:
    return nn.Sequential(*convolution(1, 32), Pool(pool, 2, 1), nn.Flatten(), nn.LazyLinear(10))


def tutorial_cifar(pool: Callable[..., Tensor]) -> nn.Module:
    blocks = [*convolution(3, 32), Pool(pool, 2, 2), *convolution(32, 32), Pool(pool, 2, 2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 10))


def vgg11(pool: Callable[..., Tensor]) -> nn.Module:
    """The features of VGG-11."""
    layers, before = [], 3
    for step in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
        if step == "pool":
            layers.append(Pool(pool, 2, 2))
        else:
            layers += convolution(before, step)
            before = step
    return nn.Sequential(*layers)


class Fire(nn.Module):
    """SqueezeNet's block: 1x1 down, then 1x1 and 3x3 side by side."""

    def __init__(self, before: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(*convolution(before, squeezed, 1, padding=0))
        self.one = nn.Sequential(*convolution(squeezed, expanded, 1, padding=0))
        self.three = nn.Sequential(*convolution(squeezed, expanded))

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.one(x), self.three(x)], 1)


def squeezenet(pool: Callable[..., Tensor]) -> nn.Module:
    """The features of SqueezeNet 1.1."""

    def down() -> Pool:
        return Pool(pool, 3, 2, 0, 1, True)

    return nn.Sequential(
        *convolution(3, 64, 3, 2, 0),
        down(),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        down(),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        down(),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )


class UNet(nn.Module):
    """Three levels down and up, from 32 channels."""

    def __init__(self, pool: Callable[..., Tensor]) -> None:
        super().__init__()
        widths = (32, 64, 128)
        self.down = nn.ModuleList(self.double(a, b) for a, b in zip((1, *widths), (*widths, 256), strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * n, n, 2, 2) for n in reversed(widths))
        self.joined = nn.ModuleList(self.double(2 * n, n) for n in reversed(widths))
        self.last = nn.Conv2d(32, 2, 1)
        self.pool = Pool(pool, 2, 2)

    @staticmethod
    def double(before: int, after: int) -> nn.Module:
        return nn.Sequential(*convolution(before, after), *convolution(after, after))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in self.down[:-1]:
            skips.append(level(x))
            x = self.pool(skips[-1])
        x = self.down[-1](x)
        for up, joined in zip(self.up, self.joined, strict=True):
            x = joined(torch.cat([skips.pop(), up(x)], 1))
        return self.last(x)


class SPPF(nn.Module):
    """YOLO's spatial pyramid: three poolings 5/1 in a chain, all joined."""

    def __init__(self, pool: Callable[..., Tensor]) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(1024, 512, 1, bias=False), nn.BatchNorm2d(512), nn.SiLU())
        self.after = nn.Sequential(nn.Conv2d(2048, 1024, 1, bias=False), nn.BatchNorm2d(1024), nn.SiLU())
        self.pool = Pool(pool, 5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.before(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.after(torch.cat(parts, 1))


@dataclass(frozen=True)
class Model:
    name: str
    build: Callable[[Callable[..., Tensor]], nn.Module]
    shape: tuple[int, int, int, int]
    multiple: int = 1  # of which the image's sizes must be multiples
    least: int = 1  # smallest image

    def input(self, scale: float) -> Tensor:
        """A batch of images of `scale` times the size."""
        step = self.multiple
        sizes = [max(self.least, round(n * scale / step) * step) for n in self.shape[2:]]
        return torch.randn(*self.shape[:2], *sizes, generator=torch.Generator().manual_seed(0))


MODELS = (
    Model("deepnet mnist cnn, batch 64", tutorial_mnist, (64, 1, 28, 28), least=2),
    Model("deepnet cifar10 cnn, batch 64", tutorial_cifar, (64, 3, 32, 32), 4, 4),
    Model("vgg11 features, batch 4", vgg11, (4, 3, 224, 224), 32, 32),
    Model("squeezenet1.1 features, batch 8", squeezenet, (8, 3, 224, 224), least=32),
    Model("u-net, one image", UNet, (1, 1, 256, 256), 8, 8),
    Model("yolo SPPF block, one image", SPPF, (1, 1024, 20, 20), least=2),
)
