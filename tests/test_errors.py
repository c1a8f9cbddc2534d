"""Bad tensors and offsets: clear errors, never a crash. Bad arguments: test_ways_in.py."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import reference
from common import OPS, text_of


def tensors(device):
    """A maker of tensors on "cpu" or "meta", of fake ones, or of ones that record gradients ("grad")."""

    def make(*shape, dtype=torch.float32):
        if device == "fake":
            with FakeTensorMode(allow_non_fake_inputs=True):
                return torch.zeros(shape, dtype=dtype)
        tensor = torch.zeros(shape, dtype=dtype, device="cpu" if device == "grad" else device)
        return tensor.requires_grad_(device == "grad" and dtype.is_floating_point)

    return make


@pytest.fixture(params=["cpu", "grad", "meta", "fake"])
def make(request):
    return tensors(request.param)


def check(error, text, call):
    """`call` raises exactly `error`, with a text that begins with the operator's name."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    caught.match(text)
    assert "INTERNAL ASSERT" not in str(caught.value)
    return text_of(caught.value)


@pytest.mark.parametrize(
    "dtype", [torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64], ids=str
)
def test_input_dtype(make, dtype):
    tensor = make(1, 1, 4, dtype=dtype)
    text = "input must be float64, float32, float16, bfloat16, uint8, int8, int16, int32, int64 or bool, got "
    for operator in (OPS.maxpool_forward, OPS.maxpool_values):
        check(TypeError, text, lambda operator=operator: operator(tensor, [2]))
    # gather checks alike.
    offsets = make(1, 1, 2, dtype=torch.uint8)
    check(TypeError, text, lambda: OPS.maxpool_gather(tensor, offsets, [2], [2], [0], [1], False))


def sparse(kind):
    dense = torch.ones(2, 4, 4)
    if kind == "coo":
        return dense.to_sparse()
    if kind == "csr":
        return dense.to_sparse_csr()
    if kind == "mkldnn":
        return dense.to_mkldnn()
    return torch.quantize_per_tensor(dense, 0.1, 0, torch.quint8)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("kind", ["coo", "csr", "mkldnn", "quantized"])
def test_layouts_without_strides(kind):
    tensor = sparse(kind)
    offsets = torch.zeros(2, 2, 2, dtype=torch.uint8)
    rest = ([2, 2], [2], [0], [1], False)
    for call in (
        lambda: OPS.maxpool_forward(tensor, [2, 2]),
        lambda: OPS.maxpool_values(tensor, [2, 2]),
        lambda: OPS.maxpool_gather(tensor, offsets, *rest),
        lambda: OPS.maxpool_backward(tensor, offsets, [4, 4], *rest),
    ):
        check(TypeError, r"^maxpool_\w+: (input|grad_output) must (have a strided layout|be float64)", call)


@pytest.mark.parametrize("auto_pad", ["", "SAME", "valid", "same_upper", "explicit "])
def test_auto_pad_word(make, auto_pad):
    text = f"^maxpool_forward: auto_pad must be 'explicit', 'same' or 'same_lower', got '{auto_pad}'"
    check(ValueError, text, lambda: OPS.maxpool_forward(make(1, 1, 4), [2], auto_pad=auto_pad))


@pytest.mark.parametrize("auto_pad", ["same", "same_lower"])
def test_auto_pad_with_padding(make, auto_pad):
    text = rf"^maxpool_forward: padding must be 0 where auto_pad is '{auto_pad}', got \[1\]"
    check(ValueError, text, lambda: OPS.maxpool_forward(make(1, 1, 4), [2], [1], [1], auto_pad=auto_pad))


def test_window_beyond_int32_offsets(make):
    """Offsets cannot name its elements; values need no names."""
    arguments = ([2**31 + 1], [1], [2**31 - 3, 0])
    check(
        ValueError,
        "^maxpool_forward: a window of kernel_size .* more elements",
        lambda: OPS.maxpool_forward(make(1, 1, 4), *arguments),
    )
    assert OPS.maxpool_values(make(1, 1, 4).detach(), *arguments).shape == (1, 1, 1)


