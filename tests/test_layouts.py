"""Memory layouts: what the input may look like, and what the results look like."""

import numpy as np
import pytest
import torch

from common import (
    CHANNELS_LAST,
    FLOATS,
    OPS,
    OUR_POOL,
    TORCH_POOL,
    assert_same,
    every_case,
    random_input,
)


def transposed(tensor):
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def channels_moved(tensor):
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def sliced(tensor):
    wide = torch.empty(*tensor.shape[:-1], 3 * tensor.shape[-1] + 5, dtype=tensor.dtype)
    view = wide[..., 4 : 4 + 3 * tensor.shape[-1] : 3]
    return view.copy_(tensor)


def offset(tensor):
    memory = torch.empty(tensor.numel() + 3, dtype=tensor.dtype)
    return memory[3:].view(tensor.shape).copy_(tensor)


def gapped_planes(tensor):
    memory = torch.empty(tensor.shape[0], 2 * tensor.shape[1], *tensor.shape[2:], dtype=tensor.dtype)
    return memory[:, ::2].copy_(tensor)


def expanded(tensor):
    return tensor[:, :1].expand(tensor.shape)


def expanded_rows(tensor):
    return tensor[..., :1].expand(tensor.shape)


def negated(tensor):
    """A view with PyTorch's negative bit, equal to `tensor`."""
    view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert view.is_neg()
    return view


def real_part(tensor):
    return torch.complex(tensor, torch.full_like(tensor, 99.0)).real


def misaligned(tensor):
    memory = torch.frombuffer(bytearray(tensor.nbytes + 1), dtype=tensor.dtype, offset=1)
    view = memory.view(tensor.shape).copy_(tensor)
    assert view.data_ptr() % 2 == 1
    return view


LAYOUTS = [
    misaligned,
    transposed,
    channels_moved,
    sliced,
    offset,
    gapped_planes,
    expanded,
    expanded_rows,
    negated,
    real_part,
]


def numbers(rank):
    return random_input((2, 3, *(6, 8, 5)[-rank:]), torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_any_strides(rank, layout):
    tensor = layout(numbers(rank))
    plain = tensor.resolve_neg().contiguous()
    arguments = ([3] * rank, [2] * rank, [1] * rank)
    expected = OPS.maxpool_forward(plain, *arguments)
    actual = OPS.maxpool_forward(tensor, *arguments)
    assert_same(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
    assert_same(OPS.maxpool_values(tensor, *arguments), expected[0])
    rest = (*arguments, [1], False)
    picked = OPS.maxpool_gather(tensor, actual[1], *rest)
    assert_same(picked, expected[0])
    values, indices = TORCH_POOL[rank](plain, 3, 2, 1, return_indices=True)
    assert_same(actual[0], values)
    assert torch.equal(OPS.maxpool_indices(actual[1], plain.shape[2:], *rest), indices)


@pytest.mark.parametrize("kernel", [3, 17])  # offsets of one byte and of four
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int16, torch.int64])
def test_misaligned_memory(dtype, kernel):
    tensor = random_input((2, 3, 40, 37), dtype)
    arguments = ([kernel] * 2, [2], [1])
    rest = (*arguments, [1], False)
    output, offsets = OPS.maxpool_forward(tensor, *arguments)
    for x in (misaligned(tensor), misaligned(tensor)[..., 1:, :-1]):
        actual, found = OPS.maxpool_forward(x, *arguments)
        expected, winners = OPS.maxpool_forward(x.clone(), *arguments)
        assert_same(actual, expected)
        assert torch.equal(found, winners)
        assert_same(OPS.maxpool_values(x, *arguments), expected)
        assert_same(OPS.maxpool_gather(x, misaligned(winners), *rest), expected)
    indices = OPS.maxpool_indices(offsets, tensor.shape[2:], *rest)
    assert torch.equal(OPS.maxpool_indices(misaligned(offsets), tensor.shape[2:], *rest), indices)
    if dtype.is_floating_point:
        expected = OPS.maxpool_backward(output, offsets, tensor.shape[2:], *rest)
        grad = OPS.maxpool_backward(misaligned(output), misaligned(offsets), tensor.shape[2:], *rest)
        assert_same(grad, expected)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("subject", ["grad_output", "offsets", "both"])
