"""Oort against Algorithm 1 of its paper, in NumPy."""

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


ETA, K, WINDOW, STEP = 0.1, 2, 2, 3.0
PROBLEM = testing.Quadratics(
    (1.0, 2.0, 2.0, 0.5, 1.5), (5.0, -1.0, 2.0, -3.0, 2.0), (4, 8, 12, 12, 8)
)
A, B, N = (
    np.array(v) for v in (PROBLEM.curvatures, PROBLEM.centres, PROBLEM.num_examples)
)
SECONDS = np.array([1.0, 8.0, 4.0, 2.0, 5.0])
BATCHING = eqf.data.Epochs(1, batch_size=4)


def loader():
    return eqf.data.Loader(
        PROBLEM.dataset(),
        eqf.data.AllClients(),
        BATCHING,
        info=lambda round, clients: {"seconds": SECONDS[clients]},
    )


def oort(num_chosen=K, **kwargs):
    options = {"preferred_seconds": STEP, "window": WINDOW, **kwargs}
    fedavg = eqf.FedAvg(testing.quadratic_loss, optax.sgd(ETA), BATCHING)
    return eqf.Oort(fedavg, num_chosen, **options)


def by_the_paper(rounds, clip, alpha, chosen_of):
    """What is known after each round, if those that are new are as they were seen."""
    x, history, longest = 3.0, [0.0] * 2 * WINDOW, STEP
    utility, last = np.zeros(5), np.zeros(5, int)
    for number in range(1, rounds + 1):
        if sum(history[-2 * WINDOW : -WINDOW]) > sum(history[-WINDOW:]):
            longest += STEP
        seen, old = chosen_of(number), np.flatnonzero(last > 0)
        if len(old) == 5:
            value = np.minimum(utility, np.quantile(utility, clip))
            value = value + np.sqrt(0.1 * np.log(number) / last)
            value[longest < SECONDS] *= (longest / SECONDS[longest < SECONDS]) ** alpha
            chosen = np.argsort(-value)[:K]
            assert set(seen) == set(chosen)
        else:  # none is known to be better as long as some are new
            assert len(set(seen) - set(old)) == min(K, 5 - len(old))
        losses = A[seen] * (x - B[seen]) ** 2 / 2
        utility[seen], last[seen] = N[seen] * np.sqrt(losses**2), number
        history.append(utility[seen].sum())
        ends = []
        for i in seen:
            y = x
            for _ in range(N[i] // 4):
                y -= ETA * A[i] * (y - B[i])
            ends.append(y)
        x = (N[seen] * ends).sum() / N[seen].sum()
        yield x, utility, last, longest


@pytest.mark.parametrize(("clip", "alpha"), [(1.0, 2.0), (0.6, 0.5)])
def test_oort(clip, alpha):
    # All that is new is explored first; with the bar at the top the best are taken.
    algorithm = oort(
        exploration=1.0,
        exploration_decay=1.0,
        cutoff=1.0,
        clip=clip,
        alpha=alpha,
    )
    rounds, cohorts = 12, loader()
    state = algorithm.init(testing.Point(3.0), num_clients=5)
    states = []
    for r in range(rounds):
        state, _ = algorithm.round(state, cohorts(r), key=jr.key(4))
        states.append(jax.tree.map(np.array, eqx.filter(state, eqx.is_array)))
    seen = lambda r: np.flatnonzero(states[r - 1].clients[1].last == r)  # noqa: E731
    longest = set()
    expected = by_the_paper(rounds, clip, alpha, seen)
    for got, (x, utility, last, seconds) in zip(states, expected, strict=True):
        np.testing.assert_allclose(got.params.x, x, rtol=2e-5)
        np.testing.assert_allclose(got.clients[1].utility, utility, rtol=2e-4)
        np.testing.assert_array_equal(got.clients[1].last, last)
        np.testing.assert_allclose(got.server.seconds, seconds)
        longest.add(float(seconds))
    assert len(longest) > 1  # the pacer did something
    assert len({tuple(seen(r)) for r in range(4, rounds + 1)}) > 1


def shares(algorithm, known, number, draws=4000):
    """How often each client is chosen in a round."""
    cohort = loader()(0)
    clients = eqf.Participants(eqf.Executor(), cohort, jnp.asarray(number, jnp.int32))
    place = np.argsort(np.asarray(cohort.index[0]))[:5]
    at = jax.tree.map(lambda x: jnp.zeros_like(x, shape=cohort.index.shape), known)
    at = jax.tree.map(lambda x, y: x.at[0, place].set(y), at, known)
    choose = lambda key: algorithm._chosen(  # noqa: E731
        at, algorithm.preferred_seconds, clients.round, clients, key
    )
    return np.asarray(jax.vmap(choose)(jr.split(jr.key(0), draws)))[:, 0, place].mean(0)


def remembered(utility, last):
    dtype = jnp.result_type(float)
    begun = oort().init(testing.Point(3.0), num_clients=1).clients[1]
    new = jnp.asarray(utility, dtype), jnp.asarray(last, jnp.int32)
    return dataclasses.replace(begun, utility=new[0], last=new[1])


def test_new_clients_are_drawn_by_their_speed_and_known_ones_by_utility():
    nobody = remembered(np.zeros(5), np.zeros(5))
    got = shares(oort(1), nobody, 0)
    np.testing.assert_allclose(got, (1 / SECONDS) / (1 / SECONDS).sum(), atol=0.03)
    utility = np.array([1.0, 2.0, 4.0, 3.0, 6.0])
    everybody = remembered(utility, np.ones(5))
    plain = {"exploration": 0.0, "preferred_seconds": None, "clip": 1.0}
    got = shares(oort(1, cutoff=0.0, **plain), everybody, 0)
    np.testing.assert_allclose(got, utility / utility.sum(), atol=0.03)
    # Half of the highest is the bar, which three reach.
    got = shares(oort(1, cutoff=0.5, **plain), everybody, 0)
    expected = np.where(utility >= 3, utility, 0) / 13
    np.testing.assert_allclose(got, expected, atol=0.03)


def test_how_many_are_explored():
    # Three are new, and two known.
    known = remembered(np.array([1.0, 0, 0, 4.0, 0]), [1, 0, 0, 2, 0])
    new = [1, 2, 4]

    def explored(number, **kwargs):
        algorithm = oort(4, exploration=1.0, exploration_decay=0.5, **kwargs)
        return shares(algorithm, known, number, 8)[new].sum()

    assert explored(0) == 3  # four are wanted, and there are three
    assert explored(1) == 2
    assert explored(2) == 2  # one is wanted, but there are only two to go back to
    known = remembered(np.arange(1.0, 6), [1, 1, 1, 1, 0])
    new = [4]
    assert explored(9, least_exploration=0.25) == 1
    assert explored(9, least_exploration=0.0) == 0


def test_a_loss_that_is_not_finite_is_of_no_use():
    def loss(model, example, key):
        return (model.x - example["b"]) ** 2 / 2

    dataset = eqf.data.FederatedDataset.from_mapping(
        {i: {"b": np.array([b], np.float32)} for i, b in enumerate((np.nan, 1.0, 5.0))}
    )
    batching = eqf.data.Epochs(1, batch_size=1)
    fedavg = eqf.FedAvg(
        loss, optax.sgd(0.1), batching, aggregator=eqf.DropNonfinite(eqf.UniformMean())
    )
    algorithm = eqf.Oort(fedavg, 3, preferred_seconds=None, window=1)
    state = algorithm.init(testing.Point(3.0), num_clients=3)
    cohort = eqf.data.cohort(dataset, batching)
    state, _ = algorithm.round(state, cohort, key=jr.key(0))
    np.testing.assert_allclose(state.clients[1].utility, [0, 2, 2])
    assert list(state.clients[1].last) == [1, 1, 1]
    assert float(state.server.history[-1]) == 4
