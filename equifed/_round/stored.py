"""A single round of clients who keep something: their states are brought to it and put
back after it, by programs of their own. So it is the program that `rounds` runs, and
ends in the same bits, wherever the states lie.
"""

import dataclasses
from typing import Any

import jax
import jax.core
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .._cohort import Cohort
from .._compiled import compiled, FlatTree
from .._executor import Executor
from .._store import ClientRows, moved, mover, rows_of, store_of
from .._types import ClientState
from .apart import one_round_apart, runs_apart
from .debugged import debugged_slots
from .state import State
from .step import one_round_of_slots


def are_brought(algorithm: Any, state: State, cohort: Cohort, key: PyTree) -> bool:
    """Whether clients' states are brought to a round, and not gathered in it."""
    if not (clients := jtu.tree_leaves(state.clients)):
        return False
    leaves = jtu.tree_leaves((algorithm, state, cohort, key))
    if not any(isinstance(x, jax.core.Tracer) for x in leaves):
        return True
    if any(isinstance(x, ClientRows | np.ndarray) for x in clients):
        raise ValueError(
            "What clients keep lies elsewhere than on the device, and a round that is "
            "traced cannot read it there: call it outside of `jax.jit`, `jax.vmap` and "
            "`jax.grad`, or make the state with `client_states='device'`."
        )
    return False


def round_of_slots(
    algorithm: Any,
    state: State,
    cohort: Cohort,
    key: PRNGKeyArray,
    executor: Executor,
    fixed: FlatTree,
    carried: FlatTree,
) -> tuple[State, dict[str, Any]]:
    """One round. The state that was given stays as it is.

    **Raises:**

    `ValueError` if they lie on disk, where there is no second one beside it.
    """
    mesh = cohort.mesh
    moving = mover(_beside(state.clients, cohort), mesh)
    slots = moving.take(cohort.index)
    if executor.debug:
        after, metrics, accept = debugged_slots(
            algorithm, state, cohort, key, executor, slots
        )
        kept = (cohort.index, after.clients, accept)
    else:
        if runs_apart(executor, mesh):
            program = one_round_apart(fixed, carried)
        else:
            program = compiled(one_round_of_slots, fixed, carried)
        arrays, metrics, kept = program(fixed.arrays, carried.arrays, cohort, slots)
        after = carried.build(arrays)
    moving.put(*kept)
    states = moving.states
    return dataclasses.replace(after, rest=state.rest, clients=states), metrics


def _beside(states: ClientState, cohort: Cohort) -> ClientState:
    """States that may be changed."""
    store = store_of(states)
    if store is not None:
        return rows_of(store.copy())
    return moved(states, None, cohort.mesh, owned=False)
