"""What a training evaluates its models on: all clients, all with their quantiles, or a
sample of them; or each client's own. They are asked after a round, whose number a
sampler depends on.
"""

from typing import Any, TypeAlias

import numpy as np
from jax.sharding import Mesh

from .._algorithm import AbstractAlgorithm
from .._history import plain
from .._metrics import compute_metrics
from .._round import State
from .._tree import tree_zeros_like
from .._types import Measure
from ..data import FederatedDataset
from .clients import ClientMetrics
from .evaluator import Evaluator
from .over_rows import check_evaluation
from .own_clients import Personal
from .personal import PersonalEvaluator
from .quantiles import ClientQuantiles
from .sampled import SampledClients


Evaluated: TypeAlias = FederatedDataset | ClientQuantiles | SampledClients | Personal


class WholeEvaluator:
    """The metrics over all examples."""

    def __init__(self, dataset: FederatedDataset, metrics: Measure, mesh: Mesh | None):
        self._evaluator = Evaluator(dataset, metrics, mesh=mesh)

    def check(
        self, algorithm: AbstractAlgorithm, state: State, where: str
    ) -> list[str]:
        """What it measures, or could: whether a metric is one number is not known."""
        return self._evaluator._check(algorithm.model(state), where)

    def __call__(
        self, algorithm: AbstractAlgorithm, state: State, round: int
    ) -> dict[str, Any]:
        """What it measures after a round, of which 0 is the first."""
        del round
        return self._evaluator(algorithm.model(state))


class QuantileEvaluator:
    """The same, with quantiles over the clients."""

    def __init__(self, of: ClientQuantiles, metrics: Measure, mesh: Mesh | None):
        self._of = of
        self._evaluator = Evaluator(of.dataset, metrics, mesh=mesh)

    def check(
        self, algorithm: AbstractAlgorithm, state: State, where: str
    ) -> list[str]:
        names = self._evaluator._check(algorithm.model(state), where)
        return [*names, *(f"{n}/{label}" for n in names for label in self._of.labels)]

    def __call__(
        self, algorithm: AbstractAlgorithm, state: State, round: int
    ) -> dict[str, Any]:
        del round
        found, each = self._evaluator._both(algorithm.model(state))
        return found | _all_ranked(self._of, each)


def _all_ranked(of: ClientQuantiles, clients: ClientMetrics) -> dict[str, float]:
    """What is said of each metric that is one number."""
    return {
        f"{name}/{label}": x
        for name, value in clients.values.items()
        if value.ndim == 1
        for label, x in zip(of.labels, _ranked(of, name, clients), strict=True)
    }


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

    def check(
        self, algorithm: AbstractAlgorithm, state: State, where: str
    ) -> list[str]:
        return self._evaluator._check(algorithm.model(state), where)

    def __call__(
        self, algorithm: AbstractAlgorithm, state: State, round: int
    ) -> dict[str, Any]:
        dataset, model = self._of.dataset, algorithm.model(state)
        drawn = np.unique(self._of.sampler(round, dataset.num_clients))
        drawn = drawn[np.asarray(dataset.client_sizes)[drawn] > 0]
        if drawn.size > 0:
            return self._evaluator._on(dataset.select(drawn), model)
        of_none = check_evaluation(self._metrics, model, dataset.example)
        found = compute_metrics(tree_zeros_like(of_none))
        return {name: plain(x) for name, x in found.items()}


class OwnEvaluator:
    """The metrics of each client's own model."""

    def __init__(
        self,
        of: Personal,
        metrics: Measure,
        mesh: Mesh | None,
        clients: FederatedDataset,
    ):
        self._of = of
        self._evaluator = PersonalEvaluator(
            *(of.dataset, metrics, clients, of.fine_tune, of.support), mesh=mesh
        )

    def check(
        self, algorithm: AbstractAlgorithm, state: State, where: str
    ) -> list[str]:
        names = self._evaluator.check(algorithm, state, where)
        labels: tuple[str, ...] = ("clients",)
        if isinstance(self._of.of, ClientQuantiles):
            labels += self._of.of.labels
        return [*names, *(f"{n}/{label}" for n in names for label in labels)]

    def __call__(
        self, algorithm: AbstractAlgorithm, state: State, round: int
    ) -> dict[str, Any]:
        del round
        found, each = self._evaluator(algorithm, state)
        for name, value in each.values.items():
            if value.ndim == 1:
                found[f"{name}/clients"] = each.mean(name)
        of = self._of.of
        return found | (
            _all_ranked(of, each) if isinstance(of, ClientQuantiles) else {}
        )


AnyEvaluator: TypeAlias = (
    WholeEvaluator | QuantileEvaluator | SampleEvaluator | OwnEvaluator
)


def evaluator_of(
    of: Evaluated,
    metrics: Measure,
    mesh: Mesh | None,
    clients: FederatedDataset | None,
) -> AnyEvaluator:
    """What evaluates a training's models.

    **Arguments:**

    - `clients`: what is trained on, if that is known.
    """
    if isinstance(of, Personal):
        if clients is None:
            raise ValueError(
                "`Personal` matches clients by their ids, and needs a `Loader`, which "
                "has them. Evaluate between rounds: `evaluate_personal`."
            )
        return OwnEvaluator(of, metrics, mesh, clients)
    if isinstance(of, ClientQuantiles):
        return QuantileEvaluator(of, metrics, mesh)
    if isinstance(of, SampledClients):
        return SampleEvaluator(of, metrics, mesh)
    return WholeEvaluator(of, metrics, mesh)
