"""accelerate(): PyTorch's own functions and modules on this package's operators, bit for bit as without it."""

import random
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torch_maxpool
from common import (
    CHANNELS_LAST,
    DTYPES,
    FLOATS,
    INTEGERS,
    TORCH_CASES,
    TORCH_MODULE,
    TORCH_POOL,
    assert_same,
    every_case,
    random_input,
    text_of,
)

NAMES = [f"aten::max_pool{rank}d{form}" for form in ("", "_with_indices") for rank in (1, 2, 3)]
ATEN = torch.ops.aten


@pytest.fixture(autouse=True)
def _off_again():
    yield
    torch_maxpool.restore()


def operators_run(call):
    """Names of the operators of either library that `call` runs."""
    with torch.autograd.profiler.profile() as profile:
        call()
    return {event.name for event in profile.function_events if "pool" in event.name and "::" in event.name}


def runs_ours(call):
    names = operators_run(call)
    ours = any(name.startswith("torch_maxpool::") for name in names)
    if ours:
        assert not any("_backward" in name and name.startswith("aten::") for name in names)
        assert not any("CPU" in name for name in names)
    return ours


def keywords(case):
    return {
        "kernel_size": case.kernel,
        "stride": case.stride or None,
        "padding": case.padding,
        "dilation": case.dilation,
        "ceil_mode": case.ceil_mode,
    }


def results(pool, tensor, **arguments):
    """Values, indices and both gradients, and values in inference mode; whatever raises is its error."""

    def tried(call):
        try:
            return call()
        except Exception as error:
            return type(error), text_of(error)

    def gradient(return_indices):
        leaf = tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        output = pool(leaf, **arguments, return_indices=return_indices)
        output = output[0] if return_indices else output
        grad_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
        return torch.autograd.grad(output, leaf, grad_output)[0]

    found = [tried(lambda: pool(tensor, **arguments)), tried(lambda: pool(tensor, **arguments, return_indices=True))]
    with torch.inference_mode():
        found.append(tried(lambda: pool(tensor, **arguments)))
        found.append(tried(lambda: pool(tensor, **arguments, return_indices=True)))
    if tensor.dtype in FLOATS:
        found += [tried(lambda: gradient(False)), tried(lambda: gradient(True))]
    return found


