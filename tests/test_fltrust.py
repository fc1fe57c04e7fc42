"""FLTrust against Algorithm 2 of its paper in NumPy, and what no client can do."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import equifed as eqf
import equifed.attacks as eqa
from equifed import testing
from equifed._algorithm.fltrust import _TrustedMean
from equifed._tree import params_of

from .shared import only
from .test_stateful import DATA, PAIR, STATEFUL


SGD = optax.sgd(0.1)
BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((8, 5, 6, 0, 9, 8, 4, 6))
ROOT, OTHERS = 2, [0, 1, 4, 5, 6, 7]
KEY = jr.key(0)


def loss(model, example, key):
    error = model.weight @ example["x"] + model.bias - example["y"]
    return error**2 / 2


FLTRUST = eqf.FLTrust(loss, SGD, BATCHING, root=ROOT)


def one_round(
    algorithm, clients=None, dataset=DATASET, model=None, *, alone=None, **kwargs
):
    model = testing.Linear() if model is None else model
    state = algorithm.init(model, num_clients=len(dataset))
    cohort = eqf.data.cohort(dataset, algorithm.batching, clients=clients)
    cohort = cohort if alone is None else only(cohort, alone)
    return algorithm.round(state, cohort, key=KEY, **kwargs)


def moved(state):
    start = jax.tree.leaves(testing.Linear())
    pairs = zip(jax.tree.leaves(state.params), start, strict=True)
    return np.concatenate([np.ravel(x - y) for x, y in pairs]).astype(np.float64)


def trusted(g, root):
    """Algorithm 2, lines 11 to 13."""
    lengths, own = np.linalg.norm(g, axis=1), np.linalg.norm(root)
    trust = np.maximum(g @ root / lengths / own, 0)
    total = trust @ (g * (own / lengths)[:, None])
    return total / trust.sum() if trust.any() else 0 * total, trust


@functools.cache
def alone(i):
    """What one client would send: FedAvg with nobody else."""
    return moved(one_round(eqf.FedAvg(loss, SGD, BATCHING), alone=i)[0])


def test_a_round_is_the_papers():
    root, g = alone(ROOT), np.array([alone(i) for i in OTHERS])
    byzantine = np.isin(OTHERS, [0, 4])
    flips = eqa.Attacked(FLTRUST, eqa.SignFlip(3.0), [0, 4])
    for algorithm, sent in (
        (FLTRUST, g),
        (flips, np.where(byzantine[:, None], -3 * g, g)),
    ):
        # Without the attack these two are trusted, with it nobody would be.
        expected, trust = trusted(sent, root)
        assert (trust > 0).sum() == (2 if algorithm is FLTRUST else 0)
        state, metrics = one_round(algorithm)
        np.testing.assert_allclose(moved(state), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(metrics["trust"], trust.mean(), rtol=1e-5)
        assert metrics["clients"] == 6
        assert metrics["trusted"] == float((trust > 0).sum())
        assert metrics["rejected"] == float(not trust.any())
    # The server's rate is the alpha.
    half = eqf.FLTrust(loss, SGD, BATCHING, root=ROOT, server_optim=optax.sgd(0.5))
    expected = trusted(g, root)[0] / 2
    np.testing.assert_allclose(moved(one_round(half)[0]), expected, rtol=1e-4)


def test_rounds_with_a_sampler():
    problem = testing.Quadratics((1.0, 4.0, 2.0, 3.0), (0.0, -1.0, 3.0, 2.0), (4,) * 4)
    sampler = eqf.data.Including(eqf.data.UniformSampler(2, seed=1), [2])
    a, b = np.array(problem.curvatures), np.array(problem.centres)
    x = [1.0]
    for r in range(6):
        clients = sampler(r, 4)
        assert 2 in clients
        assert len(clients) == 3
        g = {i: (1 - (1 - 0.1 * a[i]) ** 2) * (b[i] - x[-1]) for i in clients}
        others = np.array([[g[i]] for i in clients if i != 2])
        x.append(x[-1] + trusted(others, np.array([g[2]]))[0][0])
    got = testing.run(
        lambda f, b: eqf.FLTrust(f, SGD, b, root=2),
        problem,
        num_rounds=6,
        batching=eqf.data.Steps(2, batch_size=4),
        sampler=sampler,
        start=1.0,
    )
    np.testing.assert_allclose(got, x, rtol=1e-5)


def points(centres):
    n = len(centres)
    return testing.Quadratics((1.0,) * n, tuple(centres), (4,) * n).dataset()


@pytest.mark.parametrize(
    ("centres", "clients", "nonfinite"),
    (
        ((1.0, -1.0, -2.0), None, 0),  # nobody goes the server's way
        ((0.0, 1.0, 1.0), None, 0),  # the server does not move
        ((np.nan, 1.0, 1.0), None, 1),  # it diverged
        ((1.0, 1.0, 1.0), [1, 2], 0),  # it did not take part
        ((1.0, 1.0, 1.0), [0], 0),  # nobody else did
    ),
)
def test_a_round_in_which_nobody_is_trusted_is_rejected(centres, clients, nonfinite):
    algorithm = eqf.FLTrust(testing.quadratic_loss, SGD, BATCHING, root=0)
    parts = (clients, points(centres), testing.Point(0.0))
    state, metrics = one_round(algorithm, *parts)
    assert metrics["rejected"] == 1
    assert metrics["trusted"] == 0
    assert metrics["clients"] == (0 if clients == [0] else 2)
    assert metrics["nonfinite"] == nonfinite
    assert metrics["nonfinite_model"] == 0
    assert state.model.x == 0
    assert state.round == 1


class Sends(eqa.AbstractAttack):
    """Whatever one likes."""

    row: jax.Array

    def attack(self, seen, *, key):
        return self.row


def in_full(x):
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("scale", (1e-36, 1e-20, 1.0, 1e20, 1e36))
def test_no_message_is_longer_than_the_servers(scale):
    x = np.random.default_rng(0).normal(size=5).astype(np.float32)
    root = np.abs(x)
    message = eqf.Message(in_full(scale * x), in_full(1.0))
    rule = _TrustedMean()
    encoded, _ = rule.encode(message, in_full(root), key=KEY)
    out, _, _ = rule.decode(encoded, in_full(root), key=KEY)
    expected, trust = trusted(x[None].astype(np.float64), root.astype(np.float64))
    np.testing.assert_allclose(out.payload, expected, rtol=1e-5)
    np.testing.assert_allclose(out.weight, trust[0], rtol=1e-5)


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_what_is_not_finite_is_not_trusted(bad):
    sends = Sends(in_full(np.full(moved(one_round(FLTRUST)[0]).size, bad)))
    state, metrics = one_round(eqa.Attacked(FLTRUST, sends, [0, 1]))
    root, g = alone(ROOT), np.array([alone(i) for i in OTHERS[2:]])
    np.testing.assert_allclose(moved(state), trusted(g, root)[0], rtol=1e-4)
    assert metrics["nonfinite_model"] == 0


def test_most_clients_may_attack():
    root, byzantine = alone(ROOT), [1, 4, 5, 6, 7]
    for attack in (eqa.SignFlip(1e6), eqa.IPM(1e6), eqa.Adaptive(1e3, 3)):
        change = moved(one_round(eqa.Attacked(FLTRUST, attack, byzantine))[0])
        assert np.linalg.norm(change) <= np.linalg.norm(root) * (1 + 1e-5)
        assert change @ root > 0
        if isinstance(attack, eqa.IPM):  # of whom nobody is trusted then
            expected = trusted(alone(0)[None], root)[0]
            np.testing.assert_allclose(change, expected, rtol=1e-4)


def test_a_training_says_why_rounds_are_rejected():
    """It is nobody's trust that is missing, and not a number of messages."""
    algorithm = eqf.FLTrust(loss, SGD, BATCHING, root=3)  # it has nothing
    sampler = eqf.data.UniformSampler(2, seed=1)
    assert not {3} & {int(i) for round in (0, 1) for i in sampler(round, 8)}
    for around in (algorithm, eqa.Attacked(algorithm, eqa.Mimic(), [0])):
        loader = eqf.data.Loader(DATASET, sampler, BATCHING)
        with pytest.warns(UserWarning, match="rejected") as caught:
            eqf.train(around, testing.Linear(), loader, num_rounds=2, key=KEY)
        said = [str(w.message) for w in caught]
        assert [text.partition(":")[0] for text in said] == [
            "Round 1 was rejected since none of its 2 clients was trusted",
            "All 2 rounds were rejected, so that the model is as it was. Have the root "
            "client take part in every round, by `Including`, with examples of all "
            "classes.",
        ]