def test_backward_takes_any_strides(rank, layout, subject):
    spatial = (6, 8, 5)[-rank:]
    arguments = ([3] * rank, [2] * rank, [1] * rank)
    output, offsets = OPS.maxpool_forward(torch.randn(2, 3, *spatial), *arguments)
    grad = torch.randn(output.shape)
    if layout is expanded or layout is expanded_rows:
        grad, offsets = layout(grad).clone(), torch.full_like(offsets, 3**rank // 2)
    expected = OPS.maxpool_backward(grad, offsets, spatial, *arguments, [1], False)
    if subject != "offsets":
        grad = layout(grad)
    if subject != "grad_output" and layout not in (negated, real_part):
        offsets = layout(offsets)
    assert_same(OPS.maxpool_backward(grad, offsets, spatial, *arguments, [1], False), expected)


SHAPES_2D = [
    (2, 3, 4, 6),
    (2, 1, 4, 6),
    (1, 3, 4, 6),
    (1, 1, 4, 6),
    (2, 3, 2, 2),
    (2, 3, 1, 1),
    (2, 1, 1, 1),
    (2, 1, 2, 2),
]
SHAPES = SHAPES_2D + [(*shape[:3], 4, shape[3]) for shape in SHAPES_2D[:4]] + [(2, 3, 2, 2, 2), (2, 3, 1, 1, 1)]


def formats(shape):
    """The shape's tensor in both formats, and as what PyTorch finds ambiguous: strides of one, read as the other."""
    contiguous = torch.randn(shape)
    moved = CHANNELS_LAST[len(shape) - 2]
    order = [0, *range(2, len(shape)), 1]
    back = [0, len(shape) - 1, *range(1, len(shape) - 1)]
    return {
        "contiguous": contiguous,
        "channels_last": contiguous.contiguous(memory_format=moved),
        "permuted": contiguous.permute(order).contiguous().permute(back),
    }


@pytest.mark.parametrize("form", ["contiguous", "channels_last", "permuted"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_strides_are_those_of_torch(shape, form):
    rank = len(shape) - 2
    tensor = formats(shape)[form]
    kernel = [min(2, size) for size in shape[2:]]
    ours, theirs = tensor.detach().requires_grad_(), tensor.detach().requires_grad_()
    assert ours.stride() == tensor.stride()
    output, offsets = OPS.maxpool_forward(ours, kernel)
    expected, indices = TORCH_POOL[rank](theirs, kernel, return_indices=True)
    assert_same(output, expected)
    assert output.stride() == expected.stride()
    assert offsets.stride() == expected.stride()
    assert OPS.maxpool_values(tensor, kernel).stride() == expected.stride()
    assert OUR_POOL[rank](tensor, kernel, return_indices=True)[1].stride() == indices.stride()
    assert OPS.maxpool_gather(tensor, offsets, kernel, kernel, [0], [1], False).stride() == expected.stride()

    grad = torch.randn_like(output)
    output.backward(grad)
    expected.backward(grad)
    assert torch.equal(ours.grad, theirs.grad)
    # The gradient as the operator makes it, before accumulation gives it the input's strides.
    arguments = (shape[2:], kernel, kernel, [0], [1], False)
    mine = OPS.maxpool_backward(grad, offsets, *arguments)
    (torchs,) = torch.autograd.grad(TORCH_POOL[rank](theirs, kernel), theirs, grad)
    # Offsets are all that is kept, and N, 1, 1, 1 of them no longer show that the input was channels_last.
    if form == "contiguous" or any(size > 1 for size in output.shape[1:]):
        assert mine.stride() == torchs.stride()


@every_case()
def test_unbatched_is_contiguous(case):
    tensor = case.input()
    single = tensor[0] if tensor.dim() == case.rank + 2 else tensor
    output, offsets = case.forward(single)
    assert output.is_contiguous()
    assert offsets.is_contiguous()
    assert case.backward(output, offsets).is_contiguous()


def test_expanded_input_is_not_written_out():
    """4 GiB of elements on 4 bytes of memory: only windows are read."""
    tensor = torch.ones(1).expand(1, 1, 2**15, 2**15)
    output = OPS.maxpool_values(tensor, [2**12, 2**12])
    assert output.shape == (1, 1, 8, 8)
    assert bool((output == 1).all())


def test_real_part_of_a_long_signal():
    """Strides of an interleaved view are honoured far into the memory."""
    signal = torch.ones(1, 1, 200000, dtype=torch.complex64).real
    assert np.array_equal(OPS.maxpool_values(signal, [100]).numpy(), np.ones((1, 1, 2000), np.float32))


def assert_equals_torch(tensor, *window):
    """Values and indices, against PyTorch's own of a contiguous copy: its other kernels name other ones of equals."""
    rank = 3 if tensor.dim() == 5 else 2
    expected, indices = TORCH_POOL[rank](tensor.contiguous(), *window, return_indices=True)
    actual = OUR_POOL[rank](tensor, *window, return_indices=True)
    assert_same(actual[0], expected)
    assert_same(actual[1], indices)
    assert_same(OUR_POOL[rank](tensor, *window), expected)


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 7, 8, 9, 12, 16, 20, 31, 48, 65, 72, 96, 128, 200])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8, torch.int16], ids=str)
def test_channels_last_of_any_channels(channels, dtype):
    for window in [(2, 2), (3, 2, 1), (3, 1, 1), (5, 1, 2), (4, 3, 1), (9, 1, 4), (13, 1, 6, 1)]:
        specials = window[0] % 2 == 0  # where all but few windows have a NaN, nothing else shows
        tensor = random_input((2, channels, 13, 14), dtype, specials)
        assert_equals_torch(tensor.contiguous(memory_format=CHANNELS_LAST[2]), *window)


