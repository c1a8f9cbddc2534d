"""The functional API: PyTorch's calling conventions, and the package's own padding forms."""

import inspect
from typing import ClassVar

import numpy as np
import pytest
import torch

import torch_maxpool
from common import CLEAR_ERRORS, OPS, OUR_POOL, TORCH_POOL, assert_same

WAYS = [
    pytest.param((2,), {}, id="int"),
    pytest.param(("list",), {}, id="list"),
    pytest.param(("tuple",), {}, id="tuple"),
    pytest.param(([2],), {}, id="list_of_one"),
    pytest.param((torch.Size([2]),), {}, id="size"),
    pytest.param((2, None), {}, id="stride_none"),
    pytest.param((2, 3), {}, id="stride"),
    pytest.param((3, "list", 1), {}, id="positional"),
    pytest.param((3, "tuple", "list", "tuple", True), {}, id="all_positional"),
    pytest.param((), {"kernel_size": 2, "stride": None, "padding": 0, "dilation": 1}, id="keywords"),
    pytest.param((3,), {"stride": 2, "padding": "tuple", "ceil_mode": True}, id="mixed"),
]


def spell(value, rank):
    """ "list" and "tuple" stand for (1, 2, ..)-like sequences of `rank` entries."""
    if value in ("list", "tuple"):
        return [1, 1, 1][:rank] if value == "list" else (1, 1, 1)[:rank]
    return value


@pytest.mark.parametrize(("arguments", "keywords"), WAYS)
@pytest.mark.parametrize("return_indices", [False, True])
def test_as_torch(rank, arguments, keywords, return_indices):
    tensor = torch.randn(2, 3, *(9, 8, 7)[-rank:])
    arguments = [spell(value, rank) for value in arguments]
    keywords = {name: spell(value, rank) for name, value in keywords.items()}
    expected = TORCH_POOL[rank](tensor, *arguments, **keywords, return_indices=return_indices)
    actual = OUR_POOL[rank](tensor, *arguments, **keywords, return_indices=return_indices)
    if not return_indices:
        expected, actual = (expected,), (actual,)
    assert isinstance(actual, tuple)
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_same(ours, theirs)


def test_every_argument_by_position(rank):
    tensor = torch.randn(2, 3, *[9] * rank)
    values, indices = OUR_POOL[rank](tensor, 3, 2, 1, 1, True, True)
    expected, places = TORCH_POOL[rank](tensor, 3, 2, 1, 1, True, True)
    assert_same(values, expected)
    assert torch.equal(indices, places)


