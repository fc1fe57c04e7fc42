"""The evaluations of a training: what is measured on which data, under which names."""

from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx

from .._algorithm import AbstractAlgorithm
from .._client.keeping import kept_in
from .._evaluate import AnyEvaluator, Evaluated, evaluator_of, Personal
from .._round import State
from .._types import Measure
from .._warn import warn
from .._words import shown
from ..data import AbstractLoader, FederatedDataset, Loader


class Evaluations(eqx.Module):
    """What a training measures of its model, by the names of the data sets."""

    metrics: Measure
    evaluators: dict[str, AnyEvaluator]
    names: dict[str, list[str]]
    """Of each of them the metrics."""

    def __call__(
        self, algorithm: AbstractAlgorithm, state: State, round: int
    ) -> dict[str, Any]:
        """What the history has of them: `"test/accuracy"`, say.

        **Arguments:**

        - `state`: that after a round.
        - `round`: the number of that round, of which 0 is the first.
        """
        return {
            f"{where}/{metric}": value
            for where, evaluator in self.evaluators.items()
            for metric, value in evaluator(algorithm, state, round).items()
        }

    def measures(self, metrics: Measure) -> bool:
        """Whether it measures just this, numbers and all."""
        return metrics is self.metrics or bool(eqx.tree_equal(metrics, self.metrics))

    def __bool__(self) -> bool:
        return bool(self.evaluators)

    def check_distinct(self, reported: Iterable[str]) -> None:
        """Refuses what would overwrite other metrics in the history."""
        whose = dict.fromkeys(reported, "a metric of the training")
        for where, metrics in self.names.items():
            for metric in metrics:
                name = f"{where}/{metric}"
                this = f"{metric!r} of the evaluation {where!r}"
                if name in whose:
                    raise ValueError(
                        f"Two metrics would be called {name!r} in the history: "
                        f"{whose[name]}, and {this}. Give one of them another name."
                    )
                whose[name] = this


def check_evaluations(evaluation: Mapping[str, Any] | None, num_rounds: int) -> None:
    """Looks at their names, and whether there is a round to make them after."""
    for name in evaluation or {}:
        if not isinstance(name, str) or not name:
            raise ValueError(
                "`evaluation` must name its datasets by text that is not empty, got "
                f"{shown(name)}. Give `{{'test': dataset}}`."
            )
    if evaluation and num_rounds == 0:
        warn(
            "`num_rounds` is 0, so that the model is not evaluated: that is done after "
            "rounds. Write `equifed.evaluate(model, dataset, metrics)`."
        )


def datasets_of(
    evaluation: Mapping[str, Evaluated] | None,
) -> dict[str, FederatedDataset]:
    """On whose examples it is evaluated, by name."""
    return {
        where: of if isinstance(of, FederatedDataset) else of.dataset
        for where, of in (evaluation or {}).items()
    }


def evaluations_of(
    evaluation: Mapping[str, Evaluated] | None,
    metrics: Measure | None,
    algorithm: AbstractAlgorithm,
    state: State,
    loader: AbstractLoader,
) -> Evaluations:
    """Those of a training that begins with this state.

    **Raises:**

    `ValueError` if the algorithm has no one model, and what the metrics raise of the
    model and an example.
    """
    model = algorithm.model(state)
    for where, of in (evaluation or {}).items():
        if not isinstance(of, Personal):
            _check_one_model(algorithm, state, model, where)
    metrics = algorithm.loss if metrics is None else metrics
    clients = loader.dataset if isinstance(loader, Loader) else None
    evaluators = {
        where: evaluator_of(dataset, metrics, loader.mesh, clients)
        for where, dataset in (evaluation or {}).items()
    }
    names = {
        where: list(evaluator.check(algorithm, state, f"{where!r}"))
        for where, evaluator in evaluators.items()
    }
    return Evaluations(metrics, evaluators, names)


def _check_one_model(
    algorithm: AbstractAlgorithm, state: State, model: Any, where: str
) -> None:
    """Refuses to evaluate one model where there is not the one."""
    remedy = f"give `{{{where!r}: Personal(dataset)}}`"
    if kept_in(state.clients) is not None:
        raise ValueError(
            "Some leaves of the model are personal, so that no one model is what a "
            f"client uses: {remedy}, which evaluates each client's own."
        )
    if model is None:
        raise ValueError(
            f"`{type(algorithm).__name__}` trains several models, none of which is the "
            "one to evaluate. Leave `evaluation` out, and evaluate those of "
            f"`solution.state`. If the clients have models of their own: {remedy}."
        )
