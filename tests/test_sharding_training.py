"""Training in 2 and 4 processes against one: DDP, FSDP2, HSDP, DTensors, checkpointing, bfloat16, sharded volumes."""

import contextlib
import copy
import itertools
from collections import Counter

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import processes
import torch_maxpool
from torch_maxpool import sharding
from torch_maxpool.acceleration import accelerate, accepts
from torch_maxpool.sharding import Slabs

STEPS = 3
# "torch" stands for PyTorch's own, which accelerate() runs on these operators.
POOLS = {
    "modules": [torch_maxpool.MaxPool2d(3, 2, 1), torch_maxpool.MaxPool2d(2)],
    "functional": [lambda x: torch_maxpool.max_pool2d(x, 3, 2, 1), lambda x: torch_maxpool.max_pool2d(x, 2)],
    "torch": [lambda x: F.max_pool2d(x, 3, 2, 1), nn.MaxPool2d(2)],
    # Gradients of 16-bit floats summed in float32, as this package's functions sum them.
    "torch in float32": [
        lambda x: F.max_pool2d(x.float(), 3, 2, 1).to(x.dtype),
        lambda x: F.max_pool2d(x.float(), 2).to(x.dtype),
    ],
}


class Net(nn.Module):
    """Two convolutions, each pooled in its own way, and a linear layer."""

    def __init__(self, form, checkpointed):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8 * 3 * 3, 5)
        self.pools, self.checkpointed = POOLS[form], checkpointed

    def features(self, x):
        x = self.pools[0](self.first(x).relu())
        return self.pools[1](self.second(x).relu())

    def forward(self, x):
        x = checkpoint(self.features, x, use_reentrant=False) if self.checkpointed else self.features(x)
        return self.last(x.flatten(1))


def loss_of(output, target):
    return ((output - target) ** 2).mean()


def batch(step, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return draw(8, 3, 12, 12), draw(8, 5)


def mine(tensor):
    return tensor.chunk(dist.get_world_size())[dist.get_rank()]


def train(model, cut=lambda tensor: tensor, dtype=torch.float64):
    """The parameters after some steps, whole."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(STEPS):
        x, target = batch(step, dtype)
        optimizer.zero_grad()
        loss_of(model(cut(x)), cut(target)).backward()
        optimizer.step()
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def fresh(form="torch", checkpointed=False):
    torch.manual_seed(1)
    return Net(form, checkpointed).double()


def poolings(profile):
    """How often each operator of either library ran that has to do with pooling."""
    return Counter(event.name for event in profile.function_events if "pool" in event.name and "::" in event.name)


def every_form():
    """(form, a new net of it), checkpointed or not, for the steps of one training.

    accelerate() is on meanwhile for PyTorch's form. Raises unless all poolings of those steps ran on these operators.
    """
    for form, checkpointed in itertools.product(("modules", "functional", "torch"), (False, True)):
        scope = accelerate(quiet=True) if form == "torch" else contextlib.nullcontext()
        with scope, torch.autograd.profiler.profile() as profile:
            yield form, fresh(form, checkpointed)
        ran = poolings(profile)
        # A checkpointed pooling runs once more, in backward. DTensors count again for their parts.
        assert ran["torch_maxpool::maxpool_forward"] >= 2 * STEPS * (1 + checkpointed), (form, checkpointed, ran)
        assert ran["torch_maxpool::maxpool_backward"] > 0 == ran["aten::max_pool2d_with_indices"], (form, ran)


def compare(parameters, expected, **tolerance):
    for actual, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(actual, wanted.to(actual.dtype), **(tolerance or {"rtol": 1e-8, "atol": 1e-10}))


def meshes():
    """A line of all processes and, of 4, a square: FSDP2's and HSDP's."""
    world = dist.get_world_size()
    found = [init_device_mesh("cpu", (world,))]
    if world == 4:
        found.append(init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
    return found


@processes.check(2, 4)
def ddp():
    expected = train(fresh())
    for options in ({}, {"static_graph": True}):
        for _, net in every_form():
            compare(train(DistributedDataParallel(net, **options), mine), expected)


def fully_sharded(model, mesh, **options):
    for layer in (model.first, model.second, model.last):
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


@processes.check(2, 4)
def fsdp_and_hsdp():
    expected = train(fresh())
    for mesh in meshes():
        for _, net in every_form():
            compare(train(fully_sharded(net, mesh), mine), expected)


def mixed_steps(form):
    """The parameters after steps in one process that rounds where the bfloat16 policy does: part by part."""
    model = fresh(form).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    world = dist.get_world_size()
    for step in range(STEPS):
        x, target = batch(step, torch.float32)
        # Each part's gradient is rounded to bfloat16, then they are summed in float32.
        total = [torch.zeros_like(p) for p in model.parameters()]
        for part, wanted in zip(x.chunk(world), target.chunk(world), strict=True):
            half = {name: p.detach().bfloat16().requires_grad_() for name, p in model.named_parameters()}
            output = torch.func.functional_call(model, half, (part.bfloat16(),))
            grads = torch.autograd.grad(loss_of(output.float(), wanted), list(half.values()))
            total = [sum_ + grad.float() for sum_, grad in zip(total, grads, strict=True)]
        for p, grad in zip(model.parameters(), total, strict=True):
            p.grad = grad / world
        optimizer.step()
    return [p.detach() for p in model.parameters()]


@processes.check(2, 4)
def bfloat16_policy():
    """PyTorch's functions, accelerated, keep PyTorch's rounding of 16-bit gradients; this package's have their own."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    expected = {"torch": mixed_steps("torch")}
    expected["modules"] = expected["functional"] = mixed_steps("torch in float32")
    for mesh in meshes():
        for form, net in every_form():
            model = fully_sharded(net.float(), mesh, mp_policy=policy)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(STEPS):
                x, target = batch(step, torch.float32)
                optimizer.zero_grad()
                loss_of(model(mine(x)).float(), mine(target)).backward()
                optimizer.step()
            compare([p.full_tensor() for p in model.parameters()], expected[form], rtol=1e-6, atol=1e-7)


@processes.check(2, 4)
def dtensors():
    """Parameters on every process, the batch spread."""
    expected = train(fresh())
    (mesh, *_) = meshes()
    for _, net in every_form():
        model = distribute_module(net, mesh)
        compare(train(model, lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)])), expected)


