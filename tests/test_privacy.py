"""Privacy: what a mechanism adds, what a plan accounts for, and what it refuses."""

import ast
import dataclasses
import functools
import importlib
import itertools
import math
from typing import Any

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
from equifed.privacy.accounting import _by_count, Accounted, least_noise

from .shared import line_loss


dpa = pytest.importorskip("dp_accounting")

BATCHING = eqf.data.Epochs(1, batch_size=4)
SIZES = (5, 3, 0, 8, 2, 9, 4, 7)
DATASET = testing.ragged_clients(SIZES)
COUNT = len(SIZES)
SGD = optax.sgd(0.1)
ROUNDS = 6


def mechanism(max_norm=0.5, noise=1.0, expected=4.0, **kwargs):
    return eqp.PrivateMean(
        eqp.FlatClip(max_norm),
        noise_multiplier=noise,
        expected_clients=expected,
        **kwargs,
    )


def plan(sampler=None, *, noise=1.0, num_rounds=ROUNDS, **kwargs):
    sampler = eqf.data.PoissonSampler(0.5, seed=3) if sampler is None else sampler
    expected = sampler.participation(COUNT).expected
    return eqp.PrivacyPlan(
        sampler,
        mechanism(noise=noise, expected=expected),
        num_clients=COUNT,
        num_rounds=num_rounds,
        delta=1e-3,
        **kwargs,
    )


def trained(aggregator, sampler, *, algorithm=eqf.FedAvg, mesh=None, **kwargs):
    algorithm = algorithm(line_loss, SGD, BATCHING, aggregator=aggregator)
    loader = eqf.data.Loader(DATASET, sampler, BATCHING, mesh=mesh)
    kwargs = {"num_rounds": ROUNDS, "key": jr.key(1), **kwargs}
    return eqf.train(algorithm, testing.Linear(), loader, **kwargs)


def aggregated(aggregator, payloads, weights=None, key=None, state=None):
    """One round of an aggregator on stacked payloads."""
    payloads = jtu.tree_map(jnp.asarray, payloads)
    count = jtu.tree_leaves(payloads)[0].shape[0]
    weights = jnp.asarray(np.ones(count) if weights is None else weights, jnp.float32)
    key = jr.key(5) if key is None else key
    return _aggregated(aggregator, payloads, weights, key, state)


@eqx.filter_jit
def _aggregated(aggregator, payloads, weights, key, state):
    one = jtu.tree_map(lambda x: jnp.zeros(x.shape[1:], x.dtype), payloads)
    state = aggregator.init(one) if state is None else state
    encode = lambda x, w: aggregator.encode(eqf.Message(x, w), state, key=jr.key(0))[0]  # noqa: E731
    encoded = jax.vmap(encode)(payloads, weights)
    total = jtu.tree_map(lambda x: x.sum(0, x.dtype), encoded)
    return *aggregator.decode(total, state, key=key), total


def flat(tree):
    """All numbers of a tree, in double precision."""
    return np.concatenate([np.ravel(np.float64(x)) for x in jtu.tree_leaves(tree)])


def same(x, y):
    jtu.tree_map(np.testing.assert_array_equal, x, y)


# What the accountant is given.


def test_poisson_sampling_is_accounted_for_as_the_library_does():
    # TensorFlow Privacy's old example (MNIST, 15 epochs) as a round number of rounds.
    sampler = eqf.data.PoissonSampler(0.01)
    mech = mechanism(noise=1.1, expected=10.0)
    made = eqp.PrivacyPlan(sampler, mech, num_clients=1000, num_rounds=1500, delta=1e-5)
    assert made.adjacency == "add or remove one"
    accountant = dpa.pld.PLDAccountant()
    event = dpa.PoissonSampledDpEvent(0.01, dpa.GaussianDpEvent(float(np.float32(1.1))))
    accountant.compose(event, 1500)
    fine = accountant.get_epsilon(1e-5)
    assert fine <= made.epsilon() * (1 + 1e-6)
    np.testing.assert_allclose(made.epsilon(), fine, rtol=1e-3)
    assert made.epsilon(0) == 0.0
    assert made.epsilon(10) < made.epsilon(100) < made.epsilon()


def test_the_first_paper_s_figure_is_an_upper_bound():
    # Abadi et al. (2016, arXiv 1607.00133), section 3.2: q = 0.01, sigma = 4, 10,000
    # steps and delta 1e-5 give 1.26 by the moments accountant; 9.34 by composition.
    mech = mechanism(noise=4.0, expected=10.0)
    sampler = eqf.data.PoissonSampler(0.01)
    made = eqp.PrivacyPlan(
        sampler, mech, num_clients=1000, num_rounds=10_000, delta=1e-5
    )
    assert 0.9 < made.epsilon() < 1.26


@pytest.mark.parametrize(
    ("sampler", "noise", "delta"),
    (
        (eqf.data.PoissonSampler(0.2), 0.5, 0.15594),
        (eqf.data.AllClients(), math.sqrt(3), 0.126936),
    ),
    ids=("poisson", "all"),
)
def test_the_library_s_published_figures(sampler, noise, delta):
    # dp-accounting, pld_privacy_accountant_test.py: three rounds have an epsilon of 1.
    expected = sampler.participation(10).expected
    mech = mechanism(noise=noise, expected=expected)
    made = eqp.PrivacyPlan(sampler, mech, num_clients=10, num_rounds=3, delta=delta)
    np.testing.assert_allclose(made.epsilon(), 1, atol=1e-3)


