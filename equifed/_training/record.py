"""The history of a training as it grows: a round is evaluated, watched and logged."""

from collections.abc import Collection
from typing import Any

import jax

from .._algorithm import AbstractAlgorithm
from .._history import Row, rows_of
from .._logger import AbstractLogger
from .._round import State
from .._types import Model
from ..data import AbstractLoader
from ..privacy.promise import AbstractPlan
from .best import Best
from .evaluations import Evaluations
from .reported import with_report
from .solution import RESULTS
from .watch import Watch


class Record:
    """What is known of the rounds of a training.

    **Arguments:**

    - `history`: the rows of a checkpoint, or none.
    - `number`: how many rounds they are.
    - `num_rounds`: how many there are to be.
    - `reported`: the names of the metrics that the loss reports, if they are known.
    - `privacy`: what is promised, if anything is: it says what of a row is shown.
    """

    def __init__(
        self,
        history: list[Row],
        number: int,
        num_rounds: int,
        *,
        algorithm: AbstractAlgorithm,
        evaluations: Evaluations,
        eval_every: int,
        best: Best,
        loader: AbstractLoader,
        reported: Collection[str],
        logger: AbstractLogger,
        privacy: AbstractPlan | None,
    ):
        self.history, self.number = history, number
        self._num_rounds = num_rounds
        self._algorithm = algorithm
        self._evaluations, self._every = evaluations, eval_every
        self._best, self._logger = best, logger
        self._first, self._privacy, self._loader = True, privacy, loader
        self._watch = Watch(
            *(loader, algorithm, history, reported),
            private=privacy is not None,
        )
        self.model: Model | None = None
        """That of the last round which was added."""
        self.result = self._watch.result if history else RESULTS.successful

    @property
    def diverged(self) -> bool:
        return bool(self.history and self.history[-1]["nonfinite_model"])

    @property
    def finished(self) -> bool:
        return self.number == self._num_rounds or self.diverged

    def result_if(self, *, stopped: bool) -> RESULTS:
        """How the training ended, if it may be its `stop` that ended it; and a warning
        of what only the end shows."""
        self._watch.end()
        if stopped and self.result == RESULTS.successful:
            return RESULTS.stopped
        return self.result

    def add(self, values: dict[str, Any], count: int | None, state: State) -> None:
        """The rows of a call's rounds.

        **Arguments:**

        - `values`: the metrics of the rounds.
        - `count`: how many rounds these are, if they are stacked.
        - `state`: that after the last of them.
        """
        rows = [
            with_report(row, self._loader)
            for row in rows_of(self.number, jax.device_get(values), count)
        ]
        self.number += len(rows)
        row = rows[-1]
        if self._first:  # A client of the user's own may report what its loss does not.
            self._evaluations.check_distinct(row)
            self._best.check(self._shown(row), self._evaluations.names)
            self._first = False
        last = self.number == self._num_rounds or bool(row["nonfinite_model"])
        found = {}
        if self.number % self._every == 0 or last:
            found = self._evaluations(self._algorithm, state, self.number - 1)
            row |= found
        self.model = self._algorithm.model(state)
        for row in rows:
            self.result = self._watch(row, self.model)
            row = self._shown(row, found)
            self.history.append(row)
            self._logger.log(row["round"], _numbers(row))

    def _shown(self, row: Row, evaluated: Collection[str] = ()) -> Row:
        return row if self._privacy is None else self._privacy.shown(row, evaluated)


def _numbers(row: Row) -> dict[str, Any]:
    return {name: x for name, x in row.items() if isinstance(x, int | float)}
