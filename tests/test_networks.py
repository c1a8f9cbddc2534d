"""Networks of other packages, unedited: accelerated and converted they compute what they computed before."""

import copy

import pytest
import torch
from torch import nn

import torch_maxpool
from common import OUR_MODULE, TORCH_MODULE, once
from networks import NETWORKS
from test_accelerate import operators_run

INSTALLED = [
    pytest.param(
        network,
        id=network.name,
        marks=pytest.mark.skipif(not network.installed, reason=f"{network.package} is not installed"),
    )
    for network in NETWORKS
]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    once,
]


@pytest.fixture(autouse=True)
def _off_again():
    yield
    torch_maxpool.restore()


def step(model, tensor):
    """A prediction, and a training step's loss and gradients."""
    model.eval()
    with torch.inference_mode():
        predicted = model(tensor)
    model.train()
    model.zero_grad()
    torch.manual_seed(1)  # dropout
    loss = (model(tensor) ** 2).mean()
    loss.backward()
    return [predicted, loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


def poolings(model):
    classes = (*TORCH_MODULE.values(), *OUR_MODULE.values())
    return [module for module in model.modules() if isinstance(module, classes)]


@pytest.mark.parametrize("network", INSTALLED)
def test_computes_the_same(network):
    """As it was, accelerated, and converted."""
    tensor = torch.randn(network.shape)
    model = network.model()
    assert poolings(model)
    state = copy.deepcopy(model.state_dict())
    expected = step(model, tensor)
    for way in ("accelerate", "convert"):
        model.load_state_dict(state)
        if way == "convert":
            assert torch_maxpool.convert(model) is model
            assert all(type(module) in OUR_MODULE.values() for module in poolings(model))
        else:
            torch_maxpool.accelerate(quiet=True)
            assert all(type(module) in TORCH_MODULE.values() for module in poolings(model))
        actual = []
        names = operators_run(lambda actual=actual: actual.extend(step(model, tensor)))
        torch_maxpool.restore()
        assert {"torch_maxpool::maxpool_forward", "torch_maxpool::maxpool_backward"} <= names
        assert not any("with_indices" in name for name in names)
        for ours, theirs in zip(actual, expected, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("network", INSTALLED[:1])
def test_compiled(network):
    model, tensor = network.model().eval(), torch.randn(network.shape)
    with torch.no_grad():
        expected = model(tensor)
        with torch_maxpool.accelerate(quiet=True):
            compiled = torch.compile(model, backend="aot_eager")
            compiled(tensor)
            assert "torch_maxpool::maxpool_values" in operators_run(lambda: compiled(tensor))
            torch.testing.assert_close(compiled(tensor), expected)


@pytest.mark.parametrize("network", INSTALLED)
def test_state_is_interchangeable(network):
    model = network.model()
    converted = torch_maxpool.convert(network.model())
    assert converted.load_state_dict(model.state_dict()) is not None
    torch_maxpool.convert(converted, back=True)
    assert str(converted) == str(model)
    assert isinstance(converted, nn.Module)
