"""torch.compile, and what it and torch.export stand on: meta and fake tensors like the CPU's."""

import contextlib
import re

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import fresh_cache, run_and_get_code, run_fw_bw_and_get_code
from torch._subclasses.fake_tensor import FakeTensorMode

import torch_maxpool
from common import (
    DTYPES,
    FLOATS,
    OPS,
    OUR_MODULE,
    OUR_POOL,
    TORCH_POOL,
    assert_same,
    every_case,
)
from torch_maxpool.compiling import tell_inductor

needs_mkldnn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="else convolutions keep the layout")
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


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_no_recompile_per_batch_size(rank, training, marked):
    """By default the second size shows the compiler that sizes change; where that is marked, one graph is enough."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x: OUR_POOL[rank](x, 3, 2, 1), fullgraph=True, backend=counter)
    for batch in (4, 7, 2, 16, 9):
        tensor = torch.randn(batch, 3, *range(7, 7 + rank), requires_grad=training)
        if marked:
            torch._dynamo.mark_dynamic(tensor, 0)
        output = compiled(tensor)
        assert_same(output, OUR_POOL[rank](tensor, 3, 2, 1))
        if training:
            output.sum().backward()
    assert counter.frame_count == (1 if marked else 2)


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("dynamic", [None, True])
def test_windows_that_vary(rank, return_indices, dynamic):
    """A window that is an argument becomes symbolic when it changes; it is specialized on, as for F.max_pool*d."""

    def eager(x, kernel, stride, padding, dilation):
        return OUR_POOL[rank](x, kernel, stride, padding, dilation, return_indices=return_indices)

    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for window in ((2, 2, 0, 1), (3, 1, 1, 2), (4, 3, 2, 1), (2, None, 1, 3)):
        check(lambda x: compiled(x, *window), lambda x: eager(x, *window), torch.randn(2, 3, *[9] * rank))  # noqa: B023
    compiled = torch.compile(
        lambda x, k: outputs(eager(x, [k] * rank, [k - 1], [(0, k - 2)] * rank, [1] * rank))[0],
        fullgraph=True,
        backend="aot_eager",
        dynamic=dynamic,
    )
    for k in (2, 3, 4):
        tensor = torch.randn(2, 3, *[9] * rank)
        assert_same(compiled(tensor, k), OUR_POOL[rank](tensor, k, k - 1, [(0, k - 2)] * rank))


@pytest.mark.parametrize("return_indices", [False, True])
def test_no_graph_breaks(rank, return_indices):
    def step(x):
        result = OUR_POOL[rank](x.relu(), 3, 2, "same", return_indices=return_indices)
        values = OUR_MODULE[rank](2)(outputs(result)[0])
        return torch.ops.torch_maxpool.maxpool_forward(values, [2] * rank)

    found = torch._dynamo.explain(step)(torch.randn(2, 3, *[16] * rank, requires_grad=True))
    assert (found.graph_count, found.graph_break_count) == (1, 0)


@pytest.mark.parametrize("backend", ["aot_eager", "aot_eager_decomp_partition", "inductor"])
def test_compiled_graph_keeps_offsets_only(rank, backend):
    kept = []

    def pack(tensor):
        kept.append((tensor.dtype, tuple(tensor.shape)))
        return tensor

    tensor = torch.randn(2, 3, *[8] * rank, requires_grad=True)
    compiled = torch.compile(lambda x: OUR_POOL[rank](x, 2), fullgraph=True, backend=backend)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compiled(tensor).sum().backward()
    assert kept == [(torch.uint8, (2, 3, *[4] * rank))]


@pytest.mark.parametrize("window", [(3, 2, 1), (17, 1, 8)], ids=["uint8", "int32"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_joint_graph_passes_only_offsets(window, dynamic):
    """What forward's graph hands to backward's, beside its results: offsets, and sizes where they are not known."""
    handed = {}

    def forward_compiler(graph, inputs):
        (results,) = graph.graph.find_nodes(op="output")[0].args
        handed["forward"] = [result.meta["val"] for result in results if result is not None]
        handed["names"] = [str(node.target) for node in graph.graph.nodes]
        return make_boxed_func(graph.forward)

    def backward_compiler(graph, inputs):
        handed["backward"] = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
        handed["names"] += [str(node.target) for node in graph.graph.nodes]
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=forward_compiler,
        bw_compiler=backward_compiler,
        partition_fn=min_cut_rematerialization_partition,
    )
    tensor = torch.randn(2, 3, 18, 19, requires_grad=True)
    compiled = torch.compile(lambda x: OUR_POOL[2](x, *window), backend=backend, fullgraph=True, dynamic=dynamic)
    output = compiled(tensor)
    output.sum().backward()
    assert torch.equal(tensor.grad, torch.autograd.grad(OUR_POOL[2](tensor, *window).sum(), tensor)[0])
    wanted = torch.uint8 if window[0] == 3 else torch.int32
    for values in (handed["forward"], handed["backward"]):
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        assert sorted((str(value.dtype), value.numel()) for value in tensors) == sorted(
            [("torch.float32", output.numel()), (str(wanted), output.numel())]
        )
        assert dynamic or len(tensors) == len(values)
    ours = [name for name in handed["names"] if "maxpool" in name]
    assert ours == ["torch_maxpool.maxpool_forward.default", "torch_maxpool.maxpool_backward.default"]


def test_inference_computes_no_offsets(rank):
    names = []

    def compiler(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    compiled = torch.compile(lambda x: OUR_POOL[rank](x, 2), fullgraph=True, backend=aot_autograd(fw_compiler=compiler))
    compiled(torch.randn(2, 3, *[8] * rank))
    assert names == ["torch_maxpool.maxpool_values.default"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_training_and_inference_with_inductor(dynamic):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        OUR_MODULE[2](3, 2, 1),
        torch.nn.Flatten(2),
        OUR_MODULE[1](2),
        torch.nn.Unflatten(2, (2, 2, -1)),
        OUR_MODULE[3](1),
    )
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for batch in (2, 3) if dynamic else (2,):
        tensor = torch.randn(batch, 3, 8, 16)
        check(compiled, model, tensor)
        with torch.inference_mode():
            assert_same(compiled(tensor), model(tensor))
        with torch.no_grad():
            assert_same(compiled(tensor), model(tensor))


class Direct(torch.nn.Module):
    """A pooling by the operators, of which nobody has told Inductor."""

    def forward(self, x):
        if torch.is_grad_enabled():
            return OPS.maxpool_forward(x, [3, 3], [1, 1], [1, 1])[0]
        return OPS.maxpool_values(x, [3, 3], [1, 1], [1, 1])


@needs_mkldnn
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("is_told", [True, False])
def test_inductor_copies_nothing_between_layouts(training, is_told, monkeypatch):
    """Its convolutions are channels_last whatever the model is traced with; so are poolings between them, both ways."""
    if not is_told:
        from torch._inductor.lowering import lowerings

        for name in ("forward", "values", "backward"):
            monkeypatch.delitem(lowerings, getattr(OPS, f"maxpool_{name}").default, raising=False)
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), OUR_MODULE[2](3, 1, 1) if is_told else Direct(), torch.nn.Conv2d(8, 4, 3)]
    model = torch.nn.Sequential(*layers).requires_grad_(training)
    compiled = torch.compile(model, fullgraph=True)
    tensor = torch.randn(2, 3, 199, 199, requires_grad=training)
    with fresh_cache():  # whose keys know nothing of an operator's tags
        if training:
            output, codes = run_fw_bw_and_get_code(lambda: compiled(tensor))
        else:
            output, codes = run_and_get_code(compiled, tensor)
    torch.testing.assert_close(output, model(tensor))
    strides = re.findall(r"assert_size_stride\(\w+, \(.*?\), \((.*?)\), 'torch.ops.torch_maxpool", "".join(codes))
    channel = [int(text.split(", ")[1]) for text in strides]
    # Of forward's output and offsets and backward's result, or of the values alone.
    assert channel == [1] * (3 if training else 1)
    copied = re.findall(r"^cpp_fused\w*maxpool", "".join(codes), re.MULTILINE)
    assert not copied


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_autograd(rank, dynamic):
    """The whole backward pass as one graph, with our operator in it."""
    names = []

    def compiler(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=compiler)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend=backend, fullgraph=True, dynamic=dynamic)):
        for batch in (2, 3, 5):
            for window in ((3, 2, 1), (5, 2, 2)):  # whose sizes are the same
                tensor = torch.randn(batch, 3, *range(7, 7 + rank))
                ours, theirs = tensor.clone().requires_grad_(), tensor.clone().requires_grad_()
                OUR_POOL[rank](ours, *window).pow(2).sum().backward()
                TORCH_POOL[rank](theirs, *window).pow(2).sum().backward()
                assert_same(ours.grad, theirs.grad)
    assert "torch_maxpool.maxpool_backward.default" in names


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


def is_operator(model, tensor, *, dynamic=False):
    """Whether Inductor calls an operator of ours for `model`, whose results are compared."""
    torch._dynamo.reset()
    with fresh_cache():
        actual, codes = run_and_get_code(torch.compile(model, fullgraph=True, dynamic=dynamic), tensor)
        expected = model(tensor)
        assert torch.equal(actual, expected)
        assert actual.stride() == expected.stride()
    return "torch.ops.torch_maxpool" in "".join(codes)


LARGE = torch.randn(2, 64, 56, 56)


@pytest.mark.parametrize("accelerated", [False, True])
def test_inductor_makes_poolings_its_own(accelerated):
    """Small windows of channels_last, where its loops are as fast, fused with what is around; not in training."""

    def pool(*window, before=torch.clone):
        function = TORCH_POOL[2] if accelerated else OUR_POOL[2]
        return lambda tensor: function(before(tensor), *window) + 1

    x = LARGE.contiguous(memory_format=torch.channels_last)
    with torch_maxpool.accelerate(quiet=True) if accelerated else contextlib.nullcontext():
        assert not is_operator(pool(2, 2, before=torch.relu), x, dynamic=True)
        assert not is_operator(pool([3, 3], [2, 2]), x)
        assert not is_operator(pool(3, 2, 1, before=torch.relu), x)
        assert not is_operator(pool(3, 2, 1), x)
        assert is_operator(pool(3, 2, 1), torch.cat([x] * 3))
        assert is_operator(pool(3, 1, 1, before=torch.relu), x)
        assert is_operator(pool(2, 2, before=torch.relu), LARGE)
        assert is_operator(pool(2, 2), x.bfloat16())
        assert is_operator(pool(2, 2), x.clone().requires_grad_())


def test_results_in_new_pages_are_the_operators():
    """But where the input would have to be written for it."""
    x = torch.randn(1, 64, 736, 736).contiguous(memory_format=torch.channels_last)
    assert is_operator(lambda tensor: OUR_POOL[2](tensor, 2), x)
    assert not is_operator(lambda tensor: OUR_POOL[2](tensor.relu(), 2), x)
    assert not is_operator(lambda tensor: OUR_POOL[2](tensor, 2), x[..., :700])


@pytest.mark.parametrize("threads", [1, 2])
def test_tiny_poolings_are_smaller_on_one_thread(threads, set_threads):
    set_threads(threads)
    assert is_operator(lambda tensor: OUR_POOL[2](tensor, 2), torch.randn(1, 32, 28, 28)) == (threads == 1)
    assert not is_operator(lambda tensor: OUR_POOL[2](tensor, 2), torch.randn(1, 16, 28, 28))


@needs_mkldnn
def test_inductor_sees_the_layout_of_its_own_convolutions():
    model = torch.nn.Sequential(torch.nn.Conv2d(64, 8, 1), torch.nn.ReLU(), OUR_MODULE[2](3, 2, 1))
    torch._dynamo.reset()
    with fresh_cache(), torch.no_grad():
        output, codes = run_and_get_code(torch.compile(model, fullgraph=True), LARGE)
        torch.testing.assert_close(output, model(LARGE))
    assert "torch.ops.torch_maxpool" not in "".join(codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool], ids=str)
def test_inductor_makes_tiny_poolings_its_own(dtype):
    x = torch.randn(2, 8, 9, 8).mul(4).to(dtype)
    if dtype.is_floating_point:
        x[0, 0, 0, 0] = float("nan")

    def model(tensor):
        plain = OUR_POOL[2](tensor, 2, ceil_mode=True)
        other = OUR_POOL[2](
            tensor.contiguous(memory_format=torch.channels_last), [2, 3], [1, 2], [1, 0], dilation=(2, 1)
        )
        return torch.cat([plain.flatten(), other.flatten()]).nan_to_num(-1)

    assert not is_operator(model, x)
    assert dtype != torch.float32 or not is_operator(model, x, dynamic=True)


def test_symbolic_sizes_are_compiled_for_anew_only_where_a_pooling_is_no_longer_tiny():
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(lambda x: OUR_POOL[2](x, 2), fullgraph=True, backend=counter, dynamic=True)
    with fresh_cache(), torch.no_grad():
        for batch, graphs in ((2, 1), (5, 1), (3000, 2), (4000, 2), (3, 2)):
            tensor = torch.randn(batch, 8, 8, 8)
            assert torch.equal(compiled(tensor), OUR_POOL[2](tensor, 2))
            assert counter.frame_count == graphs


@pytest.fixture
def one_thread(set_threads):
    set_threads(1)


STEPS = {
    "2x2": ((2,), {}),
    "gaps": (([2, 1], [3, 2]), {}),
    "overlap": ((2, 1), {}),
    "padded": ((3, 2, 1), {}),
    "nine over an element": ((3, 1, 1), {}),
    "ceil_mode": ((3, 2, 1), {"ceil_mode": True}),
}


def special(*size, dtype=torch.float32):
    """Few different numbers, so that windows have ties, and NaN and -inf alone and in groups."""
    x = torch.randn(size, dtype=dtype).round()
    x[..., 0, :3] = float("nan")
    x[..., -3:, -3:] = float("-inf")
    x.flatten()[::17] = float("nan")
    return x


@pytest.mark.parametrize(
    ("name", "dtype", "dynamic"),
    [
        *((name, torch.float32, False) for name in STEPS),
        ("gaps", torch.float64, False),
        ("2x2", torch.float32, True),
    ],
)
def test_inductor_makes_tiny_steps_of_training_its_own(name, dtype, dynamic, one_thread):
    window, options = STEPS[name]
    x = special(2, 3, 10, 9, dtype=dtype).requires_grad_()
    pool = lambda tensor: OUR_POOL[2](tensor, *window, **options)  # noqa: E731
    expected = pool(x)
    grad = torch.randn_like(expected)
    with fresh_cache():
        compiled = torch.compile(pool, fullgraph=True, dynamic=dynamic)
        output, codes = run_fw_bw_and_get_code(lambda: compiled(x.detach().requires_grad_()))
        leaf = x.detach().requires_grad_()
        compiled(leaf).backward(grad)
    assert_same(output, expected)
    assert_same(leaf.grad, torch.autograd.grad(expected, x, grad)[0])
    assert len(codes) == 2
    assert "torch.ops.torch_maxpool" not in "".join(codes)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_adds_windows_in_order(threads, set_threads):
    """Inductor's own loops only where one thread adds."""
    x = torch.randn(1, 4, 32, 32, requires_grad=True)
    set_threads(threads)
    with fresh_cache():
        compiled = torch.compile(lambda tensor: OUR_POOL[2](tensor, 3, 2, 1), fullgraph=True)
        _, (forward, backward) = run_fw_bw_and_get_code(lambda: compiled(x))
    assert "torch.ops.torch_maxpool" not in forward
    assert ("torch.ops.torch_maxpool" in backward) == (threads == 2)
    assert "atomic_add" not in backward


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("window", [(2,), (3, 2, 1), (3, 1, 1)], ids=str)
def test_a_tiny_step_between_convolutions(window, threads, set_threads):
    """Offsets are channels_last there, and gradients may not be."""
    torch.manual_seed(0)
    before, after = (torch.nn.Conv2d(8, 8, 1, groups=8) for _ in range(2))
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    model = lambda tensor: after(OUR_POOL[2](before(tensor).relu(), *window))  # noqa: E731
    expected = model(x)
    grad = torch.randn_like(expected)
    set_threads(threads)
    with fresh_cache():
        actual = torch.compile(model, fullgraph=True)(x)
        torch.testing.assert_close(actual, expected)
        actual = torch.autograd.grad(actual, x, grad)[0]
    torch.testing.assert_close(actual, torch.autograd.grad(expected, x, grad)[0])


