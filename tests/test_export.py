"""torch.export with sizes that are not known, saved and loaded again, and AOTInductor packages made from it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import OUR_MODULE, OUR_POOL, assert_same, every_case, once

pytestmark = once

DYNAMIC = torch.export.Dim.DYNAMIC
FORMS = {
    "plain": {"padding": 1},
    "unequal": {"padding": "unequal"},
    "same": {"padding": "same"},
    "same_lower": {"padding": "same_lower"},
    "same_dilated": {"padding": "same", "dilation": 2},
    "ceil": {"padding": 1, "ceil_mode": True},
    "indices": {"padding": "same", "return_indices": True},
}


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def module_of(form, rank):
    keywords = dict(FORMS[form])
    if keywords["padding"] == "unequal":
        keywords["padding"] = [(2, 0)] * rank
    return OUR_MODULE[rank](3, 2, **keywords)


def reloaded(exported):
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    return torch.export.load(buffer)


def check(module, eager, tensor):
    for mine, plain in zip(outputs(module(tensor)), outputs(eager(tensor)), strict=True):
        assert_same(mine, plain)
        assert mine.stride() == plain.stride()


@pytest.mark.parametrize(("form", "strict"), [*((form, False) for form in FORMS), ("unequal", True), ("same", True)])
def test_dynamic_sizes(rank, form, strict):
    module = module_of(form, rank)
    example = torch.randn(2, 3, *range(9, 9 + rank))
    sizes = [DYNAMIC] * (rank + 2)
    exported = torch.export.export(module, (example,), dynamic_shapes=(sizes,), strict=strict)
    assert "torch_maxpool" in str(exported.graph)
    assert len(exported.range_constraints) == rank + 2  # no size was baked in
    for program in (exported, reloaded(exported), exported.run_decompositions()):
        run = program.module()
        for shape in ((2, 3, *[9] * rank), (4, 5, *range(7, 7 + rank)), (3, 2, *[20] * rank)):
            check(run, module, torch.randn(shape))


def test_named_dimensions(rank):
    """Bounds of the user's own, one size for every spatial dimension, a batch of one and an unbatched input."""
    module = OUR_MODULE[rank](3, 2, padding="same")
    batch, size = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("size", min=4, max=512)
    dynamic = ([batch, None, *[size] * rank],)
    run = reloaded(torch.export.export(module, (torch.randn(2, 3, *[9] * rank),), dynamic_shapes=dynamic)).module()
    check(run, module, torch.randn(1, 3, *[16] * rank))
    with pytest.raises((AssertionError, RuntimeError)):
        run(torch.randn(1, 3, *[3] * rank))
    unbatched = torch.export.export(module, (torch.randn(3, *[9] * rank),), dynamic_shapes=([None, *[size] * rank],))
    check(reloaded(unbatched).module(), module, torch.randn(3, *[17] * rank))


@pytest.mark.parametrize("padding", [0, "unequal"])
def test_exact(rank, padding):
    """What `exact` refuses when called, an exported program refuses too; sizes stay dynamic."""
    module = OUR_MODULE[rank](3, 2, [(0, 1)] * rank if padding else 0, exact=True)
    first = 10 if padding else 9
    example = torch.randn(2, 3, *range(first, first + 2 * rank, 2))
    exported = torch.export.export(module, (example,), dynamic_shapes=([DYNAMIC] * (rank + 2),))
    for program in (exported, reloaded(exported)):
        run = program.module()
        check(run, module, example)
        check(run, module, torch.randn(5, 2, *[first + 12] * rank))
        with pytest.raises((AssertionError, RuntimeError, ValueError)):
            run(torch.randn(5, 2, *[first + 13] * rank))


@every_case()
def test_every_operator(case):
    class Operators(torch.nn.Module):
        def forward(self, x):
            output, offsets = case.forward(x)
            grad = case.backward(output, offsets)
            return case.values(x), output, offsets, case.indices(offsets), case.gather(x, offsets), grad

    tensor = case.input(torch.float32)
    run = reloaded(torch.export.export(Operators(), (tensor,))).module()
    check(run, Operators(), tensor)


def test_channels_last():
    module = OUR_MODULE[2](3, 2, 1, return_indices=True)
    example = torch.randn(2, 3, 8, 10).contiguous(memory_format=torch.channels_last)
    exported = torch.export.export(module, (example,), dynamic_shapes=([DYNAMIC, None, DYNAMIC, DYNAMIC],))
    check(reloaded(exported).module(), module, torch.randn(4, 3, 9, 7).contiguous(memory_format=torch.channels_last))


def test_exported_programs_train(rank):
    module = OUR_MODULE[rank](3, 2, padding="same")
    exported = torch.export.export(module, (torch.randn(2, 3, *[9] * rank),), dynamic_shapes=([DYNAMIC] * (rank + 2),))
    tensor = torch.randn(4, 3, *[12] * rank)
    ours, theirs = tensor.clone().requires_grad_(), tensor.clone().requires_grad_()
    reloaded(exported).module()(ours).pow(2).sum().backward()
    module(theirs).pow(2).sum().backward()
    assert_same(ours.grad, theirs.grad)


def test_a_program_of_another_process(tmp_path):
    """A process that loads a program needs the import and nothing else."""
    module = OUR_MODULE[2](3, 2, padding="same")
    tensor = torch.randn(2, 3, 9, 12)
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(module, (tensor,), dynamic_shapes=([DYNAMIC] * 4,)), path)
    torch.save((tensor, module(tensor)), tmp_path / "answer.pt")
    script = (
        "import torch, torch_maxpool\n"
        f"tensor, answer = torch.load({str(tmp_path / 'answer.pt')!r})\n"
        f"assert torch.equal(torch.export.load({str(path)!r}).module()(tensor), answer)\n"
    )
    root = str(Path(OUR_POOL[2].__code__.co_filename).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=300)


# tests/cpp/make_package.py's model, which a C++ program runs too.
def test_aot_inductor_package(tmp_path):
    sys.path.insert(0, str(Path(__file__).parent / "cpp"))
    try:
        import make_package
    finally:
        sys.path.pop(0)
    make_package.write(tmp_path)
    run = torch._inductor.aoti_load_package(str(tmp_path / "pools.pt2"))
    answers = torch.load(tmp_path / "answers.pt")
    assert len({tuple(inputs.shape) for inputs, _ in answers}) == len(answers) > 1
    for tensor, expected in answers:
        actual = run(tensor)
        for mine, plain in zip(actual, expected, strict=True):
            assert_same(mine, plain)
