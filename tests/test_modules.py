"""The modules: replacements for torch.nn's."""

import copy
import io
import pickle

import pytest
import torch

from common import OUR_MODULE, OUR_POOL, TORCH_MODULE, TORCH_POOL, assert_same

ARGUMENTS = [
    pytest.param((2,), {}, id="kernel"),
    pytest.param((3, 2, 1), {}, id="positional"),
    pytest.param((3, 2, 1, 1, True), {}, id="return_indices"),
    pytest.param((3, 2, 1, 2, False, True), {}, id="all"),
    pytest.param((), {"kernel_size": 3, "stride": 1, "ceil_mode": True}, id="keywords"),
    pytest.param(((3,),), {"stride": None, "padding": (1,), "dilation": 1}, id="tuples"),
]
ATTRIBUTES = ["kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode"]
PADDINGS = [0, (1,), "pairs", "flat", "valid", "same", "same_lower"]


def pair(rank, arguments, keywords):
    def widen(value):
        return value * rank if isinstance(value, tuple) else value

    arguments = [widen(value) for value in arguments]
    keywords = {name: widen(value) for name, value in keywords.items()}
    return OUR_MODULE[rank](*arguments, **keywords), TORCH_MODULE[rank](*arguments, **keywords)


def padding_of(form, rank):
    return {"pairs": [(1, 0)] * rank, "flat": [1] * rank + [0] * rank, (1,): (1,) * rank}.get(form, form)


@pytest.mark.parametrize(("arguments", "keywords"), ARGUMENTS)
def test_as_torch(rank, arguments, keywords):
    ours, theirs = pair(rank, arguments, keywords)
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, TORCH_MODULE[rank])
    assert {name: getattr(ours, name) for name in ATTRIBUTES} == {name: getattr(theirs, name) for name in ATTRIBUTES}
    assert ours.exact is False
    assert not ours.state_dict()
    assert not list(ours.parameters())
    tensor = torch.randn(2, 3, *[9] * rank)
    for value in (tensor, tensor[0]):
        actual, expected = ours(value), theirs(value)
        for mine, torchs in zip(actual, expected, strict=True) if ours.return_indices else [(actual, expected)]:
            assert_same(mine, torchs)


def by_pickle(module):
    return pickle.loads(pickle.dumps(module))


def by_file(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("remade", [by_pickle, by_file, copy.copy, copy.deepcopy], ids=lambda way: way.__name__)
@pytest.mark.parametrize("padding", PADDINGS, ids=str)
def test_copies(rank, remade, padding):
    module = OUR_MODULE[rank](2, 1, padding_of(padding, rank), exact=True)
    other = remade(module)
    assert type(other) is type(module)
    assert repr(other) == repr(module)
    assert "exact=True" in repr(module)
    tensor = torch.randn(1, 2, *[5] * rank)
    assert_same(other(tensor), module(tensor))


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("return_indices", [False, True])
def test_padding_forms(rank, padding, return_indices):
    padding = padding_of(padding, rank)
    tensor = torch.randn(1, 2, *[5] * rank)
    actual = OUR_MODULE[rank](2, 1, padding, return_indices=return_indices)(tensor)
    expected = OUR_POOL[rank](tensor, 2, 1, padding, return_indices=return_indices)
    if not return_indices:
        actual, expected = (actual,), (expected,)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_same(ours, theirs)


def test_padding_that_is_no_pair(rank):
    with pytest.raises(ValueError, match=rf"MaxPool{rank}d: padding must be pairs \(before, after\), got \[\(1,"):
        OUR_MODULE[rank](2, padding=[(1,)] * rank)


def test_exact(rank):
    module = OUR_MODULE[rank](2, exact=True)
    assert repr(module).endswith(", exact=True)")
    with pytest.raises(ValueError, match="Invalid dimensions!"):
        module(torch.randn(1, 1, *[5] * rank))
    assert module(torch.randn(1, 1, *[6] * rank)).shape[2:] == (3,) * rank
    with pytest.raises(TypeError):
        OUR_MODULE[rank](2, 2, 0, 1, False, False, True)


def test_attributes_may_change(rank):
    """As with torch.nn's, what counts is what the attributes say at the call."""
    module = OUR_MODULE[rank](2)
    module.kernel_size, module.stride, module.padding = 3, 2, 1
    tensor = torch.randn(1, 2, *[7] * rank)
    assert_same(module(tensor), TORCH_POOL[rank](tensor, 3, 2, 1))


def test_in_a_network():
    """A state dict of a network with torch.nn's module fits one with ours, and both train alike."""

    def network(pool):
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), pool(2), torch.nn.Flatten(), torch.nn.LazyLinear(3)
        )

    tensor, target = torch.randn(8, 1, 8, 8), torch.randint(3, (8,))
    ours, theirs = network(OUR_MODULE[2]), network(TORCH_MODULE[2])
    theirs(tensor)
    ours(tensor)
    ours.load_state_dict(theirs.state_dict())
    losses = []
    for model in (ours, theirs):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sequence = []
        for _ in range(5):
            loss = torch.nn.functional.cross_entropy(model(tensor), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sequence.append(loss.item())
        losses.append(sequence)
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def test_unpool_modules(rank):
    unpool = {1: torch.nn.MaxUnpool1d, 2: torch.nn.MaxUnpool2d, 3: torch.nn.MaxUnpool3d}[rank](2)
    tensor = torch.rand(2, 2, *[6] * rank)
    assert_same(
        unpool(*OUR_MODULE[rank](2, return_indices=True)(tensor)),
        unpool(*TORCH_MODULE[rank](2, return_indices=True)(tensor)),
    )
