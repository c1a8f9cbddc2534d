"""accelerate() under what PyTorch builds on its operators: compilers, export, TorchScript, transforms, threads."""

import io
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim
from torch.utils.checkpoint import checkpoint

import torch_maxpool
from common import TORCH_POOL, assert_same, once
from test_accelerate import operators_run, runs_ours

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    once,
]


@pytest.fixture(autouse=True)
def _off_again():
    torch._dynamo.reset()
    yield
    torch_maxpool.restore()


class Model(nn.Module):
    """Every form of pooling."""

    def forward(self, x):
        first = F.max_pool2d(x, 3, 2, 1)
        second, indices = F.max_pool2d(x, 2, return_indices=True)
        third = F.max_pool1d(x.flatten(2), 3)
        fourth = F.max_pool3d(x, 2)
        return first, second, third, fourth, indices


def poolings(graph):
    return sorted({str(node.target) for node in graph.nodes if "pool" in str(node.target)})


def gradient(function, tensor):
    leaf = tensor.detach().clone().requires_grad_()
    sum(output.sum() for output in function(leaf)).backward()
    return leaf.grad


def check(function, plain, tensor):
    """`function` gives, accelerated, what `plain` gives without."""
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            accelerated = function(tensor)
            torch_maxpool.restore()
            expected = plain(tensor)
            torch_maxpool.accelerate(quiet=True)
        for ours, theirs in zip(accelerated, expected, strict=True):
            assert_same(ours, theirs)
    accelerated = gradient(function, tensor)
    torch_maxpool.restore()
    assert_same(accelerated, gradient(plain, tensor))
    torch_maxpool.accelerate(quiet=True)


