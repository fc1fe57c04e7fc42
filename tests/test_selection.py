"""What a round's aggregate is on average, by who was drawn and how messages are
weighed, the table of `docs/selection.md`; and samplers that look at who is available.
"""

import collections
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed._aggregator.optimal import approximate, optimal


D = eqf.data
SIZES = np.array([1.0, 2.0, 6.0, 3.0, 0.5])
VALUES = np.array([3.0, -2.0, 6.0, 0.5, -7.0])
N, M, SEEDS = len(SIZES), 2, 2000
BY_EXAMPLES, BY_CLIENTS = SIZES @ VALUES / SIZES.sum(), VALUES.mean()
FIXED = eqf.FixedDenominatorMean(M)


def everyone(round, clients):
    return np.ones(len(clients), bool)


# Sampler, aggregator, and what the aggregate is on average, if it is one of the two.
PAIRS = {
    "all, weighted": (lambda s: D.AllClients(), eqf.WeightedMean(), BY_EXAMPLES),
    "all, uniform": (lambda s: D.AllClients(), eqf.UniformMean(), BY_CLIENTS),
    "uniform, uniform": (
        lambda s: D.UniformSampler(M, seed=s),
        eqf.UniformMean(),
        BY_CLIENTS,
    ),
    "uniform, weighted": (
        lambda s: D.UniformSampler(M, seed=s),
        eqf.WeightedMean(),
        None,
    ),
    "shuffled, uniform": (
        lambda s: D.ShuffledSampler(M, seed=s),
        eqf.UniformMean(),
        BY_CLIENTS,
    ),
    "least often, uniform": (
        lambda s: D.LeastOftenSampler(M, everyone, seed=s),
        eqf.UniformMean(),
        BY_CLIENTS,
    ),
    "round robin, uniform": (
        lambda s: D.RoundRobinSampler(M, everyone, seed=s),
        eqf.UniformMean(),
        BY_CLIENTS,
    ),
    "Poisson, fixed": (
        lambda s: D.PoissonSampler(M / N, seed=s),
        FIXED,
        BY_CLIENTS,
    ),
    "Poisson, weighted": (
        lambda s: D.PoissonSampler(M / N, seed=s),
        eqf.WeightedMean(),
        None,
    ),
    "weights with replacement, uniform": (
        lambda s: D.WeightedSampler(M, SIZES, replace=True, seed=s),
        eqf.UniformMean(),
        BY_EXAMPLES,
    ),
    "weights without replacement, uniform": (
        lambda s: D.WeightedSampler(M, SIZES, seed=s),
        eqf.UniformMean(),
        None,
    ),
    "weights with replacement, weighted": (
        lambda s: D.WeightedSampler(M, SIZES, replace=True, seed=s),
        eqf.WeightedMean(),
        None,
    ),
    "clustered, uniform": (
        lambda s: D.ClusteredSampler(M, SIZES, seed=s),
        eqf.UniformMean(),
        BY_EXAMPLES,
    ),
    "clustered in an order, uniform": (
        lambda s: D.ClusteredSampler(M, SIZES, order=[4, 0, 2, 1, 3], seed=s),
        eqf.UniformMean(),
        BY_EXAMPLES,
    ),
    "clustered, weighted": (
        lambda s: D.ClusteredSampler(M, SIZES, seed=s),
        eqf.WeightedMean(),
        None,
    ),
}


@eqx.filter_jit
def aggregates(payloads, weights, aggregator, keys):
    """Of each row of messages what the aggregator makes."""

    def one(payload, weight, keys):
        def encode(payload, weight, key):
            message = eqf.Message(payload, weight)
            return aggregator.encode(message, None, key=key)[0]

        encoded = jax.vmap(encode)(payload, weight, keys)
        if not aggregator.gathers:
            encoded = jax.tree.map(lambda x: x.sum(0), encoded)
        return aggregator.decode(encoded, None, key=keys[0])[0].payload

    return jax.vmap(one)(payloads, weights, keys)


