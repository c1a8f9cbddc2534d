"""Training: what is kept for backward and for how long, and everything that training code does with autograd's graph.

Every gradient is compared with the one that F.max_pool*d gives in its place, bit for bit.
"""

import gc
import math
import weakref
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import default_partition
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from benchmarks.memory import kept_bytes, kept_tensors, peak_bytes
from common import CHANNELS_LAST, OPS, OUR_POOL, TORCH_POOL

POOLS = {"ours": OUR_POOL[2], "torch": TORCH_POOL[2]}
CONVOLUTION = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
KINDS = {"2/2": (2,), "3/2": (3, 2, 1), "3/1": (3, 1, 1)}
every_kind = pytest.mark.parametrize("window", KINDS.values(), ids=KINDS.keys())


class Network(torch.nn.Module):
    """Two times convolution and pooling. A convolution keeps its input alone, so that of the pooling is kept by no one
    else."""

    def __init__(self, rank, pool, window):
        super().__init__()
        self.first = CONVOLUTION[rank](3, 8, 3, padding=1)
        self.second = CONVOLUTION[rank](8, 5, 3, padding=1)
        self.pool, self.window = pool, window

    def block(self, layer, x):
        return self.pool(layer(x), *self.window)

    def forward(self, x):
        return self.block(self.second, self.block(self.first, x))


def networks(rank, window=(3, 2, 1)):
    """The same network with this package's pooling and with PyTorch's, and an input."""
    ours, theirs = Network(rank, OUR_POOL[rank], window), Network(rank, TORCH_POOL[rank], window)
    theirs.load_state_dict(ours.state_dict())
    size = {1: (40,), 2: (18, 20), 3: (8, 10, 9)}[rank]
    return ours, theirs, torch.randn(2, 3, *size, requires_grad=True)


def gradients(network, x):
    """Of the input and all parameters; they are taken away."""
    grads = [tensor.grad for tensor in (x, *network.parameters())]
    for tensor in (x, *network.parameters()):
        tensor.grad = None
    assert all(grad is not None for grad in grads)
    return grads


def assert_equal_gradients(actual, expected):
    assert len(actual) == len(expected)
    for mine, theirs in zip(actual, expected, strict=True):
        assert torch.equal(mine, theirs)


def plain_gradients(network, x):
    network(x).square().sum().backward()
    return gradients(network, x)


# What is kept


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_kept_by_a_layer(rank, window, dtype):
    x = torch.randn(2, 4, *[12] * rank).to(dtype).requires_grad_()
    output = OUR_POOL[rank](x, *window)
    assert kept_bytes(lambda: OUR_POOL[rank](x, *window)) == output.numel()
    expected = x.nbytes + 8 * output.numel()
    assert kept_bytes(lambda: TORCH_POOL[rank](x, *window)) == expected


@pytest.mark.parametrize(("kernel", "dtype"), [(256, torch.uint8), (257, torch.int32)])
def test_kept_offsets_are_bytes_up_to_256_taps(kernel, dtype):
    x = torch.randn(2, 4, 600, requires_grad=True)
    (offsets,) = kept_tensors(lambda: OUR_POOL[1](x, kernel, 2))
    assert offsets.dtype == dtype
    assert offsets.shape == OUR_POOL[1](x, kernel, 2).shape


@pytest.mark.parametrize("name", POOLS)
def test_the_input_is_freed_after_forward(name):
    """Where nothing else needs it. PyTorch's pooling shows that the test would see it if it were kept."""
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    activation = x * 2
    memory = weakref.ref(activation)
    output = POOLS[name](activation, 2)
    del activation
    gc.collect()
    assert (memory() is None) == (name == "ours")
    output.sum().backward()


@every_kind
def test_a_network_keeps_offsets_in_place_of_activations(rank, window):
    ours, theirs, x = networks(rank, window)
    kept = kept_tensors(lambda: ours(x), ours.parameters())
    first = ours.block(ours.first, x)
    second = ours.block(ours.second, first)
    # Inputs of the convolutions; where the poolings won.
    expected = [(torch.float32, x.shape), (torch.uint8, first.shape)]
    expected += [(torch.float32, first.shape), (torch.uint8, second.shape)]
    assert sorted(map(str, expected)) == sorted(str((tensor.dtype, tensor.shape)) for tensor in kept)
    activations = ours.first(x).nbytes + ours.second(first).nbytes
    saved = activations + 7 * (first.numel() + second.numel())
    assert kept_bytes(lambda: theirs(x), theirs.parameters()) - kept_bytes(lambda: ours(x), ours.parameters()) == saved


