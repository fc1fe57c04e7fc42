"""What a client computes from its share of a round."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing


RATE = 0.1
BATCHING = eqf.data.Epochs(1, batch_size=2)


def linear_loss(model, example, key):
    return (model.weight @ example["x"] + model.bias - example["y"]) ** 2 / 2


def noise_loss(model, example, key):
    """Its gradient is its key's noise, for the bias alone."""
    return model.bias * jr.normal(key)


def data(batches, num_examples=5, first=2, seed=0):
    """A client that owns rows `first:first + num_examples` of a larger pool, and takes
    some batches, each a list of its own examples' numbers and -1 for an empty place."""
    rng = np.random.default_rng(seed)
    pool = {
        "x": rng.normal(size=(12, 3)).astype(np.float32),
        "y": rng.normal(size=12).astype(np.float32),
    }
    # Other clients' rows must not matter.
    mine = slice(first, first + num_examples)
    for column in pool.values():
        keep = column[mine].copy()
        column[:] = np.nan
        column[mine] = keep
    order = np.array([[0, 0], *batches, [0, 0]])
    order = np.where(order < 0, order, order + first).astype(np.int32)
    share = eqf.ClientData(
        {name: jnp.asarray(column) for name, column in pool.items()},
        jnp.asarray(order),
        jnp.asarray(1),
        jnp.asarray(1 + len(batches)),
        jnp.asarray(first),
        jnp.asarray(num_examples),
    )
    return share, pool["x"][mine], pool["y"][mine]


def run(client, share, *, shared=None, state=None, key=0):
    model = testing.Linear()
    broadcast = eqf.Broadcast.of(model, shared)
    return client.round(broadcast, share, state, key=jr.key(key))


def gradient(w, x, y):
    """The mean gradient of a batch, for the weight and the bias in one vector."""
    error = x @ w[:3] + w[3] - y
    return np.append((error[:, None] * x).mean(0), error.mean())


def vector(params):
    return np.append(np.asarray(params.weight, np.float64), float(params.bias))


def leaves(vector):
    return eqx.tree_at(
        lambda m: (m.weight, m.bias),
        testing.Linear(),
        (jnp.asarray(vector[:3], jnp.float32), jnp.asarray(vector[3], jnp.float32)),
    )


START = vector(testing.Linear())
# Three steps; the last batch is short, and an empty place may come first.
BATCHES = [[3, 1], [0, 4], [-1, 2]]


def local(x, y, correct=lambda w: 0.0, batches=BATCHES):
    w, grads, losses = START, [], []
    for batch in batches:
        rows = [i for i in batch if i >= 0]
        losses += [*((x[rows] @ w[:3] + w[3] - y[rows]) ** 2 / 2)]
        grads.append(gradient(w, x[rows], y[rows]))
        w = w - RATE * (grads[-1] + correct(w))
    return w - START, grads, losses


def test_local_sgd_is_sgd():
    share, x, y = data(BATCHES)
    client = eqf.LocalSGD(linear_loss, optax.sgd(RATE), BATCHING)
    message, state, metrics = run(client, share)
    delta, _, losses = local(x, y)
    np.testing.assert_allclose(vector(message.payload), delta, rtol=1e-5, atol=1e-6)
    assert message.weight == 5
    assert state is None
    # A short batch counts by what is in it, in the gradient and in the metrics.
    np.testing.assert_allclose(metrics["loss"].compute(), np.mean(losses), rtol=1e-5)
    assert metrics["loss"].weight == 5


def test_the_optimiser_starts_afresh_in_every_round():
    share, _, _ = data(BATCHES)
    client = eqf.LocalSGD(linear_loss, optax.adam(RATE), BATCHING)
    first, state, _ = run(client, share)
    second, _, _ = run(client, share, state=state)
    np.testing.assert_array_equal(first.payload.weight, second.payload.weight)
    # The first step of Adam is the sign of the gradient.
    one, x, y = data(BATCHES[:1])
    message, _, _ = run(client, one)
    expected = -RATE * np.sign(gradient(START, x[[3, 1]], y[[3, 1]]))
    np.testing.assert_allclose(vector(message.payload), expected, rtol=1e-4)


