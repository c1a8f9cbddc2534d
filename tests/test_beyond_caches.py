"""Poolings of more than the nearest caches hold, for which kernels have forms that ask for memory ahead of time."""

import pytest
import torch

from common import DTYPES, FLOATS, OUR_POOL, TORCH_POOL, Case

PLANES = (8, 64, 66, 70)  # 2.4 million elements: more than 2 MiB in every dtype, 4 MiB in those that have gradients
CASES = [
    Case("2/2", PLANES, (2, 2), (2, 2)),
    Case("4/4", PLANES, (4, 4), (4, 4)),
    Case("3/2", PLANES, (3, 3), (2, 2), (1, 1)),
    Case("2/1", PLANES, (2, 2), (1, 1)),
    Case("3/1", PLANES, (3, 3), (1, 1), (1, 1)),
    Case("long rows, 2/2", (2, 2, 60, 9001), (2, 2), (2, 2)),
    Case("long rows, 3/2", (2, 2, 60, 9001), (3, 3), (2, 2), (1, 1)),
    Case("1-d 4/4", (4, 64, 9004), (4,), (4,)),
    Case("1-d 3/1", (4, 64, 9001), (3,), (1,), (1,)),
    Case("rows alone, short", PLANES, (1, 9), (1, 1), (0, 4)),
    Case("rows alone, long", (2, 1, 700, 2048), (1, 9), (1, 1), (0, 4)),
    Case("rows alone, odd", (2, 700, 2043), (6,), (1,), (3,)),
]
# Results of 57 MB in float32: stored past the cache though rows are no whole lines of it.
STREAMED = [
    Case("streamed, 2/2", (48, 64, 66, 70), (2, 2), (2, 2)),
    Case("streamed, 3/2", (48, 64, 66, 70), (3, 3), (2, 2), (1, 1)),
    Case("streamed, 3/1", (48, 64, 66, 70), (3, 3), (1, 1), (1, 1)),
    Case("streamed, 3/1, small planes", (1120, 64, 14, 14), (3, 3), (1, 1), (1, 1)),
]
IN_DEPTH = Case("3-d 3/2", (2, 32, 8, 66, 70), (3, 3, 3), (2, 2, 2), (1, 1, 1))
MANY_ROWS = Case("17/1", (1, 1, 1300, 1700), (17, 17), (1, 1), (8, 8))


def arguments(case):
    return case.kernel, case.stride, case.padding, 1, False


def elements(case, dtype):
    x = torch.randint(0, 100, case.shape) - (0 if dtype == torch.uint8 else 50)
    return x.to(dtype)


def rows():
    """(case, dtype, whether some elements are NaN)"""
    for case in [*CASES, IN_DEPTH, MANY_ROWS]:
        dtypes = DTYPES[:-1]  # PyTorch pools no bool
        if case is IN_DEPTH:
            dtypes = FLOATS
        elif case is MANY_ROWS:  # slow in PyTorch
            dtypes = [torch.float32, torch.uint8]
        for dtype in dtypes:
            yield pytest.param(case, dtype, False, id=f"{case.name}-{dtype}")
            if dtype in (torch.float32, torch.bfloat16):
                yield pytest.param(case, dtype, True, id=f"{case.name}-{dtype}-nan")
    for case in STREAMED[2:]:
        for has_nan in (False, True):
            yield pytest.param(case, torch.float32, has_nan, id=case.name + ("-nan" if has_nan else ""))


@pytest.mark.parametrize(("case", "dtype", "has_nan"), list(rows()))
def test_forward(case, dtype, has_nan):
    x = elements(case, dtype)
    if has_nan:
        x.view(-1)[[5, x.numel() // 2, -1]] = float("nan")
    expected, indices = TORCH_POOL[case.rank](x, *arguments(case), return_indices=True)
    pool = OUR_POOL[case.rank]
    values = pool(x, *arguments(case))
    with_indices = pool(x, *arguments(case), return_indices=True)
    assert torch.equal(values.nan_to_num(99), expected.nan_to_num(99))
    assert torch.equal(with_indices[0].nan_to_num(99), expected.nan_to_num(99))
    assert torch.equal(with_indices[1], indices)


def trained():
    for case in [*CASES, IN_DEPTH, *STREAMED]:
        for dtype in FLOATS if case not in STREAMED else [torch.float32]:
            yield pytest.param(case, dtype, id=f"{case.name}-{dtype}")


@pytest.mark.parametrize(("case", "dtype"), list(trained()))
def test_backward(case, dtype):
    """Gradients are small whole numbers, whose sums every dtype holds exactly."""
    x = elements(case, dtype).requires_grad_()
    expected = TORCH_POOL[case.rank](x, *arguments(case))
    grad = torch.randint(-2, 3, expected.shape).to(dtype)
    (expected_grad,) = torch.autograd.grad(expected, x, grad)
    (actual_grad,) = torch.autograd.grad(OUR_POOL[case.rank](x, *arguments(case)), x, grad)
    assert torch.equal(actual_grad, expected_grad)
