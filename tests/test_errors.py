"""Bad arguments: clear errors, the same on every device and with and without gradients, and never a crash."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import reference
from common import CLEAR_ERRORS, OPS, assert_array, text_of, to_numpy


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


# What is wrong: (name, shape of the input, arguments, exception, text after "<operator>: ").
FORWARD_ARGUMENTS = [
    ("kernel_empty", (1, 1, 4), ([],), ValueError, r"kernel_size must have 1, 2 or 3 entries, .* got \[\]"),
    (
        "kernel_of_4",
        (1, 1, 4),
        ([1] * 4,),
        ValueError,
        r"kernel_size must have 1, 2 or 3 entries, .* got \[1, 1, 1, 1\]",
    ),
    ("kernel_zero", (1, 1, 4, 4), ([2, 0],), ValueError, r"kernel_size must be greater than zero, got \[2, 0\]"),
    ("kernel_negative", (1, 1, 4), ([-3],), ValueError, r"kernel_size must be greater than zero, got \[-3\]"),
    ("stride_zero", (1, 1, 4, 4), ([2, 2], [0, 2]), ValueError, r"stride must be greater than zero, got \[0, 2\]"),
    ("stride_negative", (1, 1, 4), ([2], [-1]), ValueError, r"stride must be greater than zero, got \[-1\]"),
    ("stride_long", (1, 1, 4), ([2], [1, 1]), ValueError, r"stride must have 1 or 1 entries, .* got \[1, 1\]"),
    (
        "stride_short",
        (1, 1, 4, 4, 4),
        ([2] * 3, [1, 1]),
        ValueError,
        r"stride must have 1 or 3 entries, .* got \[1, 1\]",
    ),
    ("dilation_zero", (1, 1, 4), ([2], [1], [0], [0]), ValueError, r"dilation must be greater than zero, got \[0\]"),
    (
        "dilation_negative",
        (1, 1, 4),
        ([2], [1], [0], [-(2**63)]),
        ValueError,
        r"dilation must be greater than zero, got",
    ),
    ("dilation_empty", (1, 1, 4), ([2], [1], [0], []), ValueError, r"dilation must have 1 or 1 entries, .* got \[\]"),
    (
        "dilation_long",
        (1, 1, 4, 4),
        ([2, 2], [], [0], [1] * 3),
        ValueError,
        r"dilation must have 1 or 2 entries, .* got",
    ),
    ("padding_empty", (1, 1, 4), ([2], [], []), ValueError, r"padding must have 1, 1 or 2 entries .* got \[\]"),
    (
        "padding_of_3",
        (1, 1, 4, 4),
        ([2, 2], [], [0] * 3),
        ValueError,
        r"padding must have 1, 2 or 4 entries .* got \[0, 0, 0\]",
    ),
    ("padding_of_5", (1, 1, 4, 4), ([2, 2], [], [0] * 5), ValueError, r"padding must have 1, 2 or 4 entries"),
    ("padding_negative", (1, 1, 4), ([2], [], [-1]), ValueError, r"padding must not be negative, got \[-1\]"),
    ("padding_negative_end", (1, 1, 4), ([2], [], [0, -1]), ValueError, r"padding must not be negative, got \[0, -1\]"),
    (
        "padding_wide",
        (1, 1, 4),
        ([2], [], [2]),
        ValueError,
        r"padding must be smaller than the effective kernel size 2 .* got padding \[2\]",
    ),
    (
        "padding_wide_end",
        (1, 1, 4),
        ([2], [], [0, 3], [2]),
        ValueError,
        r"padding must be smaller than the effective kernel size 3",
    ),
    (
        "padding_huge",
        (1, 1, 4),
        ([2], [], [2**63 - 1]),
        ValueError,
        r"padding must be smaller than the effective kernel size 2",
    ),
    (
        "reach_overflows",
        (1, 1, 4),
        ([2**62], [1], [0], [3]),
        ValueError,
        r"dilation \* \(kernel_size - 1\) \+ 1 overflows",
    ),
    ("size_overflows", (1, 1, 4), ([2**63 - 1], [1], [2**63 - 2]), ValueError, r"sizes overflow 64-bit integers"),
    (
        "rounding_overflows",
        (1, 1, 4),
        ([4], [2**63 - 1], [3], [1], True),
        ValueError,
        r"sizes overflow 64-bit integers",
    ),
    (
        "bytes_overflow",
        (1, 1, 4),
        ([2**61], [1], [2**61 - 1]),
        ValueError,
        r"(sizes overflow 64-bit integers|a window of kernel_size)",
    ),
    (
        "rank_low",
        (4, 4),
        ([2, 2],),
        RuntimeError,
        r"input must have 3 \(unbatched\) or 4 dimensions .* got sizes \[4, 4\]",
    ),
    ("rank_high", (1, 1, 4, 4), ([2],), RuntimeError, r"input must have 2 \(unbatched\) or 3 dimensions .* got sizes"),
    ("rank_zero", (), ([2],), RuntimeError, r"input must have 2 \(unbatched\) or 3 dimensions .* got sizes \[\]"),
    (
        "no_channels",
        (2, 0, 4),
        ([2],),
        RuntimeError,
        r"input may be empty in its batch dimension only, got sizes \[2, 0, 4\]",
    ),
    ("no_length", (2, 1, 0), ([2], [], [1]), RuntimeError, r"input may be empty in its batch dimension only"),
    ("no_channels_unbatched", (0, 4), ([2],), RuntimeError, r"input may be empty in its batch dimension only"),
    (
        "too_small",
        (1, 1, 4, 2),
        ([3, 3],),
        RuntimeError,
        r"output size is too small in spatial dimension 1: input size 2, kernel_size 3",
    ),
    ("too_small_empty_batch", (0, 1, 4), ([5],), RuntimeError, r"output size is too small in spatial dimension 0"),
    (
        "too_small_ceil",
        (1, 1, 2),
        ([5], [2], [0], [1], True),
        RuntimeError,
        r"output size is too small in spatial dimension 0",
    ),
]


def named(rows):
    """Rows as parameters, each called by its first entry."""
    return [pytest.param(*row, id=row[0]) for row in rows]


def check(error, text, call):
    """`call` raises exactly `error`, with a text that begins with the operator's name."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    caught.match(text)
    assert "INTERNAL ASSERT" not in str(caught.value)
    return text_of(caught.value)


