"""Max pooling of tensors that are spread over several processes, on torch.distributed.

Importing this module teaches DTensor the package's operators. ``torch_maxpool`` itself does not load torch.distributed.

Tensors that are no DTensors are pooled slab by slab with :func:`max_pool1d`, :func:`max_pool2d` and :func:`max_pool3d`
and a :class:`Slabs` that says who owns what.
"""

from __future__ import annotations

from torch_maxpool.sharding import handlers, rules
from torch_maxpool.sharding.exchange import Traffic, count_traffic
from torch_maxpool.sharding.functional import Slabs, max_pool1d, max_pool2d, max_pool3d

__all__ = ["Slabs", "Traffic", "count_traffic", "max_pool1d", "max_pool2d", "max_pool3d"]

rules.register()
handlers.register()
