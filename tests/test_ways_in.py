"""One validator on every way in: the rows of bad_arguments.tsv give the same error by every way that takes them.

Columns: ``operator`` is forward, backward, gather or indices; ``tensor`` is the input (grad_output for backward), as
dtype and sizes; ``offsets``, ``size`` (input_spatial_size) and the rest are the operators' arguments; ``error`` and
``message`` are what is raised, the operator's name in front of the message. tests/cpp/test_ways_in.cpp reads the same
file.
"""

import ast
import csv
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from common import CHANNELS_LAST, DTYPES, FLOATS, OPS, OUR_MODULE, OUR_POOL, text_of

LISTS = ("kernel_size", "stride", "padding", "dilation")


def read_rows():
    with open(Path(__file__).with_name("bad_arguments.tsv"), encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            for name in (*LISTS, "ceil_mode", "exact"):
                row[name] = ast.literal_eval(row[name])
            row["size"] = ast.literal_eval(row["size"] or "[]")
            row["error"] = {error.__name__: error for error in (ValueError, TypeError, RuntimeError)}[row["error"]]
            yield row


ROWS = list(read_rows())
FORWARD = [row for row in ROWS if row["operator"] == "forward"]
OTHER = [row for row in ROWS if row["operator"] != "forward"]
every_forward_row = pytest.mark.parametrize("row", FORWARD, ids=lambda row: row["name"])
every_other_row = pytest.mark.parametrize("row", OTHER, ids=lambda row: row["name"])


def sizes_of(text):
    return ast.literal_eval(text.split(" ", 1)[1])


def dtype_of(text):
    return getattr(torch, text.split(" ", 1)[0])


def plain(sizes, dtype, device="cpu"):
    """Zeros of any size that take no memory."""
    return torch.zeros(1 if sizes else (), dtype=dtype, device=device).expand(sizes)


def tensor_of(text, kind="cpu"):
    """The tensor that a cell describes: on "cpu" or "meta", a "fake" one, or one that records gradients ("grad")."""
    sizes, dtype = sizes_of(text), dtype_of(text)
    if kind == "fake":
        with FakeTensorMode(allow_non_fake_inputs=True):
            return plain(sizes, dtype)
    tensor = plain(sizes, dtype, "meta" if kind == "meta" else "cpu")
    records = kind == "grad" and (dtype.is_floating_point or dtype.is_complex) and tensor.numel() < 1000
    return tensor.clone().requires_grad_() if records else tensor


def window(row):
    return *(row[name] for name in LISTS), row["ceil_mode"]


def expect(row, call, wrapped=False):
    """`call` raises the row's error; a wrapped one has the row's message somewhere in its text."""
    with pytest.raises(RuntimeError if wrapped else row["error"]) as caught:
        call()
    assert "INTERNAL ASSERT" not in str(caught.value)
    if wrapped:
        assert row["message"] in str(caught.value)
        return
    assert type(caught.value) is row["error"]
    operator, _, message = text_of(caught.value).partition(": ")
    # Where a gradient is recorded maxpool_values is a maxpool_forward, for it needs the offsets.
    names = ("maxpool_forward", "maxpool_values") if row["operator"] == "forward" else (f"maxpool_{row['operator']}",)
    assert operator in names
    assert message == row["message"]


@torch.jit.script
def scripted_forward(
    x: torch.Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
    exact: bool,
    auto_pad: str,
):
    return torch.ops.torch_maxpool.maxpool_forward(
        x, kernel_size, stride, padding, dilation, ceil_mode, exact=exact, auto_pad=auto_pad
    )


def operators(row):
    """The operators that raise the row's error."""
    keywords = {"exact": row["exact"], "auto_pad": row["auto_pad"]}
    names = ["maxpool_forward"]
    if row["name"] != "window_beyond_int32":  # that is no error where offsets are not needed
        names.append("maxpool_values")
    return [(name, lambda x, name=name: getattr(OPS, name)(x, *window(row), **keywords)) for name in names]


def public_functions(row):
    """The functions, modules and composite operators that take the row's arguments, by name."""
    rank = len(row["kernel_size"])
    if rank not in OUR_POOL or row["auto_pad"] not in ("explicit", "same", "same_lower"):
        return []
    kernel_size, stride, padding, dilation, ceil_mode = window(row)
    if row["auto_pad"] != "explicit":
        if padding != [0]:
            return []
        padding = row["auto_pad"]
    rest = (kernel_size, stride, padding, dilation)
    exact = row["exact"]
    module = OUR_MODULE[rank](*rest, ceil_mode=ceil_mode, return_indices=True, exact=exact)
    indexed = [
        (f"max_pool{rank}d, indices", lambda x: OUR_POOL[rank](x, *rest, ceil_mode, True, exact=exact)),
        (f"MaxPool{rank}d, indices", module),
        (
            f"ops.max_pool{rank}d_with_indices",
            lambda x: getattr(OPS, f"max_pool{rank}d_with_indices")(x, *rest, ceil_mode, exact=exact),
        ),
    ]
    if row["name"] == "window_beyond_int32":
        return indexed
    module = OUR_MODULE[rank](*rest, ceil_mode=ceil_mode, exact=exact)
    return [
        *indexed,
        (f"max_pool{rank}d", lambda x: OUR_POOL[rank](x, *rest, ceil_mode, exact=exact)),
        (f"MaxPool{rank}d", module),
        (f"ops.max_pool{rank}d", lambda x: getattr(OPS, f"max_pool{rank}d")(x, *rest, ceil_mode, exact=exact)),
    ]


@pytest.mark.parametrize("kind", ["cpu", "grad", "meta", "fake"])
@every_forward_row
def test_forward(row, kind):
    for _, call in [*operators(row), *public_functions(row)]:
        tensor = tensor_of(row["tensor"], kind)
        expect(row, lambda call=call, tensor=tensor: call(tensor))


@every_forward_row
def test_forward_without_recording(row):
    for _, call in [*operators(row), *public_functions(row)]:
        tensor = tensor_of(row["tensor"], "grad")
        with torch.no_grad():
            expect(row, lambda call=call, tensor=tensor: call(tensor))
        with torch.inference_mode():
            expect(row, lambda call=call, tensor=tensor: call(tensor))


@every_forward_row
def test_forward_under_transforms(row):
    """vmap, grad and jvp; a float input that transforms can differentiate."""
    tensor = tensor_of(row["tensor"])
    calls = [*operators(row)[:1], *public_functions(row)[-1:]]
    for _, call in calls:

        def total(x, call=call):
            found = call(x)
            return (found if isinstance(found, torch.Tensor) else found[0]).sum()

        # PyTorch's own arithmetic must hold twice as many; errors on empty tensors name folded sizes
        if 0 < tensor.numel() < 1000:
            expect(row, lambda call=call: torch.func.vmap(call)(tensor.expand(2, *tensor.shape)))
        if tensor.dtype == torch.float32:
            expect(row, lambda total=total: torch.func.grad(total)(tensor))
            expect(row, lambda total=total: torch.func.jvp(total, (tensor,), (tensor,)))


@every_forward_row
def test_forward_in_torchscript(row):
    for kind in ("cpu", "grad", "meta"):
        tensor = tensor_of(row["tensor"], kind)
        expect(row, lambda: scripted_forward(tensor, *window(row), row["exact"], row["auto_pad"]), True)  # noqa: B023


COMPILED = ["stride_zero", "padding_wide", "too_small", "exact", "input_complex64", "rank_low"]


@pytest.mark.parametrize("row", [row for row in FORWARD if row["name"] in COMPILED], ids=lambda row: row["name"])
def test_forward_in_compiled_code(row):
    tensor = tensor_of(row["tensor"])
    for _, call in public_functions(row)[-3:-2]:
        torch._dynamo.reset()
        compiled = torch.compile(call, backend="eager", fullgraph=True, dynamic=False)
        expect(row, lambda compiled=compiled: compiled(tensor), True)


def other_call(row, kind, dtype=None, layout=lambda tensor: tensor):
    """The call of maxpool_backward, maxpool_gather or maxpool_indices."""
    offsets = layout(tensor_of(row["offsets"], "cpu" if kind == "grad" else kind))
    operator = getattr(OPS, f"maxpool_{row['operator']}")
    arguments = (*window(row),)
    keywords = {"auto_pad": row["auto_pad"]}
    if row["operator"] == "indices":
        return lambda: operator(offsets, row["size"], *arguments, **keywords)
    tensor = layout(tensor_of(row["tensor"], kind))
    if dtype is not None:
        tensor = tensor.to(dtype)
    if row["operator"] == "gather":
        return lambda: operator(tensor, offsets, *arguments, **keywords)
    return lambda: operator(tensor, offsets, row["size"], *arguments, **keywords)


@pytest.mark.parametrize("kind", ["cpu", "grad", "meta", "fake"])
@every_other_row
def test_backward_gather_indices(row, kind):
    call = other_call(row, kind)
    expect(row, call)
    if kind == "grad":
        with torch.no_grad():
            expect(row, call)


def layouts_of(tensor):
    """The same tensor in every layout that its rank has."""
    yield tensor
    if tensor.dim() >= 2:
        yield tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if tensor.dim() - 2 in CHANNELS_LAST:
        yield tensor.contiguous(memory_format=CHANNELS_LAST[tensor.dim() - 2])


@every_forward_row
def test_forward_every_dtype_and_layout(row):
    if dtype_of(row["tensor"]) != torch.float32 or tensor_of(row["tensor"]).numel() > 1000:
        return
    for dtype in DTYPES:
        for tensor in layouts_of(tensor_of(row["tensor"]).to(dtype)):
            for _, call in operators(row):
                expect(row, lambda call=call, tensor=tensor: call(tensor))
    message, sizes = row["message"], sizes_of(row["tensor"])
    if "got sizes" not in message and "overflow" not in message and len(sizes) == len(row["kernel_size"]) + 2:
        for _, call in operators(row):
            expect(row, lambda call=call: call(torch.zeros([0, *sizes[1:]])))


@every_other_row
def test_backward_gather_indices_every_dtype_and_layout(row):
    cells = [row[name] for name in ("tensor", "offsets") if row[name]]
    if any(tensor_of(cell).numel() > 1000 for cell in cells) or (row["tensor"] and dtype_of(cells[0]) != torch.float32):
        return
    dtypes = {"indices": [None], "gather": DTYPES, "backward": FLOATS}[row["operator"]]
    for dtype in dtypes:
        for number in range(3):

            def layout(tensor, number=number):
                found = list(layouts_of(tensor))
                return found[min(number, len(found) - 1)]

            expect(row, other_call(row, "cpu", dtype, layout))


@pytest.mark.parametrize("kernel_size", [[], [2, 2, 2, 2], [1, 2, 3, 4, 5]], ids=str)
def test_kernel_lists_that_fit_no_function(rank, kernel_size):
    """The one rule that the functions have of their own."""
    tensor = torch.zeros(1, 1, *[4] * rank)
    text = rf"^max_pool{rank}d: kernel_size must be an int or have {rank} entr.*, got \["
    for call in (
        lambda: OUR_POOL[rank](tensor, kernel_size),
        lambda: OUR_POOL[rank](tensor, kernel_size, return_indices=True),
        lambda: OUR_MODULE[rank](kernel_size)(tensor),
        lambda: getattr(OPS, f"max_pool{rank}d")(tensor, kernel_size),
    ):
        with pytest.raises(ValueError, match=text):
            call()


def test_none_for_a_tensor():
    """An undefined tensor has no device whose kernel could check it."""
    offsets = torch.zeros(1, 1, 2, dtype=torch.uint8)
    tensor = torch.zeros(1, 1, 4)
    rest = ([2], [2], [0], [1], False)
    for name, call in (
        ("maxpool_forward: input", lambda: OPS.maxpool_forward(None, [2])),
        ("maxpool_values: input", lambda: OPS.maxpool_values(None, [2])),
        ("maxpool_gather: input", lambda: OPS.maxpool_gather(None, offsets, *rest)),
        ("maxpool_gather: offsets", lambda: OPS.maxpool_gather(tensor, None, *rest)),
        ("maxpool_backward: grad_output", lambda: OPS.maxpool_backward(None, offsets, [4], *rest)),
        ("maxpool_backward: offsets", lambda: OPS.maxpool_backward(tensor, None, [4], *rest)),
        ("maxpool_indices: offsets", lambda: OPS.maxpool_indices(None, [4], *rest)),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be a tensor, got None"):
            call()


def test_arguments_of_other_kinds(rank):
    """What only Python can pass."""

    class Broken:
        def __index__(self):
            raise KeyError("of __index__")

    tensor = torch.zeros(1, 1, *[4] * rank)
    pool = OUR_POOL[rank]
    with pytest.raises(KeyError, match="of __index__"):
        pool(tensor, Broken())
    for name in ("ceil_mode", "exact"):
        with pytest.raises(TypeError, match=f"^max_pool{rank}d: {name} must be a bool, got 1"):
            pool(tensor, 2, **{name: 1})
    with pytest.raises(TypeError, match=f"^max_pool{rank}d: kernel_size must be an int or ints of 64 bits, got 2.5"):
        pool(tensor, 2.5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("requires_grad", [False, True])
def test_nested_tensors(requires_grad):
    nested = torch.nested.nested_tensor([torch.zeros(1, 4), torch.zeros(1, 6)], requires_grad=requires_grad)
    for call in (OPS.maxpool_forward, OPS.maxpool_values, OUR_POOL[1]):
        with pytest.raises(NotImplementedError, match="max pooling takes no nested tensors"):
            call(nested, [2])