@pytest.mark.parametrize("operator", ["maxpool_forward", "maxpool_values"])
@pytest.mark.parametrize(("name", "shape", "arguments", "error", "text"), named(FORWARD_ARGUMENTS))
def test_forward_arguments(make, operator, name, shape, arguments, error, text):
    # Where a gradient is recorded the offsets are needed, so maxpool_values is a maxpool_forward.
    check(error, rf"^maxpool_(forward|values): {text}", lambda: getattr(OPS, operator)(make(*shape), *arguments))


@pytest.mark.parametrize(("name", "shape", "arguments", "error", "text"), named(FORWARD_ARGUMENTS))
def test_same_text_everywhere(name, shape, arguments, error, text):
    texts = set()
    for device in ("cpu", "grad", "meta", "fake"):
        texts.add(check(error, text, lambda: OPS.maxpool_forward(tensors(device)(*shape), *arguments)))  # noqa: B023
    assert len(texts) == 1


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


# A right call of maxpool_backward, and what is changed in it.
RIGHT = {
    "grad": (1, 2, 2, 3),
    "grad_dtype": torch.float32,
    "offsets": (1, 2, 2, 3),
    "offsets_dtype": torch.uint8,
    "spatial": [4, 6],
    "kernel": [2, 2],
}
WIDE = {"grad": (1, 2, 1, 1), "offsets": (1, 2, 1, 1), "spatial": [20, 20], "kernel": [20, 20]}
OFFSETS_SIZES = r"offsets must have sizes \[1, 2, 2, 3\]"
GRAD_DTYPE = r"grad_output must be float64, float32, float16 or bfloat16, got"
SPATIAL_LENGTH = r"input_spatial_size must have 2 entries, .* got \["
BACKWARD_ARGUMENTS = [
    ("offsets_batch", {"offsets": (2, 2, 2, 3)}, RuntimeError, OFFSETS_SIZES),
    ("offsets_channels", {"offsets": (1, 1, 2, 3)}, RuntimeError, OFFSETS_SIZES),
    ("offsets_unbatched", {"offsets": (2, 2, 3)}, RuntimeError, OFFSETS_SIZES),
    ("offsets_spatial", {"offsets": (1, 2, 3, 2)}, RuntimeError, OFFSETS_SIZES),
    ("offsets_rank", {"offsets": (2, 3)}, RuntimeError, r"offsets must have 3 \(unbatched\) or 4 dimensions"),
    ("offsets_empty", {"offsets": (1, 2, 0, 3)}, RuntimeError, r"offsets may be empty in its batch dimension only"),
    ("offsets_int64", {"offsets_dtype": torch.int64}, TypeError, r"offsets must be .* for kernel_size \[2, 2\], got"),
    ("offsets_int32", {"offsets_dtype": torch.int32}, TypeError, r"offsets must be .* for kernel_size \[2, 2\], got"),
    ("offsets_float", {"offsets_dtype": torch.float32}, TypeError, r"offsets must be .* got"),
    ("offsets_narrow", WIDE, TypeError, r"offsets must be .* for kernel_size \[20, 20\], got"),
    ("grad_int", {"grad_dtype": torch.int64}, TypeError, GRAD_DTYPE),
    ("grad_complex", {"grad_dtype": torch.complex64}, TypeError, GRAD_DTYPE),
    ("grad_float8", {"grad_dtype": torch.float8_e4m3fn}, TypeError, GRAD_DTYPE),
    ("grad_rank", {"grad": (2, 3)}, RuntimeError, r"grad_output must have 3 \(unbatched\) or 4 dimensions"),
    ("grad_empty", {"grad": (0, 0, 0, 0)}, RuntimeError, r"grad_output may be empty in its batch dimension only"),
    ("spatial_other", {"spatial": [4, 9]}, RuntimeError, r"grad_output must have sizes \[1, 2, 2, 4\]"),
    ("spatial_full", {"spatial": [1, 2, 4, 6]}, ValueError, SPATIAL_LENGTH + "1, 2, 4, 6"),
    ("spatial_short", {"spatial": [4]}, ValueError, SPATIAL_LENGTH + "4"),
    ("spatial_none", {"spatial": []}, ValueError, SPATIAL_LENGTH),
    ("spatial_zero", {"spatial": [4, 0]}, ValueError, r"input_spatial_size must be greater than zero, got \[4, 0\]"),
    ("spatial_negative", {"spatial": [-4, 6]}, ValueError, r"input_spatial_size must be greater than zero"),
    ("spatial_small", {"spatial": [1, 6]}, RuntimeError, r"output size is too small in spatial dimension 0"),
    ("spatial_huge", {"spatial": [2**63 - 1, 6]}, ValueError, r"sizes overflow 64-bit integers"),
    ("kernel_zero", {"kernel": [2, 0]}, ValueError, r"kernel_size must be greater than zero"),
    ("kernel_rank", {"kernel": [2]}, RuntimeError, r"grad_output must have 2 \(unbatched\) or 3 dimensions"),
]


