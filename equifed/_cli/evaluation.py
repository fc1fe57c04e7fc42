"""Which model is evaluated: the one that is trained; each client's own; or, at the end,
that of several which suits the examples that a client trains on."""

from collections.abc import Mapping
from typing import Literal

import equinox as eqx
import jax.random as jr
import numpy as np

from .._algorithm import AbstractAlgorithm
from .._evaluate import evaluate, evaluate_own, FineTune, Personal
from .._evaluate.made import gives_own, newcomer
from .._roles import Roles
from .._training import Solution
from .._types import Measure, Model
from ..data import FederatedDataset


def whose(
    algorithm: AbstractAlgorithm, model: Model, roles: Roles | None
) -> Literal["all", "own", "cluster"]:
    """Who uses a model: all clients the same, each its own, or a cluster of them."""

    def used() -> str:
        state = algorithm.init(model, num_clients=1, key=jr.key(0), roles=roles)
        if algorithm.own_model(state, newcomer(algorithm, state)) is None:
            return "cluster"
        return "own" if gives_own(algorithm, state) else "all"

    return eqx.filter_eval_shape(used)


def own_of(
    dataset: FederatedDataset, trained: FederatedDataset, tune: FineTune | None
) -> Personal:
    """The evaluation of each client's own model. Clients who have not trained are tuned
    on a half of their examples, and evaluated on the other."""
    known = set(trained.client_ids)
    if tune is None or all(client in known for client in dataset.client_ids):
        return Personal(dataset, fine_tune=tune)
    few, rest = dataset.split_examples(0.5, seed=0)
    return Personal(rest, fine_tune=tune, support=few)


def of_clusters(
    algorithm: AbstractAlgorithm,
    solution: Solution,
    data: FederatedDataset,
    evaluation: Mapping[str, FederatedDataset],
    metrics: Measure,
) -> dict[str, float]:
    """What is measured of each set whose clients have trained; of others nobody knows
    which model is theirs."""
    models = algorithm.models(solution.state)
    losses = [
        evaluate(model, data, metrics, per_client=True).values["loss"]
        for model in models
    ]
    best = dict(zip(data.client_ids, np.argmin(losses, axis=0).tolist(), strict=True))
    out = {}
    for name, dataset in evaluation.items():
        if not all(client in best for client in dataset.client_ids):
            continue
        each = [models[best[client]] for client in dataset.client_ids]
        found = evaluate_own(each, dataset, metrics)
        for metric in found.values:
            out[f"{name}/{metric}"] = found.mean(metric, by="examples")
    return out