@pytest.mark.parametrize("rounds", (1, 5, 16))
def test_all_clients_in_all_rounds_are_one_gaussian(rounds):
    made = plan(eqf.data.AllClients(), noise=3.0, num_rounds=16)
    assert made.adjacency == "zero out one"
    exact = dpa.get_epsilon_gaussian(3.0 / math.sqrt(rounds), 1e-3)
    np.testing.assert_allclose(made.epsilon(rounds), exact, rtol=1e-3)


def test_very_much_noise_has_an_epsilon_of_nearly_0():
    made = plan(eqf.data.AllClients(), noise=1e7)
    # Nothing is likelier by more than delta, whoever takes part.
    assert math.erf(0.5e-7 / math.sqrt(2)) < made.delta
    assert made.epsilon(1) == 0.0
    assert 0 < dataclasses.replace(made, delta=1e-12).epsilon(1) < 1e-6


@pytest.mark.parametrize("most", (None, 4, 6))
@pytest.mark.parametrize("noise", (1e-20, 4e-4, 6.4e-4, 1.9e-3))
def test_next_to_no_noise_has_an_epsilon_too(noise, most):
    # By the library's distributions it would be infinite, with its own warning, or an
    # `OverflowError`. It is that of a client of whom it is known when it came.
    sampler = eqf.data.PoissonSampler(0.5, most=most)
    made = plan(sampler, noise=noise, num_rounds=100)
    once = float(np.float32(noise)) / (1 if most is None else 2)
    for rounds in (1, 10, 100):
        # What is left of the delta by whatever comes this often or less.
        left = {
            k: 1e-3 - _drawn_more(k, rounds, 0.5)
            for k in range(1, rounds + 1)
            if _drawn_more(k, rounds, 0.5) < 1e-3
        }
        with np.errstate(divide="ignore"):  # The library takes the logarithm of 0.
            wanted = min(
                dpa.get_epsilon_gaussian(once / math.sqrt(k), rest)
                for k, rest in left.items()
            )
            every = dpa.get_epsilon_gaussian(once / math.sqrt(rounds), 0.5e-3)
        np.testing.assert_allclose(made.epsilon(rounds), wanted, rtol=1e-6)
        # No more than if it had come every time.
        assert made.epsilon(rounds) <= every


def _drawn_more(times, rounds, rate):
    """The probability that a client is drawn more often."""
    return sum(
        math.comb(rounds, k) * rate**k * (1 - rate) ** (rounds - k)
        for k in range(times + 1, rounds + 1)
    )


@pytest.mark.parametrize(
    ("rate", "rounds", "delta"),
    [
        *itertools.product((0.02, 0.5), (1, 10, 200), (1e-6,)),
        # It is drawn so often with more than half of the delta, and less than all.
        (8.5e-4, 2, 1e-6),
        (0.028, 2, 1e-3),
        (0.0088, 3, 1e-6),
    ],
)
def test_the_bound_of_little_noise_is_one(rate, rounds, delta):
    # Where both are known: with it the samples tell more than they do.
    gaussian = dpa.GaussianDpEvent(4e-3)
    event = dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(rate, gaussian), rounds)
    accountant = dpa.pld.PLDAccountant(value_discretization_interval=1.0)
    accountant.compose(event)
    exact, bound = accountant.get_epsilon(delta), _by_count(event, delta)
    assert exact <= bound <= 1.03 * exact


def test_a_client_who_hardly_ever_comes_is_hidden_without_noise():
    sampler = eqf.data.PoissonSampler(1e-8)
    made = plan(sampler, noise=1e-4, num_rounds=10)
    assert made.epsilon() == 0.0
    found = made.for_epsilon(1.0)
    assert found.noise_multiplier < 1e-9
    assert found.epsilon() == 0.0


def test_little_laplace_noise_is_the_sum_of_its_rounds():
    parts = {"noise_multiplier": 1e-3, "expected_clients": 8.0}
    made = eqp.PrivacyPlan(
        *(eqf.data.AllClients(), eqp.LocalLaplace(1.0, **parts)),
        **{"num_clients": 8, "num_rounds": 9, "delta": 1e-3},
    )
    np.testing.assert_allclose(made.epsilon(), 9 * 2 / 1e-3, rtol=1e-6)


def test_little_noise_is_accounted_for_as_finely_as_its_losses_ask_for():
    # Coarser values of the loss make the bound larger, by less than a thousandth.
    sampler = eqf.data.PoissonSampler(0.5)
    made = plan(sampler, noise=0.05)
    event = dpa.PoissonSampledDpEvent(0.5, dpa.GaussianDpEvent(float(np.float32(0.05))))
    accountant = dpa.pld.PLDAccountant(value_discretization_interval=1e-2)
    accountant.compose(event, 3)
    fine = accountant.get_epsilon(1e-3)
    assert fine <= made.epsilon(3) * (1 + 1e-6)
    np.testing.assert_allclose(made.epsilon(3), fine, rtol=1e-3)


def test_a_fixed_size_counts_two_messages_for_a_client_that_is_replaced():
    made = plan(eqf.data.UniformSampler(2), noise=4.0)
    assert made.adjacency == "replace one"
    relation = dpa.NeighboringRelation.REPLACE_ONE
    accountant = dpa.rdp.RdpAccountant(neighboring_relation=relation)
    gaussian = dpa.GaussianDpEvent(2.0)
    event = dpa.SampledWithoutReplacementDpEvent(COUNT, 2, gaussian)
    accountant.compose(event, ROUNDS)
    assert made.epsilon() == accountant.get_epsilon(1e-3)


