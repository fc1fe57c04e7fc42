"""What a training that did not come to its end had reached."""

from types import TracebackType
from typing import Any

import jax
from jaxtyping import Array

from .._algorithm import AbstractAlgorithm
from .._checkpoint import Checkpointer
from .._history import ROUND, Row, rows_of
from .._interrupt import keep, where
from .rounds import Calls
from .solution import RESULTS, Solution


class Keeping:
    """A context whose exceptions bring with them a `Solution` of what was reached."""

    def __init__(
        self,
        calls: Calls,
        algorithm: AbstractAlgorithm,
        history: list[Row],
        num_rounds: int,
        checkpointer: Checkpointer | None,
    ):
        self._calls, self._history = calls, history
        self._algorithm = algorithm
        self._num_rounds, self._checkpointer = num_rounds, checkpointer

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        state, metrics, ran = self._calls.reached()
        saved = ""
        if self._checkpointer is not None:
            saved = (
                f" `{self._checkpointer.directory}` holds the checkpoints that were "
                "complete: run the same program again to go on from the newest."
            )
        try:
            # This waits for the rounds that the devices were told to run.
            number = int(state.round)
            if metrics is not None:
                self._add_rows(number, metrics, ran)
        except Exception:  # noqa: BLE001 (whatever ended those rounds)
            lost = "What was reached is lost: the round that failed had its memory."
            keep(error, lost + saved)
            return
        model = self._algorithm.model(state)
        solution = Solution(model, state, RESULTS.interrupted, self._history)
        note = (
            f"Training ended after round {number} of {self._num_rounds}. What was "
            f"reached is kept as {where(error, 'solution')}. To go on from it, give "
            f"`solution.state` to `equifed.rounds`.{saved}"
        )
        keep(error, note if number > 0 else "", solution=solution)

    def _add_rows(
        self, number: int, metrics: dict[str, Any], ran: int | Array | None
    ) -> None:
        """The rows of rounds that were run but are not in the history yet."""
        behind = number - (self._history[-1][ROUND] if self._history else 0)
        count = 1 if ran is None else int(ran)
        rows = rows_of(
            number - count, jax.device_get(metrics), None if ran is None else count
        )
        self._history.extend(rows[max(count - behind, 0) :])
