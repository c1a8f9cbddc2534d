"""Properties that hold for every pooling, on examples that hypothesis makes up.

Numbers of examples: 900 forward, 500 gradients, 300 sizes, 200 functional forms, 200 against torch.nn.functional;
2100 in all, the same at every run (see conftest.py).
"""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, event, given, settings

import reference
from common import (
    CHANNELS_LAST,
    DTYPES,
    FLOATS,
    OPS,
    OUR_POOL,
    TORCH_POOL,
    assert_array,
    assert_offsets,
    assert_same,
    to_numpy,
)

ELEMENTS = {
    "float": [-math.inf, -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.5, math.inf, math.nan],
    "finite": [-2.0, -1.0, 0.0, 1.0, 2.0, 3.5],
    "lowest": [-math.inf, -math.inf, -math.inf, math.nan],
}


def axes(draw, rank, torch_only=False):
    """Sizes and hyper-parameters, a list of each; small sizes, so that edges matter."""
    sizes, kernels, strides, begins, ends, dilations = [], [], [], [], [], []
    largest = 14 if rank == 1 else 9 if rank == 2 else 5
    for _ in range(rank):
        kernel = draw(st.integers(1, 5 if rank < 3 else 3))
        dilation = 1 if torch_only else draw(st.sampled_from([1, 1, 1, 2, 3]))
        room = kernel // 2 if torch_only else dilation * (kernel - 1)
        begin = draw(st.integers(0, room))
        end = begin if torch_only else draw(st.sampled_from([begin, draw(st.integers(0, room))]))
        sizes.append(draw(st.integers(1, largest)))
        kernels.append(kernel)
        strides.append(draw(st.integers(1, 4)))
        begins.append(begin)
        ends.append(end)
        dilations.append(dilation)
    return sizes, kernels, strides, begins, ends, dilations


@st.composite
def poolings(draw):
    """(sizes, positional arguments of the operators, auto_pad) of a pooling that has an output."""
    rank = draw(st.integers(1, 3))
    sizes, kernels, strides, begins, ends, dilations = axes(draw, rank)
    auto_pad = draw(st.sampled_from(["explicit", "explicit", "explicit", "same", "same_lower"]))
    padding = begins + ends if auto_pad == "explicit" else [0]
    arguments = (kernels, strides, padding, dilations, draw(st.booleans()))
    assume(min(a.output(n) for a, n in zip(reference.make_axes(rank, *arguments, auto_pad), sizes, strict=True)) >= 1)
    return sizes, arguments, auto_pad


def fill(draw, shape, dtype, kinds=tuple(ELEMENTS)):
    """A tensor of elements among which ties and special values abound."""
    count = int(np.prod(shape))
    if dtype == torch.bool:
        palette = [False, False, True]
    elif dtype.is_floating_point:
        palette = ELEMENTS[draw(st.sampled_from(kinds))]
    else:
        info = torch.iinfo(dtype)
        palette = [info.min, info.min, 0, 1, 2, info.max]
    # One drawn seed in place of `count` drawn elements keeps examples small.
    chosen = np.random.default_rng(draw(st.integers(0, 2**16))).integers(len(palette), size=count)
    return torch.tensor(palette, dtype=dtype)[torch.from_numpy(chosen)].reshape(shape)


def arrange(draw, tensor, rank):
    """The same elements, laid out in memory in some way."""
    names = ["contiguous", "transposed", "strided"]
    if rank > 1 and tensor.dim() == rank + 2:
        names.append("channels_last")
    layout = draw(st.sampled_from(names))
    event(layout)
    if layout == "channels_last":
        return tensor.contiguous(memory_format=CHANNELS_LAST[rank])
    if layout == "transposed":
        order = draw(st.permutations(range(tensor.dim())))
        back = [order.index(i) for i in range(tensor.dim())]
        return tensor.permute(order).contiguous().permute(back)
    if layout == "strided":
        wide = torch.zeros([2 * n + 1 for n in tensor.shape], dtype=tensor.dtype)
        return wide[tuple(slice(1, 2 * n + 1, 2) for n in tensor.shape)].copy_(tensor)
    return tensor


@st.composite
def inputs(draw, dtypes):
    """A pooling with an input: (tensor, axes, arguments, auto_pad)."""
    sizes, arguments, auto_pad = draw(poolings())
    rank = len(sizes)
    batch = draw(st.sampled_from([[], [1], [2], [0]]))
    shape = (*batch, draw(st.integers(1, 3)), *sizes)
    tensor = arrange(draw, fill(draw, shape, draw(st.sampled_from(dtypes))), rank)
    return tensor, reference.make_axes(rank, *arguments, auto_pad), arguments, auto_pad


@settings(max_examples=900)
@given(inputs(DTYPES))
def test_forward(example):
    tensor, axes_, arguments, auto_pad = example
    expected = reference.pool(to_numpy(tensor), axes_)
    output, offsets = OPS.maxpool_forward(tensor, *arguments, auto_pad=auto_pad)
    assert output.dtype == tensor.dtype
    assert_array(output, expected.values)
    assert_offsets(offsets, expected)
    assert_same(OPS.maxpool_values(tensor, *arguments, auto_pad=auto_pad), output)
    spatial = tensor.shape[-len(axes_) :]
    indices = OPS.maxpool_indices(offsets, spatial, *arguments, auto_pad=auto_pad)
    assert_array(indices, expected.indices)
    picked = OPS.maxpool_gather(tensor, offsets, *arguments, auto_pad=auto_pad)
    assert_array(picked, reference.gather(to_numpy(tensor), expected.indices, len(axes_)))