def test_truncation_costs_little_where_it_is_rare_and_more_where_it_is_not():
    def epsilon(most):
        sampler = eqf.data.PoissonSampler(0.02, most=most)
        mech = mechanism(noise=1.0, expected=20.0)
        return eqp.PrivacyPlan(
            sampler, mech, num_clients=1000, num_rounds=50, delta=1e-5
        ).epsilon()

    never, rare, often = epsilon(None), epsilon(60), epsilon(20)
    assert never <= rare < never * 1.001
    assert often > rare * 1.05


@pytest.mark.parametrize("reshuffle", (True, False))
def test_passes_limit_how_often_a_client_takes_part(reshuffle):
    sampler = eqf.data.ShuffledSampler(3, reshuffle=reshuffle)
    made = plan(sampler, noise=2.0, num_rounds=8)
    # Of eight clients three a round: the third pass begins in the sixth round.
    times = [0, 1, 1, 2, 2, 2, 3, 3, 3]
    for rounds in range(1, 9):
        exact = dpa.get_epsilon_gaussian(2.0 / math.sqrt(times[rounds]), 1e-3)
        np.testing.assert_allclose(made.epsilon(rounds), exact, rtol=1e-3)


@pytest.mark.parametrize(
    ("sampler", "epsilon"),
    (
        (eqf.data.PoissonSampler(0.5), 0.5),
        (eqf.data.UniformSampler(2), 8.0),
        (eqf.data.ShuffledSampler(2), 0.5),
        (eqf.data.AllClients(), 8.0),
    ),
    ids=("poisson", "uniform", "shuffled", "all"),
)
def test_the_least_noise_for_an_epsilon(sampler, epsilon):
    made = plan(sampler).for_epsilon(epsilon)
    assert 0.995 * epsilon < made.epsilon() <= epsilon
    assert made.epsilon(3) < made.epsilon()


@pytest.mark.parametrize(
    ("epsilon", "edge", "most"),
    # Beyond an edge all noise is 4, of just that epsilon: there guesses are bad.
    ((0.1, None, 11), (3.0, None, 11), (1000.0, None, 11), (None, 1.7, 80)),
)
def test_the_least_noise_is_found_by_few_epsilons(epsilon, edge, most):
    """As halving finds it, to the bit, which takes 16 to 21 of them."""
    asked = []
    if epsilon is None:
        epsilon = dpa.get_epsilon_gaussian(4.0, 1e-3) * (1 + 1e-9)

    def added(noise):
        return noise if edge is None or noise <= edge else 4.0

    def account(noise):
        asked.append(noise)
        return Accounted(dpa.GaussianDpEvent(added(noise)), "zero out one", "PLD")

    def enough(noise):
        return dpa.get_epsilon_gaussian(added(noise), 1e-3) <= epsilon

    got = least_noise(account, epsilon, 1e-3)
    low, high = 0.0, 1.0
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    assert got == high
    assert len(set(asked)) <= most


@pytest.mark.parametrize("name", ("PoissonSampler", "UniformSampler", "AllClients"))
def test_no_noise_is_no_bound(name):
    sampler = {
        "PoissonSampler": eqf.data.PoissonSampler(0.5),
        "UniformSampler": eqf.data.UniformSampler(2),
        "AllClients": eqf.data.AllClients(),
    }[name]
    assert plan(sampler, noise=0.0).epsilon() == math.inf


def test_a_deployment_has_its_own_epsilon_beside_that_of_the_run():
    deployment = eqp.Deployment(num_clients=10_000, cohort_size=100)
    made = plan(noise=0.04, deployment=deployment)
    # The noise of a mean over 4 is 0.01; of one over 100 that is a multiplier of 1.
    like = eqp.PrivacyPlan(
        eqf.data.PoissonSampler(0.01),
        mechanism(noise=1.0, expected=100.0),
        num_clients=10_000,
        num_rounds=ROUNDS,
        delta=1e-3,
    )
    np.testing.assert_allclose(made.deployed_epsilon(), like.epsilon(), rtol=1e-5)
    assert made.epsilon() > 100 * made.deployed_epsilon()
    fitted = made.for_epsilon(2.0, of="deployment")
    assert 1.99 < fitted.deployed_epsilon() <= 2.0


def test_a_deployment_of_passes():
    deployment = eqp.Deployment(num_clients=1_000, cohort_size=30)
    for sampler in (
        eqf.data.ShuffledSampler(4),
        eqf.data.ShuffledSampler(4, reshuffle=False),
    ):
        made = plan(sampler, noise=0.4, num_rounds=100, deployment=deployment)
        # A client comes in 3 of 100 rounds, each of them with a multiplier of 3.
        there = dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(3.0), 3)
        accountant = dpa.pld.PLDAccountant()
        accountant.compose(there)
        expected = accountant.get_epsilon(1e-3)
        np.testing.assert_allclose(made.deployed_epsilon(), expected, rtol=1e-3)


@pytest.mark.parametrize("sampler", [eqf.data.AllClients(), eqf.data.PoissonSampler(1)])
def test_a_deployment_of_everybody_is_of_everybody(sampler):
    whole = eqp.Deployment(num_clients=100, cohort_size=100)
    made = plan(sampler, noise=1.0, deployment=whole)
    assert made.deployed_epsilon() < made.epsilon()
    with pytest.raises(ValueError, match="All clients take part in every round here"):
        plan(sampler, deployment=eqp.Deployment(num_clients=100, cohort_size=99))


def test_a_deployment_of_one_client_a_round_has_room_for_it():
    made = plan(
        eqf.data.PoissonSampler(0.5, most=5),
        noise=1.0,
        deployment=eqp.Deployment(num_clients=1_000, cohort_size=1),
    )
    like = eqp.PrivacyPlan(
        eqf.data.PoissonSampler(0.001, most=2),
        mechanism(noise=0.25, expected=1.0),
        **{"num_clients": 1_000, "num_rounds": ROUNDS, "delta": 1e-3},
    )
    assert made.deployed_epsilon() == pytest.approx(like.epsilon(), rel=1e-5)
    assert like.epsilon() > 1