@pytest.mark.parametrize("blocks", [2, 4])
def test_peak_memory_of_a_training_step(blocks):
    """Every allocation of a step counted, workspaces of the convolutions included. The sizes stay, so activations are
    all alike: `size` bytes."""
    x = torch.randn(2, 16, 48, 48)
    size = x.nbytes

    def peak(pool):
        layers = [torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(blocks)]

        def step():
            y = x
            for layer in layers:
                y = pool(layer(y), 3, 1, 1)
            y.square().sum().backward()

        step()  # gradients of the parameters are allocated
        peaks = {peak_bytes(step) for _ in range(2)}
        assert len(peaks) == 1
        return peaks.pop()

    ours, theirs = peak(OUR_POOL[2]), peak(TORCH_POOL[2])
    # Of each pooling PyTorch keeps the input and indices of 8 bytes, ours offsets of 1 byte. Early in backward, at the
    # peak, that counts for all but the last, whose input is at work in both.
    assert theirs - ours >= 0.99 * (blocks - 1) * (size + 7 * size / 4)
    assert ours < 0.6 * theirs


@pytest.mark.parametrize("rank", [2, 3])
def test_offsets_kept_of_channels_last(rank):
    x = torch.randn(2, 8, *[10] * rank).contiguous(memory_format=CHANNELS_LAST[rank]).requires_grad_()
    (offsets,) = kept_tensors(lambda: OUR_POOL[rank](x, 3, 2, 1))
    assert offsets.is_contiguous(memory_format=CHANNELS_LAST[rank])
    assert offsets.nbytes == offsets.numel() == math.prod(OUR_POOL[rank](x, 3, 2, 1).shape)


def test_nothing_is_kept_without_a_gradient():
    x = torch.randn(2, 3, 8, 8)
    assert kept_tensors(lambda: OUR_POOL[2](x, 2)) == []
    recorded = x.clone().requires_grad_()
    with torch.no_grad():
        assert kept_tensors(lambda: OUR_POOL[2](recorded, 2)) == []
    # Nor are offsets made: the output is all that is allocated.
    assert peak_bytes(lambda: OUR_POOL[2](x, 2)) == 4 * 2 * 3 * 4 * 4
    assert peak_bytes(lambda: OUR_POOL[2](recorded, 2)) == 5 * 2 * 3 * 4 * 4


# torch.compile


def compiled_graphs(function, x, partition, dynamic=False):
    """The forward and backward graphs that torch.compile makes of `function`, and the gradient of x by them."""
    torch._dynamo.reset()
    graphs = {}

    def keep(name):
        def compiler(graph, inputs):
            graphs[name] = graph
            return make_boxed_func(graph.forward)

        return compiler

    backend = aot_autograd(fw_compiler=keep("forward"), bw_compiler=keep("backward"), partition_fn=partition)
    torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)(x).square().sum().backward()
    return graphs["forward"], graphs["backward"]


def passed_tensors(backward):
    """(dtype, shape) of the tensors that a backward graph takes, without the gradients of outputs."""
    taken = [node for node in backward.graph.nodes if node.op == "placeholder" and "tangents" not in node.name]
    values = [node.meta["val"] for node in taken]
    return [(value.dtype, tuple(value.shape)) for value in values if isinstance(value, torch.Tensor)]


PARTITIONS = {"default": default_partition, "min_cut": min_cut_rematerialization_partition}
every_partition = pytest.mark.parametrize("partition", PARTITIONS.values(), ids=PARTITIONS.keys())


@every_partition
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_layer_passes_offsets_only(rank, partition, dynamic):
    ours, theirs = (torch.randn(2, 3, *range(8, 8 + rank), requires_grad=True) for _ in range(2))
    theirs.data.copy_(ours)
    _, backward = compiled_graphs(lambda x: OUR_POOL[rank](x, 3, 2, 1), ours, partition, dynamic)
    ((dtype, shape),) = passed_tensors(backward)
    assert dtype == torch.uint8
    if not dynamic:
        assert shape == OUR_POOL[rank](ours, 3, 2, 1).shape
    assert "maxpool_backward" in backward.code
    TORCH_POOL[rank](theirs, 3, 2, 1).square().sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


@every_partition
def test_compiled_network_passes_no_activation_of_pooling(rank, partition):
    ours, theirs, x = networks(rank)
    expected = plain_gradients(theirs, x)
    _, backward = compiled_graphs(ours, x, partition)
    assert_equal_gradients(gradients(ours, x), expected)
    first = ours.block(ours.first, x)
    passed = passed_tensors(backward)
    assert [shape for dtype, shape in passed if dtype == torch.uint8] == [first.shape, ours(x).shape]
    pooled = [tuple(ours.first(x).shape), tuple(ours.second(first).shape)]
    assert not any(shape in pooled for dtype, shape in passed)


# What training code does with the graph


@pytest.mark.parametrize("use_reentrant", [False, True])
@every_kind
def test_activation_checkpointing(rank, window, use_reentrant):
    ours, theirs, x = networks(rank, window)
    expected = plain_gradients(theirs, x)
    hidden = checkpoint(ours.block, ours.first, x, use_reentrant=use_reentrant)
    checkpoint(ours.block, ours.second, hidden, use_reentrant=use_reentrant).square().sum().backward()
    assert_equal_gradients(gradients(ours, x), expected)