def averaged(make, aggregator, round):
    """The mean of the aggregate over the seeds, and its standard error."""
    drawn = collections.Counter(tuple(make(s)(round, N).tolist()) for s in range(SEEDS))
    drawn.pop((), None)  # a round of nobody adds nothing to the sum
    slots = np.full((2**N, N), -1)  # of one shape, and so of one program
    for row, clients in zip(slots, drawn, strict=False):
        row[: len(clients)] = clients
    weights = np.where(slots >= 0, SIZES[slots], 0).astype(np.float32)
    values = VALUES[slots].astype(np.float32)
    keys = jnp.broadcast_to(jr.key(0), slots.shape)
    got = np.asarray(aggregates(values, weights, aggregator, keys), np.float64)
    got = got[: len(drawn)]
    counts = np.array(list(drawn.values()))
    if isinstance(aggregator, eqf.FixedDenominatorMean):
        got, counts = np.append(got, 0.0), np.append(counts, SEEDS - counts.sum())
    mean = counts @ got / counts.sum()
    return mean, np.sqrt(counts @ (got - mean) ** 2) / counts.sum()


@pytest.mark.parametrize("pair", PAIRS)
def test_which_pairs_are_unbiased(pair):
    make, aggregator, expected = PAIRS[pair]
    mean, error = averaged(make, aggregator, round=1)
    if expected is not None:
        assert abs(mean - expected) < 4 * error + 1e-5
        return
    assert min(abs(mean - x) for x in (BY_EXAMPLES, BY_CLIENTS)) > 8 * error


def test_a_clustered_draw_has_the_chances_of_the_paper():
    # Algorithm 1: m n_i of client i, in pieces of M, those with many examples first.
    sizes, m = np.array([3, 10, 1, 6, 4]), 3
    total, chances, left, k = sizes.sum(), np.zeros((m, 5)), sizes.sum(), 0
    for i in np.argsort(-sizes, kind="stable"):
        mass = m * sizes[i]
        while mass > 0:
            part = min(mass, left)
            chances[k, i] += part / total
            mass, left = mass - part, left - part
            if left == 0:
                k, left = k + 1, total
    np.testing.assert_allclose(chances.sum(0), m * sizes / total)  # Proposition 1
    np.testing.assert_allclose(chances.sum(1), 1)
    # Of no client's weight in the mean is the variance greater than with one
    # distribution for all draws.
    p = sizes / total
    variance = (chances * (1 - chances)).sum(0) / m**2
    assert (variance <= p * (1 - p) / m + 1e-12).all()
    sampler = D.ClusteredSampler(m, sizes)
    drawn = np.array([sampler(round, 5) for round in range(4000)])
    got = np.array([np.bincount(row, minlength=5) / 4000 for row in drawn.T])
    assert (got[chances == 0] == 0).all()
    np.testing.assert_allclose(got, chances, atol=4 * 0.5 / np.sqrt(4000))
    times = np.array([np.bincount(row, minlength=5) / m for row in drawn])
    np.testing.assert_allclose(times.var(0), variance, atol=0.005)


def test_clustered_draws_are_never_twice_who_is_small():
    sampler = D.ClusteredSampler(4, np.ones(8), order=[0, 4, 1, 5, 2, 6, 3, 7])
    for round in range(50):
        assert [i % 4 for i in sampler(round, 8)] == [0, 1, 2, 3]


def by_night(round, clients):
    """A third of the clients, another one in each round, and in some rounds nobody."""
    return (clients % 3 == round % 3) & (round % 5 != 4)


def test_who_was_drawn_least_often_comes_first():
    sampler, times = D.LeastOftenSampler(3, by_night, seed=1), np.zeros(20, int)
    for round in range(40):
        there = np.flatnonzero(by_night(round, np.arange(20)))
        cohort = sampler(round, 20)
        assert len(cohort) == min(3, len(there))
        assert set(cohort) <= set(there)
        left = np.setdiff1d(there, cohort)
        if len(cohort) and len(left):
            assert times[cohort].max() <= times[left].min()
        times[cohort] += 1
    other = D.LeastOftenSampler(3, by_night, seed=2)
    assert any(set(sampler(r, 20)) != set(other(r, 20)) for r in range(4))


def test_clients_take_turns():
    sampler = D.RoundRobinSampler(3, by_night, seed=1)
    everybody = D.RoundRobinSampler(20, everyone, seed=1)(0, 20).tolist()
    place = 0
    for round in range(40):
        there, expected = by_night(round, np.arange(20)), []
        for step in range(20):
            client = everybody[(place + step) % 20]
            if there[client] and len(expected) < 3:
                expected.append(client)
        assert sampler(round, 20).tolist() == expected
        if expected:
            place = everybody.index(expected[-1]) + 1