def assert_alike(actual, expected):
    """Results as from results(), equal in everything."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(actual, torch.Tensor), actual
        assert_same(actual, expected)
        if actual.dim() > 3:  # 1-d outputs are contiguous here, in PyTorch they are in some ways of calling
            assert actual.stride() == expected.stride()
    elif isinstance(expected, (list, tuple)):
        assert isinstance(actual, (list, tuple)), actual
        for mine, plain in zip(actual, expected, strict=True):
            assert_alike(mine, plain)
    else:
        assert actual == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_case(TORCH_CASES)
def test_everything_equal(case, dtype):
    tensor = case.layout(random_input(case.shape, dtype))
    if case.rank == 3 and case.channels_last:  # see test_indices_of_channels_last_3d
        tensor = tensor.clamp_min(-3) if dtype in FLOATS else tensor
        tensor = tensor.clamp_min(torch.iinfo(dtype).min + 1) if dtype in INTEGERS else tensor
    expected = results(TORCH_POOL[case.rank], tensor, **keywords(case))
    with torch_maxpool.accelerate(quiet=True):
        actual = results(TORCH_POOL[case.rank], tensor, **keywords(case))
    assert_alike(actual, expected)


def draw(rng, rank):
    """Arguments of a call, most of them good."""

    def entries(low, high):
        values = [rng.randint(low, high) for _ in range(rank)]
        return rng.choice((values, values, values[0], values[:1]))

    shape = [rng.randint(1, 3) for _ in range(rng.choice((1, 2, 2)))] + [rng.choice((4, 5, 8, 11)) for _ in range(rank)]
    if rng.random() < 0.05:
        shape[rng.randrange(len(shape))] = 0
    tensor = random_input(shape, rng.choice(DTYPES))
    layout = rng.random()
    if layout < 0.3 and rank == 2 and len(shape) == 4:
        tensor = tensor.contiguous(memory_format=CHANNELS_LAST[rank])
    elif layout < 0.5:
        tensor = tensor.transpose(-1, 0).contiguous().transpose(-1, 0)
    elif layout < 0.6:
        tensor = torch.cat([tensor, tensor], -1)[..., ::2]
    if rank == 3 and tensor.dim() == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d):
        tensor = tensor.contiguous()
    wrong = -1 if rng.random() < 0.02 else 0
    arguments = {
        "kernel_size": entries(1 + wrong, 4),
        "stride": rng.choice((None, entries(1 + wrong, 3))),
        "padding": rng.choice((0, entries(wrong, 1))),
        "dilation": rng.choice((1, entries(1 + wrong, 3))),
        "ceil_mode": rng.random() < 0.4,
    }
    dilated = any(step > 1 for step in torch.tensor(arguments["dilation"]).reshape(-1).tolist())
    if dilated and tensor.numel():  # PyTorch's backward is not memory safe where a window has no element
        arguments["padding"], arguments["ceil_mode"] = 0, False
    return tensor, arguments


@pytest.mark.parametrize("seed", range(8))
def test_everything_equal_for_random_calls(rank, seed):
    """Results or, where PyTorch refuses the call, its errors."""
    rng = random.Random(seed)
    calls = [draw(rng, rank) for _ in range(60)]
    expected = [results(TORCH_POOL[rank], tensor, **arguments) for tensor, arguments in calls]
    with torch_maxpool.accelerate(quiet=True):
        for (tensor, arguments), plain in zip(calls, expected, strict=True):
            assert_alike(results(TORCH_POOL[rank], tensor, **arguments), plain)


def ways(rank):
    """Every way to call a pooling, with one tensor as argument."""
    kernel = [2] * rank
    pool = getattr(torch, f"max_pool{rank}d")
    found = {
        "functional": lambda x: TORCH_POOL[rank](x, 2),
        "functional_indices": lambda x: TORCH_POOL[rank](x, 2, return_indices=True),
        "module": TORCH_MODULE[rank](2),
        "module_indices": TORCH_MODULE[rank](2, return_indices=True),
        "torch": lambda x: pool(x, kernel),
        "aten": lambda x: getattr(ATEN, f"max_pool{rank}d")(x, kernel),
        "aten_indices": lambda x: getattr(ATEN, f"max_pool{rank}d_with_indices")(x, kernel),
        "sequential": nn.Sequential(nn.Identity(), TORCH_MODULE[rank](2)),
    }
    if rank == 1:
        found["torch_indices"] = lambda x: torch.max_pool1d_with_indices(x, kernel)
    return found


@pytest.mark.parametrize("mode", ["plain", "grad", "no_grad", "inference", "inference_tensor"])
def test_runs_the_operators(rank, mode):
    tensor = torch.randn(2, 3, *[6] * rank, requires_grad=mode == "grad")

    def run(call):
        if mode.startswith("inference"):
            with torch.inference_mode():
                return call(tensor.clone() if mode == "inference_tensor" else tensor)
        if mode == "no_grad":
            with torch.no_grad():
                return call(tensor)
        output = call(tensor)
        if mode == "grad":
            (output[0] if isinstance(output, tuple) else output).sum().backward()
        return output

    for name, call in ways(rank).items():
        assert not runs_ours(lambda call=call: run(call)), name
    torch_maxpool.accelerate(quiet=True)
    for name, call in ways(rank).items():
        assert runs_ours(lambda call=call: run(call)), name
    torch_maxpool.restore()
    for name, call in ways(rank).items():
        assert not runs_ours(lambda call=call: run(call)), name


def test_values_alone_are_computed_without_gradient(rank):
    """No offsets, no indices."""
    torch_maxpool.accelerate(quiet=True)
    tensor = torch.randn(2, 3, *[6] * rank)
    with torch.inference_mode():
        assert operators_run(lambda: TORCH_POOL[rank](tensor, 2)) >= {"torch_maxpool::maxpool_values"}
        assert "torch_maxpool::maxpool_forward" not in operators_run(lambda: TORCH_POOL[rank](tensor, 2))
    assert "torch_maxpool::maxpool_forward" not in operators_run(lambda: TORCH_POOL[rank](tensor, 2))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("return_indices", [False, True])
def test_keeps_offsets_only(rank, return_indices, dtype):
    kept = []

    def pack(tensor):
        kept.append((tensor.dtype, tensor.numel()))
        return tensor

    torch_maxpool.accelerate(quiet=True)
    tensor = torch.randn(2, 3, *[6] * rank, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = TORCH_POOL[rank](tensor, 3, 2, 1, return_indices=return_indices)
    assert kept == [(torch.uint8, 6 * 3**rank)]
    output = output[0] if return_indices else output
    output.sum().backward()
    assert tensor.grad.sum() == output.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("return_indices", [False, True])
def test_gradients_of_overlapping_windows_in_16_bits(rank, dtype, channels_last, return_indices):
    """PyTorch rounds after every addition; sums here are long enough to show it."""
    tensor = torch.randn(2, 3, *[9] * rank).to(dtype)
    if channels_last and rank > 1:
        tensor = tensor.contiguous(memory_format=CHANNELS_LAST[rank])

    def gradient(pool):
        leaf = tensor.detach().requires_grad_()
        output = pool(leaf, 5, 1, 2, return_indices=return_indices)
        output = output[0] if return_indices else output
        grad_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        first = torch.autograd.grad(output, leaf, grad_output, create_graph=True)[0]
        second = torch.autograd.grad(first, grad_output, torch.ones_like(first))[0]
        return first.detach(), first.stride(), second

    expected = gradient(TORCH_POOL[rank])
    with torch_maxpool.accelerate(quiet=True):
        actual = gradient(TORCH_POOL[rank])
    assert_alike(actual, expected)
    assert not torch.equal(expected[0], gradient(getattr(torch_maxpool, f"max_pool{rank}d"))[0]), "nothing is tested"


REFUSED = {
    "padding_beyond_half": lambda pool, x: pool(x, 3, padding=2),
    "padding_beyond_half_dilated": lambda pool, x: pool(x, 3, padding=2, dilation=2),
    "padding_of_kernel_one": lambda pool, x: pool(x, 1, padding=1, dilation=4),
    "padding_negative": lambda pool, x: pool(x, 2, padding=-1),
    "kernel_zero": lambda pool, x: pool(x, 0),
    "stride_zero": lambda pool, x: pool(x, 2, 0),
    "dilation_zero": lambda pool, x: pool(x, 2, dilation=0),
    "window_too_large": lambda pool, x: pool(x, 7),
    "window_too_large_ceil": lambda pool, x: pool(x, 9, 2, ceil_mode=True),
    "kernel_long": lambda pool, x: pool(x, [2] * 4),
    "kernel_empty": lambda pool, x: pool(x, []),
    "stride_long": lambda pool, x: pool(x, 2, [2] * 4),
    "padding_empty": lambda pool, x: pool(x, 2, padding=[]),
    "dilation_long": lambda pool, x: pool(x, 2, dilation=[1] * 4),
    "kernel_float": lambda pool, x: pool(x, 2.5),
    "padding_word": lambda pool, x: pool(x, 2, padding="same"),
    "bool": lambda pool, x: pool(x.bool(), 2),
    "complex": lambda pool, x: pool(x.to(torch.complex64), 2),
    "uint16": lambda pool, x: pool(x.to(torch.uint16), 2),
    "too_few_dimensions": lambda pool, x: pool(x[0, 0, 0], 2),
    "too_many_dimensions": lambda pool, x: pool(x[None, None], 2),
    "no_channels": lambda pool, x: pool(x[:, :0], 2),
    "empty_plane": lambda pool, x: pool(x[..., :0], 2),
    "sparse": lambda pool, x: pool(x.to_sparse(), 2),
    "none": lambda pool, x: pool(None, 2),
}


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("mode", ["plain", "grad", "inference"])
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_pytorch_refuses(rank, name, mode, return_indices):
    tensor = torch.randn(2, 3, *[6] * rank, requires_grad=mode == "grad")

    def refusal():
        def pool(*arguments, **keywords):
            return TORCH_POOL[rank](*arguments, **keywords, return_indices=return_indices)

        with torch.inference_mode(mode == "inference"), pytest.raises(Exception) as caught:
            REFUSED[name](pool, tensor)
        return type(caught.value), text_of(caught.value)

    expected = refusal()
    with torch_maxpool.accelerate(quiet=True):
        assert refusal() == expected


def test_integers_of_1d_pooling():
    """PyTorch takes them with indices only."""
    tensor = torch.randint(9, (2, 3, 8))
    with torch_maxpool.accelerate(quiet=True):
        with pytest.raises(NotImplementedError, match=r"max_pool1d_impl.*'Long'"):
            F.max_pool1d(tensor, 2)
        assert runs_ours(lambda: F.max_pool1d(tensor, 2, return_indices=True))


def test_windows_of_more_elements_than_offsets_can_name():
    tensor = torch.randn(1, 2, 3, 4)
    arguments = {"kernel_size": 2**16, "stride": 1, "padding": 2**15}
    expected = results(F.max_pool2d, tensor, **arguments)
    with torch_maxpool.accelerate(quiet=True):
        assert_alike(results(F.max_pool2d, tensor, **arguments), expected)


def test_empty_batch(rank):
    tensor = torch.randn(0, 3, *[6] * rank, requires_grad=True)
    with torch_maxpool.accelerate(quiet=True):
        output, indices = TORCH_POOL[rank](tensor, 2, return_indices=True)
        assert output.shape == indices.shape == (0, 3, *[3] * rank)
        TORCH_POOL[rank](tensor, 2).sum().backward()
    assert tensor.grad.shape == tensor.shape


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_windows_without_elements(dtype):
    """PyTorch gives -inf and a place outside the input, which its backward then writes to; here it is -1, and safe."""
    tensor = torch.randn(1, 1, 3, 3).to(dtype)
    arguments = {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 4, "ceil_mode": True}
    expected = F.max_pool2d(tensor, **arguments)
    assert (expected == -torch.inf).any()
    with torch_maxpool.accelerate(quiet=True):
        leaf = tensor.clone().requires_grad_()
        output, indices = F.max_pool2d(leaf, **arguments, return_indices=True)
        assert_same(output.detach(), expected)
        assert ((indices == -1) == (expected == -torch.inf)).all()
        output.sum().backward()
        assert leaf.grad.sum() == (indices >= 0).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32], ids=str)
def test_indices_of_channels_last_3d(dtype):
    """PyTorch 2.13 forgets the depth of windows of nothing but the lowest value, in channels that do not fill a vector;
    here the first element of the window is named, as in PyTorch for contiguous input."""
    lowest = -torch.inf if dtype == torch.float32 else torch.iinfo(dtype).min
    tensor = torch.full((1, 2, 4, 2, 2), lowest, dtype=dtype)
    expected = F.max_pool3d(tensor, 2, return_indices=True)
    strided = tensor.contiguous(memory_format=torch.channels_last_3d)
    assert expected[1].max() == 8
    assert F.max_pool3d(strided, 2, return_indices=True)[1].max() == 0, "PyTorch has changed: note it in README"
    with torch_maxpool.accelerate(quiet=True):
        output, indices = F.max_pool3d(strided, 2, return_indices=True)
    assert_same(output, expected[0])
    assert_same(indices, expected[1])


def test_small_integers_of_channels_last_3d():
    """PyTorch 2.13 refuses int8 and uint8 planes of more elements than the dtype's maximum in this layout."""
    tensor = torch.randint(100, (1, 2, 8, 8, 8), dtype=torch.int8)
    strided = tensor.contiguous(memory_format=torch.channels_last_3d)
    with pytest.raises(RuntimeError, match="numeric_limits"):
        F.max_pool3d(strided, 2)
    with torch_maxpool.accelerate(quiet=True):
        assert_same(F.max_pool3d(strided, 2), F.max_pool3d(tensor, 2))


