"""What is wrong with who is chosen to take part."""

import numpy as np

import equifed as eqf

from .algorithms import numbers, POSITIVE, RATE
from .data import flags, seeds
from .parts import counts
from .passes import ifca
from .shared import BATCHING, DATASET, KEY, LOSS, MODEL, NAN, one_round, SGD


data = eqf.data


def everyone(round, clients):
    return clients >= 0


def available(kind):
    """What is wrong with a sampler that is told who is available."""

    def load(said):
        return lambda: data.Loader(DATASET, kind(1, said), BATCHING)

    wrong = "`available` must return True or False for each of the 4 clients"
    return {
        **counts(lambda x: kind(x, everyone), name="cohort_size", least=1),
        **seeds(lambda x: kind(2, everyone, seed=x)),
        "a list of who is available": (
            lambda: kind(2, [0, 1]),
            TypeError,
            "`available` must be a function, got [0, 1]",
        ),
        "more than there are": (
            lambda: data.Loader(DATASET, kind(5, everyone), BATCHING),
            ValueError,
            "`cohort_size` is 5, but the population has only 4",
        ),
        "the numbers of those that are available": (
            load(lambda round, clients: clients[clients > 1]),
            ValueError,
            (wrong, "in round 0"),
        ),
        "a chance to be available": (
            load(lambda round, clients: 0.5 * np.ones(4)),
            ValueError,
            (wrong, "Compare"),
        ),
        "one for all": (
            load(lambda round, clients: True),
            ValueError,
            (wrong, "got True"),
        ),
    }


def oort(num_chosen=1, preferred_seconds=None, **kwargs):
    made = eqf.FedAvg(LOSS, SGD, BATCHING)
    return eqf.Oort(made, num_chosen, preferred_seconds=preferred_seconds, **kwargs)


def share(name):
    outside = {-0.1: "at least 0", 1.5: "at most 1"}
    return numbers(lambda x: oort(**{name: x}), outside, name=name)


TABLE = {
    "Oort": {
        **counts(oort, name="num_chosen", least=1),
        **counts(lambda x: oort(window=x), name="window", least=1),
        **numbers(lambda x: oort(1, x), POSITIVE, name="preferred_seconds"),
        **numbers(lambda x: oort(alpha=x), RATE, name="alpha"),
        **share("exploration"),
        **share("exploration_decay"),
        **share("least_exploration"),
        **share("cutoff"),
        **share("clip"),
        "a loss": (
            lambda: eqf.Oort(LOSS, 1, preferred_seconds=None),
            TypeError,
            "`algorithm` must be an `AbstractAlgorithm`",
        ),
        "nothing said of seconds": (
            lambda: eqf.Oort(eqf.FedAvg(LOSS, SGD, BATCHING), 1),
            TypeError,
            "preferred_seconds",
        ),
        "a loader that does not say how long clients take": (
            lambda: one_round(oort(1, 10.0)),
            ValueError,
            ("how long each client takes", "`preferred_seconds=None`"),
        ),
        "of several models": (
            lambda: one_round(
                made := eqf.Oort(ifca(), 1, preferred_seconds=None),
                made.init(MODEL, num_clients=4, key=KEY),
            ),
            ValueError,
            ("`Oort` compares clients", "`IFCA` trains several"),
        ),
    },
    "OptimalClientSampling": {
        **numbers(eqf.OptimalClientSampling, POSITIVE, name="expected_clients"),
        **flags(lambda x: eqf.OptimalClientSampling(2, weighted=x), name="weighted"),
        **flags(
            lambda x: eqf.OptimalClientSampling(2, approximate=x), name="approximate"
        ),
    },
    "data.LeastOftenSampler": available(data.LeastOftenSampler),
    "data.RoundRobinSampler": available(data.RoundRobinSampler),
    "data.ClusteredSampler": {
        **counts(
            lambda x: data.ClusteredSampler(x, np.ones(4)), name="cohort_size", least=1
        ),
        **seeds(lambda x: data.ClusteredSampler(2, np.ones(4), seed=x)),
        "negative weights": (
            lambda: data.ClusteredSampler(2, [-1.0, 2.0]),
            ValueError,
            "`weights` must not be negative, got -1.0 for client 0",
        ),
        "weights that are NaN": (
            lambda: data.ClusteredSampler(2, [1.0, NAN]),
            ValueError,
            "`weights` must be finite",
        ),
        "weights that are 0": (
            lambda: data.ClusteredSampler(2, np.zeros(3)),
            ValueError,
            "`weights` are all 0",
        ),
        "weights of others": (
            lambda: data.Loader(
                DATASET, data.ClusteredSampler(2, np.ones(7)), BATCHING
            ),
            ValueError,
            ("`weights` has 7 entries", "4 clients"),
        ),
        "an order of some": (
            lambda: data.ClusteredSampler(2, np.ones(4), order=[2, 1, 0]),
            ValueError,
            ("`order` must have the number of every client once, from 0 to 3",),
        ),
        "an order of one twice": (
            lambda: data.ClusteredSampler(2, np.ones(3), order=[2, 1, 1]),
            ValueError,
            ("`order`", "got [2, 1, 1]"),
        ),
        "an order of names": (
            lambda: data.ClusteredSampler(2, np.ones(2), order=["a", "b"]),
            ValueError,
            "`order`",
        ),
    },
}
