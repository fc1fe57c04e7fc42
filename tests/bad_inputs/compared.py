"""What is wrong with comparisons of the same clients."""

import numpy as np

import equifed as eqf
from equifed import plot


def found(ids=("a", "b"), shape=()):
    values = {"loss": np.ones((len(ids), *shape))}
    return eqf.ClientMetrics(values, np.ones(len(ids), int), list(ids))


def compared(evaluations=None, metric="loss", **kwargs):
    if evaluations is None:
        evaluations = {"FedAvg": found(), "Ditto": found()}
    kwargs = {"mode": "min", "baselines": ["FedAvg"], **kwargs}
    return eqf.ClientComparison(evaluations, metric, **kwargs)


ALONE = compared(baselines=())
TABLE = {
    "ClientComparison": {
        "no evaluation": (lambda: compared({}), ValueError, "`found` is empty"),
        "evaluations without names": (
            lambda: compared([found()]),
            TypeError,
            ("`found`", "{'FedAvg': found}"),
        ),
        "no such metric": (
            lambda: compared(metric="accuracy"),
            ValueError,
            ("'accuracy'", "`found['FedAvg']`", "loss"),
        ),
        "an array for each client": (
            lambda: compared({"FedAvg": found(shape=(2,))}),
            ValueError,
            ("'loss' is an array", "cannot be ranked"),
        ),
        "a baseline that is not there": (
            lambda: compared(baselines=["FedPer"]),
            ValueError,
            ("`baselines` names 'FedPer'", "FedAvg"),
        ),
        "one name for several": (
            lambda: compared(baselines="FedAvg"),
            TypeError,
            ("`baselines` must be several names", "['FedAvg']"),
        ),
        "other clients": (
            lambda: compared({"FedAvg": found(), "Ditto": found(("c", "d"))}),
            ValueError,
            ("`found['Ditto']` and `found['FedAvg']`", "no client in common"),
        ),
        "neither more nor less": (
            lambda: compared(mode="higher"),
            ValueError,
            ("`mode` must be 'max' or 'min'", "'higher'"),
        ),
    },
    "ClientComparison.matched": {
        "no such evaluation": (
            lambda: compared().matched("FedPer", "FedAvg"),
            ValueError,
            ("no evaluation 'FedPer'", "Ditto"),
        ),
    },
    "ClientComparison.gains": {
        "no such evaluation": (
            lambda: compared().gains("Ditto", "FedPer"),
            ValueError,
            ("no evaluation 'FedPer'", "Ditto"),
        ),
    },
    "plot.client_gains": {
        "one evaluation": (
            lambda: plot.client_gains(found()),
            TypeError,
            ("`comparison`", "equifed.ClientComparison"),
        ),
        "no baseline": (
            lambda: plot.client_gains(ALONE),
            ValueError,
            ("no baseline", "`baseline=`"),
        ),
        "a baseline that is not there": (
            lambda: plot.client_gains(ALONE, baseline="FedPer"),
            ValueError,
            ("`baseline` must be", "'FedPer'"),
        ),
        "nothing beside it": (
            lambda: plot.client_gains(compared({"FedAvg": found()})),
            ValueError,
            "no client to draw",
        ),
    },
}
