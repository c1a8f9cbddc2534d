"""PyTorch's own yardstick: OpInfos of max_pool1d/2d/3d with the samples and error inputs of PyTorch's max poolings, and
the checks that its test suite runs over every OpInfo, as far as the wheel has them (torch.testing._internal).
"""

import itertools
import re

import torch
import torch.testing._internal.common_methods_invocations as invocations
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.testing._internal import composite_compliance, optests
from torch.testing._internal.common_device_type import OpDTypes, instantiate_device_type_tests, ops
from torch.testing._internal.common_dtype import all_types_and, floating_types_and
from torch.testing._internal.common_utils import TestCase, TestGradients
from torch.testing._internal.opinfo.core import ErrorInput, OpInfo

from common import OUR_POOL, TORCH_POOL, once

pytestmark = once

# What PyTorch's error inputs are told, and what we tell them.
MESSAGES = {
    "pad must be non-negative": "padding must not be negative",
    "pad should be at most half": "padding must be smaller than the effective kernel size",
    "tensor with optional 0 dim batch size": "input must have .* dimensions|may be empty in its batch dimension only",
    "non-batch dimensions to have positive length": "may be empty in its batch dimension only",
    "stride must be greater than zero": "stride must be greater than zero",
    "dilation must be greater than zero": "dilation must be greater than zero",
    "kernel_size must be greater than zero": "kernel_size must be greater than zero",
    "Invalid computed output size": "output size is too small",
    "Output size is too small": "output size is too small|input must have .* dimensions",
}


def theirs(op):
    """PyTorch's OpInfo of the same pooling."""
    name = f"nn.functional.{op.name.split('.')[-1]}"
    return next(info for info in invocations.op_db if info.name == name)


def sample_inputs(op, device, dtype, requires_grad, **keywords):
    """Of some 1000 samples every 13th where gradients are wanted, which still has every value of every argument."""
    samples = theirs(op).sample_inputs_func(theirs(op), device, dtype, requires_grad, **keywords)
    return itertools.islice(samples, 0, None, 13 if requires_grad else 1)


def accepted(sample):
    """Padding beyond half of the effective kernel size, within all of it."""
    kernel, padding = sample.kwargs["kernel_size"], sample.kwargs.get("padding", 0)
    kernels = [kernel] if isinstance(kernel, int) else kernel
    dilation = sample.kwargs.get("dilation", 1)
    return all(0 <= padding <= dilation * (k - 1) for k in kernels)


def error_inputs(op, device, **keywords):
    for error in theirs(op).error_inputs_func(theirs(op), device, **keywords):
        if "at most half" in error.error_regex and accepted(error.sample_input):
            continue
        (regex,) = (ours for text, ours in MESSAGES.items() if text in error.error_regex.replace("\\", ""))
        yield ErrorInput(error.sample_input, error_type=(RuntimeError, ValueError), error_regex=regex)


op_db = [
    OpInfo(
        f"torch_maxpool.max_pool{rank}d",
        op=OUR_POOL[rank],
        ref=TORCH_POOL[rank],
        aten_name=f"max_pool{rank}d",
        method_variant=None,
        inplace_variant=None,
        operator_variant=None,
        inplace_operator_variant=None,
        dtypes=all_types_and(torch.float16, torch.bfloat16, torch.bool),
        backward_dtypes=floating_types_and(torch.float16, torch.bfloat16),
        supports_out=False,
        supports_forward_ad=True,
        supports_fwgrad_bwgrad=True,
        gradcheck_fast_mode=True,
        check_batched_forward_grad=True,
        sample_inputs_func=sample_inputs,
        error_inputs_func=error_inputs,
    )
    for rank in (1, 2, 3)
]
GRADIENT_DTYPES = (torch.float64,)


def every(samples, step):
    """Some samples; a step that 2 and 3 do not divide meets every value of every argument."""
    return itertools.islice(samples, 0, None, step)


