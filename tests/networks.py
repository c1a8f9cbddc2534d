"""Networks of published packages, for tests and benchmarks: name, input shape, and how to make them.

    pip install monai && pip install --no-deps pytorchcv

(pytorchcv names torchvision and requests among its requirements; the networks here do without.)
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Network:
    name: str
    package: str
    shape: tuple[int, ...]
    make: Callable[[], nn.Module]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make()


def _unet(dimensions: int) -> nn.Module:
    nets = importlib.import_module("monai.networks.nets")
    features = (8, 8, 16, 32, 64, 8)
    return nets.BasicUNet(spatial_dims=dimensions, in_channels=1, out_channels=2, features=features)


def _classifier(module: str, name: str) -> nn.Module:
    return getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)(num_classes=10)


NETWORKS = [
    Network("BasicUNet 2-d", "monai", (2, 1, 96, 96), lambda: _unet(2)),
    Network("BasicUNet 3-d", "monai", (1, 1, 32, 32, 32), lambda: _unet(3)),
    Network("ResNet-18", "pytorchcv", (1, 3, 224, 224), lambda: _classifier("resnet", "resnet18")),
    Network("SqueezeNet 1.1", "pytorchcv", (1, 3, 224, 224), lambda: _classifier("squeezenet", "squeezenet_v1_1")),
]
