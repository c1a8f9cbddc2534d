"""torch.func's transforms, forward-mode derivatives, modes and subclasses; none of them through a slow loop."""

import contextlib
import warnings

import numpy as np
import pytest
import torch
from torch import func
from torch._vmap_internals import _vmap
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from common import CASES, OPS, OUR_MODULE, OUR_POOL, TORCH_CASES, TORCH_POOL, assert_same, every_case

SMALL = [case for case in CASES if np.prod(case.shape) <= 200]


@pytest.fixture(autouse=True)
def _no_fallback():
    """Without it, vmap over an operator that has no batching rule is an error and not a loop with a warning."""
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(True)


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def looped(function, tensors, dims):
    """What vmap(function, dims) promises: the results of single calls, stacked."""
    size = next(tensor.shape[dim] for tensor, dim in zip(tensors, dims, strict=True) if dim is not None)
    singles = []
    for i in range(size):
        picked = [tensor if dim is None else tensor.select(dim, i) for tensor, dim in zip(tensors, dims, strict=True)]
        singles.append(outputs(function(*picked)))
    return [torch.stack(column) for column in zip(*singles, strict=True)]


def check_vmap(function, tensors, dims):
    actual = outputs(func.vmap(function, dims)(*tensors))
    for mine, expected in zip(actual, looped(function, tensors, dims), strict=True):
        assert_same(mine, expected)


def stacked(case, count=3, dim=0):
    return torch.stack([case.input(torch.float64) for _ in range(count)], dim)


@every_case()
def test_vmap_over_every_dimension(case):
    for dim in (*range(len(case.shape) + 1), -1):
        tensor = stacked(case, dim=dim)
        for operator in (case.forward, case.values):
            check_vmap(operator, (tensor,), (dim,))
        offsets = torch.stack([case.forward(single)[1] for single in tensor.unbind(dim)], dim)
        check_vmap(case.indices, (offsets,), (dim,))


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (1, 1), (1, None), (None, 1), (1, 0), (2, 1), (-1, 2)])
@every_case()
def test_vmap_over_either_tensor(case, dims):
    singles = [case.forward(case.input()) for _ in range(3)]

    def spread(tensors, dim):
        return tensors[0] if dim is None else torch.stack(list(tensors), dim)

    places = spread([offsets for _, offsets in singles], dims[1])
    grads = spread([torch.randn_like(output) for output, _ in singles], dims[0])
    check_vmap(case.backward, (grads, places), dims)
    inputs = spread([case.input() for _ in singles], dims[0])
    check_vmap(case.gather, (inputs, places), dims)


@pytest.fixture
def tell_of_older_loops():
    """The older vmap loops over operators without rules too, and says so on demand only."""
    torch._C._debug_only_display_vmap_fallback_warnings(True)
    yield
    torch._C._debug_only_display_vmap_fallback_warnings(False)


def loops_told(capfd, recwarn):
    return [text for text in (capfd.readouterr().err, *(str(w.message) for w in recwarn)) if "performance" in text]


@pytest.mark.filterwarnings("default:There is a performance drop:UserWarning")
@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (1, 1), (2, 1)])
@every_case(SMALL)
def test_older_vmap(case, dims, tell_of_older_loops, capfd, recwarn):
    """What is_grads_batched and vectorize=True stand on, at one level and at two."""
    singles = [case.forward(case.input()) for _ in range(3)]

    def spread(tensors, dim):
        return tensors[0] if dim is None else torch.stack(list(tensors), dim)

    def check_older(function, tensors, dims):
        expected = looped(function, tensors, dims)
        actual = outputs(_vmap(function, dims)(*tensors))
        twice = outputs(_vmap(_vmap(function, dims), 0)(*(torch.stack([tensor, tensor]) for tensor in tensors)))
        for mine, both, plain in zip(actual, twice, expected, strict=True):
            assert_same(mine, plain)
            assert_same(both, torch.stack([plain, plain]))

    places = spread([offsets for _, offsets in singles], dims[1])
    grads = spread([torch.randn_like(output) for output, _ in singles], dims[0])
    inputs = spread([case.input() for _ in singles], dims[0])
    check_older(case.backward, (grads, places), dims)
    check_older(case.gather, (inputs, places), dims)
    if None not in dims:
        check_older(case.forward, (inputs,), dims[:1])
        check_older(case.values, (inputs,), dims[:1])
        check_older(case.indices, (places,), dims[1:])
    assert not loops_told(capfd, recwarn)


