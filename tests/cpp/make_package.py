"""Writes an AOTInductor package of a model that pools, and eager Python's answers to it: make_package.py DIRECTORY.

``pools.pt2`` takes a float32 tensor ``[N, 3, H, W]`` of any batch and spatial sizes. ``answers.pt`` is a list of
``(input, [outputs])`` for several of them.
"""

import sys
from pathlib import Path

import torch

import torch_maxpool

SHAPES = [(2, 3, 17, 19), (1, 3, 31, 8), (5, 3, 64, 48)]


class Pools(torch.nn.Module):
    """Every number of dimensions, "same" and unequal padding, indices, exact tiling, the operators."""

    def forward(self, x):
        same = torch_maxpool.max_pool2d(x, 3, 2, padding="same")
        values, indices = torch_maxpool.max_pool2d(x, 2, 1, [(0, 1), (1, 1)], return_indices=True)
        lines = torch_maxpool.max_pool1d(values.flatten(0, 1), 4, padding="same_lower", dilation=2)
        volumes = torch_maxpool.max_pool3d(x.relu(), (3, 1, 1), exact=True)
        output, offsets = torch.ops.torch_maxpool.maxpool_forward(x, [2, 2], [2, 2], ceil_mode=True)
        return same, values, indices, lines, volumes, output, offsets


def write(directory):
    torch.manual_seed(0)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model = Pools().eval()
    dynamic = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        model, (torch.randn(SHAPES[0]),), dynamic_shapes=([dynamic, None, dynamic, dynamic],)
    )
    torch._inductor.aoti_compile_and_package(exported, package_path=str(directory / "pools.pt2"))
    inputs = [torch.randn(shape) for shape in SHAPES]
    torch.save([(tensor, list(model(tensor))) for tensor in inputs], directory / "answers.pt")


if __name__ == "__main__":
    write(sys.argv[1])
