"""Adapters under what stands around a training: a promise of privacy, attackers, and a
clock. Each method trains there, or says why it cannot."""

import functools

import equinox as eqx
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import attacks, clock, privacy
from equifed.nn import adapters, lora, lora_a, lora_b


KEY = jr.key(0)
NUM_CLIENTS = 6
RNG = np.random.default_rng(0)
COLUMNS = {
    "x": RNG.normal(size=(18, 4)).astype(np.float32),
    "y": RNG.normal(size=(18, 3)).astype(np.float32),
}
DATA = eqf.data.FederatedDataset.from_arrays(COLUMNS, by=np.arange(18) % NUM_CLIENTS)
BATCHING = eqf.data.Epochs(1, batch_size=3)
SGD = optax.sgd(0.1)
MODEL = lora(eqx.nn.Linear(4, 3, key=KEY), 2, key=KEY)


def loss(model, example, key):
    return ((model(example["x"]) - example["y"]) ** 2).mean()


def hetlora(loss, optim, batching):
    return eqf.HetLoRA(loss, optim, batching, lam=0.1, gamma=0.5)


BOTH = {"shared": adapters}
SUMMED = {
    "FedIT": (eqf.FedAvg, BOTH),
    "FFA-LoRA": (eqf.FedAvg, {"shared": lora_b}),
    "FedSA-LoRA": (eqf.FedPer, {"shared": lora_a, "personal": lora_b}),
}
OF_PRODUCTS = {
    "FedExLoRA": (eqf.FedExLoRA, BOTH),
    "FLoRA": (eqf.FLoRA, BOTH),
    "FlexLoRA": (eqf.FlexLoRA, BOTH),
    "HetLoRA": (hetlora, BOTH),
    "RoLoRA": (eqf.RoLoRA, BOTH),
}
METHODS = SUMMED | OF_PRODUCTS


def private_plan():
    mechanism = privacy.PrivateMean(
        privacy.FlatClip(0.5), noise_multiplier=1.0, expected_clients=3
    )
    return privacy.PrivacyPlan(
        eqf.data.PoissonSampler(0.5, seed=0),
        mechanism,
        num_clients=NUM_CLIENTS,
        num_rounds=2,
        delta=1e-3,
        unprotected=("loss",),
    )


def trained(algorithm, kinds, sampler=None, timed=None, num_rounds=2, **kwargs):
    sampler = eqf.data.AllClients() if sampler is None else sampler
    loader = eqf.data.Loader(DATA, sampler, BATCHING, clock=timed)
    return eqf.train(
        algorithm,
        MODEL,
        loader,
        num_rounds=num_rounds,
        key=KEY,
        roles=eqf.roles(MODEL, **kinds),
        **kwargs,
    )


@pytest.mark.parametrize("name", SUMMED)
def test_adapters_that_are_summed_up_can_be_private(name):
    pytest.importorskip("dp_accounting")
    make, kinds = SUMMED[name]
    plan = private_plan()
    algorithm = make(loss, SGD, BATCHING, aggregator=plan.mechanism)
    solution = trained(algorithm, kinds, plan.sampler, privacy=plan)
    assert solution.history[-1]["epsilon"] == plan.epsilon()
    # Noise is on what travels, and on nothing else.
    got, old = (solution.model, MODEL)
    sent = {"FedIT": "ab", "FFA-LoRA": "b", "FedSA-LoRA": "a"}[name]
    for matrix in "ab":
        moved = np.abs(getattr(got, matrix) - getattr(old, matrix)).max()
        assert (moved > 1e-3) == (matrix in sent)
    np.testing.assert_array_equal(got.base.weight, old.base.weight)


@pytest.mark.parametrize("name", OF_PRODUCTS)
def test_of_products_no_promise_is_known(name):
    pytest.importorskip("dp_accounting")
    make, kinds = OF_PRODUCTS[name]
    plan = private_plan()
    words = "does with the clients' messages what no plan is known of"
    with pytest.raises(ValueError, match=words):
        trained(make(loss, SGD, BATCHING), kinds, plan.sampler, privacy=plan)


def timed(algorithm, kinds):
    """A clock that waits for five of the six, and what it counts."""
    loader = eqf.data.Loader(DATA, eqf.data.AllClients(), BATCHING)
    work = clock.Work.of(algorithm, MODEL, loader, roles=eqf.roles(MODEL, **kinds))
    system = clock.SystemModel(speed=1e9, downlink=1e3, uplink=1e2, seed=0)
    return clock.SynchronousClock(system, work, goal=5)


@functools.cache
def attacked(name):
    """After a round by the clock in which one client sends much noise, after one in
    which it sends next to nothing, and the clock: one program for both."""
    make, kinds = METHODS[name]
    plain = make(loss, SGD, BATCHING)
    by_clock = timed(plain, kinds)
    much, little = (
        trained(
            attacks.Attacked(plain, attacks.Noise(std), [1]),
            kinds,
            timed=by_clock,
            num_rounds=1,
        )
        for std in (3.0, 1e-6)
    )
    return much, little, by_clock.work


@pytest.mark.parametrize("name", METHODS)
def test_who_attacks_moves_what_travels_and_nothing_else(name):
    much, little, _ = attacked(name)
    assert much.history[0]["byzantine"] == 1
    paths = {
        "a": lambda m: m.a,
        "b": lambda m: m.b,
        "w": lambda m: m.base.weight,
        "bias": lambda m: m.base.bias,
    }
    parts = {
        name: np.abs(np.asarray(part(much.model)) - np.asarray(part(little.model)))
        for name, part in paths.items()
    }
    moved = {part for part, change in parts.items() if change.max() > 1e-2}
    expected = {
        "FFA-LoRA": {"b"},
        "FedSA-LoRA": {"a"},
        "FedExLoRA": {"a", "b", "w"},
        "FLoRA": {"w"},
        "RoLoRA": {"b"},  # in a first round
    }
    assert moved == expected.get(name, {"a", "b"})


@pytest.mark.parametrize("name", METHODS)
def test_the_clock_counts_what_travels(name):
    solution, _, work = attacked(name)
    [row] = solution.history
    assert row["clients"] == 5
    both, a, b, dense = 8 + 6, 8, 6, 12
    up = {"FFA-LoRA": b, "FedSA-LoRA": a, "RoLoRA": b}.get(name, both)
    down = {"FFA-LoRA": b, "FedSA-LoRA": a}.get(name, both)
    down += dense * (name in ("FedExLoRA", "FLoRA"))
    assert int(work.bits_up) == 32 * (up + 1)
    assert int(work.bits_down) == 32 * down + (name == "RoLoRA")
    travels = 32 * down / 1e3 + 32 * (up + 1) / 1e2
    assert row["seconds"] == pytest.approx(travels, rel=1e-2)
