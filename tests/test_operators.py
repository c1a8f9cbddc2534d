"""The operators in torch.ops.torch_maxpool: how they relate, how they are called, what PyTorch expects of them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import reference
from common import (
    CASES,
    DTYPES,
    FLOATS,
    OPS,
    TORCH_CASES,
    TORCH_POOL,
    TORCH_UNPOOL,
    Case,
    assert_array,
    assert_same,
    every_case,
    random_input,
)

SCHEMAS = {
    "maxpool_forward": "(Tensor input, int[] kernel_size, int[] stride=[], int[] padding=[0], int[] dilation=[1], "
    'bool ceil_mode=False, *, bool exact=False, str auto_pad="explicit") -> (Tensor output, Tensor offsets)',
    "maxpool_values": "(Tensor input, int[] kernel_size, int[] stride=[], int[] padding=[0], int[] dilation=[1], "
    'bool ceil_mode=False, *, bool exact=False, str auto_pad="explicit") -> Tensor',
    "maxpool_backward": "(Tensor grad_output, Tensor offsets, SymInt[] input_spatial_size, int[] kernel_size, "
    'int[] stride, int[] padding, int[] dilation, bool ceil_mode, *, str auto_pad="explicit") -> Tensor grad_input',
    "maxpool_gather": "(Tensor input, Tensor offsets, int[] kernel_size, int[] stride, int[] padding, int[] dilation, "
    'bool ceil_mode, *, str auto_pad="explicit") -> Tensor',
    "maxpool_indices": "(Tensor offsets, SymInt[] input_spatial_size, int[] kernel_size, int[] stride, int[] padding, "
    'int[] dilation, bool ceil_mode, *, str auto_pad="explicit") -> Tensor',
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema(name):
    assert str(getattr(OPS, name).default._schema) == f"torch_maxpool::{name}{SCHEMAS[name]}"


class Recorder(TorchDispatchMode):
    """Names of the operators that reach the kernels."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.names.append(function.name())
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_case()
def test_values_only_equals_forward(case, dtype):
    tensor = case.layout(random_input(case.shape, dtype))
    output = case.forward(tensor)[0]
    values = case.values(tensor)
    assert_same(values, output)
    assert values.stride() == output.stride()


def test_values_only_makes_no_offsets(rank):
    """One kernel runs, and it allocates the output and nothing else."""
    tensor = torch.randn(1, 2, *[8] * rank)
    with Recorder() as recorder:
        OPS.maxpool_values(tensor, [2] * rank)
    assert recorder.names == ["torch_maxpool::maxpool_values"]
    activities = [torch.profiler.ProfilerActivity.CPU]
    for operator, tensors in ((OPS.maxpool_values, 1), (OPS.maxpool_forward, 2)):
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            results = operator(tensor, [2] * rank)
        results = results if isinstance(results, tuple) else (results,)
        assert len(results) == tensors
        allocated = sum(event.self_cpu_memory_usage for event in profile.key_averages())
        assert allocated == sum(result.nbytes for result in results)
        del results  # or the next round would count its release


def test_values_only_where_a_gradient_is_recorded(rank):
    tensor = torch.randn(1, 2, *[8] * rank, requires_grad=True)
    with Recorder() as recorder:
        OPS.maxpool_values(tensor, [2] * rank).sum().backward()
    ours = [name for name in recorder.names if name.startswith("torch_maxpool")]
    assert ours == ["torch_maxpool::maxpool_forward", "torch_maxpool::maxpool_backward"]


