"""One round, as it is traced: an algorithm's step, and what is the same around all."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from .._bits import Bits, carried
from .._cohort import Cohort
from .._compiled import FlatTree
from .._contract import check_step
from .._executor import Executor, Participants
from .._executor.mapping import run_pass
from .._executor.participants import Run
from .._metrics import add_metrics, compute_metrics, Sum
from .._store.device import gather, scatter
from .._tree import tree_isfinite, tree_where
from .._types import ClientState, Model
from .check import check_state
from .state import State


Metrics = dict[str, Any]
Shardings = tuple[NamedSharding, ...] | None
Fixed = tuple[Any, PRNGKeyArray, Executor, Shardings, Model]
Kept = tuple[Int[Array, "devices slots"], ClientState, Bool[Array, ""]]


def guarded_step(
    algorithm: Any, state: State, clients: Participants, key: PRNGKeyArray
) -> tuple[State, Metrics, Bool[Array, ""]]:
    """An algorithm's step, which counts only if what it makes is finite.

    **Returns:**

    The state after it, of whose clients only the slots' new states are to be kept; the
    round's metrics; and whether the round is accepted. If it is not, the state is as it
    was, but for the number of rounds and the slots.
    """
    check_state(algorithm, state, axes=2)
    round_key = jr.fold_in(key, state.round)
    out = algorithm.step(state, clients, key=round_key)
    after, metrics, accept = check_step(algorithm, out, state)
    finite = tree_isfinite((after.params, after.server, after.statistics))
    accept = accept & finite
    parts = ("params", "server", "aggregator", "statistics")
    new = tree_where(
        accept,
        {name: getattr(after, name) for name in parts},
        {name: getattr(state, name) for name in parts},
    )
    after = dataclasses.replace(
        state, **new, clients=after.clients, round=state.round + 1
    )
    nonfinite = Sum((~finite).astype(jnp.float32))
    metrics = add_metrics(metrics, {"nonfinite_model": nonfinite})
    exact = {n: carried(x) for n, x in metrics.items() if isinstance(x, Bits)}
    return after, compute_metrics(metrics) | exact, accept


def round_step(
    algorithm: Any,
    state: State,
    cohort: Cohort,
    key: PRNGKeyArray,
    executor: Executor,
    run: Run = run_pass,
) -> tuple[State, Metrics]:
    """One round in one program, or, with another way to `run` a pass, in Python."""
    everyone = state.clients
    clients = Participants(executor, cohort, state.round, run)
    state = dataclasses.replace(state, clients=gather(everyone, cohort.index))
    after, metrics, accept = guarded_step(algorithm, state, clients, key)
    everyone = scatter(everyone, cohort.index, after.clients, accept)
    return dataclasses.replace(after, clients=everyone), metrics


def taken_apart(
    algorithm: Any,
    state: State,
    key: PRNGKeyArray,
    executor: Executor,
    mesh: Mesh | None = None,
    *,
    brought: bool = False,
) -> tuple[FlatTree, FlatTree]:
    """What is the same in all rounds, and what a round changes of the state.

    What is not trained is among the former: no round returns it, and none is given its
    memory, so that it is where it was put, once.

    **Arguments:**

    - `mesh`: over which rounds are to leave what they change as it lies.
    - `brought`: whether clients' states are brought to rounds, and not in the state.
    """
    clients = None if brought else state.clients
    flat = FlatTree(dataclasses.replace(state, rest=None, clients=clients))
    shardings = None
    if mesh is not None:
        shardings = tuple(sharding_over(mesh, x) for x in flat.arrays)
    return FlatTree((algorithm, key, executor, shardings, state.rest)), flat


def sharding_over(mesh: Mesh, x: Array) -> NamedSharding:
    """How an array of the state lies over the mesh: split as the user has split it."""
    old, spec = x.sharding, PartitionSpec()
    if isinstance(old, NamedSharding) and old.mesh.shape == mesh.shape:
        spec = old.spec
    return NamedSharding(mesh, spec)


def changed(state: State) -> list[Array]:
    """What a round has changed of a state, in the order of `taken_apart`."""
    return FlatTree(dataclasses.replace(state, rest=None)).arrays


def one_round_of_slots(
    fixed: Fixed, state: State, cohort: Cohort, slots: ClientState
) -> tuple[list[Array], dict[str, Any], Kept]:
    """The same where the clients' states lie elsewhere, and those of the slots are
    brought: see `_store`.

    **Returns:**

    The new state's arrays, which has no clients; the metrics; and whose states are to
    be kept: the slots' clients, their new states, and whether the round is accepted.
    """
    algorithm, key, executor, shardings, rest = fixed
    clients = Participants(executor, cohort, state.round)
    state = dataclasses.replace(state, clients=slots, rest=rest)
    after, metrics, accept = guarded_step(algorithm, state, clients, key)
    new = changed(dataclasses.replace(after, clients=None))
    kept = (cohort.index, after.clients, accept)
    return _left(new, shardings), metrics, kept


def one_round(
    fixed: Fixed, state: State, cohort: Cohort
) -> tuple[list[Array], dict[str, Any]]:
    """One round, as it is compiled: of the new state only the arrays are computed.

    `fixed` is what is the same in all rounds: the algorithm, the key, the executor, how
    the state's arrays lie over a mesh, and its `rest`, without which it is given.
    """
    algorithm, key, executor, shardings, rest = fixed
    state = dataclasses.replace(state, rest=rest)
    new_state, metrics = round_step(algorithm, state, cohort, key, executor)
    return _left(changed(new_state), shardings), metrics


def _left(arrays: list[Array], shardings: Shardings) -> list[Array]:
    """Left where they were, or the next round would compile again."""
    if shardings is None:
        return arrays
    return list(map(jax.lax.with_sharding_constraint, arrays, shardings))
