"""How the clients differ, evaluated while a model is trained."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jax.sharding import Mesh

from .._check import check_kind, check_number, checked
from .._types import Measure, Model
from .._words import shown
from ..data import FederatedDataset
from .evaluator import Evaluator


class ClientQuantiles(eqx.Module):
    """A dataset of which [`equifed.train`][] logs each metric's quantiles over the
    clients, beside the metric over all examples.

    With the name `"test"` the history has `"test/accuracy"`, and `"test/accuracy/min"`,
    `"test/accuracy/p10"`, `"test/accuracy/p50"`, `"test/accuracy/p90"` and
    `"test/accuracy/max"`. Each client counts once, and those for whom the metric is NaN
    not at all. Metrics that are more than a number have no quantiles. It is one pass
    over the examples.

    !!! example

        ```python
        eqf.train(..., evaluation={"test": eqf.ClientQuantiles(test)})
        ```
    """

    dataset: FederatedDataset
    q: tuple[float, ...]

    @checked(dataset="Build one with `FederatedDataset.from_arrays` or its siblings.")
    def __init__(
        self,
        dataset: FederatedDataset,
        q: Sequence[float] | np.ndarray = (0.0, 0.1, 0.5, 0.9, 1.0),
    ):
        """**Arguments:**

        - `dataset`: the clients.
        - `q`: the quantiles, from 0 (the lowest client, `"min"`) to 1 (`"max"`).
        """
        check_kind("q", q, (Sequence, np.ndarray))
        for p in q:
            check_number("q", p, least=0, most=1)
        self.dataset, self.q = dataset, tuple(float(p) for p in q)
        if len(set(self.q)) < len(self.q) or not self.q:
            raise ValueError(
                f"`q` must be one or several different quantiles, got {shown(q)}."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """What the quantiles are called."""
        ends = {0.0: "min", 1.0: "max"}
        return tuple(ends.get(p, f"p{100 * p:.6g}") for p in self.q)


class QuantileEvaluator:
    """As an `Evaluator`, with quantiles."""

    def __init__(self, of: ClientQuantiles, metrics: Measure, mesh: Mesh | None):
        self._of = of
        self._evaluator = Evaluator(of.dataset, metrics, mesh=mesh)

    def _check(self, model: Model, where: str) -> list[str]:
        """What it measures, or could: whether a metric is one number is not known."""
        names = self._evaluator._check(model, where)
        return [*names, *(f"{n}/{label}" for n in names for label in self._of.labels)]

    def __call__(self, model: Model) -> dict[str, Any]:
        found, each = self._evaluator._both(model)
        for name, value in each.values.items():
            if value.ndim == 1:
                quantiles = each.quantiles(name, self._of.q).values()
                for label, quantile in zip(self._of.labels, quantiles, strict=True):
                    found[f"{name}/{label}"] = quantile
        return found


def evaluator_of(
    of: FederatedDataset | ClientQuantiles, metrics: Measure, mesh: Mesh | None
) -> Evaluator | QuantileEvaluator:
    """What evaluates a training's models."""
    if isinstance(of, ClientQuantiles):
        return QuantileEvaluator(of, metrics, mesh)
    return Evaluator(of, metrics, mesh=mesh)