@processes.check(2, 4)
def volumes_cut_into_slabs():
    """Pointwise layers between poolings: the whole step is made of slabs, only parameters' gradients are summed."""
    world = dist.get_world_size()

    class Volume(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.ModuleList([nn.Conv3d(2, 4, 1), nn.Conv3d(4, 4, 1)])

        def forward(self, x, pools):
            for mix, pool in zip(self.mix, pools, strict=True):
                x = pool(mix(x).relu())
            return x

    torch.manual_seed(2)
    whole = Volume().double()
    local = copy.deepcopy(whole)
    slabs = Slabs.of(-3, [7 + rank % 2 for rank in range(world)])
    windows = [(3, 2, 1), (2, 1)]
    chain = [slabs, slabs.pooled(3, *windows[0])]
    ours = [lambda x, i=i: sharding.max_pool3d(x, *windows[i], slabs=chain[i]) for i in range(2)]
    theirs = [lambda x, i=i: torch_maxpool.max_pool3d(x, *windows[i]) for i in range(2)]
    start = sum(slabs.sizes[: slabs.coordinate])
    optimizers = [torch.optim.Adam(model.parameters(), lr=1e-2) for model in (whole, local)]
    for step in range(STEPS):
        x = torch.randn(
            2, 2, sum(slabs.sizes), 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(step)
        )
        for optimizer in optimizers:
            optimizer.zero_grad()
        whole(x, theirs).square().sum().backward()
        slab = x.narrow(2, start, slabs.sizes[slabs.coordinate])
        # Recomputed in backward, with its exchange, in every second step.
        output = checkpoint(local, slab, ours, use_reentrant=False) if step % 2 else local(slab, ours)
        output.square().sum().backward()
        for p in local.parameters():
            dist.all_reduce(p.grad)
        for optimizer in optimizers:
            optimizer.step()
    compare([p.detach() for p in local.parameters()], list(whole.parameters()))


@processes.check(2, 4)
def accelerated():
    """PyTorch's own functions on these operators, where that is switched on: DTensors too."""
    (mesh, *_) = meshes()
    assert accepts(distribute_tensor(torch.zeros(2), mesh, [Replicate()]))
    pools = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
    with accelerate(quiet=True):
        for rank, shape in ((1, (4, 3, 9)), (2, (4, 3, 9, 8)), (3, (4, 2, 5, 6, 7))):
            x = torch.randn(shape, dtype=torch.float64)
            for placement in (Replicate(), *(Shard(dim) for dim in range(len(shape)))):
                whole = x.clone().requires_grad_()
                spread = distribute_tensor(x, mesh, [placement]).requires_grad_()
                expected, indices = pools[rank](whole, 3, 2, 1, return_indices=True)
                output, found = pools[rank](spread, 3, 2, 1, return_indices=True)
                values = pools[rank](spread.detach(), 3, 2, 1)
                # PyTorch's own would be gathered along spatial dimensions, and has no backward of 3-d pooling.
                assert output.placements == found.placements == values.placements == (placement,)
                for actual, wanted in ((output, expected), (found, indices), (values, expected)):
                    assert torch.equal(actual.full_tensor(), wanted)
                output.backward(output.detach())
                expected.backward(expected.detach())
                assert spread.grad.placements == (placement,)
                assert torch.equal(spread.grad.full_tensor(), whole.grad)


test_in_processes = processes.tests(__name__)
