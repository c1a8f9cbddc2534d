"""torch.onnx.export: standard MaxPool nodes whose results in ONNX Runtime are ours, with sizes that are not known."""

import numpy as np
import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

from common import CASES, OPS, OUR_MODULE, OUR_POOL, assert_array, assert_same, every_case, once

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

DYNAMIC = torch.export.Dim.DYNAMIC
# Where it keeps no indices, ONNX Runtime starts some windows of float32 from this and not from -inf.
FINITE = torch.finfo(torch.float32).min
DIRECT = [torch.float32, torch.float64, torch.float16, torch.int8, torch.uint8]
CAST = [torch.bool, torch.int16, torch.int32, torch.int64]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    once,
]


class Model(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def numbers(shape, dtype=torch.float32, lowest=-torch.inf):
    """Few values, so that ties abound, the lowest among them, no NaN."""
    if dtype == torch.bool:
        return torch.rand(shape) < 0.3
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        # float64 holds no larger ones, and int64 is pooled as that.
        low, high = max(info.min, -(2**53)), min(info.max, 2**53)
        palette = torch.tensor([low, low, low, low + 1, 1, 7, high], dtype=dtype)
    else:
        palette = torch.tensor([lowest, lowest, lowest, -2.0, 0.5, 3.0, torch.inf]).to(dtype)
    return palette[torch.randint(len(palette), shape)]


class Exported:
    """An ONNX model and its session."""

    def __init__(self, function, example, dynamic=True, **options):
        model = function if isinstance(function, torch.nn.Module) else Model(function)
        if dynamic:
            options.setdefault("dynamic_shapes", ([DYNAMIC] * example.dim(),))
        program = torch.onnx.export(model, (example,), dynamo=True, verbose=False, **options)
        self.model = program.model_proto
        onnx.checker.check_model(self.model, full_check=True)
        session = onnxruntime.SessionOptions()
        session.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            self.model.SerializeToString(), session, providers=["CPUExecutionProvider"]
        )

    def nodes(self, kind=None):
        return [node for node in self.model.graph.node if kind in (None, node.op_type)]

    def attributes(self):
        """Of the only MaxPool."""
        (node,) = self.nodes("MaxPool")
        return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}

    def __call__(self, tensor):
        return [torch.from_numpy(np.asarray(result)) for result in self.session.run(None, self.feed(tensor))]

    def feed(self, tensor):
        return {self.session.get_inputs()[0].name: tensor.numpy()}


def check(exported, function, tensor):
    for mine, plain in zip(exported(tensor), outputs(function(tensor)), strict=True):
        assert_same(mine, plain)


@pytest.mark.parametrize("return_indices", [False, True])
def test_one_standard_node(rank, return_indices):
    """Dynamic sizes, unequal padding, dilation, ceil_mode: attributes of a MaxPool, which is all there is."""

    def pool(x):
        padding = [(1, 2), (0, 1), (2, 2)][:rank]
        return OUR_POOL[rank](x, 4, 3, padding, 2, True, return_indices)

    exported = Exported(pool, torch.randn(2, 3, *range(9, 9 + rank)))
    assert exported.attributes() == {
        "kernel_shape": [4] * rank,
        "strides": [3] * rank,
        "pads": [1, 0, 2][:rank] + [2, 1, 2][:rank],
        "dilations": [2] * rank,
        "ceil_mode": 1,
    }
    if return_indices:
        # Of one plane, where ONNX counts through the whole input.
        assert {node.op_type for node in exported.nodes()} <= {
            "MaxPool",
            "Mod",
            "Shape",
            "Squeeze",
            "Mul",
            "ReduceProd",
        }
    else:
        assert len(exported.nodes()) == 1
    lowest = -torch.inf if return_indices else FINITE
    for shape in ((2, 3, *[9] * rank), (1, 5, *range(12, 12 + rank)), (4, 1, *[20] * rank)):
        check(exported, pool, numbers(shape, lowest=lowest))


# Of every kind one; an export takes about a second.
KNOWN = "1d_dilated 1d_ceil 1d_wide 1d_empty 1d_same 2d_ceil 2d_channels 2d_gaps 2d_unequal 2d_same 2d_empty 3d_over"
UNKNOWN = "1d_ceil 1d_empty 2d_overlap 2d_dilated 2d_ceil 2d_unequal 2d_same 2d_empty 2d_wide 3d_unequal"


def named(prefixes):
    return every_case([case for case in CASES if case.name.startswith(tuple(prefixes.split()))])


