"""What a training evaluates its models on: all clients, all with their quantiles, or a
sample of them. Each is asked after a round, whose number a sampler depends on.
"""

from typing import Any, TypeAlias

import numpy as np
from jax.sharding import Mesh

from .._history import plain
from .._metrics import compute_metrics
from .._tree import tree_zeros_like
from .._types import Measure, Model
from ..data import FederatedDataset
from .clients import ClientMetrics
from .evaluator import Evaluator
from .over_rows import check_evaluation
from .quantiles import ClientQuantiles
from .sampled import SampledClients


Evaluated: TypeAlias = FederatedDataset | ClientQuantiles | SampledClients


class WholeEvaluator:
    """The metrics over all examples."""

    def __init__(self, dataset: FederatedDataset, metrics: Measure, mesh: Mesh | None):
        self._evaluator = Evaluator(dataset, metrics, mesh=mesh)

    def check(self, model: Model, where: str) -> list[str]:
        """What it measures, or could: whether a metric is one number is not known."""
        return self._evaluator._check(model, where)

    def __call__(self, model: Model, round: int) -> dict[str, Any]:
        """What it measures of the model after a round, of which 0 is the first."""
        del round
        return self._evaluator(model)


class QuantileEvaluator:
    """The same, with quantiles over the clients."""

    def __init__(self, of: ClientQuantiles, metrics: Measure, mesh: Mesh | None):
        self._of = of
        self._evaluator = Evaluator(of.dataset, metrics, mesh=mesh)

    def check(self, model: Model, where: str) -> list[str]:
        names = self._evaluator._check(model, where)
        return [*names, *(f"{n}/{label}" for n in names for label in self._of.labels)]

    def __call__(self, model: Model, round: int) -> dict[str, Any]:
        del round
        found, each = self._evaluator._both(model)
        for name, value in each.values.items():
            if value.ndim == 1:
                numbers = _ranked(self._of, name, each)
                for label, x in zip(self._of.labels, numbers, strict=True):
                    found[f"{name}/{label}"] = x
        return found


def _ranked(of: ClientQuantiles, name: str, clients: ClientMetrics) -> list[float]:
    """What is said of a metric, in the order of the labels."""
    found = list(clients.quantiles(name, of.q, by=of.by).values())
    if of.tail is not None:
        found.append(clients.tail(name, of.tail, end="low", by=of.by))
        found.append(clients.tail(name, of.tail, end="high", by=of.by))
    return found


class SampleEvaluator:
    """The metrics over the examples of clients that are drawn."""

    def __init__(self, of: SampledClients, metrics: Measure, mesh: Mesh | None):
        self._of, self._metrics = of, metrics
        self._evaluator = Evaluator(of.dataset, metrics, mesh=mesh)

    def check(self, model: Model, where: str) -> list[str]:
        return self._evaluator._check(model, where)

    def __call__(self, model: Model, round: int) -> dict[str, Any]:
        dataset = self._of.dataset
        drawn = np.unique(self._of.sampler(round, dataset.num_clients))
        drawn = drawn[np.asarray(dataset.client_sizes)[drawn] > 0]
        if drawn.size > 0:
            return self._evaluator._on(dataset.select(drawn), model)
        of_none = check_evaluation(self._metrics, model, dataset.example)
        found = compute_metrics(tree_zeros_like(of_none))
        return {name: plain(x) for name, x in found.items()}


AnyEvaluator: TypeAlias = WholeEvaluator | QuantileEvaluator | SampleEvaluator


def evaluator_of(of: Evaluated, metrics: Measure, mesh: Mesh | None) -> AnyEvaluator:
    """What evaluates a training's models."""
    if isinstance(of, ClientQuantiles):
        return QuantileEvaluator(of, metrics, mesh)
    if isinstance(of, SampledClients):
        return SampleEvaluator(of, metrics, mesh)
    return WholeEvaluator(of, metrics, mesh)
