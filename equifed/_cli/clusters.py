"""The evaluation of an algorithm of several models: each client has the one that suits
the examples that it trains on."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._algorithm import AbstractAlgorithm, AbstractClusters
from .._evaluate import evaluate, evaluate_own
from .._training import Solution
from .._types import Measure
from ..data import FederatedDataset


def are_several(algorithm: AbstractAlgorithm) -> bool:
    """Whether there is no single model that could be evaluated in between."""
    first = getattr(algorithm, "first", algorithm)  # of an `OverRounds`
    return isinstance(first, AbstractClusters)


def evaluated(
    algorithm: AbstractAlgorithm,
    solution: Solution,
    data: FederatedDataset,
    evaluation: Mapping[str, FederatedDataset],
    metrics: Measure,
) -> dict[str, float]:
    """What is measured of each set whose clients have trained; of others nobody knows
    which model suits them."""
    models: list[Any] = list(algorithm.models(solution.state))
    losses = [
        evaluate(model, data, metrics, per_client=True).values["loss"]
        for model in models
    ]
    best = dict(zip(data.client_ids, np.argmin(losses, axis=0).tolist(), strict=True))
    out = {}
    for name, dataset in evaluation.items():
        if not all(client in best for client in dataset.client_ids):
            continue
        own = [models[best[client]] for client in dataset.client_ids]
        found = evaluate_own(own, dataset, metrics)
        for metric in found.values:
            out[f"{name}/{metric}"] = found.mean(metric, by="examples")
    return out
