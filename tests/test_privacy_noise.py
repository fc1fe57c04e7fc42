"""Noise that is correlated over rounds: what it is, and what one client changes."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import equifed as eqf
import equifed.privacy as eqp
from equifed.data import OrderedParticipation
from equifed.privacy.noise import normal_like

from .test_privacy import same_after_a_resume


dpa = pytest.importorskip("dp_accounting")
pytest.importorskip("jax_privacy")

ROUNDS = 12
COUNT = 8


def noises():
    # To find the buffers takes seconds: all tests have those that are known.
    return {
        "tree": eqp.TreeNoise(),
        "banded": eqp.BandedNoise(4, ROUNDS),
        "buffered": eqp.BufferedToeplitzNoise(2, 100_000, min_separation=100_000),
    }


NAMES = ("tree", "banded", "buffered")


def strategy(noise, rounds=ROUNDS):
    """The matrix C, entry by entry."""
    matrix = np.zeros((rounds, rounds))
    for t in range(rounds):
        for s in range(t + 1):
            if isinstance(noise, eqp.TreeNoise):
                # The node that ends with round t + 1 is as long as its lowest bit.
                matrix[t, s] = t - s < ((t + 1) & -(t + 1))
            elif isinstance(noise, eqp.BandedNoise):
                near = t - s < noise.num_bands
                matrix[t, s] = noise.coefficients[t - s] if near else 0.0
            else:
                pairs = zip(noise.scales, noise.decays, strict=True)
                later = sum(w * d ** (t - s - 1) for w, d in pairs) if t > s else 1.0
                matrix[t, s] = later
    return matrix


def drawn(noise, payload, rounds=ROUNDS, impl=None):
    """The noise of the first rounds, and what would be fresh noise in each."""
    root = jr.key(3, impl=impl)

    def one(state, t):
        key = jr.fold_in(root, t)
        out, state = noise.draw(payload, state, round=t, key=key)
        return state, (out, normal_like(payload, key))

    numbers = jnp.arange(rounds, dtype=jnp.int32)
    return eqx.filter_jit(jax.lax.scan)(one, noise.init(payload), numbers)[1]


def rows(tree):
    leaves = [np.asarray(x, np.float64) for x in jax.tree_util.tree_leaves(tree)]
    return np.concatenate([x.reshape(x.shape[0], -1) for x in leaves], 1)


# What is drawn.


@functools.cache
def drawn_of(name):
    payload = {"a": jnp.zeros(5), "b": jnp.zeros((2, 3), jnp.bfloat16)}
    return noises()[name], *drawn(noises()[name], payload)


@pytest.mark.parametrize("name", ("banded", "buffered"))
def test_the_strategy_times_the_noise_is_fresh_noise(name):
    noise, out, fresh = drawn_of(name)
    assert out["b"].dtype == jnp.float32
    np.testing.assert_allclose(strategy(noise) @ rows(out), rows(fresh), atol=3e-5)


@pytest.mark.parametrize("name", ("banded", "buffered"))
def test_noise_is_the_library_s_inverse_times_fresh_noise(name):
    from jax_privacy.matrix_factorization import buffered_toeplitz, toeplitz

    noise, out, fresh = drawn_of(name)
    if isinstance(noise, eqp.BandedNoise):
        coefficients = jnp.asarray(noise.coefficients, jnp.float32)
        inverse = toeplitz.inverse_as_streaming_matrix(coefficients)
    else:
        assert isinstance(noise, eqp.BufferedToeplitzNoise)
        strategy = buffered_toeplitz.BufferedToeplitz(
            buf_decay=jnp.asarray(noise.decays, jnp.float32),
            output_scale=jnp.asarray(noise.scales, jnp.float32),
        )
        inverse = strategy.inverse_as_streaming_matrix()
    with jax.numpy_rank_promotion("allow"):
        theirs = jax.jit(lambda x: inverse @ x)(fresh["a"])
    np.testing.assert_allclose(out["a"], theirs, atol=3e-6)


@pytest.mark.parametrize("impl", (None, "rbg"))
def test_a_tree_s_sums_share_the_noise_of_their_nodes(impl):
    size, rounds = 20_000, 11
    payload = {"a": jnp.zeros(size // 2), "b": jnp.zeros((10, size // 20))}
    sums = rows(drawn(eqp.TreeNoise(), payload, rounds, impl)[0]).cumsum(0)

    def nodes(t):
        """Those of the binary digits, from the largest, as first and last round."""
        found, begin = set(), 0
        for digit in reversed(range(4)):
            if t & (1 << digit):
                found.add((begin, begin + (1 << digit)))
                begin += 1 << digit
        return found

    shared = [
        [len(nodes(s) & nodes(t)) for t in range(1, rounds + 1)]
        for s in range(1, rounds + 1)
    ]
    np.testing.assert_allclose(sums @ sums.T / size, shared, atol=0.12)


# How much one client changes it.


@pytest.mark.parametrize("rounds", (1, 2, 3, 4, 7, 8, 100))
def test_a_tree_of_one_pass_is_the_library_s(rounds):
    once = OrderedParticipation(1, 1000, 1000)
    sensitivity = eqp.TreeNoise().sensitivity(once, rounds)

    def epsilon(event):
        relation = dpa.NeighboringRelation.REPLACE_SPECIAL
        accountant = dpa.rdp.RdpAccountant(neighboring_relation=relation)
        accountant.compose(event)
        return accountant.get_epsilon(1e-5)

    theirs = epsilon(dpa.SingleEpochTreeAggregationDpEvent(2.0, rounds))
    ours = epsilon(dpa.GaussianDpEvent(2.0 / sensitivity))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rounds", (1, 5, ROUNDS))
def test_a_client_of_all_rounds_is_accounted_for_exactly(name, rounds):
    noise = noises()[name]
    always = OrderedParticipation(8, 8, 1)
    exact = np.linalg.norm(strategy(noise, rounds).sum(1))
    np.testing.assert_allclose(noise.sensitivity(always, rounds), exact, rtol=1e-6)


@pytest.mark.parametrize("name", ("banded", "buffered"))
@pytest.mark.parametrize("apart", (1, 3, 5, ROUNDS))
@pytest.mark.parametrize("rounds", (2, 7, ROUNDS))
def test_a_toeplitz_sensitivity_is_the_library_s(name, apart, rounds):
    from jax_privacy.matrix_factorization import toeplitz

    noise = noises()[name]
    there = OrderedParticipation(1, max(apart, 4), apart)
    # It looks at numbers otherwise, which a program does not know.
    library = functools.partial(toeplitz.minsep_sensitivity_squared, skip_checks=True)
    squared = jax.jit(library, static_argnums=(1, 2))(
        jnp.asarray(strategy(noise, rounds)[:, 0], jnp.float32),
        apart,
        there.most_rounds(rounds),
    )
    got = noise.sensitivity(there, rounds)
    np.testing.assert_allclose(got, math.sqrt(squared), rtol=1e-5)


def test_the_library_s_stored_buffers():
    """Two, for one participation in 100,000 rounds, as the tests of jax-privacy have
    them (`buffered_toeplitz_test.py`)."""
    noise = noises()["buffered"]
    assert isinstance(noise, eqp.BufferedToeplitzNoise)
    np.testing.assert_allclose(noise.scales, (0.0122853238, 0.1878393665), rtol=1e-5)
    np.testing.assert_allclose(noise.decays, (0.9999528892, 0.9857068667), rtol=1e-5)


def test_the_library_is_asked_for_the_rounds_and_clients_that_there_are(monkeypatch):
    from jax_privacy.matrix_factorization import buffered_toeplitz

    asked = []

    def optimize(**kwargs):
        asked.append(kwargs)
        return buffered_toeplitz.BufferedToeplitz(
            buf_decay=jnp.array([0.5, 0.25]), output_scale=jnp.array([0.25, 0.125])
        )

    monkeypatch.setattr(buffered_toeplitz, "optimize", optimize)
    buffers = {"min_buffers": 2, "max_buffers": 2}
    for most, times in ((None, 4), (3, 3)):  # of no other test, and not known yet
        noise = eqp.BufferedToeplitzNoise(
            2, 61, min_separation=16, max_participations=most
        )
        wanted = {"n": noise.num_rounds, "min_sep": 16, "max_participations": times}
        assert asked.pop(0) == {**wanted, **buffers}
        assert (noise.decays, noise.scales) == ((0.5, 0.25), (0.25, 0.125))


@pytest.mark.parametrize(
    ("rounds", "golden"),
    (
        (3, (0.93602, 0.351946)),
        (12, (0.868286, 0.496064)),
        (9, (0.846742, 0.438249, 0.301605)),
        (12, (0.813926, 0.429074, 0.311308, 0.237714)),
    ),
)
def test_the_bands_have_the_least_error_of_sums(rounds, golden):
    """By SciPy's Nelder-Mead search over the unit sphere, for the error below."""
    bands = len(golden)
    got = np.asarray(eqp.BandedNoise(bands, rounds).coefficients)
    np.testing.assert_allclose(got, golden, atol=2e-6)

    def error(coefficients):
        matrix = np.zeros((rounds, rounds))
        for i, c in enumerate(coefficients / np.linalg.norm(coefficients)):
            matrix += np.diag(np.full(rounds - i, c), -i)
        return np.square(np.tri(rounds) @ np.linalg.inv(matrix)).sum()

    # None nearby is better, nor is any other point of the sphere.
    rng = np.random.default_rng(0)
    least = error(np.asarray(golden))
    assert error(got) <= least * (1 + 1e-6)
    for scale in (1e-2, 0.1, 1.0):
        for step in rng.normal(size=(50, bands)) * scale:
            assert error(golden + step) >= least


