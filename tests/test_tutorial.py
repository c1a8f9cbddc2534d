"""The tutorial's layer: against max pooling by im2col, and inside a network of plain layers."""

import numpy as np
import pytest
import torch

from torch_maxpool import Maxpool

SHAPES = [
    pytest.param((2, 3, 6, 6), 2, 2, id="tiles"),
    pytest.param((1, 2, 7, 5), 3, 2, id="overlaps"),
    pytest.param((3, 1, 5, 5), 3, 1, id="stride_1"),
    pytest.param((2, 2, 7, 4), 1, 3, id="gaps"),
    pytest.param((2, 1, 40, 20), 20, 20, id="wide_offsets"),
    pytest.param((0, 2, 4, 4), 2, 2, id="no_images"),
]


def columns(shape, size, stride):
    """For each window (row) the flat positions of its elements in a plane."""
    height, width = shape[2:]
    tops, lefts = range(0, height - size + 1, stride), range(0, width - size + 1, stride)
    return np.array([[(t + i) * width + l + j for i in range(size) for j in range(size)] for t in tops for l in lefts])  # noqa: E741


def pool_by_columns(X, size, stride):
    """Maxima, and the flat positions they come from."""
    n, depth, height, width = X.shape
    places = columns(X.shape, size, stride)
    planes = X.reshape(n * depth, height * width)
    won = planes[:, places].argmax(2)
    positions = places[np.arange(len(places)), won]
    shape = (n, depth, (height - size) // stride + 1, (width - size) // stride + 1)
    return np.take_along_axis(planes, positions, 1).reshape(shape), positions


def back_by_columns(dout, positions, shape):
    planes = np.zeros((shape[0] * shape[1], shape[2] * shape[3]), dout.dtype)
    np.add.at(planes, (np.arange(len(planes))[:, None], positions), dout.reshape(positions.shape))
    return planes.reshape(shape)


def images(shape, dtype=np.float64):
    """Whole numbers from a short range, for ties."""
    return np.random.default_rng(0).integers(0, 9, shape).astype(dtype)


@pytest.mark.parametrize(("shape", "size", "stride"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_equals_im2col(shape, size, stride, dtype):
    X = images(shape, dtype)
    layer = Maxpool(shape[1:], size, stride)
    expected, positions = pool_by_columns(X, size, stride)
    output = layer.forward(X)
    assert isinstance(output, np.ndarray)
    assert output.dtype == dtype
    assert layer.params == []
    assert layer.out_dim == expected.shape[1:]
    np.testing.assert_array_equal(output, expected)
    dout = images(output.shape, dtype) - dtype(4)
    dX, grads = layer.backward(dout)
    assert grads == []
    assert isinstance(dX, np.ndarray)
    assert dX.dtype == dtype
    np.testing.assert_array_equal(dX, back_by_columns(dout, positions, shape))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_integer_images(dtype):
    X = images((2, 2, 4, 4), dtype)
    layer = Maxpool((2, 4, 4), 2, 2)
    expected, positions = pool_by_columns(X, 2, 2)
    output = layer.forward(X)
    assert output.dtype == dtype
    np.testing.assert_array_equal(output, expected)
    dout = np.random.default_rng(1).standard_normal(output.shape)
    np.testing.assert_array_equal(layer.backward(dout)[0], back_by_columns(dout, positions, X.shape))


def test_gradient_takes_the_dtype_of_the_input():
    layer = Maxpool((1, 4, 4), 2, 2)
    layer.forward(images((1, 1, 4, 4), np.float32))
    assert layer.backward(np.ones((1, 1, 2, 2)))[0].dtype == np.float32


@pytest.mark.parametrize(
    ("X_dim", "size", "stride"),
    [
        ((1, 5, 4), 2, 2),
        ((1, 4, 5), 2, 2),
        ((1, 4, 4), 5, 1),
        ((1, 6, 6), 3, 2),
        ((1, 4, 4), 0, 1),
        ((1, 4, 4), 2, 0),
        ((1, 4, 4), -2, 2),
        ((1, 4, 4), 2, -2),
    ],
)
def test_windows_that_do_not_tile(X_dim, size, stride):
    with pytest.raises(Exception, match=r"^Invalid dimensions!$"):
        Maxpool(X_dim, size, stride)


@pytest.mark.parametrize("numbers", [np.int64, np.int32])
def test_dimensions_as_numpy_integers(numbers):
    layer = Maxpool(tuple(map(numbers, (2, 4, 6))), numbers(2), numbers(2))
    assert layer.out_dim == (2, 2, 3)
    assert all(type(n) is int for n in layer.out_dim)


def test_wrong_arguments():
    with pytest.raises(TypeError):
        Maxpool((1, 4, 4), 2.0, 2)
    with pytest.raises((TypeError, ValueError)):
        Maxpool((4, 4), 2, 2)
    layer = Maxpool((1, 4, 4), 2, 2)
    for shape in ((1, 1, 4, 5), (1, 2, 4, 4), (1, 4, 4), (1, 1, 1, 4, 4)):
        with pytest.raises(ValueError, match=r"Maxpool: X must be \[n, 1, 4, 4\]"):
            layer.forward(np.zeros(shape))
    layer.forward(np.zeros((1, 1, 4, 4)))
    with pytest.raises((RuntimeError, ValueError), match="maxpool_backward"):
        layer.backward(np.zeros((1, 1, 3, 2)))
    with pytest.raises((NotImplementedError, TypeError)):
        layer.forward(np.zeros((1, 1, 4, 4), dtype=np.complex128))


def readonly(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def misaligned(X):
    memory = np.zeros(X.nbytes + 3, dtype=np.uint8)
    view = memory[3:].view(X.dtype).reshape(X.shape)
    view[...] = X
    return view


ARRAYS = {
    "readonly": readonly,
    "fortran": np.asfortranarray,
    "reversed": lambda X: X[..., ::-1, ::-1].copy()[..., ::-1, ::-1],
    "every_other": lambda X: np.repeat(X, 2, -1)[..., ::2],
    "broadcast": lambda X: np.broadcast_to(X[:1], X.shape),
    "channels_moved": lambda X: np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "other_byte_order": lambda X: X.astype(X.dtype.newbyteorder()),
    "misaligned": misaligned,
    "field": lambda X: np.rec.fromarrays([X, np.zeros(X.shape, np.int8)])["f0"],
    "list": lambda X: X.tolist(),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ARRAYS)
def test_any_array(kind):
    shape = (2, 2, 6, 4)
    X = ARRAYS[kind](images(shape))
    plain = np.array(X, dtype=np.float64)
    layer = Maxpool(shape[1:], 2, 2)
    expected, positions = pool_by_columns(plain, 2, 2)
    np.testing.assert_array_equal(layer.forward(X), expected)
    dout = ARRAYS[kind](images(expected.shape) + 1)
    gradient = back_by_columns(np.array(dout, dtype=np.float64), positions, shape)
    np.testing.assert_array_equal(layer.backward(dout)[0], gradient)
    np.testing.assert_array_equal(np.array(X, dtype=np.float64), plain)


@pytest.mark.parametrize("kind", ["readonly", "fortran", "every_other", "broadcast", "channels_moved", "tensor"])
def test_input_is_not_copied(kind, monkeypatch):
    """The operator sees the array's own memory."""
    seen = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            if function.name().startswith("torch_maxpool::maxpool_forward"):
                seen.append(arguments[0].data_ptr())
            return function(*arguments, **(keywords or {}))

    X = images((2, 2, 6, 4))
    X = torch.from_numpy(X) if kind == "tensor" else ARRAYS[kind](X)
    with Spy():
        Maxpool((2, 6, 4), 2, 2).forward(X)
    assert seen == [X.data_ptr() if kind == "tensor" else X.__array_interface__["data"][0]]


def test_input_is_not_kept():
    layer = Maxpool((1, 4, 4), 2, 2)
    X = images((2, 1, 4, 4))
    layer.forward(X)
    kept = [value for value in vars(layer).values() if isinstance(value, (np.ndarray, torch.Tensor))]
    assert [(value.dtype, tuple(value.shape)) for value in kept] == [(torch.uint8, (2, 1, 2, 2))]
    _, positions = pool_by_columns(X, 2, 2)
    before = X.copy()
    X[...] = 0
    dout = np.ones((2, 1, 2, 2))
    np.testing.assert_array_equal(layer.backward(dout)[0], back_by_columns(dout, positions, before.shape))


def test_torch_tensors():
    X = torch.randn(2, 3, 6, 6, requires_grad=True)
    layer = Maxpool((3, 6, 6), 3, 3)
    output = layer.forward(X)
    assert isinstance(output, torch.Tensor)
    expected = torch.nn.functional.max_pool2d(X, 3)
    assert torch.equal(output, expected)
    dout = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, X, dout)
    dX, grads = layer.backward(dout)
    assert grads == []
    assert torch.equal(dX, gradient)
    assert torch.equal(gradient, torch.autograd.grad(expected, X, dout)[0])


def test_nan_is_named_as_by_torch():
    X = np.array([[np.nan, 1.0], [np.nan, 2.0]]).reshape(1, 1, 2, 2)
    layer = Maxpool((1, 2, 2), 2, 2)
    assert np.isnan(layer.forward(X)).all()
    assert layer.backward(np.ones((1, 1, 1, 1)))[0].tolist() == [[[[0, 0], [1, 0]]]]


class Dense:
    """A layer like the tutorial's: parameters, forward, and backward giving (dX, gradients)."""

    def __init__(self, inputs, outputs, rng):
        self.params = [rng.standard_normal((inputs, outputs)) * 0.1, np.zeros((1, outputs))]

    def forward(self, X):
        self.X = X
        return X @ self.params[0] + self.params[1]

    def backward(self, dout):
        return dout @ self.params[0].T, [self.X.T @ dout, dout.sum(0, keepdims=True)]


class Flat:
    """[n, depth, height, width] to [n, features] and back."""

    params = ()

    def forward(self, X):
        self.shape = X.shape
        return X.reshape(len(X), -1)

    def backward(self, dout):
        return dout.reshape(self.shape), []


class Network:
    """Layers in a row under a softmax loss; asks of a layer what the tutorial's network asks."""

    def __init__(self, layers):
        self.layers = layers
        self.params = [layer.params for layer in layers]

    def loss(self, X, y):
        for layer in self.layers:
            X = layer.forward(X)
        odds = np.exp(X - X.max(1, keepdims=True))
        odds /= odds.sum(1, keepdims=True)
        rows = np.arange(len(y))
        loss = -np.log(odds[rows, y]).mean()
        odds[rows, y] -= 1
        return loss, odds / len(y)

    def step(self, X, y, rate):
        loss, dout = self.loss(X, y)
        gradients = []
        for layer in reversed(self.layers):
            dout, gradient = layer.backward(dout)
            gradients.append(gradient)
        for parameters, gradient in zip(self.params, reversed(gradients), strict=True):
            assert len(parameters) == len(gradient)
            for parameter, change in zip(parameters, gradient, strict=True):
                parameter -= rate * change
        return loss, dout


def test_network_trains():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 2, 6, 6)), rng.integers(0, 3, 12)
    pool = Maxpool((2, 6, 6), 2, 2)
    network = Network([pool, Flat(), Dense(int(np.prod(pool.out_dim)), 3, rng)])
    # The gradient that reaches the input is the loss's slope.
    loss, dX = network.step(X, y, rate=0.0)
    for place in [(0, 0, 0, 0), (3, 1, 2, 5), (11, 0, 4, 3)]:
        moved = X.copy()
        moved[place] += 1e-6
        np.testing.assert_allclose((network.loss(moved, y)[0] - loss) / 1e-6, dX[place], atol=1e-6)
    losses = [network.step(X, y, rate=0.5)[0] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