def test_the_server_sends_itself_nothing():
    plain = one_round(eqf.FedAvg(loss, SGD, BATCHING))[1]
    metrics = one_round(FLTRUST)[1]
    there, asked = len(OTHERS), len(DATASET)
    assert int(metrics["bits_up"]) * (there + 1) == int(plain["bits_up"]) * there
    assert int(metrics["bits_down"]) * asked == int(plain["bits_down"]) * (asked - 1)


def test_it_learns_where_a_mean_does_not():
    dataset = points((2.0, 2.1, 1.9, 2.0, 2.2, 1.8, 2.0, 2.1))
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), BATCHING)
    quadratic, found = testing.quadratic_loss, {}
    for name, algorithm in {
        "mean": eqf.FedAvg(quadratic, SGD, BATCHING, aggregator=eqf.UniformMean()),
        "trust": eqf.FLTrust(quadratic, SGD, BATCHING, root=0),
    }.items():
        around = eqa.Attacked(algorithm, eqa.SignFlip(3.0), [1, 4, 5, 6, 7])
        out = eqf.train(around, testing.Point(0.0), loader, num_rounds=10, key=KEY)
        found[name] = float(out.model.x)
    # As far as the server's client alone would go.
    np.testing.assert_allclose(found["trust"], 2 * (1 - 0.9**10), rtol=1e-4)
    assert found["mean"] < 0


