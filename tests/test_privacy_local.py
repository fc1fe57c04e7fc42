"""Privacy of a client's own: noised messages, and noised steps."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import equifed as eqf
import equifed.privacy as eqp
from equifed import testing

from .test_privacy import aggregated, trained


dpa = pytest.importorskip("dp_accounting")
COUNT, DELTA = 8, 1e-3


def plan(kind, sampler, *, noise=4.0, num_rounds=6, **kwargs):
    expected = sampler.participation(COUNT).expected
    mech = kind(1.0, noise_multiplier=noise, expected_clients=expected)
    sizes = {"num_clients": COUNT, "num_rounds": num_rounds, "delta": DELTA}
    return eqp.PrivacyPlan(sampler, mech, **sizes, **kwargs)


@pytest.mark.parametrize(
    ("sampler", "times"),
    (
        (eqf.data.PoissonSampler(0.5), 6),
        (eqf.data.UniformSampler(4), 6),
        (eqf.data.ShuffledSampler(2), 2),
        (eqf.data.AllClients(), 6),
    ),
    ids=("poisson", "uniform", "shuffled", "all"),
)
def test_a_client_pays_for_the_rounds_that_it_may_be_in(sampler, times):
    made = plan(eqp.LocalGaussian, sampler)
    assert made.adjacency == "replace a message"
    exact = dpa.get_epsilon_gaussian(4.0 / 2 / math.sqrt(times), DELTA)
    np.testing.assert_allclose(made.epsilon(), exact, rtol=1e-3)
    laplace = plan(eqp.LocalLaplace, sampler)
    assert laplace.epsilon() <= times * 2 / 4.0 * (1 + 1e-3)
    assert plan(eqp.LocalLaplace, sampler, noise=0.0).epsilon() == math.inf
    assert made.for_epsilon(3.0).epsilon() == pytest.approx(3.0, rel=5e-3)


def test_one_message_with_laplace_noise_is_purely_private():
    made = plan(eqp.LocalLaplace, eqf.data.AllClients(), num_rounds=1)
    # Of two Laplace densities 2 C apart, of scale 4 C: exactly, for a small delta,
    # epsilon = 1/2 + 2 log(1 - delta).
    np.testing.assert_allclose(
        made.epsilon(), 0.5 + 2 * math.log1p(-DELTA), rtol=2e-3, atol=1e-3
    )


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4),
    st.floats(0.125, 1024, width=32),
    st.sampled_from((eqp.LocalGaussian, eqp.LocalLaplace)),
)
def test_a_message_is_within_its_bound(numbers, bound, kind):
    row = np.asarray([numbers], np.float32)
    payload = {"a": row[:, :1], "b": row[:, None, 1:]}
    mech = kind(bound, noise_multiplier=0.0, expected_clients=1.0)
    got = aggregated(mech, payload)[0].payload
    flat = np.concatenate([np.ravel(x) for x in jtu.tree_leaves(got)])
    order = 2 if kind is eqp.LocalGaussian else 1
    assert np.linalg.norm(flat, order) <= bound * (1 + 1e-4)
    sent = np.asarray(numbers, np.float32)
    if np.linalg.norm(sent, order) <= 0.99 * bound:
        np.testing.assert_array_equal(flat, sent)


@pytest.mark.parametrize(
    ("kind", "stddev"), ((eqp.LocalGaussian, 1.0), (eqp.LocalLaplace, math.sqrt(2)))
)
def test_each_message_has_noise_of_its_own(kind, stddev):
    mech = kind(2.0, noise_multiplier=3.0, expected_clients=1.0)
    payload = {"a": jnp.zeros(20_000), "b": jnp.zeros(20_000)}

    @jax.jit
    def encode(key, weight):
        return mech.encode(eqf.Message(payload, jnp.asarray(weight)), None, key=key)[0]

    one, other = encode(jr.key(1), 1.0), encode(jr.key(2), 0.0)
    for x in (*one.payload.values(), *other.payload.values()):
        np.testing.assert_allclose(np.std(x), 6 * stddev, rtol=0.03)
        assert abs(np.mean(x)) < 0.2
    pairs = (
        (one.payload["a"], one.payload["b"]),
        (one.payload["a"], other.payload["a"]),
    )
    for x, y in pairs:
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.03
    # Who has no examples sends noise, and is not counted.
    assert (one.count, other.count) == (1, 0)


@pytest.mark.parametrize("kind", (eqp.LocalGaussian, eqp.LocalLaplace))
def test_a_training_with_local_noise(kind):
    deployment = eqp.Deployment(num_clients=800, cohort_size=400)
    made = plan(kind, eqf.data.UniformSampler(4), deployment=deployment)
    row = trained(made.mechanism, made.sampler, privacy=made, num_rounds=2).history[-1]
    assert set(row) == {"round", "epsilon", "deployed_epsilon", "nonfinite_model"}
    assert row["epsilon"] == made.epsilon(2)
    # A hundred times as many clients have the same mean with ten times the noise each.
    like = plan(kind, eqf.data.UniformSampler(4), noise=40.0)
    np.testing.assert_allclose(made.deployed_epsilon(), like.epsilon(), rtol=1e-6)
    fitted = made.for_epsilon(1.0, of="deployment")
    assert 0.98 < fitted.deployed_epsilon() <= 1.0


# Examples: noised steps within a client.


BATCHING = eqf.data.Epochs(2, batch_size=4)


def private_client(**kwargs):
    kwargs = {"max_norm": math.inf, "noise_multiplier": 0.0, **kwargs}
    return eqp.PrivateSGD(testing.noisy_loss, optax.sgd(0.1), BATCHING, **kwargs)


def test_without_clipping_and_noise_it_is_local_sgd():
    loader = eqf.data.Loader(
        testing.ragged_clients((8, 4, 12, 0)), eqf.data.AllClients(), BATCHING
    )
    plain = eqf.FedAvg(testing.noisy_loss, optax.sgd(0.1), BATCHING)
    own = eqx.tree_at(lambda a: a.client, plain, private_client())
    models = [
        eqf.train(a, testing.Linear(), loader, num_rounds=3, key=jr.key(1)).model
        for a in (plain, own)
    ]
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)  # noqa: E731
    jtu.tree_map(close, *models)


def test_noised_steps_have_the_same_bits_on_any_devices_and_after_a_resume(tmp_path):
    plain = eqf.FedAvg(testing.noisy_loss, optax.sgd(0.1), BATCHING)
    noised = private_client(max_norm=0.5, noise_multiplier=1.0)
    own = eqx.tree_at(lambda a: a.client, plain, noised)

    def model(num_rounds, saves=None, mesh=None):
        dataset = testing.ragged_clients((8, 4, 12, 5))
        loader = eqf.data.Loader(dataset, eqf.data.AllClients(), BATCHING, mesh=mesh)
        kwargs = {"executor": eqf.Executor(ordered=True), "checkpointer": saves}
        kwargs |= {"num_rounds": num_rounds, "key": jr.key(1)}
        return eqf.train(own, testing.Linear(), loader, **kwargs).model

    saves = eqf.Checkpointer(tmp_path, every=1)
    auto, two = (jax.sharding.AxisType.Auto,), jax.devices()[:2]
    model(2, saves)
    many = model(3, saves, jax.make_mesh((2,), ("clients",), auto, devices=two))
    jtu.tree_map(np.testing.assert_array_equal, model(3), many)


def line(params, example, key):
    return jnp.vdot(params, example)  # whose gradient is the example


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3),
    st.floats(0.125, 1024, width=32),
)
def test_an_example_changes_the_sum_by_the_bound_at_most(numbers, bound):
    examples = jnp.asarray([[1.0, 2.0, 0.5], numbers, [0.0, 0.1, 3.0]])
    with_it = of_a_batch(examples, jnp.asarray([True, True, True]), bound)
    without = of_a_batch(examples, jnp.asarray([True, False, True]), bound)
    change = 3 * (np.asarray(with_it) - np.asarray(without))
    assert np.linalg.norm(change) <= bound * (1 + 1e-4) + 1e-4
    if np.linalg.norm(numbers) <= 0.99 * bound:
        np.testing.assert_allclose(change, numbers, rtol=1e-4, atol=1e-2)


@jax.jit
def of_a_batch(examples, mask, bound, noise=0.0):
    client = eqp.PrivateSGD(
        line, optax.sgd(0.1), BATCHING, max_norm=bound, noise_multiplier=noise
    )
    keys = {"key": jr.key(0), "noise_key": jr.key(1)}
    params = jnp.zeros(examples.shape[1:])
    return client.gradient(params, None, examples, mask, **keys)[0]


@pytest.mark.parametrize("bound", (0.5, 2.0, 100.0))
def test_a_step_s_sum_is_optax_s(bound):
    examples = 2 * jr.normal(jr.key(0), (6, 5))
    rule = optax.contrib.differentially_private_aggregate(bound, 0.0, jr.key(1))
    one = lambda x: rule.update({"a": x}, rule.init({"a": x[0]}))[0]  # noqa: E731
    theirs = jax.jit(one)(examples)
    ours = of_a_batch(examples, jnp.ones(6, bool), bound)
    np.testing.assert_allclose(ours, jtu.tree_leaves(theirs)[0], rtol=1e-5, atol=1e-7)


def test_the_noise_of_a_step():
    got = of_a_batch(
        jnp.zeros((4, 20_000)), jnp.asarray([True] * 3 + [False]), 2.0, 3.0
    )
    np.testing.assert_allclose(np.std(got), 1.5, rtol=0.03)  # 3 * 2 / 4, all four
    assert abs(np.mean(got)) < 0.05
    bad = jnp.asarray([[np.nan, 0.0], [3.0, 4.0]])
    got = of_a_batch(bad, jnp.asarray([True, True]), 1.0)
    np.testing.assert_allclose(got, [0.3, 0.4], rtol=1e-6)


def test_an_example_pays_for_its_epochs():
    sampler = eqf.data.ShuffledSampler(2)
    client = private_client(max_norm=1.0, noise_multiplier=5.0)
    sizes = {"num_clients": COUNT, "num_rounds": 6, "delta": DELTA}
    made = eqp.ExampleLevelPlan(sampler, client, **sizes)
    # Of eight clients two a round: six rounds begin two passes, of two epochs each.
    exact = dpa.get_epsilon_gaussian(5.0 / math.sqrt(4), DELTA)
    np.testing.assert_allclose(made.epsilon(), exact, rtol=1e-3)
    exact = dpa.get_epsilon_gaussian(5.0 / math.sqrt(2), DELTA)
    np.testing.assert_allclose(made.epsilon(4), exact, rtol=1e-3)
    assert made.epsilon(0) == 0
    assert 1.99 < made.for_epsilon(2.0).epsilon() <= 2.0
    none = eqp.ExampleLevelPlan(sampler, private_client(max_norm=1.0), **sizes)
    assert none.epsilon() == math.inf