def test_a_delta_beyond_double_precision():
    made = plan(noise=20.0)
    finite = dataclasses.replace(made, delta=1e-13).epsilon()
    tiny = dataclasses.replace(made, delta=1e-20)
    assert finite < tiny.epsilon() < 3 * finite
    assert tiny.for_epsilon(1.0).epsilon() <= 1.0


def test_a_loss_may_not_say_what_epsilon_is():
    def loss(model, example, key):
        return line_loss(model, example, key)[0], {"epsilon": jnp.array(0.0)}

    made = plan(unprotected=("epsilon",))
    algorithm = eqf.FedAvg(loss, SGD, BATCHING, aggregator=made.mechanism)
    loader = eqf.data.Loader(DATASET, made.sampler, BATCHING)
    with pytest.raises(
        ValueError, match="metric called 'epsilon', which is the plan's"
    ):
        eqf.train(
            *(algorithm, testing.Linear(), loader),
            num_rounds=1,
            key=jr.key(0),
            privacy=made,
        )


# What the mechanism does.


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5),
    st.floats(0.125, 1024, width=32),
    st.booleans(),
)
def test_one_client_changes_the_sum_by_the_bound_at_most(numbers, bound, grouped):
    rule = eqp.GroupClip(bound) if grouped else eqp.FlatClip(bound)
    mech = eqp.PrivateMean(rule, noise_multiplier=0.0, expected_clients=1.0)
    rows = np.asarray([[0.5, 1.0, 3.0, 0.0, 1.0], numbers], np.float32)
    payload = {"a": rows[:, :2], "b": rows[:, None, 2:]}
    # Added or zeroed out, as the other mechanism in `plan` accounts for it: one shape.
    without, with_it = (
        flat(aggregated(mech, payload, [1, there])[0].payload) for there in (0, 1)
    )
    assert np.linalg.norm(with_it - without) <= bound * (1 + 1e-4) + 1e-6


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=6, max_size=6),
    st.floats(0.125, 1024, width=32),
    st.sampled_from(("flat", "group", "adaptive")),
)
def test_a_client_in_place_of_another_changes_the_sums_twice_as_much(
    numbers, bound, name
):
    rule = {
        "flat": eqp.FlatClip(bound),
        "group": eqp.GroupClip(bound),
        "adaptive": eqp.AdaptiveClip(bound, indicator_stddev=2.0),
    }[name]
    mech = eqp.PrivateMean(rule, noise_multiplier=0.0, expected_clients=1.0)
    one, other = np.asarray(numbers[:3]), np.asarray(numbers[3:])

    def covered(new):
        rows = np.asarray([[0.5, 1.0, 3.0], new], np.float32)
        payload = {"a": rows[:, :1], "b": rows[:, 1:]}
        return aggregated(mech, payload)[-1].covered

    drawn, instead = covered(one), covered(other)
    change = np.linalg.norm(flat(drawn.payload) - flat(instead.payload))
    assert change <= 2 * bound * (1 + 1e-4) + 1e-6
    if name == "adaptive":
        # The indicator, too, by twice the 1/2 that is accounted for.
        assert abs(np.float64(drawn.clipping) - np.float64(instead.clipping)) <= 1
    far, opposite = (flat(covered(np.full(3, x)).payload) for x in (1e4, -1e4))
    np.testing.assert_allclose(np.linalg.norm(far - opposite), 2 * bound, rtol=1e-3)


@pytest.mark.parametrize(
    "sampler",
    (
        eqf.data.WeightedSampler(4, np.ones(COUNT)),
        eqf.data.ClusteredSampler(4, np.ones(COUNT)),
        eqf.data.LeastOftenSampler(4, lambda round, clients: clients >= 0),
        eqf.data.RoundRobinSampler(4, lambda round, clients: clients >= 0),
        eqf.data.Including(eqf.data.UniformSampler(3), [0]),
    ),
    ids=lambda s: type(s).__name__,
)
def test_samplers_of_which_nothing_is_known_are_refused(sampler):
    kwargs = {"num_clients": COUNT, "num_rounds": ROUNDS, "delta": 1e-3}
    words = f"Nothing is known of how `{type(sampler).__name__}` hides who takes part"
    with pytest.raises(ValueError, match=words):
        eqp.PrivacyPlan(sampler, mechanism(), **kwargs)


@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float16))
@pytest.mark.parametrize("rule", (eqp.FlatClip(0.5), eqp.GroupClip(0.5)))
def test_half_precision_is_no_longer_than_the_bound(rule, dtype):
    mech = eqp.PrivateMean(rule, noise_multiplier=1.0, expected_clients=4.0)
    numbers = np.random.default_rng(0).normal(size=(300, 40))
    payloads = {"a": jnp.asarray(numbers, dtype), "b": jnp.asarray(np.ones(300), dtype)}
    state = mech.init(jtu.tree_map(lambda x: x[0], payloads))

    @jax.jit
    @jax.vmap
    def encode(x):
        return mech.encode(eqf.Message(x, jnp.ones(())), state, key=jr.key(0))[0]

    sent = encode(payloads).covered.payload
    squares = [
        np.square(np.asarray(x, float)).reshape(300, -1).sum(1) for x in sent.values()
    ]
    assert np.sqrt(sum(squares)).max() <= 0.5 * (1 + 1e-6)