@pytest.mark.filterwarnings("default:There is a performance drop:UserWarning")
def test_batched_gradients_do_not_loop(rank, tell_of_older_loops, capfd, recwarn):
    tensor = torch.randn(2, 2, *[6] * rank, requires_grad=True)
    output = OUR_POOL[rank](tensor, 3, 2, 1)
    grads = torch.randn(4, *output.shape)
    (batched,) = torch.autograd.grad(output, tensor, grads, is_grads_batched=True, retain_graph=True)
    for single, grad in zip(batched, grads, strict=True):
        assert_same(single, torch.autograd.grad(output, tensor, grad, retain_graph=True)[0])
    torch.autograd.functional.jacobian(lambda x: OUR_POOL[rank](x, 3, 2, 1), tensor.detach(), vectorize=True)
    assert not loops_told(capfd, recwarn)


def test_older_vmap_refuses_ranks_that_fold_to_right_ones(rank):
    for tensor in (torch.randn(3, *[6] * rank), torch.randn(3, 2, 2, 2, *[6] * rank)):
        with pytest.raises(RuntimeError, match="input must have"):
            _vmap(lambda x: OUR_POOL[rank](x, 2))(tensor)


@pytest.mark.parametrize("size", [0, 1])
def test_vmap_over_few_or_none(rank, size):
    pool = OUR_POOL[rank]
    for shape in ((size, 2, 3), (size, 3), (size, 0, 3)):
        tensor = torch.randn(*shape, *[4] * rank)
        result = func.vmap(lambda x: pool(x, 2))(tensor)
        assert result.shape == (*shape, *[2] * rank)


def test_vmap_out_dims_and_nesting(rank):
    """Three mapped dimensions (a, b, c), the outermost first, each taken from one place and put in another."""
    tensor = torch.randn(2, 5, 4, 3, 2, *[6] * rank)  # a, n, b, c, channels, spatial

    def pool(x):
        return OUR_POOL[rank](x, 3, 2, 1)

    expected = pool(tensor.movedim(1, 3).flatten(0, 3)).unflatten(0, (2, 4, 3, 5))  # a, b, c, n, channels, spatial
    nested = func.vmap(func.vmap(func.vmap(pool, 1, -1), 1, 1), 0, 2)(tensor)
    # c comes out last, then b at 1, then a at 2: n, b, a, channels, spatial, c
    assert_same(nested, expected.permute(3, 1, 0, 4, *range(5, 5 + rank), 2))


@pytest.mark.parametrize("return_indices", [False, True])
def test_vmap_of_the_functions(rank, return_indices):
    tensor = torch.randn(3, 2, 2, *[6] * rank)

    def ours(x):
        return OUR_POOL[rank](x, 3, 2, 1, return_indices=return_indices)

    def theirs(x):
        return TORCH_POOL[rank](x, 3, 2, 1, return_indices=return_indices)

    for mine, expected in zip(outputs(func.vmap(ours)(tensor)), looped(theirs, (tensor,), (0,)), strict=True):
        assert_same(mine, expected)
    same = func.vmap(lambda x: OUR_POOL[rank](x, 2, 1, "same"))(tensor)
    assert_same(same, OUR_POOL[rank](tensor.flatten(0, 1), 2, 1, "same").unflatten(0, (3, 2)))
    with pytest.raises(ValueError, match="Invalid dimensions!"):
        func.vmap(lambda x: OUR_POOL[rank](x, 4, 3, exact=True))(tensor)


def test_vmap_refuses_ranks_that_fold_to_right_ones(rank):
    """A mapped dimension never passes for channels or batch."""
    few, many = torch.randn(3, *[6] * rank), torch.randn(3, 2, 2, 2, *[6] * rank)
    for tensor in (few, many):
        single = tensor[0]
        with pytest.raises(RuntimeError) as expected:
            OUR_POOL[rank](single, 2)
        with pytest.raises(RuntimeError) as actual:
            func.vmap(lambda x: OUR_POOL[rank](x, 2))(tensor)
        assert str(actual.value).split("\n")[0] == str(expected.value).split("\n")[0]
    output, offsets = OPS.maxpool_forward(torch.randn(2, 2, *[6] * rank), [2] * rank)
    rest = ([6] * rank, [2] * rank, [2], [0], [1], False)
    with pytest.raises(RuntimeError, match="offsets must have sizes"):
        func.vmap(lambda grad: OPS.maxpool_backward(grad, offsets, *rest))(output)


