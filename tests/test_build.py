"""What the compiled extension looks like and how it behaves as a whole: symbols, threads, instruction sets."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest
import torch

from common import OPS, OUR_POOL, TORCH_POOL, random_input
from torch_maxpool import _C

# Kernel namespaces, one per instruction set. A weak symbol of one could be what the linker picks for another, and code
# for a newer processor would run on an older one.
PER_INSTRUCTION_SET = re.compile(r"\b(avx2|avx512|baseline)::")


@pytest.mark.skipif(not (shutil.which("nm") and shutil.which("c++filt")), reason="binutils are not installed")
def test_no_symbols_of_instruction_sets():
    table = subprocess.run(
        ["nm", "-D", "--defined-only", _C.__file__], check=True, capture_output=True, text=True
    ).stdout
    names = subprocess.run(["c++filt"], input=table, check=True, capture_output=True, text=True).stdout.splitlines()
    assert any("PyInit__C" in name for name in names)
    leaked = [name for name in names if PER_INSTRUCTION_SET.search(name)]
    assert all(re.search(r"kernels_(default|avx2|avx512)$", name) for name in leaked), leaked


def results(rank, dtype):
    torch.manual_seed(1)
    tensor = random_input((5, 7, *(64, 48, 9)[-rank:]), dtype)
    output, offsets = OPS.maxpool_forward(tensor, [3] * rank, [2], [1])
    rest = ([3] * rank, [2], [1], [1], False)
    spatial = tensor.shape[2:]
    found = [output, offsets, OPS.maxpool_values(tensor, [3] * rank, [2], [1])]
    found.append(OPS.maxpool_indices(offsets, spatial, *rest))
    found.append(OPS.maxpool_gather(tensor, offsets, *rest))
    if dtype.is_floating_point:
        found.append(OPS.maxpool_backward(torch.randn(output.shape).to(dtype), offsets, spatial, *rest))
    return [result.contiguous().view(torch.uint8) for result in found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8], ids=str)
def test_results_do_not_depend_on_threads(rank, dtype, set_threads):
    set_threads(1)
    single = results(rank, dtype)
    for threads in (2, 3):
        set_threads(threads)
        for mine, expected in zip(results(rank, dtype), single, strict=True):
            assert torch.equal(mine, expected)


def busy_threads(function):
    """Kernel ids of the threads that did a fifth or more of the work while `function` ran for half a second."""

    def times():
        found = {}
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/schedstat") as file:
                found[thread] = int(file.read().split()[0])
        return found

    before = times()
    started = time.process_time()
    while time.process_time() - started < 0.5:
        function()
    return [thread for thread, spent in times().items() if spent - before.get(thread, 0) > 100_000_000]


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this system does not tell threads' times")
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_used(threads, set_threads):
    """Compiled without OpenMP, at::parallel_for would quietly run everything on one thread."""
    set_threads(threads)
    tensor = torch.randn(32, 16, 64, 64)
    assert len(busy_threads(lambda: OPS.maxpool_forward(tensor, [3, 3], [1, 1]))) == threads


def test_callers_in_many_threads():
    tensor = torch.randn(4, 3, 32, 32)
    leaf = tensor.clone().requires_grad_()
    expected = TORCH_POOL[2](leaf, 3, 2, 1)
    expected.sum().backward()
    failures = []

    def work():
        for _ in range(20):
            mine = tensor.clone().requires_grad_()
            output = OUR_POOL[2](mine, 3, 2, 1)
            output.sum().backward()
            if not (torch.equal(output, expected) and torch.equal(mine.grad, leaf.grad)):
                failures.append(threading.get_ident())

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_errors_in_worker_threads_reach_the_caller(set_threads):
    """An exception that leaves a parallel region would end the process."""
    set_threads(2)
    grad = torch.ones(64, 16, 32, 32)
    offsets = torch.zeros(grad.shape, dtype=torch.uint8)
    rest = ([2, 2], [2], [0], [1], False)
    for place in (0, -1):
        broken = offsets.clone()
        broken.view(-1)[place] = 4
        for call in (
            lambda places: OPS.maxpool_backward(grad, places, [64, 64], *rest),
            lambda places: OPS.maxpool_indices(places, [64, 64], *rest),
            lambda places: OPS.maxpool_gather(torch.zeros(64, 16, 64, 64), places, *rest),
        ):
            with pytest.raises(IndexError, match="offsets hold a value that names no element of its window"):
                call(broken)


# Numbers from integer arithmetic: PyTorch's own random numbers depend on the instruction set.
SCRIPT = """
import hashlib
import torch, torch_maxpool
digest = hashlib.sha256()
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int16):
    tensor = (torch.arange(3 * 5 * 37 * 41).mul(7919).remainder(251) - 120).to(dtype).reshape(3, 5, 37, 41)
    for kernel, stride, padding in ((2, 2, 0), (3, 1, 1), (5, 3, 2)):
        output, offsets = torch.ops.torch_maxpool.maxpool_forward(tensor, [kernel] * 2, [stride], [padding])
        rest = ([kernel] * 2, [stride], [padding], [1], False)
        grad = output if dtype.is_floating_point else output.float()
        back = torch.ops.torch_maxpool.maxpool_backward(grad / 3, offsets, [37, 41], *rest)
        for result in (output, offsets, back):
            digest.update(result.view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


def capabilities():
    """Those that this processor has: PyTorch believes ATEN_CPU_CAPABILITY, and one too high ends in SIGILL."""
    found = ["default"]
    if torch.cpu._is_avx2_supported():
        found.append("avx2")
    if torch.cpu._is_avx512_supported():
        found.append("avx512")
    return found


def test_results_do_not_depend_on_the_instruction_set():
    printed = set()
    for capability in capabilities():
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        command = [sys.executable, "-c", SCRIPT]
        printed.add(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    assert len(printed) == 1