@every_case([case for case in TORCH_CASES if case.dilation == (1,) and not case.ceil_mode])
def test_unpooling(case):
    tensor = case.input(torch.float32)
    output, offsets = case.forward(tensor)
    indices = case.indices(offsets)
    assert indices.dtype == torch.int64
    # Overlapping windows may name an element twice; unpooling then writes the same value twice.
    arguments = [entries[0] if len(entries) == 1 else entries for entries in case.window[:3]]
    restored = TORCH_UNPOOL[case.rank](output, indices, *arguments, output_size=list(case.spatial))
    winners = torch.zeros(case.shape).flatten(-case.rank)
    winners.scatter_(-1, indices.flatten(-case.rank), output.flatten(-case.rank))
    assert torch.equal(restored, winners.reshape(case.shape))
    # A maximum other than 0 pools to itself again.
    assert_same(case.forward(restored.clamp_min(0))[0], output.clamp_min(0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_case()
def test_gather(case, dtype):
    tensor = case.layout(random_input(case.shape, dtype))
    expected = case.expected(tensor)
    output, offsets = case.forward(tensor)
    picked = case.gather(tensor, offsets)
    assert picked.dtype == dtype
    assert picked.stride() == output.stride()
    other = case.layout(random_input(case.shape, torch.float32))
    assert_array(case.gather(other, offsets), reference.gather(other.numpy(), expected.indices, case.rank))
    some = torch.from_numpy(expected.indices >= 0)
    assert_same(picked[some], output[some])


def test_lists_of_one_entry_serve_every_dimension(rank):
    tensor = torch.randn(1, 2, *[9] * rank)
    short = OPS.maxpool_forward(tensor, [3] * rank, [2], [1], [2], False)
    long = OPS.maxpool_forward(tensor, [3] * rank, [2] * rank, [1] * rank, [2] * rank, False)
    both_sides = OPS.maxpool_forward(tensor, [3] * rank, [2] * rank, [1] * 2 * rank, [2] * rank, False)
    for other in (long, both_sides):
        assert torch.equal(short[0], other[0])
        assert torch.equal(short[1], other[1])


def test_positional_and_default_arguments():
    tensor = torch.randn(1, 1, 4, 4)
    expected = TORCH_POOL[2](tensor, 2)
    assert torch.equal(OPS.maxpool_forward(tensor, [2, 2], [2, 2], [0, 0], [1, 1], False)[0], expected)
    assert torch.equal(OPS.maxpool_forward(tensor, [2, 2])[0], expected)
    keywords = {"stride": [2], "padding": [0], "dilation": [1], "ceil_mode": False, "exact": True}
    assert torch.equal(OPS.maxpool_forward(input=tensor, kernel_size=[2, 2], **keywords)[0], expected)


@pytest.mark.parametrize("auto_pad", ["same", "same_lower"])
@pytest.mark.parametrize("size", range(1, 8))
def test_same_padding_sizes(rank, auto_pad, size):
    for kernel, stride in ((2, 1), (3, 2), (4, 3), (2, 3)):
        output = OPS.maxpool_values(torch.randn(1, 1, *[size] * rank), [kernel] * rank, [stride], auto_pad=auto_pad)
        assert output.shape[2:] == tuple([-(-size // stride)] * rank)


@pytest.mark.parametrize("auto_pad", ["same", "same_lower"])
def test_same_padding_side(auto_pad):
    # One element of padding for a kernel of two: after ("same") or before ("same_lower").
    output = OPS.maxpool_values(torch.tensor([[3.0, 1.0, 2.0]]), [2], [1], auto_pad=auto_pad)
    assert output.tolist() == ([[3.0, 2.0, 2.0]] if auto_pad == "same" else [[3.0, 3.0, 2.0]])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [(8, 2, 2, [0], 1), (7, 3, 2, [1], 1), (9, 3, 2, [0], 2), (6, 4, 3, [1, 0], 1), (5, 5, 7, [0], 1)],
)
def test_exact_accepts_what_tiles(rank, size, kernel, stride, padding, dilation):
    tensor = torch.randn(1, 1, *[size] * rank)
    padding = [entry for entry in padding for _ in range(rank)] if len(padding) == 2 else padding
    arguments = ([kernel] * rank, [stride], padding, [dilation])
    assert all(axis.tiles(size) for axis in reference.make_axes(rank, *arguments))
    assert_same(OPS.maxpool_values(tensor, *arguments, exact=True), OPS.maxpool_values(tensor, *arguments))


@pytest.mark.parametrize("operator", [OPS.maxpool_forward, OPS.maxpool_values], ids=str)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [(7, 2, 2, [0], 1), (8, 3, 2, [1], 1), (10, 2, 3, [0], 2), (6, 4, 3, [0], 1), (5, 5, 7, [1], 1), (1, 2, 2, [0], 1)],
)
def test_exact_refuses_what_does_not(rank, operator, ceil_mode, size, kernel, stride, padding, dilation):
    arguments = ([kernel] * rank, [stride], padding, [dilation])
    assert not any(axis.tiles(size) for axis in reference.make_axes(rank, *arguments))
    text = "Invalid dimensions!" if size > 1 or ceil_mode else "output size is too small"
    for requires_grad in (False, True):
        tensor = torch.randn(1, 1, *[size] * rank, requires_grad=requires_grad)
        with pytest.raises((ValueError, RuntimeError), match=text):
            operator(tensor, *arguments, ceil_mode, exact=True)


CHECKED = [
    case for case in CASES if case.name in ("1d_ceil", "2d_channels_last", "2d_same", "3d_overlap_pad_unbatched")
]
CHECKED.append(Case("2d_empty_batch", (0, 2, 4, 4), (2, 2)))
CHECKED.append(Case("1d_no_element", (1, 1, 3), (2,), (1,), (3,), (5,)))


def opcheck(operator, arguments, keywords):
    checked = torch.library.opcheck(operator, arguments, keywords)
    assert set(checked.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", ["maxpool_forward", "maxpool_values"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16], ids=str)
@every_case(CHECKED)
def test_opcheck_forward(case, name, dtype):
    tensor = case.input(dtype).requires_grad_(dtype in FLOATS)
    opcheck(getattr(OPS, name).default, (tensor, *case.window), case.keywords)


@every_case(CHECKED)
def test_opcheck_the_rest(case):
    tensor = case.input(torch.float32)
    output, offsets = case.forward(tensor)
    spatial = list(case.spatial)
    grad = torch.randn_like(output).requires_grad_()
    opcheck(OPS.maxpool_backward.default, (grad, offsets, spatial, *case.window), case.keywords)
    opcheck(OPS.maxpool_gather.default, (tensor.requires_grad_(), offsets, *case.window), case.keywords)
    opcheck(OPS.maxpool_indices.default, (offsets, spatial, *case.window), case.keywords)


@pytest.mark.parametrize("suffix", ["", "_with_indices"])
@pytest.mark.parametrize("padding", [1, "same", "same_lower", "valid"])
def test_opcheck_of_the_functional_operators(rank, suffix, padding):
    packet = getattr(OPS, f"max_pool{rank}d{suffix}")
    operator = packet.word if isinstance(padding, str) else packet.default
    tensor = torch.randperm(2 * 2 * 5**rank).reshape(2, 2, *[5] * rank).float().requires_grad_()
    opcheck(operator, (tensor, [3], [2], padding), {})
    opcheck(operator, (tensor.detach()[0], [2] * rank), {"padding": padding, "ceil_mode": True})