@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor:UserWarning", "ignore:The PyTorch API of nested:UserWarning"
)
def test_tensors_that_only_pytorch_serves():
    quantized = torch.quantize_per_tensor(torch.randn(1, 2, 6, 6), 0.1, 0, torch.quint8)
    tensor = torch.randn(1, 2, 6, 6)
    nested = torch.nested.nested_tensor([torch.randn(2, 6, 6), torch.randn(2, 4, 6)])
    calls = [
        lambda: F.max_pool2d(quantized, 2).int_repr(),
        lambda: F.max_pool1d(quantized[0], 2).int_repr(),
        lambda: F.max_pool2d(tensor.to_mkldnn(), 2).to_dense(),
        lambda: F.max_pool2d(tensor.to("meta"), 2).shape,
        lambda: F.max_pool2d(torch._neg_view(tensor), 2),
    ]

    def found():
        plain = [call() for call in calls]
        with torch.inference_mode():
            plain += [call() for call in calls]
        with pytest.raises(Exception) as caught:
            F.max_pool2d(nested, 2)
        return [*plain, text_of(caught.value)]

    expected = found()
    with torch_maxpool.accelerate(quiet=True):
        assert_alike(found(), expected)


def registrations():
    return [torch._C._dispatch_dump(name) + torch._C._dispatch_dump_table(name) for name in NAMES]


