"""What every plan does: it is held against the run, and says what of it is shown."""

import abc
from collections.abc import Collection, Iterable, Mapping, Sequence

import equinox as eqx

from .._algorithm import AbstractAlgorithm
from .._check import check_count, check_kind
from .._history import ROUND, Row
from .._overrides import inherit_types
from .._round import State
from .._words import nearest, shown
from ..data import AbstractLoader, AbstractSampler, FederatedDataset, Loader
from ..data._sampler import Participation
from .accounting import check_known


# Of a row, what follows from what was released, whatever that is.
_RELEASED = (ROUND, "nonfinite_model")


class AbstractPlan(eqx.Module):
    """What is promised to the clients of a training."""

    sampler: eqx.AbstractVar[AbstractSampler]
    num_clients: eqx.AbstractVar[int]
    num_rounds: eqx.AbstractVar[int]
    unprotected: eqx.AbstractVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def epsilon(self, num_rounds: int | None = None) -> float:
        """The epsilon of the first `num_rounds` rounds as they are run; infinite where
        there is no bound.

        **Arguments:**

        - `num_rounds`: those really run; all of the plan's if not given.
        """

    @abc.abstractmethod
    def check(
        self,
        algorithm: AbstractAlgorithm,
        state: State,
        loader: AbstractLoader,
        *,
        num_rounds: int,
    ) -> Collection[str]:
        """Refuses a run that is not the one of the plan, which begins in `state`.

        **Returns:**

        The names of the metrics of its rounds.
        """

    @property
    @abc.abstractmethod
    def reports(self) -> tuple[str, ...]:
        """The names of a round's metrics that are covered by its noise."""

    @abc.abstractmethod
    def epsilons(self, num_rounds: int) -> dict[str, float]:
        """What a row of the history says of the rounds up to it."""

    @property
    def participation(self) -> Participation:
        """How the clients of the run come to take part."""
        there = self.sampler.participation(self.num_clients)
        return check_known(self.sampler, there)

    def check_run(
        self,
        algorithm: AbstractAlgorithm,
        state: State,
        loader: AbstractLoader,
        *,
        num_rounds: int,
        evaluated: Mapping[str, FederatedDataset],
        measured: Mapping[str, Sequence[str]],
    ) -> None:
        """Refuses a run that is not the one of the plan, an evaluation on clients who
        train whose metrics are not named as unprotected, and a name that no metric has.

        **Arguments:**

        - `evaluated`: the datasets by name.
        - `measured`: of each of them the metrics.
        """
        metrics = self.check(algorithm, state, loader, num_rounds=num_rounds)
        for name in self.epsilons(0):
            if name in metrics:
                raise ValueError(
                    f"The loss reports a metric called {name!r}, which is the plan's. "
                    "Give it another name."
                )
        self._check_evaluation(evaluated, measured, loader)
        of_all = [f"{where}/{name}" for where in measured for name in measured[where]]
        known = (*metrics, *self.reports, *self.epsilons(0), *loader.report(0))
        self._check_names([*_RELEASED, *known, *of_all])

    def _check_names(self, known: Iterable[str]) -> None:
        """Refuses what is named as unprotected and is no metric."""
        known = sorted(set(known))
        for name in self.unprotected:
            if name not in known:
                raise ValueError(
                    f"`unprotected` names {shown(name)}, which is no metric of this "
                    f"run. {nearest(name, known)}There are: {', '.join(known)}."
                )

    def _check_evaluation(
        self,
        evaluated: Mapping[str, FederatedDataset],
        measured: Mapping[str, Sequence[str]],
        loader: AbstractLoader,
    ) -> None:
        training = set(loader.dataset.client_ids) if isinstance(loader, Loader) else ()
        for where, dataset in evaluated.items():
            both = next((x for x in dataset.client_ids if x in training), None)
            names = [f"{where}/{metric}" for metric in measured[where]]
            if both is None or set(names) <= set(self.unprotected):
                continue
            asked = tuple(dict.fromkeys([*self.unprotected, *names]))
            raise ValueError(
                f"{where!r} is evaluated on clients who train, {shown(both)} for one, "
                "whose examples no noise covers there. Evaluate others, whose ids are "
                "not among those that train; or, if you simulate, give the plan "
                f"`unprotected={asked}`."
            )

    def check_stop(self, metric: str) -> None:
        """Refuses to end a training, and to choose its model, by what is in the history
        for whoever simulates alone."""
        if metric in self.unprotected:
            raise ValueError(
                f"`stop` reads {metric!r}, which no noise covers: the model that it "
                "chooses would tell of it. Name a metric of an evaluation, on clients "
                "who do not train."
            )

    def shown(self, row: Row, evaluated: Collection[str] = ()) -> Row:
        """Of a round's metrics those that the noise covers and those that `unprotected`
        names, and the epsilon of the rounds up to it.

        **Arguments:**

        - `evaluated`: the names of metrics that are not the round's, but those of an
            evaluation of its model, which are kept.
        """
        kept = {*_RELEASED, *self.reports, *self.unprotected, *evaluated}
        shown = {n: x for n, x in row.items() if n in kept}
        return shown | self.epsilons(row[ROUND])

    def _rounds(self, given: int | None) -> int:
        if given is None:
            return self.num_rounds
        return check_count("num_rounds", given, least=0, most=self.num_rounds)

    def _check_loader(self, loader: AbstractLoader, num_rounds: int) -> Loader:
        """Refuses other clients, or others' drawing, than the plan's."""
        if not isinstance(loader, Loader):
            raise ValueError(
                "A plan needs to know its population, got a loader of a stream or of "
                "your own. Use a `Loader` of a `FederatedDataset`."
            )
        if loader.num_clients != self.num_clients:
            raise ValueError(
                f"The plan is for {self.num_clients} clients, but the loader has "
                f"{loader.num_clients}. Make it with `num_clients=loader.num_clients`."
            )
        if not eqx.tree_equal(loader.sampler, self.sampler):
            raise ValueError(
                f"The plan's sampler is `{self.sampler}`, but the loader draws with "
                f"`{loader.sampler}`. Make the loader with `plan.sampler`."
            )
        if loader.clock is not None and not loader.clock.independent:
            raise ValueError(
                "With this clock whether a client takes part depends on what others "
                "do, which the plan's accounting does not know. Of an asynchronous "
                "buffer it always does; with a `SynchronousClock` leave out the goal, "
                "and have clients always available: losses and a deadline that is a "
                "number are fine."
            )
        check_count("num_rounds", num_rounds, least=0, most=self.num_rounds)
        return loader


def names_of(unprotected: Collection[str]) -> tuple[str, ...]:
    """The names of metrics, which are texts."""
    for name in unprotected:
        check_kind("unprotected", name, str, "Give the names of metrics.")
    return tuple(unprotected)
