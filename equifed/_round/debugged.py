"""A round that is run by Python, not compiled: what `Executor(debug=True)` runs."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.core
import jax.tree_util as jtu
from jaxtyping import Array, Bool, PRNGKeyArray

from .._cohort import Cohort
from .._debug import by_number, debugging, noted
from .._executor import Executor, Participants
from .._executor.one_by_one import run_one_by_one
from .._store import mover, store_of
from .._types import ClientState
from .state import State
from .step import guarded_step, round_step


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
    with _checked_and_noted(state, cohort, key, names):
        return round_step(algorithm, state, cohort, key, executor, run_one_by_one)


def debugged_slots(
    algorithm: Any,
    state: State,
    cohort: Cohort,
    key: PRNGKeyArray,
    executor: Executor,
    slots: ClientState,
    names: Callable[[int], str] = by_number,
) -> tuple[State, dict[str, Any], Bool[Array, ""]]:
    """The same where the slots' states are brought: they are the new state's clients,
    and the last of three says whether to keep them."""
    state = dataclasses.replace(state, clients=slots)
    with _checked_and_noted(state, cohort, key, names):
        clients = Participants(executor, cohort, state.round, run_one_by_one)
        return guarded_step(algorithm, state, clients, key)


@contextlib.contextmanager
def _checked_and_noted(
    state: State, cohort: Cohort, key: PRNGKeyArray, names: Callable[[int], str]
) -> Iterator[None]:
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
        yield


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
        self._store = store_of(state.clients)
        if self._store is not None:
            self._store.place.begin()

    @property
    def state(self) -> State:
        return self._last[0]

    @property
    def last(self) -> tuple[Any, ...]:
        return self._last[1:]

    def ahead(self, following: Callable[[], Cohort | None]) -> None:
        """Nothing is done beside a round that Python runs."""

    def finish(self) -> None:
        """What clients keep is whole where it lies."""
        if self._store is not None:
            self._store.place.finish()

    def __call__(self, cohort: Cohort) -> tuple[State, dict[str, Any]]:
        algorithm, key, executor, names = self._round
        if self._store is not None:
            moving = mover(self.state.clients, cohort.mesh)
            given = (key, executor, moving.take(cohort.index), names)
            state, metrics, accept = debugged_slots(
                algorithm, self.state, cohort, *given
            )
            moving.put(cohort.index, state.clients, accept)
            state = dataclasses.replace(state, clients=self.state.clients)
            self._last = (state, metrics)
            return self._last
        self._last = debugged_round(algorithm, self.state, cohort, key, executor, names)
        return self._last