def test_nothing_is_registered_while_off():
    before = registrations()
    assert not torch_maxpool.is_accelerated()
    torch_maxpool.accelerate(quiet=True)
    assert torch_maxpool.is_accelerated()
    assert all(was != now for was, now in zip(before, registrations(), strict=True))
    assert torch_maxpool.restore()
    assert not torch_maxpool.is_accelerated()
    assert registrations() == before
    assert not torch_maxpool.restore()
    assert registrations() == before


def test_twice_is_once():
    before = registrations()
    torch_maxpool.accelerate(quiet=True)
    once = registrations()
    torch_maxpool.accelerate(quiet=True)
    assert registrations() == once
    torch_maxpool.restore()
    assert registrations() == before


def test_says_what_it_replaced(capfd):
    handle = torch_maxpool.accelerate()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == f"{handle}\n"
    for word in ("torch_maxpool", "max_pool1d", "max_pool2d", "max_pool3d", "CPU"):
        assert word in str(handle)
    torch_maxpool.accelerate()  # nothing changes
    torch_maxpool.restore()
    torch_maxpool.accelerate(quiet=True)
    assert capfd.readouterr() == ("", "")


def test_no_warning():
    """PyTorch warns, once per process, of kernels registered over others, which is the purpose here."""
    code = "import torch_maxpool; torch_maxpool.accelerate(quiet=True); torch_maxpool.restore()"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], check=True, capture_output=True, text=True)
    assert "max_pool" not in done.stdout + done.stderr


