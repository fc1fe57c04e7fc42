"""Clipping at a quantile that is learned: what it does, costs and counts."""

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


dpa = pytest.importorskip("dp_accounting")


def mechanism(initial=1.0, noise=1.0, stddev=2.0, expected=4.0, **kwargs):
    return eqp.PrivateMean(
        eqp.AdaptiveClip(initial, indicator_stddev=stddev, **kwargs),
        noise_multiplier=noise,
        expected_clients=expected,
    )


@eqx.filter_jit
def aggregated(mech, payloads, state=None, key=None):
    """One round on stacked payloads."""
    one = jtu.tree_map(lambda x: x[0], payloads)
    state = mech.init(one) if state is None else state

    def encode(x):
        return mech.encode(eqf.Message(x, jnp.ones(())), state, key=jr.key(0))[0]

    total = jtu.tree_map(lambda x: x.sum(0), jax.vmap(encode)(payloads))
    key = jr.key(5) if key is None else key
    return *mech.decode(total, state, key=key), total


def test_the_rule_is_the_paper_s():
    # Norms 0.5, 5, 2 and one that is not finite; of five that are expected.
    payloads = {"a": jnp.asarray([[0.3, 0.4], [3.0, 4.0], [2.0, 0.0], [np.nan, 1.0]])}
    mech = mechanism(2.0, 0.0, 0.0, 5.0, quantile=0.7, learning_rate=0.3)
    out, state, metrics, _ = aggregated(mech, payloads)
    within = 0.5 + (0.5 - 0.5 + 0.5) / 5
    expected = 2.0 * np.exp(-0.3 * (within - 0.7))
    np.testing.assert_allclose(state.clipping, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["clip_norm"].compute(), 2.0)
    wanted = (np.array([0.3, 0.4]) + np.array([1.2, 1.6]) + np.array([2.0, 0.0])) / 5
    np.testing.assert_allclose(out.payload["a"], wanted, rtol=1e-6)
    again = aggregated(mech, payloads, state)[2]
    np.testing.assert_allclose(again["clip_norm"].compute(), expected, rtol=1e-6)


@pytest.mark.parametrize("quantile", (0.3, 0.8))
@pytest.mark.parametrize("initial", (0.01, 100.0))
def test_it_finds_the_quantile_of_the_norms(quantile, initial):
    # Of norms that are uniform between 0 and 2 the quantile q is 2 q.
    mech = mechanism(initial, 0.5, 5.0, 200.0, quantile=quantile)

    def one(state, key):
        norms = jr.uniform(key, (200, 1), maxval=2.0)
        _, state, metrics, _ = aggregated(mech, norms, state, jr.fold_in(key, 1))
        return state, metrics["clip_norm"].compute()

    found = jax.lax.scan(one, mech.init(jnp.zeros(1)), jr.split(jr.key(0), 150))[1]
    np.testing.assert_allclose(found[-50:].mean(), 2 * quantile, rtol=0.04)


def test_both_noises_are_as_large_as_accounted_for():
    z, stddev, norm = 1.5, 1.0, 2.0
    mech = mechanism(norm, z, stddev, 1.0, learning_rate=1.0)
    payload = {"a": jnp.zeros((1, 30_000))}
    out, _, metrics, _ = aggregated(mech, payload)
    messages = np.std(out.payload["a"]) / norm
    np.testing.assert_allclose(metrics["noise_stddev"].compute() / norm, messages, 0.03)

    def indicator(key):
        state = aggregated(mech, {"a": jnp.zeros((1, 2))}, None, key)[1]
        # 0 is within: b = 1; the step is b + noise - quantile.
        return 1 - 0.5 - jnp.log(norm / state.clipping)

    drawn = jax.vmap(indicator)(jr.split(jr.key(1), 4000))
    np.testing.assert_allclose(np.std(drawn), stddev, rtol=0.05)
    assert abs(np.mean(drawn)) < 0.06
    # Two Gaussians of which the second has sensitivity 1/2 are one with the multiplier.
    accountant = dpa.rdp.RdpAccountant()
    exact = float(mech.clipping.share(mech.noise_multiplier))
    np.testing.assert_allclose(messages, exact, rtol=0.03)
    accountant.compose(dpa.GaussianDpEvent(exact))
    accountant.compose(dpa.GaussianDpEvent(stddev / 0.5))
    one = dpa.rdp.RdpAccountant()
    one.compose(dpa.GaussianDpEvent(z))
    np.testing.assert_allclose(
        accountant.get_epsilon(1e-5), one.get_epsilon(1e-5), rtol=1e-4
    )


