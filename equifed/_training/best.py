"""The best model of a training so far, and whether the training ends."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._check import check_choice, check_kind
from .._checkpoint.fingerprint import Fingerprint, outlined
from .._client.keeping import kept_in
from .._copy import tree_copy
from .._evaluate import Personal
from .._evaluate.made import gives_own
from .._history import check_known, names_in, ROUND, Row
from .._processes import any_process
from .._round import State
from .._types import Model
from ..privacy.promise import AbstractPlan
from .stop import AbstractStop


class _Saved(eqx.Module):
    """A state with the best model beside it, under the names that a state has."""

    params: Any
    rest: Any
    server: Any
    aggregator: Any
    clients: Any
    round: Any
    statistics: Any
    best: Any


_FIELDS = [field.name for field in dataclasses.fields(State)]


class Best:
    """Keeps the best model, as far as a `stop` asks for it.

    The history says which round's model is the best and whether to end, so that a
    checkpoint needs to have that model and nothing else. Only rounds whose number
    `every` divides are taken into account, and the last one for the solution: where the
    last round of a training is, is no part of the experiment.
    """

    def __init__(
        self,
        stop: AbstractStop | None,
        every: int,
        model: Model | None,
        state: State,
    ):
        if stop is not None:
            check_kind("stop.metric", stop.metric, str)
            check_choice("stop.mode", stop.mode, ("max", "min"))
            if model is None:
                raise ValueError(
                    "`stop` keeps the best model, and an algorithm that trains several "
                    "has none that is the one. Leave it out, and end a loop over "
                    "`equifed.rounds` where you like."
                )
            if kept_in(state.clients) is not None:
                raise ValueError(
                    "`stop` keeps the best model, and here a part of it is each "
                    "client's own, which goes on. Leave it out, and end a loop over "
                    "`equifed.rounds` where you like."
                )
        self._stop, self._every = stop, every
        self._unprotected: Collection[str] = ()
        self._own = None if stop is None else _copied(model, state)

    @property
    def made_with(self) -> Fingerprint:
        """What makes another experiment of a training that has a `stop`."""
        if self._stop is None:
            return {}
        return outlined("stop", self._stop, eval_every=self._every)

    def with_state(self, state: State) -> PyTree:
        """What a checkpoint saves."""
        if self._stop is None:
            return state
        fields = {name: getattr(state, name) for name in _FIELDS}
        return _Saved(**fields, best=self._own)

    def state_of(self, saved: Any) -> State:
        """The state of a checkpoint, whose best model is taken over."""
        if self._stop is None:
            return saved
        self._own = saved.best
        return State(**{name: getattr(saved, name) for name in _FIELDS})

    def check_asked(
        self,
        algorithm: Any,
        state: State,
        evaluation: Mapping[str, Any],
        measured: Mapping[str, Sequence[str]],
        privacy: AbstractPlan | None,
    ) -> None:
        """Refuses a metric that an evaluation will not have, that is of other models
        than the one that is kept, or that no noise covers."""
        if self._stop is None:
            return
        where, _, metric = self._stop.metric.partition("/")
        if where in measured and metric not in measured[where]:
            self.check({}, measured)
        if isinstance(evaluation.get(where), Personal) and gives_own(algorithm, state):
            raise ValueError(
                f"`stop` keeps the best of the server's models, and {where!r} measures "
                "the clients' own. Evaluate the dataset itself under another name, and "
                "stop by that; or leave it out, and end a loop over `equifed.rounds` "
                "where you like."
            )
        if privacy is not None:
            privacy.check_stop(self._stop.metric)
            self._unprotected = privacy.unprotected

    def check(self, row: Row, measured: Mapping[str, Sequence[str]]) -> None:
        """Refuses a metric that the rounds will not have.

        **Arguments:**

        - `row`: the first round's metrics, not evaluated.
        - `measured`: the metrics of the evaluations.
        """
        if self._stop is not None:
            evaluated = [f"{where}/{m}" for where in measured for m in measured[where]]
            known = [*names_in([row]), *evaluated]
            check_known(
                self._stop.metric, known, "`stop` names its metric, and a round"
            )

    def ends(self, history: Sequence[Row], *, finished: bool = False) -> bool:
        """Whether the training ends here, as all processes see it.

        **Arguments:**

        - `finished`: whether the last row is the last round of all.
        """
        if self._stop is None or not history:
            return False
        # Most rounds do not count, and the rows of all are many.
        if not self._counts(history[-1], last=finished):
            return False
        rows = self._rows(history, finished=finished)
        if self._unprotected:  # One of the user's own may look at more than its metric.
            hidden = set(self._unprotected)
            rows = [{n: x for n, x in r.items() if n not in hidden} for r in rows]
        return any_process(value=bool(self._stop(rows)))

    def see(self, history: Sequence[Row], model: Model | None, state: State) -> None:
        """Keeps the model of the last round, if it is the best so far."""
        if self._stop is not None and self._counts(history[-1]):
            if self._stop.best(self._rows(history)) == history[-1][ROUND]:
                self._own = _copied(model, state)

    def choose(
        self, history: Sequence[Row], model: Model | None
    ) -> tuple[Model | None, int | None]:
        """The best model and its round, or the last model if there is no best.

        **Arguments:**

        - `model`: that of the last round.
        """
        if self._stop is None:
            return model, None
        best = self._stop.best(self._rows(history, finished=True))
        if best is None or best == history[-1][ROUND]:
            return model, best
        beside = jtu.tree_map(_beside, self._own, model, is_leaf=lambda x: x is None)
        return beside, best

    def _rows(self, history: Sequence[Row], *, finished: bool = False) -> list[Row]:
        last = history[-1] if finished and history else None
        return [row for row in history if self._counts(row, last=row is last)]

    def _counts(self, row: Row, *, last: bool = False) -> bool:
        return (last or row[ROUND] % self._every == 0) and not row["nonfinite_model"]


def _copied(model: Model | None, state: State) -> Model | None:
    """Of a model what the next round uses up the memory of, `None` elsewhere."""
    stays = {id(x) for x in jtu.tree_leaves(state.rest)}
    return tree_copy(
        eqx.filter(model, lambda x: eqx.is_array(x) and id(x) not in stays)
    )


def _beside(x: Any, like: Any) -> Any:
    """An array where that of the last round is, as a restored one lies where it was
    read; and what no round uses up, of the last one."""
    return like if x is None else jax.device_put(x, like.sharding)