@pytest.mark.parametrize("kind", (D.LeastOftenSampler, D.RoundRobinSampler))
def test_where_everyone_is_there_nobody_is_drawn_twice_in_a_pass(kind):
    rounds = [kind(4, everyone, seed=5)(r, 12) for r in range(6)]
    for start in (0, 3):
        passed = np.concatenate(rounds[start : start + 3])
        assert sorted(passed) == list(range(12))
    # Late first, and then early: a round is a function of its number.
    sampler = kind(4, everyone, seed=5)
    for r in (5, 2, 0, 3):
        np.testing.assert_array_equal(sampler(r, 12), rounds[r])


LOADED = testing.ragged_clients((5, 2, 3, 8, 6))
BATCHING = D.Epochs(1, batch_size=4)


def trained(sampler, algorithm):
    loader = D.Loader(LOADED, sampler, BATCHING)
    model, key = testing.Linear(), jr.key(0)
    return eqf.train(algorithm, model, loader, num_rounds=0, key=key)


def algorithm(aggregator=None, kind: Any = eqf.FedAvg, **kwargs):
    sgd = optax.sgd(0.1)
    return kind(testing.noisy_loss, sgd, BATCHING, aggregator=aggregator, **kwargs)


@pytest.mark.parametrize(
    ("sampler", "made"),
    [
        (D.WeightedSampler(2, [5, 2, 3, 8, 6]), algorithm()),
        (D.WeightedSampler(2, [10, 4, 6, 16, 12], replace=True), algorithm()),
        (
            D.ClusteredSampler(2, [5, 2, 3, 8, 6]),
            eqf.PowerOfChoice(algorithm(eqf.Clip(eqf.WeightedMean(), 1.0)), 1),
        ),
        (
            D.ClusteredSampler(2, [5, 2, 3, 8, 6]),
            algorithm(eqf.WeightedMean(), kind=eqf.FedACG, momentum=0.5, beta=0.1),
        ),
    ],
)
def test_size_counts_twice(sampler, made):
    with pytest.warns(UserWarning, match="size counts twice: give `Fed(Avg|ACG)` `agg"):
        trained(sampler, made)


@pytest.mark.parametrize(
    ("sampler", "made"),
    [
        (D.WeightedSampler(2, [5, 2, 3, 8, 6]), algorithm(eqf.UniformMean())),
        (D.WeightedSampler(2, [5, 2, 3, 8, 6.5]), algorithm()),  # not their sizes
        (D.UniformSampler(2), algorithm()),
        (
            D.WeightedSampler(2, [5, 2, 3, 8, 6]),
            algorithm(kind=eqf.AFL, weight_learning_rate=0.1),
        ),
    ],
)
def test_size_counts_once(sampler, made):
    assert trained(sampler, made).result == eqf.RESULTS.successful


def brute_force(u, m):
    """The probabilities of the paper, by trying every l."""
    n, order = len(u), np.argsort(u)
    for few in range(n, 0, -1):
        smallest = u[order[:few]]
        if 0 < m + few - n <= smallest.sum() / smallest[-1]:
            p = np.ones(n)
            p[order[:few]] = (m + few - n) * smallest / smallest.sum()
            return p
    return np.ones(n)


def by_sums(u, m):
    """Algorithm 2 of the paper."""
    p = np.minimum(m * u / u.sum(), 1)
    for _ in range(4):
        below = p < 1
        c = (m - len(u) + below.sum()) / p[below].sum()
        p[below] = np.minimum(c * p[below], 1)
        if c <= 1:
            break
    return p


NORMS = {
    "alike": np.full(5, 2.0),
    "one large": np.array([1.0, 100.0, 2.0, 1.5, 0.5]),
    "two large": np.array([30.0, 1.0, 2.0, 40.0, 3.0]),
    "of all sizes": 2.0 ** np.arange(5),
}


