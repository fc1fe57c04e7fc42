"""Methods that users call, one by one."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

import equifed as eqf
from equifed import data, nn, objectives, testing

from .data import stream
from .parts import counts
from .running import client_metrics
from .shared import BATCHING, DATASET, KEY, LOADER, LOSS, MODEL, SGD


PROBLEM = objectives.FederatedProblem(
    [objectives.Quadratic(np.eye(2), np.ones(2)) for _ in range(2)]
)
COLUMNS = testing.Quadratics((1.0,), (1.0,), (4,))


def algorithm():
    return eqf.FedAvg(LOSS, SGD, BATCHING)


def checkpointer():
    return eqf.Checkpointer("made")


def flag(make):
    """What takes whether objectives are weighted."""
    return {
        "a number for a flag": (
            lambda: make(1),
            TypeError,
            "`weighted` must be True or False, got 1",
        ),
        "text for a flag": (
            lambda: make("no"),
            TypeError,
            "`weighted` must be True or False, got 'no'",
        ),
    }


def bounds(make):
    """What takes the first round, and the one to stop before."""
    return {
        **counts(lambda x: make(x, None), name="start", least=0),
        **counts(lambda x: make(0, x), name="stop", least=0),
    }


def unlike(metric):
    """What a metric refuses to be merged with."""
    return {
        "another metric": (
            lambda: metric.merge(eqf.ConfusionMatrix(np.ones(3, np.float32), 0)),
            TypeError,
            ("`other` must be a", f"`{type(metric).__name__}`", "a `ConfusionMatrix`"),
        ),
        "a number": (lambda: metric.merge(3), TypeError, ("`other`", "got 3")),
        "another shape": (
            lambda: metric.merge(jtu.tree_map(lambda x: jnp.stack([x, x]), metric)),
            ValueError,
            ("must be alike: `other.", "instead of"),
        ),
    }


TABLE = {
    "ClientMetrics.quantiles": {
        "no such metric": (
            lambda: client_metrics().quantiles("acc"),
            ValueError,
            ("'acc'", "loss"),
        ),
        "no quantile": (
            lambda: client_metrics().quantiles("loss", (1.5,)),
            ValueError,
            "1.5",
        ),
    },
    "ClientMetrics.tail": {
        "no such metric": (
            lambda: client_metrics().tail("acc"),
            ValueError,
            ("'acc'", "loss"),
        ),
        "a percentage": (
            lambda: client_metrics().tail("loss", 10),
            ValueError,
            "`share` must be at most 1, got 10",
        ),
        "no share": (
            lambda: client_metrics().tail("loss", 0),
            ValueError,
            "`share` must be more than 0, got 0",
        ),
        "no such end": (
            lambda: client_metrics().tail("loss", end="worst"),
            ValueError,
            ("`end` must be 'low' or 'high'", "'worst'"),
        ),
        "by='client'": (
            lambda: client_metrics().tail("loss", by="client"),
            ValueError,
            ("`by` must be 'clients' or 'examples'", "'client'"),
        ),
    },
    "ClientMetrics.mean": {
        "no such metric": (
            lambda: client_metrics().mean("acc"),
            ValueError,
            ("'acc'", "loss"),
        ),
    },
    "Evaluator.per_client": {
        "a model that refuses the examples": (
            lambda: eqf.Evaluator(DATASET, LOSS).per_client(testing.Linear(5)),
            ValueError,
            ("float32[3]", "without a batch axis"),
        ),
        "an integer for a key": (
            lambda: eqf.Evaluator(DATASET, LOSS).per_client(MODEL, key=0),
            TypeError,
            (
                "`key` must be one random key or None, got 0",
                "Make one with `jax.random.key(0)`",
            ),
        ),
        "an old-style key of another kind": (
            lambda: eqf.Evaluator(DATASET, LOSS).per_client(
                MODEL, key=jr.key_data(jr.key(0, impl="rbg"))
            ),
            TypeError,
            ("`key` must be one random key", "got an array uint32[4]"),
        ),
    },
    "Average.merge": unlike(eqf.Average(1.0)),
    "Checkpointer.fingerprint": {
        "a number for an algorithm": (
            lambda: checkpointer().fingerprint(3, MODEL, LOADER, key=KEY),
            TypeError,
            ("`algorithm`", "got 3"),
        ),
        "a data set for a loader": (
            lambda: checkpointer().fingerprint(algorithm(), MODEL, DATASET, key=KEY),
            TypeError,
            ("`loader`", "a `FederatedDataset`"),
        ),
        "an integer for a key": (
            lambda: checkpointer().fingerprint(algorithm(), MODEL, LOADER, key=0),
            TypeError,
            "`key` must be one random key, got 0",
        ),
    },
    "Checkpointer.save": {
        **counts(lambda x: checkpointer().save(x, MODEL, []), name="round", least=0),
        "no list": (
            lambda: checkpointer().save(1, MODEL, 3),
            TypeError,
            ("`history`", "got 3"),
        ),
        "a number for a row": (
            lambda: checkpointer().save(1, MODEL, [3]),
            TypeError,
            "`history[0]` must be a dictionary of numbers by name, got 3",
        ),
    },
    "Checkpointer.restore": {
        "an algorithm for its name": (
            lambda: checkpointer().restore(MODEL, algorithm=algorithm()),
            TypeError,
            ("`algorithm` must be text", "a `FedAvg`"),
        ),
    },
    "Checkpointer.should_save": counts(
        lambda x: checkpointer().should_save(x), name="round", least=0
    ),
    "Cohort.client": {
        **counts(lambda x: LOADER(0).client(x), name="slot", least=0),
        "no such slot": (
            lambda: LOADER(0).client(4),
            ValueError,
            "`slot` must be at most 3, got 4",
        ),
        "no such device": (
            lambda: LOADER(0).client(0, device=1),
            ValueError,
            "`device` must be at most 0, got 1",
        ),
    },
    "ClientData.fold_examples": counts(
        lambda x: LOADER(0).client(0).fold_examples(None, 0, batch_size=x),
        name="batch_size",
        least=1,
    ),
    "ClientData.fold_groups": counts(
        lambda x: LOADER(0).client(0).fold_groups(None, 0, size=x),
        name="size",
        least=1,
    ),
    "Solution.values": {
        "no such metric": (
            lambda: solution().values("loss"),
            ValueError,
            "'loss'",
        ),
        "a number": (lambda: solution().values(3), ValueError, "no metric 3"),
    },
    "data.FederatedDataset.index": {
        "nobody": (
            lambda: DATASET.index("nobody"),
            ValueError,
            ("There is no client 'nobody' among the 4", "'client000'"),
        ),
    },
    "data.FederatedDataset.map_clients": {
        "no function": (
            lambda: DATASET.map_clients(3),
            TypeError,
            "`fn` must be a function, got 3",
        ),
        "no columns": (
            lambda: DATASET.map_clients(lambda client_id, columns: 3),
            TypeError,
            ("client 'client000'", "a dictionary of arrays by column, got 3"),
        ),
    },
    "data.Loader.cohorts": bounds(LOADER.cohorts),
    "data.StreamLoader.cohorts": bounds(
        lambda start, stop: data.StreamLoader(stream(), 2, BATCHING).cohorts(
            start, stop
        )
    ),
    "nn.Conv2d.from_equinox": {
        "another layer": (
            lambda: nn.Conv2d.from_equinox(eqx.nn.Linear(2, 2, key=KEY)),
            ValueError,
            ("`equinox.nn.Conv2d`", "`Linear`"),
        ),
    },
    "nn.LSTM.from_equinox": {
        "another layer": (
            lambda: nn.LSTM.from_equinox(eqx.nn.Linear(2, 2, key=KEY)),
            TypeError,
            ("`cell`", "a `Linear`"),
        ),
    },
    "objectives.FederatedProblem.objective": flag(
        lambda x: PROBLEM.objective(weighted=x)
    ),
    "objectives.FederatedProblem.optimum": flag(lambda x: PROBLEM.optimum(weighted=x)),
    "testing.Quadratics.optimum": flag(lambda x: COLUMNS.optimum(weighted=x)),
}


def solution():
    state = algorithm().init(MODEL, num_clients=4)
    return eqf.Solution(MODEL, state, eqf.RESULTS.successful, [])