class TestCommon(TestCase):
    """As test_ops.py's."""

    @ops(op_db)
    def test_reference(self, device, dtype, op):
        for sample in every(op.sample_inputs(device, dtype), 11):
            # PyTorch pools integers in 2-d and 3-d only; float64 holds every integer that samples have.
            wide = sample.input.double() if op.name.endswith("1d") or dtype == torch.bool else sample.input
            expected = op.ref(wide, *sample.args, **sample.kwargs)
            actual = op(sample.input, *sample.args, **sample.kwargs)
            values = (lambda result: result[0] if isinstance(result, tuple) else result)(expected)
            self.assertEqual(actual[0] if isinstance(actual, tuple) else actual, values.to(dtype), rtol=0, atol=0)
            if isinstance(expected, tuple):
                self.assertEqual(actual[1], expected[1])

    @ops(op_db, allowed_dtypes=(torch.float32, torch.int64))
    def test_noncontiguous_samples(self, device, dtype, op):
        for sample in every(op.sample_inputs(device, dtype, requires_grad=dtype.is_floating_point), 5):
            other = sample.noncontiguous()
            expected, actual = (op(each.input, *each.args, **each.kwargs) for each in (sample, other))
            self.assertEqual(actual, expected)
            if dtype.is_floating_point:
                output, spread = (result[0] if isinstance(result, tuple) else result for result in (expected, actual))
                grad = torch.randn_like(output)
                output.backward(grad)
                spread.backward(grad)
                self.assertEqual(other.input.grad, sample.input.grad)

    @ops(op_db, allowed_dtypes=(torch.float32,))
    def test_errors(self, device, dtype, op):
        count = 0
        for error in op.error_inputs(device):
            sample = error.sample_input
            with self.assertRaisesRegex(error.error_type, error.error_regex) as caught:
                op(sample.input, *sample.args, **sample.kwargs)
            self.assertNotIn("INTERNAL ASSERT", str(caught.exception))
            count += 1
        self.assertGreater(count, 5)

    @ops(op_db, dtypes=OpDTypes.none)
    def test_dtypes(self, device, op):
        """The dtypes that the OpInfo lists are those that work, forward and backward."""
        for dtype in all_types_and(
            torch.float16, torch.bfloat16, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32
        ):
            sample = next(iter(op.sample_inputs(device, torch.float32)))
            tensor = sample.input.to(dtype)
            try:
                op(tensor, *sample.args, **sample.kwargs)
                forward = True
            except TypeError as error:
                self.assertIn("input must be float64", str(error))
                forward = False
            self.assertEqual(forward, dtype in op.supported_dtypes(device), msg=str(dtype))
            if forward and dtype.is_floating_point:
                leaf = tensor.requires_grad_()
                result = op(leaf, *sample.args, **sample.kwargs)
                (result[0] if isinstance(result, tuple) else result).sum().backward()
                self.assertIn(dtype, op.supported_backward_dtypes(device))

    @ops(op_db, allowed_dtypes=(torch.float64,))
    def test_neg_view(self, device, dtype, op):
        """As TestMathBits: the negative bit of a view is seen."""
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            view = torch._neg_view(-sample.input.detach()).requires_grad_()
            self.assertTrue(view.is_neg())
            results = [op(tensor, *sample.args, **sample.kwargs) for tensor in (view, sample.input)]
            self.assertEqual(*results)
            for result in results:
                (result[0] if isinstance(result, tuple) else result).sum().backward()
            self.assertEqual(view.grad, sample.input.grad)

    @ops(op_db, allowed_dtypes=(torch.float32, torch.int32))
    def test_schema(self, device, dtype, op):
        """As TestSchemaCheckModeOpInfo: nothing is written or aliased that the schema does not say."""
        for sample in every(op.sample_inputs(device, dtype), 29):
            with SchemaCheckMode():
                op(sample.input, *sample.args, **sample.kwargs)