def test_inductor_is_told(monkeypatch):
    """So that it makes the loops of accelerated poolings that it makes of this package's functions."""
    from torch._inductor.lowering import lowerings

    operator = torch.ops.torch_maxpool.maxpool_values.default
    monkeypatch.delitem(lowerings, operator, raising=False)
    torch_maxpool.accelerate(quiet=True)
    torch.compile(lambda x: F.max_pool2d(x, 2), backend="aot_eager")(torch.randn(1, 1, 4, 4))
    assert operator in lowerings


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_compiled_graph_holds_the_operators(rank, dynamic, mode):
    graphs = []

    def compiler(graph, _):
        graphs.append(graph.graph)
        return graph.forward

    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    def boxed(graph, inputs):
        return make_boxed_func(compiler(graph, inputs))

    backend = aot_autograd(fw_compiler=boxed, bw_compiler=boxed)
    for return_indices in (False, True):

        def pool(x, return_indices=return_indices):
            return TORCH_POOL[rank](x, 2, return_indices=return_indices)

        torch_maxpool.accelerate(quiet=True)
        graphs.clear()
        with mode():
            tensor = torch.randn(2, 3, *range(6, 6 + rank))
            if mode is torch.enable_grad:
                tensor.requires_grad_()
            output = torch.compile(pool, backend=backend, fullgraph=True, dynamic=dynamic)(tensor)
            output = output[0] if return_indices else output
            if mode is torch.enable_grad:
                output.sum().backward()
        assert poolings(graphs[0])
        assert all(name.startswith("torch_maxpool.") for graph in graphs for name in poolings(graph))
        if mode is torch.enable_grad:
            assert poolings(graphs[1]) == ["torch_maxpool.maxpool_backward.default"]
        torch_maxpool.restore()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_functions_follow_a_switch(dynamic):
    """Compiled in one state and called in the other."""

    def pool(x):
        return F.max_pool2d(x, 3, 2, 1).sum()

    def step():
        compiled(torch.randn(2, 3, 8, 8, requires_grad=True)).backward()

    compiled = torch.compile(pool, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    assert not runs_ours(step)
    torch_maxpool.accelerate(quiet=True)
    assert runs_ours(step)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch_maxpool.accelerate(quiet=True)  # changes nothing
        assert runs_ours(step)
    torch_maxpool.restore()
    assert not runs_ours(step)


def test_inductor_and_its_caches(tmp_path, monkeypatch):
    """What the compiler wrote to disk in one state is not read in the other."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    @torch.compile(fullgraph=True)
    def pool(x):
        return F.max_pool2d(x, 3, 2, 1)

    def step():
        leaf = tensor.clone().requires_grad_()
        output = pool(leaf)
        output.sum().backward()
        return output.detach(), leaf.grad

    tensor = torch.randn(2, 16, 24, 24)  # not so small that Inductor's loops take over
    expected = step()
    for _ in range(2):
        with torch_maxpool.accelerate(quiet=True):
            actual = step()  # compiles
            assert runs_ours(step)
        for ours, theirs in zip(actual, expected, strict=True):
            assert_same(ours, theirs)
        step()
        assert not runs_ours(step)


def test_cache_tag_of_others_is_kept():
    from torch.compiler import config

    with config.patch(cache_key_tag="mine"):
        torch_maxpool.accelerate(quiet=True)
        assert config.cache_key_tag not in ("mine", "")
        assert "mine" in config.cache_key_tag
        torch_maxpool.restore()
        assert config.cache_key_tag == "mine"
    assert config.cache_key_tag == ""


def test_compile(rank):
    def pool(x):
        values, indices = TORCH_POOL[rank](x, 3, 2, 1, return_indices=True)
        return TORCH_POOL[rank](x, 2, 1), values, indices * 1.0

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager", dynamic=True)
    torch_maxpool.accelerate(quiet=True)
    for size in (7, 10):
        check(compiled, pool, torch.randn(2, 3, *range(size, size + rank)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_compile_overlapping_windows_in_16_bits(rank, dtype):
    def pool(x):
        return (TORCH_POOL[rank](x, 5, 1, 2),)

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    torch_maxpool.accelerate(quiet=True)
    check(compiled, pool, torch.randn(2, 3, *range(7, 7 + rank)).to(dtype))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_errors_are_pytorchs(dynamic):
    def pool(x):
        return F.max_pool2d(x, 3, padding=2)

    def refusal():
        with pytest.raises(RuntimeError, match="at most half") as caught:
            torch.compile(pool, backend="aot_eager", fullgraph=True, dynamic=dynamic)(torch.randn(2, 3, 8, 9))
        return str(caught.value).split("\n")[0]

    expected = refusal()
    torch_maxpool.accelerate(quiet=True)
    assert refusal() == expected


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_export_keeps_pytorchs_operators(strict, dynamic):
    tensor = torch.randn(2, 3, 8, 10)
    shapes = {"x": {0: Dim.DYNAMIC}} if dynamic else None

    def exported():
        program = torch.export.export(Model(), (tensor,), strict=strict, dynamic_shapes=shapes)
        return program, [poolings(program.graph), poolings(program.run_decompositions().graph)]

    expected = exported()[1]
    torch_maxpool.accelerate(quiet=True)
    program, found = exported()
    assert found == expected
    assert all(name.startswith("aten.") for names in found for name in names)
    # The program, once run, is accelerated as any other.
    model = program.module()
    assert runs_ours(lambda: model(tensor))
    check(model, Model(), tensor)


def test_saved_torchscript_model():
    tensor = torch.randn(2, 3, 8, 10)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Model()), file)
    traced = io.BytesIO()
    torch.jit.save(torch.jit.trace(Model(), tensor), traced)
    for stored in (file, traced):
        stored.seek(0)
        model = torch.jit.load(stored)
        torch_maxpool.accelerate(quiet=True)
        for _ in range(3):  # profiled, optimized, run
            check(model, Model(), tensor)
        assert runs_ours(lambda model=model: model(tensor))
        with torch.autograd.profiler.profile() as profile:
            model(tensor)
        names = [event.name for event in profile.function_events]
        # Of its four poolings, one asks for indices.
        assert names.count("torch_maxpool::maxpool_values") == 3
        assert names.count("torch_maxpool::maxpool_forward") == 1
        torch_maxpool.restore()
        assert not runs_ours(lambda model=model: model(tensor))


def test_trace_keeps_pytorchs_operators():
    torch_maxpool.accelerate(quiet=True)
    assert "torch_maxpool" not in str(torch.jit.trace(Model(), torch.randn(2, 3, 8, 10)).graph)
    assert "torch_maxpool" not in str(torch.jit.script(Model()).graph)
    assert not any("torch_maxpool" in str(node.target) for node in torch.fx.symbolic_trace(Model()).graph.nodes)


def transforms():
    def pool(x):
        return F.max_pool2d(x, 3, 2, 1)

    def total(x):
        return (pool(x) ** 2).sum()

    func = torch.func
    direction = torch.randn(2, 3, 6, 6)
    return {
        "grad": func.grad(total),
        "vmap": func.vmap(pool),
        "vmap_in_dim": func.vmap(lambda x: pool(x[None])[0], in_dims=1),
        "vmap_indices": func.vmap(lambda x: F.max_pool2d(x, 2, return_indices=True)[1]),
        "vmap_grad": func.vmap(func.grad(total)),
        "grad_vmap": func.grad(lambda x: func.vmap(total)(x).sum()),
        "nested_vmap": func.vmap(func.vmap(lambda x: pool(x[None])[0])),
        "jvp": lambda x: func.jvp(pool, (x,), (direction,)),
        "vjp": lambda x: func.vjp(pool, x)[1](torch.ones(2, 3, 3, 3)),
        "jacrev": func.jacrev(pool),
        "jacfwd": func.jacfwd(pool),
        "hessian": func.hessian(lambda x: total(x[:1, :1])),
        "functionalize": func.functionalize(pool),
    }


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("name", transforms())
def test_transforms(name):
    tensor = torch.randn(2, 3, 6, 6)
    torch.manual_seed(1)
    transform = transforms()[name]
    expected = transform(tensor)
    with torch_maxpool.accelerate(quiet=True):
        names = operators_run(lambda: transform(tensor))
        actual = transform(tensor)
    assert any(name.startswith("torch_maxpool::") for name in names)
    # The operators are a part of PyTorch's formula, which is its own of what has a derivative.
    assert "aten::max_pool2d_with_indices" in names or name in ("vmap", "vmap_in_dim", "nested_vmap", "functionalize")
    actual, expected = (each if isinstance(each, tuple) else (each,) for each in (actual, expected))
    for ours, theirs in zip(actual, expected, strict=True):
        assert_same(ours, theirs)


def test_forward_mode(rank):
    tensor, direction = torch.randn(2, 2, 3, *[6] * rank).unbind()

    def derivative(pool):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(tensor, direction)
            return torch.autograd.forward_ad.unpack_dual(pool(dual)).tangent

    expected = derivative(lambda x: TORCH_POOL[rank](x, 3, 2, 1))
    with torch_maxpool.accelerate(quiet=True):
        names = operators_run(lambda: derivative(lambda x: TORCH_POOL[rank](x, 3, 2, 1)))
        assert {f"aten::max_pool{rank}d_with_indices", "torch_maxpool::maxpool_forward"} <= names
        assert_same(derivative(lambda x: TORCH_POOL[rank](x, 3, 2, 1)), expected)
        assert_same(derivative(lambda x: TORCH_POOL[rank](x, 3, 2, 1, return_indices=True)[0]), expected)


@pytest.mark.parametrize("return_indices", [False, True])
def test_gradcheck(rank, return_indices):
    def pool(x):
        result = TORCH_POOL[rank](x, 2, 1, 1, return_indices=return_indices)
        return result[0] if return_indices else result

    tensor = torch.randperm(2 * 4**rank, dtype=torch.float64).reshape(1, 2, *[4] * rank).requires_grad_()
    with torch_maxpool.accelerate(quiet=True):
        assert torch.autograd.gradcheck(pool, tensor, check_forward_ad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(pool, tensor, fast_mode=True)


def test_checkpoint(rank):
    tensor = torch.randn(2, 3, *[6] * rank, requires_grad=True)
    expected = torch.autograd.grad((TORCH_POOL[rank](tensor, 2) ** 2).sum(), tensor)[0]
    with torch_maxpool.accelerate(quiet=True):
        for reentrant in (False, True):
            output = checkpoint(lambda x: TORCH_POOL[rank](x, 2) ** 2, tensor, use_reentrant=reentrant)
            assert_same(torch.autograd.grad(output.sum(), tensor)[0] if not reentrant else expected, expected)
            if reentrant:
                tensor.grad = None
                output.sum().backward()
                assert_same(tensor.grad, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(rank, dtype):
    """3-d pooling is on autocast's list of float32 operators; the others keep their dtype."""
    tensor = torch.randn(2, 3, *[6] * rank).to(dtype)
    with torch.autocast("cpu", dtype):
        expected = TORCH_POOL[rank](tensor, 2)
        with torch_maxpool.accelerate(quiet=True):
            assert_same(TORCH_POOL[rank](tensor, 2), expected)


def test_fake_tensors(rank):
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch_maxpool.accelerate(quiet=True)
    with FakeTensorMode():
        output, indices = TORCH_POOL[rank](torch.empty(2, 3, *[6] * rank), 2, return_indices=True)
    assert output.shape == indices.shape == (2, 3, *[3] * rank)
    assert (output.dtype, indices.dtype, indices.device.type) == (torch.float32, torch.int64, "cpu")


class Wrapper(torch.Tensor):
    """A subclass with a __torch_dispatch__ that knows PyTorch's operators only, as DTensor does."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, requires_grad=inner.requires_grad
        )

    def __init__(self, inner):
        self.inner = inner.detach()

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        assert function.namespace in ("aten", "prim"), function
        from torch.utils._pytree import tree_map

        plain = tree_map(lambda each: each.inner if isinstance(each, Wrapper) else each, arguments)
        result = function(*plain, **(keywords or {}))
        return tree_map(lambda each: Wrapper(each) if isinstance(each, torch.Tensor) else each, result)


def test_subclass_sees_pytorchs_operators(rank):
    tensor = torch.randn(2, 3, *[6] * rank)

    def step():
        leaf = Wrapper(tensor).requires_grad_()
        output, indices = TORCH_POOL[rank](leaf, 3, 2, 1, return_indices=True)
        (output.sum() + TORCH_POOL[rank](leaf, 2).sum()).backward()
        return output.inner, indices.inner, leaf.grad.inner

    expected = step()
    torch_maxpool.accelerate(quiet=True)
    for ours, theirs in zip(step(), expected, strict=True):
        assert_same(ours, theirs)
    assert "torch_maxpool::maxpool_forward" in operators_run(step)  # on the tensor within


def test_threads():
    """Threads that pool while others switch: every result is right."""
    tensor = torch.randn(4, 8, 16, 16)
    expected = F.max_pool2d(tensor, 3, 2, 1, return_indices=True)
    expected_grad = gradient(lambda x: (F.max_pool2d(x, 3, 2, 1),), tensor)
    stop = threading.Event()
    wrong = []

    def pools():
        try:
            while not stop.is_set():
                for ours, theirs in zip(F.max_pool2d(tensor, 3, 2, 1, return_indices=True), expected, strict=True):
                    assert_same(ours, theirs)
                assert_same(gradient(lambda x: (F.max_pool2d(x, 3, 2, 1),), tensor), expected_grad)
        except BaseException as error:
            wrong.append(error)

    def switches(index):
        try:
            for _ in range(150):
                with torch_maxpool.accelerate(quiet=True):
                    assert index or torch_maxpool.is_accelerated()
                    F.max_pool2d(tensor, 2)
        except BaseException as error:
            wrong.append(error)

    poolers = [threading.Thread(target=pools) for _ in range(2)]
    switchers = [threading.Thread(target=switches, args=(index,)) for index in range(3)]
    for thread in poolers + switchers:
        thread.start()
    for thread in switchers:
        thread.join()
    stop.set()
    for thread in poolers:
        thread.join()
    assert not wrong, wrong[0]
    assert not torch_maxpool.is_accelerated()


def test_threads_share_the_state():
    seen = []

    def look():
        seen.append(torch_maxpool.is_accelerated() and runs_ours(lambda: F.max_pool2d(torch.randn(1, 1, 4, 4), 2)))
        seen.append(torch_maxpool.restore())

    torch_maxpool.accelerate(quiet=True)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [True, True]
    assert not torch_maxpool.is_accelerated()


@pytest.mark.parametrize("lock", [torch._dynamo.convert_frame.compile_lock, torch_maxpool.acceleration._lock])
def test_a_switch_waits(lock):
    """For what is being compiled, and for another switch."""
    thread = threading.Thread(target=torch_maxpool.accelerate, kwargs={"quiet": True})
    with lock:
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert not torch_maxpool.is_accelerated()
    thread.join()
    assert torch_maxpool.is_accelerated()


def test_called_while_compiling():
    """A compiled function may hold the call: the graph is split there."""

    def pool(x):
        with torch_maxpool.accelerate(quiet=True):
            return F.max_pool2d(x, 2)

    tensor = torch.randn(1, 1, 8, 8)
    assert_same(torch.compile(pool, backend="aot_eager")(tensor), F.max_pool2d(tensor, 2))
    assert not torch_maxpool.is_accelerated()