def test_signature(rank):
    """PyTorch's names, order and defaults, and exact as a keyword."""
    parameters = inspect.signature(OUR_POOL[rank]).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert list(defaults) == [
        "input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices", "exact",
    ]  # fmt: skip
    assert list(defaults.values())[2:] == [None, 0, 1, False, False, False]
    assert parameters["exact"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("stride", [None, [], ()], ids=str)
def test_stride_defaults_to_kernel_size(rank, stride):
    tensor = torch.randn(1, 2, *[9] * rank)
    kernel = [2, 3, 1][:rank]
    assert_same(OUR_POOL[rank](tensor, kernel, stride), TORCH_POOL[rank](tensor, kernel))


@pytest.mark.parametrize("number", [np.int64, np.uint8, np.int32])
def test_numpy_integers(rank, number):
    tensor = torch.randn(1, 2, *[9] * rank)
    expected = TORCH_POOL[rank](tensor, 3, 2, 1)
    assert_same(OUR_POOL[rank](tensor, number(3), [number(2)] * rank, number(1)), expected)


@pytest.mark.parametrize("outer", [list, tuple])
@pytest.mark.parametrize("inner", [list, tuple])
def test_padding_as_pairs(rank, outer, inner):
    tensor = torch.randn(2, 2, *(7, 6, 5)[-rank:])
    befores, afters = [2, 0, 1][:rank], [0, 1, 2][:rank]
    pairs = outer(inner(pair) for pair in zip(befores, afters, strict=True))
    expected = torch.nn.functional.pad(tensor, [n for pair in list(pairs)[::-1] for n in pair], value=-torch.inf)
    expected = TORCH_POOL[rank](expected, 3, 1)
    assert_same(OUR_POOL[rank](tensor, 3, 1, pairs), expected)
    assert_same(OUR_POOL[rank](tensor, 3, 1, befores + afters), expected)
    assert_same(OUR_POOL[rank](tensor, 3, 1, pairs, return_indices=True)[0], expected)


@pytest.mark.parametrize(("word", "auto_pad"), [("valid", "explicit"), ("same", "same"), ("same_lower", "same_lower")])
@pytest.mark.parametrize("return_indices", [False, True])
def test_padding_as_a_word(rank, word, auto_pad, return_indices):
    tensor = torch.randn(2, 2, *(7, 6, 5)[-rank:])
    expected, offsets = OPS.maxpool_forward(tensor, [2] * rank, [2], auto_pad=auto_pad)
    actual = OUR_POOL[rank](tensor, 2, padding=word, return_indices=return_indices)
    if return_indices:
        actual, indices = actual
        spatial = tensor.shape[2:]
        places = OPS.maxpool_indices(offsets, spatial, [2] * rank, [2], [0], [1], False, auto_pad=auto_pad)
        assert torch.equal(indices, places)
    assert_same(actual, expected)


def test_exact(rank):
    assert OUR_POOL[rank](torch.randn(1, 1, *[8] * rank), 2, exact=True).shape[2:] == (4,) * rank
    for return_indices in (False, True):
        with pytest.raises(ValueError, match="Invalid dimensions!"):
            OUR_POOL[rank](torch.randn(1, 1, *[7] * rank), 2, return_indices=return_indices, exact=True)


WRONG = {
    "no_kernel": lambda pool, x: pool(x),
    "float_kernel": lambda pool, x: pool(x, 2.0),
    "bool_kernel": lambda pool, x: pool(x, True),
    "text_kernel": lambda pool, x: pool(x, "2"),
    "empty_kernel": lambda pool, x: pool(x, []),
    "long_kernel": lambda pool, x: pool(x, [2] * 4),
    "none_kernel": lambda pool, x: pool(x, None),
    "nested_kernel": lambda pool, x: pool(x, [[2]]),
    "big_kernel": lambda pool, x: pool(x, 2**63),
    "float_stride": lambda pool, x: pool(x, 2, 1.5),
    "long_stride": lambda pool, x: pool(x, 2, [1] * 4),
    "padding_word": lambda pool, x: pool(x, 2, padding="full"),
    "empty_word": lambda pool, x: pool(x, 2, padding=""),
    "padding_none": lambda pool, x: pool(x, 2, padding=None),
    "padding_triples": lambda pool, x: pool(x, 2, padding=[(0, 1, 1)]),
    "padding_mixed": lambda pool, x: pool(x, 2, padding=[(0, 1), 1]),
    "many_pairs": lambda pool, x: pool(x, 2, padding=[(0, 1)] * 4),
    "negative_pairs": lambda pool, x: pool(x, 2, padding=[(0, -1)]),
    "empty_padding": lambda pool, x: pool(x, 2, padding=[]),
    "empty_dilation": lambda pool, x: pool(x, 2, dilation=[]),
    "input_none": lambda pool, x: pool(None, 2),
    "input_array": lambda pool, x: pool(x.numpy(), 2),
    "input_list": lambda pool, x: pool([[1.0, 2.0]], 2),
    "unknown_keyword": lambda pool, x: pool(x, 2, size=3),
    "exact_by_position": lambda pool, x: pool(x, 2, 2, 0, 1, False, False, True),
    "rank": lambda pool, x: pool(x[0, 0, 0], 2),
    "complex": lambda pool, x: pool(x.to(torch.complex64), 2),
}


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(rank, name, return_indices):
    def pool(*arguments, **keywords):
        if return_indices and len(arguments) < 7:
            keywords["return_indices"] = True
        return OUR_POOL[rank](*arguments, **keywords)

    with pytest.raises(CLEAR_ERRORS) as caught:
        WRONG[name](pool, torch.randn(1, 1, *[4] * rank))
    assert "INTERNAL ASSERT" not in str(caught.value)
    assert "max_pool" in str(caught.value) or "maxpool" in str(caught.value) or "padding must be" in str(caught.value)


class Subclass(torch.Tensor):
    """A tensor that records which functions were called on it."""

    calls: ClassVar[list] = []

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        cls.calls.append(function)
        return super().__torch_function__(function, types, arguments, keywords or {})


@pytest.mark.parametrize("return_indices", [False, True])
def test_torch_function(rank, return_indices):
    plain = torch.randn(1, 2, *[6] * rank)
    Subclass.calls.clear()
    result = OUR_POOL[rank](plain.as_subclass(Subclass), 3, 2, 1, 1, True, return_indices)
    assert OUR_POOL[rank] in Subclass.calls
    expected = OUR_POOL[rank](plain, 3, 2, 1, 1, True, return_indices)
    if not return_indices:
        result, expected = (result,), (expected,)
    for ours, theirs in zip(result, expected, strict=True):
        assert isinstance(ours, Subclass)
        assert_same(ours.as_subclass(torch.Tensor), theirs)


def test_public_names():
    for name in torch_maxpool.__all__:
        assert hasattr(torch_maxpool, name)
    assert torch_maxpool.__version__.count(".") == 2
    for pool in OUR_POOL.values():
        assert pool.__doc__
        assert {"input", "kernel_size", "padding", "return"} <= set(pool.__annotations__)


def test_typed_marker():
    from importlib.resources import files

    assert (files("torch_maxpool") / "py.typed").is_file()


def test_doctest():
    import doctest

    assert doctest.testmod(torch_maxpool).attempted > 0
    assert doctest.testmod(torch_maxpool).failed == 0
