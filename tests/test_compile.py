"""torch.compile, torch.export, and what both stand on: meta and fake tensors like the CPU's."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from common import (
    DTYPES,
    FLOATS,
    OUR_MODULE,
    OUR_POOL,
    assert_same,
    every_case,
)

PADDINGS = {"int": 1, "unequal": "unequal", "valid": "valid", "same": "same", "same_lower": "same_lower"}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


def padding_of(name, rank):
    return [1] * rank + [0] * rank if name == "unequal" else PADDINGS[name]


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def check(compiled, eager, tensor):
    ours, theirs = tensor.clone().requires_grad_(), tensor.clone().requires_grad_()
    actual, expected = outputs(compiled(ours)), outputs(eager(theirs))
    for mine, plain in zip(actual, expected, strict=True):
        assert_same(mine, plain)
        assert mine.stride() == plain.stride()
    grad = torch.randn_like(actual[0])
    actual[0].backward(grad)
    expected[0].backward(grad)
    assert_same(ours.grad, theirs.grad)


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
def test_compile(rank, padding, return_indices):
    def eager(x):
        return OUR_POOL[rank](x, 3, 2, padding_of(padding, rank), return_indices=return_indices)

    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager", dynamic=False)
    check(compiled, eager, torch.randn(2, 3, *[7] * rank))
    check(compiled, eager, torch.randn(3, *[6] * rank))


@pytest.mark.parametrize("padding", PADDINGS)
def test_compile_for_any_size(rank, padding):
    """One graph serves every size: were one baked in, the second call would compile again, which is an error here."""

    def eager(x):
        return OUR_POOL[rank](x, 3, 2, padding_of(padding, rank))

    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager", dynamic=True)
    # Sizes that are all different: the compiler takes equal ones to be one variable.
    check(compiled, eager, torch.randn(2, 3, *range(7, 7 + rank)))
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in (8, 11, 16):
            check(compiled, eager, torch.randn(4, 5, *range(size, size + rank)))


@pytest.mark.parametrize("name", ["maxpool_forward", "maxpool_values"])
@every_case()
def test_compile_the_operators(case, name):
    def eager(x):
        return (case.forward if name == "maxpool_forward" else case.values)(x)

    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    check(compiled, eager, case.input(torch.float32))


def test_compiled_graph_keeps_offsets_only():
    kept = []

    def backend(graph, inputs):
        return graph

    def pack(tensor):
        kept.append((tensor.dtype, tuple(tensor.shape)))
        return tensor

    tensor = torch.randn(2, 3, 8, 8, requires_grad=True)
    compiled = torch.compile(lambda x: OUR_POOL[2](x, 2), fullgraph=True, backend="aot_eager")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compiled(tensor).sum().backward()
    assert set(kept) == {(torch.uint8, (2, 3, 4, 4))}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("return_indices", [False, True])
def test_export_with_dynamic_sizes(rank, padding, return_indices):
    module = OUR_MODULE[rank](3, 2, padding_of(padding, rank), return_indices=return_indices)
    sizes = [torch.export.Dim.DYNAMIC] * (rank + 2)
    exported = torch.export.export(module, (torch.randn(2, 3, *[9] * rank),), dynamic_shapes=(sizes,))
    assert "torch_maxpool" in str(exported.graph)
    for shape in ((4, 5, *range(7, 7 + rank)), (2, 2, *[20] * rank)):
        tensor = torch.randn(shape)
        for mine, plain in zip(outputs(exported.module()(tensor)), outputs(module(tensor)), strict=True):
            assert_same(mine, plain)


def test_export_keeps_exact():
    module = OUR_MODULE[2](2, exact=True)
    exported = torch.export.export(module, (torch.randn(2, 3, 8, 8),))
    assert_same(exported.module()(torch.ones(2, 3, 8, 8)), torch.ones(2, 3, 4, 4))
    assert "exact: True" in str(exported.graph)


def alike(mine, plain):
    assert mine.shape == plain.shape
    assert mine.dtype == plain.dtype
    assert mine.stride() == plain.stride()


@pytest.mark.parametrize("kind", ["meta", "fake"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_case()
def test_abstract_tensors(case, dtype, kind):
    real = case.input(dtype)
    output, offsets = case.forward(real)
    fake = FakeTensorMode()
    abstract = (lambda t: t.to("meta")) if kind == "meta" else fake.from_tensor
    # .to("meta") and from_tensor keep strides.
    tensor, places = abstract(real), abstract(offsets)
    assert tensor.stride() == real.stride()
    for mine, plain in zip(case.forward(tensor), (output, offsets), strict=True):
        alike(mine, plain)
    alike(case.values(tensor), case.values(real))
    alike(case.indices(places), case.indices(offsets))
    alike(case.gather(tensor, places), case.gather(real, offsets))
    if dtype in FLOATS:
        alike(case.backward(abstract(output), places), case.backward(output, offsets))


@pytest.mark.parametrize(
    "shape", [(2, 3, 2, 2), (2, 1, 4, 4), (2, 3, 1, 1), (1, 1, 2, 2), (2, 3, 2, 2, 2), (2, 1, 2, 4, 2)]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_meta_strides_where_formats_are_ambiguous(shape, channels_last):
    rank = len(shape) - 2
    real = torch.randn(shape)
    if channels_last:
        real = real.contiguous(memory_format=torch.channels_last if rank == 2 else torch.channels_last_3d)
    kernel = [min(2, shape[-1])] * rank
    rest = (kernel, kernel, [0], [1], False)
    ops = torch.ops.torch_maxpool

    def everything(tensor):
        output, offsets = ops.maxpool_forward(tensor, kernel)
        return (
            output,
            offsets,
            ops.maxpool_values(tensor, kernel),
            ops.maxpool_indices(offsets, shape[2:], *rest),
            ops.maxpool_gather(tensor, offsets, *rest),
            ops.maxpool_backward(output, offsets, shape[2:], *rest),
        )

    for mine, plain in zip(everything(real.to("meta")), everything(real), strict=True):
        alike(mine, plain)


def test_meta_needs_no_memory():
    tensor = torch.empty(2**20, 64, 2**12, 2**6, device="meta", dtype=torch.uint8)
    assert OUR_POOL[2](tensor, 2).shape == (2**20, 64, 2**11, 2**5)