@pytest.mark.parametrize("mu", (0.0, 3.0))
def test_proximal(mu):
    share, x, y = data(BATCHES)
    correction = eqf.Proximal(mu)
    client = eqf.LocalSGD(linear_loss, optax.sgd(RATE), BATCHING, correction)
    message, _, _ = run(client, share)
    expected, _, _ = local(x, y, lambda w: mu * (w - START))
    np.testing.assert_allclose(vector(message.payload), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("option", (1, 2))
def test_control_variate(option):
    share, x, y = data(BATCHES)
    c, ci = np.array([0.1, -0.2, 0.3, -0.4]), np.array([0.5, 0.6, -0.7, 0.8])
    correction = eqf.ControlVariate(option)
    client = eqf.LocalSGD(linear_loss, optax.sgd(RATE), BATCHING, correction)
    message, state, _ = run(client, share, shared=leaves(c), state=leaves(ci))
    delta, _, _ = local(x, y, lambda w: c - ci)
    # The paper's option I is the gradient at the server's model over all the data.
    new = gradient(START, x, y) if option == 1 else ci - c - delta / (3 * RATE)
    got = vector(message.payload.delta), vector(message.payload.control), vector(state)
    for a, b in zip(got, (delta, new - ci, new), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_dynamic_regularizer():
    share, x, y = data(BATCHES)
    alpha, h = 0.7, np.array([0.5, 0.6, -0.7, 0.8])
    correction = eqf.DynamicRegularizer()
    client = eqf.LocalSGD(linear_loss, optax.sgd(RATE), BATCHING, correction)
    shared = jnp.asarray(alpha)
    message, state, _ = run(client, share, shared=shared, state=leaves(h))
    delta, _, _ = local(x, y, lambda w: alpha * (w - START) - h)
    np.testing.assert_allclose(vector(message.payload), delta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vector(state), h - alpha * delta, rtol=1e-5)


@pytest.mark.parametrize(
    "correction",
    (eqf.NoCorrection(), eqf.ControlVariate(1), eqf.ControlVariate(2)),
    ids=("none", "option 1", "option 2"),
)
def test_a_client_without_steps_says_and_learns_nothing(correction):
    share, _, _ = data([])
    client = eqf.LocalSGD(linear_loss, optax.sgd(RATE), BATCHING, correction)
    state = leaves(START) if isinstance(correction, eqf.ControlVariate) else None
    message, new, metrics = run(client, share, shared=leaves(START), state=state)
    assert message.weight == 0
    for leaf in jax.tree.leaves(message.payload):
        np.testing.assert_array_equal(leaf, 0.0)
    assert eqx.tree_equal(new, state)
    assert metrics["loss"].weight == 0


def test_the_full_gradient():
    share, x, y = data([[3, 1], [0, 4], [2, -1]])
    client = eqf.MeanGradient(linear_loss, BATCHING)
    message, state, metrics = run(client, share)
    # The mean over all examples, not over the means of unequal batches.
    np.testing.assert_allclose(
        vector(message.payload), -gradient(START, x, y), rtol=1e-5
    )
    assert state is None
    losses = (x @ START[:3] + START[3] - y) ** 2 / 2
    np.testing.assert_allclose(metrics["loss"].compute(), losses.mean(), rtol=1e-5)
    empty, _, _ = data([])
    message, _, _ = run(client, empty)
    assert message.weight == 0
    np.testing.assert_array_equal(vector(message.payload), 0.0)


@pytest.mark.parametrize("option", (None, 1, 2))
def test_many_steps_in_half_precision(option):
    # A sum in bfloat16 stops growing at 256 times a summand.
    problem = testing.Quadratics((1.0,), (1.0,), (1000,))
    batching = eqf.data.Epochs(1, batch_size=1)
    if option is None:
        client = eqf.MeanGradient(testing.quadratic_loss, batching)
    else:
        correction = eqf.ControlVariate(option)
        optim = optax.sgd(0.0)
        client = eqf.LocalSGD(testing.quadratic_loss, optim, batching, correction)
    cohort = eqf.data.cohort(problem.dataset(), batching)
    one = jax.tree.map(lambda x: x[0], cohort)
    place = (one.start[0], one.stop[0], one.first[0], one.num_examples[0])
    share = eqf.ClientData(one.examples, one.order, *place)
    zero = testing.Point(jnp.asarray(0.0, jnp.bfloat16))
    message, _, _ = client.round(
        eqf.Broadcast.of(zero, zero), share, zero, key=jr.key(0)
    )
    # The gradient at 0 of (x - 1)^2 / 2, which full gradients are sent as minus.
    expected = 1.0 if option is None else -1.0
    payload = message.payload if option is None else message.payload.control
    np.testing.assert_allclose(float(payload.x), expected, rtol=1e-2)


@pytest.mark.parametrize("batch_size", (1, 2, 3, 5, 8))
def test_one_plain_pass_visits_every_example_once(batch_size):
    share, x, _ = data([], num_examples=5)

    def step(carry, examples, mask, i):
        total, _ = carry
        return total + jnp.where(mask[:, None], examples["x"], 0).sum(0), i

    start = jnp.zeros(3), jnp.asarray(-1)
    for either in (share, dataclasses.replace(share, differentiable=True)):
        got, last = either.fold_examples(step, start, batch_size=batch_size)
        np.testing.assert_allclose(got, x.sum(0), rtol=1e-5)
        assert last == -(-5 // batch_size) - 1


def test_every_example_of_every_step_has_its_own_key():
    client = eqf.LocalSGD(noise_loss, optax.sgd(1.0), BATCHING)

    def moves(batches, key=0):
        return float(run(client, data(batches)[0], key=key)[0].payload.bias)

    one, two = moves([[0, -1]]), moves([[0, -1], [0, -1]])
    assert two != 2 * one
    # The mean of two draws, not one draw twice.
    assert moves([[0, 1]]) != one
    assert moves([[0, -1]]) == one
    assert moves([[0, -1]], key=1) != one


@pytest.mark.parametrize(
    "optim, expected",
    (
        (optax.sgd(RATE), 3 * RATE),
        (optax.sgd(RATE, momentum=0.5), RATE * (1 + 1.5 + 1.75)),
        (optax.sgd(optax.linear_schedule(0.3, 0.0, 3)), 0.3 + 0.2 + 0.1),
    ),
    ids=("sgd", "momentum", "schedule"),
)
def test_normalized_sends_how_far_it_could_have_gone(optim, expected):
    share, _, _ = data(BATCHES)
    client = eqf.LocalSGD(linear_loss, optim, BATCHING)
    plain, _, _ = run(client, share)
    message, _, _ = run(eqf.Normalized(client), share)
    np.testing.assert_allclose(message.stats, expected, rtol=1e-5)
    np.testing.assert_allclose(
        vector(message.payload) * expected, vector(plain.payload), rtol=1e-5
    )
    empty, _, _ = data([])
    message, _, _ = run(eqf.Normalized(client), empty)
    assert message.stats == message.weight == 0
    np.testing.assert_array_equal(vector(message.payload), 0.0)
