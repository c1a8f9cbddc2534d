"""Small planes and short rows, which are pooled as parts of longer rows where they are adjacent."""

import pytest
import torch

from common import CHANNELS_LAST, FLOATS, INTEGERS, OPS, OUR_POOL, TORCH_POOL, assert_same, random_input

DTYPES = [*FLOATS, *(dtype for dtype in INTEGERS if dtype != torch.int64)]

# shape, kernel, stride; windows that tile rows or planes, share them in part, or leave something out
POOLINGS = [
    *(((9, 70, size), (size,), size) for size in (1, 2, 3, 4, 5, 8, 9, 13, 16, 31, 40)),
    *(
        ((5, 33, 6 * stride), (kernel,), stride)
        for kernel, stride in [(2, 2), (1, 3), (3, 3), (5, 7), (9, 9), (20, 20)]
    ),
    ((3, 1, 1023 * 4), (4,), 4),
    ((300, 7, 7), (3,), 2),
    ((65, 40, 2, 2), (2, 2), 2),
    ((65, 40, 3, 3), (3, 3), 3),
    ((64, 48, 4, 4), (4, 4), 4),
    ((30, 20, 8, 2), (2, 2), 2),
    ((30, 20, 9, 2), (3, 2), (2, 2)),
    ((30, 20, 28, 1), (3, 1), (1, 1)),
    ((7, 20, 6, 12), (1, 3), (1, 3)),
    ((7, 20, 6, 12), (2, 3), (2, 3)),
    ((4, 20, 25, 25), (1, 1), 2),
    ((4, 20, 14, 13), (1, 1), (1, 5)),
    ((20, 33, 2, 2, 2), (2, 2, 2), 2),
    ((20, 33, 4, 1, 3), (2, 1, 3), 2),
    ((20, 33, 3, 2, 4), (1, 1, 2), (1, 1, 2)),
]


def identity(tensor):
    return tensor


def gapped(tensor):
    """Rows that are not adjacent."""
    wide = tensor.new_zeros((*tensor.shape[:-1], tensor.shape[-1] + 3))
    wide[..., 1:-2] = tensor
    return wide[..., 1:-2]


def every_other_channel(tensor):
    wide = tensor.new_zeros((tensor.shape[0], 2 * tensor.shape[1], *tensor.shape[2:]))
    wide[:, ::2] = tensor
    return wide[:, ::2]


def expanded(tensor):
    return tensor[:1].expand(tensor.shape)


def channels_last(tensor):
    rank = tensor.dim() - 2
    return tensor.contiguous(memory_format=CHANNELS_LAST[rank]) if rank in CHANNELS_LAST else tensor.mT.contiguous().mT


def from_second_element(tensor):
    """Not aligned to vectors."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


LAYOUTS = [identity, gapped, every_other_channel, expanded, channels_last, from_second_element]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_equals_torch(layout, dtype):
    for shape, kernel, stride in POOLINGS:
        rank = len(kernel)
        tensor = layout(random_input(shape, dtype))
        # Of channels_last input PyTorch refuses some planes of bytes, and names other elements in some windows.
        expected, places = TORCH_POOL[rank](tensor.contiguous(), kernel, stride, return_indices=True)
        output, indices = OUR_POOL[rank](tensor, kernel, stride, return_indices=True)
        assert_same(output, expected)
        assert torch.equal(indices, places), (shape, kernel, stride)
        assert_same(OUR_POOL[rank](tensor, kernel, stride), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_equal_torch(dtype):
    for shape, kernel, stride in POOLINGS:
        rank = len(kernel)
        tensor = random_input(shape, dtype, specials=False)
        steps = (stride,) * rank if isinstance(stride, int) else stride
        if dtype.itemsize == 2 and any(k > s for k, s in zip(kernel, steps, strict=True)):
            continue  # sums of these are rounded once here
        grads = []
        for pool in (TORCH_POOL[rank], OUR_POOL[rank]):
            leaf = tensor.clone().requires_grad_()
            output = pool(leaf, kernel, stride)
            weights = torch.arange(output.numel()).view(output.shape) % 251 + 1
            output.backward(weights.to(dtype))
            grads.append(leaf.grad)
        assert_same(grads[1], grads[0])


@pytest.mark.parametrize(("shape", "kernel"), [((9, 300, 2), (2,)), ((9, 300, 2, 2), (2, 2)), ((9, 300, 6), (3,))])
def test_a_bad_offset_is_named(shape, kernel):
    output, offsets = OPS.maxpool_forward(torch.randn(shape), kernel, kernel)
    for place in (0, offsets.numel() // 2, offsets.numel() - 1):
        bad = offsets.clone()
        bad.view(-1)[place] = 4
        with pytest.raises(IndexError, match=rf"element {place} of the outputs"):
            OPS.maxpool_backward(torch.ones_like(output), bad, shape[2:], kernel, kernel, [0], [1], False)