def test_vmap_keeps_what_lies_in_order(rank):
    """Folding a mapped dimension beside the batch makes no copy."""
    for dim in (0, 1):
        tensor = torch.randn(3, 4, 2, *[6] * rank)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            func.vmap(lambda x: OUR_POOL[rank](x, 2), dim, dim)(tensor)
        names = {event.key for event in profile.key_averages()}
        assert "torch_maxpool::maxpool_values" in names
        assert not names & {"aten::clone", "aten::copy_", "aten::contiguous"}


# Each transform, on a pooling and an input; PyTorch's own pooling must give the same.
def loss_of(pool):
    return lambda x: pool(x).pow(3).sum()


def vector_of(pool):
    return lambda x: pool(x).pow(2).flatten()


def like(x, seed=7):
    """Numbers that look random, of the shape of x; vmap would not have random ones."""
    return torch.sin(seed * torch.arange(x.numel(), dtype=x.dtype).square()).reshape(x.shape)


TRANSFORMS = {
    "grad": lambda p, x: func.grad(loss_of(p))(x),
    "grad_and_value": lambda p, x: func.grad_and_value(loss_of(p))(x),
    "vjp": lambda p, x: (lambda y, pull: (y, *pull(like(y))))(*func.vjp(p, x)),
    "jvp": lambda p, x: func.jvp(p, (x,), (like(x),)),
    "linearize": lambda p, x: (lambda y, push: (y, push(like(x))))(*func.linearize(p, x)),
    "jacrev": lambda p, x: func.jacrev(p)(x),
    "jacrev_chunked": lambda p, x: func.jacrev(p, chunk_size=2)(x),
    "jacfwd": lambda p, x: func.jacfwd(p)(x),
    "hessian": lambda p, x: func.hessian(loss_of(p))(x),
    "grad_of_grad": lambda p, x: func.grad(lambda v: func.grad(loss_of(p))(v).pow(2).sum())(x),
    "jacrev_of_jacrev": lambda p, x: func.jacrev(func.jacrev(loss_of(p)))(x),
    "jacfwd_of_jacfwd": lambda p, x: func.jacfwd(func.jacfwd(loss_of(p)))(x),
    "jacrev_of_jacfwd": lambda p, x: func.jacrev(func.jacfwd(loss_of(p)))(x),
    "jvp_of_grad": lambda p, x: func.jvp(func.grad(loss_of(p)), (x,), (like(x),)),
    "grad_of_jvp": lambda p, x: func.grad(lambda v: func.jvp(loss_of(p), (v,), (like(x),))[1])(x),
    "jvp_of_jvp": lambda p, x: func.jvp(lambda v: func.jvp(loss_of(p), (v,), (like(x),))[1], (x,), (like(x, 8),)),
    "vmap_of_grad": lambda p, x: func.vmap(func.grad(loss_of(p)))(torch.stack([x, -x, like(x)])),
    "vmap_of_grad_last": lambda p, x: func.vmap(func.grad(loss_of(p)), -1)(torch.stack([x, -x, like(x)], -1)),
    "grad_of_vmap": lambda p, x: func.grad(lambda v: func.vmap(p)(v).pow(3).sum())(torch.stack([x, -x])),
    "vmap_of_vjp": lambda p, x: func.vmap(lambda v: func.vjp(p, v)[1](like(p(x)))[0])(torch.stack([x, -x])),
    "vmap_of_jvp": lambda p, x: func.vmap(lambda v: func.jvp(p, (v,), (like(x),)))(torch.stack([x, -x])),
    "vmap_of_jacrev": lambda p, x: func.vmap(func.jacrev(p))(torch.stack([x, -x])),
    "jacrev_of_vmap": lambda p, x: func.jacrev(func.vmap(p))(torch.stack([x, -x])),
    "vmap_of_hessian": lambda p, x: func.vmap(func.hessian(loss_of(p)))(torch.stack([x, -x])),
    "vmap_of_vmap_of_grad": lambda p, x: func.vmap(func.vmap(func.grad(loss_of(p))))(
        torch.stack([x, -x, like(x), x * x]).unflatten(0, (2, 2))
    ),
    "grads_batched": lambda p, x: (
        lambda v: torch.autograd.grad(p(v), v, torch.stack([like(p(x)), like(p(x), 8)]), is_grads_batched=True)
    )(x.clone().requires_grad_()),
    "jacobian_vectorized": lambda p, x: torch.autograd.functional.jacobian(p, x, vectorize=True),
    "jacobian_forward": lambda p, x: torch.autograd.functional.jacobian(p, x, vectorize=True, strategy="forward-mode"),
    "hessian_vectorized": lambda p, x: torch.autograd.functional.hessian(loss_of(p), x, vectorize=True),
    "functionalize": lambda p, x: func.functionalize(func.grad(loss_of(p)))(x),
}
# PyTorch's own pooling refuses this one: "Batching rule not implemented for aten::flatten.using_ints".
ASKED_OF_TORCH = {"jacobian_forward": "jacrev"}
# A small one of each kind.
NAMES = ("1d_overlap_pad", "2d_ceil_unbatched", "2d_channels_last", "2d_dilated", "3d_overlap_pad_unbatched")
TRANSFORMED = [case for case in TORCH_CASES if case.name in NAMES]