def test_block():
    with torch_maxpool.accelerate(quiet=True) as handle:
        assert torch_maxpool.is_accelerated()
        assert "torch_maxpool" in str(handle)
        assert str(handle) in repr(handle)
    assert not torch_maxpool.is_accelerated()
    with handle:  # again
        assert torch_maxpool.is_accelerated()
    assert not torch_maxpool.is_accelerated()
    with pytest.raises(KeyError), torch_maxpool.accelerate(quiet=True):
        raise KeyError
    assert not torch_maxpool.is_accelerated()


def test_nested_blocks():
    with torch_maxpool.accelerate(quiet=True) as outer:
        with torch_maxpool.accelerate(quiet=True):
            pass
        assert torch_maxpool.is_accelerated()
        with outer:
            pass
        assert torch_maxpool.is_accelerated()
    assert not torch_maxpool.is_accelerated()


def test_block_within_a_lasting_call():
    torch_maxpool.accelerate(quiet=True)
    with torch_maxpool.accelerate(quiet=True):
        pass
    assert torch_maxpool.is_accelerated()
    torch_maxpool.restore()
    with torch_maxpool.accelerate(quiet=True):
        torch_maxpool.accelerate(quiet=True)
    assert torch_maxpool.is_accelerated()


def test_overlapping_blocks():
    first, second = torch_maxpool.accelerate(quiet=True), torch_maxpool.accelerate(quiet=True)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch_maxpool.is_accelerated()
    second.__exit__(None, None, None)
    assert not torch_maxpool.is_accelerated()


def test_restore_within_a_block():
    with torch_maxpool.accelerate(quiet=True):
        assert torch_maxpool.restore()
        assert not torch_maxpool.is_accelerated()
        torch_maxpool.accelerate(quiet=True)
    assert torch_maxpool.is_accelerated()


def test_block_after_a_block_that_restore_ended():
    with torch_maxpool.accelerate(quiet=True):
        torch_maxpool.restore()
    with torch_maxpool.accelerate(quiet=True):
        assert torch_maxpool.is_accelerated()
    assert not torch_maxpool.is_accelerated()
