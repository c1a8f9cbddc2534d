"""Values, offsets and indices of the forward pass: against torch.nn.functional and against the definition."""

import numpy as np
import pytest
import torch

from common import (
    CASES,
    DTYPES,
    FLOATS,
    INTEGERS,
    OPS,
    OUR_POOL,
    OWN_CASES,
    TORCH_CASES,
    TORCH_POOL,
    assert_array,
    assert_offsets,
    assert_same,
    every_case,
    random_input,
)

NAN, INF = float("nan"), float("inf")
# PyTorch has no max pooling of bool.
TORCH_DTYPES = FLOATS + INTEGERS


def forward(elements, kernel, dtype=torch.float32, **keywords):
    """Values and offsets of a 1-d pooling of one plane, as lists."""
    tensor = torch.tensor(elements, dtype=dtype).view(1, 1, -1)
    output, offsets = OPS.maxpool_forward(tensor, [kernel], **keywords)
    return output.flatten(), offsets.flatten().tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_case()
def test_equals_the_definition(case, dtype):
    tensor = case.layout(random_input(case.shape, dtype))
    expected = case.expected(tensor)
    output, offsets = case.forward(tensor)
    assert output.dtype == dtype
    assert offsets.dtype == (torch.uint8 if np.prod(case.kernel) <= 256 else torch.int32)
    assert offsets.shape == output.shape
    assert_array(output, expected.values)
    assert_offsets(offsets, expected)
    assert_array(case.indices(offsets), expected.indices)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
@every_case(TORCH_CASES)
def test_equals_torch(case, dtype):
    tensor = case.layout(random_input(case.shape, dtype))
    if case.rank == 3 and case.channels_last:
        # In this layout PyTorch names element 0 of the plane for windows of the lowest value only.
        tensor = tensor.clamp_min(-3 if dtype.is_floating_point else torch.iinfo(dtype).min + 1)
    arguments = [entries if len(entries) != 1 else entries[0] for entries in case.window[:-1]]
    expected, indices = TORCH_POOL[case.rank](tensor, *arguments, case.ceil_mode, return_indices=True)
    output, offsets = case.forward(tensor)
    assert_same(output, expected)
    assert torch.equal(case.indices(offsets), indices)
    assert output.stride() == expected.stride()


@pytest.mark.parametrize("size", [*range(1, 20), 31, 32, 33, 63, 64, 65, 127, 130])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(1, 1, 0), (2, 2, 0), (2, 2, 1), (3, 2, 1), (3, 1, 1), (5, 1, 2)]
)
def test_every_row_length(size, kernel, stride, padding):
    """Lengths around those of vectors, where kernels change from vectors to tails."""
    if size + 2 * padding < kernel:
        return
    for dtype in (torch.float32, torch.uint8, torch.bfloat16):
        tensor = random_input((2, 3, size), dtype)
        tall = tensor.reshape(1, 2, 3, size)
        line, plane = [kernel], [2, kernel]
        expected, places = TORCH_POOL[1](tensor, line, stride, padding, return_indices=True)
        output, indices = OUR_POOL[1](tensor, line, stride, padding, return_indices=True)
        assert_same(output, expected)
        assert torch.equal(indices, places)
        expected, places = TORCH_POOL[2](tall, plane, [1, stride], [0, padding], return_indices=True)
        output, indices = OUR_POOL[2](tall, plane, [1, stride], [0, padding], return_indices=True)
        assert_same(output, expected)
        assert torch.equal(indices, places)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8, torch.int16], ids=str)
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((2, 150, 300), (31, 31), 1, 15),
        ((1, 300, 133), (9, 12), 1, (4, 5)),
        ((1, 170, 2100), (7, 3), 1, (3, 0)),
        ((3, 90, 2101), (3, 3), 1, 1),
        ((2, 131, 1030), (3, 3), 2, 1),
        ((2, 80, 1500), (2, 2), 1, 0),
    ],
)
@pytest.mark.parametrize("specials", [False, True])
def test_large_planes(shape, kernel, stride, padding, dtype, specials):
    """Planes that kernels take in blocks of rows and columns, with and without lanes that need another look."""
    tensor = random_input(shape, dtype, specials)
    expected, indices = TORCH_POOL[2](tensor, kernel, stride, padding, return_indices=True)
    output, found = OUR_POOL[2](tensor, kernel, stride, padding, return_indices=True)
    assert_same(output, expected)
    assert torch.equal(found, indices)
    assert_same(OUR_POOL[2](tensor, kernel, stride, padding), expected)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil_mode"),
    [(3, 2, 0, True), (3, 2, 1, False), (3, 1, 1, False), (3, 1, 0, False), (2, 1, 0, False), (2, 1, 1, False)],
)
def test_planes_narrower_than_vectors(kernel, stride, padding, ceil_mode, dtype):
    """Many planes of few columns, among them some of nothing but the lowest value, and parts of wider ones."""
    window = (kernel, stride, padding, 1, ceil_mode)
    for width in range(kernel, 34, 1 if dtype.itemsize in (1, 4) else 2):
        whole = random_input((7, 9, 8 + width % 5, width + 3), dtype, specials=width % 3 == 0)
        whole[1, ::2] = float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min
        for tensor in (whole[..., :width].contiguous(), whole[:, 1:, 1:, 2 : width + 2]):
            expected, indices = TORCH_POOL[2](tensor, *window, return_indices=True)
            output, found = OUR_POOL[2](tensor, *window, return_indices=True)
            assert_same(output, expected)
            assert torch.equal(found, indices)
            assert_same(OUR_POOL[2](tensor, *window), expected)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [5, 9, (3, 13)])
