"""The other max pools, each on an input of the benchmark, each optional.

A peer is a function from a case and its input to contenders: what to call, and how to read its result as a tensor.
It raises Skip, with the reason, where it does not apply.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from cases import Case
from torch import Tensor

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class Skip(Exception):
    pass


class Contender(NamedTuple):
    label: str  # the peer's name, with " train" where a gradient is recorded
    call: Callable[[], Any]
    tensor: Callable[[Any], Tensor] = lambda result: result.detach()


def load(module: str) -> Any:
    # Read when jax is imported: the size of XLA's pool of threads, and no search for other devices.
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Skip(f"not installed ({error})") from None


def pooling(case: Case) -> Callable[[Tensor], Tensor]:
    pool, (kernel, stride, padding, dilation, ceil_mode) = POOLS[case.rank], case.arguments
    return lambda x: pool(x, kernel, stride, padding, dilation, ceil_mode)


def pytorch(name: str, pool: Callable[[Tensor], Tensor], train_pool: Callable, x: Tensor) -> list[Contender]:
    contenders = [Contender(name, lambda: pool(x))]
    if x.is_floating_point():
        recorded = x.detach().requires_grad_()
        contenders.append(Contender(f"{name} train", lambda: train_pool(recorded)))
    return contenders


def eager(case: Case, x: Tensor) -> list[Contender]:
    return pytorch("eager", pooling(case), pooling(case), x)


def compiled(case: Case, x: Tensor) -> list[Contender]:
    torch.compiler.reset()  # or the limit of recompilations is reached after some cases
    return pytorch("compile", *(torch.compile(pooling(case), dynamic=False) for _ in range(2)), x)


def mkldnn(case: Case, x: Tensor) -> list[Contender]:
    if case.rank == 1 or case.layout != "contiguous" or max(case.dilation) > 1:
        raise Skip("2-d and 3-d, contiguous, dilation 1 only")
    if case.dtype not in ("float32", "bfloat16", "float16"):
        raise Skip(f"no {case.dtype}")
    pool = torch.mkldnn_max_pool2d if case.rank == 2 else torch.mkldnn_max_pool3d
    packed = x.to_mkldnn()
    return [Contender("mkldnn", lambda: pool(packed, *case.arguments), lambda result: result.to_dense())]


def onnxruntime(case: Case, x: Tensor) -> list[Contender]:
    onnx, ort = load("onnx"), load("onnxruntime")
    if case.layout != "contiguous":
        raise Skip("contiguous only")
    kinds = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "FLOAT16", "uint8": "UINT8", "int8": "INT8"}
    if case.dtype not in kinds:
        raise Skip(f"no {case.dtype}")
    kind, helper = getattr(onnx.TensorProto, kinds[case.dtype]), onnx.helper
    kernel, stride, padding, dilation, ceil_mode = case.arguments
    node = helper.make_node(
        "MaxPool",
        ["x"],
        ["y"],
        kernel_shape=kernel,
        strides=stride,
        pads=padding + padding,
        dilations=dilation,
        ceil_mode=int(ceil_mode),
    )
    values = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, shape in (("x", case.shape), ("y", [None] * len(case.shape)))
    ]
    graph = helper.make_graph([node], "pool", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    # Its threads spin within a run, not on into the next contender's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x.numpy()))
    binding.bind_output("y")

    def run() -> Any:
        session.run_with_iobinding(binding)
        return binding

    return [Contender("onnxruntime", run, lambda result: torch.from_numpy(result.copy_outputs_to_cpu()[0]))]


def jax(case: Case, x: Tensor) -> list[Contender]:
    package = load("jax")
    if case.layout == "cropped":
        raise Skip("dense arrays only")
    package.config.update("jax_enable_x64", True)
    kernel, stride, before, dilation, _ = case.arguments
    sizes = zip(case.output_size(), case.shape[2:], kernel, stride, before, dilation, strict=True)
    after = [max(0, (out - 1) * s + (k - 1) * d + 1 - size - p) for out, size, k, s, p, d in sizes]

    def dimensions(values: Any, other: Any) -> tuple:
        """One entry for each dimension of the array: batch, channels and space in the order of the layout."""
        values = tuple(values)
        return (other, *values, other) if case.layout == "channels_last" else (other, other, *values)

    if case.layout == "channels_last":
        x = x.movedim(1, -1)
    array = package.dlpack.from_dlpack(x.contiguous())
    if case.dtype == "bool":
        lowest = False
    elif x.is_floating_point():
        lowest = array.dtype.type(-math.inf)
    else:
        lowest = array.dtype.type(torch.iinfo(x.dtype).min)

    @package.jit
    def pool(a):
        return package.lax.reduce_window(
            a,
            lowest,
            package.lax.max,
            window_dimensions=dimensions(kernel, 1),
            window_strides=dimensions(stride, 1),
            padding=dimensions(zip(before, after, strict=True), (0, 0)),
            window_dilation=dimensions(dilation, 1),
        )

    def tensor(result: Any) -> Tensor:
        y = torch.from_dlpack(result)
        return y.movedim(-1, 1) if case.layout == "channels_last" else y

    return [Contender("jax", lambda: pool(array).block_until_ready(), tensor)]


def opencv(case: Case, x: Tensor) -> list[Contender]:
    cv2, np = load("cv2"), load("numpy")
    kernel, stride, padding, dilation, _ = case.arguments
    if case.rank != 2 or any(
        s != 1 or 2 * p != d * (k - 1) for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)
    ):
        raise Skip("dilate: 2-d with stride 1 and an output of the input's size only")
    if case.dtype not in ("float32", "float64", "uint8", "int16", "bool"):
        raise Skip(f"no {case.dtype}")
    if case.layout == "channels_last" and case.shape[1] > 4:
        raise Skip("up to 4 interleaved channels")
    cv2.setNumThreads(torch.get_num_threads())
    element = np.zeros([(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)], np.uint8)
    element[:: dilation[0], :: dilation[1]] = 1
    last = case.layout == "channels_last"
    source = (x.movedim(1, -1) if last else x.flatten(0, 1)).numpy()
    source = source.view(np.uint8) if case.dtype == "bool" else source

    def run() -> Any:
        result = np.empty(source.shape, source.dtype)
        for before, after in zip(source, result, strict=True):
            cv2.dilate(before, element, after)
        return result

    def tensor(result: Any) -> Tensor:
        y = torch.from_numpy(result).to(x.dtype)
        return y.movedim(-1, 1) if last else y.view(x.shape)

    return [Contender("opencv", run, tensor)]


PEERS = {
    "eager": eager,
    "compile": compiled,
    "mkldnn": mkldnn,
    "onnxruntime": onnxruntime,
    "jax": jax,
    "opencv": opencv,
}
PACKAGES = {"onnxruntime": ("onnxruntime", "onnx"), "jax": ("jax",), "opencv": ("cv2",)}


@functools.cache
def version(peer: str) -> str:
    """The versions of the peer's packages, or why it is missing."""
    try:
        return ", ".join(f"{name} {load(name).__version__}" for name in PACKAGES.get(peer, ("torch",)))
    except Skip as reason:
        return str(reason)