def test_groups_share_one_budget():
    payload = {"a": jnp.asarray([[30.0, 40.0]]), "b": jnp.asarray([[0.5]])}
    rule = eqp.GroupClip(1.0, shares={"['a']": 0.64, "['b']": 0.36})
    mech = eqp.PrivateMean(rule, noise_multiplier=0.0, expected_clients=1.0)
    got = aggregated(mech, payload)[0].payload
    np.testing.assert_allclose(got["a"], [0.48, 0.64], rtol=1e-6)  # norm 0.8
    np.testing.assert_allclose(got["b"], [0.5], rtol=1e-6)  # within 0.6: as it was


def test_the_noise_is_as_large_as_it_says_and_fresh_in_every_round():
    mech = mechanism(max_norm=2.0, noise=3.0, expected=4.0)
    payload = {"a": np.zeros((1, 20_000)), "b": np.zeros((1, 100, 100))}
    payload = jtu.tree_map(np.float32, payload)
    out, state, metrics, _ = aggregated(mech, payload)
    for x in out.payload.values():
        np.testing.assert_allclose(np.std(x), 1.5, rtol=0.03)  # 3 * 2 / 4
        assert abs(np.mean(x)) < 0.05
    np.testing.assert_allclose(metrics["noise_stddev"].compute(), 1.5)
    again = aggregated(mech, payload, key=jr.key(6), state=state)[0]
    a, b = out.payload["a"], again.payload["a"]
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    assert abs(np.corrcoef(a[:10_000], out.payload["b"].reshape(-1))[0, 1]) < 0.04


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_what_is_not_finite_or_absent_counts_as_nothing(bad):
    mech = mechanism(max_norm=10.0, noise=0.0, expected=2.0)
    payload = {"a": jnp.asarray([[1.0, 2.0], [bad, 0.0], [5.0, 5.0]])}
    out = aggregated(mech, payload, weights=[7.0, 1.0, 0.0])[0]
    np.testing.assert_allclose(out.payload["a"], [0.5, 1.0])
    assert out.count == 1


def test_a_round_of_nobody_gets_its_noise():
    mech = mechanism(noise=1.0)
    out = aggregated(mech, {"a": np.ones((2, 50), np.float32)}, weights=[0, 0])[0]
    assert out.accept
    assert np.std(out.payload["a"]) > 0.05


@pytest.mark.filterwarnings("ignore:No client took part")
def test_rounds_of_nobody_are_noise_and_steps_of_the_server():
    mech, nobody = mechanism(noise=1.0), eqf.data.PoissonSampler(1e-9, seed=3)
    solution = trained(mech, nobody)
    assert [row["clients"] for row in solution.history] == [0] * ROUNDS
    assert solution.state.round == ROUNDS
    change = jtu.tree_map(lambda x, y: x - y, solution.model, testing.Linear())
    size = sum(x.size for x in jtu.tree_leaves(change))
    # A sum of six draws of standard deviation 1 * 0.5 / 4 in each number.
    likely = 0.125 * math.sqrt(ROUNDS * size)
    assert 0.2 * likely < optax.tree.norm(change) < 3 * likely


@pytest.mark.filterwarnings("ignore:No client took part")
def test_without_clipping_and_noise_it_is_a_mean_of_fixed_denominator():
    sampler = eqf.data.PoissonSampler(0.3, seed=1)
    plain = trained(eqf.FixedDenominatorMean(2.4), sampler)
    mech = mechanism(max_norm=math.inf, noise=0.0, expected=2.4)
    noised = trained(mech, sampler)
    same(plain.model, noised.model)
    assert [r["loss"] for r in plain.history] == [r["loss"] for r in noised.history]


def test_a_fixed_denominator():
    mean = eqf.FixedDenominatorMean(4.0)
    out = aggregated(mean, {"a": jnp.asarray([[1.0], [3.0]])}, weights=[9.0, 1.0])[0]
    np.testing.assert_allclose(out.payload["a"], [1.0])
    nobody = aggregated(mean, {"a": jnp.asarray([[1.0], [1.0]])}, weights=[0, 0])[0]
    np.testing.assert_array_equal(nobody.payload["a"], [0.0])
    assert nobody.accept
    assert nobody.count == 0


def mechanisms():
    size = sum(x.size for x in jtu.tree_leaves(testing.Linear()))
    kwargs: Any = {"noise_multiplier": 1.0, "expected_clients": 8.0}
    return {
        "flat": eqp.PrivateMean(eqp.FlatClip(0.5), **kwargs),
        "adaptive": eqp.PrivateMean(
            eqp.AdaptiveClip(0.5, indicator_stddev=2.0), **kwargs
        ),
        "group": eqp.PrivateMean(eqp.GroupClip(0.5), **kwargs),
        "gaussian": eqp.LocalGaussian(0.5, **kwargs),
        "laplace": eqp.LocalLaplace(0.5, **kwargs),
        "discrete": eqp.DistributedDiscreteGaussian(
            0.5, step=0.01, num_params=size, **kwargs
        ),
    }


# An ordered round is compiled once for each device: of four there is one mechanism.
@pytest.mark.parametrize(
    ("name", "devices"),
    (
        ("flat", 4),
        ("adaptive", 2),
        ("group", 2),
        ("gaussian", 2),
        ("laplace", 2),
        ("discrete", 2),
    ),
)
def test_the_same_bits_on_several_devices_and_after_a_resume(name, devices, tmp_path):
    same_after_a_resume(mechanisms()[name], eqf.data.AllClients(), devices, tmp_path)


