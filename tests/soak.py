"""Long runs: many threads on shared tensors, and memory over many calls.

    python tests/soak.py --seconds 300 --calls 100000

tests/test_soak.py runs the same for a moment.
"""

from __future__ import annotations

import argparse
import random
import threading
import time

import torch

from common import CASES, OPS, random_input
from hostile.limits import MIB, status_bytes

CALLS_PER_STEP = 4  # forward, backward, indices, gather
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def make_steps():
    """Forward and backward of every sample case on shared inputs: functions that return all results."""
    torch.manual_seed(0)
    steps = []
    for number, case in enumerate(CASES):
        dtype = DTYPES[number % len(DTYPES)]
        tensor = case.layout(random_input(case.shape, dtype))
        # Larger ones are shared between threads of the operator itself, too.
        tensor = torch.cat([tensor] * 40) if tensor.dim() == case.rank + 2 and number % 3 == 0 else tensor
        weight = torch.randn_like(case.values(tensor).nan_to_num(0, 0, 0), dtype=torch.float32).to(dtype)

        def step(case=case, tensor=tensor, weight=weight):
            leaf = tensor.detach().requires_grad_()
            output, offsets = case.forward(leaf)
            (gradient,) = torch.autograd.grad(output, leaf, weight)
            return output.detach(), offsets, gradient, case.indices(offsets), case.gather(tensor, offsets)

        steps.append(step)
    return steps


def same(results, expected):
    """Equal in all bits."""
    pairs = zip(results, expected, strict=True)
    return all(a.shape == b.shape and torch.equal(bits(a), bits(b)) for a, b in pairs)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def fail_once():
    """A call whose error is raised where the units are worked on, in whichever thread that is."""
    grad = torch.ones(16, 8, 16, 16)
    offsets = torch.zeros(grad.shape, dtype=torch.uint8)
    offsets[-1, -1, -1, -1] = 4
    try:
        OPS.maxpool_backward(grad, offsets, [32, 32], [2, 2], [2], [0], [1], False)
    except IndexError:
        return True
    return False


def run_threads(seconds, count=8):
    """`count` Python threads work for `seconds`; returns (steps done, what went wrong)."""
    steps = make_steps()
    expected = [step() for step in steps]
    until = time.monotonic() + seconds
    done = [0] * count
    wrong = []

    def work(number):
        order = random.Random(number)
        try:
            while time.monotonic() < until and not wrong:
                chosen = order.randrange(len(steps) + 1)
                right = fail_once() if chosen == len(steps) else same(steps[chosen](), expected[chosen])
                if not right:
                    wrong.append(f"step {chosen} in thread {number}")
                done[number] += 1
        except BaseException as error:
            wrong.append(repr(error))
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done), wrong


def run_calls(calls):
    """Growth of resident memory, in bytes, over `calls` of operators, errors included, after some to warm up."""
    steps = [*make_steps(), fail_once]
    for _ in range(20):
        for step in steps:
            step()
    before = status_bytes("VmRSS")
    for number in range(calls // CALLS_PER_STEP):
        steps[number % len(steps)]()
    return status_bytes("VmRSS") - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="for the threads")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=100_000, help="for the memory")
    options = parser.parse_args()
    growth = run_calls(options.calls)
    print(f"{options.calls} calls of operators: {growth / MIB:+.1f} MiB", flush=True)
    done, wrong = run_threads(options.seconds, options.threads)
    print(f"{options.threads} threads for {options.seconds:.0f} s: {done} steps, wrong: {wrong or 'none'}")
    raise SystemExit(bool(wrong) or growth > 16 * MIB)


if __name__ == "__main__":
    main()
