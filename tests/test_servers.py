"""Each server's step, by hand."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf


X = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(3.0)}
# Two rounds' changes: one of them zero, one tiny.
CHANGES = (
    {"w": jnp.array([0.3, -0.4, 0.0]), "b": jnp.array(1e-4)},
    {"w": jnp.array([-0.1, -0.2, 0.5]), "b": jnp.array(0.0)},
)


def aggregate(payload, count=2.0, stats=None):
    weight, count = jnp.asarray(20.0), jnp.asarray(count)
    return eqf.Aggregate(payload, stats, weight, count, count > 0)


def run(server, changes=CHANGES, **kwargs):
    state, x, seen = server.init(X, num_clients=8), X, []
    for change in changes:
        x, state = server.round(x, aggregate(change, **kwargs), state, key=jr.key(0))
        seen.append(x)
    return seen, state


def check(got, expected):
    for x, y in zip(got, expected, strict=True):
        for name in x:
            np.testing.assert_allclose(x[name], y[name], rtol=2e-6, atol=1e-7)


def numpy(tree):
    return {name: np.asarray(x, np.float64) for name, x in tree.items()}


def test_sgd_adds_the_change():
    got, _ = run(eqf.OptaxServer(optax.sgd(1.0)))
    expected, x = [], numpy(X)
    for change in CHANGES:
        x = {n: x[n] + np.asarray(change[n]) for n in x}
        expected.append(x)
    check(got, expected)


def test_momentum():
    got, _ = run(eqf.OptaxServer(optax.sgd(0.5, momentum=0.9)))
    expected, x = [], numpy(X)
    v = {n: 0.0 for n in x}
    for change in CHANGES:
        v = {n: 0.9 * v[n] + np.asarray(change[n]) for n in x}
        x = {n: x[n] + 0.5 * v[n] for n in x}
        expected.append(x)
    check(got, expected)


SECOND_MOMENTS = {
    eqf.server_adagrad: lambda v, d: v + d**2,
    eqf.server_adam: lambda v, d: 0.8 * v + 0.2 * d**2,
    eqf.server_yogi: lambda v, d: v - 0.2 * d**2 * np.sign(v - d**2),
}


@pytest.mark.parametrize("make", SECOND_MOMENTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("tau", (1e-1, 1e-3))
def test_adaptive(make, tau):
    kwargs = {} if make is eqf.server_adagrad else {"b2": 0.8}
    server = eqf.OptaxServer(make(0.3, b1=0.6, tau=tau, **kwargs))
    state = server.init(X, num_clients=8)
    for name, v in state.v.items():
        np.testing.assert_allclose(v, np.full(X[name].shape, tau**2), rtol=1e-6)
        np.testing.assert_array_equal(state.m[name], 0.0)

    got, _ = run(server)
    expected, x = [], numpy(X)
    m = {n: 0.0 for n in x}
    v = {n: tau**2 for n in x}
    for change in map(numpy, CHANGES):
        m = {n: 0.6 * m[n] + 0.4 * change[n] for n in x}
        v = {n: SECOND_MOMENTS[make](v[n], change[n]) for n in x}
        x = {n: x[n] + 0.3 * m[n] / (np.sqrt(v[n]) + tau) for n in x}
        expected.append(x)
    check(got, expected)


@pytest.mark.parametrize("make", SECOND_MOMENTS, ids=lambda make: make.__name__)
def test_adaptive_is_not_optax(make):
    # No bias correction: the first step of Adam is not the learning rate, but
    # (1 - b1) d / (sqrt(b2 tau^2 + (1 - b2) d^2) + tau).
    server = eqf.OptaxServer(make(1.0, b1=0.9, tau=1e-3))
    (x, *_), _ = run(server)
    optax_one = getattr(optax, make.__name__.removeprefix("server_"))(1.0)
    (other, *_), _ = run(eqf.OptaxServer(optax_one))
    assert abs(float(x["w"][0] - other["w"][0])) > 0.02
    d, b2 = 0.3, 0.99
    v = {
        eqf.server_adagrad: 1e-6 + d**2,
        eqf.server_adam: b2 * 1e-6 + (1 - b2) * d**2,
        eqf.server_yogi: 1e-6 + (1 - b2) * d**2,
    }[make]
    step = 0.1 * d / (np.sqrt(v) + 1e-3)
    np.testing.assert_allclose(x["w"][0], 1.0 + step, rtol=1e-5)


def test_a_server_that_is_an_optimiser_has_no_more_to_say():
    server = eqf.OptaxServer(optax.adam(0.1))
    assert server.broadcast(X, server.init(X, num_clients=8)) is None


def test_nova_restores_the_length():
    server = eqf.NovaServer(eqf.OptaxServer(optax.sgd(0.5)))
    (x, _), _ = run(server, stats=jnp.asarray(4.0))
    np.testing.assert_allclose(x["w"], X["w"] + 0.5 * 4.0 * CHANGES[0]["w"], rtol=1e-6)
    assert server.broadcast(X, server.init(X, num_clients=8)) is None


def test_dyn():
    # Three of eight clients; the h of two rounds by hand.
    alpha, share = 0.5, 3 / 8
    server = eqf.DynServer(alpha)
    got, state = run(server, count=3.0)
    h, x, expected = {n: 0.0 for n in X}, numpy(X), []
    for change in map(numpy, CHANGES):
        h = {n: h[n] - alpha * share * change[n] for n in x}
        x = {n: x[n] + change[n] - h[n] / alpha for n in x}
        expected.append(x)
    check(got, expected)
    check([state.h], [h])


def test_scaffold():
    server = eqf.ScaffoldServer(eqf.OptaxServer(optax.sgd(0.5)))
    control = {"w": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array(-4.0)}
    changes = [eqf.ScaffoldPayload(change, control) for change in CHANGES]
    state = server.init(X, num_clients=8)
    for x in server.broadcast(X, state).values():
        np.testing.assert_array_equal(x, 0.0)
    got, state = run(server, changes, count=2.0)
    expected, x = [], numpy(X)
    for change in map(numpy, CHANGES):
        x = {n: x[n] + 0.5 * change[n] for n in x}
        expected.append(x)
    check(got, expected)
    # Two rounds in which 2 of 8 clients changed theirs by `control` on average.
    sent = server.broadcast(x, state)
    check([sent], [{n: 2 * 2 / 8 * np.asarray(control[n]) for n in X}])
