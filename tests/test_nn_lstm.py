"""`equifed.nn.LSTM` computes what scanning `equinox.nn.LSTMCell` does, and so do all of
its derivatives, in whatever order they are mapped, differentiated and compiled.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, PartitionSpec as P
from jaxtyping import TypeCheckError

from equifed.nn import LSTM

from .shared import descent, over_two_devices


INPUT, HIDDEN, LENGTH = 3, 5, 7
CLIENTS, EXAMPLES = 4, 2


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):  # noqa: FBT003
        yield


def _scan(cell, x, state=None):
    """What our layer must equal."""
    if state is None:
        zeros = jnp.zeros(cell.hidden_size, cell.weight_hh.dtype)
        state = (zeros, zeros)

    def step(state, x):
        state = cell(x, state)
        return state, state[0]

    state, hidden = jax.lax.scan(step, state, x)
    return hidden, state


def _assert_close(ours, theirs, tolerance=1e-10):
    assert jtu.tree_structure(ours) == jtu.tree_structure(theirs)
    for a, b in zip(jtu.tree_leaves(ours), jtu.tree_leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@functools.cache
def _all_layers():
    """Ours and the cell of the same key, with and without a bias, in two dtypes."""

    @eqx.filter_jit
    def make(key):
        return {
            (use_bias, dtype): [
                of(INPUT, HIDDEN, use_bias, dtype, key=key)
                for of in (LSTM, eqx.nn.LSTMCell)
            ]
            for use_bias in (True, False)
            for dtype in ("float64", "bfloat16")
        }

    return make(jr.key(0))


def _layers(use_bias=True, dtype="float64") -> Any:  # noqa: FBT002
    return _all_layers()[use_bias, dtype]


def _params(layer):
    return layer.weight_ih, layer.weight_hh, layer.bias


def _with_params(layer, params):
    return eqx.tree_at(_params, layer, params, is_leaf=lambda x: x is None)


def _flat(tree):
    """All its numbers, one after another."""
    return np.concatenate([np.ravel(x) for x in jtu.tree_leaves(tree)])


def _loss_of(outputs):
    """Depends on every output, on each in its own way."""
    hidden, (h, c) = outputs
    weight = np.cos(np.arange(hidden.size)).reshape(hidden.shape).astype(hidden.dtype)
    return jnp.sum(jnp.sin(hidden) * weight) + jnp.sum(h * c + c**3)


@functools.cache
def _losses(use_bias=True):  # noqa: FBT002
    """Of either, of (params, data), both of them flat; and the params."""
    ours, cell = _layers(use_bias)
    params_of = ravel_pytree(_params(ours))[1]
    state = (np.zeros(HIDDEN), np.zeros(HIDDEN))
    data_of = ravel_pytree((np.zeros((LENGTH, INPUT)), state))[1]
    losses = (
        lambda p, data: _loss_of(_with_params(ours, params_of(p))(*data_of(data))),
        lambda p, data: _loss_of(
            _scan(_with_params(cell, params_of(p)), *data_of(data))
        ),
    )
    return losses, _flat(_params(ours))


def _data():
    """Sequences and the states they begin with, flat: (clients, examples, numbers)."""
    size = LENGTH * INPUT + 2 * HIDDEN
    return np.random.default_rng(0).normal(size=(CLIENTS, EXAMPLES, size))


def _clients():
    """The params, and those of three clients who are elsewhere."""
    params = _losses()[1]
    away = np.random.default_rng(1).normal(size=(CLIENTS, params.size))
    away[0] = 0
    return params + 0.3 * away


@functools.cache
def _scan_program():
    loss = _losses()[0][1]

    def all_of(params, data):
        def value(z):
            return loss(z[: params.size], z[params.size :])

        z = jnp.concatenate([params, data])
        return value(z), jax.grad(value)(z), jax.hessian(value)(z)

    return jax.jit(jax.vmap(jax.vmap(all_of, (None, 0))))


def _truth(params, data):
    """The scan's losses, their gradients and Hessians, for each client and example.

    What any transformation of them must give is arithmetic on these: the scan is
    compiled once.
    """
    params = np.broadcast_to(params, (CLIENTS, params.shape[-1]))
    return jax.device_get(_scan_program()(params, data))


def _descent(params, data):
    """Where `descent` must end."""
    for _ in range(3):
        grad = _truth(params, data)[1][..., : params.shape[-1]]
        params = params - 0.1 * grad.mean(1)
    return params


def _grad(f):
    return jax.grad(f, (0, 1))


def _sum_over(axes):
    return lambda f: _grad(lambda *args: jnp.sum(jax.vmap(f, axes)(*args)))


def _jvp(f):
    return lambda *args: jax.jvp(f, args, jtu.tree_map(jnp.cos, args))[1]


def _grad_of_grad(f):
    def inner(params, data):
        return sum(jnp.sum(jnp.square(g)) for g in _grad(f)(params, data))

    return _grad(inner)


# Those that are nowhere else inside another: a Hessian maps products with it, and
# `test_outputs` has values, gradients and changes alone.
transforms = {
    "linearize": lambda f: lambda *a: jax.linearize(f, *a)[1](*map(jnp.cos, a)),
    "grad-of-grad": _grad_of_grad,
    "hessian": lambda f: jax.hessian(f, (0, 1)),
    "remat": lambda f: _grad(jax.checkpoint(f)),
    "grad-vmap": _sum_over((None, 0)),
    "vmap-last": lambda f: jax.vmap(jax.grad(f), (None, 0), -1),
    "vmap-jvp": lambda f: jax.vmap(_jvp(f), (None, 0)),
    "vmap-grad-of-grad": lambda f: jax.vmap(_grad_of_grad(f), (None, 0)),
    "weights-grad-vmap": _sum_over((0, None)),
    "weights-vmap-grad": lambda f: jax.vmap(_grad(f), (0, None)),
    "clients-grad-vmap": lambda f: jax.vmap(_sum_over((None, 0))(f)),
    "clients-vmap-grad": lambda f: jax.vmap(jax.vmap(_grad(f), (None, 0))),
    "clients-loop": lambda f: jax.vmap(descent(f)),
}


def _args(name):
    """One client or all of them, one example or all of them."""
    params, data = _clients(), _data()
    if not name.startswith(("weights", "clients")):
        params, data = params[0], data[0]
    if name.startswith("weights"):
        data = data[0, 0]
    elif "vmap" not in name and "loop" not in name:
        data = data[0]
    return params, data


@functools.cache
def _found():
    loss = _losses()[0][0]
    args = {name: _args(name) for name in transforms}

    def run(args):
        return {name: of(loss)(*args[name]) for name, of in transforms.items()}

    return jax.device_get(jax.jit(run)(args))


@functools.cache
def _expected():
    params, data = _clients(), _data()
    _, grads, hessians = _truth(params, data)
    # The weights of each client on the first example of the first.
    weights = _truth(params, np.broadcast_to(data[:1, :1], data.shape))[1][:, 0]
    z = np.concatenate([params[0][None].repeat(EXAMPLES, 0), data[0]], 1)
    grad, hessian = grads[0], hessians[0]
    changes = np.sum(grad * np.cos(z), 1)
    curved = 2 * np.einsum("eij,ej->ei", hessian, grad)

    def split(x):
        return x[..., : params.shape[1]], x[..., params.shape[1] :]

    def summed(x, params_axis=(), data_axis=()):
        in_params, in_data = split(x)
        return in_params.sum(params_axis), in_data.sum(data_axis)

    return {
        "linearize": changes[0],
        "grad-of-grad": split(curved[0]),
        "hessian": tuple(split(x.T) for x in split(hessian[0])),
        "remat": split(grad[0]),
        "grad-vmap": summed(grad, 0),
        "vmap-last": split(grad)[0].T,
        "vmap-jvp": changes,
        "vmap-grad-of-grad": split(curved),
        "weights-grad-vmap": summed(weights, (), 0),
        "weights-vmap-grad": split(weights),
        "clients-grad-vmap": summed(grads, 1),
        "clients-vmap-grad": split(grads),
        "clients-loop": _descent(params, data),
    }


@pytest.mark.parametrize("transform", transforms)
def test_transformations(transform):
    _assert_close(_found()[transform], _expected()[transform])


def test_without_a_bias():
    """As with one of zeros, whose gradient nobody asks for."""
    (loss, _), params = _losses(use_bias=False)
    data, size = _data()[0], params.size
    found = jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))(params, data)
    zeros = np.append(params, np.zeros(4 * HIDDEN))
    values, grads, _ = _truth(zeros, _data())
    _assert_close(found, (values[0], grads[0][:, :size]))


def test_outputs():
    """All the cotangents of all the outputs, batched; the sequence is not."""
    ours, cell = _layers()
    x = _data()[0, 0]
    data = (
        x[: -2 * HIDDEN].reshape(LENGTH, INPUT),
        tuple(x[-2 * HIDDEN :].reshape(2, -1)),
    )
    params = jax.device_get(_params(ours))

    def all_of(function):
        backwards, forwards = (d(function, (0, 1)) for d in (jax.jacrev, jax.jacfwd))
        return lambda *args: [f(*args) for f in (function, backwards, forwards)]

    @jax.jit
    def both(*args):
        return (
            all_of(lambda params, data: _with_params(ours, params)(*data))(*args),
            all_of(lambda params, data: _scan(_with_params(cell, params), *data))(
                *args
            ),
        )

    found, expected = both(params, data)
    _assert_close(found, expected)
    alone = ours(*jtu.tree_map(jnp.asarray, data))
    _assert_close(alone, expected[0])  # not compiled as a whole


def test_a_sequence_begins_with_zeros_and_can_be_continued():
    ours, cell = _layers()
    x = _data()[0, 0, : -2 * HIDDEN].reshape(LENGTH, INPUT)

    @jax.jit
    def run(x):
        first, state = ours(x[:3])
        second, state = ours(x[3:], state)
        return ours(x), (jnp.concatenate([first, second]), state), _scan(cell, x)

    whole, parts, expected = run(x)
    _assert_close(whole, expected)
    _assert_close(parts, expected)


def _made_in_scans(jaxpr, inside):
    """The shapes of what is computed inside the scans of a program."""
    shapes = []
    for eqn in jaxpr.eqns:
        if inside:
            shapes += [variable.aval.shape for variable in eqn.outvars]
        for inner in jtu.tree_leaves(list(eqn.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                shapes += _made_in_scans(inner, inside or eqn.primitive.name == "scan")
    return shapes


def test_no_gradient_of_the_weight_inside_the_time_loop():
    # What makes it fast. The plain scan shows that the test would see it.
    losses, params = _losses()
    data, weight = _data()[0], (4 * HIDDEN, HIDDEN)

    def made(loss):
        grad = _sum_over((None, 0))(loss)
        jaxpr = jax.make_jaxpr(grad)(params, data).jaxpr
        return {s for s in _made_in_scans(jaxpr, False) if sorted(s) == sorted(weight)}

    ours, theirs = losses
    assert made(theirs)
    assert not made(ours)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    losses, params = _losses()
    sharded = over_two_devices(descent(losses[0]), check_vma=check_vma)
    _assert_close(sharded(params, _data()), _descent(params[None], _data()))


def test_shard_map_from_the_zero_state():
    # The sequences vary over the devices; the weights, and the zeros, do not.
    lstm, _ = _layers()
    x = _data()[:, 0, : -2 * HIDDEN].reshape(CLIENTS, LENGTH, INPUT)
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))

    def grad(params, x):
        def total(params):
            layer = _with_params(lstm, params)
            return jnp.sum(jax.vmap(lambda x: _loss_of(layer(x)))(x))

        return jax.grad(total)(params)

    sharded = jax.shard_map(
        grad, mesh=mesh, in_specs=(P(), P("clients")), out_specs=P()
    )
    params = jax.device_get(_params(lstm))
    found = _flat(jax.jit(sharded)(params, x))
    zeros = _data()
    zeros[..., -2 * HIDDEN :] = 0
    expected = _truth(_flat(params), zeros)[1][:, 0, : found.size].sum(0)
    _assert_close(found, expected)


def _numpy(params, x):
    """The loss of one sequence, by the equations alone."""
    ih, hh, bias = params
    h, c, hidden = np.zeros(hh.shape[1]), np.zeros(hh.shape[1]), []
    for step in x:
        i, f, g, o = np.split(ih @ step + hh @ h + bias, 4)
        i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        hidden.append(h)
    hidden = np.array(hidden).reshape(len(x), len(h))
    weight = np.cos(np.arange(hidden.size)).reshape(hidden.shape)
    return np.sum(np.sin(hidden) * weight) + np.sum(h * c + c**3)


# What can be nothing or one is that once, and there is one where all are several.
@pytest.mark.parametrize(
    ("length", "input_size", "hidden_size", "batch"),
    [(0, 2, 3, 1), (1, 1, 2, 2), (4, 3, 1, 3), (7, 3, 5, 2)],
)
def test_any_shape(length, input_size, hidden_size, batch):
    """The loss is that of the equations, and its gradient is their difference quotient
    in ten directions."""
    rng = np.random.default_rng(0)
    shapes = (4 * hidden_size, input_size), (4 * hidden_size, hidden_size)
    params = tuple(rng.normal(size=shape) for shape in (*shapes, 4 * hidden_size))
    x = rng.normal(size=(batch, length, input_size))
    layer = eqx.filter_eval_shape(LSTM, input_size, hidden_size, key=jr.key(0))

    @jax.jit
    @jax.value_and_grad
    def loss(args):
        params, x = args
        outputs = jax.vmap(_with_params(layer, params))(x)
        return jnp.sum(jax.vmap(_loss_of)(outputs))

    def expected(step):
        (*weights, bias), own = jtu.tree_map(np.add, (params, x), step)
        return sum(_numpy((*weights, bias), one) for one in own)

    value, grads = loss((params, x))
    zero = jtu.tree_map(np.zeros_like, (params, x))
    np.testing.assert_allclose(value, expected(zero), rtol=1e-10, atol=1e-10)
    for _ in range(10):
        step = jtu.tree_map(lambda z: 1e-5 * rng.normal(size=z.shape), zero)
        back = jtu.tree_map(np.negative, step)
        change = (expected(step) - expected(back)) / 2
        found = np.sum(_flat(grads) * _flat(step))
        np.testing.assert_allclose(found, change, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_from_equinox(use_bias, dtype):
    """And the same key makes the same layer."""
    ours, cell = _layers(use_bias, dtype)
    assert ours.weight_hh.dtype == dtype
    assert eqx.tree_equal(ours, LSTM.from_equinox(cell))


def test_bfloat16():
    ours, _ = _layers(dtype="bfloat16")
    data = _data()
    data[..., -2 * HIDDEN :] = 0
    data = data.astype(jnp.bfloat16)
    x = data[0, :, : -2 * HIDDEN].reshape(EXAMPLES, LENGTH, INPUT)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(layer, x):
        return jnp.sum(jax.vmap(lambda x: _loss_of(layer(x)))(x))

    value, grads = loss(ours, x)
    assert value.dtype == grads.weight_hh.dtype == jnp.bfloat16
    # Of the same numbers in full precision.
    params = _flat(_params(ours)).astype(float)
    values, expected, _ = _truth(params, data.astype(float))
    np.testing.assert_allclose(float(value), values[0].sum(), rtol=0.02)
    found = _flat(_params(grads)).astype(float)
    expected = expected[0, :, : params.size].sum(0)
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.1)


def test_strict_promotion():
    lstm = eqx.filter_eval_shape(LSTM, INPUT, HIDDEN, dtype="float32", key=jr.key(0))
    x = jax.ShapeDtypeStruct((LENGTH, INPUT), "float32")
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        grad = eqx.filter_grad(lambda lstm, x: jnp.sum(lstm(x)[0]))
        grads = eqx.filter_eval_shape(grad, lstm, x)
    assert grads.weight_hh.dtype == jnp.float32


def test_errors():
    lstm, _ = _layers()
    errors = (ValueError, TypeCheckError)
    with pytest.raises(errors, match="input"):
        lstm(jnp.ones((2, LENGTH, INPUT)))
    with pytest.raises(ValueError, match=r"\(length, 3\)"):
        lstm(jnp.ones((LENGTH, INPUT + 1)))
    with pytest.raises(ValueError, match="dtype"):
        lstm(jnp.ones((LENGTH, INPUT), jnp.float32))
    zeros = jnp.zeros(HIDDEN, jnp.float32)
    with pytest.raises(ValueError, match="dtype"):
        lstm(jnp.ones((LENGTH, INPUT)), (zeros, zeros))