def test_a_root_beyond_the_population_is_refused():
    with pytest.raises(ValueError, match="`root` must be at most 7, got 8"):
        one_round(eqf.FLTrust(loss, SGD, BATCHING, root=8))


def test_statistics_are_averaged_by_trust():
    def after(algorithm, alone=None):
        state = algorithm.init(PAIR, num_clients=4, key=KEY)
        cohort = eqf.data.cohort(DATA, algorithm.batching)
        cohort = cohort if alone is None else only(cohort, alone)
        state, _ = algorithm.round(state, cohort, key=KEY)
        before, now = (ravel_pytree(x)[0] for x in (params_of(PAIR), state.params))
        numbers = [np.ravel(x) for x in jax.tree.leaves(state.statistics)]
        return now - before, np.concatenate(numbers)

    own = [after(eqf.FedAvg(STATEFUL, SGD, BATCHING), i) for i in (0, 1, 3)]
    g, statistics = (np.stack(x).astype(np.float64) for x in zip(*own, strict=True))
    got = after(eqf.FLTrust(STATEFUL, SGD, BATCHING, root=0))
    change, trust = trusted(g[1:], g[0])
    assert (trust > 0).all()
    np.testing.assert_allclose(got[0], change, rtol=1e-4, atol=1e-6)
    expected = trust / trust.sum() @ statistics[1:]
    expected[0] = np.round(expected[0])  # a number of batches
    np.testing.assert_allclose(got[1], expected, rtol=1e-4, atol=1e-6)