def test_the_right_backward(make):
    """What rows of bad_arguments.tsv change is right in itself."""
    shape = (1, 2, 2, 3)
    grad, offsets = make(*shape), make(*shape, dtype=torch.uint8)
    rest = ([2, 2], [2, 2], [0], [1], False)
    assert OPS.maxpool_backward(grad, offsets, [4, 6], *rest).shape == (1, 2, 4, 6)
    assert OPS.maxpool_gather(make(1, 2, 4, 6), offsets, *rest).shape == shape
    assert OPS.maxpool_indices(offsets, [4, 6], *rest).shape == shape


@pytest.mark.parametrize("where", ["input", "offsets"])
def test_mixed_devices(where):
    meta = torch.device("meta")
    tensor = torch.zeros(1, 1, 4, device=meta if where == "input" else "cpu")
    offsets = torch.zeros(1, 1, 2, dtype=torch.uint8, device=meta if where == "offsets" else "cpu")
    rest = ([2], [2], [0], [1], False)
    grad = tensor[..., :2]
    check(RuntimeError, "maxpool_gather: .*one device", lambda: OPS.maxpool_gather(tensor, offsets, *rest))
    check(RuntimeError, "maxpool_backward: .*one device", lambda: OPS.maxpool_backward(grad, offsets, [4], *rest))


# Offsets that name no element: spatial sizes, kernel, stride, padding, dilation, window (0 is the first), offset.
PLACES = [
    pytest.param([4], [2], [2], [0], [1], 0, 2, id="beyond_the_window"),
    pytest.param([4], [2], [2], [0], [1], 1, 255, id="largest_uint8"),
    pytest.param([4], [3], [2], [1], [1], 0, 0, id="padding_before"),
    pytest.param([4], [3], [2], [1], [1], -1, 2, id="padding_after_with_ceil"),
    pytest.param([4, 4], [2, 2], [2], [0], [1], 0, 4, id="2d_beyond"),
    pytest.param([4, 4], [3, 3], [1], [1], [1], 0, 2, id="2d_row_in_the_padding"),
    pytest.param([4, 4], [3, 3], [1], [1], [1], 0, 3, id="2d_column_in_the_padding"),
    pytest.param([4, 4], [3, 3], [1], [1], [2], 0, 0, id="2d_dilated"),
    pytest.param([3, 3, 3], [2, 2, 2], [1], [1], [1], 0, 6, id="3d_padding"),
    pytest.param([20, 20], [17, 17], [1], [0], [1], 0, 289, id="wide_beyond"),
    pytest.param([20, 20], [17, 17], [1], [0], [1], 3, -1, id="wide_negative"),
    pytest.param([20, 20], [17, 17], [1], [0], [1], 3, 2**31 - 1, id="wide_largest"),
    pytest.param([20, 20], [17, 17], [1], [0], [1], 3, -(2**31), id="wide_smallest"),
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("spatial", "kernel", "stride", "padding", "dilation", "window", "offset"), PLACES)
def test_offsets_that_name_nothing(spatial, kernel, stride, padding, dilation, window, offset, dtype, channels_last):
    tensor = torch.zeros(2, 3, *spatial, dtype=dtype)
    if channels_last and len(spatial) > 1:
        tensor = tensor.contiguous(memory_format=[torch.channels_last, torch.channels_last_3d][len(spatial) - 2])
    rest = (kernel, stride, padding, dilation, True)
    output, offsets = OPS.maxpool_forward(tensor, *rest)
    text = "offsets hold a value that names no element of its window"
    for plane in ((0, 0), (1, 2)):
        broken = offsets.clone()
        flat = broken[plane].flatten()
        flat[window] = offset
        broken[plane] = flat.view(broken[plane].shape)
        assert broken.stride() == offsets.stride()
        check(IndexError, f"^maxpool_backward: {text}", lambda: OPS.maxpool_backward(output, broken, spatial, *rest))  # noqa: B023
        check(IndexError, f"^maxpool_indices: {text}", lambda: OPS.maxpool_indices(broken, spatial, *rest))  # noqa: B023
        check(IndexError, f"^maxpool_gather: {text}", lambda: OPS.maxpool_gather(tensor, broken, *rest))  # noqa: B023


