"""Writes TorchScript models that pool with torch_maxpool, and eager Python's answers to them: make_models.py DIRECTORY.

Every model is written scripted and traced, as ``<name>.pt``; ``answers.pt`` maps each name to its input, outputs,
grad_output and the gradients of the input and of every parameter. All numbers are small integers in float64, so sums
are exact and the answers do not depend on the order of summation.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import torch_maxpool


class Operator(nn.Module):
    """The operator itself: unequal padding, dilation; output and offsets."""

    def forward(self, x):
        return torch.ops.torch_maxpool.maxpool_forward(x, [3, 2], [2, 1], [1, 0, 2, 1], [1, 2], True)


class ExactOperator(nn.Module):
    """A keyword argument of the operator."""

    def forward(self, x):
        return torch.ops.torch_maxpool.maxpool_forward(x, [2], exact=True)


class Functions(nn.Module):
    """The functions, with an int, a list, a word, and return_indices."""

    def forward(self, x):
        y = torch_maxpool.max_pool2d(x, 3, stride=2, padding=1)
        y = torch_maxpool.max_pool2d(y, [2, 1], stride=[1, 1], padding="same")
        return torch_maxpool.max_pool2d(y, 2, return_indices=True)


def modules():
    """A network on the modules."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.ReLU(),
        torch_maxpool.MaxPool2d(3, stride=2, padding=(1, 1), ceil_mode=True),
        nn.Flatten(2),
        torch_maxpool.MaxPool1d(7, stride=1),
        nn.Unflatten(2, (2, 2, 6)),
        torch_maxpool.MaxPool3d((1, 2, 2), exact=True),
        nn.Flatten(),
        nn.Linear(18, 4),
    )


def plain():
    """A network on PyTorch's own modules, for accelerate()."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        nn.Flatten(2),
        nn.MaxPool1d(2, stride=1),
        nn.Unflatten(1, (1, 3)),
        nn.MaxPool2d((2, 1)),
    )


def integers(*shape):
    return torch.randint(-4, 5, shape, dtype=torch.float64)


def answers(model, x):
    x = x.clone().requires_grad_()
    outputs = model(x)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    grad_output = integers(*outputs[0].shape)
    leaves = {"input": x, **dict(model.named_parameters())}
    grads = torch.autograd.grad(outputs[0], list(leaves.values()), grad_output)
    return {
        "input": x.detach(),
        "outputs": [output.detach() for output in outputs],
        "grad_output": grad_output,
        "grads": dict(zip(leaves, grads, strict=True)),
    }


def main():
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    models = {
        "operator": (Operator(), integers(2, 3, 9, 8)),
        "operator_unbatched": (Operator(), integers(3, 9, 8)),
        "exact_operator": (ExactOperator(), integers(2, 3, 8)),
        "functions": (Functions(), integers(2, 3, 11, 12)),
        "modules": (modules(), integers(2, 2, 10, 13)),
        "plain": (plain(), integers(2, 2, 8, 9)),
    }
    stored = {}
    for name, (model, x) in models.items():
        model.double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(integers(*parameter.shape))
        answer = answers(model, x)
        for kind, compiled in (("scripted", torch.jit.script(model)), ("traced", torch.jit.trace(model, x))):
            compiled.save(directory / f"{name}_{kind}.pt")
            stored[f"{name}_{kind}"] = answer
    torch.save(stored, directory / "answers.pt")


if __name__ == "__main__":
    main()