def test_a_tiny_step_writes_nowhere_else(one_thread):
    """Whatever becomes of the offsets between forward and backward."""
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    with fresh_cache(), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: torch.full_like(t, 255)):
        output = torch.compile(lambda tensor: OUR_POOL[2](tensor, 3, 2, 1), fullgraph=True)(x)
        with pytest.raises(RuntimeError, match="index out of bounds"):
            output.sum().backward()


def test_compiled_code_calls_operators_the_short_way():
    x = torch.randn(2, 64, 56, 56, requires_grad=True)
    with fresh_cache():
        compiled = torch.compile(lambda tensor: OUR_POOL[2](tensor, 3, 2, 1), fullgraph=True)
        _, (forward, backward) = run_fw_bw_and_get_code(lambda: compiled(x))
        with torch.no_grad():
            _, (values,) = run_and_get_code(compiled, x)
    assert "torch.ops.torch_maxpool.maxpool_forward.direct(" in forward
    assert "torch.ops.torch_maxpool.maxpool_backward.direct(" in backward
    assert "torch.ops.torch_maxpool.maxpool_values.direct(" in values


def test_a_tiny_dilated_step_is_right():
    x = special(2, 3, 10, 9)
    compiled = torch.compile(lambda tensor: OUR_POOL[2](tensor, 3, 2, 1, 2), fullgraph=True)
    check(compiled, lambda tensor: OUR_POOL[2](tensor, 3, 2, 1, 2), x)


