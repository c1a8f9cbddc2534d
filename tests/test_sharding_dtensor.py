"""The operators on DTensors in 2 and 4 processes, against the same call on the whole tensor in one."""

import contextlib
import random
import unittest.mock
import warnings

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.utils._python_dispatch import TorchDispatchMode

import processes
from common import OPS, OUR_MODULE, OUR_POOL
from torch_maxpool import sharding
from torch_maxpool.sharding import handlers, operators, rules
from torch_maxpool.sharding.exchange import Exchange
from torch_maxpool.sharding.pooling import Layout, Pooling


def meshes():
    """A line of all processes and, of 4, a square."""
    world = dist.get_world_size()
    found = [init_device_mesh("cpu", (world,))]
    if world == 4:
        found.append(init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns")))
    return found


def assert_whole(actual: DTensor, expected, placements=None):
    """The same bits, and the strides that the whole tensor has."""
    if placements is not None:
        assert list(actual.placements) == list(placements), (actual.placements, placements)
    assert actual.shape == expected.shape and actual.stride() == expected.stride()
    assert actual.dtype == expected.dtype
    assert torch.equal(actual.full_tensor(), expected)


def derivatives(x, call):
    """Output, gradient and second derivative of a pooling, each asked for in a way that needs no communication."""
    output = call(x)
    (grad,) = torch.autograd.grad(output, x, 2 * output, create_graph=True)
    (second,) = torch.autograd.grad(grad, x, 3 * grad**2)
    return output, grad, second


def compare(mesh, placements, x, call, collectives=0):
    """`call` on the tensor spread by `placements` against the call on the whole, with its first two derivatives."""
    expected = derivatives(x.detach().requires_grad_(), call)
    spread = distribute_tensor(x.detach(), mesh, placements).requires_grad_()
    with CommDebugMode() as communication:
        actual = derivatives(spread, call)
    assert communication.get_total_counts() <= collectives, communication.get_comm_counts()
    for result, whole in zip(actual, expected, strict=True):
        assert_whole(result, whole, placements if collectives == 0 else None)


SHAPES = [
    ((4, 4, 8), 1),
    ((5, 9), 1),
    ((3, 5, 8, 9), 2),
    ((1, 4, 6, 6), 2),
    ((4, 8, 8), 2),
    ((4, 3, 6, 5, 6), 3),
    ((2, 6, 5, 6), 3),
]
# Two kernel sizes, strides and paddings on one shape: what DTensor keeps from one call must not serve another.
WINDOWS = [((2,), {}), ((3,), {"padding": 1, "stride": 2}), ((2,), {"stride": 1}), ((3,), {"stride": 1, "dilation": 2})]
WORDS = [((2,), {"stride": 1, "padding": word}) for word in ("valid", "same", "same_lower")]


@processes.check(2, 4)
def batch_and_channels():
    (mesh, *_) = meshes()
    for shape, rank in SHAPES:
        x = torch.randn(shape, dtype=torch.float64)
        for dim in range(len(shape) - rank):
            for args, keywords in WINDOWS + WORDS:
                compare(mesh, [Shard(dim)], x, lambda x: OUR_POOL[rank](x, *args, **keywords))  # noqa: B023


@processes.check(4)
def batch_and_channels_on_a_square():
    _, mesh = meshes()
    x = torch.randn(5, 6, 7, 8, dtype=torch.float64)
    for placements in ([Shard(0), Shard(1)], [Shard(1), Shard(0)], [Shard(0), Shard(0)], [Replicate(), Shard(1)]):
        for args, keywords in WINDOWS:
            compare(mesh, placements, x, lambda x: OUR_POOL[2](x, *args, **keywords))  # noqa: B023


@processes.check(2, 4)
def every_operator_by_itself():
    (mesh, *_) = meshes()
    x = torch.randint(-4, 5, (3, 4, 9, 8), dtype=torch.int16).float()
    window = ([3, 2], [2, 2], [1, 0], [1, 2], True)
    output, offsets = OPS.maxpool_forward(x, *window)
    grad = torch.randn_like(output)
    for dim in range(4):
        placements = [Shard(dim)]
        dx, dgrad = distribute_tensor(x, mesh, placements), distribute_tensor(grad, mesh, placements)
        with CommDebugMode() as communication:
            doutput, doffsets = OPS.maxpool_forward(dx, *window)
            values = OPS.maxpool_values(dx, *window)
            grad_input = OPS.maxpool_backward(dgrad, doffsets, [9, 8], *window)
            gathered = OPS.maxpool_gather(dx, doffsets, *window)
            indices = OPS.maxpool_indices(doffsets, [9, 8], *window)
        assert communication.get_total_counts() == 0
        assert_whole(doutput, output, placements)
        assert_whole(doffsets, offsets, placements)
        assert_whole(values, output, placements)
        assert_whole(grad_input, OPS.maxpool_backward(grad, offsets, [9, 8], *window), placements)
        assert_whole(gathered, OPS.maxpool_gather(x, offsets, *window), placements)
        assert_whole(indices, OPS.maxpool_indices(offsets, [9, 8], *window), placements)


@processes.check(2, 4)
def gradients_still_to_be_summed_pass_through():
    (mesh, *_) = meshes()
    x, window = torch.randn(2, 3, 8, 8, dtype=torch.float64), ([3, 3], [2, 2], [1, 1], [1, 1], False)
    _, offsets = OPS.maxpool_forward(x, *window)
    part = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    doffsets = distribute_tensor(offsets, mesh, [Replicate()])
    for reduction in ("sum", "avg"):
        with CommDebugMode() as communication:
            grad = DTensor.from_local(part, mesh, [Partial(reduction)])
            grad_input = OPS.maxpool_backward(grad, doffsets, [8, 8], *window)
            gathered = OPS.maxpool_gather(grad_input, doffsets, *window)
        assert communication.get_total_counts() == 0
        assert grad_input.placements[0] == gathered.placements[0] == Partial(reduction)
        assert torch.equal(grad_input.to_local(), OPS.maxpool_backward(part, offsets, [8, 8], *window))
    # A maximum of parts is not the part of a maximum: they are summed first.
    pooled = OUR_POOL[2](DTensor.from_local(x, mesh, [Partial()]), 2)
    torch.testing.assert_close(pooled.full_tensor(), OUR_POOL[2](x * mesh.size(), 2))
    # A gradient that comes in other placements than the offsets is moved to theirs.
    for placement in (Shard(0), Shard(2), Replicate()):
        for other in (Replicate(), Partial(), Shard(1), Shard(3)):
            spread = distribute_tensor(offsets, mesh, [placement])
            whole = part * mesh.size() if other == Partial() else part
            if other == Partial():
                grad = DTensor.from_local(part, mesh, [other])
            else:
                grad = distribute_tensor(part, mesh, [other])
            grad_input = OPS.maxpool_backward(grad, spread, [8, 8], *window)
            assert torch.equal(grad_input.full_tensor(), OPS.maxpool_backward(whole, offsets, [8, 8], *window))


@processes.check(4)
def gradients_to_be_summed_on_a_square():
    """Over the dimension of the mesh that the offsets, cut in space along the other, are the same on."""
    _, mesh = meshes()
    x, window = torch.randn(2, 3, 8, 8, dtype=torch.float64), ([3, 3], [2, 2], [1, 1], [1, 1], False)
    output, offsets = OPS.maxpool_forward(x, *window)
    spread = distribute_tensor(offsets, mesh, [Shard(2), Replicate()])
    part = distribute_tensor(output, mesh, [Shard(2), Replicate()]).to_local()
    grad = DTensor.from_local(part, mesh, [Shard(2), Partial()], shape=output.shape, stride=output.stride())
    grad_input = OPS.maxpool_backward(grad, spread, [8, 8], *window)
    assert list(grad_input.placements) == [Shard(2), Partial()]
    assert torch.equal(grad_input.full_tensor(), OPS.maxpool_backward(2 * output, offsets, [8, 8], *window))


@processes.check(4)
def processes_without_a_part():
    """A mesh of some processes: the others get empty results and are not waited for."""
    mesh = DeviceMesh("cpu", [0, 1])
    x = torch.randn(2, 3, 8, 8)
    for dim in (0, 2):
        output = OUR_POOL[2](distribute_tensor(x, mesh, [Shard(dim)]), 2)
        if dist.get_rank() < 2:
            assert_whole(output, OUR_POOL[2](x, 2), [Shard(dim)])
        else:
            assert output.to_local().numel() == 0


@processes.check(2, 4)
def one_dimension_in_space():
    (mesh, *_) = meshes()
    for shape, rank in SHAPES:
        x = torch.randn(shape, dtype=torch.float64)
        for dim in range(len(shape) - rank, len(shape)):
            for args, keywords in WINDOWS + WORDS:
                compare(mesh, [Shard(dim)], x, lambda x: OUR_POOL[rank](x, *args, **keywords))  # noqa: B023


def random_call(random_):
    """A pooling of any kind on a small tensor with many ties, and its output."""
    while True:
        rank = random_.choice([1, 2, 2, 3])
        batch = [random_.randint(1, 5)] * random_.randint(0, 1)
        shape = [*batch, random_.randint(1, 5), *(random_.randint(1, 14) for _ in range(rank))]
        kernel, dilation, stride = ([random_.randint(1, top) for _ in range(rank)] for top in (4, 3, 5))
        effective = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        padding = [random_.randrange(e) for e in effective + effective]
        if random_.random() < 0.3:
            padding = random_.choice(["same", "same_lower"])
        arguments = (kernel, stride, padding, dilation, random_.random() < 0.5)
        x = torch.randint(-3, 4, shape).double() if random_.random() < 0.5 else torch.randn(shape, dtype=torch.float64)
        if len(shape) == rank + 2 and rank > 1 and random_.random() < 0.3:
            x = x.contiguous(memory_format=torch.channels_last if rank == 2 else torch.channels_last_3d)
        try:
            OUR_POOL[rank](x, *arguments)
        except RuntimeError as error:
            assert "output size is too small" in str(error)
            continue
        return rank, x, arguments


@processes.check(2, 4)
def any_pooling_in_any_placement():
    """Batch, channels, one and two spatial dimensions, slabs without rows, halos over several neighbours."""
    random_ = random.Random(7)
    every = meshes()
    for _ in range(80):
        rank, x, arguments = random_call(random_)
        mesh = random_.choice(every)
        first = x.dim() - rank
        placements = [
            random_.choice([Replicate(), Shard(random_.randrange(x.dim())), Shard(random_.randrange(first, x.dim()))])
            for _ in range(mesh.ndim)
        ]
        # One spatial dimension cut twice is gathered along the second dimension of the mesh.
        twice = mesh.ndim == 2 and placements[0] == placements[1] != Replicate() and placements[0].dim >= first
        try:
            compare(mesh, placements, x, lambda x: OUR_POOL[rank](x, *arguments), 100 if twice else 0)  # noqa: B023
            output, indices = OUR_POOL[rank](x, *arguments, return_indices=True)
            spread = distribute_tensor(x, mesh, placements)
            found = OUR_POOL[rank](spread, *arguments, return_indices=True)
            assert_whole(found[0], output)
            assert_whole(found[1], indices)
            with torch.inference_mode():
                assert_whole(OUR_POOL[rank](spread, *arguments), output)
        except BaseException:
            print(x.shape, x.stride(), arguments, placements, flush=True)
            raise


@processes.check(2, 4)
def only_rows_travel():
    """In all dtypes; counted where the messages are handed to torch.distributed."""
    (mesh, *_) = meshes()
    world, sent = dist.get_world_size(), []
    original = dist.batch_isend_irecv

    def spy(operations):
        sent.extend(operation.tensor.numel() for operation in operations if operation.op is dist.isend)
        return original(operations)

    dist.batch_isend_irecv = spy
    try:
        for dtype in (
            torch.float64,
            torch.float32,
            torch.bfloat16,
            torch.float16,
            torch.uint8,
            torch.int64,
            torch.bool,
        ):
            x = torch.randint(0, 9, (2, 3, 16, 16)).to(dtype)
            spread = distribute_tensor(x, mesh, [Shard(2)])
            sent.clear()
            with sharding.count_traffic() as traffic:
                output = OUR_POOL[2](spread, 2)
            assert not sent and not traffic.bytes
            with sharding.count_traffic() as traffic:
                output = OUR_POOL[2](spread, 3, 2, 1)
            # One row passes each border, to the process after it.
            row = -(-2 * 3 * 16 * dtype.itemsize // 8) * 8
            assert sent == ([row] if dist.get_rank() < world - 1 else [])
            assert traffic == sharding.Traffic(sum(sent), len(sent))
            assert_whole(output, OUR_POOL[2](x, 3, 2, 1), [Shard(2)])
    finally:
        dist.batch_isend_irecv = original


@contextlib.contextmanager
def events():
    """A list of "begin" (messages are on their way), "wait" (for them), and kernels called, by the rows they read."""
    log = []
    begin, wait = Exchange.__init__, Exchange.wait

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if args and isinstance(args[0], torch.Tensor) and not args[0].is_meta and "maxpool_" in str(function):
                log.append(tuple(args[0].shape[2:]))
            return function(*args, **(kwargs or {}))

    def logged_begin(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        log.append("begin")

    def logged_wait(self):
        log.append("wait")
        return wait(self)

    Exchange.__init__, Exchange.wait = logged_begin, logged_wait
    try:
        with Log():
            yield log
    finally:
        Exchange.__init__, Exchange.wait = begin, wait


@processes.check(2, 4)
def the_interior_is_pooled_while_rows_travel():
    """What needs no neighbour is made before the wait. Called as functions: no mode looks into an operator."""
    rank, world = dist.get_rank(), dist.get_world_size()
    (mesh, *square) = meshes()
    pooling = Pooling((3, 3), (1,), (1,), (1,))
    layout = Layout((0,), (world,), (12,) * world, (rank,), (mesh.get_group().group_name,), True)
    with events() as log:
        output, offsets = operators._forward(torch.randn(1, 2, 12, 5), *pooling, *layout)
        operators._backward(output, offsets, [12 * world, 5], *pooling, *layout)
    borders = 1 if rank in (0, world - 1) else 2
    # The interior reads the slab; a border's row reads one of the neighbour's and two of this process's.
    assert log == 2 * ["begin", (12, 5), "wait", *[(3, 5)] * borders], log
    if square:
        (mesh,) = square
        groups = tuple(mesh.get_group(i).group_name for i in (0, 1))
        layout = Layout((0, 1), (2, 2), (12, 12, 10, 10), tuple(mesh.get_coordinate()), groups, True)
        with events() as log:
            output, offsets = operators._forward(torch.randn(1, 2, 12, 10), *pooling, *layout)
            operators._backward(output, offsets, [24, 20], *pooling, *layout)
        first, second = ["begin", (12, 10), "wait"], ["begin", (3, 10), "wait"]
        assert [event for event in log if event not in ((12, 3), (3, 3))] == 2 * (first + second), log
        assert log.count((12, 3)) == log.count((3, 3)) == 2 and log[6:8] in ([(12, 3), (3, 3)], [(3, 3), (12, 3)])


@processes.check(2, 4)
def modules():
    (mesh, *_) = meshes()
    for rank, shape in ((1, (2, 3, 21)), (2, (2, 3, 13, 9)), (3, (2, 2, 9, 5, 7))):
        x = torch.randn(shape, dtype=torch.float64)
        module = OUR_MODULE[rank](3, 2, 1)
        for dim in range(len(shape)):
            compare(mesh, [Shard(dim)], x, module.forward)  # hooks would upset CommDebugMode


@processes.check(2, alone=True)
def public_rules():
    """What is left without DTensor's private parts: rules by its public interface, spatial shards gathered."""
    (mesh, *_) = meshes()
    dispatcher = DTensor._op_dispatcher
    for op, _ in rules.ALL:
        del dispatcher._custom_op_handlers[op]
        del dispatcher.sharding_propagator.op_single_dim_strategy_funcs[op]
        del dispatcher.sharding_propagator.op_to_schema_info_for_single_dim_strategy[op]
    single_dim = rules._register_single_dim
    rules._register_single_dim = unittest.mock.Mock(side_effect=ImportError)
    rules.register()
    rules._register_single_dim = single_dim
    x = torch.randn(4, 6, 9, 8, dtype=torch.float64)
    for args, keywords in WINDOWS + WORDS:
        for dim in (0, 1):
            compare(mesh, [Shard(dim)], x, lambda x: OUR_POOL[2](x, *args, **keywords))  # noqa: B023
        compare(mesh, [Shard(2)], x, lambda x: OUR_POOL[2](x, *args, **keywords), 100)  # noqa: B023
    table = dispatcher.__dict__.pop("_custom_op_handlers")
    with warnings.catch_warnings(record=True) as caught:
        handlers.register()
    assert "shards will be gathered" in str(caught[0].message)
    dispatcher._custom_op_handlers = table


test_in_processes = processes.tests(__name__)
