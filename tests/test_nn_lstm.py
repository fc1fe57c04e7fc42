"""`equifed.nn.LSTM` computes what scanning `equinox.nn.LSTMCell` does, and so do all of
its derivatives, in whatever order they are mapped, differentiated and compiled.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.sharding import AxisType, PartitionSpec as P
from jaxtyping import TypeCheckError

from equifed.nn import LSTM


INPUT, HIDDEN, LENGTH = 3, 5, 7


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


def _layers(key, *args, **kwargs):
    ours = LSTM(INPUT, HIDDEN, *args, **kwargs, key=key)
    return ours, eqx.nn.LSTMCell(INPUT, HIDDEN, *args, **kwargs, key=key)


def _params(layer):
    return {"ih": layer.weight_ih, "hh": layer.weight_hh, "bias": layer.bias}


def _with_params(layer, params):
    return eqx.tree_at(
        lambda layer: (layer.weight_ih, layer.weight_hh, layer.bias),
        layer,
        (params["ih"], params["hh"], params["bias"]),
        is_leaf=lambda x: x is None,
    )


@functools.cache
def _outputs(use_bias):
    """The same function of (params, (x, state)) by either, and its params."""
    ours, cell = _layers(jr.key(0), use_bias)
    functions = (
        lambda params, data: _with_params(ours, params)(*data),
        lambda params, data: _scan(_with_params(cell, params), *data),
    )
    return functions, jax.device_get(_params(ours))


def _losses(use_bias):
    """Losses that depend on every output, each in its own way."""
    functions, params = _outputs(use_bias)

    def loss_of(function):
        def loss(params, data):
            hidden, (h, c) = function(params, data)
            weight = np.cos(np.arange(hidden.size)).reshape(hidden.shape)
            return jnp.sum(jnp.sin(hidden) * weight) + jnp.sum(h * c + c**3)

        return loss

    return tuple(loss_of(f) for f in functions), params


def _data(*batch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*batch, LENGTH, INPUT))
    return x, tuple(rng.normal(size=(*batch, HIDDEN)) for _ in range(2))


def _clients(params):
    rng = np.random.default_rng(1)
    return jtu.tree_map(lambda x: x + 0.3 * rng.normal(size=(3, *x.shape)), params)


def _grad(f):
    return jax.grad(f, (0, 1))


def _sum_over(axes):
    return lambda f: _grad(lambda *args: jnp.sum(jax.vmap(f, axes)(*args)))


def _jvp(f):
    return lambda *args: jax.jvp(f, args, jtu.tree_map(jnp.cos, args))


def _grad_of_grad(f):
    def inner(params, data):
        grads = _grad(f)(params, data)
        return sum(jnp.sum(jnp.square(g)) for g in jtu.tree_leaves(grads))

    return _grad(inner)


def _in_loop(f):
    """Some steps of gradient descent on the mean loss."""

    def mean_loss(params, data):
        return jnp.mean(jax.vmap(f, (None, 0))(params, data))

    def descend(params, data):
        def body(_, params):
            grads = jax.grad(mean_loss)(params, data)
            return jtu.tree_map(lambda p, g: p - 0.1 * g, params, grads)

        return jax.lax.fori_loop(0, 3, body, params)

    return descend


# transform, whether it takes many clients, whether it takes many examples.
transforms = {
    "value": (lambda f: f, False, False),
    "grad": (_grad, False, False),
    "jvp": (_jvp, False, False),
    "linearize": (lambda f: lambda *a: jax.linearize(f, *a)[1](*a), False, False),
    "grad-of-grad": (_grad_of_grad, False, False),
    "hessian-vector": (lambda f: _jvp(_grad(f)), False, False),
    "hessian": (lambda f: jax.hessian(f), False, False),
    "remat": (lambda f: _grad(jax.checkpoint(f)), False, False),
    "grad-vmap": (_sum_over((None, 0)), False, True),
    "vmap-grad": (lambda f: jax.vmap(_grad(f), (None, 0)), False, True),
    "vmap-last": (lambda f: jax.vmap(jax.grad(f), (None, 0), -1), False, True),
    "vmap-jvp": (lambda f: jax.vmap(_jvp(f), (None, 0)), False, True),
    "vmap-grad-of-grad": (
        lambda f: jax.vmap(_grad_of_grad(f), (None, 0)),
        False,
        True,
    ),
    "weights-grad-vmap": (_sum_over((0, None)), True, False),
    "weights-vmap-grad": (lambda f: jax.vmap(_grad(f), (0, None)), True, False),
    "clients-grad-vmap": (lambda f: jax.vmap(_sum_over((None, 0))(f)), True, True),
    "clients-vmap-grad": (
        lambda f: jax.vmap(jax.vmap(_grad(f), (None, 0))),
        True,
        True,
    ),
    "loop": (_in_loop, False, True),
    "clients-loop": (lambda f: jax.vmap(_in_loop(f)), True, True),
}


@functools.cache
def _by_both(names, use_bias, many_clients, many_examples):
    """What these transformations give, of our layer and of the scan; in one program."""
    losses, params = _losses(use_bias)
    batch = (2,) if many_examples else ()
    if many_clients:
        params = _clients(params)
        batch = (3, *batch) if many_examples else ()

    def run(*args):
        return {n: [transforms[n][0](loss)(*args) for loss in losses] for n in names}

    return jax.jit(run)(params, _data(*batch))


@pytest.mark.parametrize("transform", transforms)
def test_transformations(transform):
    takes = transforms[transform][1:]
    names = tuple(name for name in transforms if transforms[name][1:] == takes)
    _assert_close(*_by_both(names, True, *takes)[transform])


def test_without_a_bias():
    name = "clients-grad-vmap"
    _assert_close(*_by_both((name,), False, *transforms[name][1:])[name])


@pytest.mark.parametrize("use_bias", [True, False])
def test_outputs(use_bias):
    functions, params = _outputs(use_bias)
    data = _data()

    def all_of(function):
        # All the cotangents of all the outputs, batched; the sequence is not.
        backwards, forwards = (d(function, (0, 1)) for d in (jax.jacrev, jax.jacfwd))
        return lambda *args: [f(*args) for f in (function, backwards, forwards)]

    ours, theirs = (jax.jit(all_of(function))(params, data) for function in functions)
    _assert_close(ours, theirs)
    alone = functions[0](*jtu.tree_map(jnp.asarray, (params, data)))
    _assert_close(alone, theirs[0])  # not compiled as a whole


def test_gradient_is_a_finite_difference():
    (loss, _), params = _losses(True)
    data = _data()
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    grad = value_and_grad(params, data)[1]["hh"]
    for row, column in ((0, 0), (7, 3), (12, 1), (19, 4)):
        step = np.zeros_like(params["hh"])
        step[row, column] = 1e-5
        plus, minus = (
            value_and_grad({**params, "hh": params["hh"] + d}, data)[0]
            for d in (step, -step)
        )
        np.testing.assert_allclose(grad[row, column], (plus - minus) / 2e-5, 1e-6)


def test_same_key_same_layer(getkey):
    ours, cell = _layers(getkey())
    x = jnp.asarray(_data()[0])
    _assert_close(ours(x), _scan(cell, x))
    _assert_close(eqx.filter_jit(ours)(x), ours(x))


def test_a_sequence_can_be_continued(getkey):
    lstm, _ = _layers(getkey())
    x = jnp.asarray(_data()[0])
    first, state = lstm(x[:3])
    second, state = lstm(x[3:], state)
    _assert_close((jnp.concatenate([first, second]), state), lstm(x))


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
    losses, params = _losses(True)
    data = _data(2)
    weight = params["hh"].shape

    def made(loss):
        grad = _sum_over((None, 0))(loss)
        jaxpr = jax.make_jaxpr(grad)(params, data).jaxpr
        return {s for s in _made_in_scans(jaxpr, False) if sorted(s) == sorted(weight)}

    ours, theirs = losses
    assert made(theirs)
    assert not made(ours)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    losses, params = _losses(True)
    data = _data(4, 2)
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))

    def descend(f):
        return lambda params, data: jax.vmap(_in_loop(f), (None, 0))(params, data)

    def sharded(f):
        def local(params, data):
            if check_vma:
                params = jax.lax.pcast(params, "clients", to="varying")
            return descend(f)(params, data)

        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P("clients")),
            out_specs=P("clients"),
            check_vma=check_vma,
        )

    ours, theirs = losses
    _assert_close(
        jax.jit(sharded(ours))(params, data), jax.jit(descend(theirs))(params, data)
    )


def test_shard_map_from_the_zero_state(getkey):
    # The sequences vary over the devices; the weights, and the zeros, do not.
    lstm, cell = _layers(getkey())
    x = _data(4)[0]
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))

    def grad(params, x):
        def total(params):
            layer = _with_params(lstm, params)
            return jnp.sum(jnp.sin(jax.vmap(layer)(x)[0]))

        return jax.grad(total)(params)

    sharded = jax.shard_map(
        grad, mesh=mesh, in_specs=(P(), P("clients")), out_specs=P()
    )

    def expected(params):
        layer = _with_params(cell, params)
        return jnp.sum(jnp.sin(jax.vmap(lambda x: _scan(layer, x)[0])(x)))

    params = _params(lstm)
    _assert_close(jax.jit(sharded)(params, x), jax.jit(jax.grad(expected))(params))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    length=st.integers(0, 4),
    input_size=st.integers(1, 4),
    hidden_size=st.integers(1, 4),
    batch=st.integers(1, 3),
)
def test_any_shape(length, input_size, hidden_size, batch):
    with jax.enable_x64(True):  # noqa: FBT003
        x = np.random.default_rng(0).normal(size=(batch, length, input_size))

        @eqx.filter_value_and_grad
        def loss(layer, x):
            call = layer if isinstance(layer, LSTM) else lambda x: _scan(layer, x)
            hidden, (h, c) = jax.vmap(call)(x)
            return jnp.sum(jnp.sin(hidden)) + jnp.sum(h + c)

        @eqx.filter_jit
        def both(x):
            cell = eqx.nn.LSTMCell(input_size, hidden_size, key=jr.key(0))
            return loss(LSTM.from_equinox(cell), x), loss(cell, x)

        (value, grads), (value_, grads_) = both(x)
        _assert_close((value, _params(grads)), (value_, _params(grads_)))


@pytest.mark.parametrize("use_bias", [True, False])
def test_from_equinox(use_bias, getkey):
    ours, cell = _layers(getkey(), use_bias)
    assert eqx.tree_equal(ours, LSTM.from_equinox(cell))
    small, cell = _layers(getkey(), use_bias, jnp.bfloat16)
    assert eqx.tree_equal(small, LSTM.from_equinox(cell))


def test_bfloat16(getkey):
    ours, cell = _layers(getkey(), dtype=jnp.bfloat16)
    x = jnp.asarray(_data(2)[0], jnp.bfloat16)

    def loss(layer, x):
        call = layer if isinstance(layer, LSTM) else lambda x: _scan(layer, x)
        hidden, _ = jax.vmap(call)(x)
        return jnp.sum(jnp.sin(hidden)), hidden

    both = eqx.filter_jit(eqx.filter_grad(loss, has_aux=True))
    grads, hidden = both(ours, x)
    assert hidden.dtype == grads.weight_hh.dtype == jnp.bfloat16
    grads_, hidden_ = both(cell, x)
    _assert_close(hidden, hidden_, tolerance=0.02)
    _assert_close(_params(grads), _params(grads_), tolerance=0.1)


def test_strict_promotion(getkey):
    lstm, _ = _layers(getkey(), dtype=jnp.float32)
    x = jnp.ones((LENGTH, INPUT), jnp.float32)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        grad = eqx.filter_grad(lambda lstm: jnp.sum(lstm(x)[0]))
        grads = eqx.filter_eval_shape(grad, lstm)
    assert grads.weight_hh.dtype == jnp.float32


def test_errors(getkey):
    lstm, _ = _layers(getkey())
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
