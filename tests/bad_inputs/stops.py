"""What ends a training, sweeps, the clients' own models, and confusion matrices."""

import jax
import jax.numpy as jnp
import numpy as np

import equifed as eqf
from equifed import plot

from .parts import counts
from .shared import (
    BATCHING,
    DATASET,
    fresh_loss,
    KEY,
    LOADER,
    LOSS,
    mesh_of,
    MODEL,
    NAN,
    SGD,
    train,
    WHOLE,
)


class Own(eqf.AbstractStop):
    """One of the user's own."""

    metric: object = "loss"
    mode: object = "min"

    def __call__(self, history):
        return False


def modes(make):
    return {
        "no mode": (lambda: make(), TypeError, "'mode'"),
        "another mode": (
            lambda: make(mode="maximum"),
            ValueError,
            ("`mode` must be 'max' or 'min'", "'maximum'"),
        ),
    }


def sweep(**kwargs):
    given = {
        "algorithms": {"a": eqf.FedAvg(fresh_loss(), SGD, BATCHING)},
        "model": lambda key: MODEL,
        "loader": LOADER,
        "num_rounds": 2,
        "keys": [KEY],
        **kwargs,
    }
    return eqf.sweep(**given)


EVALUATOR = eqf.Evaluator(DATASET, LOSS)
TABLE = {
    "Target": {
        **modes(lambda **kwargs: eqf.Target("loss", 0.5, **kwargs)),
        "text for a number": (
            lambda: eqf.Target("loss", "low", mode="min"),
            TypeError,
            ("`value`", "'low'"),
        ),
        "not a number": (
            lambda: eqf.Target("loss", NAN, mode="min"),
            ValueError,
            "`value` must be finite, got nan",
        ),
        "a number for a name": (
            lambda: eqf.Target(0.5, 0.5, mode="min"),
            TypeError,
            ("`metric`", "0.5"),
        ),
    },
    "Patience": {
        **modes(lambda **kwargs: eqf.Patience("loss", rounds=3, **kwargs)),
        **counts(
            lambda x: eqf.Patience("loss", rounds=x, mode="min"), name="rounds", least=1
        ),
        "a negative delta": (
            lambda: eqf.Patience("loss", rounds=3, mode="min", min_delta=-1.0),
            ValueError,
            "`min_delta` must be at least 0, got -1",
        ),
    },
    "train": {
        "a number for a stop": (
            lambda: train(stop=0.5),
            TypeError,
            ("`stop`", "0.5", "Target"),
        ),
        "a stop of another mode": (
            lambda: train(stop=Own(mode="maximum")),
            ValueError,
            ("`stop.mode` must be 'max' or 'min'", "'maximum'"),
        ),
        "a stop without a metric": (
            lambda: train(stop=Own(metric=None)),
            TypeError,
            ("`stop.metric`", "None"),
        ),
        "a stop by what no evaluation has": (
            lambda: train(
                stop=eqf.Target("test/accuracy", 0.5, mode="max"),
                evaluation={"test": DATASET},
            ),
            ValueError,
            ("`stop`", "no metric 'test/accuracy'", "test/loss"),
        ),
    },
    "ClientQuantiles": {
        "a model for a data set": (
            lambda: eqf.ClientQuantiles(MODEL),
            TypeError,
            ("`dataset`", "a `Linear`"),
        ),
        "a percentage": (
            lambda: eqf.ClientQuantiles(DATASET, (10, 50)),
            ValueError,
            "`q` must be at most 1, got 10",
        ),
        "a number for several": (
            lambda: eqf.ClientQuantiles(DATASET, 0.5),
            TypeError,
            ("`q`", "got 0.5"),
        ),
        "one twice": (
            lambda: eqf.ClientQuantiles(DATASET, (0.5, 0.5)),
            ValueError,
            "`q` must be one or several different quantiles",
        ),
        "two of one name": (
            lambda: eqf.ClientQuantiles(DATASET, (0.5, 0.5 + 1e-9)),
            ValueError,
            "`q` must be one or several different quantiles",
        ),
        "a tail of nothing": (
            lambda: eqf.ClientQuantiles(DATASET, tail=0),
            ValueError,
            "`tail` must be more than 0, got 0",
        ),
        "a tail of ten": (
            lambda: eqf.ClientQuantiles(DATASET, tail=10),
            ValueError,
            "`tail` must be at most 1, got 10",
        ),
        "by='client'": (
            lambda: eqf.ClientQuantiles(DATASET, by="client"),
            ValueError,
            ("`by` must be 'clients' or 'examples'", "'client'"),
        ),
    },
    "SampledClients": {
        "a model for a data set": (
            lambda: eqf.SampledClients(MODEL, eqf.data.AllClients()),
            TypeError,
            ("`dataset`", "a `Linear`"),
        ),
        "a number for a sampler": (
            lambda: eqf.SampledClients(DATASET, 10),
            TypeError,
            ("`sampler`", "UniformSampler(10, seed=0)", "got 10"),
        ),
        "more clients than there are": (
            lambda: eqf.SampledClients(DATASET, eqf.data.UniformSampler(9, seed=0)),
            ValueError,
            "`cohort_size` is 9, but the population has only 4",
        ),
    },
    "sweep": {
        "no algorithm": (
            lambda: sweep(algorithms={}),
            ValueError,
            "`algorithms` is empty",
        ),
        "a list of algorithms": (
            lambda: sweep(algorithms=[]),
            TypeError,
            ("`algorithms`", "{'FedAvg': algorithm}"),
        ),
        "a model for what makes one": (
            lambda: sweep(model=eqf.nn.Conv2d(1, 1, 3, key=KEY)),
            TypeError,
            ("`model` must be a function of a key", "a `Conv2d`"),
        ),
        "one key": (
            lambda: sweep(keys=KEY),
            ValueError,
            ("`keys` must be several keys", "split"),
        ),
        "numbers for keys": (
            lambda: sweep(keys=[0, 1]),
            (ValueError, TypeError),
            "`keys`",
        ),
        "a mesh": (
            lambda: sweep(
                loader=eqf.data.Loader(
                    *(DATASET, eqf.data.AllClients(), BATCHING), mesh=mesh_of("clients")
                )
            ),
            ValueError,
            "`sweep` runs on one device, but the loader has a mesh",
        ),
        "another batching": (
            lambda: sweep(algorithms={"a": eqf.FedAvg(fresh_loss(), SGD, WHOLE)}),
            ValueError,
            "The loader's batching is",
        ),
        "a data set without a name": (
            lambda: sweep(evaluation=DATASET),
            TypeError,
            ("`evaluation`", "{'test': dataset}"),
        ),
        "a number for a name": (
            lambda: sweep(evaluation={1: DATASET}),
            ValueError,
            "`evaluation` must name its datasets by text",
        ),
        "an empty name": (
            lambda: sweep(evaluation={"": DATASET}),
            ValueError,
            ("`evaluation` must name its datasets", "{'test': dataset}"),
        ),
        "two metrics of one name": (
            lambda: sweep(
                evaluation={"a": DATASET, "a/b": DATASET},
                metrics=lambda model, example, key: {
                    "b/c": jnp.zeros(()),
                    "c": jnp.zeros(()),
                },
            ),
            ValueError,
            "Two metrics would be called 'a/b/c'",
        ),
        **counts(lambda x: sweep(num_rounds=x), name="num_rounds", least=0),
        **counts(lambda x: sweep(eval_every=x), name="eval_every", least=1),
    },
    "evaluate_own": {
        "two models": (
            lambda: eqf.evaluate_own([MODEL] * 2, DATASET, LOSS),
            ValueError,
            ("`models` must be one model for each of the 4 clients", "got 2"),
        ),
        "one model": (
            lambda: eqf.evaluate_own(MODEL, DATASET, LOSS),
            ValueError,
            ("`models` must be a list of 4 models", "`eqx.filter_vmap`"),
        ),
        "a model unlike the others": (
            lambda: eqf.evaluate_own(
                [MODEL] * 3 + [jax.tree.map(lambda x: x[None], MODEL)], DATASET, LOSS
            ),
            ValueError,
            ("alike", "`models[3].weight`"),
        ),
        "a model for a data set": (
            lambda: eqf.evaluate_own([MODEL], MODEL, LOSS),
            TypeError,
            ("`dataset`", "a `Linear`"),
        ),
        **counts(
            lambda x: eqf.evaluate_own(
                [MODEL] * 4, DATASET, fresh_loss(), batch_size=x
            ),
            name="batch_size",
            least=1,
        ),
    },
    "Evaluator.own": {
        "no models": (
            lambda: EVALUATOR.own([]),
            ValueError,
            ("`models` must be one model for each of the 4 clients", "got 0"),
        ),
        "a number for a key": (
            lambda: EVALUATOR.own([MODEL] * 4, key=0),
            TypeError,
            ("`key`", "got 0"),
        ),
    },
    "plot.confusion_matrix": {
        "a vector": (
            lambda: plot.confusion_matrix(np.ones(3)),
            ValueError,
            "`counts` must be a square matrix",
        ),
        "a label without a logit": (
            lambda: plot.confusion_matrix(jnp.full((2, 2), NAN)),
            ValueError,
            ("`counts` must be finite", "no logit"),
        ),
        "too few names": (
            lambda: plot.confusion_matrix(np.eye(3), classes=["a", "b"]),
            ValueError,
            "`classes` must be 3 names, one for each class, got 2",
        ),
        "a number for a flag": (
            lambda: plot.confusion_matrix(np.eye(3), normalize=1),
            TypeError,
            ("`normalize`", "got 1"),
        ),
    },
}