def test_far_apart_participations_of_bands_add_as_squares():
    noise = eqp.BandedNoise(4, ROUNDS)
    there = OrderedParticipation(2, 8, 4)
    np.testing.assert_allclose(
        noise.sensitivity(there, ROUNDS), math.sqrt(3), rtol=1e-9
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_client_changes_more_than_the_bound(data):
    noise = noises()[data.draw(st.sampled_from(NAMES))]
    cohort = data.draw(st.integers(1, 4))
    clients = data.draw(st.integers(cohort, 12))
    reshuffle = data.draw(st.booleans())
    sampler = eqf.data.ShuffledSampler(
        cohort, reshuffle=reshuffle, seed=data.draw(st.integers(0, 9))
    )
    rounds = data.draw(st.integers(1, ROUNDS))
    bound = noise.sensitivity(sampler.participation(clients), rounds)
    drawn = [np.asarray(sampler(r, clients)) for r in range(rounds)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for client in range(clients):
        there = [r for r in range(rounds) if client in drawn[r]]
        columns = strategy(noise, rounds)[:, there]
        for one in (np.ones((len(there), 1)), rng.normal(size=(len(there), 3))):
            messages = one / np.linalg.norm(one, axis=1, keepdims=True)
            assert np.linalg.norm(columns @ messages) <= bound * (1 + 1e-6)


# What it is good for.


def test_correlated_noise_hurts_sums_less_at_equal_privacy():
    rounds = 64
    there = OrderedParticipation(1, 16, 16)

    def error(noise):
        matrix = np.eye(rounds) if noise is None else strategy(noise, rounds)
        bound = (noise or eqp.IndependentNoise()).sensitivity(there, rounds)
        sums = np.tri(rounds) @ np.linalg.inv(matrix)
        return bound * np.sqrt((sums**2).sum(1).mean())

    alone = error(None)
    banded = error(eqp.BandedNoise(16, rounds))
    buffered = error(noises()["buffered"])  # made for one participation
    assert banded < 0.6 * alone
    assert buffered < 0.6 * alone


def test_a_strategy_changes_nothing_of_the_configuration():
    from equifed.privacy import banded

    before, made = jnp.zeros(()).dtype, []

    def traced(x):
        # As of no other test, so that it is not known yet.
        made.append(eqp.BandedNoise(3, 10))
        return x + made[0].coefficients[1]

    jax.eval_shape(traced, jnp.zeros(()))
    assert jnp.zeros(()).dtype == before
    # Found anew, where nothing is traced.
    assert banded._optimal.__wrapped__(3, 10) == made[0].coefficients
    first = np.asarray(made[0].coefficients)
    np.testing.assert_allclose(np.linalg.norm(first), 1, rtol=1e-12)


# In a training.


def plan(noise, sampler, num_rounds=6, **kwargs):
    expected = sampler.participation(COUNT).expected
    mechanism = eqp.PrivateMean(
        eqp.FlatClip(0.5), noise_multiplier=1.0, expected_clients=expected, noise=noise
    )
    kwargs = {"num_clients": COUNT, "num_rounds": num_rounds, "delta": 1e-3, **kwargs}
    return eqp.PrivacyPlan(sampler, mechanism, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_noise_on_several_devices_and_after_a_resume(name, tmp_path):
    made = plan(noises()[name], eqf.data.ShuffledSampler(4, reshuffle=False))
    same_after_a_resume(made.mechanism, made.sampler, 2, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_accounts_for_the_rounds_that_were_run(name):
    noise = noises()[name]
    made = plan(noise, eqf.data.ShuffledSampler(2, reshuffle=False), ROUNDS)
    for rounds in (1, 5, ROUNDS):
        bound = noise.sensitivity(made.participation, rounds)
        exact = dpa.get_epsilon_gaussian(1.0 / bound, 1e-3)
        np.testing.assert_allclose(made.epsilon(rounds), exact, rtol=1e-3)
    fitted = made.for_epsilon(3.0)
    assert 2.98 < fitted.epsilon() <= 3.0
    assert isinstance(fitted.mechanism, eqp.PrivateMean)
    assert fitted.mechanism.noise == noise


def test_a_sweep_over_the_noise_is_as_one_by_one():
    noise, payload = noises()["banded"], {"a": jnp.zeros(6)}

    def last(multiplier):
        mechanism = eqp.PrivateMean(
            eqp.FlatClip(1.0),
            noise_multiplier=multiplier,
            expected_clients=1.0,
            noise=noise,
        )
        state = mechanism.init(payload)
        message = eqf.Message(payload, jnp.ones(()))
        for t in range(4):
            total, _ = mechanism.encode(message, state, key=jr.key(0))
            out, state, _ = mechanism.decode(total, state, key=jr.key(t))
        return out.payload["a"]

    multipliers = jnp.asarray([0.0, 0.5, 2.0])
    swept, alone = jax.jit(jax.vmap(last))(multipliers), jax.jit(last)
    for x, multiplier in zip(swept, multipliers, strict=True):
        np.testing.assert_allclose(x, alone(multiplier), rtol=1e-5, atol=1e-6)
    assert np.all(swept[0] == 0)
