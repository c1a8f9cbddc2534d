"""TorchScript: operators, functions and modules, scripted and traced, saved, loaded and differentiated."""

import io

import pytest
import torch

import torch_maxpool
from common import OUR_MODULE, assert_same

# PyTorch 2.13 deprecates TorchScript at every use of it; this package supports it all the same.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
]


def reloaded(scripted):
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return torch.jit.load(file)


def check(scripted, eager, tensor):
    """Values and gradients equal those of eager code, before and after a round through a file."""
    for function in (scripted, reloaded(scripted)):
        # Three calls: TorchScript profiles the first and optimizes afterwards.
        for _ in range(3):
            ours, theirs = tensor.clone().requires_grad_(), tensor.clone().requires_grad_()
            actual, expected = function(ours), eager(theirs)
            if not isinstance(expected, tuple):
                actual, expected = (actual,), (expected,)
            assert len(actual) == len(expected)
            for mine, plain in zip(actual, expected, strict=True):
                assert_same(mine, plain)
            grad = torch.randn_like(actual[0])
            actual[0].backward(grad)
            expected[0].backward(grad)
            assert_same(ours.grad, theirs.grad)


def forward_op(x):
    return torch.ops.torch_maxpool.maxpool_forward(x, [3, 3], [2, 2], [1, 1], [1, 1], False)


def forward_op_keywords(x):
    return torch.ops.torch_maxpool.maxpool_forward(x, [2, 2], exact=True)[0]


def values_op(x):
    return torch.ops.torch_maxpool.maxpool_values(x, [3, 3], [2], auto_pad="same")


def functional(x):
    return torch_maxpool.max_pool2d(x, 3, 2, 1)


def functional_lists(x):
    return torch_maxpool.max_pool2d(x, [3, 2], [2, 1], [1, 0], [1, 2], True)


def functional_keywords(x):
    return torch_maxpool.max_pool2d(x, kernel_size=3, stride=None, padding=1, ceil_mode=True, exact=False)


def functional_unequal(x):
    return torch_maxpool.max_pool2d(x, 3, 2, [1, 0, 2, 1])


def functional_same(x):
    return torch_maxpool.max_pool2d(x, 3, 2, "same")


def functional_same_lower(x):
    return torch_maxpool.max_pool2d(x, 3, 2, padding="same_lower")


def functional_valid(x):
    return torch_maxpool.max_pool2d(x, 3, 2, padding="valid")


def functional_indices(x):
    return torch_maxpool.max_pool2d(x, 3, 2, 1, return_indices=True)


def functional_indices_same(x):
    return torch_maxpool.max_pool2d(x, 3, 2, "same", 1, False, True)


def functional_ranks(x):
    flat = torch_maxpool.max_pool1d(x.flatten(2), 3, 2, 1)
    deep = torch_maxpool.max_pool3d(x.unsqueeze(2), [1, 2, 2], padding="same")
    return flat.sum() + deep.sum()


FUNCTIONS = [
    forward_op,
    forward_op_keywords,
    values_op,
    functional,
    functional_lists,
    functional_keywords,
    functional_unequal,
    functional_same,
    functional_same_lower,
    functional_valid,
    functional_indices,
    functional_indices_same,
    functional_ranks,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_script_functions(function):
    check(torch.jit.script(function), function, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_trace_functions(function):
    traced = torch.jit.trace(function, (torch.randn(2, 3, 8, 8),), check_trace=False)
    check(traced, function, torch.randn(2, 3, 8, 8))
    if function is functional or function is forward_op:
        check(traced, function, torch.randn(1, 2, 6, 10))


def test_trace_keeps_same_padding_for_other_sizes():
    """ "same" padding depends on the size and must not be baked in."""
    traced = torch.jit.trace(functional_same, (torch.randn(2, 3, 8, 8),))
    for height, width in ((7, 8), (9, 10), (1, 2)):
        check(traced, functional_same, torch.randn(1, 2, height, width))


PADDINGS = {"int": 1, "list": "flat", "pairs": "pairs", "valid": "valid", "same": "same", "same_lower": "same_lower"}


@pytest.mark.parametrize("way", ["script", "trace"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("return_indices", [False, True])
def test_modules(rank, way, padding, return_indices):
    value = {"list": [1] * rank, "pairs": [(1, 0)] * rank}.get(padding, PADDINGS[padding])
    module = OUR_MODULE[rank](3, 2, value, return_indices=return_indices)
    tensor = torch.randn(2, 3, *[7] * rank)
    made = torch.jit.script(module) if way == "script" else torch.jit.trace(module, (tensor,))
    check(made, module, tensor)


def test_script_module_with_every_attribute(rank):
    module = OUR_MODULE[rank]((3,) * rank, (2,) * rank, (1,) * rank, (1,) * rank, False, True)
    check(torch.jit.script(module), module, torch.randn(2, 3, *[8] * rank))


def test_scripted_exact(rank):
    scripted = reloaded(torch.jit.script(OUR_MODULE[rank](2, exact=True)))
    assert scripted(torch.randn(1, 1, *[6] * rank)).shape[2:] == (3,) * rank
    with pytest.raises((RuntimeError, ValueError), match="Invalid dimensions!"):
        scripted(torch.randn(1, 1, *[5] * rank))


def test_a_model_with_the_modules():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.ReLU(),
        OUR_MODULE[2](2, padding="same"),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 3),
    )
    tensor = torch.randn(5, 1, 10, 10)
    for made in (torch.jit.script(model), torch.jit.trace(model, (tensor,))):
        loaded = reloaded(made)
        assert_same(loaded(tensor), model(tensor))
        loaded(tensor).sum().backward()
        model.zero_grad()
        model(tensor).sum().backward()
        for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
        frozen = torch.jit.freeze(made.eval())
        torch.testing.assert_close(frozen(tensor), model(tensor))


@pytest.mark.parametrize("scripted", [functional, functional_indices, functional_same])
def test_graph_holds_the_package_s_operators(scripted):
    assert "torch_maxpool::max_pool2d" in str(torch.jit.script(scripted).graph)
