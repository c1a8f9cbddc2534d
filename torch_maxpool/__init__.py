"""Max pooling for PyTorch in C++: 1-d, 2-d and 3-d, every dtype and layout, compact saved state, exact tiling.

>>> import torch, torch_maxpool
>>> torch_maxpool.max_pool2d(torch.arange(16.0).view(1, 1, 4, 4), 2)
tensor([[[[ 5.,  7.],
          [13., 15.]]]])

The operators are also at ``torch.ops.torch_maxpool``: ``maxpool_forward``, ``maxpool_values``, ``maxpool_backward``,
``maxpool_gather``, ``maxpool_indices``.
"""

from torch_maxpool import _library  # noqa: F401  registers the operators, or says why it cannot
from torch_maxpool import onnx as _onnx  # noqa: F401  registers what torch.onnx.export makes of them
from torch_maxpool import transforms as _transforms  # noqa: F401  registers their batching rules
from torch_maxpool.acceleration import accelerate, convert, is_accelerated, restore
from torch_maxpool.functional import max_pool1d, max_pool2d, max_pool3d
from torch_maxpool.modules import MaxPool1d, MaxPool2d, MaxPool3d
from torch_maxpool.tutorial import Maxpool

__version__ = "0.1.0"

__all__ = [
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Maxpool",
    "__version__",
    "accelerate",
    "convert",
    "is_accelerated",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "restore",
]