def test_selective_checkpointing_may_save_offsets():
    """The forward operator is one that a policy can name: what it made is then not computed again."""
    calls = []

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls.append(function)
            return function(*args, **(kwargs or {}))

    def contexts():
        return create_selective_checkpoint_contexts([OPS.maxpool_forward.default])

    ours, theirs, x = networks(2)
    expected = plain_gradients(theirs, x)
    for options, forwards in (({}, 4), ({"context_fn": contexts}, 2)):
        calls.clear()
        with Counting():
            checkpoint(ours, x, use_reentrant=False, **options).square().sum().backward()
        assert calls.count(OPS.maxpool_forward.default) == forwards
        assert_equal_gradients(gradients(ours, x), expected)


@every_kind
def test_save_on_cpu(rank, window):
    ours, theirs, x = networks(rank, window)
    expected = plain_gradients(theirs, x)
    with save_on_cpu():
        output = ours(x)
    output.square().sum().backward()
    assert_equal_gradients(gradients(ours, x), expected)


def test_offsets_may_be_packed_by_hooks():
    """Hooks may give another tensor back, of other strides: offsets go through them like any saved tensor."""
    ours, theirs, x = networks(2)
    expected = plain_gradients(theirs, x)

    def pack(tensor):
        return tensor.clone().movedim(0, -1).contiguous()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.movedim(-1, 0)):
        output = ours(x)
    for mine, other in zip(torch.autograd.grad(output.square().sum(), ours.parameters()), expected[1:], strict=True):
        torch.testing.assert_close(mine, other)  # of other strides, the convolution adds in another order


def test_gradient_accumulation(rank):
    ours, theirs, x = networks(rank)
    for network in (ours, theirs):
        for part in x.split(1):
            network(part).square().sum().backward()
    # x's gradient holds both networks' sums: only parameters are compared.
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


def test_retain_graph(rank):
    ours, theirs, x = networks(rank)
    results = []
    for network in (ours, theirs):
        loss = network(x).square().sum()
        loss.backward(retain_graph=True)
        once = [parameter.grad.clone() for parameter in network.parameters()]
        loss.backward()
        for parameter, single in zip(network.parameters(), once, strict=True):
            assert torch.equal(parameter.grad, 2 * single)
        results.append(gradients(network, x))
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()
    assert_equal_gradients(*results)


@pytest.mark.parametrize("retain_graph", [False, True])
def test_offsets_are_freed_by_backward(retain_graph):
    kept = []

    class Box:
        def __init__(self, tensor):
            self.tensor = tensor
            kept.append(weakref.ref(self))

    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.tensor):
        output = OUR_POOL[2](x, 2)
    output.backward(torch.ones_like(output), retain_graph=retain_graph)
    gc.collect()
    assert len(kept) == 1
    assert (kept[0]() is not None) == retain_graph


def test_inference_mode(rank):
    ours, theirs, x = networks(rank)
    expected = plain_gradients(theirs, x)
    with torch.inference_mode():
        evaluated = ours(x)
        assert kept_tensors(lambda: ours(x)) == []
        assert evaluated.is_inference()
        assert torch.equal(evaluated, theirs(x))
        made_inside = torch.randn_like(x)
    # Such tensors carry no gradient, and can be pooled outside as well.
    assert torch.equal(OUR_POOL[rank](made_inside, 2), TORCH_POOL[rank](made_inside, 2))
    assert_equal_gradients(plain_gradients(ours, x), expected)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("what", ["input", "output"])
def test_changes_in_place_after_forward(name, what):
    """The output may change with both. The input may change with ours only: PyTorch's needs it and says so."""
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    expected = torch.autograd.grad(F.max_pool2d(x * 1, 3, 2).mul(3).sum(), x)[0]
    activation = x * 1
    output = POOLS[name](activation, 3, 2)
    if what == "input":
        activation.neg_().add_(7)
        loss = output.mul(3).sum()
    else:
        loss = output.mul_(3).sum()
    refused = name == "torch" and what == "input"
    with pytest.raises(RuntimeError, match="modified by an inplace operation") if refused else nullcontext():
        loss.backward()
        assert torch.equal(x.grad, expected)


def test_relu_in_place_before_and_after(rank):
    results = []
    for pool in (OUR_POOL[rank], TORCH_POOL[rank]):
        torch.manual_seed(1)
        x = torch.randn(2, 3, *[9] * rank, requires_grad=True)
        F.relu_(pool(F.relu_(x * 1), 3, 2, 1)).square().sum().backward()
        results.append(x.grad)
    assert torch.equal(*results)


def test_training_lowers_the_loss_by_the_same_steps(rank):
    losses = {}
    ours, theirs, x = networks(rank)
    for name, network in (("ours", ours), ("torch", theirs)):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        losses[name] = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = F.mse_loss(network(x.detach()), torch.ones(()).expand_as(network(x)))
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    assert losses["ours"] == losses["torch"]
    assert losses["ours"][-1] < losses["ours"][0]