def flat(result):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", TRANSFORMS)
@every_case(TRANSFORMED)
def test_transforms(case, name):
    arguments = [entries[0] if len(entries) == 1 else entries for entries in case.window[:-1]] + [case.ceil_mode]
    # A corner of the input, for jacobians and hessians of a bearable size.
    tensor = case.input()[..., : 5 if case.rank < 3 else 4] / 64
    if case.rank > 1:
        tensor = tensor[..., :5, :]
    if len(case.shape) == case.rank + 2:
        tensor = tensor[:1]

    def ours(x):
        return OUR_POOL[case.rank](x, *arguments)

    def theirs(x):
        return TORCH_POOL[case.rank](x, *arguments)

    if case.rank == 3 or case.name == "2d_channels_last":
        # PyTorch has a batching rule for neither; its answers may come from a loop.
        torch._C._functorch._set_vmap_fallback_enabled(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = flat(TRANSFORMS[ASKED_OF_TORCH.get(name, name)](theirs, tensor))
    torch._C._functorch._set_vmap_fallback_enabled(False)
    for mine, plain in zip(flat(TRANSFORMS[name](ours, tensor)), expected, strict=True):
        torch.testing.assert_close(mine, plain)


def test_gradients_per_sample(rank):
    """The recipe of torch.func's own tutorial: functional_call, grad over the loss, vmap over the samples."""
    conv = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[rank]
    model = torch.nn.Sequential(conv(2, 3, 3), OUR_MODULE[rank](2), torch.nn.Flatten(), torch.nn.Linear(3, 2)).double()
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    data = torch.randn(5, 2, *[4] * rank, dtype=torch.float64)

    def loss(parameters, sample):
        return func.functional_call(model, parameters, (sample.unsqueeze(0),)).pow(2).sum()

    grads = func.vmap(func.grad(loss), (None, 0))(parameters, data)
    for i, sample in enumerate(data):
        single = func.grad(loss)(parameters, sample)
        for name in parameters:
            torch.testing.assert_close(grads[name][i], single[name])


def test_compiled_transforms():
    torch._dynamo.reset()
    tensor = torch.randn(3, 2, 2, 4, 4)

    def loss(x):
        return OUR_POOL[2](x, 3, 2, 1).pow(2).sum()

    for transform in (
        func.vmap(lambda v: OUR_POOL[2](v, 2)),
        func.vmap(lambda v: OUR_POOL[2](v, 2, return_indices=True)),
        func.vmap(func.grad(loss)),
        func.grad(lambda x: func.vmap(loss)(x).sum()),
        func.vmap(func.vmap(lambda v: OUR_POOL[2](v, 2, 1, "same"))),
        lambda x: func.jvp(func.vmap(loss), (x,), (x.sin(),)),
        func.vmap(func.jacrev(lambda v: OUR_POOL[2](v, 3))),
        func.vmap(func.jacfwd(lambda v: OUR_POOL[2](v, 3))),
    ):
        compiled = torch.compile(transform, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(tensor), transform(tensor))


def finite(pool):
    """`pool` with 0 for windows without elements: finite differences say nothing about -inf."""

    def pooled(tensor):
        output = pool(tensor)
        return output.where(output.isfinite(), torch.zeros_like(output))

    return pooled


@every_case(SMALL)
def test_gradcheck(case):
    assert gradcheck(
        finite(case.values),
        (case.input().requires_grad_(),),
        check_forward_ad=True,
        check_backward_ad=True,
        check_undefined_grad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@every_case([case for case in SMALL if np.prod(case.shape) <= 120])
def test_gradgradcheck(case):
    assert gradgradcheck(
        finite(case.values),
        (case.input().requires_grad_(),),
        gen_non_contig_grad_outputs=True,
        check_batched_grad=True,
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
    )


@pytest.mark.parametrize("layout", ["transposed", "expanded", "sliced"])
def test_gradcheck_of_the_functions(rank, layout):
    tensor = torch.randperm(2 * 2 * 6**rank).reshape(2, 2, *[6] * rank).double()
    if layout == "transposed":
        tensor = tensor.transpose(-1, 1).contiguous().transpose(-1, 1)
    elif layout == "sliced":
        tensor = tensor[:, :, ::2] if rank == 1 else tensor[..., ::2, :]

    def pool(x):
        if layout == "expanded":
            x = x[:, :1].expand(2, 3, *[6] * rank)
        return OUR_POOL[rank](x, 2, 1, 1, return_indices=True)[0]

    leaf = tensor.requires_grad_() if tensor.is_contiguous() else tensor.detach().requires_grad_()
    options = {"fast_mode": True, "check_batched_grad": True}
    assert gradcheck(pool, (leaf,), check_forward_ad=True, check_batched_forward_grad=True, **options)
    assert gradgradcheck(pool, (leaf,), gen_non_contig_grad_outputs=True, check_fwd_over_rev=True, **options)


def test_forward_mode(rank):
    tensor, tangent = torch.randn(2, 2, *[6] * rank), torch.randn(2, 2, *[6] * rank)
    indices = TORCH_POOL[rank](tensor, 3, 2, 1, return_indices=True)[1].flatten(2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensor, tangent)
        for result in (
            OUR_POOL[rank](dual, 3, 2, 1),
            OUR_POOL[rank](dual, 3, 2, 1, return_indices=True)[0],
            OUR_MODULE[rank](3, 2, 1)(dual),
        ):
            primal, slope = forward_ad.unpack_dual(result)
            assert_same(primal, TORCH_POOL[rank](tensor, 3, 2, 1))
            assert_same(slope, tangent.flatten(2).gather(2, indices).reshape(slope.shape))
        assert forward_ad.unpack_dual(OUR_POOL[rank](dual, 2, return_indices=True)[1]).tangent is None


def test_forward_over_reverse_with_dual_numbers(rank):
    tensor, tangent = torch.randn(2, 2, *[6] * rank).double(), torch.randn(2, 2, *[6] * rank).double()

    def slope_of_grad(pool):
        with forward_ad.dual_level():
            leaf = tensor.clone().requires_grad_()
            dual = forward_ad.make_dual(leaf, tangent)
            (grad,) = torch.autograd.grad(pool(dual, 3, 2, 1).pow(3).sum(), dual)
            return forward_ad.unpack_dual(grad).tangent

    torch.testing.assert_close(slope_of_grad(OUR_POOL[rank]), slope_of_grad(TORCH_POOL[rank]))


def test_forward_mode_of_a_gradient(rank):
    """Backward of a recorded pooling, where only what comes back has a tangent."""
    leaf = torch.randn(2, 2, *[6] * rank).double().requires_grad_()
    output = OUR_POOL[rank](leaf, 3, 2, 1)
    grad, tangent = torch.randn(2, *output.shape).double().unbind()
    with forward_ad.dual_level():
        (result,) = torch.autograd.grad(output, leaf, forward_ad.make_dual(grad, tangent), retain_graph=True)
        slope = forward_ad.unpack_dual(result).tangent
    torch.testing.assert_close(slope, torch.autograd.grad(output, leaf, tangent)[0])


def test_double_backward(rank):
    tensor = torch.randn(2, 2, *[6] * rank).double()

    def twice(pool):
        leaf = tensor.clone().requires_grad_()
        (grad,) = torch.autograd.grad(pool(leaf, 3, 2, 1).pow(3).sum(), leaf, create_graph=True)
        return torch.autograd.grad(grad.pow(2).sum(), leaf)[0]

    torch.testing.assert_close(twice(OUR_POOL[rank]), twice(TORCH_POOL[rank]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_leaves_dtypes_alone(rank, dtype, lower):
    tensor = torch.randn(2, 2, *[6] * rank).to(dtype).requires_grad_()
    expected = OUR_POOL[rank](tensor, 2)
    with torch.autocast("cpu", dtype=lower):
        output = OUR_POOL[rank](tensor, 2)
        indexed, indices = OUR_POOL[rank](tensor, 2, return_indices=True)
        assert OUR_MODULE[rank](2)(tensor).dtype == dtype
    assert_same(output, expected)
    assert_same(indexed, expected)
    assert indices.dtype == torch.int64
    output.sum().backward()
    assert tensor.grad.dtype == dtype


def test_flop_counter():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), OUR_MODULE[2](2), torch.nn.Conv2d(4, 2, 3))
    tensor = torch.randn(1, 2, 16, 16, requires_grad=True)

    def count(model):
        with FlopCounterMode(display=False) as counter:
            model(tensor).sum().backward()
        return counter.get_total_flops(), counter.get_flop_counts()

    total, counts = count(model)
    model[1] = torch.nn.MaxPool2d(2)
    assert total == count(model)[0] > 0
    assert not counts.get("Sequential.1")


def test_deterministic_mode(rank):
    tensor = torch.randn(4, 3, *[12] * rank, dtype=torch.float64)

    def everything():
        leaf = tensor.clone().requires_grad_()
        output, indices = OUR_POOL[rank](leaf, 3, 1, 1, return_indices=True)
        (grad,) = torch.autograd.grad(output.pow(3).sum(), leaf, create_graph=True)
        (again,) = torch.autograd.grad(grad.pow(2).sum(), leaf)
        transformed = func.grad(lambda x: OUR_POOL[rank](x, 3, 1, 1).pow(2).sum())(tensor)
        mapped = func.vmap(lambda x: OUR_POOL[rank](x, 2))(tensor)
        return output, indices, grad, again, transformed, mapped

    expected = everything()
    torch.use_deterministic_algorithms(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                for mine, plain in zip(everything(), expected, strict=True):
                    assert_same(mine, plain)
    finally:
        torch.use_deterministic_algorithms(False)


class Recorder(TorchFunctionMode):
    """Functions that a mode sees."""

    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        self.functions.append(function)
        return function(*arguments, **(keywords or {}))


class Swap(TorchFunctionMode):
    """Answers our functions itself."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function in OUR_POOL.values():
            return function, arguments, keywords
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("return_indices", [False, True])
def test_function_modes(rank, return_indices):
    tensor = torch.randn(2, 2, *[6] * rank)
    with Recorder() as recorder:
        result = OUR_POOL[rank](tensor, 3, 2, 1, return_indices=return_indices)
        OUR_MODULE[rank](3, return_indices=return_indices)(tensor)
    assert recorder.functions.count(OUR_POOL[rank]) == 2
    expected = TORCH_POOL[rank](tensor, 3, 2, 1, return_indices=return_indices)
    for mine, plain in zip(outputs(result), outputs(expected), strict=True):
        assert_same(mine, plain)
    with Swap():
        function, arguments, keywords = OUR_POOL[rank](tensor, 3, 2, padding="same", exact=True)
    assert function is OUR_POOL[rank]
    assert arguments[0] is tensor
    assert arguments[1:] == (3,)
    assert (keywords["stride"], keywords["padding"], keywords["exact"]) == (2, "same", True)
    assert function.__name__ == f"max_pool{rank}d"


OUR_FUNCTIONS = tuple(OUR_POOL.values())  # Dynamo finds none of them in a dict or a set


class Double(TorchFunctionMode):
    """Doubles what our functions return."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        return result * 2 if function in OUR_FUNCTIONS else result


class Tripled(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        result = super().__torch_function__(function, types, arguments, keywords or {})
        return result * 3 if function in OUR_FUNCTIONS else result


@pytest.mark.parametrize("within", [False, True])
def test_modes_and_subclasses_under_compile(rank, within):
    torch._dynamo.reset()
    tensor = torch.randn(2, 2, *[6] * rank)

    def pool(x):
        return OUR_POOL[rank](x, 3, padding=1, dilation=1) + 1

    def in_mode(x):
        with Double():
            return pool(x)

    compiled = torch.compile(in_mode if within else pool, backend="eager", fullgraph=True)
    plain = TORCH_POOL[rank](tensor, 3, padding=1)
    with contextlib.nullcontext() if within else Double():
        assert_same(compiled(tensor), plain * 2 + 1)
    subclass = tensor.as_subclass(Tripled)
    assert_same(torch.compile(pool, backend="eager", fullgraph=True)(subclass), plain * 3 + 1)
