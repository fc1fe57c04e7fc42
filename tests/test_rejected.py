"""Rounds that a rule rejects: in whichever pass, and what a training says of them."""

import warnings

import jax
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .shared import line_loss


BATCHING = eqf.data.Epochs(1, batch_size=4, last="drop")
DATASET = testing.ragged_clients((5, 2, 4, 8, 6, 7, 9))
KRUM = eqf.robust.Krum(1)  # of five
# Client 1 has no full batch, and both have six batches, so that one program runs them.
ENOUGH, TOO_FEW = [0, 2, 3, 4, 5], [6, 1, 3, 4, 5]
KEY, SGD = jr.key(0), optax.sgd(0.1)


def fedlin(aggregator, gradient_aggregator):
    return eqf.FedLin(
        *(line_loss, 0.1, BATCHING),
        aggregator=aggregator,
        gradient_aggregator=gradient_aggregator,
    )


MOMENTUM = optax.sgd(0.1, momentum=0.9)


def mime(kind):
    return lambda aggregator, gradient_aggregator: kind(
        *(line_loss, MOMENTUM, BATCHING),
        aggregator=aggregator,
        gradient_aggregator=gradient_aggregator,
    )


TWO_PASSES = {
    "FedLin": fedlin,
    "Mime": mime(eqf.Mime),
    "MimeLite": mime(eqf.MimeLite),
}


def test_these_are_all_that_have_a_rule_for_a_first_pass():
    found = {
        name
        for name, cls in vars(eqf).items()
        if isinstance(cls, type) and "gradient_aggregator" in cls.__annotations__
    }
    assert found == set(TWO_PASSES)


def cohort(clients):
    return eqf.data.cohort(DATASET, BATCHING, clients=clients)


@pytest.mark.parametrize("name", TWO_PASSES)
def test_a_round_is_rejected_by_either_pass(name):
    for rules in ((eqf.UniformMean(), KRUM), (KRUM, eqf.UniformMean())):
        algorithm = TWO_PASSES[name](*rules)
        state = algorithm.init(testing.Linear(), num_clients=7)
        before = jax.tree.map(np.array, (state.params, state.server))
        state, metrics = algorithm.round(state, cohort(TOO_FEW), key=KEY)
        assert metrics["rejected"] == 1
        after = jax.tree.map(np.array, (state.params, state.server))
        assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
        state, metrics = algorithm.round(state, cohort(ENOUGH), key=KEY)
        assert metrics["rejected"] == 0
        assert not np.array_equal(state.params.weight, before[0].weight)


def trained(num_rounds, sampler):
    algorithm = eqf.FedAvg(line_loss, SGD, BATCHING, aggregator=KRUM)
    loader = eqf.data.Loader(DATASET, sampler, BATCHING)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = eqf.train(
            algorithm, testing.Linear(), loader, num_rounds=num_rounds, key=KEY
        )
    return solution, [str(w.message) for w in caught]


class Some(eqf.data.AbstractSampler):
    """Too few clients in some rounds."""

    rejected: tuple
    seed: int

    def __init__(self, *rejected):
        self.rejected, self.seed = rejected, 0

    def __call__(self, round, num_clients):
        return np.array(TOO_FEW if round in self.rejected else ENOUGH)

    def max_clients(self, num_clients):
        return 5


def test_train_tells_of_the_first_round_that_is_rejected_and_of_all():
    solution, said = trained(3, Some(1, 2))
    assert [row["rejected"] for row in solution.history] == [0, 1, 1]
    assert len(said) == 1
    assert said[0].startswith("Round 2 was rejected by its aggregator")
    _, said = trained(3, Some(0, 1, 2))
    assert [text[:25] for text in said] == [
        "Round 1 was rejected by i",
        "All 3 rounds were rejecte",
    ]
    assert "Draw more clients a round, or tell the rule of fewer Byz" in said[1]
    assert trained(2, Some())[1] == []
