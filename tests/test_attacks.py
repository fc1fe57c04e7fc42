"""Attacks, against a few lines of NumPy, and what they leave as it was."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy.stats import norm

import equifed as eqf
import equifed.attacks as eqa
import equifed.robust as eqr
from equifed import testing

from .shared import line_loss, only


SGD = optax.sgd(0.1)
BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((8, 5, 6, 0, 9, 8, 4, 6))
ATTACKERS = (1, 4, 3)  # The last has no examples.
THERE = np.array([0, 1, 2, 4, 5, 6, 7])
BAD = np.isin(THERE, ATTACKERS)
KEY = jr.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 5)) + 1.0


def fedavg(aggregator=None, loss=line_loss):
    return eqf.FedAvg(loss, SGD, BATCHING, aggregator=aggregator)


def one_round(algorithm, clients=None, mesh=None, alone=None, **kwargs):
    state = algorithm.init(testing.Linear(), num_clients=len(DATASET))
    cohort = eqf.data.cohort(DATASET, BATCHING, clients=clients, mesh=mesh)
    cohort = cohort if alone is None else only(cohort, alone)
    return algorithm.round(state, cohort, key=KEY, **kwargs)


def moved(state):
    start = jax.tree.leaves(testing.Linear())
    pairs = zip(jax.tree.leaves(state.params), start, strict=True)
    rows = [np.ravel(x - y) for x, y in pairs]
    return np.asarray(np.concatenate(rows), np.float64)


def seen(x=X, bad=BAD, known=None, aggregate=None):
    """As it is within a round, with an absent message at the end."""
    row = np.zeros((1, x.shape[1]))
    known = ~bad if known is None else known

    def mean(rows, key):
        return rows[: len(x)].mean(0)

    return eqa.Seen(
        jnp.asarray(np.concatenate([x, row]), jnp.float32),
        jnp.asarray([1.0] * len(x) + [0.0]),
        jnp.asarray([*range(len(x)), 2**31 - 1], jnp.int32),
        jnp.asarray([*bad, False]),
        jnp.asarray([*known, False]),
        mean if aggregate is None else aggregate,
    )


def sent(attack, **kwargs):
    s = seen(**kwargs)
    out = attack.attack(s, key=KEY)
    return np.asarray(jnp.broadcast_to(out, s.messages.shape), np.float64)[:7][BAD]


def squares(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def bisected(fits):
    """The paper's search, until it no longer moves."""
    gamma, step, best = 10.0, 5.0, 0.0
    while step > 1e-9:
        if fits(gamma):
            best, gamma = gamma, gamma + step
        else:
            gamma -= step
        step /= 2
    return best


def perturbation(kind, x):
    mean = x.mean(0)
    if kind == "unit":
        return -mean / np.linalg.norm(mean)
    return -x.std(0) if kind == "std" else -np.sign(mean)


@pytest.mark.parametrize("kind", ("unit", "std", "sign"))
def test_min_max_and_min_sum_find_what_the_papers_search_does(kind):
    x = X[~BAD]
    mean, p, pairs = x.mean(0), perturbation(kind, x), squares(x, x)
    far = lambda g: squares((mean + g * p)[None], x)  # noqa: E731
    gamma = bisected(lambda g: far(g).max() <= pairs.max())
    found = sent(eqa.MinMax(perturbation=kind))
    np.testing.assert_allclose(found, np.tile(mean + gamma * p, (2, 1)), rtol=1e-4)
    gamma = bisected(lambda g: far(g).sum() <= pairs.sum(1).max())
    found = sent(eqa.MinSum(perturbation=kind))
    np.testing.assert_allclose(found, np.tile(mean + gamma * p, (2, 1)), rtol=1e-4)


def test_messages_that_are_all_the_same_leave_no_room():
    same = np.ones((7, 5))
    for attack in (eqa.MinMax(), eqa.MinSum(perturbation="unit"), eqa.ALIE()):
        np.testing.assert_allclose(sent(attack, x=same), 1.0, rtol=1e-6)


