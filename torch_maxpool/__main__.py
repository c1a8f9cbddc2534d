"""Train on real digits twice, pooling with F.max_pool2d and with this package's operator, and compare the two.

The network is the deepnet tutorial's for MNIST: convolution, ReLU, max pool, fully connected. The digits are
scikit-learn's: 1797 scans of 8x8 pixels. Both runs start from the same weights and see the same batches.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEST_SCANS, ROUNDS = 360, 7


class Digits(NamedTuple):
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


class PyTorchPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2, 1)


class OperatorPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.torch_maxpool.maxpool_forward(x, [2, 2], [1, 1])[0]


POOLS = {"F.max_pool2d": PyTorchPool, "torch.ops.torch_maxpool": OperatorPool}


class Network(nn.Module):
    """Convolution 3x3 with padding 1, ReLU, max pool 2x2 with stride 1, fully connected: [N, 1, 8, 8] to [N, 10]."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 32, 3, padding=1)
        self.pool = pool
        self.full = nn.Linear(32 * 7 * 7, 10)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.full(self.pool(self.features(x)).flatten(1))


class Run(NamedTuple):
    network: Network
    losses: list[float]
    accuracy: float


def optional_packages():
    """scikit-learn's load_digits and tqdm's bar, or one line that says what is missing."""
    try:
        from sklearn.datasets import load_digits
        from tqdm import tqdm
    except ImportError as error:
        sys.exit(f"python -m torch_maxpool needs scikit-learn and tqdm ({error}): pip install scikit-learn tqdm")
    return load_digits, tqdm


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m torch_maxpool", description=__doc__)
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training scans (default 12)")
    parser.add_argument("--batch-size", type=int, default=32, help="scans per step (default 32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split, weights and batches (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1: the batches are small)")
    parser.add_argument("--output", type=Path, help="keep the exported TorchScript model here (default: not kept)")
    options = parser.parse_args(argv)
    if min(options.epochs, options.batch_size, options.threads) < 1:
        parser.error("--epochs, --batch-size and --threads must be at least 1")
    return options


def read_digits(load_digits, seed: int) -> Digits:
    scans, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(scans).float().div(16).view(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    test, train = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).tensor_split([TEST_SCANS])
    return Digits(x[train], y[train], x[test], y[test])


def train(pool: nn.Module, digits: Digits, options: argparse.Namespace, bar) -> Run:
    """One training from the seed's weights over the seed's batches; `bar` is told of every step."""
    torch.manual_seed(options.seed)
    network = Network(pool)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    losses = []
    for _ in range(options.epochs):
        for batch in torch.randperm(len(digits.train_x)).split(options.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(digits.train_x[batch]), digits.train_y[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            bar.update()
    right = network(digits.test_x).argmax(1) == digits.test_y
    return Run(network, losses, right.float().mean().item())


def pooling_inputs(network: Network, digits: Digits, batch_size: int) -> list[Tensor]:
    """What the pooling layer is given in one epoch."""
    return [network.features(x).detach().requires_grad_() for x in digits.train_x.split(batch_size)]


def seconds(pool: nn.Module, inputs: list[Tensor], grads: list[Tensor]) -> float:
    start = time.perf_counter()
    for x, grad in zip(inputs, grads, strict=True):
        torch.autograd.grad(pool(x), x, grad)
    return time.perf_counter() - start


def pooling_times(inputs: list[Tensor]) -> dict[str, float]:
    """Median seconds of forward and backward over `inputs`; the two kinds of pooling take turns, after one untimed."""
    grads = [torch.randn(*x.shape[:2], 7, 7) for x in inputs]
    times: dict[str, list[float]] = {name: [] for name in POOLS}
    for _ in range(ROUNDS + 1):
        for name, kind in POOLS.items():
            times[name].append(seconds(kind(), inputs, grads))
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def kept_tensors(pool: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors that one forward call keeps for backward."""
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        pool(x)
    return kept


def export_answers(network: Network, x: Tensor, output: Path | None) -> Tensor:
    """The answers to `x` of the network after export to TorchScript and loading."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch advises torch.export in TorchScript's place
        path = output or Path(folder) / "digits.pt"
        torch.jit.script(network).save(path)
        return torch.jit.load(path)(x)


def report_training(runs: dict[str, Run]) -> bool:
    for name, run in runs.items():
        print(f"{name}: loss {run.losses[0]:.6f} to {run.losses[-1]:.6f}, test accuracy {run.accuracy:.2%}")
    pairs = list(zip(*(run.losses for run in runs.values()), strict=True))
    different = [step for step, (theirs, ours) in enumerate(pairs, 1) if theirs != ours]
    if different:
        print(f"Losses: DIFFERENT in {len(different)} of {len(pairs)} steps, first in step {different[0]}")
    else:
        print(f"Losses: the two sequences are identical, {len(pairs)} steps")
    return not different


def report_pooling(inputs: list[Tensor]) -> None:
    print(f"Time in pooling, forward + backward, {len(inputs)} batches (1 epoch), {torch.get_num_threads()} thread(s)")
    print(f"(timed alone, after training, on the trained network's activations; median of {ROUNDS} rounds):")
    for name, taken in pooling_times(inputs).items():
        print(f"  {name}: {taken * 1e3:.2f} ms")
    print("Kept for backward by pooling one batch (the float32 input is kept by the ReLU before it too):")
    for name, kind in POOLS.items():
        kept = kept_tensors(kind(), inputs[0])
        what = " + ".join(f"{t.dtype} {list(t.shape)}" for t in kept)
        print(f"  {name}: {sum(t.nbytes for t in kept)} bytes ({what})")


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    load_digits, tqdm = optional_packages()
    torch.set_num_threads(options.threads)
    digits = read_digits(load_digits, options.seed)
    steps = options.epochs * math.ceil(len(digits.train_x) / options.batch_size)
    runs = {}
    for name, kind in POOLS.items():
        with tqdm(total=steps, desc=name, unit="step", mininterval=0.5) as bar:
            runs[name] = train(kind(), digits, options, bar)
    identical = report_training(runs)
    network = runs["torch.ops.torch_maxpool"].network
    report_pooling(pooling_inputs(network, digits, options.batch_size))
    same = torch.equal(export_answers(network, digits.test_x, options.output), network(digits.test_x))
    print(f"TorchScript model, saved and loaded: answers on test scans {'identical' if same else 'DIFFERENT'}")
    return 0 if identical and same else 1


if __name__ == "__main__":
    sys.exit(main())