@named(KNOWN)
def test_known_sizes(case):
    """The operators themselves: maxima, offsets, indices from offsets."""

    def operators(x):
        output, offsets = case.forward(x)
        return output, offsets, case.indices(offsets)

    exported = Exported(operators, numbers(case.shape), dynamic=False)
    for _ in range(3):
        check(exported, operators, numbers(case.shape))
    if case.name in ("1d_ceil", "2d_same"):
        exported = Exported(case.values, numbers(case.shape), dynamic=False)
        check(exported, case.values, numbers(case.shape, lowest=FINITE))


@named(UNKNOWN)
def test_unknown_sizes(case):
    def operators(x):
        output, offsets = case.forward(x)
        size = list(x.shape[-case.rank :])
        indices = torch.ops.torch_maxpool.maxpool_indices(offsets, size, *case.window, **case.keywords)
        return output, offsets, indices

    exported = Exported(operators, numbers(case.shape))
    batch = case.shape[: -case.rank]
    for more in (0, 1, 4):
        check(exported, operators, numbers((*batch, *(n + more for n in case.spatial))))


def test_indices_from_offsets_of_another_graph():
    """Offsets that come as an input, so that no MaxPool says more than they do."""
    shape, window = (2, 3, 5, 7), ([3, 2], [2, 1], [2, 1, 0, 0], [2, 3], True)
    offsets = torch.ops.torch_maxpool.maxpool_forward(numbers(shape), *window)[1]

    def indices(places):
        return torch.ops.torch_maxpool.maxpool_indices(places, [5, 7], *window)

    check(Exported(indices, offsets, dynamic=False), indices, offsets)


@pytest.mark.parametrize(
    ("dtype", "padding"),
    [(dtype, 1) for dtype in DIRECT + CAST]
    + [(dtype, [(3, 2), (3, 2)]) for dtype in (torch.float16, torch.uint8, torch.bool, torch.int32)]
    + [(torch.float16, "same"), (torch.int8, "same")],
    ids=str,
)
def test_dtypes(dtype, padding):
    def pool(x):
        return OUR_POOL[2](x, 3, 2, padding, 2, return_indices=True)

    exported = Exported(pool, numbers((2, 3, 9, 8), dtype))
    casts = [node for node in exported.nodes("Cast") if node.input[0] == exported.model.graph.input[0].name]
    assert bool(casts) == (dtype in CAST)
    for shape in ((2, 3, 9, 8), (1, 2, 12, 17), (3, 1, 4, 3)):
        check(exported, pool, numbers(shape, dtype))


def test_bfloat16():
    """NumPy has no bfloat16: float32 goes in and out."""

    def pool(x):
        values, indices = OUR_POOL[2](x.bfloat16(), 3, 2, 1, return_indices=True)
        return values.float(), indices

    exported = Exported(pool, numbers((2, 3, 9, 8)))
    check(exported, pool, torch.randn(1, 2, 11, 12))


@pytest.mark.parametrize(
    ("rank", "word", "kernel", "stride", "dilation", "form"),
    [
        (1, "same_lower", 2, 2, 1, "auto_pad"),
        (1, "same_lower", 3, 2, 2, "Pad"),
        (2, "same", 3, 2, 1, "auto_pad"),
        (2, "same_lower", 2, 2, 1, "auto_pad"),
        (2, "same", 4, 1, 2, "pads"),
        (2, "same_lower", 4, 1, 3, "Pad"),
        (2, "same", 3, 2, 2, "Pad"),
        (2, "same_lower", 2, 3, 1, "Pad"),
        (3, "same", 3, 2, 1, "auto_pad"),
        (3, "same", 3, 2, 2, "Pad"),
    ],
)
def test_same_padding(rank, word, kernel, stride, dilation, form):
    """auto_pad where ONNX Runtime does it right; numbers where they do not depend on the size; else a Pad in front."""

    def pool(x):
        return OUR_POOL[rank](x, kernel, stride, word, dilation, return_indices=True)

    exported = Exported(pool, torch.randn(2, 3, *range(9, 9 + rank)))
    assert ("auto_pad" in exported.attributes()) == (form == "auto_pad")
    assert bool(exported.nodes("Pad")) == (form == "Pad")
    for size in (3, 4, 9, 10, 15):
        check(exported, pool, numbers((2, 2, *[size] * rank)))
        check(exported, pool, numbers((1, 1, *range(size, size + rank))))


@pytest.mark.parametrize(
    ("rank", "dtype"), [(1, torch.float32), (2, torch.float32), (2, torch.uint8), (3, torch.float32)], ids=str
)
def test_padding_as_large_as_the_kernel(rank, dtype):
    def pool(x):
        return OUR_POOL[rank](x, 2, 1, [(3, 2)] * rank, 4, return_indices=True)

    exported = Exported(pool, numbers((2, 2, *[6] * rank), dtype))
    assert exported.nodes("Pad")
    assert set(exported.attributes().get("pads", [0])) == {0}
    for size in (1, 2, 3, 6, 9):  # the smallest leave windows without any element
        check(exported, pool, numbers((2, 2, *[size] * rank), dtype))
    tensor = numbers((2, 2, *[9] * rank), dtype)
    known = Exported(pool, tensor, dynamic=False)
    assert known.nodes("Pad")
    check(known, pool, tensor)