@pytest.mark.parametrize(("name", "changes", "error", "text"), named(BACKWARD_ARGUMENTS))
def test_backward_arguments(make, name, changes, error, text):
    call = {**RIGHT, **changes}
    grad = make(*call["grad"], dtype=call["grad_dtype"])
    offsets = make(*call["offsets"], dtype=call["offsets_dtype"]).detach()
    rest = (call["kernel"], call["kernel"], [0], [1], False)
    check(error, f"^maxpool_backward: {text}", lambda: OPS.maxpool_backward(grad, offsets, call["spatial"], *rest))
    if name in ("offsets_spatial", "offsets_rank", "offsets_empty") or (error is TypeError and "offsets" in name):
        check(error, "^maxpool_indices: ", lambda: OPS.maxpool_indices(offsets, call["spatial"], *rest))
    if name.startswith("offsets"):
        tensor = make(*call["grad"][:2], *call["spatial"])
        check(error, "^maxpool_gather: ", lambda: OPS.maxpool_gather(tensor, offsets, *rest))


def test_the_right_backward(make):
    """What the calls above change is right in itself."""
    grad, offsets = make(*RIGHT["grad"]), make(*RIGHT["offsets"], dtype=torch.uint8)
    rest = ([2, 2], [2, 2], [0], [1], False)
    assert OPS.maxpool_backward(grad, offsets, [4, 6], *rest).shape == (1, 2, 4, 6)
    assert OPS.maxpool_gather(make(1, 2, 4, 6), offsets, *rest).shape == RIGHT["grad"]
    assert OPS.maxpool_indices(offsets, [4, 6], *rest).shape == RIGHT["grad"]


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


class Calls:
    """Names used by the rows of hostile_inputs.tsv; every result is compared with the reference."""

    def __init__(self):
        self.indices = None

    def fwd(self, tensor, *arguments):
        output, offsets = OPS.maxpool_forward(tensor, *arguments)
        expected = reference.pool(to_numpy(tensor), reference.make_axes(len(arguments[0]), *arguments))
        assert_array(output, expected.values)
        some = expected.offsets >= 0
        assert np.array_equal(offsets.numpy()[some], expected.offsets[some])
        self.indices = expected.indices
        return output, offsets

    def bwd(self, grad, offsets, size, kernel, *rest):
        rank = len(kernel)
        if len(size) in (rank + 1, rank + 2):
            size = size[-rank:]
        dtype = torch.uint8 if np.prod([float(n) for n in kernel]) <= 256 else torch.int32
        if offsets.dtype == torch.int64 and torch.equal(offsets, offsets.to(dtype).to(torch.int64)):
            offsets = offsets.to(dtype)
        result = OPS.maxpool_backward(grad, offsets, size, kernel, *rest)
        if self.indices is not None:
            assert_array(result, reference.scatter(to_numpy(grad), self.indices, tuple(size)))
        return result

    @staticmethod
    def L(number, *shape):
        return torch.full(shape, number, dtype=torch.int64)


with open(Path(__file__).with_name("hostile_inputs.tsv"), encoding="utf-8", newline="") as file:
    HOSTILE = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("row", HOSTILE, ids=lambda row: row["id"])
def test_hostile_inputs(row):
    """Calls that crashed, hung or misled some library: kind E must raise the text, kind R must equal the reference."""
    calls = Calls()
    names = {"torch": torch, "fwd": calls.fwd, "bwd": calls.bwd, "L": calls.L}
    if row["kind"] == "R":
        eval(row["call"], names)
        return
    with pytest.raises(CLEAR_ERRORS) as caught:
        eval(row["call"], names)
    assert row["expected"] in str(caught.value)
    assert "maxpool_" in str(caught.value)
    assert "INTERNAL ASSERT" not in str(caught.value)
