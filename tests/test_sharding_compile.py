"""torch.compile of sharded pooling: whole graphs, no collectives for batch and channel shards, bits of one process."""

import torch
import torch.distributed as dist
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import processes
from common import OUR_POOL
from test_sharding_slabs import part
from torch_maxpool import sharding
from torch_maxpool.sharding import Slabs


class Graphs:
    """A backend of torch.compile that keeps the forward and backward graphs and runs them as they are."""

    def __init__(self):
        self.calls = []

    def __call__(self, module, inputs):
        return aot_autograd(fw_compiler=self._keep, bw_compiler=self._keep)(module, inputs)

    def _keep(self, module, inputs):
        self.calls += [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
        return make_boxed_func(module.forward)


def assert_equal(actual, expected):
    actual = actual.full_tensor() if isinstance(actual, DTensor) else actual
    assert actual.shape == expected.shape and torch.equal(actual, expected)


def compare(mesh, dim, step, compiled, shape):
    """`compiled` on a DTensor, with its gradient, against `step` on the whole tensor."""
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    spread = distribute_tensor(x.detach(), mesh, [Shard(dim)]).requires_grad_()
    expected, output = step(x), compiled(spread)
    assert output.placements == (Shard(dim),)
    assert_equal(output, expected)
    weight = torch.randn_like(expected)
    expected.backward(weight)
    output.backward(distribute_tensor(weight, mesh, [Shard(dim)]))
    assert spread.grad.placements == (Shard(dim),)
    assert_equal(spread.grad, x.grad)


def pool_2_to_1(x):
    return OUR_POOL[2](x * 2, 3, 2, 1) * 2


def pool_in_place(x):
    return OUR_POOL[2](x * 2, 3, 1, "same") * 2


@processes.check(2)
def dtensors():
    """One forward and one backward call in the graphs, nothing of torch.distributed; sizes may change."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for dim, steps in ((0, [pool_2_to_1]), (1, [pool_in_place]), (2, [pool_2_to_1, pool_in_place])):
        for step in steps:
            torch._dynamo.reset()
            backend = Graphs()
            compiled = torch.compile(step, fullgraph=True, backend=backend)
            compare(mesh, dim, step, compiled, (4, 6, 12, 10))
            name = "sharded" if dim >= 2 else "maxpool"
            for direction in ("forward", "backward"):
                assert backend.calls.count(f"torch_maxpool.{name}_{direction}.default") == 1, backend.calls
            compare(mesh, dim, step, compiled, (6, 4, 8, 14))
            assert not any("c10d" in call for call in backend.calls), backend.calls


@processes.check(2)
def inductor_with_its_cache():
    """A second compilation finds what the first one stored, of all processes: uneven parts, each needs its own."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for dim, shape in ((0, (3, 2, 8, 6)), (2, (2, 2, 9, 8))):
        for _ in range(2):
            torch._dynamo.reset()
            compare(mesh, dim, pool_2_to_1, torch.compile(pool_2_to_1, fullgraph=True), shape)
            dist.barrier()


@processes.check(2)
def slabs_of_plain_tensors():
    sizes = [7, 4]
    first = Slabs.of(-2, sizes)
    second = first.pooled(2, 3, 1, 1)

    def step(x):
        y = sharding.max_pool2d(x * 2, 3, 1, 1, slabs=first)
        return sharding.max_pool2d(y * 2, (3, 2), 2, 1, slabs=second) * 2

    def whole(x):
        return OUR_POOL[2](OUR_POOL[2](x * 2, 3, 1, 1) * 2, (3, 2), 2, 1) * 2

    last = [second.pooled(2, (3, 2), 2, 1)]
    for backend, batches in (("aot_eager", (2, 3, 4)), ("inductor", (2,))):
        torch._dynamo.reset()
        compiled = torch.compile(step, fullgraph=True, backend=backend)
        for batch in batches:
            x = torch.randn(batch, 3, sum(sizes), 9, dtype=torch.float64, requires_grad=True)
            local = part(x.detach(), [first]).clone().requires_grad_()
            expected, output = whole(x), compiled(local)
            assert_equal(output, part(expected, last))
            weight = torch.randn_like(expected)
            expected.backward(weight)
            output.backward(part(weight, last))
            assert_equal(local.grad, part(x.grad, [first]))
            with torch.no_grad():
                assert_equal(compiled(local), part(expected, last))


@processes.check(2)
def operators_keep_their_promises():
    """torch.library's own checks of schemas, fake kernels and autograd registrations."""
    slabs = Slabs.of(-2, [5, 4])
    arguments = ([3, 3], [2, 2], [1, 1], [1, 1], False, False, "explicit")
    layout = ([0], [2], [5, 4], [slabs.coordinate], [slabs.group], False)
    x = part(torch.randn(2, 3, 9, 7, dtype=torch.float64), [slabs]).clone().requires_grad_()
    ops = torch.ops.torch_maxpool
    output, offsets = ops.sharded_forward(x, *arguments, *layout)
    grad = torch.randn_like(output).requires_grad_()
    calls = [
        (ops.sharded_values, (x.detach(),)),
        (ops.sharded_forward, (x,)),
        (ops.sharded_backward, (grad, offsets, [9, 7])),
        (ops.sharded_gather, (x, offsets)),
        (ops.sharded_indices, (offsets, [9, 7])),
    ]
    for operator, tensors in calls:
        torch.library.opcheck(operator, (*tensors, *arguments, *layout))


test_in_processes = processes.tests(__name__)