def test_a_window_without_elements_in_compiled_code():
    def forward(tensor):
        return torch.ops.torch_maxpool.maxpool_forward(tensor, [2, 2], [1, 1], [1, 1], [2, 2])

    tell_inductor()
    x = torch.randn(1, 2, 1, 1)
    with fresh_cache():
        value, offset = torch.compile(forward, fullgraph=True)(x)
    assert_same(value, torch.full_like(x, float("-inf")))
    assert not offset.any()
    assert_same(offset, forward(x)[1])


def backward_of_offsets(grad, offsets):
    return torch.ops.torch_maxpool.maxpool_backward(grad, offsets, [8, 8], [2, 2], [2, 2], [0, 0], [1, 1], False)


def test_offsets_from_elsewhere_are_checked_in_compiled_code():
    """Only in the graph of a backward pass do they come from forward."""
    tell_inductor()
    compiled = torch.compile(backward_of_offsets, fullgraph=True)
    grad, offsets = torch.randn(1, 2, 4, 4), torch.full((1, 2, 4, 4), 3, dtype=torch.uint8)
    with fresh_cache():
        assert_same(compiled(grad, offsets), backward_of_offsets(grad, offsets))
        with pytest.raises(IndexError, match="maxpool_backward: offsets hold"):
            compiled(grad, offsets + 1)