@pytest.mark.parametrize("stride", range(1, 8))
@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8, torch.int16], ids=str)
def test_any_stride_and_width(stride, dtype):
    for kernel in [1, 2, 3, 5, 7]:
        for width in [7, 14, 28, 61, 112]:
            for height in [kernel, 16]:
                tensor = random_input((2, 3, height, width), dtype, kernel < 5)
                for padding in {0, kernel // 2}:
                    assert_equals_torch(tensor, kernel, (max(stride - 1, 1), stride), padding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
def test_any_stride_of_columns(dtype):
    """Elements that lie apart, channels that lie together, and both."""
    memory = random_input((2, 5, 41, 23, 3), dtype, specials=False)
    for tensor in [memory[..., 1], memory[:, :4, :, :, 0].permute(0, 2, 1, 3), memory[:, 2].permute(0, 3, 1, 2)]:
        for window in [(3, 3), (5, 5, 2), (2, 7), (3, 1, 1), (4, 2, 1)]:
            if min(tensor.shape[2:]) >= window[0]:
                assert_equals_torch(tensor, *window)


@pytest.mark.parametrize("planes", [1, 2, 5, 16, 33, 70])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8, torch.int16, torch.int64], ids=str)
def test_small_windows_far_apart(dtype, planes):
    """Few windows in narrow planes, which are pooled many rows and planes at a time."""
    windows = [
        ((1, 3), (4, 3), (0, 1), 1),
        ((2, 3), (3, 4), (0, 1), 2),
        ((3, 1), (3, 4), (1, 0), 1),
        ((5, 5), (5, 5), (1, 2), 1),
        ((6, 6), (3, 6), (3, 1), 1),
        ((11, 11), (9, 9), (3, 4), 1),
    ]
    for size in [(5, 5), (15, 7), (64, 5), (7, 14), (31, 30), (130, 140)][: 6 if planes < 3 else 5]:
        for window in windows:
            kernel, dilation = window[0], window[3]
            if all(extent > dilation * (taps - 1) for extent, taps in zip(size, kernel, strict=True)):
                tensor = random_input((planes, *size), dtype, kernel[0] < 5)
                assert_equals_torch(tensor, *window)
                assert_equals_torch(tensor.mT.contiguous().mT, *window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
def test_small_windows_far_apart_in_volumes(dtype):
    for kernel, stride, padding in [((2, 1, 3), (3, 2, 4), (1, 0, 1)), (4, 4, 2), ((1, 3, 3), (1, 4, 5), (0, 1, 0))]:
        for shape in [(2, 3, 5, 7, 6), (1, 1, 9, 8, 5), (3, 7, 4, 4, 4)]:
            assert_equals_torch(random_input(shape, dtype, False), kernel, stride, padding)


@pytest.mark.parametrize("special", [float("nan"), -0.0])
@pytest.mark.parametrize("window", [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (3, 1, 1), (5, 1, 2)], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_special_element(dtype, window, special):
    """Wherever it lies, and though nothing else makes vectors give up: the results of its windows alone change."""
    height, width, channels = 7, 9, 70
    places = torch.arange(height * width)
    x = torch.randn(len(places), channels, height, width).to(dtype) if special != 0 else torch.zeros(1, dtype=dtype)
    x = x.expand(len(places), channels, height, width).clone()
    x[places, places % channels, places // width, places % width] = special
    for tensor in (x, channels_moved(x)):
        assert_equals_torch(tensor, *window)
