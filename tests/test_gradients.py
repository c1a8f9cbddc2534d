"""Gradients: against torch.nn.functional bit for bit, against the definition, and by finite differences."""

import numpy as np
import pytest
import torch

import reference
from common import (
    CASES,
    FLOATS,
    OPS,
    OUR_POOL,
    OWN_CASES,
    TORCH_CASES,
    TORCH_POOL,
    assert_array,
    assert_same,
    every_case,
    random_input,
    to_numpy,
)


def torch_arguments(case):
    return [entries[0] if len(entries) == 1 else entries for entries in case.window[:-1]] + [case.ceil_mode]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_case([case for case in TORCH_CASES if not case.channels_last])
def test_equals_torch_bit_for_bit(case, dtype):
    tensor = random_input(case.shape, dtype)
    ours, theirs = tensor.clone().requires_grad_(), tensor.clone().requires_grad_()
    output = case.forward(ours)[0]
    grad = torch.randn_like(output)
    output.backward(grad)
    TORCH_POOL[case.rank](theirs, *torch_arguments(case)).backward(grad)
    assert_same(ours.grad, theirs.grad)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 16, 33])
def test_overlaps_are_summed_in_the_order_of_torch(rank, kernel, stride, size):
    if rank == 3 and size > 16:
        size = 7
    tensor = torch.rand(2, 2, *[size] * rank).round(decimals=1)
    ours, theirs = tensor.clone().requires_grad_(), tensor.clone().requires_grad_()
    output = OUR_POOL[rank](ours, kernel, stride, kernel // 2)
    grad = torch.randn_like(output) * 10.0 ** torch.randint(-4, 4, output.shape)
    output.backward(grad)
    TORCH_POOL[rank](theirs, kernel, stride, kernel // 2).backward(grad)
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@every_case()
def test_equals_the_definition(case, dtype):
    tensor = case.layout(random_input(case.shape, dtype)).requires_grad_()
    expected = case.expected(tensor)
    output, offsets = case.forward(tensor)
    grad = torch.randn(output.shape).to(dtype)
    (actual,) = torch.autograd.grad(output, tensor, grad, retain_graph=True)
    # float16 and bfloat16 are summed in float32 and rounded once.
    wide = to_numpy(grad if dtype == torch.float64 else grad.float())
    summed = torch.from_numpy(reference.scatter(wide, expected.indices, case.spatial))
    assert_same(actual, summed.to(dtype))
    assert_same(case.backward(grad, offsets), summed.to(dtype))
    (whole,) = torch.autograd.grad(case.values(tensor), tensor, grad)
    assert_same(whole, actual)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_gradients_are_rounded_once(dtype):
    """Rounded after every addition, 1 + many small terms would stay 1."""
    small = torch.finfo(dtype).eps / 4
    tensor = torch.tensor([0.0] * 8 + [1.0] + [0.0] * 8, dtype=dtype).view(1, 1, 17).requires_grad_()
    output = OUR_POOL[1](tensor, 9, 1)
    grad = torch.tensor([1.0] + [small] * 8, dtype=dtype).view(1, 1, 9)
    output.backward(grad)
    assert tensor.grad.flatten()[8].item() == 1 + 8 * small


def test_many_windows_on_one_element():
    """All of 25 x 25 windows agree on one winner, which no kernel may lose to a partial sum."""
    tensor = torch.zeros(1, 1, 25, 25, dtype=torch.float64)
    tensor[0, 0, 12, 12] = 1
    tensor.requires_grad_()
    OUR_POOL[2](tensor, 25, 1, 12).sum().backward()
    assert tensor.grad.sum() == tensor.grad[0, 0, 12, 12] == 625


@every_case(OWN_CASES)
def test_windows_without_elements_pass_nothing_on(case):
    tensor = case.input().requires_grad_()
    expected = case.expected(tensor)
    output, offsets = case.forward(tensor)
    grad = torch.full_like(output, 5.0)
    grad[torch.from_numpy(expected.indices < 0)] = float("nan")
    assert_array(case.backward(grad, offsets), reference.scatter(to_numpy(grad), expected.indices, case.spatial))
    assert not case.backward(grad, offsets).isnan().any()


@pytest.mark.parametrize("operator", ["maxpool_forward", "maxpool_values"])
@every_case()
def test_only_offsets_are_kept(case, operator):
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    tensor = case.input(torch.float32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = getattr(OPS, operator)(tensor, *case.window, **case.keywords)
    assert len(kept) == 1
    assert kept[0].dtype == (torch.uint8 if np.prod(case.kernel) <= 256 else torch.int32)
    assert kept[0].shape == (result if operator == "maxpool_values" else result[0]).shape
    # Nothing outside the hooks holds on to the input either.
    node = (result if operator == "maxpool_values" else result[0]).grad_fn
    assert not any(isinstance(getattr(node, name, None), torch.Tensor) for name in dir(node))


def test_input_may_change_after_forward(rank):
    tensor = torch.randn(2, 3, *[6] * rank)
    leaf = tensor.clone().requires_grad_()
    moved = leaf * 1
    output = OUR_POOL[rank](moved, 2)
    moved.zero_()
    output.sum().backward()
    expected = tensor.requires_grad_()
    TORCH_POOL[rank](expected, 2).sum().backward()
    assert torch.equal(leaf.grad, expected.grad)


def test_changed_offsets_are_noticed():
    tensor = torch.randn(1, 1, 4, 4, requires_grad=True)
    output, offsets = OPS.maxpool_forward(tensor, [2, 2])
    offsets.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_offsets_and_integers_carry_no_gradient():
    output, offsets = OPS.maxpool_forward(torch.randn(1, 1, 4, requires_grad=True), [2])
    assert output.requires_grad
    assert not offsets.requires_grad
    values, indices = OUR_POOL[1](torch.randn(1, 1, 4, requires_grad=True), 2, return_indices=True)
    assert values.requires_grad
    assert not indices.requires_grad
    assert not OPS.maxpool_forward(torch.ones(1, 1, 4, dtype=torch.int64), [2])[0].requires_grad
    with torch.no_grad():
        assert not OUR_POOL[1](torch.randn(1, 1, 4, requires_grad=True), 2).requires_grad
    with torch.inference_mode():
        assert OUR_POOL[1](torch.randn(1, 1, 4), 2).is_inference()


def test_empty_batch(rank):
    tensor = torch.zeros(0, 3, *[6] * rank, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(OUR_POOL[rank](tensor, 2).sum(), tensor, create_graph=True)
    assert grad.shape == tensor.shape
    assert torch.autograd.gradgradcheck(lambda x: OUR_POOL[rank](x, 2), (tensor,))


@every_case()
def test_backward_is_linear_with_gather_as_its_transpose(case):
    """<gather(v), g> = <v, backward(g)>: what double backward rests on."""
    output, offsets = case.forward(case.input())
    grad, vector = torch.randn_like(output), torch.randn(case.shape, dtype=torch.float64)
    left = (case.gather(vector, offsets) * grad).sum()
    right = (vector * case.backward(grad, offsets)).sum()
    torch.testing.assert_close(left, right)


@every_case()
def test_gradcheck(case):
    # Empty windows give -inf, on which finite differences say nothing.
    def pool(tensor):
        output = case.forward(tensor)[0]
        return output.where(output.isfinite(), torch.zeros_like(output))

    tensor = case.input().requires_grad_()
    if tensor.numel() > 200:
        assert torch.autograd.gradcheck(pool, (tensor,), fast_mode=True, check_forward_ad=True)
    else:
        assert torch.autograd.gradcheck(pool, (tensor,), check_forward_ad=True, check_batched_grad=True)


@every_case()
def test_gradgradcheck(case):
    def pool(tensor):
        output = case.values(tensor)
        return output.where(output.isfinite(), torch.zeros_like(output))

    tensor = case.input().requires_grad_()
    small = tensor.numel() <= 120
    assert torch.autograd.gradgradcheck(pool, (tensor,), fast_mode=not small, check_batched_grad=small)


@every_case([case for case in CASES if np.prod(case.shape) <= 200])
def test_gradcheck_of_backward_and_gather(case):
    tensor = case.input()
    output, offsets = case.forward(tensor)
    options = {"check_forward_ad": True, "check_batched_grad": True}
    grad = torch.randn_like(output).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: case.backward(g, offsets), (grad,), **options)
    assert torch.autograd.gradcheck(lambda x: case.gather(x, offsets), (tensor.requires_grad_(),), **options)


@every_case([case for case in CASES if np.prod(case.shape) <= 200])
def test_function_transforms_of_backward_and_gather(case):
    """Both are linear: what vjp pulls back is the other of them."""
    tensor = case.input()
    output, offsets = case.forward(tensor)
    grad, vector = torch.randn_like(output), torch.randn_like(tensor)
    result, pull = torch.func.vjp(lambda g: case.backward(g, offsets), grad)
    assert_same(result, case.backward(grad, offsets))
    assert_same(pull(vector)[0], case.gather(vector, offsets))
    result, pull = torch.func.vjp(lambda x: case.gather(x, offsets), vector)
    assert_same(result, case.gather(vector, offsets))
    torch.testing.assert_close(pull(grad)[0], case.backward(grad, offsets))


@every_case([case for case in CASES if np.prod(case.shape) <= 200])
def test_function_transforms(case):
    """torch.func's transforms agree with autograd."""
    tensor = case.input()

    def loss(x):
        output = case.values(x)
        return output.where(output.isfinite(), torch.zeros_like(output)).square().sum()

    leaf = tensor.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert_same(torch.func.grad(loss)(tensor), expected)
    tangent = torch.randn_like(tensor)
    value, slope = torch.func.jvp(loss, (tensor,), (tangent,))
    torch.testing.assert_close(value, loss(tensor))
    torch.testing.assert_close(slope, (expected * tangent).sum())
    stacked = torch.stack([tensor, -tensor])
    mapped = torch.func.vmap(torch.func.grad(loss))(stacked)
    torch.testing.assert_close(mapped[0], expected)
    outputs, offsets = torch.func.vmap(case.forward)(stacked)
    for number, single in enumerate(stacked):
        output, places = case.forward(single)
        assert_same(outputs[number], output)
        assert torch.equal(offsets[number], places)