def test_without_noise_it_has_none():
    for stddev in (0.0, 3.0):
        clip = eqp.AdaptiveClip(1.0, indicator_stddev=stddev)
        assert clip.share(jnp.zeros(())) == 0


def test_a_share_that_is_traced_is_nan_where_it_is_refused():
    clip = eqp.AdaptiveClip(1.0, indicator_stddev=1.0)
    shares = jax.vmap(clip.share)(jnp.asarray([0.0, 1.0, 3.0]))
    np.testing.assert_allclose(shares[:2], [0.0, float(clip.share(jnp.ones(())))])
    assert np.isnan(shares[2])
    with pytest.raises(ValueError, match="more than half"):
        clip.share(jnp.asarray(2.0))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3),
    st.floats(0.125, 1024, width=32),
)
def test_one_client_changes_both_sums_by_their_bounds(numbers, bound):
    mech = mechanism(bound, 0.0, 0.0)
    base = jnp.asarray([[0.5, 1.0, 30.0]])
    both = jnp.concatenate([base, jnp.asarray([numbers])])
    without = aggregated(mech, base)[-1].covered
    with_it = aggregated(mech, both)[-1].covered
    change = jnp.linalg.norm(with_it.payload - without.payload)
    assert change <= bound * (1 + 1e-4) + 1e-6
    assert abs(with_it.clipping - without.clipping) == 0.5


def test_a_plan_has_the_norm_in_its_history():
    sampler = eqf.data.PoissonSampler(0.5, seed=3)
    batching = eqf.data.Epochs(1, batch_size=4)
    made = eqp.PrivacyPlan(
        sampler, mechanism(), num_clients=8, num_rounds=6, delta=1e-3
    )
    algorithm = eqf.FedAvg(
        testing.noisy_loss, optax.sgd(0.1), batching, aggregator=made.mechanism
    )
    loader = eqf.data.Loader(testing.ragged_clients((4,) * 8), sampler, batching)
    solution = eqf.train(
        algorithm, testing.Linear(), loader, num_rounds=3, key=jr.key(0), privacy=made
    )
    norms = [row["clip_norm"] for row in solution.history]
    assert norms[0] == 1.0
    assert len(set(norms)) == 3
    # The budget is the mechanism's, however it is shared.
    fixed = eqp.PrivateMean(
        eqp.FlatClip(1.0), noise_multiplier=1.0, expected_clients=4.0
    )
    like = eqp.PrivacyPlan(sampler, fixed, num_clients=8, num_rounds=6, delta=1e-3)
    assert made.epsilon(3) == like.epsilon(3) == solution.history[-1]["epsilon"]


@pytest.mark.parametrize("power", (0, 60, 80, 120))
def test_a_norm_beyond_single_precision_is_clipped_too(power):
    x = {"w": jnp.asarray([3.0, 4.0]) * 2.0**power}
    clipping = eqp.FlatClip(1.0)
    got, _ = eqx.filter_jit(clipping.clip)(x, None)
    np.testing.assert_allclose(got["w"], [0.6, 0.8], rtol=1e-6)
    within, _ = eqx.filter_jit(eqp.FlatClip(2.0**125).clip)(x, None)
    np.testing.assert_array_equal(within["w"], x["w"])