def test_a_little_is_enough():
    x = X[~BAD]
    n, f = 7, 2
    z = norm.ppf((n - f - (n // 2 + 1 - f)) / (n - f))
    expected = np.tile(x.mean(0) - z * x.std(0), (2, 1))
    np.testing.assert_allclose(sent(eqa.ALIE()), expected, rtol=1e-5)
    # As its paper has it, of the attackers' own; with a majority there is no such z.
    own = X[BAD]
    expected = np.tile(own.mean(0) - z * own.std(0), (2, 1))
    np.testing.assert_allclose(sent(eqa.ALIE(), known=BAD), expected, rtol=1e-5)
    most = np.array([0, 1, 1, 1, 1, 1, 0], bool)
    np.testing.assert_allclose(sent(eqa.ALIE(), bad=most), X[BAD], rtol=1e-6)


def test_attacks_of_one_line():
    np.testing.assert_allclose(sent(eqa.SignFlip(2.0)), -2 * X[BAD], rtol=1e-6)
    expected = np.tile(-0.5 * X[~BAD].mean(0), (2, 1))
    np.testing.assert_allclose(sent(eqa.IPM(0.5)), expected, rtol=1e-5)
    np.testing.assert_allclose(sent(eqa.ModelReplacement()), 3.5 * X[BAD], rtol=1e-6)


def test_noise_is_each_attackers_own():
    out = sent(eqa.Noise(3.0), x=np.zeros((7, 20000)))
    np.testing.assert_allclose(out.std(1), 3.0, rtol=0.03)
    np.testing.assert_allclose(out.mean(1), 0.0, atol=0.1)
    assert abs((out[0] * out[1]).mean()) < 0.3


def test_mimic_takes_the_furthest_along_the_first_direction():
    x = X[~BAD]
    _, _, directions = np.linalg.svd(x - x.mean(0))
    out = np.abs((x - x.mean(0)) @ directions[0])
    np.testing.assert_allclose(sent(eqa.Mimic()), np.tile(x[out.argmax()], (2, 1)))


def test_an_ascent_through_a_mean_ends_at_the_edge():
    x = X[~BAD]
    mean = x.mean(0)
    radius = 2 * np.sqrt(squares(mean[None], x).max())
    expected = mean - radius * mean / np.linalg.norm(mean)
    found = sent(eqa.Adaptive(2.0, 3))
    np.testing.assert_allclose(found, np.tile(expected, (2, 1)), rtol=1e-4)


def test_an_ascent_finds_what_a_rule_lets_pass():
    # A rule that hears of the attackers while they are within 1 of the mean.
    mean = jnp.asarray(X[~BAD].mean(0), jnp.float32)

    def rule(rows, key):
        m = rows[1]
        return jnp.where(jnp.square(m - mean).sum() <= 1, m, mean)

    found = sent(eqa.Adaptive(5.0, 30), aggregate=rule)[0]
    expected = mean - mean / jnp.linalg.norm(mean)
    np.testing.assert_allclose(found, expected, atol=1e-2)


AGGREGATORS = {
    "mean": eqf.WeightedMean(),
    "median": eqf.Median(),
    "clipped": eqf.Clip(eqf.UniformMean(), max_norm=0.1),
    "Krum": eqr.Krum(1),
    "mixed": eqr.NearestNeighbourMixing(eqf.TrimmedMean(0.2), 1),
    "quantized": eqf.compress.Compress(
        eqf.UniformMean(), eqf.compress.UniformQuantizer(4)
    ),
}


@pytest.mark.exact
@pytest.mark.parametrize("name", ["mean", "quantized"])
def test_without_attackers_it_is_the_ordered_round_as_users_compile_it(name):
    without_attackers(name)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_without_attackers_it_is_the_ordered_round(name):
    without_attackers(name)


def without_attackers(name):
    executor = eqf.Executor(ordered=True)
    base = fedavg(AGGREGATORS[name], testing.noisy_loss)
    plain, metrics = one_round(base, executor=executor)
    state, more = one_round(eqa.Attacked(base, eqa.IPM(9.0), []), executor=executor)
    assert eqx.tree_equal(plain, state)
    assert more.pop("byzantine") == 0
    assert metrics.keys() == more.keys()
    for key, value in metrics.items():
        assert eqx.tree_equal(value, more[key]), key


MESH = jax.make_mesh((2,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
# The executor keeps messages, whatever becomes of them: its ways are tried once each,
# and with every aggregator messages in another order.
HOWEVER = {
    "mean": (
        {"executor": eqf.Executor(block_size=3)},
        {"mesh": MESH, "executor": eqf.Executor(ordered=True)},
        {"executor": eqf.Executor(debug=True)},
    ),
    "Krum": ({"mesh": MESH},),
    "quantized": ({"mesh": MESH},),
}


@pytest.mark.parametrize("name", HOWEVER)
def test_a_round_is_the_same_however_it_is_run(name):
    around = eqa.Attacked(fedavg(AGGREGATORS[name]), eqa.MinMax(), ATTACKERS)
    state, metrics = one_round(around)
    assert metrics["byzantine"] == 2
    for kwargs in ({"clients": [7, 3, 4, 0, 1, 2, 6, 5]}, *HOWEVER[name]):
        other, again = one_round(around, **kwargs)
        np.testing.assert_allclose(moved(other), moved(state), rtol=1e-4, atol=1e-6)
        assert again["byzantine"] == 2
        assert again["bits_up"] == metrics["bits_up"]


def test_a_round_against_numpy():
    alone = [moved(one_round(fedavg(), alone=i)[0]) for i in THERE]
    honest = np.array(alone)[~BAD]
    mean = honest.mean(0)
    own = np.array(alone)[BAD].mean(0)
    base, attack = fedavg(eqf.UniformMean()), eqa.IPM(3.0)
    for around, x in (
        (eqa.Attacked(base, attack, ATTACKERS), mean),
        (eqa.Attacked(base, attack, ATTACKERS, knows="own"), own),
    ):
        state, _ = one_round(around)
        expected = (honest.sum(0) - 2 * 3 * x) / 7
        np.testing.assert_allclose(moved(state), expected, rtol=1e-4, atol=1e-6)


def test_what_is_not_finite_is_not_known():
    problem = testing.Quadratics((1.0,) * 4, (1.0, np.nan, 3.0, 9.0), (2,) * 4)
    batching = eqf.data.Epochs(1, batch_size=2)
    base = eqf.FedAvg(
        *(testing.quadratic_loss, SGD, batching),
        aggregator=eqf.DropNonfinite(eqf.UniformMean()),
    )
    around = eqa.Attacked(base, eqa.IPM(1.0), [3])
    state = around.init(testing.Point(0.0), num_clients=4)
    cohort = eqf.data.cohort(problem.dataset(), batching)
    state, metrics = around.round(state, cohort, key=KEY)
    # 0.1 and 0.3 of the honest ones, and the opposite of their mean.
    (found,) = jax.tree.leaves(state.params)
    np.testing.assert_allclose(found, (0.1 + 0.3 - 0.2) / 3, rtol=1e-5)
    assert metrics["nonfinite"] == 1


class SendsNothingFinite(eqa.AbstractAttack):
    def attack(self, seen, *, key):
        return jnp.full(seen.messages.shape[1], jnp.nan)


def test_what_attackers_send_that_is_not_finite_is_counted():
    base = fedavg(eqf.DropNonfinite(eqf.UniformMean()))
    _, plain = one_round(base)
    state, metrics = one_round(eqa.Attacked(base, SendsNothingFinite(), ATTACKERS))
    assert (plain["nonfinite"], metrics["nonfinite"]) == (0, 2)
    assert metrics["clients"] == len(THERE) - 2
    assert np.isfinite(moved(state)).all()
    # Around a rule that trusts one client it is the same, and the root's pass has none.
    trusting = eqf.FLTrust(line_loss, SGD, BATCHING, root=0)
    around = eqa.Attacked(trusting, SendsNothingFinite(), ATTACKERS)
    assert one_round(around)[1]["nonfinite"] == 2


def test_diagnose_shows_what_attackers_send():
    _, plain = one_round(eqf.Diagnose(fedavg(), gram=True))
    attacked = eqa.Attacked(fedavg(), eqa.SignFlip(3.0), ATTACKERS)
    _, metrics = one_round(eqf.Diagnose(attacked, gram=True))
    there = np.asarray(metrics["gram_clients"]) >= 0
    np.testing.assert_array_equal(metrics["gram_clients"][there], THERE)
    sign = np.where(BAD, -3.0, 1.0)
    honest = np.asarray(plain["gram"])[np.asarray(plain["gram_clients"]) >= 0]
    expected = honest[:, : len(THERE)] * np.outer(sign, sign)
    found = np.asarray(metrics["gram"])[there][:, there]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    around = eqf.Diagnose(eqa.Attacked(fedavg(), SendsNothingFinite(), ATTACKERS))
    assert np.isfinite(one_round(around)[1]["norm_max"])


def test_an_adaptive_attack_does_the_most_harm():
    mean = moved(one_round(eqa.Attacked(fedavg(eqf.Median()), eqa.IPM(1e-6), [0]))[0])
    harm = {}
    for name, attack in (("mimic", eqa.Mimic()), ("adaptive", eqa.Adaptive())):
        around = eqa.Attacked(fedavg(eqf.Median()), attack, [1, 4])
        harm[name] = -moved(one_round(around)[0]) @ mean
    assert harm["adaptive"] > harm["mimic"]


def test_who_attacks():
    few, more = (eqa.byzantine_clients(50, n, seed=3) for n in (5, 12))
    assert few.tolist() == sorted(set(few.tolist()))
    assert (few.size, more.size) == (5, 12)
    assert set(few) < set(more)
    assert few.tolist() != eqa.byzantine_clients(50, 5, seed=4).tolist()


def images():
    rng = np.random.default_rng(1)
    return eqf.data.FederatedDataset.from_mapping(
        {
            name: {
                "image": rng.random((n, 3, 3)).astype(np.float32),
                "label": rng.integers(0, 4, n),
            }
            for name, n in (("a", 6), ("b", 4), ("c", 5))
        }
    )


def trigger(examples):
    examples["image"][:, 0, 0] = 7
    return examples


def test_poisoned_examples():
    clean = images()
    flipped = eqa.flip_labels(clean, [2, 0], 4)
    backdoored = eqa.backdoored(clean, [1], trigger, 3, share=0.5)
    for i in range(3):
        old = clean.client(i)
        label = old["label"] if i == 1 else 3 - old["label"]
        np.testing.assert_array_equal(flipped.client(i)["label"], label)
        new = backdoored.client(i)
        marked = new["image"][:, 0, 0] == 7
        assert marked.sum() == (2 if i == 1 else 0)
        assert (new["label"][marked] == 3).all()
        for name in ("image", "label"):
            np.testing.assert_array_equal(new[name][~marked], old[name][~marked])
    stamped = eqa.triggered(clean, trigger, 3)
    was, now = np.asarray(clean.columns["label"]), np.asarray(stamped.columns["label"])
    assert now.tolist() == [3] * int((was != 3).sum())
    assert (np.asarray(stamped.columns["image"])[:, 0, 0] == 7).all()
    assert (np.asarray(clean.columns["image"]) < 7).all()