def same_after_a_resume(mech, sampler, devices, folder):
    """A run on one device, and one that is gone on with on several."""
    mesh = jax.make_mesh(
        (devices,),
        ("clients",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )
    saves = eqf.Checkpointer(folder, every=1)
    run = functools.partial(trained, mech, sampler, executor=eqf.Executor(ordered=True))
    straight = run(num_rounds=6)
    run(num_rounds=3, checkpointer=saves)
    resumed = run(num_rounds=6, checkpointer=saves, mesh=mesh)
    same(straight.model, resumed.model)
    assert straight.history == resumed.history


# The plan in a training.


def test_every_round_says_the_epsilon_up_to_it():
    made = plan(unprotected=("loss",))
    history = trained(made.mechanism, made.sampler, privacy=made).history
    assert [r["epsilon"] for r in history] == [
        made.epsilon(i + 1) for i in range(ROUNDS)
    ]
    shown = {"round", "epsilon", "loss", "noise_stddev", "nonfinite_model"}
    assert set(history[0]) == shown
    deployment = eqp.Deployment(num_clients=10_000, cohort_size=100)
    made = dataclasses.replace(made, unprotected=(), deployment=deployment)
    row = trained(made.mechanism, made.sampler, privacy=made).history[-1]
    assert "loss" not in row
    assert row["deployed_epsilon"] == made.deployed_epsilon()


def test_runs_of_a_sweep_are_held_against_their_plans():
    plans = {str(z): plan(noise=z) for z in (0.5, 2.0)}
    algorithms = {
        label: eqf.FedAvg(line_loss, SGD, BATCHING, aggregator=made.mechanism)
        for label, made in plans.items()
    }
    loader = eqf.data.Loader(DATASET, plans["0.5"].sampler, BATCHING)
    keys, start = [jr.key(1), jr.key(2)], lambda key: testing.Linear()

    def swept(privacy):
        return eqf.sweep(
            *(algorithms, start, loader),
            num_rounds=ROUNDS,
            keys=keys,
            privacy=privacy,
        )

    runs = swept(plans)
    for label, made in plans.items():
        one = trained(made.mechanism, made.sampler, privacy=made)
        assert runs[label][0].result == one.result
        for row, wanted in zip(runs[label][0].history, one.history, strict=True):
            assert list(row) == list(wanted)
            assert row["epsilon"] == wanted["epsilon"]
        assert runs[label][1].history[-1]["epsilon"] == made.epsilon()
        close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)  # noqa: E731
        jtu.tree_map(close, runs[label][0].model, one.model)
    some = swept({"2.0": plans["2.0"]})
    assert "epsilon" not in some["0.5"][0].history[0]
    assert "clients" not in some["2.0"][0].history[0]


class _Tells(eqx.Module):
    """A loss with a metric that has the form of an evaluation's name."""

    def __call__(self, model, example, key):
        value, _ = line_loss(model, example, key)
        return value, {"test/of_clients": value}


def test_only_an_evaluation_is_shown_as_one():
    made, loss = plan(unprotected=("test/loss", "test/error")), _Tells()
    algorithm = eqf.FedAvg(loss, SGD, BATCHING, aggregator=made.mechanism)
    loader = eqf.data.Loader(DATASET, made.sampler, BATCHING)
    more = {
        "num_rounds": 2,
        "evaluation": {"test": DATASET},
        "metrics": line_loss,
        "privacy": made,
    }
    one = eqf.train(algorithm, testing.Linear(), loader, key=jr.key(0), **more)
    start, keys = lambda key: testing.Linear(), jr.split(jr.key(0), 1)
    several = eqf.sweep({"": algorithm}, start, loader, keys=keys, **more)
    for history in (one.history, several[""][0].history):
        assert "test/loss" in history[-1]
        assert not any("test/of_clients" in row for row in history)


def other_clients(*, sizes=(3, 4)):
    data = testing.ragged_clients(sizes)
    return eqf.data.FederatedDataset.concatenate([data], prefixes=["other "])


def test_no_evaluation_on_clients_who_train_that_is_not_asked_for():
    made, start = plan(), lambda key: testing.Linear()
    algorithm = eqf.FedAvg(line_loss, SGD, BATCHING, aggregator=made.mechanism)
    loader = eqf.data.Loader(DATASET, made.sampler, BATCHING)
    # A test set of theirs is theirs as well.
    _, test = DATASET.split_examples(0.5)
    kinds = (
        test,
        test.select([3]),
        eqf.ClientQuantiles(test),
        eqf.SampledClients(test, eqf.data.UniformSampler(2)),
        eqf.Personal(test),
    )
    for kind in kinds:
        with pytest.raises(ValueError, match="'seen' is evaluated on clients who tra"):
            trained(
                *(made.mechanism, made.sampler),
                privacy=made,
                evaluation={"unseen": other_clients(), "seen": kind},
            )
    keys = jr.split(jr.key(0), 1)
    with pytest.raises(ValueError, match="`unprotected=.'seen/error', 'seen/loss'.`"):
        eqf.sweep(
            *({"": algorithm}, start, loader),
            num_rounds=1,
            keys=keys,
            privacy=made,
            evaluation={"seen": test},
        )
    # A training may not choose its model by one, if it was asked for.
    named = plan(unprotected=("seen/error", "seen/loss"))
    more = {"privacy": named, "evaluation": {"seen": test}}
    history = trained(made.mechanism, made.sampler, **more).history
    assert {"seen/error", "seen/loss"} <= set(history[-1])
    stop = eqf.Target("seen/loss", 1e6, mode="min")
    with pytest.raises(ValueError, match="`stop` reads 'seen/loss', which no noise"):
        trained(made.mechanism, made.sampler, stop=stop, **more)
    unseen = {"unseen": other_clients()}
    history = trained(*(made.mechanism, made.sampler), privacy=made, evaluation=unseen)
    assert "unseen/loss" in history.history[-1]