def test_every_offset_of_every_window_is_judged():
    """Every tap, and some beyond, in all windows: accepted where the tap lies in the input, refused everywhere else."""
    spatial, rest = [5, 4], ([3, 3], [2, 1], [2, 1, 1, 2], [1, 2], False)
    axes = reference.make_axes(2, *rest)
    shape = [axis.output(size) for axis, size in zip(axes, spatial, strict=True)]
    for row in range(shape[0]):
        for column in range(shape[1]):
            taps = [
                {tap for tap, _ in axis.taps(size, at)}
                for axis, size, at in zip(axes, spatial, (row, column), strict=True)
            ]
            for value in [*range(12), 255]:
                grad = torch.ones(1, 1, *shape)
                offsets = OPS.maxpool_forward(torch.zeros(1, 1, *spatial), *rest)[1]
                offsets[0, 0, row, column] = value
                empty = not (taps[0] and taps[1])
                if empty or (value < 9 and value // 3 in taps[0] and value % 3 in taps[1]):
                    assert OPS.maxpool_backward(grad, offsets, spatial, *rest).sum() == grad.numel() - empty
                else:
                    with pytest.raises(IndexError, match="names no element"):
                        OPS.maxpool_backward(grad, offsets, spatial, *rest)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("width", [5, 19])  # rows judged as one, and those whose middle is whole
def test_every_offset_has_its_index_or_is_named(width, dilation, channels_last):
    spatial, kernel, stride, padding = [4, width], [3, 2], [2, 1], [1, 1]
    tensor = torch.zeros(2, 3, *spatial)
    if channels_last:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    rest = (kernel, stride, padding, [dilation], False)
    offsets = OPS.maxpool_forward(tensor, *rest)[1]
    for number, place in list(enumerate(np.ndindex(*offsets.shape)))[::3]:
        for offset in [*range(7), 255]:
            broken = offsets.clone()
            broken[place] = offset
            row, column = (
                place[2 + i] * stride[i] - padding[i] + tap * dilation for i, tap in enumerate(divmod(offset, 2))
            )
            if offset < 6 and 0 <= row < spatial[0] and 0 <= column < width:
                assert OPS.maxpool_indices(broken, spatial, *rest)[place] == row * width + column
            else:
                check(IndexError, rf".*\(element {number} of", lambda: OPS.maxpool_indices(broken, spatial, *rest))  # noqa: B023


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((2, 5, 7, 7), [3, 3], [2, 2], [1, 1]),
        ((9, 4, 6, 9), [2, 3], [3, 4], [1, 1]),
        ((1, 4, 40, 300), [3, 3], [4, 3], [1, 1]),
        ((1, 40, 90, 31), [5, 3], [2, 3], [2, 1]),
        ((1, 70, 6, 8), [5, 5], [1, 1], [2, 2]),
        ((2, 3, 12, 12), [2, 2], [1, 1], [0, 1]),
        ((1, 1, 40, 50), [9, 9], [1, 1], [4, 4]),
    ],
    ids=str,
)
def test_backward_names_the_offset_that_is_bad(shape, kernel, stride, padding, channels_last):
    tensor = torch.zeros(shape)
    if channels_last:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    rest = (list(shape[2:]), kernel, stride, padding, [1], False)
    offsets = OPS.maxpool_forward(tensor, *rest[1:])[1]
    grad = torch.ones_like(offsets, dtype=torch.float32)
    random = np.random.default_rng(0)
    taps = kernel[0] * kernel[1]
    for _ in range(60):
        place = tuple(random.integers(offsets.shape))
        offset = int(random.integers(taps + 3))
        broken = offsets.clone()
        broken[place] = offset
        at = [place[2 + i] * stride[i] - padding[i] + tap for i, tap in enumerate(divmod(offset, kernel[1]))]
        if offset < taps and all(0 <= x < size for x, size in zip(at, shape[2:], strict=True)):
            assert OPS.maxpool_backward(grad, broken, *rest)[(*place[:2], *at)] > 0
        else:
            number = np.ravel_multi_index(place, offsets.shape)
            check(IndexError, rf".*\(element {number} of", lambda: OPS.maxpool_backward(grad, broken, *rest))  # noqa: B023
