"""A training held against a plan for its examples."""

import dataclasses

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


pytest.importorskip("dp_accounting")

BATCHING = eqf.data.Epochs(2, batch_size=4)
DATASET = testing.ragged_clients((8, 4, 12, 5))
SGD = optax.sgd(0.1)
ROUNDS = 4


def client(noise=2.0, *, loss=testing.noisy_loss, batching=BATCHING):
    return eqp.PrivateSGD(*(loss, SGD, batching), max_norm=0.5, noise_multiplier=noise)


def plan(noise=2.0, sampler=None, *, own=None, num_rounds=ROUNDS, **kwargs):
    sampler = eqf.data.ShuffledSampler(2, seed=1) if sampler is None else sampler
    kwargs = {"num_clients": 4, "delta": 1e-3, **kwargs}
    own = client(noise) if own is None else own
    return eqp.ExampleLevelPlan(sampler, own, num_rounds=num_rounds, **kwargs)


def fedavg(own, **kwargs):
    plain = eqf.FedAvg(own.loss, SGD, own.batching, **kwargs)
    return eqx.tree_at(lambda a: a.client, plain, own)


def trained(made, algorithm=None, *, sampler=None, dataset=DATASET, **kwargs):
    algorithm = fedavg(made.client) if algorithm is None else algorithm
    loader = eqf.data.Loader(dataset, sampler or made.sampler, algorithm.batching)
    kwargs = {"num_rounds": ROUNDS, "key": jr.key(1), "privacy": made, **kwargs}
    return eqf.train(algorithm, testing.Linear(), loader, **kwargs)


def same(x, y):
    jtu.tree_map(np.testing.assert_array_equal, x, y)


def test_every_round_has_the_epsilon_of_the_rounds_up_to_it():
    made = plan().for_epsilon(8.0)
    solution = trained(made)
    for row in solution.history:
        assert row["epsilon"] == made.epsilon(row["round"])
        # The loss is of the examples; how many clients came is known.
        assert "loss" not in row
        assert row["clients"] == 2
    # Two rounds are a pass of two clients each, and four are two.
    epsilons = [row["epsilon"] for row in solution.history]
    assert epsilons[0] == epsilons[1] < epsilons[2] == epsilons[3] <= 8.0
    same(solution.model, trained(made, privacy=None).model)
    named = dataclasses.replace(made, unprotected=("loss",))
    assert "loss" in trained(named).history[0]


def test_a_sweep_is_held_against_it():
    made = plan()
    algorithm = fedavg(made.client)
    loader = eqf.data.Loader(DATASET, made.sampler, BATCHING)
    runs = eqf.sweep(
        *({"a": algorithm}, lambda key: testing.Linear(), loader),
        num_rounds=2,
        keys=[jr.key(0)],
        privacy=made,
    )
    history = runs["a"][0].history
    assert [row["epsilon"] for row in history] == [made.epsilon(1), made.epsilon(2)]
    with pytest.raises(ValueError, match="as the plan's client does"):
        eqf.sweep(
            *({"a": fedavg(client(1.0))}, lambda key: testing.Linear(), loader),
            num_rounds=2,
            keys=[jr.key(0)],
            privacy=made,
        )


def test_a_resumed_run_has_the_epsilons_of_a_straight_one(tmp_path):
    made = plan()

    def run(rounds, name, made=made, **kwargs):
        saves = eqf.Checkpointer(tmp_path / name, every=1, **kwargs)
        return trained(made, num_rounds=rounds, checkpointer=saves)

    run(2, "a")
    resumed, straight = run(ROUNDS, "a"), run(ROUNDS, "b")
    same(resumed.model, straight.model)
    assert resumed.history == straight.history
    assert resumed.history[-1]["epsilon"] == made.epsilon(ROUNDS)
    # The rounds before had less noise than those that are to come.
    run(2, "c", plan(0.5))
    with pytest.raises(ValueError, match="would not be that of the rounds before"):
        run(ROUNDS, "c", on_change="warn")


class _Reads(eqf.AbstractOnePass):
    """FedAvg whose server reads one thing more."""

    client: eqf.AbstractClient
    aggregator: eqf.AbstractAggregator
    server: eqf.AbstractServer
    what: str = eqx.field(static=True)

    def __init__(self, like, what):
        self.client, self.aggregator = like.client, like.aggregator
        self.server, self.what = like.server, what

    def step(self, state, clients, *, key):
        if self.what == "twice":
            state = eqf.AbstractOnePass.step(self, state, clients, key=key)[0]
        state, metrics, accept = eqf.AbstractOnePass.step(self, state, clients, key=key)
        if self.what == "loss":
            by = metrics["loss"].compute()
        elif self.what == "examples":
            by = clients.cohort.examples["x"].mean()
        else:  # What is known of a round.
            there = clients.present.sum().astype(jnp.float32)
            by = metrics["clients"].compute() + there
        params = jtu.tree_map(lambda x: x + by.astype(x.dtype), state.params)
        return dataclasses.replace(state, params=params), metrics, accept


@pytest.mark.parametrize(
    ("what", "words"),
    (
        ("loss", "makes use of the clients' metric 'loss'"),
        ("examples", "makes use of the clients' examples"),
        ("twice", "makes 2 passes over its clients"),
        ("count", None),
    ),
)
def test_a_server_reads_nothing_of_the_examples_but_messages(what, words):
    made = plan()
    own = _Reads(fedavg(made.client), what)
    if words is None:
        assert trained(made, own).history[-1]["epsilon"] == made.epsilon()
    else:
        with pytest.raises(ValueError, match=words):
            trained(made, own)


@pytest.mark.parametrize(
    "aggregator",
    (eqf.Median(), eqf.UniformMean(), eqf.Clip(eqf.UniformMean(), max_norm=1.0)),
    ids=lambda x: type(x).__name__,
)
def test_what_becomes_of_the_messages_costs_nothing(aggregator):
    made = plan()
    history = trained(made, fedavg(made.client, aggregator=aggregator)).history
    assert history[-1]["epsilon"] == made.epsilon()


def test_a_run_that_is_not_the_plan_s_is_refused():
    made = plan()
    cases = {
        "as the plan's client does": {"algorithm": fedavg(client(1.0))},
        "got a `LocalSGD`": {"algorithm": eqf.FedAvg(made.client.loss, SGD, BATCHING)},
        "The plan's sampler is": {"sampler": eqf.data.ShuffledSampler(2, seed=2)},
        "The plan is for 4 clients": {"dataset": testing.ragged_clients((8, 4, 12))},
        "`num_rounds` must be at most 4": {"num_rounds": 5},
        "that of the plan's client is": {
            "algorithm": fedavg(client(batching=eqf.data.Epochs(3, batch_size=4)))
        },
        "is evaluated on clients who train": {"evaluation": {"test": DATASET}},
    }
    for words, change in cases.items():
        with pytest.raises(ValueError, match=words):
            trained(made, **change)
    changed = eqx.tree_at(
        lambda p: p.client.batching, made, eqf.data.Steps(2, batch_size=4)
    )
    with pytest.raises(ValueError, match="batches that are filled up"):
        trained(changed)
    assert trained(plan(0.0)).history[-1]["epsilon"] == jnp.inf