@settings(max_examples=500)
@given(inputs(FLOATS), st.integers(0, 2**16))
def test_gradients(example, seed):
    tensor, axes_, arguments, auto_pad = example
    rank = len(axes_)
    indices = reference.pool(to_numpy(tensor), axes_).indices
    leaf = tensor.detach().requires_grad_()
    output, offsets = OPS.maxpool_forward(leaf, *arguments, auto_pad=auto_pad)
    # Small whole numbers: their sums are exact in any order.
    random = torch.Generator().manual_seed(seed)
    grad = torch.randint(-4, 5, output.shape, generator=random).to(tensor.dtype)
    first, second = (torch.randint(-4, 5, tensor.shape, generator=random).to(tensor.dtype) for _ in range(2))
    spatial = tuple(tensor.shape[-rank:])
    expected = reference.scatter(to_numpy(grad), indices, spatial)
    (actual,) = torch.autograd.grad(output, leaf, grad, create_graph=False)
    assert actual.dtype == tensor.dtype
    np.testing.assert_array_equal(to_numpy(actual), expected)

    # Second derivative: the gradient of <v, backward(g)> in g is v at the winners.
    grad.requires_grad_()
    inner = OPS.maxpool_backward(grad, offsets, spatial, *arguments, auto_pad=auto_pad)
    (twice,) = torch.autograd.grad(inner, grad, first, create_graph=True)
    np.testing.assert_array_equal(to_numpy(twice), reference.gather(to_numpy(first), indices, rank))
    # And gather passes its own gradient back to where it read.
    second.requires_grad_()
    picked = OPS.maxpool_gather(second, offsets, *arguments, auto_pad=auto_pad)
    (back,) = torch.autograd.grad(picked, second, grad.detach())
    np.testing.assert_array_equal(to_numpy(back), expected)


@settings(max_examples=300)
@given(st.data())
def test_sizes_and_exact(data):
    """Every pooling either has the reference's size or, where that is none, is refused; exact refuses what is loose."""
    rank = data.draw(st.integers(1, 3))
    sizes, kernels, strides, begins, ends, dilations = axes(data.draw, rank)
    arguments = (kernels, strides, begins + ends, dilations, data.draw(st.booleans()))
    axes_ = reference.make_axes(rank, *arguments)
    shape = [axis.output(size) for axis, size in zip(axes_, sizes, strict=True)]
    tiled = all(axis.tiles(size) for axis, size in zip(axes_, sizes, strict=True))
    tensor = torch.empty(2, 1, *sizes, device=data.draw(st.sampled_from(["cpu", "meta"])))
    for exact, accepted in ((False, min(shape) >= 1), (True, min(shape) >= 1 and tiled)):
        event(f"exact {exact}, accepted {accepted}")
        if accepted:
            output = OPS.maxpool_values(tensor, *arguments, exact=exact)
            assert list(output.shape) == [2, 1, *shape]
        else:
            text = "Invalid dimensions!" if min(shape) >= 1 else "maxpool_values: "
            with pytest.raises((RuntimeError, ValueError), match=text):
                OPS.maxpool_values(tensor, *arguments, exact=exact)


@settings(max_examples=200)
@given(st.data())
def test_functional_forms(data):
    """Every way to write the same hyper-parameters gives the operator's result."""
    rank = data.draw(st.integers(1, 3))
    sizes, kernels, strides, begins, ends, dilations = axes(data.draw, rank)
    arguments = (kernels, strides, begins + ends, dilations, data.draw(st.booleans()))
    axes_ = reference.make_axes(rank, *arguments)
    assume(min(axis.output(size) for axis, size in zip(axes_, sizes, strict=True)) >= 1)
    tensor = fill(data.draw, (2, *sizes), torch.float32)
    written = [begins + ends, tuple(begins + ends), list(zip(begins, ends, strict=True))]
    if begins == ends:
        written += [begins, tuple(begins), *(begins[:1] if len(set(begins)) == 1 else [])]
    padding = data.draw(st.sampled_from(written))
    kind = data.draw(st.sampled_from([list, tuple]))
    lists = [kind(kernels), kind(strides), padding, kind(dilations)]
    expected = reference.pool(to_numpy(tensor), axes_)
    output, indices = OUR_POOL[rank](tensor, *lists, arguments[-1], True)
    assert_array(output, expected.values)
    assert_array(indices, expected.indices)
    assert_same(OUR_POOL[rank](tensor, *lists, ceil_mode=arguments[-1]), output)


@settings(max_examples=200)
@given(st.data())
def test_equals_torch(data):
    rank = data.draw(st.integers(1, 3))
    # Without dilation every window of PyTorch's holds an element; its backward is safe there only.
    sizes, kernels, strides, begins, _, _ = axes(data.draw, rank, torch_only=True)
    arguments = (kernels, strides, begins, 1, data.draw(st.booleans()))
    axes_ = reference.make_axes(rank, *arguments[:3], [1], arguments[-1])
    assume(min(axis.output(size) for axis, size in zip(axes_, sizes, strict=True)) >= 1)
    # In channels_last_3d PyTorch names element 0 of the plane for windows of -inf only.
    kinds = ("finite",) if rank == 3 else tuple(ELEMENTS)
    tensor = arrange(data.draw, fill(data.draw, (2, 2, *sizes), torch.float32, kinds), rank)
    ours, theirs = tensor.detach().requires_grad_(), tensor.detach().requires_grad_()
    output, indices = OUR_POOL[rank](ours, *arguments, return_indices=True)
    expected, places = TORCH_POOL[rank](theirs, *arguments, return_indices=True)
    assert_same(output, expected)
    assert torch.equal(indices, places)
    grad = torch.arange(1.0, output.numel() + 1).reshape(output.shape)
    output.backward(grad)
    expected.backward(grad)
    assert torch.equal(ours.grad, theirs.grad)