def test_large_windows_of_narrow_planes(kernel, dtype):
    """Rows around the lengths of vectors and of the narrower ones that stand in for them."""
    padding = kernel // 2 if isinstance(kernel, int) else (1, 6)
    for width in range(1, 70, 1 if dtype.itemsize == 1 else 2):
        tensor = random_input((3, 11, width), dtype)
        expected, indices = TORCH_POOL[2](tensor, kernel, 1, padding, return_indices=True)
        output, found = OUR_POOL[2](tensor, kernel, 1, padding, return_indices=True)
        assert_same(output, expected)
        assert torch.equal(found, indices)
        assert_same(OUR_POOL[2](tensor, kernel, 1, padding), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_more_taps_than_16_bits_count(stride, dtype):
    tensor = torch.randint(0, 2, (1, 2, 310, 305)).to(dtype)
    tensor[..., 300:, 290:] = torch.randint(1, 6, (10, 15)).to(dtype)  # winners at the end of 300 x 290 taps
    expected, indices = TORCH_POOL[2](tensor, (300, 290), stride, return_indices=True)
    output, found = OUR_POOL[2](tensor, (300, 290), stride, return_indices=True)
    assert_same(output, expected)
    assert torch.equal(found, indices)
    assert_same(OUR_POOL[2](tensor, (300, 290), stride), expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((2, 16, 35, 37), (2, 2)),
        ((2, 16, 35, 37), (3, 2, 1)),
        ((2, 16, 35, 37), (3, 1, 1)),
        ((2, 16, 35, 37), (3, 1, 1, 2)),
        ((2, 16, 35, 37), (5, 1, 2)),
        ((2, 16, 35, 37), (13, 1, 6)),
        ((2, 16, 35, 37), (7, 3, 3)),
        ((2, 16, 13, 13), (3, 2)),
        ((2, 16, 4, 4), (2, 2)),
        ((2, 16, 7, 7), (7, 7)),
        ((2, 3, 8, 20, 21), (3, 2, 1)),
    ],
)
def test_zeros_of_both_signs(shape, window, dtype, channels_last):
    """They are equal, so that the first wins with its sign; activations such as hardswish give many of them."""
    palette = torch.tensor([-3.0, -0.0, -0.0, -0.0, 0.0, 0.0, 2.0]).to(dtype)
    tensor = palette[torch.randint(len(palette), shape)]
    rank = len(shape) - 2
    if channels_last:
        tensor = tensor.to(memory_format=torch.channels_last if rank == 2 else torch.channels_last_3d)
    expected, indices = TORCH_POOL[rank](tensor, *window, return_indices=True)
    output, found = OUR_POOL[rank](tensor, *window, return_indices=True)
    assert_same(output, expected)
    assert torch.equal(found, indices)
    assert_same(OUR_POOL[rank](tensor, *window), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
class TestWinners:
    """Which element wins, for the floating dtypes."""

    def test_first_of_equals(self, dtype):
        assert forward([1, 3, 3, 2, 2, 2], 3, dtype)[1] == [1, 0]

    def test_row_major_first_of_equals(self, dtype):
        plane = torch.tensor([[0.0, 5.0], [5.0, 0.0]], dtype=dtype).view(1, 1, 2, 2)
        assert OPS.maxpool_forward(plane, [2, 2])[1].item() == 1

    def test_last_nan(self, dtype):
        values, offsets = forward([1, NAN, 5, NAN, 7, 2], 6, dtype)
        assert values.isnan().all()
        assert offsets == [3]

    def test_nan_beats_infinity(self, dtype):
        values, offsets = forward([INF, NAN, INF], 3, dtype)
        assert values.isnan().all()
        assert offsets == [1]

    def test_minus_infinity_names_the_first_element(self, dtype):
        values, offsets = forward([-INF] * 4, 2, dtype, padding=[1])
        assert values.tolist() == [-INF] * 3
        # The first window begins in the padding: its first element of the input is tap 1.
        assert offsets == [1, 0, 0]

    def test_zeros_are_equal(self, dtype):
        values, offsets = forward([-0.0, 0.0, 0.0, -0.0], 2, dtype)
        assert offsets == [0, 0]
        assert values.signbit().tolist() == [True, False]

    def test_subnormals(self, dtype):
        tiny = torch.finfo(dtype).smallest_normal / 2
        assert forward([0.0, tiny, -tiny, -0.0], 2, dtype)[1] == [1, 1]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_extremes(dtype):
    info = torch.iinfo(dtype)
    values, offsets = forward([info.min, info.min, info.min, info.max], 2, dtype)
    assert values.tolist() == [info.min, info.max]
    assert offsets == [0, 1]
    # Padding never wins, not even over the smallest number.
    values, offsets = forward([info.min, info.min], 3, dtype, stride=[1], padding=[1])
    assert values.tolist() == [info.min, info.min]
    assert offsets == [1, 0]


def test_large_int64_are_told_apart():
    values, offsets = forward([2**62, 2**62 + 1], 2, torch.int64)
    assert values.tolist() == [2**62 + 1]
    assert offsets == [1]


def test_bool():
    values, offsets = forward([False, False, False, True], 2, torch.bool)
    assert values.dtype == torch.bool
    assert values.tolist() == [False, True]
    assert offsets == [0, 1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_window_without_elements(dtype):
    # Taps at -3 and 2 of an input of size 2: neither is there.
    tensor = torch.ones(1, 1, 2, dtype=dtype)
    output, offsets = OPS.maxpool_forward(tensor, [2], [1], [3, 1], [5])
    assert output.shape == offsets.shape == (1, 1, 1)
    indices = OPS.maxpool_indices(offsets, [2], [2], [1], [3, 1], [5], False)
    assert indices.item() == -1
    if dtype.is_floating_point:
        assert output.item() == -INF
    else:
        assert output.item() == (False if dtype == torch.bool else torch.iinfo(dtype).min)


@pytest.mark.parametrize(
    ("taps", "dtype"),
    [([16, 16], torch.uint8), ([257], torch.int32), ([1, 256], torch.uint8), ([7, 8, 5], torch.int32)],
)
def test_offsets_dtype_and_last_tap(taps, dtype):
    tensor = torch.arange(float(np.prod(taps))).view(1, 1, *taps)
    output, offsets = OPS.maxpool_forward(tensor, taps)
    assert offsets.dtype == dtype
    assert offsets.item() == output.item() == np.prod(taps) - 1


def test_empty_batch(rank):
    tensor = torch.empty(0, 3, *[6] * rank)
    output, offsets = OPS.maxpool_forward(tensor, [2] * rank)
    assert output.shape == offsets.shape == (0, 3, *[3] * rank)
    assert OPS.maxpool_values(tensor, [2] * rank).shape == output.shape
    values, indices = OUR_POOL[rank](tensor, 2, return_indices=True)
    assert values.shape == indices.shape == output.shape
    assert indices.dtype == torch.int64


@every_case(OWN_CASES)
def test_unbatched_equals_batched(case):
    tensor = random_input(case.shape, torch.float32)
    batched = case.forward(tensor)
    for number, single in enumerate(tensor):
        output, offsets = case.forward(single)
        assert_same(output, batched[0][number])
        assert torch.equal(offsets, batched[1][number])


def test_huge_kernel_on_few_elements():
    """Loops run over elements, not taps: a window of 2**59 taps costs what its four elements cost."""
    tensor = torch.tensor([1.0, 4.0, 2.0, 3.0]).view(1, 1, 4)
    assert OPS.maxpool_values(tensor, [2**59], [1], [2**59 - 4, 0]).tolist() == [[[4.0]]]
    output, offsets = OPS.maxpool_forward(tensor, [2**31], [1], [2**31 - 4, 0])
    assert output.tolist() == [[[4.0]]]
    assert offsets.tolist() == [[[2**31 - 4 + 1]]]


@every_case(CASES)
def test_results_do_not_share_memory_with_the_input(case):
    tensor = case.input()
    before = tensor.clone()
    output, offsets = case.forward(tensor)
    output.zero_()
    offsets.zero_()
    assert torch.equal(tensor, before)