class _Many(eqx.Module):
    """A loss with many metrics."""

    def __call__(self, model, example, key):
        value, _ = line_loss(model, example, key)
        return value, {f"metric_{i}": value for i in range(12)}


def test_what_is_to_be_named_is_told_as_it_is_to_be_written():
    made, test = plan(unprotected=("loss",)), DATASET.select([3])
    more = {"evaluation": {"test": test}, "metrics": _Many()}
    with pytest.raises(ValueError, match="is evaluated on clients who train") as error:
        trained(made.mechanism, made.sampler, privacy=made, **more)
    names = ast.literal_eval(str(error.value).split("`unprotected=")[1][:-2])
    assert len(names) == 14  # with the loss, and with the loss of the evaluation
    made = dataclasses.replace(made, unprotected=names)
    history = trained(made.mechanism, made.sampler, privacy=made, **more).history
    assert set(names) < set(history[-1])


def test_no_name_is_unprotected_that_is_no_metric():
    evaluation = {"test": other_clients()}
    for name, near in (("los", "loss"), ("test/los", "test/loss"), ("xyz", "")):
        made = plan(unprotected=("clients", name))
        near = f"Did you mean '{near}'. " if near else ""
        words = f"names '{name}', which is no metric of this run. {near}There are: bits"
        with pytest.raises(ValueError, match=words):
            trained(
                *(made.mechanism, made.sampler), privacy=made, evaluation=evaluation
            )
        algorithm = eqf.FedAvg(line_loss, SGD, BATCHING, aggregator=made.mechanism)
        loader = eqf.data.Loader(DATASET, made.sampler, BATCHING)
        start, keys = lambda key: testing.Linear(), jr.split(jr.key(0), 1)
        with pytest.raises(ValueError, match=words):
            eqf.sweep(
                *({"": algorithm}, start, loader),
                num_rounds=1,
                keys=keys,
                privacy=made,
                evaluation=evaluation,
            )


class _Lost(eqx.Module):
    """A loss that is not finite while its gradient is."""

    def __call__(self, model, example, key):
        value, more = line_loss(model, example, key)
        return value + jax.lax.stop_gradient(jnp.inf), more


def test_no_word_of_who_sent_what():
    made = plan()
    loader = eqf.data.Loader(DATASET, made.sampler, BATCHING)

    def run(loss, rate=0.1, **kwargs):
        algorithm = eqf.FedAvg(
            loss, optax.sgd(rate), BATCHING, aggregator=made.mechanism
        )
        return eqf.train(
            *(algorithm, testing.Linear(), loader),
            num_rounds=2,
            key=jr.key(0),
            **kwargs,
        )

    with pytest.warns(UserWarning, match="the messages of"):
        assert run(_Lost()).result == eqf.RESULTS.nonfinite_loss
    # Warnings are errors here: there is none.
    assert run(_Lost(), privacy=made).result == eqf.RESULTS.successful
    algorithm = eqf.FedAvg(_Lost(), SGD, BATCHING, aggregator=made.mechanism)
    runs = eqf.sweep(
        *({"": algorithm}, lambda key: testing.Linear(), loader),
        num_rounds=2,
        keys=jr.split(jr.key(0), 1),
        privacy=made,
    )
    assert runs[""][0].result == eqf.RESULTS.successful
    infinite = optax.sgd(jnp.inf)
    big = eqf.FedAvg(
        line_loss,
        SGD,
        BATCHING,
        server_optim=infinite,
        aggregator=made.mechanism,
    )
    more = {"num_rounds": 2, "key": jr.key(0), "privacy": made}
    with pytest.warns(UserWarning, match="non-finite") as said:
        eqf.train(big, testing.Linear(), loader, **more)
    (warning,) = said
    assert str(warning.message) == eqf.RESULTS[eqf.RESULTS.nonfinite_model]


def test_no_stop_by_what_is_unprotected():
    made = plan(unprotected=("loss",))
    with pytest.raises(ValueError, match="`stop` reads 'loss', which no noise"):
        trained(
            *(made.mechanism, made.sampler),
            privacy=made,
            stop=eqf.Target("loss", 1e6, mode="min"),
        )


class _Peeks(eqf.AbstractStop):
    """One that reads more than its metric says."""

    metric: str = "unseen/loss"
    mode: str = "min"

    def __call__(self, history):
        assert history
        assert not any("loss" in row for row in history)
        return False


def test_a_stop_of_one_s_own_sees_nothing_that_is_unprotected():
    made = plan(unprotected=("loss",))
    more = {"privacy": made, "evaluation": {"unseen": other_clients()}}
    history = trained(made.mechanism, made.sampler, stop=_Peeks(), **more).history
    assert "loss" in history[-1]


def test_a_plan_that_was_changed_afterwards_is_looked_at_again():
    made = plan(eqf.data.UniformSampler(4))
    where = lambda p: p.mechanism.expected_clients  # noqa: E731
    changed = eqx.tree_at(where, made, jnp.asarray(400.0))
    with pytest.raises(ValueError, match="Give `expected_clients=4`"):
        trained(changed.mechanism, changed.sampler, privacy=changed)
    noise = eqp.TreeNoise()
    changed = eqx.tree_at(lambda p: p.mechanism.noise, made, noise)
    with pytest.raises(ValueError, match="no bound is known"):
        trained(changed.mechanism, changed.sampler, privacy=changed)


def test_a_plan_changes_no_bit_of_the_training():
    made = plan()
    with_it = trained(made.mechanism, made.sampler, privacy=made)
    without = trained(made.mechanism, made.sampler)
    same(with_it.model, without.model)