@pytest.mark.parametrize("m", (1.0, 2.0, 2.5, 4.0, 5.0))
@pytest.mark.parametrize("norms", NORMS)
def test_probabilities_of_optimal_client_sampling(norms, m):
    u, expected = NORMS[norms], jnp.asarray(m)
    got = optimal(jnp.asarray(u, jnp.float32), expected)
    np.testing.assert_allclose(got, brute_force(u, m), rtol=1e-5)
    np.testing.assert_allclose(got.sum(), m, rtol=1e-5)
    # Clients that are not there, and one that has nothing to say.
    padded = jnp.asarray([0.0, *u, 0.0], jnp.float32)
    np.testing.assert_allclose(optimal(padded, expected)[1:-1], got, rtol=1e-5)
    if m < 5:
        sums, times = approximate(jnp.asarray(u, jnp.float32), expected)
        np.testing.assert_allclose(sums, by_sums(u, m), rtol=1e-5)
        assert 1 <= int(times) <= 4
        if norms != "of all sizes":
            np.testing.assert_allclose(sums, got, rtol=1e-5)


def test_no_probabilities_have_less_variance():
    # On a grid of all that add up to m.
    u, m = np.array([1.0, 2.0, 6.0]), 2.0
    variance = lambda p: (u**2 * (1 / p - 1)).sum(-1)  # noqa: E731
    p, q = np.meshgrid(*[np.linspace(0.01, 1, 100)] * 2)
    others = np.stack([p, q, m - p - q], -1).reshape(-1, 3)
    others = others[(others > 0).all(1) & (others <= 1).all(1)]
    best = np.asarray(optimal(jnp.asarray(u, jnp.float32), jnp.asarray(m)), np.float64)
    assert variance(best) <= variance(others).min() + 1e-5
    np.testing.assert_allclose(best, [1 / 3, 2 / 3, 1], rtol=1e-6)


@pytest.mark.parametrize("approximate", (False, True))
@pytest.mark.parametrize("weighted", (True, False))
def test_the_estimate_is_right_on_average(weighted, approximate):
    aggregator = eqf.OptimalClientSampling(
        M, weighted=weighted, approximate=approximate
    )
    count = 4000
    keys = jr.split(jr.key(1), (count, N))
    values, sizes = (np.tile(x.astype(np.float32), (count, 1)) for x in (VALUES, SIZES))
    got = np.asarray(aggregates(values, sizes, aggregator, keys), np.float64)
    expected = BY_EXAMPLES if weighted else BY_CLIENTS
    error = got.std() / np.sqrt(count)
    assert abs(got.mean() - expected) < 4 * error
    # Better than those of the same chances for all, and as good as it is said.
    shares = SIZES / SIZES.sum() if weighted else np.full(N, 1 / N)
    u = np.abs(shares * VALUES)
    p = by_sums(u, M) if approximate else brute_force(u, M)
    np.testing.assert_allclose(got.var(), (u**2 * (1 / p - 1)).sum(), rtol=0.1)
    assert got.var() < 0.8 * (u**2 * (N / M - 1)).sum()


def test_with_room_for_all_it_is_the_mean():
    keys = jr.split(jr.key(0), (1, N))
    values, sizes = VALUES[None].astype(np.float32), SIZES[None].astype(np.float32)
    aggregator = eqf.OptimalClientSampling(N)
    got = aggregates(values, sizes, aggregator, keys)
    np.testing.assert_allclose(got, [BY_EXAMPLES], rtol=1e-6)
    # A message that is not finite is not hidden.
    values = np.where(np.arange(N) == 2, np.nan, values).astype(np.float32)
    for by_sums_alone in (False, True):
        aggregator = eqf.OptimalClientSampling(1, approximate=by_sums_alone)
        assert np.isnan(aggregates(values, sizes, aggregator, keys)).all()


PARAMS, NUMBER = 4 * 32, 32


@pytest.mark.parametrize("approximate", (False, True))
def test_what_is_not_sent_is_not_in_the_ledger(approximate):
    sampling = eqf.OptimalClientSampling(2, approximate=approximate)
    loader = D.Loader(LOADED, D.AllClients(), BATCHING)
    history = eqf.train(
        algorithm(sampling),
        testing.Linear(),
        loader,
        num_rounds=6,
        key=jr.key(0),
    ).history
    sent = [int(row["sent"]) for row in history]
    assert len(set(sent)) > 1
    for row, count in zip(history, sent, strict=True):
        up = row["bits_up"] - count * PARAMS - 5 * 2 * NUMBER
        down = row["bits_down"] - 5 * (PARAMS + NUMBER)
        assert row["clients"] == 5
        if not approximate:
            assert (up, down) == (0, 0)
        else:
            times, rest = divmod(down, 5 * NUMBER)
            assert (rest, up) == (0, times * 5 * 2 * NUMBER)
            assert 1 <= times <= 4