class TestGradientsOfPooling(TestGradients):
    """As test_ops_gradients.py's and test_ops_fwd_gradients.py's."""

    @ops(op_db, allowed_dtypes=GRADIENT_DTYPES)
    def test_fn_grad(self, device, dtype, op):
        self._grad_test_helper(device, dtype, op, op.get_op())

    @ops(op_db, allowed_dtypes=GRADIENT_DTYPES)
    def test_fn_gradgrad(self, device, dtype, op):
        self._check_helper(device, dtype, op, op.get_op(), "bwgrad_bwgrad")

    @ops(op_db, allowed_dtypes=GRADIENT_DTYPES)
    def test_fn_fwgrad_bwgrad(self, device, dtype, op):
        self._check_helper(device, dtype, op, op.get_op(), "fwgrad_bwgrad")

    @ops(op_db, allowed_dtypes=GRADIENT_DTYPES)
    def test_forward_mode_AD(self, device, dtype, op):
        self._grad_test_helper(
            device,
            dtype,
            op,
            op.get_op(),
            check_forward_ad=True,
            check_backward_ad=False,
            check_batched_grad=False,
            check_batched_forward_grad=op.check_batched_forward_grad,
        )


class TestCompositeCompliance(TestCase):
    """As test_ops.py's: tensor subclasses get through, forward, backward and forward mode."""

    @ops(op_db, allowed_dtypes=(torch.float32,))
    def test_operator(self, device, dtype, op):
        for sample in every(op.sample_inputs(device, dtype), 11):
            arguments = [sample.input, *sample.args]
            composite_compliance.check_with_mode(op, arguments, sample.kwargs, self.assertEqual)
            composite_compliance.check_all_permutations(op, arguments, sample.kwargs, self.assertEqual)

    @ops(op_db, allowed_dtypes=(torch.float32,))
    def test_backward(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            composite_compliance.check_backward_formula(
                op.get_op(), [sample.input, *sample.args], sample.kwargs, assert_equal_fn=self.assertEqual
            )

    @ops(op_db, allowed_dtypes=(torch.float32,))
    def test_forward_ad(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            composite_compliance.check_forward_ad_formula(
                op.get_op(), [sample.input, *sample.args], sample.kwargs, assert_equal_fn=self.assertEqual
            )


class TestTracing(TestCase):
    """As test_fake_tensor.py's, test_proxy_tensor.py's and test_aotdispatch.py's."""

    @ops(op_db, allowed_dtypes=(torch.float32, torch.uint8))
    def test_fake(self, device, dtype, op):
        for sample in every(op.sample_inputs(device, dtype), 23):
            optests.fake_check(op, [sample.input, *sample.args], sample.kwargs)

    @ops(op_db, allowed_dtypes=(torch.float32,))
    def test_make_fx_symbolic(self, device, dtype, op):
        for sample in every(op.sample_inputs(device, dtype), 97):
            arguments = [sample.input, *sample.args]
            optests.make_fx_check(op.get_op(), arguments, sample.kwargs, "symbolic", self.assertEqual)

    @ops(op_db, allowed_dtypes=(torch.float32,))
    def test_aot_autograd(self, device, dtype, op):
        for sample in every(op.sample_inputs(device, dtype, requires_grad=True), 17):
            for dynamic in (False, True):
                optests.aot_autograd_check(
                    op.get_op(), [sample.input, *sample.args], sample.kwargs, dynamic, self.assertRaisesRegex,
                    self.assertEqual, check_gradients=True, try_check_data_specialization=True,
                )  # fmt: skip


for _tests in (TestCommon, TestGradientsOfPooling, TestCompositeCompliance, TestTracing):
    instantiate_device_type_tests(_tests, globals(), only_for="cpu")


def test_messages_are_those_of_errors():
    """Each text on our side belongs to something that PyTorch's error inputs try."""
    seen = set()
    for op in op_db:
        for error in theirs(op).error_inputs_func(theirs(op), "cpu"):
            text = re.sub(r"\\", "", error.error_regex)
            seen |= {key for key in MESSAGES if key in text}
    assert seen == set(MESSAGES)
