"""The evaluation of an algorithm without one model: each client has its own, or that of
several which suits the examples that it trains on."""

from collections.abc import Mapping
from operator import itemgetter

import equinox as eqx
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PRNGKeyArray

from .._algorithm import AbstractAlgorithm, AbstractClusters
from .._evaluate import evaluate, evaluate_own
from .._round import State
from .._training import Solution
from .._types import Measure, Model
from ..data import FederatedDataset
from ..recipes import Task


def are_several(algorithm: AbstractAlgorithm, task: Task) -> bool:
    """Whether there is no single model that could be evaluated in between."""

    def begun(key: PRNGKeyArray) -> State:
        return algorithm.init(task.model(key), num_clients=1, key=jr.clone(key))

    return algorithm.model(eqx.filter_eval_shape(begun, jr.key(0))) is None


def evaluated(
    algorithm: AbstractAlgorithm,
    solution: Solution,
    data: FederatedDataset,
    evaluation: Mapping[str, FederatedDataset],
    metrics: Measure,
) -> dict[str, float]:
    """What is measured of each set whose clients have trained; of others nobody knows
    which model is theirs."""
    own = _of_clusters if isinstance(_first(algorithm), AbstractClusters) else _own
    models = own(algorithm, solution.state, data, metrics)
    out = {}
    for name, dataset in evaluation.items():
        if not all(client in models for client in dataset.client_ids):
            continue
        each = [models[client] for client in dataset.client_ids]
        found = evaluate_own(each, dataset, metrics)
        for metric in found.values:
            out[f"{name}/{metric}"] = found.mean(metric, by="examples")
    return out


def _first(algorithm: AbstractAlgorithm) -> AbstractAlgorithm:
    return getattr(algorithm, "first", algorithm)  # of an `OverRounds`


def _own(
    algorithm: AbstractAlgorithm, state: State, data: FederatedDataset, metrics: Measure
) -> dict[str, Model]:
    """The model that each client keeps."""
    return {
        client: algorithm.own_model(state, jtu.tree_map(itemgetter(i), state.clients))
        for i, client in enumerate(data.client_ids)
    }


def _of_clusters(
    algorithm: AbstractAlgorithm, state: State, data: FederatedDataset, metrics: Measure
) -> dict[str, Model]:
    """That of the models whose loss is the least on what a client trains on."""
    models = algorithm.models(state)
    losses = [
        evaluate(model, data, metrics, per_client=True).values["loss"]
        for model in models
    ]
    best = np.argmin(losses, axis=0).tolist()
    return {client: models[k] for client, k in zip(data.client_ids, best, strict=True)}