@pytest.mark.parametrize("dynamic", [False, True])
def test_windows_without_elements(dynamic):
    """Padding that ONNX Runtime takes, and a window that steps over the whole input."""

    def pool(x):
        return OUR_POOL[2](x, 2, 1, 1, 3, return_indices=True)

    tensor = numbers((2, 2, 2, 2))
    assert pool(tensor)[1].tolist() == torch.full((2, 2, 1, 1), -1).tolist()
    check(Exported(pool, numbers((2, 2, 5, 6)) if dynamic else tensor, dynamic=dynamic), pool, tensor)


def test_decompositions_are_for_onnx_alone():
    """PyTorch's table has them; whoever else looks there learns that they are not for him."""
    decomposition = torch._decomp.decomposition_table[OPS.maxpool_values.default]
    with pytest.raises(NotImplementedError, match="for ONNX export alone"):
        decomposition(torch.randn(1, 1, 4, 4), [2, 2])


@pytest.mark.parametrize("opset", [None, 18, 20, 22, 24])
def test_opsets(opset):
    def pool(x):
        return OUR_POOL[2](x, 3, 2, [(1, 0), (2, 1)], 1, True, return_indices=True)

    options = {} if opset is None else {"opset_version": opset}
    exported = Exported(pool, torch.randn(2, 3, 9, 10), **options)
    (version,) = [entry.version for entry in exported.model.opset_import if entry.domain == ""]
    assert opset is None or version == opset
    check(exported, pool, numbers((2, 3, 11, 8)))


def test_modules_and_unbatched_input(rank):
    module = OUR_MODULE[rank](3, 2, padding="same", return_indices=True)
    exported = Exported(module, torch.randn(3, *range(9, 9 + rank)))
    assert len(exported.nodes("MaxPool")) == 1
    check(exported, module, numbers((2, *[14] * rank)))


def test_network():
    """A model with parameters, and an ExportedProgram that was saved before it was exported to ONNX."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), OUR_MODULE[2](3, 2, 1), torch.nn.Flatten(2), OUR_MODULE[1](2)
    ).eval()
    tensor = torch.randn(2, 2, 12, 13)
    exported = Exported(model, tensor, dynamic_shapes=([DYNAMIC, None, DYNAMIC, DYNAMIC],))
    assert len(exported.nodes("MaxPool")) == 2
    torch.testing.assert_close(exported(tensor)[0], model(tensor).detach())
    program = torch.export.export(model, (tensor,))
    session = onnxruntime.InferenceSession(
        torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()
    )
    (result,) = session.run(None, {session.get_inputs()[0].name: tensor.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), model(tensor).detach())


def test_exact_is_checked_while_exporting():
    module = OUR_MODULE[2](3, 2, exact=True)
    exported = Exported(module, torch.randn(1, 2, 7, 9))
    check(exported, module, torch.randn(3, 2, 11, 5))
    with pytest.raises(torch.onnx.OnnxExporterError):
        Exported(module, torch.randn(1, 2, 8, 9))


def test_other_uses_keep_the_operators():
    """The table is read by the ONNX exporter; compiling and torch.export leave the operators as they are."""
    module = OUR_MODULE[2](3, 2, padding="same", return_indices=True)
    tensor = torch.randn(2, 3, 9, 9)
    exported = torch.export.export(module, (tensor,), dynamic_shapes=([DYNAMIC] * 4,))
    assert "maxpool_forward" in str(exported.run_decompositions().graph)
    names = []

    def backend(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    compiler = aot_autograd(fw_compiler=backend, decompositions=torch._decomp.decomposition_table)
    torch.compile(module, backend=compiler, dynamic=True)(tensor)
    assert "torch_maxpool.maxpool_forward.default" in names
    with torch._subclasses.FakeTensorMode(shape_env=torch.fx.experimental.symbolic_shapes.ShapeEnv()) as fake:
        assert module(fake.from_tensor(tensor))[0].shape == (2, 3, 5, 5)


def test_values_where_all_are_lowest():
    """All -inf, also in windows that reach into padding: ONNX Runtime alone would give the lowest finite number."""

    def pool(x):
        return OUR_POOL[2](x, 3, 2, 2, 3, return_indices=True)

    tensor = torch.full((1, 2, 5, 6), -torch.inf)
    exported = Exported(pool, tensor)
    check(exported, pool, tensor)
    assert_array(exported(tensor)[0], np.full((1, 2, 2, 2), -np.inf, np.float32))
