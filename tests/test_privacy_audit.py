"""An audit finds a mechanism that is not what it says, and lets a right one pass."""

import functools
import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.privacy as eqp
from equifed import testing
from equifed.privacy.estimates import epsilon_of_normals, report


dpa = pytest.importorskip("dp_accounting")

SGD = optax.sgd(0.1)
BATCHING = eqf.data.Epochs(1, batch_size=2)
DATASET = testing.ragged_clients((3, 2, 4, 1))
SIZE = 4096
CANARIES = 300


class Wide(eqx.Module):
    """A model of many params, of which its loss makes little use."""

    weight: jnp.ndarray
    bias: jnp.ndarray

    def __init__(self, size=SIZE):
        self.weight, self.bias = jnp.zeros((64, size // 64)), jnp.zeros(())


def loss(model, example, key):
    return jnp.square(model.weight[0, 0] + model.bias - example["y"])


class Weak(eqp.PrivateMean):
    """Says one thing and does another: which, are numbers, of one program."""

    really_clips_at: jnp.ndarray = eqx.field(kw_only=True)
    share_of_the_noise: jnp.ndarray = eqx.field(kw_only=True)

    def encode(self, message, state, *, key):
        where = lambda m: m.clipping.max_norm  # noqa: E731
        wrong = eqx.tree_at(where, self, self.really_clips_at)
        return eqp.PrivateMean.encode(wrong, message, state, key=key)

    def decode(self, encoded, state, *, key):
        multiplier = self.noise_multiplier * self.share_of_the_noise
        less = eqx.tree_at(lambda m: m.noise_multiplier, self, multiplier)
        return eqp.PrivateMean.decode(less, encoded, state, key=key)


def audited(fault="none", sampler=None, num_rounds=2):
    audit = eqp.Audit(DATASET, num_canaries=CANARIES, seed=3)
    sampler = eqf.data.AllClients() if sampler is None else sampler
    count = audit.dataset.num_clients
    expected = sampler.participation(count).expected
    mechanism = Weak(
        eqp.FlatClip(1.0),
        noise_multiplier=1.0,
        expected_clients=expected,
        really_clips_at=jnp.asarray(math.inf if fault == "no clipping" else 1.0),
        share_of_the_noise=jnp.asarray(0.05 if fault == "little noise" else 1.0),
    )
    plan = eqp.PrivacyPlan(
        sampler, mechanism, num_clients=count, num_rounds=num_rounds, delta=1e-5
    ).for_epsilon(1.5)
    algorithm = eqf.FedAvg(loss, SGD, BATCHING, aggregator=plan.mechanism)
    solution = eqf.train(
        audit.algorithm(algorithm),
        model := Wide(),
        audit.loader(plan.sampler, BATCHING),
        num_rounds=num_rounds,
        key=jr.key(2),
        privacy=plan,
    )
    return plan, audit.report(model, solution.state, delta=plan.delta)


@pytest.mark.parametrize(
    "sampler",
    (None, eqf.data.PoissonSampler(0.5), eqf.data.ShuffledSampler(152)),
    ids=("all", "poisson", "passes"),
)
def test_a_right_mechanism_passes(sampler):
    plan, found = audited(sampler=sampler)
    assert found.lower_bound <= plan.epsilon()
    assert found.interval[0] <= plan.epsilon()
    assert 0.5 < found.auroc < 0.8
    assert len(found.included) + len(found.excluded) == CANARIES


@pytest.mark.parametrize("fault", ("little noise", "no clipping"))
def test_a_broken_one_is_found_out(fault):
    plan, found = audited(fault)
    assert found.lower_bound > 1.5 * plan.epsilon()
    assert found.estimate > 5 * plan.epsilon()
    assert found.auroc > 0.99


class Silent(eqp.DistributedDiscreteGaussian):
    """Clients that leave out their shares of the noise."""

    def encode(self, message, state, *, key):
        where = lambda m: m.noise_multiplier  # noqa: E731
        none = eqx.tree_at(where, self, jnp.zeros(()))
        return eqp.DistributedDiscreteGaussian.encode(none, message, state, key=key)


@pytest.mark.parametrize("kind", (eqp.DistributedDiscreteGaussian, Silent))
def test_noise_of_the_clients_is_audited_as_well(kind):
    audit = eqp.Audit(DATASET, num_canaries=150, seed=3)
    size = 1536  # To draw whole numbers takes long.
    count, everyone = audit.dataset.num_clients, eqf.data.AllClients()
    mechanism = kind(
        *(1.0,),
        noise_multiplier=1.0,
        expected_clients=count,
        step=0.01,
        num_params=size + 1,
    )
    plan = eqp.PrivacyPlan(
        everyone, mechanism, num_clients=count, num_rounds=1, delta=1e-5
    ).for_epsilon(1.5)
    algorithm = eqf.FedAvg(loss, SGD, BATCHING, aggregator=plan.mechanism)
    solution = eqf.train(
        audit.algorithm(algorithm),
        model := Wide(size),
        audit.loader(everyone, BATCHING),
        num_rounds=1,
        key=jr.key(2),
        privacy=plan,
    )
    found = audit.report(model, solution.state, delta=plan.delta)
    assert (found.lower_bound > 1.5 * plan.epsilon()) == (kind is Silent)
    assert (found.interval[0] > plan.epsilon()) == (kind is Silent)


def test_of_all_clients_in_one_round_the_estimate_is_the_gaussian_s_epsilon():
    plan, found = audited(num_rounds=1)
    exact = dpa.get_epsilon_gaussian(plan.noise_multiplier, plan.delta)
    np.testing.assert_allclose(plan.epsilon(), exact, rtol=2e-3)
    low, high = found.interval
    assert low < exact < high


@pytest.mark.parametrize("multiplier", (0.5, 1.0, 4.0))
def test_two_normals_of_one_variance_are_a_gaussian_mechanism(multiplier):
    null = 0.01
    got = epsilon_of_normals(null / multiplier, null, null, 1e-5)
    exact = dpa.get_epsilon_gaussian(multiplier, 1e-5)
    np.testing.assert_allclose(got, exact, rtol=1e-3)
    assert epsilon_of_normals(0.0, null, null, 1e-5) == 0.0


def test_a_canary_sends_its_direction_or_nothing():
    audit = eqp.Audit(DATASET, num_canaries=6, norm=5.0, seed=1)
    mean = eqf.FixedDenominatorMean(1.0)
    algorithm = audit.algorithm(
        eqf.FedAvg(loss, optax.sgd(0.0), BATCHING, aggregator=mean)
    )
    loader = audit.loader(eqf.data.AllClients(), BATCHING)
    solution = eqf.train(algorithm, Wide(), loader, num_rounds=1, key=jr.key(0))
    # The sum of the directions of those that are included, five times as long.
    change = jnp.concatenate([x.reshape(-1) for x in jtu.tree_leaves(solution.model)])
    count = audit.included.sum()
    assert 0 < count < 6
    length = np.linalg.norm(change)
    np.testing.assert_allclose(length, 5 * np.sqrt(count), rtol=0.1)
    cosines = audit.scores(Wide(), solution.state)
    expected = np.where(audit.included, 1 / np.sqrt(count), 0.0)
    np.testing.assert_allclose(cosines, expected, atol=4 / np.sqrt(SIZE))
    # The clients of the data are as they were, and the loss is theirs.
    assert solution.history[0]["clients"] == 4 + count
    alone = eqf.train(
        eqf.FedAvg(loss, optax.sgd(0.0), BATCHING, aggregator=mean),
        Wide(),
        eqf.data.Loader(DATASET, eqf.data.AllClients(), BATCHING),
        num_rounds=1,
        key=jr.key(0),
    )
    np.testing.assert_allclose(
        solution.history[0]["loss"], alone.history[0]["loss"], rtol=1e-6
    )


def test_canaries_are_told_by_the_loader_of_their_audit():
    audit = eqp.Audit(DATASET, num_canaries=4)
    algorithm = audit.algorithm(eqf.FedAvg(loss, SGD, BATCHING))
    loader = eqf.data.Loader(audit.dataset, eqf.data.AllClients(), BATCHING)
    with pytest.raises(ValueError, match=r"Train it with `audit.loader\(...\)`"):
        eqf.train(algorithm, Wide(), loader, num_rounds=1, key=jr.key(0))


@pytest.mark.parametrize(
    ("kind", "sampler"),
    (
        (eqf.FedAvg, eqf.data.AllClients()),
        (functools.partial(eqf.FedACG, momentum=0.5, beta=0.1), eqf.data.AllClients()),
        (eqf.Scaffold, eqf.data.ShuffledSampler(3)),
    ),
    ids=("FedAvg", "FedACG", "Scaffold"),
)
def test_a_training_without_canaries_has_no_report(kind, sampler):
    audit = eqp.Audit(DATASET, num_canaries=6, seed=1)
    plain = kind(loss, SGD, BATCHING)

    def after(algorithm, num_rounds):
        loader = audit.loader(sampler, BATCHING)
        kwargs = {"num_rounds": num_rounds, "key": jr.key(0)}
        return eqf.train(algorithm, Wide(), loader, **kwargs).state

    # The canaries' places were there, and whoever has them learnt as the others do.
    with pytest.raises(ValueError, match="had no canaries of the audit"):
        audit.report(Wide(), after(plain, 4), delta=1e-5)
    state = after(audit.algorithm(plain), 4)
    audit.report(Wide(), state, delta=1e-5)
    # Of those that are left out nobody sends.
    sent = np.concatenate([np.zeros(4, bool), audit.included])
    assert ((np.asarray(state.clients.rounds) > 0) == sent).all()


def test_canaries_that_are_never_drawn_have_no_report():
    audit = eqp.Audit(DATASET, num_canaries=6, seed=1)
    algorithm = audit.algorithm(eqf.FedAvg(loss, SGD, BATCHING))
    seeds = range(100)
    drawn = (set(eqf.data.UniformSampler(2, seed=s)(0, 10)) for s in seeds)
    none = next(s for s, who in zip(seeds, drawn, strict=True) if max(who) < 4)
    loader = audit.loader(eqf.data.UniformSampler(2, seed=none), BATCHING)
    solution = eqf.train(algorithm, Wide(), loader, num_rounds=1, key=jr.key(0))
    with pytest.raises(ValueError, match="took part in any of its 1 rounds"):
        audit.report(Wide(), solution.state, delta=1e-5)


@pytest.mark.parametrize("canaries", (50, 400))
def test_the_other_canaries_are_noise_that_has_a_ceiling(canaries):
    # The sum of their directions, to which nothing is added.
    rng, size = np.random.default_rng(0), 4096
    directions = rng.normal(size=(2 * canaries, size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    change = directions[:canaries].sum(0)
    cosines = directions @ change / np.linalg.norm(change)
    found = report(
        cosines[:canaries],
        cosines[canaries:],
        dimension=size,
        delta=1e-5,
        confidence=0.95,
    )
    exact = dpa.get_epsilon_gaussian(np.sqrt((canaries - 1) / size), 1e-5)
    np.testing.assert_allclose(found.ceiling, exact, rtol=1e-6)
    low, high = found.interval
    assert low < exact < high
    assert found.lower_bound < exact


def test_one_canary_has_no_variance():
    rng = np.random.default_rng(0)
    alone, others = np.array([0.9]), rng.normal(size=50) / 64
    found = report(alone, others, dimension=4096, delta=1e-5, confidence=0.95)
    assert np.isnan(found.estimate)
    assert np.isnan(found.interval).all()
    assert found.ceiling == math.inf
    assert found.auroc == 1


def test_the_bound_holds_where_there_is_nothing_to_find():
    # Twenty audits of nothing at all: at 95 % about one bound may be above 0.
    rng = np.random.default_rng(0)
    above = 0
    for _ in range(20):
        included, excluded = rng.normal(size=(2, 60)) / 64
        found = report(included, excluded, dimension=4096, delta=1e-5, confidence=0.95)
        above += found.lower_bound > 0
        assert found.interval[0] <= found.estimate <= found.interval[1]
    assert above <= 3