def test_symbolic_steps_are_compiled_for_anew_only_where_a_pooling_is_no_longer_tiny():
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(lambda x: OUR_POOL[2](x, 2), fullgraph=True, backend=counter, dynamic=True)
    with fresh_cache():
        for batch, graphs in ((2, 1), (5, 1), (300, 2), (400, 2), (3, 2)):
            check(compiled, lambda x: OUR_POOL[2](x, 2), torch.randn(batch, 8, 8, 8))
            assert counter.frame_count == graphs


@pytest.mark.parametrize(
    ("window", "options"),
    [
        ((2,), {"exact": True}),
        ((2, 1, "same"), {}),
        ((2, 1, [0, 0, 1, 1]), {}),
        ((3, 1, 2), {}),
        ((6, 1), {}),
    ],
    ids=str,
)
def test_what_pytorch_does_not_have_stays_an_operator(window, options):
    assert is_operator(lambda t: OUR_POOL[2](t, *window, **options), torch.randn(1, 2, 8, 8))


def guards(pool, window):
    """Lines of what Dynamo compares at each call."""
    model = lambda tensor: pool(tensor, *window)  # noqa: E731
    torch.compile(model, fullgraph=True, backend="eager")(torch.randn(1, 2, 8, 8))
    (entry,) = torch._dynamo.eval_frame._debug_get_cache_entry_list(model.__code__)
    return str(entry.guard_manager).count("+- ")


@pytest.mark.parametrize("window", [(2,), ((3, 3), (2, 2), (1, 1), (1, 1))], ids=str)
def test_compiled_code_compares_no_more_than_for_pytorchs_functions(window):
    ours = guards(OUR_POOL[2], window)
    torch._dynamo.reset()
    assert ours <= guards(TORCH_POOL[2], window)


@pytest.mark.parametrize("kernel", [[], [2, 2, 2]], ids=str)
def test_lists_of_wrong_length_are_refused_as_in_eager(kernel):
    x = torch.randn(2, 16, 14, 14).contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="kernel_size"):
        OUR_POOL[2](x, kernel)
    with pytest.raises(Exception, match="max_pool2d: kernel_size"), torch.no_grad():
        torch.compile(OUR_POOL[2], fullgraph=True, backend="aot_eager")(x, kernel)
