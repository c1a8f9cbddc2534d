"""convert(): the pooling modules of one model, to this package's and back."""

import copy
import io

import pytest
import torch
from torch import nn

import torch_maxpool
from common import OUR_MODULE, TORCH_MODULE, assert_same


class Derived(nn.MaxPool2d):
    pass


class Network(nn.Module):
    """Nested, shared, and unrelated modules."""

    def __init__(self):
        super().__init__()
        self.line = nn.Sequential(nn.Conv1d(3, 4, 3), nn.MaxPool1d(2, ceil_mode=True))
        self.shared = nn.MaxPool2d((3, 2), stride=(2, 1), padding=1, dilation=(1, 2))
        self.again = nn.ModuleList([self.shared, nn.MaxPool3d(2, return_indices=True)])
        self.others = nn.ModuleList([Derived(2), nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(2), nn.MaxUnpool2d(2)])

    def forward(self, x):
        values, indices = self.again[1](x)
        return self.line(x[0].flatten(2)), self.shared(x[0]), self.again[0](x[1]), values, indices, self.others[0](x[0])


def kinds(model):
    return {name: type(module) for name, module in model.named_modules()}


def test_there_and_back():
    model, x = Network(), torch.randn(2, 2, 3, 8, 8)
    before, text = kinds(model), str(model)
    expected = model(x)
    assert torch_maxpool.convert(model) is model
    changed = {name: kind for name, kind in kinds(model).items() if kind is not before[name]}
    assert changed == {
        "line.1": torch_maxpool.MaxPool1d,
        "shared": torch_maxpool.MaxPool2d,
        "again.1": torch_maxpool.MaxPool3d,
    }
    for ours, theirs in zip(model(x), expected, strict=True):
        assert_same(ours, theirs)
    assert torch_maxpool.convert(model) is model  # again: nothing left to do
    assert torch_maxpool.convert(model, back=True) is model
    assert kinds(model) == before
    assert str(model) == text
    assert "exact" not in vars(model.shared)
    for ours, theirs in zip(model(x), expected, strict=True):
        assert_same(ours, theirs)


def test_modules_stay_the_same_objects(rank):
    module = TORCH_MODULE[rank](2)
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    model = nn.Sequential(module)
    model.eval()
    torch_maxpool.convert(model)
    assert model[0] is module
    assert type(module) is OUR_MODULE[rank]
    assert not module.training
    model(torch.randn(1, 2, *[4] * rank))
    assert calls == [1]
    assert (module.kernel_size, module.exact) == (2, False)


def test_the_model_itself_may_be_a_pooling(rank):
    module = torch_maxpool.convert(TORCH_MODULE[rank](2))
    assert type(module) is OUR_MODULE[rank]
    assert type(torch_maxpool.convert(module, back=True)) is TORCH_MODULE[rank]


def test_other_models_are_left_alone():
    model, other = Network(), Network()
    before = kinds(other)
    torch_maxpool.convert(model)
    assert kinds(other) == before
    assert type(nn.MaxPool2d(2)) is nn.MaxPool2d


def test_converted_models_are_as_others():
    """Copied, pickled, scripted, compiled, and their state loaded."""
    model = torch_maxpool.convert(nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 2, 1)))
    x = torch.randn(1, 1, 9, 9)
    expected = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        scripted = torch.jit.script(model)
    for same in (
        copy.deepcopy(model),
        torch.load(file, weights_only=False),
        scripted,
        torch.compile(model, backend="aot_eager", fullgraph=True),
    ):
        torch.testing.assert_close(same(x), expected)
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 2, 1))
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(x), expected)


def test_converts_after_compilation():
    model = nn.Sequential(nn.MaxPool2d(2))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(1, 1, 4, 4)
    expected = compiled(x)
    torch_maxpool.convert(compiled)
    assert type(model[0]) is torch_maxpool.MaxPool2d
    assert_same(compiled(x), expected)


OURS_ALONE = {
    "exact": lambda module: module(2, exact=True),
    "word": lambda module: module(2, padding="same"),
    "unequal": lambda module: module(2, padding=[(0, 1)]),
    "wide": lambda module: module(3, padding=2),
}


@pytest.mark.parametrize("name", OURS_ALONE)
def test_back_refuses_what_pytorch_does_not_have(name, rank):
    module = OURS_ALONE[name](OUR_MODULE[rank]) if name != "unequal" else OUR_MODULE[rank](2, padding=[(0, 1)] * rank)
    model = nn.Sequential(OUR_MODULE[rank](2), nn.Sequential(module))
    before = kinds(model)
    with pytest.raises(ValueError, match=r"convert: 1\.0 cannot be converted back.*MaxPool"):
        torch_maxpool.convert(model, back=True)
    assert kinds(model) == before


def test_back_takes_what_pytorch_takes(rank):
    modules = [OUR_MODULE[rank](3, 2, 1), OUR_MODULE[rank]([3] * rank, padding=[1] * rank), OUR_MODULE[rank](2)]
    x = torch.randn(1, 2, *[9] * rank)
    for module in modules:
        expected = module(x)
        assert_same(torch_maxpool.convert(module, back=True)(x), expected)


@pytest.mark.parametrize("model", [None, torch.relu, "model", nn.MaxPool2d])
def test_wants_a_module(model):
    with pytest.raises(TypeError, match=r"convert: model must be a torch\.nn\.Module, got"):
        torch_maxpool.convert(model)