def test_a_resumed_run_goes_on_with_the_same_noise(tmp_path):
    made = plan()

    def run(rounds, directory):
        saves = eqf.Checkpointer(directory, every=2)
        return trained(
            *(made.mechanism, made.sampler),
            privacy=made,
            num_rounds=rounds,
            checkpointer=saves,
        )

    run(3, tmp_path / "a")
    resumed, straight = run(ROUNDS, tmp_path / "a"), run(ROUNDS, tmp_path / "b")
    same(resumed.model, straight.model)
    assert resumed.history == straight.history
    other = dataclasses.replace(made, delta=1e-2)
    with pytest.raises(ValueError, match="privacy.delta"):
        trained(
            *(other.mechanism, other.sampler),
            privacy=other,
            checkpointer=eqf.Checkpointer(tmp_path / "a"),
        )


@pytest.mark.parametrize("change", ("noise", "sampler", "plan"))
def test_rounds_of_another_plan_are_never_gone_on_from(change, tmp_path):
    before = plan(noise=0.1) if change == "noise" else plan()
    if change == "sampler":
        before = plan(eqf.data.PoissonSampler(0.5, seed=9))
    made, longer = plan(), plan(num_rounds=9)

    def run(plan, rounds, privacy):
        saves = eqf.Checkpointer(tmp_path, on_change="warn")
        return trained(
            *(plan.mechanism, plan.sampler),
            privacy=privacy,
            num_rounds=rounds,
            checkpointer=saves,
        )

    run(before, 2, None if change == "plan" else before)
    with pytest.raises(ValueError, match="would not be that of the rounds before"):
        run(made, 4, made)
    if change == "noise":  # What epsilon does not rest on may change as ever.
        more = dataclasses.replace(before, num_rounds=9)
        with pytest.warns(UserWarning, match="num_rounds"):
            history = run(more, 8, more).history
        assert history[-1]["epsilon"] == more.epsilon(8) > longer.epsilon(8)


@pytest.mark.parametrize(
    ("name", "words"),
    (
        ("Scaffold", "the number of messages"),
        ("FedVARP", "the number of messages"),
        ("Mime", "makes 2 passes"),
        ("FedNova", "sends `stats` as well"),
    ),
)
def test_a_server_that_reads_what_no_noise_covers_is_refused(name, words):
    made = plan()
    with pytest.raises(ValueError, match=words):
        trained(
            *(made.mechanism, made.sampler),
            algorithm=getattr(eqf, name),
            privacy=made,
        )


@pytest.mark.parametrize("name", ("FedAvg", "FedAdam", "FedYogi"))
def test_a_server_that_reads_the_payload_alone_is_not(name):
    made, kind = plan(), getattr(eqf, name)
    algorithm = kind(line_loss, SGD, BATCHING, aggregator=made.mechanism)
    state = algorithm.init(testing.Linear(), num_clients=COUNT)
    loader = eqf.data.Loader(DATASET, made.sampler, BATCHING)
    assert "loss" in made.check(algorithm, state, loader, num_rounds=1)


class _Own(eqf.AbstractOnePass):
    """FedAvg whose step does something more."""

    client: eqf.AbstractClient
    aggregator: eqf.AbstractAggregator
    server: eqf.AbstractServer
    more: str = eqx.field(static=True)

    def __init__(self, like, more):
        self.client, self.aggregator = like.client, like.aggregator
        self.server, self.more = like.server, more

    def step(self, state, clients, *, key):
        if self.more == "loop":

            def one(_, state):
                return eqf.AbstractOnePass.step(self, state, clients, key=key)[0]

            state = jax.lax.fori_loop(0, 2, one, state)
        state, metrics, accept = eqf.AbstractOnePass.step(self, state, clients, key=key)
        by = {
            "loss": metrics["loss"].compute() * 0.01,
            "metric in a program": jax.jit(jnp.sin)(metrics["clients"].compute()),
            "who": clients.present.sum().astype(jnp.float32),
            "round": state.round.astype(jnp.float32),
            "loop": jnp.ones(()),
            "rejects": metrics["clients"].compute(),
        }[self.more]
        if self.more == "rejects":
            return state, metrics, accept & (by > 2)
        params = jtu.tree_map(lambda x: x + by.astype(x.dtype), state.params)
        return dataclasses.replace(state, params=params), metrics, accept


@pytest.mark.parametrize(
    ("more", "words"),
    (
        ("loss", "metric 'loss'"),
        ("metric in a program", "the number of messages"),
        ("who", "which clients take part"),
        ("loop", "makes 2 passes"),
        ("rejects", "the number of messages"),
        ("round", None),
    ),
)
def test_an_algorithm_of_one_s_own_is_held_to_it(more, words):
    made = plan()
    like = eqf.FedAvg(line_loss, SGD, BATCHING, aggregator=made.mechanism)
    own = _Own(like, more)
    state = own.init(testing.Linear(), num_clients=COUNT)
    loader = eqf.data.Loader(DATASET, made.sampler, BATCHING)
    if words is None:
        made.check(own, state, loader, num_rounds=1)
    else:
        with pytest.raises(ValueError, match=words):
            made.check(own, state, loader, num_rounds=1)


@pytest.mark.parametrize("package", ("dp-accounting", "jax-privacy"))
def test_a_missing_package_is_named_with_its_extra(package, monkeypatch):
    made = plan()

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    words = rf"the package `{package}`.*pip install 'equifed\[privacy\]'"
    with pytest.raises(ImportError, match=words):
        made.epsilon() if package == "dp-accounting" else eqp.BandedNoise(5, 23)
