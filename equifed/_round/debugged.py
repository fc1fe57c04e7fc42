"""A round that is run by Python, not compiled: what `Executor(debug=True)` runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.tree_util as jtu
from jaxtyping import PRNGKeyArray

from .._cohort import Cohort
from .._debug import by_number, debugging, noted
from .._executor import Executor
from .._executor.one_by_one import run_one_by_one
from .state import State
from .step import round_step


def debugged_round(
    algorithm: Any,
    state: State,
    cohort: Cohort,
    key: PRNGKeyArray,
    executor: Executor,
    names: Callable[[int], str] = by_number,
) -> tuple[State, dict[str, Any]]:
    """One round, with notes on what is raised in it.

    **Arguments:**

    - `names`: how to speak of a client, by its number.
    """
    leaves = jtu.tree_leaves((state, cohort, key))
    if any(isinstance(x, jax.core.Tracer) for x in leaves):
        raise ValueError(
            "`Executor(debug=True)` runs a round by Python, and cannot be traced: call "
            "it outside of `jax.jit`, `jax.vmap` and `jax.grad`."
        )
    if not all(x.is_fully_addressable for x in leaves if isinstance(x, jax.Array)):
        raise ValueError(
            "`Executor(debug=True)` runs a round in one process, and the arrays lie in "
            "several. Start one."
        )
    number = int(state.round)
    with (
        debugging(names),
        noted(lambda: f"It was raised in round {number + 1}."),
    ):
        return round_step(algorithm, state, cohort, key, executor, run_one_by_one)


class DebuggedSteps:
    """Calls such rounds one after another, as `Stepper` calls compiled ones."""

    def __init__(
        self,
        algorithm: Any,
        state: State,
        *,
        key: PRNGKeyArray,
        executor: Executor,
        names: Callable[[int], str],
    ):
        self._round = (algorithm, key, executor, names)
        self._last: tuple[Any, ...] = (state,)

    @property
    def state(self) -> State:
        return self._last[0]

    @property
    def last(self) -> tuple[Any, ...]:
        return self._last[1:]

    def __call__(self, cohort: Cohort) -> tuple[State, dict[str, Any]]:
        algorithm, key, executor, names = self._round
        self._last = debugged_round(algorithm, self.state, cohort, key, executor, names)
        return self._last
