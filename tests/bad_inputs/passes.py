"""What is wrong with the methods of several passes and several models."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing

from .algorithms import numbers, RATE, with_number
from .shared import (
    BATCHING,
    DATASET,
    fresh_loss,
    KEY,
    LOSS,
    MODEL,
    one_round,
    SGD,
    train,
)


class Steps(eqf.AbstractAlgorithm):
    """One whose step returns what is given."""

    loss: object
    batching: eqf.data.AbstractBatching
    change: object

    def begin(self, params, *, num_clients, key):
        return eqf.Beginning(params, clients=jnp.zeros(2))

    def step(self, state, clients, *, key):
        client = eqf.LocalSGD(self.loss, SGD, self.batching)
        sent = eqf.Broadcast(state.params, state.rest)
        out = clients(client, eqf.UniformMean(), sent, key=key)
        return self.change(state, out)

    def model(self, state):
        return state.model


def step(change):
    return lambda: one_round(Steps(fresh_loss(), BATCHING, change))


def initialised(**kwargs):
    return eqf.FedAvg(LOSS, SGD, BATCHING).init(MODEL, num_clients=4, **kwargs)


def ifca(kind=eqf.IFCA, **kwargs):
    return kind(LOSS, SGD, BATCHING, **{"num_clusters": 2, **kwargs})


ROWS = jnp.arange(2)
POSTERIORS = eqf.Algorithm(
    eqp.PosteriorClient(LOSS, eqp.SGLD(0.01), BATCHING, eqp.GaussianMoments(1.0)),
    eqp.PosteriorProduct(),
    eqf.OptaxServer(SGD),
)


def with_models(models, begun=MODEL):
    algorithm = ifca()
    state = algorithm.init(begun, num_clients=4, key=KEY)
    return algorithm.with_models(state, models)


def clusters(kind):
    """What both methods of several models refuse."""

    def make(**kwargs):
        return ifca(kind, **kwargs)

    return {
        "no number of clusters": (
            lambda: kind(LOSS, SGD, BATCHING),
            TypeError,
            "missing a required argument: 'num_clusters'",
        ),
        "no cluster": (
            lambda: make(num_clusters=0),
            ValueError,
            "`num_clusters` must be at least 1, got 0",
        ),
        "a fraction of clusters": (
            lambda: make(num_clusters=1.5),
            TypeError,
            "`num_clusters` must be an integer, got 1.5",
        ),
        "a negative spread": (
            lambda: make(spread=-1.0),
            ValueError,
            "`spread` must be at least 0, got -1",
        ),
        "no key": (
            lambda: make().init(MODEL, num_clients=4),
            ValueError,
            (f"`{kind.__name__}` begins with random", "key=jax.random.key(0)"),
        ),
        "a median": (
            lambda: make(aggregator=eqf.Clip(eqf.Median(), max_norm=1.0)),
            TypeError,
            (f"since `{kind.__name__}` divides", "Give `WeightedMean()` or"),
        ),
        "a mean of other numbers": (
            lambda: make(aggregator=eqf.NonzeroMean()),
            TypeError,
            ("`aggregator` must be a mean", "NonzeroMean"),
        ),
        "a stop": (
            lambda: train(algorithm=make(), stop=eqf.Target("loss", 0.1, mode="min")),
            ValueError,
            ("`stop` keeps the best model", "Leave it out"),
        ),
        "an evaluation of several models": (
            lambda: train(
                algorithm=make(), evaluation={"test": eqf.data.digits().select([0])}
            ),
            ValueError,
            ("trains several models", "Leave `evaluation` out"),
        ),
    }


def fedavg():
    return eqf.FedAvg(LOSS, SGD, BATCHING)


PARTS = {
    "a number for the loss": (lambda kind: kind(1.0, SGD, BATCHING), "`loss`"),
    "a rate for the optimiser": (
        lambda kind: kind(LOSS, 0.1, BATCHING),
        "`optax.sgd(learning_rate)`",
    ),
    "a size for the batching": (lambda kind: kind(LOSS, SGD, 8), "`batching` must be"),
}


def parts(kind):
    return {
        case: (lambda call=call: call(kind), TypeError, words)
        for case, (call, words) in PARTS.items()
    }


TABLE = {
    **{
        kind.__name__: {
            **parts(kind),
            **with_number(kind, "server_learning_rate", RATE),
        }
        for kind in (eqf.Mime, eqf.MimeLite)
    },
    "FedSAM": {**parts(eqf.FedSAM), **with_number(eqf.FedSAM, "rho", RATE)},
    "FedExP": {**parts(eqf.FedExP), **with_number(eqf.FedExP, "epsilon", RATE)},
    "SharpnessAware": numbers(eqf.SharpnessAware, RATE, name="rho"),
    "IFCA": clusters(eqf.IFCA),
    "AbstractClusters.with_models": {
        "one too many": (
            lambda: with_models([MODEL] * 3),
            ValueError,
            "`models` must be 2, one for each cluster, got 3",
        ),
        "one model": (
            lambda: with_models(MODEL),
            TypeError,
            ("`models` must be", "Give a list of models"),
        ),
        "of another kind": (
            lambda: with_models([MODEL, testing.Point(1.0)]),
            ValueError,
            ("like the state's", "`models[1]"),
        ),
        "with something else that is not trained": (
            lambda: with_models([(ROWS, MODEL), (ROWS + 1, MODEL)], (ROWS, MODEL)),
            ValueError,
            ("the same of what is not trained", "`models[1]`"),
        ),
    },
    "farthest_first": {
        "another algorithm": (
            lambda: eqf.farthest_first(fedavg(), MODEL, DATASET, key=KEY),
            TypeError,
            ("`algorithm` must be", "Give a `HypCluster`"),
        ),
        "a list for the dataset": (
            lambda: eqf.farthest_first(ifca(), MODEL, [], key=KEY),
            TypeError,
            "`dataset` must be",
        ),
        "more models than clients": (
            lambda: eqf.farthest_first(ifca(num_clusters=50), MODEL, DATASET, key=KEY),
            ValueError,
            ("`farthest_first` needs 50 clients", "Lower `num_clusters`"),
        ),
    },
    "PicksBest": {
        "a loss": (lambda: eqf.PicksBest(LOSS), TypeError, "`client` must be"),  # pyright: ignore
        "a correction that remembers": (
            lambda: eqf.PicksBest(
                eqf.LocalSGD(LOSS, SGD, BATCHING, eqf.ControlVariate())
            ),
            ValueError,
            ("takes `NoCorrection`, `Proximal`", "got `ControlVariate`"),
        ),
    },
    "HypCluster": {
        **clusters(eqf.HypCluster),
        "a rate for the server": (
            lambda: ifca(eqf.HypCluster, server_optim=0.1),
            TypeError,
            "`optax.sgd(learning_rate)`",
        ),
    },
    "Diagnose": {
        "no algorithm": (
            lambda: eqf.Diagnose(LOSS),
            TypeError,
            "`algorithm` must be an `AbstractAlgorithm`",
        ),
        "an aggregator": (
            lambda: eqf.Diagnose(eqf.WeightedMean()),
            TypeError,
            ("`algorithm` must be an `AbstractAlgorithm`", "got a `WeightedMean`"),
        ),
        "a number for the matrix": (
            lambda: eqf.Diagnose(fedavg(), gram=2),
            TypeError,
            "`gram` must be",
        ),
        "one within another": (
            lambda: eqf.Diagnose(eqf.Ledger(eqf.Diagnose(fedavg()))),
            TypeError,
            "`algorithm` has a `Diagnose` in it. One is enough.",
        ),
        "messages that may not be added up": (
            lambda: one_round(eqf.Diagnose(POSTERIORS)),
            TypeError,
            ("`Diagnose` works on each number of a message apart",),
        ),
        "nothing is sent": (
            lambda: one_round(eqf.Diagnose(eqf.LocalOnly(LOSS, SGD, BATCHING))),
            ValueError,
            ("those of `LocalOnly` send nothing", "Leave it out"),
        ),
    },
    "Ledger": {
        "no algorithm": (
            lambda: eqf.Ledger(LOSS),
            TypeError,
            "`algorithm` must be an `AbstractAlgorithm`",
        ),
        "one within another": (
            lambda: eqf.Ledger(eqf.PowerOfChoice(eqf.Ledger(fedavg()), 1)),
            TypeError,
            "`algorithm` has a `Ledger` in it. One is enough.",
        ),
    },
    "PowerOfChoice": {
        "no algorithm": (
            lambda: eqf.PowerOfChoice(LOSS, 1),
            TypeError,
            "`algorithm` must be an `AbstractAlgorithm`",
        ),
        "nobody": (
            lambda: eqf.PowerOfChoice(fedavg(), 0),
            ValueError,
            "`num_chosen` must be at least 1, got 0",
        ),
        "a share": (
            lambda: eqf.PowerOfChoice(fedavg(), 0.5),
            TypeError,
            "`num_chosen` must be an integer, got 0.5",
        ),
        "of several models": (
            lambda: (
                eqf.PowerOfChoice(ifca(), 1).init(MODEL, num_clients=4, key=KEY)
                and one_round(
                    eqf.PowerOfChoice(ifca(), 1),
                    eqf.PowerOfChoice(ifca(), 1).init(MODEL, num_clients=4, key=KEY),
                )
            ),
            ValueError,
            ("`IFCA` trains several", "Wrap an algorithm that trains one"),
        ),
    },
    "OverRounds": {
        "an algorithm": (
            lambda: eqf.OverRounds(fedavg()),
            TypeError,
            "`make` must be a function",
        ),
        "a function of an optimiser": (
            lambda: eqf.OverRounds(lambda t: optax.sgd(0.1)),
            TypeError,
            ("`make(0)` must be an `AbstractAlgorithm`", "GradientTransformation"),
        ),
        **{
            f"a schedule by {how}": (
                lambda rate=rate: eqf.OverRounds(
                    lambda t: eqf.FedAvg(LOSS, optax.sgd(rate(t)), BATCHING)
                ),
                TypeError,
                ("asks for the number of the round", "jnp.where"),
            )
            for how, rate in {
                "if": lambda t: 0.1 if t < 2 else 0.01,
                "float": lambda t: 0.1 * 0.9 ** float(t),
                "NumPy": lambda t: np.power(0.9, t),
            }.items()
        },
    },
    "AbstractAlgorithm.step": {
        "nothing": (
            step(lambda state, out: None),
            TypeError,
            ("`Steps.step` must return the new state", "got None"),
        ),
        "no state": (
            step(lambda state, out: (out, out.metrics, out.aggregate.accept)),
            TypeError,
            "a `State` first",
        ),
        "params of another shape": (
            step(
                lambda state, out: (
                    eqx.tree_at(lambda s: s.params.weight, state, jnp.ones(2)),
                    out.metrics,
                    out.aggregate.accept,
                )
            ),
            TypeError,
            "`state.params.weight` is float32[2] instead of float32[3]",
        ),
        "no metrics": (
            step(lambda state, out: (state, {}, out.aggregate.accept)),
            ValueError,
            ("must report `loss`", "`outcome.metrics`"),
        ),
        "a number for a metric": (
            step(lambda s, out: (s, {**out.metrics, "a": 1.0}, out.aggregate.accept)),
            TypeError,
            "metrics['a']",
        ),
        "accepts by a Python flag": (
            step(lambda state, out: (state, out.metrics, True)),
            TypeError,
            "must be one truth value, as an array",
        ),
    },
    "AbstractAlgorithm.init": {
        "roles that are none": (
            lambda: initialised(roles={"weight": "shared"}),
            TypeError,
            ("`roles` must be", "got {'weight': 'shared'}"),
        ),
        "devices that it does not know": (
            lambda: initialised(client_states="sharded"),
            ValueError,
            ("`client_states` must be 'device', 'host' or a folder here", "rounds`"),
        ),
        "the roles of another model": (
            lambda: initialised(roles=eqf.roles({"a": jnp.ones(2)})),
            ValueError,
            ("`roles` are of another model", "float32[2]"),
        ),
        "a seed for a key": (
            lambda: initialised(key=0),
            TypeError,
            ("`key` must be", "jax.random.key(0)"),
        ),
        "personal leaves under two passes": (
            lambda: eqf.Mime(LOSS, SGD, BATCHING).init(
                MODEL,
                num_clients=4,
                roles=eqf.roles(MODEL, personal=lambda m: m.bias),
            ),
            ValueError,
            ("`Mime` cannot keep personal leaves", "FedAvg"),
        ),
        "personal leaves under control variates": (
            lambda: eqf.Scaffold(LOSS, SGD, BATCHING).init(
                MODEL,
                num_clients=4,
                roles=eqf.roles(MODEL, personal=lambda m: m.bias),
            ),
            ValueError,
            ("`Scaffold` cannot keep personal leaves", "SCAFFOLD's two changes"),
        ),
        "personal leaves where the server sends more": (
            lambda: eqf.FedCM(LOSS, SGD, BATCHING, server_optim=SGD).init(
                MODEL,
                num_clients=4,
                roles=eqf.roles(MODEL, personal=lambda m: m.bias),
            ),
            ValueError,
            ("`FedCM` cannot keep personal leaves", "`ClientMomentum`"),
        ),
        "nothing is shared": (
            lambda: initialised(roles=eqf.roles(MODEL, personal=lambda m: m)),
            ValueError,
            ("nothing is shared", "LocalOnly"),
        ),
    },
}
