"""Memory of large results: csrc/cpu/memory.h."""

import torch
import torch.nn.functional as F

from common import OPS, once

MIB = 1 << 20

pytestmark = once


def pooled(mebibytes):
    """An input of ones and its pooled values, of as many MiB."""
    x = torch.ones(1, 1, mebibytes * MIB // 4096 + 1, 1025)
    return x, OPS.maxpool_values(x, [2, 2], [1, 1])


def test_large_results_are_right():
    x = torch.randn(3, 5, 1100, 1100)  # results of 69 MiB, and of 17 in offsets
    expected = F.max_pool2d(x, 3, 1, 1)
    for _ in range(3):  # in new memory and in what is kept
        y, offsets = OPS.maxpool_forward(x, [3, 3], [1, 1], [1, 1])
        assert torch.equal(y, expected)
        grad = OPS.maxpool_backward(y, offsets, [1100, 1100], [3, 3], [1, 1], [1, 1], [1, 1], False)
        assert grad.sum(dtype=torch.float64).isclose(y.sum(dtype=torch.float64))
        del y, offsets, grad


def test_memory_of_a_large_result_is_used_again():
    _, y = pooled(40)
    address = y.data_ptr()
    _, other = pooled(40)
    assert other.data_ptr() != address
    del y
    _, y = pooled(40)  # of the two at most that are kept, those of this size were in use
    assert y.data_ptr() == address
    assert torch.equal(y, torch.ones_like(y))


def test_memory_of_smaller_results_is_used_again():
    x = torch.ones(8, 512, 513)  # results of 8 MiB
    kept = [OPS.maxpool_values(x, [1, 2], [1, 1]) for _ in range(10)]
    addresses = {y.data_ptr() for y in kept}
    assert len(addresses) == 10
    del kept  # of 80 MiB, 64 are kept
    again = [OPS.maxpool_values(x, [1, 2], [1, 1]) for _ in range(8)]
    assert {y.data_ptr() for y in again} <= addresses
    assert all(torch.equal(y, torch.ones_like(y)) for y in again)
    assert len({y.data_ptr() for y in again}) == 8


def test_many_results_at_a_time():
    held = []
    for mebibytes in (2, 3, 5, 9, 17, 31, 2, 3, 5, 9, 17, 31, *range(1, 30), 1, 40, 2):
        x, y = pooled(mebibytes)
        y.fill_(mebibytes)
        held.append((y, mebibytes))
        if len(held) > 7:
            y, value = held.pop(len(held) // 2)
            assert torch.equal(y, torch.full_like(y, value))  # nobody else had its memory
        del x, y
    assert all(torch.equal(y, torch.full_like(y, value)) for y, value in held)


def test_results_of_other_sizes_have_memory_of_their_own():
    for mebibytes in (40, 80, 33, 300, 120, 40):
        x, y = pooled(mebibytes)
        assert torch.equal(y, x[..., 1:, 1:])
        del x, y


def test_large_result_can_be_resized():
    _, y = pooled(40)
    y.resize_(3)
    assert torch.equal(y, torch.ones(3))
    y.resize_(1, 1, 12 * MIB)
    y.fill_(2.0)
    y.untyped_storage().resize_(64)
    assert torch.equal(y.as_strided((16,), (1,)), torch.full((16,), 2.0))
